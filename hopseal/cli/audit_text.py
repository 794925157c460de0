"""An audit's report for people: one block for each hop, what is wrong and what is missing beside it.

Everything that comes out of evidence is printed without control characters: a claim may hold any text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import click

from hopseal.cli.calls_text import describe_call, describe_tunnel
from hopseal.cli.output import escape_unprintable, format_count, short_id
from hopseal.custody.authority import Authority
from hopseal.custody.closing import Closing
from hopseal.custody.outcome import Outcome
from hopseal.custody.segment import Segment
from hopseal.log.audit.codes import is_missing, message_of
from hopseal.log.audit.report import (
    AnswerAudit,
    AuditReport,
    ChainAudit,
    Citation,
    ClosingAudit,
    HopAudit,
    ReportOf,
    SegmentAudit,
    Verdict,
)
from hopseal.log.judge import Finding

_NO_DATE_FROM = 253_402_300_800  # the year 10000
_MARKS = {
    Verdict.VERIFIED: ("✓", "green"),
    Verdict.OBSERVED: ("○", "cyan"),
    Verdict.INCOMPLETE: ("?", "yellow"),
    Verdict.REFUSED: ("✗", "red"),
}


def print_report(report: ReportOf[str]) -> None:
    """The report, with what :func:`format_chain` made of each chain."""
    for chain in report.chains:
        click.echo(chain)
    for unread in report.unread:
        _echo(_finding("", f"statement {unread.position}", unread.finding))
    for problem in report.problems:
        _echo(_finding("", f"{problem.origin}, entry {problem.index}", problem.finding))
    _echo(_missing("", report.missing))
    logs = ", ".join(report.logs) or "no log"
    counts = f"{format_count(len(report.chains), 'chain')}, {format_count(report.statements, 'statement')}"
    click.echo(f"{paint(report.verdict)}: {counts}, proven to be in {escape_unprintable(logs)}")


def print_tree(report: AuditReport) -> None:
    """What the chains claim, without a word about what holds."""
    for chain in report.chains:
        click.echo(f"chain {click.style(chain.cid, bold=True)}")
        by_hash = {hop.sealed.hash: hop for hop in chain.hops()}
        for hop, lead, indent in _lines(chain.roots, ""):
            record = hop.sealed.record
            status = ", ".join(str(each.outcome.st) for each in hop.answers) or "no answer"
            parties = f"{short_id(str(record.iss))} → {short_id(record.aud)}"
            custody = "  no custody" if hop.is_observed else ""
            operation = click.style(escape_unprintable(record.op or "?"), bold=True)
            click.echo(f"{lead}{parties}  {operation}  {status}{custody}")
            for source in dict.fromkeys(_answerer(cited, by_hash) for cited in hop.based_on):
                click.echo(f"{indent}based on {source}")
    click.secho("not judged: give --policy to verify", dim=True)


def format_chain(chain: ChainAudit, *, brief: bool) -> str:
    """One chain as a tree; ``brief`` leaves out what holds below the tree's lines."""
    return "\n".join(_chain(chain, brief=brief))


def _chain(chain: ChainAudit, *, brief: bool) -> Iterator[str]:
    yield f"chain {click.style(chain.cid, bold=True)}  {paint(chain.verdict)}{_counts(chain)}"
    for call in chain.led_by:
        if call.phase == "begin":
            yield escape_unprintable(f"after a call without custody: {describe_call(call)}")
    by_hash = {hop.sealed.hash: hop for hop in chain.hops()}
    for hop, lead, indent in _lines(chain.roots, ""):
        yield from _hop(hop, lead, indent, None if brief else by_hash)
    for each in chain.loose:
        yield f"{mark(each.verdict)} {each.kind} {each.hash} belongs to no record here"
        yield from _finding("  ", "", each.finding)
        yield from _missing("  ", each.missing)
    for refusal in chain.refusals:
        claimed = f"{short_id(refusal.unverified_iss)} → {short_id(refusal.unverified_aud)}"
        text = f"refused by {refusal.origin}: {refusal.code} ({claimed}) {refusal.detail}"
        yield click.style(escape_unprintable(text), fg="yellow")


def _hop(hop: HopAudit, lead: str, indent: str, by_hash: Mapping[str, HopAudit] | None) -> Iterator[str]:
    """A hop's line and those below it; without ``by_hash`` only what is wrong or missing, and the answers."""
    record = hop.sealed.record
    parties = f"{short_id(str(record.iss))} → {short_id(record.aud)}"
    custody = click.style("  no custody", fg="cyan") if hop.is_observed else ""
    operation = click.style(escape_unprintable(record.op or "?"), bold=True)
    yield f"{lead}{mark(hop.verdict)} {parties}  {operation}{custody}"
    yield from _finding(indent, "", hop.finding)
    yield from _missing(indent, hop.missing)
    for line in () if by_hash is None else _facts(hop, by_hash):
        yield f"{indent}{line}"
    for closing in hop.closings:
        yield from _part(indent, closing, f"streamed {_body(closing.claims, brief=by_hash is None)}")
    for segment in hop.segments:
        if by_hash is not None or segment.verdict is not Verdict.VERIFIED:
            yield from _part(indent, segment, _segment(segment.claims))
    for answer in hop.answers:
        name = "receipt" if answer.kind == "rcp" else "observed"
        body = _body(answer.outcome, brief=by_hash is None)
        yield from _part(indent, answer, f"{name:<8} {answer.outcome.st}, {body}")
        if answer.host is not None:
            said = f"by {short_id(str(answer.outcome.iss))} alone: from {answer.host}, key {answer.spki}"
            yield escape_unprintable(f"{indent}  {said}")
    if hop.tunnel is not None:
        yield escape_unprintable(f"{indent}{describe_tunnel(hop.tunnel)}")


