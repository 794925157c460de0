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
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from attestor import syscalls
from attestor.collectors.config_paths import ATOMIC_LINK, ConfigUnreadable, Walk
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
_RESOLVE: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS
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


class _Notices:
    """An iterator rather than a generator, so that a consumer's deadline on one step leaves it usable."""

    def __init__(self, watches: ConfigWatches, subscription: _Subscription) -> None:
        self._watches = watches
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        changed = self._subscription.changed
        await changed.wait()
        changed.clear()
        try:
            await self._watches.arm(self._subscription)
        except BaseException:
            changed.set()  # the notice was not delivered
            raise


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
        self._subscribers: dict[int, dict[_Subscription, set[bytes | None]]] = {}

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
            await self.arm(subscription)
            yield _Notices(self, subscription)
        finally:
            self._drop(subscription, subscription.watches)

    async def arm(self, subscription: _Subscription) -> None:
        """Watch what the paths name now, then drop what they no longer name.

        Raises:
            WatchUnavailable: something cannot be watched.
        """
        process = subscription.process
        try:
            opened = await self._offload.run(
                process.uid, partial(_open_all, process.pid, subscription.paths), self._timeout_s, discard=_close_all
            )
        except TimeoutError as error:
            raise WatchUnavailable(f"not opened within {self._timeout_s} s") from error
        except OSError as error:
            raise WatchUnavailable(f"pid {process.pid}: {error.strerror}") from error
        before = subscription.watches
        subscription.watches = set()
        try:
            for fd, name in opened:
                self._add(subscription, fd, name)
        finally:
            _close_all(opened)
            self._drop(subscription, before - subscription.watches)

    def _add(self, subscription: _Subscription, fd: int, name: bytes | None) -> None:
        try:
            watch = syscalls.inotify_add_watch(self._fd, b"/proc/self/fd/%d" % fd, _MASK)
        except OSError as error:
            raise WatchUnavailable(f"inotify_add_watch: {error.strerror}") from error
        names = self._subscribers.setdefault(watch, {}).setdefault(subscription, set())
        names.add(name)
        subscription.watches.add(watch)

    def _drop(self, subscription: _Subscription, watches: set[int]) -> None:
        for watch in tuple(watches):
            users = self._subscribers.get(watch)
            if users is None:
                continue
            users.pop(subscription, None)
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
        for watch, mask, name in parse_events(data):
            if mask & _IN_Q_OVERFLOW:
                for users in self._subscribers.values():
                    _notify(users, None)
                continue
            _notify(self._subscribers.get(watch, {}), name)
            if mask & _IN_IGNORED:
                for subscription in self._subscribers.pop(watch, {}):
                    subscription.watches.discard(watch)


def parse_events(data: bytes) -> list[tuple[int, int, bytes]]:
    """Watch descriptor, mask and name (empty for the watched inode itself) of each event in one read from inotify."""
    events = []
    offset = 0
    while offset + _EVENT.size <= len(data):
        watch, mask, _, name_bytes = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size
        events.append((watch, mask, data[offset : offset + name_bytes].rstrip(b"\0")))
        offset += name_bytes
    return events


def _notify(subscriptions: dict[_Subscription, set[bytes | None]], name: bytes | None) -> None:
    """Wake who asked for this name, or for all names; events of the inode itself concern everyone."""
    for subscription, names in subscriptions.items():
        if not name or None in names or name in names:
            subscription.changed.set()


def _close_all(opened: list[tuple[int, bytes | None]]) -> None:
    for fd, _ in opened:
        os.close(fd)


def _open_all(pid: int, paths: tuple[str, ...]) -> list[tuple[int, bytes | None]]:
    """``O_PATH`` descriptors of everything to watch, each with the one name in it that matters, if so; blocking."""
    opened: list[tuple[int, bytes | None]] = []
    root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk = Walk(
            root_fd,
            _MAX_FILES,
            lambda _path, fd: opened.append((os.dup(fd), None)),
            lambda fd: opened.append((os.dup(fd), None)),
        )
        for path in paths:
            _open_parent(root_fd, path, opened)
            try:
                walk.declared(path)
            except ConfigUnreadable:
                continue  # whoever measures finds out why; until it changes, its folder is watched
    except BaseException:
        _close_all(opened)
        raise
    finally:
        os.close(root_fd)
    return opened


def _open_parent(root_fd: int, path: str, opened: list[tuple[int, bytes | None]]) -> None:
    """Add the folder that holds a declared path, or the nearest one above that exists."""
    parent, _, name = path.rpartition("/")
    while True:
        try:
            fd = syscalls.openat2(root_fd, os.fsencode(parent.lstrip("/") or "."), os.O_PATH | os.O_DIRECTORY, _RESOLVE)
        except OSError:
            if not parent:
                return
            parent, _, name = parent.rpartition("/")
            continue
        opened.append((fd, os.fsencode(name)))
        opened.append((os.dup(fd), os.fsencode(ATOMIC_LINK)))
        return
