"""Finding container engines on this host by their sockets."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

DOCKER_SOCKETS = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))
PODMAN_SOCKETS = (Path("/run/podman/podman.sock"),)


@dataclass(frozen=True, slots=True)
class Engines:
    """API sockets of the engines that this user may ask, each once."""

    docker: tuple[Path, ...]
    podman: tuple[Path, ...]


def find_engines() -> Engines:
    """The engine that ``DOCKER_HOST`` names, and those at their usual places."""
    named = os.environ.get("DOCKER_HOST", "")
    candidates = [Path(named.removeprefix("unix://"))] if named.startswith("unix:///") else []
    return Engines(_usable((*candidates, *DOCKER_SOCKETS)), _usable(PODMAN_SOCKETS))


def _usable(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    # One engine often has two names, by a link from /var/run to /run.
    sockets = dict.fromkeys(path.resolve() for path in paths)
    return tuple(path for path in sockets if _is_socket(path) and os.access(path, os.R_OK | os.W_OK))


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
