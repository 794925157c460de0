"""Vectors of whole requests: on whose behalf a chain acts, sealed boundaries (§6.12, §8.1, §8.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki, tokens
from vectors.chains import policy
from vectors.pki import NOW, PARTNER, spiffe
from vectors.scene import (
    ABSENT,
    DEFAULTS,
    Json,
    Scene,
    b64u,
    case,
    dumps,
    error,
    hop_claims,
    plain_headers,
    random_id,
    root_claims,
    some_hash,
)
from vectors.tokens import AS, at_claims, issuer, obo, token, txn_claims

USERS_DEFAULTS: Json = DEFAULTS | {"issuers": tokens.ISSUERS}
AUTH: Json = {"exp": NOW + 250, "hops": 7, "scope": "crm.read"}
OTHER = pki.svid(spiffe("gateway", PARTNER), "partner CA")


def scene(text: str, said: Json, *, field: list[list[str]] | None = None, auth: Json = AUTH, **members: Any) -> Scene:
    """The ordinary scene whose root acts for the user of a token, which its message brings."""
    line = ["Txn-Token", text] if said["typ"] == "txn" else ["Authorization", f"Bearer {text}"]
    headers = plain_headers() + ([line] if field is None else field)
    return Scene(root=root_claims(obo=said, auth=auth, **members), headers=headers)


def facts(made: Scene, *, verified: bool = True, **changes: Any) -> Json:
    said = made.root["obo"]
    user = {name: said.get(name) for name in ("iss", "sub", "typ", "txn", "exp")} | {"verified": verified}
    scope = made.root["auth"].get("scope")
    left = dict.fromkeys(("scope", "aud", "ops")) | made.root["auth"]
    authority = left | {"scope": None if scope is None else sorted(scope.split())}
    return made.facts(user=user, authority=authority, **changes)


def users_cases() -> Iterator[Json]:
    yield from _accepted()
    yield from _keys()
    yield from _tokens()
    yield from _claims()
    yield from _bindings()
    yield from _holders()
    yield from _domains()
    yield from _sealed()


def _ok(name: str, why: str, made: Scene, **members: Any) -> Json:
    return case(name, why, made.input(**members), facts(made))


def _no(name: str, why: str, made: Scene, code: str = "authority", **members: Any) -> Json:
    return case(name, why, made.input(**members), error(code))


def _txn(changes: Json | None = None, *, raw: str | None = None, **header: Any) -> Scene:
    claims = txn_claims(**(changes or {}))
    text = raw if raw is not None else token(claims, **header)
    # Claims of a wrong type cannot stand in a root: there it says what would be right.
    exp = claims["exp"] if isinstance(claims["exp"], int) else txn_claims()["exp"]
    return scene(text, obo(text, txn_claims(exp=exp)))


def _at(changes: Json | None = None, **header: Any) -> Scene:
    claims = at_claims(**(changes or {}))
    text = token(claims, **header)
    return scene(text, obo(text, claims))


def _accepted() -> Iterator[Json]:
    yield _ok("Transaction Token", "the ordinary case", _txn())
    yield _ok("access token", "RFC 9068", _at())
    for alg, kid in (("RS256", "rs"), ("PS256", "rs"), ("EdDSA", "ed"), ("Ed25519", "ed")):
        yield _ok(f"signed with {alg}", "the key allows it", _txn(alg=alg, kid=kid))
    yield _ok("typ as a media type", "RFC 7515 §4.1.9", _at(typ="application/AT+JWT"))
    whole = _txn()
    whole.root["auth"] = AUTH | {"scope": "crm.read crm.write"}
    yield _ok("scope of the token", "the bound", whole)
    empty = _txn()
    empty.root["auth"] = AUTH | {"scope": ""}
    yield _ok("no scope at all", "the empty set", empty)
    narrow = _at({"scope": ABSENT})
    narrow.root["auth"] = AUTH | {"scope": ""}
    yield _ok("token without scope", "grants none", narrow)
    lower = scene(token(at_claims()), obo(token(at_claims()), at_claims()))
    lower.headers[-1] = ["authorization", f"bearer {token(at_claims())}"]
    yield _ok("scheme in lower case", "RFC 9110 §11.1", lower)
    for name, claims, now in (
        ("ten seconds before iat", {"iat": NOW + 10}, None),
        ("ten seconds before nbf", {"nbf": NOW + 10}, None),
        ("nine seconds after exp", {"exp": NOW - 9}, None),
    ):
        made = _txn(claims)
        yield _ok(name, "clocks of two hosts", made, **({} if now is None else {"now": now}))
    both = _txn()
    both.headers.append(["Authorization", "Bearer an-opaque-credential-of-the-component"])
    yield _ok("another credential beside it", "not the chain's", both)


def _keys() -> Iterator[Json]:
    one = [issuer(jwks={"keys": [tokens.jwk(None, tokens.ec_key())]})]
    yield _ok("no kid and one key", "nothing to choose", _txn(kid=None), issuers=one)
    yield _no("no kid and several keys", "a token names its key", _txn(kid=None))
    yield _no(
        "kid of no key",
        "rotated away",
        _txn(kid="es", key=tokens.ec_key("old")),
        issuers=[issuer(jwks={"keys": [tokens.jwk("new", tokens.ec_key())]})],
    )
    yield _no("signed by another key of that name", "the signature", _txn(key=tokens.ec_key("old")))
    yield _no("key of another kind", "alg of the header, kid of an RSA key", _txn(kid="rs", key=tokens.ec_key()))
    yield _no("keys not known now", "fail closed, ask again", _txn(), "unavailable", issuers=[issuer(jwks=None)])
    ps_only = [issuer(jwks={"keys": [tokens.jwk("rs", tokens.rsa_key(), alg="PS256")]})]
    yield _ok("alg of the key, used", "RFC 7517 §4.4", _txn(alg="PS256", kid="rs"), issuers=ps_only)
    yield _no("alg of the key, not used", "RFC 7517 §4.4", _txn(alg="RS256", kid="rs"), issuers=ps_only)
    unusable = [
        {"kty": "oct", "kid": "es", "k": "AAAA"},
        tokens.jwk("es", tokens.ec_key(), use="enc"),
        tokens.jwk("es", tokens.ec_key(), crv="P-384"),
        tokens.jwk("es", tokens.ec_key(), y="AAAA"),
        tokens.jwk("es", tokens.ec_key(), alg="ES512"),
        tokens.jwk("rs", tokens.rsa_key(), e="Aw"),
        {"kty": "RSA", "kid": "es", "n": b64u(b"\xff" * 128), "e": "AQAB"},
        "no key",
    ]
    rest = [issuer(jwks={"keys": [*unusable, tokens.jwk("new", tokens.ec_key())]})]
    yield _no("keys that cannot be used", "left out, one by one", _txn(), issuers=rest)
    yield _ok("a usable key among them", "left out, one by one", _txn(kid="new", key=tokens.ec_key()), issuers=rest)
    wide = tokens.rsa_key().public_key().public_numbers().n.to_bytes(257)
    padded = [issuer(jwks={"keys": [tokens.jwk("rs", tokens.rsa_key(), n=b64u(wide))]})]
    yield _ok("modulus with a leading zero", "some issuers write it", _txn(alg="RS256", kid="rs"), issuers=padded)


def _tokens() -> Iterator[Json]:
    good = token(txn_claims())
    head, payload, signature = good.split(".")
    none = f"{b64u(dumps({'typ': 'txntoken+jwt', 'alg': 'none'}))}.{payload}."
    mac = f"{b64u(dumps({'typ': 'txntoken+jwt', 'alg': 'HS256', 'kid': 'es'}))}.{payload}.{signature}"
    double = b64u(b'{"typ":"txntoken+jwt","alg":"none","alg":"ES256","kid":"es"}')
    raws = {
        "alg none": none,
        "alg HS256": mac,
        "member twice in the header": f"{double}.{payload}.{signature}",
        "without signature": f"{head}.{payload}.",
        "two parts": f"{head}.{payload}",
        "four parts": f"{good}.{signature}",
        "padded base64url": f"{head}.{payload}.{signature}==",
        "empty": "",
        "other bits at the end": good[:-1] + ("B" if good.endswith("A") else chr(ord(good[-1]) + 1)),
        "header no object": f"{b64u(b'[]')}.{payload}.{signature}",
    }
    for name, raw in raws.items():
        yield _no(f"token: {name}", "strict form", _txn(raw=raw))
    plain = dumps(txn_claims())
    deep = plain[:-1] + b',"x":' + b"[" * 15 + b"]" * 15 + b"}"
    yield case("token: nested 16 deep", "the bound", (made := _txn(raw=token(deep))).input(), facts(made))
    bodies = {
        "member twice": plain[:-1] + b',"sub":"u-1"}',
        "member twice inside": plain[:-1] + b',"x":{"a":1,"a":2}}',
        "nested 17 deep": plain[:-1] + b',"x":' + b"[" * 16 + b"]" * 16 + b"}",
        "number out of range": plain[:-1] + b',"x":1e999}',
        "NaN": plain[:-1] + b',"x":NaN}',
        "byte order mark": b"\xef\xbb\xbf" + plain,
        "not UTF-8": plain[:-1] + b',"x":"\xff"}',
        "text after it": plain + b"{}",
        "unpaired surrogate": plain[:-1] + b',"x":"\\ud800"}',
    }
    for name, body in bodies.items():
        yield _no(f"claims: {name}", "strict JSON", _txn(raw=token(body)))
    numbers = plain[:-1] + b',"x":[-0,1.5e3,9007199254740993,-12345678901234567890,1E-999]}'
    yield case("claims: odd numbers", "as floats", (made := _txn(raw=token(numbers))).input(), facts(made))
    large = token(txn_claims(x="x" * 6_000))
    yield _no("token over its size", "8,192 bytes", _txn(raw=large))
    for name, header in {
        "typ of an access token": {"typ": "at+jwt"},
        "typ JWT": {"typ": "JWT"},
        "typ absent": {"typ": ABSENT},
        "crit": {"crit": ["exp"]},
        "kid not text": {"kid": 1},
    }.items():
        made = _txn(**header) if name != "kid not text" else _txn(raw=_with_kid(1))
        yield _no(f"header: {name}", "another kind of token", made)


def _with_kid(kid: Any) -> str:
    signing_input = f"{b64u(dumps({'typ': 'txntoken+jwt', 'alg': 'ES256', 'kid': kid}))}.{b64u(dumps(txn_claims()))}"
    return f"{signing_input}.{b64u(tokens.sign('ES256', tokens.ec_key(), signing_input.encode()))}"


def _claims() -> Iterator[Json]:
    for name, changes in {
        "eleven seconds before iat": {"iat": NOW + 11},
        "eleven seconds before nbf": {"nbf": NOW + 11},
        "ten seconds after exp": {"exp": NOW - 10},
        "exp with a fraction": {"exp": NOW + 100.5},
        "exp as text": {"exp": str(NOW + 100)},
        "negative iat": {"iat": -1},
        "iat absent": {"iat": ABSENT},
        "nbf null": {"nbf": None},
        "aud of somebody else": {"aud": "other.example"},
        "aud absent": {"aud": ABSENT},
        "aud list without us": {"aud": ["other.example"]},
        "aud with something else than text": {"aud": ["prod.example.org", 1]},
        "aud with 17 entries": {"aud": ["prod.example.org"] * 17},
        "scope absent": {"scope": ABSENT},
        "scope as a list": {"scope": ["crm.read"]},
        "scope with one token twice": {"scope": "crm.read crm.read"},
    }.items():
        yield _no(f"claims: {name}", "strict", _txn(changes))
    for name in ("sub", "txn"):
        claims = txn_claims(**{name: ABSENT})
        text = token(claims)
        yield _no(f"claims: {name} absent", "strict", scene(text, obo(text, txn_claims())))
        long = txn_claims(**{name: "x" * 257})
        text = token(long)
        yield _no(f"claims: {name} of 257 bytes", "the bound is 256", scene(text, obo(text, long)))


def _bindings() -> Iterator[Json]:
    text = token(txn_claims())
    other = token(txn_claims(sub="u-13", txn="t-9"))
    said = obo(text, txn_claims())
    yield _no("no token", "the message must bring it", scene(text, said, field=[]))
    yield _no("another user's token", "splice: not the root's th", scene(text, said, field=[["Txn-Token", other]]))
    twice = [["Txn-Token", text], ["Txn-Token", text]]
    yield _no("the token twice", "one field line", scene(text, said, field=twice))
    yield _no(
        "the token in the other field", "each type has its own", scene(text, said, field=[["Authorization", text]])
    )
    access = token(at_claims())
    basic = [["Authorization", f"Basic {access}"]]
    yield _no("another scheme", "Bearer", scene(access, obo(access, at_claims()), field=basic))
    signed_otherwise = token(txn_claims(), alg="RS256", kid="rs")
    yield _no(
        "the same claims under another signature",
        "th is of the whole token",
        scene(text, said, field=[["Txn-Token", signed_otherwise]]),
    )
    for member, value in {"sub": "u-1", "exp": NOW + 296, "txn": "t-2", "iss": AS}.items():
        yield _no(f"root says another {member}", "obo is the token's", scene(text, said | {member: value}))
    yield _no("root leaves txn out", "obo is the token's", scene(text, obo(text, txn_claims(), txn=ABSENT)))
    with_txn = token(at_claims(txn="t-1"))
    yield _no(
        "root leaves an access token's txn out",
        "obo is the token's",
        scene(with_txn, obo(with_txn, at_claims(txn="t-1"), txn=ABSENT)),
    )
    evil = token(txn_claims(iss="https://tts.evil.example"))
    yield _no(
        "token of an unknown issuer, root names a known one",
        "each key counts for its own issuer only",
        scene(evil, obo(evil, txn_claims())),
    )
    yield _no("root names another type", "each type has its own issuer", scene(text, said | {"typ": "at"}))
    grant = said | {"typ": "idjag"}
    yield _no(
        "identity assertion grant", "has no field to be presented in", scene(text, grant, field=[["Txn-Token", text]])
    )
    for name, auth in {
        "scope beyond the token's": AUTH | {"scope": "crm.read crm.admin"},
        "no limit of scope": {"exp": NOW + 250, "hops": 7},
    }.items():
        yield _no(name, "auth.scope within the token's", scene(text, said, auth=auth))
    yield _no("no issuer configured", "of our own trust domain", scene(text, said), issuers=[])
    null = Scene(headers=[*plain_headers(), ["Txn-Token", text]])
    yield case("a token and a root on nobody's behalf", "the token is not the chain's", null.input(), null.facts())
    yield _no(
        "that root where nobody may", "re-rooted with the forwarded token", null, policy=policy(autonomous_roots=[])
    )
    yield _no(
        "re-rooted by a middle hop with the forwarded token",
        "issued to the orchestrator, not to the reasoner",
        Scene(
            root=root_claims(iss=spiffe("shell"), obo=said, auth=AUTH),
            root_signer=pki.SHELL,
            certs=[pki.SHELL],
            headers=[*plain_headers(), ["Txn-Token", text]],
        ),
    )
    made = scene(text, said)
    forged = pki.Party(pki.REASONER.der, pki.key_of("somebody else"))
    made.hop_signer = forged
    yield _no("order: signature before the token", "§6.5, §6.12", made, "signature", issuers=[issuer(jwks=None)])
    made = scene(text, said, field=[])
    forbidden = policy(forbidden_on_path=[spiffe("reasoner")])
    yield _no("order: token before path policy", "§6.12, §6.14", made, "authority", policy=forbidden)


def _holders() -> Iterator[Json]:
    thumbprint = b64u(pki.ORCHESTRATOR.x5t_raw)
    bound = {"req_wl": ABSENT, "cnf": {"x5t#S256": thumbprint}}
    yield _ok("bound to the root's certificate", "RFC 8705", _txn(bound))
    yield _ok("req_wl before cnf", "the order of §6.12", _txn({"cnf": {"x5t#S256": b64u(pki.SHELL.x5t_raw)}}))
    yield _ok("cnf before client_id", "the order of §6.12", _at({"client_id": "x", "cnf": {"x5t#S256": thumbprint}}))
    actor = {"client_id": ABSENT, "act": {"sub": spiffe("orchestrator"), "act": {"sub": "earlier"}}}
    yield _ok("outermost actor", "RFC 8693 §4.1", _at(actor))
    yield _ok("client_id before act", "the order of §6.12", _at({"act": {"sub": "x"}}))
    named = [
        issuer(issuer=AS, type="at", audience=["https://crm.prod.example.org"], clients={"c-1": spiffe("orchestrator")})
    ]
    yield _ok(
        "client ID that is mapped", "an issuer names workloads its own way", _at({"client_id": "c-1"}), issuers=named
    )
    mapped = [issuer(clients={"c-1": spiffe("orchestrator")})]
    yield _no("req_wl is never mapped", "it is a SPIFFE ID", _txn({"req_wl": "c-1"}), issuers=mapped)
    for name, changes in {
        "req_wl of another workload": {"req_wl": spiffe("reasoner")},
        "req_wl with a slash more": {"req_wl": spiffe("orchestrator") + "/"},
        "bound to another certificate": {"req_wl": ABSENT, "cnf": {"x5t#S256": b64u(pki.REASONER.x5t_raw)}},
        "bound to a key": {"req_wl": ABSENT, "cnf": {"jkt": some_hash("k")}, "client_id": spiffe("orchestrator")},
        "cnf no object": {"req_wl": ABSENT, "cnf": "x"},
        "client_id of another workload": {"req_wl": ABSENT, "client_id": spiffe("reasoner")},
        "inner actor only": {"req_wl": ABSENT, "act": {"act": {"sub": spiffe("orchestrator")}}},
        "act no object": {"req_wl": ABSENT, "act": spiffe("orchestrator")},
        "no workload at all": {"req_wl": ABSENT},
    }.items():
        yield _no(f"token of: {name}", "its workload is root.iss", _txn(changes))


def _partner(text: str, said: Json, **members: Any) -> Scene:
    """A root of the partner's gateway to the reasoner."""
    made = scene(text, said, iss=spiffe("gateway", PARTNER), **members)
    made.root_signer, made.certs = OTHER, [OTHER]
    return made


