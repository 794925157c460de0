"""Pinning against real processes: dead, reused, handed over, in other namespaces, and without leaking."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attestor import peer, syscalls
from attestor.collectors.process import read_exe_identity
from attestor.evidence import EvidenceCollector, PeerChanged
from attestor.peer import PeerGone, PeerUnpinnable, pin_inode, pin_peer, pin_pid
from children import as_user, child, open_descriptors
from waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
WAIT = "print('ready'); input()"
CONNECT = """
import os, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
print('connected')
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = Path(folder, "listen.sock")
        listening.bind(str(path))
        Path(folder).chmod(0o755)
        path.chmod(0o666)
        listening.listen()
        yield listening


def test_a_live_caller_is_pinned_with_its_ids_start_time_and_inode(listener: socket.socket) -> None:
    code = "import socket\n" + as_user(4242, 4343) + CONNECT + "input()"
    with child(code, listener.getsockname()) as caller:
        accepted, _ = listener.accept()
        with accepted, pin_peer(accepted) as process:
            assert (process.pid, process.uid, process.gid) == (caller.pid, 4242, 4343)
            assert process.alive()
            with pin_pid(caller.pid) as same:
                assert (same.start_ticks, same.pidfd_inode) == (process.start_ticks, process.pidfd_inode)
            caller.end()
            assert not process.alive()


def test_a_caller_that_exited_before_accept_is_gone(listener: socket.socket) -> None:
    with child(CONNECT, listener.getsockname()) as caller:
        caller.process.wait()
        accepted, _ = listener.accept()
        with accepted, pytest.raises(PeerGone):
            pin_peer(accepted)


def test_a_socket_kept_by_a_child_does_not_stand_for_the_caller_that_exited(listener: socket.socket) -> None:
    code = CONNECT + "if os.fork():\n os._exit(0)\npeer.recv(1)"
    with child(code, listener.getsockname()) as caller:
        caller.process.wait()
        accepted, _ = listener.accept()
        with accepted:
            with pytest.raises(PeerGone):
                pin_peer(accepted)
            accepted.send(b"x")


def test_a_zombie_is_gone(listener: socket.socket) -> None:
    with child(CONNECT, listener.getsockname(), ready=False) as caller:
        os.waitid(os.P_PID, caller.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(PeerGone):
            pin_pid(caller.pid)
        accepted, _ = listener.accept()
        with accepted, pytest.raises(PeerGone):
            pin_peer(accepted)


async def test_a_program_executed_after_the_pin_is_noticed_although_pid_and_start_time_stay() -> None:
    code = "print('ready'); input(); import os; os.execv('/bin/sleep', ['sleep', '60'])"
    async with EvidenceCollector([]) as collector:
        with child(code) as caller, pin_pid(caller.pid) as process:
            before = read_exe_identity(caller.pid)
            collector.confirm(process, before)
            caller.tell()
            wait_until(lambda: read_exe_identity(caller.pid) != before, what="exec")
            assert process.alive()
            with pin_pid(caller.pid) as after:
                assert after.start_ticks == process.start_ticks
            with pytest.raises(PeerChanged):
                collector.confirm(process, before)
            caller.end()
            with pytest.raises(PeerGone):
                collector.confirm(process, before)


def test_an_inode_finds_its_process_until_it_is_reaped() -> None:
    with child(WAIT) as caller, pin_pid(caller.pid) as process, pin_inode(process.pidfd_inode) as same:
        assert (same.pid, same.start_ticks, same.pidfd_inode) == (
            process.pid,
            process.start_ticks,
            process.pidfd_inode,
        )
        inode = process.pidfd_inode
    with pytest.raises(PeerGone):
        pin_inode(inode)


def test_a_kernel_that_calls_every_handle_stale_is_too_old_and_the_process_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stale(_inode: int) -> int:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(syscalls, "open_pidfd_by_inode", stale)
    with child(WAIT) as caller, pin_pid(caller.pid) as process, pytest.raises(PeerUnpinnable) as caught:
        pin_inode(process.pidfd_inode)
    assert "Linux 6.14" in caught.value.remedy


@pytest.mark.parametrize("inode", [0, -1, 1 << 64, (1 << 64) - 1, 999_999_999])
def test_an_inode_of_no_process_is_gone(inode: int) -> None:
    with pytest.raises(PeerGone):
        pin_inode(inode)


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, 1 << 22])
def test_a_pid_of_no_process_is_gone(pid: int) -> None:
    with pytest.raises(PeerGone):
        pin_pid(pid)


def test_a_thread_is_no_process() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(PeerUnpinnable):
            pin_pid(thread.native_id)
        pidfd = os.pidfd_open(thread.native_id, os.O_EXCL)  # PIDFD_THREAD
        try:
            with pytest.raises(PeerUnpinnable):
                pin_inode(os.fstat(pidfd).st_ino)
        finally:
            os.close(pidfd)
    finally:
        stop.set()
        thread.join()


REUSE = """
import os, sys
from pathlib import Path
from attestor.peer import PeerGone, pin_inode, pin_pid

rounds, refused = int(sys.argv[1]), 0
def start(last=None):
    if last is not None:
        Path('/proc/sys/kernel/ns_last_pid').write_text(str(last - 1))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    return pid, writer
def stop(pid, writer):
    os.close(writer)
    os.waitpid(pid, 0)
for _ in range(rounds):
    first, writer = start()
    with pin_pid(first) as process:
        stop(first, writer)
        second, writer = start(first)
        assert second == first, (first, second)
        with pin_pid(second) as newcomer:
            assert newcomer.pidfd_inode != process.pidfd_inode
            assert newcomer.alive() and not process.alive()
            try:
                pin_inode(process.pidfd_inode).close()
            except PeerGone:
                refused += 1
        stop(second, writer)
print(refused)
"""


