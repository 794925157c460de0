"""Which container a real process in a real cgroup is in, by engines that answer, lie, stall and break off."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import fake_engine as engines
from attestor.collectors.container import measure_container
from attestor.engine.api import Engine
from attestor.engine.client import EngineClient
from attestor.engine.errors import ContainerUnknown, EngineInvalid, EngineUnavailable
from attestor.engine.events import RESYNCED, ContainerEvent, ContainerEvents
from attestor.evidence import EvidenceCollector
from attestor.facts import ContainerFacts, Unreadable
from attestor.peer import pin_pid
from attestor.selectors import instance_of, measured_selectors
from cgroups import cgroup, move
from children import Child, child, open_descriptors
from fake_engine import IMAGE, MANIFEST, FakeEngine, fake_engine, inspect_answer
from waiting import async_wait_until

TIMEOUT_S = 0.5
WAIT = "print('ready'); input()"


@pytest.fixture
def container_id() -> str:
    return secrets.token_hex(32)


@pytest.fixture
def component(container_id: str) -> Iterator[Child]:
    """A process in a cgroup that only an engine would make."""
    with cgroup(f"hopseal-test/docker/{container_id}") as folder, child(WAIT) as process:
        move(process.pid, folder)
        yield process
        process.end()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with fake_engine(tmp_path / "engine.sock") as engine:
        yield engine


@pytest.fixture
async def engine(fake: FakeEngine) -> AsyncIterator[Engine]:
    engine = Engine("docker", fake.socket, timeout_s=TIMEOUT_S)
    yield engine
    await engine.aclose()


def code(result: ContainerFacts | Unreadable | None) -> str:
    assert isinstance(result, Unreadable), result
    return result.code


async def test_the_running_containers_image_is_named_by_content(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    facts = await measure_container(component.pid, [engine])
    assert isinstance(facts, ContainerFacts)
    assert (facts.id, facts.engine, facts.image_digests) == (container_id, "docker", {IMAGE, MANIFEST})
    assert fake.requests == [f"/containers/{container_id}/json", f"/images/{IMAGE}/json"]


async def test_a_process_in_no_containers_cgroup_is_in_none_and_no_engine_is_asked(
    fake: FakeEngine, engine: Engine
) -> None:
    assert await measure_container(os.getpid(), [engine]) is None
    assert fake.requests == []


async def test_an_image_removed_under_its_container_keeps_its_digest(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    fake.images.clear()
    facts = await measure_container(component.pid, [engine])
    assert isinstance(facts, ContainerFacts)
    assert facts.image_digests == {IMAGE}


async def test_an_image_answer_about_another_image_is_unreadable_and_the_rest_stays(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    fake.images[IMAGE] = {"Id": MANIFEST, "RepoDigests": []}
    facts = await measure_container(component.pid, [engine])
    assert isinstance(facts, ContainerFacts)
    assert isinstance(facts.image_digests, Unreadable)
    assert facts.image_digests.code == "engine_answer_invalid"


async def test_an_engine_that_names_a_process_outside_the_container_is_not_believed(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    for pid in (os.getpid(), 1, (1 << 22) - 1):
        fake.containers[container_id] = inspect_answer(container_id, pid)
        assert code(await measure_container(component.pid, [engine])) == "container_pid_mismatch"


@pytest.mark.parametrize("wrong", ["f" * 64, "f" * 12, "", None])
async def test_an_answer_about_another_id_is_not_believed(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine, wrong: str | None
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid, Id=wrong)
    assert code(await measure_container(component.pid, [engine])) == "engine_answer_invalid"


BROKEN = [
    (engines.hang, "engine_unavailable"),
    (engines.drip, "engine_unavailable"),
    (engines.drip_head, "engine_unavailable"),
    (engines.close, "engine_unavailable"),
    (engines.error_500, "engine_unavailable"),
    (engines.redirect, "engine_unavailable"),
    (engines.flood, "engine_answer_invalid"),
    (engines.endless, "engine_answer_invalid"),
    (engines.truncated, "engine_answer_invalid"),
    (engines.not_http, "engine_answer_invalid"),
    (engines.not_json, "engine_answer_invalid"),
]


@pytest.mark.parametrize(("handler", "expected"), BROKEN, ids=[handler.__name__ for handler, _ in BROKEN])
async def test_a_broken_engine_makes_the_container_unreadable_within_the_deadline(
    component: Child, fake: FakeEngine, engine: Engine, handler: engines.Handler, expected: str
) -> None:
    fake.handler = handler
    started = time.monotonic()
    assert code(await measure_container(component.pid, [engine])) == expected
    assert time.monotonic() - started < 2 * TIMEOUT_S


async def test_an_engine_that_is_not_there_makes_the_container_unreadable(component: Child, tmp_path: Path) -> None:
    absent = Engine("docker", str(tmp_path / "absent.sock"), timeout_s=TIMEOUT_S)
    assert code(await measure_container(component.pid, [absent])) == "engine_unavailable"
    await absent.aclose()


async def test_no_engine_at_all_makes_the_container_unreadable(component: Child) -> None:
    assert code(await measure_container(component.pid, [])) == "engine_not_configured"


async def test_a_container_that_no_engine_knows_is_unreadable_and_not_the_host(
    component: Child, fake: FakeEngine, engine: Engine
) -> None:
    assert fake.containers == {}
    assert code(await measure_container(component.pid, [engine])) == "container_unknown"


async def test_a_hanging_engine_delays_no_process_of_another_one(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine, tmp_path: Path
) -> None:
    fake.handler = engines.hang
    async with fake_engine(tmp_path / "healthy.sock") as healthy_fake:
        healthy = Engine("podman", healthy_fake.socket, timeout_s=TIMEOUT_S)
        healthy_fake.containers[container_id] = inspect_answer(container_id, component.pid)
        started = time.monotonic()
        stuck = [asyncio.create_task(measure_container(component.pid, [engine])) for _ in range(40)]
        await async_wait_until(lambda: len(fake.requests) > 10)
        facts = await measure_container(component.pid, [healthy])
        assert time.monotonic() - started < TIMEOUT_S
        assert isinstance(facts, ContainerFacts)
        assert facts.engine == "podman"
        assert {code(each) for each in await asyncio.gather(*stuck)} == {"engine_unavailable"}
        await healthy.aclose()


async def test_two_engines_that_run_one_id_are_ambiguous(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    again = Engine("podman", fake.socket, timeout_s=TIMEOUT_S)
    assert code(await measure_container(component.pid, [engine, again])) == "container_ambiguous"
    await again.aclose()


async def test_a_cgroup_made_inside_a_container_stays_that_container(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    victim_id = secrets.token_hex(32)
    with ExitStack() as stack:
        victim_group = stack.enter_context(cgroup(f"hopseal-test/docker/{victim_id}"))
        victim = stack.enter_context(child(WAIT))
        move(victim.pid, victim_group)
        fake.containers[victim_id] = inspect_answer(victim_id, victim.pid)
        inner = stack.enter_context(cgroup(f"hopseal-test/docker/{container_id}/{victim_id}"))
        attacker = stack.enter_context(child(WAIT))
        move(attacker.pid, inner)
        facts = await measure_container(attacker.pid, [engine])
        assert isinstance(facts, ContainerFacts)
        assert facts.id == container_id
        del fake.containers[container_id]
        assert code(await measure_container(attacker.pid, [engine])) == "container_pid_mismatch"
        for process in (attacker, victim):
            process.end()


async def test_mounts_of_its_own_never_put_a_process_into_a_container(
    container_id: str, fake: FakeEngine, engine: Engine, tmp_path: Path
) -> None:
    source = tmp_path / "docker/containers" / container_id
    source.mkdir(parents=True)
    (source / "hostname").touch()
    forge = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
        "assert libc.mount(sys.argv[1].encode(), b'/etc/hostname', None, 0x1000, None) == 0\n"
        "open('/dev/null')\n"
    )
    with child(forge + WAIT, str(source / "hostname")) as forger:
        fake.containers[container_id] = inspect_answer(container_id, forger.pid)
        assert container_id in Path(f"/proc/{forger.pid}/mountinfo").read_text(encoding="utf-8")
        assert await measure_container(forger.pid, [engine]) is None
    assert fake.requests == []


async def test_known_facts_spare_the_engine_until_the_cgroup_says_otherwise(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    known = await measure_container(component.pid, [engine])
    assert isinstance(known, ContainerFacts)
    fake.requests.clear()
    fake.handler = engines.hang
    assert await measure_container(component.pid, [engine], known) is known
    assert await measure_container(os.getpid(), [engine], known) is None
    assert fake.requests == []
    incomplete = replace(known, image_digests=Unreadable("x", "y"))
    assert code(await measure_container(component.pid, [engine], incomplete)) == "engine_unavailable"
    with cgroup(f"hopseal-test/docker/{secrets.token_hex(32)}") as other, child(WAIT) as process:
        move(process.pid, other)
        assert code(await measure_container(process.pid, [engine], known)) == "engine_unavailable"
        process.end()


async def test_full_evidence_of_a_process_in_a_container(
    component: Child, container_id: str, fake: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_bytes(b"x")
    files = (str(tmp_path / "settings"),)
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    async with EvidenceCollector([Engine("docker", fake.socket)]) as collector:
        with pin_pid(component.pid) as process:
            asked: list[object] = []

            def pick(container: ContainerFacts | Unreadable | None) -> frozenset[tuple[str, ...]]:
                asked.append(container)
                return frozenset({files})

            evidence = await collector.collect(process, pick)
            assert asked == [evidence.container]
    assert instance_of(evidence) == f"docker:{container_id}"
    values = {selector.value for selector in measured_selectors(evidence)}
    assert {f"image:{IMAGE}", f"image:{MANIFEST}", "engine:docker", "container-label:team=sales"} <= values
    assert any(value.startswith("config:") for value in values)


async def test_a_hanging_engine_makes_posture_unreadable_too_and_the_process_stays(
    component: Child, fake: FakeEngine
) -> None:
    fake.handler = engines.hang
    async with EvidenceCollector([Engine("docker", fake.socket, timeout_s=TIMEOUT_S)]) as collector:
        with pin_pid(component.pid) as process:
            evidence = await collector.collect(process, frozenset())
    assert isinstance(evidence.posture, Unreadable)
    assert evidence.posture.code == "posture_needs_container"
    assert code(evidence.container) == "engine_unavailable"
    assert not isinstance(evidence.process, Unreadable)


async def test_only_running_containers_are_listed(
    component: Child, container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    stopped = secrets.token_hex(32)
    fake.containers[container_id] = inspect_answer(container_id, component.pid)
    fake.containers[stopped] = inspect_answer(stopped, 0, State={"Running": False, "Pid": 0})
    assert [(each.id, each.pid) for each in await engine.list_running()] == [(container_id, component.pid)]
    fake.containers[stopped] = inspect_answer("f" * 64, 7)
    with pytest.raises(EngineInvalid):
        await engine.list_running()
    fake.handler = engines.hang
    with pytest.raises(EngineUnavailable):
        await engine.list_running()


@pytest.mark.parametrize("name", ["fake", "", "../../images/x", "a" * 63, "A" * 64, "f" * 64 + "?x=1"])
async def test_an_engine_is_never_asked_about_a_name(fake: FakeEngine, engine: Engine, name: str) -> None:
    with pytest.raises(ContainerUnknown):
        await engine.inspect(name)
    assert fake.requests == []


@asynccontextmanager
async def following(engine: Engine) -> AsyncIterator[list[ContainerEvent]]:
    """The events of an engine, as they come."""
    seen: list[ContainerEvent] = []

    async def follow() -> None:
        async for event in ContainerEvents(engine).follow():
            seen.append(event)  # noqa: PERF401 - the list is looked at while it grows

    task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_events_follow_reconnect_and_say_that_some_may_be_missing(
    container_id: str, fake: FakeEngine, engine: Engine
) -> None:
    resynced = ContainerEvent("", RESYNCED, 0)
    start, executed, die = (ContainerEvent(container_id, action, 1) for action in ("start", "exec_start", "die"))
    async with following(engine) as seen:
        await async_wait_until(lambda: fake.listeners == 1)
        await fake.emit(container_id, "start")
        await fake.emit(container_id, "exec_start: sh -c id")
        await async_wait_until(lambda: seen == [resynced, start, executed])
        fake.cut()
        await async_wait_until(lambda: len(seen) == 4 and fake.listeners == 1)
        await fake.emit(container_id, "die")
        await async_wait_until(lambda: seen == [resynced, start, executed, resynced, die])


@pytest.mark.parametrize(
    "handler", [engines.error_500, engines.not_json, engines.truncated, engines.close, engines.endless, engines.hang]
)
async def test_events_recover_from_every_kind_of_broken_stream(
    container_id: str, fake: FakeEngine, engine: Engine, handler: engines.Handler
) -> None:
    fake.handler = handler
    async with following(engine) as seen:
        await async_wait_until(lambda: len(fake.requests) > 2)
        fake.handler = None
        await async_wait_until(lambda: fake.listeners == 1)
        assert {event.action for event in seen} <= {RESYNCED}
        await fake.emit(container_id, "die")
        await async_wait_until(lambda: seen[-1].action == "die")


async def test_failed_measurements_leave_no_descriptor_open(component: Child, fake: FakeEngine) -> None:
    before = open_descriptors()
    for handler in (engines.close, engines.error_500, engines.not_http, engines.truncated, engines.flood):
        fake.handler = handler
        engine = Engine("docker", fake.socket, timeout_s=TIMEOUT_S)
        for _ in range(20):
            assert isinstance(await measure_container(component.pid, [engine]), Unreadable)
        await engine.aclose()
    await async_wait_until(lambda: open_descriptors() <= before)


async def test_no_bytes_from_an_engine_raise_anything_but_its_own_errors(fake: FakeEngine) -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Type: ;;;\r\nContent-Length: 2\r\n\r\n\xff\xff",
    ]
    source = random.Random(20261123)
    answer = b""

    async def send(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    fake.handler = send
    client = EngineClient(fake.socket, timeout_s=0.2)
    outcomes = set()
    for number in range(300):
        changed = bytearray(answers[number % len(answers)])
        for _ in range(source.randrange(4) if number >= len(answers) else 0):
            changed[source.randrange(min(len(changed), 200))] = source.randrange(256)
        answer = bytes(changed)
        try:
            await client.get_json("/x")
            outcomes.add("answered")
        except (EngineInvalid, EngineUnavailable, ContainerUnknown) as error:
            outcomes.add(error.code)
    assert {"answered", "engine_answer_invalid", "engine_unavailable"} <= outcomes
    await client.aclose()
