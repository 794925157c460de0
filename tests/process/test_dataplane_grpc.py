"""gRPC through two brokers, by clients and servers that nobody here wrote: every shape of call, every way it ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpclib.client
import h2.config
import h2.connection
import h2.events
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dataplane_grpc import EchoServer, channel, lib_channel, lib_server, path_of
from dataplane_nodes import TRUST_DOMAIN, Node, call, statements
from hopseal.custody.closing import Closing, parse_sealed_closing
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.outcome import Fin, Outcome
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.log.entries import Direction, RecordEntry, StatementKind
from svid_authority import Authority
from waiting import wait_until

ACCEPT = {"streams": "accept"}
CLOSING = StatementKind.CLOSING
LONG_S = 20


@dataclass
class Nodes:
    a: Node
    b: Node
    path: Path

    def record(self) -> Record:
        """The newest record that ``b`` accepted."""
        entries = [each for each in self.b.log().entries if isinstance(each, RecordEntry) and each.accepted]
        return parse_sealed_record(entries[-1].sealed or "").record

    def receipt(self) -> Outcome:
        """The newest receipt that ``b`` made, once it is in the log."""
        wait_until(lambda: statements(self.b, Direction.SENT))
        return parse_sealed_receipt(statements(self.b, Direction.SENT)[-1].sealed or "").claims.outcome

    def closing(self) -> Closing:
        """The newest closing statement that ``a`` made, once it is in the log."""
        wait_until(lambda: statements(self.a, Direction.SENT, CLOSING))
        return parse_sealed_closing(statements(self.a, Direction.SENT, CLOSING)[-1].sealed or "").claims

    def settled(self) -> None:
        wait_until(lambda: self.a.metric("calls_in_progress") == self.b.metric("calls_in_progress") == 0)


@contextlib.contextmanager
def nodes(folder: Path, *, protocol: str = "h2", **settings: object) -> Iterator[Nodes]:
    authority, path = Authority(TRUST_DOMAIN), folder / "tool.sock"
    made = {**ACCEPT, **settings}
    a = Node(folder / "a", authority, settings=made, protocol=protocol).start()
    b = Node(folder / "b", authority, None, {"tool": path}, made, protocol=protocol).start()
    a.route(tool=b.port)
    try:
        yield Nodes(a, b, path)
    finally:
        a.stop()
        b.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Nodes]:
    with nodes(tmp_path) as made:
        yield made


@pytest.fixture
def server(pair: Nodes) -> Iterator[EchoServer]:
    with EchoServer(pair.path) as made:
        yield made


def framed(*messages: bytes) -> bytes:
    return b"".join(b"\0" + len(each).to_bytes(4) + each for each in messages)


class Requests:
    """Messages of a client that sends each when the test says so."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue()

    def send(self, message: bytes | None) -> None:
        """None ends them."""
        self._queue.put(message)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._queue.get, None)


def test_a_unary_call_is_bound_whole_at_its_start(pair: Nodes, server: EchoServer) -> None:
    with channel(pair.a.out) as made:
        reply, answered = made.unary_unary(path_of("Unary")).with_call(b"hello", timeout=LONG_S)
    assert reply == b"hello"
    assert dict(answered.trailing_metadata()) == {"x-checked": "yes", "x-some-bin": b"\0\xff"}
    (seen,) = server.metadata
    assert "custody-handle" in seen
    assert not [name for name in seen if name.startswith("custody-") and name != "custody-handle"]
    record, receipt = pair.record(), pair.receipt()
    assert (record.bm, record.op) == (None, f"POST {path_of('Unary')}")
    assert (receipt.fin, receipt.messages, receipt.length, receipt.req) == (Fin.EOF, 1, 10, None)
    assert receipt.tlb is not None


def test_a_server_that_streams_gets_a_request_bound_at_its_start(pair: Nodes, server: EchoServer) -> None:
    with channel(pair.a.out) as made:
        replies = list(made.unary_stream(path_of("Count"))(b"1000", timeout=LONG_S))
    assert replies == [b"%d" % number for number in range(1000)]
    assert pair.record().bm is None
    assert (pair.receipt().messages, pair.receipt().fin) == (1000, Fin.EOF)


