"""How confined a live process is, in the levels of the Pod Security Standards.

Owns: reading what the controls need from ``/proc``. Does not own: what fails
which level and which controls apply outside containers (``attestor.collectors.controls``).

Blocking.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from attestor.collectors import cgroup
from attestor.collectors.controls import Live, decide_posture
from attestor.collectors.host import host_pid
from attestor.collectors.mounts import MountEntry, parse_mountinfo
from attestor.collectors.process import is_exe_deleted, read_cgroup, read_namespaces
from attestor.facts import PostureFacts, Unreadable
from attestor.peer import MAX_PROC_TEXT_BYTES, read_proc
from attestor.proc_text import ProcTextInvalid, parse_ids, parse_status

if TYPE_CHECKING:
    from attestor.facts import ContainerFacts

_CAPABILITY_FIELDS: Final = {
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}
_MAX_MOUNTINFO_BYTES: Final = 64 * MAX_PROC_TEXT_BYTES
_PROC_FILES: Final = ("/proc/kcore", "/proc/keys", "/proc/timer_list")


def measure_posture(
    pid: int, container: ContainerFacts | None, sockets: tuple[str, ...] = ()
) -> PostureFacts | Unreadable:
    """The level that holds for a process, or why it could not be measured.

    Args:
        pid: the process, pinned by the caller.
        container: the facts of its container; ``None`` if it is in none.
        sockets: engine sockets configured on this node.

    Raises:
        PeerGone: the process has exited.
    """
    try:
        live = read_live(pid, with_mounts=container is not None)
    except ProcTextInvalid as error:
        return Unreadable("posture_unreadable", error.detail)
    except cgroup.CgroupInvalid as error:
        return Unreadable(error.code, error.detail)
    except OSError as error:
        return Unreadable("posture_unreadable", f"{error.filename}: {error.strerror}")
    return decide_posture(live, None if container is None else container.host, sockets)


def read_live(pid: int, *, with_mounts: bool) -> Live:
    """What the kernel says about a process; mounts only where they are judged.

    Raises:
        PeerGone: the process has exited.
        ProcTextInvalid, CgroupInvalid: kernel text cannot be understood.
        OSError: something cannot be read.
    """
    status = parse_status(read_proc(pid, "status"))
    host = host_pid()
    return Live(
        capabilities={name: _number(status, field, 16) for name, field in _CAPABILITY_FIELDS.items()},
        seccomp_mode=_number(status, "Seccomp", 10),
        no_new_privs=_number(status, "NoNewPrivs", 10) == 1,
        uids=parse_ids(status, "Uid"),
        tracer_pid=_number(status, "TracerPid", 10),
        exe_deleted=is_exe_deleted(pid),
        cgroup=cgroup.main_path(read_cgroup(pid)),
        namespaces=read_namespaces(pid),
        host_namespaces=read_namespaces(host),
        mounts=_mounts(pid) if with_mounts else (),
        host_mounts=_mounts(host) if with_mounts else (),
        apparmor=_label(pid, "apparmor/current") if _apparmor_enforced() else None,
        selinux=_label(pid, "current") if Path("/sys/fs/selinux/enforce").exists() else None,
        proc_files=frozenset(path for path in _PROC_FILES if Path(path).exists()),
    )


def _number(status: dict[str, str], name: str, base: int) -> int:
    try:
        return int(status[name], base)
    except (KeyError, ValueError) as error:
        raise ProcTextInvalid(f"status field {name}: {status.get(name)!r}") from error


def _mounts(pid: int) -> tuple[MountEntry, ...]:
    return parse_mountinfo(read_proc(pid, "mountinfo", limit_bytes=_MAX_MOUNTINFO_BYTES))


def _apparmor_enforced() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text(encoding="ascii").strip() == "Y"
    except FileNotFoundError:
        return False


def _label(pid: int, name: str) -> str:
    return read_proc(pid, f"attr/{name}").rstrip(b"\0\n").decode("utf-8", "backslashreplace")
