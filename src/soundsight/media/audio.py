"""Sound files in, mono samples out: any usual format, rate and number of channels.

The one decoder: FFmpeg's libraries (through PyAV) read everything. The choice of a decoder is made
by trying, never by the file's name. A file is read in blocks, so a recording of three hours needs
no more memory than one of ten seconds. ``media.decoder`` says how times and faults are dealt with,
``media.downmix`` how channels become one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core.errors import AudioError, ConfigError
from soundsight.core.units import CLIP_SCALE_S, RATE_HZ
from soundsight.media import container as containers
from soundsight.media.container import SoundFile, name_of, open_container
from soundsight.media.decoder import (
    JITTER_S,
    MAX_CHANNELS,
    Chunk,
    Faults,
    TrackDecoder,
    check_form,
    full_scale,
    silence,
)
from soundsight.media.downmix import Downmix
from soundsight.media.lengths import declared_end_s, riff_chunks

MIN_DURATION_S = 0.1

SOUND_SUFFIXES = frozenset(
    (
        ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".asf", ".au", ".avi",
        ".caf", ".dts", ".eac3", ".flac", ".flv", ".m2ts", ".m4a", ".m4b", ".m4v", ".mka", ".mkv",
        ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts", ".oga", ".ogg", ".ogv", ".opus",
        ".ra", ".rf64", ".rm", ".snd", ".spx", ".tta", ".ts", ".vob", ".w64", ".wav", ".wave",
        ".webm", ".wma", ".wmv", ".wv",
    )
)  # fmt: skip
"""Suffixes (lower case) by which sounds are found in a folder. Reading does not look at them."""

_SOUNDS = 1e-6  # power of half a second (-60 dBFS) from which on a track counts as one that sounds
_SEARCH_S = 600.0
"""So much of a track is listened to in search of one that sounds."""


@dataclass(eq=False)
class SoundStream(Iterator[NDArray[np.float32]]):
    """The sound of a file in blocks, mono. It closes the file at its end, or as a context.

    Attributes:
        rate_hz: rate of the blocks, in hertz.
        start_s: when its first sample sounds, in seconds of the file's clock.
        duration_s: when the sound ends, in seconds from the beginning of the file, or None where
            the file does not say. Some formats say it only roughly.
    """

    _blocks: Iterator[NDArray[np.float32]]
    rate_hz: int
    start_s: float
    duration_s: float | None
    _faults: Faults
    _files: contextlib.ExitStack

    @property
    def name(self) -> str:
        """What the file is called: its path, or what an open file says of itself."""
        return self._faults.where

    @property
    def damages(self) -> list[str]:
        """What of the sound cannot be read, as far as it has been: one line, or none."""
        return self._faults.damages

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the file, as far as it has been read: a line each."""
        return [*self._faults.damages, *self._faults.notes]

    def __next__(self) -> NDArray[np.float32]:
        try:
            return next(self._blocks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file. The stream has ended then."""
        self._blocks = iter(())
        self._files.close()

    def __enter__(self) -> SoundStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decode(
    sound: SoundFile, rate_hz: int = RATE_HZ, *, track: int | None = None, strict: bool = False
) -> NDArray[np.float32]:
    """Read the whole sound of a file as float32 [t], mono, full scale 1; see ``stream``."""
    return np.concatenate(list(stream(sound, rate_hz, track=track, strict=strict)))


def stream(
    sound: SoundFile,
    rate_hz: int | None = RATE_HZ,
    block_s: float | None = 10.0,
    *,
    track: int | None = None,
    strict: bool = False,
    name: str | None = None,
    part: tuple[float | None, float | None] | None = None,
) -> SoundStream:
    """Read the sound of a file in blocks, in constant memory.

    The blocks begin where the file begins: a sound track that starts late starts with silence, and
    what the file has lost is silence, so that times are those that a player shows. What cannot be
    decoded is left out; ``SoundStream.warnings`` says so.

    Args:
        sound: a path of a sound file or of a video with sound, of a pipe, or a file that is open
            for reading bytes (read from its beginning where it can be sought).
        rate_hz: the rate to resample to, in hertz; None keeps that of the beginning.
        block_s: length of a block in seconds; the last one is shorter. None: blocks come as they
            are decoded, from ``SoundStream.start_s`` on.
        track: which sound track, from 1. None takes the first that sounds, beginning with those
            that the file marks as its default.
        strict: raise instead of leaving out what is damaged.
        name: what the sound is called in messages; None takes its path.
        part: from when to when, see ``soundtrack``.

    Returns:
        An iterator of float32 [block_s * rate_hz], mono, full scale 1; at least one block.

    Raises:
        AudioError: at once when the file is missing, no sound, encrypted, of a codec that is not
            known, or has no such track; from the iterator when it is mostly damaged (in strict
            mode: damaged or cut short), shorter than 100 ms, or holds samples that are not finite.
            The message is one line.
    """
    where = name or name_of(sound)
    faults = Faults(where, strict)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(containers.local_file(sound))
        _check_wav(path, where)
        container = stack.enter_context(open_container(path, AudioError, where))
        found = _choose_track(container, path, track, faults)
        containers.check_encryption(found, where, AudioError)
        if found.duration is not None:
            containers.discard_others(container, found)
        start_s, end_s = part or (None, None)
        decoder = TrackDecoder(container, found, path, faults, start_s, end_s, joins=part is None)
        chunks = decoder.chunks()
        first = next(chunks, None)
        if first is None:
            if decoder.failed or not found.codec_context.sample_rate:
                raise AudioError(
                    f"cannot read {where}: it is no sound or video file, or it is damaged"
                )
            if start_s is None and end_s is None:
                raise AudioError(f"{where} has no sound in it: at least 100 ms are needed")
            raise AudioError(f"{where} has no sound in this part")
        to_hz = first[1] if rate_hz is None else rate_hz
        begin_s = decoder.first_s or 0.0
        blocks = _mono(chain([first], chunks), to_hz, where)
        if block_s is not None:
            lead = silence(begin_s if begin_s > JITTER_S else 0.0, to_hz)
            blocks = _of_size(chain(lead, blocks), max(1, round(block_s * to_hz)))
        ends_s = declared_end_s(container, found)
        return SoundStream(blocks, to_hz, begin_s, ends_s, faults, stack.pop_all())


def soundtrack(
    path: SoundFile,
    start_s: float | None = None,
    end_s: float | None = None,
    *,
    strict: bool = False,
) -> SoundStream:
    """Read the sound of a video from ``start_s`` to ``end_s`` of the clock of its picture.

    The blocks begin at ``SoundStream.start_s`` (later than the part where the sound starts late)
    and come as they are decoded, at 44,100 Hz. Where another recording, with a clock of its own, is
    joined to the first, the sound ends, which counts as damage.

    Raises:
        AudioError: see ``stream``; also where there is no sound in the part.
    """
    return stream(path, block_s=None, strict=strict, part=(start_s, end_s))


def from_array(samples: ArrayLike, rate_hz: int) -> NDArray[np.float32]:
    """Make a mono clip, float32 [t] at 44,100 Hz, from samples in memory.

    Args:
        samples: [t], [t, channels], or [channels, t] where the first length is at most 8 and the
            second is more; 1 to 8 channels. Integers (int8, int16, int32, uint8) are divided by
            their full scale, floats (16 to 64 bits) are taken as they are.
        rate_hz: their rate, 4,000 to 384,000 Hz.

    Raises:
        AudioError: on another type or shape, a rate out of range, fewer than 100 ms, or samples
            that are not finite.
    """
    array = np.asarray(samples)
    where = "the array"
    if array.ndim == 2 and array.shape[0] <= MAX_CHANNELS < array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2):
        raise AudioError(f"{where} has shape {array.shape}: pass [t] or [t, channels]")
    if array.ndim == 1:
        array = array[:, None]
    check_form(where, rate_hz, array.shape[1])
    if array.dtype not in (np.uint8, np.int8, np.int16, np.int32) and array.dtype.kind != "f":
        raise AudioError(f"{where} holds {array.dtype}: pass int8, int16, int32, uint8 or floats")
    chunks = (
        (full_scale(array[i : i + rate_hz], i / rate_hz, rate_hz, where), rate_hz)
        for i in range(0, len(array), rate_hz)
    )
    return np.concatenate(list(_mono(chunks, RATE_HZ, where)))


Sound = SoundFile | ArrayLike | Iterator[NDArray[np.float32]]
"""A path, or a file that is open for reading bytes; samples in memory, which need their rate; or an
iterator of blocks [t], mono float32 at 44,100 Hz, as ``stream`` gives them."""


def blocks_of(sound: Sound, rate_hz: int | None) -> Iterator[NDArray[np.float32]]:
    """Open a sound as blocks [t] of at most 10 s, mono at 44,100 Hz; ``rate_hz`` is for arrays.

    Raises:
        AudioError: see ``stream``.
        ConfigError: at once, when the sound is none of these or ``rate_hz`` is wrong.
    """
    if _is_file(sound):
        if rate_hz is not None:
            raise ConfigError("a file knows its own rate: leave rate_hz out")
        return stream(sound)  # type: ignore[arg-type]
    if isinstance(sound, Iterator):
        if rate_hz not in (None, RATE_HZ):
            raise ConfigError(f"blocks of sound have {RATE_HZ} Hz: leave rate_hz out")
        return sound  # type: ignore[return-value]
    if isinstance(sound, bytes):
        raise ConfigError("pass a path, an open file or an array of samples, not bytes")
    if isinstance(sound, (list, tuple)) and any(_is_file(each) for each in sound):
        raise ConfigError("several sounds were passed: translate them one by one")
    if rate_hz is None or isinstance(rate_hz, bool) or not hasattr(rate_hz, "__index__"):
        raise ConfigError("samples in memory need their rate: pass rate_hz, a whole number of Hz")
    samples = from_array(sound, int(rate_hz))  # type: ignore[arg-type]
    step = int(CLIP_SCALE_S * RATE_HZ)
    return (samples[first : first + step] for first in range(0, len(samples), step))


def _is_file(sound: object) -> bool:
    return isinstance(sound, (str, os.PathLike)) or hasattr(sound, "read")


def _check_wav(path: Path, where: str) -> None:
    """Say what FFmpeg does not of a wav that it cannot read, or reads wrongly."""
    with path.open("rb") as file:
        if file.read(12)[:4] == b"RIFX":
            raise AudioError(f"{where} is a big-endian wav (RIFX): convert it to wav or flac")
        for name, _size in riff_chunks(file):
            if name == b"fmt ":
                check_form(where, int.from_bytes(file.read(8)[4:], "little"))
                return


def _choose_track(container: Any, path: Path, wanted: int | None, faults: Faults) -> Any:
    """Choose a sound track whose codec is known."""
    where, tracks = faults.where, list(container.streams.audio)
    if not tracks:
        if container.streams.video and not containers.is_still(container):
            raise AudioError(f"{where} has no sound track: pass a file with sound")
        raise AudioError(f"cannot read {where}: it is no sound or video file")
    if wanted is not None:
        if not 1 <= wanted <= len(tracks):
            count = f"{len(tracks)} sound track{'s' if len(tracks) > 1 else ''}"
            raise AudioError(f"{where} has {count}: there is no track {wanted}")
        tracks = [tracks[wanted - 1]]
    known = [track for track in tracks if containers.codec_name(track)]
    if not known:
        raise AudioError(
            f"the sound of {where} is coded as {_unknown_codec(path)}, which is not known here: "
            "convert it to wav or flac"
        )
    if len(tracks) == 1:
        return known[0]
    # A file marks the first track that it holds as its default, whether it sounds or not.
    known.sort(key=lambda track: not track.disposition & type(track.disposition).default)
    chosen = next((track for track in known if _sounds(path, where, track.index)), None)
    found = chosen or known[0]
    number = 1 + [track.index for track in tracks].index(found.index)
    why = "the first that sounds" if chosen else "as none sounds"
    faults.notes.append(
        f"{where} has {len(tracks)} sound tracks: track {number} is heard, {why} "
        "(the option track takes another)"
    )
    return found


def _sounds(path: Path, where: str, index: int) -> bool:
    """Whether a track is louder than silence and hiss somewhere in its first minutes."""
    with open_container(path, AudioError, where) as container:
        track = container.streams[index]
        containers.discard_others(container, track)
        decoder = TrackDecoder(container, track, path, Faults(where), end_s=_SEARCH_S)
        try:
            return any(
                np.square(samples, dtype=np.float64).mean(axis=0).max() >= _SOUNDS
                for samples, _ in decoder.chunks()
            )
        except AudioError:
            return False


def _unknown_codec(path: Path) -> str:
    """What FFmpeg says of a codec that it does not know; it says so in its log alone."""
    av = containers.quiet_av()
    try:
        av.logging.set_level(av.logging.INFO)
        av.logging.set_libav_level(av.logging.INFO)
        with av.logging.Capture() as log, contextlib.suppress(av.error.FFmpegError):
            containers.opened(path).close()
        text = " ".join(entry[2] for entry in log)
    finally:
        containers.quiet_av()
    for pattern in (r"AVCodecID (\S+?)\.?\s", r"Audio: none \([^/]*/ (0x\w+)\)", r"Audio: (\w+)"):
        found = re.search(pattern, text)
        if found and found[1] != "none":
            return found[1]
    return "something"


class MonoConverter:
    """Makes one channel, at one rate, of samples that come in blocks.

    Where their rate or their number of channels changes, mixing and resampling begin anew. The
    result does not depend on how the samples are cut into blocks.
    """

    def __init__(self, to_hz: int) -> None:
        self._to_hz = to_hz
        self._form: tuple[int, int] | None = None
        self._mix: Downmix
        self._resampler: Any
        self._taken = self._given = 0

    def push(self, samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
        """Take the next samples [t, channels], and return those that they make [t']."""
        form = rate_hz, samples.shape[1]
        before = []
        if form != self._form:
            before = [self.finish()]
            self._form, self._taken, self._given = form, 0, 0
            self._mix, self._resampler = Downmix(*form), None
            if rate_hz != self._to_hz:
                import soxr

                self._resampler = soxr.ResampleStream(rate_hz, self._to_hz, 1, dtype="float32")
        self._taken += len(samples)
        made = self._resampled(self._mix.push(samples))
        return np.concatenate([*before, made]) if before else made

    def finish(self) -> NDArray[np.float32]:
        """End the sound: what is left of it, so that it has round(t * to_hz / rate_hz) samples."""
        if self._form is None:
            return np.zeros(0, np.float32)
        rest = self._resampled(self._mix.finish())
        if self._resampler is not None:
            tail = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            missing = max(0, round(self._taken * self._to_hz / self._form[0]) - self._given)
            lacking = np.zeros(max(0, missing - len(tail)), np.float32)
            rest = np.concatenate([rest, tail[:missing], lacking])
        self._form = None
        return rest

    def _resampled(self, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        samples = mono if self._resampler is None else self._resampler.resample_chunk(mono)
        self._given += len(samples)
        return samples


def _mono(chunks: Iterable[Chunk], rate_hz: int, where: str) -> Iterator[NDArray[np.float32]]:
    """Mix and resample chunk by chunk; the first block given out lasts 100 ms or more."""
    converter = MonoConverter(rate_hz)
    taken_s = 0.0
    waiting: list[NDArray[np.float32]] = []
    for samples, from_hz in chunks:
        taken_s += len(samples) / from_hz
        waiting.append(converter.push(samples, from_hz))
        if taken_s >= MIN_DURATION_S - 1e-9:
            yield np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            waiting = []
    if taken_s < MIN_DURATION_S - 1e-9:
        shown_ms = min(99, round(1000 * taken_s))
        length = f"only {shown_ms} ms of sound" if taken_s else "no sound in it"
        raise AudioError(f"{where} has {length}: at least 100 ms are needed")
    rest = np.concatenate([*waiting, converter.finish()])
    if len(rest):
        yield rest


def _of_size(pieces: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """Cut or join samples to blocks [size]; the last one is shorter."""
    waiting: list[NDArray[np.float32]] = []
    held = 0
    for samples in pieces:
        waiting.append(samples)
        held += len(samples)
        if held >= size:
            joined = np.concatenate(waiting)
            whole = held - held % size
            yield from (joined[first : first + size] for first in range(0, whole, size))
            waiting, held = [joined[whole:].copy()], held - whole
    if held:
        yield np.concatenate(waiting)
