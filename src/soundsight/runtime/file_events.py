"""Finds the events of a sound file, in constant memory.

A window of 1 s every quarter of a second goes through ``events``, as a live sound does, so that a
file and the microphone give the same events. What is known only of a file is used, too:

* A short clip is scaled as a whole.
* What begins in the last half second is recognised from what there is of it.
* Windows that a sound has all but left are no evidence of what it was: the end of a roar, cut out
  of its second, sounds like a bang.
* A sound begins and ends with the frame (10 ms) that is loud enough. Where one takes over from
  another, that is certain some windows later: the boundary is put where the spectrum before
  differs most from the one after.
* Events of one name that follow each other within the tracker's pause are one event, and so are
  those of no known kind without a pause.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.state import State
from soundsight.media.audio import Sound, SoundStream, blocks_of
from soundsight.media.mel import MelConfig
from soundsight.media.overview import OverviewMaker
from soundsight.media.segments import Segment, segments
from soundsight.runtime import events
from soundsight.runtime.events import EventTracker, WindowResult, is_surer, take_surer
from soundsight.runtime.session import Session
from soundsight.runtime.surest import SurestSeconds
from soundsight.views.events import FileEvent, FileEvents, Recognition

HOP_S = 0.25
"""Seconds between the starts of windows."""

_QUARTERS = 4
"""Quarters of a second in a window."""

_FRAME_S = units.HOP_S

_LEFT_S = 0.5
"""A window with no more of a longer sound than this, at its beginning, has been left by it."""

_EARLIER_S, _LATER_S = 1.5, 0.25
"""How far from where the tracker puts it the boundary of two sounds is looked for ..."""

_LATE_S, _SPREAD_S = 0.4, 0.8
"""... since it comes so late, give or take; val split of ``benchmarks/boundaries.py``."""

_BESIDE_S = 0.5
"""How much more of the spectrum is looked at on either side."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How much of a sound has been listened to, and its length if that is known beforehand."""

    done_s: float
    total_s: float | None


def find_events(
    model: Session,
    sound: Sound,
    rate_hz: int | None = None,
    *,
    sensitivity: float = 0.5,
    seed: int = 0,
    source: str | None = None,
    total_s: float | None = None,
) -> Generator[Progress | FileEvent | FileEvents]:
    """Find the events of a sound of any length.

    Stop by closing the iterator. Memory grows with the events (40 kB each) and with nothing else.

    Args:
        model: a loaded model, such as a ``Translator``.
        sound: see ``Translator.translate``; or an iterator of float32 blocks [t], mono at 44.1 kHz.
        rate_hz: rate of samples in memory, in hertz; not for a path.
        sensitivity: 0 (only what is loud and sure) to 1 (more, and errs more).
        seed: another seed imagines other pictures.
        source: what the result calls the sound; None takes the file's name.
        total_s: its length in seconds, for ``Progress``; None takes what a file says of itself.

    Yields:
        Progress every quarter of a second of sound, each event once it has ended, and all of them
        as the last.

    Raises:
        AudioError: at once, or at the second where a fault is met.
        ConfigError: at once, when an option is wrong.
    """
    # An event is drawn once, when it has ended.
    tracker = EventTracker(model, draws=0, seed=seed, sensitivity=sensitivity)
    blocks = blocks_of(sound, rate_hz)
    if isinstance(blocks, SoundStream):
        total_s = blocks.duration_s if total_s is None else total_s
        source = Path(blocks.name).name if source is None else source
    labels = () if model.label_head is None else model.label_head.labels
    finder = _Finder(tracker, model.info.mel, labels)
    return finder.run(blocks, total_s, source=source or "", model=model.info.label, seed=seed)


