"""The events of a sound as a file: a sheet (PNG), a film (MP4), a page (HTML) or data (JSON)."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import OutputError
from soundsight.core.files import atomic_file
from soundsight.views.events import FileEvents, events_json
from soundsight.views.film import film
from soundsight.views.page import save_page
from soundsight.views.storyboard import save_storyboard

SUFFIXES = (".png", ".mp4", ".html", ".json")
"""What they can be written as."""


def save(
    found: FileEvents, blocks: Callable[[], Iterable[NDArray[np.float32]]], path: Path
) -> Generator[float]:
    """Write events as the suffix says, whole or not at all, while the iterator is drawn from.

    Args:
        blocks: opens the sound once more, as float32 [t] each, mono at 44,100 Hz; called for a
            film and for a page with sound.
        path: an existing file is replaced once the new one is whole.

    Yields:
        Seconds of the sound that are done; nothing for a sheet and for data.

    Raises:
        AudioError: from the blocks.
        OutputError: on another suffix, or when the place cannot be written to.
    """
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        yield from film(found, blocks(), path)
    elif suffix == ".html":
        yield from save_page(found, blocks, path)
    elif suffix == ".png":
        save_storyboard(found, path)
    elif suffix == ".json":
        with atomic_file(path) as temporary:
            text = json.dumps(events_json(found), ensure_ascii=False, separators=(",", ":"))
            temporary.write_bytes(text.encode("utf-8", "replace") + b"\n")
    else:
        raise OutputError(f"{path}: a storyboard is one of {', '.join(SUFFIXES)}")
