"""A strict reader for the daemons' configuration files: every mistake at once, with line and remedy.

Owns: types and bounds of values, unknown keys.
Does not own: YAML itself (``hopseal.yaml_nodes``); reading a file (``hopseal.settings_file``); which keys a daemon has
(``attestor.config``, ``broker.config``).

Use: open the file with :func:`hopseal.settings_file.parse_settings`, ask the sections for values, and call
:meth:`Settings.finish` before using any of them. A getter that meets a mistake records it and
returns a value of the right type, so that one run finds all mistakes; ``finish`` raises if there
was any, so no such value is ever used.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from hopseal.errors import HopsealError, InvalidError
from hopseal.mistakes import Mistake
from hopseal.yaml_nodes import STR_TAG, mapping_of, node_line

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?", re.ASCII)
_BOOL_TAG = "tag:yaml.org,2002:bool"

_T = TypeVar("_T")


class SettingsInvalidError(InvalidError):
    """A configuration file has mistakes (code ``config_invalid``); all of them are in ``mistakes``."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("config_invalid", "\n".join(map(str, mistakes)))
        self.mistakes = mistakes


@dataclass(slots=True)
class Settings:
    """One configuration file while it is read: its mistakes so far and what was asked for."""

    file: str
    mistakes: list[Mistake] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def add(self, line: int, message: str, remedy: str = "") -> None:
        """Record a mistake."""
        self.mistakes.append(Mistake(self.file, line, message, remedy))

    def finish(self) -> None:
        """Check that every key was asked for.

        Raises:
            SettingsInvalidError: any mistake was found, here or before.
        """
        for section in self.sections:
            section.report_unknown()
        if self.mistakes:
            raise SettingsInvalidError(tuple(sorted(set(self.mistakes))))


