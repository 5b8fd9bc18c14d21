"""The frames of a video at many times, decoding as little as can be.

A frame is shown from its time stamp to the next one's. Packets are read ahead of the decoder, so
that it is known which frame each wanted time shows before anything is decoded. Then

* what lies between a wanted frame and the next key frame is thrown away undecoded, where no wanted
  time needs it;
* frames that no other frame refers to are skipped, unless they are wanted;
* no frame is converted to colours here: the caller converts those that it keeps.

Where packets do not say when they are shown, every frame is decoded and placed by its own stamp.

What is damaged shows nothing: a reader that is not strict notes it and goes on behind it.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import VideoError
from soundsight.core.units import IMAGE_PX
from soundsight.media import container as containers
from soundsight.media.container import quiet_av
from soundsight.media.framing import square

_HELD_BYTES = 64 << 20
"""Compressed packets that wait for a wanted time at most; then they are decoded as they come."""

_FAR_S = 2.0  # a first wanted time later than this is sought, not read up to
_SEEK_BACK_S = (0.0, 10.0, 60.0)
"""An index may land after the time asked for: then an earlier time is tried, last the start."""

_FAULTS = 20  # packets in a row that cannot be decoded before a file counts as damaged
_UNDATED = 32  # packets in a row without a decoding time before they count as unordered
_TOLERANCE_S = 0.001
"""Half a tick at most: a time such as 0.1 s may have no exact tick. Longer ticks are exact."""

_SKIPPING = frozenset(("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"))
"""Decoders that skip frames packet by packet; others do it for the whole file or not at all."""


class Shown(NamedTuple):
    """The frame that a wanted time shows.

    Attributes:
        t_s: the wanted time.
        frame: PyAV's frame, not yet converted, or None where the picture shows nothing then:
            before its first frame, after its end, or where it is damaged.
        frame_s: the frame's own time stamp in seconds of the file's clock.
    """

    t_s: float
    frame: Any
    frame_s: float


class FrameReader:
    """An open picture track; made by :func:`open_frames`.

    Attributes:
        pixel_aspect: width of a pixel over its height, for ``framing.square``.
        start_s: when the picture starts, in seconds of the file's clock.
        duration_s: when the picture ends, in seconds of the file's clock, or None where the file
            does not say.
        warnings: what was found to be damaged so far, where the reader is not strict; a line each.
    """

    def __init__(self, container: Any, track: Any, where: str, *, strict: bool = True) -> None:
        self._container, self._track, self._where = container, track, where
        self.strict = strict
        self.warnings: list[str] = []
        self._tick_s = float(track.time_base)
        self._origin_s = containers.origin_s(container)
        # How much later than a wanted time a frame may be stamped and still be shown then.
        self.tolerance_s = min(0.5 * self._tick_s, _TOLERANCE_S)
        # AVI has no time stamps: it counts frames.
        self.counts = container.format.name == "avi"
        self.pixel_aspect: Fraction | None = track.sample_aspect_ratio or None
        # Whether reading has failed before the file's end.
        self.torn = False
        self._start = track.start_time or 0
        self.start_s = float(self._start * track.time_base) - self._origin_s
        self.duration_s: float | None = None
        if track.duration is not None:
            end = self._start + track.duration
            self.duration_s = float(end * track.time_base) - self._origin_s

    def at(self, times_s: Iterable[float]) -> Iterator[Shown]:
        """Yield the frame that each time shows.

        The times ascend, in seconds of the file's clock, and may be endless; they are read ahead.
        ``VideoError`` where the picture is damaged and the reader strict, or it is encrypted.
        """
        times = iter(times_s)
        first_s = next(times, None)
        if first_s is not None:
            yield from _Plan(self, self._packets_before(first_s), first_s, times).run()

    def _packets_before(self, first_s: float) -> Iterator[Any]:
        """The packets from a key frame on that is shown at ``first_s`` or earlier."""
        if first_s <= _FAR_S or not containers.can_seek(self._container):
            return self._packets()
        for back_s in _SEEK_BACK_S:
            if first_s - back_s > _FAR_S and self._seek(self._origin_s + first_s - back_s):
                packets = self._packets()
                head = next((packet for packet in packets if packet.size), None)
                if head is not None and self.starts(head) and self.seconds(head.pts) <= first_s:
                    return chain([head], packets)
        self._seek(float(self._start * self._track.time_base))
        return self._packets()

    def _seek(self, stamp_s: float) -> bool:
        try:
            self._container.seek(int(stamp_s / self._tick_s), stream=self._track)
        except (quiet_av().error.FFmpegError, OSError):
            return False
        return True

    def seconds(self, ticks: int) -> float:
        """A time stamp of the track in seconds of the file's clock."""
        return ticks * self._tick_s - self._origin_s

    def starts(self, packet: Any) -> bool:
        """Whether decoding can start at a packet, and its frame's time is known."""
        if not packet.is_keyframe or packet.pts is None:
            return False
        context = self._track.codec_context
        return context.name != "h264" or _is_clean(bytes(packet), context.extradata or b"")

    def _packets(self) -> Iterator[Any]:
        av = quiet_av()
        first = True
        try:
            for packet in containers.demux(self._container, self._track):
                if first:
                    containers.check_packet(packet, self._where, VideoError)
                    first = False
                yield packet
        except (av.error.FFmpegError, OSError):
            self.torn = True
            self.note(f"{self._where} is damaged or cut short: get it again")

    def decode(self, packet: Any, *, wanted: bool) -> list[Any]:
        """Send one packet (None: no more), return the frames that come out; or ``FFmpegError``."""
        context = self._track.codec_context
        if str(context.name) in _SKIPPING:
            context.skip_frame = "DEFAULT" if wanted else "NONREF"
        frames: list[Any] = context.decode(packet)
        return frames

    def restart(self) -> None:
        """Make the decoder forget what it has seen, before it goes on at a key frame."""
        self._track.codec_context.flush_buffers()

    def note(self, words: str) -> None:
        """Raise ``VideoError``, or keep its words where the reader is not strict."""
        if self.strict:
            raise VideoError(words) from None
        self.warnings.append(words)

    def damage(self, at_s: float) -> None:
        """Note that the picture is damaged at a time."""
        self.note(containers.damaged(self._where, max(0.0, at_s)))

    def is_cut(self) -> bool:
        """Whether the index lists frames beyond the file's end."""
        entries: Any = getattr(self._track, "index_entries", ())
        if "mp4" not in self._container.format.name or not len(entries):
            return False
        return bool(entries[-1].pos + entries[-1].size > Path(self._where).stat().st_size)


