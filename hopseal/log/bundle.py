"""The evidence bundle: one file with everything that an auditor needs about some chains, and nothing to look up.

Owns: the file's form, strictly read within bounds and written in one order. Does not own: what any part of it proves,
which ``audit`` judges; the trust bundles of SPIFFE are in it as artifacts.
Source: custody-wire §10; docs/evidence-bundle.md.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from hopseal.custody.encoding import decode_base64, encode_b64url, encode_json, parse_json_object, sha256
from hopseal.custody.errors import CustodyError, malformed
from hopseal.custody.members import Members, list_of, one_of, read_integer, text_up_to
from hopseal.custody.seal import thumbprint
from hopseal.errors import InvalidError
from hopseal.log.entries import Direction

VERSION = 1
TYPE = "hopseal-evidence"
MAX_FILE_BYTES = 1 << 30
MAX_STATEMENTS = 1_000_000
MAX_CERTIFICATES = 100_000
MAX_ARTIFACTS = 100_000
MAX_SEEN = 16  # log entries of one statement; a replay over replicas has more than two
MAX_PROOFS = 16  # of one log entry
MAX_LOGS = 1_024
MAX_SEALED_BYTES = 8_192
MAX_ARTIFACT_BYTES = 1 << 20
MAX_PROOF_BYTES = 1 << 16
MAX_ORIGIN_BYTES = 512
_MAX_DER_BYTES = 16_384  # base64
_MEMBERS = frozenset({"v", "type", "statements", "certs", "artifacts", "proofs", "policy", "logs", "digest"})
_PROOF_KEY = re.compile(r"(?:[A-Za-z0-9_-]{43}|[a-z]{3,16})\.[A-Za-z0-9_-]{43}", re.ASCII)
_DIGEST = re.compile(rb'"digest":"([A-Za-z0-9_-]{43})"\}\n')
_DIGEST_BYTES = len('"digest":""}\n') + 43
_STATEMENT_MEMBERS = frozenset({"sealed", "seen"})
_SEEN_MEMBERS = frozenset({"origin", "index", "dir"})
_ARTIFACT_MEMBERS = frozenset({"origin", "index", "json"})
_LOG_MEMBERS = frozenset({"origin", "vkey"})
_read_origin = text_up_to(MAX_ORIGIN_BYTES, min_bytes=1)
_read_sealed = text_up_to(MAX_SEALED_BYTES)
_read_base64 = text_up_to(_MAX_DER_BYTES)
_read_json = text_up_to(MAX_ARTIFACT_BYTES)
_read_direction = one_of(*Direction)
_read_proofs = list_of(text_up_to(MAX_PROOF_BYTES), MAX_PROOFS)


class EvidenceError(InvalidError):
    """A file is no evidence bundle (codes ``evidence_malformed``, ``evidence_damaged``)."""


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """An entry of a log that a statement is said to be; only a proof shows it."""

    origin: str
    index: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class LoggedStatement:
    """A sealed statement of any type, and where logs hold it."""

    sealed: str
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """Any other line of a log: its exact JSON text."""

    origin: str
    index: int
    json: str


@dataclass(frozen=True, slots=True)
class LogKey:
    """A log and its key (vkey), as the exporter knew it."""

    origin: str
    vkey: str


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """The contents of one file; nothing about them is verified.

    Args:
        statements: records, receipts, observations, closing statements and evidence statements.
        certificates: DER of the leaves and intermediates that sealed them.
        artifacts: bundles, refusals, revocations, tokens, announcements and starts.
        proofs: tlog-proof texts by ``<statement hash>.<seal hash>``, or ``<type>.<SHA-256>`` of other entries.
        policy: tlog-policy of the exporter's site, informative: an auditor brings their own.
        logs: keys of the logs.
    """

    statements: Sequence[LoggedStatement] = ()
    certificates: tuple[bytes, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    proofs: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    policy: str = ""
    logs: tuple[LogKey, ...] = ()


def parse_evidence(data: bytes) -> EvidenceBundle:
    """The bundle in a file.

    Raises:
        EvidenceError: it is too large, its digest does not fit, or any part departs from the form.
    """
    check_digest(data)
    try:
        return read_parts(parse_json_object(data, max_depth=None))
    except CustodyError as error:
        raise _malformed(error.detail) from error


def check_digest(data: bytes) -> None:
    """Return if ``data`` ends with the digest of the rest.

    Raises:
        EvidenceError: it is too large, or its digest does not fit.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _malformed("the file is larger than 1 GiB")
    tail = _DIGEST.fullmatch(data[-_DIGEST_BYTES:])
    if tail is None:
        raise _malformed("the file does not end with its digest; it may be cut off")
    if tail[1].decode("ascii") != encode_b64url(sha256(memoryview(data)[:-_DIGEST_BYTES])):
        raise EvidenceError(
            "evidence_damaged", "the file is not as it was written", remedy="export or transfer the bundle again"
        )


def format_evidence(bundle: EvidenceBundle) -> bytes:
    """The file of ``bundle``: parts sorted and each once, so that equal contents are equal bytes."""
    head = b"".join(_chunks(bundle))
    return head + f'"digest":"{encode_b64url(sha256(head))}"}}\n'.encode("ascii")


