"""Evidence about real containers of a real Podman service, through its Docker-compatible API."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from attestor.collectors.config import config_root
from attestor.engine.api import Engine
from attestor.engine.events import RESYNCED, ContainerEvent, ContainerEvents
from attestor.evidence import EvidenceCollector
from attestor.facts import ConfigFacts, ContainerFacts, PostureFacts
from attestor.peer import pin_pid
from attestor.selectors import instance_of, measured_selectors
from hopseal.selectors import Posture
from real.engine import RealEngine, podman_engine
from waiting import async_wait_until

__all__ = ["podman_engine"]

SETTINGS = b"model: small\n"
HARDENED = ("--user", "1204:1204", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.fixture(scope="session")
def image(podman_engine: RealEngine) -> str:
    return podman_engine.build_image("localhost/hopseal-test:1", {"/etc/agent/settings": SETTINGS}, "LABEL team=sales")


@pytest.fixture
async def collector(podman_engine: RealEngine) -> AsyncIterator[EvidenceCollector]:
    async with EvidenceCollector([Engine("podman", str(podman_engine.socket), timeout_s=5)], timeout_s=5) as collector:
        yield collector


async def test_a_container_is_measured_in_full(
    podman_engine: RealEngine, collector: EvidenceCollector, image: str
) -> None:
    container = podman_engine.start("localhost/hopseal-test:1")
    with pin_pid(podman_engine.pid(container)) as process:
        evidence = await collector.collect(process, frozenset({("/etc/agent",)}))
    assert instance_of(evidence) == f"podman:{container}"
    assert isinstance(evidence.container, ContainerFacts)
    assert isinstance(evidence.container.image_digests, frozenset)
    assert image in evidence.container.image_digests
    config = evidence.config[("/etc/agent",)]
    assert isinstance(config, ConfigFacts)
    assert config.root == config_root({"/etc/agent/settings": f"sha256:{hashlib.sha256(SETTINGS).hexdigest()}"})
    values = {selector.value for selector in measured_selectors(evidence)}
    assert {"engine:podman", "container-label:team=sales", "posture:baseline"} <= values
    assert {each.id for each in await collector.engines[0].list_running()} >= {container}


@pytest.mark.parametrize(
    ("options", "level", "control"),
    [
        (HARDENED, Posture.RESTRICTED, None),
        (("--privileged",), Posture.PRIVILEGED, "Privileged Containers"),
        (("--pid", "host", *HARDENED), Posture.PRIVILEGED, "Host Namespaces"),
        (("--security-opt", "seccomp=unconfined", *HARDENED), Posture.PRIVILEGED, "Seccomp"),
        (("--security-opt", "unmask=ALL", *HARDENED), Posture.PRIVILEGED, "/proc Mount Type"),
        (("--volume", "/etc:/host-etc:ro", *HARDENED), Posture.PRIVILEGED, "HostPath Volumes"),
    ],
)
async def test_posture_names_what_the_container_was_given(
    podman_engine: RealEngine,
    collector: EvidenceCollector,
    image: str,
    options: tuple[str, ...],
    level: Posture,
    control: str | None,
) -> None:
    assert image
    container = podman_engine.start("localhost/hopseal-test:1", *options)
    try:
        with pin_pid(podman_engine.pid(container)) as process:
            posture = (await collector.collect(process, frozenset())).posture
    finally:
        podman_engine.remove(container)
    assert isinstance(posture, PostureFacts), posture
    assert posture.level is level, posture.failed
    assert control is None or control in {failed.control for failed in posture.failed}


async def test_starts_and_ends_are_reported_in_dockers_words(podman_engine: RealEngine, image: str) -> None:
    assert image
    engine = Engine("podman", str(podman_engine.socket), timeout_s=5)
    seen: list[ContainerEvent] = []

    async def follow() -> None:
        async for event in ContainerEvents(engine).follow():
            seen.append(event)  # noqa: PERF401 - the list is looked at while it grows

    task = asyncio.create_task(follow())
    await async_wait_until(lambda: any(event.action == RESYNCED for event in seen))
    container = await asyncio.to_thread(podman_engine.start, "localhost/hopseal-test:1")
    await asyncio.to_thread(podman_engine.run, "exec", container, "/bin/ls", "/")
    await asyncio.to_thread(podman_engine.run, "kill", container)
    wanted = ["start", "exec_start", "die"]
    try:
        await async_wait_until(
            lambda: [e.action for e in seen if e.container_id == container and e.action in wanted] == wanted
        )
    except AssertionError as error:
        raise AssertionError(str(seen)) from error
    task.cancel()
    await asyncio.wait([task])
    await engine.aclose()
