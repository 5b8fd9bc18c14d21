"""``soundsight listen``: what the microphone hears, as a picture in the terminal or in a PNG."""

from __future__ import annotations

import json
import math
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from soundsight.cli.console import say, warn
from soundsight.cli.options import Model, Seed, sound_path
from soundsight.core.errors import ConfigError, OutputError
from soundsight.core.files import local_output

if TYPE_CHECKING:
    from soundsight.live.microphone import Block, Source
    from soundsight.media.segments import Segment
    from soundsight.runtime.events import Heard, Listener
    from soundsight.runtime.live_state import Watch
    from soundsight.runtime.translator import Translator
    from soundsight.views.live_view import Moment, Past

_WAIT_S = 0.1
_REFRESH_S = 0.1
"""A terminal is drawn anew this often at most ..."""
_PANEL_S = 1.0
"""... and a PNG this often at least, so that its time shows that it is alive."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 15.0


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(listen)


def listen(
    device: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME",
            show_default=False,
            help="Which microphone: a number of --list-devices, or a part of a name. "
            "[dim](default: the system's choice)[/dim]",
        ),
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Show the microphones, and end.")
    ] = False,
    play: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Hears a sound or video file at its own pace, instead of a microphone.",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Keeps a PNG of the present there, written anew at every change.",
        ),
    ] = None,
    sensitivity: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="X", help="0 shows only what is loud and sure, 1 shows more."
        ),
    ] = 0.5,
    seed: Seed = 0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="S", show_default=False, help="Ends by itself after these."),
    ] = None,
    json_lines: Annotated[
        bool,
        typer.Option("--json", help="Writes a line of JSON for every window, four a second."),
    ] = False,
    model: Model = None,
) -> None:
    """See what the microphone hears, in this terminal.

    The picture is drawn in half blocks; where the output is no terminal, or has no colours, each
    change is a line of words. Ctrl-C stops. Sound is neither stored nor sent anywhere.
    """
    from soundsight.live import microphone

    if list_devices:
        with microphone.hushed():
            lines = microphone.devices()
        for line in lines or ["there is no microphone"]:
            say(line)
        return
    if play is not None and device is not None:
        raise ConfigError("--play hears a file: leave --device out")
    if png is not None:
        local_output(png)
        if png.suffix.lower() != ".png":
            raise ConfigError(f"{png} is no PNG: let its name end in .png")
        if png.is_dir():
            raise OutputError(f"{png} is a folder: name a file")
    from soundsight.runtime.translator import Translator

    translator = Translator.load(model)
    with microphone.hushed():
        source: Source = (
            microphone.Playback(sound_path(play)) if play else microphone.Microphone(device)
        )
        with closing(source):
            run = _Run(translator, source, sensitivity, seed)
            faces: list[_Face] = [_Json()] if json_lines else [_words_or_picture()]
            if png is not None:
                faces.append(_Panel(png))
            try:
                _follow(run, faces, seconds)
            except KeyboardInterrupt:
                pass  # the way to end what has no end
            finally:
                _leave(run, faces)
                if isinstance(source, microphone.Playback):
                    for told in source.warnings:
                        warn(told)


class _Face(Protocol):
    """Somewhere to show moments."""

    def show(self, moment: Moment, heard: Heard | None) -> None:
        """Show the present; ``heard`` is the newest window, where there is a new one."""

    def close(self, moment: Moment) -> None:
        """Show the end."""


class _Run:
    """A source, a listener, and what is to be shown of them."""

    def __init__(
        self,
        translator: Translator,
        source: Source,
        sensitivity: float,
        seed: int,
    ) -> None:
        from soundsight.runtime.live_state import Watch

        self._translator = translator
        self._options = {"sensitivity": sensitivity, "seed": seed}
        self.source = source
        self.listener: Listener
        self._begin(0.0)
        self.watch: Watch = Watch(
            source.name, self.listener.quiet_dbfs, microphone=source.is_microphone
        )

    def _begin(self, offset_s: float) -> None:
        from soundsight.runtime.events import Listener
        from soundsight.runtime.stream import LiveCutter

        self.listener = Listener(self._translator, **self._options)  # type: ignore[arg-type]
        self._cut_anew(offset_s)
        self._rate_hz = self.source.rate_hz
        self._cutter = LiveCutter(self._rate_hz, self._translator.info.mel)

    def _cut_anew(self, offset_s: float) -> None:
        self._offset_s = offset_s
        self._taken = 0

    @property
    def heard_s(self) -> float:
        """Seconds of sound that have come."""
        return self._offset_s + self._taken / self._rate_hz

    def take(self, block: Block) -> Heard | None:
        """Take sound; give the newest window that it completes."""
        if block.gap:
            self._cutter.flush()
            self._cut_anew(self.heard_s)
        self.watch.block(block.samples, self._rate_hz)
        self._taken += len(block.samples)
        return self._hear(self._cutter.push(block.samples))

    def finish(self) -> Heard | None:
        """There is no more sound: what is left of it makes a last window, or none."""
        return self._hear(self._cutter.flush())

    def _hear(self, segments: list[Segment]) -> Heard | None:
        if not segments:
            return None
        newest = replace(segments[-1], start_s=segments[-1].start_s + self._offset_s)
        heard = self.listener.hear(newest)
        self.watch.hear(heard)
        return heard

    def reopen(self) -> str:
        """Get the source back; say why it cannot be, or nothing."""
        why = self.source.reopen()
        if not why:
            self._begin(self.heard_s)
            self.watch.source = self.source.name
            self.watch.restart()
        return why


def _follow(run: _Run, faces: list[_Face], seconds: float | None) -> None:
    """Listen until the end."""
    from soundsight.views.live_view import Look

    began = time.monotonic()
    retry_at, wait_s = 0.0, _FIRST_RETRY_S
    while seconds is None or time.monotonic() - began < seconds:
        block = run.source.read(_WAIT_S)
        heard = run.finish() if run.source.over else None
        if block is not None:
            heard = run.take(block)
            retry_at, wait_s = 0.0, _FIRST_RETRY_S
        moment = run.watch.moment()
        for face in faces:
            face.show(moment, heard)
        if run.source.over:
            return
        gone = moment.look is Look.NOT_LISTENING and not run.watch.muted
        if gone and time.monotonic() >= retry_at:
            why = run.reopen()
            if why:
                run.watch.lost(why)
            retry_at, wait_s = time.monotonic() + wait_s, min(_LONGEST_RETRY_S, 2 * wait_s)


def _leave(run: _Run, faces: list[_Face]) -> None:
    """What stays behind must not look like the present."""
    run.watch.lost("The file has ended." if run.source.over else "Stopped.")
    moment = run.watch.moment()
    for face in faces:
        face.close(moment)


def _words_or_picture() -> _Face:
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal and console.color_system is not None and not console.is_dumb_terminal:
        return _Terminal(console)
    return _Lines()


class _Terminal:
    """The whole terminal, drawn anew a few times a second."""

    def __init__(self, console: Any) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn_at = -math.inf

    def show(self, moment: Moment, heard: Heard | None) -> None:
        del heard
        if time.monotonic() - self._drawn_at < _REFRESH_S:
            return
        from soundsight.views.terminal import terminal_panel

        size = self._console.size
        self._live.update(terminal_panel(moment, size.width, size.height), refresh=True)
        self._drawn_at = time.monotonic()

    def close(self, moment: Moment) -> None:
        self._live.stop()
        # The screen is gone with what stood on it: the events stay as lines.
        for past in reversed(moment.history):
            if not (past.gap and past is moment.history[0]):
                say(f"{past.began:%H:%M:%S}  {', '.join(_told(past))}")


class _Lines:
    """A line of words for each change."""

    def __init__(self) -> None:
        self._said: tuple[Any, ...] = ()

    def show(self, moment: Moment, heard: Heard | None) -> None:
        del heard
        from soundsight.views.live_view import Look

        # What passes by is seen on a screen; on lines it would be chatter.
        if moment.look in (Look.STARTING, Look.SOUND, Look.PAST):
            return
        sure = moment.sure
        said = (moment.look, moment.headline, sure)
        if said == self._said:
            return
        self._said = said
        words = [moment.headline]
        if sure:
            words.append(sure)
        if moment.look is Look.NOT_LISTENING:
            words.append(moment.detail)
        say(f"{moment.at:%H:%M:%S}  {', '.join(words)}")

    def close(self, moment: Moment) -> None:
        say(f"{moment.at:%H:%M:%S}  {moment.headline}, {moment.detail}")


class _Json:
    """A line of JSON for each window, and one where nobody listens."""

    def __init__(self) -> None:
        self._deaf = False

    def show(self, moment: Moment, heard: Heard | None) -> None:
        from soundsight.views.live_view import Look

        deaf = moment.look is Look.NOT_LISTENING
        if deaf and not self._deaf:
            self._write({"time": _iso(moment), "state": "not_listening", "why": moment.detail})
        self._deaf = deaf
        if heard is None or deaf:
            return
        event = heard.event
        self._write(
            {
                "time": _iso(moment),
                "start_s": round(heard.start_s, 3),
                "state": heard.state.value,
                "settled": heard.settled,
                "name": heard.name,
                "second_guess": heard.second_guess,
                "confidence": _number(heard.confidence),
                "familiarity": _number(heard.familiarity),
                "level_dbfs": _number(heard.level_dbfs),
                "event": None if event is None else event.number,
                "repeats": None if event is None else event.repeats,
            }
        )

    def close(self, moment: Moment) -> None:
        del moment

    def _write(self, values: dict[str, Any]) -> None:
        say(json.dumps(values, ensure_ascii=False, allow_nan=False))


class _Panel:
    """A PNG of the present."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: tuple[Any, ...] = ()
        self._written_at = -math.inf

    def show(self, moment: Moment, heard: Heard | None) -> None:
        shown = (moment.look, moment.headline, moment.sure, moment.sounding)
        now = time.monotonic()
        fresh = heard is not None and moment.recognised is not None
        if shown == self._shown and not fresh and now - self._written_at < _PANEL_S:
            return
        self._shown, self._written_at = shown, now
        self._save(moment)

    def close(self, moment: Moment) -> None:
        self._save(moment)

    def _save(self, moment: Moment) -> None:
        from soundsight.views.live_panel import save_live_panel

        save_live_panel(moment, self._path)


def _told(past: Past) -> list[str]:
    from soundsight.views.live_view import how_long

    return [part for part in (past.title, past.sure, how_long(past.lasted_s)) if part]


def _iso(moment: Moment) -> str:
    return moment.at.astimezone().isoformat(timespec="milliseconds")


def _number(value: float) -> float | None:
    return None if not math.isfinite(value) else round(value, 4)
