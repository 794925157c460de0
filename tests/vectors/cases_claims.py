"""Vectors of the claims of a record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors.pki import NOW, spiffe
from vectors.scene import (
    ABSENT,
    Json,
    b64,
    case,
    dumps,
    error,
    hop_claims,
    random_id,
    root_claims,
    some_hash,
)

MALFORMED = error("malformed")
OK: Json = {"result": "ok"}


def claims_cases() -> Iterator[Json]:
    yield from _claims_json()
    yield from _claims_members()
    yield from _claims_types()
    yield from _claims_objects()


def _payload(name: str, why: str, payload: bytes, expect: Json) -> Json:
    return case(name, why, {"payload": b64(payload)}, expect)


def _with(raw_members: str) -> bytes:
    """A record with further members as raw JSON text."""
    return _record()[:-1] + b"," + raw_members.encode() + b"}"


def _record(**changes: Any) -> bytes:
    return dumps(hop_claims(**{"prev": some_hash("parent"), "rqb": some_hash("request")} | changes))


def _root(**changes: Any) -> bytes:
    return dumps(root_claims(**changes))


def _claims_json() -> Iterator[Json]:
    yield _payload(
        "white space around tokens", "the signed bytes are the bytes", _record().replace(b",", b" ,\r\n\t") + b" ", OK
    )
    yield _payload("unknown claim", "ignored", _with('"x":"y"'), OK)
    yield _payload("unknown claim with four levels", "the top object is the first", _with('"x":[[[]]]'), OK)
    yield _payload("largest integer", "2^53 - 1", _with('"x":[9007199254740991,-9007199254740991]'), OK)
    yield _payload("brackets in a string", "do not nest", _with('"x":"[[[[[\\"[[["'), OK)
    yield _payload("escaped pair of surrogates", "one character", _with('"x":"\\ud83d\\ude00"'), OK)
    bad = {
        "five levels": _with('"x":[[[[]]]]'),
        "two hundred levels": _with('"x":' + "[" * 200 + "]" * 200),
        "a thousand open brackets": b"[" * 1000,
        "duplicate known claim": _with('"hop":1'),
        "duplicate unknown claim": _with('"x":1,"x":1'),
        "duplicate by escape": _with('"h\\u006fp":1'),
        "duplicate in an ignored object": _with('"x":{"a":1,"a":1}'),
        "float": _with('"x":1.0'),
        "exponent": _with('"x":1e3'),
        "negative zero": _with('"x":-0'),
        "integer above 2^53 - 1": _with('"x":9007199254740992'),
        "integer below": _with('"x":-9007199254740992'),
        "integer of 400 digits": _with('"x":' + "9" * 400),
        "leading zero": _with('"x":01'),
        "plus sign": _with('"x":+1'),
        "NaN": _with('"x":NaN'),
        "Infinity": _with('"x":-Infinity'),
        "unpaired surrogate": _with('"x":"\\ud83d"'),
        "unpaired surrogate in a name": _with('"\\ude00":1'),
        "control character in a string": _with('"x":"\x01"'),
        "trailing comma": _record()[:-1] + b",}",
        "comment": _record()[:-1] + b"/**/}",
        "text after the object": _record() + b"{}",
        "NUL after the object": _record() + b"\x00",
        "byte order mark": b"\xef\xbb\xbf" + _record(),
        "not UTF-8": _with('"x":"\xff"').replace(b"\xc3\xbf", b"\xff"),
        "surrogate in UTF-8": _with('"x":"@"').replace(b"@", b"\xed\xa0\x80"),
        "UTF-16": _record().decode().encode("utf-16"),
        "an array": b"[" + _record() + b"]",
        "a string": b'"x"',
        "null": b"null",
        "nothing": b" ",
        "cut off": _record()[:-1],
    }
    for name, payload in bad.items():
        yield _payload(name, "strict JSON", payload, MALFORMED)


def _claims_members() -> Iterator[Json]:
    yield _payload("hop record", "every required claim", _record(), OK)
    yield _payload("root record", "root-only claims", _root(), OK)
    yield _payload(
        "root without its claims",
        "their absence is a matter of authority",
        _root(obo=ABSENT, task=ABSENT, auth=ABSENT),
        OK,
    )
    yield _payload("hop without prev", "a matter of the chain", _record(prev=ABSENT), OK)
    for name in ("v", "t", "iss", "aud", "iat", "exp", "jti", "cid", "hop", "rqb"):
        yield _payload(f"{name} absent", "required", _record(**{name: ABSENT}), MALFORMED)
        yield _payload(f"{name} null", "null is no value", _record(**{name: None}), MALFORMED)
    full = {
        "bm": "stream",
        "srv": some_hash("leaf"),
        "by": "spiffe://prod.example.org/hopseal/broker/node-1",
        "op": "tools/call crm.lookup",
        "in_": [some_hash(str(i)) for i in range(8)],
        "att": {},
        "apv": [],
        "rr": True,
        "tid": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    yield _payload("every optional claim", "all accepted", _record(**full), OK)
    for name in full:
        yield _payload(f"{name.strip('_')} null", "absent or a value, never null", _record(**{name: None}), MALFORMED)
        yield _payload(f"{name.strip('_')} of another type", "a number", _record(**{name: 7}), MALFORMED)


def _claims_types() -> Iterator[Json]:
    ids = {
        "upper-case scheme": "SPIFFE://prod.example.org/a",
        "upper-case trust domain": "spiffe://Prod.example.org/a",
        "no path": "spiffe://prod.example.org",
        "only a slash": "spiffe://prod.example.org/",
        "trailing slash": spiffe("a") + "/",
        "empty segment": "spiffe://prod.example.org//a",
        "dot segment": "spiffe://prod.example.org/./a",
        "double dot segment": "spiffe://prod.example.org/a/..",
        "percent": "spiffe://prod.example.org/%61",
        "query": spiffe("a") + "?x",
        "fragment": spiffe("a") + "#x",
        "port": "spiffe://prod.example.org:1/a",
        "user": "spiffe://u@prod.example.org/a",
        "newline": spiffe("a") + "\n",
        "NUL": spiffe("a") + "\x00",
        "outside ASCII": spiffe("é"),
        "empty": "",
        "no trust domain": "spiffe:///a",
        "https": "https://prod.example.org/a",
        "257 bytes": "spiffe://prod.example.org/" + "a" * 231,
    }
    yield _payload("iss of 256 bytes", "the bound", _record(iss="spiffe://prod.example.org/" + "a" * 230), OK)
    for name, text in ids.items():
        yield _payload(f"iss: {name}", "canonical SPIFFE IDs only", _record(iss=text), MALFORMED)
        yield _payload(f"by: {name}", "canonical SPIFFE IDs only", _record(by=text), MALFORMED)
    origins = (
        "https://api.example.com",
        "https://api.example.com:8443",
        "https://10.0.0.1",
        "https://[2001:db8::1]:443",
    )
    for text in origins:
        yield _payload(f"aud {text}", "an origin at egress", _record(aud=text), OK)
    for text in (
        "https://",
        "https://api.example.com/",
        "https://API.example.com",
        "http://api.example.com",
        "https://a:0",
        "https://a:",
        "https://a:123456",
        "https://[::1",
        "https://u@a",
        "spiffe://prod.example.org",
        "https://" + "a" * 249,
        "*",
    ):
        yield _payload(f"aud {text[:40]}", "neither SPIFFE ID nor origin", _record(aud=text), MALFORMED)
    values: dict[str, tuple[Any, ...]] = {
        "v": (0, 2, "1", True),
        "t": ("rcp", "obs", "cls", "att", "REC", "rec "),
        "iat": (-1, "1", True, [1]),
        "exp": (-1, None),
        "hop": (-1, False, "0"),
        "jti": ("", random_id("x")[:-1], random_id("x") + "A", random_id("x")[:-1] + "B", random_id("x") + "=="),
        "cid": ("A" * 43, 5),
        "rqb": (random_id("x"), some_hash("x")[:-1] + "_", some_hash("x") + "="),
        "prev": ("", some_hash("x") + "\n"),
        "bm": ("", "digest", "Stream"),
        "srv": ("",),
        "op": ("x" * 129, "é" * 65),
        "in_": ([""], [some_hash("x")] * 9, {}, some_hash("x")),
        "rr": (0, "true"),
        "tid": ("4BF92F3577B34DA6A3CE929D0E0E4736", "0" * 31, "0" * 33, "g" * 32),
    }
    for name, bad in values.items():
        for number, value in enumerate(bad):
            yield _payload(
                f"{name.strip('_')} wrong value {number + 1}", "typed claims", _record(**{name: value}), MALFORMED
            )
    yield _payload("op of 128 bytes", "the bound", _record(op="é" * 64), OK)
    yield _payload("exp before iat", "not a matter of types", _record(iat=NOW, exp=NOW - 5), OK)


def _claims_objects() -> Iterator[Json]:
    apv = {
        "typ": "ticket",
        "id": "CHG-1",
        "h": some_hash("e"),
        "by": "spiffe://prod.example.org/people/desk",
        "at": NOW,
    }
    obo = {"iss": "https://tts", "sub": "u-1", "typ": "txn", "th": some_hash("token"), "exp": NOW + 60}
    cont = {"rec": some_hash("r"), "cid": random_id("old"), "why": "resume"}
    auth = {"exp": NOW + 60, "hops": 3}
    good: dict[str, bytes] = {
        "four approvals": _record(apv=[apv] * 4),
        "approval with a further member": _record(apv=[apv | {"x": 1}]),
        "obo": _root(obo=obo),
        "obo with txn": _root(obo=obo | {"txn": "t"}),
        "cont": _root(cont=cont),
        "task with everything": _root(
            task={"id": "t", "iss": "i", "ih": some_hash("i"), "ah": some_hash("a"), "pc": "p" * 64, "x": {}}
        ),
        "auth with everything": _root(
            auth=auth
            | {
                "scope": "a b:c !#[]~",
                "aud": [spiffe("a"), "spiffe://prod.example.org/*", spiffe("a") + "/*"],
                "ops": ["*", "GET /a*", "x"],
            }
        ),
        "empty sets": _root(auth=auth | {"scope": "", "aud": [], "ops": []}),
        "thirty-two patterns": _root(auth=auth | {"ops": [f"op {i}" for i in range(32)]}),
        "narrowing in a root": _root(att={"hops": 1}),
    }
    for name, payload in good.items():
        yield _payload(name, "closed objects, right members", payload, OK)
    bad: dict[str, list[bytes]] = {
        "apv": [
            _record(apv=[apv] * 5),
            _record(apv=[apv | {"typ": "sms"}]),
            _record(apv=[{**apv, "h": "x"}]),
            _record(apv=[apv | {"at": "now"}]),
            _record(apv=[[]]),
        ]
        + [_record(apv=[{k: v for k, v in apv.items() if k != name}]) for name in apv],
        "obo": [
            _root(obo=obo | {"x": 1}),
            _root(obo=obo | {"typ": "jwt"}),
            _root(obo=obo | {"th": "x"}),
            _root(obo=False),
            _root(obo=obo | {"txn": None}),
        ]
        + [_root(obo={k: v for k, v in obo.items() if k != name}) for name in obo],
        "task": [
            _root(task={}),
            _root(task={"id": ""}),
            _root(task={"id": "x" * 129}),
            _root(task={"id": "t", "pc": "p" * 65}),
            _root(task={"id": "t", "ih": "x"}),
            _root(task=None),
            _root(task="t"),
        ],
        "cont": [_root(cont=cont | {"why": "because"}), _root(cont=cont | {"x": 1}), _root(cont=None)]
        + [_root(cont={k: v for k, v in cont.items() if k != name}) for name in cont],
        "auth": [
            _root(auth=value)
            for value in (
                None,
                [],
                {},
                {"exp": 1},
                {"hops": 1},
                auth | {"x": 1},
                auth | {"exp": -1},
                auth | {"hops": True},
            )
        ],
        "scope": [
            _root(auth=auth | {"scope": value})
            for value in (None, [], " ", "a  b", " a", "a ", "a a", 'a"', "a\\b", "é", "a\tb")
        ],
        "aud pattern": [
            _root(auth=auth | {"aud": [value]})
            for value in (
                "",
                "*",
                "/*",
                "spiffe://*",
                "spiffe:///*",
                "spiffe://prod.example.org",
                "spiffe://prod.example.org/",
                spiffe("a*"),
                spiffe("a") + "/**",
                spiffe("a") + "//*",
                "https://api.example.com",
                "spiffe://Prod.example.org/*",
                "spiffe://prod.example.org/" + "a" * 229 + "/*",
                5,
            )
        ],
        "aud": [_root(auth=auth | {"aud": value}) for value in (None, spiffe("a"), {}, [spiffe("a")] * 33)],
        "ops": [
            _root(auth=auth | {"ops": value})
            for value in (None, "x", ["x"] * 33, [""], ["é"], ["a\nb"], ["x" * 257], [1])
        ],
        "att": [
            _record(att=value)
            for value in (
                None,
                [],
                {"x": 1},
                {"exp": None},
                {"hops": -1},
                {"scope": " "},
                {"aud": ["*"]},
                {"ops": [""]},
            )
        ],
    }
    for name, payloads in bad.items():
        for number, payload in enumerate(payloads):
            yield _payload(f"{name} wrong {number + 1}", "closed objects", payload, MALFORMED)
