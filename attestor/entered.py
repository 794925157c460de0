"""Processes that were put into a container from outside (``docker exec``) and not started by it.

Owns: remembering which container was entered when, and judging a process by it.
Does not own: following the engine (``attestor.containers``).

Such a process has the container's cgroup, image and files, so nothing else tells it apart. Ancestry
alone proves nothing either: an orphan of ``docker exec`` is adopted by the container's first
process. So once a container was entered, a process that started later counts as put there from
outside, unless a process that was attested is among its ancestors *below* the first process. What
is lost: workers that the container's first process forks after that are refused as well.
``nsenter`` is not seen; it needs root on the host.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable

from attestor.facts import ContainerFacts, Evidence, ProcessFacts
from attestor.peer import read_proc
from attestor.proc_text import parse_status
from attestor.registry import Registry
from attestor.states import State
from hopseal.errors import HopsealError

MAX_CONTAINERS = 4096
_MAX_ANCESTORS = 64
_NS_PER_S = 1_000_000_000
_ROUNDING_TICKS = 1  # a start time is rounded down to whole ticks


class EnteredContainers:
    """When each container was first entered from outside.

    Args:
        registry: knows which processes were attested.
        read_ppid: the parent of a pid; raises ``HopsealError`` or ``OSError`` if it is gone.
    """

    def __init__(self, registry: Registry, *, read_ppid: Callable[[int], int] | None = None) -> None:
        self._registry = registry
        self._read_ppid = read_ppid or _read_ppid
        self._first_ticks: OrderedDict[str, int] = OrderedDict()

    def note(self, container_id: str, at_ns: int) -> None:
        """The container was entered at ``at_ns`` of the wall clock; 0: at a time that the engine did not say."""
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        ago_ns = max(0, time.time_ns() - at_ns) if at_ns else _NS_PER_S
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        ticks = (now_ns - ago_ns) * ticks_per_s // _NS_PER_S - _ROUNDING_TICKS
        self._first_ticks[container_id] = min(ticks, self._first_ticks.get(container_id, ticks))
        self._first_ticks.move_to_end(container_id)
        if len(self._first_ticks) > MAX_CONTAINERS:
            self._first_ticks.popitem(last=False)

    def forget(self, container_id: str) -> None:
        """The container stopped: whatever was put into it is gone."""
        self._first_ticks.pop(container_id, None)

    def is_entered(self, evidence: Evidence) -> bool:
        """Whether the measured process may have been put into its container from outside."""
        process, container = evidence.process, evidence.container
        if not isinstance(process, ProcessFacts) or not isinstance(container, ContainerFacts):
            return False
        first_ticks = self._first_ticks.get(container.id)
        if first_ticks is None or process.start_ticks < first_ticks or process.pid == container.pid:
            return False
        return not self._descends_from_attested(process, container)

    def _descends_from_attested(self, process: ProcessFacts, container: ContainerFacts) -> bool:
        attested = {
            record.pid
            for record in self._registry.live()
            if record.container_id == container.id
            and any(standing.state is State.ATTESTED for standing in record.standings.values())
        } - {container.pid, process.pid}
        pid = process.ppid
        for _ in range(_MAX_ANCESTORS):
            if pid in attested:
                return True
            if pid <= 1:
                return False
            try:
                pid = self._read_ppid(pid)
            except (HopsealError, OSError, ValueError):
                return False
        return False


def _read_ppid(pid: int) -> int:
    return int(parse_status(read_proc(pid, "status")).get("PPid", "0"))
