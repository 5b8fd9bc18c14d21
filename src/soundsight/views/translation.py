"""What was imagined from a sound: pictures that know what they are of, and write themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core.errors import OutputError
from soundsight.core.state import State
from soundsight.views.drawing import CAPTION, NAMED_CAPTION, picture, save_png
from soundsight.views.pictograms import alert_picture
from soundsight.views.sheet import MAX_PICTURES, PICTURE_PX, Row

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True, eq=False)
class Translation:
    """What was imagined from a sound.

    n is the number of pictures, ordered by second, then by draw.

    Attributes:
        images: uint8 [n, 96, 96, 3]. The calm flat picture where the state is quiet or nothing
            recognisable, unless it was asked for anyway; pictogram and word where it is ``named``.
        seconds: float64 [n], where each picture's second starts, in seconds. What is drawn from
            several seconds has the surest of them.
        ood_score: float32 [n] in [0, 1], how far the second is from the known kinds; NaN for a
            quiet second, or a model that has no such score.
        state: n states.
        name: n words for what it probably is; empty without labels, and where nothing is known.
        second_guess: n words for what else it may be; empty where nothing else is near.
        confidence: float32 [n] in [0, 1], how sure that is; NaN for a quiet second, or a model that
            cannot tell.
        draw: int64 [n], which of the draws of its second a picture is, from 0.
        mels: uint8 [n, 128, 100], the log-mel.
        rms_dbfs: float32 [n], level of the second, in dB re full scale.
        waveforms: float32 [n, 100, 2], lowest and highest sample of every 10 ms.
        source: the path as it was given; empty for samples in memory.
        seed: the seed.
        model: the model's name and version.
        warnings: warnings about the file, a line each: that it is damaged or cut short, or holds
            several sound tracks.
    """

    images: NDArray[np.uint8]
    seconds: NDArray[np.float64]
    ood_score: NDArray[np.float32]
    state: list[State]
    name: list[str]
    second_guess: list[str]
    confidence: NDArray[np.float32]
    draw: NDArray[np.int64]
    mels: NDArray[np.uint8]
    rms_dbfs: NDArray[np.float32]
    waveforms: NDArray[np.float32]
    source: str = ""
    seed: int = 0
    model: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def joined(cls, parts: Iterable[Translation]) -> Translation:
        """Put translations of one sound one after the other; there must be at least one."""
        # Growing buffers, not lists of arrays: joining at the end would need everything twice.
        grown: dict[str, Any] = {}
        for part in parts:
            for name, value in vars(part).items():
                if isinstance(value, np.ndarray):
                    grown.setdefault(name, bytearray()).extend(value.tobytes())
                elif isinstance(value, list):
                    grown.setdefault(name, []).extend(value)
        whole = {**vars(part), **grown}
        for name, like in vars(part).items():
            if isinstance(like, np.ndarray):
                whole[name] = np.frombuffer(whole[name], like.dtype).reshape(-1, *like.shape[1:])
        return cls(**whole)

    def __len__(self) -> int:
        return len(self.images)

    def save(self, out: str | Path, size_px: int | None = None) -> list[Path]:
        """Write every picture as a PNG and return the paths.

        Args:
            out: a file that ends in ``.png`` where there is one picture; or else a folder, made
                when it is missing, in which each is ``NAME_s000_d0.png``.
            size_px: side of the files' pictures in pixels (Lanczos); None leaves it.

        Raises:
            OutputError: when the place cannot be written to, or names one file for several
                pictures or in another format.
        """
        out = Path(out)
        name = Path(self.source).stem or "sound"
        at = zip(self.seconds, self.draw, strict=True)
        paths = [out / f"{name}_s{int(second):03d}_d{draw}.png" for second, draw in at]
        if out.suffix.lower() in _SUFFIXES and not os.path.isdir(out):
            if out.suffix.lower() != ".png":
                raise OutputError(f"{out}: pictures are written as PNG, name it .png")
            if len(self) != 1:
                raise OutputError(f"{out}: there are {len(self)} pictures, name a folder")
            paths = [out]
        for i, path in enumerate(paths):
            save_png(picture(self.shown(i, size_px)), path, self.texts(i))
        return paths

    def shown(self, index: int, size_px: int | None = None) -> NDArray[np.uint8]:
        """Return picture ``index`` with sides of ``size_px``: uint8 [size, size, 3].

        A pictogram is drawn anew at that size; a picture is resized (Lanczos). None leaves it.
        """
        if size_px is not None and self.state[index] is State.NAMED:
            return alert_picture(self.name[index], size_px)
        return np.asarray(picture(self.images[index], size_px))

    def texts(self, index: int) -> dict[str, str]:
        """Return the text chunks of picture ``index`` for its PNG: where it comes from."""
        texts = {
            "soundsight": self.caption(index),
            "source": Path(self.source).name,
            "second": f"{self.seconds[index]:g}",
            "seed": str(self.seed),
            "draw": str(self.draw[index]),
            "state": str(self.state[index]),
            "model": self.model,
        }
        return {**texts, "name": self.name[index]} if self.name[index] else texts

    def row(self, name: str, *, anyway: bool = False) -> Row:
        """Return the card of one second on a contact sheet; see ``anyway`` of ``translate``."""
        shown = range(min(len(self), MAX_PICTURES))
        calm = (State.QUIET,) if anyway else (State.QUIET, State.NOTHING_RECOGNISABLE)
        return Row(
            name=name,
            second=float(self.seconds[0]),
            mel=self.mels[0],
            waveform=self.waveforms[0],
            images=[self.shown(i, PICTURE_PX) for i in shown],
            notes=[self.state[i].words if self.state[i] in calm else "" for i in shown],
            captions=[self.caption(i) for i in shown],
            more=len(self) - len(shown),
        )

    def caption(self, index: int) -> str:
        """Return what stands below picture ``index``: that it is imagined, or that it is not."""
        return NAMED_CAPTION if self.state[index] is State.NAMED else CAPTION
