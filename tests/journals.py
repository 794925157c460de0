"""Journals as the data plane writes them, and the trees that they must give, by the definition."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from broker.audit.log_signer import LogSigner, load_log_signer
from broker.audit.tile_store import SIGNED, TileStore
from broker.audit.tiler import Tiler
from fake_dataplane import FakeDataPlane
from hopseal.custody.merkle import hash_node
from hopseal.log.checkpoint import Checkpoint, parse_signed_checkpoint
from hopseal.log.entries import format_line
from hopseal.log.leaf import leaf_of_line
from hopseal.log.log_key import verify_log_signature
from hopseal.log.segments import CURRENT, format_closed_name

ORIGIN = "custody.example.org/node-1"


class WrittenJournal:
    """Lines of type token in files of at most ``per_file`` entries."""

    def __init__(self, folder: Path, *, per_file: int = 1 << 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / CURRENT
        self.leaves: list[bytes] = []
        self._per_file = per_file
        self._first_n = 0

    def line(self, n: int, th: str = "th") -> bytes:
        return json.dumps({"n": n, "at_ms": 7, "type": "token", "th": f"{th}-{n}"}, separators=(",", ":")).encode()

    def append(self, count: int = 1, th: str = "th") -> None:
        for _ in range(count):
            n = len(self.leaves)
            if n - self._first_n == self._per_file:
                self.path.rename(self.folder / format_closed_name(self._first_n))
                self._first_n = n
            text = self.line(n, th)
            with self.path.open("ab") as file:
                file.write(format_line(text))
            self.leaves.append(leaf_of_line(text))


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, level by level."""
    level = [sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [level[n : n + 2] for n in range(0, len(level), 2)]
        level = [hash_node(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0] if level else sha256(b"").digest()


class LogFolder:
    """A journal with its Merkle log and a data plane that calls all of it durable."""

    def __init__(self, folder: Path, *, per_file: int = 1 << 30) -> None:
        self.folder = folder
        self.journal = WrittenJournal(folder / "log", per_file=per_file)
        self.store = TileStore(folder / "tlog")
        self.signer: LogSigner = load_log_signer(folder / "log.key", ORIGIN)
        self.plane = FakeDataPlane()

    def append(self, count: int = 1) -> None:
        self.journal.append(count)
        self.plane.durable = len(self.journal.leaves)

    def tiler(self) -> Tiler:
        return Tiler(self.folder / "log", self.store, self.signer, self.plane, interval_s=0.01)

    def signed(self) -> Checkpoint | None:
        note = self.store.read_note(SIGNED)
        if note is None:
            return None
        return verify_log_signature(parse_signed_checkpoint(note), [self.signer.key]).checkpoint
