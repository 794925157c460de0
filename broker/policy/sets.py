"""Policy sets as they are handed to the data plane. Pure.

Owns: their names and JSON. Does not own: reading files (``files``) or compiling documents (``compile``).

A set is what is observed or enforced as a whole: ``documents``, one file of the operators' folder by its name, one of
the administrators' by ``admin/`` and its name. ``status`` holds what suspends and retires agents and is always
enforced.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from broker.policy.compile import compile_agent, compile_status
from hopseal.documents.model import DocumentSet

DOCUMENTS = "documents"
STATUS = "status"


class Layer(StrEnum):
    """Who may say what; broker/dataplane/src/policy/rules.rs has the meaning."""

    DOCUMENTS = "documents"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class PolicySet:
    """One set.

    Args:
        pieces: Cedar text; a piece that stays the same is not parsed again.
    """

    name: str
    layer: Layer
    pieces: tuple[str, ...]


def document_sets(documents: DocumentSet) -> tuple[PolicySet, ...]:
    """What ``documents`` permit and forbid, and which agents are suspended or retired; one piece for each agent."""
    rules = tuple(text for agent in documents.agents if (text := compile_agent(agent, documents)))
    status = tuple(text for agent in documents.agents if (text := compile_status(agent)))
    return PolicySet(DOCUMENTS, Layer.DOCUMENTS, rules), PolicySet(STATUS, Layer.DOCUMENTS, status)


def unknown_sets(sets: Iterable[PolicySet], observe: Iterable[str]) -> tuple[str, ...]:
    """The names in ``observe`` that no set has."""
    known = {each.name for each in sets}
    return tuple(name for name in observe if name not in known)


def encode_sets(sets: Iterable[PolicySet], observe: tuple[str, ...]) -> str:
    """The JSON text that the data plane takes."""
    observed = set(observe) - {STATUS}
    return json.dumps(
        [
            {"name": each.name, "layer": each.layer, "observe": each.name in observed, "pieces": list(each.pieces)}
            for each in sets
        ]
    )
