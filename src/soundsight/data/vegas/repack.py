"""The authors' binary batches -> a dataset, without a video in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError
from soundsight.data.prepare.split import SPLITS
from soundsight.data.prepare.staging import FAILURES, Stage, write_failures, writing
from soundsight.data.records import SIDECAR, Record
from soundsight.data.store.shards import (
    END_BYTES,
    FORMAT,
    FORMAT_VERSION,
    ShardInfo,
    record_bytes,
    write_dataset,
    write_shard,
)
from soundsight.data.vegas.batches import Kind, batch_records


def repack(
    stage: Stage,
    sources: Sequence[Path],
    about: Mapping[str, Any],
    *,
    shard_bytes: int,
    kind: Kind | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write batches as shards; the splits are those of the files' names.

    Args:
        stage: the locked workplace.
        sources: files, or folders of them.
        about: what dataset.json says beside counts and splits.
        shard_bytes: bound on the size of a shard.
        kind: of the batches; None to recognise it.
        progress: told how many records are written.

    Returns:
        The content of dataset.json.

    Raises:
        DataError: on a truncated or foreign file, with the byte where it goes wrong.
        OutputError: when the dataset cannot be written.
    """
    with writing(stage.data):
        return _repack(stage, sources, about, shard_bytes, kind, progress)


def _repack(
    stage: Stage,
    sources: Sequence[Path],
    about: Mapping[str, Any],
    shard_bytes: int,
    kind: Kind | str | None,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    out = stage.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    writers = {split: _Writer(out, split, shard_bytes) for split in SPLITS}
    written = 0
    seen: set[str] = set()
    members: frozenset[str] | None = None
    for source in sources:
        for split, record in batch_records(source, kind):
            if record.key in seen:
                clip = json.loads(record.files[SIDECAR])["clip"]
                raise DataError(f"{source}: {clip} was there before: name each batch once")
            seen.add(record.key)
            if members is None:
                members = frozenset(record.files)
            elif members != frozenset(record.files):
                raise DataError(
                    f"{source}: these batches are of another kind than those before: prepare each "
                    "kind by itself"
                )
            writers[split].add(record)
            written += 1
            if progress is not None and written % 100 == 0:
                progress(written)
    if not written:
        raise DataError(f"no record in {', '.join(map(str, sources))}: the files are empty")
    splits = {split: writer.finish() for split, writer in writers.items()}
    files = set().union(*(writer.files for writer in writers.values()))
    finished = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **about,
        "files": sorted(files),
        "labels": sorted(set().union(*(writer.labels for writer in writers.values()))),
        "counts": {"pairs": written},
        "statistics": {},
        "splits": splits,
    }
    write_failures(out / FAILURES, [])
    write_dataset(out, finished)
    stage.move_into_place()
    return finished


class _Writer:
    """Collects the records of one split and writes them shard by shard."""

    def __init__(self, out: Path, split: str, limit: int) -> None:
        self._out = out
        self._split = split
        self._limit = limit
        self._waiting: list[Record] = []
        self._bytes = END_BYTES
        self._infos: list[ShardInfo] = []
        self._clips: set[str] = set()
        self.files: set[str] = set()
        self.labels: set[str] = set()

    def add(self, record: Record) -> None:
        size = record_bytes({name: len(data) for name, data in record.files.items()})
        if self._waiting and self._bytes + size > self._limit:
            self._write()
        self._waiting.append(record)
        self._bytes += size
        self.files |= set(record.files)
        sidecar = json.loads(record.files[SIDECAR])
        self._clips.add(sidecar["clip"])
        if sidecar.get("label"):
            self.labels.add(sidecar["label"])

    def _write(self) -> None:
        path = self._out / f"{self._split}-{len(self._infos):06d}.tar"
        self._infos.append(write_shard(path, self._waiting))
        self._waiting, self._bytes = [], END_BYTES

    def finish(self) -> dict[str, Any]:
        if self._waiting:
            self._write()
        return {
            "pairs": sum(info.pairs for info in self._infos),
            "videos": len(self._clips),
            "groups": len(self._clips),
            "shards": [asdict(info) for info in self._infos],
        }
