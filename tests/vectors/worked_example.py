"""The worked example of docs/custody-worked-example.md: a root, a hop and a receipt, every byte of them.

Made from the vectors' fixed keys and written down from the definitions, like the vectors, without ``hopseal.custody``.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from vectors import pki
from vectors.answers import ANSWER, answer_headers, receipt_claims, response_base, rsb_of
from vectors.pki import NOW, Party
from vectors.scene import (
    BODY,
    TARGET,
    Headers,
    Json,
    Statement,
    b64,
    b64u,
    binding_base,
    digest,
    dumps,
    hop_claims,
    plain_headers,
    random_id,
    root_claims,
    seal,
    sha,
    tree_path,
    tree_root,
    unb64u,
)

ROOT_TARGET = "https://reasoner.crm-assistant/task"
ROOT_BODY = b'{"question":"What does account 4711 owe?"}'
ROOT_HEADERS: Headers = [["Content-Type", "application/json"], ["Content-Digest", digest(ROOT_BODY)]]
PARTIES = {
    "authority of prod.example.org": pki.PROD_CA,
    "orchestrator": pki.ORCHESTRATOR,
    "reasoner": pki.REASONER,
    "crm-connector": pki.CONNECTOR,
}


@dataclass(frozen=True)
class Made:
    """One statement of the example and how it came about."""

    name: str
    claims: Json
    statement: Statement
    signer: str
    neighbours: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        kind: str = self.claims["t"]
        return kind

    @property
    def seal_hash(self) -> str:
        return b64u(sha(self.statement.jws.encode()))

    @property
    def leaf(self) -> str:
        return f"custody/v1 {self.kind} {self.statement.hash} {self.seal_hash}\n"

    @property
    def leaf_hash(self) -> bytes:
        return sha(b"\x00" + self.leaf.encode())


def _make() -> tuple[Made, Made, Made]:
    root = root_claims(
        rqb=b64u(sha(binding_base("POST", ROOT_TARGET, ROOT_HEADERS).encode())),
        srv=b64u(pki.REASONER.x5t_raw),
        rr=True,
    )
    order = [
        "v",
        "t",
        "iss",
        "aud",
        "iat",
        "exp",
        "jti",
        "cid",
        "hop",
        "prev",
        "rqb",
        "srv",
        "rr",
        "obo",
        "task",
        "auth",
    ]
    root = {name: root[name] for name in order if name in root}
    sealed_root = seal([dumps(root)], pki.ORCHESTRATOR)[0]
    hop = hop_claims(
        prev=sealed_root.hash,
        rqb=b64u(sha(binding_base("POST", TARGET, plain_headers()).encode())),
        srv=b64u(pki.CONNECTOR.x5t_raw),
        rr=True,
    )
    sealed_hop = seal([dumps(hop)], pki.REASONER)[0]
    receipt = receipt_claims(rec=sealed_hop.hash)
    other = receipt_claims(rec=sealed_hop.hash, jti=random_id("the receipt of another call"))
    sealed_receipt, neighbour = seal([dumps(receipt), dumps(other)], pki.CONNECTOR)
    return (
        Made("root", root, sealed_root, "orchestrator"),
        Made("hop", hop, sealed_hop, "reasoner"),
        Made("receipt", receipt, sealed_receipt, "crm-connector", (neighbour.hash,)),
    )


MADE = ROOT, HOP, RECEIPT = _make()


def companion() -> str:
    """What the example's parties send, as JSON for programs: docs/custody-worked-example.json."""
    document = {
        "now": NOW,
        "bundles": {pki.PROD: [b64(pki.PROD_CA.der)]},
        "certificates": {name: b64(party.der) for name, party in PARTIES.items() if party is not pki.PROD_CA},
        "keys": {name: _scalar(party.key) for name, party in PARTIES.items()},
        "request": {
            "method": "POST",
            "target_uri": TARGET,
            "headers": [
                *plain_headers(),
                ["Custody-Record", HOP.statement.text],
                ["Custody-Chain", ROOT.statement.text],
                ["Custody-Certs", f":{b64(pki.ORCHESTRATOR.der)}:"],
            ],
            "body": BODY.decode(),
        },
        "response": {
            "status": 200,
            "headers": [*answer_headers(), ["Custody-Receipt", RECEIPT.statement.text]],
            "body": ANSWER.decode(),
        },
    }
    return json.dumps(document, indent=1) + "\n"


def page() -> str:
    """The text of docs/custody-worked-example.md."""
    parts = [_HEAD, _keys(), _bindings(), *map(_statement, MADE), _log()]
    return "\n".join(parts)


