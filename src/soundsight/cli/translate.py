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
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.console import complain, say, warn
from soundsight.cli.options import Model, Seed, Strict, Track, sound_path
from soundsight.core.errors import AudioError, OutputError, SoundsightError
from soundsight.core.files import sync, usable_folder
from soundsight.core.progress import progress_bar

if TYPE_CHECKING:
    from soundsight.media.audio import SoundStream
    from soundsight.runtime.translator import Translation, Translator
    from soundsight.views.sheet import Row, SheetBook

_SHEET = re.compile(r"sheet(-\d+)?")
_LARGE_BYTES = 20_000_000
_SUFFIXES_TOLD = 4


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(translate)


@dataclass(frozen=True)
class _Job:
    """One sound to translate.

    Attributes:
        source: the file.
        stem: where its pictures go, relative to the output folder, without ``_s000_d0.png``.
    """

    source: Path
    stem: Path


@dataclass(frozen=True)
class _Wish:
    """What the options of one run ask for."""

    out: Path
    each_second: bool
    draws: int
    anyway: bool
    seed: int
    size_px: int
    json_lines: bool
    track: int | None
    strict: bool

    def path(self, job: _Job, second: float, draw: int) -> Path:
        """Name the PNG of one picture."""
        name = job.stem.name
        if self.each_second:
            name += f"_s{int(second):03d}"
        if self.draws > 1:
            name += f"_d{draw}"
        return self.out / job.stem.parent / f"{name}.png"


@dataclass(frozen=True)
class _Second:
    """What is told of one second once its sound is complete.

    Attributes:
        paths: its pictures.
        states: the state of each.
        lines: what JSON says of each, where it is wanted.
        row: its card on the contact sheet, where one is wanted.
    """

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
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="DIR", help="Where the pictures go."),
    ] = Path("imagined"),
    each_second: Annotated[
        bool,
        typer.Option("--each-second", help="Imagine every second, not the sound as a whole."),
    ] = False,
    draws: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Pictures of each sound, or second.")
    ] = 1,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Draw sounds of no known kind, too."),
    ] = False,
    seed: Seed = 0,
    size: Annotated[
        int, typer.Option(min=16, max=4096, metavar="PX", help="Side of the pictures, in pixels.")
    ] = 96,
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet/--no-sheet", help="Also draw a contact sheet of everything: sheet.png."
        ),
    ] = False,
    json_lines: Annotated[
        bool,
        typer.Option("--json", help="Write a line of JSON for each picture to standard output."),
    ] = False,
    track: Track = None,
    strict: Strict = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace pictures that are there already.")
    ] = False,
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
    wish = _Wish(out, each_second, draws, anyway, seed, size, json_lines, track, strict)
    failures: list[SoundsightError] = []
    found = _find([sound_path(path) for path in sounds], failures)
    if not found:
        raise _told(failures)
    jobs = _plan(found)
    if not overwrite:
        _refuse_existing(jobs, wish, sheet)
    translator = _load(model)
    usable_folder(out)
    book = _book(translator, wish) if sheet else None
    counts: dict[str, int] = {}
    warnings: list[str] = []
    last: Path | None = None
    # Lines of JSON on the same terminal would tear the bar.
    hidden = _is_quick(jobs, wish) or (wish.json_lines and sys.stdout.isatty())
    with progress_bar(hidden=hidden) as show:
        for index, job in enumerate(jobs):
            try:
                with closing(_seconds(translator, job, wish, warnings, sheet=sheet)) as seconds:
                    for second, done in seconds:
                        if second is None:
                            show("imagining", index + done, len(jobs), job.source.name)
                        else:
                            last = _tell(second, book, counts) or last
            except SoundsightError as error:
                failures.append(error)
            show("imagining", index + 1, len(jobs), job.source.name)
        pages = book.close() if book is not None else []
    if book is not None and pages:
        _remove_stale_pages(out, pages)
    for told in warnings:
        warn(told)
    _summarise(jobs, wish, counts, last, pages)
    if failures:
        raise _told(failures, total=len(jobs))


def _results(
    translator: Translator, sound: SoundStream, wish: _Wish
) -> Iterator[tuple[Translation, float]]:
    """Yield what is imagined, with the share of the sound that is done (0..1)."""
    options: dict[str, Any] = {
        "draws": wish.draws, "seed": wish.seed, "anyway": wish.anyway,
    }  # fmt: skip
    if not wish.each_second:
        yield translator.translate(sound, **options), 1.0
        return
    length_s = sound.duration_s or math.inf
    for result in translator.iter_translate(sound, **options):
        yield result, min(1.0, (float(result.seconds[0]) + 1.0) / length_s)


