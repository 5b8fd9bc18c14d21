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
    from soundsight.data.prepare.pack import StagedPairs
    from soundsight.data.prepare.staging import Part, Stage
    from soundsight.data.records import Clip, Record
    from soundsight.data.sources.find import Clips

PUBLISHED = "published"
"""The layout that is no folder of videos: the authors' binary batches."""

DUPLICATES, COHERENCE, CLASSIFIER = "duplicates", "coherence", "classifier"

_COMMAND = "soundsight prepare"
_WORKERS_PER_CORE = 8
_SHORTEST_LEARNED_S = 0.32
"""The towers of a learned step halve a log-mel five times."""

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
    out: Annotated[
        Path, option("DATA", "Folder of the dataset; give the same one to resume.", "--out", "-o")
    ],
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
        float | None,
        _OfPairs("SECONDS", "Seconds from one segment's start to the next (default: its length)."),
    ] = None,
    size: Annotated[int, _OfPairs("PX", "Side of the picture in pixels, 64 to 256.")] = 96,
    frame: Annotated[str, _OfPairs("FRAME", "Which frame: center or sharpest.")] = "center",
    crop: Annotated[str, _OfPairs("CROP", "Shape of the picture: center or letterbox.")] = "center",
    image: Annotated[str, _OfPairs("FORMAT", "Format of the picture: jpg or webp.")] = "jpg",
    quality: Annotated[int, _OfPairs("N", "Quality of the picture, 1 to 100.")] = 95,
    split: Annotated[
        str, _OfCleaning("A,B,C", "Shares of train, val and test, by source video.")
    ] = "0.8,0.1,0.1",
    clean: Annotated[
        str,
        _OfCleaning(
            "STEPS",
            "Cleaning steps: all (every step that needs no training), none, or a list such "
            "as silence,black,duplicates. Learned steps (they need the extra train): "
            "coherence, classifier.",
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
    """Cut videos into pairs of one second of sound and its frame; clean, split and pack them.

    A run that was stopped, in whatever way, goes on with the same command.
    """
    require_extra(_COMMAND, "prepare", "fsspec", "imagehash", "pyarrow")
    local_output(out)
    if address is not None and engine != "ray":
        raise ConfigError("--address is that of a Ray cluster: pass --engine ray with it")
    choose("engine", engine, dict.fromkeys(("local", "ray")))
    if engine == "ray":
        require_extra(f"{_COMMAND} --engine ray", "ray", "ray")
    if not 0 <= drop_share < 1:
        raise ConfigError(f"--drop-share is from 0 to below 1, not {drop_share:g}")
    from soundsight.core.cpus import usable_cpus
    from soundsight.data.prepare import engines
    from soundsight.data.prepare.clean import STEPS, CleanConfig
    from soundsight.data.prepare.ingest import IngestConfig
    from soundsight.data.prepare.pack import PackConfig, pack, parse_shares
    from soundsight.data.sources.find import find_clips
    from soundsight.data.sources.layouts import LAYOUTS
    from soundsight.media.segments import whole_frames

    steps = _steps(clean)
    pairwise = tuple(step for step in STEPS if step in steps)
    learned = [step for step in (COHERENCE, CLASSIFIER) if step in steps]
    ingest = IngestConfig(
        segment_s=segment_s,
        hop_s=segment_s if hop_s is None else hop_s,
        size_px=size,
        frame=frame,
        crop=crop,
        image_format=image,
        quality=quality,
        duplicates=DUPLICATES in steps,
        clean=CleanConfig(steps=pairwise),
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
        _prepare_batches(sources, out, packing.shard_bytes, overwrite=overwrite, dry_run=dry_run)
        return
    # SIGTERM, which ends a job on a cluster, stops the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = find_clips(sources, layout=layout, exclude=out)
    if learned and segment_s < _SHORTEST_LEARNED_S:
        raise ConfigError(
            f"--clean {learned[0]} takes a --segment-s of {_SHORTEST_LEARNED_S:g} or more"
        )
    if CLASSIFIER in learned and any(clip.label is None for clip in found.clips):
        raise DataError(
            "--clean classifier needs a class label for every video: use a layout or a "
            "manifest with labels, or --clean coherence, which needs none"
        )
    clips = [[clip.key, clip.group, clip.label, clip.split, clip.licence] for clip in found.clips]
    about = {
        **_made_with(),
        "settings": {**to_dict(ingest), "pack": to_dict(packing), "learned_cleaning": learned},
        "inputs": {"clips": len(clips), "sha256": _sha256(json.dumps(clips))},
        "mel_frames": whole_frames(segment_s, "segment_s", ingest.mel),
        "mel_bands": ingest.mel.n_mels,
        "image_px": size,
    }
    if dry_run:
        told = {"layouts": found.layouts, "skipped": len(found.skipped)}
        told |= {name: getattr(found, name) for name in ("ignored", "repeated", "missing")}
        typer.echo(json.dumps(about | told, indent=2))
        return
    notes = {
        "named in a table but not there": found.missing,
        "named but unusable": len(found.skipped),
        "other files ignored": found.ignored,
        "met again and taken once": found.repeated,
    }
    words = [f"{count} {what}" for what, count in notes.items() if count]
    say(f"found: {', '.join([counted(len(clips), 'video'), *words])}", err=True)
    with _stage(out, about, overwrite=overwrite) as stage:
        if stage is None:
            return
        if engine == "ray":
            run = partial(
                engines.run_ray, config=ingest, address=address, workers=workers, timeout_s=timeout
            )
        else:
            # More processes than that only wait for each other.
            most = min(workers or usable_cpus(), _WORKERS_PER_CORE * usable_cpus())
            run = partial(engines.run_local, config=ingest, workers=most, timeout_s=timeout)
        _cut(stage, found, run, max_failures, retry_failures=retry_failures)
        with progress_bar(log=True) as progress:
            scorers = {name: partial(_score, name, progress) for name in learned}
            pack(stage, found.clips, packing, about, skipped=found.skipped, scorers=scorers,
                 draw=_draw_sheet, progress=progress)  # fmt: skip


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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _made_with() -> dict[str, Any]:
    """Return what the bytes depend on beside the settings: libraries that decode and encode."""
    import numpy as np
    import PIL
    import soxr

    from soundsight.media.container import quiet_av

    av = quiet_av()
    codec = av.library_versions.get("libavcodec", ())
    return {
        "soundsight": __version__,
        "created_with": {
            "av": av.__version__,
            "libavcodec": ".".join(map(str, codec)),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "soxr": soxr.__version__,
        },
    }


# --- the workplace -------------------------------------------------------------------------------


@contextmanager
def _stage(out: Path, about: dict[str, Any], *, overwrite: bool) -> Iterator[Stage | None]:
    """Open and lock the folder of work; None where nothing, or but a move, is left to do."""
    from soundsight.data.prepare.staging import Stage
    from soundsight.data.store.shards import ABOUT

    if _is_there(out, about, overwrite=overwrite):
        yield None
        return
    # How parts are packed is settled after they are cut: it may change from run to run.
    settings = {**about["settings"], "version": about["soundsight"]}
    for name in ("pack", "learned_cleaning"):
        settings.pop(name, None)
    with Stage(out, settings, restart=overwrite) as stage:
        packed = stage.packed()
        same = packed is not None and all(
            packed[key] == about[key] for key in ("inputs", "settings")
        )
        if stage.is_moving or same:
            stage.move_into_place()
            # What was being moved may be of other videos than those that are named now.
            _is_there(out, about, overwrite=False, quiet=True)
            yield None
        elif stage.is_new and (out / ABOUT).is_file() and not overwrite:
            # Another run has just finished, or one was killed in its very last moment.
            stage.discard()
            _is_there(out, about, overwrite=False)
            yield None
            return
        else:
            if packed is not None:
                stage.forget_shards()
            yield stage
    _summarise(out)


def _is_there(out: Path, about: dict[str, Any], *, overwrite: bool, quiet: bool = False) -> bool:
    """Return whether this very dataset lies there finished."""
    from soundsight.data.store.shards import ABOUT, FORMAT, WORK

    if not os.path.lexists(out) or (os.path.isdir(out) and not os.listdir(out)):
        return False
    if not os.path.isdir(out):
        raise OutputError(f"cannot write to {out}: it is no folder")
    if os.path.isdir(out / WORK):
        return False
    try:
        there = json.loads((out / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or there.get("format") != FORMAT:
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


def _cut(
    stage: Stage,
    found: Clips,
    run: Callable[[Sequence[Job]], Iterator[Clip]],
    max_failures: int | None,
    *,
    retry_failures: bool,
) -> None:
    """Turn every clip into a part; what has one already, of the same file, is taken over."""
    from soundsight.data.prepare.ingest import is_current

    tally = Counter(failed=len(found.skipped))

    def count(part: Part) -> None:
        kept = len(part.kept)
        tally.update(
            videos=1, pairs=kept, dropped=len(part.entries) - kept,
            failed="failure" in part.about, damaged="damage" in part.about,
        )  # fmt: skip

    jobs = []
    for clip in found.clips:
        part = stage.known(clip.id)
        if (
            part is None
            or not is_current(part.about, clip)
            or (retry_failures and "failure" in part.about)
        ):
            jobs.append((clip, stage.part_path(clip.id)))
        else:
            count(part)
    if tally["videos"]:
        say(f"taken over from before: {tally['videos']} of {len(found.clips)} videos", err=True)
    if jobs:
        stage.forget_shards()
    done = run(jobs)
    of = len(found.clips)
    try:
        with progress_bar(log=True) as show, closing(done):  # type: ignore[type-var]
            while max_failures is None or tally["failed"] <= max_failures:
                names = ("pairs", "dropped", "failed", *(["damaged"] if tally["damaged"] else []))
                words = ", ".join(f"{tally[name]} {name}" for name in names)
                show("videos", tally["videos"], of, words)
                cut = next(done, None)
                if cut is None:
                    return
                count(stage.part(cut.id))
    except KeyboardInterrupt:
        _leave_failures(stage, found)
        raise KeyboardInterrupt(
            f"{tally['videos']} of {of} videos are done; the same command goes on"
        ) from None
    except (DataError, OutputError):
        _leave_failures(stage, found)
        raise
    raise DataError(
        f"{tally['failed']} videos have failed, more than --max-failures {max_failures}: "
        f"see {_leave_failures(stage, found)}; what is done is kept"
    )


def _leave_failures(stage: Stage, found: Clips) -> Path | str:
    """Write a table of what has failed so far; return where it is."""
    parts = [(clip.key, stage.known(clip.id)) for clip in found.clips]
    failures = [
        (key, part.about["failure"]) for key, part in parts if part and "failure" in part.about
    ]
    try:
        return stage.report_failures([*found.skipped, *failures])
    except OutputError:
        return "failures.csv"  # a full disk is what is being reported already


# --- learned cleaning and the sheet of what was dropped ------------------------------------------


def _score(name: str, progress: Progress, pairs: StagedPairs, work: Path) -> Any:
    """The learned scorer of a step; torch is loaded when it runs."""
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


def _draw_sheet(step: str, dropped: Sequence[tuple[Record, str]], total: int, path: Path) -> None:
    from soundsight.data.records import IMAGES, MEL, SIDECAR
    from soundsight.data.store.shards import decode_image, decode_mel
    from soundsight.views.drawing import clock
    from soundsight.views.sheet import PairCard, pairs_sheet

    cards = []
    for record, note in dropped:
        about = json.loads(record.files[SIDECAR])
        image = decode_image(next(record.files[name] for name in IMAGES if name in record.files))
        caption = f"{about['clip']}  {clock(about['start_s'])}"
        mel = decode_mel(record.files[MEL])
        cards.append(PairCard(mel=mel, image=image, caption=caption, note=note))
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
    sources: Sequence[str], out: Path, shard_bytes: int, *, overwrite: bool, dry_run: bool
) -> None:
    from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
    from soundsight.data.vegas.batches import batch_files, repack

    paths = [Path(source) for source in sources]
    files = [file for path in paths for _, file in batch_files(path)]
    names = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
    about = {
        **_made_with(),
        "settings": {"layout": PUBLISHED, "shard_bytes": shard_bytes},
        "inputs": {"files": len(files), "sha256": _sha256(names)},
        "mel_frames": FRAMES_PER_SEGMENT,
        "mel_bands": N_MELS,
        "image_px": IMAGE_PX,
    }
    if dry_run:
        typer.echo(json.dumps(about, indent=2))
        return
    with _stage(out, about, overwrite=overwrite) as stage, progress_bar(log=True) as progress:
        if stage is not None:
            show = partial(progress, "writing records")
            repack(stage, paths, about, shard_bytes=shard_bytes, progress=show)


# --- what it says --------------------------------------------------------------------------------


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
    splits = about["splits"]
    shares = about["settings"].get("pack", {}).get("shares", [0] * len(splits))
    asked = [name for name, share in zip(splits, shares, strict=True) if share]
    empty = [name for name in asked if not splits[name]["pairs"]]
    if not empty:
        return
    videos = sum(split["groups"] for split in splits.values())
    why = (
        f"{counted(videos, 'video')} cannot fill {len(asked)} splits: add videos, or ask for fewer "
        "with --split"
        if videos < len(asked)
        else "the manifest or the layout leaves it no video, or cleaning no pair"
    )
    warn(f"no pair in {' and '.join(empty)}: {why}")
