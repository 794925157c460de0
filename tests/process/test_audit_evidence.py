"""From a call to a verdict: a whole broker with its data plane, a real witness, and the auditor on what they left."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from attestor_double import AttestorDouble
from broker.audit.log_signer import KEY_NAME, load_log_signer
from broker_process import BrokerProcess, ComponentProcess
from hopseal.cli.main import cli
from hopseal.log.entries import format_line, read_payload
from waiting import async_wait_until
from witness_process import WitnessProcess

pytestmark = pytest.mark.process

ORIGIN = "custody.example.org/node-1"
STORE, FRONT = ("spiffe://example.org/agents/crm/store", "spiffe://example.org/agents/crm/front")


@dataclass
class Node:
    """A broker under a witness, a component that calls and one that answers."""

    double: AttestorDouble
    broker: BrokerProcess
    witness: WitnessProcess
    store: ComponentProcess
    front: ComponentProcess

    async def call(self, **options: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self.front.call, self.broker.out, "store.crm", **options)

    async def published(self) -> None:
        def is_all() -> bool:
            audit = self.broker.status()["audit"]
            return bool(audit["published"] == audit["entries"] > 0)

        await async_wait_until(lambda: asyncio.to_thread(is_all), what="a cosigned checkpoint over everything")


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[Node]:
    (folder / "state").mkdir(mode=0o700)
    key = load_log_signer(folder / "state" / KEY_NAME, ORIGIN).key
    witness = WitnessProcess(folder / "witness", (key,))
    await asyncio.to_thread(witness.start)
    named = f'[{{url: "{witness.url}", key: "{witness.keys[0]}"}}]'
    audit = f"{{checkpoint_interval_s: 0.1, quorum: 1, witnesses: {named}}}"
    made = Node(
        AttestorDouble(folder),
        BrokerProcess(folder, audit=audit),
        witness,
        ComponentProcess(folder / "store.sock"),
        ComponentProcess(),
    )
    (folder / "witnesses.policy").write_text(f"log {key}\nwitness w {witness.keys[0]}\nquorum w\n")
    try:
        await made.double.start()
        await asyncio.to_thread(made.broker.start)
        for component, spiffe_id, listener in ((made.store, STORE, "crm/store"), (made.front, FRONT, "")):
            svid = made.double.authority.issue(spiffe_id)
            made.double.say(component.inode, svid, instance=spiffe_id, component=listener)
        await async_wait_until(
            lambda: asyncio.to_thread(lambda: made.broker.callee("crm/store") == "attested"), what="the callee"
        )
        yield made
    finally:
        await asyncio.to_thread(made.broker.kill)
        for each in (made.store, made.front, witness):
            each.kill()
        await made.double.stop()


def audit(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)], catch_exceptions=False)


async def test_what_a_broker_logged_and_a_witness_cosigned_is_verified(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        for number in range(3):
            assert (await n.call(body=f"call {number}"))["status"] == 200
        await n.published()
        n.broker.signal(signal.SIGTERM)
        await asyncio.to_thread(n.broker.wait)
    state, policy, output = tmp_path / "state", tmp_path / "witnesses.policy", tmp_path / "task.evidence"
    exported = await asyncio.to_thread(audit, "export", "--all", "--log", state, "--policy", policy, "-o", output)
    assert (exported.exit_code, exported.stderr) == (0, ""), exported.output
    verified = await asyncio.to_thread(audit, "verify", output, "--policy", policy, "--json")
    report = json.loads(verified.stdout)
    assert (verified.exit_code, report["verdict"], report["logs"]) == (0, "verified", [ORIGIN]), verified.stdout
    hops = [hop for chain in report["chains"] for hop in chain["hops"]]
    assert len(hops) == 3
    for hop in hops:
        assert (hop["caller"], hop["callee"]) == (FRONT, STORE)
        assert [answer["status"] for answer in hop["answers"]] == [200]
        assert 0 <= hop["proven_time"]["until"] - hop["proven_time"]["from"] <= 120
    with_key = await asyncio.to_thread(
        audit, "verify", output, "--witness-key", n.witness.keys[0], "--now", 4_000_000_000
    )
    assert with_key.exit_code == 0


async def test_a_log_that_its_operator_rewrote_is_refused(tmp_path: Path) -> None:
    """The journal says something else than what the witness saw: its proofs do not fit any more."""
    async with node(tmp_path) as n:
        assert (await n.call())["status"] == 200
        assert (await n.call(body="another"))["status"] == 200
        await n.published()
    journal = tmp_path / "state" / "log" / "custody.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    records = [number for number, line in enumerate(lines) if b'"type":"rec"' in line and b'"dir":"sent"' in line]
    assert len(records) == 2
    swapped = list(lines)
    first, second = (json.loads(read_payload(lines[number][:-1])) for number in records)
    for number, taken in zip(records, (second, first), strict=True):
        members = taken | {"n": number}
        swapped[number] = format_line(json.dumps(members, separators=(",", ":")).encode())
    journal.write_bytes(b"".join(swapped))
    policy, output = tmp_path / "witnesses.policy", tmp_path / "task.evidence"
    await asyncio.to_thread(audit, "export", "--all", "--log", tmp_path / "state", "-o", output)
    result = await asyncio.to_thread(audit, "verify", output, "--policy", policy)
    assert result.exit_code == 1
    assert "step 2: proof_invalid" in result.output
