"""Tells the story of a sound: what happened in it, event by event, in constant memory.

A window of 1 s every quarter of a second goes to a ``Listener``, as a live sound does, so a file
and the microphone tell the same. What is known only of a file is used, too: a short clip is scaled
as a whole, and what begins in the last half second is told from what there is of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.media import audio
from soundsight.media.mel import MelConfig
from soundsight.media.overview import OverviewMaker
from soundsight.media.segments import rms_dbfs
from soundsight.media.windows import Window, windows
from soundsight.runtime.critic import State
from soundsight.runtime.listener import Event, Heard, Listener, SteadyConfig
from soundsight.runtime.stream import Sound, blocks_of
from soundsight.runtime.translator import Translator
from soundsight.views.story import Story, StoryEvent

HOP_S = 0.25
"""Seconds between the starts of windows."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the telling is.

    Attributes:
        done_s: seconds of the sound that are told.
        total_s: its length in seconds, as far as that is known beforehand.
    """

    done_s: float
    total_s: float | None


Told = Progress | StoryEvent | Story
"""What telling yields: progress every quarter of a second of sound, each event once it has ended,
and the story as the last."""


def tell(
    translator: Translator,
    sound: Sound,
    rate_hz: int | None = None,
    *,
    sensitivity: float = 0.5,
    seed: int = 0,
    candidates: int | None = None,
    source: str | None = None,
    total_s: float | None = None,
) -> Generator[Told]:
    """Tell what happens in a sound of any length.

    Stop by closing the iterator. Memory grows with the events (40 kB each) and with nothing else.

    Args:
        translator: a loaded translator.
        sound: a path; samples [t] or [t, channels]; or an iterator of float32 blocks [t], mono at
            44,100 Hz.
        rate_hz: rate of samples in memory, in hertz; not for a path.
        sensitivity: 0 (tells only what is loud and sure) to 1 (tells more, and errs more).
        seed: another seed imagines other pictures.
        candidates: see ``Translator.translate``.
        source: what the story calls the sound; None takes the file's name.
        total_s: its length in seconds, for ``Progress``; None takes what a file says of itself.

    Raises:
        AudioError: when the sound cannot be read or is no sound; at once, or at the second where
            the fault is met.
        ConfigError: at once, when an option is wrong.
    """
    listener = Listener(translator, candidates=candidates, seed=seed, sensitivity=sensitivity)
    is_file = isinstance(sound, (str, os.PathLike))
    if is_file and total_s is None:
        total_s = audio.probe(sound).duration_s  # type: ignore[arg-type]
    if source is None:
        source = Path(os.fspath(sound)).name if is_file else ""  # type: ignore[arg-type]
    blocks = blocks_of(sound, rate_hz, translator.info.mel)
    telling = _Telling(listener, translator.info.mel)
    return telling.run(blocks, total_s, source, translator.info.label, seed)


class _Open:
    """An event that may go on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.spans: list[tuple[float, float]] = []
        self.heard_s = 0.0  # the end of its last window, which is what the listener counts by
        self.level_dbfs = -math.inf
        self.confidence = -math.inf
        self._is_pictured = False
        self.name = ""
        self.picture: NDArray[np.uint8] | None = None
        # How well the shown window shows it.
        self._rank = (False, False, -math.inf)
        self._window: Window | None = None

    def take(self, window: Window, heard: Heard, ended_s: float) -> None:
        sure = -math.inf if math.isnan(heard.confidence) else heard.confidence
        pictured = heard.state is State.PICTURE
        self.level_dbfs = max(self.level_dbfs, heard.level_dbfs)
        # A second that is full of the sound shows more than one that it begins or ends in.
        full = window.start_s >= self.spans[-1][0] and ended_s >= heard.end_s
        rank = (pictured, full, sure if pictured else heard.level_dbfs)
        if rank > self._rank or self._window is None:
            self._rank, self._window = rank, window
            if pictured:
                self.picture, self.name = heard.images[0].copy(), heard.name
        # What was heard before a picture came is no reason to be surer of it.
        if pictured and not self._is_pictured:
            self._is_pictured, self.confidence = True, sure
        elif pictured or not self._is_pictured:
            self.confidence = max(self.confidence, sure)

    def close(self, by_s: float, config: MelConfig) -> StoryEvent:
        """End it, at ``by_s`` at the latest."""
        assert self._window is not None, "an event has at least one window"
        hops = self._window.samples.reshape(config.segment_frames, config.hop_samples)
        return StoryEvent(
            number=self.number,
            spans=tuple((began_s, min(ended_s, by_s)) for began_s, ended_s in self.spans),
            state=str(State.PICTURE if self._is_pictured else State.NOTHING_RECOGNISABLE),
            name=self.name,
            confidence=self.confidence if math.isfinite(self.confidence) else math.nan,
            level_dbfs=self.level_dbfs,
            moment_s=self._window.start_s,
            picture=self.picture,
            mel=self._window.mel,
            waveform=np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1),
        )


