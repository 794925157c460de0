"""What policies can ask of components and tools, out of the Agent documents. Pure.

Owns: the entities of the schema and the risk of tools. Does not own: the schema (the data plane ships it).

An SVID is given only to a process that is what its document approves. So, where this node does not measure a component
itself, ``posture`` is the least that every alternative of its document asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from broker.policy.labels import Label
from broker.policy.outside import external_entities
from hopseal.documents.model import Agent, AttestBlock, Component, DocumentSet, Risk, Sensitivity
from hopseal.selectors import Posture

Entity = dict[str, Any]

_SENSITIVITIES = tuple(Sensitivity)


def encode_facts(
    documents: DocumentSet,
    *,
    locations: Sequence[Label] = (),
    threats: Sequence[Label] = (),
    evidence: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The JSON text that the data plane takes beside the policy sets."""
    return json.dumps(
        {
            "entities": document_entities(documents),
            "risks": {
                str(component.spiffe_id): risks
                for agent in documents.agents
                for component in agent.components
                if (risks := tool_risks(agent, component))
            },
            "locations": [each.to_json() for each in locations],
            "threats": [each.to_json() for each in threats],
            "evidence": dict(evidence or {}),
        }
    )


def document_entities(documents: DocumentSet) -> list[Entity]:
    """The trust domain, each agent in it, each component in its agent, and services outside."""
    domain = {"type": "Hopseal::TrustDomain", "id": documents.trust_domain.name}
    entities = [_entity(domain, {}, ())]
    for agent in documents.agents:
        uid = {"type": "Hopseal::Agent", "id": agent.name}
        entities.append(_entity(uid, {"owner": agent.owner, "team": agent.team, "version": agent.version}, (domain,)))
        entities += [
            _entity(
                {"type": "Hopseal::Component", "id": str(component.spiffe_id)},
                _attributes(agent, component),
                (uid,),
            )
            for component in agent.components
        ]
    return entities + external_entities(documents)


def tool_risks(agent: Agent, component: Component) -> dict[str, Risk]:
    """The risk of each tool that ``component`` offers; a capability of its agent stands for a tool of its name."""
    offered = {tool.name: tool.risk for tool in component.tools}
    return {capability.name: capability.risk for capability in agent.capabilities} | offered


def _attributes(agent: Agent, component: Component) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "documented": True,
        "trust_domain": component.spiffe_id.trust_domain.name,
        "agent": agent.name,
        "name": component.name,
        "role": component.role.value,
        "owner": agent.owner,
        "team": agent.team,
    }
    posture = _least_posture(component.attest)
    if posture is not None:
        attributes |= {"posture": posture.value, "posture_level": posture.rank}
    if component.attest and all(block.image for block in component.attest):
        attributes["images"] = sorted({digest for block in component.attest for digest in block.image})
    sensitivity = max((each.sensitivity for each in agent.data_access), key=_SENSITIVITIES.index, default=None)
    if sensitivity is not None:
        attributes |= {"sensitivity": sensitivity.value, "sensitivity_level": _SENSITIVITIES.index(sensitivity)}
    return attributes


def _least_posture(blocks: Iterable[AttestBlock]) -> Posture | None:
    """The level that holds whichever alternative does; None if one of them asks for none."""
    levels = [block.posture for block in blocks]
    known = [level for level in levels if level is not None]
    return min(known, key=lambda level: level.rank) if known and len(known) == len(levels) else None


def _entity(uid: Mapping[str, str], attributes: Mapping[str, Any], parents: Iterable[Mapping[str, str]]) -> Entity:
    return {"uid": dict(uid), "attrs": dict(attributes), "parents": [dict(parent) for parent in parents]}
