"""``hopseal audit export``: an evidence bundle out of broker logs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkstemp

import click

from hopseal.cli.audit_inputs import read_policy_text
from hopseal.cli.log_folders import open_log_folders
from hopseal.cli.options import log_option
from hopseal.cli.output import format_count
from hopseal.cli.selecting import selecting_options, selection_of
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.bundle import format_evidence
from hopseal.log.collect import Collected, collect
from hopseal.log.policy import parse_policy
from hopseal.log.selection import Selection

_NAMED = 3  # entries that are named; the others are counted


@click.command()
@selecting_options
@click.option("--all", "everything", is_flag=True, help="Every chain in the logs.")
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path),
    help="tlog-policy: prove with checkpoints that it accepts, and put it into the bundle.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write, mode 0600.")
@log_option
def export(
    *,
    cids: tuple[str, ...],
    tasks: tuple[str, ...],
    components: tuple[str, ...],
    users: tuple[str, ...],
    since: int | None,
    until: int | None,
    everything: bool,
    policy_file: Path | None,
    output: Path,
    logs: tuple[Path, ...],
) -> None:
    """Write an evidence bundle: whole chains with all that an auditor needs to judge them, and nothing else.

    A chain is taken whole if one of its records fits: records, receipts, observations and closing statements,
    certificates, the trust bundles of the time, revocations, refusals, and for each the proof that witnesses saw it.
    Chains that it continues come with it. Name the log of every node that took part; a folder stands for the broker's
    state or its log folder.

    \b
    Example:
      hopseal audit export --task task-1 --log /srv/node-1 --log /srv/node-2 -o task-1.evidence
      hopseal audit export --user user-4711 --since 7d --policy witnesses.policy -o week.evidence
    """
    selection = selection_of(cids, tasks, components, users, since, until)
    if everything == (selection != Selection()):
        raise click.UsageError("say which chains: --cid, --task, --component, --user, --since, --until; or --all")
    text = read_policy_text(policy_file) if policy_file is not None else b""
    policy = parse_policy(text) if text else None
    folders = open_log_folders(logs)
    sources = [folder.source(policy) for folder in folders]
    collected = collect(sources, selection, text.decode("utf-8", "replace"))
    if not collected.cids:
        raise InvalidError("chain_unknown", "no log holds such a chain", remedy="name every node's log with --log")
    write_private(output, format_evidence(collected.bundle))
    _print(output, collected)
    _print_unproven(collected, [each.origin for each in folders if not each.is_witnessed(policy)])


def write_private(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, readable by its owner only; after a crash it is whole or not there.

    Raises:
        UnavailableError: it cannot be written (``evidence_unwritable``).
    """
    unfinished: Path | None = None
    try:
        descriptor, name = mkstemp(dir=path.parent, prefix=f".{path.name}.")
        unfinished = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
        raise UnavailableError(
            "evidence_unwritable", f"{path}: {error.strerror}", remedy="name a file in a folder that can be written to"
        ) from error


def _print(output: Path, collected: Collected) -> None:
    bundle = collected.bundle
    counts = (
        format_count(len(collected.cids), "chain"),
        format_count(len(bundle.statements), "statement"),
        format_count(len(bundle.certificates), "certificate"),
        format_count(len(bundle.artifacts), "other entry"),
    )
    click.echo(f"{output}: {', '.join(counts)}".replace("entrys", "entries"))
    for origin, first in collected.begins.items():
        _warn(f"{origin} begins at entry {first}: older entries were pruned")
    if collected.unreadable:
        _warn(f"{_names(collected.unreadable)} unreadable")


def _print_unproven(collected: Collected, unwitnessed: Sequence[str]) -> None:
    """What has no proof: because no witness saw that log at all, or not these entries yet."""
    by_origin = [(each, each.rpartition("/")[0]) for each in collected.unproven]
    for origin in dict.fromkeys(origin for _, origin in by_origin if origin in unwitnessed):
        what = "has no checkpoint that enough witnesses cosigned, so nobody can prove when its entries were made"
        _warn(f"{origin} {what}: name them in broker.yaml, see docs/witness.md")
    if waiting := [each for each, origin in by_origin if origin not in unwitnessed]:
        what = "not witnessed yet, so nobody can prove when they were made"
        _warn(f"{_names(waiting)} {what}: wait for the next checkpoint and export again")


def _names(entries: Sequence[str]) -> str:
    more = len(entries) - _NAMED
    listed = ", ".join(entries[:_NAMED])
    return f"{listed} and {more} more are" if more > 0 else f"{listed} {'is' if len(entries) == 1 else 'are'}"


def _warn(text: str) -> None:
    click.secho(f"missing: {text}", fg="yellow", err=True)
