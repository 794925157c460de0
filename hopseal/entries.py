"""Registration entries: which selectors earn which SPIFFE ID.

Owns: deriving entries from documents, pure. Does not own: writing them to a SPIRE Server
(``hopseal.spire_server``) or issuing SVIDs for them (``attestor.upstream``).

An entry matches a process when every selector of the entry was measured. Any-of digests
become one entry for each combination, because selectors of one entry are all required.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hopseal.documents.model import AgentStatus, AttestBlock, Component, DocumentSet
from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.selectors import Selector, component_selectors

OWNED_PREFIX = "hopseal."  # entry IDs that begin so are ours to update and delete
DEFAULT_X509_SVID_TTL_S = 600
DEFAULT_JWT_SVID_TTL_S = 300


@dataclass(frozen=True, slots=True)
class Entry:
    """One registration entry; all of ``selectors`` are required and there is at least one.

    Args:
        entry_id: begins with ``hopseal.`` and is the same for the same identity and selectors.
        hint: tells several SVIDs of one process apart; may be empty.
        x509_svid_ttl_s: lifetime of an X.509-SVID, in seconds.
        jwt_svid_ttl_s: lifetime of a JWT-SVID, in seconds.
    """

    entry_id: str
    spiffe_id: SpiffeId
    selectors: frozenset[Selector]
    hint: str
    x509_svid_ttl_s: int
    jwt_svid_ttl_s: int

    def matches(self, selectors: frozenset[Selector]) -> bool:
        """Whether everything that this entry requires is among ``selectors``."""
        return self.selectors <= selectors


def attestor_id(trust_domain: TrustDomain, node: str) -> SpiffeId:
    """The SPIFFE ID of the attestor on ``node``."""
    return SpiffeId.parse(f"{trust_domain.id}/hopseal/attestor/{node}")


def broker_id(trust_domain: TrustDomain, node: str) -> SpiffeId:
    """The SPIFFE ID of the broker on ``node``."""
    return SpiffeId.parse(f"{trust_domain.id}/hopseal/broker/{node}")


def document_entries(
    documents: DocumentSet,
    *,
    x509_svid_ttl_s: int = DEFAULT_X509_SVID_TTL_S,
    jwt_svid_ttl_s: int = DEFAULT_JWT_SVID_TTL_S,
) -> tuple[Entry, ...]:
    """The entries of every component of every active agent, in the documents' order.

    The lifetimes are used where a component does not say its own.
    """
    return tuple(
        entry
        for agent in documents.agents
        if agent.status is AgentStatus.ACTIVE
        for component in agent.components
        for entry in _component_entries(component, x509_svid_ttl_s, jwt_svid_ttl_s)
    )


def broker_entries(
    trust_domain: TrustDomain,
    node: str,
    attest: AttestBlock,
    *,
    x509_svid_ttl_s: int = DEFAULT_X509_SVID_TTL_S,
    jwt_svid_ttl_s: int = DEFAULT_JWT_SVID_TTL_S,
) -> tuple[Entry, ...]:
    """The entries of the broker on ``node``, one for each combination of any-of digests.

    Raises:
        InvalidError: ``attest`` requires nothing (code ``broker_attest_empty``).
    """
    spiffe_id = broker_id(trust_domain, node)
    found = tuple(
        _entry(spiffe_id, selectors, "", x509_svid_ttl_s, jwt_svid_ttl_s) for selectors in required_selectors(attest)
    )
    if not all(entry.selectors for entry in found):
        raise InvalidError(
            "broker_attest_empty",
            f"the attest block of broker {node} requires nothing",
            remedy="name at least one of uid, exe, unit, image",
        )
    return found


def required_selectors(attest: AttestBlock) -> Iterator[frozenset[Selector]]:
    """What ``attest`` requires to be measured: one set for each combination of its any-of digests."""
    digests = [
        [f"{kind}:{digest}" for digest in any_of]
        for kind, any_of in (
            ("image", attest.image),
            ("exe", attest.exe),
            ("config", attest.config.digests if attest.config else ()),
        )
        if any_of
    ]
    fixed = [f"container-label:{key}={value}" for key, value in attest.container_labels]
    fixed += [
        f"{kind}:{value}"
        for kind, value in (
            ("posture", attest.posture),
            ("uid", attest.uid),
            ("gid", attest.gid),
            ("unit", attest.unit),
        )
        if value is not None
    ]
    for combination in product(*digests):
        yield frozenset(Selector(value) for value in (*fixed, *combination))


def _component_entries(component: Component, x509_svid_ttl_s: int, jwt_svid_ttl_s: int) -> Iterator[Entry]:
    named = component_selectors(component.agent, component.name, component.role)
    seen: set[str] = set()
    for block in component.attest:
        for required in required_selectors(block):
            entry = _entry(
                component.spiffe_id,
                required | named,
                component.hint,
                component.x509_svid_ttl_s or x509_svid_ttl_s,
                component.jwt_svid_ttl_s or jwt_svid_ttl_s,
            )
            if entry.entry_id not in seen:  # two alternatives may differ in what is no selector
                seen.add(entry.entry_id)
                yield entry


def _entry(
    spiffe_id: SpiffeId, selectors: frozenset[Selector], hint: str, x509_svid_ttl_s: int, jwt_svid_ttl_s: int
) -> Entry:
    text = "\n".join([str(spiffe_id), *sorted(selector.value for selector in selectors)])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Entry(f"{OWNED_PREFIX}{digest[:40]}", spiffe_id, selectors, hint, x509_svid_ttl_s, jwt_svid_ttl_s)
