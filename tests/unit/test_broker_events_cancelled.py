"""Following the data plane ends when told to, whatever comes at that moment."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from broker.config import LogConfig
from broker.events import DataPlaneEvents
from broker.issuers import IssuerKeys
from broker.logs import CallLines
from fake_dataplane import FakeDataPlane


class Nobody:
    """Identities that hear of nothing here."""

    def note_idle(self, pidfd_inode: int) -> None:
        """A caller went idle."""


@pytest.mark.parametrize("steps", range(8))
async def test_an_event_together_with_the_cancellation_does_not_keep_it_running(steps: int) -> None:
    plane = FakeDataPlane()
    lines = CallLines(LogConfig("json", "warning"))
    task = asyncio.create_task(DataPlaneEvents(plane, Nobody(), IssuerKeys((), random.Random(0)), lines).run())
    await asyncio.sleep(0)
    plane.emit("caller_idle", pidfd_inode=5)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=2)
    was_done = task.done()
    while not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=0.1)
    assert was_done
