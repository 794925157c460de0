"""A client of the SPIFFE Workload API, for the command line.

Owns: the exchange and turning its answers into our values. Does not own: serving it (the attestor).
Source: SPIFFE Workload API, sections 4 and 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.client import Channel

from hopseal.bundle import Bundle, BundleSet
from hopseal.errors import DeniedError, InvalidError, UnavailableError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.snapshot import IdentitySnapshot
from hopseal.svid import JwtSvid, X509Svid
from hopseal.wire.client import call, subscription
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIStub
from hopseal.wire.gen.spiffe.workload.workload_pb2 import (
    JWTSVIDRequest,
    X509SVIDRequest,
    X509SVIDResponse,
)

_SECURITY_HEADER = {"workload.spiffe.io": "true"}  # SPIFFE Workload API §3


async def fetch_x509(endpoint: str, timeout_s: float) -> IdentitySnapshot:
    """The SVIDs and bundles of this process now; raises like :func:`watch_x509`."""
    try:
        async with asyncio.timeout(timeout_s), aclosing(watch_x509(endpoint)) as snapshots:
            return await anext(snapshots)
    except TimeoutError as error:
        raise _unreachable(endpoint, f"no answer in {timeout_s:g} s") from error


async def watch_x509(endpoint: str) -> AsyncGenerator[IdentitySnapshot, None]:
    """The SVIDs and bundles of this process, and each later change; never ends by itself.

    Raises:
        DeniedError: this process has no identity, or lost it.
        UnavailableError: nobody serves the Workload API there.
        InvalidError: ``endpoint`` is no Unix socket address.
    """
    with _translated(endpoint):
        async with (
            Channel(path=_socket_path(endpoint)) as channel,
            subscription(
                SpiffeWorkloadAPIStub(channel).FetchX509SVID, X509SVIDRequest(), metadata=_SECURITY_HEADER
            ) as answers,
        ):
            async for answer in answers:
                yield _parse_snapshot(answer)


async def fetch_jwt_svids(endpoint: str, audiences: tuple[str, ...], timeout_s: float) -> tuple[JwtSvid, ...]:
    """JWT-SVIDs of this process for ``audiences``; raises like :func:`watch_x509`."""
    with _translated(endpoint):
        async with Channel(path=_socket_path(endpoint)) as channel:
            response = await call(
                SpiffeWorkloadAPIStub(channel).FetchJWTSVID,
                JWTSVIDRequest(audience=audiences),
                timeout_s=timeout_s,
                metadata=_SECURITY_HEADER,
            )
    return tuple(JwtSvid(SpiffeId.parse(each.spiffe_id), each.svid, 0, each.hint) for each in response.svids)


@contextmanager
def _translated(endpoint: str) -> Iterator[None]:
    """Say what went wrong in the words of this service."""
    try:
        yield
    except DeniedError as error:
        if error.code != "rpc_denied":
            raise
        raise DeniedError(
            "identity_none",
            "this process has no identity here",
            detail=error.detail,
            remedy="hopseal explain PID says why; a document must describe this process",
        ) from error
    except UnavailableError as error:
        raise _unreachable(endpoint, error.detail or error.message) from error


def _unreachable(endpoint: str, detail: str) -> UnavailableError:
    return UnavailableError(
        "workload_api_unreachable",
        f"no Workload API answers on {endpoint}",
        detail=detail,
        remedy="start the attestor, or name its socket with --endpoint",
    )


def _socket_path(endpoint: str) -> str:
    # SPIFFE Workload Endpoint §4: a URI without authority, so two slashes are followed by a third.
    path = endpoint.removeprefix("unix://") if endpoint.startswith("unix:///") else endpoint.removeprefix("unix:")
    if path == endpoint or not path.startswith("/") or path.startswith("//"):
        raise InvalidError(
            "endpoint_invalid", f"{endpoint!r} is no Unix socket address", remedy="write unix:///absolute/path"
        )
    return path


def _parse_snapshot(response: X509SVIDResponse) -> IdentitySnapshot:
    svids = tuple(_parse_svid(each.spiffe_id, each.x509_svid, each.x509_svid_key, each.hint) for each in response.svids)
    if not svids:
        raise DeniedError("identity_none", "this process has no identity here")
    own = svids[0].spiffe_id.trust_domain
    bundles = [
        Bundle(SpiffeId.parse(each.spiffe_id).trust_domain, _split_der(each.bundle)) for each in response.svids[:1]
    ]
    bundles += [
        Bundle(TrustDomain.parse(name.removeprefix("spiffe://")), _split_der(data))
        for name, data in sorted(response.federated_bundles.items())
    ]
    found = BundleSet.build(own, bundles)
    if found is None:
        raise InvalidError("workload_answer_invalid", "the answer has no bundle of its own trust domain")
    return IdentitySnapshot(svids, found)


def _parse_svid(spiffe_id: str, chain: bytes, key: bytes, hint: str) -> X509Svid:
    chain_der = _split_der(chain)
    if not chain_der:
        raise InvalidError("workload_answer_invalid", "an SVID of the answer has no certificate")
    leaf = x509.load_der_x509_certificate(chain_der[0])
    expires_at = int(leaf.not_valid_after_utc.timestamp())
    return X509Svid(SpiffeId.parse(spiffe_id), chain_der, key, expires_at, hint)


def _split_der(data: bytes) -> tuple[bytes, ...]:
    """The certificates of ``data``, which the Workload API concatenates without separators."""
    found: list[bytes] = []
    while data:
        try:
            certificate = x509.load_der_x509_certificate(data[: _der_length(data)])
        except ValueError as error:
            raise InvalidError("workload_answer_invalid", "the answer holds a malformed certificate") from error
        der = certificate.public_bytes(Encoding.DER)
        found.append(der)
        data = data[len(der) :]
    return tuple(found)


def _der_length(data: bytes) -> int:
    """Bytes of the first DER value of ``data``, header included. Source: X.690 §8.1.3."""
    first = data[1] if len(data) > 1 else 0
    if first < 0x80:
        return 2 + first
    size = first & 0x7F
    return 2 + size + int.from_bytes(data[2 : 2 + size], "big")
