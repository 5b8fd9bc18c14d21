"""Where a dataset's files lie: in a folder, or behind a URL that fsspec opens."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from soundsight.core.errors import DataError, first_line

_OPEN_FILES = 128
_OPEN_URLS = 4
_URL_BLOCKS: dict[str, Any] = {
    "block_size": 1 << 20, "cache_type": "blockcache", "cache_options": {"maxblocks": 128},
}  # fmt: skip
"""What a remote file keeps in memory (128 MB), so that shuffled pairs are fetched once."""
_CHUNK_BYTES = 1 << 20


class Store(Protocol):
    """The files of a dataset, in a folder or behind a URL. Every failure is a DataError."""

    where: str

    def sizes(self) -> dict[str, int]:
        """Name every regular file that is not hidden, with its size in bytes."""

    def has(self, name: str) -> bool:
        """Say whether there is a file or folder of that name."""

    def read(self, name: str) -> bytes:
        """Read a whole file."""

    def stretch(self, name: str, offset: int, size: int) -> bytes:
        """Read bytes of a file; fewer where it ends early."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read a whole file in pieces of at most 1 MiB."""

    def close(self) -> None:
        """Close what is open; a later read opens it again."""


class LocalStore:
    """A dataset in a folder; nothing is looked at before it is asked for."""

    def __init__(self, root: Path) -> None:
        self.where = str(root)
        self._root = root
        self._handles: OrderedDict[str, int] = OrderedDict()

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}

        def unreadable(error: OSError) -> None:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

        for at, folders, names in os.walk(self._root, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(at, name)
                if not name.startswith(".") and path.is_file():
                    found[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def has(self, name: str) -> bool:
        return os.path.exists(self._root / name)

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def stretch(self, name: str, offset: int, size: int) -> bytes:
        try:
            if name not in self._handles:
                if len(self._handles) >= _OPEN_FILES:
                    os.close(self._handles.popitem(last=False)[1])
                self._handles[name] = os.open(self._root / name, os.O_RDONLY)
            self._handles.move_to_end(name)
            return os.pread(self._handles[name], size, offset)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            with (self._root / name).open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise self._unreadable(name, error) from error

    def close(self) -> None:
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _unreadable(self, name: str, error: OSError) -> DataError:
        return DataError(f"{self.where}/{name} cannot be read: {error.strerror or error}")

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where, "_root": self._root, "_handles": OrderedDict()}


class UrlStore:
    """A dataset behind fsspec, whose file systems raise errors of their own kinds."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        self.where = url.rstrip("/")
        try:
            import fsspec

            self._fs, root = fsspec.core.url_to_fs(self.where, **(storage_options or {}))
        except Exception as error:
            raise DataError(f"{url} cannot be opened: {first_line(error)}") from error
        self._root = str(root).rstrip("/")
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()

    def sizes(self) -> dict[str, int]:
        try:
            found = self._fs.find(self._root, detail=True)
        except Exception as error:
            raise self._unreadable("", error) from error
        # A listing may or may not start with the slash that the root has.
        skip = len(self._root.strip("/")) + 1
        names = {path.strip("/")[skip:]: int(entry["size"]) for path, entry in found.items()}
        shown = {n: s for n, s in names.items() if not any(p[:1] == "." for p in n.split("/"))}
        return dict(sorted(shown.items()))

    def has(self, name: str) -> bool:
        try:
            return bool(self._fs.exists(f"{self._root}/{name}"))
        except Exception as error:
            raise self._unreadable(name, error) from error

    def read(self, name: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except Exception as error:
            raise self._unreadable(name, error) from error
        return data

    def stretch(self, name: str, offset: int, size: int) -> bytes:
        try:
            if name not in self._files:
                if len(self._files) >= _OPEN_URLS:
                    self._files.popitem(last=False)[1].close()
                self._files[name] = self._fs.open(f"{self._root}/{name}", "rb", **_URL_BLOCKS)
            self._files.move_to_end(name)
            self._files[name].seek(offset)
            return self._files[name].read(size)
        except Exception as error:
            raise self._unreadable(name, error) from error

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._fs.open(f"{self._root}/{name}", "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except Exception as error:
            raise self._unreadable(name, error) from error

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _unreadable(self, name: str, error: Exception) -> DataError:
        return DataError(f"{self.where}/{name} cannot be read: {first_line(error)}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


def store_at(where: str | Path, storage_options: Mapping[str, Any] | None = None) -> Store:
    """Return the files at a path or URL; nothing is looked at yet for a path.

    Raises:
        DataError: when the URL's file system is unknown or cannot be reached.
    """
    if "://" in str(where) or "::" in str(where):
        return UrlStore(str(where), storage_options)
    return LocalStore(Path(where))
