"""``soundsight prepare``: from videos to training pairs, cleaned, split and sharded."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight import __version__
from soundsight.cli.console import counted, say, warn
from soundsight.cli.options import option, panel
from soundsight.core.config import choose, to_dict
from soundsight.core.errors import ConfigError, DataError, OutputError, require_extra
from soundsight.core.files import local_output
from soundsight.core.progress import Progress, progress_bar

if TYPE_CHECKING:
    from soundsight.data.prepare.engines import Job
    from soundsight.data.prepare.ingest import IngestConfig, Outcome
    from soundsight.data.prepare.pack import Dropped, PackConfig, Scorer, StagedPairs
    from soundsight.data.prepare.staging import Part, Stage
    from soundsight.data.records import Clip
    from soundsight.data.sources.find import Clips

PUBLISHED = "published"
"""The layout that is no folder of videos: the authors' binary batches."""

DUPLICATES, COHERENCE, CLASSIFIER = "duplicates", "coherence", "classifier"

_COMMAND = "soundsight prepare"
_WORKERS_PER_CORE = 8
_SHORTEST_LEARNED_S = 0.32
"""The towers of a learned step halve a log-mel five times."""

_AFTER_CUTTING = ("pack", "learned_cleaning")
"""Settings on which no part depends."""

_OfPairs = panel("Pairs")
_OfCleaning = panel("Cleaning and splits")
_OfRun = panel("Run")


