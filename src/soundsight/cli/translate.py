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
from collections.abc import Generator, Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class _Job:
    """One sound to translate."""

    source: Path
    stem: Path


@dataclass(frozen=True)
class _Options:
    """The options of one run."""

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


@dataclass(frozen=True)
class _Second:
    """What is shown of one second, or of a whole sound, once its pictures are in place."""

    paths: list[Path]
    states: list[str]
    lines: list[dict[str, Any]]
    row: Row | None


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
    book = SheetBook(
        out, subtitle=f"model {label}   seed {seed}", texts={"seed": str(seed), "model": label}
    )
    counts: Counter[str] = Counter()
    warnings: list[str] = []
    last: Path | None = None
    # Lines of JSON on the same terminal would tear the bar.
    hidden = _is_quick(jobs, options) or (json_lines and sys.stdout.isatty())
    with progress_bar(hidden=hidden) as show:
        for index, job in enumerate(jobs):
            try:
                with closing(_translated(translator, job, options, warnings)) as seconds:
                    for second, done in seconds:
                        if second is None:
                            show("imagining", index + done, len(jobs), job.source.name)
                            continue
                        counts.update(second.states)
                        last = second.paths[-1]
                        for line in second.lines:
                            print(json.dumps(line), flush=True)
                        if second.row is not None:
                            book.add(second.row)
            except SoundsightError as error:
                failures.append(error)
            show("imagining", index + 1, len(jobs), job.source.name)
        pages = book.close()
    if pages:
        _remove_stale_pages(out, pages)
    for warning in warnings:
        warn(warning)
    _summarise(jobs, options, counts, last, pages)
    if failures:
        raise _failed(failures, total=len(jobs))


def _translated(
    translator: Translator, job: _Job, options: _Options, warnings: list[str]
) -> Generator[tuple[_Second | None, float]]:
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
        results: Iterator[Translation] = (
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
            done_s = float(result.seconds[0]) + 1.0
            yield None, min(1.0, done_s / length_s) if options.each_second else 1.0
        warnings += sound.warnings
        spool.seek(0)
        for _ in range(count):
            second = pickle.load(spool)
            for line in second.lines:
                line["warnings"] = sound.warnings
            for path in second.paths:
                with _writing(path):
                    sync(hidden / path.name)
                    (hidden / path.name).replace(path)
            yield second, 1.0
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
    from soundsight.views.sheet import png_bytes

    paths: list[Path] = []
    lines: list[dict[str, Any]] = []
    for i in range(len(result)):
        second, draw = float(result.seconds[i]), int(result.draw[i])
        path = options.path(job, second, draw)
        paths.append(path)
        with _writing(path):
            png = png_bytes(result.shown(i, options.size_px), result.texts(i))
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
        in_a_folder = len(job.stem.parts) > 1
        name = (job.stem.parent / job.source.name).as_posix() if in_a_folder else job.source.name
        row = result.row(name, anyway=options.anyway)
    return _Second(paths, [str(state) for state in result.state], lines, row)


# --- inputs and outputs ------------------------------------------------------------------------


def _find(inputs: Sequence[Path], failures: list[SoundsightError]) -> dict[Path, Path]:
    """Find the sounds: file -> where it lies relative to its input, in order, each once."""
    from soundsight.media.container import missing

    found: dict[Path, Path] = {}
    seen: set[str] = set()
    folders = sum(os.path.isdir(path) for path in inputs)
    for path in inputs:
        if os.path.isdir(path):
            # Several folders keep their own names, so that their sounds do not meet.
            prefix = Path(path.absolute().name) if folders > 1 else Path()
            pairs = [(f, prefix / f.relative_to(path)) for f in _sounds_in(path, failures)]
        else:
            try:
                path.stat()
                pairs = [(path, Path(path.name))]
            except FileNotFoundError:
                failures.append(AudioError(missing(path)))
                continue
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                failures.append(AudioError(f"cannot read {path}: {reason}"))
                continue
        for file, relative in pairs:
            key = os.path.abspath(file)  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links
            if key not in seen:
                seen.add(key)
                found[file] = relative
    return found


def _sounds_in(folder: Path, failures: list[SoundsightError]) -> list[Path]:
    """List the sounds in a folder and below, and say on standard error what else there is."""
    from soundsight.media.audio import SOUND_SUFFIXES

    files = _files_below(folder, failures)
    sounds = [file for file in files if file.suffix.lower() in SOUND_SUFFIXES]
    left = Counter(s for s in (f.suffix.lower() for f in files) if s not in SOUND_SUFFIXES)
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


def _files_below(folder: Path, failures: list[SoundsightError]) -> list[Path]:
    """List the files in a folder and below, sorted; hidden ones are left out.

    Links are followed; a folder that has been searched is not searched again, so that a link to a
    folder above has an end.
    """

    def unreadable(error: OSError) -> None:
        failures.append(AudioError(f"cannot read {error.filename}: {error.strerror}"))

    files: list[Path] = []
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
        files += [Path(at) / leaf for leaf in sorted(leaves) if not leaf.startswith(".")]
    # A pipe in a folder would be waited for.
    return [file for file in files if os.path.isfile(file)]


def _plan(found: dict[Path, Path]) -> list[_Job]:
    """Give each sound a name of its own: ``x``; ``x.wav`` beside ``x.mp3``; or its whole path."""

    def clashing(names: Sequence[Path]) -> set[Path]:
        twice = {name for name, count in Counter(names).items() if count > 1}
        # The contact sheet's own names are taken.
        return twice | {n for n in names if len(n.parts) == 1 and _SHEET.fullmatch(n.name)}

    short = [relative.with_suffix("") for relative in found.values()]
    taken = clashing(short)
    pairs = zip(short, found.values(), strict=True)
    names = [relative if name in taken else name for name, relative in pairs]
    if clashing(names):
        paths = [Path(os.path.abspath(file)) for file in found]  # noqa: PTH100
        root = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(root) for path in paths]
    return [_Job(file, name) for file, name in zip(found, names, strict=True)]