def test_a_client_that_streams_is_closed_by_its_statement(pair: Nodes, server: EchoServer) -> None:
    requests = Requests()
    with channel(pair.a.out) as made:
        reply = made.stream_unary(path_of("Collect")).future(iter(requests), timeout=LONG_S)
        wait_until(lambda: server.metadata)
        for message in (b"a", b"b", b"", None):
            requests.send(message)
        assert reply.result() == b"a,b,"
    sent = framed(b"a", b"b", b"")
    closing, receipt = pair.closing(), pair.receipt()
    assert pair.record().bm == "stream"
    assert (closing.fin, closing.messages, closing.length) == (Fin.EOF, 3, len(sent))
    assert receipt.req is not None
    assert (receipt.req.messages, receipt.req.cd) == (3, closing.cd)
    assert (receipt.fin, receipt.messages) == (Fin.EOF, 1)


def test_both_sides_of_a_call_take_turns_and_nobody_waits_for_an_end(pair: Nodes, server: EchoServer) -> None:
    requests = Requests()
    with channel(pair.a.out) as made:
        replies = made.stream_stream(path_of("Chat"))(iter(requests), timeout=LONG_S)
        wait_until(lambda: server.metadata)  # the head is there before any message is
        for word in (b"one", b"two", b"three"):
            requests.send(word)
            assert next(replies) == word.upper()
        requests.send(None)
        assert list(replies) == []
        assert replies.code() is grpc.StatusCode.OK
    receipt = pair.receipt()
    assert (receipt.fin, receipt.messages) == (Fin.EOF, 3)
    assert receipt.req is not None
    assert (receipt.req.messages, receipt.req.length) == (3, len(framed(b"one", b"two", b"three")))


@pytest.mark.asyncio
async def test_every_shape_of_call_passes_by_grpclib_on_both_ends(tmp_path: Path) -> None:
    with nodes(tmp_path) as pair, lib_channel(pair.a.out) as made:
        async with lib_server(pair.path):
            await _every_shape(made)


@pytest.mark.asyncio
async def test_a_client_of_grpclib_calls_a_server_of_grpcio(pair: Nodes, server: EchoServer) -> None:
    with lib_channel(pair.a.out) as made:
        unary = grpclib.client.UnaryUnaryMethod(made, path_of("Unary"), BytesValue, BytesValue)
        assert (await unary(BytesValue(value=b"x"), timeout=LONG_S)).value == b"x"


async def _every_shape(made: grpclib.client.Channel) -> None:
    unary = grpclib.client.UnaryUnaryMethod(made, path_of("Unary"), BytesValue, BytesValue)
    assert (await unary(BytesValue(value=b"x"), timeout=LONG_S)).value == b"x"
    count = grpclib.client.UnaryStreamMethod(made, path_of("Count"), BytesValue, BytesValue)
    assert len(await count(BytesValue(value=b"50"), timeout=LONG_S)) == 50
    collect = grpclib.client.StreamUnaryMethod(made, path_of("Collect"), BytesValue, BytesValue)
    parts = [BytesValue(value=b"%d" % number) for number in range(3)]
    assert (await collect(parts, timeout=LONG_S)).value == b"0,1,2"
    chat = grpclib.client.StreamStreamMethod(made, path_of("Chat"), BytesValue, BytesValue)
    async with chat.open(timeout=LONG_S) as stream:
        for word in (b"a", b"b"):
            await stream.send_message(BytesValue(value=word))
            reply = await asyncio.wait_for(stream.recv_message(), LONG_S)
            assert reply is not None
            assert reply.value == word.upper()
        await stream.end()
        assert await stream.recv_message() is None


def test_an_error_without_a_message_arrives_as_it_was_sent(pair: Nodes, server: EchoServer) -> None:
    with channel(pair.a.out) as made, pytest.raises(grpc.RpcError) as error:
        made.unary_unary(path_of("Fail"))(b"x", timeout=LONG_S)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.value.details() == "the reason, with ünusual characters"
    assert (pair.receipt().fin, pair.receipt().messages) == (Fin.EOF, 0)


