"""Where a dataset's files lie: in a folder, or behind a URL that fsspec opens."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from soundsight.core.errors import DataError, first_line

_CHUNK_BYTES = 1 << 20


class Store:
    """The files of a dataset in a folder; nothing is looked at before it is asked for.

    Every failure is a DataError.
    """

    _most_open = 128

    def __init__(self, where: str) -> None:
        self.where = where
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()

    def sizes(self) -> dict[str, int]:
        """Name every regular file that is not hidden, with its size in bytes."""
        found: dict[str, int] = {}

        def unreadable(error: OSError) -> None:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

        for at, folders, names in os.walk(self.where, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(at, name)
                if not name.startswith(".") and path.is_file():
                    found[path.relative_to(self.where).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def has(self, name: str) -> bool:
        """Say whether there is a file or folder of that name."""
        return os.path.exists(Path(self.where, name))

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read a whole file in pieces of at most 1 MiB."""
        with self._reading(name), self._open(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def stretch(self, name: str, offset: int, size: int) -> bytes:
        """Read bytes of a file, which stays open; fewer where it ends early."""
        with self._reading(name):
            if name not in self._files:
                if len(self._files) >= self._most_open:
                    self._files.popitem(last=False)[1].close()
                self._files[name] = self._open(name)
            self._files.move_to_end(name)
            return self._part(self._files[name], offset, size)

    def close(self) -> None:
        """Close what is open; a later read opens it again."""
        while self._files:
            self._files.popitem()[1].close()

    def _open(self, name: str) -> BinaryIO:
        return Path(self.where, name).open("rb")

    def _part(self, file: BinaryIO, offset: int, size: int) -> bytes:
        # Processes that were forked share a file's position.
        return os.pread(file.fileno(), size, offset)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{self.where}/{name} cannot be read: {reason}") from error

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


class _UrlStore(Store):
    """A dataset behind fsspec, whose file systems raise errors of their own kinds."""

    _most_open = 4
    # What a remote file keeps in memory (128 MB), so that shuffled pairs are fetched once.
    _caching: Mapping[str, Any] = {
        "block_size": 1 << 20, "cache_type": "blockcache", "cache_options": {"maxblocks": 128},
    }  # fmt: skip

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        super().__init__(url.rstrip("/"))
        try:
            import fsspec

            self._fs, root = fsspec.core.url_to_fs(self.where, **(storage_options or {}))
        except Exception as error:
            raise DataError(f"{url} cannot be opened: {first_line(error)}") from error
        self._root = str(root).rstrip("/")

    def sizes(self) -> dict[str, int]:
        with self._reading(""):
            found = self._fs.find(self._root, detail=True)
        # A listing may or may not start with the slash that the root has.
        skip = len(self._root.strip("/")) + 1
        names = {path.strip("/")[skip:]: int(entry["size"]) for path, entry in found.items()}
        shown = {n: s for n, s in names.items() if not any(p[:1] == "." for p in n.split("/"))}
        return dict(sorted(shown.items()))

    def has(self, name: str) -> bool:
        with self._reading(name):
            return bool(self._fs.exists(f"{self._root}/{name}"))

    def _open(self, name: str) -> BinaryIO:
        file: BinaryIO = self._fs.open(f"{self._root}/{name}", "rb", **self._caching)
        return file

    def _part(self, file: BinaryIO, offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise DataError(f"{self.where}/{name} cannot be read: {first_line(error)}") from error


def store_at(where: str | Path, storage_options: Mapping[str, Any] | None = None) -> Store:
    """Return the files at a path or URL; nothing is looked at yet for a path."""
    if "://" in str(where) or "::" in str(where):
        return _UrlStore(str(where), storage_options)
    return Store(str(where))
