"""Vectors of seals and trees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.scene import (
    Json,
    b64,
    b64u,
    case,
    error,
    jws,
    seal,
    seal_body,
    seal_header,
    sha,
    statement_hash,
    tree_path,
    tree_root,
    twin,
    unb64u,
)

SIZES = (1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 255, 256)
SIGNER = pki.REASONER
LEAF = b64(SIGNER.der)
MALFORMED, SIGNATURE = error("malformed"), error("signature")


def _payloads(size: int) -> list[bytes]:
    return [f'{{"i":{index}}}'.encode() for index in range(size)]


def seal_batch_cases() -> Iterator[Json]:
    for size in SIZES:
        batch = seal(_payloads(size), SIGNER)
        given = {
            "leaf": LEAF,
            "jws": batch[0].jws,
            "payloads": [each.payload for each in batch],
            "paths": [each.path for each in batch],
        }
        root = tree_root([statement_hash(SIGNER.x5t_raw, each.payload) for each in batch])
        expect = {"result": "ok", "hashes": [each.hash for each in batch], "root": b64u(root)}
        yield case(f"{size} statements", "every index of one seal", given, expect)


def seal_cases() -> Iterator[Json]:
    one, three = seal(_payloads(1), SIGNER)[0], seal(_payloads(3), SIGNER)
    for index, each in enumerate(three):
        ok = {"result": "ok", "hash": each.hash, "n": 3, "index": index}
        yield _seal(f"index {index} of three", "every leaf", each.text, ok)
    alone = {"result": "ok", "hash": one.hash, "n": 1, "index": 0}
    yield _seal("alone", "no path", one.text, alone)
    yield _seal("twin signature", "(r, n - s) is as good; the hash does not cover it", twin(one.text), alone)
    other = error("unresolved", f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}")
    yield _seal("another leaf", "x5t names the certificate", seal(_payloads(1), pki.ORCHESTRATOR)[0].text, other)
    yield from _paths()
    yield from _headers_and_bodies()
    yield from _texts(one.text)
    yield from _signatures(one.text)


def _seal(name: str, why: str, text: str, expect: Json) -> Json:
    return case(name, why, {"sealed": text, "leaf": LEAF}, expect)


def _paths() -> Iterator[Json]:
    two, three, five = (seal(_payloads(size), SIGNER) for size in (2, 3, 5))
    alone = seal(_payloads(1), SIGNER)[0]

    def moved(statement: Any, path: bytes) -> str:
        return f"{statement.payload}.{b64u(path)}.{statement.jws}"

    path = unb64u(three[1].path)
    yield _seal(
        "wrong index, same length", "index 0 has as many siblings as 1", moved(three[1], b"\x00" + path[1:]), SIGNATURE
    )
    yield _seal("wrong index, other length", "index 2 has one sibling", moved(three[1], b"\x02" + path[1:]), MALFORMED)
    yield _seal("index n", "outside the tree", moved(three[1], b"\x03" + path[1:]), MALFORMED)
    yield _seal("index 255", "outside the tree", moved(three[1], b"\xff" + path[1:]), MALFORMED)
    last = unb64u(five[4].path)
    yield _seal(
        "plain bit walk",
        "index 4 of 5 has one sibling; a bit walk takes others too",
        moved(five[4], b"\x00" + last[1:]),
        MALFORMED,
    )
    yield _seal(
        "last leaf promoted",
        "the one sibling of index 4 of 5",
        five[4].text,
        {"result": "ok", "hash": five[4].hash, "n": 5, "index": 4},
    )
    yield _seal("sibling missing", "too short", moved(three[0], unb64u(three[0].path)[:33]), MALFORMED)
    yield _seal("sibling added", "too long", moved(three[0], unb64u(three[0].path) + bytes(32)), MALFORMED)
    yield _seal("half a sibling", "not 1 + 32k bytes", moved(three[0], unb64u(three[0].path)[:-1]), MALFORMED)
    yield _seal("siblings exchanged", "order matters", moved(three[0], path[:1] + path[33:] + path[1:33]), SIGNATURE)
    yield _seal("path under a seal of one", "empty if and only if N is 1", moved(alone, b"\x00"), MALFORMED)
    yield _seal("no path under a seal of two", "empty if and only if N is 1", moved(two[0], b""), MALFORMED)
    yield _seal("only an index under a seal of two", "too short", moved(two[0], b"\x00"), MALFORMED)
    many = seal(_payloads(257), SIGNER)
    yield _seal("257 statements, well sealed", "256 at most", many[0].text, MALFORMED)
    foreign = f"{b64u(b'{}')}.{three[0].path}.{three[0].jws}"
    yield _seal("another payload under the seal", "moved statement", foreign, SIGNATURE)
    leaves = [statement_hash(SIGNER.x5t_raw, each.payload) for each in three]
    inner = sha(b"\x01" + leaves[0] + leaves[1])
    node_as_leaf = jws(seal_header(SIGNER), seal_body(2, tree_root(leaves)), SIGNER.key)
    payload = b64u(leaves[0] + leaves[1])
    confused = f"{payload}.{b64u(bytes([0]) + leaves[2])}.{node_as_leaf}"
    assert sha(b"\x01" + inner + leaves[2]) == tree_root(leaves)
    yield _seal("inner node passed as a leaf", "0x00 and 0x01 keep them apart", confused, SIGNATURE)
    bare = [sha(b"\x00" + each.payload.encode()) for each in two]
    token = jws(seal_header(SIGNER), seal_body(2, tree_root(bare)), SIGNER.key)
    text = f"{two[0].payload}.{b64u(bytes([0]) + b''.join(tree_path(0, bare)))}.{token}"
    yield _seal("leaf hash without the thumbprint", "it pins the certificate", text, SIGNATURE)


def _headers_and_bodies() -> Iterator[Json]:
    root = statement_hash(SIGNER.x5t_raw, b64u(_payloads(1)[0]))
    x5t, r = b64u(SIGNER.x5t_raw), b64u(root)
    good_header, good_body = seal_header(SIGNER), seal_body(1, root)
    headers = {
        "alg none": seal_header(SIGNER, alg="none"),
        "alg HS256": seal_header(SIGNER, alg="HS256"),
        "alg ES384": seal_header(SIGNER, alg="ES384"),
        "alg PS256": seal_header(SIGNER, alg="PS256"),
        "alg EdDSA": seal_header(SIGNER, alg="EdDSA"),
        "typ JWT": seal_header(SIGNER, typ="JWT"),
        "typ in upper case": seal_header(SIGNER, typ="CUSTODY-SEAL+JWT"),
        "header with white space": good_header.replace(b",", b", "),
        "header in another order": f'{{"typ":"custody-seal+jwt","alg":"ES256","x5t#S256":"{x5t}"}}'.encode(),
        "header with jwk": good_header[:-1] + b',"jwk":{}}',
        "header with kid": good_header[:-1] + b',"kid":"1"}',
        "header with crit": good_header[:-1] + b',"crit":["b64"]}',
        "header with a duplicate": good_header[:-1] + b',"alg":"none"}',
        "header without x5t": b'{"alg":"ES256","typ":"custody-seal+jwt"}',
        "header with an escape": good_header.replace(b"ES256", b"ES\\u003256"),
        "x5t not canonical": good_header.replace(x5t.encode(), (x5t[:-1] + "_").encode()),
        "x5t short": good_header.replace(x5t.encode(), x5t[:-1].encode()),
        "header with a newline": good_header + b"\n",
    }
    bodies = {
        "N zero": seal_body(0, root),
        "N with a leading zero": f'{{"v":1,"n":01,"root":"{r}"}}'.encode(),
        "N as text": f'{{"v":1,"n":"1","root":"{r}"}}'.encode(),
        "N 257": seal_body(257, root),
        "N 1000": seal_body(1000, root),
        "N negative": seal_body(-1, root),
        "N float": f'{{"v":1,"n":1.0,"root":"{r}"}}'.encode(),
        "v 2": good_body.replace(b'"v":1', b'"v":2'),
        "body with white space": good_body.replace(b",", b", "),
        "body in another order": f'{{"n":1,"v":1,"root":"{r}"}}'.encode(),
        "body with a further member": good_body[:-1] + b',"x":1}',
        "root not canonical": good_body.replace(r.encode(), (r[:-1] + "_").encode()),
        "root short": good_body.replace(r.encode(), r[:-1].encode()),
        "body empty": b"{}",
        "body with a newline": good_body + b"\n",
    }
    for name, header in headers.items():
        yield _seal(name, "byte for byte of the one form", seal(_payloads(1), SIGNER, header=header)[0].text, MALFORMED)
    for name, body in bodies.items():
        yield _seal(name, "byte for byte of the one form", seal(_payloads(1), SIGNER, body=body)[0].text, MALFORMED)
    wrong = seal(_payloads(1), SIGNER, body=seal_body(1, bytes(32)))[0].text
    yield _seal("another root, well signed", "the path must lead to it", wrong, SIGNATURE)


def _texts(text: str) -> Iterator[Json]:
    payload, path, head, body, signature = text.split(".")
    raw = unb64u(signature)
    der = bytes([0x30, 0x44, 2, 0x20]) + raw[:32] + bytes([2, 0x20]) + raw[32:]
    other = "B" if signature[-1] != "B" else "C"
    bad = {
        "four parts": f"{payload}.{head}.{body}.{signature}",
        "six parts": f"{text}.",
        "empty": "",
        "only dots": "....",
        "payload empty": f".{path}.{head}.{body}.{signature}",
        "payload padded": f"{payload}=.{path}.{head}.{body}.{signature}",
        "payload not canonical": f"{b64u(b'{}')[:-1]}1.{path}.{head}.{body}.{signature}",
        "space inside": f"{payload}. .{head}.{body}.{signature}",
        "header empty": f"{payload}.{path}..{body}.{signature}",
        "body empty text": f"{payload}.{path}.{head}..{signature}",
        "signature empty": f"{payload}.{path}.{head}.{body}.",
        "signature of 63 bytes": f"{payload}.{path}.{head}.{body}.{b64u(unb64u(signature)[:-1])}",
        "signature of 65 bytes": f"{payload}.{path}.{head}.{body}.{b64u(unb64u(signature) + bytes(1))}",
        "signature as DER": f"{payload}.{path}.{head}.{body}.{b64u(der)}",
        "signature not canonical": f"{payload}.{path}.{head}.{body}.{signature[:-1]}{other}",
    }
    for name, value in bad.items():
        yield _seal(name, "five parts of canonical base64url", value, MALFORMED)


def _signatures(text: str) -> Iterator[Json]:
    front, _, signature = text.rpartition(".")
    raw = unb64u(signature)
    order = bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
    bad = {
        "zeros": bytes(64),
        "r zero": bytes(32) + raw[32:],
        "s zero": raw[:32] + bytes(32),
        "s is the order": raw[:32] + order,
        "r above the order": b"\xff" * 32 + raw[32:],
        "one bit": bytes([raw[0] ^ 1]) + raw[1:],
        "r and s exchanged": raw[32:] + raw[:32],
    }
    for name, value in bad.items():
        yield _seal(f"signature: {name}", "wrong signature", f"{front}.{b64u(value)}", SIGNATURE)
    stolen = jws(seal_header(SIGNER), unb64u(front.rpartition(".")[2]), pki.ORCHESTRATOR.key)
    yield _seal(
        "signature by another key", "key of the certificate", f"{text.split('.', maxsplit=1)[0]}..{stolen}", SIGNATURE
    )
