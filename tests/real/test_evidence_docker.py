"""Evidence about real containers of a real Docker Engine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from attestor.collectors.config import config_root
from attestor.engine.api import Engine
from attestor.engine.events import RESYNCED, ContainerEvent, ContainerEvents
from attestor.evidence import EvidenceCollector
from attestor.facts import ConfigFacts, ContainerFacts, Evidence, PostureFacts, ProcessFacts, Unreadable
from attestor.peer import PeerGone, pin_pid
from attestor.selectors import instance_of, measured_selectors
from hopseal.selectors import Posture
from real.engine import RealEngine, docker_engine
from waiting import async_wait_until, wait_until

__all__ = ["docker_engine"]

FILES = {"/etc/agent/settings.yaml": b"model: small\n", "/etc/agent/prompts/system.txt": b"be kind\n"}
PLACE = {"/evil/here": b""}
HARDENED = ("--user", "1204:1204", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def image(docker_engine: RealEngine) -> str:
    return docker_engine.build_image("hopseal-test/agent:1", FILES | PLACE, "LABEL org.example.team=sales")


@pytest.fixture
async def collector(docker_engine: RealEngine) -> AsyncIterator[EvidenceCollector]:
    async with EvidenceCollector([Engine("docker", str(docker_engine.socket))], timeout_s=5) as collector:
        yield collector


@pytest.fixture
def container(docker_engine: RealEngine, image: str) -> Iterator[str]:
    container_id = docker_engine.start("hopseal-test/agent:1")
    yield container_id
    docker_engine.remove(container_id)


async def measure(collector: EvidenceCollector, pid: int, *files: str) -> Evidence:
    with pin_pid(pid) as process:
        return await collector.collect(process, frozenset({files} if files else ()))


def facts_of(evidence: Evidence) -> ContainerFacts:
    assert isinstance(evidence.container, ContainerFacts), evidence.container
    return evidence.container


async def test_a_container_is_its_id_its_labels_and_the_digest_of_its_image(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str, image: str
) -> None:
    evidence = await measure(collector, docker_engine.pid(container))
    facts = facts_of(evidence)
    assert (facts.id, facts.image_id, facts.image_digests) == (container, image, {image})
    assert instance_of(evidence) == f"docker:{container}"
    values = {selector.value for selector in measured_selectors(evidence)}
    assert {f"image:{image}", "engine:docker", "container-label:org.example.team=sales", "posture:baseline"} <= values


async def test_a_tag_that_moved_and_an_image_that_lost_its_name_change_nothing(
    docker_engine: RealEngine, collector: EvidenceCollector
) -> None:
    first = docker_engine.build_image("hopseal-test/moving:1", {"/x": b"1"})
    container = docker_engine.start("hopseal-test/moving:1")
    pid = docker_engine.pid(container)
    second = docker_engine.build_image("hopseal-test/moving:1", {"/x": b"2"})
    assert first != second
    assert facts_of(await measure(collector, pid)).image_digests == {first}
    docker_engine.run("rmi", "--force", "hopseal-test/moving:1")
    assert facts_of(await measure(collector, pid)).image_digests == {first}


async def test_the_config_root_is_over_the_files_as_the_container_sees_them(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str
) -> None:
    pid = docker_engine.pid(container)
    config = (await measure(collector, pid, "/etc/agent")).config[("/etc/agent",)]
    assert isinstance(config, ConfigFacts)
    assert config.root == config_root({path: digest(content) for path, content in FILES.items()})
    docker_engine.run("exec", container, "/bin/sh", "-c", "echo be evil > /etc/agent/prompts/system.txt")
    changed = (await measure(collector, pid, "/etc/agent")).config[("/etc/agent",)]
    assert isinstance(changed, ConfigFacts)
    expected = FILES | {"/etc/agent/prompts/system.txt": b"be evil\n"}
    assert changed.root == config_root({path: digest(content) for path, content in expected.items()})


async def test_links_and_pipes_inside_a_container_lead_nowhere(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str
) -> None:
    pid = docker_engine.pid(container)
    script = "cd /evil; ln -s /etc/shadow a; ln -s ../../../../etc/shadow b; mkfifo c; ln -s /proc/1/root d; ln -s / e"
    docker_engine.run("exec", container, "/bin/sh", "-c", script)
    paths = ["/evil/a", "/evil/b", "/evil/c", "/evil/d", "/evil/e/etc/agent", "/proc/1/root/etc/agent", "/dev/null"]
    with pin_pid(pid) as process:
        evidence = await collector.collect(process, frozenset((path,) for path in paths))
    codes = [each.code for path in paths if isinstance(each := evidence.config[path,], Unreadable)]
    assert codes == ["config_symlink_refused"] * 2 + ["config_kind_refused"] + ["config_symlink_refused"] * 3 + [
        "config_kind_refused"
    ]


CONTROLS = {
    "defaults": ((), Posture.BASELINE, {"Privilege Escalation", "Running as Non-root user", "Capabilities"}),
    "hardened": (HARDENED, Posture.RESTRICTED, set()),
    "privileged": (("--privileged",), Posture.PRIVILEGED, {"Privileged Containers", "Capabilities", "Seccomp"}),
    "host network": (("--network", "host"), Posture.PRIVILEGED, {"Host Namespaces"}),
    "host processes": (("--pid", "host", *HARDENED), Posture.PRIVILEGED, {"Host Namespaces"}),
    "host ipc": (("--ipc", "host", *HARDENED), Posture.PRIVILEGED, {"Host Namespaces"}),
    "added capability": (("--cap-add", "SYS_ADMIN"), Posture.PRIVILEGED, {"Capabilities"}),
    "no seccomp": (("--security-opt", "seccomp=unconfined"), Posture.PRIVILEGED, {"Seccomp"}),
    "unmasked": (("--security-opt", "systempaths=unconfined", *HARDENED), Posture.PRIVILEGED, {"/proc Mount Type"}),
    "host root": (("--volume", "/:/host:ro", *HARDENED), Posture.PRIVILEGED, {"HostPath Volumes"}),
    "host etc": (("--volume", "/etc:/host-etc:ro", *HARDENED), Posture.PRIVILEGED, {"HostPath Volumes"}),
    "host proc": (("--volume", "/proc:/host-proc:ro", *HARDENED), Posture.PRIVILEGED, {"HostPath Volumes"}),
    "device": (("--device", "/dev/null:/dev/x", *HARDENED), Posture.PRIVILEGED, {"HostPath Volumes"}),
    "sysctl": (("--sysctl", "kernel.msgmax=8192", *HARDENED), Posture.PRIVILEGED, {"Sysctls"}),
    "named volume": (("--volume", "hopseal-data:/data", *HARDENED), Posture.RESTRICTED, set()),
    "ordinary folder": (("--volume", "/usr/share:/data:ro", *HARDENED), Posture.RESTRICTED, set()),
}


@pytest.mark.parametrize(("options", "level", "controls"), CONTROLS.values(), ids=CONTROLS.keys())
async def test_posture_names_what_the_container_was_given(
    docker_engine: RealEngine,
    collector: EvidenceCollector,
    image: str,
    options: tuple[str, ...],
    level: Posture,
    controls: set[str],
) -> None:
    assert image
    container = docker_engine.start("hopseal-test/agent:1", *options)
    try:
        posture = (await measure(collector, docker_engine.pid(container))).posture
        assert isinstance(posture, PostureFacts), posture
        assert posture.level is level, posture.failed
        assert controls <= {failed.control for failed in posture.failed}
        if level is Posture.RESTRICTED:
            assert posture.failed == ()
    finally:
        docker_engine.remove(container)


async def test_a_container_that_can_reach_the_engine_is_privileged(
    docker_engine: RealEngine, collector: EvidenceCollector, image: str
) -> None:
    assert image
    for source in (docker_engine.socket, docker_engine.folder):
        container = docker_engine.start("hopseal-test/agent:1", "--volume", f"{source}:/engine", *HARDENED)
        posture = (await measure(collector, docker_engine.pid(container))).posture
        assert isinstance(posture, PostureFacts)
        assert posture.level is Posture.PRIVILEGED
        assert any("engine socket" in failed.detail for failed in posture.failed)
        docker_engine.remove(container)


async def test_a_second_container_of_one_image_is_another_instance(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str, image: str
) -> None:
    other = docker_engine.start("hopseal-test/agent:1")
    first, second = [await measure(collector, docker_engine.pid(each)) for each in (container, other)]
    assert facts_of(first).image_digests == facts_of(second).image_digests == {image}
    assert instance_of(first) != instance_of(second)
    docker_engine.remove(other)


async def test_a_restarted_container_leaves_the_old_process_gone_and_the_new_one_measured(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str, image: str
) -> None:
    for _ in range(3):
        with pin_pid(docker_engine.pid(container)) as old:
            known = facts_of(await collector.collect(old, frozenset()))
            docker_engine.run("restart", "--time", "0", container)
            with pytest.raises(PeerGone):
                await collector.collect(old, frozenset(), known=known)
            with pin_pid(docker_engine.pid(container)) as new:
                fresh = facts_of(await collector.collect(new, frozenset(), known=known))
                assert (fresh.pid, fresh.image_digests) == (new.pid, {image})


async def test_an_executed_process_shares_the_container_and_starts_later(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str
) -> None:
    docker_engine.run("exec", "--detach", container, "/bin/sleep", "599")
    first = docker_engine.pid(container)
    group = Path(f"/proc/{first}/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
    entered: list[int] = []

    def find() -> list[int]:
        entered[:] = [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if pid != first and _cgroup_path(pid) == group and _runs(pid, "sleep")
        ]
        return entered

    wait_until(find, what="the executed process")
    outer, inner = await measure(collector, first), await measure(collector, entered[0])
    assert instance_of(outer) == instance_of(inner)
    assert isinstance(outer.process, ProcessFacts)
    assert isinstance(inner.process, ProcessFacts)
    assert inner.process.start_ticks > outer.process.start_ticks
    assert inner.process.ppid != outer.process.pid


def _cgroup_path(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
    except OSError:
        return ""


def _runs(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name
    except OSError:
        return False


async def test_starts_executions_and_ends_are_reported(docker_engine: RealEngine, image: str) -> None:
    assert image
    engine = Engine("docker", str(docker_engine.socket), timeout_s=5)
    seen: list[ContainerEvent] = []

    async def follow() -> None:
        async for event in ContainerEvents(engine).follow():
            seen.append(event)  # noqa: PERF401 - the list is looked at while it grows

    task = asyncio.create_task(follow())
    await async_wait_until(lambda: any(event.action == RESYNCED for event in seen))
    container = await asyncio.to_thread(docker_engine.start, "hopseal-test/agent:1")
    await asyncio.to_thread(docker_engine.run, "exec", container, "/bin/ls", "/")
    await asyncio.to_thread(docker_engine.run, "kill", container)
    wanted = ["start", "exec_start", "die"]
    await async_wait_until(
        lambda: [e.action for e in seen if e.container_id == container and e.action in wanted] == wanted
    )
    assert all(event.at_ns > 1_600_000_000_000_000_000 for event in seen if event.container_id)
    task.cancel()
    await asyncio.wait([task])
    await engine.aclose()
    docker_engine.remove(container)


async def test_running_containers_are_listed_with_their_first_process(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str
) -> None:
    listed = {each.id: each.pid for each in await collector.engines[0].list_running()}
    assert listed[container] == docker_engine.pid(container)


async def test_a_stopped_engine_makes_containers_unreadable_and_plain_processes_not(
    docker_engine: RealEngine, container: str
) -> None:
    pid = docker_engine.pid(container)
    daemon = docker_engine.daemon.pid
    engine = Engine("docker", str(docker_engine.socket), timeout_s=0.5)
    async with EvidenceCollector([engine], timeout_s=5) as collector:
        os.kill(daemon, signal.SIGSTOP)
        try:
            started = time.monotonic()
            evidence, plain = await asyncio.gather(measure(collector, pid), measure(collector, os.getpid()))
            assert time.monotonic() - started < 2
            assert isinstance(evidence.container, Unreadable)
            assert evidence.container.code == "engine_unavailable"
            assert plain.container is None
        finally:
            os.kill(daemon, signal.SIGCONT)
        await async_wait_until(lambda: _readable(collector, pid))


async def _readable(collector: EvidenceCollector, pid: int) -> bool:
    return isinstance((await measure(collector, pid)).container, ContainerFacts)


async def test_a_process_that_forges_its_mounts_and_cgroup_names_is_still_on_the_host(
    docker_engine: RealEngine, collector: EvidenceCollector, container: str
) -> None:
    source = docker_engine.folder / "data/containers" / container / "hosts"
    script = f"mount --bind {source} /etc/hosts; echo ready; read line"
    command = ["unshare", "--mount", "--cgroup", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forger:
        assert forger.stdout is not None
        forger.stdout.readline()
        try:
            assert container in Path(f"/proc/{forger.pid}/mountinfo").read_text(encoding="utf-8")
            evidence = await measure(collector, forger.pid)
            assert evidence.container is None
            assert instance_of(evidence).startswith("cgroup:")
        finally:
            forger.kill()
