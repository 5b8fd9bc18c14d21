"""``soundsight storyboard``: what happened in a sound or video, as a sheet, film, page or data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundsight.cli.console import say, warn
from soundsight.cli.options import Model, Seed, Strict, Track, sound_path
from soundsight.core.errors import OutputError
from soundsight.core.files import local_output, usable_folder

if TYPE_CHECKING:
    from rich.progress import TaskID

    from soundsight.media.audio import SoundStream
    from soundsight.runtime.translator import Translator
    from soundsight.views.events import Story

Advance = Callable[[str, float, float | None], None]
"""(what is done, seconds that are done, seconds in all where they are known)"""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(storyboard)


def storyboard(
    sound: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A sound, or a video with sound; also of hours; - is standard input.",
            show_default=False,
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            show_default=False,
            help="Where it goes; the suffix says as what: .png (a sheet), .mp4 (a film with the "
            "sound), .html (a page that plays) or .json. May be given several times. "
            "[dim](default: storyboard.png)[/dim]",
        ),
    ] = [],  # noqa: B006 - typer copies it
    sensitivity: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="X", help="0 tells only what is loud and sure, 1 tells more."
        ),
    ] = 0.5,
    seed: Seed = 0,
    track: Track = None,
    strict: Strict = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there already.")
    ] = False,
    model: Model = None,
) -> None:
    """Tell what happened in a sound: a picture of each event, in time.

    Waveform, log-mel and what was imagined from each event, on one time line.

    An alert, such as a smoke alarm, is named and has a pictogram. A sound of no kind that the model
    knows has neither: nothing recognisable.
    Between events it is quiet.
    """
    from soundsight.media import audio
    from soundsight.media.inputs import local_file
    from soundsight.runtime.translator import Translator
    from soundsight.views.event_files import save

    outs = out or [Path("storyboard.png")]
    _check(sound, outs, overwrite)
    sound = sound_path(sound)
    with ExitStack() as stack:
        # A pipe can be read once; a film needs its sound a second time.
        file = stack.enter_context(local_file(sound))

        def blocks() -> audio.SoundStream:
            return audio.stream(file, track=track, strict=strict, name=str(sound))

        first = stack.enter_context(blocks())
        translator = Translator.load(model)
        for path in outs:
            usable_folder(path.parent)
        advance = stack.enter_context(_progress())
        story = _told(translator, first, sensitivity, seed, advance)
        for path in outs:
            with closing(save(story, blocks, path)) as steps:
                for done_s in steps:
                    advance(f"writing {path.suffix[1:]}", done_s, story.duration_s)
    for told in story.warnings:
        warn(told)
    for path in outs:
        say(f"{sound} -> {path} ({story.words})")


def _told(
    translator: Translator,
    sound: SoundStream,
    sensitivity: float,
    seed: int,
    advance: Advance,
) -> Story:
    from soundsight.runtime.file_events import Progress, tell
    from soundsight.views.events import Story

    telling = tell(translator, sound, sensitivity=sensitivity, seed=seed)
    for told in telling:
        if isinstance(told, Progress):
            advance("listening", told.done_s, told.total_s)
        elif isinstance(told, Story):
            return told
    raise AssertionError("a telling ends with a story")


def _check(sound: Path, outs: Sequence[Path], overwrite: bool) -> None:
    """Look at the outputs before any work is done.

    Raises:
        OutputError: naming the first one that will not do.
    """
    from soundsight.views.event_files import SUFFIXES

    seen: set[str] = set()
    for path in outs:
        local_output(path)
        if path.suffix.lower() not in SUFFIXES:
            raise OutputError(
                f"{path}: name an output that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
            )
        # Path.absolute keeps "..", and resolve follows links.
        place = os.path.abspath(path)  # noqa: PTH100
        if place in seen:
            raise OutputError(f"{path} is named twice")
        seen.add(place)
        if place == os.path.abspath(sound) or _same(path, sound):  # noqa: PTH100
            raise OutputError(f"{path} is the sound itself: choose another -o OUT")
        if os.path.isdir(path):
            raise OutputError(f"{path} is a folder: name a file in it")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} is there already: choose another -o OUT or pass --overwrite")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


@contextmanager
def _progress() -> Iterator[Advance]:
    """Show a bar on a terminal while there is something to wait for."""
    if not sys.stderr.isatty():
        yield lambda _what, _done_s, _total_s: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from soundsight.views.timeline import clock

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            done = clock(task.completed, tenths=False)
            of = "" if task.total is None else f" of {clock(task.total, tenths=False)}"
            speed = f"   {task.speed:.0f} x real time" if task.speed else ""
            return Text(f"{done}{of}{speed}", style="dim")

    columns = (TextColumn("{task.description}"), BarColumn(), Rate(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done_s: float, total_s: float | None) -> None:
            if what not in tasks:
                for old in tasks.values():
                    progress.update(old, visible=False)
                tasks[what] = progress.add_task(what, total=total_s)
            progress.update(tasks[what], completed=done_s, total=total_s)

        yield advance
