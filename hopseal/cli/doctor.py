"""``hopseal doctor``: what is wrong on this node and what to do, each finding with its evidence."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import click

from hopseal.cli.diagnosis.daemons import (
    ask_daemon,
    check_agreement,
    check_certificate,
    check_components,
    check_expiries,
)
from hopseal.cli.diagnosis.documents import check_documents
from hopseal.cli.diagnosis.files import check_files, check_sockets, check_state
from hopseal.cli.diagnosis.finding import Finding, Outcome, ok, warning
from hopseal.cli.diagnosis.kernel import check_clock, check_kernel
from hopseal.cli.diagnosis.services import check_engines, check_grpc_socket, check_spire
from hopseal.cli.diagnosis.settings import DaemonSettings, read_settings
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.options import (
    DEFAULT_ATTESTOR_SOCKET,
    DEFAULT_BROKER_SOCKET,
    DEFAULT_DOCUMENTS,
    DEFAULT_OUT_SOCKET,
    DEFAULT_WORKLOAD_SOCKET,
    trust_domain_option,
)
from hopseal.cli.output import format_count, json_option, print_json, print_table

_PATH = click.Path(path_type=Path)
_BROKER_SOCKET = Path("/run/hopseal/attestor/broker.sock")


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where things are on this node: what an option says, else the configuration, else the default."""

    attestor: DaemonSettings
    broker: DaemonSettings
    attestor_socket: Path
    broker_socket: Path
    documents: Path
    trust_domain: str
    config_files: tuple[Path, Path]

    @property
    def workload(self) -> Path:
        return self.attestor.path("sockets", "workload") or DEFAULT_WORKLOAD_SOCKET

    @property
    def own(self) -> Path:
        return self.attestor.path("sockets", "broker") or _BROKER_SOCKET

    @property
    def out(self) -> Path:
        return self.broker.path("out_socket") or DEFAULT_OUT_SOCKET


@click.command()
@click.option(
    "--attestor-config", type=_PATH, default=Path("/etc/hopseal/attestor.yaml"), show_default=True,
    help="The attestor's configuration.",
)  # fmt: skip
@click.option(
    "--broker-config", type=_PATH, default=Path("/etc/hopseal/broker.yaml"), show_default=True,
    help="The broker's configuration.",
)  # fmt: skip
@click.option(
    "--attestor-socket", type=_PATH, envvar="HOPSEAL_ATTESTOR_SOCKET", show_envvar=True,
    help="The attestor's admin socket, if not the configuration's.",
)  # fmt: skip
@click.option(
    "--broker-socket", type=_PATH, envvar="HOPSEAL_BROKER_SOCKET", show_envvar=True,
    help="The broker's admin socket, if not the configuration's.",
)  # fmt: skip
@click.option(
    "--documents", type=_PATH, envvar="HOPSEAL_DOCUMENTS", show_envvar=True,
    help="Folder of Agent documents, if not the configuration's.",
)  # fmt: skip
@trust_domain_option
@click.option("--all", "show_all", is_flag=True, help="Print what is in order too.")
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    attestor_config: Path,
    broker_config: Path,
    attestor_socket: Path | None,
    broker_socket: Path | None,
    documents: Path | None,
    trust_domain: str,
    *,
    show_all: bool,
    as_json: bool,
) -> None:
    """Find out what is wrong on this node and what to do about it; changes nothing.

    Looks at the kernel, the clock, configurations, documents, modes of files and sockets, container engines,
    SPIRE, both daemons and their certificates. Exits 0 if nothing failed, else 1; warnings do not fail.

    \b
    Example:
      hopseal doctor
      hopseal doctor --json | jq '.findings[] | select(.outcome == "failed") | .remedy'
    """
    attestor, broker = read_settings("attestor", attestor_config), read_settings("broker", broker_config)
    place = _Place(
        attestor=attestor,
        broker=broker,
        attestor_socket=attestor_socket or attestor.path("sockets", "admin") or DEFAULT_ATTESTOR_SOCKET,
        broker_socket=broker_socket or broker.path("admin_socket") or DEFAULT_BROKER_SOCKET,
        documents=documents or attestor.path("documents") or DEFAULT_DOCUMENTS,
        trust_domain=str(_trust_domain(attestor) or trust_domain),
        config_files=(attestor_config, broker_config),
    )
    findings = list(_look(place))
    is_sound = all(each.outcome is not Outcome.FAILED for each in findings)
    if as_json:
        print_json({"sound": is_sound, "findings": [dataclasses.asdict(each) for each in findings]})
    else:
        _print(findings, show_all=show_all)
    if not is_sound:
        context.exit(EXIT_NO)


def _look(place: _Place) -> Iterator[Finding]:
    yield _user()
    yield from check_kernel()
    yield from check_clock()
    yield place.attestor.finding
    yield place.broker.finding
    yield from check_documents(place.documents, place.trust_domain)
    yield from check_files(place.config_files, place.documents)
    yield from check_state(place.attestor, place.broker)
    yield from check_sockets((place.workload, place.out), (place.own, place.attestor_socket, place.broker_socket))
    yield from check_engines(place.attestor)
    yield from check_spire(place.attestor)
    yield from _look_at_daemons(place)


def _look_at_daemons(place: _Place) -> Iterator[Finding]:
    findings, attestor = ask_daemon("attestor", place.attestor_socket)
    yield from findings
    findings, broker = ask_daemon("broker", place.broker_socket)
    yield from findings
    yield from check_agreement(attestor, broker)
    yield from check_components(attestor)
    yield from check_expiries(attestor, broker)
    if attestor is not None:
        start = "systemctl restart hopseal-attestor"
        yield check_grpc_socket("sockets.workload_api", place.workload, "the Workload API", start)
        yield check_certificate(place.own)


def _user() -> Finding:
    if os.geteuid() == 0:
        return ok("doctor.user", "runs as root and sees everything", "uid 0")
    return warning("doctor.user", "not everything can be looked at", f"uid {os.geteuid()}", "sudo hopseal doctor")


def _trust_domain(attestor: DaemonSettings) -> str | None:
    found = (attestor.values or {}).get("trust_domain")
    return found.get("name") if isinstance(found, dict) else found


def _print(findings: list[Finding], *, show_all: bool) -> None:
    shown = [each for each in findings if show_all or each.outcome in {Outcome.FAILED, Outcome.WARNING}]
    if shown:
        print_table(
            ("check", "outcome", "finding", "evidence", "what to do"),
            [(each.check, each.outcome, each.message, each.evidence, each.remedy) for each in shown],
        )
        click.echo()
    counts = {outcome: sum(each.outcome is outcome for each in findings) for outcome in Outcome}
    click.echo(
        f"{format_count(len(findings), 'check')}: {counts[Outcome.FAILED]} failed, "
        f"{format_count(counts[Outcome.WARNING], 'warning')}, {counts[Outcome.SKIPPED]} skipped"
    )
