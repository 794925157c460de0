"""One request as the vectors need it: built from claims, sealed, and put into headers.

Deliberately independent of ``hopseal.custody``: trees, seals and bindings are written down a second time, from the
definitions in RFC 6962, RFC 9421 and the wire document, so that the vectors check the codec and not itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from vectors import pki
from vectors.pki import NOW, Party, spiffe

Json = dict[str, Any]
Headers = list[list[str]]

BODY = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.lookup","arguments":{"account":"4711"}}}'
TARGET = "https://crm-connector.crm-assistant/mcp?tenant=7"
COVERED = """
    content-type content-encoding content-digest authorization txn-token workload-identity-token idempotency-key
    mcp-protocol-version mcp-method mcp-name a2a-version a2a-extensions upgrade sec-websocket-protocol
    sec-websocket-extensions grpc-encoding
""".split()  # noqa: SIM905 - one field a line says no more
CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def random_id(label: str) -> str:
    return b64u(sha(b"id " + label.encode())[:16])


def some_hash(label: str) -> str:
    return b64u(sha(label.encode()))


def dumps(claims: Json) -> bytes:
    return json.dumps(claims, separators=(",", ":"), ensure_ascii=False).encode()


# --- RFC 6962 §2.1, by its recursive definition


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def tree_root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return sha(b"\x01" + tree_root(leaves[:k]) + tree_root(leaves[k:]))


def tree_path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*tree_path(index, leaves[:k]), tree_root(leaves[k:])]
    return [*tree_path(index - k, leaves[k:]), tree_root(leaves[:k])]


# --- statements and seals, §4.2


@dataclass(frozen=True)
class Statement:
    payload: str
    path: str
    jws: str
    hash: str

    @property
    def text(self) -> str:
        return f"{self.payload}.{self.path}.{self.jws}"


def statement_hash(x5t: bytes, payload: str) -> bytes:
    return sha(b"\x00" + x5t + payload.encode())


def jws(header: bytes, body: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    signing_input = f"{b64u(header)}.{b64u(body)}"
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    r, s = utils.decode_dss_signature(key.sign(signing_input.encode(), algorithm))
    return f"{signing_input}.{b64u(r.to_bytes(32) + s.to_bytes(32))}"


def seal_header(signer: Party, alg: str = "ES256", typ: str = "custody-seal+jwt") -> bytes:
    return f'{{"alg":"{alg}","typ":"{typ}","x5t#S256":"{b64u(signer.x5t_raw)}"}}'.encode()


def seal_body(n: int, root: bytes) -> bytes:
    return f'{{"v":1,"n":{n},"root":"{b64u(root)}"}}'.encode()


def seal(
    payloads: list[bytes], signer: Party, *, header: bytes | None = None, body: bytes | None = None
) -> list[Statement]:
    texts = [b64u(payload) for payload in payloads]
    leaves = [statement_hash(signer.x5t_raw, text) for text in texts]
    token = jws(header or seal_header(signer), body or seal_body(len(leaves), tree_root(leaves)), signer.key)
    paths = [
        b64u(bytes([i % 256]) + b"".join(tree_path(i, leaves))) if len(leaves) > 1 else "" for i in range(len(leaves))
    ]
    rows = zip(texts, paths, leaves, strict=True)
    return [Statement(text, path, token, b64u(leaf)) for text, path, leaf in rows]


def twin(text: str) -> str:
    """The same sealed text with the other valid form of its ECDSA signature, (r, n - s)."""
    front, _, signature = text.rpartition(".")
    raw = unb64u(signature)
    return f"{front}.{b64u(raw[:32] + (CURVE_ORDER - int.from_bytes(raw[32:])).to_bytes(32))}"


# --- binding, §4.4


def digest(body: bytes) -> str:
    return f"sha-256=:{b64(sha(body))}:"


def binding_base(method: str, target: str, headers: Headers) -> str:
    lines = [f'"@method": {method}', f'"@target-uri": {target}']
    for name in COVERED:
        values = [value.strip(" \t") for field_name, value in headers if field_name.lower() == name]
        if values:
            lines.append(f'"{name}": {", ".join(values)}')
    return "\n".join(lines)


# --- requests


def plain_headers(body: bytes = BODY) -> Headers:
    headers = [
        ["Host", "crm-connector.crm-assistant"],
        ["Content-Type", "application/json"],
        ["Accept", "application/json, text/event-stream"],
        ["Mcp-Protocol-Version", "2026-07-28"],
        ["Mcp-Method", "tools/call"],
        ["Mcp-Name", "crm.lookup"],
        ["traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    ]
    return [*headers, ["Content-Digest", digest(body)]] if body else headers


def root_claims(**changes: Any) -> Json:
    """Orchestrator to reasoner, on nobody's behalf."""
    claims = {
        "v": 1,
        "t": "rec",
        "iss": spiffe("orchestrator"),
        "aud": spiffe("reasoner"),
        "iat": NOW - 4,
        "exp": NOW + 26,
        "jti": random_id("root"),
        "cid": random_id("chain"),
        "hop": 0,
        "rqb": some_hash("the orchestrator's request"),
        "obo": None,
        "task": {"id": "task-1"},
        "auth": {"exp": NOW + 896, "hops": 7},
    }
    return changed(claims, changes)


