"""Work on threads: its order, its end, however that comes, and the seats it takes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Generator

import anyio
import pytest

from soundsight.core.errors import AudioError
from soundsight.server.errors import RefusedError
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


class Place:
    """Jobs of one loop."""

    def __init__(self, limits: Limits) -> None:
        self.metrics = Metrics()
        self.jobs = Jobs(limits, self.metrics)

    def figure(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def working(self) -> float:
        return self.figure("soundsight_jobs")


def played(play: Callable[[Place], Awaitable[None]], **limits: int) -> None:
    """Run a test on a loop of its own; at its end no seat is taken, and the loop has no complaint.

    A task whose fault nobody has seen is a complaint.
    """
    complaints: list[str] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context["message"])
        )
        place = Place(Limits(**limits))  # type: ignore[arg-type]
        await asyncio.wait_for(play(place), PATIENCE_S)
        assert place.working == 0
        # All seats can be taken again.
        gate = threading.Event()
        seats = limits.get("max_jobs", 2)
        again = [asyncio.create_task(place.jobs.run(gate.wait, gate)) for _ in range(seats)]
        while place.working < seats:
            await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(*again)

    asyncio.run(run())
    assert complaints == []


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


# --- iterate ---------------------------------------------------------------------------------


def test_steps_in_order_off_the_loop() -> None:
    steps = Steps(50)

    async def play(place: Place) -> None:
        assert place.working == 0
        got = []
        async for number in place.jobs.iterate(steps.run()):
            assert place.working == 1
            got.append(number)
        assert got == list(range(50))
        assert threading.get_ident() not in steps.threads
        assert (steps.ended, steps.closed_early) == (True, False)

    played(play)


def test_no_step_before_it_is_asked_for() -> None:
    """A client that reads slowly makes the work slow, not the memory full."""
    steps = Steps(10)

    async def play(place: Place) -> None:
        async for number in place.jobs.iterate(steps.run()):
            await asyncio.sleep(0.005)
            assert steps.made == list(range(number + 1))

    played(play)


def test_nothing_is_begun_that_nobody_asks_for() -> None:
    steps = Steps(10)

    async def play(place: Place) -> None:
        await place.jobs.iterate(steps.run()).aclose()
        assert (steps.made, steps.ended) == ([], False)

    played(play)


def test_an_early_stop_closes_the_steps() -> None:
    steps = Steps(10)

    async def play(place: Place) -> None:
        async with contextlib.aclosing(place.jobs.iterate(steps.run())) as numbers:
            async for number in numbers:
                if number == 3:
                    break
        assert (steps.made, steps.closed_early) == ([0, 1, 2, 3], True)

    played(play)


def test_a_fault_of_a_step_comes_through() -> None:
    def breaks() -> Generator[int]:
        yield 1
        raise AudioError("the sound is damaged")

    async def play(place: Place) -> None:
        numbers = place.jobs.iterate(breaks())
        assert await anext(numbers) == 1
        with pytest.raises(AudioError, match="the sound is damaged"):
            await anext(numbers)

    played(play)


@pytest.mark.parametrize("cancels", [1, 3])
def test_cancelled_in_the_middle_of_a_step(cancels: int) -> None:
    """The running step is waited for, then the generator is closed; the seat is kept till then."""
    steps = Steps(10, held_at=2)

    async def play(place: Place) -> None:
        async def read() -> None:
            async for _ in place.jobs.iterate(steps.run()):
                pass

        reader = asyncio.create_task(read())
        await until(steps.inside)
        for _ in range(cancels):
            reader.cancel()
            await asyncio.sleep(0.01)
            assert not reader.done()
            assert place.working == 1
            assert not steps.ended
        steps.held.set()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert (steps.made, steps.closed_early) == ([0, 1, 2], True)

    played(play)


def test_cancelled_as_starlette_does() -> None:
    """Its scope cancels anew in every turn of the loop: the loop must not be kept busy with it."""
    steps = Steps(10, held_at=2)

    async def play(place: Place) -> None:
        async with anyio.create_task_group() as group:
            readers = []

            async def read() -> None:
                readers.append(asyncio.current_task())
                async for _ in place.jobs.iterate(steps.run()):
                    pass

            group.start_soon(read)
            await until(steps.inside)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(100):
                    await asyncio.sleep(0)
            assert readers[0] is not None
            assert 1 <= readers[0].cancelling() < 10
            assert not steps.ended
            steps.held.set()
        assert steps.closed_early

    played(play)


def test_cancelled_while_a_step_fails() -> None:
    inside, held = threading.Event(), threading.Event()

    def breaks() -> Generator[int]:
        inside.set()
        held.wait(PATIENCE_S)
        yield from ()
        raise AudioError("nobody wants to know")

    async def play(place: Place) -> None:
        reader = asyncio.create_task(anext(place.jobs.iterate(breaks())))  # type: ignore[arg-type]
        await until(inside)
        reader.cancel()
        await asyncio.sleep(0.01)
        held.set()
        await asyncio.wait([reader])
        assert reader.cancelled()

    played(play)


def test_cancelled_while_it_waits_for_a_seat() -> None:
    first, second = Steps(3, held_at=1), Steps(3)

    async def play(place: Place) -> None:
        async def read(steps: Steps) -> list[int]:
            return [number async for number in place.jobs.iterate(steps.run())]

        working = asyncio.create_task(read(first))
        await until(first.inside)
        waiting = asyncio.create_task(read(second))
        await asyncio.sleep(0.02)
        assert (second.made, place.working) == ([], 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        first.held.set()
        assert await working == [0, 1, 2]
        assert await read(second) == [0, 1, 2]

    played(play, max_jobs=1)


# --- run -------------------------------------------------------------------------------------


def test_so_many_at_once_and_no_more() -> None:
    gate, most = threading.Event(), []

    async def play(place: Place) -> None:
        def work() -> int:
            gate.wait(PATIENCE_S)
            most.append(place.working)
            return threading.get_ident()

        tasks = [asyncio.create_task(place.jobs.run(work, threading.Event())) for _ in range(7)]
        while place.working < 2:
            await asyncio.sleep(0.001)
        gate.set()
        assert threading.get_ident() not in await asyncio.gather(*tasks)
        assert len(most) == 7
        assert max(most) == 2

    played(play, max_jobs=2)


def test_a_fault_of_work_comes_through() -> None:
    async def play(place: Place) -> None:
        def work() -> None:
            raise AudioError("the sound is damaged")

        with pytest.raises(AudioError, match="the sound is damaged"):
            await place.jobs.run(work, threading.Event())

    played(play)


def test_cancelled_work_is_told_and_waited_for() -> None:
    """What it uses may be let go of only when it has ended."""
    inside, unwanted, ended = threading.Event(), threading.Event(), threading.Event()

    async def play(place: Place) -> None:
        def work() -> None:
            inside.set()
            assert unwanted.wait(PATIENCE_S)
            time.sleep(0.02)
            ended.set()

        task = asyncio.create_task(place.jobs.run(work, unwanted))
        await until(inside)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert ended.is_set()

    played(play)


# --- admit -----------------------------------------------------------------------------------


def test_too_many_are_refused() -> None:
    async def play(place: Place) -> None:
        with contextlib.ExitStack() as present:
            for _ in range(3):
                present.enter_context(place.jobs.admit())
            with pytest.raises(RefusedError, match="busy") as refused, place.jobs.admit():
                pass
            assert (refused.value.status, refused.value.code) == (503, "busy")
            assert place.figure("soundsight_refusals_total", reason="busy") == 1
        # Whoever leaves, leaves a seat; so does one whose request has failed.
        for _ in range(9):
            with pytest.raises(AudioError), place.jobs.admit():
                raise AudioError("no sound")

    played(play, max_jobs=2, max_waiting=1)
