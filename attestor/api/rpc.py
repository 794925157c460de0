"""What every method of the attestor's gRPC services does alike: headers, requests, answers, status codes.

Owns: the only mapping from our errors to gRPC status codes. Does not own: any method.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from google.protobuf.message import DecodeError
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from attestor.api.caller import Caller
from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError

REQUEST_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 30.0

Request = TypeVar("Request")
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class RequestInvalidError(InvalidError):
    """The request is not what the method takes (code ``request_invalid``)."""

    def __init__(self, message: str) -> None:
        super().__init__("request_invalid", message)


async def receive_request(stream: Stream[Request, Answer], security_header: str) -> Request:
    """The request of a unary or server-streaming method.

    Args:
        stream: as grpclib hands it to a method.
        security_header: metadata key that must be there exactly once with the value ``true``; a program that was
            tricked into connecting to the socket does not send it (SPIFFE Workload Endpoint §6.1).

    Raises:
        RequestInvalidError: the header or the message is missing or malformed.
        UnavailableError: the message does not come in time.
    """
    values = stream.metadata.getall(security_header, []) if stream.metadata is not None else []
    if values != ["true"]:
        raise RequestInvalidError("security header missing from request")
    request = await receive_message(stream, REQUEST_TIMEOUT_S)
    if request is None:
        raise RequestInvalidError("the request message is missing")
    return request


async def receive_message(stream: Stream[Request, Answer], timeout_s: float | None) -> Request | None:
    """The next message of the peer, or None if it has no more.

    Raises:
        RequestInvalidError: the message is malformed.
        UnavailableError: the message does not come in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await stream.recv_message()
    except TimeoutError as error:
        raise UnavailableError("request_timeout", "the request did not come in time") from error
    except (DecodeError, AssertionError, NotImplementedError) as error:
        # grpclib asserts that a message is as long as it says, and knows no compression.
        raise RequestInvalidError("the request message cannot be read") from error


async def send_answer(stream: Stream[Request, Answer], caller: Caller, answer: Answer) -> None:
    """Send one message; a peer that does not take it in time loses its connection.

    Raises:
        UnavailableError: the peer did not read.
    """
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await stream.send_message(answer)
    except TimeoutError as error:
        caller.abort()
        raise UnavailableError("peer_stalled", "the answer was not read in time") from error


@contextmanager
def status_of_errors(describe_denial: Callable[[DeniedError], str]) -> Iterator[None]:
    """Turn our errors into gRPC status codes.

    Args:
        describe_denial: what the caller is told of a denial.

    Raises:
        GRPCError: in place of any ``HopsealError``.
    """
    try:
        yield
    except DeniedError as error:
        _log.info("denied: %s", error)
        raise GRPCError(Status.PERMISSION_DENIED, describe_denial(error)) from error
    except InvalidError as error:
        _log.info("invalid request: %s", error)
        raise GRPCError(Status.INVALID_ARGUMENT, error.message) from error
    except UnavailableError as error:
        _log.info("unavailable: %s", error)
        raise GRPCError(Status.UNAVAILABLE, f"{error.code}: {error.message}") from error
    except HopsealError as error:
        _log.exception("a request failed")
        raise GRPCError(Status.INTERNAL, error.code) from error
