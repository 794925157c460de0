"""What an engine reports about its containers, for as long as anyone listens.

Owns: the stream, reconnecting with jitter, saying when events may have been
missed. Does not own: what follows from an event.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from attestor.engine.api import Engine
from attestor.engine.errors import ContainerUnknown, EngineInvalid, EngineUnavailable
from attestor.engine.inspect import is_container_id
from hopseal.backoff import Backoff

RESYNCED: Final = "resynced"
_PATH: Final = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D"
_FIRST_DELAY_S: Final = 0.1
_MAX_DELAY_S: Final = 5.0
_PODMAN_NAMES: Final = {"died": "die", "remove": "destroy", "exec": "exec_start"}


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """Something that happened to a container.

    Attributes:
        container_id: empty for :data:`RESYNCED`, which stands for "any container, anything".
        action: Docker's word without its arguments: ``start``, ``die``, ``exec_start``, ``destroy``, ….
        at_ns: the engine's clock, nanoseconds since the epoch; 0 when it did not say.
    """

    container_id: str
    action: str
    at_ns: int


class ContainerEvents:
    """The events of one engine."""

    def __init__(self, engine: Engine, *, random_source: random.Random | None = None) -> None:
        self._engine = engine
        self._random = random_source or random.Random()  # noqa: S311 - jitter, no secret

    async def follow(self) -> AsyncGenerator[ContainerEvent, None]:
        """Events without end; after every connect first :data:`RESYNCED`, because some may have been missed."""
        backoff = Backoff(self._random, first_s=_FIRST_DELAY_S, longest_s=_MAX_DELAY_S)
        while True:
            try:
                async with self._engine.client.stream_lines(_PATH) as lines:
                    yield ContainerEvent("", RESYNCED, 0)
                    async for line in lines:
                        event = parse_event(line)
                        if event is not None:
                            backoff.reset()  # a stream that only breaks off must not be a busy loop
                            yield event
            except (EngineUnavailable, EngineInvalid, ContainerUnknown):
                # Told by its absence: whoever inspects meanwhile gets the engine's error, and a resync follows.
                await asyncio.sleep(backoff.next_s())


def parse_event(line: bytes) -> ContainerEvent | None:
    """The event in one line; ``None`` for blank lines and for what is not about a container.

    Raises:
        EngineInvalid: the line is not a JSON object.
    """
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EngineInvalid("an event is not JSON") from error
    if not isinstance(value, dict):
        raise EngineInvalid("an event is not an object")
    actor = value.get("Actor")
    container_id = actor.get("ID") if isinstance(actor, dict) else None
    action, at_ns = value.get("Action"), value.get("timeNano")
    if value.get("Type") != "container" or not isinstance(container_id, str) or not isinstance(action, str):
        return None
    if not is_container_id(container_id):
        return None
    name = action.partition(":")[0].strip()
    return ContainerEvent(container_id, _PODMAN_NAMES.get(name, name), at_ns if type(at_ns) is int else 0)