class _OpenEvent:
    """An event that may go on."""

    def __init__(self, number: int, began_s: float, until_s: float) -> None:
        self.number = number  # the tracker's
        self.repeats = 1
        self.spans = [(began_s, until_s)]
        self.heard_s = 0.0  # the end of its last window, which is what the tracker counts by
        self.surest = Recognition()
        self._level_dbfs = -math.inf
        self._seconds = SurestSeconds()
        self._rank = (False, -math.inf)  # of the window that is shown, if none is recognised
        self._shown: Segment | None = None

    def take(self, window: Segment, result: WindowResult, *, full: bool) -> None:
        """Take a window; ``full`` where the event sounds from its beginning to its end."""
        surest = self.surest
        self._level_dbfs = max(self._level_dbfs, result.level_dbfs)
        if result.sound is not None:
            self._seconds.take(result.sound)
        if take_surer(surest, result):
            self._shown = window
        if surest.is_known:
            return
        if is_surer(result.confidence, surest.confidence):
            surest.confidence = result.confidence
        # A second that is full of the sound shows more than one that it begins or ends in.
        rank = (full, result.level_dbfs)
        if self._shown is None or rank > self._rank:
            self._rank, self._shown = rank, window

    def close(self, by_s: float, tracker: EventTracker, labels: Sequence[str]) -> FileEvent:
        """End it, at ``by_s`` at the latest, and draw it."""
        surest, window = self.surest, self._shown
        assert window is not None, "an event has at least one window"
        hops = window.samples.reshape(len(window.waveform), -1)
        if surest.state is State.PICTURE:
            kind = labels.index(surest.name) if surest.name in labels else 0
            surest.picture = tracker.draw(self._seconds.of_kind(kind), self.number, 1)[0]
        return FileEvent(
            **vars(surest),
            number=0,  # given when it is yielded
            spans=tuple((began_s, min(ended_s, by_s)) for began_s, ended_s in self.spans),
            level_dbfs=self._level_dbfs,
            shown_s=window.start_s,
            mel=window.mel,
            waveform=np.stack([hops.min(axis=1), hops.max(axis=1)], axis=1),
        )


class _Spectra:
    """The spectra of the last seconds, to find in them where one sound takes over from another."""

    def __init__(self, config: MelConfig) -> None:
        self._range_db = config.range_db
        # Of each step: its first frame's time, decibels [frames, bands], and the lowest level
        # that the log-mel shows.
        kept_s = units.SEGMENT_S + _EARLIER_S + _BESIDE_S
        self._steps: deque[tuple[float, NDArray[np.float32], float]] = deque(
            maxlen=math.ceil(kept_s / HOP_S) + _QUARTERS
        )

    def take(self, window: Segment) -> None:
        """Take the next window: what is new in it is kept."""
        new_s = HOP_S if self._steps else units.SEGMENT_S
        columns = window.mel[:, -round(new_s / _FRAME_S) :].T.astype(np.float32)
        least_db = window.peak_db - self._range_db
        first_s = window.start_s + units.SEGMENT_S - new_s
        self._steps.append((first_s, least_db + columns * (self._range_db / 255), least_db))

    def boundary(self, near_s: float, after_s: float) -> float:
        """Return where the spectrum changes most near ``near_s``, and not before ``after_s``.

        The cut in two whose means differ most (the one change of a mean under Gaussian noise).
        """
        began_s = self._steps[0][0]
        # What one window shows and another cannot is no change.
        least_db = max(least_db for _, _, least_db in self._steps)
        db = np.maximum(np.concatenate([step for _, step, _ in self._steps]), least_db)

        def frame(second: float) -> int:
            return min(len(db), max(0, round((second - began_s) / _FRAME_S)))

        first_s, last_s = max(after_s, near_s - _EARLIER_S), near_s + _LATER_S
        low, high = frame(first_s - _BESIDE_S), frame(last_s + _BESIDE_S)
        cuts = np.arange(max(frame(first_s), low + 1), min(frame(last_s), high - 1) + 1)
        if not len(cuts):
            return near_s
        sums = np.zeros((high - low + 1, db.shape[1]))
        np.cumsum(db[low:high], axis=0, dtype=np.float64, out=sums[1:])
        before, after = (cuts - low)[:, None], (high - cuts)[:, None]
        apart = sums[cuts - low] / before - (sums[-1] - sums[cuts - low]) / after
        gain = (before * after)[:, 0] * np.square(apart).sum(axis=1)
        far = began_s + cuts * _FRAME_S - (near_s - _LATE_S)
        gain *= np.exp(-np.square(far / _SPREAD_S) / 2)
        return began_s + int(cuts[gain.argmax()]) * _FRAME_S


