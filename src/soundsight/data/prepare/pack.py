"""From parts to a dataset: drop what all clips together show to be wrong, split, write shards.

The order of the clips in the shards is that of their names' hashes: mixed, the same everywhere,
and telling nothing. Everything here is a function of the parts and the settings; what a killed run
had finished is taken over.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import DataError
from soundsight.core.units import IMAGE_CHANNELS
from soundsight.data.prepare.clean import STEPS
from soundsight.data.prepare.duplicates import VideoPrint, find_duplicates
from soundsight.data.prepare.split import SPLITS, split_of, splits_of
from soundsight.data.prepare.staging import (
    DAMAGED,
    DROPPED,
    FAILURES,
    Entry,
    Part,
    Stage,
    write_failures,
    writing,
)
from soundsight.data.records import MEL, SIDECAR, Clip, Record, rank_of, stable_hash
from soundsight.data.store.shards import (
    END_BYTES,
    FORMAT,
    FORMAT_VERSION,
    ShardInfo,
    decode_image,
    decode_mel,
    index_name,
    record_bytes,
    write_dataset,
    write_shard,
)

DUPLICATES = "duplicates"
SHEET_PAIRS = 60
"""Dropped pairs shown on the sheet of a cleaning step, drawn by their names' hashes."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How the pairs of all clips become a dataset.

    Attributes:
        steps: the filters that looked at each pair, in the order in which they are counted.
        shares: of train, val and test, by group.
        shard_bytes: bound on the size of a shard.
        duplicates: drop near-duplicate videos, and keep those that share picture or sound in one
            split.
        coherence_share: share of the pairs, those that agree worst, that a learned step drops.
    """

    steps: tuple[str, ...] = STEPS
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    shard_bytes: int = 256 << 20
    duplicates: bool = True
    coherence_share: float = 0.15


class Scorer(Protocol):
    """Says how well the sound and the picture of each pair agree; higher is better."""

    def __call__(self, pairs: StagedPairs, work: Path) -> NDArray[np.float32] | None:
        """Return float32 [len(pairs)], or None where nothing could be learned: none is dropped.

        ``work`` is a folder for what is worth resuming.
        """


class StagedPairs:
    """The pairs that are left, read from their parts at random.

    Attributes:
        keys: of the records.
        videos: int64 [n], opaque number of the source video (its group).
        labels: class names, or None where there is none; for cleaning only.
    """

    def __init__(self, stage: Stage, rows: Sequence[tuple[Clip, str, Entry]]) -> None:
        self._stage = stage
        self._rows = rows
        self.keys = [entry.key for _, _, entry in rows]
        self.videos = np.array([stable_hash(group) >> 1 for _, group, _ in rows], np.int64)
        self.labels = [clip.label for clip, _, _ in rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def photos(self) -> NDArray[np.int64]:
        """int64 [n]: a video's own frames are no other video's."""
        return self.videos

    def gather(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read pairs: mel uint8 [k, 128, frames], image uint8 [k, px, px, 3]."""
        mels, images = [], []
        for index in indices:
            clip, _, entry = self._rows[int(index)]
            with self._stage.part_path(clip.id).open("rb") as file:
                for name, (offset, size) in entry.members.items():
                    if name == SIDECAR:
                        continue
                    file.seek(offset)
                    data = file.read(size)
                    if name == MEL:
                        mels.append(decode_mel(data))
                    else:
                        images.append(decode_image(data))
        return np.stack(mels), np.stack(images)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A pair for the sheet of a cleaning step.

    Attributes:
        record: the pair.
        note: what to say of it.
    """

    record: Record
    note: str


Draw = Callable[[str, Sequence[Dropped], int, Path], None]
"""Draws the sheet of one step: (step, what to show, of how many pairs, where)."""


@dataclass
class _Survey:
    """What all parts together say."""

    failures: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    unseen: int = 0
    cut: int = 0
    by_step: Counter[str] = field(default_factory=Counter)
    prints: list[VideoPrint] = field(default_factory=list)
    contents: dict[str, list[Clip]] = field(default_factory=dict)
    usable: list[Clip] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)
    sheets: dict[str, list[tuple[int, Clip, Entry, str]]] = field(default_factory=dict)

    def show(self, step: str, clip: Clip, entry: Entry, note: str) -> None:
        shown = self.sheets.setdefault(step, [])
        heapq.heappush(shown, (-stable_hash(f"sheet {entry.key}"), clip, entry, note))
        if len(shown) > SHEET_PAIRS:
            heapq.heappop(shown)


def pack(
    stage: Stage,
    clips: Sequence[Clip],
    config: PackConfig,
    about: Mapping[str, Any],
    *,
    skipped: Sequence[tuple[str, str]] = (),
    scorers: Mapping[str, Scorer] | None = None,
    draw: Draw | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Make the dataset out of the parts of ``clips``, all of which must be there.

    Args:
        stage: the locked workplace.
        clips: all clips.
        config: how.
        about: what dataset.json says beside counts and splits (settings, versions).
        skipped: (path, reason) of what was no clip at all, for failures.csv.
        scorers: step -> what tells the pairs that agree worst, which are dropped.
        draw: draws the sheets of dropped pairs.
        progress: told (what is done, how many, of how many).

    Returns:
        The content of dataset.json.

    Raises:
        DataError: when no pair is left.
        OutputError: when the dataset cannot be written.
    """
    packer = _Packer(stage, clips, config, scorers or {}, draw, progress)
    with writing(stage.data):
        return packer.run(about, skipped)


