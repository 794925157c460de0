"""Vectors of whole requests: authority, policy, replay, and the order of all checks (§6.12 to §6.15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.chains import policy, root_facts, root_input, root_scene
from vectors.pki import NOW, Party, spiffe
from vectors.scene import (
    ABSENT,
    STATE,
    Json,
    Scene,
    b64,
    b64u,
    case,
    dumps,
    error,
    hop_claims,
    random_id,
    root_claims,
    seal,
    some_hash,
)


def authority_cases() -> Iterator[Json]:
    yield from _roots()
    yield from _folded()
    yield from _last_checks()
    yield from _order()


def _denied(name: str, why: str, scene: Scene, **members: Any) -> Json:
    return case(name, why, scene.input(**members), error("authority"))


def _roots() -> Iterator[Json]:
    for name in ("obo", "auth", "task"):
        yield _denied(f"root without {name}", "required of a root", Scene(root=root_claims(**{name: ABSENT})))
    at_most = Scene(root=root_claims(auth={"exp": NOW - 4 + 3600, "hops": 7}))
    yield case("authority of an hour", "the bound", at_most.input(), at_most.facts())
    yield _denied(
        "authority of an hour and a second",
        "lasts too long",
        Scene(root=root_claims(auth={"exp": NOW - 4 + 3601, "hops": 7})),
    )
    obo = {"iss": "https://tts.prod.example.org", "sub": "u-1", "typ": "txn", "th": some_hash("token"), "exp": NOW + 60}
    yield _denied("root on somebody's behalf", "no issuer is configured", Scene(root=root_claims(obo=obo)))
    yield _denied(
        "autonomous root not allowed", "policy by issuer", Scene(), policy=policy(autonomous_roots=[spiffe("shell")])
    )
    yield _denied("autonomous root, nobody allowed", "deny by default", Scene(), policy=policy(autonomous_roots=[]))
    one = Scene()
    yield case(
        "autonomous root allowed by ID",
        "policy by issuer",
        one.input(policy=policy(autonomous_roots=[spiffe("orchestrator")])),
        one.facts(),
    )


def _folded() -> Iterator[Json]:
    wide = {
        "exp": NOW + 600,
        "hops": 3,
        "scope": "read write",
        "aud": ["spiffe://prod.example.org/agents/*"],
        "ops": ["tools/*", "POST *"],
    }
    narrow = {
        "exp": NOW + 60,
        "hops": 1,
        "scope": "read",
        "aud": [spiffe("crm-connector")],
        "ops": ["tools/call crm.*"],
    }
    scene = Scene(root=root_claims(auth=wide), hop=hop_claims(att=narrow))
    left = narrow | {"scope": ["read"]}
    yield case("narrowed", "what is left goes on", scene.input(), scene.facts(authority=left))
    for member, value in {
        "exp": NOW + 601,
        "hops": 4,
        "scope": "read write admin",
        "aud": ["spiffe://prod.example.org/*"],
        "ops": ["*"],
    }.items():
        yield _denied(
            f"{member} widened",
            "an error, never clipped",
            Scene(root=root_claims(auth=wide), hop=hop_claims(att={member: value})),
        )
    yield _denied("hop beyond hops", "highest hop allowed", Scene(root=root_claims(auth={"exp": NOW + 60, "hops": 0})))
    yield _denied("authority expired", "now >= exp", Scene(root=root_claims(auth={"exp": NOW, "hops": 7})))
    brief = Scene(root=root_claims(auth={"exp": NOW + 1, "hops": 1}))
    yield case("authority in its last second", "now < exp", brief.input(), brief.facts())
    yield _denied("receiver not in aud", "own ID", Scene(root=root_claims(auth=wide | {"aud": [spiffe("reasoner")]})))
    yield _denied(
        "operation not in ops",
        "as the receiver derives it",
        Scene(
            root=root_claims(auth=wide), hop=hop_claims(op="tools/call crm.lookup", att={"ops": ["tools/call hr.*"]})
        ),
    )
    root = root_scene(auth={"exp": NOW + 60, "hops": 0})
    yield case("hops 0 and a root", "the root alone", root_input(root), root_facts(root))


def _last_checks() -> Iterator[Json]:
    scene = Scene()
    yield case(
        "path refused by policy",
        "every issuer is looked at",
        scene.input(policy=policy(forbidden_on_path=[spiffe("orchestrator")])),
        error("forbidden"),
    )
    used = [spiffe("reasoner"), random_id("hop"), NOW + 1]
    yield case(
        "replay", "same iss and jti within its time", scene.input(state=STATE | {"replay": [used]}), error("replayed")
    )
    batch = seal(
        [
            dumps(hop_claims(prev=scene.ancestor().hash, rqb=scene.bind())),
            dumps(hop_claims(prev=some_hash("x"), rqb=some_hash("y"))),
        ],
        pki.REASONER,
    )
    yield case(
        "replay under another seal",
        "path and seal may differ for one statement",
        scene.input(scene.custody(record=batch[0].text), state=STATE | {"replay": [used]}),
        error("replayed"),
    )
    full = STATE | {"replay": [[spiffe("x"), random_id("x"), NOW + 1]], "replay_capacity": 1}
    yield case(
        "replay store full", "refuse, never forget what is unexpired", scene.input(state=full), error("unavailable")
    )
    full_and_used = STATE | {"replay": [used], "replay_capacity": 1}
    yield case(
        "replay store full, record used", "known to be a replay", scene.input(state=full_and_used), error("replayed")
    )


def _order() -> Iterator[Json]:
    """Each case has the faults of two steps; the first in the order of §6 gives the code."""
    good = Scene()
    far = {"own_id": spiffe("elsewhere")}
    late = {"now": NOW + 500}
    captured = {"tls_peer": [b64(pki.SHELL.der)], "state": STATE | {"certs": [b64(pki.REASONER.der)]}}
    forged = Party(pki.REASONER.der, pki.key_of("somebody else"))
    yield case(
        "order: duplicate before missing",
        "§6.1",
        good.input([["Custody-Chain", "x"], ["Custody-Chain", "x"]]),
        error("duplicate"),
    )
    yield case(
        "order: name before duplicate",
        "§6.1",
        good.input([["Custody_Chain", "x"], ["Custody-Chain", "x"], ["Custody-Chain", "x"]]),
        error("malformed"),
    )
    yield case("order: missing before early data", "§6.1", good.input([["Early-Data", "1"]]), error("missing"))
    yield case(
        "order: early data before sizes",
        "§6.1, §6.2",
        good.input([["Custody-Record", "A" * 5000], ["Early-Data", "1"]]),
        error("early_data"),
    )
    yield case(
        "order: malformed before unresolved",
        "§6.3, §6.4",
        good.input([good.custody()[0], ["Custody-Chain", "x"]]),
        error("malformed"),
    )
    yield case(
        "order: unresolved before identity",
        "§6.4, §6.6",
        good.input(good.custody()[:2], **captured),
        error("unresolved", f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}"),
    )
    yield case("order: identity before audience", "§6.6, §6.7", good.input(**captured, **far), error("identity"))
    yield case("order: audience before expired", "§6.7, §6.8", good.input(**far, **late), error("audience"))
    yield case("order: expired before binding", "§6.8, §6.9", good.input(**late, method="PUT"), error("expired"))
    yield case(
        "order: binding before unknown ancestor",
        "§6.9, §6.10",
        good.input(good.custody(chain=[]), method="PUT"),
        error("binding"),
    )
    broken = Scene(hop=hop_claims(cid=random_id("other")), hop_signer=forged)
    yield case("order: chain before signature", "§6.11, §6.5", broken.input(), error("chain"))
    taken = STATE | {"roots": {random_id("chain"): spiffe("shell")}}
    yield case(
        "order: signature before the root's issuer",
        "§6.5, §6.12",
        Scene(hop_signer=forged).input(state=taken),
        error("signature"),
    )
    yield case(
        "order: signature before authority",
        "§6.5, §6.12",
        Scene(root=root_claims(auth=ABSENT), hop_signer=forged).input(),
        error("signature"),
    )
    both = Scene(root_signer=pki.SHELL, certs=[pki.SHELL], hop_signer=forged)
    yield case("order: oldest record first", "§6.5", both.input(), error("identity"))
    no_root = policy(autonomous_roots=[], forbidden_on_path=[spiffe("reasoner")])
    yield case("order: authority before forbidden", "§6.13, §6.14", good.input(policy=no_root), error("authority"))
    used = STATE | {"replay": [[spiffe("reasoner"), random_id("hop"), NOW + 1]]}
    yield case(
        "order: forbidden before replayed",
        "§6.14, §6.15",
        good.input(policy=policy(forbidden_on_path=[spiffe("reasoner")]), state=used),
        error("forbidden"),
    )
