"""Vectors of the caller's checks of a receipt (§7.1): each of them fails alone, and what must pass passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.answers import (
    ANSWER,
    REQUEST,
    REQUEST_WITHOUT_RR,
    Response,
    answer_headers,
    cert_field,
    closing_claims,
    evidence_claims,
    kids_tree,
    observation_claims,
    receipt_claims,
    rsb_of,
)
from vectors.cases_streams import receipt_stream_cases
from vectors.pki import NOW, spiffe
from vectors.scene import (
    Json,
    Scene,
    b64,
    b64u,
    case,
    digest,
    dumps,
    error,
    hop_claims,
    random_id,
    root_claims,
    seal,
    sha,
    some_hash,
    twin,
    unb64u,
)

RENEWED = pki.svid(spiffe("crm-connector"), seed="connector after rotation")
IAT = NOW - 1  # of the record
NONE = {"result": "ok", "receipt": None, "st": None, "fin": None, "kids": None, "dec": None}


def receipt_cases() -> Iterator[Json]:
    yield from _passing()
    yield from _absent()
    yield from _names()
    yield from _sizes()
    yield from _texts()
    yield from _leaves()
    yield from _relations()
    yield from _times()
    yield from _bodies()
    yield from _trust()
    yield from _order()
    yield from receipt_stream_cases()


def _bad(name: str, why: str, code: str, response: Response | None = None, **members: Any) -> Json:
    return case(name, why, (response or Response()).input(**members), error(code))


def _ok(name: str, why: str, response: Response, **members: Any) -> Json:
    return case(name, why, response.input(**members), response.facts())


def _passing() -> Iterator[Json]:
    plain = Response()
    text = plain.receipt().text
    yield _ok("in the header", "the ordinary case", plain)
    yield _ok("in a trailer", "HTTP/2", plain, headers=plain.headers, trailers=[["custody-receipt", text]])
    yield _ok("in the final comment", "event streams", plain, headers=plain.headers, comment=text)
    odd = [*plain.headers, ["CUSTODY-RECEIPT", f" \t{text}\t"], ["Custody-Later", "x"], ["custody-record", "x"]]
    yield _ok("among other fields", "names in any case, white space around values", plain, headers=odd)
    yield _ok(
        "twin signature",
        "(r, n - s) has the same statement hash",
        plain,
        headers=[*plain.headers, ["Custody-Receipt", twin(text)]],
    )
    for size in (0, 1, 8):
        kids = [some_hash(f"kid {index}") for index in range(size)]
        yield _ok(f"{size} kids", "listed", Response(receipt_claims(kids=kids)))
    for size in (9, 255):
        kids = kids_tree([some_hash(f"kid {index}") for index in range(size)])
        yield _ok(f"{size} kids", "as a tree", Response(receipt_claims(kids=kids)))
    for status, fin in ((403, "deny"), (502, "abort"), (200, "abort"), (999, "eof")):
        claims = receipt_claims(st=status, rsb=rsb_of(status, answer_headers()), fin=fin, dec="decision-7")
        yield _ok(f"{fin} with status {status}", "what it means is for the caller", Response(claims), status=status)
    empty = Response(receipt_claims(st=204, rsb=rsb_of(204, []), len=0, cd=b64u(sha(b""))), headers=[])
    yield _ok("no body", "the hash of nothing", empty, status=204, body="")
    other = [receipt_claims(jti=random_id(str(index))) for index in range(5)]
    batch = seal([dumps(each) for each in (*other, plain.claims)], pki.CONNECTOR)
    facts = plain.facts() | {"receipt": batch[5].hash}
    yield case(
        "sealed with five others",
        "inclusion path",
        plain.input(headers=[*plain.headers, ["Custody-Receipt", batch[5].text]]),
        facts,
    )
    unasked = Response(receipt_claims(rec=REQUEST_WITHOUT_RR.hash))
    yield _ok("not asked for", "checked all the same", unasked, record=REQUEST_WITHOUT_RR.text)


def _absent() -> Iterator[Json]:
    bare = {"headers": answer_headers()}
    yield case(
        "no receipt, none asked for",
        "the callee may not speak custody",
        bare | {"record": REQUEST_WITHOUT_RR.text},
        NONE,
    )
    yield case("no receipt, although asked for", "rr", bare, error("receipt_unavailable"))
    refused = bare | {"status": 501, "body": ""}
    yield case("an unsigned error instead", "501 by the callee", refused, error("receipt_unavailable"))
    no = Scene(hop=hop_claims(rr=False)).record()
    yield case("no receipt, rr false", "not asked for", bare | {"record": no.text}, NONE)
    only_certs = {"headers": [*answer_headers(), cert_field(pki.CONNECTOR)]}
    yield case("certificates without a receipt", "nothing to check them for", only_certs, error("receipt_unavailable"))


def _names() -> Iterator[Json]:
    plain = Response()
    line = ["Custody-Receipt", plain.receipt().text]
    other = ["Custody-Receipt", Response(receipt_claims(jti=random_id("second"))).receipt().text]
    twice: dict[str, Json] = {
        "two header lines": {"headers": [*plain.headers, line, other]},
        "the same line twice": {"headers": [*plain.headers, line, line]},
        "header and trailer": {"headers": [*plain.headers, line], "trailers": [other]},
        "header and comment": {"headers": [*plain.headers, line], "comment": other[1]},
        "trailer and comment": {"headers": plain.headers, "trailers": [line], "comment": line[1]},
        "two trailers": {"headers": plain.headers, "trailers": [line, other]},
        "two lines of certificates": {
            "headers": [*plain.headers, line, cert_field(pki.CONNECTOR), cert_field(pki.CONNECTOR)]
        },
        "certificates in header and trailer": {
            "headers": [*plain.headers, line, cert_field(pki.CONNECTOR)],
            "trailers": [cert_field(pki.CONNECTOR)],
        },
        "an unknown Custody field twice": {"headers": [*plain.headers, line, ["Custody-X", "1"], ["custody-x", "1"]]},
    }
    for name, given in twice.items():
        yield case(name, "one receipt in one place", given, error("duplicate"))
    folded = {
        "underscore twin in the header": {"headers": [*plain.headers, line, ["custody_receipt", "x"]]},
        "underscore twin in a trailer": {"headers": [*plain.headers, line], "trailers": [["Custody_Certs", "x"]]},
        "only an underscore twin": {"headers": [*plain.headers, ["custody_receipt", line[1]]]},
    }
    for name, given in folded.items():
        yield case(name, "folding turns it into a Custody field", given, error("malformed"))
    empties = {
        "header": [*plain.headers, ["Custody-Receipt", ""]],
        "white space": [*plain.headers, ["Custody-Receipt", " \t"]],
    }
    for name, headers in empties.items():
        yield case(f"empty receipt: {name}", "present and no sealed text", {"headers": headers}, error("malformed"))
    yield case(
        "empty comment", "present and no sealed text", {"headers": plain.headers, "comment": ""}, error("malformed")
    )


def _sizes() -> Iterator[Json]:
    plain = Response()
    line = ["Custody-Receipt", plain.receipt().text]
    big = "A" * 4097
    yield _bad("receipt of 4097 bytes", "before it is decoded", "too_large", headers=[["Custody-Receipt", big]])
    yield _bad("comment of 4097 bytes", "before it is decoded", "too_large", headers=[], comment=big)
    yield _bad(
        "receipt of 4096 bytes", "decoded, and no sealed text", "malformed", headers=[["Custody-Receipt", big[1:]]]
    )
    many = ["Custody-Certs", ", ".join(["::"] * 11)]
    yield _bad("eleven certificates", "ten at most", "too_large", headers=[*plain.headers, line, many])
    wide = ["Custody-Certs", ":" + "A" * 2732 + ":"]
    yield _bad("a certificate of 2049 bytes", "2048 at most", "too_large", headers=[*plain.headers, line, wide])
    long = ["Custody-Certs", "A" * 8193]
    yield _bad("certificates of 8193 bytes", "8192 at most", "too_large", headers=[*plain.headers, line, long])
    padding = ["Custody-X", "x" * 20480]
    yield _bad("all fields above 20480 bytes", "the sum", "too_large", headers=[line], trailers=[padding])


def _texts() -> Iterator[Json]:
    plain = Response()

    def with_receipt(text: str) -> Json:
        return {"headers": [*plain.headers, ["Custody-Receipt", text]]}

    text = plain.receipt().text
    for name, claims in {
        "a record": hop_claims(iss=spiffe("crm-connector"), prev=some_hash("p"), rqb=some_hash("r")),
        "a root": root_claims(iss=spiffe("crm-connector")),
        "an observation": observation_claims(rec=REQUEST.hash),
        "a closing statement": closing_claims(iss=spiffe("crm-connector"), aud=spiffe("reasoner"), rec=REQUEST.hash),
        "evidence": evidence_claims(iss=spiffe("crm-connector")),
    }.items():
        sealed = seal([dumps(claims)], pki.CONNECTOR)[0].text
        yield case(
            f"{name} in the place of a receipt",
            "well sealed, of another type",
            with_receipt(sealed),
            error("malformed"),
        )
    payload, path, *seal_parts = text.split(".")
    broken = {
        "two receipts in one line": f"{text}, {text}",
        "quoted": f'"{text}"',
        "with a parameter": f"{text};q=1",
        "payload padded": ".".join([payload + "=", path, *seal_parts]),
        "a part missing": text.rpartition(".")[0],
        "a part too many": text + ".AA",
        "path although sealed alone": ".".join([payload, "AA", *seal_parts]),
        "claims not JSON": seal([b"x"], pki.CONNECTOR)[0].text,
        "claim twice": seal([dumps(plain.claims)[:-1] + b',"fin":"deny"}'], pki.CONNECTOR)[0].text,
        "kids of nine listed": Response(receipt_claims(kids=[some_hash("k")] * 9)).receipt().text,
        "no kids": Response({name: value for name, value in plain.claims.items() if name != "kids"}).receipt().text,
    }
    for name, changed_text in broken.items():
        yield case(name, "strict", with_receipt(changed_text), error("malformed"))
    for name, value in {
        "no byte sequence": "AA==",
        "empty": "",
        "not canonical": ":AB==:",
        "empty sequence": "::",
    }.items():
        headers = [*plain.headers, ["Custody-Receipt", text], ["Custody-Certs", value]]
        yield case(f"certificates: {name}", "as in requests", {"headers": headers}, error("malformed"))


def _leaves() -> Iterator[Json]:
    renewed = Response(signer=RENEWED)
    line = ["Custody-Receipt", renewed.receipt().text]
    sent = [*renewed.headers, line, cert_field(RENEWED)]
    yield _ok("rotated leaf sent with the receipt", "same SAN, valid now", renewed, headers=sent)
    yield _ok(
        "rotated leaf sent in the trailers",
        "the receipt too",
        renewed,
        headers=renewed.headers,
        trailers=[line, cert_field(RENEWED)],
    )
    missing = error("unresolved", f"cert:{b64u(RENEWED.x5t_raw)}")
    yield case("rotated leaf not sent", "never fetched", renewed.input(), missing)
    cached = {"certs": [b64(RENEWED.der)]}
    yield _ok("rotated leaf from the cache", "sent before", renewed, state=cached)
    server = [b64(pki.CONNECTOR.der), b64(RENEWED.der)]
    yield _ok("rotated leaf among the connection's certificates", "known as well", renewed, tls_server=server)
    shell = Response(receipt_claims(iss=spiffe("shell")), signer=pki.SHELL)
    with_shell = [*shell.headers, ["Custody-Receipt", shell.receipt().text], cert_field(pki.SHELL)]
    yield _bad("leaf of another component sent along", "another SAN", "identity", shell, headers=with_shell)
    forged = Response(signer=pki.SHELL)
    with_forged = [*forged.headers, ["Custody-Receipt", forged.receipt().text], cert_field(pki.SHELL)]
    yield _bad(
        "another component's leaf under the callee's name", "another SAN", "identity", forged, headers=with_forged
    )
    expired = pki.svid(spiffe("crm-connector"), seed="connector expired", valid_from=NOW - 900, valid_until=NOW - 1)
    stale = Response(signer=expired)
    with_stale = [*stale.headers, ["Custody-Receipt", stale.receipt().text], cert_field(expired)]
    yield _bad("rotated leaf that has expired", "valid now", "untrusted", stale, headers=with_stale)
    no_svid = pki.svid((), seed="no SAN")
    nameless = Response(signer=no_svid)
    with_nameless = [*nameless.headers, ["Custody-Receipt", nameless.receipt().text], cert_field(no_svid)]
    yield _bad("rotated leaf without a SAN", "no SVID", "identity", nameless, headers=with_nameless)
    other_nameless = pki.svid((), seed="no SAN either")
    yield _bad(
        "neither leaf has a SAN",
        "no two names are the same name",
        "identity",
        nameless,
        headers=with_nameless,
        tls_server=[b64(other_nameless.der)],
    )
    junk = [*renewed.headers, line, cert_field(RENEWED)]
    yield _bad(
        "connection's leaf does not parse",
        "nothing to compare with",
        "identity",
        renewed,
        headers=junk,
        tls_server=["AAAA"],
    )
    plain = Response()
    yield _bad(
        "no server certificate visible",
        "no policy allows that",
        "identity",
        tls_server=[],
        state={"certs": [b64(pki.CONNECTOR.der)]},
    )
    yield _bad(
        "another server's connection",
        "relayed receipt",
        "identity",
        plain,
        tls_server=[b64(pki.SHELL.der)],
        state={"certs": [b64(pki.CONNECTOR.der)]},
    )
    partner = pki.svid(spiffe("crm-connector"), "partner CA", seed="connector by partner")
    theirs = Response(signer=partner)
    with_theirs = [*theirs.headers, ["Custody-Receipt", theirs.receipt().text], cert_field(partner)]
    yield _bad(
        "our name from the partner's authority",
        "bundle of the SAN's trust domain only",
        "untrusted",
        theirs,
        headers=with_theirs,
    )


def _relations() -> Iterator[Json]:
    """The receipt is well sealed by the connection's leaf and wrong in exactly one claim."""
    shell = Response(receipt_claims(iss=spiffe("shell")), signer=pki.SHELL)
    yield _bad(
        "iss is another component",
        "it answered what was sent to the connector",
        "identity",
        shell,
        tls_server=[b64(pki.SHELL.der)],
    )
    wrong = {
        "iss below the callee": ({"iss": spiffe("crm-connector") + "/x"}, "identity"),
        "aud is another caller": ({"aud": spiffe("orchestrator")}, "audience"),
        "aud is the callee": ({"aud": spiffe("crm-connector")}, "audience"),
        "rec is another request": ({"rec": REQUEST_WITHOUT_RR.hash}, "chain"),
        "rec is the root": ({"rec": some_hash("root")}, "chain"),
        "cid is another chain": ({"cid": random_id("another chain")}, "chain"),
    }
    for name, (claims, code) in wrong.items():
        yield _bad(name, "response of another exchange", code, Response(receipt_claims(**claims)))
    at_egress = hop_claims(aud="https://api.crm.example.com", rqb=some_hash("r"), prev=some_hash("p"), rr=True)
    record = seal([dumps(at_egress)], pki.REASONER)[0]
    yield _bad(
        "record to an origin",
        "no component can have received it",
        "identity",
        Response(receipt_claims(rec=record.hash)),
        record=record.text,
    )


