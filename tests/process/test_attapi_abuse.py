"""Peers that do what they may not: each is bounded, and others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import struct
import sys
import time
from dataclasses import replace

import h2.events
import h2.settings
import pytest

from apifakes import LIMITS, REFUSED, attested, match
from apiserving import HEADER, held_descriptors, raw_client, served_workload_api
from attestor.api import rpc
from hopseal.wire.client import subscription
from hopseal.wire.gen.spiffe.workload import workload_pb2 as pb
from waiting import async_wait_until

QUICK = replace(LIMITS, preface_timeout_s=0.2, first_request_timeout_s=0.4, idle_timeout_s=0.4)
LOOSE = replace(LIMITS, preface_timeout_s=60, first_request_timeout_s=60, idle_timeout_s=60)


ATTACK = """
import os, socket, sys, time
import h2.connection, h2.config
os.setgroups([]); os.setgid(4001); os.setuid(4001)
request = [(':method', 'POST'), (':scheme', 'http'), (':path', '/SpiffeWorkloadAPI/FetchX509SVID'), (':authority', 'l'),
           ('te', 'trailers'), ('content-type', 'application/grpc'), ('workload.spiffe.io', 'true')]
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(sys.argv[1])
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        http.initiate_connection()
        while time.monotonic() < end:
            for _ in range(20):
                stream = http.get_next_available_stream_id()
                http.send_headers(stream, request)
                http.send_data(stream, bytes(5), end_stream=True)
                http.reset_stream(stream)
            peer.sendall(http.data_to_send())
    except OSError:
        time.sleep(0.001)
"""
CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(4001); os.setuid(4001)
held = []
for _ in range(40):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
closed = 0
for each in held:
    each.settimeout(0.5)
    try:
        while each.recv(1000):
            pass
        closed += 1
    except ConnectionError:
        closed += 1
    except TimeoutError:
        pass
print(closed)
"""


async def works(served) -> None:
    """A well-behaved caller is served."""
    client = served.client()
    async with asyncio.timeout(5), subscription(client.FetchX509SVID, pb.X509SVIDRequest(), metadata=HEADER) as answers:
        assert len((await anext(answers)).svids) == 1
    client.FetchX509SVID.channel.close()


async def status_of(client, stream_id) -> dict[str, str]:
    """The trailers of a stream."""
    async with asyncio.timeout(5):
        while True:
            found = await client.events()
            assert found, "connection was closed"
            for event in found:
                if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                    if event.stream_id == stream_id and "grpc-status" in headers:
                        return headers


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0" * 100,
        bytes(range(256)) * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 70_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 4)[1:] + b"\1\4\0\0\0\1" + b"\xff\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\1\4\0\0\0\0",
    ],
    ids=["http1", "zeros", "noise", "bad frames", "bad headers", "bad stream"],
)
async def test_garbage_closes_its_connection_only(tmp_path, data):
    async with served_workload_api(tmp_path, limits=LOOSE) as served:
        async with raw_client(served.path, hello=False) as client:
            client.writer.write(data)
            await client.closed()
        await works(served)
        (reason,) = served.server.stats().cut
        assert reason in {"protocol_error", "fruitless"}


@pytest.mark.parametrize("size", [0, 10, 24, 30])
async def test_half_a_preface_is_given_two_seconds(tmp_path, size):
    async with served_workload_api(tmp_path, limits=replace(LOOSE, preface_timeout_s=0.2)) as served:
        async with raw_client(served.path, hello=False) as client:
            client.http.initiate_connection()
            client.writer.write(client.http.data_to_send()[:size])
            await client.closed()
        assert served.server.stats().cut == {"preface_timeout": 1}
        await works(served)


async def test_a_connection_without_a_request_is_given_five_seconds(tmp_path):
    async with served_workload_api(tmp_path, limits=replace(LOOSE, first_request_timeout_s=0.2)) as served:
        async with raw_client(served.path) as client:
            await client.closed()
        assert served.server.stats().cut == {"first_request_timeout": 1}


