"""Process facts of real processes, some of which lie about themselves."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attestor.collectors.posture import measure_posture
from attestor.collectors.process import measure_exe, measure_process, read_exe_identity
from attestor.digests import DigestCache
from attestor.facts import PostureFacts, Unreadable
from attestor.peer import PeerGone
from children import as_user, child
from hopseal.selectors import Posture
from waiting import wait_until

LIMIT = 1 << 30
NAME_ITSELF = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, ctypes.c_char_p(bytes.fromhex(sys.argv[1])), 0, 0, 0)
print('ready')
input()
"""
WAIT = "print('ready'); input()"


@contextmanager
def sleeping(exe: Path) -> Iterator[int]:
    """A process that executes ``exe``, a copy of ``sleep``."""
    pid = os.posix_spawn(exe, ["sleep", "60"], {})
    try:
        wait_until(lambda: read_exe_identity(pid).ino == exe.stat().st_ino, what="exec")
        yield pid
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.fixture
def exe(tmp_path: Path) -> Path:
    return Path(shutil.copy("/bin/sleep", tmp_path / "sleep"))


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_ids_and_groups_are_the_effective_ones() -> None:
    with child(as_user(4242, 4343, (4343, 20, 10, 20)) + WAIT) as process:
        facts = measure_process(process.pid)
        assert (facts.uid, facts.gids, facts.ppid) == (4242, (4343, 10, 20), os.getpid())


def test_namespaces_executable_and_cgroup_are_those_of_the_process() -> None:
    with child(WAIT) as process:
        facts = measure_process(process.pid)
        assert facts.namespaces["net"] == Path("/proc/self/ns/net").stat().st_ino
        assert facts.exe == read_exe_identity(os.getpid())
        assert facts.exe_path == str(Path(sys.executable).resolve())
        assert facts.cgroup.startswith("/")


@pytest.mark.parametrize(
    "name", [b") R 1\n(", b"a\rUid:\t0\t0", b"\x0bTgid:\t1", b"\xff\xfe", b"\n\n0::/docker/x", b"(((((", b" "]
)
def test_a_hostile_program_name_changes_no_fact(name: bytes) -> None:
    with child(WAIT) as plain, child(NAME_ITSELF, name.hex()) as hostile:
        assert Path(f"/proc/{hostile.pid}/comm").read_bytes() != Path(f"/proc/{plain.pid}/comm").read_bytes()
        facts = measure_process(hostile.pid)
        assert (facts.uid, facts.ppid) == (0, os.getpid())
        assert 0 <= facts.start_ticks - measure_process(plain.pid).start_ticks < 2000


def test_the_executable_is_hashed_by_its_running_inode(exe: Path) -> None:
    with sleeping(exe) as pid:
        assert measure_exe(pid, DigestCache(), LIMIT) == (read_exe_identity(pid), digest(exe))


def test_replacing_the_file_on_disk_does_not_change_what_runs(exe: Path) -> None:
    before = digest(exe)
    with sleeping(exe) as pid:
        other = exe.with_name("other")
        shutil.copy("/bin/cat", other)
        other.rename(exe)
        measured = measure_exe(pid, DigestCache(), LIMIT)
        assert not isinstance(measured, Unreadable)
        assert measured[1] == before != digest(exe)
        assert measure_process(pid).exe_deleted


def test_a_deleted_executable_is_still_hashed_and_is_flagged(exe: Path) -> None:
    before = digest(exe)
    with sleeping(exe) as pid:
        assert not measure_process(pid).exe_deleted
        exe.unlink()
        facts = measure_process(pid)
        assert facts.exe_deleted
        assert facts.exe_path == str(exe)
        measured = measure_exe(pid, DigestCache(), LIMIT)
        assert not isinstance(measured, Unreadable)
        assert measured[1] == before


@pytest.mark.parametrize(("spare", "refused"), [(0, False), (-1, True)])
def test_an_executable_over_the_limit_is_not_hashed(exe: Path, spare: int, *, refused: bool) -> None:
    with sleeping(exe) as pid:
        measured = measure_exe(pid, DigestCache(), exe.stat().st_size + spare)
        assert isinstance(measured, Unreadable) is refused
        if isinstance(measured, Unreadable):
            assert measured.code == "exe_too_large"


def test_a_process_that_is_gone_is_gone_for_every_collector() -> None:
    with child(WAIT) as process:
        process.end()
        with pytest.raises(PeerGone):
            measure_process(process.pid)
        with pytest.raises(PeerGone):
            measure_exe(process.pid, DigestCache(), LIMIT)
        with pytest.raises(PeerGone):
            measure_posture(process.pid, None)
        with pytest.raises(PeerGone):
            read_exe_identity(process.pid)


@contextmanager
def recorded_opens() -> Iterator[list[str]]:
    """Every path that this process opens meanwhile; the hook itself can never be removed again."""
    opened: list[str] = []
    active = True

    def remember(event: str, args: tuple[object, ...]) -> None:
        if active and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(remember)
    try:
        yield opened
    finally:
        active = False


def test_neither_environ_nor_cmdline_nor_mounts_are_read_for_identity() -> None:
    with child(WAIT) as process, recorded_opens() as opened:
        measure_process(process.pid)
        measure_exe(process.pid, DigestCache(), LIMIT)
        measure_posture(process.pid, None)
        names = {path.rpartition("/")[2] for path in opened if path.startswith(f"/proc/{process.pid}/")}
    assert names == {"status", "cgroup", "stat", "exe"}


def test_a_plain_process_under_its_own_uid_is_baseline() -> None:
    with child(as_user(4242, 4242) + WAIT) as process:
        facts = measure_posture(process.pid, None)
        assert isinstance(facts, PostureFacts)
        assert facts.level is Posture.BASELINE
        assert {each.control for each in facts.failed} == {"Privilege Escalation", "Seccomp"}


def test_a_plain_process_that_gave_up_more_is_restricted() -> None:
    filtered = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 0x7FFF0000))
program = struct.pack('@HxxxxxxP', 1, ctypes.addressof(allow))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0, ctypes.get_errno()
"""
    with child("import ctypes, struct\n" + as_user(4242, 4242) + filtered + WAIT) as process:
        facts = measure_posture(process.pid, None)
        assert isinstance(facts, PostureFacts)
        assert (facts.level, facts.failed) == (Posture.RESTRICTED, ())


def test_a_tracer_costs_baseline_and_is_named() -> None:
    trace = """
import ctypes, os, sys
pid = int(sys.argv[1])
assert ctypes.CDLL(None).ptrace(0x4206, pid, None, None) == 0
print('ready')
input()
"""
    with child(as_user(4242, 4242) + WAIT) as process, child(trace, str(process.pid)) as tracer:
        facts = measure_posture(process.pid, None)
        assert isinstance(facts, PostureFacts)
        assert facts.level is Posture.PRIVILEGED
        assert ("Tracer Attached", f"traced by process {tracer.pid}") in {
            (each.control, each.detail) for each in facts.failed
        }


def test_capabilities_gained_in_a_user_namespace_of_its_own_cost_baseline() -> None:
    unshare = "import ctypes\n" + as_user(4242, 4242) + "assert ctypes.CDLL(None).unshare(0x10000000) == 0\n"
    with child(unshare + WAIT) as process:
        facts = measure_posture(process.pid, None)
        assert isinstance(facts, PostureFacts)
        assert facts.level is Posture.PRIVILEGED
        assert measure_process(process.pid).uid == 4242
