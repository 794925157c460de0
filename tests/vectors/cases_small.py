"""Vectors of base64url and of the error table."""

from __future__ import annotations

from collections.abc import Iterator

from vectors.scene import (
    Json,
    b64,
    case,
    error,
)

MALFORMED = error("malformed")
OK: Json = {"result": "ok"}


def base64url_cases() -> Iterator[Json]:
    good = {"empty": b"", "one byte": b"\xff", "two bytes": b"\xfb\xef", "three bytes": b"abc", "zeros": bytes(32)}
    texts = {"empty": "", "one byte": "_w", "two bytes": "--8", "three bytes": "YWJj", "zeros": "A" * 43}
    for name, data in good.items():
        yield case(name, "canonical", {"text": texts[name]}, OK | {"bytes": b64(data)})
    bad = {
        "padded": "_w==",
        "standard alphabet plus": "+w",
        "standard alphabet slash": "/w",
        "one character left over": "YWJjY",
        "unused bits set, one byte": "_x",
        "unused bits set, two bytes": "--9",
        "space": "YW Jj",
        "newline at the end": "YWJj\n",
        "comma": "YW,j",
        "dot": "YW.j",
        "letter outside ASCII": "YWJé",
        "NUL": "YW\x00j",
    }
    for name, text in bad.items():
        yield case(name, "one text for each value", {"text": text}, MALFORMED)


def errors_cases() -> Iterator[Json]:
    rows = """
        missing 428 FAILED_PRECONDITION with_record
        unresolved 428 FAILED_PRECONDITION with_items
        malformed 400 INVALID_ARGUMENT no
        duplicate 400 INVALID_ARGUMENT no
        signature 400 UNAUTHENTICATED no
        untrusted 400 UNAUTHENTICATED no
        identity 400 UNAUTHENTICATED no
        chain 400 UNAUTHENTICATED no
        binding 400 UNAUTHENTICATED no
        audience 400 UNAUTHENTICATED no
        expired 400 UNAUTHENTICATED new_record
        replayed 400 ALREADY_EXISTS no
        authority 403 PERMISSION_DENIED no
        forbidden 403 PERMISSION_DENIED no
        too_large 431 RESOURCE_EXHAUSTED no
        too_long 431 RESOURCE_EXHAUSTED no
        early_data 425 UNAVAILABLE yes
        receipt_unavailable 501 UNIMPLEMENTED no
        unavailable 503 UNAVAILABLE yes
    """
    for row in rows.strip().splitlines():
        code, http, grpc, retry = row.split()
        yield case(code, "§13", {"code": f"custody_{code}"}, OK | {"http": int(http), "grpc": grpc, "retry": retry})
