"""Who calls this component, through which path, for which task and on whose behalf: as its broker verified it.

Owns: the question ``GET /handle`` and its answer as values. Does not own: verifying the chain, which the broker did
before it delivered the request.
Source: guide, "On whose behalf"; custody-wire §6.17.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from hopseal.errors import InvalidError, UnavailableError
from hopseal.sdk.broker import ask, read_object
from hopseal.sdk.handle import current_handle


@dataclass(frozen=True, slots=True)
class User:
    """On whose behalf the chain acts.

    Args:
        issuer: of the user's token.
        subject: the user, as that issuer names them.
        is_verified: this broker verified the token; False where only the root's word stands for it.
    """

    issuer: str
    subject: str
    is_verified: bool


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a handle stands for.

    Args:
        caller: SPIFFE ID of the component that sent this request; None for a task of one's own.
        path: SPIFFE IDs of all components before this one, the root first.
        hop: of the request; None for a task of one's own.
        chain: ID of the chain, the same at every hop.
        task: ID of the task.
        purpose: its short purpose code, if it has one.
        user: None if the chain acts on nobody's behalf.
        authority: what is left of it: ``scope``, ``exp``, ``hops``, ``aud``, ``ops``.
        expires_at: when the handle ends, epoch seconds.
    """

    caller: str | None
    path: tuple[str, ...]
    hop: int | None
    chain: str
    task: str
    purpose: str | None
    user: User | None
    authority: Mapping[str, object]
    expires_at: int


def call_context(handle: str | None = None) -> CallContext:
    """What ``handle``, else the current one, stands for; blocks for one exchange with the local broker.

    Raises:
        InvalidError: there is no handle (code ``handle_missing``).
        CallRefusedError: the broker does not know it (any more).
        UnavailableError: there is no broker.
    """
    handle = handle or current_handle()
    if handle is None:
        raise InvalidError(
            "handle_missing",
            "no request is being served here that came through a broker",
            remedy="wrap the application in CustodyMiddleware, or begin a task",
        )
    return read_context(read_object(ask("GET", "/handle", handle=handle)))


async def async_call_context(handle: str | None = None) -> CallContext:
    """The same as :func:`call_context`, in a thread."""
    return await asyncio.to_thread(call_context, handle)


def read_context(found: Mapping[str, object]) -> CallContext:
    """The broker's answer as values; raises ``UnavailableError`` if it is of another form."""
    try:
        task, user, path = _object(found["task"]), found["user"], _list(found["path"])
        return CallContext(
            caller=_text(path[-1]) if path else None,
            path=tuple(map(_text, path)),
            hop=None if found["hop"] is None else _number(found["hop"]),
            chain=_text(found["cid"]),
            task=_text(task["id"]),
            purpose=None if task.get("pc") is None else _text(task["pc"]),
            user=None if user is None else _read_user(user),
            authority=_object(found["authority"]),
            expires_at=_number(found["expires_at"]),
        )
    except (KeyError, TypeError) as error:
        raise UnavailableError("broker_answer_invalid", "the broker's answer cannot be understood") from error


def _read_user(value: object) -> User:
    found = _object(value)
    return User(_text(found["iss"]), _text(found["sub"]), found["obo_verified"] is True)


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value