def hop_claims(**changes: Any) -> Json:
    """Reasoner to connector; ``prev`` and ``rqb`` are filled in by the scene unless given."""
    claims = {
        "v": 1,
        "t": "rec",
        "iss": spiffe("reasoner"),
        "aud": spiffe("crm-connector"),
        "iat": NOW - 1,
        "exp": NOW + 29,
        "jti": random_id("hop"),
        "cid": random_id("chain"),
        "hop": 1,
        "prev": None,
        "rqb": None,
    }
    return changed(claims, changes)


ABSENT = object()


def changed(claims: Json, changes: Json) -> Json:
    names = {"in_": "in"}
    merged = claims | {names.get(name, name): value for name, value in changes.items()}
    return {name: value for name, value in merged.items() if value is not ABSENT}


@dataclass
class Scene:
    """A request of the reasoner to the connector, as continuation of one of the orchestrator to the reasoner."""

    root: Json = field(default_factory=root_claims)
    hop: Json = field(default_factory=hop_claims)
    root_signer: Party = pki.ORCHESTRATOR
    hop_signer: Party = pki.REASONER
    certs: list[Party] = field(default_factory=lambda: [pki.ORCHESTRATOR])
    headers: Headers = field(default_factory=plain_headers)
    body: bytes = BODY
    method: str = "POST"
    target: str = TARGET

    def bind(self) -> str:
        return b64u(sha(binding_base(self.method, self.target, self.headers).encode()))

    def ancestor(self) -> Statement:
        return seal([dumps(self.root)], self.root_signer)[0]

    def record(self) -> Statement:
        filled = {"prev": self.ancestor().hash, "rqb": self.bind()}
        claims = {
            name: filled.get(name) if value is None and name in filled else value for name, value in self.hop.items()
        }
        return seal([dumps(claims)], self.hop_signer)[0]

    def custody(self, record: str | None = None, chain: list[str] | None = None) -> Headers:
        """The three field lines; parts can be given instead of those of the scene."""
        lines = [["Custody-Record", record if record is not None else self.record().text]]
        ancestors = chain if chain is not None else [self.ancestor().text]
        if ancestors:
            lines.append(["Custody-Chain", ", ".join(ancestors)])
        if self.certs:
            lines.append(["Custody-Certs", ", ".join(f":{b64(party.der)}:" for party in self.certs)])
        return lines

    def input(self, custody: Headers | None = None, **members: Any) -> Json:
        """Members of the input that differ from the defaults."""
        given: Json = {"headers": self.headers + (custody if custody is not None else self.custody())}
        if self.body != BODY:
            given["body"] = b64(self.body)
        return given | members

    def facts(self, **changes: Any) -> Json:
        auth = self.root["auth"]
        authority = {"scope": None, "exp": auth["exp"], "hops": auth["hops"], "aud": None, "ops": None}
        return {
            "result": "ok",
            "cid": self.hop["cid"],
            "hop": self.hop["hop"],
            "path": [self.root["iss"], self.hop["iss"]],
            "authority": authority,
            "record": self.record().hash,
            "task": self.root["task"],
        } | changes


STATE: Json = {"certs": [], "prefix": [], "prefix_certs": [], "replay": [], "replay_capacity": 65_536, "roots": {}}


def with_prefix(texts: list[str], *parties: Party) -> Json:
    """A state in which ``texts`` were verified before, with what verified them."""
    certs = [b64(party.der) for party in (pki.ORCHESTRATOR, pki.REASONER, *parties)]
    return STATE | {"prefix": texts, "prefix_certs": certs}


POLICY: Json = {"autonomous_roots": [f"spiffe://{pki.PROD}/*"], "forbidden_on_path": []}
DEFAULTS: Json = {
    "body": b64(BODY),
    "method": "POST",
    "target_uri": TARGET,
    "operations": ["tools/call crm.lookup", "POST /mcp"],
    "tls_peer": [b64(pki.REASONER.der)],
    "allow_no_peer": False,
    "own_id": spiffe("crm-connector"),
    "own_leaves": [b64(pki.CONNECTOR.der), b64(pki.CONNECTOR_BEFORE.der)],
    "bundles": {pki.PROD: [b64(pki.PROD_CA.der)], pki.PARTNER: [b64(pki.PARTNER_CA.der)]},
    "now": NOW,
    "policy": POLICY,
    "state": STATE,
}


def error(code: str, *missing: str) -> Json:
    return {"result": "error", "code": f"custody_{code}", "missing": list(missing)}


def case(name: str, why: str, given: Json, expect: Json) -> Json:
    return {"name": name, "why": why, "input": given, "expect": expect}
