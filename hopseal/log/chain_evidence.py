"""What log entries hold about one chain: its records, certificates, the bundles of the time, and refusals.

Owns: collecting and indexing. Does not own: judging (``offline``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hopseal.bundle import Bundle
from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.record import Record, SealedRecord, parse_sealed_record
from hopseal.ids import TrustDomain
from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.entries import (
    BundleEntry,
    CertificateEntry,
    Direction,
    LogEntry,
    RecordEntry,
    StartEntry,
    TokenEntry,
)

CONTRADICTION = "log_contradiction"
_MS = 1_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """A log holds a record.

    Args:
        node: whose log.
        at_ms: when it was written, milliseconds since 1970.
        args_hash: hash of the tool call's arguments, as that node read them; None of anything else.
    """

    node: str
    direction: Direction
    at_ms: int
    args_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that is no part of the chain although it claims to be; its claims are unverified."""

    node: str
    direction: Direction
    at_ms: int
    code: str
    detail: str
    unverified_iss: str | None
    unverified_aud: str | None
    unverified_jti: str | None


@dataclass(slots=True)
class ChainEvidence:
    """Evidence about one chain; filled by :func:`gather`, read by the judge.

    Args:
        records: by statement hash.
        texts: every logged form of a statement (seals may be twins), by statement hash, then text.
        sightings: by statement hash.
        uses: statement hashes by issuer and ``jti``.
        rejected: messages that were refused.
        contradictions: entries that cannot be what the broker wrote.
        tokens: user tokens, by their hash.
    """

    cid: str
    certificates: KnownCertificates
    records: dict[str, SealedRecord] = field(default_factory=dict)
    texts: dict[str, dict[str, SealedRecord]] = field(default_factory=dict)
    sightings: dict[str, tuple[Sighting, ...]] = field(default_factory=dict)
    uses: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()
    contradictions: tuple[Rejected, ...] = ()
    bundles: dict[TrustDomain, list[tuple[int, Bundle]]] = field(default_factory=dict)
    tokens: dict[str, TokenEntry] = field(default_factory=dict)

    def bundles_at(self, moment: int) -> dict[TrustDomain, Bundle]:
        """For each trust domain the authorities that some clock held for current at ``moment`` (NumericDate seconds).

        These are those of the bundle in force then and of any that came into force within the skew that clocks may
        have: a peer's ``moment`` can be ahead of this node's. A bundle that came later takes nothing away from what
        was accepted under the one before it.
        """
        return {trust_domain: _current(history, moment) for trust_domain, history in self.bundles.items()}

    def is_replayed(self, sealed: SealedRecord) -> bool:
        """Whether the record was accepted twice, or another record of its issuer has the same ``jti``."""
        received = [each for each in self.sightings.get(sealed.hash, ()) if each.direction is Direction.RECEIVED]
        return len(received) > 1 or len(self.uses[_key(sealed)]) > 1

    def add(self, entry: RecordEntry, node: str) -> None:
        """Take in one record entry, if it concerns the chain."""
        if not entry.accepted:
            if entry.cid == self.cid:
                self.rejected = (*self.rejected, _rejected(entry, node, entry.code or Code.MALFORMED, entry.detail))
            return
        try:
            records = [parse_sealed_record(text) for text in (*entry.ancestors, entry.sealed or "")]
        except CustodyError as error:
            if entry.cid == self.cid:
                self._contradict(entry, node, f"said to be accepted, and cannot be read: {error.detail}")
            return
        newest = records[-1]
        if self.cid in {entry.cid, newest.record.cid} and _logged_claims(entry) != _claims(newest.record):
            self._contradict(entry, node, "the claims beside a record are not those in it")
        if newest.record.cid != self.cid:
            return
        for sealed in records:
            self._index(sealed)
        sighting = Sighting(node, entry.direction, entry.at_ms, entry.args_hash)
        earlier = self.sightings.get(newest.hash, ())
        hashes = {each.args_hash for each in (*earlier, sighting)} - {None}
        if len(hashes) > 1:
            self._contradict(entry, node, "the arguments of the call are not those that another entry tells of")
        self.sightings[newest.hash] = tuple(dict.fromkeys((*earlier, sighting)))

    def _index(self, sealed: SealedRecord) -> None:
        self.texts.setdefault(sealed.hash, {})[sealed.text] = sealed
        if sealed.hash not in self.records:
            self.records[sealed.hash] = sealed
            self.uses.setdefault(_key(sealed), []).append(sealed.hash)

    def _contradict(self, entry: RecordEntry, node: str, detail: str) -> None:
        self.contradictions = (*self.contradictions, _rejected(entry, node, CONTRADICTION, detail))


def gather(entries: Iterable[LogEntry], cid: str) -> ChainEvidence:
    """The evidence about chain ``cid``; entries of several logs one log after the other."""
    listed = tuple(entries)
    ders = {entry.x5t: entry.der for entry in listed if isinstance(entry, CertificateEntry)}
    cache = CertificateCache(entries=len(ders) + 1, per_peer=len(ders) + 1)
    for der in ders.values():
        cache.add(der, "log")
    evidence = ChainEvidence(cid, KnownCertificates((), cache))
    node = ""
    for entry in listed:
        if isinstance(entry, StartEntry):
            node = entry.node
        elif isinstance(entry, BundleEntry):
            evidence.bundles.setdefault(entry.bundle.trust_domain, []).append((entry.at_ms, entry.bundle))
        elif isinstance(entry, TokenEntry):
            evidence.tokens.setdefault(entry.th, entry)
        elif isinstance(entry, RecordEntry):
            evidence.add(entry, node)
    for history in evidence.bundles.values():
        history.sort(key=lambda each: each[0])
    return evidence


def _current(history: list[tuple[int, Bundle]], moment: int) -> Bundle:
    """Out of a bundle history, which is not empty and by time."""
    begun = sum(at_ms <= moment * _MS for at_ms, _ in history)
    near = sum(at_ms // _MS <= moment + CLOCK_SKEW_S for at_ms, _ in history)
    # Before the first one that a log holds, that first one.
    bundles = [bundle for _, bundle in history[max(begun - 1, 0) : max(near, 1)]]
    authorities = dict.fromkeys(der for bundle in bundles for der in bundle.x509_authorities)
    return replace(bundles[-1], x509_authorities=tuple(authorities))


def _rejected(entry: RecordEntry, node: str, code: str, detail: str | None) -> Rejected:
    return Rejected(node, entry.direction, entry.at_ms, code, detail or "", entry.iss, entry.aud, entry.jti)


def _logged_claims(entry: RecordEntry) -> tuple[str | int | None, ...]:
    return (entry.iss, entry.aud, entry.jti, entry.exp, entry.cid, entry.hop, entry.op)


def _claims(record: Record) -> tuple[str | int | None, ...]:
    return (str(record.iss), record.aud, record.jti, record.exp, record.cid, record.hop, record.op)


def _key(sealed: SealedRecord) -> tuple[str, str]:
    return str(sealed.record.iss), sealed.record.jti
