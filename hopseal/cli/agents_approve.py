"""``hopseal agents approve``: measure what runs now and write its digests into the document."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.approval import ApprovalMode, Change, Measured, approve_measured
from hopseal.cli.options import attestor_socket_option, documents_option, trust_domain_option
from hopseal.cli.output import json_option, print_json, print_table
from hopseal.cli.svid_files import replace_file
from hopseal.documents.load import load_documents, read_folder
from hopseal.documents.model import Agent, Component
from hopseal.documents.parse import parse_documents
from hopseal.errors import DeniedError, InvalidError
from hopseal.ids import TrustDomain

_LIVE = frozenset({"attested", "drifted", "refused", "unreadable"})


@click.command()
@click.argument("name")
@click.option("--pid", "processes", multiple=True, metavar="COMPONENT=PID", help="A process that the attestor does not "
              "know as this component yet.")  # fmt: skip
@click.option(
    "--add", is_flag=True, help="Keep what was approved before and add what runs as an alternative, for a rollout."
)
@click.option("--prune", is_flag=True, help="Only remove what does not run now.")
@click.option("--dry-run", is_flag=True, help="Show the changes, write nothing.")
@documents_option
@trust_domain_option
@attestor_socket_option
@json_option
def approve(
    *,
    name: str,
    processes: tuple[str, ...],
    add: bool,
    prune: bool,
    dry_run: bool,
    documents: Path,
    trust_domain: str,
    attestor_socket: Path,
    as_json: bool,
) -> None:
    """Measure what runs now of agent NAME and write the digests into its document, for review.

    Only image, exe and config digests change; comments and everything else stay as they are. What
    posture, uid or unit must be is for a human to change.

    \b
    Example:
      hopseal agents approve crm-assistant
      hopseal agents approve crm-assistant --add --dry-run
    """
    if add and prune:
        raise click.UsageError("--add keeps old digests and --prune removes them: choose one")
    domain = TrustDomain.parse(trust_domain)
    agent = _find_agent(documents, domain, name)
    path = documents / agent.file
    measured = _measure_running(AdminClient("attestor", attestor_socket), agent, processes)
    mode = ApprovalMode.ADD if add else ApprovalMode.PRUNE if prune else ApprovalMode.REPLACE
    text, changes = approve_measured(path.read_text(), measured, mode)
    parse_documents({**read_folder(documents), agent.file: text.encode()}, domain)
    if changes and not dry_run:
        replace_file(path, text.encode(), path.stat().st_mode & 0o777)
    _report(path, changes, [each for each in measured if not measured[each]], as_json=as_json, dry_run=dry_run)


def _find_agent(documents: Path, domain: TrustDomain, name: str) -> Agent:
    agent = load_documents(documents, domain).agent(name)
    if agent is None:
        raise InvalidError(
            "agent_unknown",
            f"no document in {documents} is of agent {name!r}",
            remedy="`hopseal agents list` shows the agents",
        )
    return agent


def _measure_running(client: AdminClient, agent: Agent, processes: tuple[str, ...]) -> dict[str, list[Measured]]:
    pids = _running(client, agent, processes)
    measured = {
        component.name: [_measure(client, pid, component) for pid in pids[component.name]]
        for component in agent.components
    }
    if not any(measured.values()):
        raise DeniedError(
            "nothing_runs",
            f"no process of {agent.name} is known here",
            remedy="start it, or name it: --pid COMPONENT=PID",
        )
    return measured


def _running(client: AdminClient, agent: Agent, processes: tuple[str, ...]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    names = {component.name for component in agent.components}
    for text in processes:
        component, _, pid = text.partition("=")
        if component not in names or not pid.isdecimal():
            raise InvalidError(
                "pid_invalid", f"{text!r} names no component of {agent.name}", remedy="write --pid COMPONENT=4711"
            )
        found[component].append(int(pid))
    for each in client.get("/v1/status").get("components", []):
        name = str(each["component"]).removeprefix(f"{agent.name}/")
        if name in names and each["component"] == f"{agent.name}/{name}" and not found[name]:
            # One process stands for an instance: its workers share image, files and usually the executable.
            found[name] += [each["pids"][0] for each in each["instances"] if each["state"] in _LIVE and each["pids"]]
    return found


def _measure(client: AdminClient, pid: int, component: Component) -> Measured:
    files = next((block.config.files for block in component.attest if block.config is not None), ())
    found: dict[str, Any] = client.get("/v1/measure", {"pid": pid, "files": list(files)})
    config = found.get("config")
    return Measured(tuple(found.get("image") or ()), found.get("exe"), config["digest"] if config else None)


def _report(path: Path, changes: tuple[Change, ...], absent: list[str], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        listed = [
            {"component": each.component, "item": each.item, "before": list(each.before), "after": list(each.after)}
            for each in changes
        ]
        print_json({"file": str(path), "written": bool(changes) and not dry_run, "changes": listed, "absent": absent})
        return
    if changes:
        print_table(
            ("component", "item", "approved before", "approved now"),
            [(each.component, each.item, ", ".join(each.before), ", ".join(each.after)) for each in changes],
        )
    for name in absent:
        click.echo(f"{name}: not running, unchanged")
    if not changes:
        click.echo("what runs is what is approved: nothing to change")
    elif dry_run:
        click.echo("not written (--dry-run)")
    else:
        click.echo(f"written to {path}: review and commit it")