def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, videos, list files, CSV or Parquet manifests, or globs; paths or URLs.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, option("DATA", "The dataset; the same one resumes.", "--out", "-o")],
    layout: Annotated[
        str,
        option(
            "LAYOUT",
            "How folders are read: auto, folder, classes, vegas, vggsound, ave, audioset, "
            "or published (the authors' binary batches).",
        ),
    ] = "auto",
    segment_s: Annotated[float, _OfPairs("SECONDS", "Length of a segment.")] = 1.0,
    hop_s: Annotated[
        float | None, _OfPairs("SECONDS", "Time between segments (default: their length).")
    ] = None,
    size: Annotated[int, _OfPairs("PX", "Side of the picture in pixels, 64 to 256.")] = 96,
    frame: Annotated[str, _OfPairs("FRAME", "Which frame: center or sharpest.")] = "center",
    crop: Annotated[str, _OfPairs("CROP", "Shape of the picture: center or letterbox.")] = "center",
    image: Annotated[str, _OfPairs("FORMAT", "Format of the picture: jpg or webp.")] = "jpg",
    quality: Annotated[int, _OfPairs("N", "Its quality, 1 to 100.")] = 95,
    split: Annotated[
        str, _OfCleaning("A,B,C", "Shares of train, val and test, by source video.")
    ] = "0.8,0.1,0.1",
    clean: Annotated[
        str,
        _OfCleaning(
            "STEPS",
            "Cleaning steps: all (every step that needs no training), none, or a list such "
            "as silence,black,duplicates. Also: coherence, classifier.",
        ),
    ] = "all",
    drop_share: Annotated[
        float, _OfCleaning("SHARE", "Share of pairs that coherence or classifier drops.")
    ] = 0.15,
    shard_mb: Annotated[int, _OfPairs("MIB", "Largest size of a shard, in MiB.", min=1)] = 256,
    workers: Annotated[
        int | None, _OfRun("N", "Videos at once (default: one a core).", min=1)
    ] = None,
    engine: Annotated[str, _OfRun("ENGINE", "Where it runs: local or ray.")] = "local",
    address: Annotated[
        str | None, _OfRun("ADDRESS", "Address of the Ray cluster: HOST:PORT or auto.")
    ] = None,
    timeout: Annotated[float, _OfRun("SECONDS", "Longest time for one video.", min=1)] = 3600.0,
    max_failures: Annotated[
        int | None, _OfRun("N", "Stop when more videos than this have failed.", min=0)
    ] = None,
    retry_failures: Annotated[
        bool, _OfRun("", "Try videos that failed in an unfinished run again.", "--retry-failures")
    ] = False,
    strict: Annotated[
        bool, _OfRun("", "Refuse damaged videos instead of using what can be read.", "--strict")
    ] = False,
    overwrite: Annotated[
        bool, _OfRun("", "Replace a dataset that is there.", "--overwrite")
    ] = False,
    dry_run: Annotated[
        bool, _OfRun("", "Print the settings and what was found, and stop.", "--dry-run")
    ] = False,
) -> None:
    """Cut videos into pairs of a second of sound and its frame: clean, split and shard them.

    A run that was stopped, in whatever way, goes on with the same command.
    """
    require_extra(_COMMAND, "prepare", "fsspec", "imagehash")
    local_output(out)
    if address is not None and engine != "ray":
        raise ConfigError("--address is that of a Ray cluster: pass --engine ray with it")
    choose("engine", engine, dict.fromkeys(("local", "ray")))
    if engine == "ray":
        require_extra(f"{_COMMAND} --engine ray", "ray", "ray")
    if not 0 <= drop_share < 1:
        raise ConfigError(f"--drop-share is from 0 to below 1, not {drop_share:g}")
    from soundsight.data.prepare.clean import STEPS, CleanConfig
    from soundsight.data.prepare.ingest import IngestConfig
    from soundsight.data.prepare.pack import PackConfig, pack
    from soundsight.data.prepare.split import parse_shares
    from soundsight.data.sources.find import find_clips
    from soundsight.data.sources.layouts import LAYOUTS

    steps = _steps(clean)
    pairwise = tuple(step for step in STEPS if step in steps)
    learned = tuple(step for step in (COHERENCE, CLASSIFIER) if step in steps)
    ingest = IngestConfig(
        segment_s=segment_s,
        hop_s=segment_s if hop_s is None else hop_s,
        size_px=size,
        frame=frame,
        crop=crop,
        image_format=image,
        quality=quality,
        duplicates=DUPLICATES in steps,
        clean=replace(CleanConfig(), steps=pairwise),
        strict=strict,
    )
    packing = PackConfig(
        steps=pairwise,
        shares=parse_shares(split),
        shard_bytes=shard_mb << 20,
        duplicates=DUPLICATES in steps,
        coherence_share=drop_share,
    )
    choose("layout", layout, dict.fromkeys(("auto", *LAYOUTS, PUBLISHED)))
    if layout == PUBLISHED or (layout == "auto" and _are_batches(sources)):
        if ingest != IngestConfig() or packing != PackConfig(shard_bytes=packing.shard_bytes):
            raise ConfigError(
                "--layout published takes the pairs as they are: of the settings only --shard-mb "
                "applies, leave the others out"
            )
        _prepare_batches(sources, out, packing, overwrite=overwrite, dry_run=dry_run)
        return
    # SIGTERM, which ends a job on a cluster, stops the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = find_clips(sources, layout=layout, exclude=out)
    _check_learned(learned, ingest, found)
    about = _about(found, ingest, packing, learned)
    if dry_run:
        shown = {
            **about,
            "layouts": found.layouts, "skipped": len(found.skipped), "ignored": found.ignored,
            "repeated": found.repeated, "missing": found.missing,
        }  # fmt: skip
        typer.echo(json.dumps(shown, indent=2))
        return
    _report_found(found)
    if _is_there(out, about, overwrite=overwrite):
        return
    with _stage(out, about, overwrite=overwrite) as stage:
        if stage is None:
            return
        run = partial(_run_jobs, ingest, engine, address, workers, timeout)
        _cut(stage, found, run, max_failures, retry_failures=retry_failures)
        with progress_bar(log=True) as progress:
            pack(
                stage, found.clips, packing, about,
                skipped=[(skipped.path, skipped.reason) for skipped in found.skipped],
                scorers={name: _scorer(name, progress) for name in learned},
                draw=_draw_sheet, progress=progress,
            )  # fmt: skip
    _summarise(out)


def _steps(text: str) -> list[str]:
    """Return the names of cleaning steps that an option lists."""
    from soundsight.data.prepare.clean import STEPS

    known = (*STEPS, DUPLICATES, COHERENCE, CLASSIFIER)
    names: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name == "all":
            names += [*STEPS, DUPLICATES]
        elif name in known:
            names.append(name)
        elif name != "none":
            raise ConfigError(
                f"--clean: unknown step {name!r}; choose from all, none, {', '.join(known)}"
            )
    if COHERENCE in names or CLASSIFIER in names:
        require_extra(
            f"{_COMMAND} --clean {text}", "train", "torch", "safetensors", "jaxtyping", "sklearn"
        )
    return names


def _check_learned(learned: Sequence[str], ingest: IngestConfig, found: Clips) -> None:
    """See that a learned step can run before hours are spent on what comes before it."""
    if learned and ingest.segment_s < _SHORTEST_LEARNED_S:
        raise ConfigError(
            f"--clean {learned[0]} takes a --segment-s of {_SHORTEST_LEARNED_S:g} or more"
        )
    if CLASSIFIER in learned and any(clip.label is None for clip in found.clips):
        raise DataError(
            "--clean classifier needs a class label for every video: use a layout or a "
            "manifest with labels, or --clean coherence, which needs none"
        )