class _Plan:
    """One pass over a track: from packets to the frames that are wanted."""

    def __init__(
        self, reader: FrameReader, packets: Iterator[Any], first_s: float, times: Iterator[float]
    ) -> None:
        self._reader, self._packets, self._times = reader, packets, times
        self._next_s: float | None = first_s
        # Wanted times whose frame is known, by its time stamp (None: nothing is shown).
        self._known: deque[tuple[float, int | None]] = deque()
        self._held: list[Any] = []
        self._held_bytes = 0
        self._stamps: list[int] = []
        # a few frames back: close wanted times may show one that has come already.
        self._recent: deque[Any] = deque(maxlen=4)
        self._decode_all = reader.counts
        self._undated = 0
        self._first_dts: int | None = None
        self._count_shift: int | None = None
        self._faults = 0
        # After a fault, until the next key frame: what is decoded builds on what is missing. Time
        # stamps of such packets, and whether there was one since a frame came.
        self._broken = self._interrupted = False
        self._lost: set[int] = set()
        # Whether any packet has been sent, any has failed, any frame has come.
        self._started = self._failed = self._began = False
        self._end_s = 0.0

    def run(self) -> Iterator[Shown]:
        for packet in self._packets:
            if not packet.size:
                # AVI marks a frame that stays so; a decoder would take it for the end.
                continue
            # Whether packets say what is shown when; some do so only after the first few.
            self._undated = self._undated + 1 if packet.dts is None else 0
            if packet.pts is None or self._undated >= _UNDATED:
                self._decode_all = True
            if self._first_dts is None:
                self._first_dts = packet.dts
            if packet.is_keyframe:
                yield from self._jump(packet)
            self._hold(packet)
            if not self._decode_all and packet.dts is not None:
                yield from self._resolve(self._reader.seconds(packet.dts))
            if self._decode_all or self._held_bytes > _HELD_BYTES:
                yield from self._send(len(self._held))
            if self._next_s is None and not self._known:
                return
        yield from self._finish()

    def _hold(self, packet: Any) -> None:
        self._held.append(packet)
        self._held_bytes += packet.size
        # Packets before an edit's start are decoded, but never shown.
        if packet.pts is not None and not packet.is_discard:
            self._stamps.append(packet.pts)
            if not self._reader.counts:
                self._ends(packet)

    def _ends(self, shown: Any) -> None:
        """Take note of when a packet's or frame's time ends."""
        end_s = self._reader.seconds(shown.pts + (shown.duration or 0))
        self._end_s = max(self._end_s, end_s)

    def _resolve(self, horizon_s: float) -> Iterator[Shown]:
        """Choose the frames of the wanted times before ``horizon_s``: no earlier one can come."""
        chosen = False
        while self._next_s is not None and self._next_s < horizon_s - 1e-9:
            stamp = self._shown_at(self._next_s)
            if stamp is not None:
                self._stamps = [s for s in self._stamps if s >= stamp]
            self._choose(stamp)
            chosen |= stamp is not None
        if chosen:
            stamps = {stamp for _, stamp in self._known}
            wanted = [i for i, packet in enumerate(self._held) if packet.pts in stamps]
            yield from self._send(wanted[-1] + 1 if wanted else 0)
        yield from self._empty()

    def _choose(self, stamp: int | None) -> None:
        """Say which frame the next wanted time shows, and go on to the time after it."""
        assert self._next_s is not None
        self._known.append((self._next_s, stamp))
        self._next_s = next(self._times, None)

    def _shown_at(self, t_s: float) -> int | None:
        """The latest time stamp so far that is shown at a time."""
        seconds, until_s = self._reader.seconds, t_s + self._reader.tolerance_s
        return max((s for s in self._stamps if seconds(s) <= until_s), default=None)

    def _jump(self, key: Any) -> Iterator[Shown]:
        """At a key frame that is shown before the next wanted time: what is held is not needed."""
        if self._decode_all or self._next_s is None or not self._held or key.is_discard:
            return
        if self._reader.seconds(key.pts) > self._next_s or not self._reader.starts(key):
            return
        if self._started:
            yield from self._drain()
            self._reader.restart()
            self._recent.clear()
            self._lost.clear()
        self._held, self._held_bytes = [], 0
        self._stamps = [s for s in self._stamps if s > key.pts]

    def _send(self, count: int) -> Iterator[Shown]:
        """Decode the first ``count`` held packets."""
        batch, self._held = self._held[:count], self._held[count:]
        self._held_bytes = sum(packet.size for packet in self._held)
        wanted = {stamp for _, stamp in self._known}
        # What is shown after the last wanted frame may be wanted yet.
        later = None if self._next_s is None else self._shown_at(self._next_s)
        if later is not None:
            self._stamps = [s for s in self._stamps if s >= later]
        for packet in batch:
            self._started = True
            whole = self._decode_all or packet.pts in wanted
            whole |= self._next_s is not None and (later is None or packet.pts >= later)
            yield from self._frames(packet, whole)

    def _frames(self, packet: Any, wanted: bool) -> Iterator[Shown]:
        av = quiet_av()
        if packet is not None and packet.is_keyframe:
            self._broken = False
        try:
            frames = self._reader.decode(packet, wanted=wanted)
            self._faults = 0
        except (av.error.FFmpegError, OSError):
            self._fault(packet)
            return
        if self._broken and packet is not None and packet.pts is not None:
            self._lost.add(packet.pts)
        for frame in frames:
            stamp = self._stamp_of(frame)
            if stamp is not None:
                frame.pts = stamp
                yield from self._came(frame)

    def _fault(self, packet: Any) -> None:
        """Take note of a packet that cannot be decoded."""
        self._faults += 1
        if self._reader.strict:
            if self._faults >= _FAULTS:
                self._reader.damage(self._end_s)
            return
        self._failed |= packet is not None
        # Cut recordings often begin inside a picture: that is no damage yet.
        reported_from = 1 if self._began else _FAULTS
        if packet is None or self._faults < reported_from:
            return
        self._broken = self._interrupted = True
        at_s = self._end_s
        if packet.pts is not None:
            self._lost.add(packet.pts)
            at_s = self._reader.seconds(packet.pts)
        if self._faults == reported_from:
            self._reader.damage(at_s)

    def _stamp_of(self, frame: Any) -> int | None:
        """The time stamp of a decoded frame."""
        stamp = frame.dts if self._reader.counts else frame.pts
        if stamp is not None and self._reader.counts and self._first_dts is not None:
            # The decoder's delay is no part of the count.
            if self._count_shift is None:
                self._count_shift = stamp - self._first_dts
            stamp -= self._count_shift
        if stamp is None and self._recent:
            before = self._recent[-1]
            return int(before.pts + (before.duration or 1))
        return frame.dts if stamp is None else int(stamp)

    def _came(self, frame: Any) -> Iterator[Shown]:
        """Take a decoded frame; they come in the order in which they are shown."""
        if self._decode_all and self._broken:
            return
        if self._decode_all:
            # Wanted times before this frame are shown by the one before it.
            begin_s = self._reader.seconds(frame.pts) - self._reader.tolerance_s
            last = self._recent[-1].pts if self._recent and not self._interrupted else None
            while self._next_s is not None and self._next_s < begin_s:
                self._choose(last)
            yield from self._empty()
        self._recent.append(frame)
        self._began, self._interrupted = True, False
        yield from self._empty()

    def _empty(self, *, last: bool = False) -> Iterator[Shown]:
        """Yield the wanted times whose frame has come."""
        while self._known:
            t_s, stamp = self._known[0]
            frame = None
            if stamp is not None:
                if not last and not (self._recent and self._recent[-1].pts >= stamp):
                    return
                if stamp not in self._lost:
                    # a frame that the decoder could not make is stood in for by the one before it.
                    fits = [frame for frame in self._recent if frame.pts <= stamp]
                    frame = fits[-1] if fits else None
            at_s = t_s if frame is None else self._reader.seconds(frame.pts)
            yield Shown(t_s, frame, at_s)
            self._known.popleft()

    def _drain(self) -> Iterator[Shown]:
        yield from self._frames(None, True)
        yield from self._empty(last=True)

    def _finish(self) -> Iterator[Shown]:
        reader = self._reader
        if self._decode_all:
            yield from self._send(len(self._held))
            yield from self._drain()
            if self._recent:
                self._ends(self._recent[-1])
                self._stamps = [self._recent[-1].pts]
        else:
            yield from self._resolve(self._end_s)
        if self._failed and not self._began and not reader.warnings:
            # No frame has come, and none will.
            reader.damage(0.0)
        end_s = max(self._end_s, reader.duration_s or 0.0)
        missing = self._next_s is not None and self._next_s < end_s - 1e-9
        is_cut = missing and (reader.torn or reader.is_cut())
        if not is_cut:
            # The last frame stays to the end.
            yield from self._resolve(end_s)
        if self._started and not self._decode_all:
            yield from self._drain()
        if is_cut and not reader.torn:
            reader.damage(self._end_s)
        while self._next_s is not None:
            self._choose(None)
            yield from self._empty()


