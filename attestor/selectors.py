"""Selectors for what was measured, and the name of the instance it was measured on. Pure.

Owns: which facts become which selectors. Does not own: the vocabulary
(``hopseal.selectors``) and the three component selectors, which exist only once
a whole document holds.

Selectors only ever grant, so an item that could not be read adds none; that a
document which needs it is refused is decided in ``attestor.matching``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestor.facts import ConfigFacts, ContainerFacts, PostureFacts, ProcessFacts, Unreadable
from hopseal.errors import DeniedError
from hopseal.selectors import Selector, posture_selectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attestor.facts import Evidence


def measured_selectors(evidence: Evidence) -> frozenset[Selector]:
    """Every selector that the evidence supports."""
    return frozenset(map(Selector, _values(evidence))) | (
        posture_selectors(evidence.posture.level) if isinstance(evidence.posture, PostureFacts) else frozenset()
    )


def instance_of(evidence: Evidence) -> str:
    """What one component instance shares on this node: ``<engine>:<container id>``, else ``cgroup:<path>``.

    Raises:
        DeniedError: neither could be read (code ``evidence_unreadable``).
    """
    if isinstance(evidence.container, ContainerFacts):
        return f"{evidence.container.engine}:{evidence.container.id}"
    unreadable = evidence.container or evidence.process
    if isinstance(unreadable, Unreadable):
        raise DeniedError("evidence_unreadable", "the instance cannot be named", detail=unreadable.detail)
    return f"cgroup:{unreadable.cgroup}"


def _values(evidence: Evidence) -> Iterator[str]:
    process = evidence.process
    if isinstance(process, ProcessFacts):
        yield f"uid:{process.uid}"
        yield from (f"gid:{gid}" for gid in process.gids)
        yield from (f"unit:{unit}" for unit in process.units)
        if isinstance(process.exe_sha256, str):
            yield f"exe:{process.exe_sha256}"
    if evidence.engine is not None:
        yield f"engine:{evidence.engine}"
    container = evidence.container
    if isinstance(container, ContainerFacts):
        yield from (f"container-label:{name}={value}" for name, value in container.labels.items())
        if isinstance(container.image_digests, frozenset):
            yield from (f"image:{digest}" for digest in container.image_digests)
    for facts in evidence.config.values():
        if isinstance(facts, ConfigFacts):
            yield f"config:{facts.root}"
