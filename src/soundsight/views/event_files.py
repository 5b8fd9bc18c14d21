"""The events of a sound as a file: a sheet (PNG), a film (MP4), a page (HTML) or data (JSON).

The page asks for nothing outside itself and plays in time. What comes from the sound's file - its
name, the model's words - is data or escaped text; the page's own policy lets no script run but its
one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Generator, Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import OutputError
from soundsight.core.files import atomic_file
from soundsight.media.voice import m4a
from soundsight.views.drawing import clock, save_png
from soundsight.views.events import FileEvents, events_json
from soundsight.views.film import film
from soundsight.views.sheet import storyboard

SUFFIXES = (".png", ".mp4", ".html", ".json")
"""What events can be written as."""

MAX_SOUND_S = 1800.0
"""A longer sound is left out of the page: 30 minutes are 14 MB."""


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
    if suffix not in SUFFIXES:
        raise OutputError(f"{path}: a storyboard is one of {', '.join(SUFFIXES)}")
    if suffix == ".mp4":
        yield from film(found, blocks(), path)
        return
    if suffix == ".png":
        texts = {"source": found.source, "model": found.model, "seed": str(found.seed)}
        save_png(storyboard(found), path, texts)
        return
    if suffix == ".json":
        text = json.dumps(events_json(found), ensure_ascii=False, separators=(",", ":")) + "\n"
    else:
        sound = io.BytesIO()
        if found.duration_s <= MAX_SOUND_S:
            yield from m4a(sound, blocks(), units.RATE_HZ)
        text = events_page(found, sound.getvalue() or None)
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def events_page(found: FileEvents, sound: bytes | None) -> str:
    """Return the page, with the sound as M4A; None for a page that is silent and says so."""
    style = _asset("board.css") + _asset("page.css")
    script = _asset("board.js") + _asset("page.js")
    audio = {
        "type": "audio/mp4",
        "content": "" if sound is None else base64.b64encode(sound).decode("ascii"),
        "why": f"The sound is longer than {MAX_SOUND_S / 60:g} minutes and is not in this page.",
    }
    name = found.source or "sound"
    words = [f"{clock(found.duration_s, tenths=True)}, {found.words}", *found.warnings]
    return Template(_asset("page.html")).substitute(
        SCRIPT_HASH=_hash(script),
        STYLE_HASH=_hash(style),
        TITLE=escape(f"{name} - storyboard"),
        NAME=escape(name),
        WORDS="<br>".join(map(escape, words)),
        MODEL=escape(found.model),
        SEED=str(found.seed),
        STYLE=style,
        EVENTS=_data(events_json(found)),
        SOUND=_data(audio),
        SCRIPT=script,
    )


def _asset(name: str) -> str:
    return (files("soundsight") / "assets" / "board" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _data(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
