"""Malformed HTTP, one file per case, with the verdict of each of our sockets and of Envoy.

A file is a few ``key: value`` lines, a line ``---``, and the bytes: its line breaks do not count, ``\\r``, ``\\n``,
``\\0``, ``\\\\`` and ``\\xNN`` are escapes, ``{N*text}`` is repetition and ``{custody}`` the record that the peer port
asks for. Files under ``h2`` have one frame per line after that, with its fields below it.

| key | meaning |
| --- | --- |
| ``about`` | what is wrong with it |
| ``out``, ``peer`` | our verdict at ``out.sock`` and at the peer port |
| ``envoy``, ``envoy-peer`` | Envoy's at a Unix socket and behind mutual TLS |
| ``difference`` | why one accepts what the other does not; there if and only if that is so |
| ``bound`` | method, path and body that the record binds |

A verdict is a status, our code, or how the connection ended, and ``xN`` if N requests arrived at the component.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hyperframe.frame import Frame

from dataplane_nodes import spiffe_id
from dataplane_peer import Message, fresh_id
from hopseal.custody.authority import Authority as Ceiling
from hopseal.custody.binding import bind_request, content_digest
from hopseal.custody.delegation import Task
from hopseal.custody.sender import Call, build_root
from hopseal.ids import SpiffeId
from hopseal.svid import X509Svid

FOLDER = Path(__file__).resolve().parent / "attacks" / "corpus" / "http"
KEYS = {"about", "out", "peer", "envoy", "envoy-peer", "difference", "bound"}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ESCAPE = re.compile(r"\\(r|n|t|0|\\|x[0-9a-f]{2})")
_REPEAT = re.compile(r"\{(\d+)\*([^{}]+)\}")
_SIMPLE = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_FLAGS = {"END_STREAM": 0x1, "ACK": 0x1, "END_HEADERS": 0x4, "PADDED": 0x8, "PRIORITY": 0x20}
_TYPES = {
    "DATA": 0,
    "HEADERS": 1,
    "PRIORITY": 2,
    "RST_STREAM": 3,
    "SETTINGS": 4,
    "PUSH_PROMISE": 5,
    "PING": 6,
    "GOAWAY": 7,
    "WINDOW_UPDATE": 8,
    "CONTINUATION": 9,
}


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    keys: dict[str, str]
    text: str

    @property
    def is_h2(self) -> bool:
        return self.name.startswith("h2/")

    @property
    def bound(self) -> tuple[str, str, bytes]:
        method, path, body = (self.keys.get("bound", "POST /notes hello") + " ").split(" ", 2)
        return method, path, unescape(body.removesuffix(" "))

    def data(self, custody: list[tuple[str, str]]) -> bytes:
        """The bytes to send, with these fields in place of ``{custody}``."""
        if self.is_h2:
            return b"".join(_frames(self.text, custody))
        lines = "".join(f"{name}: {value}\\r\\n" for name, value in custody)
        return unescape(self.text.replace("{custody}", lines))

    @cached_property
    def accepted(self) -> dict[str, bool]:
        return {
            where: " x" in self.keys[where] for where in ("out", "peer", "envoy", "envoy-peer") if where in self.keys
        }


def load_cases() -> list[Case]:
    return [load_case(path) for path in sorted(FOLDER.rglob("*.txt"))]


def load_case(path: Path) -> Case:
    head, _, text = path.read_text(encoding="ascii").partition("\n---\n")
    keys = dict(line.split(": ", 1) for line in head.splitlines())
    assert keys.keys() <= KEYS, path
    name = str(path.relative_to(FOLDER).with_suffix(""))
    return Case(name, keys, text if name.startswith("h2/") else text.replace("\n", ""))


def unescape(text: str) -> bytes:
    """The bytes that a text of the corpus stands for."""
    plain = _REPEAT.sub(lambda found: found[2] * int(found[1]), text)
    return _ESCAPE.sub(lambda found: _SIMPLE.get(found[1]) or chr(int(found[1][1:], 16)), plain).encode("latin-1")


def custody_fields(svid: X509Svid, method: str, path: str, body: bytes) -> list[tuple[str, str]]:
    """The record of a root call of the orchestrator to the tool, and the digest that it binds."""
    now = int(time.time())
    digest = [("content-digest", content_digest(body))] if body else []
    target = f"https://tool.crm{path}"
    call = Call(
        iss=SpiffeId.parse(spiffe_id("orchestrator")),
        aud=spiffe_id("tool"),
        iat=now,
        jti=fresh_id(),
        rqb=bind_request(method, target, digest, body),
        operations=(f"{method} {path}",),
    )
    record = build_root(call, cid=fresh_id(), task=Task(id="t"), auth=Ceiling(exp=now + 600, hops=7))
    return [*digest, ("custody-record", Message(svid, record=record).sealed())]


def _frames(text: str, custody: list[tuple[str, str]]) -> list[bytes]:
    """The preface and the frames of a text, each ``TYPE STREAM [FLAG …]`` with its payload indented below it."""
    made = [PREFACE]
    blocks = re.split(r"\n(?=\S)", text.strip("\n"))
    for block in blocks:
        first, *below = block.splitlines()
        words = first.split()
        if words[0] == "RAW":
            made.append(unescape(" ".join(words[1:])))
            continue
        times = 1
        if repeated := re.fullmatch(r"(\d+)\*([A-Z_]+)", words[0]):
            times, words[0] = int(repeated[1]), repeated[2]
        flags = sum(_FLAGS[word] for word in words[2:])
        streams = range(int(words[1].split("+")[0]), 1 << 31, int(words[1].partition("+")[2] or 0) or 1)
        payload_of = _payload(words[0], below, custody)
        for stream, _ in zip(streams if "+" in words[1] else [streams[0]] * times, range(times), strict=False):
            payload = payload_of()
            kind = _TYPES[words[0]]
            made.append(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)
    return made


def _payload(kind: str, below: list[str], custody: list[tuple[str, str]]) -> Callable[[], bytes]:
    lines = [line.strip() for line in below]
    if kind not in {"HEADERS", "CONTINUATION", "TRAILERS"} or any(line.startswith("RAW ") for line in lines):
        return lambda: unescape("".join(line.removeprefix("RAW ") for line in lines))
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line == "{custody}":
            fields += [(name.encode(), value.encode()) for name, value in custody]
            continue
        name, _, value = (line + " ").partition(": ") if line.endswith(":") else line.partition(": ")
        fields.append((unescape(name), unescape(value)))
    # Plain literals without indexing: what is sent is what stands in the file.
    return lambda: b"".join(_literal(name, value) for name, value in fields)


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length, made = len(text), bytearray()
    if length < 127:
        return bytes([length]) + text
    made.append(127)
    length -= 127
    while length >= 128:
        made.append(length % 128 + 128)
        length //= 128
    made.append(length)
    return bytes(made) + text


def read_frames(data: bytes) -> list[Frame]:
    """The whole frames at the beginning of ``data``."""
    found: list[Frame] = []
    while len(data) >= 9:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        if len(data) < 9 + length:
            break
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found.append(frame)
        data = data[9 + length :]
    return found
