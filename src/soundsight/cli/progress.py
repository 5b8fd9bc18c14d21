"""What ``soundsight prepare`` shows while it works: counts, rates and the time left."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundsight.cli.console import say

if TYPE_CHECKING:
    from soundsight.data.prepare.ingest import Outcome
    from soundsight.data.sources.find import Clips

_REPORT_S = 30.0
"""Seconds between two lines where there is no terminal to draw on."""


class Tally:
    """Counts of a run."""

    def __init__(self, clips: int, skipped: int) -> None:
        self.clips = clips
        self.before = 0
        self.videos = 0
        self.pairs = 0
        self.dropped = 0
        self.failed = skipped
        self.damaged = 0
        self._began = time.monotonic()
        self._fresh_videos = 0
        self._fresh_pairs = 0

    def take_over(self, outcome: Outcome) -> None:
        """Count a clip that an earlier run has done."""
        self.before += 1
        self._count(outcome)

    def add(self, outcome: Outcome) -> None:
        self._fresh_videos += 1
        self._fresh_pairs += outcome.pairs + outcome.dropped
        self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        self.videos += 1
        self.pairs += outcome.pairs
        self.dropped += outcome.dropped
        self.failed += outcome.failure is not None
        self.damaged += outcome.damage is not None

    def rates(self) -> str:
        spent_s = max(1e-3, time.monotonic() - self._began)
        return (
            f"{self._fresh_videos / spent_s:.1f} videos/s, {self._fresh_pairs / spent_s:.0f} "
            f"pairs/s, {self.dropped} dropped, {self.failed} failed"
            + (f", {self.damaged} damaged" if self.damaged else "")
        )

    def left(self) -> str:
        """Time left, in words for a log."""
        if not self._fresh_videos:
            return "unknown"
        spent_s = time.monotonic() - self._began
        left_s = spent_s / self._fresh_videos * (self.clips - self.videos)
        return f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"


@contextmanager
def display(tally: Tally) -> Iterator[Callable[[], None]]:
    """Show a tally as a bar on a terminal, as a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    if tally.before:
        say(f"taken over from before: {tally.before} of {tally.clips} videos", err=True)
    console = Console(stderr=True)
    if not console.is_terminal:
        reported = [time.monotonic()]

        def log() -> None:
            if time.monotonic() - reported[0] >= _REPORT_S:
                reported[0] = time.monotonic()
                say(
                    f"{tally.videos} of {tally.clips} videos, {tally.rates()}, {tally.left()} left",
                    err=True,
                )

        yield log
        return
    columns = (
        TextColumn("videos"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"), Remaining(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=tally.clips, completed=tally.before, rates="")

        def draw() -> None:
            bar.update(task, completed=tally.videos, rates=tally.rates())

        draw()
        yield draw


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Show what is being done after the videos: (what, how many, of how many)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not console.is_terminal:
        reported = [time.monotonic()]

        def log(what: str, done: int, of: int) -> None:
            if time.monotonic() - reported[0] >= _REPORT_S:
                reported[0] = time.monotonic()
                say(f"{what}: {done}" + (f" of {of}" if of else ""), err=True)

        yield log
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)

        yield show


def report_found(found: Clips) -> None:
    """Say what the sources hold."""
    notes = [_counted(len(found.clips), "video")]
    for count, what in (
        (found.missing, "named in a table but not there"),
        (len(found.skipped), "named but unusable"),
        (found.ignored, "other files ignored"),
        (found.repeated, "met again and taken once"),
    ):
        if count:
            notes.append(f"{count} {what}")
    say(f"found: {', '.join(notes)}", err=True)


def summarise(out: Path) -> None:
    """Say what a finished dataset holds, and how it came to that."""
    about = json.loads((out / "dataset.json").read_text("utf-8"))
    counts = about["counts"]
    if "clips" in counts:
        named = out / "failures.csv"
        failed = f", {counts['failed']} failed: see {named}" if counts["failed"] else ""
        say(f"videos: {counts['clips']}{failed}")
        if counts.get("damaged"):
            say(
                f"warning: {_counted(counts['damaged'], 'video')} damaged and used as far as can "
                f"be read: see {out / 'damaged.csv'} (--strict refuses such)",
                err=True,
            )
        say(f"pairs cut: {counts['pairs_cut']}")
        for line in funnel_lines(counts["cleaning"]):
            say(f"  {line}")
    for name, split in about["splits"].items():
        videos, shards = (
            _counted(split["videos"], "video"),
            _counted(len(split["shards"]), "shard"),
        )
        say(f"{name}: {_counted(split['pairs'], 'pair')} of {videos} in {shards}")
    _warn_of_empty(about)
    look = shlex.join(["soundsight", "data", "sheet", str(out), "-o", "sheet.png"])
    say(f"written: {out}   (look at it: {look})")


def funnel_lines(cleaning: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each cleaning step was given and kept, a line a step."""
    return [
        f"{step['step']}: {step['before']} -> {step['after']}"
        + (f" (-{step['dropped']})" if step["dropped"] else "")
        for step in cleaning
    ]


def _warn_of_empty(about: Mapping[str, Any]) -> None:
    shares = about["settings"].get("pack", {}).get("shares")
    if not shares:
        return
    empty = [
        name
        for (name, split), share in zip(about["splits"].items(), shares, strict=True)
        if share and not split["pairs"]
    ]
    if not empty:
        return
    asked = sum(share > 0 for share in shares)
    videos = sum(split["groups"] for split in about["splits"].values())
    why = (
        f"{_counted(videos, 'video')} cannot fill {asked} splits: add videos, or ask for fewer "
        "with --split"
        if videos < asked
        else "the manifest or the layout leaves it no video, or cleaning no pair"
    )
    say(f"warning: no pair in {' and '.join(empty)}: {why}", err=True)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
