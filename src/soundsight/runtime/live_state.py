"""What a live view shows, from the newest windows and the clock.

The clock is needed because a signal that has stopped gives no window that could say so: without
new samples the state is *not listening*.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from soundsight.core.state import State
from soundsight.media.segments import rms_dbfs
from soundsight.runtime.events import WindowResult, take_surer
from soundsight.views.live_view import LiveEvent, LiveView, Look

STOPPED_S = 1.5
"""Without samples for so long it is not listening."""

PAST_S = 5.0
"""A picture stays for so long after its sound."""

YOUNG_S = 2.5
"""After so long it is for the windows to say whether something sounds."""

ZEROS_S = 3.0
"""A microphone whose samples are all exactly 0 for so long is muted: no room is so still."""

MUTED_WORDS = "The microphone sends nothing: is it muted or covered?"

TAIL_S = 1.0
"""What is unrecognisable for no longer than this before it is quiet was the end of a sound."""

MOST_HISTORY = 200
_BAND_DB = 3.0
_HOLD_S = 1.0
_LEVEL_S = 0.12


@dataclass(kw_only=True, eq=False)
class _Entry(LiveEvent):
    """An event, what is left of it when it is no longer recognised, or a gap."""

    number: int = 0  # of an event
    closed: bool = False  # of a gap
    rest_of: _Entry | None = None


class LiveState:
    """Follows one signal for a live view.

    Args:
        source: what is listened to, in words.
        quiet_dbfs: level under which it is quiet, as ``EventTracker.quiet_dbfs``.
        microphone: whether it is one: its samples are never all 0 for long.
    """

    def __init__(
        self,
        source: str,
        quiet_dbfs: float,
        *,
        microphone: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self._quiet_dbfs, self._microphone = quiet_dbfs, microphone
        self._clock, self._wall = clock, wall
        self._began_at = clock()
        self._sample_at, self._sample_wall = -math.inf, wall()
        self._power: deque[tuple[float, float]] = deque()  # (seconds, power) of the last blocks
        self._level_dbfs = -math.inf
        self._sounding, self._sounding_at, self._loud_at = False, -math.inf, -math.inf
        self._zeros_from, self._zeros_wall = math.inf, self._sample_wall
        self._window: WindowResult | None = None
        self._present: _Entry | None = None  # the event of the last window with sound
        self._known_at = -math.inf
        self._history: deque[_Entry] = deque(maxlen=MOST_HISTORY)  # the newest first
        self._why = ""

    def take_samples(self, samples: NDArray[np.generic], rate_hz: int) -> None:
        """Take the next samples [t] or [t, channels], int16 or floats of full scale 1."""
        now, wall = self._clock(), self._wall()
        if STOPPED_S < now - self._sample_at < math.inf:
            self._gap()
        self._why = ""
        self._sample_at, self._sample_wall = now, wall
        unit = samples.astype(np.float64) / (32768 if samples.dtype == np.int16 else 1)
        if unit.any():
            self._zeros_from = math.inf
        elif self._zeros_from == math.inf and len(unit):
            self._zeros_from, self._zeros_wall = now, wall
        gap = self._open_gap
        if gap is not None and not self.muted:
            gap.until, gap.closed = wall, True
        if len(unit):
            self._measure(now, len(unit) / rate_hz, float(np.mean(np.square(unit))))

    def _measure(self, now: float, seconds: float, power: float) -> None:
        """Measure the level of the last 0.12 s, and whether something sounds."""
        self._power.append((seconds, power))
        while len(self._power) > 1 and sum(s for s, _ in self._power) > _LEVEL_S:
            self._power.popleft()
        mean = sum(s * p for s, p in self._power) / sum(s for s, _ in self._power)
        self._level_dbfs = rms_dbfs(np.sqrt([mean]))
        if self._level_dbfs >= self._quiet_dbfs - _BAND_DB / 2:
            self._loud_at = now
        if self._sounding:
            self._sounding = now - self._loud_at < _HOLD_S
        elif self._level_dbfs >= self._quiet_dbfs + _BAND_DB / 2:
            self._sounding, self._sounding_at = True, now

    def take_window(self, window: WindowResult) -> None:
        """Take the newest window."""
        if window.settled or window.state is State.QUIET or self._window is None:
            self._window = window
        entry = self._present
        if window.event is not None:
            entry = self._present = self._entry_of(window)
            entry.until, entry.repeats = self._wall(), window.event.repeats
            take_surer(entry, window)
            # What is no longer recognised does not come back as the past.
            self._known_at = self._clock() if window.state.is_known else -math.inf
        elif window.state is State.QUIET and entry is not None and entry.lasted_s < TAIL_S:
            # What was unrecognisable just before it is quiet was no event of its own.
            self._present = self._without_rest(entry)

    def _entry_of(self, window: WindowResult) -> _Entry:
        """The entry of the history that a window with an event belongs to."""
        event, entry, known, wall = window.event, self._present, window.state.is_known, self._wall()
        assert event is not None
        if entry is None or entry.number != event.number:
            # An event is known only once it has settled: it has begun before.
            began = wall - timedelta(seconds=max(0.0, window.end_s - event.began_s))
            entry = _Entry(began=began, until=wall, number=event.number)
        elif known:
            # Recognised again: it was the same all the time.
            return self._without_rest(entry)
        elif entry.is_known:
            entry = _Entry(began=wall, until=wall, number=event.number, rest_of=entry)
        else:
            return entry
        self._history.appendleft(entry)
        return entry

    def _without_rest(self, entry: _Entry) -> _Entry:
        """An entry, or what it is the rest of: the rest is then forgotten."""
        if entry.rest_of is None:
            return entry
        if entry in self._history:  # it may be so old that it has gone by itself
            self._history.remove(entry)
        return entry.rest_of

    @property
    def muted(self) -> bool:
        """Whether a microphone has sent nothing but zeros for ``ZEROS_S``."""
        return self._microphone and self._clock() - self._zeros_from > ZEROS_S

    def stop(self, why: str) -> None:
        """Say why no sound comes. The next samples end that."""
        self._why = why

    def restart(self) -> None:
        """The signal begins anew: nothing is known of it yet."""
        self._window, self._present = None, None
        self._known_at = -math.inf
        self._sounding, self._zeros_from = False, math.inf
        self._power.clear()

    def view(self) -> LiveView:
        """Return what is to be shown now."""
        look, detail = self._look()
        stopped = look is Look.NOT_LISTENING
        if stopped:
            self._gap()
        present = self._present if look in (Look.PICTURE, Look.NAMED, Look.PAST) else None
        return LiveView(
            look=look,
            at=self._wall(),
            source=self.source,
            detail=detail,
            level_dbfs=-math.inf if stopped else self._level_dbfs,
            sounding=self._sounding and not stopped,
            recognised=present if present is not None and present.is_known else None,
            history=list(self._history),
        )

    def _look(self) -> tuple[Look, str]:
        now, window, present = self._clock(), self._window, self._present
        if self._why:
            return Look.NOT_LISTENING, self._why
        if now - max(self._sample_at, self._began_at) > STOPPED_S:
            return Look.NOT_LISTENING, "No sound comes from the microphone."
        if self.muted:
            return Look.NOT_LISTENING, MUTED_WORDS
        young = self._sounding and now - self._sounding_at < YOUNG_S
        if window is None:
            return (Look.SOUND, "") if young else (Look.STARTING, "Listening to the first second.")
        times = "" if present is None or present.repeats < 2 else f", {present.repeats} times"
        if window.state.is_known and present is not None:
            # What is shown is of the surest window, which may have been named.
            look = Look.NAMED if present.state is State.NAMED else Look.PICTURE
            return look, f"since {present.began:%H:%M:%S}{times}"
        if window.state is not State.QUIET and window.settled:
            return Look.NOTHING, "There is a sound, but of no kind that the program knows."
        ago = now - self._known_at
        if ago < PAST_S and present is not None and present.is_known:
            return Look.PAST, f"heard {max(1, round(ago))} s ago{times}"
        if young:
            return Look.SOUND, "It is too short yet to say what it is."
        return Look.QUIET, "Listening. Nothing loud enough sounds."

    @property
    def _open_gap(self) -> _Entry | None:
        """The gap that the history begins with and that has not ended."""
        newest = self._history[0] if self._history else None
        return newest if newest is not None and newest.gap and not newest.closed else None

    def _gap(self) -> None:
        """Begin a gap in the history, or let the open one go on."""
        gap, now = self._open_gap, self._wall()
        if gap is None:
            began = self._zeros_wall if self.muted else self._sample_wall
            gap = _Entry(began=began, until=now, gap=True)
            self._history.appendleft(gap)
        gap.until = now
