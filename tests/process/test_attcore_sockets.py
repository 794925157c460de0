"""Which socket paths a daemon takes, and which it leaves alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hopseal.errors import InvalidError, UnavailableError
from hopseal.sockets import bind_unix_socket
from waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "admin.sock"


def test_a_free_path_is_bound_with_its_mode_and_given_back(path: Path):
    bound = bind_unix_socket(path, mode=0o660, folder_mode=0o750)
    assert path.stat().st_mode & 0o777 == 0o660
    assert path.parent.stat().st_mode & 0o777 == 0o750
    assert bound.is_in_place()
    bound.close()
    assert not path.exists()


def test_the_mode_does_not_depend_on_the_umask(path: Path):
    before = os.umask(0o077)
    try:
        bind_unix_socket(path, mode=0o777, folder_mode=0o755).close()
        bound = bind_unix_socket(path, mode=0o777, folder_mode=0o755)
    finally:
        os.umask(before)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o777, 0o755)
    bound.close()


def test_nobody_can_connect_before_the_server_listens(path: Path):
    bound = bind_unix_socket(path, mode=0o777)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
    bound.close()


def test_a_live_daemon_is_left_alone(path: Path):
    bound = bind_unix_socket(path, mode=0o660)
    bound.sock.listen()
    with pytest.raises(UnavailableError) as raised:
        bind_unix_socket(path, mode=0o660)
    assert raised.value.code == "socket_in_use"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    bound.close()


def test_a_listener_of_another_program_without_our_lock_is_left_alone(path: Path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        with pytest.raises(UnavailableError) as raised:
            bind_unix_socket(path, mode=0o660)
        assert raised.value.code == "socket_in_use"
        assert path.exists()


def test_a_listener_whose_backlog_is_full_is_alive(path: Path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            waiting.append(client)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(UnavailableError) as raised:
            bind_unix_socket(path, mode=0o660)
        assert raised.value.code == "socket_in_use"
        for client in waiting:
            client.close()


def test_a_daemon_between_bind_and_listen_keeps_its_path_by_the_lock(path: Path):
    bound = bind_unix_socket(path, mode=0o660)
    with pytest.raises(UnavailableError):
        bind_unix_socket(path, mode=0o660)
    bound.close()


def test_the_stale_socket_of_a_killed_daemon_is_replaced(path: Path):
    code = (
        "import sys; from pathlib import Path; from hopseal.sockets import bind_unix_socket\n"
        f"b = bind_unix_socket(Path({str(path)!r}), mode=0o660)\n"
        "b.sock.listen(); print('up', flush=True); sys.stdin.read()"
    )
    daemon = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert daemon.stdout.readline() == b"up\n"
    daemon.kill()
    daemon.communicate()
    assert path.is_socket()
    bound = bind_unix_socket(path, mode=0o660)
    wait_until(bound.is_in_place)
    bound.close()


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling symlink", "folder", "fifo"])
def test_what_is_not_a_socket_is_refused_and_kept(path: Path, kind: str):
    path.parent.mkdir()
    target = path.with_name("target")
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        if kind == "symlink":
            target.write_text("precious")
        path.symlink_to(target)
    with pytest.raises(InvalidError) as raised:
        bind_unix_socket(path, mode=0o660)
    assert raised.value.code == "socket_path_occupied"
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize(("mode", "is_safe"), [(0o755, True), (0o775, False), (0o757, False), (0o1777, True)])
def test_a_folder_that_others_may_write_is_refused_unless_it_is_sticky(path: Path, mode: int, is_safe: bool):
    path.parent.mkdir()
    path.parent.chmod(mode)
    if is_safe:
        bind_unix_socket(path, mode=0o660).close()
    else:
        with pytest.raises(InvalidError) as raised:
            bind_unix_socket(path, mode=0o660)
        assert raised.value.code == "socket_folder_unsafe"


@pytest.mark.parametrize("bad", [Path("relative.sock"), Path("/tmp") / ("x" * 110)])
def test_paths_that_cannot_name_a_socket_are_refused(bad: Path):
    with pytest.raises(InvalidError) as raised:
        bind_unix_socket(bad, mode=0o660)
    assert raised.value.code == "socket_path_invalid"


def test_a_path_of_exactly_the_longest_length_works(tmp_path: Path):
    folder = tmp_path / ("d" * (106 - len(str(tmp_path)) - 5))
    bound = bind_unix_socket(folder / "1234", mode=0o660)
    assert len(str(folder / "1234")) == 107
    bound.close()


def test_a_socket_that_was_replaced_notices_and_does_not_remove_the_new_one(path: Path):
    bound = bind_unix_socket(path, mode=0o660)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        assert not bound.is_in_place()
        bound.close()
        assert path.exists()


def test_the_group_is_given_to_socket_and_folder(path: Path):
    bound = bind_unix_socket(path, mode=0o660, group=24_500, folder_mode=0o750)
    assert (path.stat().st_gid, path.parent.stat().st_gid) == (24_500, 24_500)
    bound.close()


def test_a_refused_path_leaks_no_descriptor(path: Path):
    path.parent.mkdir()
    path.write_text("precious")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(InvalidError):
            bind_unix_socket(path, mode=0o660)
    assert len(os.listdir("/proc/self/fd")) <= before
