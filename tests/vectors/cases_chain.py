"""Vectors of whole requests: links, trust, authority, replay and the order of the checks (§6.5, §6.10 to §6.15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from vectors import pki
from vectors.cases_receive import build_chain, policy, root_facts, root_input, root_scene
from vectors.pki import NOW, Party, spiffe
from vectors.scene import (
    ABSENT,
    STATE,
    Json,
    Scene,
    Statement,
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
    unb64u,
    with_prefix,
)

CHAIN = error("chain")


def chain_cases() -> Iterator[Json]:
    yield from _links()
    yield from _assembly()
    yield from _attacks()


def _links() -> Iterator[Json]:
    bad: dict[str, Scene] = {
        "hop 2 after hop 0": Scene(hop=hop_claims(hop=2)),
        "two roots": Scene(hop=hop_claims(hop=0)),
        "prev of another record": Scene(hop=hop_claims(prev=some_hash("another"))),
        "prev absent": Scene(hop=hop_claims(prev=ABSENT)),
        "prev in a root": Scene(root=root_claims(prev=some_hash("x"))),
        "att in a root": Scene(root=root_claims(att={"hops": 3})),
        "cid changes": Scene(hop=hop_claims(cid=random_id("other"))),
        "handoff to another": Scene(root=root_claims(aud=spiffe("guard"))),
        "handoff to an origin": Scene(root=root_claims(aud="https://reasoner.crm-assistant")),
        "child eleven seconds before its parent": Scene(
            root=root_claims(iat=NOW + 8, exp=NOW + 38), hop=hop_claims(iat=NOW - 3)
        ),
        "obo beyond the root": Scene(hop=hop_claims(obo=None)),
        "task beyond the root": Scene(hop=hop_claims(task={"id": "t"})),
        "auth beyond the root": Scene(hop=hop_claims(auth={"exp": NOW + 60, "hops": 9})),
        "cont beyond the root": Scene(
            hop=hop_claims(cont={"rec": some_hash("r"), "cid": random_id("c"), "why": "resume"})
        ),
    }
    for name, scene in bad.items():
        yield case(name, "§6.11", scene.input(), CHAIN)
    taken = STATE | {"roots": {random_id("chain"): spiffe("shell")}}
    yield case(
        "cid begun by another component",
        "several roots of one cid only from one issuer",
        Scene().input(state=taken),
        CHAIN,
    )
    root = root_scene()
    yield case(
        "sibling root of the same component",
        "hop 0 again with the same cid",
        root_input(root, state=STATE | {"roots": {random_id("chain"): spiffe("orchestrator")}}),
        root_facts(root),
    )
    yield case("sibling root of another component", "only from one issuer", root_input(root, state=taken), CHAIN)


def _assembly() -> Iterator[Json]:
    scene = Scene()
    parent = scene.ancestor()
    alone = scene.custody(chain=[])
    yield case(
        "ancestor not known",
        "asked for by statement hash",
        scene.input(alone),
        error("unresolved", f"rec:{parent.hash}"),
    )
    texts, _ = build_chain(4)
    middle = scene.custody(record=texts[3], chain=texts[2:3])
    second = seal_hash(texts[1])
    first = seal_hash(texts[0])
    yield case(
        "two ancestors not known",
        "the next one is asked for",
        scene.input(middle),
        error("unresolved", f"rec:{second}"),
    )
    yield case(
        "one ancestor cached, its parent not",
        "the next one is asked for",
        scene.input(middle, state=with_prefix(texts[1:2])),
        error("unresolved", f"rec:{first}"),
    )
    orphan = Scene(hop=hop_claims(prev=ABSENT))
    yield case("hop 1 alone without prev", "no way to its parent", orphan.input(orphan.custody(chain=[])), CHAIN)
    long, _ = build_chain(9)
    given = scene.input(scene.custody(record=long[8], chain=long[5:8]), state=with_prefix(long[:5]))
    yield case("nine records, five from the prefix cache", "eight at most in all", given, error("too_long"))


def seal_hash(text: str) -> str:
    """Statement hash of a sealed text by the reasoner or the orchestrator."""
    payload, _, header = text.split(".")[:3]
    signer = next(party for party in (pki.REASONER, pki.ORCHESTRATOR) if b64u(party.x5t_raw).encode() in unb64u(header))
    return seal([unb64u(payload)], signer)[0].hash


def _attacks() -> Iterator[Json]:
    scene = Scene()
    foreign = Scene(root=root_claims(jti=random_id("other root"), task={"id": "task of another user"}))
    yield case(
        "splice",
        "another user's root under this record",
        scene.input(scene.custody(chain=[foreign.ancestor().text])),
        CHAIN,
    )
    texts, _ = build_chain(4)
    cut = scene.custody(record=texts[3], chain=[texts[0], texts[2]])
    yield case("hop cut out", "hop and prev", scene.input(cut), CHAIN)
    yield case(
        "hop repeated", "hop and prev", scene.input(scene.custody(record=texts[3], chain=[*texts[:3], texts[2]])), CHAIN
    )
    yield case(
        "hops reordered",
        "hop and prev",
        scene.input(scene.custody(record=texts[3], chain=[texts[0], texts[2], texts[1]])),
        CHAIN,
    )
    yield case(
        "chain newest first",
        "hop and prev",
        scene.input(scene.custody(record=texts[3], chain=texts[2::-1])),
        error("unresolved", f"rec:{seal_hash(texts[1])}"),
    )
    yield case(
        "root cut off",
        "prev is not known here",
        scene.input(scene.custody(record=texts[3], chain=texts[1:3])),
        error("unresolved", f"rec:{seal_hash(texts[0])}"),
    )
    forged = hop_claims(hop=1, prev=seal_hash(texts[0]))
    shortened = Scene(root=root_claims(iss=spiffe("orchestrator"), aud=spiffe("reasoner")), hop=forged)
    truncated = shortened.input(shortened.custody(chain=[texts[0]]))
    yield case(
        "truncated and continued by the receiver of the root",
        "honest only if the root was handed to it",
        truncated,
        scene.facts(record=shortened.record().hash),
    )
    stolen = Scene(hop=hop_claims(iss=spiffe("shell")), hop_signer=pki.SHELL)
    yield case(
        "stolen chain continued by another component",
        "handoff rule",
        stolen.input(tls_peer=[b64(pki.SHELL.der)]),
        CHAIN,
    )
    longer = hop_claims(iss=spiffe("reasoner"), hop=3, prev=seal_hash(texts[2]), rqb=scene.bind())
    skipped = seal([dumps(longer)], pki.REASONER)[0]
    yield case(
        "hop number skipped",
        "hop is the position",
        scene.input(scene.custody(record=skipped.text, chain=[texts[0], texts[2]])),
        CHAIN,
    )


def trust_cases() -> Iterator[Json]:
    yield from _identities()
    yield from _leaves()
    yield from _authorities()
    yield from _signatures()


def _by(
    signer: Party, name: str, why: str, code: str, *, given: Json | None = None, certs: list[Party] | None = None
) -> Json:
    """The orchestrator's record sealed by ``signer``."""
    scene = Scene(root_signer=signer, certs=certs or [signer])
    return case(name, why, scene.input(**(given or {})), scene.facts() if code == "ok" else error(code))


