"""The broker's side of the SPIFFE Broker API: always one good connection to the attestor, or none.

Owns: dialling with the current SVID, dialling again after a loss or a rotation, spreading streams
over connections, opening few at a time, and telling a refusal from an attestor that is away.
Does not own: what a subscription means for the components (``broker.identities``).

Life of a connection generation: dial the first connection -> publish it -> open further ones when
its streams are used up -> SVID rotated: dial anew, publish, end the old ones; lost: publish none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import ProtocolError as H2ProtocolError

from broker.attestor_channel import AttestorChannel, build_context
from broker.own_identity import OwnIdentity
from broker.references import Reference, encode_reference
from broker.svids import parse_svid
from hopseal.backoff import Backoff
from hopseal.errors import DeniedError, HopsealError, InvalidError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.svid import X509Svid
from hopseal.watch import Watch
from hopseal.wire.gen.spiffe.broker.api_grpc import APIStub
from hopseal.wire.gen.spiffe.broker.api_pb2 import SubscribeToX509SVIDRequest, SubscribeToX509SVIDResponse

DIAL_S = 5.0
OPEN_S = 5.0  # the attestor answers within its own collectors' deadline
PROBE_EVERY_S = 5.0
PROBE_ANSWER_S = 3.0
STREAMS_PER_CONNECTION = 24  # below the attestor's own bound, so that a stream never waits for another to end

_METADATA = {"broker.spiffe.io": "true"}
_INSTANCE = "hopseal-instance"
_INSTANCE_FORM = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
_REFUSAL = re.compile(r"([a-z][a-z0-9_]{0,63}): (.{0,512})", re.DOTALL)

log = structlog.get_logger("broker.attestor_link")


@dataclass(frozen=True, slots=True)
class IdentityUpdate:
    """What the attestor says about one process now.

    Args:
        instance: opaque name of the component instance that the process belongs to.
        svids: none yet, one, or several if the process matches several components.
    """

    instance: str
    svids: tuple[X509Svid, ...]


class AttestorApi(Protocol):
    """What the identities need of the attestor."""

    @property
    def is_connected(self) -> bool:
        """Whether the attestor can be asked now."""

    async def wait_connected(self) -> None:
        """Wait until the attestor can be asked."""

    async def subscribe(self, reference: Reference, on_update: Callable[[IdentityUpdate], None]) -> None:
        """Call ``on_update`` with each update; never returns normally.

        Raises:
            DeniedError: the attestor says no; the code is the attestor's.
            UnavailableError: the attestor is away, or has no answer now (``attestor_unavailable``).
        """


@dataclass(frozen=True, slots=True)
class LinkState:
    """Whether the attestor answers; ``since`` is seconds since the epoch, ``detail`` says why not."""

    connected: bool
    since: float
    detail: str


class AttestorLink:
    """Implements :class:`AttestorApi` over the attestor's Broker API socket.

    Args:
        socket: the Broker API socket.
        attestor_id: the only identity that may answer there.
        own: the broker's own SVID.
        boot_id: of this machine, part of every reference.
        openings: subscriptions that may be in the opening at once.
        backoff: pauses between dials.
    """

    def __init__(
        self,
        socket: Path,
        attestor_id: SpiffeId,
        own: Watch[OwnIdentity | None],
        *,
        boot_id: bytes,
        openings: int,
        backoff: Backoff,
    ) -> None:
        self._socket = socket
        self._attestor_id = attestor_id
        self._own = own
        self._boot_id = boot_id
        self._openings = asyncio.Semaphore(openings)
        self._backoff = backoff
        self._channels: list[AttestorChannel] = []
        self._dial_lock = asyncio.Lock()
        self.state: Watch[LinkState] = Watch(LinkState(False, time.time(), "not dialled yet"))

    @property
    def is_connected(self) -> bool:
        """Whether the attestor can be asked now."""
        return self.state.value.connected

    async def wait_connected(self) -> None:
        """Wait until the attestor can be asked."""
        while not self.state.value.connected:
            await self.state.wait_change(self.state.version)

    async def run(self) -> None:
        """Keep one good connection for ever."""
        try:
            while True:
                seen = self._own.version
                own = self._own.value
                if own is None:
                    self._give_up("the broker has no SVID of its own")
                    await self._own.wait_change(seen)
                    continue
                try:
                    await self._replace(own)
                except HopsealError as error:
                    self._note_failure(str(error))
                    await self._pause(seen)
                    continue
                await self._watch(seen)
        finally:
            self._give_up("the broker is stopping")

    async def subscribe(self, reference: Reference, on_update: Callable[[IdentityUpdate], None]) -> None:
        """See :meth:`AttestorApi.subscribe`. Run it in a task of its own: grpclib cancels the task of a lost stream."""
        try:
            await self._subscribe(reference, on_update)
        except GRPCError as error:
            raise _read_status(error) from error
        except (OSError, TimeoutError, StreamTerminatedError, ProtocolError, H2ProtocolError) as error:
            raise _unavailable(f"{type(error).__name__}: {error}") from error
        raise _unavailable("the attestor ended the stream")

    async def _subscribe(self, reference: Reference, on_update: Callable[[IdentityUpdate], None]) -> None:
        request = SubscribeToX509SVIDRequest(reference=encode_reference(reference, self._boot_id))
        channel = await self._take_channel()
        channel.streams += 1
        try:
            async with APIStub(channel).SubscribeToX509SVID.open(metadata=_METADATA) as stream:
                async with self._openings, asyncio.timeout(OPEN_S):
                    await stream.send_message(request, end=True)
                    message = await stream.recv_message()
                instance = _read_instance(dict(stream.initial_metadata or {}))
                while message is not None:
                    on_update(_read_update(instance, message))
                    message = await stream.recv_message()
        finally:
            channel.streams -= 1

    async def _take_channel(self) -> AttestorChannel:
        async with self._dial_lock:
            for channel in self._channels:
                if channel.streams < STREAMS_PER_CONNECTION and not channel.lost.is_set():
                    return channel
            own = self._own.value
            if own is None or not self.is_connected:
                raise _unavailable("not connected")
            channel = await self._dial(own)
            self._channels = [each for each in self._channels if not each.lost.is_set()]
            self._channels.append(channel)
            return channel

    async def _dial(self, own: OwnIdentity) -> AttestorChannel:
        if own.svid.expires_at <= time.time():
            raise InvalidError("own_identity_expired", "the broker's own SVID has expired")
        try:
            context = build_context(own)
        except (OSError, ValueError) as error:
            raise InvalidError(
                "own_identity_unusable", "the broker's own SVID cannot be used", detail=str(error)
            ) from error
        channel = AttestorChannel(self._socket, context, self._attestor_id)
        try:
            await channel.dial(DIAL_S)
        except BaseException:
            channel.abort()
            raise
        return channel

    async def _replace(self, own: OwnIdentity) -> None:
        channel = await self._dial(own)
        # Published before the old connections end: their subscriptions find the new one at once.
        old, self._channels = self._channels, [channel]
        self._backoff.reset()
        self.state.publish(LinkState(True, time.time(), ""))
        log.info("attestor_connected", attestor=str(self._attestor_id), rotated=bool(old))
        for each in old:
            each.abort()

    async def _watch(self, seen: int) -> None:
        """Return once the first connection is lost or silent, or the own SVID changed."""
        first = self._channels[0]
        while self._own.version == seen and not first.lost.is_set():
            lost = asyncio.ensure_future(first.lost.wait())
            changed = asyncio.ensure_future(self._own.wait_change(seen))
            try:
                await asyncio.wait({lost, changed}, timeout=PROBE_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
                changed.cancel()
            if self._own.version == seen and not first.lost.is_set() and not await first.probe(PROBE_ANSWER_S):
                break
        if self._own.version == seen:
            self._give_up("the connection to the attestor was lost")

    async def _pause(self, seen: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.next_s()):
                await self._own.wait_change(seen)

    def _give_up(self, reason: str) -> None:
        channels, self._channels = self._channels, []
        self._note_failure(reason)
        for each in channels:
            each.abort()

    def _note_failure(self, reason: str) -> None:
        state = self.state.value
        # A failed dial at a rotation leaves the old connection in use until it is lost itself.
        if self._channels and not self._channels[0].lost.is_set():
            log.warning("attestor_redial_failed", reason=reason)
        elif state.connected or state.detail != reason:
            log.warning("attestor_disconnected" if state.connected else "attestor_unreachable", reason=reason)
            self.state.publish(LinkState(False, time.time() if state.connected else state.since, reason))


def _read_instance(metadata: dict[str, object]) -> str:
    instance = metadata.get(_INSTANCE)
    if not isinstance(instance, str) or _INSTANCE_FORM.fullmatch(instance) is None:
        raise _unavailable("the attestor named no component instance")
    return instance


def _read_update(instance: str, message: SubscribeToX509SVIDResponse) -> IdentityUpdate:
    try:
        return IdentityUpdate(instance, tuple(parse_svid(svid) for svid in message.svids))
    except InvalidError as error:
        raise _unavailable(str(error)) from error


def _read_status(error: GRPCError) -> HopsealError:
    message = error.message or ""
    if error.status is not Status.PERMISSION_DENIED:
        return _unavailable(f"{error.status.name}: {message}")
    match = _REFUSAL.fullmatch(message)
    code, text = match.groups() if match else ("identity_none", message)
    return DeniedError(code, "the attestor refused the process", detail=text)


def _unavailable(detail: str) -> UnavailableError:
    return UnavailableError("attestor_unavailable", "the attestor cannot be asked now", detail=detail)
