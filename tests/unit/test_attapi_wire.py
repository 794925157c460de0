"""The generated code, and the client helpers around grpclib."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Server
from h2.exceptions import StreamClosedError

from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError
from hopseal.wire.client import call, rpc_errors, subscription
from hopseal.wire.gen.hopseal.v1 import reference_pb2
from hopseal.wire.gen.spiffe.workload import workload_grpc
from hopseal.wire.gen.spiffe.workload import workload_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_code_is_what_the_protos_say():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_wire.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("first", ["spiffe", "hopseal.wire.gen.spiffe.workload.workload_pb2"])
def test_the_spiffe_package_and_ours_live_in_one_process(first):
    program = (
        f"import {first}; import spiffe; from spiffe._proto import workload_pb2 as theirs;"
        "from hopseal.wire.gen.spiffe.workload import workload_pb2 as ours, workload_grpc;"
        "from hopseal.wire.gen.spiffe.broker import api_grpc;"
        "m = ours.X509SVID(spiffe_id='a', hint='b');"
        "assert theirs.X509SVID.FromString(m.SerializeToString()).spiffe_id == 'a'"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_the_service_keeps_its_name_on_the_wire():
    methods = workload_grpc.SpiffeWorkloadAPIStub
    assert methods.__name__ == "SpiffeWorkloadAPIStub"
    source = Path(workload_grpc.__file__).read_text()
    assert "'/SpiffeWorkloadAPI/FetchX509SVID'" in source


def test_references_have_their_published_type():
    packed = AnyMessage()
    packed.Pack(reference_pb2.PidfdReference(pidfd_inode=5, boot_id=b"b"))
    assert packed.type_url == "type.googleapis.com/hopseal.v1.PidfdReference"
    assert reference_pb2.PidfdReference(pidfd_inode=5, boot_id=b"b").SerializeToString() == b"\x08\x05\x12\x01b"
    listener = reference_pb2.ListenerReference(pidfd_inode=1, boot_id=b"b", component="a/c", path="/p")
    assert listener.SerializeToString() == b"\x08\x01\x12\x01b\x1a\x03a/c\x22\x02/p"


@pytest.mark.parametrize(
    ("error", "family", "code"),
    [
        (GRPCError(Status.PERMISSION_DENIED, "no"), DeniedError, "rpc_denied"),
        (GRPCError(Status.UNAUTHENTICATED), DeniedError, "rpc_denied"),
        (GRPCError(Status.INVALID_ARGUMENT), InvalidError, "rpc_invalid"),
        (GRPCError(Status.UNIMPLEMENTED), InvalidError, "rpc_invalid"),
        (GRPCError(Status.UNAVAILABLE), UnavailableError, "rpc_unavailable"),
        (GRPCError(Status.UNKNOWN), UnavailableError, "rpc_unavailable"),
        (ConnectionRefusedError(), UnavailableError, "rpc_unavailable"),
        (TimeoutError(), UnavailableError, "rpc_unavailable"),
        (StreamTerminatedError("gone"), UnavailableError, "rpc_unavailable"),
        (ProtocolError("x"), UnavailableError, "rpc_unavailable"),
        (StreamClosedError(1), UnavailableError, "rpc_unavailable"),
    ],
)
async def test_every_error_of_a_call_is_one_of_ours(error, family, code):
    with pytest.raises(family) as caught, rpc_errors():
        raise error
    assert isinstance(caught.value, HopsealError)
    assert caught.value.code == code


def lose_connection(task: asyncio.Task[object]) -> None:
    """As grpclib does: the waiting task is cancelled, and the cancellation turned into an error."""
    task.cancel()
    raise StreamTerminatedError("gone")


@pytest.mark.parametrize("before", [0, 1])
async def test_a_lost_connection_does_not_leave_the_task_half_cancelled(before):
    async def loses() -> int:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(before):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        with pytest.raises(UnavailableError), rpc_errors():
            lose_connection(task)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return task.cancelling()

    assert await asyncio.create_task(loses()) == before


async def test_a_cancellation_at_the_same_moment_is_not_lost():
    async def waits():
        with rpc_errors():
            started.set()
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError as error:
                raise StreamTerminatedError("as grpclib does") from error

    started = asyncio.Event()
    task = asyncio.create_task(waits())
    await started.wait()
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Scripted(workload_grpc.SpiffeWorkloadAPIBase):
    """Answers as the audience asks: with so many messages, then ends, fails or waits."""

    async def FetchX509SVID(self, stream):
        await stream.recv_message()
        mode = stream.metadata["mode"]
        for _ in range(2):
            await stream.send_message(pb.X509SVIDResponse())
        if mode == "fail":
            raise GRPCError(Status.PERMISSION_DENIED, "changed my mind")
        if mode == "wait":
            await asyncio.Event().wait()

    async def FetchJWTSVID(self, stream):
        await stream.recv_message()
        if stream.metadata["mode"] == "wait":
            await asyncio.Event().wait()
        await stream.send_message(pb.JWTSVIDResponse())

    FetchX509Bundles = FetchJWTBundles = ValidateJWTSVID = FetchWITSVID = FetchWITBundles = FetchJWTSVID


@pytest.fixture
async def stub(tmp_path):
    server = Server([Scripted()])
    await server.start(path=str(tmp_path / "s.sock"))
    channel = Channel(path=str(tmp_path / "s.sock"))
    yield workload_grpc.SpiffeWorkloadAPIStub(channel)
    channel.close()
    server.close()
    await server.wait_closed()


async def test_an_endless_stream_can_be_left_at_any_time(stub):
    for _ in range(3):
        async with asyncio.timeout(2):
            async with subscription(stub.FetchX509SVID, pb.X509SVIDRequest(), metadata={"mode": "wait"}) as answers:
                await anext(answers)
    assert not stub.FetchX509SVID.channel._protocol.processor.streams


@pytest.mark.parametrize(("mode", "family"), [("end", UnavailableError), ("fail", DeniedError)])
async def test_the_end_of_a_stream_is_an_error_after_its_answers(stub, mode, family):
    async with subscription(stub.FetchX509SVID, pb.X509SVIDRequest(), metadata={"mode": mode}) as answers:
        await anext(answers)
        await anext(answers)
        with pytest.raises(family):
            await anext(answers)


async def test_an_error_of_the_body_is_the_bodys_own(stub):
    with pytest.raises(TimeoutError):
        async with subscription(stub.FetchX509SVID, pb.X509SVIDRequest(), metadata={"mode": "wait"}):
            raise TimeoutError


async def test_a_call_has_a_deadline(stub):
    answer = await call(stub.FetchJWTSVID, pb.JWTSVIDRequest(), timeout_s=2, metadata={"mode": "answer"})
    assert answer == pb.JWTSVIDResponse()
    with pytest.raises(UnavailableError):
        await call(stub.FetchJWTSVID, pb.JWTSVIDRequest(), timeout_s=0.05, metadata={"mode": "wait"})
