"""``hopseal agents``: documents, and the operator's decisions about agents on this node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hopseal.cli.admin import AdminClient
from hopseal.cli.agents_approve import approve
from hopseal.cli.agents_init import init
from hopseal.cli.lazy import EXIT_NO, LazyGroup
from hopseal.cli.options import attestor_socket_option, documents_option, trust_domain_option
from hopseal.cli.output import format_count, json_option, paint_state, print_json, print_table
from hopseal.documents.load import load_documents
from hopseal.documents.model import Agent, AttestBlock, Component, Custody, DocumentsInvalidError
from hopseal.documents.schema import agent_schema
from hopseal.errors import InvalidError
from hopseal.ids import TrustDomain


@click.group(cls=LazyGroup)
def agents() -> None:
    """Agent documents: who answers for an agent, what its components must be, whom they may call.

    \b
    Example:
      hopseal agents check ./agents
    """


agents.add_command(init)
agents.add_command(approve)


@agents.command(name="list")
@documents_option
@trust_domain_option
@json_option
def list_agents(documents: Path, trust_domain: str, *, as_json: bool) -> None:
    """List the agents of a folder of documents.

    \b
    Example:
      hopseal agents list --documents ./agents
    """
    found = load_documents(documents, TrustDomain.parse(trust_domain))
    if as_json:
        print_json([_agent_json(agent) for agent in found.agents])
        return
    print_table(
        ("agent", "status", "version", "owner", "components", "file"),
        [
            (
                agent.name,
                agent.status,
                agent.version,
                agent.owner,
                " ".join(component.name for component in agent.components),
                agent.file,
            )
            for agent in found.agents
        ],
    )


@agents.command()
@click.argument("name")
@documents_option
@trust_domain_option
@json_option
def show(name: str, documents: Path, trust_domain: str, *, as_json: bool) -> None:
    """Show one agent: its owner, components, what they must be and whom they may call.

    \b
    Example:
      hopseal agents show crm-assistant
    """
    agent = load_documents(documents, TrustDomain.parse(trust_domain)).agent(name)
    if agent is None:
        raise InvalidError(
            "agent_unknown",
            f"no document in {documents} is of agent {name!r}",
            remedy="`hopseal agents list` shows the agents",
        )
    if as_json:
        print_json(_agent_json(agent))
        return
    click.echo(f"{click.style(agent.name, bold=True)} {agent.version}  {paint_state(agent.status)}")
    for label, value in (("", agent.description), ("owner", agent.owner), ("team", agent.team), ("file", agent.file)):
        if value:
            click.echo(f"  {label + ': ' if label else ''}{value}")
    for component in agent.components:
        click.echo(f"\n{click.style(component.name, bold=True)} ({component.role})  {component.spiffe_id}")
        for number, block in enumerate(component.attest, 1):
            of = f" {number} of {len(component.attest)}" if len(component.attest) > 1 else ""
            click.echo(f"  must be{of}: {', '.join(_attest_lines(block))}")
        if component.listen:
            click.echo(f"  listens on {component.listen}")
        for line in _call_lines(component):
            click.echo(f"  {line}")


@agents.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@documents_option
@trust_domain_option
@json_option
@click.pass_context
def check(context: click.Context, folder: Path | None, documents: Path, trust_domain: str, *, as_json: bool) -> None:
    """Check every document of FOLDER: all mistakes in one run, with file, line and remedy.

    \b
    Example:
      hopseal agents check ./agents
    """
    folder = folder or documents
    try:
        found = load_documents(folder, TrustDomain.parse(trust_domain))
    except DocumentsInvalidError as error:
        if as_json:
            problems = [
                {"file": each.file, "line": each.line, "message": each.message, "remedy": each.remedy}
                for each in error.problems
            ]
            print_json({"valid": False, "sha256": None, "problems": problems})
        else:
            for each in error.problems:
                click.echo(f"{click.style(f'{folder / each.file}:{each.line}', bold=True)}: {each.message}")
                click.secho(f"    → {each.remedy}", fg="cyan")
        context.exit(EXIT_NO)
    if as_json:
        print_json({"valid": True, "sha256": found.sha256, "problems": []})
    else:
        agents_found, components = len(found.agents), len(found.components)
        click.echo(f"{format_count(agents_found, 'agent')}, {format_count(components, 'component')}: no mistakes")


@agents.command()
def schema() -> None:
    """Print the JSON Schema of Agent documents, for editors and review tools.

    \b
    Example:
      hopseal agents schema > agent.schema.json
    """
    print_json(agent_schema())


def _decide(verb: str, name: str, attestor_socket: Path, *, as_json: bool) -> None:
    client = AdminClient("attestor", attestor_socket)
    answer = client.post(f"/v1/agents/{name}/{verb}")
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{answer['agent']} is {paint_state(answer['status'])} on this node")


@agents.command()
@click.argument("name")
@attestor_socket_option
@json_option
def suspend(name: str, attestor_socket: Path, *, as_json: bool) -> None:
    """Withdraw every identity of the agent on this node, at once, until `resume`; survives restarts.

    \b
    Example:
      hopseal agents suspend crm-assistant
    """
    _decide("suspend", name, attestor_socket, as_json=as_json)


@agents.command()
@click.argument("name")
@attestor_socket_option
@json_option
def resume(name: str, attestor_socket: Path, *, as_json: bool) -> None:
    """Take `suspend` or `retire` back: what the document says holds again.

    \b
    Example:
      hopseal agents resume crm-assistant
    """
    _decide("resume", name, attestor_socket, as_json=as_json)


@agents.command()
@click.argument("name")
@attestor_socket_option
@json_option
def retire(name: str, attestor_socket: Path, *, as_json: bool) -> None:
    """Withdraw every identity of the agent on this node for good; retire its document too.

    \b
    Example:
      hopseal agents retire crm-assistant
    """
    _decide("retire", name, attestor_socket, as_json=as_json)


def _agent_json(agent: Agent) -> dict[str, Any]:
    return {
        "name": agent.name,
        "version": agent.version,
        "description": agent.description,
        "owner": agent.owner,
        "team": agent.team,
        "status": str(agent.status),
        "file": agent.file,
        "components": [_component_json(component) for component in agent.components],
    }


def _component_json(component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "role": str(component.role),
        "spiffe_id": str(component.spiffe_id),
        "may_start": component.may_start,
        "listen": component.listen,
        "svid": str(component.svid),
        "attest": [_attest_json(block) for block in component.attest],
        "calls": [
            {"to": call.qualified, "operations": list(call.operations), "custody": str(call.custody)}
            for call in component.calls
        ],
        "peers": [
            {"to": str(call.spiffe_id), "name": call.name, "operations": list(call.operations), "custody": "none"}
            for call in component.peers
        ],
        "externals": [
            {
                "external": call.authority,
                "operations": list(call.operations),
                "sensitivity": str(call.sensitivity) if call.sensitivity else None,
                "opaque": call.opaque,
                "custody": "none",
            }
            for call in component.externals
        ],
        "accepts_without_custody": list(component.accept_plain),
    }


def _call_lines(component: Component) -> Iterator[str]:
    every = "every operation"
    for call in component.calls:
        custody = " without custody" if call.custody is Custody.NONE else ""
        yield f"may call {call.qualified}{custody}: {', '.join(call.operations) or every}"
    for peer in component.peers:
        yield f"may call {peer.spiffe_id} as {peer.name} without custody: {', '.join(peer.operations) or every}"
    for external in component.externals:
        what = "a tunnel" if external.opaque else ", ".join(external.operations) or every
        yield f"may call {external.authority} outside, without custody: {what}"
    for pattern in component.accept_plain:
        yield f"may be called by {pattern} without custody"


def _attest_lines(block: AttestBlock) -> Iterator[str]:
    for key, value in _attest_json(block).items():
        if isinstance(value, list):
            yield f"{key} {' or '.join(value)}"
        elif key == "config":
            yield f"config of {' '.join(value['files'])} {' or '.join(value['digest'])}"
        elif isinstance(value, dict):
            yield f"{key} {' '.join(f'{name}={each}' for name, each in value.items())}"
        else:
            yield f"{key} {value}"


def _attest_json(block: AttestBlock) -> dict[str, Any]:
    values: dict[str, Any] = {
        "image": list(block.image),
        "exe": list(block.exe),
        "children": list(block.children),
        "config": {"files": list(block.config.files), "digest": list(block.config.digests)} if block.config else None,
        "posture": str(block.posture) if block.posture else None,
        "uid": block.uid,
        "gid": block.gid,
        "unit": block.unit,
        "container_labels": dict(block.container_labels),
        "forbid_static_secrets": block.forbid_static_secrets or None,
    }
    return {key: value for key, value in values.items() if value not in (None, [], {})}
