"""One response as the vectors need it: the receipt of the connector for the reasoner's request, and what surrounds it.

Like ``scene``, independent of ``hopseal.custody``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vectors import pki
from vectors.pki import NOW, Party, spiffe
from vectors.scene import (
    BODY,
    Headers,
    Json,
    Scene,
    Statement,
    b64,
    b64u,
    changed,
    digest,
    dumps,
    hop_claims,
    random_id,
    seal,
    sha,
    some_hash,
    tree_root,
    unb64u,
)

ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"account 4711"}]}}'
COVERED_IN_RESPONSES = (
    "content-type",
    "content-encoding",
    "content-digest",
    "upgrade",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "grpc-encoding",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
)
REQUEST = Scene(hop=hop_claims(rr=True)).record()
REQUEST_WITHOUT_RR = Scene().record()
STREAM = Scene(hop=hop_claims(bm="stream")).record()


def answer_headers(body: bytes = ANSWER) -> Headers:
    return [
        ["Date", "Sun, 22 Nov 2026 12:00:00 GMT"],
        ["Content-Type", "application/json"],
        ["Content-Digest", digest(body)],
        ["Mcp-Session-Id", "s-1"],
    ]


def response_base(status: int, headers: Headers) -> str:
    lines = [f'"@status": {status}']
    for name in COVERED_IN_RESPONSES:
        values = [value.strip(" \t") for field_name, value in headers if field_name.lower() == name]
        if values:
            lines.append(f'"{name}": {", ".join(values)}')
    return "\n".join(lines)


def rsb_of(status: int, headers: Headers) -> str:
    return b64u(sha(response_base(status, headers).encode()))


def tlb_of(trailers: Headers) -> str:
    """The binding of trailers that stand in the order of their names, each once and in lower case."""
    return b64u(sha("\n".join(f'"{name}": {value}' for name, value in trailers).encode()))


def grpc_messages(*payloads: bytes) -> bytes:
    return b"".join(b"\0" + len(each).to_bytes(4) + each for each in payloads)


def kids_tree(hashes: list[str]) -> Json:
    return {"n": len(hashes), "root": b64u(tree_root([unb64u(each) for each in hashes]))}


def receipt_claims(**changes: Any) -> Json:
    """The connector's answer to the reasoner's request."""
    claims = {
        "v": 1,
        "t": "rcp",
        "iss": spiffe("crm-connector"),
        "aud": spiffe("reasoner"),
        "iat": NOW,
        "jti": random_id("receipt"),
        "cid": random_id("chain"),
        "rec": REQUEST.hash,
        "st": 200,
        "rsb": rsb_of(200, answer_headers()),
        "len": len(ANSWER),
        "cd": b64u(sha(ANSWER)),
        "fin": "eof",
        "kids": [],
    }
    return changed(claims, changes)


def observation_claims(**changes: Any) -> Json:
    """The connector's own statement about a server that does not speak custody."""
    own = {"t": "obs", "iss": spiffe("crm-connector"), "aud": spiffe("crm-connector"), "jti": random_id("observation")}
    outside = {"host": "api.crm.example.com", "spki": some_hash("server key")}
    return changed(receipt_claims(**own) | outside, changes)


def closing_claims(**changes: Any) -> Json:
    """The reasoner's end of a body that it streamed."""
    claims = {
        "v": 1,
        "t": "cls",
        "iss": spiffe("reasoner"),
        "aud": spiffe("crm-connector"),
        "iat": NOW,
        "jti": random_id("closing"),
        "cid": random_id("chain"),
        "rec": STREAM.hash,
        "cd": b64u(sha(BODY)),
        "len": len(BODY),
        "fin": "eof",
    }
    return changed(claims, changes)


def segment_claims(**changes: Any) -> Json:
    """What the connector's broker saw pass until then."""
    claims = {
        "v": 1,
        "t": "seg",
        "iss": spiffe("crm-connector"),
        "aud": spiffe("reasoner"),
        "iat": NOW,
        "jti": random_id("segment"),
        "cid": random_id("chain"),
        "rec": STREAM.hash,
        "seq": 0,
        "up": {"len": len(BODY), "cd": b64u(sha(BODY)), "n": 1000},
        "down": {"len": len(ANSWER), "cd": b64u(sha(ANSWER)), "n": 1},
    }
    return changed(claims, changes)


def evidence_claims(**changes: Any) -> Json:
    """An attestor's statement about the connector."""
    claims = {
        "v": 1,
        "t": "att",
        "iss": "spiffe://prod.example.org/hopseal/attestor/node-1",
        "iat": NOW - 5,
        "exp": NOW + 295,
        "jti": random_id("evidence"),
        "sub": spiffe("crm-connector"),
        "sx": b64u(pki.CONNECTOR.x5t_raw),
        "verdict": "attested",
    }
    return changed(claims, changes)


RESPONSE_DEFAULTS: Json = {
    "record": REQUEST.text,
    "status": 200,
    "trailers": [],
    "comment": None,
    "request": None,
    "request_headers": [],
    "body": b64(ANSWER),
    "tls_server": [b64(pki.CONNECTOR.der)],
    "bundles": {pki.PROD: [b64(pki.PROD_CA.der)], pki.PARTNER: [b64(pki.PARTNER_CA.der)]},
    "now": NOW,
    "state": {"certs": []},
}
CLOSING_DEFAULTS: Json = {
    "record": STREAM.text,
    "headers": [],
    "body": b64(BODY),
    "tls_peer": [b64(pki.REASONER.der)],
    "bundles": RESPONSE_DEFAULTS["bundles"],
    "now": NOW,
    "state": {"certs": []},
}


def cert_field(*parties: Party) -> list[str]:
    return ["Custody-Certs", ", ".join(f":{b64(party.der)}:" for party in parties)]


@dataclass
class Response:
    """A response with its receipt in the header; ``claims`` are the receipt's."""

    claims: Json = field(default_factory=receipt_claims)
    signer: Party = pki.CONNECTOR
    headers: Headers = field(default_factory=answer_headers)

    def receipt(self) -> Statement:
        return seal([dumps(self.claims)], self.signer)[0]

    def input(self, **members: Any) -> Json:
        """Members of the input that differ from the defaults; the receipt is in the header unless headers are given."""
        return {"headers": [*self.headers, ["Custody-Receipt", self.receipt().text]]} | members

    def facts(self) -> Json:
        claims = self.claims
        return {
            "result": "ok",
            "receipt": self.receipt().hash,
            "st": claims["st"],
            "fin": claims["fin"],
            "kids": claims["kids"],
            "dec": claims.get("dec"),
        }


@dataclass
class Closing:
    """A closing statement in the trailers of a request."""

    claims: Json = field(default_factory=closing_claims)
    signer: Party = pki.REASONER

    def sealed(self) -> Statement:
        return seal([dumps(self.claims)], self.signer)[0]

    def input(self, **members: Any) -> Json:
        return {"trailers": [["Custody-Close", self.sealed().text]]} | members

    def facts(self) -> Json:
        return {"result": "ok", "closing": self.sealed().hash, "fin": self.claims["fin"]}
