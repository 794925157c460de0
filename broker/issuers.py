"""Keys of the issuers of user tokens: read from files or fetched, kept fresh, never older than allowed.

Owns: when keys are loaded and how long they are used. Does not own: which keys of a set can be used
(``hopseal.custody.jwks``) or verifying tokens, which the data plane does.

A file is looked at every second. A URL is fetched at start, then about every ``refresh_s``, and once more before
that if a token names a key that is not known, at most every :data:`EARLY_S`. What cannot be loaded leaves the last
good keys in force, for a URL until ``max_age_s`` after they were fetched: then the issuer has no keys and its tokens
are refused.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from broker.user_config import IssuerConfig
from hopseal.backoff import Backoff
from hopseal.custody.encoding import parse_token_object
from hopseal.custody.errors import CustodyError
from hopseal.custody.jwks import KeySetError, parse_key_set
from hopseal.errors import HopsealError, InvalidError, UnavailableError
from hopseal.watch import Watch

MAX_KEY_SET_BYTES = 262_144
FETCH_S = 10.0
RELOAD_S = 1.0
EARLY_S = 10.0
_RETRY_FIRST_S, _RETRY_LONGEST_S = 1.0, 60.0
_JITTER = 0.1
_HEADERS = {"Accept": "application/jwk-set+json, application/json"}


@dataclass(frozen=True, slots=True)
class IssuerState:
    """One issuer and the keys in force.

    Args:
        config: where they come from.
        key_set: as published; None while none are known.
        key_count: how many of them can be used.
        loaded_at: when they were loaded last, seconds since 1970; 0 if never.
        problem: why they could not be loaded since; empty if they could.
    """

    config: IssuerConfig
    key_set: dict[str, object] | None = None
    key_count: int = 0
    loaded_at: float = 0.0
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        """What status shows."""
        return {
            "issuer": self.config.name,
            "type": self.config.typ.value,
            "source": str(self.config.source),
            "keys": self.key_count,
            "loaded_at": self.loaded_at,
            "problem": self.problem,
        }


class IssuerKeys:
    """The keys of all configured issuers.

    Args:
        configs: the issuers.
        source: where jitter comes from.
        early_s: least seconds between two fetches that tokens with an unknown key can cause.
    """

    def __init__(self, configs: Sequence[IssuerConfig], source: random.Random, *, early_s: float = EARLY_S) -> None:
        self._followers = [_Follower(self, config, source, early_s) for config in configs]
        self.current: Watch[tuple[IssuerState, ...]] = Watch(tuple(each.state for each in self._followers))

    async def run(self) -> None:
        """Follow every issuer, for ever."""
        self.publish()
        async with asyncio.TaskGroup() as group:
            for follower in self._followers:
                group.create_task(follower.run())

    def look_for_newer(self, issuer: str, typ: str) -> None:
        """A token named a key that is not known: fetch early, once for however many ask meanwhile."""
        for follower in self._followers:
            if (follower.state.config.name, follower.state.config.typ) == (issuer, typ):
                follower.asked.set()

    def problems(self) -> list[str]:
        """One sentence for each issuer whose keys are not what they should be."""
        found = []
        for state in self.current.value:
            if state.problem:
                rest = "" if state.key_set else "; it has no keys, and its tokens are refused"
                found.append(f"keys of {state.config.name}: {state.problem}{rest}")
        return found

    def publish(self) -> None:
        """Show the state of every follower."""
        self.current.publish(tuple(each.state for each in self._followers))


class _Follower:
    """One issuer's keys."""

    def __init__(self, keys: IssuerKeys, config: IssuerConfig, source: random.Random, early_s: float) -> None:
        self._keys = keys
        self._source = source
        self._early_s = early_s
        self._backoff = Backoff(source, first_s=_RETRY_FIRST_S, longest_s=_RETRY_LONGEST_S)
        self._tried_at = 0.0
        self._loaded_at = 0.0  # monotonic
        self.asked = asyncio.Event()
        self.state = IssuerState(config, problem="they are not loaded yet")

    async def run(self) -> None:
        config = self.state.config
        while True:
            if isinstance(config.source, Path):
                await self._load_file(config.source)
                await asyncio.sleep(RELOAD_S)
            else:
                await self._wait(await self._load_url(config.source))

    async def _load_file(self, path: Path) -> None:
        try:
            key_set, count = parse_published(await asyncio.to_thread(_read, path))
        except HopsealError as error:
            self._show(replace(self.state, problem=_describe(error)))
            return
        if key_set != self.state.key_set or self.state.problem:
            self._show(IssuerState(self.state.config, key_set, count, time.time()))

    async def _load_url(self, url: str) -> float:
        """Fetch once; the pause until the next time, in seconds."""
        config = self.state.config
        self._tried_at = time.monotonic()
        try:
            key_set, count = parse_published(await fetch_key_set(url, config.ca_file))
        except HopsealError as error:
            self._note_failure(_describe(error))
            return self._backoff.next_s()
        self._backoff.reset()
        self._loaded_at = time.monotonic()
        # Shown even if nothing changed: the data plane asks once for each set that it is given.
        self._show(IssuerState(config, key_set, count, time.time()))
        return config.refresh_s * self._source.uniform(1 - _JITTER, 1 + _JITTER)

    def _note_failure(self, problem: str) -> None:
        if self.state.key_set and time.monotonic() - self._loaded_at >= self.state.config.max_age_s:
            self._show(IssuerState(self.state.config, loaded_at=self.state.loaded_at, problem=problem))
        else:
            self._show(replace(self.state, problem=problem))

    async def _wait(self, pause_s: float) -> None:
        """Until the pause is over, the last good keys are too old, or a token asks and enough time has passed."""
        until = time.monotonic() + pause_s
        if self.state.key_set and self.state.problem:
            until = min(until, self._loaded_at + self.state.config.max_age_s)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self.asked.wait()
                await asyncio.sleep(max(0.0, self._tried_at + self._early_s - time.monotonic()))
        except TimeoutError:
            pass
        self.asked.clear()

    def _show(self, state: IssuerState) -> None:
        if state != self.state:
            self.state = state
            self._keys.publish()


