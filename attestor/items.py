"""One attested item: what was approved, what was measured, and whether it holds. Pure.

Owns: comparing each item of an ``attest`` block with the evidence.
Does not own: what follows from it (``attestor.matching``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from attestor.facts import ConfigFacts, ContainerFacts, Evidence, FoundSecret, ProcessFacts, Unreadable
from hopseal.documents.model import AttestBlock

NO_CONTAINER = "not in a container"
_NO_UNIT = "in no systemd unit"
_MISSING = "config_file_missing"
_FORBIDDEN = "forbid_static_secrets"
_NONE = "none"
_NOT_MEASURED = Unreadable("config_not_measured", "these files were not measured")
_NAMED_FILES = 5  # enough to see what happened; a replaced folder may have thousands

_T = TypeVar("_T")


class Outcome(StrEnum):
    """What comparing one item came to."""

    HOLDS = "holds"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of one alternative, compared.

    Args:
        name: as in the document, with underscores.
        approved: any of these would hold (for labels: all of them).
        measured: what the process is; empty if unreadable.
        code: ``<name>_mismatch`` or the evidence's code; empty if it holds.
        detail: for the operator, e.g. the failed controls of a posture.
        files: of ``config``: what was measured, as in :class:`attestor.facts.ConfigFacts`.
    """

    name: str
    approved: tuple[str, ...]
    measured: tuple[str, ...]
    outcome: Outcome
    code: str = ""
    detail: str = ""
    remedy: str = ""
    files: tuple[tuple[str, str], ...] = ()


def measure_items(evidence: Evidence, block: AttestBlock) -> tuple[Item, ...]:
    """Every item that ``block`` asks for, compared; in the order in which they are reported."""
    found = (compare(evidence, block) for compare in _COMPARISONS)
    items = tuple(item for item in found if item is not None)
    if {item.name for item in items} == {"uid"} and not block.unsafe_uid_only:
        return (*items, _item("unsafe_uid_only", ("true",), ("false",), False))
    return items


def _image(evidence: Evidence, block: AttestBlock) -> Item | None:
    if not block.image:
        return None
    container = evidence.container
    if container is None:
        return _item("image", block.image, (NO_CONTAINER,), False)
    if isinstance(container, Unreadable):
        return _unreadable("image", block.image, container)
    if isinstance(container.image_digests, Unreadable):
        return _unreadable("image", block.image, container.image_digests)
    measured = tuple(sorted(container.image_digests))
    return _item("image", block.image, measured, not container.image_digests.isdisjoint(block.image))


def _exe(evidence: Evidence, block: AttestBlock) -> Item | None:
    if not block.exe:
        return None
    digest = _of_process(evidence, lambda facts: facts.exe_sha256)
    if isinstance(digest, Unreadable):
        return _unreadable("exe", block.exe, digest)
    return _item("exe", block.exe, (digest,), digest in block.exe)


def _children(evidence: Evidence, block: AttestBlock) -> Item | None:
    if not block.children:
        return None
    own = _of_process(evidence, lambda facts: facts.exe_sha256)
    if isinstance(own, Unreadable) or isinstance(evidence.children, Unreadable):
        why = own if isinstance(own, Unreadable) else evidence.children
        return _unreadable("children", block.children, why) if isinstance(why, Unreadable) else None
    # Between fork and exec a child executes what its parent does.
    measured = tuple(sorted(evidence.children - {own}))
    return _item("children", block.children, measured or (_NONE,), set(measured) <= set(block.children))


def _config(evidence: Evidence, block: AttestBlock) -> Item | None:
    if block.config is None:
        return None
    facts = evidence.config.get(block.config.files, _NOT_MEASURED)
    if isinstance(facts, Unreadable) and facts.code == _MISSING:
        # That a declared file does not exist is an answer: these are not the approved files.
        return _item("config", block.config.digests, (_MISSING,), False, detail=facts.detail)
    if isinstance(facts, Unreadable):
        return _unreadable("config", block.config.digests, facts)
    item = _item("config", block.config.digests, (facts.root,), facts.root in block.config.digests)
    return replace(item, files=facts.files)


def name_changed_files(item: Item, held: tuple[tuple[str, str], ...]) -> Item:
    """The item with the files named that differ from ``held``, those of the last time that it held.

    A document has one digest over all files: only what held before says which of them it is.
    """
    before, now = dict(held), dict(item.files)
    found = {
        "changed": [path for path, digest in now.items() if before.get(path, digest) != digest],
        "new": [path for path in now if path not in before],
        "gone": [path for path in before if path not in now],
    }
    named = [f"{what}: {_some(paths)}" for what, paths in found.items() if paths]
    return replace(item, detail="; ".join(named)) if named else item


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED_FILES} more" if len(paths) > _NAMED_FILES else ""
    return ", ".join(paths[:_NAMED_FILES]) + more