def merge_statements(statements: Iterable[LoggedStatement]) -> list[LoggedStatement]:
    """Each sealed text once, with every place where it was seen; in the order of their first places."""
    seen: dict[str, set[Seen]] = {}
    for each in statements:
        seen.setdefault(each.sealed, set()).update(each.seen)
    merged = [LoggedStatement(sealed, tuple(sorted(places))) for sealed, places in seen.items()]
    return sorted(merged, key=lambda each: (each.seen, each.sealed))


def _chunks(bundle: EvidenceBundle) -> Iterator[bytes]:
    yield b'{"v":1,"type":"hopseal-evidence",\n"statements":'
    yield from _array(_statement_json(each) for each in merge_statements(bundle.statements))
    yield b',\n"certs":'
    ders = sorted(dict.fromkeys(bundle.certificates), key=thumbprint)
    yield from _array(_encode_base64(der) for der in ders)
    yield b',\n"artifacts":'
    artifacts = sorted(dict.fromkeys(bundle.artifacts), key=lambda each: (each.origin, each.index, each.json))
    yield from _array({"origin": each.origin, "index": each.index, "json": each.json} for each in artifacts)
    yield b',\n"proofs":{'
    for position, (key, proofs) in enumerate(sorted(bundle.proofs.items())):
        yield b"\n," if position else b"\n"
        yield encode_json(key) + b":" + encode_json(sorted(dict.fromkeys(proofs)))
    yield b'},\n"policy":' + encode_json(bundle.policy) + b',\n"logs":'
    logs = sorted(dict.fromkeys(bundle.logs), key=lambda each: (each.origin, each.vkey))
    yield from _array({"origin": each.origin, "vkey": each.vkey} for each in logs)
    yield b",\n"


def _array(items: Iterable[object]) -> Iterator[bytes]:
    """A JSON array with an item a line."""
    yield b"["
    for position, item in enumerate(items):
        yield (b",\n" if position else b"\n") + encode_json(item)
    yield b"]"


def _statement_json(statement: LoggedStatement) -> dict[str, object]:
    seen = [{"origin": each.origin, "index": each.index, "dir": str(each.direction)} for each in statement.seen]
    return {"sealed": statement.sealed, "seen": seen}


def read_parts(value: Mapping[str, object]) -> EvidenceBundle:
    """The bundle in a file's JSON object.

    Raises:
        CustodyError: [malformed].
    """
    members = Members(value, "bundle").only(_MEMBERS)
    if members.required("v", read_integer) != VERSION:
        raise malformed("bundle.v is not 1")
    members.required("type", one_of(TYPE))
    return EvidenceBundle(
        statements=members.required("statements", list_of(read_logged_statement, MAX_STATEMENTS)),
        certificates=members.required("certs", list_of(_read_der, MAX_CERTIFICATES)),
        artifacts=members.required("artifacts", list_of(_read_artifact, MAX_ARTIFACTS)),
        proofs=members.required("proofs", read_proof_map),
        policy=members.required("policy", _read_json),
        logs=members.required("logs", list_of(_read_log, MAX_LOGS)),
    )


def read_logged_statement(value: object, where: str) -> LoggedStatement:
    """One of ``statements``.

    Raises:
        CustodyError: [malformed].
    """
    members = Members.read(value, where).only(_STATEMENT_MEMBERS)
    return LoggedStatement(
        sealed=members.required("sealed", _read_sealed),
        seen=members.required("seen", _read_places),
    )


def _read_seen(value: object, where: str) -> Seen:
    members = Members.read(value, where).only(_SEEN_MEMBERS)
    return Seen(
        origin=members.required("origin", _read_origin),
        index=members.required("index", read_integer),
        direction=Direction(members.required("dir", _read_direction)),
    )


_read_places = list_of(_read_seen, MAX_SEEN)


def _read_artifact(value: object, where: str) -> Artifact:
    members = Members.read(value, where).only(_ARTIFACT_MEMBERS)
    return Artifact(
        origin=members.required("origin", _read_origin),
        index=members.required("index", read_integer),
        json=members.required("json", _read_json),
    )


def _read_log(value: object, where: str) -> LogKey:
    members = Members.read(value, where).only(_LOG_MEMBERS)
    return LogKey(members.required("origin", _read_origin), members.required("vkey", _read_sealed))


def _read_der(value: object, where: str) -> bytes:
    return decode_base64(_read_base64(value, where))


def read_proof_map(value: object, where: str) -> Mapping[str, tuple[str, ...]]:
    """The proofs by key.

    Raises:
        CustodyError: [malformed].
    """
    members = Members.read(value, where)
    if len(members.values) > MAX_STATEMENTS + MAX_ARTIFACTS or not all(map(_PROOF_KEY.fullmatch, members.values)):
        raise malformed(f"{where} has a key that names no entry")
    return MappingProxyType({key: _read_proofs(value, f"{where}[]") for key, value in members.values.items()})


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _malformed(detail: str) -> EvidenceError:
    return EvidenceError(
        "evidence_malformed",
        "this is no evidence bundle",
        detail=detail,
        remedy="make one with `hopseal audit export`; the form is in docs/evidence-bundle.md",
    )