def _times() -> Iterator[Json]:
    for name, iat, ok in (
        ("ten seconds before the record", IAT - 10, True),
        ("eleven seconds before the record", IAT - 11, False),
        ("ten seconds ahead", NOW + 10, True),
        ("eleven seconds ahead", NOW + 11, False),
    ):
        response = Response(receipt_claims(iat=iat))
        yield (
            _ok(name, "record's iat - 10 <= iat <= now + 10", response)
            if ok
            else _bad(name, "outside the window", "expired", response)
        )
    late = Response(receipt_claims(iat=NOW + 250))
    yield _ok("minutes after the record", "a receipt has no exp", late, now=NOW + 250)
    early = Response(receipt_claims(iat=IAT))
    yield _ok("clock of the caller ten seconds behind", "now + 10", early, now=IAT - 10)
    yield _bad("clock of the caller eleven seconds behind", "now + 10", "expired", early, now=IAT - 11)


def _bodies() -> Iterator[Json]:
    plain = Response()
    line = ["Custody-Receipt", plain.receipt().text]
    swapped = ANSWER.replace(b"4711", b"4712")
    other_type = [
        ["content-type", "text/plain"] if name == "Content-Type" else [name, value] for name, value in plain.headers
    ]
    attacks: dict[str, Json] = {
        "status swapped": {"status": 201},
        "body swapped": {"body": b64(swapped)},
        "body cut": {"body": b64(ANSWER[:-1])},
        "body extended": {"body": b64(ANSWER + b"\n")},
        "body removed": {"body": ""},
        "content type changed": {"headers": [*other_type, line]},
        "content type removed": {"headers": [*[each for each in plain.headers if each[0] != "Content-Type"], line]},
        "content coding injected": {"headers": [*plain.headers, ["Content-Encoding", "gzip"], line]},
        "digest removed": {"headers": [*[each for each in plain.headers if each[0] != "Content-Digest"], line]},
        "digest changed": {
            "headers": [
                *[each for each in plain.headers if each[0] != "Content-Digest"],
                ["Content-Digest", digest(swapped)],
                line,
            ]
        },
        "covered value outside ASCII": {"headers": [["Content-Type", "\xe9"], line]},
    }
    for name, given in attacks.items():
        yield _bad(name, "rsb, len and cd", "binding", **given)
    claims = {
        "st is not the status": {"st": 201},
        "len is one too many": {"len": len(ANSWER) + 1},
        "cd of another body": {"cd": b64u(sha(swapped))},
        "rsb of another response": {"rsb": rsb_of(200, [])},
    }
    for name, changes in claims.items():
        yield _bad(name, "recomputed", "binding", Response(receipt_claims(**changes)))
    moved = [*plain.headers[::-1], ["Via", "1.1 mesh"], line]
    yield _ok("uncovered fields changed", "a mesh may do that", plain, headers=moved)
    lied = [["Content-Digest", digest(b"x")]]
    odd = Response(receipt_claims(rsb=rsb_of(200, lied)), headers=lied)
    yield _ok("digest of something else, covered", "cd says what the body was", odd)


