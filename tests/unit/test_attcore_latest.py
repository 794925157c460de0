from __future__ import annotations

import asyncio

import pytest

from attestor.latest import Latest
from hopseal.errors import UnavailableError

AWAY = UnavailableError("away", "it is away", detail="d", remedy="r")


async def test_a_follower_gets_the_present_value_at_once():
    latest: Latest[int] = Latest()
    latest.publish(1)
    assert await anext(latest.follow()) == 1
    assert latest.value == 1


async def test_a_slow_follower_gets_the_newest_only():
    latest: Latest[int] = Latest()
    follower = latest.follow()
    latest.publish(1)
    assert await anext(follower) == 1
    for value in range(2, 50):
        latest.publish(value)
    assert await anext(follower) == 49


async def test_an_equal_value_is_no_news():
    latest: Latest[tuple[int, ...]] = Latest()
    follower = latest.follow()
    latest.publish((1,))
    await anext(follower)
    latest.publish((1,))
    waiting = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    assert not waiting.done()
    latest.publish((2,))
    assert await waiting == (2,)


async def test_a_failure_reaches_present_and_future_followers_until_a_value_comes():
    latest: Latest[int] = Latest()
    waiting = asyncio.ensure_future(anext(latest.follow()))
    await asyncio.sleep(0)
    latest.fail(AWAY)
    for each in (waiting, anext(latest.follow())):
        with pytest.raises(UnavailableError) as caught:
            await each
        assert (caught.value.code, caught.value.detail, caught.value.remedy) == ("away", "d", "r")
    assert latest.value is None
    latest.publish(5)
    assert await anext(latest.follow()) == 5


async def test_a_failure_takes_the_value_away():
    latest: Latest[int] = Latest()
    latest.publish(1)
    follower = latest.follow()
    await anext(follower)
    latest.fail(AWAY)
    with pytest.raises(UnavailableError):
        await anext(follower)
    latest.publish(1)
    assert await anext(latest.follow()) == 1


async def test_many_followers_all_hear():
    latest: Latest[int] = Latest()
    waiting = [asyncio.ensure_future(anext(latest.follow())) for _ in range(100)]
    await asyncio.sleep(0)
    latest.publish(3)
    assert await asyncio.gather(*waiting) == [3] * 100