def _counts(chain: ChainAudit) -> str:
    """How many hops have custody, where some have not."""
    hops = list(chain.hops())
    without = sum(hop.is_observed for hop in hops)
    verified = sum(hop.verdict is Verdict.VERIFIED for hop in hops)
    return f"  ({format_count(verified, 'hop')} verified, {without} without custody)" if without else ""


def paint(verdict: Verdict) -> str:
    """The verdict in its colour."""
    return click.style(str(verdict), fg=_MARKS[verdict][1], bold=True)


def mark(verdict: Verdict) -> str:
    """One character for a verdict."""
    sign, colour = _MARKS[verdict]
    return click.style(sign, fg=colour)


def moment(at: int | None) -> str:
    """A time in UTC: an auditor's report reads the same everywhere; a claim can also be of no year that has a date."""
    if at is None:
        return "?"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at < _NO_DATE_FROM else f"second {at}"


def describe_authority(authority: Authority | None) -> str:
    """An authority in one line."""
    if authority is None:
        return "?"
    limits = [f"until {moment(authority.exp)}", f"hops {authority.hops}"]
    if authority.scope is not None:
        limits.append(f"scope {' '.join(sorted(authority.scope)) or 'none'}")
    limits += [
        f"{name} {' '.join(values)}" for name, values in (("to", authority.aud), ("ops", authority.ops)) if values
    ]
    return escape_unprintable(", ".join(limits))


def _facts(hop: HopAudit, by_hash: Mapping[str, HopAudit]) -> Iterator[str]:
    record = hop.sealed.record
    if record.obo is not None:
        token = "the token's claims match" if hop.token else "the token's claims are not here"
        yield escape_unprintable(f"for      {record.obo.sub}, by {record.obo.iss} ({token})")
    elif record.hop == 0:
        yield "for      nobody: a component's own task"
    if record.task is not None:
        purpose = f", {record.task.purpose}" if record.task.purpose else ""
        yield escape_unprintable(f"task     {record.task.id}{purpose}")
    for approval in record.apv or ():
        yield escape_unprintable(f"approved {approval.typ} {approval.id} by {approval.by} at {moment(approval.at)}")
    before, after = describe_authority(hop.authority_before), describe_authority(hop.authority_after)
    yield f"may      {before}"
    if after != before:
        yield f"  then   {after}"
    yield f"proven   {moment(record.iat)} to {moment(hop.at)}, logged {_times(len(hop.entries))}"
    if hop.evidence is not None:
        yield f"attested by {short_id(str(hop.evidence.iss))} at {moment(hop.evidence.iat)}"
    if record.cont is not None:
        yield f"continues {record.cont.cid} ({record.cont.why})"
    for source in dict.fromkeys(_answerer(cited, by_hash) for cited in hop.based_on):
        yield f"based on {source}"


def _answerer(cited: Citation, by_hash: Mapping[str, HopAudit]) -> str:
    source = by_hash.get(cited.record or "")
    return (
        f"the answer of {short_id(source.sealed.record.aud)}" if source else f"an answer that is not here, {cited.hash}"
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _body(body: Closing | Outcome, *, brief: bool) -> str:
    return f"{body.length} bytes, {body.fin}" + ("" if brief else f", digest {body.cd}")


def _segment(said: Segment) -> str:
    counts = [
        f"{way.messages or 0} messages ({way.length} bytes) {name}"
        for way, name in ((said.up, "up"), (said.down, "down"))
    ]
    return f"segment {said.seq} by {short_id(str(said.iss))}: {', '.join(counts)}"


def _part(indent: str, part: AnswerAudit | ClosingAudit | SegmentAudit, text: str) -> Iterator[str]:
    yield f"{indent}{mark(part.verdict)} {text}"
    yield from _finding(f"{indent}  ", "", part.finding)
    yield from _missing(f"{indent}  ", part.missing)


def _finding(indent: str, subject: str, finding: Finding | None) -> Iterator[str]:
    if finding is None or is_missing(finding.code):
        return
    said = message_of(finding.code)
    parts = [f"{subject}: " if subject else "", f"step {finding.step}: {finding.code}", f": {said}" if said else ""]
    detail = f" ({finding.detail})" if finding.detail and finding.detail != said else ""
    yield click.style(escape_unprintable(f"{indent}{''.join(parts)}{detail}"), fg="red")


def _missing(indent: str, missing: Sequence[str]) -> Iterator[str]:
    for what in missing:
        yield click.style(escape_unprintable(f"{indent}missing: {what}"), fg="yellow")


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _lines(hops: Sequence[HopAudit], indent: str) -> Iterator[tuple[HopAudit, str, str]]:
    """Each hop with what stands before its line, and before the lines below it."""
    for hop in hops:
        is_last = hop is hops[-1]
        below = indent + ("   " if is_last else "│  ")
        yield hop, indent + ("└─ " if is_last else "├─ "), below + ("│  " if hop.children else "   ")
        yield from _lines(hop.children, below)
