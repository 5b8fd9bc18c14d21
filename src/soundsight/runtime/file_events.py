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

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.state import State
from soundsight.media.audio import Sound, SoundStream, blocks_of
from soundsight.media.mel import MelConfig
from soundsight.media.overview import OverviewMaker
from soundsight.media.segments import Segment, rms_dbfs, segments
from soundsight.runtime.events import (
    Event,
    EventTracker,
    SteadyConfig,
    WindowResult,
    is_surer,
    take_surer,
)
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
        sound: a path; samples [t] or [t, channels]; or an iterator of float32 blocks [t], mono at
            44,100 Hz.
        rate_hz: rate of samples in memory, in hertz; not for a path.
        sensitivity: 0 (only what is loud and sure) to 1 (more, and errs more).
        seed: another seed imagines other pictures.
        source: what the result calls the sound; None takes the file's name.
        total_s: its length in seconds, for ``Progress``; None takes what a file says of itself.

    Yields:
        Progress every quarter of a second of sound, each event once it has ended, and all of them
        as the last.

    Raises:
        AudioError: when the sound cannot be read or is no sound; at once, or at the second where
            the fault is met.
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
    return finder.run(blocks, total_s, source or "", model.info.label, seed)


class _OpenEvent:
    """An event that may go on."""

    def __init__(self, event: Event, began_s: float, ended_s: float) -> None:
        self.number = event.number  # the tracker's
        self.repeats = event.repeats
        self.spans = [(began_s, ended_s)]
        self.heard_s = 0.0  # the end of its last window, which is what the tracker counts by
        self._level_dbfs = -math.inf
        self._surest = Recognition()
        self._seconds = SurestSeconds()
        self._rank = (False, -math.inf)  # of the window that is shown, if none is recognised
        self._shown: Segment | None = None

    @property
    def kind(self) -> str:
        """What it is so far, see ``_kind``."""
        return _kind(self._surest)

    def take(self, window: Segment, result: WindowResult, *, full: bool) -> None:
        """Take a window; ``full`` where the event sounds from its beginning to its end."""
        surest = self._surest
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
        surest, window = self._surest, self._shown
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
        self._config = config
        kept_s = units.SEGMENT_S + _EARLIER_S + _BESIDE_S
        # Of each step: its first frame's time, decibels [frames, bands], and the lowest level
        # that the log-mel shows.
        self._steps: deque[tuple[float, NDArray[np.float32], float]] = deque(
            maxlen=math.ceil(kept_s / HOP_S) + _QUARTERS
        )

    def take(self, window: Segment) -> None:
        """Take the next window: what is new in it is kept."""
        config = self._config
        new_s = HOP_S if self._steps else units.SEGMENT_S
        columns = window.mel[:, -round(new_s / _FRAME_S) :].T.astype(np.float32)
        least_db = window.peak_db - config.range_db
        first_s = window.start_s + units.SEGMENT_S - new_s
        self._steps.append((first_s, least_db + columns * (config.range_db / 255), least_db))

    def boundary(self, near_s: float, after_s: float) -> float:
        """Return where the spectrum changes most near ``near_s``, and not before ``after_s``.

        The cut in two whose means differ most (the one change of a mean under Gaussian noise).
        """
        began_s, _, _ = self._steps[0]
        db = np.concatenate([step for _, step, _ in self._steps])
        # What one window shows and another cannot is no change.
        db = np.maximum(db, max(least_db for _, _, least_db in self._steps))

        def frame(second: float) -> int:
            return min(len(db), max(0, round((second - began_s) / _FRAME_S)))

        first_s = max(after_s, near_s - _EARLIER_S)
        last_s = near_s + _LATER_S
        low, high = frame(first_s - _BESIDE_S), frame(last_s + _BESIDE_S)
        cuts = np.arange(max(frame(first_s), low + 1), min(frame(last_s), high - 1) + 1)
        if not len(cuts):
            return near_s
        part = db[low:high]
        sums = np.concatenate([np.zeros((1, part.shape[1])), part.cumsum(axis=0, dtype=np.float64)])
        before = (cuts - low)[:, None]
        after = (high - cuts)[:, None]
        apart = sums[cuts - low] / before - (sums[-1] - sums[cuts - low]) / after
        gain = (before * after)[:, 0] * np.square(apart).sum(axis=1)
        far = began_s + cuts * _FRAME_S - (near_s - _LATE_S)
        gain *= np.exp(-np.square(far / _SPREAD_S) / 2)
        return began_s + int(cuts[gain.argmax()]) * _FRAME_S


