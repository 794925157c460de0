"""Questions to the policies, as operators write them. Pure.

Owns: the words of ``hopseal policy explain`` and of a file of cases, and what they mean. Does not own: the answer.

An operation is written as in an Agent document: ``POST /items``, or a method of MCP or A2A and its target,
``tools/call crm.lookup``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.policy.compile import operation_protocol
from hopseal.documents.model import DocumentSet
from hopseal.errors import HopsealError, InvalidError
from hopseal.ids import SpiffeId

_HTTP = re.compile(r"([A-Z]+) (/[^ ]*)", re.ASCII)
_EXTERNAL = re.compile(r"([a-z0-9.-]{1,253}):([1-9][0-9]{0,4})", re.ASCII)
_MCP_PATH = "/mcp"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question in an operator's words.

    Args:
        caller: ``agent/component`` or a SPIFFE ID.
        callee: the same, or ``host:port`` of a service outside.
        operation: as in a document.
        side: which broker asks, ``caller`` or ``callee``.
        at: the moment of the call; None for now.
        given: further members of the data plane's question, such as ``hop``, ``task``, ``chain``, ``user``.
    """

    caller: str
    callee: str
    operation: str
    side: str = "caller"
    at: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


def build_question(asked: Asked, documents: DocumentSet) -> dict[str, Any]:
    """The question as the data plane takes it; names are looked up in ``documents``.

    Raises:
        InvalidError: a name or operation means nothing (``question_invalid``).
    """
    caller = _spiffe_id(asked.caller, documents, "caller")
    external = _EXTERNAL.fullmatch(asked.callee)
    resource: dict[str, Any] = (
        {"external": {"host": external[1], "port": int(external[2])}}
        if external
        else {"component": str(_spiffe_id(asked.callee, documents, "callee"))}
    )
    if asked.side not in {"caller", "callee"}:
        raise _invalid(f"side {asked.side!r}", "write caller or callee")
    return {
        "caller": str(caller),
        "resource": resource,
        "caller_documented": documents.by_spiffe_id(caller) is not None,
        "side": asked.side,
        "chain": [str(caller)],
        **_operation(asked.operation),
        **({"at_ms": _moment_ms(asked.at)} if asked.at else {}),
        **asked.given,
    }


def _operation(text: str) -> dict[str, Any]:
    http = _HTTP.fullmatch(text)
    if http:
        return {"protocol": "http", "http": text, "operation": text, "method": http[1], "path": http[2]}
    if not text or not text.isprintable() or text[0].isupper():
        raise _invalid(f"operation {text!r}", "write METHOD /path, or a method and its target: tools/call crm.lookup")
    target = text.partition(" ")[2]
    return {
        "protocol": operation_protocol(text),
        "http": f"POST {_MCP_PATH}",
        "operation": text,
        "method": "POST",
        "path": _MCP_PATH,
        **({"target": target} if target else {}),
    }


def _spiffe_id(text: str, documents: DocumentSet, what: str) -> SpiffeId:
    component = documents.component(text)
    if component is not None:
        return component.spiffe_id
    if "://" not in text:
        raise _invalid(f"{what} {text!r} is in no document", "write AGENT/COMPONENT, or a SPIFFE ID in full")
    try:
        return SpiffeId.parse(text)
    except HopsealError as error:
        raise _invalid(f"{what}: {error.message}", "write a SPIFFE ID, spiffe://trust.domain/path") from error


def _moment_ms(text: str) -> int:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise _invalid(f"moment {text!r}", "write it like 2026-11-28T09:30:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def _invalid(what: str, remedy: str) -> InvalidError:
    return InvalidError("question_invalid", what, remedy=remedy)
