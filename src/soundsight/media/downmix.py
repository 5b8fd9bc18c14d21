"""Many channels to one, so that no source vanishes.

The mean of the channels cancels what reaches them in opposite phase, and combs out what reaches
one of them later than another: half a millisecond, which is 17 cm of air, takes 1 kHz away. Here
nothing is added up. The short-time spectrum (frames of about 46 ms that overlap by half) is that of
the leading channel, the loudest of late, but for those frequencies at which another channel has
been far louder of late: there it is that of the loudest one.

A sound that is the same in all channels, whatever its phases and delays, or that is in one channel
alone, comes out as it is in one channel. Of sounds that are in different channels each is kept, as
loud as in its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.046
_FAR_LOUDER = 4.0
"""Power (6 dB) by which another channel has to be louder at a frequency to take its place."""

_LEAD = 2.0  # power (3 dB) by which another channel has to be louder to become the leading one
_FRAMES = 11
"""Frames that count as "of late": a quarter of a second. What begins counts at once."""


class Downmix:
    """Mixes one sound that comes in blocks; the result does not depend on how it is cut."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._channels = channels
        self._size = 1 << max(4, round(np.log2(_FRAME_S * rate_hz)))
        self._hop = self._size // 2
        # The square root of a periodic Hann window, before and after: halves that overlap add to 1.
        turn = np.arange(self._size) / self._size
        self._window = np.sin(np.pi * turn).astype(np.float32)
        self._reset()

    def _reset(self) -> None:
        # The first half frame is silence, so that each sample is in two frames.
        self._held = np.zeros((self._hop, self._channels), np.float32)
        self._tail = np.zeros(self._hop, np.float32)
        self._owed = self._hop  # samples at the beginning that are not the sound's
        self._taken = self._given = 0
        # Of each of the last frames, 0 for one that is the same in all channels.
        self._powers = np.zeros((_FRAMES, self._channels, self._hop + 1), np.float32)
        self._frame = self._leader = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples [t, channels] and return float32 [t'] mono, full scale 1.

        What is given out lags by a frame at most; one channel passes at once.
        """
        if self._channels == 1:
            return samples[:, 0]
        hop = self._hop
        self._taken += len(samples)
        self._held = np.concatenate([self._held, samples])
        count = len(self._held) // hop - 1
        if count <= 0:
            return np.zeros(0, np.float32)
        # Each channel in one piece of memory: sums across channels are ten times faster.
        used = np.ascontiguousarray(self._held[: (count + 1) * hop].T)
        hops = used.reshape(self._channels, -1, hop)
        frames = np.concatenate([hops[:, :-1], hops[:, 1:]], axis=2) * self._window
        self._held = self._held[count * hop :].copy()
        mixed = frames[0].copy()
        # What is the same in all channels needs no mixing.
        differ = (frames[1:] != frames[0]).any(axis=(0, 2))
        spectra = np.fft.rfft(frames[:, differ], axis=2) if differ.any() else frames[:, :0]
        mixed[differ] = np.fft.irfft(self._chosen(spectra, differ), n=self._size, axis=1)
        mixed *= self._window
        made = np.concatenate([self._tail[None], mixed[:-1, hop:]]) + mixed[:, :hop]
        self._tail = mixed[-1, hop:].copy()
        mono: NDArray[np.float32] = made.reshape(-1)[self._owed :]
        self._owed = max(0, self._owed - made.size)
        mono = mono[: self._taken - self._given]
        self._given += len(mono)
        return mono

    def finish(self) -> NDArray[np.float32]:
        """End the sound: return the rest of it, float32 [t]. Another one may begin."""
        if self._channels == 1:
            return np.zeros(0, np.float32)
        missing = self._taken - self._given
        rest = self.push(np.zeros((2 * self._size, self._channels), np.float32))[:missing]
        self._reset()
        return rest

    def _chosen(
        self, spectra: NDArray[np.complexfloating], differ: NDArray[np.bool_]
    ) -> NDArray[np.complexfloating]:
        """Choose a channel for each frequency of the frames that differ -> [count, bins]."""
        power = np.square(spectra.real) + np.square(spectra.imag)
        chosen = np.empty((spectra.shape[1], self._hop + 1), np.complex64)
        number = 0
        for is_one in differ:
            # Of the next frame nothing is known yet.
            self._frame = (self._frame + 1) % _FRAMES
            self._powers[self._frame] = 0
            if not is_one:
                continue
            self._powers[self._frame] = power[:, number]
            powers = self._powers.sum(axis=0)
            whole = powers.sum(axis=1)
            if whole.max() > _LEAD * whole[self._leader]:
                self._leader = int(whole.argmax())
            chosen[number] = spectra[self._leader, number]
            loudest = powers.max(axis=0)
            far = loudest > _FAR_LOUDER * powers[self._leader]
            for channel, its_power in enumerate(powers if far.any() else ()):
                there = far & (its_power == loudest)
                chosen[number, there] = spectra[channel, number, there]
            number += 1
        return chosen
