"""The identities that one process may use now, followed until they are withdrawn.

Owns: joining verdicts with what the upstream issues, and the release rule. Does not own: verdicts,
issuing, or any wire format.

Security, the order that matters: a change of verdict reaches the request's task as an exception even
while it waits for a slow peer, so nothing is sent after a withdrawal; and right before a key is sent the
process is looked at once more (:meth:`IdentityFeed.confirm`), because it may have executed something
else since it was attested.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from attestor.peer import PinnedProcess
from attestor.upstream.protocol import Upstream
from attestor.verdict import Attested, Match, Refused, Verdict
from hopseal.bundle import Bundle, BundleSet
from hopseal.errors import BugError, DeniedError, HopsealError, UnavailableError
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.snapshot import IdentitySnapshot
from hopseal.svid import X509Svid

FIRST_TIMEOUT_S = 10.0


class Attestations(Protocol):
    """What the APIs use of ``attestor.attestation.Attestations``."""

    def watch(self, process: PinnedProcess) -> AbstractAsyncContextManager[AsyncIterator[Verdict]]:
        """Verdicts on ``process``, which it takes over; a refusal is the last."""

    async def confirm(self, process: PinnedProcess) -> Verdict:
        """The verdict after a fresh look at what changes without notice."""

    def note_svid(self, pidfd_inode: int, spiffe_id: SpiffeId, expires_at: int | None) -> None:
        """Tells operators what the process was given; None if the upstream has nothing for it."""


class IdentityRefusedError(DeniedError):
    """The process has no identity, or has it no longer; the code says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """One identity that the process may use."""

    match: Match
    svid: X509Svid


@dataclass(frozen=True, slots=True)
class Identities:
    """All identities of one process with the bundles that go with them; at least one.

    Args:
        attested: the verdict that they rest on.
        held: ordered as the verdict's matches.
        bundles: the own one and every federated one that any of the identities is to know.
    """

    attested: Attested
    held: tuple[Held, ...]
    bundles: BundleSet


class IdentityFeed:
    """Follows the identities of ``process``; an async context manager and iterator.

    Leaving the context (also by an error inside) raises what ended the feed, unwrapped.

    Args:
        process: stays the caller's.
        wanted: which of the process' matches this API serves.
    """

    def __init__(
        self,
        attestations: Attestations,
        upstream: Upstream,
        process: PinnedProcess,
        wanted: Callable[[Match], bool],
    ) -> None:
        self._attestations = attestations
        self._upstream = upstream
        self._process = process
        self._wanted = wanted
        self._tasks = asyncio.TaskGroup()
        self._attested: Attested | None = None
        self._verdicts: asyncio.Task[None] | None = None
        self._followers: dict[Match, asyncio.Task[None]] = {}
        self._snapshots: dict[Match, IdentitySnapshot] = {}
        self._newest_bundles: BundleSet | None = None
        self._changed = asyncio.Event()
        self._last: Identities | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._verdicts = self._tasks.create_task(self._follow_verdicts())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._verdicts, *self._followers.values()):
            if task is not None:
                task.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Identities:
        """The identities as soon as they are known, then at every change.

        Raises:
            IdentityRefusedError: none of the process' matches has an SVID here.
            UnavailableError: nothing is known in time.
        """
        deadline = FIRST_TIMEOUT_S if self._last is None else None
        try:
            async with asyncio.timeout(deadline):
                while (identities := self._complete()) is None or identities == self._last:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError as error:
            raise UnavailableError("upstream_unavailable", "no identity became known in time") from error
        self._last = identities
        return identities

    async def confirm(self, identities: Identities) -> bool:
        """Whether ``identities`` may be released now; if not, newer ones are on their way.

        Raises:
            IdentityRefusedError: the process is no longer what was attested.
        """
        verdict = await self._attestations.confirm(self._process)
        if isinstance(verdict, Refused):
            raise refusal(verdict)
        return verdict.generation == identities.attested.generation and identities == self._complete()

    def note_sent(self, identities: Identities) -> None:
        """Tell operators what the process has now."""
        for held in identities.held:
            self._attestations.note_svid(self._process.pidfd_inode, held.match.spiffe_id, held.svid.expires_at)

    def _complete(self) -> Identities | None:
        """What is known now, or None while a match waits for its first snapshot."""
        attested, bundles = self._attested, self._newest_bundles
        if attested is None or bundles is None:
            return None
        held = []
        federated: dict[TrustDomain, Bundle] = {}
        for match in self._followers:
            snapshot = self._snapshots.get(match)
            if snapshot is None:
                return None
            svid = next((svid for svid in snapshot.svids if svid.spiffe_id == match.spiffe_id), None)
            if svid is None:
                continue
            held.append(Held(match, svid))
            federated |= {bundle.trust_domain: bundle for bundle in snapshot.bundles.federated}
        if not held:
            raise IdentityRefusedError("svid_none", "attested, but the upstream issues no SVID for it")
        return Identities(attested, tuple(held), BundleSet(bundles.own, tuple(federated.values())))

    async def _follow_verdicts(self) -> None:
        async with self._attestations.watch(self._process.duplicate()) as verdicts:
            async for verdict in verdicts:
                if isinstance(verdict, Refused):
                    raise refusal(verdict)
                self._adopt(verdict)
        raise UnavailableError("attestation_ended", "the attestor stopped watching this process")

    def _adopt(self, attested: Attested) -> None:
        """Follow the upstream for exactly the matches of ``attested`` that are wanted here."""
        matches = [match for match in attested.matches if self._wanted(match)]
        if not matches:
            raise IdentityRefusedError("svid_not_here", "the document gives this component no SVID by this interface")
        for gone in self._followers.keys() - set(matches):
            self._followers.pop(gone).cancel()
            self._snapshots.pop(gone, None)
        self._followers = {
            match: self._followers.get(match) or self._tasks.create_task(self._follow_snapshots(match))
            for match in matches
        }
        self._attested = attested
        self._changed.set()

    async def _follow_snapshots(self, match: Match) -> None:
        async with self._upstream.subscribe(match.selectors) as snapshots:
            async for snapshot in snapshots:
                if not any(svid.spiffe_id == match.spiffe_id for svid in snapshot.svids):
                    self._attestations.note_svid(self._process.pidfd_inode, match.spiffe_id, None)
                self._snapshots[match] = snapshot
                self._newest_bundles = snapshot.bundles
                self._changed.set()


def refusal(verdict: Refused) -> HopsealError:
    """What ``verdict`` is raised as: asking again may help, or it is denied."""
    if verdict.retry:
        return UnavailableError(verdict.code, verdict.message)
    return IdentityRefusedError(verdict.code, verdict.message)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group: a denial before anything else."""
    errors = list(_flatten(group))
    for family in (DeniedError, HopsealError, BaseException):
        for error in errors:
            if isinstance(error, family):
                return error
    raise BugError("empty_group", "a task group failed without an error")


def _flatten(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _flatten(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
