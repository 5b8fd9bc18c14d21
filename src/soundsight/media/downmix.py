"""Many channels to one, so that no source vanishes.

The mean of the channels cancels what reaches them in opposite phase, and combs out what reaches
one of them later than another: half a millisecond, which is 17 cm of air, takes 1 kHz away. Here
the channels are mixed in the short-time spectrum (frames of about 46 ms that overlap by half):

* how loud a frequency is, is the mean of the channels' powers |X_c|^2, each weighted by itself:
  P = sum |X_c|^4 / sum |X_c|^2. A sound that is the same in all channels keeps its level, whatever
  the phases, and so does a sound that is in one channel alone;
* its phase is that of the leading channel, the loudest of late; where another channel is far louder
  at this frequency, that of the loudest one, so that a sound which the leading channel lacks keeps
  a phase of its own.

The phases of an interchannel delay need no estimate: one channel's are as good as another's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.046
_FAR_LOUDER = 4.0
"""Power (6 dB) by which another channel has to be louder to lend its phase."""

_LEAD = 2.0
"""Power (3 dB) by which another channel has to be louder to become the leading one."""

_MEMORY = 0.9
"""Share of the channels' power that is kept from frame to frame: a quarter of a second."""

_TINY = np.finfo(np.float32).tiny


class Downmix:
    """Mixes one sound that comes in blocks; the result does not depend on how it is cut.

    Args:
        rate_hz: its rate, in hertz.
        channels: 1 or more.
    """

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
        self._powers = np.zeros(self._channels)
        self._leader = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples [t, channels] and return float32 [t'] mono, full scale 1.

        What is given out lags by a frame at most; one channel passes at once.
        """
        if self._channels == 1:
            return samples[:, 0]
        self._taken += len(samples)
        self._held = np.concatenate([self._held, samples])
        count = (len(self._held) - self._hop) // self._hop
        if count <= 0:
            return np.zeros(0, np.float32)
        # Each channel in one piece of memory: sums across channels are ten times faster.
        used = np.ascontiguousarray(self._held[: (count + 1) * self._hop].T)
        hops = used.reshape(self._channels, -1, self._hop)
        frames = np.concatenate([hops[:, :-1], hops[:, 1:]], axis=2) * self._window
        self._held = self._held[count * self._hop :].copy()
        leaders = self._leaders(np.square(frames).sum(axis=2).T)
        mixed = frames[0].copy()
        # What is the same in all channels needs no mixing.
        differ = (frames[1:] != frames[0]).any(axis=(0, 2))
        if differ.any():
            mixed[differ] = _mixed(frames[:, differ], leaders[differ])
        return self._overlapped(mixed * self._window)

    def finish(self) -> NDArray[np.float32]:
        """End the sound: return the rest of it, float32 [t]. Another one may begin."""
        if self._channels == 1:
            return np.zeros(0, np.float32)
        missing = self._taken - self._given
        rest = self.push(np.zeros((2 * self._size, self._channels), np.float32))[:missing]
        self._reset()
        return rest

    def _leaders(self, powers: NDArray[np.floating]) -> NDArray[np.intp]:
        """Which channel leads in each frame, by the powers [count, channels] so far."""
        leaders = np.empty(len(powers), np.intp)
        for i, power in enumerate(powers):
            self._powers = _MEMORY * self._powers + power
            best = int(self._powers.argmax())
            if self._powers[best] > _LEAD * self._powers[self._leader]:
                self._leader = best
            leaders[i] = self._leader
        return leaders

    def _overlapped(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        hop = self._hop
        made = np.empty((len(frames), hop), np.float32)
        made[0] = self._tail + frames[0, :hop]
        made[1:] = frames[:-1, hop:] + frames[1:, :hop]
        self._tail = frames[-1, hop:].copy()
        samples = made.reshape(-1)[self._owed :]
        self._owed = max(0, self._owed - made.size)
        samples = samples[: self._taken - self._given]
        self._given += len(samples)
        return samples


def _mixed(frames: NDArray[np.float32], leaders: NDArray[np.intp]) -> NDArray[np.float32]:
    """Windowed frames [channels, count, size] and the channel that leads each -> [count, size]."""
    spectra = np.fft.rfft(frames, axis=2)
    power = np.square(spectra.real) + np.square(spectra.imag)
    loudest = power.max(axis=0)
    share = power / np.maximum(power.sum(axis=0), _TINY)
    mixed = (power * share).sum(axis=0)
    each = np.arange(len(leaders))
    chosen, of_chosen = spectra[leaders, each], power[leaders, each]
    far = loudest > _FAR_LOUDER * of_chosen
    if far.any():
        for one, its_power in zip(spectra, power, strict=True):
            there = far & (its_power == loudest)
            np.copyto(chosen, one, where=there)
            np.copyto(of_chosen, its_power, where=there)
    chosen *= np.sqrt(mixed / np.maximum(of_chosen, _TINY))
    return np.fft.irfft(chosen, n=frames.shape[2], axis=1).astype(np.float32, copy=False)
