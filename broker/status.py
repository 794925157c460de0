"""What the broker says about itself: one value, true at the moment it was read.

Owns: the shape of ``/v1/status`` and which findings make the node unhealthy.
Does not own: serving it (``broker.admin``).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import hopseal
from broker.attestor_admin import AttestorAdmin
from broker.attestor_link import AttestorLink
from broker.audit.local_log import LocalLog
from broker.callees import Callees
from broker.config import BrokerConfig
from broker.dataplane_api import DataPlane
from broker.documents import describe_outside
from broker.events import DataPlaneEvents
from broker.identities.registry import Identities
from broker.identities.tracked import Tracked, TrackedState
from broker.issuers import IssuerKeys
from broker.own_identity import OwnIdentityClient
from broker.policy.follow import PolicyFollower
from broker.references import CallerRef
from broker.routes import RouteFollower
from hopseal.documents.follow import DocumentFollower
from hopseal.sockets import BoundSocket
from hopseal.svid import X509Svid


@dataclass(frozen=True, slots=True)
class Status:
    """``GET /v1/status``; every field is JSON."""

    node: str
    trust_domain: str
    version: str
    healthy: bool
    problems: list[str]
    documents: dict[str, Any]
    policies: dict[str, Any]
    attestor: dict[str, Any]
    identities: list[dict[str, Any]]
    callees: list[dict[str, Any]]
    routes: dict[str, Any]
    without_custody: list[dict[str, Any]]
    audit: dict[str, Any]
    issuers: list[dict[str, Any]]
    stats: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


class StatusReader:
    """Reads the state of every part of the broker."""

    def __init__(
        self,
        config: BrokerConfig,
        *,
        documents: DocumentFollower,
        policies: PolicyFollower,
        routes: RouteFollower,
        own: OwnIdentityClient,
        link: AttestorLink,
        identities: Identities,
        callees: Callees,
        issuers: IssuerKeys,
        events: DataPlaneEvents,
        data_plane: DataPlane,
        attestor_admin: AttestorAdmin | None,
        admin_socket: BoundSocket,
        local_log: LocalLog,
    ) -> None:
        self._config = config
        self._documents = documents
        self._policies = policies
        self._routes = routes
        self._own = own
        self._link = link
        self._identities = identities
        self._callees = callees
        self._issuers = issuers
        self._events = events
        self._data_plane = data_plane
        self._attestor_admin = attestor_admin
        self._admin_socket = admin_socket
        self._local_log = local_log

    def read(self) -> Status:
        """The state now."""
        problems = self.problems()
        return Status(
            node=self._config.node,
            trust_domain=self._config.trust_domain.name,
            version=hopseal.__version__,
            healthy=not problems,
            problems=problems,
            documents=self._read_documents(),
            policies=asdict(self._policies.state),
            attestor=self._read_attestor(),
            identities=[_describe(tracked, svid) for tracked, svid in self._identities.snapshot()],
            callees=[asdict(each) for each in self._callees.status()],
            routes={
                "routes": [
                    {"component": component, "endpoints": [str(each) for each in endpoints]}
                    for component, endpoints in self._routes.current.value.endpoints
                ],
                "problems": list(self._routes.current.value.problems),
            },
            without_custody=self._read_outside(),
            audit=self._local_log.describe(),
            issuers=[state.to_json() for state in self._issuers.current.value],
            stats=json.loads(self._data_plane.stats()),
        )

    def problems(self) -> list[str]:
        """Everything that an operator should look at, one sentence each; empty when the node is healthy."""
        link = self._link.state.value
        documents = self._documents.current
        policies = self._policies.state
        found = []
        if not link.connected:
            found.append(f"the attestor cannot be asked: {link.detail}")
        if self._own.problem:
            found.append(f"the broker's own SVID is not renewed: {self._own.problem}")
        if documents.documents is None:
            found.append("no Agent documents are loaded: every call is refused")
        found += [f"documents: {problem}" for problem in documents.problems]
        if not policies.sha256:
            found.append("no policies are in force: every call is denied")
        found += [f"policies: {problem}" for problem in policies.problems]
        found += [f"routes: {problem}" for problem in self._routes.current.value.problems]
        found += [f"user tokens: {problem}" for problem in self._issuers.problems()]
        if not self._events.log_health.healthy:
            found.append(f"the custody log cannot be written: {self._events.log_health.detail}")
        found += self._local_log.problems()
        if not self._admin_socket.is_in_place():
            found.append(f"{self._admin_socket.path} was replaced: nobody reaches this broker there")
        if self._attestor_admin is not None and documents.documents is not None:
            found += self._attestor_admin.problems(documents.documents.sha256)
        return found

    def is_ready(self) -> bool:
        """Whether calls can be brokered now."""
        return (
            self._link.is_connected
            and self._documents.current.documents is not None
            and bool(self._policies.state.sha256)
            and self._events.log_health.healthy
        )

    def _read_documents(self) -> dict[str, Any]:
        state = self._documents.current
        return {
            "sha256": state.documents.sha256 if state.documents else None,
            "loaded_at": state.loaded_at,
            "problems": [asdict(problem) for problem in state.problems],
        }

    def _read_outside(self) -> list[dict[str, Any]]:
        documents = self._documents.current.documents
        return describe_outside(documents) if documents is not None else []

    def _read_attestor(self) -> dict[str, Any]:
        link = self._link.state.value
        own = self._own.current.value
        grace_until = None if link.connected else link.since + self._config.attestor.grace_s
        return {
            "connected": link.connected,
            "since": link.since,
            "detail": link.detail,
            "grace_until": grace_until if grace_until and grace_until > time.time() else None,
            "spiffe_id": str(self._config.attestor_id),
            "svid_expires_at": own.svid.expires_at if own else None,
        }


def _describe(tracked: Tracked, svid: X509Svid | None) -> dict[str, Any]:
    key = tracked.key
    return {
        "kind": "caller" if isinstance(tracked.reference, CallerRef) else "listener",
        "component": key.component if key else getattr(tracked.reference, "component", None),
        "spiffe_id": str(svid.spiffe_id) if svid else None,
        "instance": key.instance if key else None,
        "pids": [tracked.pid] if tracked.pid else [],
        "pidfd_inode": tracked.reference.pidfd_inode,
        "state": tracked.state.value,
        "confirmed": tracked.state is TrackedState.CONFIRMED,
        "since": tracked.since,
        "svid_expires_at": svid.expires_at if svid else None,
    }
