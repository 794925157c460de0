"""Vectors of whole requests: names, sizes, grammar and certificates (§6.1 to §6.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.pki import spiffe
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
    root_claims,
    seal,
    some_hash,
)


def format_cases() -> Iterator[Json]:
    yield from _names()
    yield from _sizes()
    yield from _grammar()
    yield from _certificates()


def _refused(name: str, why: str, custody: Headers, code: str, *missing: str, **members: Any) -> Json:
    return case(name, why, Scene().input(custody, **members), error(code, *missing))


def _names() -> Iterator[Json]:
    good = Scene().custody()
    for name in ("Custody_Record", "custody_chain", "Custody-Certs_", "CUSTODY_LATER"):
        yield _refused(f"underscore twin {name}", "a gateway may fold it", [*good, [name, "x"]], "malformed")
    yield _refused(
        "only an underscore twin", "names come first", [["Custody_Record", good[0][1]], *good[1:]], "malformed"
    )
    for index, (name, value) in enumerate(good):
        yield _refused(f"two {name} lines", "one line each", [*good, [name, value]], "duplicate")
        yield _refused(
            f"two {name} lines in different case", "one line each", [*good, [good[index][0].lower(), "x"]], "duplicate"
        )
    yield _refused(
        "two lines of an unknown Custody field",
        "any Custody field",
        [*good, ["Custody-X", "1"], ["custody-x", "2"]],
        "duplicate",
    )
    yield _refused("no record", "fails closed when a hop strips it", good[1:], "missing")
    yield _refused("no Custody field", "nothing at all", [], "missing")
    yield _refused("early data", "RFC 8470", [*good, ["Early-Data", " 1 "]], "early_data")
    yield _refused(
        "early data in a second line",
        "raw header list",
        [*good, ["early-data", "0"], ["Early-Data", "1"]],
        "early_data",
    )


def _sizes() -> Iterator[Json]:
    record, chain, certs = Scene().custody()
    text, ancestor = record[1], chain[1]

    def line(name: str, size: int) -> list[str]:
        return [name, "A" * size]

    yield _refused(
        "record of 4,096 bytes",
        "within the bound, then not five parts",
        [line("Custody-Record", 4096), chain, certs],
        "malformed",
    )
    yield _refused(
        "record of 4,097 bytes", "too large before decoding", [line("Custody-Record", 4097), chain, certs], "too_large"
    )
    yield _refused(
        "chain of 12,289 bytes",
        "too large before decoding",
        [record, ["Custody-Chain", ",".join(["A" * 4000] * 3) + "," + "A" * 286], certs],
        "too_large",
    )
    yield _refused(
        "chain of 12,288 bytes",
        "within the bound, then malformed",
        [record, ["Custody-Chain", ",".join(["A" * 4000] * 3) + "," + "A" * 285], certs],
        "malformed",
    )
    yield _refused(
        "ancestor of 4,097 bytes", "each is a sealed record", [record, line("Custody-Chain", 4097), certs], "too_large"
    )
    yield _refused(
        "certs of 8,193 bytes",
        "too large before decoding",
        [record, chain, ["Custody-Certs", ",".join([":" + "A" * 1996 + ":"] * 4) + "," + "A" * 197]],
        "too_large",
    )
    yield _refused(
        "eleven certificates",
        "at most ten",
        [record, chain, ["Custody-Certs", ", ".join([f":{b64(bytes([i]))}:" for i in range(11)])]],
        "too_large",
    )
    yield _refused(
        "ten certificates",
        "they count, whatever they are",
        [record, chain, ["Custody-Certs", ", ".join([f":{b64(bytes([i]))}:" for i in range(10)])]],
        "unresolved",
        f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}",
    )
    big = f":{b64(bytes(2049))}:"
    yield _refused(
        "certificate of 2,049 bytes", "too large before decoding", [record, chain, ["Custody-Certs", big]], "too_large"
    )
    full = f":{b64(bytes(2048))}:"
    yield _refused(
        "certificate of 2,048 bytes",
        "within the bound, then useless",
        [record, chain, ["Custody-Certs", full]],
        "unresolved",
        f"cert:{b64u(pki.ORCHESTRATOR.x5t_raw)}",
    )
    filler = 20_480 - sum(len(name) + len(value) for name, value in (record, chain, certs)) - len("Custody-X")
    scene = Scene()
    yield case(
        "20,480 bytes in all",
        "names and values of every Custody field",
        scene.input([record, chain, certs, line("Custody-X", filler)]),
        scene.facts(),
    )
    yield _refused(
        "20,481 bytes in all",
        "names and values of every Custody field",
        [record, chain, certs, line("Custody-X", filler + 1)],
        "too_large",
    )
    yield _refused(
        "nine records", "eight at most", [record, ["Custody-Chain", ", ".join(["a.b"] * 8)], certs], "too_long"
    )
    yield _refused(
        "eight records, not sealed",
        "eight are counted in",
        [record, ["Custody-Chain", ", ".join(["a.b"] * 7)], certs],
        "malformed",
    )
    yield _refused(
        "too long and too large",
        "sizes first",
        [line("Custody-Record", 4097), ["Custody-Chain", ", ".join(["a.b"] * 8)], certs],
        "too_large",
    )
    assert len(text) < 4096
    assert len(ancestor) < 4096


def _grammar() -> Iterator[Json]:
    record, chain, certs = Scene().custody()
    for name, lines in {
        "record empty": [["Custody-Record", ""], chain, certs],
        "record a list": [["Custody-Record", f"{record[1]}, {record[1]}"], chain, certs],
        "record quoted": [["Custody-Record", f'"{record[1]}"'], chain, certs],
        "record with parameters": [["Custody-Record", record[1] + ";a=1"], chain, certs],
        "record outside ASCII": [["Custody-Record", record[1] + "\xe9"], chain, certs],
        "chain empty": [record, ["Custody-Chain", " "], certs],
        "chain with an empty element": [record, ["Custody-Chain", f"{chain[1]}, "], certs],
        "chain with a leading comma": [record, ["Custody-Chain", f", {chain[1]}"], certs],
        "chain parted by a newline": [record, ["Custody-Chain", f"{chain[1]},\n{chain[1]}"], certs],
    }.items():
        yield _refused(name, "the grammar of §4.1", lines, "malformed")
    for kind in ("rcp", "obs", "cls", "att"):
        other = Scene(hop=hop_claims(t=kind))
        yield case(f"record of type {kind}", "one type never passes for another", other.input(), error("malformed"))
        ancestor = Scene(root=root_claims(t=kind))
        yield case(
            f"ancestor of type {kind}", "one type never passes for another", ancestor.input(), error("malformed")
        )
    none = seal([dumps(hop_claims(prev=some_hash("p"), rqb=some_hash("r")))], pki.REASONER, header=b'{"alg":"none"}')[0]
    yield _refused("alg none", "closed header", [["Custody-Record", none.text], chain, certs], "malformed")


def _certificates() -> Iterator[Json]:
    record, chain, _ = Scene().custody()
    der = b64(pki.ORCHESTRATOR.der)
    for name, value in {
        "certs empty": "",
        "no colons": der,
        "one colon": f":{der}",
        "empty certificate": "::",
        "only a colon": ":",
        "other delimiters": "(AAAA)",
        "colon at the end only": "AAAAA:",
        "base64url": ":__79:",
        "without padding": ":AA:",
        "padding too many": ":AA===:",
        "unused bits": ":AB==:",
        "space inside": ":AA AA:",
        "parameters": f":{der}:;a=1",
        "empty element": f":{der}:,",
        "quoted": f'":{der}:"',
    }.items():
        yield _refused(f"certs: {name}", "byte sequences", [record, chain, ["Custody-Certs", value]], "malformed")
    thumbprints = [f"cert:{b64u(party.x5t_raw)}" for party in (pki.ORCHESTRATOR, pki.REASONER)]
    yield _refused(
        "ancestor's certificate absent", "named by thumbprint", [record, chain], "unresolved", thumbprints[0]
    )
    hidden = {"tls_peer": None, "allow_no_peer": True}
    yield _refused(
        "both certificates absent", "oldest record first", [record, chain], "unresolved", *thumbprints, **hidden
    )
    twice = Scene(
        hop=hop_claims(iss=spiffe("orchestrator"), aud=spiffe("crm-connector")),
        root=root_claims(aud=spiffe("orchestrator")),
        hop_signer=pki.ORCHESTRATOR,
        certs=[],
    )
    yield case(
        "one certificate absent for two records", "named once", twice.input(), error("unresolved", thumbprints[0])
    )