def test_a_reused_pid_is_never_taken_for_the_process_that_had_it() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSE, "1000"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1000", "")


BROKER = """
import os, socket, struct, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print('listening')
accepted, _ = listening.accept()
pid, _, _ = struct.unpack('=iii', accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
print(os.getpid(), pid, os.fstat(accepted.getsockopt(socket.SOL_SOCKET, 77)).st_ino)
input()
"""


def test_a_sibling_pid_namespace_names_the_caller_by_inode_although_it_sees_no_pid(tmp_path: Path) -> None:
    path = str(tmp_path / "broker.sock")
    python = [sys.executable, "-I", "-S", "-u", "-c"]
    namespace = ["unshare", "--pid", "--fork", "--kill-child"]
    with subprocess.Popen(
        [*namespace, *python, BROKER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as broker:
        assert broker.stdout is not None
        assert broker.stdin is not None
        broker.stdout.readline()
        with subprocess.Popen(
            [*namespace, *python, CONNECT + "input()", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as caller:
            own_pid, seen_pid, inode = map(int, broker.stdout.readline().split())
            assert (own_pid, seen_pid) == (1, 0)
            children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text(encoding="ascii").split()
            with pin_inode(inode) as process:
                assert [str(process.pid)] == children
            caller.communicate(b"\n")
        with pytest.raises(PeerGone):
            pin_inode(inode)
        broker.communicate("\n")


class OldKernelSocket(socket.socket):
    """A socket of a kernel that answers SO_PEERPIDFD with one chosen error."""

    refusal = errno.ENOPROTOOPT

    def getsockopt(self, *args: int) -> int | bytes:  # type: ignore[override]
        if args[1] == peer.SO_PEERPIDFD:
            raise OSError(self.refusal, os.strerror(self.refusal))
        return super().getsockopt(*args)


@pytest.fixture
def old_kernel_socket() -> Iterator[OldKernelSocket]:
    left, right = socket.socketpair()
    with right, OldKernelSocket(fileno=left.detach()) as old:
        yield old


def test_an_old_kernel_falls_back_to_the_credentials(old_kernel_socket: OldKernelSocket) -> None:
    with pin_peer(old_kernel_socket) as process:
        assert (process.pid, process.uid) == (os.getpid(), 0)


def test_the_fallback_refuses_a_process_of_another_user(
    old_kernel_socket: OldKernelSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child(as_user(4242, 4242) + WAIT) as other:
        credentials = peer._UCRED.pack(other.pid, 0, 0)
        monkeypatch.setattr(
            OldKernelSocket, "getsockopt", _answers(credentials, OSError(errno.ENOPROTOOPT, "old kernel"))
        )
        before = open_descriptors()
        with pytest.raises(PeerGone):
            pin_peer(old_kernel_socket)
        assert open_descriptors() <= before


def _answers(credentials: bytes, refusal: OSError) -> Callable[..., bytes]:
    def getsockopt(_self: socket.socket, _level: int, option: int, *_size: int) -> bytes:
        if option == peer.SO_PEERPIDFD:
            raise refusal
        return credentials

    return getsockopt


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [(errno.EINVAL, PeerGone), (errno.ESRCH, PeerGone), (errno.EMFILE, PeerUnpinnable), (errno.EPERM, PeerUnpinnable)],
)
def test_only_a_missing_option_means_an_old_kernel(
    old_kernel_socket: OldKernelSocket, refusal: int, expected: type[Exception]
) -> None:
    old_kernel_socket.refusal = refusal
    with pytest.raises(expected):
        pin_peer(old_kernel_socket)


def test_thousands_of_failed_pins_leave_no_descriptor_open(listener: socket.socket) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with child(CONNECT, listener.getsockname()) as caller:
        caller.process.wait()
        accepted, _ = listener.accept()
        with accepted:
            before = open_descriptors()
            failures = 0
            for _ in range(3000):
                for attempt in (
                    lambda: pin_peer(accepted),
                    lambda: pin_pid(caller.pid),
                    lambda: pin_inode(999_999_999),
                    lambda: pin_pid(thread.native_id or 0),
                ):
                    try:
                        attempt().close()
                    except (PeerGone, PeerUnpinnable):
                        failures += 1
            assert failures == 12_000
            assert open_descriptors() <= before
    stop.set()
    thread.join()


def test_no_descriptor_left_is_unavailable_and_not_gone() -> None:
    code = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from attestor.peer import PeerUnpinnable, pin_pid
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
held = []
try:
    while True:
        held.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    pass
try:
    pin_pid(os.getpid())
except PeerUnpinnable as error:
    os.close(held.pop())
    print(error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("peer_unpinnable", "")


def test_a_duplicate_lives_on_when_the_first_is_closed() -> None:
    with child(WAIT) as caller:
        process = pin_pid(caller.pid)
        copy = process.duplicate()
        process.close()
        with copy:
            assert copy.alive()
            assert not os.get_inheritable(copy.pidfd)
            caller.end()
            assert not copy.alive()


def test_the_boot_id_has_sixteen_bytes_and_stays() -> None:
    assert len(peer.boot_id()) == 16
    assert peer.boot_id() == peer.boot_id()
