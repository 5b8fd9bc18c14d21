"""``soundsight prepare``: from videos to training pairs, cleaned, split and sharded."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.console import say
from soundsight.cli.progress import Tally, display, phases, report_found, summarise
from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, DataError, OutputError, require_extra
from soundsight.core.files import local_output

if TYPE_CHECKING:
    from soundsight.data.prepare.ingest import IngestConfig
    from soundsight.data.prepare.pack import Dropped, PackConfig, Scorer, StagedPairs
    from soundsight.data.prepare.staging import Part, Stage
    from soundsight.data.records import Clip
    from soundsight.data.sources.find import Clips

PUBLISHED = "published"
"""The layout that is no folder of videos: the authors' binary batches."""

DUPLICATES, COHERENCE, CLASSIFIER = "duplicates", "coherence", "classifier"
ENGINES = ("local", "ray")

_COMMAND = "soundsight prepare"
_WORKERS_PER_CORE = 8
_SHORTEST_LEARNED_S = 0.32
"""The towers of a learned step halve a log-mel five times."""

_AFTER_CUTTING = ("pack", "learned_cleaning")
"""Settings on which no part depends."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(prepare)


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
        Path, typer.Option("--out", "-o", metavar="DATA", help="The dataset; the same one resumes.")
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="How folders are read: auto, folder, classes, vegas, vggsound, ave, audioset, or "
            "published (the authors' binary batches)."
        ),
    ] = "auto",
    segment_s: Annotated[float, typer.Option(help="Length of a segment in seconds.")] = 1.0,
    hop_s: Annotated[
        float | None, typer.Option(help="Seconds between segments (default: their length).")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the picture in pixels, 64 to 256.")] = 96,
    frame: Annotated[str, typer.Option(help="Which frame: center or sharpest.")] = "center",
    crop: Annotated[str, typer.Option(help="Its shape: center or letterbox.")] = "center",
    image: Annotated[str, typer.Option(help="Coding of the picture: jpg or webp.")] = "jpg",
    quality: Annotated[int, typer.Option(help="Quality of that coding, 1 to 100.")] = 95,
    split: Annotated[
        str, typer.Option(help="Shares of train, val and test, by source video.")
    ] = "0.8,0.1,0.1",
    clean: Annotated[
        str,
        typer.Option(
            help="Cleaning steps: all (the default: every step that needs no training), none, or "
            "a list such as silence,black,duplicates. Also: coherence, classifier."
        ),
    ] = "all",
    drop_share: Annotated[
        float, typer.Option(help="Share of pairs that coherence (or classifier) drops.")
    ] = 0.15,
    shard_mb: Annotated[int, typer.Option(min=1, help="Bound on a shard, in MiB.")] = 256,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Videos at once (default: every core).")
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster: HOST:PORT or auto.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one video may take.")
    ] = 3600.0,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop when more videos than this have failed.")
    ] = None,
    retry_failures: Annotated[
        bool,
        typer.Option("--retry-failures", help="Try videos that failed in an unfinished run again."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse a damaged video instead of using what can be read."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a dataset that is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what was found, and stop.")
    ] = False,
) -> None:
    """Cut videos into pairs of a second of sound and its frame: clean, split and shard them.

    A run that was stopped, in whatever way, goes on with the same command.
    """
    require_extra(_COMMAND, "prepare", "fsspec", "imagehash")
    local_output(out)
    if address is not None and engine != "ray":
        raise ConfigError("--address is that of a Ray cluster: pass --engine ray with it")
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}")
    if engine == "ray":
        require_extra(f"{_COMMAND} --engine ray", "ray", "ray")
    if not 0 <= drop_share < 1:
        raise ConfigError(f"--drop-share is from 0 to below 1, not {drop_share:g}")
    from soundsight.data.prepare.clean import CleanConfig
    from soundsight.data.prepare.ingest import IngestConfig
    from soundsight.data.prepare.pack import PackConfig
    from soundsight.data.prepare.split import parse_shares

    steps = _steps(clean)
    ingest = IngestConfig(
        segment_s=segment_s,
        hop_s=segment_s if hop_s is None else hop_s,
        size_px=size,
        frame=frame,
        crop=crop,
        image_format=image,
        quality=quality,
        duplicates=DUPLICATES in steps,
        clean=replace(CleanConfig(), steps=steps.pairwise),
        strict=strict,
    )
    pack = PackConfig(
        steps=steps.pairwise,
        shares=parse_shares(split),
        shard_bytes=shard_mb << 20,
        duplicates=DUPLICATES in steps,
        coherence_share=drop_share,
    )
    from soundsight.data.sources.layouts import LAYOUTS

    choose("layout", layout, dict.fromkeys(("auto", *LAYOUTS, PUBLISHED)))
    if layout == PUBLISHED or (layout == "auto" and _are_batches(sources)):
        if ingest != IngestConfig() or pack != PackConfig(shard_bytes=pack.shard_bytes):
            raise ConfigError(
                "--layout published takes the pairs as they are: of the settings only --shard-mb "
                "applies, leave the others out"
            )
        _prepare_batches(sources, out, pack, overwrite=overwrite, dry_run=dry_run)
        return
    run = _Run(
        sources=sources, out=out, layout=layout, ingest=ingest, pack=pack,
        learned=tuple(name for name in (COHERENCE, CLASSIFIER) if name in steps),
        engine=engine, address=address, workers=workers, timeout_s=timeout,
        max_failures=max_failures, retry_failures=retry_failures, overwrite=overwrite,
    )  # fmt: skip
    run.start(dry_run=dry_run)


class _Steps(tuple[str, ...]):
    """Names of cleaning steps."""

    @property
    def pairwise(self) -> tuple[str, ...]:
        """Those that look at one pair, in the order in which they run."""
        from soundsight.data.prepare.clean import STEPS

        return tuple(step for step in STEPS if step in self)


def _steps(text: str) -> _Steps:
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
    steps = _Steps(dict.fromkeys(names))
    if COHERENCE in steps or CLASSIFIER in steps:
        require_extra(f"{_COMMAND} --clean {text}", "train", "torch", "safetensors", "jaxtyping")
    return steps


# --- videos --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One call of the command."""

    sources: Sequence[str]
    out: Path
    layout: str
    ingest: IngestConfig
    pack: PackConfig
    learned: tuple[str, ...]
    engine: str
    address: str | None
    workers: int | None
    timeout_s: float
    max_failures: int | None
    retry_failures: bool
    overwrite: bool

    def start(self, *, dry_run: bool) -> None:
        from soundsight.data.sources.find import find_clips

        # What ends a job on a cluster stops the run as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        found = find_clips(self.sources, layout=self.layout, exclude=self.out)
        self._check_learned(found)
        about = self._about(found)
        if dry_run:
            shown = {
                **about,
                "layouts": found.layouts, "skipped": len(found.skipped), "ignored": found.ignored,
                "repeated": found.repeated, "missing": found.missing,
            }  # fmt: skip
            typer.echo(json.dumps(shown, indent=2))
            return
        report_found(found)
        if _is_there(self.out, about, overwrite=self.overwrite):
            return
        with _stage(self.out, about, overwrite=self.overwrite) as stage:
            if stage is None:
                return
            self._cut(stage, found)
            self._finish(stage, found, about)
        summarise(self.out)

    def _check_learned(self, found: Clips) -> None:
        """See that a learned step can run before hours are spent on what comes before it."""
        if self.learned and self.ingest.segment_s < _SHORTEST_LEARNED_S:
            raise ConfigError(
                f"--clean {self.learned[0]} takes a --segment-s of {_SHORTEST_LEARNED_S:g} or more"
            )
        if CLASSIFIER in self.learned and any(clip.label is None for clip in found.clips):
            raise DataError(
                "--clean classifier needs a class label for every video: use a layout or a "
                "manifest with labels, or --clean coherence, which needs none"
            )

    def _about(self, found: Clips) -> dict[str, Any]:
        """What dataset.json says of how it was made."""
        from soundsight.core.config import to_dict
        from soundsight.media.windows import whole_frames

        clips = [
            [clip.key, clip.group, clip.label, clip.split, clip.licence] for clip in found.clips
        ]
        mel = self.ingest.mel
        return {
            "soundsight": _version(),
            "created_with": _versions(),
            "settings": {
                **to_dict(self.ingest),
                "pack": to_dict(self.pack),
                "learned_cleaning": list(self.learned),
            },
            "inputs": {
                "clips": len(found.clips),
                "sha256": hashlib.sha256(json.dumps(clips).encode()).hexdigest(),
            },
            "mel_frames": whole_frames(self.ingest.segment_s, "segment_s", mel),
            "mel_bands": mel.n_mels,
            "image_px": self.ingest.size_px,
        }

    def _cut(self, stage: Stage, found: Clips) -> None:
        """Turn every clip into a part."""
        from soundsight.core.cpus import usable_cpus
        from soundsight.data.prepare.engines import Job, run_local, run_ray

        tally = Tally(len(found.clips), len(found.skipped))
        jobs = [
            Job(clip=clip, part=stage.part_path(clip.id))
            for clip in self._left(stage, found.clips, tally)
        ]
        if jobs:
            stage.forget_shards()
        if self.engine == "ray":
            outcomes = run_ray(jobs, self.ingest, self.address, self.workers, self.timeout_s)
        else:
            # More processes than that only wait for each other.
            most = min(_WORKERS_PER_CORE * usable_cpus(), max(1, len(jobs)))
            workers = min(self.workers or usable_cpus(), most)
            outcomes = run_local(jobs, self.ingest, workers, self.timeout_s)
        try:
            with display(tally) as show, closing(outcomes):  # type: ignore[type-var]
                self._check_failures(tally)
                for outcome in outcomes:
                    tally.add(outcome)
                    show()
                    self._check_failures(tally)
        except _TooManyError:
            path = _leave_failures(stage, found) or "failures.csv"
            raise DataError(
                f"{tally.failed} videos have failed, more than --max-failures "
                f"{self.max_failures}: see {path}; what is done is kept"
            ) from None
        except KeyboardInterrupt:
            _leave_failures(stage, found)
            raise KeyboardInterrupt(
                f"{tally.videos} of {tally.clips} videos are done; the same command goes on"
            ) from None
        except (DataError, OutputError):
            _leave_failures(stage, found)
            raise

    def _left(self, stage: Stage, clips: Sequence[Clip], tally: Tally) -> Iterator[Clip]:
        """The clips that have no part yet, or were changed since."""
        from soundsight.data.prepare.ingest import Outcome, is_current

        done = stage.done()
        for clip in clips:
            part = _part(stage, clip) if clip.id in done else None
            if part is not None:
                failure = part.about.get("failure")
                if is_current(part.about, clip) and not (failure and self.retry_failures):
                    kept = sum(not entry.reasons for entry in part.entries)
                    dropped = len(part.entries) - kept
                    tally.take_over(
                        Outcome(
                            clip=clip.id,
                            pairs=kept,
                            dropped=dropped,
                            failure=failure,
                            damage=part.about.get("damage"),
                        )
                    )
                    continue
            yield clip

    def _check_failures(self, tally: Tally) -> None:
        if self.max_failures is not None and tally.failed > self.max_failures:
            raise _TooManyError

    def _finish(self, stage: Stage, found: Clips, about: dict[str, Any]) -> None:
        from soundsight.data.prepare.pack import pack

        with phases() as progress:
            pack(
                stage,
                found.clips,
                self.pack,
                about,
                skipped=[(skipped.path, skipped.reason) for skipped in found.skipped],
                scorers={name: _scorer(name, progress) for name in self.learned},
                draw=_draw_sheet,
                progress=progress,
            )