class _Packer:
    def __init__(
        self,
        stage: Stage,
        clips: Sequence[Clip],
        config: PackConfig,
        scorers: Mapping[str, Scorer],
        draw: Draw | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._stage = stage
        self._config = config
        self._scorers = scorers
        self._draw = draw
        self._progress = progress
        self._clips = sorted(clips, key=lambda clip: (stable_hash(clip.key), clip.key))
        self._out = stage.work / "out"
        self._survey = _Survey()
        # Final group and split of each usable clip, and what is dropped: clips and single pairs.
        self._group: dict[str, str] = {}
        self._split: dict[str, str] = {}
        self._lost_clips: set[str] = set()
        self._lost_pairs: set[str] = set()
        self._funnel: list[dict[str, Any]] = []

    def run(self, about: Mapping[str, Any], skipped: Sequence[tuple[str, str]]) -> dict[str, Any]:
        self._look()
        self._place()
        for step, scorer in self._scorers.items():
            self._drop_incoherent(step, scorer)
        self._out.mkdir(exist_ok=True)
        splits, train = self._write_shards(skipped)
        statistics = train.statistics(
            about["mel_bands"] * about["mel_frames"], about["image_px"] ** 2
        )
        failures = [*skipped, *self._survey.failures]
        write_failures(self._out / FAILURES, failures)
        if self._survey.damaged:
            write_failures(self._out / DAMAGED, self._survey.damaged)
        self._draw_sheets()
        self._sweep(splits)
        files: set[str] = set()
        for split in splits.values():
            files |= set(split.pop("files"))
        pairs = sum(split["pairs"] for split in splits.values())
        finished = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **about,
            "files": sorted(files),
            "labels": sorted({c.label for c in self._survey.usable if c.label is not None}),
            "counts": {
                "clips": len(self._clips) + len(skipped),
                "failed": len(failures),
                "damaged": len(self._survey.damaged),
                "pairs_cut": self._survey.cut,
                "sound_without_picture": self._survey.unseen,
                "pairs": pairs,
                "cleaning": self._funnel,
            },
            "statistics": statistics,
            "splits": splits,
        }
        write_dataset(self._out, finished)
        self._stage.move_into_place()
        return finished

    def _tell(self, what: str, done: int, of: int) -> None:
        if self._progress is not None:
            self._progress(what, done, of)

    def _part(self, clip: Clip) -> Part:
        return Part(self._stage.part_path(clip.id))

    # --- what the clips together say -----------------------------------------------------------

    def _look(self) -> None:
        survey = self._survey
        for number, clip in enumerate(self._clips):
            part = self._part(clip)
            failure = part.about.get("failure")
            if failure is not None:
                survey.failures.append((clip.key, failure))
                continue
            if part.about.get("damage") is not None:
                survey.damaged.append((clip.key, part.about["damage"]))
            survey.usable.append(clip)
            survey.unseen += part.about["unseen"]
            survey.cut += len(part.entries)
            survey.kept[clip.id] = sum(not entry.reasons for entry in part.entries)
            for entry in part.entries:
                if entry.reasons:
                    # A pair counts for the first step that drops it, as if they ran in turn.
                    survey.by_step[entry.reasons[0]] += 1
                    survey.show(entry.reasons[0], clip, entry, ", ".join(entry.reasons))
            if part.about.get("print") is not None:
                survey.contents.setdefault(part.about["content"], []).append(clip)
                survey.prints.append(VideoPrint.from_bytes(base64.b64decode(part.about["print"])))
            if number % 100 == 0:
                self._tell("looking", number, len(self._clips))
        left = survey.cut
        for step in self._config.steps:
            left = self._count(step, left, survey.by_step[step])

    def _count(self, step: str, before: int, dropped: int) -> int:
        self._funnel.append(
            {"step": step, "before": before, "dropped": dropped, "after": before - dropped}
        )
        return before - dropped

    def _kept(self) -> Iterator[tuple[Clip, str, Entry]]:
        """The pairs that are left, in the order of the shards: (clip, its final group, pair)."""
        for clip in self._survey.usable:
            if clip.id in self._lost_clips:
                continue
            for entry in self._part(clip).entries:
                if not entry.reasons and entry.key not in self._lost_pairs:
                    yield clip, self._group[clip.id], entry

    def _place(self) -> None:
        """Give every clip its group and split; drop videos that are there twice."""
        usable = {clip.id: clip for clip in self._survey.usable}
        for clip in usable.values():
            self._group[clip.id] = clip.group
        kept_instead: dict[str, str] = {}
        if self._config.duplicates:
            kept_instead = self._merge(usable)
        chosen: dict[str, str] = {}
        for clip in usable.values():
            group = self._group[clip.id]
            if clip.split is not None:
                # What a source reserves for evaluation stays reserved.
                chosen[group] = max(clip.split, chosen.get(group, clip.split), key=SPLITS.index)
        shares = self._config.shares
        # A split is not filled by what has no pair.
        filling = {
            self._group[clip.id]
            for clip in usable.values()
            if self._survey.kept[clip.id] and clip.id not in kept_instead
        }
        placed = splits_of(filling, shares, chosen)
        for clip in usable.values():
            group = self._group[clip.id]
            split = placed.get(group) or chosen.get(group) or split_of(group, shares)
            self._split[clip.id] = split
            if clip.split not in (None, split):
                # It shows or sounds what another split holds: in its own it would leak.
                kept_instead.setdefault(clip.id, "")
        self._lost_clips = set(kept_instead)
        if not self._config.duplicates and not kept_instead:
            return
        lost = 0
        for clip in self._survey.usable:
            if clip.id not in kept_instead:
                continue
            lost += self._survey.kept[clip.id]
            pairs = [entry for entry in self._part(clip).entries if not entry.reasons]
            twin = usable.get(kept_instead[clip.id])
            note = f"as in {twin.key}" if twin is not None else "leaks into another split"
            for entry in pairs[:1]:
                self._survey.show(DUPLICATES, clip, entry, note)
        left = self._funnel[-1]["after"] if self._funnel else self._survey.cut
        self._count(DUPLICATES, left, lost)

    def _merge(self, usable: Mapping[str, Clip]) -> dict[str, str]:
        """Join the groups of videos that are alike; return (clip id -> the one kept instead)."""
        self._tell("comparing", 0, len(self._survey.prints))
        found = find_duplicates(self._survey.prints)
        # The very same pairs: a plain copy, found however little there is to hear in it.
        copies = [same for same in self._survey.contents.values() if len(same) > 1]

        def clip_id(name: str) -> str:
            return name.partition(" ")[2]

        parent: dict[str, str] = {}

        def root(name: str) -> str:
            while parent.setdefault(name, name) != name:
                parent[name] = parent[parent[name]]
                name = parent[name]
            return name

        alike = [[usable[clip_id(member)] for member in members] for members in found.groups]
        for members in [*alike, *copies]:
            roots = sorted({root(member.group) for member in members})
            for other in roots[1:]:
                parent[other] = roots[0]
        for clip in usable.values():
            self._group[clip.id] = root(clip.group)
        instead = {clip_id(lost): clip_id(kept) for lost, kept in found.duplicates.items()}
        for same in copies:
            first, *others = sorted(same, key=lambda clip: (rank_of(clip), clip.id))
            for later in others:
                instead.setdefault(later.id, first.id)
        return instead

    def _drop_incoherent(self, step: str, scorer: Scorer) -> None:
        rows = list(self._kept())
        work = self._stage.work / step
        work.mkdir(exist_ok=True)
        pairs = StagedPairs(self._stage, rows)
        scores = scorer(pairs, work)
        if scores is None:
            self._count(step, len(rows), 0)
            return
        count = int(len(rows) * self._config.coherence_share)
        order = sorted(
            range(len(rows)), key=lambda i: (float(scores[i]), stable_hash(pairs.keys[i]))
        )
        for index in order[:count]:
            clip, _, entry = rows[index]
            self._lost_pairs.add(entry.key)
            self._survey.show(step, clip, entry, f"agreement {scores[index]:.2f}")
        self._count(step, len(rows), count)

    # --- shards --------------------------------------------------------------------------------

    def _write_shards(self, skipped: Sequence[tuple[str, str]]) -> tuple[dict[str, Any], _Shards]:
        journal = _Journal(self._stage.work / "shards.jsonl")

        left = self._funnel[-1]["after"] if self._funnel else self._survey.cut
        written = 0

        def write(name: str, rows: Sequence[tuple[Clip, Entry]]) -> ShardInfo:
            nonlocal written
            info = self._write_shard(name, rows, journal)
            written += info.pairs
            self._tell("writing pairs", written, left)
            return info

        splits = {split: _Shards(split, self._config.shard_bytes, write) for split in SPLITS}
        for clip, group, entry in self._kept():
            splits[self._split[clip.id]].add(clip, group, entry)
        about = {split: shards.finish() for split, shards in splits.items()}
        if not any(shards.pairs for shards in splits.values()):
            path = self._stage.report_failures([*skipped, *self._survey.failures])
            dropped = self._survey.cut
            failed = len(skipped) + len(self._survey.failures)
            first = next(iter([*self._survey.failures, *skipped]), None)
            example = f", the first: {first[0]}: {first[1]}" if first else ""
            raise DataError(
                f"no pair is left for {self._stage.data}: cleaning dropped {dropped}, and {failed} "
                f"videos failed (see {path}{example})"
            )
        return about, splits["train"]

    def _write_shard(
        self, name: str, rows: Sequence[tuple[Clip, Entry]], journal: _Journal
    ) -> ShardInfo:
        keys = "\n".join(entry.key for _, entry in rows).encode()
        plan = hashlib.sha256(keys).hexdigest()
        path = self._out / name
        info = journal.get(name, plan)
        beside = self._out / index_name(name)
        there = path.is_file() and beside.is_file()
        if info is not None and there and path.stat().st_size == info.bytes:
            return info
        info = write_shard(path, self._records(rows))
        journal.add(plan, info)
        return info

    def _records(self, rows: Sequence[tuple[Clip, Entry]]) -> Iterator[Record]:
        clip_id, part = "", None
        for clip, entry in rows:
            if part is None or clip.id != clip_id:
                clip_id, part = clip.id, self._part(clip)
            yield part.record(entry)

    def _sweep(self, splits: Mapping[str, Any]) -> None:
        """Remove what a killed run was writing, or had written for other videos."""
        shards = [shard["name"] for split in splits.values() for shard in split["shards"]]
        kept = {*shards, *map(index_name, shards), FAILURES, DROPPED}
        kept |= {DAMAGED} if self._survey.damaged else set()
        for entry in list(self._out.iterdir()):
            if entry.name not in kept:
                entry.unlink()

    def _draw_sheets(self) -> None:
        folder = self._out / DROPPED
        shutil.rmtree(folder, ignore_errors=True)
        if self._draw is None:
            return
        for step, shown in sorted(self._survey.sheets.items()):
            folder.mkdir(exist_ok=True)
            rows = sorted(shown, key=lambda row: (-row[0], row[2].key))
            dropped = [
                Dropped(record=self._part(clip).record(entry), note=note)
                for _, clip, entry, note in rows
            ]
            total = sum(row["dropped"] for row in self._funnel if row["step"] == step)
            self._draw(step, dropped, total, folder / f"{step}.png")


