"""Which container a process belongs to.

Owns: joining the ids of ``/proc/PID/cgroup`` with what the engines say. Does not
own: parsing either (``attestor.collectors.cgroup``, ``attestor.engine``).

1. Ids come from ``/proc/PID/cgroup`` only; nothing that a process can mount or write counts.
2. From the outermost id inwards, the first that an engine runs is the container.
3. The engine's answer must be about that full id, and the first process it names must be in the
   very same cgroup: so neither a lying engine nor a cgroup that merely looks alike passes.
4. While an engine that might own an id does not answer, the container is unreadable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attestor.collectors.cgroup import CgroupInvalid, ContainerCgroup, container_cgroups
from attestor.collectors.image import measure_image
from attestor.collectors.process import read_cgroup
from attestor.engine.errors import ContainerUnknown, EngineInvalid, EngineUnavailable
from attestor.facts import ContainerFacts, Unreadable
from attestor.peer import PeerGone

if TYPE_CHECKING:
    from attestor.engine.api import Engine


async def measure_container(
    pid: int, engines: Sequence[Engine], known: ContainerFacts | None = None
) -> ContainerFacts | Unreadable | None:
    """The container of a process, ``None`` when its cgroup names none, or why it cannot be told.

    Args:
        pid: the process, pinned by the caller.
        engines: every engine of this node.
        known: facts from before; used without asking again while the cgroup still says the same.

    Raises:
        PeerGone: the process has exited.
    """
    try:
        candidates = container_cgroups(read_cgroup(pid))
        if not candidates:
            return None
        if known is not None and _still_holds(known, candidates[0]):
            return known
    except CgroupInvalid as error:
        return Unreadable(error.code, f"{error.message}: {error.detail}")
    if not engines:
        return Unreadable(
            "engine_not_configured",
            f"the process is in container {candidates[0].id}",
            "name the engine's socket under engines in attestor.yaml",
        )
    for candidate in candidates:
        found = await _ask(candidate, engines)
        if found is not None:
            return found
    return Unreadable(
        "container_unknown",
        f"no configured engine runs {' or '.join(each.id for each in candidates)}",
        "name the socket of the engine that does under engines in attestor.yaml",
    )


async def _ask(candidate: ContainerCgroup, engines: Sequence[Engine]) -> ContainerFacts | Unreadable | None:
    answers = await asyncio.gather(*(_inspect(engine, candidate.id) for engine in engines))
    owners = [(engine, each) for engine, each in zip(engines, answers, strict=True) if isinstance(each, ContainerFacts)]
    if len(owners) > 1:
        sockets = ", ".join(engine.socket for engine, _ in owners)
        return Unreadable("container_ambiguous", f"{sockets} all run {candidate.id}", "name each engine once")
    if not owners:
        return next((each for each in answers if isinstance(each, Unreadable)), None)
    engine, facts = owners[0]
    try:
        agrees = _in_cgroup(facts, candidate)
    except CgroupInvalid as error:
        return Unreadable(error.code, f"{error.message}: {error.detail}")
    if not agrees:
        return Unreadable(
            "container_pid_mismatch", f"{engine.socket} names process {facts.pid}, which is not in container {facts.id}"
        )
    return replace(facts, image_digests=await measure_image(engine, facts.image_id))


async def _inspect(engine: Engine, container_id: str) -> ContainerFacts | Unreadable | None:
    try:
        return await engine.inspect(container_id)
    except ContainerUnknown:
        return None
    except (EngineUnavailable, EngineInvalid) as error:
        return Unreadable(error.code, error.detail, error.remedy)


def _still_holds(known: ContainerFacts, outermost: ContainerCgroup) -> bool:
    """Whether facts from before can stand for asking again; an item missing in them is worth asking for."""
    complete = isinstance(known.image_digests, frozenset)
    return complete and known.id == outermost.id and _in_cgroup(known, outermost)


def _in_cgroup(facts: ContainerFacts, candidate: ContainerCgroup) -> bool:
    try:
        return candidate.holds(read_cgroup(facts.pid))
    except PeerGone:
        return False
