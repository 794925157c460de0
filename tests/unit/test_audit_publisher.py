"""What of the log is published, kept as history, announced and served."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from yarl import URL

from broker.audit.announcement import LogKeyAnnouncer, seal_log_key
from broker.audit.errors import LogStoreError
from broker.audit.history import CheckpointHistory
from broker.audit.log_signer import load_log_signer
from broker.audit.publisher import Publisher
from broker.audit.tile_http import TileHttp, is_covered
from broker.audit.tile_store import CHECKPOINT, SIGNED, TileStore
from broker.audit.witnesses import Witnesses
from broker.own_identity import OwnIdentity
from broker.serving import serve_routes
from hopseal.custody.encoding import parse_json_object
from hopseal.custody.seal import parse_sealed, thumbprint, verify_inclusion
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.history import PastCheckpoint, parse_history
from hopseal.log.log_key import verify_log_signature
from hopseal.log.note import VerifierKey, parse_vkey
from hopseal.log.policy import CosignedCheckpoint
from hopseal.log.tiles import Tile
from hopseal.log.tree import verify_consistency
from hopseal.watch import Watch
from journals import ORIGIN, LogFolder, naive_root
from svid_authority import Authority
from waiting import async_wait_until


class SlowWitnesses(Witnesses):
    """A quorum that is there only while ``here`` is set."""

    def __init__(self, key: VerifierKey, log: LogFolder) -> None:
        super().__init__(key, (), 0, source=random.Random(1))
        self.here = asyncio.Event()
        self.shown: list[int] = []
        self.time: int | None = 1_800_000_000
        self._log = log

    async def cosign(self, note, consistency) -> CosignedCheckpoint:
        cosigned = await super().cosign(note, consistency)
        old = self.shown[-1] if self.shown else 0
        size = cosigned.checkpoint.size
        if old:
            leaves = self._log.journal.leaves
            verify_consistency(old, naive_root(leaves[:old]), size, naive_root(leaves[:size]), consistency(old))
        self.shown.append(size)
        if not self.here.is_set():
            raise UnavailableError("log_unwitnessed", "nobody cosigned")
        return CosignedCheckpoint(
            cosigned.checkpoint, cosigned.note, cosigned.log_signatures, cosigned.cosignatures, self.time
        )


@asynccontextmanager
async def publishing(log: LogFolder, witnesses: Witnesses | None = None) -> AsyncIterator[Publisher]:
    tiler = log.tiler()
    witnesses = witnesses or Witnesses(log.signer.key, (), 0, source=random.Random(1))
    history = CheckpointHistory(log.store.folder / "history")
    publisher = Publisher(tiler, log.store, history, witnesses, log.plane)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in (tiler.run(), publisher.run())]
        yield publisher
        for task in tasks:
            task.cancel()


def published(log: LogFolder) -> int:
    note = log.store.read_note(CHECKPOINT)
    assert note is not None
    return verify_log_signature(parse_signed_checkpoint(note), [log.signer.key]).checkpoint.size


async def test_without_witnesses_every_checkpoint_is_published_at_once(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(5)
    async with publishing(log) as publisher:
        await async_wait_until(lambda: publisher.published.value.size == 5)
    assert published(log) == log.plane.witnessed == 5
    assert not (log.store.folder / "history").exists()


async def test_nothing_is_published_that_the_quorum_has_not_cosigned(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    witnesses = SlowWitnesses(log.signer.key, log)
    log.append(5)
    async with publishing(log, witnesses) as publisher:
        await async_wait_until(lambda: len(witnesses.shown) > 1)
        log.append(300)
        await async_wait_until(lambda: witnesses.shown[-1] == 305)
        assert "log_unwitnessed" in publisher.problem
        assert publisher.published.value.size == log.plane.witnessed == 0
        assert log.store.read_note(CHECKPOINT) is None
        witnesses.here.set()
        await async_wait_until(lambda: publisher.published.value.size == 305)
        assert not publisher.problem
    assert published(log) == log.plane.witnessed == 305
    (file,) = (log.store.folder / "history").iterdir()
    (past,) = parse_history(file.read_bytes())
    assert (past.time, past.size, past.note) == (witnesses.time, 305, log.store.read_note(CHECKPOINT))


async def test_what_was_published_before_a_start_counts_at_once(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(5)
    async with publishing(log) as publisher:
        await async_wait_until(lambda: publisher.published.value.size == 5)
    log.plane.witnessed = 0
    witnesses = SlowWitnesses(log.signer.key, log)
    async with publishing(log, witnesses):
        await async_wait_until(lambda: log.plane.witnessed == 5)


async def test_what_other_witnesses_cosigned_is_not_recalled(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(5)
    log.store.make_folder()
    other = load_log_signer(tmp_path / "other.key", ORIGIN)
    async with publishing(log) as publisher:
        await async_wait_until(lambda: publisher.published.value.size == 5)
    policy = Witnesses(other.key, (), 0, source=random.Random(1))
    again = Publisher(log.tiler(), log.store, CheckpointHistory(tmp_path / "h"), policy, log.plane)
    assert again._recall() == 0


def past(time: int, size: int = 1) -> PastCheckpoint:
    return PastCheckpoint(time, size, b"origin\n%d\n" % size)


def kept(folder: Path) -> list[int]:
    return [each.time for path in sorted(folder.iterdir()) for each in parse_history(path.read_bytes())]


def test_the_history_is_thinned_when_an_hour_is_over_for_an_hour(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    history = CheckpointHistory(folder)
    first = [36_000 + each for each in range(0, 120, 10)]
    for time in first:
        history.append(past(time))
    history.append(past(39_600))
    assert kept(folder) == [*first, 39_600]
    history.append(past(43_200))
    assert kept(folder) == [36_020, 36_050, 36_080, 36_110, 39_600, 43_200]
    assert sorted(path.name for path in folder.iterdir()) == [
        "1970010110.thin.jsonl",
        "1970010111.jsonl",
        "1970010112.jsonl",
    ]


def test_a_torn_line_of_the_history_costs_only_itself(tmp_path: Path) -> None:
    history = CheckpointHistory(tmp_path)
    history.append(past(36_001))
    path = tmp_path / "1970010110.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time":36002,"si')
    history.append(past(36_003))
    assert kept(tmp_path) == [36_001, 36_003]


def test_the_log_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "log.key"
    made = load_log_signer(path, ORIGIN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_log_signer(path, ORIGIN).key == made.key == parse_vkey(str(made.key))
    assert [each.name for each in tmp_path.iterdir()] == ["log.key"]
    assert "private" not in repr(made)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o660])
def test_a_log_key_that_others_could_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "log.key"
    load_log_signer(path, ORIGIN)
    path.chmod(mode)
    with pytest.raises(InvalidError, match="log_key_exposed"):
        load_log_signer(path, ORIGIN)


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_log_key_is_refused_and_kept(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(InvalidError, match="log_key_invalid"):
        load_log_signer(path, ORIGIN)
    assert path.read_bytes() == data


def test_a_log_key_that_is_no_plain_file_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError, match="log_key_unavailable"):
        load_log_signer(tmp_path / "real.key", ORIGIN)
    (tmp_path / "folder.key").mkdir(mode=0o700)
    with pytest.raises(InvalidError, match="log_key_exposed"):
        load_log_signer(tmp_path / "folder.key", ORIGIN)
    with pytest.raises(UnavailableError):
        load_log_signer(tmp_path / "missing" / "log.key", ORIGIN)


AUTHORITY = Authority()
BROKER = "spiffe://example.org/hopseal/broker/node-1"


async def test_the_log_key_is_announced_under_each_new_leaf(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    own: Watch[OwnIdentity | None] = Watch(None)
    first, second = (AUTHORITY.issue(BROKER) for _ in range(2))
    announcer = LogKeyAnnouncer(own, log.signer.key, log.plane, now=lambda: 1_700_000_000.5)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(announcer.run())
        for svid in (first, first, second):
            own.publish(OwnIdentity(svid, AUTHORITY.bundles))
            await async_wait_until(
                lambda svid=svid: log.plane.artifacts and log.plane.artifacts[-1][1] == list(svid.chain_der)
            )
        task.cancel()
    assert len(log.plane.artifacts) == 2
    artifact, chain = log.plane.artifacts[0]
    assert (artifact.pop("type"), chain) == ("attest", list(first.chain_der))
    statement = parse_sealed(artifact.pop("sealed"))
    assert not artifact
    verify_inclusion(statement)
    claims = parse_json_object(statement.claims)
    assert statement.seal.x5t == claims["sx"] == thumbprint(first.chain_der[0])
    assert (claims["t"], claims["iss"], claims["sub"], claims["verdict"]) == ("att", BROKER, BROKER, "attested")
    assert (claims["iat"], claims["exp"]) == (1_700_000_000, first.expires_at)
    assert claims["log"] == {"origin": ORIGIN, "vkey": str(log.signer.key)}


@asynccontextmanager
async def serving(log: LogFolder, publisher: Publisher) -> AsyncIterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        async with serve_routes(sock, TileHttp(log.store, publisher).routes):
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"


async def test_checkpoint_tiles_and_entries_are_served_and_nothing_else(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(300)
    async with publishing(log) as publisher, serving(log, publisher) as url, aiohttp.ClientSession() as session:
        await async_wait_until(lambda: publisher.published.value.size == 300)
        async with session.get(f"{url}/checkpoint") as answer:
            assert await answer.read() == log.store.read_note(CHECKPOINT)
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-cache"
        for tile in (Tile(0, 0), Tile(0, 1, 44), Tile(0, 0, 3), Tile(1, 0, 1), Tile(None, 0), Tile(None, 1, 44)):
            async with session.get(f"{url}/{tile.path}") as answer:
                assert await answer.read() == log.store.read(tile)
                assert "immutable" in answer.headers["Cache-Control"]
        for path in (
            "",
            "signed",
            "history",
            "checkpoint/",
            "checkpoint?x=1",
            "tile/",
            "tile/0/",
            "tile/0/001",
            "tile/0/001.p/45",
            "tile/1/000",
            "tile/0/000?x",
            "tile/0/%30%30%30",
            "tile/0/../0/000",
            "..%2flog.key",
            "../log.key",
            "tile/entries/000.unfinished",
            "/checkpoint",
        ):
            async with session.get(URL(f"{url}/{path}", encoded=True)) as answer:
                assert answer.status == 404, path
        async with session.post(f"{url}/checkpoint") as answer:
            assert answer.status == 405
        (log.store.folder / Tile(0, 0).path).unlink()
        async with session.get(f"{url}/tile/0/000") as answer:
            assert answer.status == 503


async def test_nothing_is_served_before_it_is_published(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(5)
    witnesses = SlowWitnesses(log.signer.key, log)
    async with (
        publishing(log, witnesses) as publisher,
        serving(log, publisher) as url,
        aiohttp.ClientSession() as session,
    ):
        await async_wait_until(lambda: log.store.read_note(SIGNED) is not None)
        for path in ("checkpoint", "tile/0/000.p/5"):
            async with session.get(f"{url}/{path}") as answer:
                assert answer.status == 404


@pytest.mark.parametrize(
    ("tile", "size"), [(Tile(0, 0, 5), 5), (Tile(None, 1, 1), 257), (Tile(1, 0, 1), 256), (Tile(2, 0, 1), 65_536)]
)
def test_a_tile_is_covered_from_its_last_entry_on(tile: Tile, size: int) -> None:
    assert is_covered(tile, size)
    assert not is_covered(tile, size - 1)


def test_a_key_that_makes_no_seals_announces_nothing(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    svid = AUTHORITY.issue(BROKER)
    pem = (tmp_path / "log.key").read_bytes()
    der = load_pem_private_key(pem, None).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    other = type(svid)(svid.spiffe_id, svid.chain_der, der, svid.expires_at)
    assert seal_log_key(other, log.signer.key, 1) is None
    announcer = LogKeyAnnouncer(Watch(None), log.signer.key, log.plane)
    assert announcer._is_announced(other)
    assert log.plane.artifacts == []


def test_an_announcement_that_cannot_be_queued_is_made_again(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    svid = AUTHORITY.issue(BROKER)

    class Full(type(log.plane)):
        def append_artifact(self, artifact_json, chain_der=()) -> None:
            raise RuntimeError("log_unavailable")

    announcer = LogKeyAnnouncer(Watch(None), log.signer.key, Full())
    assert not announcer._is_announced(svid)
    announcer._data_plane = log.plane
    assert announcer._is_announced(svid)
    assert json.loads(json.dumps(log.plane.artifacts[0][0]))["type"] == "attest"


@contextmanager
def full_after(file_bytes: int) -> Iterator[None]:
    """A disk that takes a part of a write and no more, as a full one does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_the_disk_took_a_part_of_takes_no_names_place(tmp_path: Path) -> None:
    store = TileStore(tmp_path)
    store.write_note(SIGNED, b"whole\n")
    with full_after(4096), pytest.raises(LogStoreError):
        store.write_note(SIGNED, b"x" * 8192)
    assert store.read_note(SIGNED) == b"whole\n"
    tile = Tile(0, 0)
    with full_after(4096), pytest.raises(LogStoreError):
        store.write_tiles([(tile, b"x" * 8192)])
    assert not (tmp_path / tile.path).exists()


def test_a_line_of_the_history_that_the_disk_took_a_part_of_is_not_said_to_be_there(tmp_path: Path) -> None:
    history = CheckpointHistory(tmp_path / "history")
    past = PastCheckpoint(7200, 1, b"n" * 8192)
    with full_after(4096), pytest.raises(LogStoreError):
        history.append(past)
    history.append(past)
    (file,) = (tmp_path / "history").iterdir()
    assert [each.size for each in parse_history(file.read_bytes())] == [1]
