"""gRPC to parties without custody, by grpcio on both ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from dataplane_grpc import SERVICE, channel, path_of
from dataplane_nodes import Node, statements
from hopseal.custody.observation import Observation
from hopseal.custody.statement import parse_sealed_statement
from hopseal.log.entries import Direction, RecordEntry, StatementKind
from outside_servers import WebAuthority, describe, service
from svid_authority import Authority


class Echo:
    """What its handlers saw is kept."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []

    def unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        forged = (("custody-receipt", "forged"), ("set-cookie", "a=b"), ("authorization", "Bearer x"))
        context.set_trailing_metadata((("x-checked", "yes"), *forged))
        return request

    def chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        for request in requests:
            yield request.upper()

    def fail(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        raise AssertionError("unreachable")


@contextlib.contextmanager
def outside(folder: Path) -> Iterator[tuple[Node, Echo, str]]:
    """A node whose orchestrator may call a gRPC service outside; and the service's name."""
    web, echo = WebAuthority(folder), Echo()
    key, chain = web.files("localhost")
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
        "Chat": grpc.stream_stream_rpc_method_handler(echo.chat),
        "Fail": grpc.unary_unary_rpc_method_handler(echo.fail),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    server.start()
    egress = {"egress": {"ca_file": str(web.ca_file), "allow_private": True}, "streams": "accept"}
    node = Node(folder / "a", Authority(), settings=egress).start()
    try:
        describe(node, {"orchestrator": {"services": [service(port=port)]}})
        yield node, echo, f"localhost:{port}"
    finally:
        node.stop()
        server.stop(0).wait()


def observed(node: Node) -> list[Observation]:
    sealed = [each.sealed for each in statements(node, Direction.SENT, StatementKind.OBSERVATION)]
    claims = [parse_sealed_statement(text or "").claims for text in sealed]
    return [each for each in claims if isinstance(each, Observation)]


def test_a_unary_call_arrives_with_its_trailers_and_is_observed(tmp_path: Path) -> None:
    with outside(tmp_path) as (node, echo, host), channel(node.out, host) as made:
        answer, call = made.unary_unary(path_of("Unary")).with_call(b"hello", timeout=10)
        assert answer == b"hello"
        trailing = dict(call.trailing_metadata())
        assert trailing["x-checked"] == "yes"
        assert not [key for key in trailing if key.startswith("custody")]
        assert not {"set-cookie", "authorization"} & set(trailing)
        assert not [key for key in echo.metadata[0] if key.startswith("custody")]
        (record,) = (each for each in node.log().entries if isinstance(each, RecordEntry))
        assert (record.aud, record.op) == (f"https://{host}", f"POST {path_of('Unary')}")
        assert [(each.outcome.st, str(each.outcome.fin)) for each in observed(node)] == [(200, "eof")]


def test_both_sides_of_a_stream_take_turns(tmp_path: Path) -> None:
    with outside(tmp_path) as (node, _echo, host), channel(node.out, host) as made:
        said: list[bytes] = []
        answered = threading.Event()

        def ask() -> Iterator[bytes]:
            yield b"one"
            assert answered.wait(10)
            yield b"two"

        for reply in made.stream_stream(path_of("Chat"))(ask(), timeout=10):
            said.append(reply)
            answered.set()
        assert said == [b"ONE", b"TWO"]
        assert len(observed(node)) == 1
        assert len(statements(node, Direction.SENT, StatementKind.CLOSING)) == 1


def test_an_error_of_the_service_arrives_as_it_was_sent(tmp_path: Path) -> None:
    with outside(tmp_path) as (node, _echo, host), channel(node.out, host) as made:
        with pytest.raises(grpc.RpcError) as caught:
            made.unary_unary(path_of("Fail"))(b"", timeout=10)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no")


def test_a_service_that_is_not_listed_is_refused_in_grpc(tmp_path: Path) -> None:
    with outside(tmp_path) as (node, _echo, _host), channel(node.out, "api.example.com") as made:
        with pytest.raises(grpc.RpcError) as caught:
            made.unary_unary(path_of("Unary"))(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert node.wait_for_call(code="egress_denied")["kind"] is None
