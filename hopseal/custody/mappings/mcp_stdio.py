"""Custody of MCP messages over stdio, which have no headers: carried in ``_meta``.

Owns: where record and receipt stand, and what binds them: a request by its method and the canonical form (``jcs``) of
the message, a result by that form, as if it were the body of a response with status 200 and nothing but a
``Content-Digest``. Both without the custody member itself; an object that was made to hold it stays.
Does not own: the checks, which are those of requests and responses, and how the process at the other end is known.
Source: custody-wire §9.6; Model Context Protocol, ``_meta``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.binding import BodySum, Header, content_digest
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.custody.errors import Code, malformed, refusal
from hopseal.custody.headers import CERTS, CHAIN, RECEIPT, RECORD
from hopseal.custody.mappings.jcs import canonicalise
from hopseal.custody.members import Members, read_text

META_KEY = "dev.hopseal/custody"
Message = dict[str, object]
_FIELDS = {"params": {"record": RECORD, "chain": CHAIN, "certs": CERTS}, "result": {"receipt": RECEIPT, "certs": CERTS}}
_STATUS = 200
_METHOD = re.compile(r"[!-~]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Carried:
    """A message without its custody, and that as header lines.

    Args:
        message: what the component may see.
        fields: the custody, as the lines that HTTP would have.
    """

    message: Message
    fields: tuple[Header, ...]


@dataclass(frozen=True, slots=True)
class BoundResult:
    """A result as the response that a receipt is made for and verified with.

    Args:
        status: of that response.
        headers: its covered fields.
        body: the sum of its canonical form.
    """

    status: int
    headers: tuple[Header, ...]
    body: BodySum


def open_request(message: Message) -> Message:
    """``message`` with room for custody; bind it with :func:`bind_request_message`, then :func:`attach`."""
    return _with_meta(message, "params")


def open_result(message: Message) -> Message:
    """``message`` with room for a receipt; bind it with :func:`bind_result`, then :func:`attach`."""
    return _with_meta(message, "result")


def attach(message: Message, fields: Sequence[Header]) -> Message:
    """``message`` with header lines as the custody member of its ``_meta``."""
    where = _place(message)
    names = {field.lower(): member for member, field in _FIELDS[where].items()}
    holder, meta = _holder(message, where)
    members = {names[name.lower()]: value for name, value in fields}
    return {**message, where: {**holder, "_meta": {**meta, META_KEY: members}}}


def detach(message: Message) -> Carried:
    """``message`` without its custody, and that custody.

    Raises:
        CustodyError: [missing] if there is none; [malformed].
    """
    where = _place(message)
    holder, meta = _holder(message, where)
    if META_KEY not in meta:
        raise refusal(Code.MISSING, "the message carries no custody")
    known = _FIELDS[where]
    members = Members.read(meta[META_KEY], META_KEY).only(frozenset(known))
    fields = [(known[name], read_text(value, name)) for name, value in members.values.items()]
    rest = {name: value for name, value in meta.items() if name != META_KEY}
    return Carried({**message, where: {**holder, "_meta": rest}}, tuple(fields))


def bind_request_message(message: Message) -> str:
    """``rqb`` of a request without its custody.

    Raises:
        CustodyError: [malformed] without a method of printable characters.
    """
    method = Members(message, "message").required("method", read_text)
    if _METHOD.fullmatch(method) is None:
        raise malformed("the method of the message is no method's name")
    base = f'"@mcp": {method}\n"content-digest": {content_digest(canonicalise(message))}'
    return encode_b64url(sha256(base.encode()))


def bind_result(message: Message) -> BoundResult:
    """A result without its custody, as a response."""
    form = canonicalise(message)
    return BoundResult(_STATUS, (("Content-Digest", content_digest(form)),), BodySum.of(form))


def _place(message: Message) -> str:
    if "method" in message:
        return "params"
    if "result" in message:
        return "result"
    raise malformed("the message is neither a request nor a result")


def _with_meta(message: Message, where: str) -> Message:
    holder, meta = _holder(message, where)
    return {**message, where: {**holder, "_meta": meta}}


def _holder(message: Message, where: str) -> tuple[Message, Message]:
    holder = message.get(where, {})
    meta = holder.get("_meta", {}) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not isinstance(meta, dict):
        raise malformed(f"{where} is not an object with _meta")
    return holder, meta