def test_an_error_after_a_message_arrives_after_it(pair: Nodes, server: EchoServer) -> None:
    with channel(pair.a.out) as made:
        replies = made.unary_stream(path_of("FailLate"))(b"x", timeout=LONG_S)
        assert next(replies) == b"one"
        with pytest.raises(grpc.RpcError):
            next(replies)
        assert replies.code() is grpc.StatusCode.DATA_LOSS
    assert (pair.receipt().messages, pair.receipt().tlb is not None) == (1, True)


def test_an_unknown_method_is_the_servers_to_refuse(pair: Nodes, server: EchoServer) -> None:
    with channel(pair.a.out) as made, pytest.raises(grpc.RpcError) as error:
        made.unary_unary(path_of("Nothing"))(b"x", timeout=LONG_S)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_server_may_end_a_stream_that_its_client_has_not(pair: Nodes, server: EchoServer) -> None:
    requests = Requests()
    with channel(pair.a.out) as made:
        replies = made.stream_stream(path_of("Early"))(iter(requests), timeout=LONG_S)
        requests.send(b"first")
        assert list(replies) == [b"first"]
        assert replies.code() is grpc.StatusCode.OK
        requests.send(None)
    receipt, closing = pair.receipt(), pair.closing()
    assert (receipt.fin, receipt.messages, closing.fin) == (Fin.EARLY, 1, Fin.ABORT)
    assert receipt.req is not None
    assert receipt.req.cd == closing.cd
    pair.settled()


def test_a_client_that_cancels_cancels_at_the_server(pair: Nodes, server: EchoServer) -> None:
    requests = Requests()
    with channel(pair.a.out) as made:
        replies = made.stream_stream(path_of("Hang"))(iter(requests), timeout=LONG_S)
        requests.send(b"x")
        assert next(replies) == b"begun"
        replies.cancel()
        assert server.cancelled.wait(LONG_S)
        requests.send(None)
    assert (pair.receipt().fin, pair.closing().fin) == (Fin.ABORT, Fin.ABORT)
    pair.settled()


def test_a_deadline_reaches_the_server_and_ends_the_call(pair: Nodes, server: EchoServer) -> None:
    with channel(pair.a.out) as made:
        replies = made.stream_stream(path_of("Hang"))(iter([b"x"]), timeout=0.5)
        with pytest.raises(grpc.RpcError):
            list(replies)
        assert replies.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.cancelled.wait(LONG_S)
    assert pair.receipt().fin is Fin.ABORT
    pair.settled()


def test_a_server_that_dies_in_a_stream_is_an_error_at_the_client(pair: Nodes) -> None:
    with EchoServer(pair.path) as server, channel(pair.a.out) as made:
        replies = made.stream_stream(path_of("Hang"))(iter(Requests()), timeout=LONG_S)
        assert next(replies) == b"begun"
        server._server.stop(0).wait()
        with pytest.raises(grpc.RpcError):
            next(replies)
        assert replies.code() is not grpc.StatusCode.OK
    wait_until(lambda: statements(pair.a, Direction.SENT, CLOSING))
    pair.settled()


def test_a_refusal_by_policy_has_its_grpc_status_and_our_code(pair: Nodes, server: EchoServer) -> None:
    pair.a.plane.set_policies("", "[]")
    with channel(pair.a.out) as made, pytest.raises(grpc.RpcError) as error:
        made.unary_unary(path_of("Unary"))(b"x", timeout=LONG_S)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, "policy_denied")
    pair.a.plane.set_policies("permit(principal, action, resource);", "[]")
    pair.b.plane.set_policies("", "[]")
    with channel(pair.a.out) as made, pytest.raises(grpc.RpcError) as error:
        made.unary_unary(path_of("Unary"))(b"x", timeout=LONG_S)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, "custody_forbidden")
    assert not server.metadata


