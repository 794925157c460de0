"""Everything measured about one pinned process, in parallel and under deadlines.

Owns: the order of the reads, their deadlines, and the last look that proves they
were about the pinned process. Does not own: any single measurement
(``attestor.collectors``), nor what is approved.

1. Process facts, the executable's digest and the container start together.
2. Config and posture follow the container, together: the caller picks the
   documents' files by it, and posture depends on it.
3. Last, the pidfd must still be alive and the executable's inode the one that was
   measured; otherwise nothing of it is used.

A read that misses its deadline is that item's :class:`Unreadable`; the others go on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeVar

from attestor.collectors.cgroup import CgroupInvalid
from attestor.collectors.children import measure_children
from attestor.collectors.config import ConfigLimits, measure_config
from attestor.collectors.container import measure_container
from attestor.collectors.posture import measure_posture
from attestor.collectors.process import measure_exe, measure_process, read_exe_identity
from attestor.collectors.secrets import SecretScans
from attestor.digests import DigestCache
from attestor.facts import (
    CHILDREN_NOT_MEASURED,
    ConfigFacts,
    ContainerFacts,
    Evidence,
    ExeIdentity,
    PostureFacts,
    ProcessFacts,
    Unreadable,
)
from attestor.listeners import find_listeners
from attestor.offload import Offload
from attestor.peer import PeerGone, PinnedProcess, close_all
from attestor.proc_text import ProcTextInvalid
from attestor.sock_diag import ListenersUnreadable
from hopseal.errors import DeniedError

if TYPE_CHECKING:
    from types import TracebackType

    from attestor.engine.api import Engine

Result = TypeVar("Result")
ConfigFiles = frozenset[tuple[str, ...]] | Callable[[ContainerFacts | Unreadable | None], frozenset[tuple[str, ...]]]

_NEEDS_RIGHTS = "run the attestor as root with CAP_SYS_PTRACE, as its unit in deploy/systemd does"


class PeerChanged(DeniedError):  # noqa: N818 - the names of states read better without a suffix
    """The process runs another executable than the one that was measured (code ``peer_changed``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("peer_changed", "the calling process executed another program", detail=detail)


@dataclass(frozen=True, slots=True)
class EvidenceLimits:
    """Caps on what is read: the executable, and the declared files of one set."""

    exe_bytes: int = 1 << 29
    config: ConfigLimits = field(default_factory=ConfigLimits)


class EvidenceCollector:
    """Measures processes; one for the daemon, used from its event loop.

    Args:
        engines: container engines of this node; closed with the collector.
        timeout_s: deadline of each measurement.
        limits: caps on what is read.
        wants_children: whether some document asks what the processes below one of that user execute.

    Attributes:
        offload: the thread pool of every blocking read in the attestor.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        timeout_s: float = 1.0,
        limits: EvidenceLimits | None = None,
        wants_children: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self.engines = tuple(engines)
        self._timeout_s = timeout_s
        self._wants_children = wants_children
        self._limits = limits or EvidenceLimits()
        self._sockets = tuple(engine.socket for engine in self.engines)
        self.offload = Offload()
        self._digests = DigestCache()
        self._scans = SecretScans()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.offload.close()
        for engine in self.engines:
            await engine.aclose()

    async def collect(
        self, process: PinnedProcess, config_files: ConfigFiles, *, known: ContainerFacts | None = None
    ) -> Evidence:
        """Everything about ``process``; what could not be read is :class:`Unreadable` in its place.

        Args:
            process: stays the caller's; pinned until this returns.
            config_files: the sets of declared paths to measure, or what picks them once the container is known.
            known: container facts from before, used again while the cgroup says the same.

        Raises:
            PeerGone: the process exited before the last read.
            PeerChanged: it executed another program meanwhile.
        """
        facts, exe, container = await asyncio.gather(
            self._read(process, "process", partial(measure_process, process.pid)),
            self._read(process, "exe", partial(measure_exe, process.pid, self._digests, self._limits.exe_bytes)),
            self._container(process, known),
        )
        sets = config_files(container) if callable(config_files) else config_files
        config, posture, children = await asyncio.gather(
            self._config(process, sets),
            self._posture(process, container),
            self._children(process),
        )
        self._check(process, facts, exe)
        return Evidence(_with_digest(facts, exe), container, config, posture, time.time(), children)

    def confirm(self, process: PinnedProcess, exe: ExeIdentity) -> None:
        """Return only if ``process`` lives and still executes ``exe``; two short reads of kernel memory.

        Raises:
            PeerGone: it has exited.
            PeerChanged: it executed another program.
        """
        try:
            current = read_exe_identity(process.pid)
        except OSError as error:
            raise PeerGone(f"/proc/{process.pid}/exe: {error.strerror}") from error
        if not process.alive():
            raise PeerGone(f"pid {process.pid}")
        if current != exe:
            raise PeerChanged(f"pid {process.pid} ran inode {exe.ino}, now {current.ino}")

    async def find_listeners(self, path: str) -> list[PinnedProcess]:
        """Every process that holds the listening socket at ``path``; the caller closes what it gets.

        Raises:
            ListenersUnreadable: the kernel does not say, or not in time.
        """
        try:
            return await self.offload.run(
                "listeners", partial(find_listeners, path), self._timeout_s, discard=close_all
            )
        except TimeoutError as error:
            raise ListenersUnreadable(f"{path}: not found out within {self._timeout_s} s") from error

    def _check(
        self,
        process: PinnedProcess,
        facts: ProcessFacts | Unreadable,
        exe: tuple[ExeIdentity, str] | Unreadable,
    ) -> None:
        """The last look: every read above was about this process and this program, or nothing counts."""
        identities = set()
        if not isinstance(facts, Unreadable):
            identities.add(facts.exe)
            if facts.start_ticks != process.start_ticks:
                raise PeerGone(f"pid {process.pid} belongs to another process")
        if not isinstance(exe, Unreadable):
            identities.add(exe[0])
        if len(identities) > 1:
            raise PeerChanged(f"pid {process.pid} executed another program while it was measured")
        for identity in identities:
            self.confirm(process, identity)
        if not process.alive():
            raise PeerGone(f"pid {process.pid}")

    async def _container(
        self, process: PinnedProcess, known: ContainerFacts | None
    ) -> ContainerFacts | Unreadable | None:
        try:
            return await measure_container(process.pid, self.engines, known)
        except ProcTextInvalid as error:
            return Unreadable("container_unreadable", error.detail)

    async def _config(
        self, process: PinnedProcess, sets: frozenset[tuple[str, ...]]
    ) -> MappingProxyType[tuple[str, ...], ConfigFacts | Unreadable]:
        ordered = sorted(sets)
        jobs = (self._read(process, "config", partial(self._measure_config, process.pid, paths)) for paths in ordered)
        return MappingProxyType(dict(zip(ordered, await asyncio.gather(*jobs), strict=True)))

    def _measure_config(self, pid: int, paths: tuple[str, ...]) -> ConfigFacts | Unreadable:
        root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return measure_config(root_fd, paths, self._limits.config, self._digests, self._scans)
        finally:
            os.close(root_fd)

    async def _children(self, process: PinnedProcess) -> frozenset[str] | Unreadable:
        if not self._wants_children(process.uid):
            return CHILDREN_NOT_MEASURED
        measure = partial(measure_children, process.pid, self._digests, self._limits.exe_bytes)
        return await self._read(process, "children", measure)

    async def _posture(
        self, process: PinnedProcess, container: ContainerFacts | Unreadable | None
    ) -> PostureFacts | Unreadable:
        if isinstance(container, Unreadable):
            return Unreadable("posture_needs_container", container.detail, container.remedy)
        return await self._read(process, "posture", partial(measure_posture, process.pid, container, self._sockets))

    async def _read(
        self, process: PinnedProcess, item: str, call: Callable[[], Result | Unreadable]
    ) -> Result | Unreadable:
        try:
            return await self.offload.run(process.uid, call, self._timeout_s)
        except TimeoutError:
            return Unreadable(f"{item}_timeout", f"not read within {self._timeout_s} s")
        except (ProcTextInvalid, CgroupInvalid) as error:
            return Unreadable(error.code, error.detail)
        except OSError as error:
            # A descriptor that fails on read has no name.
            what = f"/proc/{process.pid}" if error.filename is None else error.filename
            remedy = _NEEDS_RIGHTS if error.errno in {errno.EACCES, errno.EPERM} else ""
            return Unreadable(f"{item}_unreadable", f"{what}: {error.strerror}", remedy)


def _with_digest(
    facts: ProcessFacts | Unreadable, exe: tuple[ExeIdentity, str] | Unreadable
) -> ProcessFacts | Unreadable:
    if isinstance(facts, Unreadable):
        return facts
    return replace(facts, exe_sha256=exe if isinstance(exe, Unreadable) else exe[1])
