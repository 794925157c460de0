"""Vectors of whole requests: certificates, identities and signatures (§6.5)."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from vectors import pki
from vectors.chains import policy
from vectors.pki import NOW, Party, spiffe
from vectors.scene import (
    STATE,
    Json,
    Scene,
    Statement,
    b64,
    case,
    dumps,
    error,
    hop_claims,
    random_id,
    root_claims,
    seal,
    some_hash,
    with_prefix,
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
        digital_signature=False,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authorities() -> Iterator[Json]:
    me, iat = spiffe("orchestrator"), NOW - 4
    for name, first, last, code in (
        ("begins at iat", iat, NOW + 300, "ok"),
        ("begins after iat", iat + 1, NOW + 300, "untrusted"),
        ("ends at iat", NOW - 300, iat, "ok"),
        ("ended before iat", NOW - 300, iat - 1, "untrusted"),
    ):
        yield _by(
            pki.svid(me, seed=name, valid_from=first, valid_until=last),
            f"ancestor's leaf {name}",
            "path validation at iat",
            code,
        )
    for name, first, last, code in (
        ("begins now", NOW, NOW + 300, "ok"),
        ("begins in a second", NOW + 1, NOW + 300, "untrusted"),
        ("ends now", NOW - 300, NOW, "ok"),
        ("ended a second ago", NOW - 300, NOW - 1, "untrusted"),
    ):
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
