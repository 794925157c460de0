"""What the processes below one execute.

Owns: finding the descendants and hashing their executables. Does not own: what may run there (``attestor.items``).

A sample: a child that begins and ends between two measurements is not seen, nor one whose parent ended and which was
adopted from outside. Two looks in a row have to find the same processes, because the kernel's list of children is only
whole while nobody forks or exits. Children that have exited but were not waited for execute nothing.

Blocking; executables may lie on a filesystem that does not answer.
Source: proc(5), ``/proc/PID/task/TID/children``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from attestor.collectors.process import measure_exe
from attestor.digests import DigestCache
from attestor.facts import Unreadable
from attestor.peer import PeerGone, read_proc

MAX_DESCENDANTS: Final = 256
_ATTEMPTS: Final = 5
_NO_LIST = Unreadable("children_unreadable", "this kernel does not list children", "CONFIG_PROC_CHILDREN is needed")
_TOO_MANY = Unreadable("children_too_many", f"more than {MAX_DESCENDANTS} processes below it")
_UNSTEADY = Unreadable("children_unsteady", "the processes below it kept changing", "let it start fewer processes")


def measure_children(pid: int, cache: DigestCache, limit_bytes: int) -> frozenset[str] | Unreadable:
    """``sha256:<hex>`` of every program that a descendant of ``pid`` executes.

    Raises:
        OSError: the kernel does not list children.
    """
    if not Path("/proc/thread-self/children").exists():
        return _NO_LIST
    before: dict[int, str] | None = None
    for _ in range(_ATTEMPTS):
        found: dict[int, str] = {}
        pending = _children(pid)
        while pending:
            child = pending.pop()
            if child in found:
                continue
            if len(found) >= MAX_DESCENDANTS:
                return _TOO_MANY
            digest = _digest(child, cache, limit_bytes)
            if isinstance(digest, Unreadable):
                return digest
            found[child] = digest
            pending += _children(child)
        if found == before:
            return frozenset(found.values()) - {""}
        before = found
    return _UNSTEADY


def _digest(pid: int, cache: DigestCache, limit_bytes: int) -> str | Unreadable:
    """Of its executable; empty for a process that executes nothing any more."""
    try:
        measured = measure_exe(pid, cache, limit_bytes)
    except PeerGone:
        return ""
    if isinstance(measured, Unreadable):
        return Unreadable(
            measured.code.replace("exe_", "children_", 1), f"pid {pid}: {measured.detail}", measured.remedy
        )
    return measured[1]


def _children(pid: int) -> list[int]:
    """Of all its threads; none if it has exited."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return found
    for thread in threads:
        try:
            found += map(int, read_proc(pid, f"task/{thread}/children").split())
        except PeerGone:
            continue
    return found