async def test_a_connection_with_a_stream_stays_and_an_idle_one_goes(tmp_path):
    async with (
        served_workload_api(tmp_path, limits=replace(LOOSE, idle_timeout_s=0.3)) as served,
        raw_client(served.path) as busy,
        raw_client(served.path) as idle,
    ):
        busy.request()
        await busy.flush()
        stream_id = idle.request("FetchJWTSVID")
        await idle.flush()
        assert (await status_of(idle, stream_id))["grpc-status"] == "3"
        await idle.closed()
        assert served.server.stats().cut == {"idle": 1}
        assert served.server.stats().open_connections == 1


@pytest.mark.parametrize(("size", "passes"), [(14_000, True), (17_000, False)])
async def test_header_lists_are_bounded(tmp_path, size, passes):
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path) as client:
        await client.events()
        stream_id = client.request("FetchJWTSVID", ("workload.spiffe.io", "true"), ("x-large", "a" * size))
        await client.flush()
        if passes:
            assert (await status_of(client, stream_id))["grpc-status"] == "3"
        else:
            await client.closed()
            await works(served)


async def test_a_header_block_without_end_is_cut(tmp_path):
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path) as client:
        client.writer.write(b"\0\0\1\1\0\0\0\0\1\x82")
        chunk = b"\0\x10\0\x09\0\0\0\0\1" + b"\0" * 4096
        sent = 0
        try:
            for _ in range(200):
                client.writer.write(chunk)
                await client.writer.drain()
                sent += len(chunk)
        except ConnectionError:
            pass
        await client.closed()
        (reason,) = served.server.stats().cut
        assert reason in {"fruitless", "protocol_error"}
        await works(served)


@pytest.mark.parametrize(("size", "passes"), [(65_000, True), (66_000, False)])
async def test_requests_are_bounded(tmp_path, size, passes):
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path) as client:
        await client.events()
        stream_id = client.request(body=None)
        body = b"\0" + struct.pack(">I", size) + b"\x0a" * size
        for start in range(0, len(body), 16_000):
            while client.http.local_flow_control_window(stream_id) < 16_000 and passes is False and start:
                if not await client.events():
                    break
            if client.writer.transport.is_closing():
                break
            try:
                client.http.send_data(stream_id, body[start : start + 16_000])
            except Exception:
                break
            await client.flush()
        if passes:
            client.http.end_stream(stream_id)
            await client.flush()
            assert (await status_of(client, stream_id))["grpc-status"] == "3"
        else:
            await client.closed()
            assert served.server.stats().cut == {"request_too_large": 1}


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0\0", b"\0\0\0\0\5abc", b"\1\0\0\0\0", b"\0\0\0\0\3\xff\xff\xff", b"\0\xff\xff\xff\xff"],
    ids=["none", "short", "lies", "compressed", "not protobuf", "huge"],
)
async def test_messages_that_cannot_be_read_are_invalid(tmp_path, body, caplog):
    caplog.set_level(logging.ERROR)
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path) as client:
        stream_id = client.request(body=body)
        await client.flush()
        assert (await status_of(client, stream_id))["grpc-status"] == "3"
        assert caplog.records == []


async def test_a_request_whose_message_never_comes_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "REQUEST_TIMEOUT_S", 0.1)
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path) as client:
        stream_id = client.request(body=None)
        await client.flush()
        assert (await status_of(client, stream_id))["grpc-status"] == "14"


@pytest.mark.parametrize(
    "headers",
    [
        [("x-bin", "a")],
        [("grpc-timeout", "soon")],
        [("x", "\xff")],
    ],
)
async def test_headers_that_cannot_be_read_end_the_stream_without_a_trace(tmp_path, headers, caplog):
    caplog.set_level(logging.ERROR)
    async with served_workload_api(tmp_path, limits=LOOSE) as served:
        async with raw_client(served.path) as client:
            client.request("FetchX509SVID", *headers)
            await client.flush()
            async with asyncio.timeout(5):
                while found := await client.events():
                    ends = h2.events.StreamReset | h2.events.ConnectionTerminated
                    if any(isinstance(each, ends) for each in found):
                        break
        await works(served)
        assert caplog.records == []


async def test_a_connection_has_so_many_streams_and_no_more(tmp_path):
    async with served_workload_api(tmp_path, limits=LOOSE) as served:
        async with raw_client(served.path) as client:
            await client.events()
            assert client.http.remote_settings.max_concurrent_streams == 32
            for _ in range(32):
                client.request()
            await client.flush()
            await async_wait_until(lambda: served.attestations.watched == 32)
            client.http.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 100
            client.http.remote_settings.acknowledge()
            client.request()
            await client.flush()
            await client.closed()
        await async_wait_until(lambda: served.attestations.watched == 0)
        await works(served)


