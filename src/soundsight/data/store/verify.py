"""Finds every byte of a dataset that is not as it was written, and names the pairs it hurts.

Each file has a SHA-256 in SHA256SUMS; shards and indexes have a second one in dataset.json, so
that a damaged checksum can be told from a damaged shard. SHA256SUMS itself must be, byte for
byte, what its own lines give when they are written again.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundsight.core.errors import DataError
from soundsight.data.store.shards import (
    ABOUT,
    END_BYTES,
    SUMS,
    WORK,
    Entry,
    about_bytes,
    index_lines,
    index_name,
    read_about,
    recorded_sums,
    shard_infos,
    sums_text,
)
from soundsight.data.store.stores import Store

_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f]+)")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as it was written."""

    file: str  #: path below the dataset
    what: str  #: in words
    key: str | None = None  #: the damaged pair, where one can be named

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes to read) as it goes on."""


def verify(
    where: str | Path, *, deep: bool = True, progress: Progress = lambda _done, _of: None
) -> Iterator[Problem]:
    """Yield what of a dataset (a folder or URL) is damaged, missing or does not belong.

    Hidden files and folders are no part of a dataset. Unless ``deep``, only the size of a shard is
    looked at, and damage inside it is not found.

    Raises:
        DataError: when there is no finished dataset, or its files cannot be listed.
    """
    store = Store(where)
    sums_hurt = False
    try:
        sizes = store.sizes() if store.has("") else {}
        if ABOUT not in sizes and (SUMS not in sizes or store.has(WORK)):
            about_bytes(store)  # says what is there instead
        for problem in _problems(store, sizes, deep, progress):
            # Of damaged checksums it is said once.
            if problem.file != SUMS or not sums_hurt:
                yield problem
            sums_hurt |= problem.file == SUMS
    finally:
        store.close()


def _problems(
    store: Store, sizes: Mapping[str, int], deep: bool, progress: Progress
) -> Iterator[Problem]:
    text = store.read(SUMS) if SUMS in sizes else b""
    lines = map(_LINE.fullmatch, text.decode("utf-8", "surrogateescape").split("\n"))
    sums = {line[2]: line[1] for line in lines if line}
    if SUMS not in sizes:
        yield Problem(file=SUMS, what="is missing")
    recorded: dict[str, str] = {}
    shard_bytes: dict[str, int] = {}
    try:
        if ABOUT in sizes:
            about = read_about(store.read(ABOUT), ABOUT)
            recorded = recorded_sums(about)
            for part in about["splits"].values():
                shard_bytes |= {shard.name: shard.bytes for shard in shard_infos(part)}
        elif ABOUT not in sums:
            yield Problem(file=ABOUT, what="is missing")
    except DataError as error:
        if ABOUT not in sums:  # else its checksum says the same
            yield Problem(file=ABOUT, what=str(error).removeprefix(f"{ABOUT} "))
    read = {name for name in sizes if name != SUMS and (deep or not name.endswith(".tar"))}
    done, total = 0, sum(sizes[name] for name in read)
    for name in sorted({*sizes, *sums, *recorded} - {SUMS}):
        known = ((SUMS, sums), (ABOUT, recorded))
        wanted = {record: digests[name] for record, digests in known if name in digests}
        if name not in sizes:
            yield Problem(file=name, what="is missing")
            continue
        if not wanted:
            # Without the list of sums nothing tells of what dataset.json does not name.
            if SUMS in sizes or name.endswith((".tar", ".index.json")):
                yield Problem(file=name, what="does not belong to the dataset")
            continue
        if SUMS in sizes and name not in sums:
            yield Problem(file=SUMS, what=f"its line of {name} is missing or damaged")
        if name not in read:
            size = shard_bytes.get(name, sizes[name])
            if size != sizes[name]:
                yield Problem(file=name, what=f"has {sizes[name]} bytes, not {size}")
            if len(set(wanted.values())) > 1:
                what = f"its checksum of {name} is not that of {ABOUT}: one of the two is damaged"
                yield Problem(file=SUMS, what=what)
            continue
        digest = hashlib.sha256()
        try:
            for chunk in store.chunks(name):
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
        except DataError as error:
            yield Problem(file=name, what=str(error))
            continue
        wrong = [record for record, seen in wanted.items() if seen != digest.hexdigest()]
        if len(wrong) == len(wanted):
            yield from _damage(store, name, sizes, [digests for _, digests in known])
        else:
            for record in wrong:
                yield Problem(file=record, what=f"its checksum of {name} is damaged")
    if SUMS in sizes and sums_text(sums) != text:
        yield Problem(file=SUMS, what="is not as it was written")


def _damage(
    store: Store, name: str, sizes: Mapping[str, int], known: Sequence[Mapping[str, str]]
) -> Iterator[Problem]:
    """Name the damaged pairs of a shard by its index, unless that is damaged, too."""
    index = index_name(name)
    data = store.read(index) if name.endswith(".tar") and index in sizes else b""
    if hashlib.sha256(data).hexdigest() not in [digests.get(index) for digests in known]:
        yield Problem(file=name, what="is damaged")
        return
    entries = [Entry(**json.loads(line)) for line in index_lines(data)]
    size = sizes[name]
    whole = END_BYTES + sum(entry.size for entry in entries)
    found = False
    for number, entry in enumerate(entries):
        if entry.start + entry.size > size:
            lost = len(entries) - number
            what = f"is cut short at byte {size}: {lost} pairs are lost, from {entry.key} on"
            yield Problem(file=name, what=what, key=entry.key)
            return
        if zlib.crc32(store.stretch(name, entry.start, entry.size)) != entry.crc32:
            found = True
            yield Problem(file=name, what=f"the pair {entry.key} is damaged", key=entry.key)
    if size != whole:
        yield Problem(file=name, what=f"has {size} bytes, not {whole}; its pairs are all there")
    elif not found:
        yield Problem(file=name, what="is damaged after its last pair")
