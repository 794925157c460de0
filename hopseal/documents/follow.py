"""Following a folder of Agent documents: the last good set, and what is wrong with the newest.

Owns: polling, keeping the last good set, waking who waits for a change. Does not own: parsing
(``hopseal.documents.parse``). Polling and not inotify, because the folder is often a mounted
volume that is replaced as a whole, and because a change may take a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from hopseal.documents.load import read_folder
from hopseal.documents.model import DocumentSet, DocumentsInvalidError
from hopseal.documents.parse import documents_sha256, parse_documents
from hopseal.errors import UnavailableError
from hopseal.ids import TrustDomain
from hopseal.mistakes import Mistake


@dataclass(frozen=True, slots=True)
class FollowState:
    """What is known of the folder at one moment.

    Args:
        documents: the last good set; None as long as there was none.
        problems: what is wrong with the newest content; empty when ``documents`` is that content.
        loaded_at: seconds since the epoch when ``documents`` was loaded; 0 without.
    """

    documents: DocumentSet | None
    problems: tuple[Mistake, ...]
    loaded_at: int


class DocumentFollower:
    """The documents of a folder, reloaded when they change.

    Args:
        folder: every file in it that ends in .yaml or .yml is one document.
        interval_s: how often the folder is read.
        clock: seconds since the epoch.

    Security: a bad edit never takes effect and never removes what was approved before it.
    """

    def __init__(
        self,
        folder: Path,
        trust_domain: TrustDomain,
        *,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._trust_domain = trust_domain
        self._interval_s = interval_s
        self._clock = clock
        self._state = FollowState(None, (), 0)
        self._seen: str | None = None
        self._is_loaded = False
        self._changed = asyncio.Condition()

    @property
    def current(self) -> FollowState:
        """The newest state; empty before :meth:`load`."""
        return self._state

    async def load(self) -> FollowState:
        """Read the folder now; waiters are woken if anything changed."""
        state = await asyncio.to_thread(self._read)
        async with self._changed:
            if state != self._state or not self._is_loaded:
                self._state, self._is_loaded = state, True
                self._changed.notify_all()
        return self._state

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self.load()
            await asyncio.sleep(self._interval_s)

    async def changes(self) -> AsyncIterator[FollowState]:
        """The state at once (or as soon as the folder was read), then every later one; may skip some."""
        told: FollowState | None = None
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_loaded and self._state is not told)  # noqa: B023 - awaited at once
                told = self._state
            yield told

    def _read(self) -> FollowState:
        before = self._state
        try:
            files = read_folder(self._folder)
        except UnavailableError as error:
            self._seen = None
            return FollowState(
                before.documents, (Mistake(str(self._folder), 1, error.message, error.remedy),), before.loaded_at
            )
        digest = documents_sha256(files)
        if digest == self._seen:
            return before
        self._seen = digest
        try:
            documents = parse_documents(files, self._trust_domain)
        except DocumentsInvalidError as error:
            return FollowState(before.documents, error.problems, before.loaded_at)
        return FollowState(documents, (), int(self._clock()))
