"""The progress bar of every command: what is done, how fast, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

LOG_EVERY_S = 30.0
"""Seconds between two lines in the log of a long run that has no terminal."""


class Progress(Protocol):
    """Shows (what is done, how many, of how many or None, a note at the end of the bar)."""

    def __call__(
        self, what: str, done: float, of: float | None = None, note: str = "", /
    ) -> None: ...


@contextmanager
def progress_bar(unit: str = "", *, log: bool = False, hidden: bool = False) -> Iterator[Progress]:
    """Show a bar on standard error where this is a terminal.

    Args:
        unit: what is counted: empty for things, ``bytes``, or ``seconds`` of sound.
        log: without a terminal, write a line every ``LOG_EVERY_S`` instead.
        hidden: show nothing.
    """
    if sys.stderr.isatty() and not hidden:
        yield from _bar(unit)
    else:
        yield _logger() if log and not hidden else lambda *_: None


def _logger() -> Progress:
    begun = logged = time.monotonic()
    shown, first = "", 0.0

    def show(what: str, done: float, of: float | None = None, note: str = "", /) -> None:
        nonlocal begun, logged, shown, first
        now = time.monotonic()
        if what != shown:
            shown, first, begun = what, done, now
        if now - logged < LOG_EVERY_S:
            return
        logged = now
        parts = [f"{what}: {done:.0f}" + (f" of {of:.0f}" if of else ""), note]
        if of and done > first:
            left = (of - done) * (now - begun) / (done - first)
            parts.append(f"{timedelta(seconds=round(left))} left")
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)

    return show


def _bar(unit: str) -> Iterator[Progress]:
    from rich import progress as rich
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Column
    from rich.text import Text

    amounts: dict[str, Callable[[float], str]] = {
        "": lambda n: f"{n:,.0f}",
        "bytes": lambda n: decimal(int(n)),
        "seconds": lambda n: str(timedelta(seconds=int(n))),
    }
    amount = amounts[unit]

    class Amount(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            text = amount(task.completed) + (f" of {amount(task.total)}" if task.total else "")
            if task.speed and unit == "seconds":
                text += f"   {task.speed:.0f} x real time"
            elif task.speed:
                text += f"   {decimal(int(task.speed)) if unit else f'{task.speed:,.1f}'}/s"
            return Text(text, style="dim")

    class Note(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            # File names may hold anything; a terminal is shown only what is text.
            note = task.fields["note"]
            return Text("".join(c if c.isprintable() else "?" for c in note), style="dim")

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), Amount(Column(no_wrap=True)),
        rich.TimeRemainingColumn(), Note(Column(no_wrap=True, overflow="ellipsis")),
    )  # fmt: skip
    # Standard output may be a file that gets lines of JSON: it is then left alone.
    console, redirect = Console(stderr=True), sys.stdout.isatty()
    with rich.Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as bar:
        shown, task = "", bar.add_task("", total=None, note="")

        def show(what: str, done: float, of: float | None = None, note: str = "", /) -> None:
            nonlocal shown
            if what != shown:
                # Another thing begins: its rate is its own.
                shown = what
                bar.reset(task, description=what, completed=int(done), total=of, note=note)
            bar.update(task, completed=done, total=of or None, note=note)

        yield show