class _TooManyError(Exception):
    """More videos have failed than ``--max-failures`` allows."""


def _part(stage: Stage, clip: Clip) -> Part | None:
    """A clip's part; None where it is damaged and has to be made again."""
    from soundsight.data.prepare.staging import Part

    try:
        return Part(stage.part_path(clip.id))
    except DataError:
        return None


@contextmanager
def _stage(out: Path, about: dict[str, Any], *, overwrite: bool) -> Iterator[Stage | None]:
    """The locked workplace; None where there was nothing left to do but to move what is done."""
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
            summarise(out)
            yield None
        elif stage.is_new and (out / ABOUT).is_file() and not overwrite:
            # Another run has just finished, or one was killed in its very last moment.
            stage.discard()
            _is_there(out, about, overwrite=False)
            yield None
        else:
            yield stage


def _scorer(name: str, progress: Callable[[str, int, int], None]) -> Scorer:
    """The learned scorer of a step; the torch rooms are loaded when it runs."""

    def score(pairs: StagedPairs, work: Path) -> Any:
        from soundsight.training.coherence import classifier_scores, contrastive_scores

        def told(done: int, of: int) -> None:
            progress(f"learning {name}", done, of)

        if name == COHERENCE:
            scores = contrastive_scores(pairs, work=work, progress=told)
            if scores.mean() > 0:
                return scores
            say(
                f"warning: nothing could be learned from {len(pairs)} pairs, so coherence drops "
                "none of them: it takes some thousands",
                err=True,
            )
            return None
        labels = [label or "" for label in pairs.labels]
        return classifier_scores(pairs, labels, work=work, progress=told)

    return score


