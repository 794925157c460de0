"""Static secrets: which credentials lie in a container's environment and in declared files, by rule and place.

Owns: what is looked at, and where something was found. Does not own: the rules
(``attestor.collectors.secret_rules``). The environment is the one that the engine was told to set, never that of
the process, which can rewrite it.

Security: values are neither returned nor kept; nothing here may put one into an error or a log.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from attestor.collectors.secret_rules import LONGEST_MATCH_BYTES, match_rules, match_variable
from attestor.digests import FileUnstable
from attestor.facts import FoundSecret

MAX_FOUND: Final = 64
_MAX_NAME_CHARS: Final = 128
_CHUNK_BYTES: Final = 1 << 18
_DEFAULT_ENTRIES: Final = 8192


def find_in_environment(variables: Iterable[str]) -> tuple[FoundSecret, ...]:
    """What stands in ``NAME=value`` texts, by rule and variable; ordered, at most ``MAX_FOUND``."""
    found: set[FoundSecret] = set()
    for variable in variables:
        name, _, value = variable.partition("=")
        place = "environment" if match_rules(name.encode()) else f"environment {_printable(name)}"
        rules = match_variable(name, value.encode()) | match_rules(name.encode())
        found.update(FoundSecret(rule, place) for rule in rules)
    return bound(found)


def bound(found: Iterable[FoundSecret]) -> tuple[FoundSecret, ...]:
    """``found`` in order and within bounds; one is as telling as a thousand."""
    return tuple(sorted(found)[:MAX_FOUND])


class SecretScans:
    """Which rules the content of a file matches: a bounded, thread-safe map from digest to rules."""

    def __init__(self, entries: int = _DEFAULT_ENTRIES) -> None:
        self._entries = entries
        self._rules: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def rules_of(self, fd: int, digest: str) -> frozenset[str]:
        """The rules that the content of ``fd`` matches.

        Args:
            fd: of a regular file, open for reading.
            digest: ``sha256:<hex>`` of it, as measured.

        Raises:
            FileUnstable: it no longer has that content.
            OSError: it cannot be read.
        """
        with self._lock:
            known = self._rules.get(digest)
            if known is not None:
                self._rules.move_to_end(digest)
                return known
        found = _scan(fd, digest)
        with self._lock:
            self._rules[digest] = found
            while len(self._rules) > self._entries:
                self._rules.popitem(last=False)
        return found


def _scan(fd: int, digest: str) -> frozenset[str]:
    found: set[str] = set()
    hashed, offset, tail = hashlib.sha256(), 0, b""
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        hashed.update(chunk)
        offset += len(chunk)
        found |= match_rules(tail + chunk)
        tail = chunk[-LONGEST_MATCH_BYTES:]
    if f"sha256:{hashed.hexdigest()}" != digest:
        raise FileUnstable("a declared file changed between being hashed and being searched")
    return frozenset(found)


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:_MAX_NAME_CHARS])
