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
from collections.abc import Callable, Iterator
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
    """Something that is not as it was written.

    Attributes:
        file: path below the dataset.
        what: in words.
        key: the damaged pair, where one can be named.
    """

    file: str
    what: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes to read) as it goes on."""


def verify(
    where: str | Path, *, deep: bool = True, progress: Progress = lambda _done, _of: None
) -> Iterator[Problem]:
    """Compare a dataset with its checksums.

    Args:
        where: its folder, or a URL that fsspec understands.
        deep: read every byte. Otherwise only the size of a shard is looked at, and damage inside
            it is not found.
        progress: called after every chunk that was read.

    Yields:
        What is damaged, missing or does not belong; nothing when all is well. Hidden files and
        folders are no part of a dataset.

    Raises:
        DataError: when there is no finished dataset, or its files cannot be listed.
    """
    store = Store(where)
    try:
        sizes = store.sizes() if store.has("") else {}
        if ABOUT not in sizes and (SUMS not in sizes or store.has(WORK)):
            about_bytes(store)  # says what is there instead
        yield from _Check(store, sizes, deep, progress).problems()
    finally:
        store.close()


class _Check:
    def __init__(self, store: Store, sizes: dict[str, int], deep: bool, progress: Progress) -> None:
        self._store, self._sizes, self._progress = store, sizes, progress
        self._read = {name for name in sizes if name != SUMS and (deep or name[-4:] != ".tar")}
        self._total, self._done = sum(sizes[name] for name in self._read), 0
        self._text = store.read(SUMS) if SUMS in sizes else b""
        lines = map(_LINE.fullmatch, self._text.decode("utf-8", "surrogateescape").split("\n"))
        self._sums = {line[2]: line[1] for line in lines if line}
        self._recorded: dict[str, str] = {}
        self._shard_bytes: dict[str, int] = {}

    def problems(self) -> Iterator[Problem]:
        sums_hurt = SUMS not in self._sizes
        if sums_hurt:
            yield Problem(file=SUMS, what="is missing")
        yield from self._read_about()
        for name in sorted({*self._sizes, *self._sums, *self._recorded} - {SUMS}):
            for problem in self._file(name):
                # Of damaged checksums it is said once.
                if problem.file != SUMS or not sums_hurt:
                    yield problem
                sums_hurt |= problem.file == SUMS
        if not sums_hurt and sums_text(self._sums) != self._text:
            yield Problem(file=SUMS, what="is not as it was written")

    def _read_about(self) -> Iterator[Problem]:
        try:
            about = read_about(self._store.read(ABOUT), ABOUT) if ABOUT in self._sizes else None
        except DataError as error:
            about, what = None, str(error).removeprefix(f"{ABOUT} ")
        else:
            what = "is missing"
        if about is not None:
            self._recorded = recorded_sums(about)
            for part in about["splits"].values():
                self._shard_bytes |= {shard.name: shard.bytes for shard in shard_infos(part)}
        elif ABOUT not in self._sums:  # else its checksum says the same
            yield Problem(file=ABOUT, what=what)

    def _file(self, name: str) -> Iterator[Problem]:
        known = {SUMS: self._sums.get(name), ABOUT: self._recorded.get(name)}
        wanted = {record: digest for record, digest in known.items() if digest is not None}
        if name not in self._sizes:
            yield Problem(file=name, what="is missing")
            return
        if not wanted:
            # Without the list of sums nothing tells of what dataset.json does not name.
            if SUMS in self._sizes or name.endswith((".tar", ".index.json")):
                yield Problem(file=name, what="does not belong to the dataset")
            return
        if SUMS in self._sizes and SUMS not in wanted:
            yield Problem(file=SUMS, what=f"its line of {name} is missing or damaged")
        if name not in self._read:
            size = self._shard_bytes.get(name, self._sizes[name])
            if size != self._sizes[name]:
                yield Problem(file=name, what=f"has {self._sizes[name]} bytes, not {size}")
            if len(set(wanted.values())) > 1:
                what = f"its checksum of {name} is not that of {ABOUT}: one of the two is damaged"
                yield Problem(file=SUMS, what=what)
            return
        digest = hashlib.sha256()
        try:
            for chunk in self._store.chunks(name):
                digest.update(chunk)
                self._done += len(chunk)
                self._progress(self._done, self._total)
        except DataError as error:
            yield Problem(file=name, what=str(error))
            return
        wrong = [record for record, seen in wanted.items() if seen != digest.hexdigest()]
        if len(wrong) < len(wanted):
            for record in wrong:
                yield Problem(file=record, what=f"its checksum of {name} is damaged")
        else:
            pairs = self._damaged_pairs(name) if name.endswith(".tar") else iter(())
            yield next(pairs, Problem(file=name, what="is damaged"))
            yield from pairs

    def _damaged_pairs(self, name: str) -> Iterator[Problem]:
        """Name the damaged pairs of a shard by its index; none where that is damaged, too."""
        index = index_name(name)
        data = self._store.read(index) if index in self._sizes else b""
        digest = hashlib.sha256(data).hexdigest()
        if digest not in (self._sums.get(index), self._recorded.get(index)):
            return
        entries = [Entry(**json.loads(line)) for line in index_lines(data)]
        size = self._sizes[name]
        whole = END_BYTES + sum(entry.size for entry in entries)
        found = False
        for number, entry in enumerate(entries):
            if entry.start + entry.size > size:
                lost = len(entries) - number
                what = f"is cut short at byte {size}: {lost} pairs are lost, from {entry.key} on"
                yield Problem(file=name, what=what, key=entry.key)
                return
            if zlib.crc32(self._store.stretch(name, entry.start, entry.size)) != entry.crc32:
                found = True
                yield Problem(file=name, what=f"the pair {entry.key} is damaged", key=entry.key)
        if size != whole:
            yield Problem(file=name, what=f"has {size} bytes, not {whole}; its pairs are all there")
        elif not found:
            yield Problem(file=name, what="is damaged after its last pair")