def _is_clean(data: bytes, header: bytes) -> bool:
    """Whether an H.264 key frame (a packet and its track's extradata) shows all at once."""
    # Containers also mark points from which a picture only builds up (gradual refresh): of those
    # the message of recovery (ITU-T H.264, D.2.8) counts frames until it is whole.
    for unit in _units(data, header):
        kind, message = unit[0] & 31, unit[1:4]
        if kind == 5:
            return True
        if kind == 6 and message[:1] == b"\x06" and len(message) == 3:
            # The count is 0 where its first bit is set.
            return message[2] >= 128
    return False


def _units(data: bytes, header: bytes) -> Iterator[bytes]:
    """The units (NAL) of an H.264 packet: with their lengths, or between start codes."""
    if header[:1] != b"\x01" or len(header) < 5:
        yield from (unit for unit in data.split(b"\x00\x00\x01")[1:] if unit)
        return
    width, at = (header[4] & 3) + 1, 0
    while at + width < len(data):
        size = int.from_bytes(data[at : at + width], "big")
        if size:
            yield data[at + width : at + width + size]
        at += width + size


def frame_at(
    path: str | os.PathLike[str], t_s: float, size_px: int = IMAGE_PX, crop: str = "center"
) -> NDArray[np.uint8]:
    """Read the frame shown ``t_s`` after the picture's start: RGB, uint8 [size_px, size_px, 3].

    ``crop`` is one of ``framing.CROPS``. ``VideoError`` when the file is missing, cannot be read,
    has no picture track, or has no frame at ``t_s``.
    """
    with open_frames(path) as reader:
        # a comparison with nan is false.
        times = [reader.start_s + t_s] if t_s >= 0 else []
        shown = next(reader.at(times), None)
        if shown is None or shown.frame is None:
            raise VideoError(f"{path} has no frame at {t_s:g} s: choose a time inside the video")
        return square(shown.frame, size_px, crop, reader.pixel_aspect)


@contextlib.contextmanager
def open_frames(path: str | os.PathLike[str], *, strict: bool = True) -> Iterator[FrameReader]:
    """Open the picture of a video; where ``strict``, damage raises instead of being noted.

    ``VideoError`` when the file is missing, cannot be read, is encrypted or has no picture track.
    """
    file = Path(path)
    containers.check_file(file, VideoError)
    with containers.open_container(file, VideoError) as container:
        if containers.is_still(container):
            raise VideoError(f"{file} is no video: pass a video file")
        # a sound file's cover is stored as a picture track.
        own = (
            each
            for each in container.streams.video
            if not each.disposition & type(each.disposition).attached_pic
        )
        track: Any = next(own, None)
        if track is None:
            raise VideoError(f"{file} has no picture track: pass a video file")
        containers.check_encryption(track, file, VideoError)
        containers.discard_others(container, track)
        # Whole videos are spread over the cores; a thread each is the fastest a core.
        track.codec_context.thread_count = 1
        yield FrameReader(container, track, str(file), strict=strict)
