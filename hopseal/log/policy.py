"""Log policies: which logs are trusted, and which witnesses together are enough.

Owns: the text of a policy, and judging a checkpoint by it: its log, its cosignatures, the time they prove.
Does not own: proofs (``proof``).
Source: c2sp.org/tlog-policy. Names are octets there: they are compared, never read as text.
Security: the time of a checkpoint is the moment when the quorum was first met, which is the earliest cosignature where
one witness is enough. The earliest of all would let a single dishonest witness in a quorum of several date it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hopseal.limits import CLOCK_SKEW_S
from hopseal.log.checkpoint import Checkpoint, UnverifiedCheckpoint
from hopseal.log.cosignature import COSIGNATURE_ALGORITHMS, Cosignature, verify_cosignature
from hopseal.log.log_key import LOG_ALGORITHMS, verify_log_signature
from hopseal.log.note import Note, Signature, VerifierKey, parse_vkey
from hopseal.log.refusals import Reason, TransparencyError

MAX_POLICY_BYTES: Final = 1_048_576
MAX_LOGS: Final = 64
MAX_WITNESSES: Final = 64
MAX_GROUPS: Final = 64

_NONE = b"none"
_COUNT = re.compile(rb"[1-9][0-9]{0,2}")
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_BLANKS = re.compile(rb"[\t ]+")


@dataclass(frozen=True, slots=True)
class TrustedLog:
    """A log whose checkpoints are accepted; its key's name is its origin."""

    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class TrustedWitness:
    """A witness whose cosignatures count, under the name that it has in the policy only."""

    name: bytes
    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """So many of these witnesses and groups together.

    Args:
        name: of the group.
        threshold: how many members must have cosigned, at least 1.
        members: names of witnesses and groups, each of which is a member of one group only.
    """

    name: bytes
    threshold: int
    members: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CosignedCheckpoint:
    """A checkpoint that a policy trusts; made by :meth:`Policy.verify` only.

    Args:
        checkpoint: what the log claims.
        note: as it was read.
        log_signatures: the log's own, verified.
        cosignatures: those of known witnesses, verified, oldest first.
        time: when the quorum was met, seconds since 1970; None if the policy asks for no witness.
    """

    checkpoint: Checkpoint
    note: Note
    log_signatures: tuple[Signature, ...]
    cosignatures: tuple[Cosignature, ...]
    time: int | None

    def encode(self) -> bytes:
        """The signed note with the verified signatures alone."""
        cosigned = (each.signature for each in self.cosignatures)
        return Note(self.note.text, (*self.log_signatures, *cosigned)).encode()