def _identities() -> Iterator[Json]:
    yield _by(pki.SHELL, "sealed by another component", "iss is the SAN of the leaf", "identity")
    glued = seal([dumps(root_claims()), dumps(hop_claims(prev=some_hash("x"), rqb=some_hash("y")))], pki.SHELL)
    scene = Scene(hop=hop_claims(prev=glued[0].hash), certs=[pki.SHELL])
    yield case(
        "one seal glued over two issuers",
        "iss against the leaf for every statement",
        scene.input(scene.custody(chain=[glued[0].text])),
        error("identity"),
    )
    minted = pki.svid(spiffe("orchestrator"), "partner CA")
    yield _by(minted, "a partner's CA mints our ID", "the bundle of the SAN's trust domain only", "untrusted")
    gateway = Scene(root=root_claims(iss=spiffe("gateway", pki.PARTNER)), root_signer=pki.GATEWAY, certs=[pki.GATEWAY])
    everywhere = policy(autonomous_roots=["spiffe://partner.example.net/*"])
    yield case(
        "chain that begins in another trust domain",
        "each signer with its own bundle",
        gateway.input(policy=everywhere),
        gateway.facts(),
    )
    alone = {pki.PROD: [b64(pki.PROD_CA.der)]}
    yield case(
        "trust domain without a bundle",
        "nobody vouches for it",
        gateway.input(policy=everywhere, bundles=alone),
        error("untrusted"),
    )
    swapped = {pki.PROD: [b64(pki.PARTNER_CA.der)], pki.PARTNER: [b64(pki.PROD_CA.der)]}
    yield case("bundles exchanged", "never a merged store", Scene().input(bundles=swapped), error("untrusted"))
    yield case("no bundle at all", "fail closed, try again", Scene().input(bundles={}), error("unavailable"))


