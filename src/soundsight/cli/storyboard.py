"""``soundsight storyboard``: what happened in a sound or video, as a sheet, film, page or data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from soundsight.cli import options
from soundsight.cli.console import say, warn
from soundsight.cli.options import Model, Overwrite, Seed, Sensitivity, Strict, Track, sound_path
from soundsight.core.errors import OutputError
from soundsight.core.files import local_output, usable_folder
from soundsight.core.progress import progress_bar


def storyboard(
    sound: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A sound, or a video with sound, of any length; - is standard input.",
            show_default=False,
        ),
    ],
    out: Annotated[
        list[Path],
        options.option(
            "OUT",
            "Output file; its suffix gives the format: .png (a sheet), .mp4 (a film with the "
            "sound), .html (a page that plays) or .json. May be given several times. "
            "[dim](default: storyboard.png)[/dim]",
            "-o",
            "--out",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    sensitivity: Sensitivity = 0.5,
    seed: Seed = 0,
    track: Track = None,
    strict: Strict = False,
    overwrite: Overwrite = False,
    model: Model = None,
) -> None:
    """Show what happened in a sound: a picture of each event, in time.

    Waveform, log-mel and what was imagined from each event, on one time line.

    An alert, such as a smoke alarm, is named and has a pictogram. A sound of no kind that the model
    knows has neither: nothing recognisable.
    Between events it is quiet.
    """
    from soundsight.media import audio
    from soundsight.media.container import local_file
    from soundsight.runtime.file_events import Progress, find_events
    from soundsight.runtime.translator import Translator
    from soundsight.views.event_files import save
    from soundsight.views.events import FileEvents

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
        show = stack.enter_context(progress_bar("seconds"))
        for found in find_events(translator, first, sensitivity=sensitivity, seed=seed):
            if isinstance(found, Progress):
                show("listening", found.done_s, found.total_s)
        assert isinstance(found, FileEvents), "all events are the last"
        for path in outs:
            with closing(save(found, blocks, path)) as steps:
                for done_s in steps:
                    show(f"writing {path.suffix[1:]}", done_s, found.duration_s)
    for warning in found.warnings:
        warn(warning)
    for path in outs:
        say(f"{sound} -> {path} ({found.words})")


def _check(sound: Path, outs: Sequence[Path], overwrite: bool) -> None:
    """Check the outputs before any work is done."""
    from soundsight.views.event_files import SUFFIXES

    seen: set[str] = set()
    for path in outs:
        local_output(path)
        # Path.absolute keeps "..", and resolve follows links.
        place, own = (os.path.abspath(one) for one in (path, sound))  # noqa: PTH100
        same = place == own
        with suppress(OSError, ValueError):
            same = same or path.samefile(sound)
        says = ""
        if path.suffix.lower() not in SUFFIXES:
            says = f": name an output that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        elif place in seen:
            says = " is named twice"
        elif same:
            says = " is the sound itself: choose another -o OUT"
        elif os.path.isdir(path):
            says = " is a folder: name a file in it"
        elif os.path.lexists(path) and not overwrite:
            says = " is there already: choose another -o OUT or pass --overwrite"
        if says:
            raise OutputError(f"{path}{says}")
        seen.add(place)
