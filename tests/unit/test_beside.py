"""A thread beside the loop: all its calls in order, none after a failure, and nobody runs far ahead of it."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest

from sandbox.beside import CALL_BYTES, ROOM_BYTES, behind
from tests.support.boxes import until

pytestmark = pytest.mark.anyio


async def test_calls_are_made_in_order_and_all_of_them() -> None:
    """The block ends when the last is done, on one thread that is not the loop's."""
    made: list[int] = []
    threads: set[int] = set()

    def call(number: int) -> None:
        threads.add(threading.get_ident())
        made.append(number)

    async with behind() as calls:
        for number in range(2000):
            await calls.do(number, partial(call, number))
    assert made == list(range(2000))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_what_a_call_raises_ends_the_block_that_waits() -> None:
    """It leaves as itself, and no later call is made."""
    made: list[str] = []

    def fail() -> None:
        raise OSError(28, "the disk is full")

    with anyio.fail_after(5), pytest.raises(OSError, match="the disk is full"):  # noqa: PT012 - the block is what is tested
        async with behind() as calls:
            await calls.do(1, fail)
            await calls.do(1, partial(made.append, "late"))
            await anyio.sleep_forever()
    assert made == []


async def test_a_failure_after_the_last_word_is_not_lost() -> None:
    """The block has ended by then, and waits."""
    with pytest.raises(ZeroDivisionError):
        async with behind() as calls:
            await calls.do(1, lambda: 1 // 0)


async def test_who_is_left_does_not_work_on() -> None:
    """An exception in the block leaves as itself; the call under way is the last, and is waited for."""
    under_way, ended = threading.Event(), threading.Event()
    made: list[str] = []

    def slow() -> None:
        under_way.set()
        ended.wait(5)
        made.append("slow")

    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
        async with behind() as calls:
            await calls.do(1, slow)
            await calls.do(1, partial(made.append, "late"))
            await until(under_way.is_set)
            threading.Timer(0.05, ended.set).start()
            raise KeyError("mine")
    assert made == ["slow"]


async def test_cancelled_block_ends_with_the_call_under_way() -> None:
    """No thread outlives the block."""
    made: list[str] = []
    ended = threading.Event()

    def slow() -> None:
        ended.wait(0.2)
        made.append("slow")

    before = threading.active_count()
    with anyio.move_on_after(0.05) as scope:
        async with behind() as calls:
            await calls.do(2 * ROOM_BYTES, slow)
            await calls.do(1, partial(made.append, "late"))
    assert scope.cancelled_caught
    assert made == ["slow"]
    await until(lambda: threading.active_count() <= before + 1)  # anyio keeps its worker for the next


@pytest.mark.parametrize("size", [0, ROOM_BYTES // 8])
async def test_nobody_fills_the_memory_while_the_disk_is_slow(size: int) -> None:
    """Who hands over waits while more than ROOM_BYTES are held; calls take room themselves."""
    go = threading.Semaphore(0)
    held = most = 0
    taken = size + CALL_BYTES
    number = 4 * ROOM_BYTES // taken

    def call() -> None:
        nonlocal held
        go.acquire(timeout=5)
        held -= taken

    async def hand_over() -> None:
        nonlocal held, most
        async with behind() as calls:
            for _ in range(number):
                held += taken
                most = max(most, held)
                await calls.do(size, call)

    async with anyio.create_task_group() as group:
        group.start_soon(hand_over)
        for at in range(number):
            if at % (number // 20) == 0:
                await anyio.sleep(0.01)
            go.release()
    assert held == 0
    assert ROOM_BYTES // 2 < most <= ROOM_BYTES + taken
