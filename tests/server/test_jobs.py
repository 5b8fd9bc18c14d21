"""Work on threads: its order, its end, however that comes, and the seats it takes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator

import anyio
import pytest

from soundsight.core.errors import AudioError
from soundsight.server.errors import ApiError
from soundsight.server.jobs import Jobs
from soundsight.server.limits import Limits
from soundsight.server.metrics import Metrics

PATIENCE_S = 60


class Steps:
    """A generator that a test can hold in the middle of a step, and that knows how it ended."""

    def __init__(self, count: int, *, held_at: int = -1) -> None:
        self.count = count
        self.held_at = held_at
        self.inside = threading.Event()
        self.held = threading.Event()
        self.made: list[int] = []
        self.closed_early = False
        self.ended = False
        self.threads: set[int] = set()

    def run(self) -> Generator[int]:
        try:
            for number in range(self.count):
                self.threads.add(threading.get_ident())
                if number == self.held_at:
                    self.inside.set()
                    assert self.held.wait(PATIENCE_S)
                self.made.append(number)
                yield number
        except GeneratorExit:
            self.closed_early = True
            raise
        finally:
            self.ended = True


def played(play: Callable[[Jobs], Awaitable[None]], **limits: int) -> None:
    """Run a test on a loop of its own; at its end no seat is taken, and the loop has no complaint.

    A task whose fault nobody has seen is a complaint.
    """
    complaints: list[str] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context["message"])
        )
        jobs = Jobs(Limits(**limits), Metrics())  # type: ignore[arg-type]
        await asyncio.wait_for(play(jobs), PATIENCE_S)
        assert working(jobs) == 0
        # All seats can be taken again.
        gate = threading.Event()
        seats = limits.get("max_jobs", 2)
        again = [asyncio.create_task(jobs.run(gate.wait)) for _ in range(seats)]
        while working(jobs) < seats:
            await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(*again)

    asyncio.run(run())
    assert complaints == []


def working(jobs: Jobs) -> float:
    return jobs._metrics.registry.get_sample_value("soundsight_jobs") or 0.0


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


def test_steps_run_in_order_each_when_it_is_asked_for() -> None:
    """A client that reads slowly makes the work slow, not the memory full."""
    steps = Steps(20)

    async def play(jobs: Jobs) -> None:
        async for number in jobs.iterate(steps.run()):
            assert working(jobs) == 1
            await asyncio.sleep(0.002)
            assert steps.made == list(range(number + 1))
        assert steps.made == list(range(20))
        assert threading.get_ident() not in steps.threads
        assert (steps.ended, steps.closed_early) == (True, False)

    played(play)


def test_steps_that_nobody_asks_for_are_not_run() -> None:
    unasked, left = Steps(10), Steps(10)

    async def play(jobs: Jobs) -> None:
        await jobs.iterate(unasked.run()).aclose()
        assert (unasked.made, unasked.ended) == ([], False)
        async with contextlib.aclosing(jobs.iterate(left.run())) as numbers:
            async for number in numbers:
                if number == 3:
                    break
        assert (left.made, left.closed_early) == ([0, 1, 2, 3], True)

    played(play)


def test_errors_come_through() -> None:
    def breaks() -> Generator[int]:
        yield 1
        raise AudioError("the sound is damaged")

    def work() -> None:
        raise AudioError("the sound is damaged")

    async def play(jobs: Jobs) -> None:
        numbers = jobs.iterate(breaks())
        assert await anext(numbers) == 1
        with pytest.raises(AudioError, match="the sound is damaged"):
            await anext(numbers)
        with pytest.raises(AudioError, match="the sound is damaged"):
            await jobs.run(work)

    played(play)


@pytest.mark.parametrize("fails", [False, True])
def test_a_client_that_goes_away_in_the_middle_of_a_step(fails: bool) -> None:
    """The running step is waited for, then the generator is closed; the seat is kept till then.

    Starlette cancels anew in every turn of the loop: the loop must not be kept busy with it.
    """
    steps = Steps(10, held_at=2)

    def numbers() -> Generator[int]:
        yield from steps.run()
        raise AudioError("nobody wants to know")

    async def play(jobs: Jobs) -> None:
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async for _ in jobs.iterate(numbers()):
                    pass

            group.start_soon(read)
            await until(steps.inside)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(100):
                    await asyncio.sleep(0)
                assert working(jobs) == 1
            assert not steps.ended
            if fails:
                steps.count = 3
            steps.held.set()
        assert (steps.made, steps.closed_early) == ([0, 1, 2], True)

    played(play)


def test_no_more_at_once_than_there_are_seats() -> None:
    gate, most = threading.Event(), []
    waiting = Steps(3)

    async def play(jobs: Jobs) -> None:
        def work() -> int:
            gate.wait(PATIENCE_S)
            most.append(working(jobs))
            return threading.get_ident()

        async def read() -> list[int]:
            return [number async for number in jobs.iterate(waiting.run())]

        tasks = [asyncio.create_task(jobs.run(work)) for _ in range(7)]
        while working(jobs) < 2:
            await asyncio.sleep(0.001)
        cancelled = asyncio.create_task(read())
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert (cancelled.cancelled(), waiting.made) == (True, [])
        gate.set()
        assert threading.get_ident() not in await asyncio.gather(*tasks)
        assert (len(most), max(most)) == (7, 2)
        assert await read() == [0, 1, 2]

    played(play, max_jobs=2)


def test_too_many_are_refused() -> None:
    async def play(jobs: Jobs) -> None:
        with contextlib.ExitStack() as present:
            for _ in range(3):
                present.enter_context(jobs.admit())
            with pytest.raises(ApiError, match="busy") as refused, jobs.admit():
                pass
            assert (refused.value.status, refused.value.code) == (503, "busy")
            counted = jobs._metrics.registry.get_sample_value(
                "soundsight_refusals_total", {"reason": "busy"}
            )
            assert counted == 1
        # A request that ends leaves its seat, also one that has failed.
        for _ in range(9):
            with pytest.raises(AudioError), jobs.admit():
                raise AudioError("no sound")

    played(play, max_jobs=2, max_waiting=1)
