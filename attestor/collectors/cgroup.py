"""What ``/proc/PID/cgroup`` says: a path, a systemd unit, container ids. Pure.

Owns: the text form and which id counts. Does not own: asking an engine whether
an id is its container (``attestor.collectors.container``).

1. Every line is ``hierarchy:controllers:path``; a line that is not refuses the whole text.
2. An id is 64 hexadecimal digits that fill a path component, after an optional
   runtime prefix (``docker-``, ``libpod-``, ``…:cri-containerd:``) and before an optional ``.scope``.
3. Ids of one line count from the outside in: inside its own cgroup a container may make any
   name it likes, so an inner id says nothing while an outer one is an engine's container.
4. At each depth all lines that have an id must have the same.
5. A runtime's monitor (``conmon``) runs beside its container, not in it.

Source: cgroups(7); SPIRE issues 949, 1081, 2578, 4004, 4088 for the forms seen in the field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hopseal.errors import InvalidError

_ID: Final = re.compile(r"(?:(?P<runtime>.+)[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?", re.DOTALL)
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
_REMOVED: Final = " (deleted)"
_UNIFIED: Final = ""
_SYSTEMD: Final = "name=systemd"


class CgroupInvalid(InvalidError):  # noqa: N818 - the names of states read better without a suffix
    """Not what the kernel documents (code ``cgroup_invalid``), or two containers (``cgroup_ambiguous``)."""

    def __init__(self, message: str, *, code: str = "cgroup_invalid", detail: str = "") -> None:
        super().__init__(code, message, detail=detail)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One line: ``controllers`` is empty for the unified hierarchy."""

    controllers: str
    path: str


@dataclass(frozen=True, slots=True)
class ContainerCgroup:
    """An id and, for each hierarchy that shows it, the path up to and with the component that holds it."""

    id: str
    roots: tuple[Cgroup, ...]

    def holds(self, other: tuple[Cgroup, ...]) -> bool:
        """Whether a process with these lines is in the very same cgroup or below it."""
        paths = {line.controllers: line.path for line in other}
        return all(_below(paths.get(root.controllers, ""), root.path) for root in self.roots)


def parse_cgroup(text: bytes) -> tuple[Cgroup, ...]:
    """The lines of ``/proc/PID/cgroup``.

    Raises:
        CgroupInvalid: empty, a malformed line, a hierarchy twice, or a cgroup that was removed.
    """
    lines = tuple(_parse_line(line) for line in text.removesuffix(b"\n").split(b"\n"))
    if len({line.controllers for line in lines}) != len(lines):
        raise CgroupInvalid("a cgroup hierarchy is listed twice", detail=repr(text[:300]))
    return lines


def main_path(lines: tuple[Cgroup, ...]) -> str:
    """The unified path, else systemd's, else the first that is not the root; ``/`` when all are."""
    paths = {line.controllers: line.path for line in lines}
    for candidate in (paths.get(_UNIFIED), paths.get(_SYSTEMD), *paths.values()):
        if candidate not in {None, "/"}:
            return str(candidate)
    return "/"


def systemd_unit(lines: tuple[Cgroup, ...]) -> str | None:
    """The system unit that systemd placed the process in, as ``sd_pid_get_unit`` finds it.

    Slices are skipped and the first other component is the unit: what a unit makes below its own
    cgroup is its own invention.
    """
    paths = {line.controllers: line.path for line in lines}
    for controllers in (_UNIFIED, _SYSTEMD):
        for component in paths.get(controllers, "").split("/"):
            if not component or component.endswith(".slice"):
                continue
            if _UNIT.fullmatch(component):
                return component.removeprefix("_")
            break
    return None


def container_cgroups(lines: tuple[Cgroup, ...]) -> tuple[ContainerCgroup, ...]:
    """The ids that the lines name, outermost first; empty for a process in no container.

    Raises:
        CgroupInvalid: two lines name different ids at one depth (code ``cgroup_ambiguous``).
    """
    found: list[dict[str, list[Cgroup]]] = []
    for line in lines:
        for depth, (container_id, root) in enumerate(_ids(line.path)):
            while len(found) <= depth:
                found.append({})
            found[depth].setdefault(container_id, []).append(Cgroup(line.controllers, root))
    for at_depth in found:
        if len(at_depth) > 1:
            raise CgroupInvalid(
                "the process is in the cgroups of two containers",
                code="cgroup_ambiguous",
                detail=", ".join(sorted(at_depth)),
            )
    return tuple(
        ContainerCgroup(container_id, tuple(roots)) for at_depth in found for container_id, roots in at_depth.items()
    )


def _parse_line(line: bytes) -> Cgroup:
    hierarchy, colon, rest = line.decode("utf-8", "backslashreplace").partition(":")
    controllers, second_colon, path = rest.partition(":")
    if not colon or not second_colon or not (hierarchy.isascii() and hierarchy.isdigit()) or not path.startswith("/"):
        raise CgroupInvalid("a cgroup line is malformed", detail=repr(line[:300]))
    if path.endswith(_REMOVED):
        raise CgroupInvalid("the cgroup was removed", detail=repr(line[:300]))
    return Cgroup(controllers, path)


def _ids(path: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    root = ""
    for component in path.split("/")[1:]:
        root = f"{root}/{component}"
        match = _ID.fullmatch(component)
        if match is None:
            continue
        if "conmon" in (match["runtime"] or ""):
            break
        if match["id"] not in {each for each, _ in found}:
            found.append((match["id"], root))
    return found


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")
