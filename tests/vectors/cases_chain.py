"""Vectors of whole requests: links, assembly and what attackers do to chains (§6.10, §6.11)."""

from __future__ import annotations

from collections.abc import Iterator

from vectors import pki
from vectors.chains import build_chain, root_facts, root_input, root_scene, seal_hash
from vectors.pki import NOW, spiffe
from vectors.scene import (
    ABSENT,
    STATE,
    Json,
    Scene,
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
