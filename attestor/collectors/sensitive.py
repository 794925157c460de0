"""Which host paths a container must not see. Pure.

Owns: the lists. Does not own: finding out what is mounted (``attestor.collectors.mounts``).

The Pod Security Standards forbid every ``hostPath``. A component needs some: the
sockets of Hopseal itself come into containers as bind mounts. So a mount counts
as failing when its source is a path from which the node, another container or a
daemon's secrets can be reached; what an engine or the kubelet mounts into every
container is not a choice of whoever started it and is left out.
"""

from __future__ import annotations

import re
from typing import Final

from attestor.collectors.mounts import is_within

ENGINE_SOCKETS: Final = (
    "/run/containerd/containerd.sock",
    "/run/cri-dockerd.sock",
    "/run/crio/crio.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
)
_WHOLE: Final = frozenset(
    [
        "/",
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/home",
        "/lib",
        "/lib64",
        "/opt",
        "/proc",
        "/root",
        "/run",
        "/sbin",
        "/sys",
        "/usr",
        "/var",
        "/var/lib",
        "/var/log",
    ]
)
_BELOW: Final = (
    "/boot",
    "/dev",
    "/proc",
    "/sys",
    "/root",
    "/etc/cron.d",
    "/etc/gshadow",
    "/etc/kubernetes",
    "/etc/pam.d",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/ssh",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/systemd",
    "/run/containerd",
    "/run/crio",
    "/run/dbus",
    "/run/docker",
    "/run/hopseal/attestor",
    "/run/hopseal/broker",
    "/run/podman",
    "/run/systemd",
    "/run/user",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/etcd",
    "/var/lib/hopseal",
    "/var/lib/kubelet",
    "/var/spool/cron",
)
_ENGINE_POINTS: Final = frozenset(
    [
        "/dev/shm",  # noqa: S108 - a mount point to recognise
        "/dev/termination-log",
        "/etc/group",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/passwd",
        "/etc/resolv.conf",
        "/run/.containerenv",
        "/run/secrets",
    ]
)
_CONTAINER_ID: Final = re.compile(r"/[0-9a-f]{64}(?:/|$)")
_VOLUME: Final = re.compile(r"/volumes/[^/]+/_data(?:/|$)")
_POD: Final = re.compile(r"/var/lib/kubelet/pods/(?P<uid>[0-9a-f-]{32,36})/")


def sensitive_reason(source: str, sockets: tuple[str, ...]) -> str | None:
    """Why a host path must not be mounted, or ``None``.

    Args:
        source: canonical path of the host.
        sockets: engine sockets configured on this node, besides the usual ones.
    """
    path = canonical(source)
    for socket in (*ENGINE_SOCKETS, *map(canonical, sockets)):
        if is_within(socket, path):
            return f"the engine socket {socket} is reachable through {path}"
    if path in _WHOLE or any(is_within(path, folder) for folder in _BELOW):
        return f"host path {path}"
    return None


def is_ordinary(source: str, point: str, cgroup: str) -> bool:
    """Whether engines mount this into every container, or it is a named volume or the pod's own."""
    if point in _ENGINE_POINTS and _CONTAINER_ID.search(source):
        return True
    pod = _POD.match(source)
    if pod is not None:
        return pod["uid"] in cgroup or pod["uid"].replace("-", "_") in cgroup
    return _VOLUME.search(source) is not None


def canonical(path: str) -> str:
    """The path without a trailing slash and without the ``/var/run`` alias."""
    trimmed = path.rstrip("/") or "/"
    return trimmed.removeprefix("/var") if is_within(trimmed, "/var/run") else trimmed
