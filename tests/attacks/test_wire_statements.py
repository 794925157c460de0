"""Statements and seals that no honest sealer makes, against a running data plane: custody-wire §14."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from custody_refusals import Guarded, guarding, statements_in
from dataplane_nodes import spiffe_id
from dataplane_peer import Message
from hopseal.custody.outcome import Fin, Outcome
from hopseal.custody.receipt import Receipt, encode_receipt
from hopseal.custody.record import encode_record, parse_sealed_record
from hopseal.log.entries import RecordEntry
from hopseal.svid import X509Svid
from vectors.pki import Party
from vectors.scene import Statement, b64u, jws, seal, seal_body, seal_header, statement_hash, tree_root, twin, unb64u

pytestmark = pytest.mark.process

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass
class Forger:
    """A component with a right SVID, a right request and a sealer of its own."""

    svid: X509Svid
    message: Message
    party: Party

    @classmethod
    def of(cls, svid: X509Svid) -> Forger:
        key = load_der_private_key(svid.key_pkcs8, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(svid, Message(svid), Party(svid.chain_der[0], key))

    @property
    def payload(self) -> bytes:
        assert self.message.record is not None
        return encode_record(self.message.record)

    def among(self, index: int, size: int) -> Statement:
        """The record as one of ``size`` statements under a seal."""
        others = [Message(self.svid).record for _ in range(size)]
        payloads = [encode_record(each) for each in others if each is not None]
        return seal([*payloads[:index], self.payload, *payloads[index + 1 :]], self.party)[index]

    def under(self, header: bytes | None = None, body: bytes | None = None, payload: bytes | None = None) -> str:
        return seal([payload or self.payload], self.party, header=header, body=body)[0].text


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with guarding(tmp_path) as made:
        yield made


@pytest.fixture
def forger(guarded: Guarded) -> Forger:
    return Forger.of(guarded.node.authority.issue(spiffe_id("orchestrator")))


def loose_end(text: str) -> str:
    """The same base64url with a bit set that decodes to nothing."""
    assert len(text) % 4 in {2, 3}
    return text[:-1] + ALPHABET[ALPHABET.index(text[-1]) + 1]


def with_part(sealed: str, index: int, change: Callable[[str], str]) -> str:
    parts = sealed.split(".")
    parts[index] = change(parts[index])
    return ".".join(parts)


def with_path(statement: Statement, change: Callable[[bytes], bytes]) -> str:
    return with_part(statement.text, 1, lambda path: b64u(change(unb64u(path))))


def claims_of_loose_length(forger: Forger) -> bytes:
    """Claims whose base64url ends in spare bits."""
    for length in (1, 2, 3):
        payload = forger.payload[:-1] + f',"op":"{"x" * length}"}}'.encode()
        if len(payload) % 3:
            return payload
    raise AssertionError("no length fits")


def sealed_text(forger: Forger, payload: str) -> str:
    """The text ``payload`` under a right seal over it, whether it is base64url or not."""
    root = statement_hash(forger.party.x5t_raw, payload)
    return f"{payload}..{jws(seal_header(forger.party), seal_body(1, root), forger.party.key)}"


def padded(forger: Forger) -> str:
    return sealed_text(forger, b64u(claims_of_loose_length(forger)) + "=")


def duplicate_member(forger: Forger) -> str:
    return forger.under(payload=forger.payload[:-1] + f',"aud":"{spiffe_id("reasoner")}"}}'.encode())


def duplicate_after_escape(forger: Forger) -> str:
    payload = forger.payload[:-1] + b',"\\u0061ud":"x"}'
    assert len(json.loads(payload)) == len(json.loads(forger.payload))
    return forger.under(payload=payload)


def node_as_leaf(forger: Forger) -> str:
    """Two statements are well sealed; their hashes are passed off as a statement of that length."""
    first, second = seal([forger.payload, forger.payload], forger.party)
    payload = b64u(unb64u(first.hash) + unb64u(second.hash))
    return f"{payload}..{first.jws}"


def receipt(forger: Forger) -> str:
    record = forger.message.record
    assert record is not None
    said = Outcome(
        iss=record.iss,
        aud=record.iss,
        iat=record.iat,
        jti=record.jti,
        cid=record.cid,
        rec="A" * 43,
        st=200,
        rsb="A" * 43,
        length=0,
        cd="A" * 43,
        fin=Fin.EOF,
        kids=(),
    )
    return forger.under(payload=encode_receipt(Receipt(said)))


def signed_handshake(forger: Forger) -> str:
    """What the key signs in a TLS 1.3 handshake (RFC 8446 §4.4.3), passed off as a seal's header."""
    return forger.under(b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + bytes(32))


