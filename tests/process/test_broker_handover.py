"""Planned restarts of a broker process between real components: the next one takes over and no call is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.audit.log_signer import load_log_signer
from broker_process import ROOT, BrokerProcess, ComponentProcess
from hopseal.log.entries import Direction, RecordEntry, StatementEntry
from hopseal.log.policy import policy_of
from hopseal.log.reader import read_log
from process.test_brokerpy_service import FRONT, Node
from waiting import async_wait_until
from witness_process import WitnessProcess


class Restarted(Node):
    """A node whose broker is replaced while clients call."""

    def __init__(self, folder: Path, **changes: str) -> None:
        self.witness: WitnessProcess | None = None
        if changes.pop("witnessed", ""):
            state = folder / "state"
            state.mkdir(mode=0o700)
            self.key = load_log_signer(state / "log.key", "custody.example.org/node-1").key
            self.witness = WitnessProcess(folder / "witness", (self.key,)).start()
            keys = ", ".join(f'{{url: "{self.witness.url}", key: "{key}"}}' for key in self.witness.keys)
            changes["audit"] = f"{{strict: true, checkpoint_interval_s: 0.1, quorum: 1, witnesses: [{keys}]}}"
        self.changes = changes
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

    def receipts(self) -> int:
        found = [entry for entry in self.entries().entries if isinstance(entry, StatementEntry)]
        return len([each for each in found if each.direction is Direction.RECEIVED])

    async def is_published(self) -> bool:
        return (await self.status())["audit"]["lag"] == 0

    def entries(self):
        return read_log((self.folder / "state" / "log" / "custody.log").read_bytes())


@asynccontextmanager
async def node(folder: Path, **changes: str):
    made = Restarted(folder, **changes)
    try:
        await made.double.start()
        await asyncio.to_thread(made.broker.start)
        made.attest_all()
        await made.ready()
        yield made
    finally:
        for started in made.broker.events("broker_started"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(started["pid"], signal.SIGKILL)
        await asyncio.to_thread(made.broker.kill)
        if made.witness:
            made.witness.kill()
        for component in made.components:
            component.kill()
        await made.double.stop()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose sockets have short paths, and which other users can be let into."""
    with tempfile.TemporaryDirectory(prefix="hopseal-") as folder:
        yield Path(folder)


async def test_no_call_and_no_entry_is_lost_over_three_processes(short):
    async with node(short) as n:
        async with n.load():
            await n.calls(30)
            for _ in range(3):
                old, n.broker = n.broker, n.successor()
                await asyncio.to_thread(lambda: n.broker.start(take_over=True))
                await n.calls(30)
                assert await asyncio.to_thread(old.wait, 30) == 0
        assert set(n.outcomes) == {"200"}, (n.outcomes, n.broker.log_path.read_text()[-3000:])
        log = n.entries()
        assert not log.damage
        assert [entry.n for entry in log.entries] == list(range(len(log.entries)))
        received = [entry.jti for entry in log.entries if _is_accepted(entry)]
        assert len(set(received)) == len(received) == n.outcomes.total()
        assert n.broker.stop() == 0
        assert not n.broker.out.exists()
        assert not (short / "state" / "handover.sock").exists()


def _is_accepted(entry: object) -> bool:
    return isinstance(entry, RecordEntry) and entry.direction is Direction.RECEIVED and entry.accepted


async def test_strict_calls_go_on_and_an_auditor_verifies_what_both_processes_logged(short):
    async with node(short, witnessed="yes") as n:
        async with n.load():
            await n.calls(10)
            old, n.broker = n.broker, n.successor()
            await asyncio.to_thread(lambda: n.broker.start(take_over=True))
            await n.calls(10)
            assert await asyncio.to_thread(old.wait, 30) == 0
        assert set(n.outcomes) == {"200"}, (n.outcomes, n.broker.log_path.read_text()[-3000:])
        # The caller's copies of the last receipts are appended without waiting, and proven by the next checkpoint.
        await async_wait_until(lambda: n.receipts() == n.outcomes.total(), what="the last receipts")
        await async_wait_until(n.is_published, timeout_s=20, what="the last checkpoint")
        assert n.broker.stop() == 0
        policy = short / "witnesses.policy"
        policy.write_bytes(policy_of([n.key], [n.witness.keys], 1).encode())
        bundle = short / "all.evidence"
        exported = await _hopseal("audit", "export", "--all", "--log", str(short / "state"), "--policy", str(policy),
                                  "-o", str(bundle))  # fmt: skip
        assert exported[0] == 0, exported
        code, text = await _hopseal("audit", "verify", str(bundle), "--policy", str(policy), "--json")
        report = json.loads(text)
        verdicts = {chain["verdict"] for chain in report["chains"]}
        assert (code, verdicts, len(report["chains"])) == (0, {"verified"}, n.outcomes.total()), re.findall(
            r'(?:proof|rec|rcp|cert)[^"]*:[^"]*/\d+|"missing": \[\s*"[^\]]*', text
        )


