"""What a bundle holds beside statements: trust bundles, revocations, user tokens, refusals, announcements of log keys.

Owns: reading them, and that each is proven to be the log's entry that it says. Does not own: what follows from them.
Source: custody-wire §10, §11.2, §11.4 and §11.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopseal.custody.encoding import parse_token_object
from hopseal.custody.errors import malformed
from hopseal.custody.members import Members, read_integer, read_text
from hopseal.errors import HopsealError
from hopseal.limits import MAX_LINE_JSON_DEPTH
from hopseal.log.audit.codes import AuditCode, audit_refusal
from hopseal.log.audit.statements import ReadStatement, read_statement
from hopseal.log.audit.steps import Revocation
from hopseal.log.audit.trust import LoggedBundle
from hopseal.log.audit.witnessed import Proofs, WitnessedEntry, Witnesses, key_of
from hopseal.log.bundle import Artifact, LoggedStatement, Seen
from hopseal.log.entries import BundleEntry, CallEntry, Direction, RecordEntry, StatementEntry, TokenEntry, parse_entry
from hopseal.log.judge import Finding
from hopseal.log.leaf import REFUSED, numbered_leaf_of_line

_MS = 1_000
INCLUSION_STEP = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that a broker refused; its claims are unverified.

    Args:
        origin: of the log that says so.
        index: of its entry.
        at: NumericDate seconds, by the broker's clock.
        code: why.
        detail: for the operator.
        unverified_iss, unverified_aud, unverified_cid, unverified_jti: as the broker read them.
    """

    origin: str
    index: int
    at: int
    code: str
    detail: str
    unverified_iss: str | None
    unverified_aud: str | None
    unverified_cid: str | None
    unverified_jti: str | None


@dataclass(frozen=True, slots=True)
class ArtifactProblem:
    """An artifact that does not hold."""

    origin: str
    index: int
    finding: Finding


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What the artifacts of a bundle say.

    Args:
        bundles: trust bundles that are proven to be logged.
        tokens: user tokens by their hash.
        refusals: messages that were refused.
        calls: lines about calls that no record tells of.
        announced: evidence statements by brokers about the key of their log.
        revoking: evidence statements that withdraw an identity.
        revocations: those by a log's operator.
        problems: what does not hold.
        missing: entries without a proof.
        entries: where they are proven to stand, by the key of their leaf.
    """

    bundles: list[LoggedBundle] = field(default_factory=list)
    tokens: dict[str, TokenEntry] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    calls: list[CallEntry] = field(default_factory=list)
    announced: list[ReadStatement] = field(default_factory=list)
    revoking: list[ReadStatement] = field(default_factory=list)
    revocations: list[Revocation] = field(default_factory=list)
    problems: list[ArtifactProblem] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    entries: list[tuple[str, WitnessedEntry]] = field(default_factory=list)


def read_artifacts(artifacts: Iterable[Artifact], proofs: Proofs, witnesses: Witnesses) -> Artifacts:
    """Everything that ``artifacts`` say and prove; never raises."""
    found = Artifacts()
    for each in artifacts:
        try:
            _read(each, found, proofs, witnesses)
        except HopsealError as error:
            finding = Finding(INCLUSION_STEP, error.code, error.detail or error.message)
            found.problems.append(ArtifactProblem(each.origin, each.index, finding))
    return found


def _read(artifact: Artifact, found: Artifacts, proofs: Proofs, witnesses: Witnesses) -> None:
    text = artifact.json.encode()
    n, leaf = numbered_leaf_of_line(text)
    if n != artifact.index:
        raise audit_refusal(AuditCode.ARTIFACT, f"entry {n} is said to be entry {artifact.index}")
    entries = list(witnesses.verify_all(proofs, key_of(leaf), leaf))
    found.entries.extend((key_of(leaf), each) for each in entries)
    place = next((each for each in entries if (each.origin, each.index) == (artifact.origin, artifact.index)), None)
    if place is None:
        found.missing.append(f"proof:{artifact.origin}/{artifact.index}")
    kind = key_of(leaf).partition(".")[0]
    readers = {
        "bundle": _read_bundle,
        "token": _read_token,
        "attest": _read_attest,
        "revoke": _read_revoke,
        "call": _read_call,
    }
    if kind == REFUSED:
        found.refusals.append(_read_refusal(artifact, text))
    elif kind in readers:
        readers[kind](artifact, text, leaf, place, found)


def _read_bundle(artifact: Artifact, text: bytes, _leaf: bytes, place: WitnessedEntry | None, found: Artifacts) -> None:
    entry = parse_entry(text)
    if isinstance(entry, BundleEntry) and place is not None and place.at is not None:
        found.bundles.append(LoggedBundle(artifact.origin, artifact.index, place.at, entry.bundle))


def _read_token(_artifact: Artifact, text: bytes, _leaf: bytes, place: WitnessedEntry | None, found: Artifacts) -> None:
    entry = parse_entry(text)
    if isinstance(entry, TokenEntry) and place is not None:
        known = found.tokens.setdefault(entry.th, entry)
        if known.claims != entry.claims:
            raise audit_refusal(AuditCode.ARTIFACT, f"another entry says something else of the token {entry.th}")


def _read_call(_artifact: Artifact, text: bytes, _leaf: bytes, place: WitnessedEntry | None, found: Artifacts) -> None:
    entry = parse_entry(text)
    if isinstance(entry, CallEntry) and place is not None:
        found.calls.append(entry)


def _read_attest(artifact: Artifact, text: bytes, leaf: bytes, _place: WitnessedEntry | None, found: Artifacts) -> None:
    found.announced.append(_statement(artifact, _members(text), leaf))


def _read_revoke(artifact: Artifact, text: bytes, leaf: bytes, _place: WitnessedEntry | None, found: Artifacts) -> None:
    """One without a proof counts too: it takes trust away, and whoever leaves it out can do without one."""
    members = _members(text)
    if "sealed" in members.values:
        found.revoking.append(_statement(artifact, members, leaf))
        return
    x5t, spiffe_id = _nullable(members, "x5t"), _nullable(members, "id")
    if x5t is None and spiffe_id is None:
        raise malformed("a revocation names neither a leaf nor an identity")
    found.revocations.append(
        Revocation(members.required("since", read_integer), x5t, spiffe_id, members.required("why", read_text))
    )


def _statement(artifact: Artifact, members: Members, leaf: bytes) -> ReadStatement:
    seen = (Seen(artifact.origin, artifact.index, Direction.SENT),)
    statement = read_statement(LoggedStatement(members.required("sealed", read_text), seen), leaf)
    if statement.evidence is None:
        raise malformed("an evidence statement is expected here")
    return statement


def _read_refusal(artifact: Artifact, text: bytes) -> Refusal:
    entry = parse_entry(text)
    if not isinstance(entry, RecordEntry | StatementEntry):
        raise malformed("only statements are refused")
    return Refusal(
        artifact.origin,
        artifact.index,
        entry.at_ms // _MS,
        entry.code or "",
        entry.detail or "",
        entry.iss,
        entry.aud,
        entry.cid,
        entry.jti if isinstance(entry, RecordEntry) else None,
    )


def _members(text: bytes) -> Members:
    return Members(parse_token_object(text, max_depth=MAX_LINE_JSON_DEPTH), "entry")


def _nullable(members: Members, name: str) -> str | None:
    return None if members.values.get(name) is None else members.required(name, read_text)
