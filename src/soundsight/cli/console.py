"""What the commands say to people, on the terminal's two streams."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from soundsight.core.errors import OutputError, SoundsightError


def complain(error: SoundsightError) -> None:
    """Print an error that a person can mend, as one line on standard error."""
    say(f"error: {error}", err=True)


def warn(text: str) -> None:
    """Print a line of warning on standard error."""
    say(f"warning: {text}", err=True)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 video" or "2 videos"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def say(text: str, *, err: bool = False) -> None:
    """Print one line. Names of files may hold anything; a terminal is shown only what is text."""
    stream = sys.stderr if err else sys.stdout
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        # What could not be written must not be tried again when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            # Whoever reads has seen enough, as `head` has: no fault, and nothing to say.
            sys.exit(128 + signal.SIGPIPE)
        raise OutputError(f"cannot write the output: {error.strerror or error}") from None


def say_written(folder: Path) -> None:
    """Print where a model folder is, and how large."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    say(f"written: {folder} ({size / 1e6:.1f} MB)")
