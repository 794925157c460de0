"""Running a coroutine in a task of its own.

Owns: keeping a cancellation of that task apart from one of ours. grpclib cancels the task in which a
stream breaks, and a task group swallows a cancellation that meets its own; both would let the end of
the daemon go unnoticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hopseal.errors import UnavailableError


async def run_isolated(work: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``; when we are cancelled it is cancelled and waited for first.

    Raises:
        UnavailableError: it was cancelled by somebody else (``stream_cancelled``).
        Exception: whatever it raises.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
        await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
    if error is not None:
        raise error
    if task.cancelled():
        raise UnavailableError("stream_cancelled", "the stream was cancelled")
