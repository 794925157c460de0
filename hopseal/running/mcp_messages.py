"""JSON-RPC messages of MCP between an HTTP client and a server on stdio. Pure.

Owns: reading one message strictly enough to route it, what of it is custody's, and errors as messages. Does not own:
what methods mean, beyond the few that the transport itself has to know.

Custody travels in HTTP fields, which the broker verified and took away. What stands under its names in ``_meta`` was
written by whoever called, so it goes; the broker's handle for this request comes instead.
Source: Model Context Protocol 2025-11-25, "Transports" and "_meta"; JSON-RPC 2.0; custody-wire §9.6, §5.2.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final, NoReturn

from hopseal.custody.mappings.mcp_stdio import META_KEY
from hopseal.errors import InvalidError
from hopseal.sdk.handle import HANDLE_META

MAX_MESSAGE_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 128  # servers that read recursively must not be ended by one message
# Those that begin with a handshake: a server on stdio keeps one client's state.
PROTOCOL_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR = -32700, -32600, -32603
UNSUPPORTED_VERSION, CANCELLED = -32022, -32800

Message = dict[str, object]
Id = str | int
_OWN_KEYS = frozenset({META_KEY, HANDLE_META})


class MessageInvalidError(InvalidError):
    """What was sent is no message of MCP (code ``mcp_malformed``); ``rpc_code`` is JSON-RPC's."""

    def __init__(self, rpc_code: int, message: str) -> None:
        super().__init__("mcp_malformed", message)
        self.rpc_code = rpc_code


@dataclass(frozen=True, slots=True)
class Parsed:
    """One message.

    Args:
        message: the JSON object.
        method: of a request or notification, None for a response.
        id: of a request or response; None for a notification, and for an error that answers nobody knows what.
    """

    message: Message
    method: str | None
    id: Id | None

    @property
    def is_request(self) -> bool:
        """It has to be answered."""
        return self.method is not None and self.id is not None

    @property
    def is_response(self) -> bool:
        """It answers a request."""
        return self.method is None


def parse_message(data: bytes) -> Parsed:
    """The message in ``data``.

    Raises:
        MessageInvalidError: it is none: not JSON, a member twice, a batch, of no known kind.
    """
    try:
        found = json.loads(data, object_pairs_hook=_members, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise MessageInvalidError(PARSE_ERROR, "the body is not JSON, or not the same to every reader") from error
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _is_too_deep(found):
        raise MessageInvalidError(INVALID_REQUEST, f"the message is nested deeper than {MAX_DEPTH}")
    if isinstance(found, list):
        raise MessageInvalidError(INVALID_REQUEST, "batches are not part of MCP any more: send each message by itself")
    if not isinstance(found, dict) or found.get("jsonrpc") != "2.0":
        raise MessageInvalidError(INVALID_REQUEST, "this is no JSON-RPC 2.0 message")
    method, has_id = found.get("method"), "id" in found
    number = found.get("id")
    if has_id and (isinstance(number, bool) or not isinstance(number, str | int | None)):
        raise MessageInvalidError(INVALID_REQUEST, "the id is neither text nor an integer")
    if method is None:
        if not has_id or ("result" in found) == ("error" in found):
            raise MessageInvalidError(INVALID_REQUEST, "the message is neither request nor answer")
        return Parsed(found, None, number)
    if not isinstance(method, str) or (has_id and number is None):
        raise MessageInvalidError(INVALID_REQUEST, "the method is no text, or the request's id is null")
    if not isinstance(found.get("params", {}), dict):
        raise MessageInvalidError(INVALID_REQUEST, "params is no object")
    return Parsed(found, method, number)


def format_message(message: Message) -> bytes:
    """The message as one line without its end; lone surrogates, which UTF-8 has no form for, as escapes."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def for_child(parsed: Parsed, handle: str | None) -> Message:
    """The message as the server on stdio gets it: a request with the handle, and nothing else of custody."""
    message = without_custody(parsed.message)
    if handle is None or not parsed.is_request:
        return message
    params = _object(message.get("params"))
    return {**message, "params": {**params, "_meta": {**_object(params.get("_meta")), HANDLE_META: handle}}}


def without_custody(message: Message) -> Message:
    """The message without custody's members in any ``_meta`` that it may have."""
    for place in ("params", "result"):
        holder = message.get(place)
        meta = holder.get("_meta") if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(meta, dict) and not _OWN_KEYS.isdisjoint(meta):
            rest = {name: value for name, value in meta.items() if name not in _OWN_KEYS}
            message = {**message, place: {**holder, "_meta": rest}}
    return message


def progress_token(message: Message) -> Id | None:
    """The token by which progress is told: of a request under ``_meta``, of a notification itself."""
    params = _object(message.get("params"))
    if message.get("method") == "notifications/progress":
        token = params.get("progressToken")
    else:
        token = _object(params.get("_meta")).get("progressToken")
    return token if isinstance(token, str | int) else None


def cancelled_id(message: Message) -> Id | None:
    """Which request a notification cancels; None if it is none of that kind."""
    if message.get("method") != "notifications/cancelled":
        return None
    found = _object(message.get("params")).get("requestId")
    return found if isinstance(found, str | int) else None


def negotiated_version(message: Message) -> str | None:
    """The protocol version in an answer to ``initialize``; None if it is no such answer."""
    version = _object(message.get("result")).get("protocolVersion")
    return version if isinstance(version, str) else None


def error_message(to: Id | None, code: int, text: str, data: object = None) -> Message:
    """An answer with an error."""
    error: Message = {"code": code, "message": text}
    return {"jsonrpc": "2.0", "id": to, "error": error if data is None else {**error, "data": data}}


def _object(value: object) -> Message:
    return value if isinstance(value, dict) else {}


def _members(pairs: list[tuple[str, object]]) -> Message:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _is_too_deep(value: object) -> bool:
    level, depth = [value], 0
    while level:
        depth += 1
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for group in inner for each in group]
    return depth - 1 > MAX_DEPTH


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is a number to some readers and none to others")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
