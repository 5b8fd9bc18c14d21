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
    """The files of a dataset. Every failure is a DataError.

    Args:
        where: a folder, which is not looked at yet, or a URL.
    """

    # What a remote file keeps in memory (128 MB), so that shuffled pairs are fetched once.
    _caching: Mapping[str, Any] = {
        "block_size": 1 << 20, "cache_type": "blockcache", "cache_options": {"maxblocks": 128},
    }  # fmt: skip

    def __init__(self, where: str | Path) -> None:
        self.where = self._root = str(where)
        self._fs: Any = None
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        if "://" in self.where or "::" in self.where:
            self.where = self.where.rstrip("/")
            try:
                import fsspec

                self._fs, root = fsspec.core.url_to_fs(self.where)
            except Exception as error:
                raise DataError(f"{where} cannot be opened: {first_line(error)}") from error
            self._root = str(root).rstrip("/")

    def sizes(self) -> dict[str, int]:
        """Name every regular file that is not hidden, with its size in bytes."""
        with self._reading(""):
            if self._fs is None:
                found = dict(self._walk())
            else:
                # A listing may or may not start with the slash that the root has.
                skip = len(self._root.strip("/")) + 1
                listed = self._fs.find(self._root, detail=True).items()
                found = {path.strip("/")[skip:]: int(entry["size"]) for path, entry in listed}
        return {name: found[name] for name in sorted(found) if "/." not in f"/{name}"}

    def _walk(self) -> Iterator[tuple[str, int]]:
        def unreadable(error: OSError) -> None:
            raise error

        for at, folders, names in os.walk(self._root, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(at, name) for name in names):
                if path.is_file():
                    yield path.relative_to(self._root).as_posix(), path.stat().st_size

    def has(self, name: str) -> bool:
        """Say whether there is a file or folder of that name."""
        with self._reading(name):
            path = f"{self._root}/{name}"
            return os.path.exists(path) if self._fs is None else bool(self._fs.exists(path))

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
                if len(self._files) >= (128 if self._fs is None else 4):
                    self._files.popitem(last=False)[1].close()
                self._files[name] = self._open(name)
            self._files.move_to_end(name)
            file = self._files[name]
            if self._fs is None:
                # Processes that were forked share a file's position.
                return os.pread(file.fileno(), size, offset)
            file.seek(offset)
            return file.read(size)

    def close(self) -> None:
        """Close what is open; a later read opens it again."""
        while self._files:
            self._files.popitem()[1].close()

    def _open(self, name: str) -> BinaryIO:
        path = f"{self._root}/{name}"
        if self._fs is None:
            return Path(path).open("rb")
        file: BinaryIO = self._fs.open(path, "rb", **self._caching)
        return file

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # fsspec's file systems raise errors of their own kinds
            reason = getattr(error, "strerror", None) or first_line(error)
            raise DataError(f"{self.where}/{name} cannot be read: {reason}") from error

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}
