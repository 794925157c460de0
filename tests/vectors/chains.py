"""Requests of other shapes than the ordinary scene: roots, long chains."""

from __future__ import annotations

from typing import Any

from vectors import pki
from vectors.pki import spiffe
from vectors.scene import (
    POLICY,
    Json,
    Scene,
    b64,
    b64u,
    dumps,
    hop_claims,
    random_id,
    root_claims,
    seal,
    some_hash,
    unb64u,
)


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


def build_chain(length: int, **last: Any) -> tuple[list[str], Json]:
    """Sealed texts of a chain of orchestrator and reasoner in turn, the newest from the reasoner to the connector."""
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


def seal_hash(text: str) -> str:
    """Statement hash of a sealed text by the reasoner or the orchestrator."""
    payload, _, header = text.split(".")[:3]
    signer = next(party for party in (pki.REASONER, pki.ORCHESTRATOR) if b64u(party.x5t_raw).encode() in unb64u(header))
    return seal([unb64u(payload)], signer)[0].hash


def policy(**changes: Any) -> Json:
    return POLICY | changes