async def _hopseal(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "from hopseal.cli.main import main; main()", *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=-1, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_a_hangup_signal_makes_the_broker_start_its_successor(short):
    async with node(short) as n:
        async with n.load():
            await n.calls(10)
            n.broker.signal(signal.SIGHUP)
            await async_wait_until(lambda: len(n.broker.events("broker_started")) == 2, timeout_s=30)
            await n.calls(20)
            assert await asyncio.to_thread(n.broker.wait, 30) == 0
        assert set(n.outcomes) == {"200"}, n.outcomes
        first, second = (each["pid"] for each in n.broker.events("broker_started"))
        assert first == n.broker.pid != second
        assert (await n.status())["healthy"], await n.status()
        os.kill(second, signal.SIGTERM)
        await async_wait_until(lambda: not n.broker.out.exists(), what="the successor's end")


async def test_a_process_that_cannot_serve_ends_and_the_running_one_goes_on(short):
    async with node(short) as n:
        successor = BrokerProcess(short, handover="{ready_s: 0.5}", routes=str(short / "routes.yaml"))
        # Its own attestor is not there.
        text = successor.config.read_text()
        successor.config.write_text(text.replace("api.sock", "nowhere.sock"))
        await asyncio.to_thread(lambda: successor.start(wait=False, take_over=True))
        assert await asyncio.to_thread(successor.wait, 30) != 0
        assert "handover_not_ready" in n.broker.log_path.read_text()
        assert (await n.call())["status"] == 200
        assert len(n.broker.events("handover_begun")) == 1


async def test_whoever_asks_and_goes_away_changes_nothing(short):
    async with node(short) as n:
        for message in (None, b"{", _hello(), _hello(node="node-2")):
            with _connected(short) as asking:
                if message is not None:
                    asking.send(message)
                    asking.settimeout(5)
                    answer = asking.recv(4096)
                    assert (b"sockets" in answer) == (message == _hello()), answer
        assert (await n.call())["status"] == 200
        reasons = [each["reason"] for each in n.broker.events("handover_refused")]
        assert any("another node" in reason for reason in reasons)


def _hello(node: str = "node-1") -> bytes:
    return json.dumps({"handover": 1, "node": node, "trust_domain": "example.org"}).encode()


def _connected(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.connect(str(folder / "state" / "handover.sock"))
    return made


async def test_another_user_gets_no_socket_even_if_the_folder_lets_it_in(short):
    async with node(short) as n:
        for path in (short, short / "state", short / "state" / "handover.sock"):
            path.chmod(0o777)
        code = (
            "import os, socket, sys\n"
            "os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "s.connect(sys.argv[1]); s.send(sys.argv[2].encode())\n"
            "print(s.recv(4096))"
        )
        arguments = (str(short / "state" / "handover.sock"), _hello().decode())
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments, stdout=-1, stderr=-2)
        output, _ = await process.communicate()
        assert b"sockets" not in output
        await async_wait_until(lambda: n.broker.events("handover_refused"), what="the refusal")
        assert "65534" in n.broker.events("handover_refused")[0]["reason"]
        assert (await n.call())["status"] == 200


async def test_taking_over_from_nobody_is_refused_if_it_was_asked_for(short):
    config = BrokerProcess(short).config
    code, output = await _hopseal("broker", "run", "--config", str(config), "--take-over")
    assert code == 3
    assert "handover_unavailable" in output or "no broker runs here" in output
