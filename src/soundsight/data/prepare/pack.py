"""From parts to a dataset: drop what all clips together show to be wrong, split, write shards.

The order of the clips in the shards is that of their names' hashes: mixed, the same everywhere,
and telling nothing. Everything here is a function of the parts and the settings; what a killed run
had finished is taken over.

Which split a video belongs to is a function of its group's name: adding or removing videos moves no
other video, on any machine, in any order; save that where a split would stay empty, a video whose
name lies near to it stands in, until one of its own comes.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import write_json
from soundsight.core.units import IMAGE_CHANNELS
from soundsight.data.prepare.clean import STEPS
from soundsight.data.prepare.duplicates import VideoPrint, find_duplicates, united
from soundsight.data.prepare.staging import (
    DAMAGED,
    DROPPED,
    FAILURES,
    Stage,
    write_failures,
    writing,
)
from soundsight.data.records import IMAGES, MEL, SPLITS, Clip, Record, rank_of, stable_hash
from soundsight.data.store.shards import (
    FORMAT,
    FORMAT_VERSION,
    Entry,
    ShardInfo,
    ShardWriter,
    decode_image,
    decode_mel,
    index_name,
    write_dataset,
    write_shard,
)

DUPLICATES = "duplicates"
SHEET_PAIRS = 60
"""Dropped pairs shown on the sheet of a cleaning step, drawn by their names' hashes."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How the pairs of all clips become a dataset."""

    steps: tuple[str, ...] = STEPS  #: the filters, in the order in which they are counted
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)  #: of train, val and test, by group
    shard_bytes: int = 256 << 20  #: bound on the size of a shard
    duplicates: bool = True  #: drop near-duplicate videos; similar ones share a split
    coherence_share: float = 0.15  #: of the pairs, that a learned step drops


