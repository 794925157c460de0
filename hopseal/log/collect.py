"""Making an evidence bundle out of logs: every statement of the chosen chains and what it takes to judge them.

Owns: which entries belong, and naming what is not there. Does not own: files, tiles and proofs, which a
:class:`SourceLog` brings; judging. Nothing that it reads is trusted: a wrong entry makes a bundle that does not verify.
Several passes, first to find the chains and then to take their entries, so that no log is held in memory.
Source: custody-wire §10 "Evidence bundle".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from hopseal.custody.encoding import parse_token_object
from hopseal.custody.errors import CustodyError
from hopseal.custody.evidence_statement import EvidenceStatement
from hopseal.custody.record import Record
from hopseal.custody.statement import parse_sealed_statement
from hopseal.errors import HopsealError
from hopseal.ids import TrustDomain
from hopseal.limits import MAX_LINE_JSON_DEPTH
from hopseal.log.audit.witnessed import key_of
from hopseal.log.bundle import Artifact, EvidenceBundle, LoggedStatement, LogKey, Seen, merge_statements
from hopseal.log.entries import (
    ArtifactEntry,
    BundleEntry,
    CallEntry,
    CertificateEntry,
    Direction,
    LogEntry,
    RecordEntry,
    StatementEntry,
    TokenEntry,
    parse_entry,
)
from hopseal.log.leaf import leaf_of_line
from hopseal.log.reader import records_of
from hopseal.log.selection import ChainNotes, Selection
from hopseal.verify import SvidError, parse_certificate

_MS = 1_000
_AFTER_S = 600  # bundles that came so long after the last record are taken too
Line = tuple[int, bytes]  # number, JSON text


@dataclass(frozen=True, slots=True)
class SourceLog:
    """One node's log.

    Args:
        origin: of its checkpoints.
        vkey: its key, as far as it is known; else empty.
        lines: reads every line anew, in order.
        prove: the tlog-proof text of an entry against the first cosigned checkpoint with it, or None.
    """

    origin: str
    vkey: str
    lines: Callable[[], Iterable[Line]]
    prove: Callable[[int], str | None]


@dataclass(frozen=True, slots=True)
class Collected:
    """A bundle, and what it lacks.

    Args:
        bundle: to be written.
        cids: the chains in it, oldest first.
        unproven: entries that no cosigned checkpoint covers yet, as ``origin/index``.
        begins: by origin, the first entry that is still there, where older ones are pruned.
        unreadable: lines that are no entries, as ``origin/index``.
    """

    bundle: EvidenceBundle
    cids: tuple[str, ...]
    unproven: tuple[str, ...]
    begins: dict[str, int]
    unreadable: tuple[str, ...]


def collect(logs: Sequence[SourceLog], selection: Selection, policy: str = "") -> Collected:
    """The bundle of every chain that fits ``selection``, each whole, with the chains that it continues."""
    draft = _Draft()
    for log in logs:
        draft.find(log, selection)
    draft.choose(selection)
    for log in logs:
        draft.take(log)
    for log in logs:
        draft.take_around(log)
    for log in logs:
        draft.take_certificates(log)
    bundle = EvidenceBundle(
        tuple(merge_statements(draft.statements)),
        tuple(draft.ders),
        tuple(draft.artifacts),
        {key: tuple(sorted(texts)) for key, texts in draft.proofs.items()},
        policy,
        tuple(LogKey(log.origin, log.vkey) for log in logs if log.vkey),
    )
    cids = tuple(cid for cid in draft.chains if cid in draft.cids)
    return Collected(bundle, cids, tuple(draft.unproven), draft.begins, tuple(draft.unreadable))


@dataclass(slots=True)
class _Draft:
    """A bundle in the making.

    Args:
        chains: every chain seen, with the chains that it continues.
        cids: those to take.
    """

    chains: dict[str, set[str]] = field(default_factory=dict)
    cids: set[str] = field(default_factory=set)
    statements: list[LoggedStatement] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    ders: dict[bytes, None] = field(default_factory=dict)
    proofs: dict[str, set[str]] = field(default_factory=dict)
    unproven: list[str] = field(default_factory=list)
    begins: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    notes: ChainNotes = field(default_factory=ChainNotes)
    records: set[str] = field(default_factory=set)
    leaves: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    domains: set[TrustDomain] = field(default_factory=set)
    first: int | None = None
    last: int = 0

    def find(self, log: SourceLog, selection: Selection) -> None:
        """First pass: which chains fit, and which continue which."""
        for position, (n, text) in enumerate(log.lines()):
            if position == 0 and n > 0:
                self.begins[log.origin] = n
            entry = _parse(text)
            if not isinstance(entry, RecordEntry) or not entry.accepted:
                continue
            records = list(records_of(entry))
            if not records:
                continue
            continued = self.chains.setdefault(records[-1].cid, set())
            continued.update(each.cont.cid for each in records if each.cont is not None)
            self.notes.add(records)
            if selection.fits_record(records[-1]):
                self.cids.add(records[-1].cid)

    def choose(self, selection: Selection) -> None:
        """Keep the chains whose roots fit, and take what the chosen chains continue, as far back as logs go."""
        self.cids = {cid for cid in self.cids if selection.fits_chain(*self.notes.get(cid))}
        waiting = list(self.cids)
        while waiting:
            for cid in self.chains.get(waiting.pop(), set()) - self.cids:
                self.cids.add(cid)
                waiting.append(cid)

    def take(self, log: SourceLog) -> None:
        """Second pass: statements and refusals of the chosen chains."""
        for n, text in log.lines():
            entry = _parse(text)
            if entry is None:
                self.unreadable.append(f"{log.origin}/{n}")
            elif isinstance(entry, CallEntry):
                if entry.cid in self.cids:
                    self._take_artifact(log, n, text)
            elif isinstance(entry, RecordEntry | StatementEntry) and self._belongs(entry):
                if entry.accepted and entry.sealed is not None:
                    self._take_statement(log, n, text, entry)
                else:
                    self._take_artifact(log, n, text)

    def _belongs(self, entry: RecordEntry | StatementEntry) -> bool:
        """Whether an entry is of a chosen chain; an answer to one of its records is, whatever chain it names."""
        return entry.cid in self.cids or (isinstance(entry, StatementEntry) and entry.rec in self.records)

    def take_around(self, log: SourceLog) -> None:
        """Third pass: trust bundles in force, revocations, tokens, evidence, keys of logs."""
        bundles: dict[TrustDomain, list[tuple[int, int, bytes]]] = {}
        announced: list[tuple[int, int, bytes]] = []
        for n, text in log.lines():
            entry = _parse(text)
            if isinstance(entry, BundleEntry) and entry.bundle.trust_domain in self.domains:
                bundles.setdefault(entry.bundle.trust_domain, []).append((entry.at_ms // _MS, n, text))
            elif isinstance(entry, TokenEntry):
                if entry.th in self.tokens:
                    self._take_artifact(log, n, text)
            elif isinstance(entry, ArtifactEntry):
                self._take_other(log, n, text, announced)
        for history in (*bundles.values(), announced):
            for _, n, text in self._in_force(history):
                self._take_artifact(log, n, text)

    def take_certificates(self, log: SourceLog) -> None:
        """Last pass: the leaves that sealed what was taken, and issuers, which no seal names."""
        for _, text in log.lines():
            entry = _parse(text)
            if isinstance(entry, CertificateEntry) and (entry.x5t in self.leaves or _is_issuer(entry.der)):
                self.ders[entry.der] = None

    def _take_statement(self, log: SourceLog, n: int, text: bytes, entry: RecordEntry | StatementEntry) -> None:
        sealed = str(entry.sealed)
        ancestors = entry.ancestors if isinstance(entry, RecordEntry) else ()
        self.statements += [LoggedStatement(each, ()) for each in ancestors]
        self.statements.append(LoggedStatement(sealed, (Seen(log.origin, n, entry.direction),)))
        for each in (*ancestors, sealed):
            self._note(each)
        self._prove(log, n, text)

    def _note(self, sealed: str) -> None:
        """Remember what it takes to judge a statement."""
        try:
            statement = parse_sealed_statement(sealed)
        except CustodyError:
            return
        claims = statement.claims
        self.records.add(statement.hash)
        self.leaves.add(statement.statement.seal.x5t)
        self.domains.add(claims.iss.trust_domain)
        iat = claims.iat if isinstance(claims, Record | EvidenceStatement) else None
        if iat is not None:
            self.first = iat if self.first is None else min(self.first, iat)
            self.last = max(self.last, iat)
        if isinstance(claims, Record) and claims.obo is not None:
            self.tokens.add(claims.obo.th)

    def _take_other(self, log: SourceLog, n: int, text: bytes, announced: list[tuple[int, int, bytes]]) -> None:
        members = _members(text)
        kind = members.get("type")
        if kind == "revoke":
            self._take_artifact(log, n, text)
        elif kind == "attest":
            at_ms = members.get("at_ms")
            announced.append((at_ms // _MS if isinstance(at_ms, int) else 0, n, text))
        elif kind == "att" and members.get("verdict") == "accepted":
            self._take_evidence(log, n, text, members.get("sealed"))

    def _take_evidence(self, log: SourceLog, n: int, text: bytes, sealed: object) -> None:
        try:
            statement = parse_sealed_statement(str(sealed))
        except CustodyError:
            self.unreadable.append(f"{log.origin}/{n}")
            return
        if isinstance(statement.claims, EvidenceStatement) and statement.claims.sx in self.leaves:
            self.leaves.add(statement.statement.seal.x5t)
            self.statements.append(LoggedStatement(statement.text, (Seen(log.origin, n, Direction.RECEIVED),)))
            self._prove(log, n, text)

    def _in_force(self, history: list[tuple[int, int, bytes]]) -> Iterator[tuple[int, int, bytes]]:
        """Of a history by time: what was in force at the first record, and what came until a while after the last."""
        begun = sum(at <= (self.first or 0) for at, _, _ in history)
        ended = sum(at <= self.last + _AFTER_S for at, _, _ in history)
        yield from history[max(begun - 1, 0) : max(ended, 1)]

    def _take_artifact(self, log: SourceLog, n: int, text: bytes) -> None:
        self.artifacts.append(Artifact(log.origin, n, text.decode()))
        if (seal := _members(text).get("sealed")) is not None:
            self._note(str(seal))
        self._prove(log, n, text)

    def _prove(self, log: SourceLog, n: int, text: bytes) -> None:
        try:
            key = key_of(leaf_of_line(text))
        except HopsealError:
            self.unreadable.append(f"{log.origin}/{n}")
            return
        proof = log.prove(n)
        if proof is None:
            self.unproven.append(f"{log.origin}/{n}")
        else:
            self.proofs.setdefault(key, set()).add(proof)


def _parse(text: bytes) -> LogEntry | None:
    """The entry in a line; None for a line of another kind, or none at all."""
    try:
        return parse_entry(text)
    except HopsealError:
        return None


def _members(text: bytes) -> dict[str, object]:
    """The members of a line that was read as an entry."""
    return parse_token_object(text, max_depth=MAX_LINE_JSON_DEPTH)


def _is_issuer(der: bytes) -> bool:
    """Whether a certificate may have issued leaves: an intermediate, which no seal names."""
    try:
        constraints = parse_certificate(der).extensions.get_extension_for_class(x509.BasicConstraints)
    except (SvidError, ValueError, x509.ExtensionNotFound):
        return False
    return constraints.value.ca
