"""Serving the attestor's APIs over real sockets, and raw HTTP/2 clients against them."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.settings
from grpclib.client import Channel
from grpclib.config import Configuration

from apifakes import LIMITS, NODE, TRUST_DOMAIN, EntryList, FakeAttestations, entry, running
from attestor.api.limits import ConnectionLimits
from attestor.api.server import SocketServer
from attestor.api.tls import _load_key
from attestor.api.workload import WorkloadServer
from attestor.upstream import EmbeddedSettings, Upstream, build_upstream
from hopseal.snapshot import IdentitySnapshot
from hopseal.sockets import bind_unix_socket
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIStub

HEADER = {"workload.spiffe.io": "true"}


def held_descriptors() -> int:
    """How many sockets, pidfds and the like this process has open; files that a thread just reads do not count."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += not os.readlink(f"/proc/self/fd/{name}").startswith("/")
    return count


@dataclass
class Served:
    """A running Workload API with what it stands on."""

    path: Path
    attestations: FakeAttestations
    entries: EntryList
    upstream: Upstream
    server: SocketServer
    _channels: list[Channel] = field(default_factory=list)

    def channel(self) -> Channel:
        channel = Channel(path=str(self.path))
        self._channels.append(channel)
        return channel

    def client(self) -> SpiffeWorkloadAPIStub:
        return SpiffeWorkloadAPIStub(self.channel())

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@asynccontextmanager
async def served_workload_api(
    folder: Path,
    *,
    attestations: FakeAttestations | None = None,
    entries: EntryList | None = None,
    upstream: Upstream | None = None,
    limits: ConnectionLimits = LIMITS,
    x509_ttl_s: int = 600,
) -> AsyncIterator[Served]:
    attestations = attestations or FakeAttestations()
    entries = entries or EntryList((entry("/agents/crm/orchestrator", "uid:0", x509_ttl_s=x509_ttl_s),))
    settings = EmbeddedSettings(folder / "state", 600, 300, 86_400)
    upstream = upstream or build_upstream(settings, TRUST_DOMAIN, NODE, entries)
    bound = bind_unix_socket(folder / "api.sock", mode=0o777)
    try:
        server = WorkloadServer(bound.sock, attestations, upstream, limits)
        async with running(upstream, server):
            served = Served(folder / "api.sock", attestations, entries, upstream, server)
            try:
                yield served
            finally:
                served.close()
    finally:
        bound.close()


def tls_client(snapshot: IdentitySnapshot, *, trusted: tuple[bytes, ...] | None = None) -> ssl.SSLContext:
    """A client's TLS 1.3 context with the snapshot's first SVID."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=b"".join(trusted or snapshot.bundles.own.x509_authorities))
    context.set_alpn_protocols(["h2"])
    _load_key(context, snapshot.svids[0].chain_der, snapshot.svids[0].key_pkcs8)
    return context


@contextmanager
def tls_channel(path: Path, context: ssl.SSLContext) -> Iterator[Channel]:
    channel = Channel(path=str(path), ssl=context, config=Configuration(ssl_target_name_override=""))
    try:
        yield channel
    finally:
        channel.close()


class RawClient:
    """An HTTP/2 connection that may do anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        )

    async def hello(self) -> None:
        self.http.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()

    def request(
        self, method: str = "FetchX509SVID", *extra: tuple[str, str], body: bytes | None = b"\0\0\0\0\0"
    ) -> int:
        stream_id = self.http.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/SpiffeWorkloadAPI/{method}"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *(extra or (("workload.spiffe.io", "true"),)),
        ]
        self.http.send_headers(stream_id, headers)
        if body is not None:
            self.http.send_data(stream_id, body, end_stream=True)
        return stream_id

    async def events(self, timeout_s: float = 5.0) -> list[h2.events.Event]:
        """What the next bytes say; an empty list once the connection is closed."""
        async with asyncio.timeout(timeout_s):
            try:
                data = await self.reader.read(65_536)
            except ConnectionError:
                return []
        if not data:
            return []
        found = self.http.receive_data(data)
        for event in found:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self.flush()
        return found

    async def closed(self, timeout_s: float = 5.0) -> None:
        """Returns once the server has closed the connection."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    if not await self.reader.read(65_536):
                        return
                except ConnectionError:
                    return


@asynccontextmanager
async def raw_client(path: Path, *, hello: bool = True) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    client = RawClient(reader, writer)
    try:
        if hello:
            await client.hello()
        yield client
    finally:
        writer.transport.abort()
