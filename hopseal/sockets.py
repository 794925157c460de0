"""Unix sockets that a daemon listens on: found free, locked, bound, given their mode.

Owns: deciding whether a socket path may be taken, and giving it back.
Does not own: listening or serving; hand ``BoundSocket.sock`` to a server.

A path is taken only under an exclusive lock on ``<path>.lock``, held for the socket's life, because
between probing a path and binding it another daemon may do the same. Nobody can connect before the
server calls ``listen``, so the mode is in force from the first connection on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from hopseal.errors import InvalidError, UnavailableError

_MAX_PATH_BYTES = 107  # sun_path, unix(7), without the terminating zero
_PROBE_TIMEOUT_S = 1.0
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class SocketPathRefusedError(InvalidError):
    """The path may not be taken; somebody must correct it first."""


class SocketInUseError(UnavailableError):
    """Another live process listens there (code ``socket_in_use``)."""


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A bound, not yet listening Unix socket; :meth:`close` gives the path back.

    Args:
        sock: non-blocking stream socket; a server may own and close it.
        path: where it is bound.
        device_inode: what ``path`` named right after binding.
        lock_fd: descriptor of the locked ``<path>.lock``.
    """

    sock: socket.socket
    path: Path
    device_inode: tuple[int, int]
    lock_fd: int

    def is_in_place(self) -> bool:
        """False once the path names something else: the socket then hears nothing more."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.device_inode

    @classmethod
    def inherit(cls, path: Path, sock_fd: int, lock_fd: int) -> BoundSocket:
        """The socket that another process bound at ``path`` and passed on with its lock; both are now this one's.

        Raises:
            SocketPathRefusedError: the socket is bound elsewhere (``socket_path_occupied``).
            UnavailableError: nothing is at ``path`` any more (``socket_unavailable``).
        """
        sock = socket.socket(fileno=sock_fd)
        sock.setblocking(False)
        if sock.getsockname() != str(path):
            raise SocketPathRefusedError(
                "socket_path_occupied", f"the inherited socket is not bound at {path}", remedy="restart instead"
            )
        try:
            found = path.lstat()
        except OSError as error:
            raise UnavailableError("socket_unavailable", f"{path}: {error.strerror}") from error
        return cls(sock, path, (found.st_dev, found.st_ino), lock_fd)

    def leave(self) -> None:
        """Close it here and leave path and lock to the process that has them too."""
        self.sock.close()
        os.close(self.lock_fd)

    def close(self) -> None:
        """Close the socket, remove the path if it is still ours, release the lock."""
        if self.is_in_place():
            self.path.unlink(missing_ok=True)
        self.sock.close()
        os.close(self.lock_fd)


def bind_unix_socket(
    path: Path,
    *,
    mode: int,
    group: int | None = None,
    folder_mode: int = 0o755,
    unsafe_shared_folder: bool = False,
) -> BoundSocket:
    """A stream socket bound at ``path``, not yet listening.

    Args:
        path: absolute; missing folders are made with ``folder_mode``.
        mode: permission bits of the socket, in force before anybody can connect.
        group: group id that the socket (and a folder made here) is given; None keeps the process's.
        folder_mode: for folders that are made here.
        unsafe_shared_folder: others may write the folder; for a component's listener, whose process is attested.

    Raises:
        SocketPathRefusedError: a symlink or something that is not a socket is there (``socket_path_occupied``), the
            folder is writable by others (``socket_folder_unsafe``), or the path is too long or relative
            (``socket_path_invalid``).
        SocketInUseError: a live daemon listens there or holds the lock.
        UnavailableError: the system refused (``socket_unavailable``).
    """
    if not path.is_absolute() or len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise SocketPathRefusedError(
            "socket_path_invalid",
            f"{path} is not an absolute path of at most {_MAX_PATH_BYTES} bytes",
            remedy="choose a shorter absolute path",
        )
    try:
        _make_folder(path.parent, folder_mode, group, unsafe_shared=unsafe_shared_folder)
        lock_fd = _lock(path)
        try:
            _clear_stale(path)
            sock = _bind(path, mode, group)
        except BaseException:
            os.close(lock_fd)
            raise
        found = path.lstat()
    except OSError as error:
        raise UnavailableError(
            "socket_unavailable",
            f"cannot bind {path}: {error.strerror or error}",
            remedy="check the folder's permissions",
        ) from error
    return BoundSocket(sock, path, (found.st_dev, found.st_ino), lock_fd)


def _make_folder(folder: Path, mode: int, group: int | None, *, unsafe_shared: bool) -> None:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        folder.mkdir(mode=0o700, exist_ok=True)
        if group is not None:
            os.chown(folder, -1, group)
        folder.chmod(mode)
    found = folder.stat()
    # With the sticky bit only the owner of an entry may replace it.
    if not unsafe_shared and found.st_mode & _OTHERS_MAY_WRITE and not found.st_mode & stat.S_ISVTX:
        raise SocketPathRefusedError(
            "socket_folder_unsafe",
            f"{folder} may be written by others than its owner (mode {stat.S_IMODE(found.st_mode):04o})",
            remedy=f"chmod go-w {folder}",
        )


def _lock(path: Path) -> int:
    lock_path = path.with_name(path.name + ".lock")
    lock_fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock_fd)
        raise _in_use(path) from error
    except BaseException:
        os.close(lock_fd)
        raise
    return lock_fd


def _clear_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        kind = "a symlink" if stat.S_ISLNK(found.st_mode) else "something that is not a socket"
        raise SocketPathRefusedError(
            "socket_path_occupied", f"{path} is {kind}", remedy="remove it, or configure another path"
        )
    if _is_listened_on(path):
        raise _in_use(path)
    path.unlink(missing_ok=True)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except OSError as error:
            # A full backlog is a living listener; only a refusal says that nobody listens.
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
        return True


def _bind(path: Path, mode: int, group: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
        path.chmod(mode)
    except BaseException:
        sock.close()
        raise
    return sock


def _in_use(path: Path) -> SocketInUseError:
    return SocketInUseError(
        "socket_in_use", f"another process listens on {path}", remedy="stop it, or configure another path"
    )