def test_a_stream_that_is_refused_before_its_first_message_says_why(pair: Nodes, server: EchoServer) -> None:
    pair.b.plane.set_policies("", "[]")
    with channel(pair.a.out) as made:
        replies = made.stream_stream(path_of("Chat"))(iter(Requests()), timeout=LONG_S)
        with pytest.raises(grpc.RpcError):
            next(replies)
        assert (replies.code(), replies.details()) == (grpc.StatusCode.PERMISSION_DENIED, "custody_forbidden")
    assert (pair.receipt().fin, pair.closing().fin) == (Fin.DENY, Fin.ABORT)


def test_policy_names_grpc_calls_by_protocol_and_path(pair: Nodes, server: EchoServer) -> None:
    only = """permit(principal, action, resource)
        when { context.protocol == "grpc" && context.http == "POST /echo.Echo/Unary" };"""
    for node in (pair.a, pair.b):
        node.plane.set_policies(only, "[]")
    with channel(pair.a.out) as made:
        assert made.unary_unary(path_of("Unary"))(b"x", timeout=LONG_S) == b"x"
        with pytest.raises(grpc.RpcError):
            list(made.unary_stream(path_of("Count"))(b"1", timeout=LONG_S))


def test_grpc_needs_a_component_that_speaks_http_2(tmp_path: Path) -> None:
    with nodes(tmp_path, protocol="h1") as pair, EchoServer(pair.path), channel(pair.a.out) as made:
        with pytest.raises(grpc.RpcError) as error:
            made.unary_unary(path_of("Unary"))(b"x", timeout=LONG_S)
        assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "grpc_unsupported")


def test_grpc_over_http_1_1_is_refused(pair: Nodes, server: EchoServer) -> None:
    headers = {"content-type": "application/grpc", "te": "trailers"}
    answer = call(pair.a, path=path_of("Unary"), body=framed(b"x"), headers=headers)
    assert (answer.headers["grpc-status"], answer.headers["grpc-message"]) == ("12", "grpc_unsupported")
    assert not server.metadata


def test_streams_that_are_not_accepted_leave_calls_with_one_request(tmp_path: Path) -> None:
    with (
        nodes(tmp_path, streams="reject", timeouts_ms={"body_read": 500}) as pair,
        EchoServer(pair.path),
        channel(pair.a.out) as made,
    ):
        assert made.unary_unary(path_of("Unary"))(b"x", timeout=LONG_S) == b"x"
        assert len(list(made.unary_stream(path_of("Count"))(b"3", timeout=LONG_S))) == 3
        with pytest.raises(grpc.RpcError) as error:
            list(made.stream_stream(path_of("Chat"))(iter(Requests()), timeout=LONG_S))
        assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "streams_refused")


def test_a_withdrawn_caller_and_a_withdrawn_callee_lose_their_streams(pair: Nodes, server: EchoServer) -> None:
    for node, name in ((pair.a, "orchestrator"), (pair.b, "tool")):
        with channel(pair.a.out) as made:
            replies = made.stream_stream(path_of("Hang"))(iter(Requests()), timeout=LONG_S)
            assert next(replies) == b"begun"
            node.withdraw(name)
            with pytest.raises(grpc.RpcError):
                next(replies)
            assert replies.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        assert server.cancelled.wait(2)
        server.cancelled.clear()
        node.give(name)


def test_a_silent_stream_is_cut_at_both_ends(tmp_path: Path) -> None:
    with (
        nodes(tmp_path, timeouts_ms={"stream_idle": 700}) as pair,
        EchoServer(pair.path) as server,
        channel(pair.a.out) as made,
    ):
        talking, silent = Requests(), Requests()
        other = made.stream_stream(path_of("Chat"))(iter(talking), timeout=LONG_S)
        replies = made.stream_stream(path_of("Hang"))(iter(silent), timeout=LONG_S)
        assert next(replies) == b"begun"
        for _ in range(5):
            talking.send(b"x")
            assert next(other) == b"X"
            time.sleep(0.3)
        with pytest.raises(grpc.RpcError):
            next(replies)
        assert replies.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        assert server.cancelled.wait(LONG_S)
        talking.send(None)
        assert list(other) == []
        silent.send(None)


