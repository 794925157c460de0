"""Vectors of authority: folding, covering and the check of one call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors.pki import NOW, spiffe
from vectors.scene import Json, case, error

AUTH: Json = {"exp": NOW + 600, "hops": 5}
DENIED = error("authority")
DEFAULTS: Json = {
    "auth": AUTH,
    "atts": [],
    "hop": 1,
    "now": NOW,
    "own_id": spiffe("crm-connector"),
    "operations": ["tools/call crm.lookup", "POST /mcp"],
}


def _left(**changes: Any) -> Json:
    return {
        "result": "ok",
        "authority": {"scope": None, "exp": NOW + 600, "hops": 5, "aud": None, "ops": None} | changes,
    }


def folding_cases() -> Iterator[Json]:
    yield case("nothing narrowed", "auth alone", {"atts": [None, None]}, _left())
    yield case("empty narrowing", "takes nothing away", {"atts": [{}]}, _left())
    yield from _numbers()
    yield from _scopes()
    yield from _patterns("aud")
    yield from _patterns("ops")
    yield from _calls()


def _numbers() -> Iterator[Json]:
    yield case(
        "exp and hops lowered twice",
        "each below the one before",
        {"atts": [{"exp": NOW + 60, "hops": 4}, {"exp": NOW + 50, "hops": 2}]},
        _left(exp=NOW + 50, hops=2),
    )
    yield case("exp and hops repeated", "equal is allowed", {"atts": [{"exp": NOW + 600, "hops": 5}]}, _left())
    yield case("exp raised", "an error, not clipped", {"atts": [{"exp": NOW + 601}]}, DENIED)
    yield case("hops raised", "an error, not clipped", {"atts": [{"hops": 6}]}, DENIED)
    yield case("exp raised back", "to what the root gave", {"atts": [{"exp": NOW + 60}, {"exp": NOW + 600}]}, DENIED)
    yield case("hops raised back", "to what the root gave", {"atts": [{"hops": 3}, None, {"hops": 4}]}, DENIED)


def _scopes() -> Iterator[Json]:
    auth = AUTH | {"scope": "write read admin"}
    yield case("scope kept", "as a set", {"auth": auth}, _left(scope=["admin", "read", "write"]))
    yield case(
        "scope narrowed",
        "a subset",
        {"auth": auth, "atts": [{"scope": "read write"}, {"scope": "read"}]},
        _left(scope=["read"]),
    )
    yield case("scope emptied", "the empty set is a subset", {"auth": auth, "atts": [{"scope": ""}]}, _left(scope=[]))
    yield case("scope first set by a hop", "the root set none", {"atts": [{"scope": "read"}]}, _left(scope=["read"]))
    yield case("scope widened", "one token more", {"auth": auth, "atts": [{"scope": "read delete"}]}, DENIED)
    yield case(
        "scope widened back",
        "to what the root gave",
        {"auth": auth, "atts": [{"scope": "read"}, {"scope": "write"}]},
        DENIED,
    )
    yield case(
        "scope tokens are case sensitive", "Read is not read", {"auth": auth, "atts": [{"scope": "Read"}]}, DENIED
    )


def _patterns(kind: str) -> Iterator[Json]:
    base, mine = (
        ("spiffe://prod.example.org/agents", spiffe("crm-connector"))
        if kind == "aud"
        else ("tools/call", "tools/call crm.lookup")
    )
    if kind == "aud":
        covered = [
            ("exact", mine, mine),
            ("prefix", f"{base}/*", mine),
            ("narrower prefix", f"{base}/*", f"{base}/crm-assistant/*"),
            ("same prefix", f"{base}/*", f"{base}/*"),
            ("whole trust domain", "spiffe://prod.example.org/*", f"{base}/*"),
        ]
        wider = [
            ("other ID", mine, spiffe("other")),
            ("prefix under exact", mine, f"{mine}/*"),
            ("prefix is not itself", f"{mine}/*", mine),
            ("wider prefix", f"{base}/crm-assistant/*", f"{base}/*"),
            ("half a segment", f"{base}/crm/*", mine),
            ("other trust domain", "spiffe://prod.example.org/*", "spiffe://prod.example.org.evil/*"),
        ]
    else:
        covered = [
            ("exact", mine, mine),
            ("prefix", f"{base} *", mine),
            ("narrower prefix", f"{base} *", f"{base} crm.*"),
            ("same prefix", f"{base} *", f"{base} *"),
            ("everything", "*", f"{base} crm.l*"),
            ("prefix itself", f"{mine}*", mine),
        ]
        wider = [
            ("other operation", mine, f"{base} crm.update"),
            ("prefix under exact", mine, f"{mine}*"),
            ("wider prefix", f"{base} crm.*", f"{base} *"),
            ("everything", f"{base} *", "*"),
            ("prefix that ends in a star", f"{base} crm.**", f"{base} crm.*"),
            ("star inside is no wildcard", "tools/*/x", "tools/call/x"),
        ]
    for name, parent, child in covered:
        given = {"auth": AUTH | {kind: [parent]}, "atts": [{kind: [child]}]}
        yield case(f"{kind} covered: {name}", "a parent pattern covers it", given, _left(**{kind: [child]}))
    for name, parent, child in wider:
        given = {"auth": AUTH | {kind: [parent]}, "atts": [{kind: [child]}]}
        yield case(f"{kind} wider: {name}", "no parent pattern covers it", given, DENIED)
    yield case(f"{kind} first set by a hop", "the root set none", {"atts": [{kind: [mine]}]}, _left(**{kind: [mine]}))
    several = {"auth": AUTH | {kind: [mine, f"{base}/x/*" if kind == "aud" else "GET /*"]}, "atts": [{kind: [mine]}]}
    yield case(f"{kind} one of several", "each child needs one parent", several, _left(**{kind: [mine]}))
    yield case(
        f"{kind} one child uncovered",
        "all children need one",
        {"auth": AUTH | {kind: [mine]}, "atts": [{kind: [mine, mine + "x"]}]},
        DENIED,
    )
    yield case(
        f"{kind} emptied", "nobody and nothing is left", {"auth": AUTH | {kind: [mine]}, "atts": [{kind: []}]}, DENIED
    )
    yield case(
        f"{kind} widened after a narrower hop",
        "hop by hop",
        {"auth": AUTH | {kind: [mine]}, "atts": [{kind: [mine]}, {}, {kind: [mine + "x"]}]},
        DENIED,
    )


def _calls() -> Iterator[Json]:
    yield case("hop at the limit", "hops is the highest allowed hop", {"hop": 5}, _left())
    yield case("hop beyond the limit", "one more", {"hop": 6}, DENIED)
    yield case("hop beyond a narrowed limit", "after folding", {"hop": 2, "atts": [{"hops": 1}, None]}, DENIED)
    yield case("last second", "before exp", {"now": NOW + 599}, _left())
    yield case("at exp", "now >= exp", {"now": NOW + 600}, DENIED)
    yield case("not in aud", "own ID", {"auth": AUTH | {"aud": [spiffe("reasoner")]}}, DENIED)
    yield case(
        "aud prefix of whole segments",
        "crm is no prefix of crm-connector",
        {"auth": AUTH | {"aud": [spiffe("crm") + "/*"]}},
        DENIED,
    )
    second = AUTH | {"ops": ["POST /mcp"]}
    yield case("second name of the operation", "any of them", {"auth": second}, _left(ops=["POST /mcp"]))
    yield case(
        "operation not covered", "none of them", {"auth": AUTH | {"ops": ["tools/call crm.update", "GET *"]}}, DENIED
    )
    yield case("no operation derived", "an unreadable message", {"auth": second, "operations": []}, DENIED)
    yield case("no operation derived, none limited", "ops absent", {"operations": []}, _left())
    yield case("operations are case sensitive", "Post is not POST", {"auth": AUTH | {"ops": ["Post *"]}}, DENIED)
    yield case(
        "unknown member in auth",
        "a limit not understood is not kept",
        {"auth": AUTH | {"budget": 5}},
        error("malformed"),
    )
    yield case(
        "unknown member in att", "a limit not understood is not kept", {"atts": [{"budget": 5}]}, error("malformed")
    )