def _about(
    found: Clips, ingest: IngestConfig, packing: PackConfig, learned: Sequence[str]
) -> dict[str, Any]:
    """Return what dataset.json says of how it was made."""
    from soundsight.media.segments import whole_frames

    clips = [[clip.key, clip.group, clip.label, clip.split, clip.licence] for clip in found.clips]
    settings = {
        **to_dict(ingest), "pack": to_dict(packing), "learned_cleaning": list(learned),
    }  # fmt: skip
    return {
        "soundsight": __version__,
        "created_with": _versions(),
        "settings": settings,
        "inputs": {
            "clips": len(found.clips),
            "sha256": hashlib.sha256(json.dumps(clips).encode()).hexdigest(),
        },
        "mel_frames": whole_frames(ingest.segment_s, "segment_s", ingest.mel),
        "mel_bands": ingest.mel.n_mels,
        "image_px": ingest.size_px,
    }


# --- cutting -------------------------------------------------------------------------------------


def _run_jobs(
    ingest: IngestConfig,
    engine: str,
    address: str | None,
    workers: int | None,
    timeout_s: float,
    jobs: Sequence[Job],
) -> Iterator[Outcome]:
    from soundsight.core.cpus import usable_cpus
    from soundsight.data.prepare import engines

    if engine == "ray":
        return engines.run_ray(jobs, ingest, address, workers, timeout_s)
    # More processes than that only wait for each other.
    most = min(_WORKERS_PER_CORE * usable_cpus(), max(1, len(jobs)))
    return engines.run_local(jobs, ingest, min(workers or usable_cpus(), most), timeout_s)


def _cut(
    stage: Stage,
    found: Clips,
    run: Callable[[Sequence[Job]], Iterator[Outcome]],
    max_failures: int | None,
    *,
    retry_failures: bool,
) -> None:
    """Turn every clip into a part; what has one already, of the same file, is taken over."""
    from soundsight.data.prepare.engines import Job
    from soundsight.data.prepare.ingest import Outcome, is_current

    tally = Counter(failed=len(found.skipped))

    def count(outcome: Outcome) -> None:
        tally.update(
            videos=1, pairs=outcome.pairs, dropped=outcome.dropped,
            failed=outcome.failure is not None, damaged=outcome.damage is not None,
        )  # fmt: skip

    jobs = []
    done = stage.done()
    for clip in found.clips:
        part = _part(stage, clip) if clip.id in done else None
        failure = None if part is None else part.about.get("failure")
        if part is None or not is_current(part.about, clip) or (failure and retry_failures):
            jobs.append(Job(clip=clip, part=stage.part_path(clip.id)))
        else:
            kept = len(part.kept)
            count(
                Outcome(
                    clip=clip.id, pairs=kept, dropped=len(part.entries) - kept, failure=failure,
                    damage=part.about.get("damage"),
                )
            )  # fmt: skip
    clips = len(found.clips)
    if tally["videos"]:
        say(f"taken over from before: {tally['videos']} of {clips} videos", err=True)
    if jobs:
        stage.forget_shards()
    outcomes = run(jobs)
    try:
        with progress_bar(log=True) as show, closing(outcomes):  # type: ignore[type-var]
            while max_failures is None or tally["failed"] <= max_failures:
                names = ("pairs", "dropped", "failed", *(["damaged"] if tally["damaged"] else []))
                words = ", ".join(f"{tally[name]} {name}" for name in names)
                show("videos", tally["videos"], clips, words)
                outcome = next(outcomes, None)
                if outcome is None:
                    return
                count(outcome)
    except KeyboardInterrupt:
        _leave_failures(stage, found)
        raise KeyboardInterrupt(
            f"{tally['videos']} of {clips} videos are done; the same command goes on"
        ) from None
    except (DataError, OutputError):
        _leave_failures(stage, found)
        raise
    path = _leave_failures(stage, found) or "failures.csv"
    raise DataError(
        f"{tally['failed']} videos have failed, more than --max-failures {max_failures}: "
        f"see {path}; what is done is kept"
    )


def _part(stage: Stage, clip: Clip) -> Part | None:
    """Return a clip's part; None where it is damaged and has to be made again."""
    try:
        return stage.part(clip.id)
    except DataError:
        return None


