"""Registration entries as a SPIRE Server has them, and what must change there; pure.

Owns: the comparison, and the entries of the daemons themselves. Does not own: talking to the server
(``hopseal.spire_server``) or where the wanted entries come from (``hopseal.entries``).

Only entries whose ID begins with ``hopseal.`` are ever looked at, and of those only the fields named here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hopseal.entries import (
    DEFAULT_JWT_SVID_TTL_S,
    DEFAULT_X509_SVID_TTL_S,
    OWNED_PREFIX,
    Entry,
    attestor_id,
)
from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.selectors import SELECTOR_TYPE

_UNIX_SELECTORS = frozenset({"uid", "user", "gid", "group", "path", "sha256"})


@dataclass(frozen=True, slots=True)
class Registration:
    """One entry of a SPIRE Server.

    Args:
        parent_id: of the agents that may issue it, normally a node alias.
        selectors: pairs of type and value, all required.
    """

    entry_id: str
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: frozenset[tuple[str, str]]
    hint: str
    x509_svid_ttl_s: int
    jwt_svid_ttl_s: int


@dataclass(frozen=True, slots=True)
class RegistrationChanges:
    """What makes the server's owned entries equal to the wanted ones.

    Args:
        update: pairs of the present and the wanted entry.
    """

    create: tuple[Registration, ...]
    update: tuple[tuple[Registration, Registration], ...]
    delete: tuple[Registration, ...]

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)


def registration_of(entry: Entry, parent_id: SpiffeId) -> Registration:
    """``entry`` for the agents of ``parent_id``."""
    return Registration(
        entry.entry_id,
        entry.spiffe_id,
        parent_id,
        frozenset((SELECTOR_TYPE, selector.value) for selector in entry.selectors),
        entry.hint,
        entry.x509_svid_ttl_s,
        entry.jwt_svid_ttl_s,
    )


def attestor_registration(
    trust_domain: TrustDomain, node: str, parent_id: SpiffeId, unix_selectors: Mapping[str, str]
) -> Registration:
    """The entry by which SPIRE knows the attestor on ``node``.

    ``unix_selectors`` are what SPIRE's own ``unix`` attestor measures of it: ``uid`` with ``path`` or ``sha256``.

    Raises:
        InvalidError: none, or one that SPIRE's unix attestor does not have (``attestor_selectors_invalid``).
    """
    if not unix_selectors or not unix_selectors.keys() <= _UNIX_SELECTORS:
        raise InvalidError(
            "attestor_selectors_invalid",
            "the attestor's own entry needs selectors of SPIRE's unix attestor",
            detail=f"{sorted(unix_selectors)}",
            remedy=f"use {', '.join(sorted(_UNIX_SELECTORS))}",
        )
    spiffe_id = attestor_id(trust_domain, node)
    text = "\n".join([str(spiffe_id), *(f"{name}:{value}" for name, value in sorted(unix_selectors.items()))])
    return Registration(
        OWNED_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:40],
        spiffe_id,
        parent_id,
        frozenset(("unix", f"{name}:{value}") for name, value in unix_selectors.items()),
        "",
        DEFAULT_X509_SVID_TTL_S,
        DEFAULT_JWT_SVID_TTL_S,
    )


def diff_registrations(
    wanted: Iterable[Registration], present: Iterable[Registration], *, prune: bool = True
) -> RegistrationChanges:
    """What to create, update and delete; each list ordered by entry ID.

    Entries whose ID does not begin with ``hopseal.`` are never among what is updated or deleted. With ``prune`` false
    nothing is deleted: ``wanted`` is then not everything that should be there.
    """
    target = {each.entry_id: each for each in wanted}
    owned = {each.entry_id: each for each in present if each.entry_id.startswith(OWNED_PREFIX)}
    return RegistrationChanges(
        create=tuple(target[key] for key in sorted(target.keys() - owned.keys())),
        update=tuple(
            (owned[key], target[key]) for key in sorted(target.keys() & owned.keys()) if owned[key] != target[key]
        ),
        delete=tuple(owned[key] for key in sorted(owned.keys() - target.keys())) if prune else (),
    )
