"""mTLS of ``broker.sock`` with the attestor's own SVID.

Owns: contexts made from SVIDs, and who a peer's certificate proves it is. Does not own: when a context
is replaced (``attestor.api.broker``).

Security: a new context for each new snapshot, because a context's trust can only grow; no tickets, so
that no session outlives the bundle that allowed it. The key goes to OpenSSL through a memory file.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from hopseal.errors import DeniedError, InvalidError
from hopseal.ids import SpiffeId
from hopseal.snapshot import IdentitySnapshot


class PeerUnauthorisedError(DeniedError):
    """The peer's certificate is not one that may connect here (code ``peer_unauthorised``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("peer_unauthorised", "this peer may not connect here", detail=detail)


def server_context(snapshot: IdentitySnapshot) -> ssl.SSLContext:
    """A server's TLS 1.3 context: the first SVID, and peers of the own trust domain only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a bundle may hold authorities that are not self-signed
    context.load_verify_locations(cadata=b"".join(snapshot.bundles.own.x509_authorities))
    context.set_alpn_protocols(["h2"])
    _load_key(context, snapshot.svids[0].chain_der, snapshot.svids[0].key_pkcs8)
    return context


def peer_spiffe_id(peer: ssl.SSLObject, is_allowed: Callable[[SpiffeId], bool]) -> SpiffeId:
    """The SPIFFE ID that the peer's certificate holds; its chain was verified in the handshake.

    Raises:
        PeerUnauthorisedError: no certificate, not exactly one URI, no SPIFFE ID, or not an allowed one.
    """
    der = peer.getpeercert(binary_form=True)
    if der is None:
        raise PeerUnauthorisedError("no certificate")
    try:
        extension = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise PeerUnauthorisedError(f"certificate cannot be read: {error}") from error
    if len(uris) != 1:
        raise PeerUnauthorisedError(f"certificate has {len(uris)} URIs")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InvalidError as error:
        raise PeerUnauthorisedError(str(error)) from error
    if not is_allowed(spiffe_id):
        raise PeerUnauthorisedError(f"{spiffe_id} is not allowed")
    return spiffe_id


def _load_key(context: ssl.SSLContext, chain_der: tuple[bytes, ...], key_pkcs8: bytes) -> None:
    key = load_der_private_key(key_pkcs8, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(ssl.DER_cert_to_PEM_cert(der).encode("ascii") for der in chain_der)
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(chain + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