@dataclass(frozen=True, slots=True)
class Policy:
    """Whom to trust about a log.

    Args:
        logs: each origin and key once.
        witnesses: each name and key once.
        groups: by name; each refers to what stands before it.
        quorum: name of a witness or group; None asks for no witness.
    """

    logs: tuple[TrustedLog, ...]
    witnesses: tuple[TrustedWitness, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: bytes | None = None

    def verify(self, unverified: UnverifiedCheckpoint, now: int) -> CosignedCheckpoint:
        """The checkpoint, signed by a log of this policy and cosigned by its quorum.

        Args:
            unverified: as it was read.
            now: seconds since 1970; cosignatures from later do not count.

        Raises:
            TransparencyError: [checkpoint_origin], [note_unsigned], [note_signature], [quorum_missed].
        """
        checkpoint = unverified.checkpoint
        keys = [log.key for log in self.logs if log.key.name == checkpoint.origin]
        if not keys:
            raise TransparencyError(Reason.ORIGIN, f"origin {checkpoint.origin}")
        signed = verify_log_signature(unverified, keys)
        cosignatures = tuple(self._cosignatures(unverified))
        counted = tuple(each for each in cosignatures if 0 < each.time <= now + CLOCK_SKEW_S)
        time = self._quorum_time(counted)
        if time is None and self.quorum is not None:
            raise TransparencyError(Reason.QUORUM, f"origin {checkpoint.origin}, size {checkpoint.size}")
        oldest_first = tuple(sorted(counted, key=lambda each: each.time))
        return CosignedCheckpoint(checkpoint, signed.note, signed.signatures, oldest_first, time)

    def _cosignatures(self, unverified: UnverifiedCheckpoint) -> Iterable[Cosignature]:
        for witness in self.witnesses:
            for signature in unverified.note.signed_by(witness.key):
                yield verify_cosignature(witness.key, signature, unverified.checkpoint)

    def _quorum_time(self, cosignatures: Iterable[Cosignature]) -> int | None:
        """When the quorum was met; None if it was not, or there is none."""
        earliest: dict[VerifierKey, int] = {}
        for each in cosignatures:
            earliest[each.key] = min(each.time, earliest.get(each.key, each.time))
        times = {witness.name: earliest[witness.key] for witness in self.witnesses if witness.key in earliest}
        for group in self.groups:
            met = sorted(times[member] for member in group.members if member in times)
            if len(met) >= group.threshold:
                times[group.name] = met[group.threshold - 1]
        return times.get(self.quorum) if self.quorum is not None else None

    def encode(self) -> bytes:
        """The text of the policy."""
        lines = [_line(b"log", str(log.key).encode(), log.url.encode()) for log in self.logs]
        lines += [_line(b"witness", each.name, str(each.key).encode(), each.url.encode()) for each in self.witnesses]
        lines += [_line(b"group", each.name, b"%d" % each.threshold, *each.members) for each in self.groups]
        return b"".join((*lines, _line(b"quorum", _NONE if self.quorum is None else self.quorum)))


def policy_of(logs: Iterable[VerifierKey], witnesses: Iterable[Sequence[VerifierKey]], threshold: int) -> Policy:
    """The policy that trusts ``logs`` and asks for some of several witnesses.

    Args:
        logs: keys of logs.
        witnesses: the keys of each; any one of them stands for the witness.
        threshold: how many witnesses must have cosigned; 0 asks for none.

    Raises:
        TransparencyError: [policy_invalid] keys that cannot be used so, or more asked for than there are.
    """
    named: list[TrustedWitness] = []
    groups: list[Group] = []
    for number, keys in enumerate(witnesses, start=1):
        names = tuple(b"w%d-%d" % (number, index) for index in range(1, len(keys) + 1))
        named += map(TrustedWitness, names, keys)
        groups.append(Group(b"w%d" % number, 1, names))
    quorum = None
    if threshold:
        quorum = b"quorum"
        groups.append(Group(quorum, threshold, tuple(group.name for group in groups)))
    return parse_policy(Policy(tuple(map(TrustedLog, logs)), tuple(named), tuple(groups), quorum).encode())


def parse_policy(data: bytes) -> Policy:
    """The policy in a file.

    Raises:
        TransparencyError: [policy_invalid] it is none; the detail names the line.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise TransparencyError(Reason.POLICY, f"longer than {MAX_POLICY_BYTES} bytes")
    if not data.endswith(b"\n"):
        raise TransparencyError(Reason.POLICY, "the last line does not end in a newline")
    draft = _Draft()
    for number, line in enumerate(data[:-1].split(b"\n"), start=1):
        try:
            draft.read(line)
        except ValueError as error:
            raise TransparencyError(Reason.POLICY, f"line {number}: {error}") from error
        except TransparencyError as error:
            raise TransparencyError(Reason.POLICY, f"line {number}: {error.message}: {error.detail}") from error
    if draft.quorum is None:
        raise TransparencyError(Reason.POLICY, "it has no quorum line")
    quorum = None if draft.quorum == _NONE else draft.quorum
    return Policy(tuple(draft.logs), tuple(draft.witnesses), tuple(draft.groups), quorum)


@dataclass(slots=True)
class _Draft:
    """A policy while its lines are read; a wrong line is a ``ValueError``."""

    logs: list[TrustedLog] = field(default_factory=list)
    witnesses: list[TrustedWitness] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    quorum: bytes | None = None
    names: set[bytes] = field(default_factory=lambda: {_NONE})
    used: set[bytes] = field(default_factory=lambda: {_NONE})

    def read(self, line: bytes) -> None:
        if _FORBIDDEN.search(line):
            raise ValueError("a character is not allowed")
        keyword, *items = _BLANKS.split(line.strip(b"\t "))
        if not keyword or keyword.startswith(b"#"):
            return
        readers = {b"log": self._log, b"witness": self._witness, b"group": self._group, b"quorum": self._quorum}
        if keyword not in readers:
            raise ValueError("it begins with none of log, witness, group, quorum")
        readers[keyword](items)

    def _log(self, items: list[bytes]) -> None:
        key, url = _key_and_url(items)
        if key.algorithm not in LOG_ALGORITHMS:
            raise ValueError("the key is none of a log")
        if any(key.material == log.key.material for log in self.logs):
            raise ValueError("another log has the same key")
        if len(self.logs) >= MAX_LOGS:
            raise ValueError(f"more than {MAX_LOGS} logs")
        self.logs.append(TrustedLog(key, url))

    def _witness(self, items: list[bytes]) -> None:
        name = self._define(items)
        key, url = _key_and_url(items[1:])
        if key.algorithm not in COSIGNATURE_ALGORITHMS:
            raise ValueError("the key is none of a witness")
        if any(key.material == witness.key.material for witness in self.witnesses):
            raise ValueError("another witness has the same key")
        if len(self.witnesses) >= MAX_WITNESSES:
            raise ValueError(f"more than {MAX_WITNESSES} witnesses")
        self.witnesses.append(TrustedWitness(name, key, url))

    def _group(self, items: list[bytes]) -> None:
        if len(items) < 3:
            raise ValueError("a group has a name, a threshold and at least one member")
        members = tuple(items[2:])
        for member in members:
            if member not in self.names:
                raise ValueError("a member is not defined on a line before")
            if member in self.used:
                raise ValueError("a member is none, or a member already")
            self.used.add(member)
        name = self._define(items)
        if len(self.groups) >= MAX_GROUPS:
            raise ValueError(f"more than {MAX_GROUPS} groups")
        self.groups.append(Group(name, _threshold(items[1], len(members)), members))

    def _quorum(self, items: list[bytes]) -> None:
        if self.quorum is not None:
            raise ValueError("a second quorum")
        if len(items) != 1 or items[0] not in self.names:
            raise ValueError("the quorum is one name that is defined on a line before")
        self.quorum = items[0]

    def _define(self, items: list[bytes]) -> bytes:
        if not items or items[0] in self.names:
            raise ValueError("the name is missing, or defined already")
        self.names.add(items[0])
        return items[0]


def _threshold(text: bytes, members: int) -> int:
    if text in {b"any", b"all"}:
        return 1 if text == b"any" else members
    if _COUNT.fullmatch(text) is None or int(text) > members:
        raise ValueError("the threshold is not any, all, or a number from 1 to that of the members")
    return int(text)


def _key_and_url(items: list[bytes]) -> tuple[VerifierKey, str]:
    if len(items) not in {1, 2}:
        raise ValueError("a key and at most a URL belong here")
    key, *urls = (item.decode("utf-8") for item in items)
    return parse_vkey(key), urls[0] if urls else ""


def _line(*items: bytes) -> bytes:
    return b" ".join(item for item in items if item) + b"\n"