def _draw_sheet(step: str, dropped: Sequence[Dropped], total: int, path: Path) -> None:
    from soundsight.data.records import IMAGES, MEL, SIDECAR
    from soundsight.data.store.shards import decode_image, decode_mel
    from soundsight.views.pairs_sheet import PairCard, pairs_sheet
    from soundsight.views.sheet import clock

    title = f"dropped: {step}, {len(dropped)} of {total} pairs"

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
    pairs_sheet(cards, columns=5, title=title).save(path, format="PNG")


def _is_there(out: Path, about: dict[str, Any], *, overwrite: bool, quiet: bool = False) -> bool:
    """Whether this very dataset lies there finished.

    Raises:
        OutputError: when something else does.
    """
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
    same = all(there.get(key) == about[key] for key in ("settings", "inputs", "soundsight"))
    if not same:
        raise OutputError(
            f"{out} holds a dataset of other videos or settings: choose another place or pass "
            "--overwrite"
        )
    if not quiet:
        say(f"finished already: {out} (to do it again, failed videos included: --overwrite)")
    return True


def _leave_failures(stage: Stage, found: Clips) -> Path | None:
    """Write what has failed so far where a person looks for it."""
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


def _version() -> str:
    from soundsight import __version__

    return __version__


def _versions() -> dict[str, str]:
    """What the bytes depend on beside the settings: the libraries that decode and encode."""
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


