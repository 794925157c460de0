"""The receiver algorithm: what a request must show before a component may see it.

Owns: the order of the checks, numbered as in custody-wire §6: 1 to 4, 6 to 11, 5, 12 to 17, so that no signature
is checked for a message that fails for free. The first failure gives the code. One synchronous stretch; the clock
is read by the caller after any wait.
Does not own: sockets, logging (16, second half) and stripping and handles (17), which the caller does with the result.
Source: custody-wire §6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hopseal.custody.authority import Authority, fold
from hopseal.custody.behalf import Behalf, verify_behalf
from hopseal.custody.binding import Header, bind_request, bind_stream
from hopseal.custody.cache import BoundedCache, ReplayStore, RootIssuers
from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.chain import Records, assemble, check_links, check_times, root_grant
from hopseal.custody.delegation import Task
from hopseal.custody.errors import Code, refusal
from hopseal.custody.headers import parse_certificate_element, read_custody_fields
from hopseal.custody.record import Record, SealedRecord, parse_sealed_record
from hopseal.custody.seal import thumbprint
from hopseal.custody.usertoken import NO_ISSUERS, Issuers
from hopseal.custody.verification import Bundles, StatementVerifier, VerifiedRecord
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.limits import CLOCK_SKEW_S, PREFIX_CACHE_ENTRIES, PREFIXES_PER_PEER


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came.

    Args:
        headers: raw list in wire order.
        body: bytes on the wire; not looked at if the record says that it is streamed.
        method: as on the wire.
        target_uri: absolute URI that the receiver built from its configuration.
        operations: names that the receiver derived from the message; authority holds if one matches.
        peer_chain: DER certificates of the connection, leaf first; empty if none is visible.
        peer_x5t: thumbprint of its leaf where only that is known (``mappings.forwarded_peer``).
        rqb: request binding of a message that is not HTTP (``mappings.mcp_stdio``).
    """

    headers: Sequence[Header]
    body: bytes
    method: str
    target_uri: str
    operations: tuple[str, ...]
    peer_chain: tuple[bytes, ...]
    peer_x5t: str | None = None
    rqb: str | None = None

    @property
    def peer_leaf(self) -> str | None:
        """Thumbprint of the connection's leaf; None if none is visible."""
        return thumbprint(self.peer_chain[0]) if self.peer_chain else self.peer_x5t


