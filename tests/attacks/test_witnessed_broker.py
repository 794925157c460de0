"""Whole brokers under a running witness: strict calls wait for it, and a node that was put back is caught by it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from attestor_double import AttestorDouble
from broker.audit.log_signer import load_log_signer
from broker_process import BrokerProcess, ComponentProcess
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.policy import policy_of
from hopseal.log.signers import witness_signer
from tlog_parts import ed25519
from waiting import async_wait_until
from witness_process import WitnessProcess

ORIGIN = "custody.example.org/node-1"
IDS = {name: f"spiffe://example.org/agents/crm/{name}" for name in ("front", "store")}


class Node:
    """A strict broker under one witness, with a component that calls and one that answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "node"
        state = self.folder / "state"
        state.mkdir(parents=True, mode=0o700)
        self.key = load_log_signer(state / "log.key", ORIGIN).key
        self.witness = WitnessProcess(folder / "witness", (self.key,))
        self.witness.start()
        self.policy = policy_of([self.key], [self.witness.keys], 1)
        self.witness.keep_port()
        keys = ", ".join(f'{{url: "{self.witness.url}", key: "{key}"}}' for key in self.witness.keys)
        audit = f"{{strict: true, checkpoint_interval_s: 0.1, quorum: 1, witnesses: [{keys}]}}"
        self.double = AttestorDouble(self.folder)
        self.broker = BrokerProcess(self.folder, audit=audit)
        self.front, self.store = ComponentProcess(), ComponentProcess(self.folder / "store.sock")

    def attest(self) -> None:
        for name, process, listener in (("front", self.front, ""), ("store", self.store, "crm/store")):
            svid = self.double.authority.issue(IDS[name])
            self.double.say(process.inode, svid, instance=f"{name}-1", component=listener)

    async def start(self) -> None:
        await asyncio.to_thread(self.broker.start)
        await async_wait_until(
            lambda: asyncio.to_thread(lambda: self.broker.callee("crm/store") == "attested"), what="the callee"
        )

    async def call(self) -> tuple[int, str]:
        answer = await asyncio.to_thread(self.front.call, self.broker.out, "store.crm")
        return answer["status"], answer["body"].partition('"code":"')[2].partition('"')[0]

    async def audit(self) -> dict:
        return (await asyncio.to_thread(self.broker.status))["audit"]


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[Node]:
    made = Node(folder)
    try:
        made.attest()
        await made.double.start()
        await made.start()
        yield made
    finally:
        await asyncio.to_thread(made.broker.kill)
        made.front.kill()
        made.store.kill()
        await made.double.stop()
        made.witness.kill()


async def test_a_strict_call_is_cosigned_before_it_is_answered_and_refused_while_no_witness_is_there(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as n:
        assert (await n.call())[0] == 200
        note = parse_signed_checkpoint((n.folder / "state/tlog/checkpoint").read_bytes())
        found = n.policy.verify(note, int(time.time()))
        assert found.time is not None
        assert len(found.cosignatures) == 2
        n.witness.kill()
        assert await n.call() == (503, "log_unwitnessed")
        assert "witness_unavailable" in str((await asyncio.to_thread(n.broker.status))["problems"])
        n.witness.start()
        await async_wait_until(lambda: _is_answered(n), timeout_s=30.0, what="calls go on")


async def _is_answered(n: Node) -> bool:
    return (await n.call())[0] == 200


async def test_an_auditor_who_trusts_the_witness_learns_when_a_call_was_made_and_one_who_does_not_learns_nothing(
    tmp_path: Path,
) -> None:
    async with node(tmp_path) as n:
        before = int(time.time())
        assert (await n.call())[0] == 200
        stranger = witness_signer("witness.example/other", ed25519(1)).key
        for name, policy in (("ours", n.policy), ("other", policy_of([n.key], [[stranger]], 1))):
            (tmp_path / name).write_bytes(policy.encode())
        bundle = tmp_path / "evidence"
        wrote = await hopseal(
            "export", "--all", "--policy", tmp_path / "ours", "--log", n.folder / "state", "-o", bundle
        )
        assert wrote.returncode == 0, wrote.stderr
        found = await hopseal("verify", bundle, "--policy", tmp_path / "ours", "--json")
        ((hop,),) = [chain["hops"] for chain in json.loads(found.stdout)["chains"]]
        assert hop["finding"] is None
        assert before <= hop["proven_time"]["until"] <= int(time.time())
        refused = await hopseal("verify", bundle, "--policy", tmp_path / "other", "--json")
        assert (refused.returncode, json.loads(refused.stdout)["verdict"] == "verified") == (1, False)
        assert '"witnessed_at": 1' not in refused.stdout


async def hopseal(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hopseal.cli.main", "audit", *map(str, arguments)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)


async def test_a_node_put_back_from_an_older_copy_is_caught_and_makes_no_more_calls(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        assert (await n.call())[0] == 200
        await asyncio.to_thread(n.broker.kill)
        shutil.copytree(n.folder / "state", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
        await n.start()
        assert (await n.call())[0] == 200
        await asyncio.to_thread(n.broker.kill)
        shutil.rmtree(n.folder / "state")
        shutil.copytree(tmp_path / "copy", n.folder / "state")
        await n.start()
        assert await n.call() == (503, "log_unwitnessed")
        await async_wait_until(lambda: _is_refused(n), what="the alarm")
        status, body = await asyncio.to_thread(n.broker.get, "/healthz")
        assert (status, "witness_refused" in json.dumps(json.loads(body)["problems"])) == (503, True)
        metrics = (await asyncio.to_thread(n.broker.get, "/metrics"))[1].decode()
        (failures,) = [
            line for line in metrics.splitlines() if "witness_failures_total" in line and 'state="refused"' in line
        ]
        assert float(failures.rpartition(" ")[2]) >= 1
        assert n.broker.events("witness_refused")


async def _is_refused(n: Node) -> bool:
    return [each["state"] for each in (await n.audit())["witnesses"]] == ["refused"]
