"""Vectors of whole requests: what passes, and the format, context and binding checks (§6.1 to §6.4, §6.6 to §6.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import (
    BODY,
    DEFAULTS,
    POLICY,
    STATE,
    Headers,
    Json,
    Scene,
    b64,
    b64u,
    case,
    digest,
    dumps,
    error,
    hop_claims,
    plain_headers,
    random_id,
    root_claims,
    seal,
    some_hash,
    twin,
    with_prefix,
)

Edit = Callable[[Headers], Headers]


def root_scene(**changes: Any) -> Scene:
    """A request of the orchestrator to the connector that begins a chain; it is the record, there is no ancestor."""
    scene = Scene(
        hop=root_claims(aud=spiffe("crm-connector"), rqb=None, **changes), hop_signer=pki.ORCHESTRATOR, certs=[]
    )
    scene.root = scene.hop
    return scene


def root_input(scene: Scene, **members: Any) -> Json:
    return scene.input(scene.custody(chain=[]), **{"tls_peer": [b64(scene.hop_signer.der)], **members})


def root_facts(scene: Scene, **changes: Any) -> Json:
    return scene.facts(**{"path": [scene.hop["iss"]], **changes})


def ok_cases() -> Iterator[Json]:
    scene = Scene()
    yield case("two hops", "the ordinary case", scene.input(), scene.facts())
    root = root_scene()
    yield case("root", "chain of one record, certificate from the connection", root_input(root), root_facts(root))
    child_first = Scene(hop=hop_claims(iat=NOW - 14, exp=NOW + 16))
    yield case("child ten seconds before its parent", "clocks of two nodes", child_first.input(), child_first.facts())
    attributes = Scene(
        hop=hop_claims(
            op="tools/call crm.lookup",
            by="spiffe://prod.example.org/hopseal/broker/n1",
            tid="0" * 31 + "1",
            rr=False,
            in_=[some_hash("r")],
            apv=[],
        )
    )
    yield case("optional claims", "informative here", attributes.input(), attributes.facts())
    for party, name in ((pki.CONNECTOR, "current"), (pki.CONNECTOR_BEFORE, "previous")):
        srv = Scene(hop=hop_claims(srv=b64u(party.x5t_raw)))
        yield case(f"srv names the {name} leaf", "rotation", srv.input(), srv.facts())
    yield from _transport(scene)
    yield from _caches(scene)
    yield from _long_chains()
    batch = seal([dumps(root_claims(jti=random_id(str(i)))) for i in range(3)], pki.ORCHESTRATOR)
    sealed_together = Scene(hop=hop_claims(prev=batch[1].hash))
    given = sealed_together.input(sealed_together.custody(chain=[batch[1].text]))
    yield case("ancestor sealed with two others", "inclusion path", given, sealed_together.facts())


def _transport(scene: Scene) -> Iterator[Json]:
    custody = scene.custody()
    cases = {
        "field names in any case": [[name.upper(), value] for name, value in custody],
        "field lines in any order": custody[::-1],
        "white space around values": [[name, f" \t{value}\t "] for name, value in custody],
        "unknown Custody field": [*custody, ["Custody-Later", "x"]],
        "Custody-Handle from a peer": [*custody, ["Custody-Handle", random_id("handle")]],
        "early data zero": [*custody, ["Early-Data", "0"]],
    }
    for name, lines in cases.items():
        yield case(name, "ignored or insignificant", scene.input(lines), scene.facts())
    more = Scene(certs=[pki.ORCHESTRATOR, pki.REASONER, pki.PARTNER_CA])
    yield case("certificates that nothing needs", "kept for later", more.input(), more.facts())
    tight = scene.custody()
    tight[2][1] = f":{b64(pki.ORCHESTRATOR.der)}:,:{b64(pki.REASONER.der)}:"
    yield case("list without white space", "OWS is optional", scene.input(tight), scene.facts())
    wide = Scene(certs=[pki.ORCHESTRATOR, pki.REASONER]).custody()
    wide[2][1] = wide[2][1].replace(", ", " \t,\t ")
    yield case("list with much white space", "OWS is optional", scene.input(wide), scene.facts())
    hidden = scene.input(allow_no_peer=True, tls_peer=None, state=STATE | {"certs": [b64(pki.REASONER.der)]})
    yield case("no client certificate visible, allowed", "policy says so", hidden, scene.facts())
    twins = scene.custody(record=twin(scene.record().text), chain=[twin(scene.ancestor().text)])
    yield case("twin signatures", "(r, n - s) has the same statement hash", scene.input(twins), scene.facts())
    get = Scene(headers=plain_headers(b""), body=b"", method="GET")
    yield case("no body", "no digest", get.input(method="GET", body=""), get.facts())


def _caches(scene: Scene) -> Iterator[Json]:
    cached = STATE | {"certs": [b64(pki.ORCHESTRATOR.der)]}
    bare = Scene(certs=[])
    yield case("certificate from the cache", "acknowledged before", bare.input(state=cached), bare.facts())
    prefix = with_prefix([scene.ancestor().text])
    given = bare.input(bare.custody(chain=[]), state=prefix)
    yield case("ancestor from the prefix cache", "found by prev", given, bare.facts())
    yield case("inline ancestor equal to the cached text", "skipped", scene.input(state=prefix), scene.facts())
    twins = scene.custody(chain=[twin(scene.ancestor().text)])
    yield case(
        "inline twin of the cached text", "verified again, and holds", scene.input(twins, state=prefix), scene.facts()
    )
    used = STATE | {
        "replay": [[spiffe("reasoner"), random_id("hop"), NOW]],
        "roots": {random_id("chain"): spiffe("orchestrator")},
    }
    yield case("used before, expired since", "kept until exp + 10", scene.input(state=used), scene.facts())
    other = STATE | {"replay": [[spiffe("orchestrator"), random_id("hop"), NOW + 30]]}
    yield case("same jti of another issuer", "unique per iss", scene.input(state=other), scene.facts())
    last = STATE | {
        "replay": [[spiffe("x"), random_id("x"), NOW], [spiffe("y"), random_id("y"), NOW + 9]],
        "replay_capacity": 2,
    }
    yield case("room after an expired entry", "only unexpired entries count", scene.input(state=last), scene.facts())


def build_chain(length: int, **last: Any) -> tuple[list[str], Json]:
    """Sealed texts of a chain orchestrator, reasoner, orchestrator, …; the newest is of the reasoner to the connector."""
    texts, parent = [], None
    for hop in range(length):
        ours, theirs = ("orchestrator", "reasoner") if (length - hop) % 2 == 0 else ("reasoner", "orchestrator")
        newest = hop == length - 1
        common = {
            "iss": spiffe(ours),
            "aud": spiffe("crm-connector" if newest else theirs),
            "jti": random_id(f"long {hop}"),
            "hop": hop,
        }
        rqb = Scene().bind() if newest else some_hash("r")
        claims = hop_claims(**common, prev=parent, rqb=rqb) if parent else root_claims(**common, rqb=rqb)
        claims |= last if newest else {}
        statement = seal([dumps(claims)], pki.ORCHESTRATOR if ours == "orchestrator" else pki.REASONER)[0]
        texts, parent = [*texts, statement.text], statement.hash
    facts = Scene().facts(
        hop=length - 1,
        record=parent,
        path=[spiffe("orchestrator" if (length - hop) % 2 == 0 else "reasoner") for hop in range(length)],
    )
    return texts, facts


def _long_chains() -> Iterator[Json]:
    scene = Scene()
    texts, facts = build_chain(8)
    yield case("eight records", "the limit", scene.input(scene.custody(record=texts[-1], chain=texts[:-1])), facts)
    state = with_prefix(texts[:5])
    given = scene.input(scene.custody(record=texts[-1], chain=texts[5:-1]), state=state)
    yield case("eight records, five from the prefix cache", "prepended one by one", given, facts)


def format_cases() -> Iterator[Json]:
    yield from _names()
    yield from _sizes()
    yield from _grammar()
    yield from _certificates()


def _refused(name: str, why: str, custody: Headers, code: str, *missing: str, **members: Any) -> Json:
    return case(name, why, Scene().input(custody, **members), error(code, *missing))


def _names() -> Iterator[Json]:
    good = Scene().custody()
    for name in ("Custody_Record", "custody_chain", "Custody-Certs_", "CUSTODY_LATER"):
        yield _refused(f"underscore twin {name}", "a gateway may fold it", [*good, [name, "x"]], "malformed")
    yield _refused(
        "only an underscore twin", "names come first", [["Custody_Record", good[0][1]], *good[1:]], "malformed"
    )
    for index, (name, value) in enumerate(good):
        yield _refused(f"two {name} lines", "one line each", [*good, [name, value]], "duplicate")
        yield _refused(
            f"two {name} lines in different case", "one line each", [*good, [good[index][0].lower(), "x"]], "duplicate"
        )
    yield _refused(
        "two lines of an unknown Custody field",
        "any Custody field",
        [*good, ["Custody-X", "1"], ["custody-x", "2"]],
        "duplicate",
    )
    yield _refused("no record", "fails closed when a hop strips it", good[1:], "missing")
    yield _refused("no Custody field", "nothing at all", [], "missing")
    yield _refused("early data", "RFC 8470", [*good, ["Early-Data", " 1 "]], "early_data")
    yield _refused(
        "early data in a second line",
        "raw header list",
        [*good, ["early-data", "0"], ["Early-Data", "1"]],
        "early_data",
    )


def _sizes() -> Iterator[Json]:
    record, chain, certs = Scene().custody()
    text, ancestor = record[1], chain[1]

    def line(name: str, size: int) -> list[str]:
        return [name, "A" * size]

    yield _refused(
        "record of 4,096 bytes",
        "within the bound, then not five parts",
        [line("Custody-Record", 4096), chain, certs],
        "malformed",
    )
    yield _refused(
        "record of 4,097 bytes", "too large before decoding", [line("Custody-Record", 4097), chain, certs], "too_large"
    )
    yield _refused(
        "chain of 12,289 bytes",
        "too large before decoding",
        [record, ["Custody-Chain", ",".join(["A" * 4000] * 3) + "," + "A" * 286], certs],
        "too_large",
    )
    yield _refused(
        "chain of 12,288 bytes",
        "within the bound, then malformed",
        [record, ["Custody-Chain", ",".join(["A" * 4000] * 3) + "," + "A" * 285], certs],
        "malformed",
    )
    yield _refused(
        "ancestor of 4,097 bytes", "each is a sealed record", [record, line("Custody-Chain", 4097), certs], "too_large"
    )
    yield _refused(
        "certs of 8,193 bytes",
        "too large before decoding",
        [record, chain, ["Custody-Certs", ",".join([":" + "A" * 1996 + ":"] * 4) + "," + "A" * 197]],
        "too_large",
    )
    yield _refused(
        "eleven certificates",
        "at most ten",
        [record, chain, ["Custody-Certs", ", ".join([f":{b64(bytes([i]))}:" for i in range(11)])]],
        "too_large",
    )
    yield _refused(
        "ten certificates",
        "they count, whatever they are",
        [record, chain, ["Custody-Certs", ", ".join([f":{b64(bytes([i]))}:" for i in range(10)])]],
        "unresolved",
        f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}",
    )
    big = f":{b64(bytes(2049))}:"
    yield _refused(
        "certificate of 2,049 bytes", "too large before decoding", [record, chain, ["Custody-Certs", big]], "too_large"
    )
    full = f":{b64(bytes(2048))}:"
    yield _refused(
        "certificate of 2,048 bytes",
        "within the bound, then useless",
        [record, chain, ["Custody-Certs", full]],
        "unresolved",
        f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}",
    )
    filler = 20_480 - sum(len(name) + len(value) for name, value in (record, chain, certs)) - len("Custody-X")
    scene = Scene()
    yield case(
        "20,480 bytes in all",
        "names and values of every Custody field",
        scene.input([record, chain, certs, line("Custody-X", filler)]),
        scene.facts(),
    )
    yield _refused(
        "20,481 bytes in all",
        "names and values of every Custody field",
        [record, chain, certs, line("Custody-X", filler + 1)],
        "too_large",
    )
    yield _refused(
        "nine records", "eight at most", [record, ["Custody-Chain", ", ".join(["a.b"] * 8)], certs], "too_long"
    )
    yield _refused(
        "eight records, not sealed",
        "eight are counted in",
        [record, ["Custody-Chain", ", ".join(["a.b"] * 7)], certs],
        "malformed",
    )
    yield _refused(
        "too long and too large",
        "sizes first",
        [line("Custody-Record", 4097), ["Custody-Chain", ", ".join(["a.b"] * 8)], certs],
        "too_large",
    )
    assert len(text) < 4096
    assert len(ancestor) < 4096


def _grammar() -> Iterator[Json]:
    record, chain, certs = Scene().custody()
    for name, lines in {
        "record empty": [["Custody-Record", ""], chain, certs],
        "record a list": [["Custody-Record", f"{record[1]}, {record[1]}"], chain, certs],
        "record quoted": [["Custody-Record", f'"{record[1]}"'], chain, certs],
        "record with parameters": [["Custody-Record", record[1] + ";a=1"], chain, certs],
        "record outside ASCII": [["Custody-Record", record[1] + "\xe9"], chain, certs],
        "chain empty": [record, ["Custody-Chain", " "], certs],
        "chain with an empty element": [record, ["Custody-Chain", f"{chain[1]}, "], certs],
        "chain with a leading comma": [record, ["Custody-Chain", f", {chain[1]}"], certs],
        "chain parted by a newline": [record, ["Custody-Chain", f"{chain[1]},\n{chain[1]}"], certs],
    }.items():
        yield _refused(name, "the grammar of §4.1", lines, "malformed")
    for kind in ("rcp", "obs", "cls", "att"):
        other = Scene(hop=hop_claims(t=kind))
        yield case(f"record of type {kind}", "one type never passes for another", other.input(), error("malformed"))
        ancestor = Scene(root=root_claims(t=kind))
        yield case(
            f"ancestor of type {kind}", "one type never passes for another", ancestor.input(), error("malformed")
        )
    none = seal([dumps(hop_claims(prev=some_hash("p"), rqb=some_hash("r")))], pki.REASONER, header=b'{"alg":"none"}')[0]
    yield _refused("alg none", "closed header", [["Custody-Record", none.text], chain, certs], "malformed")


def _certificates() -> Iterator[Json]:
    record, chain, _ = Scene().custody()
    der = b64(pki.ORCHESTRATOR.der)
    for name, value in {
        "certs empty": "", "no colons": der, "one colon": f":{der}", "empty certificate": "::", "only a colon": ":", "base64url": ":__79:", "without padding": ":AA:",
        "padding too many": ":AA===:", "unused bits": ":AB==:", "space inside": ":AA AA:", "parameters": f":{der}:;a=1", "empty element": f":{der}:,", "quoted": f'":{der}:"',
    }.items():  # fmt: skip
        yield _refused(f"certs: {name}", "byte sequences", [record, chain, ["Custody-Certs", value]], "malformed")
    thumbprints = [f"cert:{b64u(party.x5t_raw)}" for party in (pki.ORCHESTRATOR, pki.REASONER)]
    yield _refused(
        "ancestor's certificate absent", "named by thumbprint", [record, chain], "unresolved", thumbprints[0]
    )
    hidden = {"tls_peer": None, "allow_no_peer": True}
    yield _refused(
        "both certificates absent", "oldest record first", [record, chain], "unresolved", *thumbprints, **hidden
    )
    twice = Scene(
        hop=hop_claims(iss=spiffe("orchestrator"), aud=spiffe("crm-connector")),
        root=root_claims(aud=spiffe("orchestrator")),
        hop_signer=pki.ORCHESTRATOR,
        certs=[],
    )
    yield case(
        "one certificate absent for two records", "named once", twice.input(), error("unresolved", thumbprints[0])
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
        ("ten seconds early", iat - 10, None), ("eleven seconds early", iat - 11, "expired"), ("nine seconds late", exp + 9, None), ("ten seconds late", exp + 10, "expired"),
    ):  # fmt: skip
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


def policy(**changes: Any) -> Json:
    return POLICY | changes
