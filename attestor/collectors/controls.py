"""Which posture level holds, decided from live measurements. Pure.

Owns: the controls and the level that each belongs to. Does not own: reading
(``attestor.collectors.posture``).

Controls carry the names of the Pod Security Standards. They are judged on what
the live process *is*, not on what a manifest asked for, with these readings:

* Capabilities: no set of a container may hold more than the standard's list plus
  ``NET_RAW``, which engines grant by default and which a live process cannot show to
  have been added; at ``restricted`` nothing but ``NET_BIND_SERVICE``.
* HostPath Volumes: see ``attestor.collectors.sensitive``.
* AppArmor, SELinux: judged only where the kernel enforces them.
* Tracer and deleted executable are ours: a traced process does what its tracer
  wants (``baseline``); an executable without a name cannot be inspected (``restricted``).

Outside containers the controls that describe the container boundary (Host
Namespaces, Privileged Containers, HostPath Volumes, Host Ports, ``/proc`` Mount
Type, Sysctls, AppArmor, SELinux) do not apply: the host *is* the boundary, and a
plain process is as confined as its own credentials. What remains is measured on
the process: the capabilities it has or can gain, seccomp, no_new_privs, user,
tracer, executable. Its bounding set does not count, because ``restricted`` asks
for no_new_privs, which makes it unreachable. So a process under a uid of its own
without capabilities is ``baseline``, and root on the host is ``privileged``.

Source: kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attestor.collectors.capabilities import BASELINE_CAPABILITIES, RESTRICTED_CAPABILITIES, capability_names
from attestor.collectors.mounts import MountEntry, host_path
from attestor.collectors.sensitive import is_ordinary, sensitive_reason
from attestor.facts import FailedControl, PostureFacts
from hopseal.selectors import Posture

if TYPE_CHECKING:
    from attestor.facts import HostConfig

_SAFE_SYSCTLS: Final = frozenset(
    [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ]
)
_SELINUX_TYPES: Final = frozenset({"container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_HOST_NAMESPACES: Final = ("net", "pid", "ipc")
_MASKED: Final = ("/proc/kcore", "/proc/keys", "/proc/timer_list")
_SHARED_FILESYSTEMS: Final = frozenset(
    {"cgroup", "cgroup2", "devpts", "mqueue", "sysfs"}
)  # the host's in any container
SECCOMP_FILTER: Final = 2


@dataclass(frozen=True, slots=True)
class Live:
    """What the kernel says about a process.

    Attributes:
        capabilities: set name (``effective``, ``permitted``, ``inheritable``, ``bounding``, ``ambient``) to bit mask.
        uids: real, effective, saved, filesystem.
        apparmor, selinux: the process's label; ``None`` where the kernel does not enforce the module.
        proc_files: files below ``/proc`` that this kernel has.
    """

    capabilities: Mapping[str, int]
    seccomp_mode: int
    no_new_privs: bool
    uids: tuple[int, int, int, int]
    tracer_pid: int
    exe_deleted: bool
    cgroup: str
    namespaces: Mapping[str, int]
    host_namespaces: Mapping[str, int]
    mounts: tuple[MountEntry, ...]
    host_mounts: tuple[MountEntry, ...]
    apparmor: str | None
    selinux: str | None
    proc_files: frozenset[str]


def decide_posture(live: Live, container: HostConfig | None, sockets: tuple[str, ...] = ()) -> PostureFacts:
    """The highest level that holds, with every failed control.

    Args:
        live: what the kernel says about the process.
        container: what the engine granted; ``None`` for a process in no container.
        sockets: engine sockets configured on this node.
    """
    failed = [*_process_controls(live, in_container=container is not None)]
    if container is not None:
        failed += [*_boundary_controls(live, container), *_mount_controls(live, container, sockets)]
    failed = sorted(set(failed), key=lambda each: (each.level.rank, each.control, each.detail))
    level = Posture.RESTRICTED
    for each in failed:
        level = min(
            level, Posture.PRIVILEGED if each.level is Posture.BASELINE else Posture.BASELINE, key=lambda p: p.rank
        )
    return PostureFacts(level, tuple(failed))


def _baseline(control: str, detail: str) -> FailedControl:
    return FailedControl(control, Posture.BASELINE, detail)


def _restricted(control: str, detail: str) -> FailedControl:
    return FailedControl(control, Posture.RESTRICTED, detail)


def _process_controls(live: Live, *, in_container: bool) -> Iterator[FailedControl]:
    for name, mask in live.capabilities.items():
        if name == "bounding" and not in_container:
            continue
        held = capability_names(mask)
        if excess := held - BASELINE_CAPABILITIES:
            yield _baseline("Capabilities", f"{name}: {' '.join(sorted(excess))}")
        elif excess := held - RESTRICTED_CAPABILITIES:
            yield _restricted("Capabilities", f"{name}: {' '.join(sorted(excess))}")
    if live.tracer_pid:
        yield _baseline("Tracer Attached", f"traced by process {live.tracer_pid}")
    if live.exe_deleted:
        yield _restricted("Executable Deleted", "the running file has no name any more")
    if not live.no_new_privs:
        yield _restricted("Privilege Escalation", "no_new_privs is not set")
    if 0 in live.uids:
        yield _restricted("Running as Non-root user", "a user id is 0")
    if live.seccomp_mode != SECCOMP_FILTER:
        yield _restricted("Seccomp", f"no filter (mode {live.seccomp_mode})")


def _boundary_controls(live: Live, container: HostConfig) -> Iterator[FailedControl]:
    if container.privileged:
        yield _baseline("Privileged Containers", "the container is privileged")
    for name in _HOST_NAMESPACES:
        if name in live.host_namespaces and live.namespaces.get(name) == live.host_namespaces[name]:
            yield _baseline("Host Namespaces", f"shares the host's {name} namespace")
    for port in container.host_ports:
        yield _baseline("Host Ports", f"publishes {port}")
    for name in sorted(container.sysctls.keys() - _SAFE_SYSCTLS):
        yield _baseline("Sysctls", name)
    yield from _security_options(container)
    if live.apparmor is not None and live.apparmor.startswith("unconfined"):
        yield _baseline("AppArmor", "the process is unconfined")
    if live.selinux is not None and _selinux_type(live.selinux) not in _SELINUX_TYPES:
        yield _baseline("SELinux", f"label {live.selinux}")
    yield from _proc_mount(live, container)


def _security_options(container: HostConfig) -> Iterator[FailedControl]:
    for option in container.security_opt:
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name in {"seccomp", "apparmor"} and value == "unconfined":
            yield _baseline("Seccomp" if name == "seccomp" else "AppArmor", f"the engine was told {option}")


def _selinux_type(label: str) -> str:
    parts = label.split(":")
    return parts[2] if len(parts) > 2 else ""


def _proc_mount(live: Live, container: HostConfig) -> Iterator[FailedControl]:
    """Masks are looked for where they act, in the process's own mounts; ``None`` from the engine says nothing."""
    points = {entry.point: entry for entry in live.mounts}
    for path in _MASKED:
        if path in live.proc_files and path not in points:
            yield _baseline("/proc Mount Type", f"{path} is not masked")
    if "/proc/sys" not in points or not points["/proc/sys"].read_only:
        yield _baseline("/proc Mount Type", "/proc/sys is writable")
    if container.masked_paths == ():
        yield _baseline("/proc Mount Type", "the engine masks no paths")


def _mount_controls(live: Live, container: HostConfig, sockets: tuple[str, ...]) -> Iterator[FailedControl]:
    control = "HostPath Volumes"
    for mount in container.mounts:
        if mount.kind == "bind" and (reason := sensitive_reason(mount.source, sockets)):
            yield _baseline(control, f"{mount.destination}: {reason}")
    for device in container.devices:
        yield _baseline(control, f"host device {device}")
    own_pid_namespace = live.namespaces.get("pid") != live.host_namespaces.get("pid")
    for entry in live.mounts:
        if entry.filesystem in _SHARED_FILESYSTEMS or (entry.filesystem == "proc" and not own_pid_namespace):
            continue
        source = host_path(entry, live.host_mounts)
        if source is None or (entry.point == "/" and source != "/") or is_ordinary(source, entry.point, live.cgroup):
            continue
        if reason := sensitive_reason(source, sockets):
            yield _baseline(control, f"{entry.point}: {reason}")