async def flood(client, step, seconds=5.0) -> int:
    """Repeats ``step`` until the connection is cut; how often."""
    count = 0
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and not client.reader.at_eof():
            for _ in range(50):
                step()
                count += 1
            await client.flush()
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    return count


@pytest.mark.parametrize("kind", ["reset", "reset at once", "ping", "settings", "priority", "empty data"])
async def test_floods_are_cut_and_others_are_served(tmp_path, kind):
    async with served_workload_api(tmp_path, limits=LOOSE) as served:
        async with raw_client(served.path) as client:
            await client.events()
            held = client.request(body=None)
            await client.flush()

            def reset():
                client.http.reset_stream(client.request())

            step = {
                "reset": reset,
                "reset at once": reset,
                "ping": lambda: client.http.ping(b"12345678"),
                "settings": lambda: client.writer.write(b"\0\0\0\4\0\0\0\0\0"),
                "priority": lambda: client.writer.write(b"\0\0\5\2\0" + struct.pack(">I", held) + b"\0\0\0\0\7"),
                "empty data": lambda: client.http.send_data(held, b""),
            }[kind]
            if kind == "reset":

                async def slow_resets():
                    count = 0
                    try:
                        while count < 2000 and not client.reader.at_eof():
                            stream_id = client.request()
                            await client.flush()
                            await asyncio.sleep(0)
                            client.http.reset_stream(stream_id)
                            await client.flush()
                            count += 1
                    except ConnectionError:
                        pass
                    return count

                count = await slow_resets()
            else:
                count = await flood(client, step)
            await client.closed()
        (reason,) = served.server.stats().cut
        assert reason in {"rapid_reset", "control_flood", "protocol_error", "write_buffer", "fruitless"}
        assert count < 20_000
        await async_wait_until(lambda: served.attestations.watched == 0)
        await async_wait_until(lambda: served.server.stats().open_connections == 0)


async def test_another_user_is_served_under_a_rapid_reset(open_folder):
    """An attacker that reconnects after every cut is slowed down, so that another user's calls stay quick."""
    async with served_workload_api(open_folder, limits=LOOSE) as served:
        client = served.client()

        async def call_time() -> float:
            started = time.monotonic()
            async with subscription(client.FetchX509SVID, pb.X509SVIDRequest(), metadata=HEADER) as answers:
                await anext(answers)
            await asyncio.sleep(0.005)
            return time.monotonic() - started

        peace = sorted([await call_time() for _ in range(100)])
        attacker = await asyncio.create_subprocess_exec(sys.executable, "-c", ATTACK, str(served.path))
        await async_wait_until(lambda: served.server.stats().cut.get("rapid_reset"))
        times = []
        while attacker.returncode is None:
            times.append(await call_time())
        assert await attacker.wait() == 0
        assert served.server.stats().refused["new_connections_per_s"] > 0
        assert len(times) > 50
        # The machine may be busy with other things: compared with the same calls in peace.
        assert sorted(times)[int(0.95 * len(times))] < 0.05 + 5 * peace[95]


async def test_one_user_may_have_so_many_connections_and_others_are_not_affected(open_folder):
    limits = replace(LOOSE, connections_per_uid=8, new_connections_per_s=1000)
    async with served_workload_api(open_folder, limits=limits) as served:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CONNECT, str(served.path), stdout=asyncio.subprocess.PIPE
        )
        await async_wait_until(lambda: served.server.stats().refused.get("connections_per_uid") == 32)
        await works(served)
        out, _ = await process.communicate()
        assert int(out) == 32
        await async_wait_until(lambda: served.server.stats().open_connections == 0)


async def test_a_peer_that_does_not_read_loses_its_connection(tmp_path):
    limits = replace(LOOSE, control_frames_per_s=10**9, write_buffer_bytes=20_000)
    async with served_workload_api(tmp_path, limits=limits) as served:
        async with raw_client(served.path) as client:
            client.reader._transport.pause_reading()
            try:
                async with asyncio.timeout(10):
                    while not served.server.stats().cut:
                        for _ in range(200):
                            client.http.ping(b"12345678")
                        await client.flush()
                        await asyncio.sleep(0)
            except ConnectionError:
                pass
            await async_wait_until(lambda: served.server.stats().cut == {"write_buffer": 1})
        await works(served)


