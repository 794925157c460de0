"""Blocking reads: bounded, fair between keys, and nothing that a late one opened is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from attestor.offload import Offload
from waiting import async_wait_until


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What stuck jobs wait for; set at the end, so that every thread returns."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def offload() -> Iterator[Offload]:
    pool = Offload(workers=2, stuck_workers=4, jobs_per_key=2)
    yield pool
    pool.close()


async def test_a_result_and_an_error_come_back(offload: Offload) -> None:
    assert await offload.run("a", lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        await offload.run("a", lambda: 1 // 0, 5)


async def test_a_job_past_its_deadline_is_given_up(offload: Offload, stuck: threading.Event) -> None:
    with pytest.raises(TimeoutError):
        await offload.run("a", stuck.wait, 0.05)


async def test_stuck_jobs_of_one_key_delay_no_other(offload: Offload, stuck: threading.Event) -> None:
    tasks = [asyncio.create_task(offload.run("bad", stuck.wait, 0.1)) for _ in range(50)]
    assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {TimeoutError}
    assert await offload.run("good", lambda: 1, 5) == 1
    with pytest.raises(TimeoutError):
        await offload.run("bad", lambda: 1, 0.05)
    stuck.set()
    assert await offload.run("bad", lambda: 1, 5) == 1


async def test_threads_are_bounded_however_many_keys_get_stuck(offload: Offload, stuck: threading.Event) -> None:
    before = threading.active_count()
    tasks = [asyncio.create_task(offload.run(key, stuck.wait, 0.05)) for key in range(40)]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert threading.active_count() - before <= 6
    stuck.set()
    assert await offload.run("late", lambda: 1, 5) == 1


async def test_what_a_late_job_opened_is_discarded_once(offload: Offload, stuck: threading.Event) -> None:
    discarded: list[int] = []

    def open_late() -> int:
        stuck.wait()
        return 5

    with pytest.raises(TimeoutError):
        await offload.run("a", open_late, 0.05, discard=discarded.append)
    stuck.set()
    await async_wait_until(lambda: discarded == [5])
    assert await offload.run("a", lambda: 6, 5, discard=discarded.append) == 6
    assert discarded == [5]


async def test_an_answer_that_crosses_a_cancellation_is_discarded(offload: Offload) -> None:
    discarded: list[int] = []
    done = threading.Event()

    def finish() -> int:
        done.set()
        return 5

    task = asyncio.create_task(offload.run("a", finish, 5, discard=discarded.append))
    await asyncio.sleep(0)
    done.wait(5)  # the answer is on its way to the loop, which does not run meanwhile
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await async_wait_until(lambda: discarded == [5])


async def test_a_job_that_never_started_is_never_run(offload: Offload, stuck: threading.Event) -> None:
    ran: list[int] = []
    blocked = [asyncio.create_task(offload.run(key, stuck.wait, 30)) for key in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await offload.run("late", lambda: ran.append(1), 0.05)
    stuck.set()
    await asyncio.gather(*blocked)
    assert await offload.run("late", lambda: 1, 5) == 1
    assert ran == []