class StagedPairs:
    """The pairs that are left, read from their parts at random."""

    def __init__(self, stage: Stage, rows: Sequence[tuple[Clip, str, Entry]]) -> None:
        self._stage = stage
        self._rows = rows
        self.keys = [entry.key for _, _, entry in rows]  #: of the records
        #: int64 [n], opaque number of the source video; its own frames are no other video's.
        self.videos = np.array([stable_hash(group) >> 1 for _, group, _ in rows], np.int64)
        self.photos = self.videos
        self.labels = [clip.label for clip, _, _ in rows]  #: class names or None, for cleaning

    def __len__(self) -> int:
        return len(self._rows)

    def gather(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read pairs: mel uint8 [k, 128, frames], image uint8 [k, px, px, 3]."""
        mels, images = [], []
        for index in indices:
            clip, _, entry = self._rows[int(index)]
            with self._stage.part_path(clip.id).open("rb") as file:
                file.seek(entry.start)
                files = entry.cut(file.read(entry.size)).files
            mels.append(decode_mel(files[MEL]))
            images.append(decode_image(next(files[name] for name in IMAGES if name in files)))
        return np.stack(mels), np.stack(images)


Scorer = Callable[[StagedPairs, Path], NDArray[np.float32] | None]
"""Says how well sound and picture of each pair agree: float32 [n], higher is better.

None: nothing could be learned, and nothing is dropped. The path is a folder for what is worth
resuming."""

Draw = Callable[[str, Sequence[tuple[Record, str]], int, Path], None]
"""Draws the sheet of one step: (step, pairs to show with a note each, of how many, where)."""

Progress = Callable[[str, int, int], None]
"""Called with (what is done, how many, of how many)."""


def pack(
    stage: Stage,
    clips: Sequence[Clip],
    config: PackConfig,
    about: Mapping[str, Any],
    *,
    skipped: Sequence[tuple[str, str]] = (),
    scorers: Mapping[str, Scorer] | None = None,
    draw: Draw | None = None,
    progress: Progress = lambda _what, _done, _of: None,
) -> None:
    """Make the dataset out of the parts of ``clips``, all of which must be there.

    ``about`` is what dataset.json says beside counts and splits; ``skipped`` (path, reason) what
    was no clip at all. For each step of ``scorers`` the pairs that agree worst are dropped.
    """
    with writing(stage.data):
        packer = _Packer(stage, clips, config, progress)
        packer.failures += skipped
        packer.survey()
        packer.place()
        for step, scorer in (scorers or {}).items():
            packer.drop_incoherent(step, scorer)
        packer.write(about, draw)
        stage.move_into_place()


class _Packer:
    """What is known of the clips so far; each step adds to it."""

    def __init__(
        self, stage: Stage, clips: Sequence[Clip], config: PackConfig, progress: Progress
    ) -> None:
        self._stage, self._config, self._progress = stage, config, progress
        self._clips = sorted(clips, key=lambda clip: (stable_hash(clip.key), clip.key))
        self.failures: list[tuple[str, str]] = []
        self._damaged: list[tuple[str, str]] = []
        self._unseen = self._cut = self._left = self._written = 0
        self._funnel: list[dict[str, Any]] = []
        self._sheets: dict[str, list[tuple[int, Clip, Entry, str]]] = {}
        self._prints: list[VideoPrint] = []
        self._contents: dict[str, list[Clip]] = {}
        # By clip: those that can be used, their pairs that are kept, final group and split.
        self._usable: dict[str, Clip] = {}
        self._kept: dict[str, int] = {}
        self._group: dict[str, str] = {}
        self._split: dict[str, str] = {}
        self._lost_clips: set[str] = set()
        self._lost_pairs: set[str] = set()

    def survey(self) -> None:
        """Read what each part says of its clip."""
        by_step: Counter[str] = Counter()
        for number, clip in enumerate(self._clips):
            part = self._stage.part(clip.id)
            about = part.about
            if "failure" in about:
                self.failures.append((clip.key, about["failure"]))
                continue
            if "damage" in about:
                self._damaged.append((clip.key, about["damage"]))
            self._usable[clip.id] = clip
            self._group[clip.id] = clip.group
            self._unseen += about["unseen"]
            self._cut += len(part.entries)
            self._kept[clip.id] = len(part.kept)
            for entry in part.entries:
                if entry.reasons:
                    # A pair counts for the first step that drops it, as if they ran in turn.
                    by_step[entry.reasons[0]] += 1
                    self._show(entry.reasons[0], clip, entry, ", ".join(entry.reasons))
            if "print" in about:
                self._contents.setdefault(about["content"], []).append(clip)
                self._prints.append(VideoPrint.from_json(about["print"]))
            if number % 100 == 0:
                self._progress("looking", number, len(self._clips))
        self._left = self._cut
        for step in self._config.steps:
            self._count(step, by_step[step])

    def _show(self, step: str, clip: Clip, entry: Entry, note: str) -> None:
        """Put a dropped pair on a step's sheet, which shows those of the lowest hashes."""
        shown = self._sheets.setdefault(step, [])
        heapq.heappush(shown, (-stable_hash(f"sheet {entry.key}"), clip, entry, note))
        if len(shown) > SHEET_PAIRS:
            heapq.heappop(shown)

    def _count(self, step: str, dropped: int) -> None:
        before, self._left = self._left, self._left - dropped
        self._funnel.append(
            {"step": step, "before": before, "dropped": dropped, "after": self._left}
        )

    def _rows(self) -> Iterator[tuple[Clip, str, Entry]]:
        """The pairs that are left, in the order of the shards: (clip, its final group, pair)."""
        for clip in self._usable.values():
            if clip.id not in self._lost_clips:
                for entry in self._stage.part(clip.id).kept:
                    if entry.key not in self._lost_pairs:
                        yield clip, self._group[clip.id], entry

    def place(self) -> None:
        """Give every clip its group and split; drop videos that are there twice."""
        kept_instead = self._merge() if self._config.duplicates else {}
        clips, shares = self._usable.values(), self._config.shares
        chosen: dict[str, str] = {}
        for clip in clips:
            group = self._group[clip.id]
            if clip.split is not None:
                # What a source reserves for evaluation stays reserved.
                chosen[group] = max(clip.split, chosen.get(group, clip.split), key=SPLITS.index)
        # A split is not filled by what has no pair.
        filling = {
            self._group[clip.id]
            for clip in clips
            if self._kept[clip.id] and clip.id not in kept_instead
        }
        placed = splits_of(filling, shares, chosen)
        for clip in clips:
            group = self._group[clip.id]
            split = placed.get(group) or chosen.get(group) or split_of(group, shares)
            self._split[clip.id] = split
            if clip.split not in (None, split):
                # It shows or sounds what another split holds: in its own it would leak.
                kept_instead.setdefault(clip.id, "")
        self._lost_clips = set(kept_instead)
        if not self._config.duplicates and not kept_instead:
            return
        for clip in clips:
            if clip.id in kept_instead:
                twin = self._usable.get(kept_instead[clip.id])
                note = f"as in {twin.key}" if twin is not None else "leaks into another split"
                for entry in self._stage.part(clip.id).kept[:1]:
                    self._show(DUPLICATES, clip, entry, note)
        self._count(DUPLICATES, sum(self._kept[clip_id] for clip_id in kept_instead))

    def _merge(self) -> dict[str, str]:
        """Join the groups of videos that are alike; return (clip id -> the one kept instead)."""
        self._progress("comparing", 0, len(self._prints))
        found = find_duplicates(self._prints)
        # The very same pairs: a plain copy, found however little there is to hear in it.
        copies = [same for same in self._contents.values() if len(same) > 1]

        def clip_id(name: str) -> str:
            return name.partition(" ")[2]

        alike = [[self._usable[clip_id(member)] for member in group] for group in found.groups]
        first_of = united([clip.group for clip in members] for members in [*alike, *copies])
        for clip in self._usable.values():
            self._group[clip.id] = first_of.get(clip.group, clip.group)
        instead = {clip_id(lost): clip_id(kept) for lost, kept in found.duplicates.items()}
        for same in copies:
            first, *others = sorted(same, key=lambda clip: (rank_of(clip), clip.id))
            for later in others:
                instead.setdefault(later.id, first.id)
        return instead

    def drop_incoherent(self, step: str, scorer: Scorer) -> None:
        """Drop the share of the pairs that a learned step says agree worst."""
        rows = list(self._rows())
        work = self._stage.work / step
        work.mkdir(exist_ok=True)
        pairs = StagedPairs(self._stage, rows)
        scores = scorer(pairs, work)
        if scores is None:
            self._count(step, 0)
            return
        count = int(len(rows) * self._config.coherence_share)
        order = sorted(range(len(rows)), key=lambda i: (scores[i], stable_hash(pairs.keys[i])))
        for index in order[:count]:
            clip, _, entry = rows[index]
            self._lost_pairs.add(entry.key)
            self._show(step, clip, entry, f"agreement {scores[index]:.2f}")
        self._count(step, count)

    # --- writing -------------------------------------------------------------------------------

    def write(self, about: Mapping[str, Any], draw: Draw | None) -> None:
        """Write shards, tables, sheets and dataset.json."""
        out = self._stage.out
        out.mkdir(exist_ok=True)
        shards = {
            split: ShardWriter(split, self._config.shard_bytes, self._write_shard)
            for split in SPLITS
        }
        sums = np.zeros(2 + 2 * IMAGE_CHANNELS, object)
        for clip, group, entry in self._rows():
            split = self._split[clip.id]
            sizes = {name: size for name, (_, size) in entry.files.items()}
            shards[split].add((clip, entry), sizes, clip.id, group)
            if split == "train":
                sums += np.array(entry.sums, object)
        splits = {split: writer.finish() for split, writer in shards.items()}
        pairs = sum(writer.pairs for writer in shards.values())
        if not pairs:
            path = self._stage.report_failures(self.failures)
            first = f", the first: {': '.join(self.failures[0])}" if self.failures else ""
            raise DataError(
                f"no pair is left for {self._stage.data}: cleaning dropped {self._cut}, and "
                f"{len(self.failures)} videos failed (see {path}{first})"
            )
        write_failures(out / FAILURES, self.failures)
        if self._damaged:
            write_failures(out / DAMAGED, self._damaged)
        self._draw_sheets(draw)
        # What a killed run was writing, or had written for other videos, is swept away.
        names = [shard["name"] for split in splits.values() for shard in split["shards"]]
        kept = {
            *names,
            *map(index_name, names),
            FAILURES,
            DROPPED,
            *[DAMAGED][: len(self._damaged)],
        }
        for path in list(out.iterdir()):
            if path.name not in kept:
                path.unlink()
        finished = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **about,
            "files": sorted(set().union(*(writer.files for writer in shards.values()))),
            "labels": sorted({c.label for c in self._usable.values() if c.label is not None}),
            "counts": {
                "clips": len(self._usable) + len(self.failures),
                "failed": len(self.failures),
                "damaged": len(self._damaged),
                "pairs_cut": self._cut,
                "sound_without_picture": self._unseen,
                "pairs": pairs,
                "cleaning": self._funnel,
            },
            "statistics": _statistics(shards["train"].pairs, sums.tolist(), about),
            "splits": splits,
        }
        write_dataset(out, finished)

    def _write_shard(self, name: str, rows: Sequence[tuple[Clip, Entry]]) -> ShardInfo:
        """Write a shard, or take over what a run that was stopped has finished of it."""
        keys = "\n".join(entry.key for _, entry in rows).encode()
        plan = hashlib.sha256(keys).hexdigest()
        note = self._stage.work / "shards" / f"{name}.json"
        path = self._stage.out / name
        try:
            known = json.loads(note.read_bytes())
            info = ShardInfo(**known["shard"])
            whole = known["plan"] == plan and path.stat().st_size == info.bytes
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole or not (self._stage.out / index_name(name)).is_file():
            info = write_shard(path, self._records(rows))
            write_json(note, {"plan": plan, "shard": asdict(info)})
        self._written += info.pairs
        self._progress("writing pairs", self._written, self._left)
        return info

    def _records(self, rows: Iterable[tuple[Clip, Entry]]) -> Iterator[Record]:
        for clip, of_clip in itertools.groupby(rows, key=lambda row: row[0]):
            part = self._stage.part(clip.id)
            for _, entry in of_clip:
                yield part.record(entry)

    def _draw_sheets(self, draw: Draw | None) -> None:
        folder = self._stage.out / DROPPED
        shutil.rmtree(folder, ignore_errors=True)
        if draw is None:
            return
        for step, shown in sorted(self._sheets.items()):
            folder.mkdir(exist_ok=True)
            rows = sorted(shown, key=lambda row: (-row[0], row[2].key))
            dropped = [
                (self._stage.part(clip.id).record(entry), note) for _, clip, entry, note in rows
            ]
            total = sum(row["dropped"] for row in self._funnel if row["step"] == step)
            draw(step, dropped, total, folder / f"{step}.png")