def _leave_failures(stage: Stage, found: Clips) -> Path | None:
    """Write a table of what has failed so far; return where it is."""
    failures = [(skipped.path, skipped.reason) for skipped in found.skipped]
    done = stage.done()
    for clip in found.clips:
        part = _part(stage, clip) if clip.id in done else None
        if part is not None and part.about.get("failure"):
            failures.append((clip.key, part.about["failure"]))
    try:
        return stage.report_failures(failures)
    except OutputError:
        return None  # a full disk is what is being reported already


@contextmanager
def _stage(out: Path, about: dict[str, Any], *, overwrite: bool) -> Iterator[Stage | None]:
    """Open and lock the folder of work; None where all that was left to do was to move it."""
    from soundsight.data.prepare.staging import Stage
    from soundsight.data.store.shards import ABOUT

    # How parts are packed is settled after they are cut: it may change from run to run.
    settings = {
        **{key: about["settings"][key] for key in about["settings"] if key not in _AFTER_CUTTING},
        "version": about["soundsight"],
    }
    with Stage(out, settings, restart=overwrite) as stage:
        packed = stage.packed()
        same = packed is not None and all(
            packed[key] == about[key] for key in ("inputs", "settings")
        )
        if packed is not None and not same and not stage.is_moving:
            stage.forget_shards()
        if stage.is_moving or same:
            stage.move_into_place()
            # What was being moved may be of other videos than those that are named now.
            _is_there(out, about, overwrite=False, quiet=True)
            _summarise(out)
            yield None
        elif stage.is_new and (out / ABOUT).is_file() and not overwrite:
            # Another run has just finished, or one was killed in its very last moment.
            stage.discard()
            _is_there(out, about, overwrite=False)
            yield None
        else:
            yield stage


def _is_there(out: Path, about: dict[str, Any], *, overwrite: bool, quiet: bool = False) -> bool:
    """Return whether this very dataset lies there finished."""
    from soundsight.data.store.shards import WORK

    if not os.path.lexists(out) or (os.path.isdir(out) and not os.listdir(out)):
        return False
    if not os.path.isdir(out):
        raise OutputError(f"cannot write to {out}: it is no folder")
    if os.path.isdir(out / WORK):
        return False
    try:
        there = json.loads((out / "dataset.json").read_text("utf-8"))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or there.get("format") != "soundsight-pairs":
        raise OutputError(
            f"{out} holds something else and is kept: choose another place (--overwrite replaces "
            "only a dataset of soundsight)"
        )
    if overwrite:
        return False
    if any(there.get(key) != about[key] for key in ("settings", "inputs", "soundsight")):
        raise OutputError(
            f"{out} holds a dataset of other videos or settings: choose another place or pass "
            "--overwrite"
        )
    if not quiet:
        say(f"finished already: {out} (to do it again, failed videos included: --overwrite)")
    return True


# --- learned cleaning and the sheet of what was dropped ------------------------------------------


def _scorer(name: str, progress: Progress) -> Scorer:
    """Return the learned scorer of a step; torch is loaded when it runs."""

    def score(pairs: StagedPairs, work: Path) -> Any:
        from soundsight.training.coherence import classifier_scores, contrastive_scores

        show = partial(progress, f"learning {name}")
        if name == CLASSIFIER:
            labels = [label or "" for label in pairs.labels]
            return classifier_scores(pairs, labels, work=work, progress=show)
        scores = contrastive_scores(pairs, work=work, progress=show)
        if scores.mean() > 0:
            return scores
        warn(
            f"nothing could be learned from {len(pairs)} pairs, so coherence drops none of them: "
            "it takes some thousands"
        )
        return None

    return score


def _draw_sheet(step: str, dropped: Sequence[Dropped], total: int, path: Path) -> None:
    from soundsight.data.records import IMAGES, MEL, SIDECAR
    from soundsight.data.store.shards import decode_image, decode_mel
    from soundsight.views.drawing import clock
    from soundsight.views.sheet import PairCard, pairs_sheet

    cards = []
    for pair in dropped:
        files = pair.record.files
        about = json.loads(files[SIDECAR])
        picture = next(files[name] for name in IMAGES if name in files)
        cards.append(
            PairCard(
                mel=decode_mel(files[MEL]),
                image=decode_image(picture),
                caption=f"{about['clip']}  {clock(about['start_s'])}",
                note=pair.note,
            )
        )
    title = f"dropped: {step}, {len(dropped)} of {total} pairs"
    pairs_sheet(cards, columns=5, title=title).save(path, format="PNG")


# --- the authors' batches ------------------------------------------------------------------------


def _are_batches(sources: Sequence[str]) -> bool:
    """Return whether a source is a folder of the authors' batches, or one of them."""
    return any(
        Path(source).match("*_batch_*.bin") or next(Path(source).glob("*_batch_*.bin"), None)
        for source in sources
        if os.path.exists(source)
    )


