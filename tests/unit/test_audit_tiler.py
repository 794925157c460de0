"""The tiler: the tree of the journal, killed anywhere, and everything that must end the signing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from broker.audit.errors import LogContradictionError, LogStoreError
from broker.audit.journal import Journal
from broker.audit.log_signer import load_log_signer
from broker.audit.tile_store import CHECKPOINT, SIGNED
from broker.audit.tiler import Tiler
from broker.audit.tree import GrowingTree
from hopseal.errors import BugError
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.entries import LogError, format_line, read_payload
from hopseal.log.leaf import leaf_of_line
from hopseal.log.log_key import sign_checkpoint
from hopseal.log.segments import CURRENT, format_closed_name
from hopseal.log.tiles import Tile, tile_hash_reader, tiles_of
from hopseal.log.tree import build_consistency_proof, read_root, verify_consistency
from journals import LogFolder, naive_root
from waiting import async_wait_until


@asynccontextmanager
async def running(tiler: Tiler) -> AsyncIterator[Tiler]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tiler.run())
        yield tiler
        task.cancel()


async def grown(log: LogFolder) -> Checkpoint:
    """The checkpoint over everything that is durable, made by a tiler of its own."""
    async with running(log.tiler()) as tiler:
        await async_wait_until(lambda: tiler.size == log.plane.durable or tiler.problem)
        assert not tiler.problem
    checkpoint = log.signed()
    assert checkpoint is not None
    return checkpoint


async def test_the_signed_tree_is_that_of_the_journal_at_every_size(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    async with running(log.tiler()) as tiler:
        for count in (1, 1, 253, 1, 1, 255, 1, 300):
            log.append(count)
            await async_wait_until(lambda: tiler.size == log.plane.durable)
            checkpoint = log.signed()
            assert checkpoint is not None
            assert (checkpoint.size, checkpoint.root) == (len(log.journal.leaves), naive_root(log.journal.leaves))
            assert read_root(checkpoint.size, tile_hash_reader(checkpoint.size, log.store.read)) == checkpoint.root
    for tile in tiles_of(log.plane.durable):
        assert (log.store.folder / tile.path).stat().st_size == len(log.store.read(tile))
    assert not (log.store.folder / "tile/0/000.p").exists()
    assert log.store.read(Tile(0, 0, 3)) == log.store.read(Tile(0, 0))[:96]


async def test_a_log_of_many_files_is_one_tree(tmp_path: Path) -> None:
    log = LogFolder(tmp_path, per_file=7)
    log.append(100)
    assert (await grown(log)).root == naive_root(log.journal.leaves)
    log.append(100)
    assert (await grown(log)).root == naive_root(log.journal.leaves)


async def test_old_files_may_go_and_the_tree_goes_on(tmp_path: Path) -> None:
    log = LogFolder(tmp_path, per_file=50)
    log.append(300)
    await grown(log)
    for first_n in range(0, 250, 50):
        (log.journal.folder / format_closed_name(first_n)).unlink()
    log.append(80)
    assert (await grown(log)).root == naive_root(log.journal.leaves)


class Killed(BaseException):
    """The process ends here."""


async def test_killed_between_any_two_writes_the_next_start_signs_the_same_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFolder(tmp_path, per_file=100)
    fsync, left = os.fsync, [0]

    def killing(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", killing)
    promised: list[Checkpoint] = []
    for round_number in range(40):
        log.append(23)
        left[0] = round_number
        tiler = log.tiler()
        try:
            tree = tiler._load()
            tiler._advance(tree)
        except Killed:
            pass
        finally:
            tiler._journal.close()
        checkpoint = log.signed()
        if checkpoint is not None and checkpoint not in promised:
            promised.append(checkpoint)
    left[0] = 1 << 30
    promised.append(await grown(log))
    assert len(promised) > 20
    read = tile_hash_reader(promised[-1].size, log.store.read)
    for old, new in pairwise(promised):
        assert old.root == naive_root(log.journal.leaves[: old.size])
        proof = build_consistency_proof(old.size, new.size, read)
        verify_consistency(old.size, old.root, new.size, new.root, proof)


def shorten(log: LogFolder) -> None:
    log.plane.durable -= 1


def empty(log: LogFolder) -> None:
    log.journal.path.write_bytes(b"")
    log.plane.durable = 0


def rewrite_last(log: LogFolder) -> None:
    data = log.journal.path.read_bytes()
    lines = data.splitlines(keepends=True)
    log.journal.path.write_bytes(b"".join([*lines[:-1], format_line(log.journal.line(len(lines) - 1, "forged"))]))


def damage_last(log: LogFolder) -> None:
    data = bytearray(log.journal.path.read_bytes())
    data[-5] ^= 1
    log.journal.path.write_bytes(data)


def flip_tile(log: LogFolder) -> None:
    path = log.store.folder / Tile(0, 0).path
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    up = log.store.folder / Tile(1, 0, 1).path
    up.write_bytes(bytes(32))


def cut_tile(log: LogFolder) -> None:
    path = log.store.folder / Tile(0, 1, 44).path
    path.write_bytes(path.read_bytes()[:-1])


def change_entries(log: LogFolder) -> None:
    path = log.store.folder / Tile(None, 1, 44).path
    path.write_bytes(path.read_bytes().replace(b"token", b"t0ken"))


def change_key(log: LogFolder) -> None:
    (log.folder / "log.key").unlink()
    log.signer = load_log_signer(log.folder / "log.key", log.signer.key.name)


def forge_root(log: LogFolder) -> None:
    note = sign_checkpoint(Checkpoint(log.signer.key.name, 300, bytes(32)), log.signer)
    log.store.write_note(SIGNED, note)


def tear_note(log: LogFolder) -> None:
    note = log.store.read_note(SIGNED)
    assert note is not None
    (log.store.folder / SIGNED).write_bytes(note[:-9])


def go_back(log: LogFolder) -> None:
    """`signed` is taken back to less than what was published."""
    note = log.store.read_note(SIGNED)
    assert note is not None
    log.store.write_note(CHECKPOINT, note)
    (log.store.folder / SIGNED).unlink()
    rewrite_last(log)


@pytest.mark.parametrize(
    "tamper",
    [
        shorten,
        empty,
        rewrite_last,
        damage_last,
        flip_tile,
        cut_tile,
        change_entries,
        change_key,
        forge_root,
        tear_note,
        go_back,
    ],
)
async def test_a_start_that_finds_another_log_than_it_signed_signs_nothing(
    tmp_path: Path, tamper: Callable[[LogFolder], None]
) -> None:
    log = LogFolder(tmp_path)
    log.append(300)
    await grown(log)
    tamper(log)
    before = log.store.read_note(SIGNED)
    async with running(log.tiler()) as tiler:
        await async_wait_until(lambda: tiler.problem)
        assert "log_contradiction" in tiler.problem
        assert tiler.signed.value is None
    assert log.store.read_note(SIGNED) == before


def skip_number(log: LogFolder) -> None:
    with log.journal.path.open("ab") as file:
        file.write(format_line(log.journal.line(11)))


def write_junk(log: LogFolder) -> None:
    with log.journal.path.open("ab") as file:
        file.write(b'00000000 {"n":10}\n')


def write_no_entry(log: LogFolder) -> None:
    with log.journal.path.open("ab") as file:
        file.write(format_line(b'{"n":10}'))


def write_nothing(_: LogFolder) -> None:
    pass


def write_endless(log: LogFolder) -> None:
    with log.journal.path.open("ab") as file:
        file.write(b"x" * (3 << 20))


@pytest.mark.parametrize("tamper", [skip_number, write_junk, write_no_entry, write_nothing, write_endless])
async def test_an_entry_that_is_said_to_be_durable_and_is_not_there_ends_the_signing(
    tmp_path: Path, tamper: Callable[[LogFolder], None]
) -> None:
    log = LogFolder(tmp_path)
    log.append(10)
    async with running(log.tiler()) as tiler:
        await async_wait_until(lambda: tiler.size == 10)
        tamper(log)
        log.plane.durable = 12
        await async_wait_until(lambda: tiler.problem)
        assert "log_contradiction" in tiler.problem
    checkpoint = log.signed()
    assert checkpoint is not None
    assert checkpoint.size == 10


async def test_a_running_tiler_notices_that_the_journal_shrank(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(10)
    async with running(log.tiler()) as tiler:
        await async_wait_until(lambda: tiler.size == 10)
        log.plane.durable = 9
        await async_wait_until(lambda: "log_contradiction" in tiler.problem)


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogFolder(tmp_path)
    log.append(10)
    monkeypatch.setattr("broker.audit.tiler.RETRY_S", 0.01)

    def full(*_: object) -> None:
        raise LogStoreError(OSError(28, "No space left on device"))

    async with running(log.tiler()) as tiler:
        await async_wait_until(lambda: tiler.size == 10)
        with monkeypatch.context() as patched:
            patched.setattr(log.store, "write_tiles", full)
            log.append(300)
            await async_wait_until(lambda: "log_store_unavailable" in tiler.problem)
        await async_wait_until(lambda: tiler.size == 310)
        assert not tiler.problem
    checkpoint = log.signed()
    assert checkpoint is not None
    assert checkpoint.root == naive_root(log.journal.leaves)


def test_what_is_not_durable_yet_is_read_again(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(3)
    journal = Journal(log.journal.folder)
    whole = log.journal.path.read_bytes()
    log.journal.path.write_bytes(whole + format_line(log.journal.line(3, "failed")))
    assert list(journal.read_leaves(0, 3)) == log.journal.leaves
    log.journal.path.write_bytes(whole)
    log.append(2)
    assert list(journal.read_leaves(3, 5)) == log.journal.leaves[3:]
    assert list(journal.read_leaves(1, 4)) == log.journal.leaves[1:4]
    assert list(journal.read_leaves(4, 4)) == []
    journal.close()


def test_a_journal_follows_a_file_that_is_renamed_under_it(tmp_path: Path) -> None:
    log = LogFolder(tmp_path, per_file=5)
    log.append(3)
    journal = Journal(log.journal.folder)
    assert list(journal.read_leaves(0, 2)) == log.journal.leaves[:2]
    log.append(15)
    assert list(journal.read_leaves(2, 18)) == log.journal.leaves[2:]
    assert journal.first_n() == 0
    journal.close()


def test_a_journal_without_files_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LogStoreError):
        list(Journal(tmp_path).read_leaves(0, 1))
    assert Journal(tmp_path).first_n() is None
    with pytest.raises(LogStoreError):
        Journal(tmp_path / "missing").first_n()


def test_a_bit_flipped_anywhere_in_the_journal_is_found_by_the_tree(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(4)
    tree = GrowingTree(0, log.store.read)
    tree.add(log.journal.leaves)
    data = log.journal.path.read_bytes()
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            log.journal.path.write_bytes(flipped)
            journal = Journal(log.journal.folder)
            with pytest.raises(LogContradictionError):
                assert list(journal.read_leaves(0, 4)) != log.journal.leaves
            journal.close()


def test_a_line_with_another_text_and_a_right_checksum_is_found_by_the_tree(tmp_path: Path) -> None:
    """The checksum is no protection: whoever can write the file can make it right."""
    log = LogFolder(tmp_path)
    log.append(4)
    text = read_payload(log.journal.path.read_bytes().splitlines()[2])
    for position in range(len(text)):
        changed = bytearray(text)
        changed[position] ^= 1
        try:
            assert leaf_of_line(bytes(changed)) != log.journal.leaves[2]
        except LogError:
            continue


def test_only_the_right_edge_is_in_memory(tmp_path: Path) -> None:
    log = LogFolder(tmp_path)
    log.append(300)
    tree = GrowingTree(0, log.store.read)
    log.store.make_folder()
    log.store.write_tiles(tree.add(log.journal.leaves))
    assert tree.add([]) == []
    with pytest.raises(BugError):
        tree._read(0, 3)
    again = GrowingTree(300, log.store.read)
    assert again.root == tree.root == naive_root(log.journal.leaves)
    assert (log.journal.folder / CURRENT).exists()
