"""Steps 1 to 5 of the auditor, for one statement of any type.

Owns: who sealed it, that logs held it, when, that its certificate was good then, and that its key was not given up.
Does not own: how statements relate. What failed is a :class:`Finding` with the step's number; what is not there to
judge by is *missing*, which is no accusation, and keeps a verdict from being ``verified``.
Source: custody-wire §11.1 to §11.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from hopseal.bundle import Bundle
from hopseal.custody.certs import KnownCertificates
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.errors import Code, refusal
from hopseal.custody.seal import Seal, verify_inclusion, verify_signature
from hopseal.errors import HopsealError
from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.audit.codes import AuditCode, audit_refusal
from hopseal.log.audit.statements import ReadStatement
from hopseal.log.audit.trust import Authorities, TrustHistory
from hopseal.log.audit.witnessed import Proofs, WitnessedEntry, Witnesses, key_of
from hopseal.log.entries import Direction
from hopseal.log.judge import Finding
from hopseal.log.leaf import format_statement_leaf
from hopseal.verify import SvidError, SvidLeaf, ValidPath, parse_svid_leaf, verify_path

WITNESS_WITHIN_S: Final = 120  # |T - iat|, and T after notAfter; custody-wire §11.3


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a log is proven to hold a statement; the direction is what the exporter says, or None."""

    witnessed: WitnessedEntry
    direction: Direction | None


