"""``hopseal chain``: custody chains, verified offline and printed as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hopseal.cli.calls_text import call_json, describe_call, describe_tunnel
from hopseal.cli.chain_sources import read_bundle, read_headers, read_logs
from hopseal.cli.lazy import EXIT_NO, LazyGroup
from hopseal.cli.options import log_option, trust_domain_option
from hopseal.cli.output import escape_unprintable, json_option, paint_state, print_json, short_id
from hopseal.errors import InvalidError
from hopseal.ids import TrustDomain
from hopseal.log.answers import AnswerReport
from hopseal.log.chain_evidence import Rejected
from hopseal.log.entries import BundleEntry, Direction, LogEntry, RecordEntry
from hopseal.log.offline import ChainReport, HopReport, verify_chain_offline
from hopseal.log.reader import find_chains


@click.group(cls=LazyGroup)
def chain() -> None:
    """Custody chains: who did what, for which task, through which hops.

    \b
    Example:
      hopseal chain show --last
    """


@chain.command()
@click.option("--last", is_flag=True, help="The chain that was used last.")
@click.option("--cid", help="The chain of this ID.")
@click.option("--jti", help="The chain that holds the record of this ID.")
@click.option("--task", help="The chains of this task.")
@click.option(
    "--headers",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The chain in a file of HTTP header lines (Custody-Record, -Chain, -Certs); - for standard input.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="PEM file with the trust domain's authorities.")
@trust_domain_option
@log_option
@json_option
@click.pass_context
def show(
    context: click.Context,
    /,
    *,
    last: bool,
    cid: str | None,
    jti: str | None,
    task: str | None,
    headers: Path | None,
    bundle: Path | None,
    trust_domain: str,
    logs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Print a custody chain as a tree: each hop verified or not, and why.

    Everything is verified again from the log alone: signatures, certificates against the bundle of that time,
    the links between records, and the authority that each hop was left. Exits 1 if anything does not hold.

    \b
    Example:
      hopseal chain show --last
      hopseal chain show --cid 0123456789abcdefghijkl --log ./node-1 --log ./node-2 --json
    """
    if sum(map(bool, (last, cid, jti, task, headers))) != 1:
        raise click.UsageError("say which chain: one of --last, --cid, --jti, --task, --headers")
    found = read_logs(logs, optional=headers is not None)
    entries = [entry for log in found for entry in log.entries]
    if bundle is not None:
        entries.append(BundleEntry(0, 0, read_bundle(bundle, TrustDomain.parse(trust_domain))))
    if headers is not None:
        from_headers = read_headers(headers)
        entries += from_headers
        cid = next(each.cid for each in from_headers if isinstance(each, RecordEntry))
    chosen = _find_last(entries) if last else find_chains(entries, cid=cid, jti=jti, task=task)
    if not chosen:
        raise _no_chain(is_empty=last)
    reports = [verify_chain_offline(entries, each) for each in chosen]
    damage = [f"{log.path / each.file}: byte {each.offset}: {each.message}" for log in found for each in log.damage]
    _show(reports, damage, as_json=as_json)
    if damage or not all(report.verified for report in reports):
        context.exit(EXIT_NO)


