"""Vectors of the claims of receipts, observations, closing statements and evidence, and of the place of each type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors.answers import (
    ANSWER,
    closing_claims,
    evidence_claims,
    kids_tree,
    observation_claims,
    receipt_claims,
    segment_claims,
)
from vectors.pki import spiffe
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
TYPES = ("rec", "rcp", "obs", "cls", "att", "seg")
MAKERS = {
    "rcp": receipt_claims,
    "obs": observation_claims,
    "cls": closing_claims,
    "att": evidence_claims,
    "seg": segment_claims,
}
TAKEN = {"len": 5, "cd": some_hash("taken"), "n": 2}
HASHES = [some_hash(f"kid {index}") for index in range(300)]
HOLDS_ALL = {("obs", "rcp"), ("obs", "cls"), ("rcp", "cls")}  # every member of the second is in the first
LOG = {"origin": "custody.prod.example.org/node-1", "vkey": "custody.prod.example.org/node-1+1234abcd+AQ"}


def statement_cases() -> Iterator[Json]:
    yield from _places()
    yield from _orders()
    for kind in MAKERS:
        yield from _members(kind)
    yield from _values()
    yield from _kids()
    yield from _encodings()


def _ok(name: str, why: str, claims: Json, payload: bytes | None = None) -> Json:
    """``claims`` are in the right order and what is kept; ``payload`` is what arrives."""
    given = {"payload": b64(payload if payload is not None else dumps(claims)), "types": [claims["t"]]}
    return case(name, why, given, {"result": "ok", "t": claims["t"], "encoded": b64(dumps(claims))})


def _bad(name: str, why: str, payload: bytes, types: tuple[str, ...] = TYPES) -> Json:
    return case(name, why, {"payload": b64(payload), "types": list(types)}, MALFORMED)


def _hop() -> Json:
    return hop_claims(prev=some_hash("parent"), rqb=some_hash("request"))


def _places() -> Iterator[Json]:
    every = {"rec": _hop(), **{kind: make() for kind, make in MAKERS.items()}}
    for kind, claims in every.items():
        given = {"payload": b64(dumps(claims)), "types": list(TYPES)}
        facts = {"result": "ok", "t": kind, "encoded": b64(dumps(claims))}
        yield case(f"{kind} in a log", "every type may stand there", given, facts)
        yield _ok(f"{kind} in its place", "its own type only", claims)
        for place in TYPES:
            if place != kind:
                yield _bad(
                    f"{kind} in the place of {place}", "one type is never accepted for another", dumps(claims), (place,)
                )
    for kind, claims in every.items():
        for other in TYPES:
            if other != kind and (kind, other) not in HOLDS_ALL:
                payload = dumps(claims | {"t": other})
                yield _bad(f"claims of {kind} called {other}", "members of another type are absent", payload)
    for word in ("xyz", "RCP", "rcp ", "", "receipt"):
        yield _bad(f"type {word!r}", "six types", dumps(receipt_claims(t=word)))
    yield _bad("no place admits it", "an empty list", dumps(receipt_claims()), ())


def _orders() -> Iterator[Json]:
    full = {
        "rcp": receipt_claims(dec="decision-1", kids=HASHES[:2], n=3, tlb=some_hash("trailers"), req=TAKEN),
        "obs": observation_claims(dec="decision-1", n=3, tlb=some_hash("trailers"), req=TAKEN),
        "cls": closing_claims(fin="abort", n=3, tlb=some_hash("trailers")),
        "seg": segment_claims(seq=7, up=TAKEN, down={"len": 0, "cd": some_hash("nothing")}),
        "att": evidence_claims(log=LOG),
        "rec": root_claims(
            obo={"iss": "https://tts", "sub": "u", "typ": "txn", "th": some_hash("t"), "txn": "x", "exp": 9},
            task={"id": "t", "iss": "i", "ih": some_hash("i"), "ah": some_hash("a"), "pc": "p"},
            auth={"scope": "a b", "exp": 9, "hops": 7, "aud": [spiffe("a")], "ops": ["*"]},
            cont={"rec": some_hash("r"), "cid": random_id("old"), "why": "resume"},
        ),
    }
    order = [
        "v",
        "t",
        "iss",
        "aud",
        "iat",
        "exp",
        "jti",
        "cid",
        "rec",
        "st",
        "rsb",
        "len",
        "cd",
        "fin",
        "kids",
        "dec",
        "n",
        "tlb",
        "req",
        "host",
        "spki",
    ]
    full["obs"] = {name: full["obs"][name] for name in order if name in full["obs"]}
    for kind, claims in full.items():
        yield _ok(f"{kind} with everything", "in the order of the specification", claims)
        backwards = dumps({name: claims[name] for name in reversed(claims)})
        yield _ok(f"{kind} written backwards", "any order is read, one is written", claims, backwards)
        unknown = dumps(claims | {"x": {"y": [1]}})
        yield _ok(f"{kind} with an unknown claim", "ignored", claims, unknown)
        spaced = dumps(claims).replace(b",", b" ,\n")
        yield _ok(f"{kind} with white space", "the signed bytes are the bytes", claims, spaced)
    sorted_scope = root_claims(auth={"scope": "a b c", "exp": 9, "hops": 7})
    yield _ok("scope in another order", "a set", sorted_scope, dumps(sorted_scope).replace(b"a b c", b"c a b"))
    yield _ok("decision in other characters", "UTF-8, no escapes", receipt_claims(dec='é€😀/\\"'))
    escaped = receipt_claims(dec="A/\x7f\u2028\x1f\n\x08")
    yield _ok("decision with controls", "escaped in the short forms only where JSON must", escaped)
    yield _ok(
        "decision escaped at will",
        "read, and written in one form",
        receipt_claims(dec="A/"),
        dumps(receipt_claims(dec="@")).replace(b"@", b"\\u0041\\/"),
    )


def _members(kind: str) -> Iterator[Json]:
    make = MAKERS[kind]
    for name in make():
        yield _bad(f"{kind}: {name} absent", "required", dumps(make(**{name: ABSENT})), (kind,))
        yield _bad(f"{kind}: {name} null", "null is no value", dumps(make(**{name: None})), (kind,))
        if name != "v":
            wrong = [[]] if name == "kids" else -1
            yield _bad(f"{kind}: {name} of another type", "typed claims", dumps(make(**{name: wrong})), (kind,))


def _values() -> Iterator[Json]:
    wrong: dict[str, dict[str, tuple[Any, ...]]] = {
        "rcp": {
            "v": (0, 2, "1", True),
            "iss": ("https://a.example.org", "spiffe://prod.example.org", "spiffe://Prod.example.org/a", ""),
            "aud": ("https://a.example.org", spiffe("a") + "/", spiffe("a") + "\n"),
            "iat": (True, "1", 1 << 53),
            "jti": (random_id("x") + "==", random_id("x")[:-1] + "B", "A" * 43),
            "cid": (random_id("x")[:-1], ""),
            "rec": (some_hash("x") + "=", some_hash("x")[:-1] + "_", random_id("x"), "A" * 44),
            "st": (99, 1000, 0, "200", True, [200]),
            "rsb": ("", some_hash("x")[:-1], "+" * 43),
            "len": ("0", True, 1 << 53),
            "cd": (some_hash("x").replace(some_hash("x")[0], "/"), "sha-256=:AA==:"),
            "fin": ("", "EOF", "eof ", "closed", True, "early"),
            "dec": ("x" * 129, "é" * 65, 5, None, ["d"]),
            "n": (-1, True, "1", None, 1 << 53),
            "tlb": (None, "", random_id("x"), 5),
            "req": (None, [], {}, 5, {"len": 5}, {"cd": TAKEN["cd"]}, TAKEN | {"x": 1}, TAKEN | {"n": None}),
        },
        "obs": {
            "aud": (spiffe("reasoner"),),
            "iss": (spiffe("reasoner"),),
            "host": (
                "",
                "https://a",
                "A.example.com",
                "a/b",
                "a:0",
                "a:",
                "a:123456",
                "a b",
                "u@a",
                "[::1",
                "a" * 257,
                "a\n",
                "é",
            ),
            "spki": (random_id("x"), some_hash("x") + "="),
        },
        "cls": {
            "fin": ("deny", "", "closed", "early"),
            "n": (-1, True, None),
            "tlb": (None, random_id("x")),
            "len": (True,),
            "cd": (random_id("x"),),
            "aud": ("https://a.example.org",),
        },
        "seg": {
            "seq": (True, "0"),
            "aud": ("https://a.example.org",),
            "up": ([], {}, {"len": 5}, {"cd": TAKEN["cd"]}, TAKEN | {"x": 1}, TAKEN | {"len": True}),
            "down": (5, TAKEN | {"cd": random_id("x")}),
        },
        "att": {
            "verdict": ("", "Attested", "unknown", True),
            "sub": ("https://a.example.org", "spiffe://prod.example.org"),
            "sx": (random_id("x"), some_hash("x") + "="),
            "exp": (True, "1"),
            "log": (
                None,
                {},
                [],
                {"origin": LOG["origin"]},
                {"vkey": LOG["vkey"]},
                LOG | {"x": 1},
                LOG | {"origin": ""},
                LOG | {"origin": "another"},
                LOG | {"vkey": LOG["origin"]},
                LOG | {"vkey": 5},
                {"origin": "o" * 257, "vkey": "o" * 257 + "+1+A"},
                LOG | {"vkey": LOG["vkey"] + "A" * 2048},
            ),
        },
    }
    for kind, members in wrong.items():
        for name, values in members.items():
            for number, value in enumerate(values, 1):
                payload = dumps(MAKERS[kind](**{name: value}))
                yield _bad(f"{kind}: {name} wrong value {number}", "typed claims", payload, (kind,))
    good: dict[str, dict[str, tuple[Any, ...]]] = {
        "rcp": {
            "st": (100, 999, 200),
            "len": (0, (1 << 53) - 1),
            "fin": ("eof", "abort", "deny"),
            "dec": ("", "é" * 64),
            "n": (0, (1 << 53) - 1),
            "tlb": (some_hash("trailers"),),
            "req": (TAKEN, {"len": 0, "cd": TAKEN["cd"]}),
            "iss": ("spiffe://prod.example.org/" + "a" * 230,),
        },
        "obs": {"host": ("a", "a:1", "a:65535", "10.0.0.1:443", "[2001:db8::1]", "[::1]:8443", "a" * 256)},
        "cls": {"fin": ("eof", "abort"), "len": (0,), "n": (0,), "tlb": (some_hash("trailers"),)},
        "seg": {"seq": (0, (1 << 53) - 1), "up": (TAKEN,), "down": ({"len": 0, "cd": TAKEN["cd"]},)},
        "att": {
            "verdict": ("attested", "withdrawn"),
            "exp": (0,),
            "log": (LOG, {"origin": "o" * 256, "vkey": "o" * 256 + "+1+A"}, {"origin": "é", "vkey": "é+" + "A" * 2045}),
        },
    }
    order = {"obs": list(observation_claims())}
    for kind, members in good.items():
        for name, values in members.items():
            for number, value in enumerate(values, 1):
                claims = MAKERS[kind](**{name: value})
                claims = {key: claims[key] for key in order.get(kind, claims)}
                yield _ok(f"{kind}: {name} good value {number}", "the bounds", claims)


def _kids() -> Iterator[Json]:
    for size in (0, 1, 8):
        yield _ok(f"kids: {size} listed", "at most eight", receipt_claims(kids=HASHES[:size]))
    for size in (9, 255, 300):
        yield _ok(f"kids: tree of {size}", "beyond eight", receipt_claims(kids=kids_tree(HASHES[:size])))
    yield _ok(
        "kids: the same twice",
        "two receipts of one text are the auditor's business",
        receipt_claims(kids=HASHES[:1] * 2),
    )
    tree = kids_tree(HASHES[:9])
    backwards = dumps(receipt_claims(kids={"root": tree["root"], "n": 9}))
    yield _ok("kids: tree written backwards", "any order is read", receipt_claims(kids=tree), backwards)
    bad: tuple[Any, ...] = (
        HASHES[:9],
        tree | {"n": 8},
        tree | {"n": 0},
        tree | {"n": -9},
        tree | {"n": "9"},
        tree | {"n": True},
        tree | {"n": 1 << 53},
        tree | {"x": 1},
        tree | {"root": None},
        tree | {"root": tree["root"][:-1] + "_"},
        {"n": 9},
        {"root": tree["root"]},
        {},
        None,
        HASHES[0],
        [HASHES[0], 5],
        [[HASHES[0]]],
        [HASHES[0][:-1] + "_"],
        [HASHES[0] + "="],
        [random_id("x")],
        [""],
    )
    for number, value in enumerate(bad, 1):
        yield _bad(f"kids: wrong {number}", "one form for each list", dumps(receipt_claims(kids=value)), ("rcp",))


def _encodings() -> Iterator[Json]:
    text = dumps(receipt_claims())
    deep = text[:-1] + b',"x":[[[[]]]]}'
    bad = {
        "claim twice": text[:-1] + b',"st":200}',
        "claim twice by escape": text[:-1] + b',"s\\u0074":500}',
        "kids twice": text[:-1] + b',"kids":[]}',
        "kids member twice": text.replace(b'"kids":[]', b'"kids":{"n":9,"n":9,"root":"' + HASHES[0].encode() + b'"}'),
        "unknown claim twice": text[:-1] + b',"x":1,"x":1}',
        "status as float": text.replace(b'"st":200', b'"st":200.0'),
        "status with exponent": text.replace(b'"st":200', b'"st":2e2'),
        "length minus zero": text.replace(f'"len":{len(ANSWER)}'.encode(), b'"len":-0'),
        "leading zero": text.replace(b'"st":200', b'"st":0200'),
        "five levels": deep,
        "byte order mark": b"\xef\xbb\xbf" + text,
        "text after the object": text + b"{}",
        "array around it": b"[" + text + b"]",
        "unpaired surrogate": text[:-1] + b',"x":"\\ud800"}',
        "trailing comma": text[:-1] + b",}",
        "nothing": b"",
    }
    for name, payload in bad.items():
        assert payload != text, name
        yield _bad(f"encoding: {name}", "strict JSON, as in records", payload, ("rcp",))