def _refuse_existing(jobs: Sequence[_Job], options: _Options) -> None:
    """Look for outputs that are there already, before any work is done."""
    listings: dict[Path, list[str]] = {}

    def matching(folder: Path, pattern: str) -> Iterable[Path]:
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


# --- words for people ------------------------------------------------------------------------


def _summarise(
    jobs: Sequence[_Job],
    options: _Options,
    counts: Counter[str],
    last: Path | None,
    pages: Sequence[Path],
) -> None:
    total = counts.total()
    if not total:
        return
    if total == 1 and len(jobs) == 1:
        text = f"{jobs[0].source} -> {last} ({next(iter(counts)).replace('_', ' ')})"
    else:
        asked = {"nothing_recognisable": " (shown as asked)"} if options.anyway else {}
        others = ", ".join(
            f"{n} {state.replace('_', ' ')}{asked.get(state, '')}"
            for state, n in counts.items()
            if state != "picture"
        )
        text = f"{total} pictures in {options.out}" + (f" ({others})" if others else "")
    say(text, err=options.json_lines)
    if pages:
        which = f"{pages[0]} .. {pages[-1].name}" if len(pages) > 1 else f"{pages[0]}"
        say(f"contact sheet: {which}", err=options.json_lines)


def _failed(failures: Sequence[SoundsightError], total: int = 0) -> Exception:
    """Name each failure in a line of its own; return what ends the command."""
    for error in failures:
        complain(error)
    if total > 1:
        say(f"{len(failures)} could not be translated", err=True)
    return typer.Exit(SoundsightError.exit_code)


def _is_quick(jobs: Sequence[_Job], options: _Options) -> bool:
    """Return whether there is nothing to wait for."""
    large = any(
        os.path.isfile(job.source) and job.source.stat().st_size > _LARGE_BYTES for job in jobs
    )
    return len(jobs) == 1 and not options.each_second and not large
