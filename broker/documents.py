"""What the broker does with the Agent documents when they change.

Owns: handing each new set to every part that judges by it, in the right order.
Does not own: reading and checking them (``hopseal.documents``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import structlog

from broker.callees import Callees
from broker.dataplane_api import DataPlane
from broker.identities.registry import Identities
from broker.policy.follow import PolicyFollower
from hopseal.documents.follow import DocumentFollower
from hopseal.documents.model import Component, Custody, DocumentSet
from hopseal.ids import SpiffeId

log = structlog.get_logger("broker.documents")


class DocumentKeeper:
    """Keeps every part in step with the documents.

    Args:
        follower: the documents.
        data_plane: told the components.
        policies: compiled anew.
        identities: judged anew.
        callees: probed where the documents say.
        partners: components of other trust domains, by ``agent/component``; a documented one of that name wins.
    """

    def __init__(
        self,
        follower: DocumentFollower,
        data_plane: DataPlane,
        policies: PolicyFollower,
        identities: Identities,
        callees: Callees,
        partners: Mapping[str, SpiffeId],
    ) -> None:
        self._follower = follower
        self._data_plane = data_plane
        self._policies = policies
        self._identities = identities
        self._callees = callees
        self._partners = partners

    async def run(self) -> None:
        """Follow for ever."""
        known: DocumentSet | None = None
        async for state in self._follower.changes():
            for problem in state.problems:
                log.warning("documents_refused", problem=str(problem))
            if state.documents is not None and state.documents is not known:
                known = state.documents
                await self._use(known)
                log.info("documents_loaded", sha256=known.sha256, components=len(known.components))

    async def _use(self, documents: DocumentSet) -> None:
        # Components are known before anything about them is permitted, and permitted before anybody is admitted.
        self._data_plane.set_components(encode_components(documents, self._partners))
        await self._policies.set_documents(documents)
        self._identities.set_documents(documents)
        self._callees.set_documents(documents)


def encode_components(documents: DocumentSet, partners: Mapping[str, SpiffeId]) -> str:
    """The JSON text that tells the data plane every documented component, and ``partners`` beside them."""
    documented = {component.qualified for component in documents.components}
    others = [_encode_partner(name, spiffe_id) for name, spiffe_id in partners.items() if name not in documented]
    return json.dumps(
        others
        + [
            {
                "component": component.qualified,
                "agent": component.agent,
                "name": component.name,
                "spiffe_id": str(component.spiffe_id),
                "listen": component.listen,
                "listen_host": component.listen_host,
                "listen_protocol": component.listen_protocol.value,
                "may_start": component.may_start,
                "brokered": component.is_brokered,
                "outside": _encode_outside(component),
            }
            for component in documents.components
        ]
    )


def describe_outside(documents: DocumentSet) -> list[dict[str, Any]]:
    """What each component may reach without custody, and who may reach it so; components without any are left out."""
    described = [
        {
            "component": component.qualified,
            "calls": [
                *(each.qualified for each in component.calls if each.custody is Custody.NONE),
                *(str(each.spiffe_id) for each in component.peers),
                *(each.authority for each in component.externals if not each.opaque),
            ],
            "tunnels": [each.authority for each in component.externals if each.opaque],
            "called_by": list(component.accept_plain),
        }
        for component in documents.components
    ]
    return [each for each in described if each["calls"] or each["tunnels"] or each["called_by"]]


def _encode_outside(component: Component) -> dict[str, object]:
    """Parties without custody that the component may call, and those that may call it."""
    return {
        "services": [{"host": each.host, "port": each.port, "opaque": each.opaque} for each in component.externals],
        "peers": [{"name": each.name, "spiffe_id": str(each.spiffe_id)} for each in component.peers],
        "plain": [each.qualified for each in component.calls if each.custody is Custody.NONE],
        "accepts": list(component.accept_plain),
    }


def _encode_partner(qualified: str, spiffe_id: SpiffeId) -> dict[str, object]:
    agent, _, name = qualified.partition("/")
    return {
        "component": qualified,
        "agent": agent,
        "name": name,
        "spiffe_id": str(spiffe_id),
        "listen": None,
        "listen_host": None,
        "may_start": False,
        "partner": True,
    }
