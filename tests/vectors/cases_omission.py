"""Requests without what their receiver holds already: custody-wire §5.6, §6.4, §6.10."""

from __future__ import annotations

from collections.abc import Iterator

from vectors import pki
from vectors.chains import build_chain, seal_hash
from vectors.pki import Party, spiffe
from vectors.scene import (
    Headers,
    Json,
    Scene,
    b64,
    b64u,
    case,
    dumps,
    error,
    hop_claims,
    seal,
    twin,
    unb64u,
    with_prefix,
)

CHAIN = error("chain")


def omission_cases() -> Iterator[Json]:
    """Chains of four, of which the receiver knows some."""
    yield from _held()
    yield from _lacking()
    yield from _abused()


def _sent(record: str, chain: list[str], *certs: Party) -> Headers:
    return Scene(certs=list(certs)).custody(record=record, chain=chain)


def _held() -> Iterator[Json]:
    scene, (texts, facts) = Scene(), build_chain(4)
    yield case(
        "all ancestors left out",
        "found one by one, with the certificates that they were verified with",
        scene.input(_sent(texts[3], []), state=with_prefix(texts[:3])),
        facts,
    )
    yield case(
        "the oldest left out",
        "only the front is",
        scene.input(_sent(texts[3], texts[1:3], pki.ORCHESTRATOR), state=with_prefix(texts[:1])),
        facts,
    )
    yield case(
        "the oldest and every certificate left out",
        "certificates are known from messages before",
        scene.input(_sent(texts[3], texts[1:3]), state=with_prefix(texts[:1]) | {"certs": [b64(pki.ORCHESTRATOR.der)]}),
        facts,
    )
    yield case(
        "sent although it is held",
        "leaving out is a choice",
        scene.input(_sent(texts[3], texts[:3], pki.ORCHESTRATOR), state=with_prefix(texts[:3])),
        facts,
    )
    yield case(
        "left out and held under a twin of its seal",
        "a statement hash does not cover the signature",
        scene.input(_sent(texts[3], texts[1:3], pki.ORCHESTRATOR), state=with_prefix([twin(texts[0])])),
        facts,
    )


def _lacking() -> Iterator[Json]:
    scene, (texts, _) = Scene(), build_chain(4)
    first = seal_hash(texts[0])
    yield case(
        "left out and held under another certificate",
        "that is another statement",
        scene.input(
            _sent(texts[3], texts[1:3], pki.ORCHESTRATOR),
            state=with_prefix([_sealed_again(texts[0])], _OTHER_LEAF),
        ),
        error("unresolved", f"rec:{first}"),
    )
    yield case(
        "certificate of an ancestor left out",
        "asked for by its thumbprint, before the ancestor that is missing too",
        scene.input(_sent(texts[3], texts[1:3])),
        error("unresolved", f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}"),
    )
    yield case(
        "certificate that only verified what is held",
        "what is inline needs a certificate that is known",
        scene.input(_sent(texts[3], texts[1:3]), state=with_prefix(texts[:1])),
        error("unresolved", f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}"),
    )


def _abused() -> Iterator[Json]:
    scene, (texts, _) = Scene(), build_chain(4)
    held = with_prefix(texts[:3])
    yield case(
        "the middle left out",
        "nothing is put between inline records, held or not",
        scene.input(_sent(texts[3], [texts[0], texts[2]], pki.ORCHESTRATOR), state=held),
        CHAIN,
    )
    yield case(
        "the newest ancestor left out behind inline ones",
        "nothing is put behind inline records",
        scene.input(_sent(texts[3], texts[:2], pki.ORCHESTRATOR), state=held),
        CHAIN,
    )
    hop = hop_claims(iss=spiffe("shell"), hop=3, prev=seal_hash(texts[2]), rqb=scene.bind())
    stolen = seal([dumps(hop)], pki.SHELL)[0]
    yield case(
        "a held chain continued by somebody it was not handed to",
        "what is held proves nothing for the one who names it",
        scene.input(_sent(stolen.text, []), state=held, tls_peer=[b64(pki.SHELL.der)]),
        CHAIN,
    )
    other = seal([dumps(hop_claims(hop=2, prev=seal_hash(texts[0]), rqb=scene.bind()))], pki.REASONER)[0]
    yield case(
        "a held record named at another place",
        "hop is the position",
        scene.input(_sent(other.text, []), state=held),
        CHAIN,
    )


_OTHER_LEAF = pki.svid(spiffe("orchestrator"), seed="orchestrator after rotation")


def _sealed_again(text: str) -> str:
    return seal([unb64u(text.split(".", maxsplit=1)[0])], _OTHER_LEAF)[0].text
