"""What the broker reads on the attestor's admin socket: its metrics, what is wrong there, which documents it follows.

Owns: asking, under a deadline and a size bound. Does not own: the connection for identities.
The attestor accepts no network connection, so the broker exports its metrics and health for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from hopseal.errors import UnavailableError
from hopseal.selectors import Posture
from hopseal.watch import Watch

POLL_S = 2.0
DIFFERENT_S = 5.0  # docs/architecture.md: documents that differ for longer make the node unhealthy
_ANSWER_S = 2.0
_MAX_BYTES = 8_388_608
_MAX_PROBLEMS = 32


class AttestorAdmin:
    """The attestor's admin socket, asked every few seconds.

    Args:
        socket: its path.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._documents: str | None = None
        self._different_since: float | None = None
        self._problem = ""
        self._theirs: tuple[str, ...] = ()
        self.evidence: Watch[Mapping[str, Mapping[str, Any]]] = Watch({})

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Ask once which documents the attestor follows, and what is wrong there."""
        try:
            answer = json.loads(await self._get("/v1/status"))
            digest, theirs = answer["documents"]["sha256"], tuple(map(str, answer["problems"][:_MAX_PROBLEMS]))
            evidence = read_evidence(answer.get("components", []))
        except UnavailableError as error:
            self._documents, self._problem, self._theirs = None, error.detail, ()
        except (ValueError, TypeError, KeyError):
            self._documents, self._problem, self._theirs = None, "its status cannot be read", ()
        else:
            self._documents, self._problem = (digest if isinstance(digest, str) else None), ""
            self._theirs = theirs
            if evidence != self.evidence.value:
                self.evidence.publish(evidence)

    def problems(self, own_sha256: str) -> list[str]:
        """What is wrong at the attestor and between the two; ``own_sha256`` is of the documents the broker follows."""
        if self._problem:
            return [f"the attestor's admin socket does not answer: {self._problem}"]
        return [*(f"attestor: {each}" for each in self._theirs), *self._differences(own_sha256)]

    def _differences(self, own_sha256: str) -> list[str]:
        if self._documents is None or self._documents == own_sha256:
            self._different_since = None
            return []
        now = time.monotonic()
        self._different_since = self._different_since or now
        if now - self._different_since <= DIFFERENT_S:
            return []
        return ["the attestor follows other documents than the broker: compare `documents` of both configurations"]

    async def fetch_metrics(self) -> bytes:
        """The attestor's metrics as Prometheus text.

        Raises:
            UnavailableError: it does not answer (``attestor_admin_unavailable``).
        """
        return await self._get("/metrics")

    async def _get(self, path: str) -> bytes:
        try:
            connector = aiohttp.UnixConnector(path=str(self._socket))
            timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://localhost{path}") as answer,
            ):
                if answer.status != 200:
                    raise _unavailable(f"HTTP {answer.status}")
                return await _read_bounded(answer.content)
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise _unavailable(str(error) or type(error).__name__) from error


def read_evidence(components: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was measured of each attested component: SPIFFE ID to the oldest ``measured_at`` and the least ``posture``.

    Raises:
        ValueError, TypeError, KeyError: the attestor's status has another shape.
    """
    found: dict[str, dict[str, Any]] = {}
    for component in components:
        attested = [each for each in component["instances"] if each["state"] == "attested"]
        if not attested or any(each["measured_at"] is None for each in attested):
            continue
        measured: dict[str, Any] = {"measured_at": int(min(each["measured_at"] for each in attested))}
        levels = [each.get("posture") for each in attested]
        if all(levels):
            measured["posture"] = min((Posture(level) for level in levels), key=lambda level: level.rank).value
        found[component["spiffe_id"]] = measured
    return found


async def _read_bounded(content: aiohttp.StreamReader) -> bytes:
    found = bytearray()
    async for chunk in content.iter_chunked(65_536):
        found += chunk
        if len(found) > _MAX_BYTES:
            raise _unavailable(f"more than {_MAX_BYTES} bytes")
    return bytes(found)


def _unavailable(detail: str) -> UnavailableError:
    return UnavailableError("attestor_admin_unavailable", "the attestor's admin socket does not answer", detail=detail)