class _Telling:
    def __init__(self, listener: Listener, config: MelConfig) -> None:
        self._listener = listener
        self._config = config
        self._pause_s = SteadyConfig().pause_s
        self._samples = 0
        self._events: list[StoryEvent] = []
        self._open: _Open | None = None
        self._event: Event | None = None
        self._onset_s = 0.0
        self._was_quiet = True

    def run(
        self,
        blocks: Iterator[NDArray[np.float32]],
        total_s: float | None,
        source: str,
        model: str,
        seed: int,
    ) -> Generator[Told]:
        overview = OverviewMaker(self._config)
        window: Window | None = None
        heard: Heard | None = None
        for window in windows(self._whole(blocks), units.SEGMENT_S, HOP_S, self._config):
            overview.take(window)
            heard = self._listener.hear(window)
            yield from self._take(window, heard)
            yield Progress(done_s=heard.end_s, total_s=total_s)
        # What has just begun at the end is told from what there is of it.
        while heard is not None and window is not None and not heard.settled:
            heard = self._listener.hear(window)
            yield from self._take(window, heard)
        duration_s = self._samples / self._config.rate_hz
        yield from self._close(duration_s)
        yield Progress(done_s=duration_s, total_s=duration_s)
        yield Story(
            source=source, model=model, seed=seed, sensitivity=self._listener.sensitivity,
            overview=overview.finish(duration_s), events=self._events,
        )  # fmt: skip

    def _whole(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Count the samples; silence completes the last quarter of a second, or it is not heard."""
        for block in blocks:
            self._samples += len(block)
            yield block
        missing = -self._samples % int(HOP_S * self._config.rate_hz)
        if missing and self._samples:
            yield np.zeros(missing, np.float32)

    def _take(self, window: Window, heard: Heard) -> Iterator[StoryEvent]:
        """Take a window; yield the event that has ended with it."""
        if heard.state is State.QUIET:
            self._was_quiet = True
            open_ = self._open
            # The next onset is too late for it to go on.
            if open_ is not None and heard.end_s - open_.heard_s > self._pause_s:
                yield from self._close(heard.end_s)
            return
        if self._was_quiet:
            self._onset_s = window.start_s + units.SEGMENT_S - HOP_S if window.start_s else 0.0
            self._was_quiet = False
        event = heard.event
        if event is None:
            return
        if self._open is not None and event.number != self._open.number:
            yield from self._close(event.began_s)
        ended_s = self._sounded_until(window)
        if self._open is None:
            self._open = _Open(event.number)
            self._open.spans.append((event.began_s, max(ended_s, event.began_s + HOP_S)))
        elif self._event is not None and event.repeats > self._event.repeats:
            self._open.spans.append((self._onset_s, max(ended_s, self._onset_s + HOP_S)))
        else:
            began_s, until_s = self._open.spans[-1]
            self._open.spans[-1] = (began_s, max(until_s, ended_s))
        self._event = event
        self._open.heard_s = event.heard_s
        self._open.take(window, heard, ended_s)

    def _sounded_until(self, window: Window) -> float:
        """The end of the last quarter of a window that is loud enough, in seconds.

        A bark of a tenth of a second is in windows that end three quarters later.
        """
        quarters = np.split(window.samples, round(units.SEGMENT_S / HOP_S))
        for index in range(len(quarters), 0, -1):
            if rms_dbfs(quarters[index - 1]) >= self._listener.quiet_dbfs:
                return window.start_s + index * HOP_S
        return window.start_s + units.SEGMENT_S

    def _close(self, by_s: float) -> Iterator[StoryEvent]:
        """End the event that is open, at ``by_s`` at the latest."""
        if self._open is None:
            return
        event = self._open.close(by_s, self._config)
        self._open, self._event = None, None
        self._events.append(event)
        yield event
