"""A log in memory, with keys of logs and witnesses, for tests of everything that reads checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from hopseal.custody.merkle import hash_leaf, hash_node
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.cosignature import cosign
from hopseal.log.log_key import sign_checkpoint
from hopseal.log.note import Note, Signer, parse_note
from hopseal.log.proof import Proof
from hopseal.log.signers import KeySigner, log_signer, witness_signer
from hopseal.log.tree import build_consistency_proof, build_inclusion_proof, read_root
from hopseal.log.witness import AddCheckpoint

ORIGIN = "custody.example.org/node-1"
NOW = 1_795_000_000


def ed25519(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def ml_dsa(seed: int) -> MLDSA44PrivateKey:
    return MLDSA44PrivateKey.from_seed_bytes(bytes([seed]) * 32)


LOG_KEY = log_signer(ORIGIN, ed25519(1))
OTHER_LOG_KEY = log_signer("custody.example.org/node-2", ed25519(2))
W1 = witness_signer("witness.example/w1", ed25519(11))
W2 = witness_signer("witness.example/w2", ml_dsa(12))
W3 = witness_signer("witness.example/w3", ed25519(13))


@dataclass
class MemoryLog:
    """Leaves, and whatever a log's server derives from them."""

    leaves: list[bytes] = field(default_factory=list)
    signer: KeySigner = LOG_KEY

    @classmethod
    def of(cls, count: int, *, fork_at: int | None = None, signer: KeySigner = LOG_KEY) -> MemoryLog:
        """``count`` leaves; those from ``fork_at`` on differ from any other log's."""
        fork = count if fork_at is None else fork_at
        return cls([b"leaf %d%s" % (n, b"" if n < fork else b" forked") for n in range(count)], signer)

    @property
    def size(self) -> int:
        return len(self.leaves)

    @cached_property
    def _hashes(self) -> dict[tuple[int, int], bytes]:
        return {}

    def read(self, level: int, index: int) -> bytes:
        key = (level, index)
        if key not in self._hashes:
            self._hashes[key] = (
                hash_leaf(self.leaves[index])
                if level == 0
                else hash_node(self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))
            )
        return self._hashes[key]

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        size = self.size if size is None else size
        return Checkpoint(self.signer.key.name, size, read_root(size, self.read))

    def note(self, size: int | None = None) -> bytes:
        return sign_checkpoint(self.checkpoint(size), self.signer)

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        return build_consistency_proof(old, self.size if new is None else new, self.read)

    def request(self, old: int, new: int | None = None) -> AddCheckpoint:
        return AddCheckpoint(old, self.consistency(old, new), self.note(new))

    def proof(self, index: int, note: bytes, size: int | None = None) -> Proof:
        size = self.size if size is None else size
        return Proof(index, build_inclusion_proof(index, size, self.read), note)


def cosigned(note: bytes, checkpoint: Checkpoint, witnesses: Sequence[tuple[Signer, int]]) -> bytes:
    """The note with a cosignature of each witness at its time."""
    lines = tuple(cosign(checkpoint, witness, at) for witness, at in witnesses)
    parsed = parse_note(note)
    return Note(parsed.text, (*parsed.signatures, *lines)).encode()