def _seconds(
    translator: Translator, job: _Job, wish: _Wish, warnings: list[str], *, sheet: bool
) -> Generator[tuple[_Second | None, float]]:
    """Draw one sound; its pictures appear together when the last one is drawn, or not at all.

    They wait in a hidden folder beside their destination, with what is to be told of them, so that
    a long sound takes no more memory than a short one. Each is on the disk before it gets its name.

    Args:
        warnings: gets what is to be told of the sound.

    Yields:
        (None, the share that is done) while it draws, then every second, its pictures in place.

    Raises:
        SoundsightError: when the sound is damaged or the place cannot be written to.
    """
    from soundsight.media import audio

    folder = wish.out / job.stem.parent
    with ExitStack() as stack:
        # What cannot be read at all leaves no folder behind.
        sound = stack.enter_context(
            audio.stream(
                job.source, translator.info.mel.rate_hz, track=wish.track, strict=wish.strict
            )
        )
        results = _results(translator, sound, wish)
        first = list(islice(results, 1))
        hidden = stack.enter_context(_hidden_folder(folder))
        count = 0
        for result, done in chain(first, results):
            second = _draw(result, job, wish, hidden, sheet=sheet)
            with _writing(folder):
                (hidden / f"{count}.second").write_bytes(pickle.dumps(second))
            count += 1
            yield None, done
        warnings += sound.warnings
        for number in range(count):
            with _writing(folder):
                kept: _Second = pickle.loads((hidden / f"{number}.second").read_bytes())
            for line in kept.lines:
                line["warnings"] = sound.warnings
            for path in kept.paths:
                with _writing(path):
                    sync(hidden / path.name)
                    (hidden / path.name).replace(path)
            yield kept, 1.0
        # Once for all of them: a folder's sync takes as long as a file's.
        with _writing(folder):
            sync(folder)


@contextmanager
def _hidden_folder(beside: Path) -> Iterator[Path]:
    """Make a hidden folder in ``beside``; it goes with what it still holds, whatever happens.

    Raises:
        OutputError: when ``beside`` cannot be written to.
    """
    with _writing(beside):
        beside.mkdir(parents=True, exist_ok=True)
        # A folder that somebody else looks into or removes is no reason to fail at the end.
        hidden = tempfile.TemporaryDirectory(
            dir=beside, prefix=".soundsight-", ignore_cleanup_errors=True
        )
    with hidden as name:
        yield Path(name)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _draw(result: Translation, job: _Job, wish: _Wish, hidden: Path, *, sheet: bool) -> _Second:
    """Write the pictures of one second into the hidden folder.

    Raises:
        OutputError: naming the picture's destination.
    """
    from soundsight.views.drawing import PICTURE_PX
    from soundsight.views.sheet import MAX_PICTURES, Row, png_bytes

    paths: list[Path] = []
    lines: list[dict[str, Any]] = []
    for i in range(len(result)):
        second = float(result.seconds[i])
        draw = int(result.draw[i])
        path = wish.path(job, second, draw)
        paths.append(path)
        with _writing(path):
            png = png_bytes(result.shown(i, wish.size_px), result.texts(i))
            (hidden / path.name).write_bytes(png)
        if wish.json_lines:
            line = {
                "file": str(job.source),
                "png": str(path),
                "second": round(second, 2),
                "state": str(result.state[i]),
                "name": result.name[i],
                "second_guess": result.second_guess[i],
                "confidence": _number(result.confidence[i]),
                "ood_score": _number(result.ood_score[i]),
                "seed": wish.seed,
                "draw": draw,
            }
            lines.append(line)
    row: Row | None = None
    if sheet:
        shown = min(len(result), MAX_PICTURES)
        row = Row(
            name=job.source.name if len(job.stem.parts) == 1 else _source_name(job),
            second=float(result.seconds[0]),
            mel=result.mels[0],
            waveform=result.waveforms[0],
            images=[result.shown(i, PICTURE_PX) for i in range(shown)],
            notes=[
                "" if s.is_known or (wish.anyway and s != "quiet") else s.words
                for s in result.state[:shown]
            ],
            captions=[result.caption(i) for i in range(shown)],
            more=len(result) - shown,
        )
    return _Second(paths, [str(state) for state in result.state], lines, row)


def _number(value: float) -> float | None:
    """JSON knows no NaN: what is not known is null."""
    return None if math.isnan(value) else round(float(value), 4)


def _tell(second: _Second, book: SheetBook | None, counts: dict[str, int]) -> Path | None:
    """Count and tell one second whose pictures are in place; return the last path."""
    for state in second.states:
        counts[state] = counts.get(state, 0) + 1
    for line in second.lines:
        print(json.dumps(line), flush=True)
    if book is not None and second.row is not None:
        book.add(second.row)
    return second.paths[-1] if second.paths else None


def _source_name(job: _Job) -> str:
    return (job.stem.parent / job.source.name).as_posix()


def _load(model: Path | None) -> Translator:
    from soundsight.runtime.translator import Translator

    return Translator.load(model)


def _book(translator: Translator, wish: _Wish) -> SheetBook:
    from soundsight.views.sheet import SheetBook

    label = translator.info.label
    texts = {"seed": str(wish.seed), "model": label}
    return SheetBook(wish.out, subtitle=f"model {label}   seed {wish.seed}", texts=texts)


# --- inputs and outputs of translate ---------------------------------------------------------