class _Finder:
    def __init__(self, tracker: EventTracker, config: MelConfig, labels: Sequence[str]) -> None:
        self._tracker, self._config, self._labels = tracker, config, labels
        self._pause_s = events.SteadyConfig().pause_s
        self._samples = 0
        self._events: list[FileEvent] = []
        self._open: _OpenEvent | None = None
        self._waiting: FileEvent | None = None  # it has ended, and the next one may join it
        self._spectra = _Spectra(config)
        # The present stretch without quiet: where it began, how far it has sounded, and where the
        # tracker takes it to have begun.
        self._onset_s, self._until_s, self._counted_s = 0.0, 0.0, 0.0
        self._was_quiet = True

    def run(
        self, blocks: Iterator[NDArray[np.float32]], total_s: float | None, **about: Any
    ) -> Generator[Progress | FileEvent | FileEvents]:
        overview = OverviewMaker(self._config)

        def whole() -> Iterator[NDArray[np.float32]]:
            """Count the samples; silence completes the last quarter of a second."""
            for block in blocks:
                self._samples += len(block)
                overview.push(block)
                yield block
            missing = -self._samples % int(HOP_S * self._config.rate_hz)
            if missing and self._samples:
                overview.push(np.zeros(missing, np.float32))
                yield np.zeros(missing, np.float32)

        window, result = None, None
        for window in segments(whole(), hop_s=HOP_S, config=self._config, with_samples=True):
            self._spectra.take(window)
            result = self._tracker.update(window)
            yield from self._take(window, result)
            yield Progress(done_s=result.end_s, total_s=total_s)
        # What has just begun at the end is recognised from what there is of it.
        while result is not None and window is not None and not result.settled:
            result = self._tracker.update(window)
            yield from self._take(window, result)
        duration_s = self._samples / self._config.rate_hz
        yield from self._close(duration_s)
        yield from self._release()
        yield Progress(done_s=duration_s, total_s=duration_s)
        warnings = tuple(getattr(blocks, "warnings", ()))
        if isinstance(blocks, SoundStream):
            # Results are passed on: they name no folders.
            place, name = blocks.name, Path(blocks.name).name
            warnings = tuple(warning.replace(place, name, 1) for warning in warnings)
        yield FileEvents(
            sensitivity=self._tracker.sensitivity,
            overview=overview.finish(duration_s),
            events=self._events,
            warnings=warnings,
            **about,
        )

    def _take(self, window: Segment, result: WindowResult) -> Iterator[FileEvent]:
        """Take a window; yield the events that are over with it."""
        if result.state is State.QUIET:
            self._was_quiet = True
            # The next onset is too late for an event to go on.
            if self._open is not None and result.end_s - self._open.heard_s > self._pause_s:
                yield from self._close(result.end_s)
            if self._open is None and result.end_s - self._waiting_s > self._pause_s:
                yield from self._release()
            return
        onset_s, until_s, ended_s = self._loud(window)
        if self._was_quiet:
            self._was_quiet = False
            self._onset_s, self._until_s = onset_s, onset_s + _FRAME_S
            self._counted_s = result.end_s - HOP_S if window.start_s else 0.0
        self._until_s = max(self._until_s, until_s)
        event, open_ = result.event, self._open
        if event is None:
            return
        goes_on = open_ is not None and event.number == open_.number
        # Whether a window holds no more than the end of a longer sound.
        held_s = ended_s - max(window.start_s, self._onset_s)
        is_left = held_s <= _LEFT_S < self._until_s - self._onset_s
        if is_left and not goes_on:
            return
        if open_ is None or not goes_on:
            began_s = self._onset_s
            if event.repeats == 1 and event.began_s > self._counted_s:
                # It has taken over from another sound, near where the tracker noticed it.
                after_s = began_s if open_ is None else open_.spans[-1][0]
                found_s = self._spectra.boundary(event.began_s, after_s + HOP_S)
                began_s = max(after_s + _FRAME_S, found_s)
            yield from self._close(began_s)
            open_ = _OpenEvent(event.number, began_s, max(self._until_s, began_s + _FRAME_S))
            open_.repeats = event.repeats
            self._open = open_
        # It sounds on, or again. A second may be quiet whose last quarter is not: then it has
        # sounded on.
        began_s, until_s = open_.spans[-1]
        if event.repeats > open_.repeats and self._onset_s > until_s:
            open_.spans.append((self._onset_s, self._until_s))
        else:
            open_.spans[-1] = (began_s, self._until_s)
        open_.repeats, open_.heard_s = event.repeats, event.heard_s
        if is_left:
            return
        began_s, until_s = open_.spans[-1]
        open_.take(window, result, full=window.start_s >= began_s and ended_s >= result.end_s)
        if until_s - began_s > self._pause_s and not self._may_join(open_.surest):
            yield from self._release()

    def _loud(self, window: Segment) -> tuple[float, float, float]:
        """When the last loud part of a window begins and ends, to the frame; its quarter's end."""
        power = np.square(window.samples, dtype=np.float64)
        power = power.reshape(_QUARTERS, -1, self._config.hop_samples).mean(axis=2)
        least = 10 ** (self._tracker.quiet_dbfs / 10)
        # A bark of a tenth of a second is in windows that end three quarters later.
        quarters, frames = power.mean(axis=1) >= least, (power >= least).ravel()
        is_loud = bool(quarters.any())
        last = first = int(np.flatnonzero(quarters)[-1]) if is_loud else _QUARTERS - 1
        while first and quarters[first - 1]:
            first -= 1
        begin, end = (n * len(frames) // _QUARTERS for n in (first, last + 1))
        ended_s = window.start_s + end * _FRAME_S
        if is_loud:
            begin += int(frames[begin:].argmax())
            end -= int(frames[:end][::-1].argmax())
        while begin and frames[begin - 1]:
            begin -= 1
        while end < len(frames) and frames[end]:
            end += 1
        return window.start_s + begin * _FRAME_S, window.start_s + end * _FRAME_S, ended_s

    def _close(self, by_s: float) -> Iterator[FileEvent]:
        """End the event that is open, at ``by_s`` at the latest; it waits for one to join it."""
        if self._open is None:
            return
        event = self._open.close(by_s, self._tracker, self._labels)
        self._open = None
        # Two sounds of no known kind are one only where there is no quiet between them.
        near = event.began_s - self._waiting_s <= (self._pause_s if event.name else 0.0)
        if self._waiting is not None and near and self._may_join(event):
            self._waiting = _joined(self._waiting, event)
        else:
            yield from self._release()
            self._waiting = event

    @property
    def _waiting_s(self) -> float:
        """When the event that waits has ended."""
        return -math.inf if self._waiting is None else self._waiting.ended_s

    def _may_join(self, event: Recognition) -> bool:
        """Whether it is what the event that waits is; pictures without a name have no kind."""
        if self._waiting is None or event.is_known != self._waiting.is_known:
            return False
        return not event.is_known or "" != event.name == self._waiting.name

    def _release(self) -> Iterator[FileEvent]:
        """Yield the event that waits."""
        if self._waiting is not None:
            self._events.append(replace(self._waiting, number=len(self._events) + 1))
            self._waiting = None
            yield self._events[-1]


def _joined(one: FileEvent, other: FileEvent) -> FileEvent:
    """Make one event of two that follow each other; the surer one shows what it is."""
    surer = other if is_surer(other.confidence, one.confidence) else one
    spans = [*one.spans, *other.spans]
    if other.began_s - one.ended_s < HOP_S:
        at = len(one.spans)
        spans[at - 1 : at + 1] = [(one.spans[-1][0], other.spans[0][1])]
    return replace(surer, spans=tuple(spans), level_dbfs=max(one.level_dbfs, other.level_dbfs))
