"""The broker's own process, and how it names others."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from broker.process import Listener, check_pidfd_support, probe_listener, read_boot_id
from hopseal.errors import UnavailableError
from waiting import wait_until


def inode_of(pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return os.fstat(pidfd).st_ino
    finally:
        os.close(pidfd)


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_hardened_process_is_not_dumpable_and_leaves_no_core():
    out = run(
        """
        import ctypes, resource
        from broker.process import harden
        harden()
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
        """
    )
    assert out.split() == ["0", "(0,", "0)"]
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1  # and this process is not hardened by it


def test_a_hardened_unprivileged_process_can_still_load_its_key():
    """/proc/self belongs to root then; the memfd that carries the key must be reachable all the same."""
    out = run(
        """
        import os, sys
        sys.path.insert(0, "tests")
        from svid_authority import Authority
        from broker.attestor_channel import build_context
        from broker.own_identity import OwnIdentity
        from broker.process import harden
        authority = Authority()
        own = OwnIdentity(authority.issue("spiffe://example.org/hopseal/broker/n"), authority.bundles)
        os.setgid(65534); os.setuid(65534)
        harden()
        context = build_context(own)
        print(len(context.get_ca_certs()), context.minimum_version.name, os.stat("/proc/self/fd").st_uid)
        """
    )
    assert out.split() == ["1", "TLSv1_3", "0"]


@pytest.mark.parametrize(
    ("uid", "owner", "socket_owner", "expected"),
    [
        (65534, 65534, None, "True 1"),
        (65534, 65534, 65534, "True 1"),
        (65534, 65534, 0, "False 0"),
        (65534, 0, None, "False 0"),
        (65534, None, None, "False 0"),
        (0, 0, 0, "False 0"),
    ],
)
def test_only_an_unprivileged_attestor_of_the_same_user_may_read_the_broker(
    tmp_path, uid, owner, socket_owner, expected
):
    folder = tmp_path / "run"
    if owner is not None:
        folder.mkdir()
        os.chown(folder, owner, -1)
    if socket_owner is not None:
        (folder / "broker.sock").touch()
        os.chown(folder / "broker.sock", socket_owner, -1)
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    out = run(
        f"""
        import ctypes, os, pathlib
        from broker.process import harden, is_attestor_same_user
        os.setuid({uid})
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # changing the user cleared it already
        same = is_attestor_same_user(pathlib.Path({str(folder)!r}) / "broker.sock")
        harden(unsafe_dumpable=same)
        print(same, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
        """
    )
    assert out.strip() == expected


def test_the_boot_id_is_sixteen_bytes():
    assert len(read_boot_id()) == 16
    assert read_boot_id() == read_boot_id()


def test_this_kernel_names_processes_by_pidfd_inode():
    check_pidfd_support()


def test_a_kernel_without_handles_of_pidfds_is_too_old(monkeypatch):
    # A socket has an inode of its own and no handle, as pidfds had from Linux 6.9 to 6.13.
    with socket.socket() as sock:
        monkeypatch.setattr(os, "pidfd_open", lambda _pid: os.dup(sock.fileno()))
        with pytest.raises(UnavailableError, match="kernel_too_old") as caught:
            check_pidfd_support()
    assert "6.14" in caught.value.remedy


def test_a_listener_is_named_by_its_own_inode(tmp_path):
    path = str(tmp_path / "l.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert probe_listener(path) is None
        sock.listen(1)
        assert probe_listener(path) == Listener(inode_of(os.getpid()))


def test_a_listener_whose_process_exited_while_others_serve_is_zero(tmp_path):
    path = str(tmp_path / "l.sock")
    code = """
        import os, socket, sys, time
        sock = socket.socket(socket.AF_UNIX); sock.bind(sys.argv[1]); sock.listen(5)
        if os.fork():
            os._exit(0)
        while True: time.sleep(1)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), path], start_new_session=True)
    parent.wait()
    try:
        assert probe_listener(path) == Listener(0)
    finally:
        os.killpg(parent.pid, 9)
    wait_until(lambda: probe_listener(path) is None)


@pytest.mark.parametrize("what", ["absent", "file", "folder"])
def test_nobody_answers_where_nothing_listens(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("")
    elif what == "folder":
        path.mkdir()
    assert probe_listener(str(path)) is None


def test_a_full_backlog_does_not_block(tmp_path):
    path = str(tmp_path / "l.sock")
    held = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(0)
        while probe_listener(path) is not None and len(held) < 16:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            held.append(client)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        assert probe_listener(path) is None
    for client in held:
        client.close()


def test_probing_leaves_no_descriptor(tmp_path):
    path = str(tmp_path / "l.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(64)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            probe_listener(path)
            probe_listener(path + "x")
        assert len(os.listdir("/proc/self/fd")) <= before
