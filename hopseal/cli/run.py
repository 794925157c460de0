"""``hopseal run``: an unmodified program, with its calls brokered."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import click

from hopseal.cli.document_draft import draft_runner
from hopseal.cli.lazy import exit_code, print_error
from hopseal.cli.options import out_socket_option
from hopseal.cli.output import escape_unprintable
from hopseal.errors import HopsealError, InvalidError
from hopseal.running.bridge import Bridge
from hopseal.running.child import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Child, adopt_orphans, environment_of
from hopseal.running.family import Family
from hopseal.running.heads import MAX_HEAD_BYTES, Head
from hopseal.running.own_network import PORT, OwnNetwork
from hopseal.running.run_task import GivenHandle, RunTask
from hopseal.sdk.refusals import CallDeniedError, CallRefusedError

_MAX_SAID = 64  # a program that asks for a thousand hosts is not told about each
_NEEDS_DOCUMENT = frozenset({"identity_none", "may_not_start"})
_TUNNEL_HINT = (
    "components are called by http://, the broker adds mutual TLS itself; "
    "a host elsewhere needs {external: HOST, opaque: true} among the document's calls"
)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--task-id", help="ID of the task that all calls of the run belong to. Default: the broker makes one up.")
@click.option("--task", "handle", help="Custody-Handle of a task that is open already; calls join it.")
@click.option("--task-per-call", is_flag=True, help="Every call begins a task of its own.")
@click.option("--direct", multiple=True, metavar="HOST", help="Called directly, not through the broker; repeatable.")
@click.option("--isolate", is_flag=True, help="A network of its own for COMMAND, with only the broker in it.")
@out_socket_option
@click.pass_context
def run(
    context: click.Context,
    /,
    command: tuple[str, ...],
    *,
    task_id: str | None,
    handle: str | None,
    task_per_call: bool,
    direct: tuple[str, ...],
    isolate: bool,
    out_socket: Path,
) -> None:
    """Run COMMAND with its HTTP calls going through this node's broker.

    COMMAND needs no change: it is given proxy variables (HTTP_PROXY and its like) that point to this process, which
    takes connections from COMMAND and its descendants only. The component that calls is this process: attest it, and
    COMMAND's own files as its config. Ends when COMMAND ends, with its code.

    \b
    Example:
      hopseal run -- curl http://greeter.hello/hello
      hopseal run --task-id nightly --isolate -- python3 /opt/report/report.py
      OPENAI_BASE_URL=http://reasoner.crm-assistant/v1 hopseal run -- python3 agent.py
    """
    if sum((task_per_call, handle is not None, task_id is not None)) > 1:
        raise click.UsageError("--task, --task-id and --task-per-call exclude each other")
    if isolate and direct:
        raise click.UsageError("--direct: nothing but the broker is reached with --isolate")
    os.environ["HOPSEAL_OUT_SOCKET"] = str(out_socket)  # what the SDK asks the broker with
    handles = GivenHandle(handle) if task_per_call or handle is not None else _open_task(task_id, command)
    try:
        code = asyncio.run(_run(command, direct, str(out_socket), handles, isolate=isolate))
    except InvalidError as error:
        print_error(error)
        codes = {"command_not_found": EXIT_NOT_FOUND, "command_not_executable": EXIT_NOT_EXECUTABLE}
        code = codes.get(error.code) or exit_code(error)
    context.exit(code)


def _open_task(task_id: str | None, command: tuple[str, ...]) -> RunTask:
    """The run's task, opened now: a program that cannot call would only fail later and less clearly."""
    found = RunTask(task_id)
    try:
        found.open()
    except CallDeniedError as error:
        if error.code not in _NEEDS_DOCUMENT:
            raise
        print_error(error)
        click.secho("  → the component that this would be, for an Agent document:", fg="cyan", err=True)
        click.echo(draft_runner(Path(command[0]).name), err=True)
        click.get_current_context().exit(exit_code(error))
    return found


async def _run(
    command: tuple[str, ...], direct: tuple[str, ...], out_socket: str, handles: RunTask | GivenHandle, *, isolate: bool
) -> int:
    adopt_orphans()
    family = Family(os.getpid())

    async def is_ours(near: tuple[str, int], far: tuple[str, int]) -> bool:
        return await asyncio.to_thread(family.holds, near, far)

    async def is_inside(near: tuple[str, int], far: tuple[str, int]) -> bool:  # noqa: ARG001 - what Bridge calls
        return True  # only the program's own network reaches this socket

    bridge = Bridge(out_socket, handles, is_inside if isolate else is_ours, _Reporter())
    network = OwnNetwork() if isolate else None
    if network is None:
        server = await asyncio.start_server(bridge.serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        port = server.sockets[0].getsockname()[1]
        child = Child(command, environment_of(os.environ, f"http://127.0.0.1:{port}", direct))
    else:
        child, listener = _start_isolated(command, environment_of(os.environ, f"http://127.0.0.1:{PORT}"), network)
        server = await asyncio.start_server(bridge.serve, sock=listener, limit=MAX_HEAD_BYTES)
    try:
        return await child.wait()
    finally:
        server.close()
        await bridge.aclose()


def _start_isolated(
    command: tuple[str, ...], environment: dict[str, str], network: OwnNetwork
) -> tuple[Child, socket.socket]:
    try:
        child = Child(command, environment, network.enter)
    except subprocess.SubprocessError:
        network.listener()  # says why the child could not go there
        raise
    return child, network.listener()


class _Reporter:
    """Says on standard error why calls are refused, each thing once: programs hide answers to proxies."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def __call__(self, head: Head, refusal: HopsealError) -> None:
        host = head.target.lower().partition("://")[2].partition("/")[0] or head.target
        if (host, refusal.code) in self._said or len(self._said) >= _MAX_SAID:
            return
        self._said.add((host, refusal.code))
        is_tunnel_refused = head.method == "CONNECT" and isinstance(refusal, CallRefusedError)
        remedy = _TUNNEL_HINT if is_tunnel_refused else refusal.remedy
        click.secho(f"hopseal run: {head.method} {escape_unprintable(head.target)}: {refusal.code}", fg="red", err=True)
        if remedy:
            click.secho(f"  → {remedy}", fg="cyan", err=True)
