"""Vectors of whole requests that pass."""

from __future__ import annotations

from collections.abc import Iterator

from vectors import pki
from vectors.chains import build_chain, root_facts, root_input, root_scene
from vectors.pki import NOW, spiffe
from vectors.scene import (
    STATE,
    Json,
    Scene,
    b64,
    b64u,
    case,
    dumps,
    hop_claims,
    plain_headers,
    random_id,
    root_claims,
    seal,
    some_hash,
    twin,
    with_prefix,
)


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


def _long_chains() -> Iterator[Json]:
    scene = Scene()
    texts, facts = build_chain(8)
    yield case("eight records", "the limit", scene.input(scene.custody(record=texts[-1], chain=texts[:-1])), facts)
    state = with_prefix(texts[:5])
    given = scene.input(scene.custody(record=texts[-1], chain=texts[5:-1]), state=state)
    yield case("eight records, five from the prefix cache", "prepended one by one", given, facts)
