"""A gRPC service on a Unix socket, by grpcio or by grpclib, for tests of what carries it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import grpclib.client
import grpclib.const
import grpclib.server
from google.protobuf.wrappers_pb2 import BytesValue

SERVICE = "echo.Echo"
WORKERS = 32
_NOBODY_READS_IT = "the reason, with ünusual characters"


def path_of(method: str) -> str:
    return f"/{SERVICE}/{method}"


@dataclass
class EchoServer:
    """grpcio's: what its handlers saw is kept."""

    path: Path
    metadata: list[dict[str, str]] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(WORKERS), options=[("grpc.so_reuseport", 0)])
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
            "Collect": grpc.stream_unary_rpc_method_handler(self._collect),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
            "Early": grpc.stream_stream_rpc_method_handler(self._early),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self._fail_late),
            "Hang": grpc.stream_stream_rpc_method_handler(self._hang),
            "Flood": grpc.unary_stream_rpc_method_handler(self._flood),
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.stop(0).wait()

    def _note(self, context: grpc.ServicerContext) -> None:
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note(context)
        self.got.append(request)
        context.set_trailing_metadata((("x-checked", "yes"), ("x-some-bin", b"\0\xff")))
        return request

    def _count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note(context)
        yield from (b"%d" % number for number in range(int(request)))

    def _collect(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._note(context)
        return b",".join(requests)

    def _chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note(context)
        for request in requests:
            self.got.append(request)
            yield request.upper()

    def _early(self, requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        yield next(requests)

    def _fail(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, _NOBODY_READS_IT)
        raise AssertionError("unreachable")

    def _fail_late(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, _NOBODY_READS_IT)

    def _hang(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note(context)
        context.add_callback(self.cancelled.set)
        yield b"begun"
        self.release.wait(30)

    def _flood(self, _request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        with contextlib.suppress(Exception):  # whoever cuts it
            while not self.release.is_set():
                yield bytes(16_384)


@contextlib.contextmanager
def channel(out: Path, host: str = "tool.crm") -> Iterator[grpc.Channel]:
    """A channel of grpcio through an ``out.sock``."""
    with grpc.insecure_channel(f"unix:{out}", options=[("grpc.default_authority", host)]) as made:
        yield made


class _Lib:
    """The same service by grpclib, as far as each shape of call goes."""

    async def unary(self, stream: grpclib.server.Stream[BytesValue, BytesValue]) -> None:
        await stream.send_message(await stream.recv_message() or BytesValue())

    async def count(self, stream: grpclib.server.Stream[BytesValue, BytesValue]) -> None:
        request = await stream.recv_message() or BytesValue()
        for number in range(int(request.value)):
            await stream.send_message(BytesValue(value=b"%d" % number))

    async def collect(self, stream: grpclib.server.Stream[BytesValue, BytesValue]) -> None:
        await stream.send_message(BytesValue(value=b",".join([each.value async for each in stream])))

    async def chat(self, stream: grpclib.server.Stream[BytesValue, BytesValue]) -> None:
        async for request in stream:
            await stream.send_message(BytesValue(value=request.value.upper()))

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        of = grpclib.const.Cardinality
        made = {
            "Unary": (self.unary, of.UNARY_UNARY),
            "Count": (self.count, of.UNARY_STREAM),
            "Collect": (self.collect, of.STREAM_UNARY),
            "Chat": (self.chat, of.STREAM_STREAM),
        }
        return {
            path_of(name): grpclib.const.Handler(method, shape, BytesValue, BytesValue)
            for name, (method, shape) in made.items()
        }


@contextlib.asynccontextmanager
async def lib_server(path: Path) -> Any:
    """grpclib's server on ``path``."""
    server = grpclib.server.Server([_Lib()])
    await server.start(path=str(path))
    try:
        yield server
    finally:
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)


@contextlib.contextmanager
def lib_channel(out: Path, host: str = "tool.crm") -> Iterator[grpclib.client.Channel]:
    """A channel of grpclib through an ``out.sock``: it names the peer by what it would dial."""
    made = grpclib.client.Channel(path=str(out))
    made._authority = host
    try:
        yield made
    finally:
        made.close()
