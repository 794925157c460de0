"""The folder of a witness: one process in it, and a memory that never goes back.

Owns: the lock, the files and their order, starting from what is there.
Does not own: deciding (``hopseal.log.witness``).

Files: ``state`` is the memory and decides. ``checkpoints/<hash of origin>`` hold the cosigned checkpoints for monitors;
each is written after ``state``, so one that is ahead of it proves that ``state`` was put back from an older copy. Keys
without a ``state`` prove that it was lost. In both cases the witness does not start, because a witness that forgets
would cosign a fork.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hopseal.errors import BugError, HopsealError, InvalidError, UnavailableError
from hopseal.log.checkpoint import parse_signed_checkpoint
from hopseal.log.cosignature import verify_cosignature
from hopseal.log.note import VerifierKey
from hopseal.log.signers import KeySigner
from hopseal.log.witness import NO_HEAD, Accepted, Head
from hopseal.witness.files import put_in_place, sync_folder, write_beside, write_durably
from hopseal.witness.keys import has_keys, load_signers, make_keys
from hopseal.witness.memory import Memory, parse_memory

_STATE = "state"
_LOCK = "lock"
_CHECKPOINTS = "checkpoints"
_FOLDER_MODE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class WitnessState:
    """An open folder; made by :func:`open_state`. Not for several threads at once.

    Args:
        folder: locked.
        memory: what ``state`` holds.
        notes: cosigned checkpoints by the hash of their origin.
        signers: the witness's keys.
    """

    def __init__(self, folder: Path, memory: Memory, notes: Mapping[str, bytes], signers: Sequence[KeySigner]) -> None:
        self._folder = folder
        self._memory = memory
        self._notes = dict(notes)
        self._is_unsure = False
        self.signers = tuple(signers)

    @property
    def memory(self) -> Memory:
        """What is remembered now."""
        return self._memory

    def note(self, origin_hash: str) -> bytes | None:
        """The latest cosigned checkpoint of a log, by the SHA-256 of its origin in hex; None if there is none."""
        return self._notes.get(origin_hash)

    def advance(self, accepted: Accepted, at: int, note: bytes) -> None:
        """Remember the accepted tree; on return it is on disk.

        Args:
            accepted: the decision.
            at: time of the cosignature.
            note: the checkpoint with the cosignature, for monitors.

        Raises:
            UnavailableError: it could not be written (``witness_state_unwritable``); nothing may be cosigned.
        """
        origin = accepted.checkpoint.checkpoint.origin
        if self._memory.heads.get(origin, NO_HEAD) != accepted.before:
            raise BugError("witness_state_raced", "the state changed between the decision and its keeping")
        if self._is_unsure:
            raise _unwritable("what an earlier write left is not known; start the witness again")
        memory = self._memory.with_head(origin, accepted.after, at)
        try:
            written = write_beside(self._folder / _STATE, memory.encode())
            self._is_unsure = True
            put_in_place(written, self._folder / _STATE)
            self._memory, self._is_unsure = memory, False
            write_durably(self._folder / _CHECKPOINTS / hash_origin(origin), note)
        except OSError as error:
            raise _unwritable(str(error)) from error
        self._notes[hash_origin(origin)] = note


def hash_origin(origin: str) -> str:
    """The name under which a log's checkpoint is served; c2sp.org/tlog-witness, "Monitor Retrieval Mechanism"."""
    return hashlib.sha256(origin.encode()).hexdigest()


