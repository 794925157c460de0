"""The Merkle log of the journal: from durable entries to tiles to a signed checkpoint.

Owns: when a checkpoint is made, the order of what is written, and refusing to go on when journal and log contradict
each other. Does not own: witnesses and what is published (``publisher``).

Order of one round, which makes it safe to be killed anywhere:
1. Only entries that the data plane calls durable are read.
2. Their tiles are durable before a checkpoint that covers them is signed.
3. The signed checkpoint is durable, as ``signed``, before anyone else sees it.
So a start finds a checkpoint and everything below it. Tiles above it are made again, from the same entries.

A start, and each round, believe the signed checkpoint and not the journal: a journal that is shorter than it, a key
that did not sign it, tiles of another root, or a last tile that is not of the journal's entries end the signing.
Source: custody-wire §10, C2SP tlog-checkpoint "A log MUST not sign any checkpoint which is inconsistent".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from broker.audit.errors import LogContradictionError
from broker.audit.journal import Journal
from broker.audit.log_signer import LogSigner
from broker.audit.tile_store import CHECKPOINT, SIGNED, TileStore
from broker.audit.tree import GrowingTree
from broker.dataplane_api import DataPlane
from hopseal.errors import HopsealError, UnavailableError
from hopseal.log.checkpoint import Checkpoint, parse_signed_checkpoint
from hopseal.log.log_key import sign_checkpoint, verify_log_signature
from hopseal.log.refusals import TransparencyError
from hopseal.log.tiles import TILE_WIDTH, Tile, TileError, decode_entries
from hopseal.watch import Watch

ENTRIES_AT_ONCE: Final = 256  # custody-wire §10: a checkpoint every second or 256 entries
MAX_ROUND: Final = 8192  # bounds the memory and the time of a round
LOOK_EVERY_S: Final = 0.05
SHORTEST_PAUSE_S: Final = 0.25  # 256 entries come sooner than this on a busy node; each round is several fsyncs
RETRY_S: Final = 1.0

log = structlog.get_logger("broker.audit")


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint that this node signed and will not contradict.

    Args:
        size: number of leaves.
        note: the signed note.
        signed_at: seconds since 1970.
    """

    size: int
    note: bytes
    signed_at: float


class Tiler:
    """Follows the journal.

    Args:
        journal_folder: of the journal's files.
        store: where tiles and the signed checkpoint go.
        signer: the log's key.
        data_plane: says how far the journal is durable.
        interval_s: a changed log gets a checkpoint at least this often.
        now: seconds since 1970.
    """

    def __init__(
        self,
        journal_folder: Path,
        store: TileStore,
        signer: LogSigner,
        data_plane: DataPlane,
        *,
        interval_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._journal = Journal(journal_folder)
        self._store = store
        self._signer = signer
        self._data_plane = data_plane
        self.interval_s = interval_s
        self._now = now
        self._tree: GrowingTree | None = None
        self.signed: Watch[SignedCheckpoint | None] = Watch(None)
        self.problem = ""

    @property
    def size(self) -> int:
        """How many entries the newest signed checkpoint covers."""
        return self.signed.value.size if self.signed.value else 0

    async def run(self) -> None:
        """Follow for ever; after a contradiction nothing is signed until the next start."""
        try:
            while True:
                try:
                    await self._follow()
                except LogContradictionError as error:
                    self.problem = str(error)
                    log.critical("log_contradiction", detail=str(error))
                    await asyncio.Event().wait()
                except UnavailableError as error:
                    # The tree in memory may be ahead of the disk: begin again from what is signed.
                    self._tree = None
                    if not self.problem:
                        log.warning(error.code, detail=str(error))
                    self.problem = str(error)
                    await asyncio.sleep(RETRY_S)
        finally:
            self._journal.close()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        if self._tree is None:
            self._tree = await asyncio.to_thread(self._load)
            if self.signed.value is None and self._tree.size:
                self.signed.publish(await asyncio.to_thread(self._sign, self._tree))
        self.problem = ""
        last = loop.time() - self.interval_s
        while True:
            waiting = self._data_plane.log_durable() - self._tree.size
            since = loop.time() - last
            if waiting < 0:
                raise LogContradictionError("the journal is shorter than the log", detail=f"{-waiting} entries")
            if waiting and (since >= self.interval_s or (waiting >= ENTRIES_AT_ONCE and since >= SHORTEST_PAUSE_S)):
                last = loop.time()
                self.signed.publish(await asyncio.to_thread(self._advance, self._tree))
            else:
                await asyncio.sleep(LOOK_EVERY_S)

    def _advance(self, tree: GrowingTree) -> SignedCheckpoint:
        """One round; in a thread."""
        end = min(self._data_plane.log_durable(), tree.size + MAX_ROUND)
        # What was just written need not be read again.
        leaves = self._data_plane.take_leaves(tree.size, end)
        tiles = tree.add(self._journal.read_leaves(tree.size, end) if leaves is None else leaves)
        self._store.write_tiles(tiles)
        signed = self._sign(tree)
        self._store.drop_partial(tile for tile, _ in tiles)
        return signed

    def _sign(self, tree: GrowingTree) -> SignedCheckpoint:
        """Promise the tree, whose tiles are durable; of one size it is the same note each time."""
        at = self._now()
        note = sign_checkpoint(Checkpoint(self._signer.key.name, tree.size, tree.root), self._signer, int(at))
        self._store.write_note(SIGNED, note)
        return SignedCheckpoint(tree.size, note, at)

    def _load(self) -> GrowingTree:
        """The tree of the signed checkpoint, found to be that of tiles and journal; in a thread."""
        self._store.make_folder()
        # Either is a promise; `checkpoint` is only ahead of `signed` if somebody took that away.
        notes = [note for name in (SIGNED, CHECKPOINT) if (note := self._store.read_note(name)) is not None]
        if not notes:
            return GrowingTree(0, self._store.read)
        try:
            promises = [verify_log_signature(parse_signed_checkpoint(note), [self._signer.key]) for note in notes]
            checkpoint = max((each.checkpoint for each in promises), key=lambda each: each.size)
            tree = GrowingTree(checkpoint.size, self._store.read)
        except (TransparencyError, TileError) as error:
            raise LogContradictionError("signed checkpoint and tiles cannot be read", detail=str(error)) from error
        if tree.root != checkpoint.root:
            raise LogContradictionError("the tiles have another root than the checkpoint", detail=f"size {tree.size}")
        self._check_journal(tree.size)
        return tree

    def _check_journal(self, size: int) -> None:
        """The journal still has the entries of the last tile: it is the one that the log is of."""
        durable = self._data_plane.log_durable()
        if durable < size:
            detail = f"{durable} entries, and {size} in the signed checkpoint"
            raise LogContradictionError("the journal is shorter than the log", detail=detail)
        oldest = self._journal.first_n()
        if size == 0 or oldest is None:
            return
        tile = Tile(None, (size - 1) // TILE_WIDTH, (size - 1) % TILE_WIDTH + 1)
        start = max(tile.index * TILE_WIDTH, oldest)
        try:
            entries = decode_entries(self._store.read(tile), tile.width)[start - tile.index * TILE_WIDTH :]
            found = tuple(self._journal.read_leaves(start, size))
        except HopsealError as error:
            raise LogContradictionError("the last entries cannot be compared", detail=str(error)) from error
        if found != entries:
            raise LogContradictionError("the journal's last entries are not those of the log", detail=f"from {start}")