class Section:
    """One mapping of the file; getters are told the key and, where it may be absent, a default.

    Args:
        settings: the file that this is part of.
        prefix: dotted path of this section with a trailing dot; empty for the file itself.
        line: where it begins, counted from 1.
        values: key to value node; None if the section is absent.
    """

    def __init__(self, settings: Settings, prefix: str, line: int, values: dict[str, yaml.Node] | None) -> None:
        self._settings = settings
        self._prefix = prefix
        self._values = values or {}
        self._known: set[str] = set()
        self.line = line
        self.is_present = values is not None
        settings.sections.append(self)

    def line_of(self, key: str) -> int:
        """Where the value of ``key`` stands, or where the section begins if it is absent."""
        node = self._values.get(key)
        return self.line if node is None else node_line(node)

    def mistake(self, key: str, message: str, remedy: str = "", *, line: int | None = None) -> None:
        """Record a mistake about ``key``, at ``line`` if one entry of it is wrong."""
        self._settings.add(line or self.line_of(key), f"{self._prefix}{key}: {message}", remedy)

    def report(self, message: str, remedy: str = "") -> None:
        """Record a mistake about this section as a whole."""
        self._settings.add(self.line, f"{self._prefix.removesuffix('.') or 'the file'}: {message}", remedy)

    def text(self, key: str, *, default: str | None = None) -> str:
        """Text; required without ``default``."""
        node = self._take(key, required=default is None)
        if node is None:
            return default or ""
        if not isinstance(node, yaml.ScalarNode) or node.tag != STR_TAG or not node.value:
            self.mistake(key, "must be text", "put it in quotes")
            return default or ""
        return str(node.value)

    def parsed(self, key: str, parse: Callable[[str], _T], fallback: _T, *, default: str | None = None) -> _T:
        """What ``parse`` makes of the text; a ``HopsealError`` of it is a mistake and gives ``fallback``."""
        text = self.text(key, default=default)
        if not text:
            return fallback
        try:
            return parse(text)
        except HopsealError as error:
            self.mistake(key, " ".join(filter(None, (error.message, error.detail))), error.remedy)
            return fallback

    def path(self, key: str, *, default: str | None = None) -> Path:
        """An absolute path without ``..``."""
        text = self.text(key, default=default)
        path = Path(text or "/")
        if text and (not path.is_absolute() or ".." in path.parts or "\0" in text):
            self.mistake(key, f"{text!r} is not an absolute path", "write it in full, beginning with /, without ..")
        return path

    def choice(self, key: str, choices: tuple[str, ...], *, default: str | None = None) -> str:
        """One of ``choices``."""
        text = self.text(key, default=default)
        if text and text not in choices:
            self.mistake(
                key, f"{text!r} is none of {', '.join(choices)}", _suggest(text, choices, otherwise="write one of them")
            )
            return default or choices[0]
        return text or choices[0]

    def integer(self, key: str, *, default: int | None = None, minimum: int, maximum: int) -> int:
        """A whole number in bounds, both included."""
        node = self._take(key, required=default is None)
        fallback = minimum if default is None else default
        if node is None:
            return fallback
        if not isinstance(node, yaml.ScalarNode) or node.style is not None or _INTEGER.fullmatch(node.value) is None:
            self.mistake(key, "must be a whole number")
            return fallback
        return self._bounded(key, int(node.value), fallback, minimum, maximum)

    def number(self, key: str, *, default: float | None = None, minimum: float, maximum: float) -> float:
        """A decimal number in bounds, both included."""
        node = self._take(key, required=default is None)
        fallback = minimum if default is None else default
        if node is None:
            return fallback
        if not isinstance(node, yaml.ScalarNode) or node.style is not None or _NUMBER.fullmatch(node.value) is None:
            self.mistake(key, "must be a number")
            return fallback
        return self._bounded(key, float(node.value), fallback, minimum, maximum)

    def flag(self, key: str, *, default: bool) -> bool:
        """``true`` or ``false``."""
        node = self._take(key, required=False)
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode) or node.tag != _BOOL_TAG or node.value not in {"true", "false"}:
            self.mistake(key, "must be true or false")
            return default
        return bool(node.value == "true")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, each once; empty if absent."""
        return tuple(text for _, text in self.located_texts(key))

    def located_texts(self, key: str) -> tuple[tuple[int, str], ...]:
        """A list of texts, each once and with its line; empty if absent."""
        found: dict[str, int] = {}
        for node in self._list(key):
            if not isinstance(node, yaml.ScalarNode) or node.tag != STR_TAG or not node.value:
                self.mistake(key, "every entry must be text", "put it in quotes", line=node_line(node))
            elif node.value in found:
                self.mistake(key, f"{node.value!r} is listed twice", "remove one", line=node_line(node))
            else:
                found[str(node.value)] = node_line(node)
        return tuple((line, text) for text, line in found.items())

    def texts_or_sections(self, key: str) -> tuple[tuple[int, str] | Section, ...]:
        """A list of texts, each with its line, and mappings; empty if absent."""
        found: list[tuple[int, str] | Section] = []
        for index, node in enumerate(self._list(key)):
            if isinstance(node, yaml.ScalarNode) and node.tag == STR_TAG and node.value:
                found.append((node_line(node), str(node.value)))
            else:
                found.append(self._settings_section(node, f"{self._prefix}{key}[{index}].", node_line(node)))
        return tuple(found)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A mapping of text to text, sorted by key; empty if absent."""
        section = self.section(key)
        return tuple((name, section.text(name)) for name in sorted(section.keys()))

    def section(self, key: str, *, required: bool = False) -> Section:
        """The mapping under ``key``; a section without values if absent."""
        node = self._take(key, required=required)
        return self._settings_section(node, f"{self._prefix}{key}.", self.line_of(key))

    def section_list(self, key: str) -> tuple[Section, ...]:
        """A list of mappings; empty if absent."""
        return tuple(
            self._settings_section(node, f"{self._prefix}{key}[{index}].", node_line(node))
            for index, node in enumerate(self._list(key))
        )

    def is_empty(self, key: str) -> bool:
        """Whether ``key`` is absent or has an empty list; False for anything that is no list."""
        node = self._take(key, required=False)
        return node is None or (isinstance(node, yaml.SequenceNode) and not node.value)

    def one_or_more(self, key: str) -> tuple[Section, ...]:
        """A mapping, or a list of mappings, required; a lone mapping gives one section."""
        node = self._take(key, required=True)
        if isinstance(node, yaml.SequenceNode):
            return self.section_list(key)
        return () if node is None else (self.section(key),)

    def keys(self) -> frozenset[str]:
        """The keys that the file has here."""
        return frozenset(self._values)

    def __contains__(self, key: str) -> bool:
        """Whether the file has ``key`` here; asking makes it a known key."""
        self._known.add(key)
        return key in self._values

    def is_scalar(self, key: str) -> bool:
        """Whether ``key`` has a single value, not a list or mapping; for keys that have a short form."""
        return isinstance(self._take(key, required=False), yaml.ScalarNode)

    def report_unknown(self) -> None:
        """Record a mistake for each key that nobody asked for."""
        for key in self._values.keys() - self._known:
            self.mistake(key, "unknown key", _suggest(key, tuple(self._known)))

    def _take(self, key: str, *, required: bool) -> yaml.Node | None:
        self._known.add(key)
        node = self._values.get(key)
        if node is None and required and self.is_present:
            self._settings.add(self.line, f"{self._prefix}{key}: missing", "add it")
        return node

    def _list(self, key: str) -> list[yaml.Node]:
        node = self._take(key, required=False)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.mistake(key, "must be a list")
            return []
        return list(node.value)

    def _settings_section(self, node: yaml.Node | None, prefix: str, line: int) -> Section:
        values = None if node is None else mapping_of(node, prefix, self._settings.add)
        return Section(self._settings, prefix, line, values)

    def _bounded(self, key: str, value: _T, fallback: _T, minimum: float, maximum: float) -> _T:
        if not minimum <= value <= maximum:  # type: ignore[operator]  # only numbers come here
            self.mistake(key, f"{value} is not between {minimum} and {maximum}")
            return fallback
        return value


def _suggest(text: str, choices: tuple[str, ...], *, otherwise: str = "remove it") -> str:
    close = difflib.get_close_matches(text, choices, n=1)
    return f"did you mean {close[0]}?" if close else otherwise