def _trust() -> Iterator[Json]:
    plain = Response()
    payload, path, head, body, signature = plain.receipt().text.split(".")
    raw = bytearray(unb64u(signature))
    raw[40] ^= 1
    flipped = ".".join([payload, path, head, body, b64u(bytes(raw))])
    yield _bad("signature changed", "verified", "signature", headers=[*plain.headers, ["Custody-Receipt", flipped]])
    batch = seal([dumps(plain.claims), dumps(receipt_claims(jti=random_id("x")))], pki.CONNECTOR)
    moved = f"{batch[0].payload}.{batch[1].path}.{batch[0].jws}"
    yield _bad(
        "path of another statement", "another root", "signature", headers=[*plain.headers, ["Custody-Receipt", moved]]
    )
    yield _bad("no bundle at all", "cannot be verified now", "unavailable", bundles={})
    partner_only = {pki.PARTNER: [b64(pki.PARTNER_CA.der)]}
    yield _bad("no bundle of the trust domain", "never another", "untrusted", bundles=partner_only)
    wrong = {pki.PROD: [b64(pki.PARTNER_CA.der)]}
    yield _bad("bundle of another authority", "no path", "untrusted", bundles=wrong)
    yield _bad("the connection's leaf has expired since", "T = now", "untrusted", now=pki.LEAF_UNTIL + 1)
    stolen = Response(signer=pki.Party(pki.CONNECTOR.der, pki.SHELL.key))
    yield _bad("sealed by another key", "key of the certificate", "signature", stolen)
    gateway = Response(receipt_claims(iss=spiffe("gateway", pki.PARTNER), rec=_to_partner().hash), signer=pki.GATEWAY)
    yield _ok(
        "from a federated trust domain",
        "its own bundle",
        gateway,
        record=_to_partner().text,
        tls_server=[b64(pki.GATEWAY.der)],
    )


