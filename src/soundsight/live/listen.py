"""Listening to a source until it ends, and showing on displays what it sounds like."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from soundsight.core.state import known
from soundsight.live.microphone import Block, Source
from soundsight.media.segments import LiveCutter, Segment
from soundsight.runtime.events import EventTracker, WindowResult
from soundsight.runtime.live_state import LiveState
from soundsight.runtime.translator import Translator
from soundsight.views.live_view import LiveView, Look, how_long, save_panel, terminal_view

_WAIT_S = 0.1
_REFRESH_S = 0.1
"""A terminal is drawn anew this often at most ..."""
_PANEL_S = 1.0
"""... and a PNG this often at least, so that its time shows that it is alive."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 15.0

Say = Callable[[str], None]
"""Prints a line."""


class Display:
    """Somewhere to show live views."""

    def show(self, view: LiveView, window: WindowResult | None) -> None:
        """Show the present; ``window`` is the newest one, where there is a new one."""

    def close(self, view: LiveView) -> None:
        """Show the end."""


def listen(
    translator: Translator,
    source: Source,
    displays: Sequence[Display],
    *,
    sensitivity: float = 0.5,
    seed: int = 0,
    seconds: float | None = None,
) -> None:
    """Listen until the source ends, ``seconds`` are over or Ctrl-C is pressed.

    Raises:
        SoundsightError: when a display cannot be written to, or the sound cannot be read further.
    """
    signal = _Signal(translator, source, sensitivity, seed)
    began = time.monotonic()
    retry_at, wait_s = 0.0, _FIRST_RETRY_S
    try:
        while not source.ended and (seconds is None or time.monotonic() - began < seconds):
            block = source.read(_WAIT_S)
            window = signal.take(block)
            if block is not None:
                retry_at, wait_s = 0.0, _FIRST_RETRY_S
            view = signal.state.view()
            for display in displays:
                display.show(view, window)
            gone = view.look is Look.NOT_LISTENING and not signal.state.muted
            if gone and not source.ended and time.monotonic() >= retry_at:
                signal.reopen()
                retry_at, wait_s = time.monotonic() + wait_s, min(_LONGEST_RETRY_S, 2 * wait_s)
    except KeyboardInterrupt:
        pass  # the way to end what has no end
    finally:
        # What stays behind must not look like the present.
        signal.state.stop("The file has ended." if source.ended else "Stopped.")
        view = signal.state.view()
        for display in displays:
            display.close(view)


class _Signal:
    """A source, the events that are found in it, and what is to be shown of them."""

    def __init__(
        self, translator: Translator, source: Source, sensitivity: float, seed: int
    ) -> None:
        self._new_tracker = partial(EventTracker, translator, sensitivity=sensitivity, seed=seed)
        self._config = translator.info.mel
        self.source = source
        self._tracker = self._new_tracker()
        self._cut_from(0.0)
        quiet_dbfs = self._tracker.quiet_dbfs
        self.state = LiveState(source.name, quiet_dbfs, microphone=source.is_microphone)

    def _cut_from(self, start_s: float) -> None:
        self._start_s, self._taken, self._rate_hz = start_s, 0, self.source.rate_hz
        self._cutter = LiveCutter(self._rate_hz, self._config)

    @property
    def _end_s(self) -> float:
        """Seconds of sound that have come."""
        return self._start_s + self._taken / self._rate_hz

    def take(self, block: Block | None) -> WindowResult | None:
        """Take the sound that has come; return the newest window that it completes."""
        segments: list[Segment] = []
        if block is not None:
            samples, gap = block
            if gap:
                self._cut_from(self._end_s)
            self.state.take_samples(samples, self._rate_hz)
            self._taken += len(samples)
            segments = self._cutter.push(samples)
        elif self.source.ended:  # what is left makes a last window, or none
            segments = self._cutter.flush()
        if not segments:
            return None
        newest = replace(segments[-1], start_s=segments[-1].start_s + self._start_s)
        window = self._tracker.update(newest)
        self.state.take_window(window)
        return window

    def reopen(self) -> None:
        """Get the source back, or let the state say why it cannot be."""
        if why := self.source.reopen():
            self.state.stop(why)
            return
        self._tracker = self._new_tracker()
        self._cut_from(self._end_s)
        self.state.source = self.source.name
        self.state.restart()


