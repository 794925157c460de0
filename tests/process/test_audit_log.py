"""The tamper-evident log on the real data plane: killed under load, on bad disks, file by file, witnessed or not."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import json
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from broker._dataplane import DataPlane, DataPlaneError
from broker.audit.announcement import seal_log_key
from broker.audit.journal import Journal
from broker.audit.log_signer import load_log_signer
from broker.audit.tile_store import SIGNED, TileStore
from dataplane_child import ORIGIN
from dataplane_nodes import TRUST_DOMAIN, Component, Node, call, pair, spiffe_id
from dataplane_peer import Message, send
from hopseal.log.checkpoint import Checkpoint, parse_signed_checkpoint
from hopseal.log.entries import CertificateEntry, RecordEntry, StartEntry, parse_entry, read_payload
from hopseal.log.leaf import leaf_of_artifact
from hopseal.log.log_key import verify_log_signature
from hopseal.log.offline import verify_chain_offline
from hopseal.log.reader import read_files, read_log
from hopseal.log.segments import order_segments, parse_closed_name
from hopseal.log.tiles import tile_hash_reader
from hopseal.log.tree import build_consistency_proof, verify_consistency
from hopseal.svid import X509Svid
from journals import naive_root
from killed_node import NodeProcess, node_process
from svid_authority import Authority
from waiting import wait_until

KILLS = int(os.environ.get("HOPSEAL_TEST_KILLS", "8"))
SMALL = {"segment_bytes": 20_000}


@pytest.fixture
def authority() -> Authority:
    return Authority(TRUST_DOMAIN)


@pytest.fixture
def svid(authority: Authority) -> X509Svid:
    return authority.issue(spiffe_id("orchestrator"))


@pytest.fixture
def killed(tmp_path: Path, authority: Authority) -> Iterator[NodeProcess]:
    with node_process(tmp_path, authority, tlog=True, log=SMALL) as node:
        yield node


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own, which can be frozen."""
    image, folder = tmp_path / "image", tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def signed_in(folder: Path) -> Checkpoint | None:
    note = TileStore(folder / "tlog").read_note(SIGNED)
    if note is None:
        return None
    key = load_log_signer(folder / "log.key", ORIGIN).key
    return verify_log_signature(parse_signed_checkpoint(note), [key]).checkpoint


def leaves_of(node: NodeProcess, count: int) -> list[bytes]:
    journal = Journal(node.log_file.parent)
    try:
        return list(journal.read_leaves(0, count))
    finally:
        journal.close()


# Python's ssl forgets a socket that is reset between accept and wrapping; that is what killing does here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(60 + 10 * KILLS)
def test_killed_again_and_again_under_load_log_and_tree_lose_nothing_that_was_acknowledged(
    killed: NodeProcess, svid: X509Svid
) -> None:
    acknowledged: set[str] = set()
    promised: list[Checkpoint] = []
    for _ in range(KILLS):
        port = killed.start()
        assert killed.start_took_s < 1

        def one(_: int, port: int = port) -> None:
            message = Message(svid)
            answer = send(port, svid, message.wire())
            if answer is not None and answer.status == 200:
                acknowledged.add(message.record.jti)

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            running = [threads.submit(one, n) for n in range(40)]
            enough = len(acknowledged) + 5
            wait_until(lambda enough=enough: len(acknowledged) > enough)
            killed.kill()
            concurrent.futures.wait(running)
        checkpoint = signed_in(killed.folder)
        if checkpoint is not None:
            promised.append(checkpoint)
    killed.start()
    # Cut off what was torn; then the tree is that of the whole journal.
    contents = killed.log()
    logged = {each.jti for each in contents.entries if isinstance(each, RecordEntry) and each.accepted}
    assert acknowledged <= logged
    assert not contents.damage
    assert not contents.torn_bytes
    assert [each.n for each in contents.entries] == list(range(len(contents.entries)))
    wait_until(lambda: (last := signed_in(killed.folder)) is not None and last.size >= len(contents.entries))
    last = signed_in(killed.folder)
    assert last is not None
    promised.append(last)
    leaves = leaves_of(killed, last.size)
    read = tile_hash_reader(last.size, TileStore(killed.folder / "tlog").read)
    for old, new in pairwise(promised):
        assert old.root == naive_root(leaves[: old.size])
        verify_consistency(old.size, old.root, new.size, new.root, build_consistency_proof(old.size, new.size, read))
    assert last.root == naive_root(leaves)
    assert len(order_segments(os.listdir(killed.log_file.parent))) > KILLS // 8


