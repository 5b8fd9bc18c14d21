"""The authors' binary batches -> a dataset, without a video in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError
from soundsight.data.prepare.staging import FAILURES, Stage, write_failures, writing
from soundsight.data.records import SIDECAR, SPLITS
from soundsight.data.store.shards import (
    FORMAT,
    FORMAT_VERSION,
    ShardWriter,
    write_dataset,
    write_shard,
)
from soundsight.data.vegas.batches import batch_records


def repack(
    stage: Stage,
    sources: Sequence[Path],
    about: Mapping[str, Any],
    *,
    shard_bytes: int,
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[str, Any]:
    """Write batches as shards; the splits are those of the files' names.

    Args:
        stage: the locked workplace.
        sources: files, or folders of them.
        about: what dataset.json says beside counts and splits.
        shard_bytes: bound on the size of a shard.
        progress: called with the number of records that are written.

    Returns:
        The content of dataset.json.
    """
    with writing(stage.data):
        shutil.rmtree(stage.out, ignore_errors=True)
        stage.out.mkdir(parents=True)
        finished = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **about,
            **_write_shards(stage.out, sources, shard_bytes, progress),
        }
        write_failures(stage.out / FAILURES, [])
        write_dataset(stage.out, finished)
        stage.move_into_place()
    return finished


def _write_shards(
    out: Path,
    sources: Sequence[Path],
    shard_bytes: int,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    shards = {
        split: ShardWriter(split, shard_bytes, lambda name, rows: write_shard(out / name, rows))
        for split in SPLITS
    }
    seen: set[str] = set()
    labels: set[str] = set()
    members: frozenset[str] | None = None
    for source in sources:
        for split, record in batch_records(source):
            sidecar = json.loads(record.files[SIDECAR])
            if record.key in seen:
                raise DataError(
                    f"{source}: {sidecar['clip']} was there before: name each batch once"
                )
            seen.add(record.key)
            if (members or record.files.keys()) != record.files.keys():
                raise DataError(
                    f"{source}: these batches are of another kind than those before: prepare each "
                    "kind by itself"
                )
            members = frozenset(record.files)
            sizes = {name: len(data) for name, data in record.files.items()}
            shards[split].add(record, sizes, sidecar["clip"], sidecar["clip"])
            labels |= {sidecar["label"]} - {None}
            if len(seen) % 100 == 0:
                progress(len(seen))
    if not seen:
        raise DataError(f"no record in {', '.join(map(str, sources))}: the files are empty")
    splits = {split: writer.finish() for split, writer in shards.items()}
    return {
        "files": sorted(members or ()),
        "labels": sorted(labels),
        "counts": {"pairs": len(seen)},
        "statistics": {},
        "splits": splits,
    }
