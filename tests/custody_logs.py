"""Custody logs as the broker writes them, made from accepted requests."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.custody.receiver import Accepted
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.custody.seal import thumbprint
from hopseal.log.entries import LogEntry, format_line
from hopseal.log.reader import read_log
from vectors import pki
from vectors.pki import NOW


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class LogFile:
    """The log of one node; ``bytes()`` is the file."""

    node: str
    lines: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write({"type": "start", "node": self.node, "version": "0.1.0"})
        self.bundle(pki.PROD, pki.PROD_CA.der)
        for party in (pki.ORCHESTRATOR, pki.REASONER, pki.CONNECTOR, pki.SHELL):
            self.certificate(party.der)

    def write(self, members: dict[str, Any], at_ms: int = NOW * 1000) -> None:
        document = {"n": len(self.lines), "at_ms": at_ms, **members}
        self.lines.append(format_line(json.dumps(document, separators=(",", ":")).encode()))

    def certificate(self, der: bytes) -> None:
        self.write({"type": "cert", "x5t": thumbprint(der), "der": b64(der)})

    def bundle(self, trust_domain: str, *ders: bytes, at_ms: int = NOW * 1000 - 60_000) -> None:
        self.write({"type": "bundle", "td": trust_domain, "sequence": 1, "x509": [b64(der) for der in ders]}, at_ms)

    def sent(self, text: str, **changes: Any) -> None:
        self.write(_record("sent", parse_sealed_record(text)) | changes)

    def received(self, accepted: Accepted, **changes: Any) -> None:
        ancestors = [each.sealed.text for each in accepted.chain[:-1]]
        self.write(_record("received", accepted.newest) | {"ancestors": ancestors} | changes)

    def receipt(self, direction: str, text: str, **changes: Any) -> None:
        outcome = parse_sealed_receipt(text).claims.outcome
        claims = {"iss": str(outcome.iss), "aud": str(outcome.aud), "cid": outcome.cid, "rec": outcome.rec}
        head = {"type": "rcp", "dir": direction, "verdict": "accepted", "code": None, "detail": None, "sealed": text}
        self.write(head | claims | {"st": outcome.st} | changes)

    def bytes(self) -> bytes:
        return b"".join(self.lines)

    def entries(self) -> tuple[LogEntry, ...]:
        return read_log(self.bytes()).entries


def _record(direction: str, sealed: SealedRecord) -> dict[str, Any]:
    record = sealed.record
    return {
        "type": "rec",
        "dir": direction,
        "verdict": "accepted",
        "code": None,
        "detail": None,
        "sealed": sealed.text,
        "iss": str(record.iss),
        "aud": record.aud,
        "jti": record.jti,
        "exp": record.exp,
        "cid": record.cid,
        "hop": record.hop,
        "op": record.op,
    }