def _show(reports: Sequence[ChainReport], damage: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json([_as_json(report, damage) for report in reports])
        return
    for report in reports:
        _print(report, damage)


def _no_chain(*, is_empty: bool) -> InvalidError:
    if is_empty:
        return InvalidError(
            "chain_none", "the log holds no chain yet", remedy="make a call, for example with `hopseal call`"
        )
    return InvalidError("chain_unknown", "no log holds that chain", remedy="name every node's log with --log")


def _find_last(entries: Sequence[LogEntry]) -> tuple[str, ...]:
    """The chain with the newest accepted record; empty if there is none."""
    records = [each for each in entries if isinstance(each, RecordEntry) and each.accepted and each.cid]
    newest = max(records, key=lambda each: each.at_ms, default=None)
    return (newest.cid,) if newest is not None and newest.cid else ()


def _as_json(report: ChainReport, damage: list[str]) -> dict[str, Any]:
    return {
        "cid": report.cid,
        "verified": report.verified,
        "damage": damage,
        "hops": [_hop_json(hop) for hop in report.roots],
        "rejected": [_rejected_json(each) for each in report.rejected],
        "contradictions": [_rejected_json(each) for each in report.contradictions],
        "without_custody": [call_json(each) for each in report.calls],
    }


def _hop_json(hop: HopReport) -> dict[str, Any]:
    record = hop.record
    return {
        "hash": hop.hash,
        "caller": str(record.iss),
        "callee": record.aud,
        "operation": record.op,
        "hop": record.hop,
        "jti": record.jti,
        "task": record.task.id if record.task else None,
        "issued_at": record.iat,
        "expires_at": record.exp,
        "verified": hop.verified,
        "custody": "full" if hop.has_custody else "none",
        "code": hop.code,
        "detail": hop.detail,
        "args_hash": _args_hash(hop),
        "seen": [{"node": each.node, "direction": str(each.direction), "at_ms": each.at_ms} for each in hop.sightings],
        "answers": [_answer_json(each) for each in hop.answers],
        "based_on": list(record.based_on or ()),
        "children": [_hop_json(child) for child in hop.children],
    }


def _answer_json(each: AnswerReport) -> dict[str, Any]:
    outcome = each.outcome
    return {
        "hash": each.hash,
        "status": outcome.st if outcome else None,
        "end": str(outcome.fin) if outcome else None,
        "bytes": outcome.length if outcome else None,
        "type": "rcp" if each.host is None else "obs",
        "host": each.host,
        "key": each.spki,
        "verified": each.verified,
        "refused": each.refused,
        "code": each.code,
        "detail": each.detail,
    }


def _rejected_json(each: Rejected) -> dict[str, Any]:
    return {
        "node": each.node,
        "direction": str(each.direction),
        "at_ms": each.at_ms,
        "code": each.code,
        "detail": each.detail,
        "unverified_caller": each.unverified_iss,
        "unverified_callee": each.unverified_aud,
        "unverified_jti": each.unverified_jti,
    }


def _print(report: ChainReport, damage: list[str]) -> None:
    first = report.roots[0].record if report.roots else None
    click.echo(f"chain {click.style(report.cid, bold=True)}  {paint_state(_verdict(verified=report.verified))}")
    if first is not None:
        begun = datetime.fromtimestamp(first.iat, UTC).astimezone().isoformat(" ", "seconds")
        task = escape_unprintable(first.task.id) if first.task else "?"
        click.echo(f"task {task}, begun by {short_id(str(first.iss))} at {begun}")
    for call in report.calls:
        if call.kind == "caller" and call.phase == "begin":
            click.echo(f"after a call without custody: {escape_unprintable(describe_call(call))}")
    tunnels = {each.rec: each for each in report.calls if each.kind == "tunnel"}
    answered = dict(_answered(report.roots))
    for hop, lead, below in _lines(report.roots, ""):
        click.echo(f"{lead}{_mark(hop)} {_call(hop)}")
        for line in _facts(hop, answered):
            click.echo(f"{below}{line}")
        if tunnel := tunnels.get(hop.hash):
            click.echo(below + escape_unprintable(describe_tunnel(tunnel)))
    for each in report.rejected:
        claimed = f"{short_id(each.unverified_iss)} → {short_id(each.unverified_aud)}"
        text = f"refused on {each.node}: {each.code} ({claimed}) {each.detail}"
        click.secho(escape_unprintable(text), fg="yellow")
    for each in report.contradictions:
        click.secho(escape_unprintable(f"the log contradicts itself on {each.node}: {each.detail}"), fg="red")
    for line in damage:
        click.secho(escape_unprintable(f"the log is damaged: {line}"), fg="red")


def _mark(hop: HopReport) -> str:
    if hop.verified:
        return click.style("✓", fg="green")
    return click.style("○", fg="cyan") if hop.holds else click.style("✗", fg="red")


def _facts(hop: HopReport, answered: Mapping[str, str]) -> Iterator[str]:
    """What stands below a hop's line."""
    if args_hash := _args_hash(hop):
        yield f"arguments {args_hash}"
    if hop.code:
        yield click.style(escape_unprintable(f"{hop.code}: {hop.detail}"), fg="red")
    if based_on := hop.record.based_on:
        named = dict.fromkeys(short_id(answered.get(receipt)) for receipt in based_on)
        what = "the answer" if len(based_on) == 1 else f"{len(based_on)} answers"
        yield f"based on {what} of {', '.join(named)}"
    yield from map(_answer, hop.answers)


def _args_hash(hop: HopReport) -> str | None:
    """Hash of the arguments of a tool call; None of other calls, and where the logs tell of different ones."""
    hashes = {each.args_hash for each in hop.sightings} - {None}
    return hashes.pop() if len(hashes) == 1 else None


def _answer(each: AnswerReport) -> str:
    """How a call ended, in one line."""
    if each.refused is not None:
        return click.style(escape_unprintable(f"✗ answer refused: {each.refused}: {each.detail}"), fg="yellow")
    if each.code is not None:
        return click.style(escape_unprintable(f"✗ receipt: {each.code}: {each.detail}"), fg="red")
    said = f"{each.outcome.st}, {each.outcome.length} bytes, {each.outcome.fin}" if each.outcome else "?"
    if each.host is not None:
        text = f"observed by the caller alone: {said}, from {each.host}, key {each.spki}"
        return f"{click.style('○', fg='cyan')} {escape_unprintable(text)}"
    return f"{click.style('✓', fg='green')} receipt: {said}"


def _answered(hops: Sequence[HopReport]) -> Iterator[tuple[str, str]]:
    """Who gave each receipt."""
    for hop in hops:
        for each in hop.answers:
            yield each.hash, hop.record.aud
        yield from _answered(hop.children)


def _lines(hops: Sequence[HopReport], indent: str) -> Iterator[tuple[HopReport, str, str]]:
    """Each hop by time, with what stands before its line, and before the lines below it."""
    ordered = sorted(hops, key=_moment)
    for hop in ordered:
        is_last = hop is ordered[-1]
        below = indent + ("   " if is_last else "│  ")
        yield hop, indent + ("└─ " if is_last else "├─ "), below + ("│ " if hop.children else "  ")
        yield from _lines(hop.children, below)


def _call(hop: HopReport) -> str:
    """Who called whom, in one line."""
    record = hop.record
    parties = f"{short_id(str(record.iss))} → {short_id(record.aud)}"
    operation = click.style(escape_unprintable(record.op or "?"), bold=True)
    where = _where(hop) if hop.has_custody else "  (no custody)"
    return f"{parties}  {operation}  hop {record.hop}{escape_unprintable(where)}"


def _moment(hop: HopReport) -> tuple[float, int]:
    """When a log first held the record; a record that is only known as an ancestor has its own time, in seconds."""
    return min((each.at_ms for each in hop.sightings), default=hop.record.iat * 1000), hop.record.iat


def _where(hop: HopReport) -> str:
    """The nodes, if they are two; or which side's log is missing, if one is."""
    nodes = {str(each.direction): each.node for each in hop.sightings}
    if len(nodes) < len(Direction):
        return f"  ({', '.join(f'only {side}, on {node}' for side, node in nodes.items()) or 'in no log'})"
    sent, received = nodes[Direction.SENT], nodes[Direction.RECEIVED]
    return f"  ({sent} ⇒ {received})" if sent != received else ""


def _verdict(*, verified: bool) -> str:
    return "verified" if verified else "not verified"
