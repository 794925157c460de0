"""Streams to one socket of SPIRE Agent, kept open for as long as they are wanted.

Owns: the connection to a socket, re-dialling, and what is known about whether it works.
Does not own: what the answers mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from attestor.upstream.spire.dialing import OpeningGate, make_backoff
from hopseal.errors import HopsealError, UnavailableError
from hopseal.wire.client import call, subscription

CALL_TIMEOUT_S = 5.0

Request = TypeVar("Request")
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class AgentSocket:
    """One socket of SPIRE Agent.

    Args:
        gate: shared by everything that asks the same agent.
    """

    def __init__(self, path: Path, gate: OpeningGate) -> None:
        self.path = path
        self.channel = Channel(path=str(path))
        self._gate = gate

    def drop(self) -> None:
        """End the connection, and so every stream on it; the next request dials anew."""
        self.channel.close()

    async def call(self, method: UnaryUnaryMethod[Request, Answer], request: Request) -> Answer:
        """One answer; raises as :func:`hopseal.wire.client.call`."""
        async with self._gate.opening():
            return await call(method, request, timeout_s=CALL_TIMEOUT_S)

    async def follow(
        self,
        method: UnaryStreamMethod[Request, Answer],
        request: Request,
        on_failure: Callable[[HopsealError], None],
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Answers without end; each failure is reported, waited out and dialled anew."""
        backoff = make_backoff()
        works = True
        while True:
            try:
                async with self._gate.opening() as opened, subscription(method, request, metadata=metadata) as answers:
                    async for answer in answers:
                        opened()
                        backoff.reset()
                        works = True
                        yield answer
            except HopsealError as error:
                on_failure(error)
                # Once for each outage: every stream of the node fails with the agent, again and again.
                _log.log(logging.INFO if works else logging.DEBUG, "%s on %s ended: %s", method.name, self.path, error)
                works = False
            await asyncio.sleep(backoff.next_s())

    async def probe(self, method: UnaryStreamMethod[Request, Answer], request: Request, timeout_s: float) -> None:
        """Returns once the agent gives a first answer.

        Raises:
            HopsealError: it gives none in time, or refuses.
        """
        try:
            async with asyncio.timeout(timeout_s), self._gate.opening(), subscription(method, request) as answers:
                async for _ in answers:
                    return
        except TimeoutError as error:
            raise UnavailableError("upstream_unavailable", "SPIRE Agent does not answer") from error
