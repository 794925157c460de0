"""Broker log folders: the journal's files in order, and proofs out of the tiles and cosigned checkpoints beside them.

Layout (``docs/guide.md``): ``log/custody-<first n>.log`` … ``log/custody.log``, ``tlog/tile/…``, ``tlog/history/…``,
``tlog/checkpoint``. A path may name the broker's state folder, its ``log`` folder, or one file of the journal.

Owns: opening files. Does not own: what lines say; whether a checkpoint holds, which the auditor finds.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from hopseal.custody.errors import CustodyError
from hopseal.custody.evidence_statement import EvidenceStatement
from hopseal.custody.statement import parse_sealed_statement
from hopseal.errors import InvalidError, UnavailableError
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.collect import Line, SourceLog
from hopseal.log.entries import LogError, read_payload
from hopseal.log.history import PastCheckpoint, parse_history
from hopseal.log.policy import Policy
from hopseal.log.proof import Proof
from hopseal.log.refusals import TransparencyError
from hopseal.log.segments import CURRENT, order_segments
from hopseal.log.tiles import TILE_WIDTH, Tile, TileError, split_hashes, tile_hash_reader
from hopseal.log.tree import ProofError, build_inclusion_proof

LOG_FOLDER, TLOG_FOLDER, HISTORY_FOLDER, CHECKPOINT = "log", "tlog", "history", "checkpoint"
_TILE_CACHE = 256
_NUMBER = re.compile(rb'\{"n":([0-9]{1,20}),')  # how every writer begins a line
_ATTEST = b'"type":"attest"'
_FAR_FUTURE = 1 << 40


@dataclass(frozen=True)
class LogFolder:
    """One node's log on disk.

    Args:
        journal: the folder of its files, or the one file that was named.
        files: of the journal, oldest first.
        tlog: folder of tiles; None if there is none.
    """

    journal: Path
    files: tuple[Path, ...]
    tlog: Path | None

    def lines(self) -> Iterator[Line]:
        """Every whole line: number and JSON text. A line that cannot be read is left out, as is a torn end.

        Raises:
            UnavailableError: a file cannot be read (``log_unreadable``).
        """
        for path in self.files:
            try:
                with path.open("rb") as file:
                    for line in file:
                        if line.endswith(b"\n") and (read := _read_line(line[:-1])) is not None:
                            yield read
            except OSError as error:
                raise unreadable(path, error) from error

    @cached_property
    def checkpoints(self) -> tuple[PastCheckpoint, ...]:
        """Cosigned checkpoints by size, as the log's node kept them; nothing about them is verified."""
        if self.tlog is None:
            return ()
        found: list[PastCheckpoint] = []
        try:
            history = self.tlog / HISTORY_FOLDER
            for path in sorted(history.glob("*.jsonl")) if history.is_dir() else ():
                found += parse_history(path.read_bytes())
        except OSError as error:
            raise unreadable(self.tlog, error) from error
        return tuple(sorted(found, key=lambda each: (each.size, each.time)))

    @cached_property
    def origin(self) -> str:
        """Of the log's checkpoints; of a log that was never signed, its path."""
        for note in (*(each.note for each in self.checkpoints[:1]), *self._published()):
            try:
                return parse_signed_checkpoint(note).checkpoint.origin
            except TransparencyError:
                continue
        return f"unsigned:{self.files[0].resolve().parent}"

    def source(self, policy: Policy | None) -> SourceLog:
        """The log as evidence is collected from it.

        Args:
            policy: whose checkpoints are good enough to prove with; None takes what the node's history has.
        """
        return SourceLog(self.origin, self._vkey(policy), self.lines, _Prover(self, policy).prove)

    def is_witnessed(self, policy: Policy | None) -> bool:
        """Whether it has any checkpoint that the policy accepts; without one, any that was cosigned."""
        return any(_is_good(each, policy) for each in self.checkpoints)

    def read_tile(self, tile: Tile) -> bytes:
        """A tile's bytes; a partial one also out of what it grew into.

        Raises:
            TileError: it is not there.
        """
        if self.tlog is None:
            raise TileError("there are no tiles")
        try:
            return (self.tlog / tile.path).read_bytes()
        except OSError:
            return self._read_grown(self.tlog, tile)

    def _read_grown(self, tlog: Path, tile: Tile) -> bytes:
        for width in range(TILE_WIDTH, tile.width, -1):
            grown = Tile(tile.level, tile.index, width)
            if (tlog / grown.path).is_file():
                return b"".join(split_hashes((tlog / grown.path).read_bytes(), width)[: tile.width])
        raise TileError("a tile is not there", detail=tile.path)

    def _published(self) -> Sequence[bytes]:
        path = self.tlog / CHECKPOINT if self.tlog is not None else None
        try:
            return (path.read_bytes(),) if path is not None and path.is_file() else ()
        except OSError as error:
            raise unreadable(path or self.files[0], error) from error

    def _vkey(self, policy: Policy | None) -> str:
        """The log's key: that of the policy, else the one that its broker announced last."""
        keys = [str(log.key) for log in policy.logs if log.key.name == self.origin] if policy else []
        return keys[0] if keys else self._announced()

    def _announced(self) -> str:
        vkey = ""
        for _, text in self.lines():
            if _ATTEST not in text:
                continue
            with contextlib.suppress(CustodyError):
                claims = parse_sealed_statement(str(json.loads(text).get("sealed"))).claims
                if isinstance(claims, EvidenceStatement) and claims.log and claims.log.origin == self.origin:
                    vkey = claims.log.vkey
        return vkey