def _nobody(_component: SpiffeId) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who receives, whom it can verify, and what it accepts.

    Args:
        own_id: the receiving component.
        own_leaves: thumbprints of its server leaves in use now or before.
        bundles: by trust domain, never merged.
        accept_autonomous: whether a root by this component may act on nobody's behalf.
        accept_path: local policy on the issuers of the chain, oldest first.
        issuers: of user tokens, with their keys.
        accept_unverified: whether a root of another trust domain, by this component, may assert a user whose issuer is
            not among ``issuers``; nobody may by default.
        accept_sealing: whether this component may seal a boundary: begin a chain that hides the one it continues;
            nobody may by default.
        accept_streams: accept a body that is bound only by the closing statement at its end; the caller of
            :func:`verify_request` then has to demand it (``exchange.verify_closing``).
        unsafe_allow_no_peer: accept connections whose client certificate is not visible.
    """

    own_id: SpiffeId
    own_leaves: frozenset[str]
    bundles: Bundles
    accept_autonomous: Callable[[SpiffeId], bool]
    accept_path: Callable[[tuple[SpiffeId, ...]], bool]
    issuers: Issuers = field(default_factory=lambda: NO_ISSUERS)
    accept_unverified: Callable[[SpiffeId], bool] = _nobody
    accept_sealing: Callable[[SpiffeId], bool] = _nobody
    accept_streams: bool = False
    unsafe_allow_no_peer: bool = False


def _prefix_cache() -> BoundedCache[str, VerifiedRecord]:
    return BoundedCache(PREFIX_CACHE_ENTRIES, PREFIXES_PER_PEER)


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """What earlier requests left behind; bounded, shared by all requests to one receiver."""

    certificates: CertificateCache = field(default_factory=CertificateCache)
    prefixes: BoundedCache[str, VerifiedRecord] = field(default_factory=_prefix_cache)
    verifier: StatementVerifier = field(default_factory=StatementVerifier)
    replay: ReplayStore = field(default_factory=ReplayStore)
    roots: RootIssuers = field(default_factory=RootIssuers)

    def bundle_changed(self, trust_domain: TrustDomain) -> None:
        """Forget verified records of ``trust_domain``: another bundle may no longer vouch for them."""
        self.prefixes.discard_if(lambda verified: verified.sealed.record.iss.trust_domain == trust_domain)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A request whose chain holds and continues to here; what it may do is not decided.

    A refusal from here on may, and should, carry a receipt. Built by :func:`authenticate_request` only.

    Args:
        request: as it came.
        chain: verified records, oldest first.
        verified_at: NumericDate seconds.
    """

    request: Request
    chain: tuple[VerifiedRecord, ...]
    verified_at: int

    @property
    def newest(self) -> SealedRecord:
        """The record of this request."""
        return self.chain[-1].sealed


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that passed every check; built by :func:`verify_request` only.

    Args:
        chain: verified records, oldest first; their texts are what may be forwarded and logged.
        authority: what the chain still allows.
        behalf: the user it acts for, verified or only asserted; None if it acts on nobody's behalf.
    """

    chain: tuple[VerifiedRecord, ...]
    authority: Authority
    behalf: Behalf | None = None

    @property
    def newest(self) -> SealedRecord:
        """The record of this request."""
        return self.chain[-1].sealed

    @property
    def path(self) -> tuple[SpiffeId, ...]:
        """Issuers, oldest first."""
        return tuple(each.sealed.record.iss for each in self.chain)

    @property
    def task(self) -> Task | None:
        """What the chain works on."""
        return self.chain[0].sealed.record.task


def verify_request(request: Request, receiver: Receiver, state: ReceiverState, now: int) -> Accepted:
    """The verified chain of ``request``; ``now`` in NumericDate seconds.

    Raises:
        CustodyError: the first check that fails, in the order of custody-wire §6.
    """
    return authorise_request(authenticate_request(request, receiver, state, now), receiver, state)


def authenticate_request(request: Request, receiver: Receiver, state: ReceiverState, now: int) -> Authenticated:
    """Steps 1 to 11: that the chain holds and leads to this receiver; ``now`` in NumericDate seconds.

    Raises:
        CustodyError: the first check that fails; nobody may be given a receipt for that.
    """
    fields = read_custody_fields(request.headers)  # 1, 2
    inline = tuple(parse_sealed_record(text) for text in (*fields.chain, fields.record))  # 3
    ders = tuple(parse_certificate_element(element) for element in fields.certs)
    known = _know_certificates(inline, ders, request, state)  # 4
    newest = inline[-1].record
    _check_peer(inline[-1], request, receiver)  # 6
    if newest.aud != str(receiver.own_id):  # 7
        raise refusal(Code.AUDIENCE, newest.aud)
    check_times(inline, now)  # 8
    _check_binding(newest, request, receiver)  # 9
    chain = assemble(inline, lambda parent: _cached(state, parent), now)  # 10
    check_links(chain)  # 11
    return Authenticated(request, _verify_records(chain, known, receiver.bundles, state, now), now)  # 5


def authorise_request(authenticated: Authenticated, receiver: Receiver, state: ReceiverState) -> Accepted:
    """Steps 12 to 17: that the chain may do what it asks for, and for the first time.

    Raises:
        CustodyError: the first check that fails; a receipt with ``fin: deny`` may say so.
    """
    request, verified, now = authenticated.request, authenticated.chain, authenticated.verified_at
    chain = tuple(each.sealed for each in verified)
    newest = chain[-1].record
    state.roots.check(chain[0].record.cid, chain[0].record.iss, now)
    authority, behalf = _check_root(chain[0], request, receiver, now)  # 12
    authority = fold(authority, [each.record.att for each in chain])  # 13
    authority.check_call(hop=newest.hop, now=now, callee=str(receiver.own_id), operations=request.operations)
    if not receiver.accept_path(tuple(each.record.iss for each in chain)):  # 14
        raise refusal(Code.FORBIDDEN, "policy on the path")
    state.roots.remember(chain[0].record.cid, chain[0].record.iss, now)
    state.replay.use(newest.iss, newest.jti, newest.exp + CLOCK_SKEW_S, now)  # 15
    for each in verified:  # 16
        state.prefixes.put(each.sealed.hash, each, owner=str(newest.iss))
    return Accepted(verified, authority, behalf)  # 17


def _know_certificates(
    inline: Records, ders: tuple[bytes, ...], request: Request, state: ReceiverState
) -> KnownCertificates:
    for der in ders:
        state.certificates.add(der, request.peer_leaf or "")
    known = KnownCertificates((*ders, *request.peer_chain), state.certificates)
    wanted = dict.fromkeys(each.statement.seal.x5t for each in inline)
    missing = tuple(f"cert:{x5t}" for x5t in wanted if known.get(x5t) is None)
    if missing:
        raise refusal(Code.UNRESOLVED, missing=missing)
    return known


def _check_peer(newest: SealedRecord, request: Request, receiver: Receiver) -> None:
    if request.peer_leaf is not None:
        if newest.statement.seal.x5t != request.peer_leaf:
            raise refusal(Code.IDENTITY, "the connection's leaf is not the one that sealed the record")
    elif not receiver.unsafe_allow_no_peer:
        raise refusal(Code.IDENTITY, "the connection shows no client certificate")
    if newest.record.srv is not None and newest.record.srv not in receiver.own_leaves:
        raise refusal(Code.AUDIENCE, "the record was made for a connection to another server leaf")


def _check_binding(newest: Record, request: Request, receiver: Receiver) -> None:
    if newest.bm is None and request.rqb is not None:
        rqb = request.rqb
    elif newest.bm is None:
        rqb = bind_request(request.method, request.target_uri, request.headers, request.body)
    elif receiver.accept_streams:
        rqb = bind_stream(request.method, request.target_uri, request.headers)
    else:
        raise refusal(Code.FORBIDDEN, "streamed bodies are not accepted")
    if rqb != newest.rqb:
        raise refusal(Code.BINDING, "rqb is that of another request")


def _cached(state: ReceiverState, statement_hash: str) -> SealedRecord | None:
    found = state.prefixes.get(statement_hash)
    return found.sealed if found else None


def _verify_records(
    chain: Records, known: KnownCertificates, bundles: Bundles, state: ReceiverState, now: int
) -> tuple[VerifiedRecord, ...]:
    """Step 5, oldest first. An ancestor is skipped only if its whole text is the one that was verified."""
    verified = []
    for sealed in chain:
        is_newest = sealed is chain[-1]
        before = None if is_newest else state.prefixes.get(sealed.hash)
        if before is None or before.sealed.text != sealed.text:
            before = state.verifier.verify(sealed, known, bundles, now if is_newest else sealed.record.iat)
        verified.append(before)
    return tuple(verified)


def _check_root(root: SealedRecord, request: Request, receiver: Receiver, now: int) -> tuple[Authority, Behalf | None]:
    """Step 12."""
    record = root.record
    authority = root_grant(record)
    behalf = verify_behalf(root, authority, request.headers, receiver.issuers, receiver.own_id.trust_domain, now)
    if behalf is None and not receiver.accept_autonomous(record.iss):
        raise refusal(Code.AUTHORITY, "this component may not begin a chain on nobody's behalf")
    if behalf is not None and not behalf.verified and not receiver.accept_unverified(record.iss):
        raise refusal(Code.AUTHORITY, "this component may not assert a user whose token cannot be verified here")
    is_sealing = record.cont is not None and record.cont.why == "boundary"
    if is_sealing and not receiver.accept_sealing(record.iss):
        raise refusal(Code.AUTHORITY, "this component may not seal a boundary")
    return authority, behalf