class _Finder:
    def __init__(self, tracker: EventTracker, config: MelConfig, labels: Sequence[str]) -> None:
        self._tracker = tracker
        self._labels = labels
        self._config = config
        self._pause_s = SteadyConfig().pause_s
        self._samples = 0
        self._events: list[FileEvent] = []
        self._open: _OpenEvent | None = None
        self._waiting: FileEvent | None = None  # it has ended, and the next one may join it
        self._spectra = _Spectra(config)
        # The present stretch without quiet: where it began, and how far it has sounded.
        self._onset_s = 0.0
        self._until_s = 0.0
        self._counted_s = 0.0
        self._was_quiet = True

    def run(
        self,
        blocks: Iterator[NDArray[np.float32]],
        total_s: float | None,
        source: str,
        model: str,
        seed: int,
    ) -> Generator[Progress | FileEvent | FileEvents]:
        overview = OverviewMaker(self._config)
        window: Segment | None = None
        result: WindowResult | None = None
        whole = self._whole(blocks, overview)
        for window in segments(whole, hop_s=HOP_S, config=self._config, with_samples=True):
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
        yield FileEvents(
            source=source, model=model, seed=seed, sensitivity=self._tracker.sensitivity,
            overview=overview.finish(duration_s), events=self._events,
            warnings=_without_folders(blocks),
        )  # fmt: skip

    def _whole(
        self, blocks: Iterator[NDArray[np.float32]], overview: OverviewMaker
    ) -> Iterator[NDArray[np.float32]]:
        """Count the samples; silence completes the last quarter of a second."""
        for block in blocks:
            self._samples += len(block)
            overview.push(block)
            yield block
        missing = -self._samples % int(HOP_S * self._config.rate_hz)
        if missing and self._samples:
            overview.push(np.zeros(missing, np.float32))
            yield np.zeros(missing, np.float32)

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
        loud = self._loud_quarters(window)
        # A bark of a tenth of a second is in windows that end three quarters later.
        ended_s = window.start_s + (max(loud, default=_QUARTERS - 1) + 1) * HOP_S
        if self._was_quiet:
            self._begin(window, loud)
        self._until_s = max(self._until_s, self._loud_until_s(window, loud))
        event = result.event
        if event is None:
            return
        goes_on = self._open is not None and event.number == self._open.number
        if self._is_left(window, ended_s):
            if goes_on and self._open is not None:
                self._go_on(self._open, event)
            return
        if not goes_on:
            # What has not taken over from another sound begins where the quiet ended.
            took_over = event.repeats == 1 and event.began_s > self._counted_s
            began_s = self._boundary_s(event.began_s) if took_over else self._onset_s
            yield from self._close(began_s)
            self._open = _OpenEvent(event, began_s, max(self._until_s, began_s + _FRAME_S))
        assert self._open is not None
        self._go_on(self._open, event)
        full = window.start_s >= self._open.spans[-1][0] and ended_s >= result.end_s
        self._open.take(window, result, full=full)
        began_s, until_s = self._open.spans[-1]
        if until_s - began_s > self._pause_s and not self._may_join(self._open.kind):
            yield from self._release()

    def _boundary_s(self, near_s: float) -> float:
        """Where one sound has taken over from another, near where the tracker noticed it."""
        after_s = self._onset_s if self._open is None else self._open.spans[-1][0]
        return max(after_s + _FRAME_S, self._spectra.boundary(near_s, after_s + HOP_S))

    def _go_on(self, open_: _OpenEvent, event: Event) -> None:
        """The event sounds on, or again."""
        began_s, until_s = open_.spans[-1]
        again = event.repeats > open_.repeats
        open_.repeats = event.repeats
        # A second may be quiet whose last quarter is not: then it has sounded on.
        if again and self._onset_s > until_s:
            open_.spans.append((self._onset_s, self._until_s))
        else:
            open_.spans[-1] = (began_s, self._until_s)
        open_.heard_s = event.heard_s

    def _loud_quarters(self, window: Segment) -> list[int]:
        """Which quarters of a window are loud enough by themselves."""
        quarters = np.split(window.samples, _QUARTERS)
        quiet_dbfs = self._tracker.quiet_dbfs
        return [i for i, quarter in enumerate(quarters) if rms_dbfs(quarter) >= quiet_dbfs]

    def _loud_frames(self, window: Segment) -> NDArray[np.bool_]:
        """Which frames (10 ms) of a window are loud enough by themselves."""
        frames = window.samples.reshape(self._config.segment_frames, -1)
        power = np.square(frames, dtype=np.float64).mean(axis=1)
        loud: NDArray[np.bool_] = power >= 10 ** (self._tracker.quiet_dbfs / 10)
        return loud

    def _loud_until_s(self, window: Segment, loud: list[int]) -> float:
        """Up to which frame a window is loud."""
        frames = self._loud_frames(window)
        end = (max(loud, default=_QUARTERS - 1) + 1) * len(frames) // _QUARTERS
        if loud and not frames[end - 1]:
            end = int(np.flatnonzero(frames[:end])[-1]) + 1
        while end < len(frames) and frames[end]:
            end += 1
        return window.start_s + end * _FRAME_S

    def _begin(self, window: Segment, loud: list[int]) -> None:
        """It was quiet up to this window."""
        self._was_quiet = False
        first = max(loud, default=_QUARTERS - 1)
        while first - 1 in loud:
            first -= 1
        frames = self._loud_frames(window)
        begin = first * len(frames) // _QUARTERS
        if loud and not frames[begin]:
            begin += int(np.flatnonzero(frames[begin:])[0])
        while begin and frames[begin - 1]:
            begin -= 1
        self._onset_s = window.start_s + begin * _FRAME_S
        self._until_s = self._onset_s + _FRAME_S
        # Where the tracker takes it to have begun.
        self._counted_s = window.start_s + units.SEGMENT_S - HOP_S if window.start_s else 0.0

    def _is_left(self, window: Segment, ended_s: float) -> bool:
        """Whether a window holds no more than the end of a longer sound."""
        held_s = ended_s - max(window.start_s, self._onset_s)
        return held_s <= _LEFT_S < self._until_s - self._onset_s

    def _close(self, by_s: float) -> Iterator[FileEvent]:
        """End the event that is open, at ``by_s`` at the latest; it waits for one to join it."""
        if self._open is None:
            return
        event = self._open.close(by_s, self._tracker, self._labels)
        self._open = None
        # Two sounds of no known kind are one only where there is no quiet between them.
        near = event.began_s - self._waiting_s <= (self._pause_s if event.name else 0.0)
        if self._waiting is not None and near and self._may_join(_kind(event)):
            self._waiting = _joined(self._waiting, event)
        else:
            yield from self._release()
            self._waiting = event

    @property
    def _waiting_s(self) -> float:
        """When the event that waits has ended."""
        return -math.inf if self._waiting is None else self._waiting.ended_s

    def _may_join(self, kind: str) -> bool:
        return self._waiting is not None and bool(kind) and kind == _kind(self._waiting)

    def _release(self) -> Iterator[FileEvent]:
        """Yield the event that waits."""
        if self._waiting is not None:
            self._events.append(replace(self._waiting, number=len(self._events) + 1))
            self._waiting = None
            yield self._events[-1]


def _without_folders(blocks: object) -> tuple[str, ...]:
    """The warnings about a sound; results are passed on, and name no folders."""
    warnings = tuple(getattr(blocks, "warnings", ()))
    if isinstance(blocks, SoundStream):
        name = Path(blocks.name).name
        return tuple(warning.replace(blocks.name, name, 1) for warning in warnings)
    return warnings


def _kind(event: Recognition) -> str:
    """What events that may be one have in common; empty for a picture without a name."""
    return event.name if event.is_known else str(event.state)


def _joined(one: FileEvent, other: FileEvent) -> FileEvent:
    """Make one event of two that follow each other; the surer one shows what it is."""
    surer = other if is_surer(other.confidence, one.confidence) else one
    spans = list(one.spans)
    if other.began_s - one.ended_s < HOP_S:
        spans[-1] = (spans[-1][0], other.spans[0][1])
        spans += other.spans[1:]
    else:
        spans += other.spans
    return replace(surer, spans=tuple(spans), level_dbfs=max(one.level_dbfs, other.level_dbfs))