class _Prover:
    """Makes proofs against the first cosigned checkpoint that covers an entry."""

    def __init__(self, folder: LogFolder, policy: Policy | None) -> None:
        self._folder = folder
        self._checkpoints = [each for each in folder.checkpoints if _is_good(each, policy)]
        self._sizes = [each.size for each in self._checkpoints]
        self._load = lru_cache(maxsize=_TILE_CACHE)(folder.read_tile)

    def prove(self, index: int) -> str | None:
        """The tlog-proof text, or None if no cosigned checkpoint covers the entry yet, or tiles are missing."""
        position = bisect.bisect_right(self._sizes, index)
        if position == len(self._checkpoints):
            return None
        past = self._checkpoints[position]
        try:
            path = build_inclusion_proof(index, past.size, tile_hash_reader(past.size, self._load))
        except (ProofError, TileError):
            return None
        return Proof(index, path, past.note).encode().decode()


def open_log_folders(paths: Sequence[Path]) -> list[LogFolder]:
    """The logs at ``paths``.

    Raises:
        UnavailableError: one cannot be read, or is none (``log_unreadable``).
        InvalidError: two are of one origin (``log_twice``).
    """
    folders = [_open(path) for path in paths]
    origins = [folder.origin for folder in folders]
    if twice := next((each for each in origins if origins.count(each) > 1), None):
        raise InvalidError("log_twice", f"two of the logs are {twice}", remedy="name each log once")
    return folders


def journal_of(path: Path) -> Path:
    """The journal's folder in a broker's state folder; any other path as it is."""
    return path / LOG_FOLDER if (path / LOG_FOLDER).is_dir() else path


def unreadable(path: Path, error: OSError) -> UnavailableError:
    """The error for a log that cannot be read."""
    remedy = "name the log with --log, or run this as root or the broker's user"
    return UnavailableError("log_unreadable", f"{path}: {error.strerror}", remedy=remedy)


def _open(path: Path) -> LogFolder:
    try:
        if path.is_file():
            return LogFolder(path, (path,), _tlog_beside(path.parent))
        folder = journal_of(path)
        names = order_segments(each.name for each in folder.iterdir())
    except OSError as error:
        raise unreadable(path, error) from error
    if not names:
        raise UnavailableError(
            "log_unreadable", f"{folder} holds no {CURRENT}", remedy="name a broker's state folder, or its log folder"
        )
    return LogFolder(folder, tuple(folder / name for name in names), _tlog_beside(folder))


def _tlog_beside(folder: Path) -> Path | None:
    """The tiles' folder of a journal's: its sibling, or in it for logs that were copied."""
    candidates = (folder.parent / TLOG_FOLDER, folder / TLOG_FOLDER)
    return next((each for each in candidates if each.is_dir()), None)


def _read_line(line: bytes) -> Line | None:
    try:
        payload = read_payload(line)
    except LogError:
        return None
    found = _NUMBER.match(payload)
    return (int(found[1]), payload) if found else None


def _is_good(past: PastCheckpoint, policy: Policy | None) -> bool:
    if policy is None:
        return True
    try:
        return policy.verify(parse_signed_checkpoint(past.note), _FAR_FUTURE).checkpoint.size == past.size
    except TransparencyError:
        return False
