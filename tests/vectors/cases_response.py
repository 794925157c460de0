"""Vectors of what goes into a receipt: response bindings, trees of receipts, comments of event streams."""

from __future__ import annotations

from collections.abc import Iterator

from vectors.answers import ANSWER, answer_headers, kids_tree, response_base, rsb_of
from vectors.scene import Headers, Json, b64, case, error, some_hash

KIDS = (0, 1, 2, 7, 8, 9, 10, 16, 17, 31, 32, 33, 255, 256, 257, 300)
SEALED = "eyJ2Ijox.AAA.e30.e30.sig-_"


def response_binding_cases() -> Iterator[Json]:
    good: dict[str, tuple[int, Headers]] = {
        "example": (200, answer_headers()),
        "reversed header order": (200, answer_headers()[::-1]),
        "names in any case": (200, [[name.upper(), value] for name, value in answer_headers()]),
        "no covered field": (204, [["Server", "x"]]),
        "no header at all": (100, []),
        "highest status": (999, []),
        "every covered field": (200, [["Content-Encoding", "gzip"], *answer_headers()]),
        "several lines of one field": (200, [["content-encoding", "a"], ["Content-Encoding", "\t b "]]),
        "empty field": (200, [["Content-Type", " "]]),
        "fields of requests do not count": (200, [*answer_headers(), ["Authorization", "x"], ["Mcp-Name", "y"]]),
        "uncovered fields do not count": (200, [*answer_headers(), ["X-Anything", "\xff"], ["content_type", "x"]]),
        "digest of nothing": (200, [["Content-Digest", "sha-512=:AA==:"]]),
    }
    for name, (status, headers) in good.items():
        facts = {"result": "ok", "base": response_base(status, headers), "rsb": rsb_of(status, headers)}
        yield case(name, "fixed order, covered if present", {"status": status, "headers": headers}, facts)
    for name, value in {"byte outside ASCII": "\xe9", "line feed": "a\nb", "NUL": "\x00", "DEL": "\x7f"}.items():
        given = {"status": 200, "headers": [["Content-Type", value]]}
        yield case(f"{name} in a value", "no second form", given, error("binding"))


def kids_cases() -> Iterator[Json]:
    for size in KIDS:
        hashes = [some_hash(f"kid {index}") for index in range(size)]
        kids = hashes if size <= 8 else kids_tree(hashes)
        yield case(
            f"{size} receipts", "listed up to eight, then a tree", {"hashes": hashes}, {"result": "ok", "kids": kids}
        )


def sse_cases() -> Iterator[Json]:
    event = b"event: message\ndata: {}\n\n"
    comment = f": custody-receipt {SEALED}\n\n".encode()
    taken = {
        "after an event": event,
        "alone": b"",
        "after a single line feed": b"data: x\n",
        "after another comment": b": ping\n\n",
        "after one like it": event + comment,
        "after one like it, sealed text cut": event + comment[:-4] + b"\n\n",
        "after CRLF": b"data: x\r\n\r\n",
        "after bytes that are no UTF-8": b"data: \xff\n\n",
    }
    for name, body in taken.items():
        facts = {"result": "ok", "body": b64(body), "comment": SEALED}
        yield case(name, "only the last comment is taken off", {"body": b64(body + comment)}, facts)
    longest = "a" * 4096
    facts = {"result": "ok", "body": b64(event), "comment": longest}
    given = {"body": b64(event + f": custody-receipt {longest}\n\n".encode())}
    yield case("a receipt of 4096 bytes", "the bound of a sealed statement", given, facts)
    left = {
        "a receipt of 4097 bytes": event + f": custody-receipt {longest}a\n\n".encode(),
        "nothing": b"",
        "no comment": event,
        "not at the end": event + comment + event,
        "one byte after it": event + comment + b"\n",
        "one line feed at the end": event + comment[:-1],
        "carriage returns at the end": event + comment[:-2] + b"\r\n\r\n",
        "in the middle of a line": b"data: x" + comment,
        "after a carriage return only": b"data: x\r" + comment,
        "no space after the colon": comment.replace(b": c", b":c"),
        "two spaces": comment.replace(b" eyJ", b"  eyJ"),
        "space at the end": event + comment[:-2] + b" \n\n",
        "name in upper case": comment.replace(b"custody", b"Custody"),
        "nothing sealed": b": custody-receipt \n\n",
        "character outside the grammar": comment.replace(b"sig", b"s=g"),
        "line feed inside": comment.replace(b"sig", b"s\ng"),
        "as data": b"data: custody-receipt x\n\n",
    }
    for name, body in left.items():
        facts = {"result": "ok", "body": b64(body), "comment": None}
        yield case(f"left: {name}", "body, not a receipt", {"body": b64(body)}, facts)
    yield case("a plain answer", "body", {"body": b64(ANSWER)}, {"result": "ok", "body": b64(ANSWER), "comment": None})
