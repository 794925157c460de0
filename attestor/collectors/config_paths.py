"""The files behind declared paths, opened so that nothing inside a container can lead out of it.

Owns: which files a declaration means, and opening them. Does not own: hashing
and the root (``attestor.collectors.config``), or watching (``attestor.config_watch``).

1. A declared path is absolute and canonical; it is opened below the process's own root with
   ``RESOLVE_IN_ROOT|NO_MAGICLINKS|NO_SYMLINKS``.
2. A folder means every file below it, each opened below the folder with
   ``RESOLVE_BENEATH|NO_MAGICLINKS|NO_SYMLINKS``.
3. Kubernetes' atomic volumes are the one exception to "no symlinks": a folder whose ``..data`` links
   to a sibling ``..<name>`` folder. That folder is opened once and all content comes from it, so one
   version of the volume is read even while the kubelet swaps it. A visible entry must link to
   ``..data/<its own name>``. A declared file may be such an entry.
4. Anything else is refused: other symlinks, other names that begin with ``..``, devices, pipes,
   sockets, files of kernel filesystems, names that are not UTF-8.

Nothing is opened for reading before its kind is known, so neither a pipe nor a device is touched.

Source: interfaces.md, "Config root"; kubernetes pkg/volume/util/atomic_writer.go.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from attestor import syscalls
from attestor.digests import Stamp
from hopseal.errors import UnavailableError

MAX_DEPTH: Final = 32
ATOMIC_LINK: Final = "..data"
_ATOMIC_OTHERS: Final = re.compile(r"\.\.data_tmp|\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+")
_ATOMIC_TARGET: Final = re.compile(r"\.\.[^/]+")
_KERNEL_FILESYSTEMS: Final = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x62656570,  # configfs
        0xCAFE4A11,  # bpf
        syscalls.PIDFS_MAGIC,
    }
)
_DECLARED: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS
_INSIDE: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_NOCTTY


class ConfigUnreadable(UnavailableError):  # noqa: N818 - the names of states read better without a suffix
    """A declared path cannot be measured; the code says why and begins with ``config_``."""

    def __init__(self, code: str, message: str, *, detail: str = "", remedy: str = "") -> None:
        super().__init__(code, message, detail=detail, remedy=remedy)


@dataclass(slots=True)
class Walk:
    """One pass over declared paths: calls back for every file and folder, enforces the caps.

    Args:
        root_fd: ``O_PATH`` descriptor of the root that the declared paths start at.
        max_files: how many files may be found.
        on_file: called with the visible path and an ``O_PATH`` descriptor of a regular file.
        on_folder: called with a readable descriptor of every folder whose entries count.
    """

    root_fd: int
    max_files: int
    on_file: Callable[[str, int], None]
    on_folder: Callable[[int], None] = lambda _fd: None
    _seen: set[str] = field(default_factory=set)

    def declared(self, path: str) -> None:
        """Walk one declared path.

        Raises:
            ConfigUnreadable: the path or something below it is missing, refused or over a cap.
        """
        check_declared(path)
        try:
            fd = self._open(self.root_fd, path.lstrip("/") or ".", os.O_PATH, _DECLARED, path)
        except ConfigUnreadable as refusal:
            if refusal.code != "config_symlink_refused" or not self._atomic_entry(path):
                raise
            return
        try:
            self._visit(fd, path, depth=0)
        finally:
            os.close(fd)

    def _visit(self, fd: int, path: str, depth: int) -> None:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            self._file(fd, path)
        elif not stat.S_ISDIR(mode):
            raise ConfigUnreadable(
                "config_kind_refused", "a declared path is neither a file nor a folder", detail=f"{path}: {_kind(mode)}"
            )
        elif depth > MAX_DEPTH:
            raise ConfigUnreadable("config_too_deep", f"folders are nested deeper than {MAX_DEPTH}", detail=path)
        else:
            folder = self._open(fd, ".", _FOLDER, _INSIDE, path)
            try:
                self._folder(folder, path, depth)
            finally:
                os.close(folder)

    def _file(self, fd: int, path: str) -> None:
        if path in self._seen:
            raise ConfigUnreadable(
                "config_path_twice", "a file is reached by two declared paths", detail=path, remedy="declare it once"
            )
        if len(self._seen) >= self.max_files:
            raise ConfigUnreadable("config_too_many", f"more than {self.max_files} files are declared", detail=path)
        if syscalls.filesystem_magic(fd) in _KERNEL_FILESYSTEMS:
            raise ConfigUnreadable("config_kind_refused", "a declared file is not a stored file", detail=path)
        self._seen.add(path)
        self.on_file(path, fd)

    def _folder(self, folder: int, path: str, depth: int) -> None:
        self.on_folder(folder)
        names = self._names(folder, path)
        content = self._open_atomic(folder, path) if ATOMIC_LINK in names else None
        try:
            for name in names:
                if not name.startswith(".."):
                    self._entry(folder, content, name, _join(path, name), depth)
                elif content is None or not self._belongs_to_atomic(folder, name):
                    raise ConfigUnreadable(
                        "config_name_refused", "a name that begins with two dots is refused", detail=_join(path, name)
                    )
        finally:
            if content is not None:
                os.close(content)

    def _entry(self, folder: int, content: int | None, name: str, path: str, depth: int) -> None:
        links = content is not None and _read_link(folder, name) == f"{ATOMIC_LINK}/{name}"
        base = content if links and content is not None else folder
        try:
            fd = self._open(base, name, os.O_PATH, _INSIDE, path)
        except ConfigUnreadable as refusal:
            if refusal.code != "config_file_missing":
                raise
            raise ConfigUnreadable(  # it was listed a moment ago
                "config_unstable", "declared files kept changing while they were read", detail=path
            ) from refusal
        try:
            self._visit(fd, path, depth + 1)
        finally:
            os.close(fd)

    def _names(self, folder: int, path: str) -> list[str]:
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(names) > 2 * self.max_files:  # folders and the kubelet's own names come on top of files
                    raise ConfigUnreadable("config_too_many", "a declared folder has too many entries", detail=path)
                names.append(entry.name)
        for name in names:
            _check_utf8(name, path)
        return sorted(names)

    def _atomic_entry(self, path: str) -> bool:
        """Walk a declared file that is itself an entry of an atomic volume; false if it is not."""
        parent, _, name = path.rpartition("/")
        folder = self._open(self.root_fd, parent.lstrip("/") or ".", _FOLDER, _DECLARED, path)
        try:
            if _read_link(folder, name) != f"{ATOMIC_LINK}/{name}" or _read_link(folder, ATOMIC_LINK) is None:
                return False
            content = self._open_atomic(folder, parent or "/")
            try:
                self._entry(folder, content, name, path, depth=0)
            finally:
                os.close(content)
        finally:
            os.close(folder)
        return True

    def _open_atomic(self, folder: int, path: str) -> int:
        target = _read_link(folder, ATOMIC_LINK)
        if target is None or _ATOMIC_TARGET.fullmatch(target) is None or target == ATOMIC_LINK:
            raise ConfigUnreadable(
                "config_symlink_refused", "..data does not link to a sibling folder", detail=f"{path}: {target!r}"
            )
        return self._open(folder, target, _FOLDER, _INSIDE, _join(path, ATOMIC_LINK))

    def _belongs_to_atomic(self, folder: int, name: str) -> bool:
        return name in {ATOMIC_LINK, _read_link(folder, ATOMIC_LINK)} or _ATOMIC_OTHERS.fullmatch(name) is not None

    def _open(self, base: int, name: str, flags: int, resolve: int, path: str) -> int:
        try:
            return syscalls.openat2(base, os.fsencode(name), flags, resolve)
        except OSError as error:
            raise refusal_of(error, path) from error


def check_declared(path: str) -> None:
    """Refuse a declared path that is not absolute and canonical.

    Raises:
        ConfigUnreadable: with code ``config_path_invalid``.
    """
    parts = path.split("/")[1:]
    if not path.startswith("/") or "\0" in path or (path != "/" and not {"", ".", ".."}.isdisjoint(parts)):
        raise ConfigUnreadable(
            "config_path_invalid",
            "a declared path must be absolute, without empty, '.' or '..' parts",
            detail=repr(path),
        )
    _check_utf8(path, "/")


def refusal_of(error: OSError, path: str) -> ConfigUnreadable:
    """What an ``OSError`` at ``path`` means; a missing file has a code of its own, because it is an answer."""
    detail = f"{path}: {error.strerror}"
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return ConfigUnreadable("config_file_missing", "a declared file is missing", detail=detail)
    if error.errno == errno.ELOOP:
        return ConfigUnreadable("config_symlink_refused", "a declared path leads through a symlink", detail=detail)
    if error.errno == errno.EXDEV:
        return ConfigUnreadable("config_escape_refused", "a declared path leads out of its folder", detail=detail)
    if error.errno in {errno.EAGAIN, errno.ESTALE}:
        return ConfigUnreadable("config_unstable", "declared files kept changing while they were read", detail=detail)
    return ConfigUnreadable("config_unreadable", "a declared file cannot be read", detail=detail)


def stamp_of(fd: int) -> Stamp:
    """What changes when the file or folder does."""
    return Stamp.of(os.fstat(fd))


def _read_link(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def _check_utf8(name: str, where: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigUnreadable(
            "config_name_refused",
            "a file name is not UTF-8",
            detail=f"{where}: {name.encode(errors='surrogateescape')!r}",
        ) from error


def _join(folder: str, name: str) -> str:
    return f"{'' if folder == '/' else folder}/{name}"


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "pipe",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
        stat.S_IFSOCK: "socket",
        stat.S_IFLNK: "symlink",
    }
    return kinds.get(stat.S_IFMT(mode), "unknown kind")
