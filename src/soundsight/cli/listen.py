"""``soundsight listen``: what the microphone hears, as a picture in the terminal or in a PNG."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from soundsight.cli.console import say, warn
from soundsight.cli.options import Model, Seed, Sensitivity, option, sound_path
from soundsight.core.errors import ConfigError, OutputError
from soundsight.core.files import local_output

if TYPE_CHECKING:
    from soundsight.live.listen import Display
    from soundsight.live.microphone import Source


def listen(
    device: Annotated[
        str | None,
        option(
            "N|NAME",
            "Which microphone: a number of --list-devices, or a part of a name. "
            "[dim](default: the system's choice)[/dim]",
        ),
    ] = None,
    list_devices: Annotated[
        bool, option("", "List the microphones and stop.", "--list-devices")
    ] = False,
    play: Annotated[
        Path | None,
        option("FILE", "Hear a sound or video file at normal speed instead of a microphone."),
    ] = None,
    png: Annotated[
        Path | None,
        option("FILE", "Keep a PNG of the current view there, rewritten at every change."),
    ] = None,
    sensitivity: Sensitivity = 0.5,
    seed: Seed = 0,
    seconds: Annotated[float | None, option("S", "Stop after so many seconds.", min=0.1)] = None,
    json_lines: Annotated[
        bool, option("", "Write a line of JSON for every window, four a second.", "--json")
    ] = False,
    model: Model = None,
) -> None:
    """See what the microphone hears, in this terminal.

    The picture is drawn in half blocks; where the output is no terminal, or has no colours, each
    change is a line of words. Ctrl-C stops. Sound is neither stored nor sent anywhere.
    """
    from soundsight.live import microphone

    if list_devices:
        with microphone.quiet_stderr():
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
    from soundsight.live import listen as live
    from soundsight.runtime.translator import Translator

    translator = Translator.load(model)
    with microphone.quiet_stderr():
        source: Source = (
            microphone.Playback(sound_path(play)) if play else microphone.Microphone(device)
        )
        with closing(source):
            displays: list[Display] = [
                live.JsonDisplay(say) if json_lines else live.display_for(say)
            ]
            if png is not None:
                displays.append(live.PngDisplay(png))
            try:
                live.listen(
                    translator, source, displays,
                    sensitivity=sensitivity, seed=seed, seconds=seconds,
                )  # fmt: skip
            finally:
                for warning in source.warnings:
                    warn(warning)
