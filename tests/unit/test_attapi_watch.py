from __future__ import annotations

import asyncio

import pytest

from attestor.upstream.watch import Watch
from hopseal.errors import UnavailableError

AWAY = UnavailableError("away", "it is away", detail="d", remedy="r")


async def test_a_follower_gets_the_present_value_at_once():
    watch: Watch[int] = Watch()
    watch.publish(1)
    assert await anext(watch.follow()) == 1
    assert watch.current == 1


async def test_a_slow_follower_gets_the_newest_only():
    watch: Watch[int] = Watch()
    follower = watch.follow()
    watch.publish(1)
    assert await anext(follower) == 1
    for value in range(2, 50):
        watch.publish(value)
    assert await anext(follower) == 49


async def test_an_equal_value_is_no_news():
    watch: Watch[tuple[int, ...]] = Watch()
    follower = watch.follow()
    watch.publish((1,))
    await anext(follower)
    watch.publish((1,))
    waiting = asyncio.ensure_future(anext(follower))
    await asyncio.sleep(0)
    assert not waiting.done()
    watch.publish((2,))
    assert await waiting == (2,)


async def test_a_failure_reaches_present_and_future_followers_until_a_value_comes():
    watch: Watch[int] = Watch()
    waiting = asyncio.ensure_future(anext(watch.follow()))
    await asyncio.sleep(0)
    watch.fail(AWAY)
    for each in (waiting, anext(watch.follow())):
        with pytest.raises(UnavailableError) as caught:
            await each
        assert (caught.value.code, caught.value.detail, caught.value.remedy) == ("away", "d", "r")
    assert watch.current is None
    watch.publish(5)
    assert await anext(watch.follow()) == 5


async def test_a_failure_takes_the_value_away():
    watch: Watch[int] = Watch()
    watch.publish(1)
    follower = watch.follow()
    await anext(follower)
    watch.fail(AWAY)
    with pytest.raises(UnavailableError):
        await anext(follower)
    watch.publish(1)
    assert await anext(watch.follow()) == 1


async def test_many_followers_all_hear():
    watch: Watch[int] = Watch()
    waiting = [asyncio.ensure_future(anext(watch.follow())) for _ in range(100)]
    await asyncio.sleep(0)
    watch.publish(3)
    assert await asyncio.gather(*waiting) == [3] * 100