def _to_partner() -> Any:
    claims = hop_claims(aud=spiffe("gateway", pki.PARTNER), prev=some_hash("p"), rqb=some_hash("r"), rr=True)
    return seal([dumps(claims)], pki.REASONER)[0]


def _order() -> Iterator[Json]:
    """Several faults: the first in the order counts."""
    faults: list[tuple[str, Json, str]] = [
        ("iss", {"iss": spiffe("shell")}, "identity"),
        ("aud", {"aud": spiffe("shell")}, "audience"),
        ("iat", {"iat": NOW + 99}, "expired"),
        ("st", {"st": 500}, "binding"),
        ("rec", {"rec": some_hash("x")}, "chain"),
        ("cid", {"cid": random_id("x")}, "chain"),
    ]
    for number, (name, _, code) in enumerate(faults):
        claims: Json = {}
        for _, changes, _ in faults[number:]:
            claims |= changes
        yield _bad(
            f"{name} and all later ones wrong", "the first fault", code, Response(receipt_claims(**claims)), bundles={}
        )
    unknown = Response(receipt_claims(iss=spiffe("shell")), signer=RENEWED)
    yield case(
        "unknown leaf before wrong claims",
        "4 before 6",
        unknown.input(),
        error("unresolved", f"cert:{b64u(RENEWED.x5t_raw)}"),
    )
    text = seal([b"x"], RENEWED)[0].text
    yield case(
        "malformed before unknown leaf", "3 before 4", {"headers": [["Custody-Receipt", text]]}, error("malformed")
    )
    both = [["Custody-Receipt", "A" * 5000], ["Custody-Receipt", "x"]]
    yield case("duplicate before size", "1 before 2", {"headers": both}, error("duplicate"))
    folded = [["custody_receipt", "x"], ["Custody-Receipt", "x"], ["Custody-Receipt", "x"]]
    yield case("folded name before duplicate", "order of §6.1", {"headers": folded}, error("malformed"))
    forged = [
        *answer_headers(),
        ["Custody-Receipt", Response(receipt_claims(cd=some_hash("x"))).receipt().text[:-2] + "AA"],
    ]
    yield case("content before signature", "7 before 9", {"headers": forged}, error("binding"))
