"""An attestor for the broker's tests: both of its gRPC sockets, real TLS, answers at will."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from hopseal.svid import X509Svid
from hopseal.wire.gen.hopseal.v1.reference_pb2 import ListenerReference, PidfdReference
from hopseal.wire.gen.spiffe.broker import api_pb2
from hopseal.wire.gen.spiffe.broker.api_grpc import APIBase
from hopseal.wire.gen.spiffe.workload import workload_pb2
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIBase
from svid_authority import Authority

ATTESTOR = "spiffe://example.org/hopseal/attestor/node-1"
BROKER = "spiffe://example.org/hopseal/broker/node-1"


@dataclass
class Standing:
    """What is said about one process: SVIDs, or a refusal."""

    svids: tuple[X509Svid, ...] = ()
    instance: str = "cgroup:/one"
    status: Status | None = None
    message: str = ""


class _KillableServer(Server):
    """A server whose connections can be cut, as a killed process cuts them."""

    def __init__(self, handlers) -> None:
        super().__init__(handlers)
        self._protocols: list = []

    def _protocol_factory(self):
        self._protocols.append(super()._protocol_factory())
        return self._protocols[-1]

    def cut(self) -> None:
        for protocol in self._protocols:
            transport = getattr(getattr(protocol, "connection", None), "_transport", None)
            if transport is not None:
                transport.abort()


@dataclass
class AttestorDouble:
    """Serves; ``say`` and ``refuse`` change what every open stream about a process is told."""

    folder: Path
    authority: Authority = field(default_factory=Authority)
    attestor_id: str = ATTESTOR
    serve_names: tuple[str, ...] | None = None
    server_authority: Authority | None = None
    broker_ttl_s: int = 600

    def __post_init__(self) -> None:
        self.standings: dict[tuple[str, int], Standing] = {}
        self.references: list = []
        self.metadata: list[dict] = []
        self.open: Counter = Counter()
        self.most_opening = 0
        self.opening = 0
        self.peers: set = set()
        self.hold_openings: asyncio.Event | None = None
        self.broker_svid: X509Svid | None = self.authority.issue(BROKER, ttl_s=self.broker_ttl_s)
        self._changed = asyncio.Event()
        self._servers: list[_KillableServer] = []

    @property
    def workload_socket(self) -> Path:
        return self.folder / "api.sock"

    @property
    def broker_socket(self) -> Path:
        return self.folder / "broker.sock"

    async def start(self) -> None:
        """Serve both sockets."""
        workload, broker = _KillableServer([_Workload(self)]), _KillableServer([_Broker(self)])
        for path in (self.workload_socket, self.broker_socket):
            path.unlink(missing_ok=True)
        await workload.start(path=str(self.workload_socket))
        await broker.start(path=str(self.broker_socket), ssl=self._context())
        self._servers = [workload, broker]

    async def stop(self) -> None:
        """End every connection, as a killed process would."""
        for server in self._servers:
            server.close()
            server.cut()
        for server in self._servers:
            await server.wait_closed()
        self._servers = []

    def say(self, inode: int, *svids: X509Svid, instance: str = "cgroup:/one", component: str = "") -> None:
        """Attest a caller, or with ``component`` a listener."""
        self._set(component, inode, Standing(svids, instance))

    def refuse(
        self, inode: int, message: str, *, status: Status = Status.PERMISSION_DENIED, component: str = ""
    ) -> None:
        """Refuse a process now and later."""
        self._set(component, inode, Standing(status=status, message=message))

    def rotate_broker(self, **options: int) -> None:
        """Give the broker a new SVID."""
        self.broker_svid = self.authority.issue(BROKER, **options)
        self._wake()

    def _set(self, component: str, inode: int, standing: Standing) -> None:
        self.standings[component, inode] = standing
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _context(self) -> ssl.SSLContext:
        issuer = self.server_authority or self.authority
        svid = issuer.issue(self.attestor_id, names=self.serve_names)
        pem = x509.load_der_x509_certificate(svid.chain_der[0]).public_bytes(Encoding.PEM)
        key = load_der_private_key(svid.key_pkcs8, None)
        path = self.folder / "server.pem"
        path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.authority.der)
        context.load_cert_chain(path)
        context.set_alpn_protocols(["h2"])
        return context

    async def follow(self, key: tuple[str, int], stream) -> None:
        """Tell one stream everything about one process."""
        self.opening += 1
        self.most_opening = max(self.most_opening, self.opening)
        try:
            if self.hold_openings is not None:
                await self.hold_openings.wait()
            while key not in self.standings:
                await self._changed.wait()
        finally:
            self.opening -= 1
        self.open[key] += 1
        try:
            told = None
            while True:
                standing = self.standings[key]
                if standing is not told:
                    told = standing
                    await self._tell(standing, stream)
                await self._changed.wait()
        finally:
            self.open[key] -= 1

    async def _tell(self, standing: Standing, stream) -> None:
        if standing.status is not None:
            raise GRPCError(standing.status, standing.message)
        if not stream._send_initial_metadata_done:
            await stream.send_initial_metadata(metadata={"hopseal-instance": standing.instance})
        await stream.send_message(
            api_pb2.SubscribeToX509SVIDResponse(
                svids=[self._message(svid, api_pb2.X509SVID) for svid in standing.svids]
            )
        )

    def _message(self, svid: X509Svid, kind):
        return kind(
            spiffe_id=str(svid.spiffe_id),
            x509_svid=b"".join(svid.chain_der),
            x509_svid_key=svid.key_pkcs8,
            bundle=self.authority.der,
            hint=svid.hint,
        )

    async def follow_broker(self, stream) -> None:
        """The broker's own SVID, and each rotation."""
        told = None
        while True:
            if self.broker_svid is None:
                raise GRPCError(Status.PERMISSION_DENIED, "exe_changed: the executable is not what was approved")
            if self.broker_svid is not told:
                told = self.broker_svid
                await stream.send_message(
                    workload_pb2.X509SVIDResponse(svids=[self._message(told, workload_pb2.X509SVID)])
                )
            await self._changed.wait()


class _Handlers:
    """The methods that a test serves; every other one of the service is unimplemented."""

    base: type

    def __init__(self, double: AttestorDouble) -> None:
        self._double = double

    def __mapping__(self):
        return self.base.__mapping__(self)

    def __getattr__(self, _name: str):
        async def unimplemented(_stream) -> None:
            raise GRPCError(Status.UNIMPLEMENTED)

        return unimplemented


class _Broker(_Handlers):
    base = APIBase

    async def SubscribeToX509SVID(self, stream) -> None:
        request = await stream.recv_message()
        packed = request.reference.reference
        reference = PidfdReference() if packed.Is(PidfdReference.DESCRIPTOR) else ListenerReference()
        packed.Unpack(reference)
        self._double.references.append(reference)
        self._double.metadata.append(dict(stream.metadata))
        self._double.peers.add(stream._stream.connection)
        await self._double.follow((getattr(reference, "component", ""), reference.pidfd_inode), stream)


class _Workload(_Handlers):
    base = SpiffeWorkloadAPIBase

    async def FetchX509SVID(self, stream) -> None:
        await stream.recv_message()
        self._double.metadata.append(dict(stream.metadata))
        await self._double.follow_broker(stream)