# --- batches -------------------------------------------------------------------------------------


def _are_batches(sources: Sequence[str]) -> bool:
    """Whether a source is a folder of the authors' batches, or one of them."""
    return any(
        Path(source).match("*_batch_*.bin") or next(Path(source).glob("*_batch_*.bin"), None)
        for source in sources
        if os.path.exists(source)
    )


def _prepare_batches(
    sources: Sequence[str], out: Path, config: PackConfig, *, overwrite: bool, dry_run: bool
) -> None:
    from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
    from soundsight.data.vegas.batches import batch_files
    from soundsight.data.vegas.repack import repack

    paths = [Path(source) for source in sources]
    files = [(file, file.stat().st_size) for path in paths for _, file in batch_files(path)]
    names = "\n".join(f"{file.name} {size}" for file, size in files)
    data = names.encode("utf-8", "surrogateescape")
    about = {
        "soundsight": _version(),
        "created_with": _versions(),
        "settings": {"layout": PUBLISHED, "shard_bytes": config.shard_bytes},
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
    with _stage(out, about, overwrite=overwrite) as stage, phases() as progress:
        if stage is None:
            return
        repack(
            stage,
            paths,
            about,
            shard_bytes=config.shard_bytes,
            progress=lambda done: progress("writing records", done, 0),
        )
    summarise(out)