_HEAD = """# A worked example: root, hop, receipt

Every byte of three statements, so that a codec can be written, or doubted, against paper. The orchestrator asks the
reasoner, the reasoner asks the CRM connector, the connector answers with a receipt. The rules, and the section numbers
here, are those of [custody-wire.md](custody-wire.md). `custody-worked-example.json` holds the same messages for
programs.

This page is generated (`PYTHONPATH=.:tests python -m vectors.generate`); a test reproduces it, with the Python codec
too. Nothing in it is random: keys come from fixed numbers, ECDSA nonces from RFC 6979.
**The private keys are public: use them for nothing.**
Long values stand on one line each. `b64url` is base64url without padding; hashes are SHA-256.
"""


def _keys() -> str:
    lines = ["## 1. Keys and certificates\n"]
    for name, party in PARTIES.items():
        lines += [
            f"**{name}**\n",
            _block(
                ("private key (P-256 scalar, hex)", _scalar(party.key)),
                ("certificate (DER, base64)", b64(party.der)),
                ("x5t = b64url(SHA-256(DER))", b64u(party.x5t_raw)),
            ),
        ]
    return "\n".join(lines)


def _bindings() -> str:
    requests = [
        ("rqb of the root", binding_base("POST", ROOT_TARGET, ROOT_HEADERS), ROOT_BODY),
        ("rqb of the hop", binding_base("POST", TARGET, plain_headers()), BODY),
        ("rsb of the receipt", response_base(200, answer_headers()), ANSWER),
    ]
    lines = [
        "## 2. Bindings (§4.4, §7.1)\n",
        "Each binding is the hash of the lines shown, joined by line feeds, none at the end.\n",
    ]
    for name, base, body in requests:
        lines += [f"**{name}**; body on the wire:\n", f"```text\n{body.decode()}\n```\n", "lines, and their hash:\n"]
        lines += [f"```text\n{base}\n```\n", _block((f"b64url(SHA-256({len(base)} bytes))", b64u(sha(base.encode()))))]
    assert rsb_of(200, answer_headers()) == RECEIPT.claims["rsb"]
    return "\n".join(lines)


def _statement(made: Made) -> str:
    number = 3 + MADE.index(made)
    statement, payload = made.statement, dumps(made.claims)
    header, body, signature = statement.jws.split(".")
    signer: Party = PARTIES[made.signer]
    raw = unb64u(statement.path)
    path = [("path: index", str(raw[0]))] if raw else [("path", "empty: the seal covers one statement")]
    path += [("path: sibling (statement hash of another receipt)", each) for each in made.neighbours]
    path += [("path, b64url", statement.path)] if raw else []
    return "\n".join(
        [
            f"## {number}. The {made.name} (`t: {made.kind}`), sealed by the {made.signer}\n",
            f"Claims, {len(payload)} bytes:\n",
            f"```json\n{payload.decode()}\n```\n",
            _block(
                ("payload = b64url(claims)", statement.payload),
                ("statement hash = b64url(SHA-256(0x00 ‖ x5t ‖ payload))", statement.hash),
                *path,
                ("seal header", unb64u(header).decode()),
                ("seal body", unb64u(body).decode()),
                ("signing input", f"{header}.{body}"),
                ("signature (r ‖ s, hex)", unb64u(signature).hex()),
                ("seal (compact JWS)", statement.jws),
                (f"sealed statement = payload.path.seal, {len(statement.text)} bytes", statement.text),
                ("seal hash = b64url(SHA-256(seal))", made.seal_hash),
                ("log leaf (a line feed at its end)", made.leaf.rstrip("\n")),
                ("leaf hash = SHA-256(0x00 ‖ leaf), hex", made.leaf_hash.hex()),
            ),
            f"`x5t` is that of the {made.signer}: `{b64u(signer.x5t_raw)}`.\n",
        ]
    )


def _log() -> str:
    leaves = [each.leaf_hash for each in MADE]
    rows = [("root of the tree (base64)", b64(tree_root(leaves)))]
    for index, made in enumerate(MADE):
        proof = " ".join(base64.b64encode(each).decode() for each in tree_path(index, leaves))
        rows.append((f"inclusion proof of leaf {index}, the {made.name} (base64)", proof))
    return (
        "\n".join(
            [
                "## 6. In a log\n",
                "A log that holds nothing but these three, in this order, has this RFC 6962 tree (§10):\n",
                _block(*rows),
            ]
        ).rstrip("\n")
        + "\n"
    )


def _block(*rows: tuple[str, str]) -> str:
    return "```text\n" + "\n".join(f"{name}\n    {value}" for name, value in rows) + "\n```\n"


def _scalar(key: EllipticCurvePrivateKey) -> str:
    numbers: Any = key.private_numbers()
    return f"{numbers.private_value:064x}"