@dataclass(frozen=True, slots=True)
class StatementReport:
    """What steps 1 to 5 say of one sealed text.

    Args:
        finding: what is wrong; None if nothing is.
        missing: what is not in the bundle and would be needed.
        entries: where it is proven to be logged.
        at: T, the earliest of their times; None if none is proven.
    """

    finding: Finding | None
    missing: tuple[str, ...]
    entries: tuple[Entry, ...]
    at: int | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Somebody said: not to be trusted since then. A leaf, or every leaf of an identity."""

    since: int
    x5t: str | None
    spiffe_id: str | None
    why: str


@dataclass(frozen=True, slots=True)
class _Sealer:
    """A leaf that seals, and its lifetime in NumericDate seconds."""

    leaf: SvidLeaf
    begins: int
    ends: int


@dataclass(slots=True)
class _Draft:
    statement: ReadStatement
    sealer: _Sealer = field(init=False)  # from step 1 on
    seal_hash: str = ""  # likewise
    missing: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    at: int | None = None


class StatementAuditor:
    """Audits statements one by one, and remembers what was expensive and held.

    Args:
        certificates: of the bundle.
        proofs: of the bundle, by key.
        witnesses: verifies them.
        history: what vouches for identities.
        revocations: every known one.
    """

    def __init__(
        self,
        certificates: KnownCertificates,
        proofs: Proofs,
        witnesses: Witnesses,
        history: TrustHistory,
        revocations: Iterable[Revocation] = (),
    ) -> None:
        self._certificates = certificates
        self._proofs = proofs
        self._witnesses = witnesses
        self._history = history
        self._revocations: dict[str, list[Revocation]] = {}
        for each in revocations:
            for name in {each.x5t, each.spiffe_id} - {None}:
                self._revocations.setdefault(str(name), []).append(each)
        self._sealers: dict[str, _Sealer] = {}
        self._seals: dict[str, str] = {}
        self._paths: dict[tuple[str, tuple[bytes, ...]], ValidPath] = {}
        self._accepted: set[tuple[str, int, tuple[str, ...]]] = set()
        self._steps = (self._identity, self._inclusion, self._time, self._path, self._revoked)

    def audit(self, statement: ReadStatement) -> StatementReport:
        """The report on one statement; the first step that fails ends it."""
        draft = _Draft(statement)
        finding = None
        for number, step in enumerate(self._steps, start=1):
            try:
                step(draft)
            except HopsealError as error:
                finding = Finding(number, error.code, _detail(error))
                break
        return StatementReport(finding, tuple(draft.missing), tuple(draft.entries), draft.at)

    def _identity(self, draft: _Draft) -> None:
        """Step 1: the leaf is an SVID of ``iss``, and its key sealed exactly this statement."""
        sealed = draft.statement.sealed
        draft.sealer = self._sealer(sealed.seal.x5t)
        leaf = draft.sealer.leaf
        if draft.statement.iss != leaf.spiffe_id:
            raise refusal(Code.IDENTITY, f"{draft.statement.iss} sealed by {leaf.spiffe_id}")
        verify_inclusion(sealed)
        draft.seal_hash = self._verify_seal(sealed.seal, leaf)

    def _inclusion(self, draft: _Draft) -> None:
        """Step 2: exactly this pair of statement and seal is in a log, under a checkpoint that the policy trusts."""
        statement = draft.statement
        leaf = statement.leaf or format_statement_leaf(statement.kind, statement.hash, draft.seal_hash)
        key = key_of(leaf) if statement.leaf else f"{statement.hash}.{draft.seal_hash}"
        places = {(each.origin, each.index): each.direction for each in statement.seen}
        for witnessed in self._witnesses.verify_all(self._proofs, key, leaf):
            direction = places.pop((witnessed.origin, witnessed.index), None)
            draft.entries.append(Entry(witnessed, direction))
        draft.missing += [f"proof:{origin}/{index}" for origin, index in places]
        if not draft.entries and not places:
            draft.missing.append("proof")
        times = [each.witnessed.at for each in draft.entries]
        if None in times:
            draft.missing.append("witness")
        draft.at = min((each for each in times if each is not None), default=None)

    def _time(self, draft: _Draft) -> None:
        """Step 3: T bounds the signature from above; a key that was stolen later cannot make an earlier T."""
        begins, ends, iat, at = draft.sealer.begins, draft.sealer.ends, draft.statement.iat, draft.at
        if not begins - CLOCK_SKEW_S <= iat <= ends:
            raise audit_refusal(AuditCode.OUTSIDE_VALIDITY, f"made at {iat}, the SVID is of {begins} to {ends}")
        if at is None:
            return
        if at > ends + WITNESS_WITHIN_S:
            raise audit_refusal(AuditCode.LATE, f"witnessed at {at}, the SVID expired at {ends}")
        if abs(at - iat) > WITNESS_WITHIN_S:
            raise audit_refusal(AuditCode.TIMES_APART, f"made at {iat}, witnessed at {at}")

    def _path(self, draft: _Draft) -> None:
        """Step 4: at ``iat`` the leaf led to the authorities that were current then, in every log that holds it."""
        x5t, iat = draft.statement.sealed.seal.x5t, draft.statement.iat
        origins = tuple(each.witnessed.origin for each in draft.entries)
        if (x5t, iat, origins) not in self._accepted:
            self._verify_paths(draft.sealer.leaf, x5t, iat, origins)
            self._accepted.add((x5t, iat, origins))

    def _verify_paths(self, leaf: SvidLeaf, x5t: str, iat: int, origins: tuple[str, ...]) -> None:
        trust_domain = leaf.spiffe_id.trust_domain
        views = self._history.views(trust_domain, iat, origins)
        if not views and not self._history.is_accepted(trust_domain):
            raise refusal(Code.UNTRUSTED, f"the trust policy does not accept {trust_domain.name}")
        if not views:
            raise refusal(Code.UNRESOLVED, missing=(f"bundle:{trust_domain.name}",))
        for view in views:
            self._verify_path(leaf, x5t, view, iat)

    def _revoked(self, draft: _Draft) -> None:
        """Step 5: whoever revoked the key says that it was good until after T."""
        if not self._revocations:
            return
        statement, at = draft.statement, draft.at
        names = (statement.sealed.seal.x5t, str(statement.iss))
        for each in chain.from_iterable(self._revocations.get(name, ()) for name in names):
            if at is None or at >= each.since:
                raise audit_refusal(AuditCode.REVOKED, f"since {each.since}: {each.why}")

    def _sealer(self, x5t: str) -> _Sealer:
        sealer = self._sealers.get(x5t)
        if sealer is None:
            der = self._certificates.get(x5t)
            if der is None:
                raise refusal(Code.UNRESOLVED, missing=(f"cert:{x5t}",))
            try:
                leaf = parse_svid_leaf(der)
            except SvidError as error:
                raise refusal(Code.UNTRUSTED, f"{error.message} {error.detail}") from error
            begins, ends = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
            sealer = self._sealers[x5t] = _Sealer(leaf, int(begins.timestamp()), int(ends.timestamp()))
        return sealer

    def _verify_seal(self, seal: Seal, leaf: SvidLeaf) -> str:
        """The seal's hash, if it holds; the text has all that the signature covers, so one that held once holds."""
        seal_hash = self._seals.get(seal.text)
        if seal_hash is None:
            verify_signature(seal, leaf.public_key)
            seal_hash = self._seals[seal.text] = encode_b64url(seal.key)
        return seal_hash

    def _verify_path(self, leaf: SvidLeaf, x5t: str, view: Authorities, at: int) -> None:
        if not view.ders:
            raise audit_refusal(AuditCode.BUNDLE_LATE, f"{view.source} held none at {at}")
        key = (x5t, view.ders)
        path = self._paths.get(key)
        if path is None or not path.valid_from <= at <= path.valid_until:
            trust_domain = leaf.spiffe_id.trust_domain
            bundles = {trust_domain: Bundle(trust_domain, view.ders)}
            try:
                self._paths[key] = verify_path(leaf, self._certificates.named, bundles, at)
            except SvidError as error:
                raise refusal(Code.UNTRUSTED, f"{view.source}: {error.message} {error.detail}") from error


def _detail(error: HopsealError) -> str:
    missing = ", ".join(getattr(error, "missing", ()))
    return missing or error.detail or error.message
