"""Content digests of the image that a container runs.

Owns: turning an engine's failure into :class:`Unreadable`. Does not own: the
request. The image is named by the digest in the running container's own record,
so a tag that moved since the start changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestor.engine.errors import EngineInvalid, EngineUnavailable
from attestor.facts import Unreadable

if TYPE_CHECKING:
    from attestor.engine.api import Engine


async def measure_image(engine: Engine, image_id: str) -> frozenset[str] | Unreadable:
    """Config, manifest and index digests as far as the engine knows them, ``sha256:<hex>`` each."""
    try:
        return await engine.image_digests(image_id)
    except (EngineUnavailable, EngineInvalid) as error:
        return Unreadable(error.code, error.detail, error.remedy)
