"""Beginning a task: every call inside the block is part of it.

Owns: the request ``POST /task`` and the block. Does not own: whether this component may begin tasks (``mayStart`` in
its document), which the broker decides.
Source: runtime.md "Tasks"; custody-wire §8.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from hopseal.errors import InvalidError, UnavailableError
from hopseal.sdk.broker import ask, read_object
from hopseal.sdk.handle import HANDLE_HEADER, current_handle, use_handle


@dataclass(frozen=True, slots=True)
class Task:
    """A task that the broker opened.

    Args:
        handle: for calls that belong to it; a header ``Custody-Handle`` in any client.
        id: of the task.
        chain: ID of its chain, what ``hopseal chain show --cid`` takes.
        expires_at: when the chain ends, epoch seconds; :func:`resume_task` goes on under a new one.
    """

    handle: str
    id: str
    chain: str
    expires_at: int


def open_task(
    task_id: str | None = None,
    *,
    purpose: str | None = None,
    authority: Mapping[str, object] | None = None,
    user_token: str | None = None,
) -> Task:
    """A new task; blocks for one exchange with the local broker.

    Args:
        task_id: the broker makes one up if None.
        purpose: short purpose code, at most 64 characters.
        authority: what calls of the task may do at most: ``scope``, ``exp``, ``hops``, ``aud``, ``ops``.
        user_token: Transaction Token that was issued to this component on behalf of a user.

    Raises:
        CallRefusedError: the broker refused, for example with ``may_not_start``.
        UnavailableError: there is no broker.
    """
    if purpose is not None and task_id is None:
        raise InvalidError("request_invalid", "a purpose needs the ID of the task", remedy="give task_id too")
    body: dict[str, object] = {} if authority is None else {"authority": dict(authority)}
    if task_id is not None:
        body["task"] = {"id": task_id} if purpose is None else {"id": task_id, "pc": purpose}
    return _open(body, None, {} if user_token is None else {"txn-token": user_token})


def resume_task(handle: str | None = None) -> Task:
    """The task of ``handle``, else the current one, under a new chain that names the one before."""
    return _open({"continues": "resume"}, handle or current_handle(), {})


def _open(body: Mapping[str, object], handle: str | None, headers: Mapping[str, str]) -> Task:
    answer = ask("POST", "/task", handle=handle, headers=headers, body=body)
    found, new = read_object(answer), answer.header(HANDLE_HEADER)
    task, chain, expires_at = found.get("task"), found.get("cid"), found.get("expires_at")
    if not (isinstance(new, str) and isinstance(task, str) and isinstance(chain, str) and isinstance(expires_at, int)):
        raise UnavailableError("broker_answer_invalid", "the broker's answer cannot be understood")
    return Task(new, task, chain, expires_at)


@dataclass(slots=True)
class task:  # noqa: N801 - reads as a statement: with task(): …
    """``with task():`` and ``async with task():`` open a task; calls inside the block belong to it.

    The arguments are those of :func:`open_task`.
    """

    task_id: str | None = None
    purpose: str | None = None
    authority: Mapping[str, object] | None = None
    user_token: str | None = None
    _block: AbstractContextManager[None] | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Task:
        return self._begin(self._open())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(kind, error, trace)

    async def __aenter__(self) -> Task:
        return self._begin(await asyncio.to_thread(self._open))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _open(self) -> Task:
        return open_task(self.task_id, purpose=self.purpose, authority=self.authority, user_token=self.user_token)

    def _begin(self, opened: Task) -> Task:
        self._block = use_handle(opened.handle)
        self._block.__enter__()
        return opened
