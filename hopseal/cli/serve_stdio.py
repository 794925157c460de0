"""``hopseal serve-stdio``: an MCP server on standard input and output, behind a socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import click

from hopseal.cli.options import out_socket_option
from hopseal.cli.output import escape_unprintable
from hopseal.errors import InvalidError, UnavailableError
from hopseal.running.stdio_child import StdioChild
from hopseal.sockets import bind_unix_socket

_SOCKET_MODE = 0o666  # the folder says who may enter; only what the broker vouches for is served
_PATH = "/mcp"
_DRAIN_S = 5.0


@click.command("serve-stdio", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--listen", type=click.Path(path_type=Path), required=True, help="Unix socket, the one of the document's listen."
)
@click.option("--max-sessions", type=click.IntRange(1, 1024), default=16, show_default=True, help="Each has a process.")
@click.option(
    "--idle", "idle_s", type=click.FloatRange(1, 86_400), default=1800.0, show_default=True,
    help="Seconds without use after which a session makes room for another.",
)  # fmt: skip
@out_socket_option
def serve_stdio(command: tuple[str, ...], listen: Path, *, max_sessions: int, idle_s: float, out_socket: Path) -> None:
    """Serve the stdio MCP server COMMAND as Streamable HTTP on a Unix socket.

    Every session has a process of its own. The component is this process: attest it, and COMMAND's files as its
    config. It serves what comes through the broker only, tells the server each request's handle, and ends as soon as
    one of the processes ends by itself or executes another program.

    \b
    Example:
      hopseal serve-stdio --listen /run/agents/hello/files.sock -- python3 /opt/files/server.py
    """
    if shutil.which(command[0]) is None:
        raise InvalidError("command_not_found", f"there is no program {command[0]}", remedy="name it with its path")
    try:
        from hopseal.running import mcp_http  # noqa: F401, PLC0415 - aiohttp comes with an extra
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "aiohttp_missing", "hopseal serve-stdio needs aiohttp", remedy="pip install 'hopseal[aiohttp]'"
        ) from error
    os.environ["HOPSEAL_OUT_SOCKET"] = str(out_socket)
    asyncio.run(_serve(command, listen.absolute(), max_sessions, idle_s))


async def _serve(command: tuple[str, ...], listen: Path, max_sessions: int, idle_s: float) -> None:
    from aiohttp import web  # noqa: PLC0415

    from hopseal.running.mcp_http import McpEndpoint  # noqa: PLC0415
    from hopseal.running.mcp_messages import MAX_MESSAGE_BYTES  # noqa: PLC0415

    async def start() -> StdioChild:
        return await StdioChild.start(command, os.environ)

    loop = asyncio.get_running_loop()
    stopped = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, _settle, stopped)
    endpoint = McpEndpoint(start, max_sessions=max_sessions, idle_s=idle_s, says=_say)
    application = web.Application(client_max_size=MAX_MESSAGE_BYTES)
    application.router.add_route("*", _PATH, endpoint.serve)
    # Cancelled as soon as the client hangs up: a stream that nobody reads must not keep its place.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_DRAIN_S, handler_cancellation=True)
    bound = bind_unix_socket(listen, mode=_SOCKET_MODE, unsafe_shared_folder=True)
    try:
        await runner.setup()
        await web.SockSite(runner, bound.sock).start()
        _say(f"MCP on {listen}, path {_PATH}")
        await asyncio.wait((stopped, endpoint.gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        # First nobody new finds it: then no call is begun that could not be answered.
        bound.path.unlink(missing_ok=True)
        await endpoint.aclose()
        await runner.cleanup()
        bound.close()
    if endpoint.gone.done():
        raise endpoint.gone.result()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _say(text: str) -> None:
    click.echo(f"hopseal serve-stdio: {escape_unprintable(text)}", err=True)
