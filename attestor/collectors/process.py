"""Kernel facts about one process: ids, executable, namespaces, cgroup, unit.

Owns: reading them through ``/proc/PID``. Does not own: pinning (``attestor.peer``)
or the final look that proves the reads were about the pinned process
(``attestor.evidence``). Never reads ``environ`` or ``cmdline``: a process
rewrites both in place.

Blocking; the executable may lie on a filesystem that does not answer.
"""

from __future__ import annotations

import os
import re
import stat
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from attestor import syscalls
from attestor.collectors import cgroup
from attestor.digests import DigestCache, FileTooLarge, FileUnstable
from attestor.facts import ExeIdentity, ProcessFacts, Unreadable
from attestor.peer import PeerGone, read_proc
from attestor.proc_text import ProcTextInvalid, parse_ids, parse_start_ticks, parse_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestor.collectors.cgroup import Cgroup

NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_NAMESPACE_LINK: Final = re.compile(r"[a-z_]+:\[([0-9]+)\]")
_DELETED: Final = " (deleted)"
_PENDING: Final = Unreadable("exe_pending", "the executable has not been hashed")


def read_cgroup(pid: int) -> tuple[Cgroup, ...]:
    """The cgroups of a process; one short read of kernel memory, safe on the event loop.

    Raises:
        PeerGone: it has exited.
        CgroupInvalid: the text is not what the kernel documents.
    """
    try:
        return cgroup.parse_cgroup(read_proc(pid, "cgroup"))
    except OSError as error:
        raise PeerGone(f"/proc/{pid}/cgroup: {error.strerror}") from error


def read_exe_identity(pid: int) -> ExeIdentity:
    """The inode that a process executes; one look at what the kernel has cached, safe on the event loop.

    Raises:
        PeerGone: it has exited, or has no executable.
        OSError: it cannot be read.
    """
    return _stat_exe(pid)[0]


def read_namespaces(pid: int) -> Mapping[str, int]:
    """Namespace name to inode, for every kind this kernel has.

    Raises:
        PeerGone: the process has exited.
        ProcTextInvalid: a link is not what the kernel documents.
        OSError: a link cannot be read.
    """
    found: dict[str, int] = {}
    for name in NAMESPACES:
        try:
            link = os.readlink(f"/proc/{pid}/ns/{name}")  # noqa: PTH115 - a magic link, not a path
        except ProcessLookupError as error:
            raise PeerGone(f"/proc/{pid}/ns/{name}") from error
        except FileNotFoundError:
            continue  # built without it, or gone: the callers look at liveness last
        match = _NAMESPACE_LINK.fullmatch(link)
        if match is None:
            raise ProcTextInvalid(f"namespace link {link!r}")
        found[name] = int(match[1])
    return MappingProxyType(found)


def measure_process(pid: int) -> ProcessFacts:
    """Everything but the executable's digest, which stands as pending.

    Raises:
        PeerGone: the process has exited.
        ProcTextInvalid, CgroupInvalid: kernel text cannot be understood.
        OSError: something cannot be read.
    """
    status = parse_status(read_proc(pid, "status"))
    lines = read_cgroup(pid)
    exe, links = _stat_exe(pid)
    exe_path = _read_exe_path(pid)
    return ProcessFacts(
        pid=pid,
        uid=parse_ids(status, "Uid")[1],
        gids=_groups(status),
        exe=exe,
        exe_sha256=_PENDING,
        exe_path=exe_path.removesuffix(_DELETED),
        exe_deleted=exe_path.endswith(_DELETED) or not links,
        namespaces=read_namespaces(pid),
        ppid=_number(status, "PPid"),
        start_ticks=parse_start_ticks(read_proc(pid, "stat")),
        cgroup=cgroup.main_path(lines),
        unit=cgroup.systemd_unit(lines),
    )


def measure_exe(pid: int, cache: DigestCache, limit_bytes: int) -> tuple[ExeIdentity, str] | Unreadable:
    """The running inode and ``sha256:<hex>`` of its content, whatever now has its name on disk.

    Raises:
        PeerGone: the process has exited.
    """
    try:
        fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise PeerGone(f"/proc/{pid}/exe: {error.strerror}") from error
    except OSError as error:
        return Unreadable("exe_unreadable", f"/proc/{pid}/exe: {error.strerror}")
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return Unreadable("exe_unreadable", "the executable is not a regular file")
        digest, stamp = cache.digest(fd, limit_bytes=limit_bytes, now_ns=time.time_ns())
        return ExeIdentity(stamp.dev, stamp.ino), digest
    except FileTooLarge as error:
        return Unreadable("exe_too_large", error.detail, "raise limits.exe_bytes in attestor.yaml")
    except FileUnstable as error:
        return Unreadable("exe_unstable", error.detail)
    except OSError as error:
        return Unreadable("exe_unreadable", f"reading the executable: {error.strerror}")
    finally:
        os.close(fd)


def is_exe_deleted(pid: int) -> bool:
    """Whether the running file has no name any more.

    Raises:
        PeerGone: the process has exited, or has no executable.
        OSError: it cannot be read.
    """
    return _read_exe_path(pid).endswith(_DELETED) or not _stat_exe(pid)[1]


def _stat_exe(pid: int) -> tuple[ExeIdentity, int]:
    """The running inode and its link count, without asking a filesystem that may not answer."""
    try:
        device, inode, links = syscalls.stat_nowait(b"/proc/%d/exe" % pid)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise PeerGone(f"/proc/{pid}/exe: {error.strerror}") from error
    return ExeIdentity(device, inode), links


def _read_exe_path(pid: int) -> str:
    try:
        raw = os.readlink(os.fsencode(f"/proc/{pid}/exe"))  # noqa: PTH115 - a magic link, not a path
    except (FileNotFoundError, ProcessLookupError) as error:
        raise PeerGone(f"/proc/{pid}/exe: {error.strerror}") from error
    return raw.decode("utf-8", "backslashreplace")


def _groups(status: dict[str, str]) -> tuple[int, ...]:
    effective = parse_ids(status, "Gid")[1]
    others = status.get("Groups", "").split()
    if not all(each.isascii() and each.isdigit() for each in others):
        raise ProcTextInvalid(f"status field Groups: {others!r}")
    return (effective, *sorted({int(each) for each in others} - {effective}))


def _number(status: dict[str, str], name: str) -> int:
    value = status.get(name, "")
    if not (value.isascii() and value.isdigit()):
        raise ProcTextInvalid(f"status field {name}: {value!r}")
    return int(value)
