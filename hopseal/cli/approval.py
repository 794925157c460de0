"""Writing measured digests into a document, leaving the rest of the text as its author wrote it.

Owns: finding the blocks in the text and what they become. Does not own: measuring, or whether the
change is right; a human reviews and commits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import yaml

from hopseal.cli.yaml_text import Edit, apply_edits, child, join_alternatives, list_span, render_list, source_of
from hopseal.errors import InvalidError

ITEMS = ("image", "exe", "config")


class ApprovalMode(StrEnum):
    """What becomes of digests that were approved before."""

    REPLACE = "replace"  # they go
    ADD = "add"  # they stay, what runs is an alternative beside them
    PRUNE = "prune"  # those that run stay; nothing new is approved


@dataclass(frozen=True, slots=True)
class Measured:
    """What one running instance of a component is.

    Args:
        image: digests of the image, each of which names it; empty outside containers.
        exe: digest of the executable, None if unread.
        config: root over the declared files, None if none were asked for.
    """

    image: tuple[str, ...]
    exe: str | None
    config: str | None

    def digests(self, item: str) -> tuple[str, ...]:
        """Every digest that ``item`` may be approved by."""
        single = {"exe": self.exe, "config": self.config}
        return self.image if item == "image" else tuple(filter(None, [single[item]]))


@dataclass(frozen=True, slots=True)
class Change:
    """What changes for one item of a component; ``item`` is image, exe, config or alternative."""

    component: str
    item: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """One alternative and its lists of digests, by item."""

    node: yaml.MappingNode
    lists: Mapping[str, yaml.SequenceNode]

    def digests(self, item: str) -> tuple[str, ...]:
        return tuple(str(each.value) for each in self.lists[item].value)

    def holds_for(self, measured: Measured) -> bool:
        return all(set(self.digests(item)) & set(measured.digests(item)) for item in self.lists)

    @property
    def all_digests(self) -> tuple[str, ...]:
        return tuple(digest for item in self.lists for digest in self.digests(item))


def approve_measured(
    text: str, measured: Mapping[str, Sequence[Measured]], mode: ApprovalMode
) -> tuple[str, tuple[Change, ...]]:
    """The document with what was measured approved, and what changed.

    Args:
        text: a valid document.
        measured: component name to its running instances.
        mode: what becomes of digests that were approved before.

    Raises:
        InvalidError: a component has several alternatives and only its author knows which one changed
            (``attest_has_alternatives``).
    """
    edits: list[Edit] = []
    changes: list[Change] = []
    for name, attest in _attested(text):
        running = measured.get(name, ())
        if not running:
            continue
        nodes = attest.value if isinstance(attest, yaml.SequenceNode) else [attest]
        blocks = [_block(node) for node in nodes if isinstance(node, yaml.MappingNode)]
        if mode is ApprovalMode.REPLACE:
            more = _replace(name, blocks, running)
        elif mode is ApprovalMode.ADD:
            more = _add(text, name, attest, blocks, running)
        else:
            more = _prune(text, name, attest, blocks, running)
        edits += more[0]
        changes += more[1]
    return apply_edits(text, edits), tuple(changes)


def _replace(name: str, blocks: Sequence[_Block], running: Sequence[Measured]) -> tuple[list[Edit], list[Change]]:
    if len(blocks) > 1:
        raise InvalidError(
            "attest_has_alternatives",
            f"component {name} has several alternatives, and only its author knows which one changed",
            remedy="hopseal agents approve --prune first, or --add, or edit the document by hand",
        )
    edits: list[Edit] = []
    changes: list[Change] = []
    for item, node in blocks[0].lists.items():
        before = blocks[0].digests(item)
        after = _chosen(item, before, running)
        if after and after != before:
            edits.append(Edit(*list_span(node), render_list(after)))
            changes.append(Change(name, item, before, after))
    return edits, changes


def _add(
    text: str, name: str, attest: yaml.Node, blocks: Sequence[_Block], running: Sequence[Measured]
) -> tuple[list[Edit], list[Change]]:
    base = blocks[-1]
    sources = [source_of(text, each.node) for each in blocks]
    changes: list[Change] = []
    for measured in running:
        if any(block.holds_for(measured) for block in blocks):
            continue
        chosen = {item: _chosen(item, base.digests(item), [measured]) or base.digests(item) for item in base.lists}
        edits = [Edit(*list_span(node), render_list(chosen[item])) for item, node in base.lists.items()]
        source = source_of(text, base.node, edits)
        if source not in sources:
            sources.append(source)
            changes.append(Change(name, "alternative", (), tuple(each for some in chosen.values() for each in some)))
    return ([join_alternatives(text, attest, base.node, sources)] if changes else []), changes


def _prune(
    text: str, name: str, attest: yaml.Node, blocks: Sequence[_Block], running: Sequence[Measured]
) -> tuple[list[Edit], list[Change]]:
    kept = [block for block in blocks if any(block.holds_for(measured) for measured in running)]
    if not kept:  # pruning everything would leave a component that nothing can be
        return [], []
    changes = [Change(name, "alternative", block.all_digests, ()) for block in blocks if block not in kept]
    if changes:
        sources = [source_of(text, block.node) for block in kept]
        return [join_alternatives(text, attest, kept[-1].node, sources)], changes
    edits: list[Edit] = []
    for block in kept:
        fitting = [measured for measured in running if block.holds_for(measured)]
        for item, node in block.lists.items():
            before = block.digests(item)
            after = tuple(each for each in before if any(each in measured.digests(item) for measured in fitting))
            if after != before:
                edits.append(Edit(*list_span(node), render_list(after)))
                changes.append(Change(name, item, before, after))
    return edits, changes


def _chosen(item: str, before: Sequence[str], running: Sequence[Measured]) -> tuple[str, ...]:
    """One digest for each instance: the one that was approved before, if any of its digests was."""
    found: list[str] = []
    for measured in running:
        digests = measured.digests(item)
        found += [each for each in digests if each in before][:1] or digests[:1]
    return tuple(dict.fromkeys(found))


def _attested(text: str) -> Iterator[tuple[str, yaml.Node]]:
    """Each component's name and its ``attest``."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    components = child(child(root, "spec"), "components")
    for node in components.value if isinstance(components, yaml.SequenceNode) else ():
        name, attest = child(node, "name"), child(node, "attest")
        if isinstance(name, yaml.ScalarNode) and attest is not None:
            yield str(name.value), attest


def _block(node: yaml.MappingNode) -> _Block:
    places = {
        "image": child(node, "image"),
        "exe": child(node, "exe"),
        "config": child(child(node, "config"), "digest"),
    }
    return _Block(node, {item: found for item in ITEMS if isinstance(found := places[item], yaml.SequenceNode)})
