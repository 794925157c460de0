"""What the Workload API and the Broker API answer alike, before it becomes a message of either.

Owns: sending what changed, JWT-SVIDs and their audiences, bundles as bytes.
Does not own: any message or method (``attestor.api.workload``, ``attestor.api.broker``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from grpclib.server import Stream

from attestor.api.caller import Caller
from attestor.api.identities import Identities, IdentityFeed, IdentityRefusedError
from attestor.api.rpc import RequestInvalidError, send_answer
from attestor.upstream.protocol import Upstream
from hopseal.bundle import Bundle
from hopseal.ids import SpiffeId
from hopseal.svid import JwtSvid

MAX_AUDIENCES = 64
MAX_AUDIENCE_BYTES = 1024

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def send_changes(
    stream: Stream[Request, Answer], caller: Caller, feed: IdentityFeed, answer_of: Callable[[Identities], Answer]
) -> None:
    """Send what ``answer_of`` makes of the identities, now and whenever it is another than what was sent."""
    sent: Answer | None = None
    async for identities in feed:
        answer = answer_of(identities)
        if answer != sent:
            await send_answer(stream, caller, answer)
            sent = answer


async def fetch_jwt_svids(
    upstream: Upstream, feed: IdentityFeed, audience: Iterable[str], unverified_id: str
) -> Sequence[JwtSvid]:
    """JWT-SVIDs of all the process' identities, or of the one that ``unverified_id`` names unless it is empty.

    Security: they may be released until the next ``await``.

    Raises:
        RequestInvalidError: no such audience can be.
        IdentityError: ``unverified_id`` is no SPIFFE ID.
        IdentityRefusedError: the process has no such identity, or no identity any more.
    """
    audiences = parse_audience(audience)
    spiffe_id = SpiffeId.parse(unverified_id) if unverified_id else None
    while True:
        identities = await anext(feed)
        asked = [held for held in identities.held if spiffe_id in {None, held.match.spiffe_id}]
        found = [
            svid
            for held in asked
            for svid in await upstream.fetch_jwt_svids(held.match.selectors, audiences, held.match.spiffe_id)
        ]
        if not found:
            raise IdentityRefusedError("svid_none", "the upstream issues no such JWT-SVID for it")
        if await feed.confirm(identities):
            return found


def parse_audience(audience: Iterable[str]) -> tuple[str, ...]:
    """The audiences of a request, each once.

    Raises:
        RequestInvalidError: none, too many, or one is empty or too long.
    """
    found = tuple(dict.fromkeys(audience))
    if not found:
        raise RequestInvalidError("audience must be specified")
    if len(found) > MAX_AUDIENCES or not all(0 < len(each.encode()) <= MAX_AUDIENCE_BYTES for each in found):
        raise RequestInvalidError("audience is empty, too long or too many")
    return found


def der_of(bundle: Bundle) -> bytes:
    """The X.509 authorities as concatenated DER."""
    return b"".join(bundle.x509_authorities)


def ders_of(bundles: Iterable[Bundle]) -> dict[str, bytes]:
    """:func:`der_of` each, by the trust domain's SPIFFE ID."""
    return {bundle.trust_domain.id: der_of(bundle) for bundle in bundles}


def jwks_of(bundles: Iterable[Bundle]) -> dict[str, bytes]:
    """JWKS documents by the trust domain's SPIFFE ID, of those that have one."""
    return {bundle.trust_domain.id: bundle.jwt_keys for bundle in bundles if bundle.jwt_keys}
