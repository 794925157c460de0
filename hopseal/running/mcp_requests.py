"""What a request of MCP has to be like before anybody looks at its session.

Owns: media types, body, protocol version, and who calls. Does not own: sessions and answers (``mcp_http``).
Source: Model Context Protocol 2025-11-25, "Streamable HTTP" and "Protocol Version Header".
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from hopseal.errors import HopsealError, InvalidError, UnavailableError
from hopseal.running.mcp_messages import (
    INVALID_REQUEST,
    PROTOCOL_VERSIONS,
    UNSUPPORTED_VERSION,
    Id,
    Message,
    MessageInvalidError,
    Parsed,
    error_message,
    parse_message,
)
from hopseal.sdk.context import User, async_call_context

VERSION_HEADER: Final = "MCP-Protocol-Version"
JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"

# The component that calls, and for whom.
Caller = tuple[str | None, User | None]


class RefusedError(InvalidError):
    """A request that HTTP already refuses (code ``mcp_refused`` or what is more exact)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "mcp_refused",
        rpc_code: int = INVALID_REQUEST,
        number: Id | None = None,
        data: Message | None = None,
    ) -> None:
        super().__init__(code, message)
        self.status = status
        self.answer = error_message(number, rpc_code, message, data or {"code": code})


async def fetch_caller(handle: str | None) -> Caller:
    """Who calls and for whom, as the broker verified it.

    Raises:
        RefusedError: the request did not come through the broker, or it cannot be asked.
    """
    if handle is None:
        raise RefusedError(403, "only the broker's requests are served", code="handle_missing")
    try:
        context = await async_call_context(handle)
    except HopsealError as error:
        status = 503 if isinstance(error, UnavailableError) else 403
        raise RefusedError(status, error.message, code=error.code) from error
    return context.caller, context.user


def need_media(request: web.BaseRequest) -> None:
    """Return only if the client takes both forms of an answer and sends JSON."""
    if not {JSON, EVENTS} <= accepted_media(request):
        raise RefusedError(406, f"accept {JSON} and {EVENTS}")
    if request.content_type != JSON:
        raise RefusedError(415, f"send {JSON}")


def accepted_media(request: web.BaseRequest) -> set[str]:
    """The media types that the client takes, of the two that there are."""
    listed = ",".join(request.headers.getall("Accept", ()))
    found = {each.partition(";")[0].strip().lower() for each in listed.split(",")}
    if "*/*" in found:
        found |= {JSON, EVENTS}
    return found


async def read_message(request: web.BaseRequest) -> Parsed:
    """The message in the body; raises :class:`RefusedError`."""
    try:
        return parse_message(await request.read())
    except web.HTTPRequestEntityTooLarge as error:
        raise RefusedError(413, "the message is too large") from error
    except MessageInvalidError as error:
        raise RefusedError(400, error.message, code=error.code, rpc_code=error.rpc_code) from error


def need_version(request: web.BaseRequest, parsed: Parsed) -> None:
    """Return only if the client speaks a version that begins with a handshake, or does not say."""
    version = request.headers.get(VERSION_HEADER)
    if version is None or version in PROTOCOL_VERSIONS:
        return
    data: Message = {"supported": list(PROTOCOL_VERSIONS), "requested": version}
    text = "this protocol version is not served"
    raise RefusedError(400, text, rpc_code=UNSUPPORTED_VERSION, number=parsed.id, data=data)
