"""One mutually authenticated HTTP/2 connection to the attestor's Broker API socket.

Owns: the TLS context made from the broker's SVID, the check that the attestor itself answers, the
liveness probe. The one place that reaches into grpclib's private parts.
Does not own: what is asked on the connection, or dialling again (``broker.attestor_link``).

Security: the context trusts the own trust domain's bundle and nothing else, so OpenSSL verifies the
chain; the SPIFFE ID is compared before the first request is written. TLS 1.3 only, no tickets: a
resumed session would skip the chain after the bundle changed.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from grpclib.client import Channel, Handler
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from h2.exceptions import ProtocolError as H2ProtocolError

from broker.own_identity import OwnIdentity
from broker.svids import read_spiffe_id
from hopseal.errors import InvalidError, UnavailableError
from hopseal.ids import SpiffeId


def build_context(own: OwnIdentity) -> ssl.SSLContext:
    """A client context that shows the broker's SVID and trusts only the bundle that came with it.

    Security: OpenSSL takes a key from a path only; the path is a memfd's, the key never reaches a disk.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # SVIDs carry no host name; the SPIFFE ID is compared after the handshake
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=b"".join(own.bundles.own.x509_authorities))
    key = load_der_private_key(own.svid.key_pkcs8, None)
    pem = b"".join(_to_pem(der) for der in own.svid.chain_der)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    memory = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


class AttestorChannel(Channel):
    """A grpclib channel that dials once, knows who answered, and knows when it is gone.

    Args:
        path: the attestor's Broker API socket.
        context: from :func:`build_context`.
        attestor_id: the only identity that may answer.
    """

    def __init__(self, path: Path, context: ssl.SSLContext, attestor_id: SpiffeId) -> None:
        # asyncio demands a server name with TLS; an empty one sends no SNI.
        super().__init__(path=str(path), ssl=context, config=Configuration(ssl_target_name_override=""))
        self._attestor_id = attestor_id
        self._dialled = False
        self._on_lost: list[Callable[[], None]] = []
        self.lost = asyncio.Event()
        self.streams = 0

    async def dial(self, timeout_s: float) -> None:
        """Connect and check who answered.

        Raises:
            UnavailableError: nobody answers in time, or the TLS handshake fails (``attestor_unreachable``).
            InvalidError: somebody else than the attestor answers (``attestor_untrusted``).
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.__connect__()
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            raise self._unreachable(str(error) or type(error).__name__) from error
        # In TLS 1.3 the client is done before the server has looked at its certificate: an answer proves acceptance.
        if not await self.probe(timeout_s):
            raise self._unreachable("it ended the connection or does not answer on it")

    async def probe(self, timeout_s: float) -> bool:
        """True once the other side answers an HTTP/2 ping; False if it does not in ``timeout_s``."""
        if self.lost.is_set() or self._protocol is None:
            return False
        connection = self._protocol.connection
        settled = asyncio.Event()
        connection.ping_ack_process = settled.set  # type: ignore[method-assign]
        self._on_lost.append(settled.set)
        try:
            connection._connection.ping(os.urandom(8))  # noqa: SLF001  # grpclib pings on its own schedule only
            connection.flush()
            async with asyncio.timeout(timeout_s):
                await settled.wait()
        except (TimeoutError, H2ProtocolError):
            return False
        finally:
            self._on_lost.remove(settled.set)
        return not self.lost.is_set()

    def abort(self) -> None:
        """End the connection and everything on it, without waiting for the other side."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            transport = getattr(protocol.connection, "_transport", None)  # grpclib deletes it when it closes
            protocol.processor.close("connection given up")
            # A TLS transport waits for the peer's close_notify, and a hung attestor sends none.
            if transport is not None:
                transport.abort()
        self._note_lost()

    def _protocol_factory(self) -> H2Protocol:
        return H2Protocol(_Watcher(self._note_lost), self._config, self._h2_config)

    def _note_lost(self) -> None:
        self.lost.set()
        for wake in self._on_lost:
            wake()

    async def _create_connection(self) -> H2Protocol:
        if self._dialled:
            raise ConnectionError("the connection to the attestor is gone")  # a new one is dialled by the link
        self._dialled = True
        protocol = await super()._create_connection()
        try:
            self._check_peer(protocol)
        except BaseException:
            protocol.connection.close()
            raise
        return protocol

    def _unreachable(self, reason: str) -> UnavailableError:
        return UnavailableError(
            "attestor_unreachable",
            "the attestor's Broker API cannot be reached",
            detail=f"{self._path}: {reason}",
            remedy="see whether the attestor runs and lists this broker",
        )

    def _check_peer(self, protocol: H2Protocol) -> None:
        tls = protocol.connection._transport.get_extra_info("ssl_object")  # noqa: SLF001
        found = read_spiffe_id(x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)))
        if found != self._attestor_id or tls.selected_alpn_protocol() != "h2":
            raise InvalidError(
                "attestor_untrusted",
                "somebody else than the attestor answers on its Broker API socket",
                detail=f"expected {self._attestor_id}, found {found}",
                remedy="compare trust_domain and node of both daemons, and who may write the socket's folder",
            )


class _Watcher(Handler):
    """grpclib's connection handler, which also says when the connection is lost."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost

    def close(self) -> None:
        super().close()
        self._on_lost()


def _to_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