class _Shards:
    """Fills the shards of one split, one after the other, in constant memory."""

    def __init__(
        self,
        split: str,
        limit: int,
        write: Callable[[str, Sequence[tuple[Clip, Entry]]], ShardInfo],
    ) -> None:
        self._split = split
        self._limit = limit
        self._write = write
        self._waiting: list[tuple[Clip, Entry]] = []
        self._bytes = END_BYTES
        self._infos: list[ShardInfo] = []
        self._clips: set[str] = set()
        self._groups: set[str] = set()
        self._files: set[str] = set()
        self._sums = np.zeros(2 + 2 * IMAGE_CHANNELS, object)
        self.pairs = 0

    def add(self, clip: Clip, group: str, entry: Entry) -> None:
        """Put a pair into the shard that is being filled, or into the next where it is full."""
        size = record_bytes({name: size for name, (_, size) in entry.members.items()})
        if self._waiting and self._bytes + size > self._limit:
            self._flush()
        self._waiting.append((clip, entry))
        self._bytes += size
        self.pairs += 1
        self._clips.add(clip.id)
        self._groups.add(group)
        self._files |= set(entry.members)
        self._sums += np.array(entry.sums, object)

    def _flush(self) -> None:
        name = f"{self._split}-{len(self._infos):06d}.tar"
        self._infos.append(self._write(name, self._waiting))
        self._waiting, self._bytes = [], END_BYTES

    def finish(self) -> dict[str, Any]:
        """Write what is waiting and return what dataset.json says of the split."""
        if self._waiting:
            self._flush()
        return {
            "pairs": self.pairs,
            "videos": len(self._clips),
            "groups": len(self._groups),
            "shards": [asdict(info) for info in self._infos],
            "files": sorted(self._files),
        }

    def statistics(self, mel_values: int, pixels: int) -> dict[str, Any]:
        """Mean and standard deviation of the levels (0 .. 255) over the split.

        Args:
            mel_values: levels of one log-mel.
            pixels: pixels of one picture.
        """
        pairs = self.pairs
        if not pairs:
            return {}
        counts = [mel_values] + [pixels] * IMAGE_CHANNELS
        means, deviations = [], []
        for place, count in enumerate(counts):
            total, squares = int(self._sums[2 * place]), int(self._sums[2 * place + 1])
            mean = total / (pairs * count)
            means.append(round(mean, 4))
            deviations.append(round(max(0.0, squares / (pairs * count) - mean**2) ** 0.5, 4))
        return {
            "split": self._split,
            "pairs": pairs,
            "mel_mean": means[0],
            "mel_std": deviations[0],
            "image_mean": means[1:],
            "image_std": deviations[1:],
        }


class _Journal:
    """Remembers which shards are finished, beside the dataset in the making."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {}
        text = path.read_text("utf-8") if path.is_file() else ""
        # A killed run may have left a line that lacks its end.
        self._whole = text.endswith("\n") or not text
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self._lines[row["name"]] = row

    def get(self, name: str, plan: str) -> ShardInfo | None:
        row = self._lines.get(name)
        if row is None or row["plan"] != plan:
            return None
        return ShardInfo(**{key: value for key, value in row.items() if key != "plan"})

    def add(self, plan: str, info: ShardInfo) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            if not self._whole:
                file.write("\n")
                self._whole = True
            file.write(json.dumps({"plan": plan, **asdict(info)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