def test_a_client_that_reads_nothing_holds_the_server_back(tmp_path: Path) -> None:
    with (
        nodes(tmp_path, timeouts_ms={"answer_unread": 2_000}) as pair,
        EchoServer(pair.path),
        channel(pair.a.out) as made,
    ):
        replies = made.unary_stream(path_of("Flood"))(b"x", timeout=LONG_S)
        next(replies)
        before = _resident()
        time.sleep(1)
        assert _resident() - before < 48 << 20  # windows and buffers of every leg, and no more
        replies.cancel()
        pair.settled()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_body_that_is_no_grpc_never_reaches_a_server_as_if_it_were(pair: Nodes) -> None:
    """What a policy allows to gRPC it allows to nobody who says gRPC and speaks JSON-RPC."""
    for node in (pair.a, pair.b):
        node.plane.set_policies('permit(principal, action, resource) when { context.protocol == "grpc" };', "[]")
    body = b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"crm.delete"}}'
    seen: list[bytes] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EchoServer(pair.path))
        for whole in (True, False):
            code = _speak_json(pair.a.out, body, whole=whole)
            assert code in {"7", "3", "14"}, code
        seen += server.got
        assert server.metadata == []
    assert seen == []


def _speak_json(out: Path, body: bytes, *, whole: bool) -> str | None:
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    state.initiate_connection()
    pseudo = [(":method", "POST"), (":path", path_of("Unary")), (":scheme", "http"), (":authority", "tool.crm")]
    state.send_headers(1, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers")])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LONG_S)
        connection.connect(str(out))
        if not whole:
            connection.sendall(state.data_to_send())
            time.sleep(0.1)
        state.send_data(1, body, end_stream=whole)
        connection.sendall(state.data_to_send())
        while received := connection.recv(65536):
            for event in state.receive_data(received):
                headers = dict(getattr(event, "headers", None) or ())
                if "grpc-status" in headers:
                    return headers["grpc-status"]
                if isinstance(event, h2.events.StreamReset):
                    return f"reset {event.error_code}"
            connection.sendall(state.data_to_send())
    return None


HEALTH_CLIENT = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
options = [("grpc.default_authority", "tool.crm")]
with grpc.insecure_channel("unix:" + sys.argv[1], options=options) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    print(stub.Check(health_pb2.HealthCheckRequest(service="crm"), timeout=20).status)
    for reply in stub.Watch(health_pb2.HealthCheckRequest(service="crm"), timeout=20):
        print(reply.status, flush=True)
        if reply.status == 2:
            break
"""


def test_a_health_client_checks_and_watches(pair: Nodes) -> None:
    servicer = health.HealthServicer()
    servicer.set("crm", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{pair.path}")
    server.start()
    try:
        command = [sys.executable, "-c", HEALTH_CLIENT, str(pair.a.out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert [client.stdout.readline().strip() for _ in range(2)] == ["1", "1"]
            servicer.set("crm", health_pb2.HealthCheckResponse.NOT_SERVING)
            assert client.stdout.readline().strip() == "2"
    finally:
        server.stop(0).wait()


def test_many_calls_share_one_connection_in_every_part_of_the_way(pair: Nodes, server: EchoServer) -> None:
    results: list[bytes] = []
    with channel(pair.a.out) as made:
        unary = made.unary_unary(path_of("Unary"))

        def work(number: int) -> None:
            results.append(unary(b"%d" % number, timeout=LONG_S))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(int, results)) == list(range(24))
    assert pair.a.metric("pool_connections") <= 2


def test_a_large_message_keeps_its_digest(pair: Nodes, server: EchoServer) -> None:
    message = bytes(range(256)) * 12_000
    with channel(pair.a.out) as made:
        assert made.unary_unary(path_of("Unary"))(message, timeout=LONG_S) == message
    receipt = pair.receipt()
    expected = hashlib.sha256(framed(message)).digest()
    assert (receipt.messages, receipt.length) == (1, len(message) + 5)
    assert receipt.cd == encode_b64url(expected)
