"""Who holds a listening socket: pre-forked workers, dead masters, other namespaces, look-alikes."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from attestor.evidence import EvidenceCollector
from attestor.listeners import find_listeners
from attestor.peer import PeerGone, pin_peer
from attestor.sock_diag import ListenersUnreadable
from children import child, open_descriptors
from waiting import wait_until

LISTEN = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
"""
WORKERS = """
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        import time
        time.sleep(60)
        os._exit(0)
    pids.append(pid)
print(*pids)
"""


def holders(path: Path) -> set[int]:
    found = find_listeners(str(path))
    for process in found:
        process.close()
    return {process.pid for process in found}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "listen.sock"


def test_the_one_process_that_listens_is_found(path: Path) -> None:
    with child(LISTEN + "print('ready'); input()", str(path)) as server:
        assert holders(path) == {server.pid}


def test_a_bound_socket_that_does_not_listen_has_no_holders(path: Path) -> None:
    bound = LISTEN.replace("listening.listen()\n", "")
    with child(bound + "print('ready'); input()", str(path)):
        assert holders(path) == set()


def test_connected_clients_and_accepted_sockets_do_not_hold_the_listening_one(path: Path) -> None:
    serve = (
        LISTEN
        + "print('ready'); input(); accepted, _ = listening.accept(); listening.close(); print('closed'); input()"
    )
    with child(serve, str(path)) as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert holders(path) == {server.pid}
        server.tell()
        server.read_line()
        assert holders(path) == set()


def test_every_worker_of_a_master_that_died_is_found(path: Path) -> None:
    master_dies = LISTEN + WORKERS + "input()"
    with child(master_dies, str(path), ready=False) as master:
        workers = set(map(int, master.read_line().split()))
        assert holders(path) == {master.pid, *workers}
        master.tell()
        master.process.wait()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                with pytest.raises(PeerGone):
                    pin_peer(client)
            assert holders(path) == workers
            gone = workers.pop()
            os.kill(gone, 9)
            wait_until(lambda: holders(path) == workers, what="the worker's end")
        finally:
            for pid in workers:
                os.kill(pid, 9)


def test_a_socket_handed_to_another_program_shows_that_program(path: Path) -> None:
    receive = (
        "import os, socket, sys\n"
        "control = socket.socket(fileno=int(sys.argv[1]))\n"
        "print('ready')\n"
        "_, fds, _, _ = socket.recv_fds(control, 1, 1)\n"
        "print('got'); input()\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, child(receive, str(theirs.fileno()), pass_fds=[theirs.fileno()]) as other:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            socket.send_fds(ours, [b"x"], [listening.fileno()])
            other.read_line()
            assert holders(path) == {os.getpid(), other.pid}
        assert holders(path) == {other.pid}


def test_a_listener_in_another_network_namespace_is_found(path: Path) -> None:
    elsewhere = "import ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0\n"
    with child(elsewhere + LISTEN + "print('ready'); input()", str(path)) as server:
        assert holders(path) == {server.pid}


def test_the_same_path_in_another_mount_namespace_is_another_socket(path: Path) -> None:
    hidden = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
        "assert libc.mount(b'none', sys.argv[1].rpartition('/')[0].encode(), b'tmpfs', 0, None) == 0\n"
    )
    wait = "print('ready'); input()"
    with child(LISTEN + wait, str(path)) as server, child(hidden + LISTEN + wait, str(path)) as lookalike:
        assert Path(f"/proc/{lookalike.pid}/root{path}").stat().st_ino != path.stat().st_ino
        assert holders(path) == {server.pid}


def test_a_socket_file_that_was_replaced_is_the_new_ones_only(path: Path) -> None:
    with child(LISTEN + "print('ready'); input()", str(path)):
        path.unlink()
        with child(LISTEN + "print('ready'); input()", str(path)) as second:
            assert holders(path) == {second.pid}


def test_nothing_there_is_nobody_and_a_file_or_a_link_is_an_error(path: Path) -> None:
    assert holders(path) == set()
    path.touch()
    with pytest.raises(ListenersUnreadable):
        find_listeners(str(path))
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(ListenersUnreadable):
        find_listeners(str(link))


def test_looking_leaves_no_descriptor_open_while_processes_come_and_go(path: Path) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    with child(LISTEN + "print('ready'); input()", str(path)) as server:
        before = open_descriptors()
        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(50):
                assert holders(path) == {server.pid}
        finally:
            stop.set()
            thread.join()
        assert open_descriptors() <= before


async def test_the_collector_finds_listeners_off_the_loop_and_within_its_deadline(path: Path) -> None:
    with child(LISTEN + "print('ready'); input()", str(path)) as server:
        async with EvidenceCollector([], timeout_s=5) as collector:
            found = await collector.find_listeners(str(path))
            assert [process.pid for process in found] == [server.pid]
            for process in found:
                process.close()
        async with EvidenceCollector([], timeout_s=1e-6) as hurried:
            with pytest.raises(ListenersUnreadable):
                await hurried.find_listeners(str(path))