def _domains() -> Iterator[Json]:
    claims = txn_claims(iss="https://tts.partner.example.net", req_wl=spiffe("gateway", PARTNER))
    text = token(claims)
    said = obo(text, claims)
    made = _partner(text, said)
    gateways = [f"spiffe://{PARTNER}/*"]
    yield _no("user of a partner, issuer unknown", "nobody may assert one", made)
    allowed = policy(unverified_users=gateways)
    expect = facts(made, verified=False)
    yield case("user of a partner, as asserted", "policy allows it", made.input(policy=allowed), expect)
    without = _partner(text, said)
    without.headers.pop()
    yield case(
        "user of a partner, without its token",
        "nothing to verify it with",
        without.input(policy=allowed),
        facts(without, verified=False),
    )
    known = [issuer(issuer="https://tts.partner.example.net")]
    yield case("user of a partner, verified", "its keys are known", made.input(issuers=known), facts(made))
    stale = [issuer(issuer="https://tts.partner.example.net", jwks=None)]
    yield _no(
        "user of a partner, keys not known now",
        "configured is configured",
        made,
        "unavailable",
        issuers=stale,
        policy=allowed,
    )
    ours = scene(text, said)
    yield _no(
        "asserted by a component of our own",
        "only other trust domains' roots",
        ours,
        policy=policy(unverified_users=["spiffe://prod.example.org/*"]),
    )


def _sealed() -> Iterator[Json]:
    cont = {"rec": some_hash("the newest internal record"), "cid": random_id("internal"), "why": "boundary"}
    made = Scene(root=root_claims(iss=spiffe("gateway", PARTNER), cont=cont), root_signer=OTHER, certs=[OTHER])
    roots = [f"spiffe://{PARTNER}/*"]
    yield _no("sealed boundary, not listed", "which gateways may", made, policy=policy(autonomous_roots=roots))
    listed = policy(autonomous_roots=roots, sealing_gateways=[spiffe("gateway", PARTNER)])
    yield case("sealed boundary, listed", "which gateways may", made.input(policy=listed), made.facts())
    for why in ("resume", "queue"):
        again = Scene(root=root_claims(cont=cont | {"why": why}))
        yield case(f"continued: {why}", "no boundary", again.input(), again.facts())
    hop = Scene(hop=hop_claims(cont=cont))
    yield _no("continuation beyond the root", "a claim of roots only", hop, "chain")
