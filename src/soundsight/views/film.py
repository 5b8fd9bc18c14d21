"""The storyboard as a film: the pictures in time with the sound they were imagined from.

Frame k stands for the eighth of a second from k / 8 s on: it shows what begins in it, or else what
sounds at its beginning, so that a picture appears with its sound to the frame, and what is shorter
than a frame has one. The sound is the file's own, mono, to the last sample.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soundsight.core.files import atomic_file
from soundsight.core.state import State
from soundsight.core.units import RATE_HZ
from soundsight.media.container import quiet_av
from soundsight.media.voice import VoiceTrack
from soundsight.views.drawing import (
    AMBER,
    CAPTION,
    CARD,
    DIM,
    MARGIN_PX,
    PAGE,
    TEXT,
    centred,
    clock,
    width_of,
    write_line,
)
from soundsight.views.events import FileEvent, FileEvents
from soundsight.views.sheet import CLOCK_PX, span_words, timeline, timeline_height, x_of

FPS = 8
WIDTH_PX, HEIGHT_PX = 960, 540

_PICTURE_PX = 320
_TOP = 54
_WORDS_X = MARGIN_PX + _PICTURE_PX + 32
_WAVE_PX, _MEL_PX = 34, 46
_LINE_W = WIDTH_PX - 2 * MARGIN_PX
_LINE_Y = HEIGHT_PX - timeline_height(_WAVE_PX, _MEL_PX) - 6
_AUDIO_BPS = 96_000


def film(found: FileEvents, blocks: Iterable[NDArray[np.float32]], path: Path) -> Generator[float]:
    """Write the film (MP4: H.264 and AAC), in constant memory, while the iterator is drawn from.

    The file appears when the iterator ends; if it is closed before that, nothing is left behind.
    ``blocks`` are the sound once more: float32 [t] each, mono at 44,100 Hz.

    Yields:
        Seconds that are written, about once a second of sound.

    Raises:
        AudioError: from the blocks.
        OutputError: when the place cannot be written to.
    """
    av = quiet_av()
    draw = _drawer(found)
    with (
        atomic_file(path) as temporary,
        # The index comes first, so that a browser can begin before it has all.
        av.open(
            os.fspath(temporary), "w", format="mp4", options={"movflags": "+faststart"}
        ) as container,
    ):
        container.metadata["title"] = _clean(found.source or "storyboard")
        container.metadata["comment"] = f"soundsight: {CAPTION}; model {_clean(found.model)}"
        shown = _picture_track(av, container)
        voice = VoiceTrack(container, RATE_HZ, _AUDIO_BPS)
        drawn = 0

        def draw_until(count: int) -> None:
            nonlocal drawn
            while drawn < count:
                frame = av.VideoFrame.from_ndarray(draw(drawn / FPS), format="rgb24")
                frame.pts = drawn
                container.mux(shown.encode(frame))
                drawn += 1

        for block in blocks:
            for first in range(0, len(block), RATE_HZ):
                voice.push(block[first : first + RATE_HZ])
                # Both tracks grow together: the muxer holds back the one that is ahead.
                draw_until(voice.samples * FPS // RATE_HZ)
                yield voice.samples / RATE_HZ
        draw_until(max(1, math.ceil(voice.samples * FPS / RATE_HZ)))
        container.mux(shown.encode(None))
        voice.close()


def _picture_track(av: Any, container: Any) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    track = container.add_stream(codec, rate=FPS)
    track.width, track.height, track.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
    # One thread: the same picture track wherever it is written.
    track.codec_context.thread_count = 1
    track.codec_context.gop_size = 5 * FPS
    # No frame waits for a later one: players that leave out a track's edit list stay in time.
    track.codec_context.max_b_frames = 0
    if codec == "libx264":
        track.options = {"preset": "veryfast", "tune": "stillimage", "crf": "20"}
    else:
        track.bit_rate = 1_500_000
    return track


def _clean(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable.encode("utf-8", "replace").decode("utf-8")


def _drawer(found: FileEvents) -> Callable[[float], NDArray[np.uint8]]:
    """Draws the frame at a time in seconds; what does not move is drawn once for each event."""
    line = timeline(found, _LINE_W, _WAVE_PX, _MEL_PX)
    still = lru_cache(maxsize=1)(lambda event: _still(found, line, event))

    def frame(second: float) -> NDArray[np.uint8]:
        made = still(found.within(second, second + 1 / FPS)).copy()
        ink = ImageDraw.Draw(made)
        write_line(ink, (_WORDS_X, _TOP), clock(second, tenths=True), 34, TEXT, 300)
        # The play head: a line with a small triangle at its top.
        x = MARGIN_PX + x_of(found, second, _LINE_W)
        top, bottom = _LINE_Y + 2, _LINE_Y + line.height - CLOCK_PX - 1
        ink.line((x, top, x, bottom), fill=AMBER, width=2)
        ink.polygon([(x - 5, top - 7), (x + 6, top - 7), (x, top + 1)], fill=AMBER)
        return np.asarray(made)

    return frame


def _still(found: FileEvents, line: Image.Image, event: FileEvent | None) -> Image.Image:
    """Draw all but clock and play head while an event sounds; None while it is quiet."""
    made = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), PAGE)
    ink = ImageDraw.Draw(made)
    right = WIDTH_PX - MARGIN_PX
    write_line(ink, (MARGIN_PX, 15), "soundsight", 18, TEXT, 140)
    write_line(ink, (MARGIN_PX + 106, 18), CAPTION, 14, DIM, 180)
    write_line(ink, (right, 17), found.source or "sound", 15, DIM, 520, right=True)
    box = (MARGIN_PX - 12, _LINE_Y - 8, right + 11, HEIGHT_PX - 5)
    ink.rounded_rectangle(box, 10, fill=CARD)
    made.paste(line, (MARGIN_PX, _LINE_Y))
    length = f"of {clock(found.duration_s, tenths=True)}"
    write_line(ink, (right, _TOP + 16), length, 18, DIM, 200, right=True)
    x, bottom = MARGIN_PX, _TOP + _PICTURE_PX - 1
    shown = None if event is None else event.shown(_PICTURE_PX)
    if event is None or shown is None:
        state = State.QUIET if event is None else State.NOTHING_RECOGNISABLE
        ink.rectangle((x, _TOP, x + _PICTURE_PX - 1, bottom), fill=CARD)
        centred(ink, (x, _TOP), _PICTURE_PX, state.words, 24, DIM)
    else:
        made.paste(shown, (x, _TOP))
        # In the picture itself, so that it goes where a screenshot goes.
        label = "named" if event.picture is None else "imagined"
        room = width_of(ink, label, 15) + 16
        ink.rectangle((x, bottom - 25, x + room, bottom), fill=PAGE)
        write_line(ink, (x + 8, bottom - 22), label, 15, TEXT, room)
    if event is not None:
        color, room = TEXT if event.is_known else DIM, right - _WORDS_X
        write_line(ink, (_WORDS_X, 140), event.title, 34, color, room)
        times = f", {event.repeats} times" if event.repeats > 1 else ""
        when = span_words(found, event.began_s, event.ended_s) + times
        count = f"event {event.number} of {len(found.events)}"
        lines = [(event.sure, AMBER), (when, TEXT), (count, DIM)]
        for place, (words, color) in enumerate(lines if event.sure else lines[1:]):
            write_line(ink, (_WORDS_X, 196 + 32 * place), words, 20, color, room)
    return made
