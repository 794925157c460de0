"""A connector for aiohttp's client, and a middleware for its server.

``ClientSession(connector=broker_connector(), middlewares=[join_task])`` calls ``http://<component>.<agent>/…``
through the broker; ``Application(middlewares=[custody])`` serves requests as part of the task that they came with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hopseal.sdk.client import handle_headers, out_socket
from hopseal.sdk.extras import missing
from hopseal.sdk.handle import HANDLE_HEADER, handle_of, use_handle
from hopseal.sdk.refusals import PROBLEM_MEDIA_TYPE, read_refusal

try:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, UnixConnector, web
except ModuleNotFoundError as error:
    raise missing("aiohttp") from error

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def broker_connector(socket: str | None = None) -> UnixConnector:
    """A connector to the broker's call socket; call it inside the event loop."""
    return UnixConnector(socket or out_socket())


async def join_task(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """A client middleware: the request belongs to the current task, unless it has a handle."""
    if HANDLE_HEADER not in request.headers:
        request.headers.update(handle_headers())
    return await handler(request)


async def raise_refusals(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """A client middleware: refusals are raised as :class:`hopseal.sdk.refusals.CallRefusedError`."""
    response = await handler(request)
    if response.content_type == PROBLEM_MEDIA_TYPE:
        refusal = read_refusal(response.status, response.content_type, await response.read())
        if refusal is not None:
            response.release()
            raise refusal
    return response


@web.middleware
async def custody(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A server middleware: the handle of each request is the current one while it is served."""
    with use_handle(handle_of(request.headers.getall(HANDLE_HEADER, ()))):
        return await handler(request)