def test_each_file_of_a_log_can_be_verified_without_the_others(tmp_path: Path) -> None:
    with pair(tmp_path, log=SMALL) as (a, b, _tool):
        for _ in range(60):
            assert call(a).status == 200
        for node in (a, b):
            names = order_segments(os.listdir(node.log_dir))
            assert len(names) > 2
            files = [(name, (node.log_dir / name).read_bytes()) for name in names]
            assert not read_files(files).damage
            for name, data in files:
                entries = read_log(data).entries
                if name != names[0]:
                    assert isinstance(entries[0], StartEntry)
                assert parse_closed_name(name) in {None, entries[0].n}
                records = [each for each in entries if isinstance(each, RecordEntry)]
                assert all(verify_chain_offline(entries, str(each.cid)).verified for each in records)


def test_a_replay_from_an_earlier_file_is_refused_after_a_start(killed: NodeProcess, svid: X509Svid) -> None:
    port = killed.start()
    messages = [Message(svid).wire() for _ in range(30)]
    assert {send(port, svid, data).status for data in messages} == {200}
    killed.kill()
    assert len(order_segments(os.listdir(killed.log_file.parent))) > 1
    port = killed.start()
    assert {send(port, svid, data).code for data in messages} == {"custody_replayed"}


def test_artifacts_are_logged_after_the_certificates_that_verify_them(tmp_path: Path, authority: Authority) -> None:
    node = Node(tmp_path / "n", authority)
    svid = authority.issue("spiffe://example.org/hopseal/broker/n")
    hostile = {"type": "token", "th": "A" * 43, "kid": "a\n\x1b[2J", "claims": {"deep": {"n": [1.5]}}}
    with pytest.raises(DataPlaneError, match="log_unavailable"):
        node.plane.append_artifact('{"type":"token"}')
    assert node.plane.log_durable() == 0
    node.start()
    try:
        sealed = seal_log_key(svid, load_log_signer(tmp_path / "log.key", ORIGIN).key, 1)
        node.plane.append_artifact(json.dumps({"type": "attest", "sealed": sealed}), list(svid.chain_der))
        node.plane.append_artifact(json.dumps(hostile))
        begun = node.plane.log_durable()
        wait_until(lambda: len(node.log().entries) >= 5)
        wait_until(lambda: node.plane.log_durable() == len(node.log().entries) >= begun)
    finally:
        node.stop()
    lines = (node.log_dir / "custody.log").read_bytes().rstrip(b"\0").splitlines()
    assert all(line.decode().isprintable() for line in lines)
    kinds = [json.loads(read_payload(line))["type"] for line in lines]
    assert kinds[-3:] == ["cert", "attest", "token"]
    certificate = parse_entry(read_payload(lines[-3]))
    assert isinstance(certificate, CertificateEntry)
    assert certificate.der == svid.chain_der[0]
    journal = Journal(node.log_dir)
    leaves = list(journal.read_leaves(0, len(lines)))
    journal.close()
    assert leaves[-1] == leaf_of_artifact("token", read_payload(lines[-1]))


@pytest.mark.parametrize("text", ["", "[]", '{"type":"rec"}', '{"type":"token","n":1}', '{"type":"start"}'])
def test_only_artifacts_may_be_appended(tmp_path: Path, authority: Authority, text: str) -> None:
    node = Node(tmp_path / "n", authority).start()
    try:
        with pytest.raises(DataPlaneError, match="artifact_invalid"):
            node.plane.append_artifact(text)
        with pytest.raises(DataPlaneError, match="artifact_invalid"):
            node.plane.append_artifact('{"type":"token"}', [b"no certificate"])
    finally:
        node.stop()


def strict(**more: object) -> dict[str, object]:
    return {"log": {"strict": True}, "timeouts_ms": {"log_witness": 400, **more}}


