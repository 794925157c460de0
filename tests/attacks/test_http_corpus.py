"""Malformed HTTP at both sockets of a running broker: its verdict, and that nothing is smuggled past policy.

The same corpus is run against Envoy in tests/real/test_http_corpus_envoy.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane_nodes import call, spiffe_id
from http_corpus import Case, load_cases
from http_corpus_run import CUT, talk
from http_corpus_targets import Ours, ours, unix
from raw_origin import RawRequest
from waiting import wait_until

pytestmark = pytest.mark.process

CASES = load_cases()
HTTP1 = [case for case in CASES if not case.is_h2]
#: What ends by itself however it is cut: a head that came in pieces is parsed once it has ended.
SMALL = [case for case in HTTP1 if len(case.data([])) < 2_000 and re.search(rb"\n\r?\n", case.data([]))]
SMALL = [case for case in SMALL if "408" not in case.keys["out"]]
NAMED = {"ids": lambda case: case.name}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    with ours(tmp_path_factory.mktemp("corpus")) as made:
        yield made


def operation(request: RawRequest) -> str:
    return f"{request.method} {request.target.partition('?')[0]}"


def served(nodes: Ours) -> list[dict]:
    return [found for found in nodes.b.of("call") if found["direction"] == "in" and found["status"] == 200]


@contextmanager
def nothing_smuggled(nodes: Ours) -> Iterator[None]:
    """Within, the component gets exactly the requests that policy has seen, each whole and as its record binds it."""
    requests, calls, faults = len(nodes.origin.requests), len(served(nodes)), len(nodes.origin.faults)
    yield
    arrived = nodes.origin.requests[requests:]
    wait_until(lambda: len(served(nodes)) >= calls + len(arrived), what="an event for every request")
    assert [operation(each) for each in arrived] == [found["operation"] for found in served(nodes)[calls:]]
    assert nodes.origin.faults[faults:] == []
    for each in arrived:
        digest = base64.b64encode(hashlib.sha256(each.body).digest()).decode()
        assert each.all("content-digest") == ([f"sha-256=:{digest}:"] if each.body else [])
        assert each.all("host") == ["localhost"]
        assert len(each.all("custody-handle")) == 1


@pytest.mark.parametrize("case", CASES, **NAMED)
def test_out_sock_gives_its_verdict_and_smuggles_nothing(nodes: Ours, case: Case) -> None:
    with nothing_smuggled(nodes):
        assert nodes.out(case) == case.keys["out"]


@pytest.mark.parametrize("case", CASES, **NAMED)
def test_the_peer_port_gives_its_verdict_and_smuggles_nothing(nodes: Ours, case: Case) -> None:
    with nothing_smuggled(nodes):
        assert nodes.peer(case) == case.keys["peer"]


@pytest.mark.parametrize("case", SMALL, **NAMED)
def test_a_case_in_single_bytes_gets_the_same_verdict(nodes: Ours, case: Case) -> None:
    with nothing_smuggled(nodes), unix(nodes.a.out) as connection:
        verdict = talk(connection, case.data([]), is_h2=False, step=1)
    assert verdict == case.keys["out"].partition(" x")[0]


@pytest.mark.parametrize("case", CASES, **NAMED)
def test_a_case_says_why_envoy_differs_if_it_does(case: Case) -> None:
    pairs = [("out", "envoy"), ("peer", "envoy-peer")]
    differs = any(case.accepted[our] != case.accepted[envoys] for our, envoys in pairs)
    assert differs == ("difference" in case.keys)


def test_whoever_sends_the_corpus_disturbs_nobody_else(nodes: Ours) -> None:
    answer = call(nodes.a, path="/notes", body=b"hello")
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize("where", ["out", "peer"])
def test_what_is_no_request_is_told_with_its_reason(nodes: Ours, where: str) -> None:
    node, direction = (nodes.a, "out") if where == "out" else (nodes.b, "in")

    def malformed() -> list[dict]:
        return [found for found in node.of("call") if found["code"] == "request_malformed"]

    before = len(malformed())
    folded = next(case for case in CASES if case.name == "h1/line-folded")
    assert (nodes.out if where == "out" else nodes.peer)(folded) == "400 request_malformed"
    wait_until(lambda: len(malformed()) > before)
    told = malformed()[-1]
    assert (told["direction"], told["status"]) == (direction, 400)
    assert "invalid HTTP header parsed" in told["detail"]
    assert told["caller"] == (None if where == "out" else spiffe_id("orchestrator"))


# --- every case, changed a little

PIECES = [b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b"0", b"5", b"chunked", b"Content-Length: 3\r\n"]
PIECES += [
    b"Transfer-Encoding: chunked\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: tool.crm\r\n\r\n",
    b"\xff",
    b"Host: x\r\n",
]


@st.composite
def changed(draw: st.DrawFn, custody: list[tuple[str, str]]) -> bytes:
    """The bytes of a case with up to four changes."""
    data = draw(st.sampled_from(SMALL)).data(custody)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["insert", "delete", "repeat", "replace"])):
            case "insert":
                data = data[:start] + draw(st.sampled_from(PIECES)) + data[start:]
            case "delete":
                data = data[:start] + data[end:]
            case "repeat":
                data = data[:end] + data[start:end] + data[end:]
            case "replace":
                data = data[:start] + draw(st.binary(min_size=end - start, max_size=end - start)) + data[end:]
    return data


@settings(max_examples=150)
@given(data=st.data())
def test_no_change_of_a_case_smuggles_anything_past_out_sock(nodes: Ours, data: st.DataObject) -> None:
    sent = data.draw(changed([]))
    with nothing_smuggled(nodes), unix(nodes.a.out) as connection:
        verdict = talk(connection, sent, is_h2=False)
    assert verdict == CUT or verdict.partition(" ")[0].isdigit()


@settings(max_examples=100)
@given(data=st.data())
def test_no_change_of_a_case_smuggles_anything_past_the_peer_port(nodes: Ours, data: st.DataObject) -> None:
    sent = data.draw(changed(nodes.custody(SMALL[0])))
    with nothing_smuggled(nodes), nodes.at_peer_port(is_h2=False) as connection:
        verdict = talk(connection, sent, is_h2=False)
    assert verdict == CUT or verdict.partition(" ")[0].isdigit()