def _statistics(pairs: int, sums: Sequence[int], about: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation of the levels (0 .. 255) of the train split."""
    if not pairs:
        return {}
    levels = [about["mel_bands"] * about["mel_frames"], *IMAGE_CHANNELS * [about["image_px"] ** 2]]
    means = [total / (pairs * count) for total, count in zip(sums[::2], levels, strict=True)]
    deviations = [
        round(max(0.0, squares / (pairs * count) - mean**2) ** 0.5, 4)
        for squares, count, mean in zip(sums[1::2], levels, means, strict=True)
    ]
    means = [round(mean, 4) for mean in means]
    return {
        "split": "train",
        "pairs": pairs,
        "mel_mean": means[0],
        "mel_std": deviations[0],
        "image_mean": means[1:],
        "image_std": deviations[1:],
    }


# --- which split a group belongs to ------------------------------------------------------------


def parse_shares(text: str) -> tuple[float, float, float]:
    """Read shares such as ``0.8,0.1,0.1`` (train, val, test; the last may be left out)."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2:
        numbers.append(0.0)
    fits = len(numbers) == 3 and all(0 <= share <= 1 for share in numbers)
    if not fits or abs(sum(numbers) - 1) > 1e-6:
        raise ConfigError(
            f"--split {text}: three shares that sum to 1 are expected, such as 0.8,0.1,0.1"
        )
    return numbers[0], numbers[1], numbers[2]


def _place(group: str) -> float:
    """Where a name's hash lies between 0 and 1."""
    return stable_hash(f"split {group}") / 2.0**64


def split_of(group: str, shares: Sequence[float]) -> str:
    """Return the split of a group by its name, for shares of train, val and test."""
    if _place(group) < shares[0]:
        return "train"
    # Rounding must not put a group into a split that is asked to be empty.
    return "val" if _place(group) < shares[0] + shares[1] or shares[2] == 0 else "test"


def splits_of(
    groups: Iterable[str], shares: Sequence[float], fixed: Mapping[str, str]
) -> dict[str, str]:
    """Return the split of each group; none that is asked for stays empty where that can be.

    A split whose share no name has met takes the group whose hash lies nearest to it, out of a
    split that keeps another one. Groups that are ``fixed``, as their source asks, stay.
    """
    found = {group: fixed.get(group) or split_of(group, shares) for group in groups}
    for number, (split, share) in enumerate(zip(SPLITS, shares, strict=True)):
        begin, end = sum(shares[:number]), sum(shares[: number + 1])
        held = Counter(found.values())
        spare = [group for group in found if group not in fixed and held[found[group]] > 1]
        if share and spare and not held[split]:
            nearest = min(spare, key=lambda g: (max(begin - _place(g), _place(g) - end), g))
            found[nearest] = split
    return found
