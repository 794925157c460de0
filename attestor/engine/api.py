"""One container engine: inspect by full id, list, and image digests by content.

Owns: which requests are made. Does not own: matching a process to a container
(``attestor.collectors.container``), or the event stream (``attestor.engine.events``).

Security: only full ids and image digests are ever asked for, never names, tags
or prefixes, so nothing that somebody else may rename can change the answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from attestor.engine.client import MAX_LIST_BYTES, EngineClient
from attestor.engine.errors import ContainerUnknown
from attestor.engine.inspect import is_container_id, parse_container, parse_image, parse_list
from attestor.facts import ContainerFacts, EngineKind

_CONCURRENT_INSPECTS: Final = 8


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """A container in an engine's listing and its first process."""

    id: str
    pid: int


class Engine:
    """A Docker Engine, or a Podman service, behind a Unix socket.

    Args:
        kind: how the engine is called in selectors.
        socket: path of its socket.
        timeout_s: deadline of one request.
    """

    def __init__(self, kind: EngineKind, socket: str, *, timeout_s: float = 1.0) -> None:
        self.kind = kind
        self.client = EngineClient(socket, timeout_s=timeout_s)

    @property
    def socket(self) -> str:
        """Path of the engine's socket."""
        return self.client.socket

    async def aclose(self) -> None:
        """Close every connection to the engine."""
        await self.client.aclose()

    async def inspect(self, container_id: str) -> ContainerFacts:
        """The facts about a running container; its image digests stand as pending.

        Raises:
            ContainerUnknown: it does not run, or this engine never heard of it.
            EngineUnavailable, EngineInvalid: no answer, or one that cannot be trusted.
        """
        if not is_container_id(container_id):
            raise ContainerUnknown(f"not a full container id: {container_id[:80]!r}")
        answer = await self.client.get_json(f"/containers/{container_id}/json")
        return parse_container(answer, container_id, self.kind)

    async def image_digests(self, image_id: str) -> frozenset[str]:
        """Every content digest of an image, asked for by its id.

        Once the image was removed under a running container its id is all that is left, and a digest itself.

        Raises:
            EngineUnavailable, EngineInvalid: no answer, or one that cannot be trusted.
        """
        try:
            return parse_image(await self.client.get_json(f"/images/{image_id}/json"), image_id)
        except ContainerUnknown:
            return frozenset({image_id})

    async def list_running(self) -> tuple[RunningContainer, ...]:
        """Every running container with its first process; one that stops meanwhile is left out.

        Raises:
            EngineUnavailable, EngineInvalid: no answer, or one that cannot be trusted.
        """
        ids = parse_list(await self.client.get_json("/containers/json", limit_bytes=MAX_LIST_BYTES))
        slots = asyncio.Semaphore(_CONCURRENT_INSPECTS)

        async def find(container_id: str) -> RunningContainer | None:
            async with slots:
                try:
                    answer = await self.client.get_json(f"/containers/{container_id}/json")
                    return RunningContainer(container_id, parse_container(answer, container_id, self.kind).pid)
                except ContainerUnknown:
                    return None

        found = await asyncio.gather(*map(find, ids), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return tuple(each for each in found if isinstance(each, RunningContainer))
