"""Small parts: the latest value, admission, entered containers, engine events."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from attestor.admission import Admission, Rate, TokenBuckets
from attestor.api.limits import ConnectionLimits
from attestor.containers import ContainerFollower
from attestor.engine.api import RunningContainer
from attestor.engine.events import RESYNCED, ContainerEvent
from attestor.entered import EnteredContainers
from attestor.latest import Latest
from attestor.matching import decide
from attestor.peer import PinnedProcess
from attestor.registry import Registry, key_of
from attestor.service import _broker_limits
from attestor.standing import judge
from attestor_values import EXE, approved, component, container_facts, evidence, process_facts
from hopseal.documents.model import AttestBlock
from hopseal.errors import DeniedError, UnavailableError
from waiting import async_wait_until

CONTAINER = "a" * 64


async def test_a_follower_gets_the_newest_value_at_once_and_then_each_newer_one():
    latest: Latest[int] = Latest()
    latest.publish(1)
    latest.publish(2)
    follower = latest.follow()
    assert await anext(follower) == 2
    latest.publish(3)
    latest.publish(4)
    assert await anext(follower) == 4


async def test_followers_end_after_the_final_value_and_nothing_follows_it():
    latest: Latest[int] = Latest()
    follower = latest.follow()
    waiting = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    latest.publish(1, final=True)
    latest.publish(2)
    assert await waiting == 1
    assert [value async for value in follower] == []
    assert [value async for value in latest.follow()] == [1]


async def test_closing_ends_followers_without_a_value():
    latest: Latest[int] = Latest()
    waiting = asyncio.ensure_future(anext(latest.follow(), None))
    await asyncio.sleep(0)
    latest.close()
    assert await waiting is None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    admission = Admission(per_uid=Rate(2, 3), per_cgroup=Rate(100, 100), clock=clock)
    assert [admission.admit(7, "/a") for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [admission.admit(7, "/a") for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [admission.admit(7, "/a") for _ in range(4)] == [True, True, True, False]


def test_one_cgroup_cannot_use_up_what_others_of_its_user_need():
    admission = Admission(per_uid=Rate(1, 10), per_cgroup=Rate(1, 2), clock=Clock())
    assert [admission.admit(0, "/container-a") for _ in range(5)] == [True, True, False, False, False]
    assert [admission.admit(0, "/container-b") for _ in range(2)] == [True, True]


def test_one_user_cannot_use_up_what_other_users_need():
    admission = Admission(per_uid=Rate(1, 2), per_cgroup=Rate(1, 100), clock=Clock())
    assert [admission.admit(7, f"/made-up-{index}") for index in range(4)] == [True, True, False, False]
    assert admission.admit(8, "/b")


def test_buckets_are_bounded():
    buckets = TokenBuckets(Rate(1, 1), Clock(), max_keys=10)
    for index in range(100):
        buckets.take(str(index))
    assert len(buckets) == 10


def ticks_now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // 1_000_000_000


def entered_with(ppids: dict[int, int], attested: tuple[int, ...] = ()) -> EnteredContainers:
    registry = Registry()
    documents = approved(component(AttestBlock(exe=(EXE,))))
    for pid in attested:
        process = PinnedProcess(pid, 0, 0, 1, -1, pid)
        measured = evidence(process=process_facts(pid=pid))
        registry.admit(process, 1.0)
        registry.measured(key_of(process), measured, "docker:x")
        registry.stand(key_of(process), judge(decide(measured, documents), {}, 1.0), 1.0)
    return EnteredContainers(registry, read_ppid=lambda pid: ppids.get(pid, 0))


def process_of(pid: int, ppid: int, *, late: bool):
    start = ticks_now() + 100 if late else 1
    return evidence(process=process_facts(pid=pid, ppid=ppid, start_ticks=start), container=container_facts(pid=50))


@pytest.mark.parametrize("late", [True, False])
def test_only_processes_that_started_after_a_container_was_entered_are_doubted(late):
    entered = entered_with({})
    assert not entered.is_entered(process_of(60, 1, late=late))
    entered.note(CONTAINER, time.time_ns())
    assert entered.is_entered(process_of(60, 1, late=late)) is late


def test_an_orphan_adopted_by_the_containers_first_process_is_doubted_although_that_is_attested():
    entered = entered_with({50: 1}, attested=(50,))
    entered.note(CONTAINER, time.time_ns())
    assert entered.is_entered(process_of(60, 50, late=True))


def test_a_worker_of_an_attested_process_below_the_first_one_is_not_doubted():
    entered = entered_with({55: 52, 52: 50, 50: 1}, attested=(52,))
    entered.note(CONTAINER, time.time_ns())
    assert not entered.is_entered(process_of(60, 55, late=True))
    assert entered.is_entered(process_of(61, 50, late=True))


def test_a_restarted_container_starts_without_doubt():
    entered = entered_with({})
    entered.note(CONTAINER, 0)
    assert entered.is_entered(process_of(60, 1, late=True))
    entered.forget(CONTAINER)
    assert not entered.is_entered(process_of(60, 1, late=True))


def test_a_process_outside_containers_is_never_doubted():
    entered = entered_with({})
    entered.note(CONTAINER, time.time_ns())
    assert not entered.is_entered(evidence(process=process_facts(start_ticks=ticks_now() + 100), container=None))


class FakeEngine:
    socket = "/run/fake.sock"

    def __init__(self) -> None:
        self.events: asyncio.Queue[ContainerEvent] = asyncio.Queue()
        self.listing_fails = False

    async def list_running(self):
        if self.listing_fails:
            raise UnavailableError("engine_unavailable", "no answer")
        return (RunningContainer("b" * 64, 70),)

    async def inspect(self, container_id):
        if self.listing_fails:
            raise UnavailableError("engine_unavailable", "no answer")
        if container_id == "0" * 64:
            raise DeniedError("container_unknown", "no such container")
        return container_facts(id=container_id, pid=80)

    async def follow(self):
        while True:
            yield await self.events.get()


class FakeAttestations:
    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def measure_again(self, container_id=None):
        self.calls.append(("measure", container_id))

    def container_stopped(self, container_id):
        self.calls.append(("stopped", container_id))

    async def observe(self, process):
        self.calls.append(("observe", process.pid))


@pytest.fixture
async def followed():
    engine, attestations, entered = FakeEngine(), FakeAttestations(), entered_with({})
    follower = ContainerFollower(engine, engine.follow, attestations, entered, lambda pid: SimpleNamespace(pid=pid))
    task = asyncio.create_task(follower.run())
    engine.follower = follower
    yield engine, attestations, entered
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("die", [("stopped", CONTAINER)]),
        ("destroy", [("stopped", CONTAINER)]),
        ("start", [("observe", 80)]),
        ("exec_start", [("measure", CONTAINER)]),
        (RESYNCED, [("measure", None), ("observe", 70)]),
    ],
)
async def test_each_engine_event_has_its_consequence(followed, action, expected):
    engine, attestations, _ = followed
    engine.events.put_nowait(ContainerEvent(CONTAINER, action, time.time_ns()))
    await async_wait_until(lambda: attestations.calls == expected)


async def test_events_without_consequence_are_passed_over(followed):
    engine, attestations, _ = followed
    for action in ("rename", "pause", "kill", "die"):
        engine.events.put_nowait(ContainerEvent(CONTAINER, action, 0))
    await async_wait_until(lambda: attestations.calls == [("stopped", CONTAINER)])


async def test_entering_is_remembered_until_the_container_stops(followed):
    engine, _, entered = followed
    engine.events.put_nowait(ContainerEvent(CONTAINER, "exec_start", time.time_ns()))
    await async_wait_until(lambda: entered.is_entered(process_of(60, 1, late=True)))
    engine.events.put_nowait(ContainerEvent(CONTAINER, "die", time.time_ns()))
    await async_wait_until(lambda: not entered.is_entered(process_of(60, 1, late=True)))


async def test_an_engine_that_does_not_list_is_followed_all_the_same(followed):
    engine, attestations, _ = followed
    engine.listing_fails = True
    engine.events.put_nowait(ContainerEvent("", RESYNCED, 0))
    engine.events.put_nowait(ContainerEvent(CONTAINER, "die", 0))
    await async_wait_until(lambda: ("stopped", CONTAINER) in attestations.calls)


async def test_an_engine_that_does_not_answer_is_a_problem_of_the_node_until_it_does(followed, monkeypatch):
    engine, _, _ = followed
    assert engine.follower.problem == ""
    monkeypatch.setattr("attestor.containers.PROBE_INTERVAL_S", 0.01)
    engine.listing_fails = True
    task = asyncio.create_task(engine.follower._probe())
    await async_wait_until(lambda: "/run/fake.sock" in engine.follower.problem)
    engine.listing_fails = False
    await async_wait_until(lambda: engine.follower.problem == "")
    task.cancel()


def test_a_broker_may_ask_for_every_component_of_its_node_at_once() -> None:
    limits = ConnectionLimits(requests_per_s_per_uid=7, requests_per_s_per_cgroup=3)
    assert _broker_limits(limits) == replace(limits, requests_per_s_per_uid=70, requests_per_s_per_cgroup=70)
