"""Vectors of sequences of messages (§7.3): gRPC's, the frames of WebSockets, and what statements say of them.

Like ``scene``, independent of ``hopseal.custody``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors.answers import (
    ANSWER,
    STREAM,
    Closing,
    Response,
    closing_claims,
    grpc_messages,
    receipt_claims,
    rsb_of,
    tlb_of,
)
from vectors.scene import ABSENT, BODY, Headers, Json, b64, b64u, case, error, sha, some_hash

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN = 0x80
MASK = bytes.fromhex("37fa213d")
GRPC: Headers = [["content-type", "application/grpc+proto"]]
OK: Headers = [["grpc-message", ""], ["grpc-status", "0"]]
MESSAGES = grpc_messages(b"one", b"", b"three")


def frame(
    first: int, payload: bytes, *, masked: bool = False, mask: bytes = MASK, length_bytes: int | None = None
) -> bytes:
    """One frame; ``length_bytes`` forces a form of its length."""
    size = len(payload)
    extended = length_bytes if length_bytes is not None else 0 if size < 126 else 2 if size < 1 << 16 else 8
    short = {0: size, 2: 126, 8: 127}[extended]
    head = bytes([first, short | (0x80 if masked else 0)]) + (size.to_bytes(extended) if extended else b"")
    if not masked:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def frames_sum(*frames: tuple[int, bytes]) -> Json:
    """What frames of these first bytes and payloads come to."""
    text = b"".join(bytes([first]) + len(payload).to_bytes(8) + payload for first, payload in frames)
    messages = sum(first & FIN > 0 and first & 0x0F < CLOSE for first, _ in frames)
    return {"result": "ok", "len": len(text), "cd": b64u(sha(text)), "n": messages}


def streams_cases() -> Iterator[Json]:
    """Bodies in the direction that ``kind`` names: ``grpc``, ``client`` or ``server``."""
    yield from _grpc()
    yield from _frames()
    yield from _faults()


def _grpc() -> Iterator[Json]:
    good = {
        "nothing": (b"", 0),
        "an empty message": (grpc_messages(b""), 1),
        "three messages": (MESSAGES, 3),
        "a compressed message": (b"\x01" + grpc_messages(b"xyz")[1:], 1),
        "a message that is cut": (MESSAGES[:-1], 2),
        "a prefix that is cut": (MESSAGES + b"\0\0\0", 3),
        "a long message": (grpc_messages(b"x" * 70_000), 1),
    }
    for name, (body, count) in good.items():
        facts = {"result": "ok", "len": len(body), "cd": b64u(sha(body)), "n": count, "end": None}
        yield case(f"gRPC: {name}", "whole messages are counted, all bytes digested", _of("grpc", body), facts)
    for name, body in {
        "JSON": b'{"jsonrpc":"2.0"}',
        "a flag of two": b"\2\0\0\0\0",
        "a flag of 255 behind a message": grpc_messages(b"x") + b"\xff",
    }.items():
        yield case(f"gRPC: {name}", "a flag is 0 or 1", _of("grpc", body), error("malformed"))


def _frames() -> Iterator[Json]:
    plain = [(FIN | TEXT, b"hello"), (FIN | BINARY, b""), (FIN | PING, b"p"), (FIN | PONG, b"p")]
    pieces = [(TEXT, b"he"), (FIN | PING, b""), (0, b"ll"), (FIN, b"o")]
    compressed = [(FIN | 0x40 | TEXT, b"\xca\x48\xcd\xc9\xc9\x07\x00")]
    long = [(FIN | BINARY, b"x" * size) for size in (125, 126, 65_535, 65_536)]
    for name, frames in {
        "nothing": [],
        "whole messages and pings": plain,
        "a message in pieces with a ping between": pieces,
        "a compressed message": compressed,
        "lengths of each form": long,
    }.items():
        for kind in ("client", "server"):
            body = b"".join(frame(first, payload, masked=kind == "client") for first, payload in frames)
            facts = frames_sum(*frames) | {"end": None}
            yield case(f"{kind}: {name}", "without mask, first byte and length", _of(kind, body), facts)
    other = frame(FIN | TEXT, b"hello", masked=True, mask=b"\1\2\3\4")
    facts = frames_sum((FIN | TEXT, b"hello")) | {"end": None}
    yield case("client: another mask", "masks do not count", _of("client", other), facts)
    closed = [(FIN | TEXT, b"bye"), (FIN | CLOSE, b"\x03\xe8done")]
    body = b"".join(frame(first, payload) for first, payload in closed)
    facts = frames_sum(*closed) | {"end": len(body)}
    behind = {"nothing": b"", "a frame": frame(FIN | TEXT, b"x"), "fields": b"custody-receipt: x\r\n\r\n"}
    for name, more in behind.items():
        yield case(f"server: {name} behind the Close frame", "the end", _of("server", body + more), facts)


def _faults() -> Iterator[Json]:
    text = frame(FIN | TEXT, b"x")
    for name, kind, body in (
        ("a mask of a server", "server", frame(FIN | TEXT, b"x", masked=True)),
        ("no mask of a client", "client", text),
        ("a reserved opcode", "server", frame(FIN | 3, b"")),
        ("a reserved control opcode", "server", frame(FIN | 11, b"")),
        ("a message within another", "server", frame(TEXT, b"a") + text),
        ("a continuation of nothing", "server", frame(FIN, b"a")),
        ("a continuation of a whole message", "server", text + frame(FIN, b"a")),
        ("a ping in pieces", "server", frame(PING, b"")),
        ("a Close frame in pieces", "server", frame(CLOSE, b"")),
        ("a ping of 126 bytes", "server", frame(FIN | PING, b"x" * 126)),
        ("a length in two bytes that fits in one", "server", frame(FIN | TEXT, b"x" * 125, length_bytes=2)),
        ("a length in eight bytes that fits in two", "server", frame(FIN | TEXT, b"x" * 126, length_bytes=8)),
        ("a length with its highest bit set", "server", b"\x81\x7f\x80" + bytes(7)),
        ("HTTP", "server", b"HTTP/1.1 200 OK\r\n\r\n"),
    ):
        yield case(f"{kind}: {name}", "RFC 6455 §5", _of(kind, body), error("malformed"))


def _of(kind: str, body: bytes) -> Json:
    return {"kind": kind, "body": b64(body)}


def _grpc_receipt(**changes: Any) -> Json:
    claims = {
        "rec": STREAM.hash,
        "rsb": rsb_of(200, GRPC),
        "len": len(MESSAGES),
        "cd": b64u(sha(MESSAGES)),
        "n": 3,
        "tlb": tlb_of(OK),
        "req": {"len": len(MESSAGES), "cd": b64u(sha(MESSAGES)), "n": 3},
    }
    return receipt_claims(**(claims | changes))


def _answer(claims: Json | None = None, **members: Any) -> Json:
    response = Response(claims or _grpc_receipt())
    given = {
        "record": STREAM.text,
        "headers": GRPC,
        "trailers": [*OK, ["Custody-Receipt", response.receipt().text]],
        "body": b64(MESSAGES),
        "request": b64(MESSAGES),
        "request_headers": GRPC,
    }
    return given | members


def receipt_stream_cases() -> Iterator[Json]:
    """Receipts of streams, for the file of receipts."""
    whole = _grpc_receipt()
    yield case("gRPC stream", "both directions", _answer(whole), Response(whole).facts())
    swapped = [OK[1], OK[0]]
    trailers = [*swapped, ["Custody-Receipt", Response(whole).receipt().text]]
    yield case("gRPC trailers in another order", "by name", _answer(whole, trailers=trailers), Response(whole).facts())
    taken = {"len": 8, "cd": b64u(sha(MESSAGES[:8])), "n": 1}
    for name, claims in {
        "gRPC stream that its callee ended early": _grpc_receipt(fin="early", req=taken),
        "gRPC stream that was cut": _grpc_receipt(fin="abort", req=taken),
        "gRPC stream refused after its first message": _grpc_receipt(fin="deny", req=taken),
        "gRPC stream that ended early with all of it taken": _grpc_receipt(fin="early"),
        "gRPC stream whose receipt says nothing of the request": _grpc_receipt(req=ABSENT),
    }.items():
        yield case(name, "req is part of what was sent", _answer(claims), Response(claims).facts())
    all_sent = {"len": len(MESSAGES), "cd": b64u(sha(MESSAGES)), "n": 3}
    for name, claims, code in (
        ("whole answer to part of a stream", _grpc_receipt(req=taken), "binding"),
        ("more taken than was sent", _grpc_receipt(req=all_sent | {"len": 99}), "binding"),
        ("other bytes taken than were sent", _grpc_receipt(req=all_sent | {"cd": some_hash("x")}), "binding"),
        ("other messages taken than were sent", _grpc_receipt(req=all_sent | {"n": 2}), "binding"),
        ("n is one too many", _grpc_receipt(n=4), "binding"),
        ("n is absent", _grpc_receipt(n=ABSENT), "binding"),
        ("tlb is absent", _grpc_receipt(tlb=ABSENT), "binding"),
        ("tlb of other trailers", _grpc_receipt(tlb=some_hash("x")), "binding"),
        ("early without req", _grpc_receipt(fin="early", req=ABSENT), "malformed"),
        ("req without digest", _grpc_receipt(req={"len": 1}), "malformed"),
        ("req with a member more", _grpc_receipt(req=all_sent | {"x": 1}), "malformed"),
    ):
        yield case(f"stream: {name}", "recomputed", _answer(claims), error(code))
    yield case("stream: no request was streamed", "req of what", _answer(request=None), error("binding"))
    line = ["Custody-Receipt", Response(whole).receipt().text]
    for name, trailers in {
        "status changed": [OK[0], ["grpc-status", "14"], line],
        "status removed": [OK[0], line],
        "trailer injected": [*OK, ["x-more", "1"], line],
        "trailer outside ASCII": [OK[0], ["grpc-status", "\xe9"], line],
    }.items():
        yield case(f"stream: {name}", "tlb", _answer(whole, trailers=trailers), error("binding"))
    plain = Response()
    unbound = {"headers": plain.headers, "trailers": [*OK, ["Custody-Receipt", plain.receipt().text]]}
    yield case("trailers that no tlb binds", "covered if present", plain.input(**unbound), error("binding"))
    head = [["content-type", "application/grpc"], ["grpc-status", "12"]]
    only = Response(receipt_claims(rsb=rsb_of(200, head), len=0, cd=b64u(sha(b"")), n=0), headers=head)
    yield case("gRPC status in the head", "rsb covers it", only.input(body=""), only.facts())
    receipt = ["Custody-Receipt", only.receipt().text]
    changed = only.input(body="", headers=[head[0], ["grpc-status", "0"], receipt])
    yield case("gRPC status in the head changed", "rsb", changed, error("binding"))
    json = Response(receipt_claims(n=1))
    yield case("messages of a body that has none", "n is of gRPC only", json.input(body=b64(ANSWER)), error("binding"))


def closing_stream_cases() -> Iterator[Json]:
    """Closing statements of streams, for the file of closing statements."""
    body = {"headers": GRPC, "body": b64(MESSAGES)}
    whole = closing_claims(len=len(MESSAGES), cd=b64u(sha(MESSAGES)), n=3)
    yield case("gRPC stream", "messages are counted", Closing(whole).input(**body), Closing(whole).facts())
    for name, claims in {
        "n is one too few": whole | {"n": 2},
        "n is absent": closing_claims(len=len(MESSAGES)),
    }.items():
        yield case(f"stream: {name}", "recomputed", Closing(claims).input(**body), error("binding"))
    yield case("messages of a body that has none", "gRPC only", Closing(closing_claims(n=1)).input(), error("binding"))
    trailers: Headers = [["x-checked", "yes"]]
    bound = Closing(closing_claims(tlb=tlb_of(trailers)))
    line = ["Custody-Close", bound.sealed().text]
    yield case("among other trailers", "tlb", bound.input(trailers=[*trailers, line]), bound.facts())
    yield case("trailers removed", "tlb", bound.input(), error("binding"))
    plain = Closing()
    added = [*trailers, ["Custody-Close", plain.sealed().text]]
    yield case("trailers added", "tlb", plain.input(trailers=added, body=b64(BODY)), error("binding"))
    early = Closing(closing_claims(fin="early"))
    yield case("a caller that ended early", "callees do", early.input(), error("malformed"))
