"""The published log over HTTP: the checkpoint, and the tiles and entries that it covers; nothing else.

Owns: the paths and their headers. Does not own: sockets and connection limits (``broker.serving``).

Security: a path is taken as it came, undecoded, and must be exactly the one text of a tile's path, so no name of a file
is ever made of what a client sent. Tiles beyond the published checkpoint are not there yet.
Source: C2SP tlog-tiles "APIs".
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from broker.audit.publisher import Publisher
from broker.audit.tile_store import CHECKPOINT, TileStore
from hopseal.errors import UnavailableError
from hopseal.log.tiles import TILE_HEIGHT, TILE_WIDTH, Tile, TileError, parse_tile_path

CHECKPOINT_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"}
TILE_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}


class TileHttp:
    """Answers GET for one log.

    Args:
        store: where its files are.
        publisher: says how much of it is published.
    """

    def __init__(self, store: TileStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher

    @property
    def routes(self) -> list[web.RouteDef]:
        """What :func:`broker.serving.serve_routes` serves."""
        return [web.get("/{path:.*}", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.raw_path.removeprefix("/")
        try:
            if path == CHECKPOINT:
                note = await asyncio.to_thread(self._store.read_note, CHECKPOINT)
                if note is None:
                    raise web.HTTPNotFound
                return web.Response(body=note, headers=CHECKPOINT_HEADERS)
            tile = parse_tile_path(path)
            if not is_covered(tile, self._publisher.published.value.size):
                raise web.HTTPNotFound
            response = web.Response(body=await asyncio.to_thread(self._store.read, tile), headers=TILE_HEADERS)
        except TileError as error:
            raise web.HTTPNotFound from error
        except UnavailableError as error:
            raise web.HTTPServiceUnavailable from error
        if tile.level is None:
            response.enable_compression()
        return response


def is_covered(tile: Tile, size: int) -> bool:
    """Whether the tree of ``size`` leaves has everything that is in ``tile``."""
    return tile.index * TILE_WIDTH + tile.width <= size >> TILE_HEIGHT * (tile.level or 0)
