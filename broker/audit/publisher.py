"""What others see of the log: the newest checkpoint that a quorum of witnesses cosigned.

Owns: showing signed checkpoints to the witnesses, keeping what they cosigned, telling calls that wait for it.
Does not own: making checkpoints (``tiler``), asking one witness (``witnesses``).

``checkpoint`` in the tiles' folder is what is published: signed, and cosigned as the configuration asks. It lags
behind ``signed`` while the witnesses do, and never tells of a checkpoint that was not durable before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from broker.audit.history import CheckpointHistory
from broker.audit.tile_store import CHECKPOINT, TileStore
from broker.audit.tiler import RETRY_S, SignedCheckpoint, Tiler
from broker.audit.witnesses import Witnesses
from broker.dataplane_api import DataPlane
from hopseal.errors import UnavailableError
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.history import PastCheckpoint
from hopseal.log.policy import CosignedCheckpoint
from hopseal.log.refusals import TransparencyError
from hopseal.log.tiles import tile_hash_reader
from hopseal.log.tree import build_consistency_proof
from hopseal.watch import Watch

log = structlog.get_logger("broker.audit")


@dataclass(frozen=True, slots=True)
class Published:
    """The checkpoint that others see; ``at`` is when it became so, seconds since 1970, 0 before this start."""

    size: int
    at: float


class Publisher:
    """Follows the tiler's checkpoints.

    Args:
        tiler: makes them.
        store: where they are published, and where proofs are made from.
        history: keeps those that witnesses cosigned.
        witnesses: those of this node.
        data_plane: told how far the log is witnessed.
        now: seconds since 1970.
    """

    def __init__(
        self,
        tiler: Tiler,
        store: TileStore,
        history: CheckpointHistory,
        witnesses: Witnesses,
        data_plane: DataPlane,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tiler = tiler
        self._store = store
        self._history = history
        self._witnesses = witnesses
        self._data_plane = data_plane
        self._now = now
        self._is_recalled = False
        self.published: Watch[Published] = Watch(Published(0, 0.0))
        self.problem = ""

    async def run(self) -> None:
        """Follow for ever."""
        watch = self._tiler.signed
        seen = 0
        async with self._witnesses.connected():
            while True:
                seen = await watch.wait_change(seen)
                while watch.value is not None and self.published.value.size < watch.value.size:
                    try:
                        await self._publish(watch.value)
                        self.problem = ""
                    except UnavailableError as error:
                        if not self.problem:
                            log.warning(error.code, detail=str(error))
                        self.problem = str(error)
                        # Witnesses are asked again about the newest checkpoint, not about this one.
                        await asyncio.sleep(min(RETRY_S, self._tiler.interval_s))

    async def _publish(self, signed: SignedCheckpoint) -> None:
        if not self._is_recalled:
            self._is_recalled = True
            recalled = await asyncio.to_thread(self._recall)
            self._data_plane.set_witnessed(recalled)
            self.published.publish(Published(recalled, 0.0))
        cosigned = await self._witnesses.cosign(signed.note, self._prover(signed.size))
        await asyncio.to_thread(self._keep, cosigned)
        self._data_plane.set_witnessed(signed.size)
        self.published.publish(Published(signed.size, self._now()))

    def _prover(self, size: int) -> Callable[[int], Sequence[bytes]]:
        return lambda old: build_consistency_proof(old, size, tile_hash_reader(size, self._store.read))

    def _keep(self, cosigned: CosignedCheckpoint) -> None:
        note = cosigned.encode()
        if cosigned.time is not None:
            self._history.append(PastCheckpoint(cosigned.time, cosigned.checkpoint.size, note))
        self._store.write_note(CHECKPOINT, note)

    def _recall(self) -> int:
        """How much was published before this start."""
        note = self._store.read_note(CHECKPOINT)
        if note is None:
            return 0
        try:
            return self._witnesses.policy.verify(parse_signed_checkpoint(note), int(self._now())).checkpoint.size
        except TransparencyError as error:
            # The witnesses were changed: what was published counts no more, and the next one replaces it.
            log.warning("checkpoint_not_recalled", detail=str(error))
            return 0
