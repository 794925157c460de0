"""Doing something only while certain processes are attested.

Owns: turning verdicts on several processes into one scope that ends with an error when one of them
fails. Does not own: verdicts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from attestor.api.identities import Attestations, first_error, refusal
from attestor.peer import PinnedProcess
from attestor.verdict import Attested, Refused
from hopseal.errors import UnavailableError

Check: TypeAlias = Callable[[Attested | Refused], None]
"""Raises if the verdict does not do; a refusal is raised anyway afterwards."""


@asynccontextmanager
async def while_attested(attestations: Attestations, process: PinnedProcess, check: Check) -> AsyncIterator[None]:
    """Enters once ``process`` has a verdict that passes ``check``; cancels its body when one does not.

    ``process`` stays the caller's.

    Raises:
        HopsealError: what ``check`` raised, or the refusal; also out of the running body.
    """
    first = asyncio.Event()

    async def follow() -> None:
        async with attestations.watch(process.duplicate()) as verdicts:
            async for verdict in verdicts:
                check(verdict)
                if isinstance(verdict, Refused):
                    raise refusal(verdict)
                first.set()
        raise UnavailableError("attestation_ended", "the attestor stopped watching this process")

    try:
        async with asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(follow())
            await first.wait()
            yield
            follower.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from None
