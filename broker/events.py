"""What the data plane reports: processes to ask about, calls, trouble with the log.

Owns: reading the events, telling the identities, writing one log line for each.
Does not own: the log of custody records; that is the data plane's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog

from broker.dataplane_api import DataPlane
from broker.identities.registry import Identities
from broker.issuers import IssuerKeys
from broker.logs import CallLines

Event: TypeAlias = Mapping[str, Any]

_LOOK_EVERY_S = 0.1
_AT_ONCE = 256  # events handled before other tasks get their turn
_CALLS_AT_ONCE = 1024
_CALL = '"event":"call"'  # cannot stand inside a JSON string, where its quotes would be escaped

log = structlog.get_logger("broker.data_plane")


@dataclass(frozen=True, slots=True)
class LogHealth:
    """Whether the custody log can be written; calls fail as long as it cannot."""

    healthy: bool = True
    detail: str = ""


class DataPlaneEvents:
    """Follows the data plane's events.

    Args:
        data_plane: reports them.
        identities: told about processes.
        issuers: told about tokens whose key is not known.
        call_lines: writes the log lines of calls.
    """

    def __init__(
        self,
        data_plane: DataPlane,
        identities: Identities,
        issuers: IssuerKeys,
        call_lines: CallLines,
    ) -> None:
        self._data_plane = data_plane
        self._identities = identities
        self._issuers = issuers
        self._call_lines = call_lines
        self.log_health = LogHealth()

    async def run(self) -> None:
        """Follow for ever."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        descriptor = self._data_plane.event_fd()
        loop.add_reader(descriptor, ready.set)
        try:
            while True:
                # Lines about calls wake nobody until there are many: they are looked for now and then.
                # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with an event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await ready.wait()
                # Cleared before taking: an event that comes in between sets it again.
                ready.clear()
                await self._take()
        finally:
            loop.remove_reader(descriptor)

    async def _take(self) -> None:
        # Before the rest, which would bring each as a text of its own.
        calls = list(iter(self._take_calls, ("", [])))
        late: list[str] = []
        for index, text in enumerate(self._data_plane.take_events(), start=1):
            if _CALL in text:
                late.append(text)
                continue
            self.handle(json.loads(text))
            if index % _AT_ONCE == 0:
                await asyncio.sleep(0)
        # After the rest: a process that waits for its identity does not wait for lines about others' calls.
        for lines, others in (*calls, ("", late)) if late else calls:
            self._call_lines.write(lines, others)
            await asyncio.sleep(0)

    def _take_calls(self) -> tuple[str, list[str]]:
        return self._data_plane.take_calls(self._call_lines.end(), _CALLS_AT_ONCE)

    def handle(self, event: Event) -> None:
        """Act on one event and write its log line."""
        name = str(event.get("event", "unnamed"))
        fields = {key: value for key, value in event.items() if key not in {"event", "level", "timestamp"}}
        match name:
            case "caller_seen":
                log.debug(name, **fields)
                self._identities.see_caller(int(event["pidfd_inode"]), int(event.get("pid", 0)))
            case "caller_idle":
                self._identities.note_idle(int(event["pidfd_inode"]))
            case "caller_active":
                self._identities.note_active(int(event["pidfd_inode"]))
            case "listener_seen":
                log.debug(name, **fields)
                inode = 0 if event.get("dead") else int(event["pidfd_inode"])
                self._identities.see_listener(str(event["component"]), inode)
            case "issuer_key_unknown":
                log.info(name, **fields)
                self._issuers.look_for_newer(str(event["issuer"]), str(event["type"]))
            case "log_failed":
                self.log_health = LogHealth(healthy=False, detail=str(event.get("detail", "")))
                log.error(name, **fields)
            case "log_recovered":
                self.log_health = LogHealth()
                log.warning(name, **fields)
            case "log_roll_failed":
                log.error(name, **fields)
            case _:
                log.info(name, **fields)
