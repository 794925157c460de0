"""Writes the corpus of the codec's fuzz targets from the vectors: seeds for each answer that they expect of a parser.

Run it after the vectors changed: ``python tests/vectors/fuzz_corpus.py``. Seeds are named by their content, so the same
vectors give the same files. Owns: which vectors seed which target. Does not own: what a target checks.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent
FUZZ = VECTORS.parents[1] / "broker/dataplane/custody/fuzz"
# More of one answer teach a fuzzer nothing that it does not find itself.
MAX_SEEDS_OF_ONE_ANSWER = 2

Case = tuple[dict[str, Any], str]


def main() -> None:
    """Replaces the corpus."""
    for target, seeds in corpus().items():
        folder = FUZZ / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {hashlib.sha256(seed).hexdigest()[:16]: seed for seed in seeds}
        for stale in folder.iterdir():
            if stale.name not in wanted:
                stale.unlink()
        for name, seed in wanted.items():
            (folder / name).write_bytes(seed)
    (FUZZ / "issuers.json").write_text(issuers(), encoding="ascii")
    opening = next(iter(cases("closing")))[0]["record"].split(".")[0]
    (FUZZ / "opening-record.json").write_bytes(unb64u(opening))


def corpus() -> dict[str, list[bytes]]:
    """The seeds of every target."""
    payloads = [base64.b64decode(given["payload"]) for given, _ in cases("statement")]
    receives = [given for name in ("receive_ok", "receive_format", "receive_stream") for given, _ in cases(name)]
    receipts = [given for given, _ in cases("receipt")]
    closings = [given for given, _ in cases("closing")]
    streams = [given for given, _ in cases("streams")]
    lists = {value for given in receives for value in values_of(given["headers"], "custody-certs")}
    leaves = {der for given in [*receives, *receipts] for der in certificates_of(given)}
    return {
        "json": payloads,
        "claims": payloads,
        "statement": [given["sealed"].encode() for given, _ in cases("seal")],
        "certificate": [base64.b64decode(der) for der in sorted(leaves)[:8]],
        "certificates": sorted(lists)[:12],
        "receive": [message(given["headers"], given["tls_peer"], given["body"]) for given in receives],
        "receipt": [
            message([*given["headers"], *given["trailers"]], given["tls_server"], given["body"]) for given in receipts
        ],
        "closing": [message(given["trailers"], given["tls_peer"], given["body"]) for given in closings],
        "issuers": [issuers().encode()],
        "user_token": sorted({token for given, _ in cases("receive_users") for token in tokens_of(given["headers"])}),
        "frames": [
            (b"\1" if given["kind"] == "client" else b"\0") + base64.b64decode(given["body"])
            for given in streams
            if given["kind"] != "grpc"
        ],
        "messages": [base64.b64decode(given["body"]) for given in streams if given["kind"] == "grpc"],
        "canonical": [base64.b64decode(given["json"]) for given, _ in cases("jcs")],
        "event_stream": [base64.b64decode(given["body"]) for given, _ in cases("sse")],
    }


def issuers() -> str:
    """Those that the vectors configure."""
    file = json.loads((VECTORS / "receive_users.json").read_text())
    return json.dumps(file["defaults"]["issuers"])


def tokens_of(headers: list[list[str]]) -> list[bytes]:
    """Transaction tokens and bearer tokens."""
    bearer = [value.removeprefix(b"Bearer ") for value in values_of(headers, "authorization")]
    return [*values_of(headers, "txn-token"), *bearer]


def cases(name: str) -> Iterator[Case]:
    """Full input and expected answer of the first cases of each answer."""
    seen: dict[str, int] = {}
    file = json.loads((VECTORS / f"{name}.json").read_text())
    for case in file["cases"]:
        given = file["defaults"] | case["input"]
        kind = " ".join([*given.get("types", []), given.get("kind", "")])
        answer = f"{kind} {case['expect'].get('code', 'ok')}"
        seen[answer] = seen.get(answer, 0) + 1
        if seen[answer] <= MAX_SEEDS_OF_ONE_ANSWER:
            yield given, answer


def certificates_of(given: dict[str, Any]) -> list[str]:
    """Those of the connection and of the bundles."""
    chain = given.get("tls_peer") or given.get("tls_server") or []
    return [*chain, *(der for authorities in given["bundles"].values() for der in authorities)]


def values_of(headers: list[list[str]], name: str) -> list[bytes]:
    """The field's lines, not merged."""
    return [value.encode("latin-1") for field, value in headers if field.lower() == name]


def message(headers: list[list[str]], chain: list[str] | None, body: str) -> bytes:
    """Field lines, an empty line, the body; a target takes the first certificate for that of the connection."""
    lines = [(name, value) for name, value in headers if name.lower() != "custody-certs"]
    certs = [value for name, value in headers if name.lower() == "custody-certs"]
    certs = [", ".join([f":{chain[0]}:", *certs])] if chain else certs
    fields = [*lines, *(("custody-certs", value) for value in certs)]
    text = "".join(f"{name}:{value}\n" for name, value in fields)
    return text.encode("latin-1") + b"\n" + base64.b64decode(body)


def unb64u(text: str) -> bytes:
    """The bytes of base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


if __name__ == "__main__":
    main()
