"""Vectors of streamed requests: their opening, and the closing statement at their end (§7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.answers import (
    STREAM,
    Closing,
    cert_field,
    closing_claims,
    evidence_claims,
    observation_claims,
    receipt_claims,
)
from vectors.cases_streams import closing_stream_cases
from vectors.pki import NOW, spiffe
from vectors.scene import (
    ABSENT,
    BODY,
    POLICY,
    Json,
    Scene,
    b64,
    b64u,
    case,
    dumps,
    error,
    hop_claims,
    plain_headers,
    random_id,
    root_claims,
    seal,
    sha,
    some_hash,
    twin,
)

RENEWED = pki.svid(spiffe("reasoner"), seed="reasoner after rotation")
IAT = NOW - 1  # of the record
ACCEPTS = POLICY | {"streams": True}


def closing_cases() -> Iterator[Json]:
    yield from _passing()
    yield from _fields()
    yield from _leaves()
    yield from _relations()
    yield from _trust()
    yield from closing_stream_cases()


def _bad(name: str, why: str, code: str, closing: Closing | None = None, **members: Any) -> Json:
    return case(name, why, (closing or Closing()).input(**members), error(code))


def _ok(name: str, why: str, closing: Closing, **members: Any) -> Json:
    return case(name, why, closing.input(**members), closing.facts())


def _passing() -> Iterator[Json]:
    plain = Closing()
    text = plain.sealed().text
    yield _ok("in the trailers", "the ordinary case", plain)
    yield _ok("in capitals", "names in any case", plain, trailers=[["CUSTODY-CLOSE", f" {text}\t"]])
    yield _ok("aborted by the caller", "said openly", Closing(closing_claims(fin="abort")))
    yield _ok("twin signature", "as good", plain, trailers=[["Custody-Close", twin(text)]])
    empty = Closing(closing_claims(len=0, cd=b64u(sha(b""))))
    yield _ok("of nothing", "an empty stream", empty, body="")
    batch = seal([dumps(closing_claims(jti=random_id(str(i)))) for i in range(3)], pki.REASONER)
    facts = plain.facts() | {"closing": batch[2].hash}
    yield case("sealed with two others", "inclusion path", {"trailers": [["Custody-Close", batch[2].text]]}, facts)
    for name, iat, code in (
        ("ten seconds before the record", IAT - 10, None),
        ("eleven seconds before the record", IAT - 11, "expired"),
        ("ten seconds ahead", NOW + 10, None),
        ("eleven seconds ahead", NOW + 11, "expired"),
    ):
        closing = Closing(closing_claims(iat=iat))
        yield _bad(name, "the window", code, closing) if code else _ok(name, "the window", closing)
    late = Closing(closing_claims(iat=NOW + 200))
    yield _ok("minutes after the record", "a long stream", late, now=NOW + 200)


def _fields() -> Iterator[Json]:
    text = Closing().sealed().text
    line = ["Custody-Close", text]
    yield case("no trailers", "the stream has no end", {"trailers": []}, error("missing"))
    yield case("other trailers only", "the stream has no end", {"trailers": [["grpc-status", "0"]]}, error("missing"))
    yield case("twice", "one statement", {"trailers": [line, line]}, error("duplicate"))
    yield case("underscore twin", "folding", {"trailers": [line, ["custody_close", "x"]]}, error("malformed"))
    yield case("4097 bytes", "before it is decoded", {"trailers": [["Custody-Close", "A" * 4097]]}, error("too_large"))
    yield case("4096 bytes", "decoded", {"trailers": [["Custody-Close", "A" * 4096]]}, error("malformed"))
    junk = ["Custody-Certs", ", ".join(["::"] * 11)]
    yield case("eleven certificates", "ten at most", {"trailers": [line, junk]}, error("too_large"))
    yield case(
        "a bad certificate element", "as in requests", {"trailers": [line, ["Custody-Certs", "x"]]}, error("malformed")
    )
    for name, claims in {
        "a record": hop_claims(prev=some_hash("p"), rqb=some_hash("r")),
        "a root": root_claims(iss=spiffe("reasoner")),
        "a receipt": receipt_claims(iss=spiffe("reasoner"), aud=spiffe("crm-connector"), rec=STREAM.hash),
        "an observation": observation_claims(iss=spiffe("reasoner"), aud=spiffe("reasoner")),
        "evidence": evidence_claims(iss=spiffe("reasoner")),
        "a denial": closing_claims(fin="deny"),
        "a closing statement without its hash": closing_claims(cd=ABSENT),
    }.items():
        sealed = seal([dumps(claims)], pki.REASONER)[0].text
        trailers = [["Custody-Close", sealed]]
        yield case(f"{name} in its place", "well sealed, not one of these", {"trailers": trailers}, error("malformed"))


def _leaves() -> Iterator[Json]:
    renewed = Closing(signer=RENEWED)
    line = ["Custody-Close", renewed.sealed().text]
    yield _ok("rotated leaf sent along", "same SAN, valid now", renewed, trailers=[line, cert_field(RENEWED)])
    yield case(
        "rotated leaf not sent", "never fetched", renewed.input(), error("unresolved", f"cert:{b64u(RENEWED.x5t_raw)}")
    )
    yield _ok("rotated leaf from the cache", "sent before", renewed, state={"certs": [b64(RENEWED.der)]})
    shell = Closing(signer=pki.SHELL)
    sent = [["Custody-Close", shell.sealed().text], cert_field(pki.SHELL)]
    yield _bad("sealed by another component", "another SAN", "identity", shell, trailers=sent)
    yield _bad("another component's connection", "relayed", "identity", shell, tls_peer=[b64(pki.SHELL.der)])
    hidden = {"certs": [b64(pki.REASONER.der)]}
    yield _bad("no client certificate visible", "nothing to compare with", "identity", tls_peer=[], state=hidden)


def _relations() -> Iterator[Json]:
    for name, claims, code in (
        ("iss is another component", {"iss": spiffe("shell")}, "identity"),
        ("aud is another component", {"aud": spiffe("shell")}, "audience"),
        ("rec is another record", {"rec": some_hash("x")}, "chain"),
        ("cid is another chain", {"cid": random_id("x")}, "chain"),
        ("len is one too few", {"len": len(BODY) - 1}, "binding"),
        ("cd of another body", {"cd": some_hash("x")}, "binding"),
    ):
        yield _bad(name, "exactly one claim is wrong", code, Closing(closing_claims(**claims)))
    yield _bad("body cut", "digest over all bytes", "binding", body=b64(BODY[:-1]))
    yield _bad("body extended", "digest over all bytes", "binding", body=b64(BODY + b"x"))
    yield _bad("body swapped", "digest over all bytes", "binding", body=b64(BODY.replace(b"4711", b"4712")))


def _trust() -> Iterator[Json]:
    text = Closing().sealed().text
    other = "A" if text[-3] != "A" else "B"
    forged = text[:-3] + other + text[-2:]
    yield _bad("signature changed", "verified", "signature", trailers=[["Custody-Close", forged]])
    yield _bad("no bundle at all", "cannot be verified now", "unavailable", bundles={})
    yield _bad("bundle of another authority", "no path", "untrusted", bundles={pki.PROD: [b64(pki.PARTNER_CA.der)]})
    yield _bad("leaf expired since", "T = now", "untrusted", now=pki.LEAF_UNTIL + 1)


def stream_cases() -> Iterator[Json]:
    """Requests of kind ``receive``: the record of a streamed body, and other statements in the place of records."""
    plain = [each for each in plain_headers() if each[0] != "Content-Digest"]
    stream = Scene(hop=hop_claims(bm="stream"), headers=plain)
    yield case("streamed body, accepted", "policy says so", stream.input(policy=ACCEPTS, body=""), stream.facts())
    yield case("first bytes of the body at hand", "not looked at", stream.input(policy=ACCEPTS), stream.facts())
    yield case("streamed body, refused", "the default", stream.input(body=""), error("forbidden"))
    refused = stream.input(policy=POLICY | {"streams": False})
    yield case("streamed body, refused in words", "policy says so", refused, error("forbidden"))
    digested = Scene(hop=hop_claims(bm="stream"))
    yield case("streamed body with a digest", "either or", digested.input(policy=ACCEPTS), error("binding"))
    swapped = stream.input(policy=ACCEPTS, method="PUT")
    yield case("streamed body, method swapped", "rqb as ever", swapped, error("binding"))
    injected = stream.input(policy=ACCEPTS)
    injected["headers"] = [["Authorization", "x"], *injected["headers"]]
    yield case("streamed body, field injected", "rqb as ever", injected, error("binding"))
    whole = Scene()
    yield case("whole body where streams are accepted", "digest as ever", whole.input(policy=ACCEPTS), whole.facts())
    missing = Scene(headers=plain)
    yield case(
        "whole body without digest where streams are accepted",
        "no way around it",
        missing.input(policy=ACCEPTS),
        error("binding"),
    )
    for name, claims in {
        "a receipt": receipt_claims(iss=spiffe("reasoner"), aud=spiffe("crm-connector")),
        "an observation": observation_claims(iss=spiffe("reasoner"), aud=spiffe("reasoner")),
        "a closing statement": closing_claims(),
        "evidence": evidence_claims(iss=spiffe("reasoner")),
    }.items():
        sealed = seal([dumps(claims)], pki.REASONER)[0].text
        as_record = whole.input(whole.custody(record=sealed))
        yield case(f"{name} as the record", "records only", as_record, error("malformed"))
        as_ancestor = whole.input(whole.custody(chain=[sealed]))
        yield case(f"{name} as an ancestor", "records only", as_ancestor, error("malformed"))
    closed = [*whole.custody(), ["Custody-Close", Closing().sealed().text]]
    yield case("a closing statement among the headers", "not read there", whole.input(closed), whole.facts())
