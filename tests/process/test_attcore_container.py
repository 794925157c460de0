"""Components in containers: real cgroups and processes, an engine that we can make say anything."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from attestor.attestation import Attested
from attestor.containers import ContainerFollower
from attestor.engine.api import Engine
from attestor.engine.events import ContainerEvents
from attestor.entered import EnteredContainers
from attestor.evidence import EvidenceCollector
from attestor.peer import pin_pid
from attestor.states import State
from attestor_nodes import Node, approved_of, child, exe_digest, next_of, node_of
from attestor_values import component, container_facts, evidence, process_facts
from cgroups import cgroup, move
from fake_engine import IMAGE, FakeEngine, fake_engine, hang, inspect_answer
from hopseal.documents.model import AttestBlock
from waiting import async_wait_until

UID = 24_301
BLOCK = AttestBlock(image=(IMAGE,), exe=(exe_digest(),), container_labels=(("team", "sales"),))


@pytest.fixture
def container() -> Iterator[tuple[str, Path]]:
    container_id = secrets.token_hex(32)
    with cgroup(f"hopseal-attcore/docker/{container_id}") as folder:
        yield container_id, folder


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with fake_engine(tmp_path / "engine.sock") as fake:
        yield fake


@asynccontextmanager
async def following_node(fake: FakeEngine, *blocks: AttestBlock) -> AsyncIterator[Node]:
    engine = Engine("docker", fake.socket, timeout_s=2.0)
    collector = EvidenceCollector((engine,), timeout_s=3.0)
    doubts: list[EnteredContainers] = []
    async with (
        collector,
        node_of(
            approved_of(component(*(blocks or (BLOCK,)))),
            collector=collector,
            is_entered=lambda evidence: any(each.is_entered(evidence) for each in doubts),
        ) as node,
    ):
        entered = EnteredContainers(node.registry)
        doubts.append(entered)
        follower = ContainerFollower(engine, ContainerEvents(engine).follow, node.attestations, entered, pin_pid)
        task = asyncio.create_task(follower.run())
        await async_wait_until(lambda: fake.listeners == 1)
        yield node
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def states_of(node: Node) -> list[tuple[State, str]]:
    return [(each.state, each.code) for record in node.registry.live() for each in record.standings.values()]


async def test_a_running_container_is_found_in_the_engines_listing_before_it_calls(container, fake):
    container_id, folder = container
    with child(UID) as process:
        move(process.pid, folder)
        fake.containers[container_id] = inspect_answer(container_id, process.pid)
        async with following_node(fake) as node:
            await async_wait_until(lambda: states_of(node) == [(State.ATTESTED, "attested")])
            assert next(iter(node.registry.live())).instance == f"docker:{container_id}"


async def test_a_container_that_starts_later_is_found_by_its_event(container, fake):
    container_id, folder = container
    async with following_node(fake) as node:
        with child(UID) as process:
            move(process.pid, folder)
            fake.containers[container_id] = inspect_answer(container_id, process.pid)
            await fake.emit(container_id, "start")
            await async_wait_until(lambda: states_of(node) == [(State.ATTESTED, "attested")])


async def test_a_container_that_dies_is_withdrawn_from_before_its_process_is_gone(container, fake):
    container_id, folder = container
    with child(UID) as process:
        move(process.pid, folder)
        fake.containers[container_id] = inspect_answer(container_id, process.pid)
        async with following_node(fake) as node, node.follow(process.pid) as verdicts:
            assert isinstance(await next_of(verdicts), Attested)
            await fake.emit(container_id, "die")
            verdict = await next_of(verdicts, timeout_s=1.0)
            assert (verdict.state, verdict.code) == (State.GONE, "container_stopped")


async def test_a_container_of_another_image_with_the_same_labels_is_refused_with_the_image(container, fake):
    container_id, folder = container
    other = "sha256:" + "00" * 32
    with child(UID) as process:
        move(process.pid, folder)
        fake.containers[container_id] = inspect_answer(container_id, process.pid, Image=other)
        fake.images[other] = {"Id": other, "RepoDigests": []}
        async with following_node(fake) as node, node.follow(process.pid) as verdicts:
            verdict = await next_of(verdicts)
            assert (verdict.state, verdict.code) == (State.REFUSED, "image_mismatch")
            item = next(each for each in states_items(node) if each.name == "image")
    assert (item.approved, item.measured) == ((IMAGE,), (other,))


def states_items(node: Node):
    return [item for record in node.registry.live() for each in record.standings.values() for item in each.items]


async def test_an_engine_that_hangs_refuses_its_containers_and_nobody_else(container, fake):
    _, folder = container
    with child(UID) as inside, child(UID + 1) as outside:
        move(inside.pid, folder)
        host_block = AttestBlock(exe=(exe_digest(),), uid=UID + 1)
        async with following_node(fake, BLOCK, host_block) as node:
            fake.handler = hang
            async with node.follow(inside.pid) as stuck, node.follow(outside.pid) as verdicts:
                assert isinstance(await next_of(verdicts), Attested)
                assert stuck.empty()
                verdict = await next_of(stuck, timeout_s=10.0)
            assert (verdict.state, verdict.code) == (State.UNREADABLE, "engine_unavailable")


async def test_a_process_put_into_the_container_from_outside_gets_nothing_and_the_first_keeps_what_it_has(
    container, fake
):
    container_id, folder = container
    with child(UID) as first:
        move(first.pid, folder)
        fake.containers[container_id] = inspect_answer(container_id, first.pid)
        async with following_node(fake) as node, node.follow(first.pid) as kept:
            assert isinstance(await next_of(kept), Attested)
            await fake.emit(container_id, "exec_start: /bin/sh")
            with child(UID) as entered:
                move(entered.pid, folder)
                await async_wait_until(lambda: node.around.bench.is_entered(_evidence_of(entered.pid, container_id)))
                async with node.follow(entered.pid) as verdicts:
                    verdict = await next_of(verdicts)
            assert (verdict.state, verdict.code) == (State.UNREADABLE, "container_entered")
            assert kept.empty()


def _evidence_of(pid: int, container_id: str):
    with pin_pid(pid) as named:
        facts = process_facts(pid=pid, start_ticks=named.start_ticks, ppid=1)
    return evidence(process=facts, container=container_facts(id=container_id, pid=1))


async def test_a_process_moved_to_another_cgroup_has_drifted(fake):
    block = AttestBlock(exe=(exe_digest(),), uid=UID)
    with child(UID) as process, cgroup("hopseal-attcore/elsewhere") as elsewhere:
        async with following_node(fake, block) as node, node.follow(process.pid) as verdicts:
            assert isinstance(await next_of(verdicts), Attested)
            move(process.pid, elsewhere)
            node.attestations.measure_again()
            verdict = await next_of(verdicts)
            assert (verdict.state, verdict.code) == (State.DRIFTED, "instance_changed")