@contextmanager
def open_state(folder: Path, name: str, algorithms: Sequence[str]) -> Iterator[WitnessState]:
    """The folder's state, locked against other processes; keys and an empty state are made in a new folder.

    Raises:
        UnavailableError: another process has it (``witness_state_in_use``), or it cannot be used
            (``witness_state_unavailable``).
        InvalidError: it is unsafe (``witness_folder_unsafe``), of another witness (``witness_name_changed``), damaged
            (``witness_state_corrupt``), lost (``witness_state_missing``) or old (``witness_state_rolled_back``).
    """
    try:
        lock = _lock(folder)
    except OSError as error:
        raise _unavailable(folder, error) from error
    try:
        yield _read(folder, name, algorithms)
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_mode & _OTHERS_MAY_WRITE or found.st_uid != os.geteuid():
        raise InvalidError(
            "witness_folder_unsafe",
            f"{folder} belongs to another user, or others may write it (mode {stat.S_IMODE(found.st_mode):04o})",
            remedy="give it to the user that the witness runs as, and chmod 700",
        )
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UnavailableError(
            "witness_state_in_use",
            f"another process is the witness in {folder}",
            remedy="stop it; two witnesses never share a folder, nor a copy of one",
        ) from error
    return lock


def _read(folder: Path, name: str, algorithms: Sequence[str]) -> WitnessState:
    try:
        memory = _read_memory(folder, name)
        # The state is there before the first key is, so that keys alone can only mean that it was lost.
        make_keys(folder, algorithms)
        (folder / _CHECKPOINTS).mkdir(mode=_FOLDER_MODE, exist_ok=True)
        sync_folder(folder)
        signers = load_signers(folder, name)
        notes = _read_notes(folder / _CHECKPOINTS, memory, [signer.key for signer in signers])
    except OSError as error:
        raise _unavailable(folder, error) from error
    return WitnessState(folder, memory, notes, signers)


def _read_memory(folder: Path, name: str) -> Memory:
    path = folder / _STATE
    if not path.exists():
        if has_keys(folder):
            raise InvalidError(
                "witness_state_missing",
                f"{folder} has keys and no state: what was cosigned with them is forgotten",
                remedy="do not put back an older copy: make a new witness in an empty folder; see docs/witness.md",
            )
        write_durably(path, Memory(name).encode())
    memory = parse_memory(path.read_bytes())
    if memory.name != name:
        raise InvalidError(
            "witness_name_changed",
            f"{folder} is of the witness {memory.name}, and the configuration says {name}",
            remedy="a witness keeps its name; make another folder for another witness",
        )
    return memory


def _read_notes(folder: Path, memory: Memory, keys: Sequence[VerifierKey]) -> dict[str, bytes]:
    heads = {hash_origin(origin): head for origin, head in memory.heads.items()}
    notes = {}
    for path in folder.iterdir():
        if path.name in heads or len(path.name) == 64:
            notes[path.name] = path.read_bytes()
            _check_remembered(path, notes[path.name], heads.get(path.name, NO_HEAD), keys)
    return notes


def _check_remembered(path: Path, note: bytes, head: Head, keys: Sequence[VerifierKey]) -> None:
    """Refuse a cosigned checkpoint that the memory does not reach."""
    try:
        found = parse_signed_checkpoint(note)
        own = [(key, signature) for key in keys for signature in found.note.signed_by(key)]
        for key, signature in own:
            verify_cosignature(key, signature, found.checkpoint)
    except HopsealError as error:
        raise InvalidError(
            "witness_state_corrupt",
            f"{path} is no checkpoint that this witness cosigned",
            detail=str(error),
            remedy="remove it if the disk damaged it; monitors get it again with the next checkpoint",
        ) from error
    checkpoint = found.checkpoint
    if own and (checkpoint.size > head.size or (checkpoint.size == head.size and checkpoint.root != head.root)):
        raise InvalidError(
            "witness_state_rolled_back",
            f"this witness cosigned {checkpoint.size} entries of {checkpoint.origin} and remembers {head.size}",
            remedy="an older copy was put back: make a new witness with new keys; see docs/witness.md",
        )


def _unavailable(folder: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        "witness_state_unavailable", f"{folder}: {error.strerror or error}", remedy="make it the witness's own folder"
    )


def _unwritable(detail: str) -> UnavailableError:
    return UnavailableError(
        "witness_state_unwritable",
        "the witness cannot keep what it would cosign",
        detail=detail,
        remedy="make room on the disk, or repair it",
    )
