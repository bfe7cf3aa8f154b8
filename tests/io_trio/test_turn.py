"""Who computes next."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ktls_agent.io_trio.turn import Turn


async def take(turn: Turn, deadline: float | None, order: list[float | None]) -> None:
    async with turn.taken(deadline):
        order.append(deadline)
        await trio.sleep(1)


async def test_the_least_time_left_goes_first(autojump_clock: MockClock) -> None:
    turn, order = Turn(), list[float | None]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, turn, 99.0, order)
        await wait_all_tasks_blocked()
        for deadline in (None, 30.0, 10.0, 20.0, 10.0):
            nursery.start_soon(take, turn, deadline, order)
            await wait_all_tasks_blocked()
    assert order == [99.0, 10.0, 10.0, 20.0, 30.0, None]
    assert trio.current_time() >= 6


async def test_one_at_a_time(autojump_clock: MockClock) -> None:
    turn = Turn()
    inside = 0

    async def enter() -> None:
        nonlocal inside
        async with turn.taken(None):
            inside += 1
            assert inside == 1
            await trio.sleep(0.1)
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(enter)
    assert inside == 0


async def test_who_stops_waiting_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    turn, order = Turn(), list[float | None]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, turn, 1.0, order)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5):
            await take(turn, 2.0, order)
        nursery.start_soon(take, turn, 3.0, order)
    assert order == [1.0, 3.0]


async def test_who_is_cancelled_at_its_turn_hands_it_on(autojump_clock: MockClock) -> None:
    turn, order = Turn(), list[float | None]()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def impatient() -> None:
            with scope:
                await take(turn, 2.0, order)

        async with turn.taken(1.0):
            nursery.start_soon(impatient)
            nursery.start_soon(take, turn, 3.0, order)
            await wait_all_tasks_blocked()
        scope.cancel()
    assert order == [3.0]
    assert trio.current_time() < 2


async def test_a_failure_hands_the_turn_on() -> None:
    turn = Turn()

    async def fail() -> None:
        async with turn.taken(None):
            raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            await fail()
    with trio.fail_after(1):
        async with turn.taken(None):
            pass
