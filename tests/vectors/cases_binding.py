"""Vectors of request bindings."""

from __future__ import annotations

from collections.abc import Iterator

from vectors.scene import (
    BODY,
    TARGET,
    Headers,
    Json,
    b64,
    b64u,
    binding_base,
    case,
    digest,
    error,
    plain_headers,
    sha,
)

BINDING_DEFAULTS: Json = {"method": "POST", "target_uri": TARGET, "body": b64(BODY)}


def binding_cases() -> Iterator[Json]:
    yield _bound("example", "fixed order, whatever the order of the message", plain_headers())
    yield _bound("reversed header order", "same hash", plain_headers()[::-1])
    yield _bound("names in any case", "lower-cased", [[name.upper(), value] for name, value in plain_headers()])
    yield _bound("no body, no digest", "GET", plain_headers(b""), body=b"", method="GET")
    yield _bound("no covered field at all", "absent ones are skipped", [["Accept", "*/*"]], body=b"", method="DELETE")
    yield _bound(
        "several lines of one field",
        "joined with a comma",
        [*plain_headers(), ["Authorization", "a"], ["authorization", "\t b "]],
    )
    yield _bound("empty field", "present", [*plain_headers(), ["Idempotency-Key", " "]])
    every = [
        "content-encoding",
        "authorization",
        "txn-token",
        "workload-identity-token",
        "idempotency-key",
        "a2a-version",
        "a2a-extensions",
        "upgrade",
        "sec-websocket-protocol",
    ]
    yield _bound(
        "every covered field",
        "all in order",
        [*plain_headers(), *[[name, f"value of {name}"] for name in reversed(every)]],
    )
    yield _bound("inner white space", "kept", [*plain_headers(), ["authorization", "a  b\tc"]])
    yield _bound("binary body", "bytes on the wire", plain_headers(bytes(range(256))), body=bytes(range(256)))
    yield _bound("uncovered fields", "do not count", [*plain_headers(), ["X-Anything", "\xff"], ["content_type", "x"]])
    unbound = {
        "body without digest": [each for each in plain_headers() if each[0] != "Content-Digest"],
        "digest twice in one line": _digests(f"{digest(BODY)}, {digest(BODY)}"),
        "digest in two lines": [*plain_headers(), ["Content-Digest", digest(BODY)]],
        "digest with a second algorithm": _digests(f"{digest(BODY)}, sha-512=:AA==:"),
        "digest with a parameter": _digests(f"{digest(BODY)};x=1"),
        "digest by another algorithm": _digests("sha-512=:AA==:"),
        "digest name in upper case": _digests(digest(BODY).replace("sha", "SHA")),
        "digest of another body": _digests(digest(b"x")),
        "digest empty": _digests(""),
        "digest without padding": _digests(digest(BODY).replace("=:", ":").replace("256:", "256=:")),
        "byte outside ASCII": [*plain_headers(), ["authorization", "caf\xe9"]],
        "line feed in a value": [*plain_headers(), ["authorization", "a\n b"]],
        "NUL in a value": [*plain_headers(), ["authorization", "a\x00"]],
        "DEL in a value": [*plain_headers(), ["authorization", "a\x7f"]],
    }
    for name, headers in unbound.items():
        yield case(name, "refused", {"headers": headers}, error("binding"))
    yield case("digest without body", "refused", {"headers": plain_headers(), "body": ""}, error("binding"))
    empty = [*plain_headers(b""), ["Content-Digest", digest(b"")]]
    yield case("digest of the empty body", "a digest with no body", {"headers": empty, "body": ""}, error("binding"))
    yield case(
        "one byte more",
        "digest over the body",
        {"headers": plain_headers(), "body": b64(BODY + b" ")},
        error("binding"),
    )


def _digests(value: str) -> Headers:
    return [*[each for each in plain_headers() if each[0] != "Content-Digest"], ["Content-Digest", value]]


def _bound(name: str, why: str, headers: Headers, body: bytes = BODY, method: str = "POST") -> Json:
    base = binding_base(method, TARGET, headers)
    given = {"headers": headers, "body": b64(body), "method": method}
    return case(name, why, given, {"result": "ok", "base": base, "rqb": b64u(sha(base.encode()))})