# --- displays ----------------------------------------------------------------------------------


def display_for(say: Say) -> Display:
    """Return a display for standard output: a picture on a terminal with colours, or else lines."""
    console = Console(highlight=False)
    if console.is_terminal and console.color_system is not None and not console.is_dumb_terminal:
        return TerminalDisplay(console, say)
    return LinesDisplay(say)


class TerminalDisplay(Display):
    """The whole terminal, drawn anew a few times a second."""

    def __init__(self, console: Console, say: Say) -> None:
        self._console, self._say = console, say
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn_at = -math.inf

    def show(self, view: LiveView, window: WindowResult | None) -> None:  # noqa: ARG002
        if time.monotonic() - self._drawn_at < _REFRESH_S:
            return
        size = self._console.size
        self._live.update(terminal_view(view, size.width, size.height), refresh=True)
        self._drawn_at = time.monotonic()

    def close(self, view: LiveView) -> None:
        self._live.stop()
        # The screen is gone with what stood on it: the events stay as lines.
        for event in reversed(view.history):
            if not (event.gap and event is view.history[0]):
                parts = (event.title, event.sure, how_long(event.lasted_s))
                self._say(f"{event.began:%H:%M:%S}  {', '.join(filter(None, parts))}")


class LinesDisplay(Display):
    """A line of words for each change."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._shown: tuple[Any, ...] = ()

    def show(self, view: LiveView, window: WindowResult | None) -> None:  # noqa: ARG002
        # What passes by is seen on a screen; on lines it would be chatter.
        shown = (view.look, view.headline, view.sure)
        if view.look in (Look.STARTING, Look.SOUND, Look.PAST) or shown == self._shown:
            return
        self._shown = shown
        detail = view.detail if view.look is Look.NOT_LISTENING else ""
        words = ", ".join(filter(None, (view.headline, view.sure, detail)))
        self._say(f"{view.at:%H:%M:%S}  {words}")

    def close(self, view: LiveView) -> None:
        self._say(f"{view.at:%H:%M:%S}  {view.headline}, {view.detail}")


class JsonDisplay(Display):
    """A line of JSON for each window, and one where it is not listening."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._stopped = False

    def show(self, view: LiveView, window: WindowResult | None) -> None:
        was_stopped, self._stopped = self._stopped, view.look is Look.NOT_LISTENING
        values: dict[str, Any] = {"time": view.at.astimezone().isoformat(timespec="milliseconds")}
        if self._stopped:
            if was_stopped:
                return
            values |= {"state": "not_listening", "why": view.detail}
        elif window is None:
            return
        else:
            event = window.event
            values |= {
                "start_s": round(window.start_s, 3),
                "state": window.state.value,
                "settled": window.settled,
                "name": window.name,
                "second_guess": window.second_guess,
                "confidence": known(window.confidence),
                "ood_score": known(window.ood_score),
                "level_dbfs": known(window.level_dbfs),
                "event": event and event.number,
                "repeats": event and event.repeats,
            }
        self._say(json.dumps(values, ensure_ascii=False, allow_nan=False))


class PngDisplay(Display):
    """A PNG of the present."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: tuple[Any, ...] = ()
        self._written_at = -math.inf

    def show(self, view: LiveView, window: WindowResult | None) -> None:
        shown = (view.look, view.headline, view.sure, view.sounding)
        now = time.monotonic()
        new = window is not None and view.recognised is not None
        if shown != self._shown or new or now - self._written_at >= _PANEL_S:
            self._shown, self._written_at = shown, now
            save_panel(view, self._path)

    def close(self, view: LiveView) -> None:
        save_panel(view, self._path)
