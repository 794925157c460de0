"""One process whose identity is followed.

Owns: the subscription of one reference through losses of the connection, and its end.
Does not own: what follows from an outcome (``broker.identities.registry``).

Life: opening -> confirmed -> (connection lost) unconfirmed -> confirmed again, or ended when the
grace is over. A refusal ends it from every state, at once.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import Protocol

from broker.attestor_link import AttestorApi, IdentityUpdate
from broker.identities.instances import InstanceKey
from broker.isolated import run_isolated
from broker.references import Reference
from hopseal.backoff import Backoff
from hopseal.errors import BugError, DeniedError, HopsealError, UnavailableError
from hopseal.svid import X509Svid

EMPTY_S = 0.5  # docs/architecture.md: an answer without an SVID withdraws only after this long


class TrackedState(StrEnum):
    """Where a followed process stands."""

    OPENING = "opening"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    ENDED = "ended"


class Owner(Protocol):
    """Who decides what an outcome means."""

    def identify(self, tracked: Tracked, update: IdentityUpdate) -> tuple[InstanceKey, X509Svid] | None:
        """The component that the update names, or None while it names none; raises DeniedError."""

    def confirm(self, tracked: Tracked, key: InstanceKey, svid: X509Svid) -> None:
        """The process is that component; raises DeniedError if its SVID cannot be used."""

    def end(self, tracked: Tracked, error: HopsealError) -> None:
        """The process is followed no more."""


class Tracked:
    """Follows one reference; :meth:`run` returns when it ended.

    Args:
        reference: the process.
        api: the attestor.
        owner: told each outcome, in the task of :meth:`run` or of its stream.
        grace_s: how long the identity outlives the connection to the attestor.
        backoff: pauses between attempts while the attestor answers that it is not able.
    """

    def __init__(
        self, reference: Reference, api: AttestorApi, owner: Owner, *, grace_s: float, backoff: Backoff
    ) -> None:
        self.reference = reference
        self.state = TrackedState.OPENING
        self.since = time.time()
        self.key: InstanceKey | None = None
        self.pid = 0
        self._api = api
        self._owner = owner
        self._grace_s = grace_s
        self._backoff = backoff
        self._deadline: asyncio.Timeout | None = None
        self._over: HopsealError = _identity_none()
        self._task: asyncio.Task[None] | None = None
        self._asked_again = False

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run in ``group``."""
        self._task = group.create_task(self.run())

    def stop(self) -> None:
        """End without an outcome: the owner decided."""
        self._become(TrackedState.ENDED)
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Follow until the attestor refuses, the grace is over, or the attestor is away before the first answer."""
        try:
            async with asyncio.timeout(None) as self._deadline:
                while True:
                    try:
                        await self._follow()
                    except UnavailableError as error:
                        self._lose(error)
                    await self._api.wait_connected()
                    await asyncio.sleep(self._backoff.next_s())
        except TimeoutError:
            self._finish(self._over)
        except HopsealError as error:
            self._finish(error)
        except Exception as error:  # noqa: BLE001  # one process that we fail on must not end the others' identities
            self._finish(BugError("identity_failed", "the broker failed on this process", detail=repr(error)))

    async def _follow(self) -> None:
        await run_isolated(self._api.subscribe(self.reference, self._take))
        raise UnavailableError("attestor_unavailable", "the attestor ended the stream")

    def _take(self, update: IdentityUpdate) -> None:
        if self.state is TrackedState.ENDED or self._deadline is None or self._deadline.expired():
            return
        identified = self._owner.identify(self, update)
        if identified is None:
            self._expire(EMPTY_S, _identity_none())
            return
        self._owner.confirm(self, *identified)
        self.key = identified[0]
        self._become(TrackedState.CONFIRMED)
        self._backoff.reset()
        self._deadline.reschedule(None)

    def _lose(self, error: UnavailableError) -> None:
        if self.state is TrackedState.OPENING:
            # A rotation of the broker's own SVID ends streams too; only an attestor that is away is worth a refusal.
            if self._asked_again or not self._api.is_connected:
                raise error
            self._asked_again = True
        if self.state is TrackedState.CONFIRMED:
            self._become(TrackedState.UNCONFIRMED)
            self._expire(
                self._grace_s,
                UnavailableError(
                    "attestor_unavailable", "the attestor did not confirm the process in time", detail=error.detail
                ),
            )

    def _expire(self, after_s: float, error: HopsealError) -> None:
        if self._deadline is None:
            return
        now = asyncio.get_running_loop().time()
        planned = self._deadline.when()
        # Never later than planned: an attestor that answers without an SVID does not prolong the grace.
        if planned is None or planned > now + after_s:
            self._over = error
            self._deadline.reschedule(now + after_s)

    def _finish(self, error: HopsealError) -> None:
        if self.state is not TrackedState.ENDED:
            self._owner.end(self, error)
            self._become(TrackedState.ENDED)

    def _become(self, state: TrackedState) -> None:
        if self.state is not state:
            self.state = state
            self.since = time.time()


def _identity_none() -> DeniedError:
    return DeniedError("identity_none", "the process has no identity")
