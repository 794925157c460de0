"""Whose identities an auditor accepts: pinned authorities, or the bundles that logs held at the time.

Owns: the trust policy's form, the history of logged bundles, and which of them was current at a moment.
Does not own: proofs that a bundle was logged (``witnessed``), certificate paths (``steps``).
Theory: a broker logs each bundle before it uses it. A bundle counts from its own witnessed time; it ends when the next
one of its trust domain was witnessed in the same log. One that was witnessed long after a record cannot vouch for it:
whoever holds a log later could add an authority of their own. Where several logs hold the record, each log's own view
must accept it, so that one node cannot lend an authority to another's records.
Source: custody-wire §11.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hopseal.bundle import Bundle
from hopseal.custody.encoding import parse_json_object
from hopseal.custody.errors import CustodyError, malformed
from hopseal.custody.members import Members, list_of, one_of, read_integer, read_spiffe_id, text_up_to
from hopseal.errors import InvalidError
from hopseal.ids import IdentityError, SpiffeId, TrustDomain
from hopseal.limits import CLOCK_SKEW_S

REFRESH_S: Final = 300  # a bundle that was witnessed so long after a record may have been in use at the record's time
MAX_TRUST_BYTES: Final = 1 << 20
_MAX_PEM_BYTES = 1 << 18
_MAX_ATTESTORS = 64
_read_attestors = list_of(read_spiffe_id, _MAX_ATTESTORS)


class TrustError(InvalidError):
    """A trust policy cannot be read (code ``trust_invalid``)."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "trust_invalid", "the trust policy is wrong", detail=detail, remedy="its form is in docs/audit.md"
        )


@dataclass(frozen=True, slots=True)
class DomainTrust:
    """How one trust domain's identities are judged.

    Args:
        pinned: its authorities; None takes the bundles that logs held.
        attestors: who may state evidence about its components.
    """

    pinned: Bundle | None = None
    attestors: frozenset[SpiffeId] = frozenset()


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Which trust domains are accepted, and how.

    Args:
        domains: by trust domain.
        others: every other domain's logged bundles are accepted too.
    """

    domains: Mapping[TrustDomain, DomainTrust] = field(default_factory=lambda: MappingProxyType({}))
    others: bool = True

    def get(self, trust_domain: TrustDomain) -> DomainTrust | None:
        """How ``trust_domain`` is judged; None if it is not accepted."""
        return self.domains.get(trust_domain, DomainTrust() if self.others else None)


@dataclass(frozen=True, slots=True)
class LoggedBundle:
    """A trust bundle in a log, and since when (NumericDate seconds, witnessed)."""

    origin: str
    index: int
    at: int
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class Authorities:
    """What may vouch for a leaf at a moment: the view of one log, or what is pinned."""

    source: str
    ders: tuple[bytes, ...]


class TrustHistory:
    """Every logged bundle, by trust domain and log.

    Args:
        bundles: witnessed ones.
        policy: of the auditor.
    """

    def __init__(self, bundles: Iterable[LoggedBundle], policy: TrustPolicy) -> None:
        self._policy = policy
        self._logs: dict[TrustDomain, dict[str, list[LoggedBundle]]] = {}
        self._views: dict[tuple[TrustDomain, str, int], Authorities] = {}
        for each in sorted(bundles, key=lambda one: (one.origin, one.index)):
            self._logs.setdefault(each.bundle.trust_domain, {}).setdefault(each.origin, []).append(each)

    def views(self, trust_domain: TrustDomain, at: int, origins: Iterable[str]) -> tuple[Authorities, ...]:
        """The views that must each accept a leaf of ``trust_domain`` at ``at``; empty if there is none to ask.

        Args:
            trust_domain: of the leaf.
            at: NumericDate seconds.
            origins: logs that hold the statement; without a view among them every log is asked.
        """
        trust = self._policy.get(trust_domain)
        if trust is None:
            return ()
        if trust.pinned is not None:
            return (Authorities("pinned", trust.pinned.x509_authorities),)
        logs = self._logs.get(trust_domain, {})
        asked = [origin for origin in origins if origin in logs] or list(logs)
        return tuple(self._view(trust_domain, origin, at) for origin in asked)

    def _view(self, trust_domain: TrustDomain, origin: str, at: int) -> Authorities:
        """Remembered, since many records are of one second."""
        key = (trust_domain, origin, at)
        if key not in self._views:
            self._views[key] = Authorities(origin, _current(self._logs[trust_domain][origin], at))
        return self._views[key]

    def is_accepted(self, trust_domain: TrustDomain) -> bool:
        """Whether the policy accepts the trust domain at all."""
        return self._policy.get(trust_domain) is not None

    def attestors(self, trust_domain: TrustDomain) -> frozenset[SpiffeId]:
        """Who may state evidence about the components of ``trust_domain``."""
        trust = self._policy.get(trust_domain)
        return trust.attestors if trust else frozenset()


def parse_trust(data: bytes) -> TrustPolicy:
    """The trust policy in a file.

    Raises:
        TrustError: it is none.
    """
    if len(data) > MAX_TRUST_BYTES:
        raise TrustError(f"longer than {MAX_TRUST_BYTES} bytes")
    try:
        members = Members(parse_json_object(data), "trust").only(frozenset({"v", "type", "trust_domains", "others"}))
        if members.required("v", read_integer) != 1:
            raise malformed("trust.v is not 1")
        members.required("type", one_of("hopseal-trust"))
        domains = Members.read(members.values.get("trust_domains"), "trust_domains")
        others = members.required("others", one_of("logged", "refuse"))
        return TrustPolicy(
            MappingProxyType({TrustDomain.parse(name): _read_domain(name, domains) for name in domains.values}),
            others == "logged",
        )
    except CustodyError as error:
        raise TrustError(error.detail) from error
    except IdentityError as error:
        raise TrustError(error.message) from error


def _read_domain(name: str, domains: Members) -> DomainTrust:
    members = Members.read(domains.values[name], name).only(frozenset({"bundles", "pem", "attestors"}))
    is_pinned = members.required("bundles", one_of("logged", "pinned")) == "pinned"
    pem = members.optional("pem", text_up_to(_MAX_PEM_BYTES))
    if is_pinned != (pem is not None):
        raise malformed(f"{name}: pem stands beside pinned bundles, and only there")
    attestors = frozenset(members.optional("attestors", _read_attestors) or ())
    trust_domain = TrustDomain.parse(name)
    if any(each.trust_domain != trust_domain for each in attestors):
        raise malformed(f"{name}: an attestor is of another trust domain")
    return DomainTrust(Bundle(trust_domain, _read_pem(pem)) if pem is not None else None, attestors)


def _read_pem(text: str) -> tuple[bytes, ...]:
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise malformed("pem holds no certificates") from error
    return tuple(each.public_bytes(Encoding.DER) for each in certificates)


def _current(history: list[LoggedBundle], at: int) -> tuple[bytes, ...]:
    """The authorities of one log's bundles, in the log's order, that some clock held for current at ``at``."""
    ders: dict[bytes, None] = {}
    for position, each in enumerate(history):
        ends_at = history[position + 1].at if position + 1 < len(history) else None
        is_superseded = ends_at is not None and ends_at + CLOCK_SKEW_S <= at
        if each.at <= at + REFRESH_S and not is_superseded:
            ders.update(dict.fromkeys(each.bundle.x509_authorities))
    return tuple(ders)
