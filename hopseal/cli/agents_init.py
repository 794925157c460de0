"""``hopseal agents init``: a draft of a document from what runs now."""

from __future__ import annotations

from pathlib import Path

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.document_draft import draft_agent
from hopseal.cli.options import attestor_socket_option
from hopseal.documents.grammar import parse_label
from hopseal.errors import InvalidError


@click.command()
@click.argument("name")
@click.option(
    "--pid",
    "processes",
    multiple=True,
    required=True,
    metavar="[COMPONENT=]PID",
    help="A running component; several as COMPONENT=PID.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="[COMPONENT=]PATH",
    help="A configuration file or folder to approve, as the process sees it.",
)
@click.option("--owner", default="someone@example.org", help="The person who answers for the agent.")
@attestor_socket_option
def init(name: str, processes: tuple[str, ...], files: tuple[str, ...], owner: str, attestor_socket: Path) -> None:
    """Draft the document of agent NAME from running processes, for a human to complete and review.

    \b
    Example:
      hopseal agents init crm-assistant --pid reasoner=4712 --file reasoner=/etc/model > crm.yaml
    """
    parse_label(name)
    pids = {component: _parse_pid(text) for component, text in (_split(each) for each in processes)}
    if len(pids) != len(processes):
        raise InvalidError("component_repeated", "two processes have one component name", remedy="write COMPONENT=PID")
    named = [_split(each) for each in files]
    if unknown := [component for component, _ in named if component not in pids]:
        raise InvalidError(
            "component_unknown",
            f"--file names {unknown[0]!r}, which no --pid does",
            remedy="write --pid COMPONENT=PID --file COMPONENT=PATH with one name",
        )
    measured = {}
    client = AdminClient("attestor", attestor_socket)
    for component, pid in pids.items():
        parse_label(component)
        paths = [path for each, path in named if each == component]
        found = client.get("/v1/measure", {"pid": pid, "files": paths})
        measured[component] = (found, paths)
    click.echo(draft_agent(name, measured, owner), nl=False)


def _split(text: str) -> tuple[str, str]:
    component, equals, value = text.rpartition("=")
    return (component if equals else "main"), value


def _parse_pid(text: str) -> int:
    if not text.isdecimal():
        raise InvalidError("pid_invalid", f"{text!r} is no process id", remedy="write --pid COMPONENT=4711")
    return int(text)
