"""The storyboard as one HTML file that asks for nothing outside itself and plays in time.

What comes from the file - its name, the model's words - is data or escaped text; the page's own
policy lets no script run but its one.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.files import atomic_file
from soundsight.media.voice import m4a
from soundsight.views.events import FileEvents, events_json
from soundsight.views.timeline import clock

MAX_SOUND_S = 1800.0
"""A longer sound is left out of the page: 30 minutes are 14 MB."""


def events_page(found: FileEvents, sound: bytes | None) -> str:
    """Make the page.

    Args:
        sound: the file's sound as M4A; None for a page that is silent and says so.
    """
    style = _asset("board.css") + _asset("page.css")
    script = _asset("board.js") + _asset("page.js")
    why = f"The sound is longer than {MAX_SOUND_S / 60:g} minutes and is not in this page."
    heard: dict[str, Any] = {"type": "audio/mp4", "content": "", "why": why}
    if sound is not None:
        heard["content"] = base64.b64encode(sound).decode("ascii")
    name = found.source or "sound"
    words = [f"{clock(found.duration_s)}, {found.words}", *found.warnings]
    parts = {
        "SCRIPT_HASH": _hash(script),
        "STYLE_HASH": _hash(style),
        "TITLE": escape(f"{name} - storyboard"),
        "NAME": escape(name),
        "WORDS": "<br>".join(map(escape, words)),
        "MODEL": escape(found.model),
        "SEED": str(found.seed),
        "STYLE": style,
        "EVENTS": _data(events_json(found)),
        "SOUND": _data(heard),
        "SCRIPT": script,
    }
    # Cut at the marks and joined again: what is put in is never searched for marks.
    pieces = _asset("page.html").split("@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def save_page(
    found: FileEvents,
    blocks: Callable[[], Iterable[NDArray[np.float32]]],
    path: Path,
    rate_hz: int = units.RATE_HZ,
) -> Generator[float]:
    """Write the page, whole or not at all, while the iterator is drawn from.

    Args:
        blocks: opens the sound once more: float32 [t] each, mono. Not called for a long sound.

    Yields:
        Seconds of the sound that are compressed.

    Raises:
        AudioError: from the blocks.
        OutputError: when the place cannot be written to.
    """
    sound: bytes | None = None
    if found.duration_s <= MAX_SOUND_S:
        file = io.BytesIO()
        yield from m4a(file, blocks(), rate_hz)
        sound = file.getvalue()
    with atomic_file(path) as temporary:
        text = events_page(found, sound)
        temporary.write_bytes(text.encode("utf-8", "replace"))


def _asset(name: str) -> str:
    return (files("soundsight") / "assets" / "board" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _data(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
