"""Bytes of the custody header fields of the third hop of a chain, beside what they may have.

Every record is sealed alone and has what a broker puts into one: the server's leaf, the broker that signs, a readable
operation, a receipt asked for; the third is based on an answer. Nothing is acknowledged, so both ancestors are inline.
A field counts with its name, colon, space and line end, as in HTTP/1.1.
"""

from __future__ import annotations

from dataclasses import replace

from bench.figures import Figure, figure
from custody_calls import AUTHORITY, PARTIES, TASK, call, fresh_id, signer
from hopseal.custody.binding import Header
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.custody.seal import thumbprint
from hopseal.custody.sender import Call, build_root, seal_records
from hopseal.ids import SpiffeId
from vectors import pki
from vectors.pki import NOW, Party
from vectors.scene import some_hash

KNOWN_BYTES = 3.4 * 1024
INLINE_BYTES = 5.0 * 1024
BROKER = SpiffeId.parse(f"spiffe://{pki.PROD}/hopseal/broker/node-1")


def run() -> list[Figure]:
    """Measure one message with the certificates known to the peer, and one with them inline."""
    known, inline = size_of(fields(())), size_of(fields((pki.SHELL, pki.ORCHESTRATOR)))
    return [
        figure("header fields, 3 hops, certificates known", "B", "3.4 KiB", [(known, KNOWN_BYTES)], at_most=1.0),
        figure("header fields, 3 hops, certificates inline", "B", "5.0 KiB", [(inline, INLINE_BYTES)], at_most=1.0),
    ]


def size_of(headers: list[Header]) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers)


def fields(certificates: tuple[Party, ...]) -> list[Header]:
    """Shell to orchestrator to reasoner to connector: the fields of the last call."""
    first = build_root(made("shell", "orchestrator"), cid=fresh_id(), task=TASK, auth=AUTHORITY)
    texts = [seal_one(first, "shell")]
    texts.append(seal_one(below(texts, made("orchestrator", "reasoner")), "orchestrator"))
    last = made("reasoner", "crm-connector", based_on=(some_hash("an answer"),))
    texts.append(seal_one(below(texts, last), "reasoner"))
    return format_custody_fields(texts[-1], texts[:-1], [each.der for each in certificates])


def below(texts: list[str], what: Call) -> Record:
    """The record that continues the last of ``texts``."""
    root = build_root(what, cid=parse_sealed_record(texts[0]).record.cid, task=TASK, auth=AUTHORITY)
    prev = parse_sealed_record(texts[-1]).hash
    return replace(root, hop=len(texts), prev=prev, root_claims=frozenset(), task=None, auth=None)


def made(caller: str, callee: str, **more: object) -> Call:
    """One call with what a broker says about it."""
    served_by = thumbprint(PARTIES[callee].der)
    return call(caller, callee, srv=served_by, by=BROKER, op="tools/call crm.lookup", rr=True, **more)


def seal_one(record: Record, caller: str) -> str:
    return seal_records([record], signer(PARTIES[caller]), NOW)[0]
