"""``hopseal audit show``: chains as a tree or a data-flow graph."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import click

from hopseal.cli.audit_inputs import judging_options, load_policy, load_trust, read_evidence
from hopseal.cli.audit_json import report_json
from hopseal.cli.audit_text import format_chain, print_report, print_tree
from hopseal.cli.log_folders import open_log_folders
from hopseal.cli.options import log_option
from hopseal.cli.output import print_json
from hopseal.cli.selecting import selecting_options, selection_of
from hopseal.errors import InvalidError
from hopseal.log.audit.graph import build_graph, format_dot, format_mermaid
from hopseal.log.audit.report import AuditReport
from hopseal.log.audit.run import audit_bundle
from hopseal.log.bundle import EvidenceBundle
from hopseal.log.collect import collect
from hopseal.log.policy import Policy
from hopseal.log.selection import Selection

_FORMATS = ("tree", "json", "dot", "mermaid")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@selecting_options
@judging_options
@click.option("--format", "form", type=click.Choice(_FORMATS), default="tree", show_default=True, help="How.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@log_option
def show(
    *,
    bundle: Path | None,
    cids: tuple[str, ...],
    tasks: tuple[str, ...],
    components: tuple[str, ...],
    users: tuple[str, ...],
    since: int | None,
    until: int | None,
    policy_file: Path | None,
    witness_keys: tuple[str, ...],
    trust_file: Path | None,
    now: int | None,
    form: str,
    as_json: bool,
    logs: tuple[Path, ...],
) -> None:
    """Show the chains of an evidence BUNDLE, or without one those in logs, as a tree or a graph.

    The graph has an arrow for each call, and a dashed one from each answer to the calls that say they are based on it.
    Without a policy nothing is judged: the picture then shows what is claimed.

    \b
    Example:
      hopseal audit show task-1.evidence --policy witnesses.policy
      hopseal audit show --task task-1 --log ./node-1 --log ./node-2 --format mermaid
      hopseal audit show task-1.evidence --format dot | dot -Tsvg > task-1.svg
    """
    evidence = read_evidence(bundle) if bundle is not None else None
    if evidence is None:
        selection = selection_of(cids, tasks, components, users, since, until)
        evidence = _from_logs(selection, logs)
    is_judged = policy_file is not None or bool(witness_keys)
    policy = load_policy(policy_file, witness_keys, evidence) if is_judged else Policy(())
    report = audit_bundle(evidence, policy, load_trust(trust_file), int(time.time()) if now is None else now)
    _print(report, "json" if as_json else form, judged=is_judged)


def _from_logs(selection: Selection, logs: tuple[Path, ...]) -> EvidenceBundle:
    collected = collect([folder.source(None) for folder in open_log_folders(logs)], selection)
    if not collected.cids:
        raise InvalidError("chain_unknown", "no log holds such a chain", remedy="name every node's log with --log")
    return collected.bundle


def _print(report: AuditReport, form: str, *, judged: bool) -> None:
    if form == "json":
        print_json(report_json(report) | {"judged": judged})
    elif form == "dot":
        click.echo(format_dot(build_graph(report, judged=judged)), nl=False)
    elif form == "mermaid":
        click.echo(format_mermaid(build_graph(report, judged=judged)), nl=False)
    elif judged:
        print_report(report.render(partial(format_chain, brief=True)))
    else:
        print_tree(report)
