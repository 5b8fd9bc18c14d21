"""Arrays that are made once and kept on disk, with what they were made of."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file, write_json

Tell = Callable[[str, int, int], None]
"""Called with (what is being made, how many are done, how many there are)."""

Arrays = dict[str, NDArray[Any]]


def tell_nothing(_what: str, _done: int, _of: int) -> None:
    """A :data:`Tell` that says nothing."""


def kept_arrays(
    path: Path, made_of: Any, make: Callable[[], Arrays], *, repair: bool = False
) -> Arrays:
    """Return the arrays of a ``.npz`` file, made anew where they were made of something else.

    Args:
        made_of: what they depend on, as JSON holds it.
        make: -> the arrays by name.
        repair: make the arrays of a damaged file anew, too.

    Raises:
        DataError: when the file is damaged.
        OutputError: when it cannot be written.
    """
    digest = json.dumps(made_of, sort_keys=True)
    try:
        if path.exists():
            # Not by its path: NumPy leaves the file of a damaged archive open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
                if str(kept["made_of"]) == digest:
                    return {name: kept[name] for name in kept.files if name != "made_of"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if not repair:
            raise DataError(f"{path} is damaged: remove it, and it is made anew") from error
    arrays = make()
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, made_of=np.array(digest), **arrays)  # type: ignore[arg-type]
    return arrays


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a ``.npy`` file, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def begin_or_check(path: Path, about: dict[str, Any], count: str) -> None:
    """Write to ``path`` what a folder is made of, or check that the same stands there.

    ``about["config"]`` has ``count``: how many there are. More may be asked for later.

    Raises:
        ConfigError: when the folder is made of something else.
        DataError: when the file is damaged.
        OutputError: when it cannot be written.
    """
    if not path.exists():
        write_json(path, about)
        return
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    wanted = json.loads(json.dumps(about))
    for one in (found, wanted):
        one["config"].pop(count, None)
    if found != wanted:
        raise ConfigError(
            f"{path} was made with other settings or of other sounds: choose another folder"
        )
