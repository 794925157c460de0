"""Reading typed values out of a section, beyond what ``hopseal.settings`` offers."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from hopseal.errors import HopsealError
from hopseal.settings import Section

_E = TypeVar("_E", bound=StrEnum)


def parsed_texts(section: Section, key: str, parse: Callable[[str], str]) -> tuple[str, ...]:
    """The list of texts under ``key`` that ``parse`` accepts; the others are mistakes at their line."""
    found: list[str] = []
    for line, text in section.located_texts(key):
        try:
            found.append(parse(text))
        except HopsealError as error:
            section.mistake(key, error.message, error.remedy, line=line)
    return tuple(found)


def read_choice(section: Section, key: str, kind: type[_E], *, default: _E | None = None) -> _E:
    """A member of ``kind``; required without ``default``."""
    return kind(section.choice(key, tuple(kind), default=default))
