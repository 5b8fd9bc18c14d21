"""``soundsight translate``: sounds, videos and folders of them become pictures and a sheet."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.console import complain, say, warn
from soundsight.cli.options import Model, Overwrite, Seed, Strict, Track, option, sound_path
from soundsight.core.errors import AudioError, OutputError, SoundsightError
from soundsight.core.files import sync, usable_folder
from soundsight.core.progress import progress_bar
from soundsight.core.state import known

if TYPE_CHECKING:
    from soundsight.runtime.translator import Translator
    from soundsight.views.sheet import Row
    from soundsight.views.translation import Translation

_SHEET = re.compile(r"sheet(-\d+)?")
_LARGE_BYTES = 20_000_000
_SUFFIXES_SHOWN = 4

_Second = tuple[list[Path], list[str], list[dict[str, Any]], "Row | None"]
"""Of one second, or of a whole sound: its pictures, their states, lines of JSON, and its card."""


@dataclass(frozen=True)
class _Job:
    """One sound to translate; its pictures are named ``stem`` below the output folder."""

    source: Path
    stem: Path


@dataclass(frozen=True)
class _Options:
    out: Path
    each_second: bool
    draws: int
    anyway: bool
    seed: int
    size_px: int
    sheet: bool
    json_lines: bool
    track: int | None
    strict: bool

    def path(self, job: _Job, second: float, draw: int) -> Path:
        """Name the PNG of one picture."""
        at = f"_s{int(second):03d}" if self.each_second else ""
        number = f"_d{draw}" if self.draws > 1 else ""
        return self.out / job.stem.parent / f"{job.stem.name}{at}{number}.png"


def translate(
    sounds: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR...",
            help="Sounds, videos with sound, or folders of them (searched to the bottom); "
            "- is standard input.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, option("DIR", "Where the pictures go.", "-o", "--out")] = Path("imagined"),
    each_second: Annotated[
        bool, option("", "Imagine every second, not the sound as a whole.", "--each-second")
    ] = False,
    draws: Annotated[int, option("N", "Pictures of each sound, or second.", min=1, max=1000)] = 1,
    anyway: Annotated[bool, option("", "Draw sounds of no known kind, too.", "--anyway")] = False,
    seed: Seed = 0,
    size: Annotated[int, option("PX", "Side of the pictures, in pixels.", min=16, max=4096)] = 96,
    sheet: Annotated[
        bool,
        option("", "Also draw a contact sheet of everything: sheet.png.", "--sheet/--no-sheet"),
    ] = False,
    json_lines: Annotated[
        bool, option("", "Write a line of JSON for each picture to standard output.", "--json")
    ] = False,
    track: Track = None,
    strict: Strict = False,
    overwrite: Overwrite = False,
    model: Model = None,
) -> None:
    """Draw what the sounds look like: a PNG for every sound.

    Any usual format will do (wav, flac, ogg, mp3, m4a, mp4, ...) and any length.
    The same sound with the same seed gives the same picture.

    A quiet second, and a sound of no kind that the model knows, become a calm grey picture, and an
    alert (a smoke alarm, a knock) a pictogram with its name; [b]--sheet[/b] and [b]--json[/b] say
    which. Of a sound that is damaged or cut short, what can
    be read is used, with a line of warning.
    """
    options = _Options(
        out, each_second, draws, anyway, seed, size, sheet, json_lines, track, strict
    )
    failures: list[SoundsightError] = []
    jobs = _plan(_find([sound_path(path) for path in sounds], failures))
    if not jobs:
        raise _failed(failures)
    if not overwrite:
        _refuse_existing(jobs, options)
    from soundsight.runtime.translator import Translator
    from soundsight.views.sheet import SheetBook

    translator = Translator.load(model)
    usable_folder(out)
    label = translator.info.label
    book = SheetBook(out, f"model {label}   seed {seed}", {"seed": str(seed), "model": label})
    counts: Counter[str] = Counter()
    warnings: list[str] = []
    last = out
    # Nothing is shown where there is nothing to wait for; and lines of JSON on the same terminal
    # would tear the bar.
    sizes = [job.source.stat().st_size for job in jobs if os.path.isfile(job.source)]
    quick = len(jobs) == 1 and not each_second and max(sizes, default=0) <= _LARGE_BYTES
    with progress_bar(hidden=quick or (json_lines and sys.stdout.isatty())) as show:
        for index, job in enumerate(jobs):

            def done(share: float, index: int = index, name: str = job.source.name) -> None:
                show("imagining", index + share, len(jobs), name)

            try:
                with closing(_translated(translator, job, options, warnings, done)) as seconds:
                    for paths, states, lines, row in seconds:
                        counts.update(states)
                        last = paths[-1]
                        for line in lines:
                            print(json.dumps(line), flush=True)
                        if row is not None:
                            book.add(row)
            except SoundsightError as error:
                failures.append(error)
            done(1.0)
        pages = book.close()
    if pages:
        _remove_stale_pages(out, pages)
    for warning in warnings:
        warn(warning)
    total = counts.total()
    if total == 1 and len(jobs) == 1:
        words = f"{jobs[0].source} -> {last} ({next(iter(counts)).replace('_', ' ')})"
        say(words, err=json_lines)
    elif total:
        shown = {"nothing_recognisable": " (shown as asked)"} if anyway else {}
        others = [
            f"{count} {state.replace('_', ' ')}{shown.get(state, '')}"
            for state, count in counts.items()
            if state != "picture"
        ]
        besides = f" ({', '.join(others)})" if others else ""
        say(f"{total} pictures in {out}{besides}", err=json_lines)
    if pages:
        more = f" .. {pages[-1].name}" if len(pages) > 1 else ""
        say(f"contact sheet: {pages[0]}{more}", err=json_lines)
    if failures:
        raise _failed(failures, total=len(jobs))


def _translated(
    translator: Translator,
    job: _Job,
    options: _Options,
    warnings: list[str],
    done: Callable[[float], None],
) -> Generator[_Second]:
    """Draw one sound; its pictures appear together when the last one is drawn, or not at all.

    They wait in a hidden folder beside their destination, with what is to be shown of them, so that
    a long sound takes no more memory than a short one. Each is on the disk before it gets its name.
    """
    from soundsight.media import audio

    folder = options.out / job.stem.parent
    how: dict[str, Any] = {"draws": options.draws, "seed": options.seed, "anyway": options.anyway}
    rate_hz = translator.info.mel.rate_hz
    with ExitStack() as stack:
        sound = stack.enter_context(
            audio.stream(job.source, rate_hz, track=options.track, strict=options.strict)
        )
        length_s = sound.duration_s or math.inf
        results = (
            translator.iter_translate(sound, **how)
            if options.each_second
            else iter([translator.translate(sound, **how)])
        )
        # What cannot be read at all leaves no folder behind.
        results = chain([next(results)], results)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # A folder that somebody else looks into or removes is no reason to fail at the end.
            made = tempfile.TemporaryDirectory(
                dir=folder, prefix=".soundsight-", ignore_cleanup_errors=True
            )
            hidden = Path(stack.enter_context(made))
            spool = stack.enter_context((hidden / "seconds").open("w+b"))
        count = 0
        for result in results:
            count += 1
            second = _draw(result, job, options, hidden)
            with _writing(folder):
                pickle.dump(second, spool)
            done(min(1.0, (float(result.seconds[0]) + 1.0) / length_s))
        warnings += sound.warnings
        spool.seek(0)
        for _ in range(count):
            second = pickle.load(spool)
            for line in second[2]:
                line["warnings"] = sound.warnings
            for path in second[0]:
                with _writing(path):
                    sync(hidden / path.name)
                    (hidden / path.name).replace(path)
            yield second
        # Once for all of them: a folder's sync takes as long as a file's.
        with _writing(folder):
            sync(folder)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _draw(result: Translation, job: _Job, options: _Options, hidden: Path) -> _Second:
    """Write the pictures of one second into the hidden folder."""
    from soundsight.views.drawing import picture, png_bytes

    paths: list[Path] = []
    lines: list[dict[str, Any]] = []
    for i in range(len(result)):
        second, draw = float(result.seconds[i]), int(result.draw[i])
        path = options.path(job, second, draw)
        paths.append(path)
        with _writing(path):
            png = png_bytes(picture(result.shown(i, options.size_px)), result.texts(i))
            (hidden / path.name).write_bytes(png)
        if options.json_lines:
            lines.append(
                {
                    "file": str(job.source),
                    "png": str(path),
                    "second": round(second, 2),
                    "state": str(result.state[i]),
                    "name": result.name[i],
                    "second_guess": result.second_guess[i],
                    "confidence": known(result.confidence[i]),
                    "ood_score": known(result.ood_score[i]),
                    "seed": options.seed,
                    "draw": draw,
                }
            )
    row: Row | None = None
    if options.sheet:
        name = (job.stem.parent / job.source.name).as_posix()
        row = result.row(name, anyway=options.anyway)
    return paths, [str(state) for state in result.state], lines, row


def _failed(failures: Sequence[SoundsightError], total: int = 0) -> Exception:
    """Name each failure in a line of its own; return what ends the command."""
    for error in failures:
        complain(error)
    if total > 1:
        say(f"{len(failures)} could not be translated", err=True)
    return typer.Exit(SoundsightError.exit_code)


# --- inputs and outputs ------------------------------------------------------------------------


def _find(inputs: Sequence[Path], failures: list[SoundsightError]) -> dict[Path, Path]:
    """Find the sounds: file -> where it lies relative to its input, in order, each once."""
    from soundsight.media.container import missing

    found: dict[str, tuple[Path, Path]] = {}
    folders = sum(os.path.isdir(path) for path in inputs)
    for path in inputs:
        pairs = [(path, Path(path.name))]
        try:
            if os.path.isdir(path):
                # Several folders keep their own names, so that their sounds do not meet.
                prefix = Path(path.absolute().name) if folders > 1 else Path()
                pairs = [(f, prefix / f.relative_to(path)) for f in _sounds_in(path, failures)]
            else:
                path.stat()
        except FileNotFoundError:
            failures.append(AudioError(missing(path)))
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            failures.append(AudioError(f"cannot read {path}: {reason}"))
            continue
        for file, relative in pairs:
            # Path.absolute keeps "..", resolve follows links.
            found.setdefault(os.path.abspath(file), (file, relative))  # noqa: PTH100
    return dict(found.values())


def _sounds_in(folder: Path, failures: list[SoundsightError]) -> list[Path]:
    """List the sounds in a folder and below, sorted, and say on standard error what else there is.

    Links are followed; a folder that has been searched is not searched again, so that a link to a
    folder above has an end. What is hidden is left out.
    """
    from soundsight.media.audio import SOUND_SUFFIXES

    def unreadable(error: OSError) -> None:
        failures.append(AudioError(f"cannot read {error.filename}: {error.strerror}"))

    sounds: list[Path] = []
    left: Counter[str] = Counter()
    searched: set[tuple[int, int]] = set()
    for at, names, leaves in os.walk(folder, onerror=unreadable, followlinks=True):
        try:
            status = Path(at).stat()
        except OSError as error:
            unreadable(error)
            continue
        if (status.st_dev, status.st_ino) in searched:
            names.clear()
            continue
        searched.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        for leaf in sorted(leaves):
            file = Path(at) / leaf
            # A pipe in a folder would be waited for.
            if leaf.startswith(".") or not os.path.isfile(file):
                continue
            if file.suffix.lower() in SOUND_SUFFIXES:
                sounds.append(file)
            else:
                left[file.suffix.lower()] += 1
    shown = left.most_common(_SUFFIXES_SHOWN)
    words = [f"{count} {suffix or 'without a suffix'}" for suffix, count in shown]
    if others := left.total() - sum(count for _, count in shown):
        words.append(f"{others} others")
    if not sounds:
        there = f": it holds {', '.join(words)}" if left else ""
        failures.append(AudioError(f"there is no sound in the folder {folder}{there}"))
    elif left:
        say(f"left out in {folder}: {', '.join(words)}", err=True)
    return sounds


def _plan(found: dict[Path, Path]) -> list[_Job]:
    """Give each sound a name of its own: ``x``; ``x.wav`` beside ``x.mp3``; or its whole path."""

    def clashing(names: Sequence[Path]) -> set[Path]:
        twice = {name for name, count in Counter(names).items() if count > 1}
        # The contact sheet's own names are taken.
        return twice | {n for n in names if len(n.parts) == 1 and _SHEET.fullmatch(n.name)}

    whole = list(found.values())
    short = [name.with_suffix("") for name in whole]
    taken = clashing(short)
    names = [w if s in taken else s for s, w in zip(short, whole, strict=True)]
    if clashing(names):
        paths = [Path(os.path.abspath(file)) for file in found]  # noqa: PTH100
        root = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(root) for path in paths]
    return [_Job(file, name) for file, name in zip(found, names, strict=True)]


def _refuse_existing(jobs: Sequence[_Job], options: _Options) -> None:
    """Look for outputs that are there already, before any work is done."""
    listings: dict[Path, list[str]] = {}

    def matching(folder: Path, pattern: str) -> list[Path]:
        if folder not in listings:
            listings[folder] = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return [folder / name for name in listings[folder] if re.fullmatch(pattern, name)]

    there: list[Path] = []
    for job in jobs:
        if options.each_second:
            # How many seconds there will be is not known yet.
            pattern = re.escape(job.stem.name) + r"_s\d{3,}(_d\d+)?\.png"
            there += matching(options.out / job.stem.parent, pattern)
        else:
            paths = [options.path(job, 0.0, draw) for draw in range(options.draws)]
            there += [path for path in paths if os.path.lexists(path)]
    if options.sheet:
        there += matching(options.out, _SHEET.pattern + r"\.png")
    if there:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise OutputError(
            f"{there[0]}{more} there already: choose another -o DIR or pass --overwrite"
        )


def _remove_stale_pages(out: Path, pages: Sequence[Path]) -> None:
    """Remove the pages that an earlier, longer sheet has left: they would pass for new ones."""
    from PIL import Image

    for path in out.glob("sheet*.png"):
        if path in pages or not _SHEET.fullmatch(path.stem):
            continue
        try:
            with Image.open(path) as image:
                ours = "soundsight" in image.info
        except OSError:
            ours = False
        if ours:
            path.unlink(missing_ok=True)
