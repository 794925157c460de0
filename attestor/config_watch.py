"""News that declared files may have changed, as the kernel reports them.

Owns: one inotify descriptor for the daemon, which inodes are watched for whom,
and arming again after every change. Does not own: measuring; a notice says "look
again", never what is there.

Watched are the declared files themselves, every folder in them, and the folder
that holds each declared path, because replacing a file by rename changes only
the folder. In a Kubernetes volume the swap of ``..data`` is a change of the folder.
Everything is opened below the process's own root by the rules of
``config_paths`` and watched through the descriptor, so no path is resolved twice.

What inotify cannot see (a mount laid over a path, a folder higher up renamed, a
network filesystem changed elsewhere) is left to the periodic measurement.

Security: watches are armed before a notice is delivered. So a change before that
is seen by whoever looks after the notice, and a later one makes the next notice.

Source: inotify(7).
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from attestor import syscalls
from attestor.collectors.config_paths import ConfigUnreadable, Walk
from hopseal.errors import UnavailableError

if TYPE_CHECKING:
    from types import TracebackType

    from attestor.offload import Offload
    from attestor.peer import PinnedProcess

_EVENT: Final = struct.Struct("=iIII")
_READ_BYTES: Final = 1 << 16
_IN_Q_OVERFLOW: Final = 0x4000
_IN_IGNORED: Final = 0x8000
_MASK: Final = (
    0x0002  # IN_MODIFY
    | 0x0004  # IN_ATTRIB: also the link count, when a file is replaced
    | 0x0040  # IN_MOVED_FROM
    | 0x0080  # IN_MOVED_TO
    | 0x0100  # IN_CREATE
    | 0x0200  # IN_DELETE
    | 0x0400  # IN_DELETE_SELF
    | 0x0800  # IN_MOVE_SELF
    | 0x2000  # IN_UNMOUNT, always reported
)
_MAX_FILES: Final = 1024
_DEFAULT_TIMEOUT_S: Final = 1.0


class WatchUnavailable(UnavailableError):  # noqa: N818 - the names of states read better without a suffix
    """Files cannot be watched; only measuring again finds changes (code ``config_watch_unavailable``)."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "config_watch_unavailable",
            "declared files cannot be watched",
            detail=detail,
            remedy="raise fs.inotify.max_user_watches; until then changes are found by the periodic measurement",
        )


@dataclass(slots=True, eq=False)
class _Subscription:
    process: PinnedProcess
    paths: tuple[str, ...]
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watches: set[int] = field(default_factory=set)


class ConfigWatches:
    """Every watch of the daemon; an async context manager, used from one event loop.

    Args:
        offload: where files are opened; they may lie on filesystems that do not answer.
        timeout_s: deadline of arming the watches of one process.
    """

    def __init__(self, offload: Offload, *, timeout_s: float = _DEFAULT_TIMEOUT_S) -> None:
        self._offload = offload
        self._timeout_s = timeout_s
        self._fd = -1
        self._subscribers: dict[int, set[_Subscription]] = {}

    async def __aenter__(self) -> Self:
        self._fd = syscalls.inotify_init()
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    @asynccontextmanager
    async def watch(self, process: PinnedProcess, paths: Iterable[str]) -> AsyncIterator[AsyncIterator[None]]:
        """Notices that something about ``paths`` may have changed, as ``process`` sees them; many are one.

        Args:
            process: stays the caller's and pinned while watched.
            paths: declared files and folders; those missing are watched by the folder that should hold them.

        Raises:
            WatchUnavailable: on entering, or from the iterator when watching again failed.
        """
        subscription = _Subscription(process, tuple(sorted(set(paths))))
        try:
            await self._arm(subscription)
            yield self._notices(subscription)
        finally:
            self._drop(subscription, subscription.watches)

    async def _notices(self, subscription: _Subscription) -> AsyncIterator[None]:
        while True:
            await subscription.changed.wait()
            subscription.changed.clear()
            await self._arm(subscription)
            yield

    async def _arm(self, subscription: _Subscription) -> None:
        """Watch what the paths name now, then drop what they no longer name."""
        try:
            opened = await self._offload.run(
                subscription.process.uid,
                lambda: _open_all(subscription.process.pid, subscription.paths),
                self._timeout_s,
            )
        except TimeoutError as error:
            raise WatchUnavailable(f"not opened within {self._timeout_s} s") from error
        except OSError as error:
            raise WatchUnavailable(f"pid {subscription.process.pid}: {error.strerror}") from error
        try:
            current = {self._add(subscription, fd) for fd in opened}
        finally:
            for fd in opened:
                os.close(fd)
        self._drop(subscription, subscription.watches - current)

    def _add(self, subscription: _Subscription, fd: int) -> int:
        try:
            watch = syscalls.inotify_add_watch(self._fd, b"/proc/self/fd/%d" % fd, _MASK)
        except OSError as error:
            raise WatchUnavailable(f"inotify_add_watch: {error.strerror}") from error
        self._subscribers.setdefault(watch, set()).add(subscription)
        subscription.watches.add(watch)
        return watch

    def _drop(self, subscription: _Subscription, watches: set[int]) -> None:
        for watch in tuple(watches):
            subscription.watches.discard(watch)
            users = self._subscribers.get(watch)
            if users is None:
                continue
            users.discard(subscription)
            if not users:
                del self._subscribers[watch]
                self._remove(watch)

    def _remove(self, watch: int) -> None:
        if self._fd < 0:
            return
        try:
            syscalls.inotify_rm_watch(self._fd, watch)
        except OSError:
            return  # the kernel dropped it itself, with the inode

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        for watch, mask in parse_events(data):
            if mask & _IN_Q_OVERFLOW:
                for users in self._subscribers.values():
                    _notify(users)
                continue
            _notify(self._subscribers.get(watch, set()))
            if mask & _IN_IGNORED:
                for subscription in self._subscribers.pop(watch, set()):
                    subscription.watches.discard(watch)


def parse_events(data: bytes) -> list[tuple[int, int]]:
    """Watch descriptor and mask of each event in one read from inotify."""
    events = []
    offset = 0
    while offset + _EVENT.size <= len(data):
        watch, mask, _, name_bytes = _EVENT.unpack_from(data, offset)
        events.append((watch, mask))
        offset += _EVENT.size + name_bytes
    return events


def _notify(subscriptions: set[_Subscription]) -> None:
    for subscription in subscriptions:
        subscription.changed.set()


def _open_all(pid: int, paths: tuple[str, ...]) -> list[int]:
    """``O_PATH`` descriptors of everything to watch; blocking."""
    opened: list[int] = []
    root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk = Walk(
            root_fd, _MAX_FILES, lambda _path, fd: opened.append(os.dup(fd)), lambda fd: opened.append(os.dup(fd))
        )
        for path in paths:
            opened.extend(_open_parent(root_fd, path))
            try:
                walk.declared(path)
            except ConfigUnreadable:
                continue  # whoever measures finds out why; until it changes, its folder is watched
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    finally:
        os.close(root_fd)
    return opened


def _open_parent(root_fd: int, path: str) -> list[int]:
    """The folder that holds a declared path, or the nearest one above that exists."""
    parent = path.rpartition("/")[0]
    while True:
        try:
            return [
                syscalls.openat2(
                    root_fd,
                    os.fsencode(parent.lstrip("/") or "."),
                    os.O_PATH | os.O_DIRECTORY,
                    syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS,
                )
            ]
        except OSError:
            if not parent:
                return []
            parent = parent.rpartition("/")[0]
