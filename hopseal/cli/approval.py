"""Writing measured digests into a document, leaving the rest of the text as its author wrote it.

Owns: finding the lists in the text and what they become. Does not own: measuring, or whether the
change is right; a human reviews and commits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hopseal.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Measured:
    """What runs now, of one component.

    Args:
        image: digests of the image, any of which names it; empty outside containers.
        exe: digest of the executable, None if unread.
        config: root over the declared files, None if none were asked for.
    """

    image: tuple[str, ...]
    exe: str | None
    config: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One list of digests that changes; ``item`` is image, exe or config."""

    component: str
    item: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


def approve_measured(
    text: str, measured: Mapping[str, Sequence[Measured]], *, add: bool, prune: bool
) -> tuple[str, tuple[Change, ...]]:
    """The document with what was measured approved, and which lists changed.

    Args:
        text: a valid document.
        measured: component name to what runs of it now.
        add: keep what was approved before, beside the new.
        prune: only remove what does not run now; nothing new is approved.
    """
    edits: list[_Edit] = []
    changes: list[Change] = []
    for name, component in _components(text):
        running = measured.get(name, ())
        if not running:
            continue
        blocks = _blocks(component)
        if len(blocks) > 1 and not prune:
            raise InvalidError(
                "attest_has_alternatives",
                f"component {name} has several alternatives, and only its author knows which one changed",
                remedy="hopseal agents approve --prune first, or edit the document by hand",
            )
        for block in blocks:
            for item, node in _digest_lists(block):
                before = tuple(str(each.value) for each in node.value)
                after = _after(before, item, running, add=add, prune=prune)
                if after != before:
                    changes.append(Change(name, item, before, after))
                    edits.append(_Edit(*_span(node), _render(after)))
    for edit in sorted(edits, key=lambda each: each.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text, tuple(changes)


def _after(
    before: tuple[str, ...], item: str, running: Sequence[Measured], *, add: bool, prune: bool
) -> tuple[str, ...]:
    found: list[str] = []
    for each in running:
        choices = {"image": each.image, "exe": (each.exe,), "config": (each.config,)}[item]
        known = [choice for choice in choices if choice is not None]
        if prune:
            found += [digest for digest in before if digest in known]
        elif not any(digest in before for digest in known):
            found += known[:1]
        else:
            found += [digest for digest in before if digest in known]
    kept = before if add else ()
    after = tuple(dict.fromkeys((*kept, *found)))
    # Pruning everything would leave a component that nothing can be.
    return after or before


def _components(text: str) -> Iterator[tuple[str, yaml.MappingNode]]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spec = _get(root, "spec")
    listed = _get(spec, "components")
    for node in listed.value if isinstance(listed, yaml.SequenceNode) else ():
        name = _get(node, "name")
        if isinstance(node, yaml.MappingNode) and isinstance(name, yaml.ScalarNode):
            yield str(name.value), node


def _blocks(component: yaml.MappingNode) -> list[yaml.Node]:
    attest = _get(component, "attest")
    return list(attest.value) if isinstance(attest, yaml.SequenceNode) else [attest] if attest is not None else []


def _digest_lists(block: yaml.Node) -> Iterator[tuple[str, yaml.SequenceNode]]:
    for item, node in (
        ("image", _get(block, "image")),
        ("exe", _get(block, "exe")),
        ("config", _get(_get(block, "config"), "digest")),
    ):
        if isinstance(node, yaml.SequenceNode):
            yield item, node


def _get(node: Any, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _span(node: yaml.SequenceNode) -> tuple[int, int]:
    """Where the list stands; a block list ends with its last entry, not where the next key begins."""
    if node.flow_style:
        return node.start_mark.index, node.end_mark.index
    return node.start_mark.index, node.value[-1].end_mark.index


def _render(digests: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{digest}"' for digest in digests) + "]"