def _find(inputs: Sequence[Path], failures: list[SoundsightError]) -> dict[Path, Path]:
    """Find the sounds: file -> where it lies relative to its input, in order, each once."""
    from soundsight.media.audio import SOUND_SUFFIXES
    from soundsight.media.container import missing

    found: dict[Path, Path] = {}
    seen: set[str] = set()
    folders = sum(os.path.isdir(path) for path in inputs)
    for path in inputs:
        if not os.path.isdir(path):
            try:
                path.stat()
            except FileNotFoundError:
                failures.append(AudioError(missing(path)))
                continue
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                failures.append(AudioError(f"cannot read {path}: {reason}"))
                continue
            pairs = [(path, Path(path.name))]
        else:
            # Several folders keep their own names, so that their sounds do not meet.
            prefix = Path(path.absolute().name) if folders > 1 else Path()
            files = _files_below(path, failures)
            pairs = [
                (file, prefix / file.relative_to(path))
                for file in files
                if file.suffix.lower() in SOUND_SUFFIXES
            ]
            left = Counter(
                f.suffix.lower() for f in files if f.suffix.lower() not in SOUND_SUFFIXES
            )
            if not pairs:
                there = f": it holds {_counted(left)}" if left else ""
                failures.append(AudioError(f"there is no sound in the folder {path}{there}"))
            elif left:
                say(f"left out in {path}: {_counted(left)}", err=True)
        for file, relative in pairs:
            key = os.path.abspath(file)  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links
            if key not in seen:
                seen.add(key)
                found[file] = relative
    return found


def _counted(suffixes: Counter[str]) -> str:
    """How many files there are of each suffix, the most frequent first."""
    shown = suffixes.most_common(_SUFFIXES_TOLD)
    told = [f"{count} {suffix or 'without a suffix'}" for suffix, count in shown]
    others = suffixes.total() - sum(count for _, count in shown)
    return ", ".join([*told, f"{others} others"] if others else told)


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

    names = [relative.with_suffix("") for relative in found.values()]
    taken = clashing(names)
    names = [
        relative if name in taken else name
        for name, relative in zip(names, found.values(), strict=True)
    ]
    if clashing(names):
        paths = [Path(os.path.abspath(file)) for file in found]  # noqa: PTH100
        root = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(root) for path in paths]
    return [_Job(file, name) for file, name in zip(found, names, strict=True)]


def _refuse_existing(jobs: Sequence[_Job], wish: _Wish, sheet: bool) -> None:
    """Look for outputs that are there already, before any work is done.

    Raises:
        OutputError: naming the first one.
    """
    listings: dict[Path, list[str]] = {}

    def listing(folder: Path) -> list[str]:
        if folder not in listings:
            try:
                listings[folder] = sorted(os.listdir(folder))
            except OSError:
                listings[folder] = []
        return listings[folder]

    there: list[Path] = []
    for job in jobs:
        folder = wish.out / job.stem.parent
        if wish.each_second:
            # How many seconds there will be is not known yet.
            pattern = re.compile(re.escape(job.stem.name) + r"_s\d{3,}(_d\d+)?\.png")
            there += [folder / name for name in listing(folder) if pattern.fullmatch(name)]
        else:
            paths = [wish.path(job, 0.0, draw) for draw in range(wish.draws)]
            there += [path for path in paths if os.path.lexists(path)]
    if sheet:
        names = [name for name in listing(wish.out) if name.endswith(".png")]
        there += [wish.out / name for name in names if _SHEET.fullmatch(name[:-4])]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        are = "are" if more else "is"
        raise OutputError(
            f"{there[0]}{more} {are} there already: choose another -o DIR or pass --overwrite"
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
    wish: _Wish,
    counts: dict[str, int],
    last: Path | None,
    pages: Sequence[Path],
) -> None:
    total = sum(counts.values())
    if not total:
        return
    asked = " (shown as asked)" if wish.anyway else ""
    hidden = [
        f"{n} {state.replace('_', ' ')}{asked if state == 'nothing_recognisable' else ''}"
        for state, n in counts.items()
        if state != "picture"
    ]
    if total == 1 and len(jobs) == 1:
        text = f"{jobs[0].source} -> {last} ({next(iter(counts)).replace('_', ' ')})"
    else:
        text = f"{total} pictures in {wish.out}" + (f" ({', '.join(hidden)})" if hidden else "")
    say(text, err=wish.json_lines)
    if pages:
        which = f"{pages[0]} .. {pages[-1].name}" if len(pages) > 1 else f"{pages[0]}"
        say(f"contact sheet: {which}", err=wish.json_lines)


def _told(failures: Sequence[SoundsightError], total: int = 0) -> Exception:
    """Name each failure in a line of its own; return what ends the command."""
    for error in failures:
        complain(error)
    if total > 1:
        say(f"{len(failures)} could not be translated", err=True)
    return typer.Exit(SoundsightError.exit_code)


def _is_quick(jobs: Sequence[_Job], wish: _Wish) -> bool:
    """Return whether there is nothing to wait for."""
    return (
        len(jobs) == 1
        and not wish.each_second
        and all(_size(job.source) <= _LARGE_BYTES for job in jobs)
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
