"""Stand-ins for the attestor's core, for tests of its APIs and upstreams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from attestor.api.limits import ConnectionLimits
from attestor.latest import Latest
from attestor.peer import PinnedProcess
from attestor.states import State
from attestor.verdict import BROKER_COMPONENT, Attested, Match, Refused, Verdict
from hopseal.documents.model import SvidMode
from hopseal.entries import Entry
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.selectors import Selector

TRUST_DOMAIN = TrustDomain.parse("example.org")
NODE = "n1"
REFUSED = Refused(State.DRIFTED, "config_changed", "the configuration changed and is no longer what was approved")


def spiffe_id(path: str) -> SpiffeId:
    return SpiffeId.parse(TRUST_DOMAIN.id + path)


def selectors(*values: str) -> frozenset[Selector]:
    return frozenset(Selector(value) for value in values)


def entry(path: str, *values: str, hint: str = "", x509_ttl_s: int = 600, jwt_ttl_s: int = 300) -> Entry:
    text = re.sub(r"[^A-Za-z0-9]+", "-", "-".join((path, *values)))
    return Entry(f"hopseal.{text}", spiffe_id(path), selectors(*values), hint, x509_ttl_s, jwt_ttl_s)


def match(
    path: str = "/agents/crm/orchestrator",
    *values: str,
    qualified: str = "crm/orchestrator",
    svid: SvidMode = SvidMode.BOTH,
    hint: str = "",
) -> Match:
    return Match(spiffe_id(path), qualified, selectors(*(values or ("uid:0",))), svid, hint)


def broker_match() -> Match:
    return match("/hopseal/broker/n1", "uid:0", "exe:broker", qualified=BROKER_COMPONENT, svid=SvidMode.WORKLOAD_API)


def attested(*matches: Match, generation: int = 1, instance: str = "cgroup:/test") -> Attested:
    return Attested(matches or (match(),), instance, generation)


@dataclass
class FakeAttestations:
    """One verdict for every process (or one by pidfd inode), set by the test."""

    verdict: Verdict = field(default_factory=attested)
    watched: int = 0
    noted: list[tuple[SpiffeId, int | None]] = field(default_factory=list)
    confirmed: list[int] = field(default_factory=list)
    by_inode: dict[int, Latest[Verdict]] = field(default_factory=dict)
    on_confirm: Verdict | None = None

    def __post_init__(self) -> None:
        self._default: Latest[Verdict] = Latest()
        self._default.publish(self.verdict)

    def set(self, verdict: Verdict, pidfd_inode: int | None = None) -> None:
        if pidfd_inode is None:
            self._default.publish(verdict)
        else:
            self.by_inode.setdefault(pidfd_inode, Latest()).publish(verdict)

    @asynccontextmanager
    async def watch(self, process: PinnedProcess) -> AsyncIterator[AsyncIterator[Verdict]]:
        self.watched += 1
        try:
            with process:
                async with aclosing(self._of(process).follow()) as verdicts:
                    yield verdicts
        finally:
            self.watched -= 1

    async def confirm(self, process: PinnedProcess) -> Verdict:
        self.confirmed.append(process.pid)
        await asyncio.sleep(0)
        current = self.on_confirm or self._of(process).value
        assert current is not None
        return current

    def note_svid(self, pidfd_inode: int, identity: SpiffeId, expires_at: int | None) -> None:
        self.noted.append((identity, expires_at))

    def _of(self, process: PinnedProcess) -> Latest[Verdict]:
        return self.by_inode.get(process.pidfd_inode, self._default)


@dataclass
class EntryList:
    """An entry source that a test edits."""

    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        self._watch: Latest[tuple[Entry, ...]] = Latest()
        self._watch.publish(self.entries)

    def set(self, *entries: Entry) -> None:
        self._watch.publish(entries)

    async def __call__(self) -> AsyncIterator[tuple[Entry, ...]]:
        async for entries in self._watch.follow():
            yield entries


@dataclass
class Clock:
    """NumericDate seconds that a test moves."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


LIMITS = ConnectionLimits()


@asynccontextmanager
async def running(*parts: object) -> AsyncIterator[None]:
    """Enters each part, runs it beside the body, and stops it."""
    tasks: list[asyncio.Task[None]] = []
    async with _entered(list(parts)):
        tasks.extend(asyncio.create_task(part.run()) for part in parts)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            failed = [task for task in tasks if task.done() and not task.cancelled() and task.exception()]
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            assert not failed


@asynccontextmanager
async def _entered(parts: list[object]) -> AsyncIterator[None]:
    if not parts:
        yield
        return
    async with parts[0], _entered(parts[1:]):  # type: ignore[attr-defined]
        yield
