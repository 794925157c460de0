"""Calling gRPC services with grpclib, without its traps.

Owns: ending a stream that the server never ends, one error family for everything that can go wrong
below a method, and the task's cancellation count. Does not own: what any method means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TypeVar

from google.protobuf.message import DecodeError
from grpclib.client import Stream, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import ProtocolError as H2ProtocolError

from hopseal.errors import DeniedError, InvalidError, UnavailableError

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_DENIED = frozenset({Status.PERMISSION_DENIED, Status.UNAUTHENTICATED})
_INVALID = frozenset({Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.UNIMPLEMENTED, Status.FAILED_PRECONDITION})


async def call(
    method: UnaryUnaryMethod[Request, Answer],
    request: Request,
    *,
    timeout_s: float,
    metadata: Mapping[str, str] | None = None,
) -> Answer:
    """The answer of a unary method.

    Raises:
        DeniedError: ``rpc_denied``, the server says no.
        InvalidError: ``rpc_invalid``, the server does not take the request.
        UnavailableError: ``rpc_unavailable``, anything else, a deadline included.
    """
    with rpc_errors():
        async with asyncio.timeout(timeout_s):
            return await method(request, metadata=dict(metadata or {}))


@asynccontextmanager
async def subscription(
    method: UnaryStreamMethod[Request, Answer], request: Request, *, metadata: Mapping[str, str] | None = None
) -> AsyncIterator[AsyncIterator[Answer]]:
    """The answers of a server-streaming method, which is cancelled at the end of the block.

    Raises:
        DeniedError, InvalidError, UnavailableError: as :func:`call`; also when the server ends the stream
            without an error, because a subscription has no end.
    """
    stream = method.open(metadata=dict(metadata or {}))
    await stream.__aenter__()
    try:
        with rpc_errors():
            await stream.send_message(request, end=True)
        async with aclosing(_answers(stream)) as answers:
            yield answers
    finally:
        # As after an error: a normal exit would wait for trailers that an endless stream never sends.
        await stream.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Turn what grpclib, h2 and sockets raise into our families; see :func:`call`.

    grpclib wakes a waiting call by cancelling its task and then swallows the cancellation. The task's count of
    requested cancellations is put back here, or a task group around the call would take it for its own end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except GRPCError as error:
        detail = f"{error.status.name}: {error.message}"
        if error.status in _DENIED:
            raise DeniedError("rpc_denied", "the server refused", detail=detail) from error
        if error.status in _INVALID:
            raise InvalidError("rpc_invalid", "the server does not take the request", detail=detail) from error
        raise UnavailableError("rpc_unavailable", "the server cannot answer", detail=detail) from error
    except StreamTerminatedError as error:
        if task is not None:
            _restore_cancellations(task, before)
        raise UnavailableError("rpc_unavailable", "the connection was lost", detail=str(error)) from error
    except TimeoutError as error:
        raise UnavailableError("rpc_unavailable", "the server did not answer in time") from error
    except (OSError, ProtocolError, H2ProtocolError, DecodeError, AssertionError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise UnavailableError("rpc_unavailable", "the server cannot be reached", detail=detail) from error


async def _answers(stream: Stream[Request, Answer]) -> AsyncGenerator[Answer, None]:
    while True:
        with rpc_errors():
            answer = await stream.recv_message()
            if answer is None:
                await stream.recv_trailing_metadata()
        if answer is None:
            raise UnavailableError("rpc_unavailable", "the server ended the stream")
        yield answer


def _restore_cancellations(task: asyncio.Task[object], before: int) -> None:
    if task.cancelling() > before:
        task.uncancel()
    if task.cancelling() > before:  # somebody else wanted it cancelled at the same moment
        raise asyncio.CancelledError
