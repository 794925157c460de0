"""What several components, or several documents together, can get wrong.

Owns: names and identities that collide, calls to nobody, components that no measurement tells apart.
Does not own: what one value alone can get wrong (``hopseal.documents.read``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from hopseal.documents.grammar import TCP_PREFIX
from hopseal.documents.model import AgentStatus, AttestBlock
from hopseal.documents.outside import check_outside
from hopseal.documents.read import ReadComponent, ReadDocument
from hopseal.settings import Section


def check_together(documents: Sequence[ReadDocument], *, all_readable: bool) -> None:
    """Record in ``documents`` what is wrong between them.

    Args:
        documents: in the order in which an earlier one counts as the original of a later one.
        all_readable: False when a file gave no document, so that a callee may stand there.
    """
    components = [each for document in documents for each in document.components if each.component.name]
    _check_agents(documents)
    for document in documents:
        _check_component_names(document)
    _check_unique_values(components)
    _check_calls(documents, all_readable=all_readable)
    check_outside(components)
    live = [document for document in documents if document.agent.status is not AgentStatus.RETIRED]
    _check_told_apart([each for document in live for each in document.components])


def _check_agents(documents: Sequence[ReadDocument]) -> None:
    seen: dict[str, str] = {}
    for document in documents:
        name = document.agent.name
        if name in seen:
            document.metadata.mistake(
                "name", f"agent {name!r} is also in {seen[name]}", "give one of them another name"
            )
        elif name:
            seen[name] = document.agent.file


def _check_component_names(document: ReadDocument) -> None:
    seen: set[str] = set()
    for each in document.components:
        name = each.component.name
        if name and name in seen:
            each.section.mistake("name", f"component {name!r} is listed twice", "give one of them another name")
        seen.add(name)


def _check_unique_values(components: Sequence[ReadComponent]) -> None:
    """One SPIFFE ID, and one socket, for one component; equal names are reported as that."""
    owners: dict[tuple[str, str], str] = {}
    for each in components:
        component = each.component
        for key, value in (("spiffeId", str(component.spiffe_id)), ("listen", component.listen)):
            # An address is one of the component's own network namespace: two may have the same.
            if value is None or (key == "listen" and value.startswith(TCP_PREFIX)):
                continue
            owner = owners.setdefault((key, value), component.qualified)
            if owner != component.qualified:
                each.section.mistake(key, f"{value} is also that of {owner}", "give each component its own")


def _check_calls(documents: Sequence[ReadDocument], *, all_readable: bool) -> None:
    known = {each.component.qualified for document in documents for each in document.components}
    agents = {document.agent.name for document in documents}
    for document in documents:
        for each in document.components:
            seen: set[str] = set()
            for call, section in each.calls.components:
                if not call.to_component or not call.to_agent:
                    continue
                if call.qualified in seen:
                    section.mistake("to", f"{call.qualified} is listed twice", "list its operations in one entry")
                seen.add(call.qualified)
                if call.qualified not in known and (all_readable or call.to_agent in agents):
                    _report_nobody(section, call.to_agent, call.to_component, agents)


def _report_nobody(section: Section, agent: str, component: str, agents: set[str]) -> None:
    if agent in agents:
        section.mistake("to", f"agent {agent!r} has no component {component!r}", "correct the name, or add it there")
    else:
        section.mistake("to", f"there is no agent {agent!r}", "correct the name, or add that agent's document")


def _check_told_apart(components: Sequence[ReadComponent]) -> None:
    for first, second in combinations(components, 2):
        if first.component.qualified == second.component.qualified:
            continue
        alike = next(_alike(first, second), None)
        if alike is not None:
            alike.report(
                f"a process could be both this and {first.component.qualified}",
                "give them different image, exe, uid or unit"
                if alike.keys() & {"image"}
                else "without image, two components must differ in uid, exe or unit",
            )


def _alike(first: ReadComponent, second: ReadComponent) -> Iterator[Section]:
    """The blocks of ``second`` that hold for a process that is ``first``."""
    for block, section in second.sound_blocks:
        if any(not are_told_apart(block, other) for other, _ in first.sound_blocks):
            yield section


def are_told_apart(first: AttestBlock, second: AttestBlock) -> bool:
    """Whether no process can satisfy both blocks.

    A block with an image describes a container and one without a process of the host, where the
    files that ``config`` names are the host's and say nothing about which process it is.
    """
    if bool(first.image) != bool(second.image):
        return True
    if _disjoint(first.exe, second.exe) or _differ(first.uid, second.uid) or _differ(first.unit, second.unit):
        return True
    if not first.image:
        return False
    return (
        _disjoint(first.image, second.image)
        or _differ(first.gid, second.gid)
        or _labels_differ(first, second)
        or _configs_differ(first, second)
    )


def _labels_differ(first: AttestBlock, second: AttestBlock) -> bool:
    others = dict(second.container_labels)
    return any(others.get(name, value) != value for name, value in first.container_labels)


def _configs_differ(first: AttestBlock, second: AttestBlock) -> bool:
    if first.config is None or second.config is None or first.config.files != second.config.files:
        return False
    return _disjoint(first.config.digests, second.config.digests)


def _disjoint(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    return bool(first) and bool(second) and not set(first) & set(second)


def _differ(first: object, second: object) -> bool:
    return first is not None and second is not None and first != second