def _prepare_batches(
    sources: Sequence[str], out: Path, packing: PackConfig, *, overwrite: bool, dry_run: bool
) -> None:
    from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
    from soundsight.data.vegas.batches import batch_files
    from soundsight.data.vegas.repack import repack

    paths = [Path(source) for source in sources]
    files = [(file, file.stat().st_size) for path in paths for _, file in batch_files(path)]
    names = "\n".join(f"{file.name} {size}" for file, size in files)
    data = names.encode("utf-8", "surrogateescape")
    about = {
        "soundsight": __version__,
        "created_with": _versions(),
        "settings": {"layout": PUBLISHED, "shard_bytes": packing.shard_bytes},
        "inputs": {"files": len(files), "sha256": hashlib.sha256(data).hexdigest()},
        "mel_frames": FRAMES_PER_SEGMENT,
        "mel_bands": N_MELS,
        "image_px": IMAGE_PX,
    }
    if dry_run:
        typer.echo(json.dumps(about, indent=2))
        return
    if _is_there(out, about, overwrite=overwrite):
        return
    with _stage(out, about, overwrite=overwrite) as stage, progress_bar(log=True) as progress:
        if stage is None:
            return
        show = partial(progress, "writing records")
        repack(stage, paths, about, shard_bytes=packing.shard_bytes, progress=show)
    _summarise(out)


# --- what it says --------------------------------------------------------------------------------


def _versions() -> dict[str, str]:
    """Return what the bytes depend on beside the settings: libraries that decode and encode."""
    import numpy as np
    import PIL
    import soxr

    from soundsight.media.container import quiet_av

    av = quiet_av()
    codec = av.library_versions.get("libavcodec", ())
    return {
        "av": av.__version__,
        "libavcodec": ".".join(map(str, codec)),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "soxr": soxr.__version__,
    }


def _report_found(found: Clips) -> None:
    """Say what the sources hold."""
    notes = [counted(len(found.clips), "video")]
    for count, what in (
        (found.missing, "named in a table but not there"),
        (len(found.skipped), "named but unusable"),
        (found.ignored, "other files ignored"),
        (found.repeated, "met again and taken once"),
    ):
        if count:
            notes.append(f"{count} {what}")
    say(f"found: {', '.join(notes)}", err=True)


def _summarise(out: Path) -> None:
    """Say what a finished dataset holds, and how it came to that."""
    about = json.loads((out / "dataset.json").read_text("utf-8"))
    counts = about["counts"]
    if "clips" in counts:
        failed = f", {counts['failed']} failed: see {out / 'failures.csv'}"
        say(f"videos: {counts['clips']}" + (failed if counts["failed"] else ""))
        if counts.get("damaged"):
            warn(
                f"{counted(counts['damaged'], 'video')} damaged and used as far as can be read: "
                f"see {out / 'damaged.csv'} (--strict refuses such)"
            )
        say(f"pairs cut: {counts['pairs_cut']}")
        for line in funnel_lines(counts["cleaning"]):
            say(f"  {line}")
    for name, split in about["splits"].items():
        videos, shards = counted(split["videos"], "video"), counted(len(split["shards"]), "shard")
        say(f"{name}: {counted(split['pairs'], 'pair')} of {videos} in {shards}")
    _warn_of_empty(about)
    look = shlex.join(["soundsight", "data", "sheet", str(out), "-o", "sheet.png"])
    say(f"written: {out}   (look at it: {look})")


def funnel_lines(cleaning: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each cleaning step was given and kept, a line a step."""
    return [
        f"{step['step']}: {step['before']} -> {step['after']}"
        + (f" (-{step['dropped']})" if step["dropped"] else "")
        for step in cleaning
    ]


def _warn_of_empty(about: Mapping[str, Any]) -> None:
    shares = about["settings"].get("pack", {}).get("shares")
    if not shares:
        return
    splits = about["splits"]
    empty = [
        name
        for name, share in zip(splits, shares, strict=True)
        if share and not splits[name]["pairs"]
    ]
    if not empty:
        return
    asked = sum(share > 0 for share in shares)
    videos = sum(split["groups"] for split in splits.values())
    why = (
        f"{counted(videos, 'video')} cannot fill {asked} splits: add videos, or ask for fewer "
        "with --split"
        if videos < asked
        else "the manifest or the layout leaves it no video, or cleaning no pair"
    )
    warn(f"no pair in {' and '.join(empty)}: {why}")
