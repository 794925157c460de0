"""One whole measurement: what dies or changes meanwhile, and what one slow item does to the others."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestor import evidence as evidence_module
from attestor.collectors.config import ConfigLimits
from attestor.evidence import EvidenceCollector, EvidenceLimits, PeerChanged
from attestor.facts import ConfigFacts, Evidence, ProcessFacts, Unreadable
from attestor.peer import PeerGone, PinnedProcess, pin_pid
from attestor.selectors import instance_of, measured_selectors
from children import Child, as_user, child, open_descriptors
from hopseal.selectors import Selector
from waiting import wait_until

WAIT = "print('ready'); input()"
EXEC = "print('ready'); input(); os.execv('/bin/sleep', ['sleep', '60'])"


@pytest.fixture
def component() -> Iterator[Child]:
    with child(as_user(4242, 4242) + EXEC) as process:
        yield process


@pytest.fixture
def pinned(component: Child) -> Iterator[PinnedProcess]:
    with pin_pid(component.pid) as process:
        yield process


async def collect(process: PinnedProcess, *files: tuple[str, ...], **settings: object) -> Evidence:
    async with EvidenceCollector([], **settings) as collector:  # type: ignore[arg-type]
        return await collector.collect(process, frozenset(files))


async def test_a_plain_process_is_measured_in_full(pinned: PinnedProcess, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    evidence = await collect(pinned, (str(tmp_path / "a"),), (str(tmp_path / "none"),))
    assert isinstance(evidence.process, ProcessFacts)
    assert evidence.container is None
    assert isinstance(evidence.config[str(tmp_path / "a"),], ConfigFacts)
    missing = evidence.config[str(tmp_path / "none"),]
    assert isinstance(missing, Unreadable)
    assert missing.code == "config_file_missing"
    selectors = measured_selectors(evidence)
    assert {Selector("uid:4242"), Selector("engine:none"), Selector("posture:baseline")} <= selectors
    assert instance_of(evidence) == f"cgroup:{evidence.process.cgroup}"
    assert abs(evidence.measured_at - time.time()) < 10


def during_config(monkeypatch: pytest.MonkeyPatch, event: Callable[[], object]) -> None:
    """Let ``event`` happen while config is read."""
    measure = evidence_module.measure_config

    def measure_after(*args: object) -> object:
        event()
        return measure(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(evidence_module, "measure_config", measure_after)


async def test_a_process_that_dies_during_the_reads_is_gone(
    component: Child, pinned: PinnedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_config(monkeypatch, component.end)
    with pytest.raises(PeerGone):
        await collect(pinned, ("/etc/hostname",))


async def test_a_process_that_executes_another_program_during_the_reads_is_refused(
    component: Child, pinned: PinnedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.stat(f"/proc/{component.pid}/exe").st_ino

    def execute() -> None:
        component.tell()
        wait_until(lambda: os.stat(f"/proc/{component.pid}/exe").st_ino != before, what="exec")

    during_config(monkeypatch, execute)
    with pytest.raises(PeerChanged):
        await collect(pinned, ("/etc/hostname",), timeout_s=30.0)


async def test_a_pinned_process_that_is_dead_is_gone(component: Child, pinned: PinnedProcess) -> None:
    component.end()
    with pytest.raises(PeerGone):
        await collect(pinned)


async def test_facts_about_another_process_of_the_same_pid_are_never_used(pinned: PinnedProcess) -> None:
    other = PinnedProcess(os.getpid(), 0, 0, pinned.start_ticks - 1, pinned.pidfd, pinned.pidfd_inode)
    with pytest.raises(PeerGone):
        await collect(other)


async def test_one_item_past_its_deadline_is_unreadable_and_the_others_stay(
    pinned: PinnedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    during_config(monkeypatch, stuck.wait)
    started = time.monotonic()
    evidence = await collect(pinned, ("/etc/hostname",), timeout_s=0.3)
    assert time.monotonic() - started < 2
    stuck.set()
    config = evidence.config["/etc/hostname",]
    assert isinstance(config, Unreadable)
    assert config.code == "config_timeout"
    assert isinstance(evidence.process, ProcessFacts)
    assert not isinstance(evidence.posture, Unreadable)


async def test_limits_come_from_the_configuration(pinned: PinnedProcess, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    limits = EvidenceLimits(exe_bytes=1, config=ConfigLimits(file_bytes=1))
    evidence = await collect(pinned, (str(tmp_path),), limits=limits)
    assert isinstance(evidence.process, ProcessFacts)
    assert isinstance(evidence.process.exe_sha256, Unreadable)
    assert evidence.process.exe_sha256.code == "exe_too_large"
    config = evidence.config[str(tmp_path),]
    assert isinstance(config, Unreadable)
    assert config.code == "config_too_large"


async def test_the_loop_runs_on_while_files_are_read(pinned: PinnedProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    during_config(monkeypatch, lambda: stuck.wait(20))
    async with EvidenceCollector([], timeout_s=20) as collector:
        task = asyncio.create_task(collector.collect(pinned, frozenset({("/etc/hostname",)})))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        stuck.set()
        await task


async def test_thousands_of_failed_measurements_leave_no_descriptor_open(component: Child) -> None:
    with pin_pid(component.pid) as process:
        component.end()
        async with EvidenceCollector([]) as collector:
            before = open_descriptors()
            for _ in range(2000):
                with pytest.raises(PeerGone):
                    await collector.collect(process, frozenset({("/etc/hostname",)}))
            assert open_descriptors() <= before