def test_in_strict_mode_nothing_is_sent_before_witnesses_know_of_it(tmp_path: Path) -> None:
    with pair(tmp_path, **strict()) as (a, b, tool):
        got = call(a)
        assert (got.code, got.status) == ("log_unwitnessed", 503)
        assert not tool.seen
        stop = threading.Event()

        def witness(*planes: DataPlane) -> None:
            while not stop.wait(0.01):
                for plane in planes:
                    plane.set_witnessed(plane.log_durable())

        for planes, expected in (((a.plane,), "custody_unavailable"), ((a.plane, b.plane), None)):
            stop.clear()
            thread = threading.Thread(target=witness, args=planes)
            thread.start()
            try:
                got = call(a)
            finally:
                stop.set()
                thread.join()
            assert got.code == expected
            assert len(tool.seen) == (0 if expected else 1)


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    subprocess.run(["fsfreeze", "-f", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(folder)], check=True)


def test_on_a_disk_that_hangs_calls_fail_in_time_and_nothing_goes_unlogged(tmp_path: Path, ext4: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    path = tmp_path / "tool.sock"
    (ext4 / "log").mkdir()
    with Component(path) as tool:
        a = Node(
            tmp_path / "a", authority, settings={"log_dir": str(ext4 / "log"), "timeouts_ms": {"log_write": 500}}
        ).start()
        b = Node(tmp_path / "b", authority, caller=None, listens={"tool": path}).start()
        a.route(tool=b.port)
        try:
            assert call(a).status == 200
            with frozen(ext4):
                began = time.monotonic()
                assert call(a).code == "log_unavailable"
                assert time.monotonic() - began < 5
                assert len(tool.seen) == 1
            wait_until(lambda: call(a).status == 200)
            contents = read_log((ext4 / "log" / "custody.log").read_bytes())
            assert not contents.damage
            sent = [each for each in contents.entries if isinstance(each, RecordEntry)]
            # The record of the call that failed is there too: logged, never sent.
            assert len(sent) > len(tool.seen)
        finally:
            a.stop()
            b.stop()


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 512)
    return ballast


def test_where_calls_wait_for_space_a_full_disk_holds_them_up_and_fails_none(tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k,mode=0700", "tmpfs", str(disk)], check=True)
    (disk / "log").mkdir()
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    settings = {"log_dir": str(disk / "log"), "log": {"wait_when_full": True}}
    with Component(path) as tool:
        a = Node(tmp_path / "a", authority, settings=settings).start()
        b = Node(tmp_path / "b", authority, caller=None, listens={"tool": path}).start()
        a.route(tool=b.port)
        try:
            assert call(a).status == 200
            ballast = fill(disk)
            with concurrent.futures.ThreadPoolExecutor(8) as threads:
                running = [threads.submit(call, a) for _ in range(8)]
                wait_until(lambda: a.of("log_failed"))
                ballast.unlink()
                assert {each.result().status for each in running} == {200}
            assert len(tool.seen) == 9
            wait_until(lambda: a.of("log_recovered"))
        finally:
            a.stop()
            b.stop()
            subprocess.run(["umount", "-l", str(disk)], check=True)


def rename(path: Path) -> None:
    path.rename(path.with_name("custody.log.1"))


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def break_disk(path: Path) -> None:
    """Every write fails with EIO from now on."""
    shutdown = 0x8004587D  # EXT4_IOC_SHUTDOWN
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, shutdown, struct.pack("=I", 2))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("hand", [rename, remove, truncate, replace, break_disk])
def test_a_log_in_which_somebody_has_a_hand_takes_no_more_calls(
    tmp_path: Path, ext4: Path, hand: Callable[[Path], None]
) -> None:
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    (ext4 / "log").mkdir()
    with Component(path) as tool:
        a = Node(tmp_path / "a", authority, settings={"log_dir": str(ext4 / "log")}).start()
        b = Node(tmp_path / "b", authority, caller=None, listens={"tool": path}).start()
        a.route(tool=b.port)
        try:
            assert call(a).status == 200
            hand(ext4 / "log" / "custody.log")
            got = call(a)
            assert (got.code, got.status) == ("log_unavailable", 503)
            assert len(tool.seen) == 1
            wait_until(lambda: a.of("log_failed"))
        finally:
            a.stop()
            b.stop()


def test_a_log_on_a_read_only_disk_is_refused_at_the_start(tmp_path: Path, ext4: Path, authority: Authority) -> None:
    (ext4 / "log").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(ext4)], check=True)
    node = Node(tmp_path / "n", authority, settings={"log_dir": str(ext4 / "log")})
    with pytest.raises(DataPlaneError) as caught:
        node.plane.start()
    assert caught.value.args[0] == "log_unavailable"
