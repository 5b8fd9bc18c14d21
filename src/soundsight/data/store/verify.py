"""Finds every byte of a dataset that is not as it was written, and names the pairs it hurts.

Each file has a SHA-256 in SHA256SUMS; shards and indexes have a second one in dataset.json. Where
two differ, the third shows which is damaged. SHA256SUMS itself must be, byte for
byte, what its own lines give when they are written again.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundsight.core.errors import DataError
from soundsight.data.records import SIDECAR
from soundsight.data.store.shards import (
    ABOUT,
    END_BYTES,
    SUMS,
    TAR_BLOCK,
    WORK,
    Entry,
    about_bytes,
    index_lines,
    index_name,
    parse_entry,
    read_about,
    record_bytes,
    recorded_sums,
    shard_infos,
    sums_text,
)
from soundsight.data.store.stores import Store, store_at

_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f]+)")
_NEAR_DIGITS = 16
"""Two hashes that differ in fewer of their 64 digits are one hash, damaged: those of different
contents differ in 60 or so."""


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
    where: str | Path,
    *,
    deep: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Iterator[Problem]:
    """Compare a dataset with its checksums.

    Args:
        where: its folder, or a URL that fsspec understands.
        deep: read every byte. Otherwise only the size of a shard is looked at, and damage inside
            it is not found.
        storage_options: for fsspec.
        progress: called after every chunk that was read.

    Yields:
        What is damaged, missing or does not belong; nothing when all is well. Hidden files and
        folders are no part of a dataset.

    Raises:
        DataError: when there is no finished dataset, or its files cannot be listed.
    """
    store = store_at(where, storage_options)
    try:
        sizes = store.sizes() if store.has("") else {}
        if ABOUT not in sizes and (SUMS not in sizes or store.has(WORK)):
            about_bytes(store)  # says what is there instead
        yield from _Check(store, sizes, deep, progress).problems()
    finally:
        store.close()


class _Check:
    def __init__(
        self, store: Store, sizes: dict[str, int], deep: bool, progress: Progress | None
    ) -> None:
        self._store, self._sizes, self._deep, self._progress = store, sizes, deep, progress
        self._total = sum(size for name, size in sizes.items() if self._is_read(name))
        self._done = 0
        self._sums: dict[str, str] = {}
        self._recorded: dict[str, str] = {}
        self._shard_bytes: dict[str, int] = {}

    def problems(self) -> Iterator[Problem]:
        sums_are_whole = True
        for problem in self._read_sums():
            sums_are_whole = False
            yield problem
        yield from self._read_about()
        for name in sorted({*self._sizes, *self._sums, *self._recorded} - {SUMS}):
            for problem in self._file(name):
                # Of damaged checksums it is said once.
                if problem.file != SUMS or sums_are_whole:
                    yield problem
                sums_are_whole &= problem.file != SUMS
        if sums_are_whole and sums_text(self._sums) != self._store.read(SUMS):
            yield Problem(file=SUMS, what="is not as it was written")

    def _is_read(self, name: str) -> bool:
        return name != SUMS and (self._deep or not name.endswith(".tar"))

    def _read_sums(self) -> Iterator[Problem]:
        if SUMS not in self._sizes:
            yield Problem(file=SUMS, what="is missing")
            return
        text = self._store.read(SUMS).decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            match = _LINE.fullmatch(line)
            if match:
                self._sums[match[2]] = match[1]
            else:
                yield Problem(file=SUMS, what=f"line {number} is damaged")

    def _read_about(self) -> Iterator[Problem]:
        if ABOUT not in self._sizes:
            if ABOUT not in self._sums:
                yield Problem(file=ABOUT, what="is missing")
            return
        try:
            about = read_about(self._store.read(ABOUT), ABOUT)
        except DataError as error:
            # Where a checksum says the same there is no need to say it twice.
            if ABOUT not in self._sums:
                yield Problem(file=ABOUT, what=str(error).removeprefix(f"{ABOUT} "))
            return
        self._recorded = recorded_sums(about)
        for part in about["splits"].values():
            self._shard_bytes |= {shard.name: shard.bytes for shard in shard_infos(part)}

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
        if not self._is_read(name):
            size = self._shard_bytes.get(name, self._sizes[name])
            if size != self._sizes[name]:
                yield Problem(file=name, what=f"has {self._sizes[name]} bytes, not {size}")
            if len(set(wanted.values())) > 1:
                what = f"its checksum of {name} is not that of {ABOUT}: one of the two is damaged"
                yield Problem(file=SUMS, what=what)
            return
        try:
            digest = self._sha256(name)
        except DataError as error:
            yield Problem(file=name, what=str(error))
            return
        wrong = [record for record, seen in wanted.items() if seen != digest]
        damaged = [w for w in wrong if len(wrong) < len(wanted) or _near(wanted[w], digest)]
        for record in damaged:
            yield Problem(file=record, what=f"its checksum of {name} is damaged")
        if wrong and not damaged:
            pairs = self._damaged_pairs(name) if name.endswith(".tar") else iter(())
            yield next(pairs, Problem(file=name, what="is damaged"))
            yield from pairs

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._store.chunks(name):
            digest.update(chunk)
            self._done += len(chunk)
            if self._progress:
                self._progress(self._done, self._total)
        return digest.hexdigest()

    def _damaged_pairs(self, name: str) -> Iterator[Problem]:
        entries = self._entries(name)
        if entries is None:
            yield from self._damaged_without_index(name)
            return
        size = self._sizes[name]
        whole = END_BYTES + sum(entry.size for entry in entries)
        found = False
        for number, entry in enumerate(entries):
            if entry.start + entry.size > size:
                lost = len(entries) - number
                what = f"is cut short at byte {size}: {lost} pairs are lost, from {entry.key} on"
                yield Problem(file=name, what=what, key=entry.key)
                return
            stretch = self._store.stretch(name, entry.start, entry.size)
            if zlib.crc32(stretch) != entry.crc32:
                found = True
                yield _pair_problem(name, entry.key, entry.cut(stretch).files)
        if size != whole:
            yield Problem(file=name, what=f"has {size} bytes, not {whole}; its pairs are all there")
        elif not found:
            yield Problem(file=name, what="is damaged after its last pair")

    def _entries(self, name: str) -> list[Entry] | None:
        index = index_name(name)
        if index not in self._sizes:
            return None
        data = self._store.read(index)
        digest = hashlib.sha256(data).hexdigest()
        if digest not in (self._sums.get(index), self._recorded.get(index)):
            return None
        return [parse_entry(json.loads(line)) for line in index_lines(data)]

    def _damaged_without_index(self, name: str) -> Iterator[Problem]:
        """Find the pairs by their headers, and compare them with what their sidecars say."""
        found: dict[str, dict[str, bytes]] = {}
        place = 0
        while place + TAR_BLOCK <= self._sizes[name]:
            block = self._store.stretch(name, place, TAR_BLOCK)
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                place += TAR_BLOCK  # a damaged header, or data: look for the next one
                continue
            key, _, kind = header.name.partition(".")
            data = self._store.stretch(name, place + TAR_BLOCK, header.size)
            found.setdefault(key, {})[kind] = data
            place += record_bytes([header.size])
        for key, files in found.items():
            if _damaged(files):
                yield _pair_problem(name, key, files)


def _pair_problem(name: str, key: str, files: Mapping[str, bytes]) -> Problem:
    parts = ", ".join(_damaged(files)) or "a header or padding"
    return Problem(file=name, what=f"the pair {key} is damaged: {parts}", key=key)


def _damaged(files: Mapping[str, bytes]) -> list[str]:
    """Name the files of a pair that are not what its sidecar says; none are where all are well."""
    try:
        known: dict[str, str] = dict(json.loads(files[SIDECAR])["sha256"])
    except (KeyError, TypeError, ValueError):
        return [SIDECAR]
    names = []
    for name in sorted({*known, *files} - {SIDECAR}):
        seen = hashlib.sha256(files.get(name, b"")).hexdigest()
        if known.get(name) != seen:
            names.append(SIDECAR if _near(str(known.get(name)), seen) else name)
    return names


def _near(a: str, b: str) -> bool:
    return len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) < _NEAR_DIGITS
