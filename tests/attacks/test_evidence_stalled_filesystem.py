"""A component that runs from, or keeps its config on, a filesystem that never answers stops nobody else."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import stalling_filesystem
from attestor.config_watch import ConfigWatches, WatchUnavailable
from attestor.evidence import EvidenceCollector
from attestor.facts import ConfigFacts, ProcessFacts, Unreadable
from attestor.peer import pin_pid
from children import Child, as_user, child
from waiting import wait_until

TIMEOUT_S = 0.5
WAIT = "print('ready'); input()"
MNT_FORCE_DETACH = 3
RUN = f"import runpy, sys; runpy.run_path({stalling_filesystem.__file__!r}, run_name='__main__')"


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[tuple[Child, Path]]:
    if not Path("/dev/fuse").exists():
        pytest.skip("this kernel has no FUSE")
    folder = tmp_path / "mount"
    folder.mkdir()
    with child(RUN, str(folder), "/bin/sleep") as server:
        try:
            yield server, folder
        finally:
            server.end()
            ctypes.CDLL(None).umount2(os.fsencode(folder), MNT_FORCE_DETACH)


@pytest.fixture
def attacker(filesystem: tuple[Child, Path]) -> Iterator[int]:
    """A process that executes from the filesystem, which stalls right after."""
    server, folder = filesystem
    pid = os.posix_spawn(folder / "exe", ["sleep", "60"], {})
    wait_until(lambda: os.readlink(f"/proc/{pid}/exe").startswith(str(folder)), what="exec")
    server.tell()
    server.read_line()
    try:
        yield pid
    finally:
        os.kill(pid, 9)
        server.end()
        os.waitpid(pid, 0)


async def test_a_stalled_executable_is_unreadable_and_neither_the_loop_nor_others_wait(attacker: int) -> None:
    async with EvidenceCollector([], timeout_s=TIMEOUT_S) as collector:
        with child(as_user(4242, 4242) + WAIT) as honest, pin_pid(honest.pid) as other, pin_pid(attacker) as process:
            started = time.monotonic()
            tasks = [asyncio.create_task(collector.collect(process, frozenset())) for _ in range(20)]
            await asyncio.sleep(0)
            fair = await collector.collect(other, frozenset({("/etc/hostname",)}))
            assert time.monotonic() - started < TIMEOUT_S
            assert isinstance(fair.process, ProcessFacts)
            assert isinstance(fair.process.exe_sha256, str)
            assert isinstance(fair.config["/etc/hostname",], ConfigFacts)
            for evidence in await asyncio.gather(*tasks):
                assert isinstance(evidence.process, Unreadable) or isinstance(evidence.process.exe_sha256, Unreadable)
            assert time.monotonic() - started < 6 * TIMEOUT_S


async def test_the_last_look_before_a_key_never_waits_for_a_stalled_executable(attacker: int) -> None:
    async with EvidenceCollector([], timeout_s=TIMEOUT_S) as collector:
        with pin_pid(attacker) as process:
            evidence = await collector.collect(process, frozenset())
            assert isinstance(evidence.process, ProcessFacts)
            started = time.monotonic()
            for _ in range(100):
                collector.confirm(process, evidence.process.exe)
            assert time.monotonic() - started < TIMEOUT_S


async def test_stalled_config_is_unreadable_and_cannot_be_watched(
    filesystem: tuple[Child, Path], attacker: int
) -> None:
    path = str(filesystem[1] / "exe")
    async with EvidenceCollector([], timeout_s=TIMEOUT_S) as collector:
        with child(as_user(4242, 4242) + WAIT) as component, pin_pid(component.pid) as process:
            evidence = await collector.collect(process, frozenset({(path,), ("/etc/hostname",)}))
            stalled = evidence.config[path,]
            assert isinstance(stalled, Unreadable)
            assert stalled.code == "config_timeout"
            assert isinstance(evidence.config["/etc/hostname",], ConfigFacts)
            async with ConfigWatches(collector.offload, timeout_s=TIMEOUT_S) as watches:
                with pytest.raises(WatchUnavailable):
                    async with watches.watch(process, [path]):
                        pass
