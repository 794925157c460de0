"""Attacks on attestation itself: floods of processes, and becoming another program in the wrong moment."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack

import pytest

from attestor.admission import Admission, Rate
from attestor.attestation import Attested, Refused
from attestor.evidence import EvidenceCollector
from attestor.peer import pin_pid
from attestor_nodes import approved_of, child, exe_digest, next_of, node_of
from attestor_values import component
from hopseal.documents.model import AttestBlock
from waiting import async_wait_until

UID, ATTACKER = 24_401, 24_402
BLOCK = AttestBlock(uid=UID, exe=(exe_digest(),))
FLOOD = 200

FORK_MANY = f"""
pids = []
for _ in range({FLOOD}):
    pid = os.fork()
    if pid == 0:
        os.read(0, 1)
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
os.read(0, 1)
"""
BECOME_SLEEP = "sys.stdin.readline(); os.execv('/bin/sleep', ['sleep', '60'])"


async def test_a_flood_of_processes_is_bounded_before_it_is_measured_and_holds_nobody_back():
    """200 processes of one user at once: what is over the burst is refused unmeasured, another user is served."""

    class CountingCollector(EvidenceCollector):
        measured = 0

        async def collect(self, *args, **kwargs):
            self.measured += 1
            return await super().collect(*args, **kwargs)

    collector = CountingCollector((), timeout_s=5.0)
    admission = Admission(per_uid=Rate(0.001, 50), per_cgroup=Rate(1000, 1000), clock=time.monotonic)
    async with (
        node_of(approved_of(component(BLOCK)), collector=collector, admission=admission) as node,
        AsyncExitStack() as stack,
    ):
        flooding = stack.enter_context(child(ATTACKER, FORK_MANY))
        pids = [int(pid) for pid in (await asyncio.to_thread(flooding.stdout.readline)).split()]
        assert len(pids) == FLOOD

        async def first_verdict(pid: int) -> Refused:
            async with node.follow(pid) as verdicts:
                return await next_of(verdicts, timeout_s=30)

        flood = asyncio.gather(*map(first_verdict, pids))
        good = stack.enter_context(child(UID))
        started = time.monotonic()
        assert isinstance(await first_verdict(good.pid), Attested)
        assert time.monotonic() - started < 5
        codes = [verdict.code for verdict in await flood]
        assert (codes.count("no_document"), codes.count("rate_limited")) == (50, FLOOD - 50)
        assert collector.measured == 51
        flooding.stdin.close()
        await async_wait_until(lambda: len(node.attestations) == 1)


@pytest.mark.parametrize("moment", ["during the measurement", "after the measurement"])
async def test_executing_another_program_around_the_first_measurement_never_releases_a_key(moment: str):
    class PausingCollector(EvidenceCollector):
        reached, gate = asyncio.Event(), asyncio.Event()

        async def collect(self, *args, **kwargs):
            if moment == "after the measurement":
                evidence = await super().collect(*args, **kwargs)
            self.reached.set()
            await self.gate.wait()
            return evidence if moment == "after the measurement" else await super().collect(*args, **kwargs)

    collector = PausingCollector((), timeout_s=5.0)
    sleep = os.path.realpath("/bin/sleep")
    async with node_of(approved_of(component(BLOCK)), collector=collector, interval_s=3600) as node:
        with child(UID, BECOME_SLEEP) as process, pin_pid(process.pid) as named:
            async with node.follow(process.pid) as verdicts:
                await collector.reached.wait()
                process.stdin.write(b"go\n")
                await async_wait_until(lambda: os.readlink(f"/proc/{process.pid}/exe") == sleep)
                collector.gate.set()
                await next_of(verdicts)
                verdict = await node.attestations.confirm(named)
                assert isinstance(verdict, Refused)
                assert verdict.code in {"exe_changed", "exe_mismatch"}


async def test_a_process_that_exits_while_it_is_measured_gets_nothing_and_leaves_nothing():
    class SlowCollector(EvidenceCollector):
        reached, gate = asyncio.Event(), asyncio.Event()

        async def collect(self, *args, **kwargs):
            self.reached.set()
            await self.gate.wait()
            return await super().collect(*args, **kwargs)

    collector = SlowCollector((), timeout_s=5.0)
    async with node_of(approved_of(component(BLOCK)), collector=collector) as node:
        with child(UID) as process:
            async with node.follow(process.pid) as verdicts:
                await collector.reached.wait()
                process.kill()
                process.wait()
                collector.gate.set()
                assert (await next_of(verdicts)).code == "process_exited"
        await async_wait_until(lambda: len(node.attestations) == 0)