def encode_issuers(states: Sequence[IssuerState]) -> str:
    """The JSON text for the data plane."""
    return json.dumps(
        [
            {
                "issuer": state.config.name,
                "type": state.config.typ.value,
                "audience": list(state.config.audiences),
                "jwks": state.key_set,
                "clients": {name: str(workload) for name, workload in state.config.clients.items()},
            }
            for state in states
        ]
    )


def parse_published(data: bytes) -> tuple[dict[str, object], int]:
    """A key set as an issuer published it, and how many of its keys can be used.

    Raises:
        InvalidError: nothing can be verified with it (``jwks_invalid``).
    """
    try:
        key_set = parse_token_object(data)
    except CustodyError as error:
        raise KeySetError("it is no JSON object") from error
    return key_set, len(parse_key_set(key_set))


async def fetch_key_set(url: str, ca_file: Path | None, *, timeout_s: float = FETCH_S) -> bytes:
    """What ``url`` answers, without following it elsewhere.

    Raises:
        UnavailableError: it gave no answer, or another than 200 (``jwks_unavailable``).
        InvalidError: the answer is too large (``jwks_invalid``), or ``ca_file`` is no file of certificates.
    """
    try:
        context = await asyncio.to_thread(ssl.create_default_context, cafile=ca_file) if ca_file else None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=_HEADERS) as session,
            session.get(url, allow_redirects=False, ssl=context or True) as response,
        ):
            if response.status != 200:
                raise _unavailable(f"it answers {response.status}")
            data = await _read_up_to(response.content, MAX_KEY_SET_BYTES + 1)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _unavailable(str(error) or type(error).__name__) from error
    if len(data) > MAX_KEY_SET_BYTES:
        raise KeySetError(f"it is larger than {MAX_KEY_SET_BYTES} bytes")
    return data


async def _read_up_to(stream: aiohttp.StreamReader, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := await stream.read(size - len(data))):
        data += chunk
    return data


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_SET_BYTES + 1)
    except OSError as error:
        raise _unavailable(f"{path}: {error.strerror}") from error
    if len(data) > MAX_KEY_SET_BYTES:
        raise InvalidError("jwks_invalid", f"{path} is larger than {MAX_KEY_SET_BYTES} bytes")
    return data


def _describe(error: HopsealError) -> str:
    return " ".join(filter(None, (error.message, error.detail)))


def _unavailable(detail: str) -> UnavailableError:
    return UnavailableError("jwks_unavailable", "the key set cannot be loaded", detail=detail)
