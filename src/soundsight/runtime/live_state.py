"""What a live view shows, from what the last windows and the clock say.

A listener answers windows; a person wants to know what is now, what was before, and above all
when nobody listens any more. The clock decides that: a signal that has stopped gives no window
that could say so.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from soundsight.core.state import State
from soundsight.media.segments import rms_dbfs
from soundsight.runtime.events import Event, Heard, Surest
from soundsight.views.live_view import Look, Moment, Past

DEAF_S = 1.5
"""Without sound for so long, nobody listens."""

PAST_S = 5.0
"""A picture stays for so long after its sound."""

YOUNG_S = 2.5
"""After so long it is for the windows to say whether something sounds."""

ZEROS_S = 3.0
"""A microphone whose samples are all exactly 0 for so long hears nothing: no room is so still."""

MUTED_WORDS = "The microphone sends nothing: is it muted or covered?"

TAIL_S = 1.0
"""What is unrecognisable for no longer than this before it is quiet was the end of a sound."""

MOST_PAST = 200
_BAND_DB = 3.0
_HOLD_S = 1.0
_LEVEL_S = 0.06


@dataclass(eq=False)
class _Entry:
    """An event, what is left of it when it is no longer recognised, or a gap."""

    began: datetime
    until: datetime
    gap: bool = False
    closed: bool = False  # of a gap
    number: int = 0  # of an event
    surest: Surest = field(default_factory=Surest)
    repeats: int = 1
    rest_of: _Entry | None = None

    def past(self) -> Past:
        return Past(
            began=self.began,
            lasted_s=max(0.0, (self.until - self.began).total_seconds()),
            gap=self.gap,
            name=self.surest.name,
            second_guess=self.surest.second_guess,
            confidence=self.surest.confidence,
            picture=self.surest.picture,
            named=self.surest.state is State.NAMED,
            repeats=self.repeats,
        )


class Watch:
    """Follows one signal for a live view.

    Args:
        source: what is listened to, in words.
        quiet_dbfs: level under which it is quiet, as ``Listener.quiet_dbfs``.
        microphone: whether it is one: its samples are never all 0 for long, while a file, a tab
            or a stream may pause.
        clock: seconds, evenly.
        wall: what time it is.
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
        self._quiet_dbfs = quiet_dbfs
        self._microphone = microphone
        self._clock = clock
        self._wall = wall
        self._began_at = clock()
        self._sample_at = -math.inf
        self._sample_wall = wall()
        self._power: deque[tuple[float, float]] = deque()  # (seconds, power) of the last blocks
        self._level = -math.inf
        self._mark, self._mark_at, self._loud_at = False, -math.inf, -math.inf
        self._zeros_from: float | None = None
        self._zeros_wall = self._sample_wall
        self._heard: Heard | None = None
        self._present: _Entry | None = None  # the event of the last window with sound
        self._known_at = -math.inf
        self._entries: deque[_Entry] = deque(maxlen=MOST_PAST)  # the newest first
        self._why = ""

    def block(self, samples: NDArray[np.generic], rate_hz: int) -> None:
        """Take the next samples [t] or [t, channels], int16 or floats of full scale 1."""
        now, wall = self._clock(), self._wall()
        if now - self._sample_at > DEAF_S and self._sample_at > -math.inf:
            self._gap()
        self._why = ""
        self._sample_at, self._sample_wall = now, wall
        loud = samples.astype(np.float64) / (32768 if samples.dtype == np.int16 else 1)
        if loud.any():
            self._zeros_from = None
        elif self._zeros_from is None and len(loud):
            self._zeros_from, self._zeros_wall = now, wall
        if not self.muted:
            self._end_gap()
        if not len(loud):
            return
        self._power.append((len(loud) / rate_hz, float(np.mean(np.square(loud)))))
        while len(self._power) > 1 and sum(s for s, _ in self._power) > 2 * _LEVEL_S:
            self._power.popleft()
        total = sum(s for s, _ in self._power)
        mean = math.sqrt(sum(s * p for s, p in self._power) / total)
        self._level = rms_dbfs(np.asarray([mean]))
        if self._level >= self._quiet_dbfs - _BAND_DB / 2:
            self._loud_at = now
        if self._mark:
            self._mark = now - self._loud_at < _HOLD_S
        elif self._level >= self._quiet_dbfs + _BAND_DB / 2:
            self._mark, self._mark_at = True, now

    def hear(self, heard: Heard) -> None:
        """Take the answer to the newest window."""
        now, wall = self._clock(), self._wall()
        if heard.settled or heard.state is State.QUIET or self._heard is None:
            self._heard = heard
        if heard.event is None:
            if heard.state is State.QUIET:
                self._forget_tail()
            return
        entry = self._present = self._entry_of(heard.event, heard, wall)
        entry.until, entry.repeats = wall, heard.event.repeats
        entry.surest.take(heard)
        # What is no longer recognised does not come back as the past.
        self._known_at = now if heard.state.is_known else -math.inf

    def _entry_of(self, event: Event, heard: Heard, wall: datetime) -> _Entry:
        """The entry of the history that a window belongs to: what is shown is always of one."""
        entry = self._present
        known = heard.state.is_known
        if entry is None or entry.number != event.number:
            # An event is told only once it has settled: it has begun before.
            began = wall - timedelta(seconds=max(0.0, heard.end_s - event.began_s))
            entry = _Entry(began=began, until=wall, number=event.number)
        elif entry.rest_of is not None and known:
            # Recognised again: it was the same all the time.
            self._forget(entry)
            return entry.rest_of
        elif not known and entry.surest.state.is_known:
            entry = _Entry(began=wall, until=wall, number=event.number, rest_of=entry)
        else:
            return entry
        self._entries.appendleft(entry)
        return entry

    def _forget_tail(self) -> None:
        """It is quiet: what was unrecognisable just before was no event of its own."""
        entry = self._present
        if entry is None or entry.rest_of is None:
            return
        if entry.until - entry.began < timedelta(seconds=TAIL_S):
            self._forget(entry)
            self._present = entry.rest_of

    def _forget(self, entry: _Entry) -> None:
        with contextlib.suppress(ValueError):  # it is so old that it has gone by itself
            self._entries.remove(entry)

    @property
    def muted(self) -> bool:
        """Whether a microphone has sent nothing but zeros for ``ZEROS_S``."""
        zeros_from = self._zeros_from if self._microphone else None
        return zeros_from is not None and self._clock() - zeros_from > ZEROS_S

    def lost(self, why: str) -> None:
        """Say why no sound comes. The next block ends that."""
        self._why = why

    def restart(self) -> None:
        """The signal begins anew: nothing is known of it yet."""
        self._heard, self._present = None, None
        self._known_at = -math.inf
        self._mark, self._zeros_from = False, None
        self._power.clear()

    def moment(self) -> Moment:
        """Say what is to be shown now."""
        now, wall = self._clock(), self._wall()
        look, detail = self._look(now)
        present: Past | None = None
        if look is Look.NOT_LISTENING:
            self._gap()
        elif look in (Look.PICTURE, Look.NAMED, Look.PAST) and self._present is not None:
            present = self._present.past()
        return Moment(
            look=look,
            at=wall,
            source=self.source,
            detail=detail,
            level_dbfs=-math.inf if look is Look.NOT_LISTENING else self._level,
            sounding=self._mark and look is not Look.NOT_LISTENING,
            present=present,
            history=[entry.past() for entry in self._entries],
        )

    def _look(self, now: float) -> tuple[Look, str]:
        if self._why:
            return Look.NOT_LISTENING, self._why
        silent_s = now - max(self._sample_at, self._began_at)
        if silent_s > DEAF_S:
            return Look.NOT_LISTENING, "No sound comes from the microphone."
        if self.muted:
            return Look.NOT_LISTENING, MUTED_WORDS
        heard = self._heard
        young = self._mark and now - self._mark_at < YOUNG_S
        if heard is None:
            return (Look.SOUND, "") if young else (Look.STARTING, "Listening to the first second.")
        if heard.state.is_known and self._present is not None:
            # What is shown is of the surest moment, which may have been named.
            named = self._present.surest.state is State.NAMED
            return Look.NAMED if named else Look.PICTURE, self._since()
        if heard.state is not State.QUIET and heard.settled:
            known = "There is a sound, but of no kind that the program knows."
            return Look.NOTHING, known
        ago = now - self._known_at
        if ago < PAST_S and self._present is not None and self._present.surest.state.is_known:
            return Look.PAST, f"heard {max(1, round(ago))} s ago{self._times()}"
        if young:
            return Look.SOUND, "It is too short yet to say what it is."
        return Look.QUIET, "Listening. Nothing loud enough sounds."

    def _since(self) -> str:
        assert self._present is not None
        return f"since {self._present.began:%H:%M:%S}{self._times()}"

    def _times(self) -> str:
        repeats = 1 if self._present is None else self._present.repeats
        return f", {repeats} times" if repeats > 1 else ""

    def _gap(self) -> None:
        """Begin a gap in the history, or let the open one go on."""
        newest = self._entries[0] if self._entries else None
        if newest is None or not newest.gap or newest.closed:
            began = self._zeros_wall if self.muted else self._sample_wall
            newest = _Entry(began=began, until=self._wall(), gap=True)
            self._entries.appendleft(newest)
        newest.until = self._wall()

    def _end_gap(self) -> None:
        newest = self._entries[0] if self._entries else None
        if newest is not None and newest.gap and not newest.closed:
            newest.until = self._wall()
            newest.closed = True
