"""One YAML file as nodes that know their lines, without YAML's surprises.

Owns: size and encoding of the file; no anchors, tags or second document; no key twice.
Does not own: what the values mean (``hopseal.settings``).
"""

from __future__ import annotations

from typing import Protocol

import yaml

MAX_SETTINGS_BYTES = 1_048_576
STR_TAG = "tag:yaml.org,2002:str"


class Report(Protocol):
    """Takes note of a mistake."""

    def __call__(self, line: int, message: str, remedy: str = "", /) -> None:
        """At ``line``, counted from 1."""


def read_node(data: bytes, report: Report) -> yaml.Node | None:
    """The file's only document, or None if it is empty or a mistake was reported."""
    if len(data) > MAX_SETTINGS_BYTES:
        report(1, f"larger than {MAX_SETTINGS_BYTES} bytes")
        return None
    try:
        return _compose(data.decode("utf-8"), report)
    except UnicodeDecodeError as error:
        report(data[: error.start].count(b"\n") + 1, "not UTF-8", "save the file as UTF-8")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        report(line, f"not YAML: {error.problem}", "check indentation, quotes and brackets")
    except (yaml.YAMLError, RecursionError) as error:
        report(1, f"not YAML: {type(error).__name__}", "remove control characters and deep nesting")
    return None


def mapping_of(node: yaml.Node | None, prefix: str, report: Report) -> dict[str, yaml.Node] | None:
    """Key to value node; None, reported, if ``node`` is no mapping. ``prefix`` is its dotted path, for messages."""
    if not isinstance(node, yaml.MappingNode):
        line = 1 if node is None else node_line(node)
        report(line, f"{prefix.rstrip('.') or 'the file'}: must be a mapping of keys to values")
        return None
    values: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != STR_TAG:
            report(node_line(key), f"{prefix}: every key must be text")
        elif key.value in values:
            report(node_line(key), f"{prefix}{key.value}: stands here twice", "remove one")
        else:
            values[key.value] = value
    return values


def node_line(node: yaml.Node) -> int:
    """Where ``node`` begins, counted from 1."""
    return int(node.start_mark.line) + 1


def _compose(text: str, report: Report) -> yaml.Node | None:
    loader = yaml.SafeLoader(text)
    try:
        # Anchors would let one line stand for many, and a reader of the file could not see which;
        # a tag would say that a value is something else than it looks like.
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
                line = token.start_mark.line + 1
                report(line, "anchors, aliases and tags are not allowed", "write the value out")
                return None
        return loader.get_single_node()
    finally:
        loader.dispose()
