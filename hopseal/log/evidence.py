"""What log entries hold about one chain: its records, certificates, the bundles of the time, and refusals.

Owns: collecting and indexing. Does not own: judging (``offline``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopseal.bundle import Bundle
from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.entries import BundleEntry, CertificateEntry, Direction, LogEntry, RecordEntry, StartEntry

_MS = 1_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """A log holds a record: which node's, as sent or received, and since when (milliseconds since 1970)."""

    node: str
    direction: Direction
    at_ms: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that claimed this chain and was refused or cannot be read; its claims are unverified."""

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
        children: statement hashes by that of the record they continue.
        uses: statement hashes by issuer and ``jti``.
    """

    cid: str
    certificates: KnownCertificates
    records: dict[str, SealedRecord] = field(default_factory=dict)
    texts: dict[str, dict[str, SealedRecord]] = field(default_factory=dict)
    sightings: dict[str, tuple[Sighting, ...]] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    uses: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    rejected: tuple[Rejected, ...] = ()
    bundles: dict[TrustDomain, list[tuple[int, Bundle]]] = field(default_factory=dict)

    def bundles_at(self, moment: int) -> dict[TrustDomain, Bundle]:
        """The bundle of each trust domain that was current at ``moment`` (NumericDate seconds).

        Before the first one that a log holds, that first one: the peer's clock may be ahead of this node's start.
        """
        current = {}
        for trust_domain, history in self.bundles.items():
            seen = [bundle for at_ms, bundle in history if at_ms // _MS <= moment + CLOCK_SKEW_S]
            current[trust_domain] = seen[-1] if seen else history[0][1]
        return current

    def root_issuers(self) -> set[SpiffeId]:
        """Who began the chain; more than one is wrong."""
        return {each.record.iss for each in self.records.values() if each.record.hop == 0}

    def is_replayed(self, sealed: SealedRecord) -> bool:
        """Whether the record was accepted twice, or another record of its issuer has the same ``jti``."""
        received = [each for each in self.sightings.get(sealed.hash, ()) if each.direction is Direction.RECEIVED]
        return len(received) > 1 or len(self.uses[_key(sealed)]) > 1

    def add(self, entry: RecordEntry, node: str) -> None:
        """Take in one record entry, if it concerns the chain."""
        if not entry.accepted or entry.sealed is None:
            if entry.cid == self.cid:
                self._reject(entry, node, entry.code or "", entry.detail or "")
            return
        try:
            records = [parse_sealed_record(text) for text in (*entry.ancestors, entry.sealed)]
        except CustodyError as error:
            if entry.cid == self.cid:
                self._reject(entry, node, error.code, error.detail)
            return
        if records[-1].record.cid != self.cid:
            return
        for sealed in records:
            self._index(sealed)
        newest = records[-1].hash
        sighting = Sighting(node, entry.direction, entry.at_ms)
        self.sightings[newest] = tuple(dict.fromkeys((*self.sightings.get(newest, ()), sighting)))

    def _index(self, sealed: SealedRecord) -> None:
        self.texts.setdefault(sealed.hash, {})[sealed.text] = sealed
        if sealed.hash not in self.records:
            self.records[sealed.hash] = sealed
            self.uses.setdefault(_key(sealed), []).append(sealed.hash)
            if sealed.record.prev is not None:
                self.children.setdefault(sealed.record.prev, []).append(sealed.hash)

    def _reject(self, entry: RecordEntry, node: str, code: str, detail: str) -> None:
        rejected = Rejected(
            node, entry.direction, entry.at_ms, code or Code.MALFORMED, detail, entry.iss, entry.aud, entry.jti
        )
        self.rejected = (*self.rejected, rejected)


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
        elif isinstance(entry, RecordEntry):
            evidence.add(entry, node)
    for history in evidence.bundles.values():
        history.sort(key=lambda each: each[0])
    return evidence


def _key(sealed: SealedRecord) -> tuple[str, str]:
    return str(sealed.record.iss), sealed.record.jti
