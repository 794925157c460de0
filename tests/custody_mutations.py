"""Requests that are nearly right: hypothesis strategies that take a published vector and change something."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from vectors.generate import FILES

Json = dict[str, Any]
FOLDER = Path(__file__).parent / "vectors"
CHARACTERS = st.sampled_from('Aa0_-.:,= \t\x00\n\xe9"{}1~')


def changed_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """``data`` with up to two bytes exchanged for up to two others, or a word of JSON."""
    words = st.binary(max_size=2) | st.sampled_from([b'"', b"[", b"{", b",", b"\\", b"0", b"-", b".", b" ", b"null"])
    return st.builds(
        lambda at, new, gone: data[:at] + new + data[at + gone :], st.integers(0, len(data)), words, st.integers(0, 2)
    )


def load_requests(kind: str) -> list[Json]:
    """Every request of a kind, good and bad."""
    requests = []
    for name in FILES:
        document = json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))
        if document["kind"] == kind:
            requests += [{"kind": kind, "input": document["defaults"] | case["input"]} for case in document["cases"]]
    return requests


def changed_text(text: str) -> st.SearchStrategy[str]:
    """``text`` with one character put in, taken out or exchanged, or cut, or doubled."""
    places = st.integers(0, len(text))
    return st.one_of(
        st.builds(lambda at, new: text[:at] + new + text[at:], places, CHARACTERS),
        st.builds(lambda at, new: text[:at] + new + text[at + 1 :], places, CHARACTERS),
        st.builds(lambda at: text[:at] + text[at + 1 :], places),
        st.builds(lambda at: text[:at], places),
        st.just(text + text),
    )


@st.composite
def changed_headers(draw: st.DrawFn, headers: list[list[str]]) -> list[list[str]]:
    """A header list with one line changed, moved, doubled or taken out."""
    lines = copy.deepcopy(headers)
    custody = [index for index, (name, _) in enumerate(lines) if name.lower().startswith("custody")]
    at = draw(st.sampled_from(custody or [0]) | st.integers(0, len(lines) - 1))
    match draw(st.sampled_from(["value", "name", "double", "remove", "move"])):
        case "value":
            lines[at][1] = draw(changed_text(lines[at][1]))
        case "name":
            lines[at][0] = draw(changed_text(lines[at][0]))
        case "double":
            lines.insert(draw(st.integers(0, len(lines))), list(lines[at]))
        case "remove":
            del lines[at]
        case _:
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
    return lines


@st.composite
def changed_exchanges(draw: st.DrawFn, requests: list[Json]) -> Json:
    """One of ``requests`` of kind ``receipt_verify`` or ``closing_verify``, with up to two changes."""
    request = copy.deepcopy(draw(st.sampled_from(requests)))
    given = request["input"]
    places = [name for name in ("headers", "trailers") if given.get(name)]
    peer = "tls_server" if "tls_server" in given else "tls_peer"
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from([*places * 3, "comment", "now", "body", "status", "peer", "bundles", "record"])):
            case "headers" | "trailers" as name if given[name]:
                given[name] = draw(changed_headers(given[name]))
            case "comment" if given.get("comment"):
                given["comment"] = draw(changed_text(given["comment"]).filter(str.isascii))
            case "now":
                given["now"] += draw(st.sampled_from([-61, -11, -10, -1, 1, 9, 10, 11, 60, 900, 3600]))
            case "body":
                given["body"] = draw(st.sampled_from(["", "AA==", given["body"]]))
            case "status" if "status" in given:
                given["status"] = draw(st.sampled_from([100, 200, 201, 999]))
            case "peer":
                given[peer] = draw(st.sampled_from([[], ["AA=="], given[peer]]))
            case "bundles":
                given["bundles"] = draw(st.sampled_from([{}, dict(list(given["bundles"].items())[:1])]))
            case _:
                other = draw(st.sampled_from(requests))["input"]
                given["record"] = other["record"]
    return request


@st.composite
def changed_requests(draw: st.DrawFn, requests: list[Json]) -> Json:
    """One of ``requests`` of kind ``receive``, with up to two changes."""
    request = copy.deepcopy(draw(st.sampled_from(requests)))
    given = request["input"]
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from(["headers", "headers", "headers", "now", "body", "peer", "bundles", "state"])):
            case "headers":
                given["headers"] = draw(changed_headers(given["headers"])) if given["headers"] else []
            case "now":
                given["now"] += draw(st.sampled_from([-61, -11, -10, -1, 1, 9, 10, 11, 60, 900, 3600]))
            case "body":
                given["body"] = draw(st.sampled_from(["", "AA==", given["body"]]))
            case "peer":
                given["tls_peer"] = draw(st.sampled_from([None, given["own_leaves"][:1], ["AA=="], given["tls_peer"]]))
            case "bundles" if not given["state"]["prefix"]:  # which was verified with these bundles
                given["bundles"] = draw(st.sampled_from([{}, dict(list(given["bundles"].items())[:1])]))
            case _:
                room = draw(st.integers(0, 1))
                given["state"] |= {"replay_capacity": len(given["state"]["replay"]) + room, "certs": []}
    return request
