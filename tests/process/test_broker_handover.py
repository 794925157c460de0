"""Planned restarts of a broker process between real components: the next one takes over and no call is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker_process import BrokerProcess, ComponentProcess
from hopseal.log.entries import Direction, RecordEntry
from hopseal.log.reader import read_log
from process.test_brokerpy_service import FRONT, STORE, Node
from waiting import async_wait_until, wait_until


class Restarted(Node):
    """A node whose broker is replaced while clients call."""

    def __init__(self, folder: Path, **changes: str) -> None:
        super().__init__(folder, **changes)
        self.clients = [ComponentProcess() for _ in range(4)]
        self.components += self.clients
        self.outcomes: Counter[str] = Counter()

    def attest_all(self) -> None:
        self.attest_both()
        for client in self.clients:
            self.attest(client, FRONT, "front-1")

    def successor(self) -> BrokerProcess:
        return BrokerProcess(self.folder, **self.changes)

    @asynccontextmanager
    async def load(self):
        """Half of the clients keep their connection, half open a new one for each call."""
        stop = threading.Event()

        def call(client: ComponentProcess, keep: bool) -> None:
            while not stop.is_set():
                got = client.call(self.broker.out, "store.crm", keep=keep)
                self.outcomes[str(got.get("status") or got["error"])] += 1

        loops = [
            asyncio.create_task(asyncio.to_thread(call, client, bool(index % 2)))
            for index, client in enumerate(self.clients)
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*loops)

    async def calls(self, more: int) -> None:
        before = self.outcomes.total()
        await async_wait_until(lambda: self.outcomes.total() >= before + more, timeout_s=30)

    def entries(self):
        return read_log((self.folder / "state" / "log" / "custody.log").read_bytes())


@asynccontextmanager
async def node(folder: Path, **changes: str):
    made = Restarted(folder, **changes)
    made.changes = changes
    try:
        await made.double.start()
        await asyncio.to_thread(made.broker.start)
        made.attest_all()
        await made.ready()
        yield made
    finally:
        for pid in {each["pid"] for each in made.broker.events("broker_started") if "pid" in each}:
            with_suppressed_kill(pid)
        await asyncio.to_thread(made.broker.kill)
        for component in made.components:
            component.kill()
        await made.double.stop()


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose sockets have short paths."""
    return tmp_path_factory.mktemp("h")


async def test_no_call_and_no_entry_is_lost_over_three_processes(short):
    async with node(short) as n:
        async with n.load():
            await n.calls(30)
            for _ in range(3):
                old = n.broker
                n.broker = n.successor()
                await asyncio.to_thread(n.broker.start)
                await n.calls(30)
                assert await asyncio.to_thread(old.wait, 30) == 0
        assert set(n.outcomes) == {"200"}, (n.outcomes, n.broker.log_path.read_text()[-3000:])
        log = n.entries()
        assert not log.damage
        assert [entry.n for entry in log.entries] == list(range(len(log.entries)))
        received = [each for each in log.entries if isinstance(each, RecordEntry) and each.direction is Direction.RECEIVED]
        assert len({each.jti for each in received}) == len(received) == n.outcomes.total()
        assert n.broker.stop() == 0
        assert not n.broker.out.exists()
        assert not (short / "state" / "handover.sock").exists()