def of_another_key(forger: Forger) -> str:
    stranger = Party(forger.party.der, ec.generate_private_key(ec.SECP256R1()))
    return seal([forger.payload], stranger)[0].text


def under_the_seal_of_another_statement(forger: Forger) -> str:
    mine, other = (
        seal([encode_record(each.message.record)], each.party)[0] for each in (forger, Forger.of(forger.svid))
    )
    return f"{mine.payload}..{other.jws}"


def for_two_issuers(forger: Forger) -> str:
    """One seal over statements of two components: right for the one whose key it is, and for no other."""
    record = forger.message.record
    assert record is not None
    other = encode_record(forger.message.changed(iss=record.iss.parse(spiffe_id("reasoner"))).record)
    return seal([forger.payload, other], forger.party)[1].text


FORGED: dict[str, Callable[[Forger], str]] = {
    "custody_malformed alg none": lambda f: f.under(seal_header(f.party, alg="none")),
    "custody_malformed alg none, no signature": lambda f: with_part(
        f.under(seal_header(f.party, alg="none")), 4, lambda _: ""
    ),
    "custody_malformed alg HS256": lambda f: f.under(seal_header(f.party, alg="HS256")),
    "custody_malformed alg ES384": lambda f: f.under(seal_header(f.party, alg="ES384")),
    "custody_malformed alg EdDSA": lambda f: f.under(seal_header(f.party, alg="EdDSA")),
    "custody_malformed typ JWT": lambda f: f.under(seal_header(f.party, typ="JWT")),
    "custody_malformed key injected": lambda f: f.under(seal_header(f.party)[:-1] + b',"jwk":{}}'),
    "custody_malformed kid injected": lambda f: f.under(seal_header(f.party)[:-1] + b',"kid":"1"}'),
    "custody_malformed crit": lambda f: f.under(seal_header(f.party)[:-1] + b',"crit":["b64"]}'),
    "custody_malformed duplicate alg": lambda f: f.under(seal_header(f.party)[:-1] + b',"alg":"none"}'),
    "custody_malformed a handshake": signed_handshake,
    "custody_malformed a receipt": receipt,
    "custody_malformed claim t": lambda f: f.under(payload=f.payload.replace(b'"t":"rec"', b'"t":"rcp"')),
    "custody_malformed duplicate claim": duplicate_member,
    "custody_malformed duplicate claim in escapes": duplicate_after_escape,
    "custody_malformed unknown limit": lambda f: f.under(
        payload=f.payload.replace(b'"auth":{', b'"auth":{"any":true,')
    ),
    "custody_malformed fraction": lambda f: f.under(payload=f.payload.replace(b'"hop":0', b'"hop":0.0')),
    "custody_malformed loose bits in the claims": lambda f: sealed_text(f, loose_end(b64u(claims_of_loose_length(f)))),
    "custody_malformed padding": padded,
    "custody_malformed loose bits in the signature": lambda f: with_part(f.under(), 4, loose_end),
    "custody_malformed short signature": lambda f: with_part(f.under(), 4, lambda text: b64u(unb64u(text)[:-1])),
    "custody_malformed n zero": lambda f: f.under(body=seal_body(0, bytes(32))),
    "custody_malformed n 257": lambda f: f.under(body=seal_body(257, bytes(32))),
    "custody_malformed index n": lambda f: with_path(f.among(1, 3), lambda path: b"\x03" + path[1:]),
    "custody_malformed index 255": lambda f: with_path(f.among(1, 3), lambda path: b"\xff" + path[1:]),
    "custody_malformed path shortened": lambda f: with_path(f.among(0, 3), lambda path: path[:-32]),
    "custody_malformed path lengthened": lambda f: with_path(f.among(0, 3), lambda path: path + bytes(32)),
    "custody_malformed path left out": lambda f: with_part(f.among(0, 2).text, 1, lambda _: ""),
    "custody_malformed path of one": lambda f: with_part(f.under(), 1, lambda _: "AA"),
    "custody_malformed node as leaf": node_as_leaf,
    "custody_signature index of a neighbour": lambda f: with_path(f.among(1, 3), lambda path: b"\x00" + path[1:]),
    "custody_signature path forged": lambda f: with_path(f.among(1, 3), lambda path: path[:-1] + bytes([path[-1] ^ 1])),
    "custody_signature siblings exchanged": lambda f: with_path(
        f.among(1, 3), lambda path: path[:1] + path[33:] + path[1:33]
    ),
    "custody_signature seal of another statement": under_the_seal_of_another_statement,
    "custody_signature another key": of_another_key,
    "custody_signature root of nothing": lambda f: f.under(body=seal_body(1, bytes(32))),
    "custody_identity one seal over two issuers": for_two_issuers,
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_statement_is_refused(guarded: Guarded, forger: Forger, name: str) -> None:
    entry = guarded.refuses(forger.svid, forger.message.wire(sealed=FORGED[name](forger)), name.split(maxsplit=1)[0])
    assert entry.detail
    # The attempt spends nothing: what was forged is accepted once it is sealed as it should be.
    guarded.accepts(forger.svid, forger.message.wire())


def test_every_place_under_an_honest_seal_is_accepted(guarded: Guarded, forger: Forger) -> None:
    """The forger's tools work when nothing is forged."""
    for index, size in ((0, 1), (1, 2), (2, 3), (255, 256)):
        fresh = Forger.of(forger.svid)
        guarded.accepts(fresh.svid, fresh.message.wire(sealed=fresh.among(index, size).text))


@pytest.mark.parametrize("form", ["twin signature", "sealed again", "another place under another seal"])
def test_another_form_of_an_accepted_statement_is_the_same_statement(
    guarded: Guarded, forger: Forger, form: str
) -> None:
    first = forger.under()
    again = {"twin signature": twin(first), "sealed again": forger.message.sealed()}.get(form)
    again = again or forger.among(1, 3).text
    assert again != first
    assert parse_sealed_record(again).hash == parse_sealed_record(first).hash
    guarded.accepts(forger.svid, forger.message.wire(sealed=first))
    assert guarded.refuses(forger.svid, forger.message.wire(sealed=again), "custody_replayed").sealed == again


def test_the_twin_of_a_signature_is_as_good_as_the_first_to_arrive(guarded: Guarded, forger: Forger) -> None:
    """Whichever form comes first is the one that is logged; the log pins the seal that it saw."""
    first = forger.under()
    guarded.accepts(forger.svid, forger.message.wire(sealed=twin(first)))
    guarded.refuses(forger.svid, forger.message.wire(sealed=first), "custody_replayed")
    kept = [each for each in statements_in(guarded.node.log_dir) if isinstance(each, RecordEntry)]
    assert [(each.accepted, each.sealed) for each in kept] == [(True, twin(first)), (False, first)]


def test_a_key_on_another_curve_seals_nothing(guarded: Guarded) -> None:
    svid = guarded.node.authority.issue(spiffe_id("orchestrator"), curve=ec.SECP384R1())
    key = load_der_private_key(svid.key_pkcs8, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    header = f'{{"alg":"ES256","typ":"custody-seal+jwt","x5t#S256":"{b64u(Party(svid.chain_der[0], key).x5t_raw)}"}}'
    message = Message(svid)
    assert message.record is not None
    payload = b64u(encode_record(message.record))
    root = tree_root([statement_hash(Party(svid.chain_der[0], key).x5t_raw, payload)])
    text = f"{payload}..{b64u(header.encode())}.{b64u(seal_body(1, root))}.{b64u(bytes(31) + b'x' + bytes(31) + b'x')}"
    guarded.refuses(svid, message.wire(sealed=text), "custody_signature")
