"""How the current task reaches calls in threads, background tasks and other clients: ``python handles.py``."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import aiohttp
import httpx

from hopseal.sdk.aiohttp import broker_connector, join_task
from hopseal.sdk.handle import use_handle
from hopseal.sdk.httpx import BrokerTransport
from hopseal.sdk.tasks import task

URL = "http://model.desk/v1/chat/completions"
QUESTION = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}


def ask() -> int:
    """A call with httpx, as part of the current task."""
    with httpx.Client(transport=BrokerTransport(), timeout=60) as client:
        return client.post(URL, json=QUESTION).status_code


async def ask_with_aiohttp() -> int:
    """The same with aiohttp."""
    async with (
        aiohttp.ClientSession(connector=broker_connector(), middlewares=[join_task]) as session,
        session.post(URL, json=QUESTION) as response,
    ):
        return response.status


def ask_in_a_thread() -> None:
    """A thread begins without a context: give it this one."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(ask,))
    thread.start()
    thread.join()


async def ask_in_the_background() -> None:
    """A task of the event loop takes the context along that it was made in; so does ``to_thread``."""
    background = asyncio.create_task(ask_with_aiohttp())
    await asyncio.to_thread(ask)
    await background


def ask_for_myself() -> int:
    """What serves nobody's request should not look as if it did."""
    with use_handle(None):
        return ask()


if __name__ == "__main__":
    with task("spread"):
        ask()
        ask_in_a_thread()
        asyncio.run(ask_in_the_background())
        ask_for_myself()
