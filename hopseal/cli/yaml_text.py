"""Changing values inside YAML text without touching the text around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import yaml


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters ``start`` to ``end`` become ``text``."""

    start: int
    end: int
    text: str


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """``text`` with every edit made; edits do not overlap."""
    for edit in sorted(edits, key=lambda each: each.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value under ``key`` if ``node`` is a mapping that has it."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def list_span(node: yaml.SequenceNode) -> tuple[int, int]:
    """Where the list stands; a block list ends with its last entry, not where the next key begins."""
    end = node.end_mark if node.flow_style or not node.value else node.value[-1].end_mark
    return node.start_mark.index, end.index


def render_list(values: Sequence[str]) -> str:
    """A list of texts on one line."""
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def source_of(text: str, node: yaml.Node, edits: Iterable[Edit] = ()) -> str:
    """The text of ``node``, with ``edits`` of the whole text made, as if it began in the first column."""
    start = node.start_mark.index
    own = [Edit(each.start - start, each.end - start, each.text) for each in edits]
    return _dedent(apply_edits(text[start : _end(text, node)], own), node.start_mark.column)


def join_alternatives(text: str, attest: yaml.Node, base: yaml.Node, sources: Sequence[str]) -> Edit:
    """The edit that makes ``attest`` a list of ``sources``, in the style that it has.

    Args:
        text: the whole document.
        attest: the value to replace: one block, or a list of them.
        base: one of the blocks, whose style the list takes.
        sources: see :func:`source_of`.
    """
    start, end = attest.start_mark.index, _end(text, attest)
    if isinstance(attest, yaml.SequenceNode) and not attest.flow_style:
        end = _end(text, attest.value[-1])
    elif getattr(base, "flow_style", False):
        return Edit(start, end, "[" + ", ".join(sources) + "]")
    margin = " " * attest.start_mark.column
    entries = ["- " + source.replace("\n", f"\n{margin}  ") for source in sources]
    return Edit(start, end, f"\n{margin}".join(entries))


def _end(text: str, node: yaml.Node) -> int:
    """Where ``node`` ends: a block's end mark lies behind the blank lines and comments that follow it."""
    start, end = node.start_mark.index, node.end_mark.index
    if getattr(node, "flow_style", True):
        return int(end)
    lines = text[start:end].split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return int(start + len("\n".join(lines)))


def _dedent(source: str, columns: int) -> str:
    first, *rest = source.split("\n")
    return "\n".join([first, *[line[columns:] if not line[:columns].strip() else line for line in rest]])
