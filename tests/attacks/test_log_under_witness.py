"""A node whose operator rewrites its log, against a running witness: it comes out, and nothing is published."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.audit.history import CheckpointHistory
from broker.audit.publisher import Publisher
from broker.audit.tile_store import CHECKPOINT
from broker.audit.witness_link import WitnessState
from broker.audit.witnesses import Witnesses
from hopseal.log.checkpoint import parse_signed_checkpoint
from journals import LogFolder, WrittenJournal
from waiting import async_wait_until
from witness_process import WitnessProcess


class Node:
    """The log of one node with its publisher, which can be started again over what is on its disk."""

    def __init__(self, folder: Path) -> None:
        self.log = LogFolder(folder)
        self.witnesses: Witnesses | None = None

    @asynccontextmanager
    async def running(self, witness: WitnessProcess) -> AsyncIterator[Publisher]:
        tiler = self.log.tiler()
        self.witnesses = Witnesses(self.log.signer.key, [(witness.url, witness.keys[1])], 1, source=random.Random(1))
        history = CheckpointHistory(self.log.store.folder / "history")
        publisher = Publisher(tiler, self.log.store, history, self.witnesses, self.log.plane)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in (tiler.run(), publisher.run())]
            yield publisher
            for task in tasks:
                task.cancel()

    def published(self) -> int:
        note = self.log.store.read_note(CHECKPOINT)
        return 0 if note is None else parse_signed_checkpoint(note).checkpoint.size

    async def is_refused(self) -> None:
        """The witness raised the alarm, and nothing was published since."""
        found = self.witnesses
        assert found is not None
        before = self.published()
        await async_wait_until(lambda: found.statuses()[0].state is WitnessState.REFUSED)
        assert "witness_refused" in found.problems()[0]
        assert found.statuses()[0].failed["refused"] >= 1
        assert self.published() == before


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


@pytest.fixture
def witness(tmp_path: Path, node: Node) -> WitnessProcess:
    return WitnessProcess(tmp_path / "witness", (node.log.signer.key,))


def rewrite(node: Node, entries: int, *, kept: int) -> None:
    """Another journal of that many entries, the first ``kept`` of them as they were, and no trace of the old log."""
    shutil.rmtree(node.log.folder / "log")
    shutil.rmtree(node.log.folder / "tlog")
    node.log.journal = WrittenJournal(node.log.folder / "log")
    node.log.journal.append(kept)
    node.log.journal.append(entries - kept, th="rewritten")
    node.log.plane.durable, node.log.plane.witnessed = entries, 0


async def test_an_honest_node_is_cosigned_on_and_on_also_after_starts_of_both(
    node: Node, witness: WitnessProcess
) -> None:
    with witness.start():
        for entries in (3, 300, 7):
            node.log.append(entries)
            async with node.running(witness) as publisher:
                await async_wait_until(lambda: publisher.published.value.size == len(node.log.journal.leaves))
            assert node.published() == node.log.plane.witnessed == len(node.log.journal.leaves)
            assert witness.stop() == 0
            witness.start()


@pytest.mark.parametrize("kept", [0, 1, 19])
async def test_a_journal_rewritten_from_some_entry_on_is_refused(
    node: Node, witness: WitnessProcess, kept: int
) -> None:
    with witness.start():
        node.log.append(20)
        async with node.running(witness) as publisher:
            await async_wait_until(lambda: publisher.published.value.size == 20)
        rewrite(node, 25, kept=kept)
        async with node.running(witness):
            await node.is_refused()
        assert node.published() == node.log.plane.witnessed == 0
        assert [event for event in witness.events("request") if event["status"] == 422]


async def test_a_tail_cut_off_is_refused_and_so_is_what_is_put_in_its_place(
    node: Node, witness: WitnessProcess
) -> None:
    with witness.start():
        node.log.append(20)
        async with node.running(witness) as publisher:
            await async_wait_until(lambda: publisher.published.value.size == 20)
        rewrite(node, 15, kept=15)
        async with node.running(witness):
            await node.is_refused()
            node.log.journal.append(15, th="rewritten")
            node.log.plane.durable = 30
            failed = node.witnesses.statuses()[0].failed["refused"] if node.witnesses else 0
            await async_wait_until(
                lambda: node.witnesses is not None and node.witnesses.statuses()[0].failed["refused"] > failed
            )
            await node.is_refused()
        assert node.published() == node.log.plane.witnessed == 0


async def test_a_node_put_back_from_an_older_copy_is_refused_once_it_goes_on(
    node: Node, witness: WitnessProcess, tmp_path: Path
) -> None:
    with witness.start():
        node.log.append(10)
        async with node.running(witness) as publisher:
            await async_wait_until(lambda: publisher.published.value.size == 10)
        shutil.copytree(node.log.folder, tmp_path / "copy")
        node.log.append(10)
        async with node.running(witness) as publisher:
            await async_wait_until(lambda: publisher.published.value.size == 20)
        shutil.rmtree(node.log.folder)
        shutil.copytree(tmp_path / "copy", node.log.folder)
        node.log.journal.leaves = node.log.journal.leaves[:10]
        node.log.journal.append(2, th="after")
        node.log.plane.durable = 12
        async with node.running(witness):
            await node.is_refused()
        assert node.published() == 10


async def test_two_nodes_with_one_key_cannot_both_go_on(node: Node, witness: WitnessProcess, tmp_path: Path) -> None:
    twin_folder = tmp_path / "twin"
    twin_folder.mkdir()
    shutil.copy(node.log.folder / "log.key", twin_folder / "log.key")
    twin = Node(twin_folder)
    assert twin.log.signer.key == node.log.signer.key
    with witness.start():
        node.log.append(5)
        async with node.running(witness) as publisher:
            await async_wait_until(lambda: publisher.published.value.size == 5)
            twin.log.journal.append(9, th="twin")
            twin.log.plane.durable = 9
            async with twin.running(witness):
                await twin.is_refused()
            node.log.append(5)
            await async_wait_until(lambda: publisher.published.value.size == 10)
        assert twin.published() == 0


async def test_a_quorum_outlives_a_witness_that_lies(node: Node, tmp_path: Path) -> None:
    honest = WitnessProcess(tmp_path / "honest", (node.log.signer.key,))
    liar = WitnessProcess(
        tmp_path / "liar",
        (node.log.signer.key,),
        prelude="import time; real = time.time; time.time = lambda: real() + 1_000_000_000",
    )
    with honest.start(), liar.start():
        named = [(honest.url, honest.keys[0]), (liar.url, liar.keys[0])]
        witnesses = Witnesses(node.log.signer.key, named, 1, source=random.Random(1))
        node.log.append(5)
        tiler = node.log.tiler()
        publisher = Publisher(tiler, node.log.store, CheckpointHistory(tmp_path / "history"), witnesses, node.log.plane)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in (tiler.run(), publisher.run())]
            await async_wait_until(lambda: publisher.published.value.size == 5)
            for task in tasks:
                task.cancel()
        note = node.log.store.read_note(CHECKPOINT)
        assert note is not None
        names = [each.key_id for each in parse_signed_checkpoint(note).note.signatures]
        assert liar.keys[0].key_id not in names
        assert witnesses.statuses()[1].state is WitnessState.WRONG_ANSWER
        assert "clocks is wrong" in witnesses.problems()[0]