def _leaves() -> Iterator[Json]:
    me, usage = spiffe("orchestrator"), pki.usage
    shapes: dict[str, Party] = {
        "no URI SAN": pki.svid((), seed=me),
        "two URI SANs": pki.svid((me, spiffe("reasoner"))),
        "the same URI SAN twice": pki.svid((me, me)),
        "SAN of another scheme": pki.svid("https://prod.example.org/agents/crm-assistant/orchestrator"),
        "SAN without path": pki.svid("spiffe://prod.example.org"),
        "SAN with an empty path": pki.svid("spiffe://prod.example.org/"),
        "SAN in upper case": pki.svid(me.replace("prod", "PROD")),
        "SAN with a dot segment": pki.svid("spiffe://prod.example.org/agents/x/../crm-assistant/orchestrator"),
        "SAN with a NUL": pki.svid(me + "\x00.partner.example.net"),
        "SAN of 257 bytes": pki.svid("spiffe://prod.example.org/" + "a" * 231),
        "a CA": pki.svid(me, ca=True),
        "no key usage": pki.svid(me, key_usage=None),
        "no digitalSignature": pki.svid(me, key_usage=_key_encipherment()),
        "keyCertSign": pki.svid(me, key_usage=usage(signature=True, certificates=True)),
        "cRLSign": pki.svid(me, key_usage=usage(signature=True, crls=True)),
        "for servers only": pki.svid(me, purposes=(x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,)),
        "unknown critical extension": pki.svid(
            me, extra=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
        ),
    }
    for name, party in shapes.items():
        yield _by(party, f"leaf: {name}", "X509-SVID §5.2", "untrusted")
    yield _by(pki.svid(me, purposes=()), "leaf without extended key usage", "optional", "ok")
    p384 = ec.derive_private_key(int.from_bytes(b"p384 key of the vectors"), ec.SECP384R1())
    yield _by(pki.svid(me, public_key=p384.public_key()), "leaf with a P-384 key", "ES256 wants P-256", "signature")
    junk = Party(b"0\x03\x02\x01\x01", pki.key_of(me))
    yield _by(junk, "certificate that is none", "hashed, not parsed, until it is needed", "untrusted")


def _key_encipherment() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=True, data_encipherment=False, key_agreement=False,
        key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _authorities() -> Iterator[Json]:
    me, iat = spiffe("orchestrator"), NOW - 4
    for name, first, last, code in (
        ("begins at iat", iat, NOW + 300, "ok"), ("begins after iat", iat + 1, NOW + 300, "untrusted"),
        ("ends at iat", NOW - 300, iat, "ok"), ("ended before iat", NOW - 300, iat - 1, "untrusted"),
    ):  # fmt: skip
        yield _by(
            pki.svid(me, seed=name, valid_from=first, valid_until=last),
            f"ancestor's leaf {name}",
            "path validation at iat",
            code,
        )
    for name, first, last, code in (
        ("begins now", NOW, NOW + 300, "ok"), ("begins in a second", NOW + 1, NOW + 300, "untrusted"), ("ends now", NOW - 300, NOW, "ok"), ("ended a second ago", NOW - 300, NOW - 1, "untrusted"),
    ):  # fmt: skip
        party = pki.svid(spiffe("reasoner"), seed=name, valid_from=first, valid_until=last)
        scene = Scene(hop_signer=party)
        yield case(
            f"newest record's leaf {name}",
            "path validation now",
            scene.input(tls_peer=[b64(party.der)]),
            scene.facts() if code == "ok" else error(code),
        )
    middle = pki.authority("prod intermediate", "prod CA")
    below = pki.svid(me, "prod intermediate")
    yield _by(below, "intermediate in the message", "path of three", "ok", certs=[below, middle])
    yield _by(
        below,
        "intermediate from the cache",
        "path of three",
        "ok",
        given={"state": STATE | {"certs": [b64(middle.der)]}},
    )
    yield _by(below, "intermediate absent", "no path", "untrusted")
    connection = Scene(hop_signer=pki.svid(spiffe("reasoner"), "prod intermediate"))
    yield case(
        "intermediate of the connection",
        "path of three",
        connection.input(tls_peer=[b64(connection.hop_signer.der), b64(middle.der)]),
        connection.facts(),
    )
    crowd = [pki.authority("prod intermediate", "partner CA"), middle]
    yield _by(below, "another certificate of the intermediate", "both are tried", "ok", certs=[below, *crowd])
    expired = pki.authority("prod intermediate", "prod CA", valid_until=NOW - 10)
    yield _by(
        below,
        "intermediate expired",
        "every certificate of the path is valid at T",
        "untrusted",
        certs=[below, expired],
    )
    no_ca = pki.authority("prod intermediate", "prod CA", ca=False)
    yield _by(below, "intermediate that is no CA", "basic constraints", "untrusted", certs=[below, no_ca])
    no_usage = pki.authority("prod intermediate", "prod CA", key_usage=pki.usage(signature=True))
    yield _by(below, "intermediate without keyCertSign", "X509-SVID §4.3", "untrusted", certs=[below, no_usage])
    under_leaf = pki.svid(me, spiffe("shell"))
    yield _by(under_leaf, "issued by another SVID", "a leaf issues nothing", "untrusted", certs=[under_leaf, pki.SHELL])
    other_key = pki.svid(me, "another CA")
    yield _by(other_key, "issued by nobody we know", "no path", "untrusted")
    old = pki.authority("prod CA", valid_until=NOW - 10)
    yield _by(
        pki.ORCHESTRATOR,
        "authority expired",
        "bundles too have an end",
        "untrusted",
        given={"bundles": {pki.PROD: [b64(old.der)]}},
    )
    both = {pki.PROD: [b64(pki.authority("prod CA of tomorrow").der), b64(pki.PROD_CA.der)]}
    yield _by(pki.ORCHESTRATOR, "second authority of the bundle", "rotation overlaps", "ok", given={"bundles": both})
    direct = {pki.PROD: [b64(middle.der), b64(pki.PROD_CA.der)]}
    yield _by(below, "intermediate as authority", "upstream authorities in the bundle", "ok", given={"bundles": direct})


