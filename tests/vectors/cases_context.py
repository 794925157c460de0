"""Vectors of whole requests: peer, audience, time and binding (§6.6 to §6.9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import (
    BODY,
    DEFAULTS,
    STATE,
    Headers,
    Json,
    Scene,
    b64,
    b64u,
    case,
    digest,
    error,
    hop_claims,
    plain_headers,
    root_claims,
    with_prefix,
)


def context_cases() -> Iterator[Json]:
    yield from _peers()
    yield from _times()
    yield from _bindings()


def _code(name: str, why: str, scene: Scene, code: str, **members: Any) -> Json:
    return case(name, why, scene.input(**members), error(code))


def _peers() -> Iterator[Json]:
    scene = Scene()
    yield _code(
        "relay of a captured record",
        "another component's connection",
        scene,
        "identity",
        tls_peer=[b64(pki.SHELL.der)],
        state=STATE | {"certs": [b64(pki.REASONER.der)]},
    )
    renewed = pki.svid(spiffe("reasoner"), seed="reasoner after rotation")
    yield _code(
        "connection with another leaf of the same ID",
        "the leaf, not the ID, is pinned",
        scene,
        "identity",
        tls_peer=[b64(renewed.der)],
        state=STATE | {"certs": [b64(pki.REASONER.der)]},
    )
    known = STATE | {"certs": [b64(pki.REASONER.der)]}
    yield _code(
        "no client certificate visible",
        "refused unless policy allows it",
        scene,
        "identity",
        tls_peer=None,
        state=known,
    )
    srv = Scene(hop=hop_claims(srv=b64u(pki.REASONER.x5t_raw)))
    yield _code("srv of another server", "replay to another replica", srv, "audience")
    yield _code("aud of another component", "audience confusion", scene, "audience", own_id=spiffe("crm-connector-2"))
    yield _code("aud extended by a segment", "byte for byte", scene, "audience", own_id=spiffe("crm-connector") + "/x")
    origin = Scene(hop=hop_claims(aud="https://crm-connector.crm-assistant"))
    yield _code("aud an origin", "not an ID of ours", origin, "audience")


def _times() -> Iterator[Json]:
    scene = Scene()
    iat, exp = NOW - 1, NOW + 29
    for name, now, code in (
        ("ten seconds early", iat - 10, None),
        ("eleven seconds early", iat - 11, "expired"),
        ("nine seconds late", exp + 9, None),
        ("ten seconds late", exp + 10, "expired"),
    ):
        expect = scene.facts() if code is None else error(code)
        yield case(f"record {name}", "iat - 10 <= now < exp + 10", scene.input(now=now), expect)
    longest = Scene(hop=hop_claims(iat=NOW, exp=NOW + 60))
    yield case("record of 60 s", "the bound", longest.input(), longest.facts())
    yield _code("record of 61 s", "valid too long", Scene(hop=hop_claims(iat=NOW, exp=NOW + 61)), "expired")
    yield _code("ancestor of 61 s", "valid too long", Scene(root=root_claims(exp=NOW + 57)), "expired")
    ahead = Scene(root=root_claims(iat=NOW + 10, exp=NOW + 40), hop=hop_claims(iat=NOW))
    yield case("ancestor ten seconds ahead", "clocks of two nodes", ahead.input(), ahead.facts())
    yield _code(
        "ancestor eleven seconds ahead",
        "from the future",
        Scene(root=root_claims(iat=NOW + 11, exp=NOW + 41), hop=hop_claims(iat=NOW + 1)),
        "expired",
    )
    old_leaf = pki.svid(
        spiffe("orchestrator"), seed="orchestrator an hour ago", valid_from=NOW - 3600, valid_until=NOW - 600
    )
    auth = {"exp": NOW + 60, "hops": 7}
    for age, code in ((910, None), (911, "expired")):
        old = Scene(
            root=root_claims(iat=NOW - age, exp=NOW - age + 30, auth=auth), root_signer=old_leaf, certs=[old_leaf]
        )
        expect = old.facts() if code is None else error(code)
        yield case(f"root {age} s old", "900 s and the skew; its SVID has expired since", old.input(), expect)
        prefix = with_prefix([old.ancestor().text], old_leaf)
        yield case(
            f"root {age} s old, from the prefix cache",
            "the same",
            old.input(old.custody(chain=[]), state=prefix),
            expect,
        )


def _bindings() -> Iterator[Json]:
    scene = Scene()
    custody = scene.custody()

    def sent(headers: Headers, **members: Any) -> Json:
        return {"headers": headers + custody, **members}

    plain = plain_headers()
    without_digest = [each for each in plain if each[0] != "Content-Digest"]
    swapped = BODY.replace(b"4711", b"4712")
    attacks: dict[str, Json] = {
        "body swapped": sent(plain, body=b64(swapped)),
        "body and digest swapped": sent([*without_digest, ["Content-Digest", digest(swapped)]], body=b64(swapped)),
        "body removed": sent(plain, body=""),
        "body and digest removed": sent(without_digest, body=""),
        "digest removed": sent(without_digest),
        "method swapped": sent(plain, method="PUT"),
        "query swapped": sent(plain, target_uri=DEFAULTS["target_uri"].replace("tenant=7", "tenant=8")),
        "query removed": sent(plain, target_uri=DEFAULTS["target_uri"].partition("?")[0]),
        "path swapped": sent(plain, target_uri=DEFAULTS["target_uri"].replace("/mcp", "/admin")),
        "authority swapped": sent(plain, target_uri=DEFAULTS["target_uri"].replace("crm-connector.", "hr-connector.")),
        "covered field injected": sent([*plain, ["Authorization", "Bearer x"]]),
        "covered field injected in front": sent([["content-type", "text/plain"], *plain]),
        "covered field stripped": sent([each for each in plain if each[0] != "Mcp-Name"]),
        "covered field changed": sent(
            [["Mcp-Name", "crm.update"] if each[0] == "Mcp-Name" else each for each in plain]
        ),
        "content coding injected": sent([*plain, ["Content-Encoding", "gzip"]]),
        "upgrade injected": sent([*plain, ["Upgrade", "websocket"]]),
    }
    for name, given in attacks.items():
        yield case(name, "rqb and Content-Digest", given, error("binding"))
    moved = [["X-Forwarded-Host", "evil"], *plain[::-1], ["traceparent", "00-0-0-01"]]
    yield case("uncovered fields changed", "a mesh may do that", sent(moved), scene.facts())
    stream = Scene(hop=hop_claims(bm="stream"))
    yield _code("streamed body", "not accepted", stream, "forbidden")
    yield case(
        "streamed body without digest",
        "policy before digest",
        stream.input(stream.custody()) | {"headers": without_digest + stream.custody()},
        error("forbidden"),
    )