async def test_a_peer_that_is_stuck_is_dropped_after_a_while(tmp_path):
    limits = replace(LOOSE, control_frames_per_s=10**9, write_buffer_bytes=10**9, stalled_timeout_s=0.3)
    async with served_workload_api(tmp_path, limits=limits) as served:
        async with raw_client(served.path) as client:
            client.reader._transport.pause_reading()
            for _ in range(40_000):
                client.http.ping(b"12345678")
            client.writer.write(client.http.data_to_send())
            await async_wait_until(lambda: served.server.stats().cut == {"stalled": 1})
        await works(served)


@pytest.fixture
async def windowless(tmp_path):
    """A client that lets the server send no data, with a request for a key under way."""
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path, hello=False) as client:
        client.http.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
        )
        await client.hello()
        stream_id = client.request()
        await client.flush()
        await async_wait_until(lambda: served.attestations.confirmed)
        yield served, client, stream_id


async def test_no_key_is_sent_after_a_withdrawal_however_slow_the_peer(windowless):
    served, client, stream_id = windowless
    served.attestations.set(REFUSED)
    headers = await status_of(client, stream_id)
    assert (headers["grpc-status"], headers["grpc-message"]) == ("7", "no identity issued")
    client.http.increment_flow_control_window(60_000, None)
    await client.flush()
    await works_not(served)


async def works_not(served) -> None:
    assert served.attestations.noted == []


async def test_an_answer_that_is_not_taken_costs_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(rpc, "SEND_TIMEOUT_S", 0.1)
    async with served_workload_api(tmp_path, limits=LOOSE) as served, raw_client(served.path, hello=False) as client:
        client.http.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
        )
        await client.hello()
        client.request()
        await client.flush()
        await client.closed()
        await async_wait_until(lambda: served.attestations.watched == 0)


async def test_a_caller_that_exited_before_the_accept_is_refused(tmp_path):
    async with served_workload_api(tmp_path, limits=LOOSE) as served:
        before = held_descriptors()
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as peer:
                child = os.fork()
                if not child:
                    peer.connect(str(served.path))
                    os._exit(0)
                os.waitpid(child, 0)
                peer.setblocking(False)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(5):
                    with contextlib.suppress(ConnectionError):
                        assert await loop.sock_recv(peer, 100) == b""
        await async_wait_until(lambda: served.server.stats().refused == {"peer_gone": 20})
        await async_wait_until(lambda: held_descriptors() <= before)
        await works(served)


async def test_without_descriptors_new_callers_wait_and_open_streams_live(tmp_path):
    async with served_workload_api(tmp_path, limits=LOOSE) as served:
        client = served.client()
        async with subscription(client.FetchX509SVID, pb.X509SVIDRequest(), metadata=HEADER) as answers:
            await anext(answers)
            waiting = socket.socket(socket.AF_UNIX)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            hogs = []
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
                with contextlib.suppress(OSError):
                    while True:
                        hogs.append(os.open("/dev/null", os.O_RDONLY))
                waiting.connect(str(served.path))
                await async_wait_until(lambda: served.server.stats().refused.get("descriptors"))
                served.attestations.set(attested(match(hint="still here"), generation=2))
                assert (await asyncio.wait_for(anext(answers), 5)).svids[0].hint == "still here"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for hog in hogs:
                    os.close(hog)
                waiting.close()
        await works(served)


async def test_a_flood_of_connections_leaves_nothing_behind(tmp_path):
    limits = replace(LOOSE, new_connections_per_s=10**6)
    async with served_workload_api(tmp_path, limits=limits) as served:
        await works(served)
        await async_wait_until(lambda: served.server.stats().open_connections == 0)
        before = held_descriptors()
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as peer:
                await asyncio.to_thread(peer.connect, str(served.path))
                peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await async_wait_until(lambda: served.server.stats().accepted == 501)
        await async_wait_until(lambda: held_descriptors() <= before)
        assert served.server.stats().open_connections == 0
        await works(served)