def _signatures() -> Iterator[Json]:
    scene = Scene()
    ancestor = scene.ancestor()
    impostor = Party(pki.ORCHESTRATOR.der, pki.key_of("somebody else"))
    yield case(
        "sealed with another key", "certificate of the victim", Scene(root_signer=impostor).input(), error("signature")
    )
    forged = Party(pki.REASONER.der, pki.key_of("somebody else"))
    yield case(
        "newest sealed with another key",
        "certificate of the victim",
        Scene(hop_signer=forged).input(),
        error("signature"),
    )
    changed = seal([dumps(root_claims(auth={"exp": NOW + 896, "hops": 9}))], pki.ORCHESTRATOR)[0]
    moved = Statement(changed.payload, "", ancestor.jws, changed.hash)
    spliced = Scene(root=root_claims(auth={"exp": NOW + 896, "hops": 9}))
    yield case(
        "statement under another's seal",
        "inclusion",
        spliced.input(spliced.custody(chain=[moved.text])),
        error("signature"),
    )
    cached = with_prefix([ancestor.text])
    front, _, signature = ancestor.text.rpartition(".")
    junk = f"{front}.{'A' * len(signature)}"
    yield case(
        "junk seal under a cached statement hash",
        "skipped only if the whole text is equal",
        scene.input(scene.custody(chain=[junk]), state=cached),
        error("signature"),
    )
    renewed = pki.svid(spiffe("orchestrator"), seed="orchestrator after rotation")
    resealed = seal([dumps(scene.root)], renewed)[0]
    again = Scene(certs=[pki.ORCHESTRATOR, renewed])
    yield case(
        "sealed again with another leaf of the same ID",
        "the statement hash covers the certificate",
        again.input(again.custody(chain=[resealed.text])),
        error("chain"),
    )
    batch = seal([dumps(root_claims(jti=random_id(str(i)))) for i in range(3)], pki.ORCHESTRATOR)
    wrong = Statement(batch[1].payload, batch[0].path, batch[1].jws, batch[1].hash)
    indexed = Scene(hop=hop_claims(prev=batch[1].hash))
    yield case(
        "path of another statement of the seal",
        "inclusion",
        indexed.input(indexed.custody(chain=[wrong.text])),
        error("signature"),
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
    yield _denied("root on somebody's behalf", "user tokens are not verified yet", Scene(root=root_claims(obo=obo)))
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
    """Each case has the fault of its name and the fault of the next one; the first in the order of §6 gives the code."""
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
