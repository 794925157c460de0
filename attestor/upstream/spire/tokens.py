"""JWT-SVIDs from SPIRE Agent, kept for when it is away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from attestor.upstream.spire.agent import AgentSocket
from hopseal.errors import DeniedError, InvalidError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.selectors import SELECTOR_TYPE, Selector
from hopseal.svid import JwtSvid
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1 import delegatedidentity_pb2 as pb
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1.delegatedidentity_grpc import DelegatedIdentityStub
from hopseal.wire.gen.spire.api.types.selector_pb2 import Selector as SelectorMessage

MAX_KEPT = 1024
_NO_IDENTITY = "no identity issued"  # of SPIRE's delegatedidentity service; its other denials are about the delegate


class TokenSource:
    """Fetches JWT-SVIDs; SPIRE Agent has its own cache, so nothing is served from here while it answers.

    Args:
        clock: NumericDate seconds.
    """

    def __init__(self, socket: AgentSocket, clock: Callable[[], float]) -> None:
        self._socket = socket
        self._stub = DelegatedIdentityStub(socket.channel)
        self._clock = clock
        self._kept: OrderedDict[tuple[frozenset[Selector], tuple[str, ...]], tuple[JwtSvid, ...]] = OrderedDict()

    async def fetch(
        self, selectors: frozenset[Selector], audience: tuple[str, ...], spiffe_id: SpiffeId
    ) -> tuple[JwtSvid, ...]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        key = selectors, audience
        request = pb.FetchJWTSVIDsRequest(audience=audience, selectors=render_selectors(selectors))
        try:
            answer = await self._socket.call(self._stub.FetchJWTSVIDs, request)
        except DeniedError as error:
            if _NO_IDENTITY in error.detail:
                self._kept.pop(key, None)
                return ()
            raise UnavailableError("upstream_unavailable", "SPIRE Agent refuses", detail=error.detail) from error
        except (UnavailableError, InvalidError) as error:
            now = self._clock()
            kept = [svid for svid in self._kept.get(key, ()) if svid.expires_at > now and svid.spiffe_id == spiffe_id]
            if kept:
                return tuple(kept)
            raise UnavailableError("upstream_unavailable", "SPIRE Agent cannot be asked", detail=str(error)) from error
        svids = tuple(
            JwtSvid(
                SpiffeId.parse(f"spiffe://{each.id.trust_domain}{each.id.path}"), each.token, each.expires_at, each.hint
            )
            for each in answer.svids
        )
        self._keep(key, svids)
        return tuple(svid for svid in svids if svid.spiffe_id == spiffe_id)

    def _keep(self, key: tuple[frozenset[Selector], tuple[str, ...]], svids: tuple[JwtSvid, ...]) -> None:
        self._kept[key] = svids
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


def render_selectors(selectors: Iterable[Selector]) -> list[SelectorMessage]:
    """``selectors`` as SPIRE takes them."""
    return [SelectorMessage(type=SELECTOR_TYPE, value=selector.value) for selector in sorted(selectors)]