def _unit(evidence: Evidence, block: AttestBlock) -> Item | None:
    if block.unit is None:
        return None
    units = _of_process(evidence, lambda facts: facts.units)
    if isinstance(units, Unreadable):
        return _unreadable("unit", (block.unit,), units)
    shown = [unit for unit in units if unit.startswith("/") == block.unit.startswith("/")] or [_NO_UNIT]
    return _item("unit", (block.unit,), tuple(shown), block.unit in units)


def _uid(evidence: Evidence, block: AttestBlock) -> Item | None:
    if block.uid is None:
        return None
    uid = _of_process(evidence, lambda facts: facts.uid)
    if isinstance(uid, Unreadable):
        return _unreadable("uid", (str(block.uid),), uid)
    return _item("uid", (str(block.uid),), (str(uid),), uid == block.uid)


def _gid(evidence: Evidence, block: AttestBlock) -> Item | None:
    if block.gid is None:
        return None
    gids = _of_process(evidence, lambda facts: facts.gids)
    if isinstance(gids, Unreadable):
        return _unreadable("gid", (str(block.gid),), gids)
    return _item("gid", (str(block.gid),), tuple(map(str, gids)), block.gid in gids)


def _labels(evidence: Evidence, block: AttestBlock) -> Item | None:
    if not block.container_labels:
        return None
    approved = tuple(f"{key}={value}" for key, value in block.container_labels)
    container: ContainerFacts | Unreadable | None = evidence.container
    if container is None:
        return _item("container_labels", approved, (NO_CONTAINER,), False)
    if isinstance(container, Unreadable):
        return _unreadable("container_labels", approved, container)
    labels = container.labels
    measured = tuple(f"{key}={labels[key]}" for key, _ in block.container_labels if key in labels)
    return _item("container_labels", approved, measured, measured == approved)


def _posture(evidence: Evidence, block: AttestBlock) -> Item | None:
    if block.posture is None:
        return None
    approved = (block.posture.value,)
    facts = evidence.posture
    if isinstance(facts, Unreadable):
        return _unreadable("posture", approved, facts)
    failed = [
        f"{each.control} ({each.level}): {each.detail}"
        for each in facts.failed
        if each.level.rank <= block.posture.rank
    ]
    item = _item("posture", approved, (facts.level.value,), facts.level.rank >= block.posture.rank)
    secrets = find_secrets(evidence, block)
    if secrets and not isinstance(secrets, Unreadable):
        failed.append(f"static secrets: {_some(list(map(str, secrets)))}")
    return replace(item, detail="; ".join(failed))


def _static_secrets(evidence: Evidence, block: AttestBlock) -> Item | None:
    if not block.forbid_static_secrets:
        return None
    found = find_secrets(evidence, block)
    if isinstance(found, Unreadable):
        return _unreadable(_FORBIDDEN, (_NONE,), found)
    measured = tuple(map(str, found)) or (_NONE,)
    return _item(_FORBIDDEN, (_NONE,), measured, not found)


def find_secrets(evidence: Evidence, block: AttestBlock) -> tuple[FoundSecret, ...] | Unreadable:
    """The static secrets in the container's environment and in the files that ``block`` declares.

    Unreadable if either could not be looked at: that none was found then says nothing.
    """
    parts: list[ContainerFacts | ConfigFacts | Unreadable | None] = [evidence.container]
    if block.config is not None:
        parts.append(evidence.config.get(block.config.files, _NOT_MEASURED))
    found: set[FoundSecret] = set()
    for part in parts:
        if isinstance(part, Unreadable):
            return part
        found.update(() if part is None else part.secrets)
    return tuple(sorted(found))


# What says most about a changed component stands first: the first item that differs gives the code.
_COMPARISONS: tuple[Callable[[Evidence, AttestBlock], Item | None], ...] = (
    _image,
    _exe,
    _children,
    _config,
    _unit,
    _uid,
    _gid,
    _labels,
    _static_secrets,
    _posture,
)


def _of_process(evidence: Evidence, read: Callable[[ProcessFacts], _T]) -> _T | Unreadable:
    return evidence.process if isinstance(evidence.process, Unreadable) else read(evidence.process)


def _item(name: str, approved: tuple[str, ...], measured: tuple[str, ...], holds: bool, *, detail: str = "") -> Item:
    if holds:
        return Item(name, approved, measured, Outcome.HOLDS)
    return Item(name, approved, measured, Outcome.DIFFERS, f"{name}_mismatch", detail)


def _unreadable(name: str, approved: tuple[str, ...], why: Unreadable) -> Item:
    return Item(name, approved, (), Outcome.UNREADABLE, why.code, why.detail, why.remedy)
