"""The broker's refusals as exceptions, told apart from the answers of components.

Owns: reading the problem document and which family a code belongs to. Does not own: the codes, which are the
broker's; one that is not known here still is a refusal, of the family that its status says.
Source: RFC 9457; custody-wire §13.
"""

from __future__ import annotations

import json
from types import MappingProxyType

from hopseal.custody.errors import PROBLEM_TYPE_BASE
from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError

PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_PROBLEM_BYTES = 1 << 16
_DENIED = 403
_INVALID = frozenset({*range(400, 500), 501}) - {403, 408, 425, 429}

REMEDIES = MappingProxyType(
    {
        "identity_none": "no Agent document describes this process: hopseal status",
        "identity_ambiguous": "this process matches several components: give them different uid, exe, unit or image",
        "policy_denied": "the document's calls do not allow this: hopseal agents list",
        "may_not_start": "calls without a task need mayStart in the document, or the handle of the inbound request",
        "attestor_unavailable": "the attestor is away: hopseal status",
        "unknown_peer": "no document names that peer: hopseal agents list",
        "endpoints_failing": "the peer's broker failed too often just now: ask again in a while",
        "retry_budget_spent": "too many calls of this node failed and were sent again: ask again in a while",
        "overloaded": "the broker has as much to do as it takes: ask again in a while",
        "handle_unknown": "the task is gone (the broker was restarted, or it is another component's): start a new one",
        "callee_unavailable": "the peer has no identity now: hopseal status, hopseal explain AGENT/COMPONENT",
        "peer_unreachable": "no route answers: see routes in broker.yaml",
        "peer_untrusted": "the peer's identity is not the one that the document names: hopseal status on its node",
        "body_too_large": "the body is larger than the broker accepts (limits.body_bytes in broker.yaml)",
        "streams_refused": "requests that stream and WebSockets need streams: accept in broker.yaml, on both nodes",
        "grpc_unsupported": "gRPC needs HTTP/2 here, and listenProtocol: h2 in the callee's document",
        "websocket_unsupported": "WebSockets need listenProtocol: h1 in the callee's document",
        "stream_idle": "nothing passed for too long (timeouts_ms.stream_idle): send keepalives",
        "stream_lifetime": "streams end after a while (timeouts_ms.stream_lifetime): begin another one",
        "log_unavailable": "the broker cannot write its custody log: is the disk full?",
        "host_invalid": "write http://COMPONENT.AGENT/path, without a port: the broker adds mutual TLS itself",
        "egress_denied": "no document lists that host and port: add `external: HOST[:PORT]` to the component's calls",
        "egress_address": "the name leads to no public address (egress.allow_private in broker.yaml)",
        "egress_user_token": "the user's token does not leave: send the component's own credential",
        "egress_unresolvable": "the name has no address: look it up on the node",
        "egress_unreachable": "the service took no connection, or lost it",
        "egress_timeout": "the service did not answer in time",
        "egress_tls": "the service's certificate is not of that name or root (egress.ca_file in broker.yaml)",
        "egress_answer": "the service's answer has a header that cannot be bound",
    }
)


class CallRefusedError(HopsealError):
    """A call that the broker, or that of the peer, refused; also belongs to one of the four families.

    Args:
        code: stable reason code.
        status: of the answer.
        missing: what would let the message pass, as the problem document says.
    """

    def __init__(self, code: str, status: int, missing: tuple[str, ...] = ()) -> None:
        super().__init__(code, f"the call was refused with {status}", remedy=REMEDIES.get(code, ""))
        self.status = status
        self.missing = missing


class CallDeniedError(CallRefusedError, DeniedError):
    """The answer is no: identity, policy, authority or user."""


class CallInvalidError(CallRefusedError, InvalidError):
    """The request, its task or its record is wrong; sending it again changes nothing."""


class CallUnavailableError(CallRefusedError, UnavailableError):
    """The peer, or something that the broker needs, is not there now; asking again may help."""


def read_refusal(status: int, media_type: str | None, body: bytes) -> CallRefusedError | None:
    """The refusal in an answer; None if the answer is the component's own, whatever its status.

    Security: a component can imitate the document. That makes its own call look refused and grants nothing.
    """
    if media_type is None or media_type.partition(";")[0].strip() != PROBLEM_MEDIA_TYPE:
        return None
    try:
        problem = json.loads(body) if len(body) <= MAX_PROBLEM_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(problem, dict):
        return None
    code, missing = problem.get("code"), problem.get("missing", [])
    if not isinstance(code, str) or problem.get("type") != PROBLEM_TYPE_BASE + code or not isinstance(missing, list):
        return None
    return _family(status)(code, status, tuple(map(str, missing)))


def _family(status: int) -> type[CallRefusedError]:
    if status == _DENIED:
        return CallDeniedError
    return CallInvalidError if status in _INVALID else CallUnavailableError
