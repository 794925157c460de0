"""Where components of other nodes are reached: a live reloaded file.

Owns: reading it, keeping the last good routes, saying what is wrong with the newest file.
Does not own: choosing an endpoint (the data plane), or components that listen on this node, which win.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from broker.config import Endpoint, parse_endpoint
from broker.names import parse_component
from hopseal.errors import HopsealError
from hopseal.ids import SpiffeId
from hopseal.settings import Section, SettingsInvalidError
from hopseal.settings_file import parse_settings_list
from hopseal.watch import Watch
from hopseal.yaml_nodes import MAX_SETTINGS_BYTES

RELOAD_S = 1.0
_NO_ENDPOINT = Endpoint("invalid", 0)


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes in use.

    Args:
        endpoints: component, or SPIFFE ID of a peer without a document, to endpoints, in the file's order.
        problems: what is wrong with the newest file; empty when the routes are that file's.
    """

    endpoints: tuple[tuple[str, tuple[Endpoint, ...]], ...] = ()
    problems: tuple[str, ...] = ()

    def encode(self) -> str:
        """The JSON text for the data plane."""
        return json.dumps({component: [str(each) for each in found] for component, found in self.endpoints})


def parse_routes(file: str, data: bytes) -> tuple[tuple[str, tuple[Endpoint, ...]], ...]:
    """The routes in a file's bytes.

    Raises:
        SettingsInvalidError: the file has mistakes; all of them are named.
    """
    settings, sections = parse_settings_list(file, data)
    found: dict[str, tuple[Endpoint, ...]] = {}
    for section in sections:
        component = _read_callee(section)
        endpoints = tuple(_read_endpoint(section, text) for text in section.texts("endpoints"))
        if not endpoints:
            section.mistake("endpoints", "must list at least one host:port", "add one, or remove the route")
        if component in found:
            section.mistake("component", f"{component} has two routes", "list all its endpoints in one")
        found[component] = endpoints
    settings.finish()
    return tuple(found.items())


class RouteFollower:
    """The routes of a file, reloaded when it changes; a bad edit keeps the last good ones.

    Args:
        path: the file; None for no routes.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: bytes | None = None
        self.current: Watch[Routes] = Watch(Routes())

    async def run(self) -> None:
        """Follow for ever."""
        while self._path is not None:
            await self.load()
            await asyncio.sleep(RELOAD_S)

    async def load(self) -> None:
        """Read the file now."""
        if self._path is None:
            return
        before = self.current.value
        try:
            data = await asyncio.to_thread(_read, self._path)
        except OSError as error:
            self._seen = None
            self._publish(
                Routes(before.endpoints, (f"{self._path}: {error.strerror} (make it, or leave out `routes`)",))
            )
            return
        if data == self._seen:
            return
        self._seen = data
        try:
            self._publish(Routes(parse_routes(str(self._path), data)))
        except SettingsInvalidError as error:
            self._publish(Routes(before.endpoints, tuple(map(str, error.mistakes))))

    def _publish(self, routes: Routes) -> None:
        if routes != self.current.value or self.current.version == 0:
            self.current.publish(routes)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_SETTINGS_BYTES + 1)


def _read_callee(section: Section) -> str:
    """A component as ``agent/component``, or the SPIFFE ID of a peer that no document describes."""
    if "peer" in section:
        if "component" in section:
            section.mistake("peer", "names another callee beside component", "write one route for each")
        return section.parsed("peer", lambda text: str(SpiffeId.parse(text)), "")
    return section.parsed("component", parse_component, "")


def _read_endpoint(section: Section, text: str) -> Endpoint:
    try:
        endpoint = parse_endpoint(text)
    except HopsealError as error:
        section.mistake("endpoints", error.message, error.remedy)
        return _NO_ENDPOINT
    if endpoint.port == 0:
        section.mistake("endpoints", f"{text!r} has no port", "name the port that the peer's broker listens on")
    return endpoint
