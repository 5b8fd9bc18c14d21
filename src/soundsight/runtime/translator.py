"""Sound -> pictures: decode, log-mel, embed, draw, and judge whether to show.

n stands for pictures, sound-major: all draws of the first second, then all of the next.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core import units
from soundsight.core.draws import generator_draws, item_of
from soundsight.core.errors import AudioError, ConfigError, OutputError
from soundsight.media.audio import SoundStream
from soundsight.media.segments import Segment, loudest_segment
from soundsight.runtime import model_folder
from soundsight.runtime.critic import (
    Critic,
    SoundMemory,
    State,
    calm_picture,
    is_quiet,
    is_unfamiliar,
    state_of,
)
from soundsight.runtime.model_folder import ModelInfo
from soundsight.runtime.naming import Names
from soundsight.runtime.session import ImagineSession
from soundsight.runtime.stream import Sound, Waveform, blocks_of, every_segment, warnings_of

_OTHER_SUFFIXES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

MAX_DRAWS = 1000
DEFAULT_CANDIDATES = 4
"""Pictures made for each draw where the model has a critic to choose among them."""
MAX_CANDIDATES = 64
MAX_SEED = 2**64 - 1
MAX_ITEM = 2**47 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Translation:
    """What was imagined from a sound.

    Attributes:
        images: uint8 [n, 96, 96, 3]; the calm flat picture where the state is not ``picture``,
            unless it was asked for anyway.
        seconds: float64 [n], where each picture's second starts, in seconds.
        informativity: float32 [n] in [0, 1], the critic's score; NaN where nothing was scored (a
            quiet or unfamiliar second, or a model without a critic).
        familiarity: float32 [n] in [0, 1], how much the second is of a kind that the model knows;
            NaN for a quiet second, or a model that cannot tell.
        state: n states.
        draw: int64 [n], which of the draws of its second a picture is, from 0.
        mels: uint8 [n, 128, 100], what was heard.
        rms_dbfs: float32 [n], level of the second, in dB re full scale.
        waveforms: float32 [n, 100, 2], lowest and highest sample of every 10 ms.
        source: the path as it was given; empty for samples in memory.
        seed: the seed.
        model: the model's name and version.
        warnings: what is to be told of the file, a line each: that it is damaged or cut short, or
            holds several sound tracks.
    """

    images: NDArray[np.uint8]
    seconds: NDArray[np.float64]
    informativity: NDArray[np.float32]
    familiarity: NDArray[np.float32]
    state: list[State]
    draw: NDArray[np.int64]
    mels: NDArray[np.uint8]
    rms_dbfs: NDArray[np.float32]
    waveforms: NDArray[np.float32]
    source: str = ""
    seed: int = 0
    model: str = ""
    warnings: tuple[str, ...] = ()

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
        from soundsight.views import sheet

        folder = Path(out)
        suffix = folder.suffix.lower()
        if suffix in (".png", *_OTHER_SUFFIXES) and not os.path.isdir(folder):
            if suffix != ".png":
                raise OutputError(f"{folder}: pictures are written as PNG, name it .png")
            if len(self) != 1:
                raise OutputError(f"{folder}: there are {len(self)} pictures, name a folder")
            sheet.save_png(sheet.picture(self.images[0], size_px), folder, self.texts(0))
            return [folder]
        name = Path(self.source).stem or "sound"
        paths = []
        for i, image in enumerate(self.images):
            path = folder / f"{name}_s{int(self.seconds[i]):03d}_d{self.draw[i]}.png"
            sheet.save_png(sheet.picture(image, size_px), path, self.texts(i))
            paths.append(path)
        return paths

    def texts(self, index: int) -> dict[str, str]:
        """Say where picture ``index`` comes from: text chunks for its PNG."""
        return {
            "source": Path(self.source).name,
            "second": f"{self.seconds[index]:g}",
            "seed": str(self.seed),
            "draw": str(self.draw[index]),
            "state": str(self.state[index]),
            "model": self.model,
        }


class Translator:
    """Translates sounds into pictures. Make one with ``Translator.load`` and keep it.

    The same sound with the same seed gives the same picture: in any batch, at any position.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        self.info = info
        self.session = ImagineSession(info, threads)
        self.critic = Critic(info, threads)
        self.memory = SoundMemory(info, threads)
        self.names = Names.of(info)

    @classmethod
    def load(cls, folder: str | Path | None = None, threads: int | None = None) -> Translator:
        """Load a model folder.

        Args:
            folder: None takes the model that comes with the package.
            threads: threads of one picture; None takes the CPUs of the process, at most 4.

        Raises:
            ModelError: when the folder is missing, is no model, is damaged or is of another
                version.
        """
        path = model_folder.bundled() if folder is None else Path(folder)
        return cls(model_folder.read(path), threads)

    def translate(
        self,
        sound: Sound,
        rate_hz: int | None = None,
        *,
        each_second: bool = False,
        draws: int = 1,
        candidates: int | None = None,
        seed: int = 0,
        anyway: bool = False,
    ) -> Translation:
        """Imagine a sound: its loudest second, or every second.

        A file of any length is read in blocks. The result of ``each_second`` grows by 41 kB a
        second and draw; ``iter_translate`` needs constant memory.

        Args:
            sound: a path, or a file that is open for reading bytes; samples [t] or [t, channels]
                (integers or floats of full scale 1); or what ``media.audio.stream`` opens, where a
                sound track is to be chosen or damage to be refused.
            rate_hz: rate of the samples, in hertz; needed for samples, not for a file.
            each_second: every second, one after the other, instead of the loudest one.
            draws: pictures of each second.
            candidates: pictures made for each draw, of which the critic keeps the best. None makes
                4, or 1 where the model has no critic.
            seed: another seed imagines another picture of the same sound.
            anyway: give the pictures that would be hidden, too. Their state stays what it is, and
                a quiet second stays a calm picture.

        Raises:
            AudioError: when the sound cannot be read or is no sound.
            ConfigError: when ``draws``, ``candidates``, ``seed`` or ``rate_hz`` is wrong.
        """
        check_options(draws, seed)
        candidates = self.candidates(candidates)
        if not each_second:
            waveform = Waveform(self.info.mel)
            blocks = blocks_of(sound, rate_hz, self.info.mel)
            segment = loudest_segment(waveform.watch(blocks), self.info.mel)
            wave = waveform.cut(segment.start_s)
            made = self.translate_segment(
                segment, wave, draws=draws, candidates=candidates, seed=seed, anyway=anyway,
                source=_name_of(blocks),
            )  # fmt: skip
            return replace(made, warnings=warnings_of(blocks))
        parts = self.iter_translate(
            sound, rate_hz, draws=draws, candidates=candidates, seed=seed, anyway=anyway
        )
        return _joined(parts)

    def iter_translate(
        self,
        sound: Sound,
        rate_hz: int | None = None,
        *,
        draws: int = 1,
        candidates: int | None = None,
        seed: int = 0,
        anyway: bool = False,
    ) -> Iterator[Translation]:
        """Imagine every second of a sound, one ``Translation`` a second, in constant memory.

        Arguments and errors are those of ``translate``; wrong options are raised at once, a
        damaged sound at the second where the fault is met.
        """
        check_options(draws, seed)
        blocks = blocks_of(sound, rate_hz, self.info.mel)
        options = {
            "draws": draws, "candidates": self.candidates(candidates), "seed": seed,
            "anyway": anyway, "source": _name_of(blocks),
        }  # fmt: skip
        return self._each_second(blocks, options)

    def _each_second(
        self, blocks: Iterator[NDArray[np.float32]], options: Mapping[str, Any]
    ) -> Iterator[Translation]:
        waveform = Waveform(self.info.mel)
        for segment in every_segment(waveform.watch(blocks), self.info.mel):
            wave = waveform.cut(segment.start_s)
            waveform.forget(segment.start_s)
            made = self.translate_segment(segment, wave, **options)
            yield replace(made, warnings=warnings_of(blocks))

    def translate_segment(
        self,
        segment: Segment,
        waveform: NDArray[np.float32] | None = None,
        *,
        draws: int = 1,
        candidates: int | None = None,
        seed: int = 0,
        item: int | None = None,
        anyway: bool = False,
        source: str = "",
    ) -> Translation:
        """Imagine one segment, as ``media.segments`` makes them.

        Args:
            waveform: float32 [100, 2] for the views; None stands for a flat one.
            candidates: see ``translate``.
            item: see ``imagine``.
            anyway: see ``translate``.

        Raises:
            ConfigError: when ``draws``, ``candidates``, ``seed`` or ``item`` is wrong.
        """
        check_options(draws, seed, item)
        candidates = self.candidates(candidates)
        thresholds = self.info.thresholds
        calm = calm_picture(self.info.image_px)
        familiarity, informativity = np.float32(np.nan), np.full(draws, np.nan, np.float32)
        images = np.repeat(calm[None], draws, axis=0)
        if is_quiet(segment.mel, segment.rms_dbfs, thresholds):
            state = [State.QUIET] * draws
        else:
            familiarity = self.memory.familiarity(segment.mel[None])[0]
            state = [State.NOTHING_RECOGNISABLE] * draws
            unknown = is_unfamiliar(float(familiarity), thresholds)
            if not unknown or anyway:
                drawn, informativity = self._best(segment.mel, draws, candidates, seed, item)
                if not unknown:
                    state = [state_of(float(score), thresholds) for score in informativity]
                shown = [i for i, each in enumerate(state) if anyway or each is State.PICTURE]
                images[shown] = drawn[shown]
        wave = np.zeros((units.FRAMES_PER_SEGMENT, 2), np.float32)
        return Translation(
            images=images,
            seconds=np.full(draws, segment.start_s, np.float64),
            informativity=informativity,
            familiarity=np.full(draws, familiarity, np.float32),
            state=state,
            draw=np.arange(draws, dtype=np.int64),
            mels=np.repeat(segment.mel[None], draws, axis=0),
            rms_dbfs=np.full(draws, segment.rms_dbfs, np.float32),
            waveforms=np.repeat((wave if waveform is None else waveform)[None], draws, axis=0),
            source=source,
            seed=seed,
            model=self.info.label,
        )

    def imagine(
        self,
        mels: ArrayLike,
        *,
        draws: int = 1,
        seed: int = 0,
        items: Sequence[int] | None = None,
    ) -> NDArray[np.uint8]:
        """Draw pictures of log-mels, whatever the critic would say of them.

        Args:
            mels: [n, 128, 100] or [128, 100], uint8 0..255 or floats in [-1, 1].
            draws: pictures of each log-mel.
            seed: another seed imagines another picture.
            items: n names (0 .. 2**47 - 1) to draw the random numbers by, instead of the log-mel's
                content. Windows of a live sound that share a name share their random numbers, so
                that the picture moves with the sound alone.

        Returns:
            uint8 [n * draws, 96, 96, 3], sound-major.

        Raises:
            AudioError: when ``mels`` has another shape, kind or range, or is not finite.
            ConfigError: when ``draws``, ``seed`` or ``items`` is wrong.
        """
        check_options(draws, seed)
        levels, unit = _checked_mels(mels)
        names = _checked_items(items, len(levels))
        embeddings = self.session.embed(unit[:, None])
        images = [
            self._draw(
                levels[i], embeddings[i], range(draws), seed, None if names is None else names[i]
            )
            for i in range(len(levels))
        ]
        px = self.info.image_px
        return np.reshape(images, (-1, px, px, units.IMAGE_CHANNELS)).astype(np.uint8, copy=False)

    def candidates(self, wanted: int | None = None) -> int:
        """Return how many pictures are made for each draw.

        Args:
            wanted: 1 to 64; None leaves it to the model.

        Raises:
            ConfigError: on another number, or more than 1 of a model that has no critic.
        """
        if wanted is None:
            return DEFAULT_CANDIDATES if self.info.has_critic else 1
        number = _whole(wanted)
        if number is None or not 1 <= number <= MAX_CANDIDATES:
            raise ConfigError(
                f"candidates must be a whole number from 1 to {MAX_CANDIDATES}, not {wanted!r}"
            )
        if number > 1 and not self.info.has_critic:
            raise ConfigError(
                f"candidates is {number}, but the model {self.info.label} has no critic to choose "
                "among them: ask for 1"
            )
        return number

    def _best(
        self, mel: NDArray[np.uint8], draws: int, candidates: int, seed: int, item: int | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Draw ``candidates`` pictures for each of ``draws`` and keep those the critic prefers.

        Returns:
            uint8 [draws, px, px, 3] and what the critic says of each, float32 [draws].
        """
        levels, unit = _checked_mels(mel)
        embedding = self.session.embed(unit[:, None])[0]
        px = self.info.image_px
        images = np.empty((draws, px, px, units.IMAGE_CHANNELS), np.uint8)
        informativity = np.empty(draws, np.float32)
        for draw in range(draws):
            numbers = range(draw * candidates, (draw + 1) * candidates)
            made = self._draw(levels[0], embedding, numbers, seed, item)
            said = self.critic.informativity(made)
            # Of equal scores, and of NaN where there is no critic, the first.
            best = int(said.argmax())
            images[draw], informativity[draw] = made[best], said[best]
        return images, informativity

    def _draw(
        self,
        levels: NDArray[np.uint8],
        embedding: NDArray[np.float32],
        numbers: range,
        seed: int,
        item: int | None,
    ) -> NDArray[np.uint8]:
        """Draw the pictures of one log-mel that have these numbers: uint8 [n, px, px, 3]."""
        info = self.info
        px = info.image_px
        images = np.empty((len(numbers), px, px, units.IMAGE_CHANNELS), np.uint8)
        for i, number in enumerate(numbers):
            name = item_of(levels, number) if item is None else item * 2**16 + number
            noise, dropout = generator_draws(seed, name, info.noise_size, info.dropout_size)
            images[i] = self.session.draw(embedding[None], noise[None], dropout[None])[0]
        return images


# --- checks ----------------------------------------------------------------------------------


def _whole(value: object) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _check_draws(draws: int) -> None:
    number = _whole(draws)
    if number is None or not 1 <= number <= MAX_DRAWS:
        raise ConfigError(f"draws must be a whole number from 1 to {MAX_DRAWS}, not {draws!r}")


def _check_seed(seed: int) -> None:
    number = _whole(seed)
    if number is None or not 0 <= number <= MAX_SEED:
        raise ConfigError(f"seed must be a whole number from 0 to 2**64 - 1, not {seed!r}")


def check_options(draws: int, seed: int, item: int | None = None) -> None:
    """Check what a picture is drawn by.

    Raises:
        ConfigError: naming the option that is wrong.
    """
    _check_draws(draws)
    _check_seed(seed)
    _checked_items(None if item is None else [item], 1)


def _checked_items(items: Sequence[int] | None, count: int) -> list[int] | None:
    if items is None:
        return None
    numbers = [_whole(item) for item in items]
    if len(numbers) != count:
        raise ConfigError(f"items must name each of the {count} log-mels, not {len(numbers)}")
    checked = [number for number in numbers if number is not None and 0 <= number <= MAX_ITEM]
    if len(checked) != count:
        raise ConfigError("items must be whole numbers from 0 to 2**47 - 1")
    return checked


def _checked_mels(mels: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    array = np.asarray(mels)
    if array.ndim == 2:
        array = array[None]
    expected = (units.N_MELS, units.FRAMES_PER_SEGMENT)
    if array.ndim != 3 or array.shape[1:] != expected:
        raise AudioError(
            f"a log-mel is [n, {expected[0]}, {expected[1]}], not {list(np.shape(mels))}"
        )
    if array.dtype == np.uint8:
        return array, units.to_unit(array)
    if array.dtype.kind != "f":
        raise AudioError(f"a log-mel is uint8 0..255 or floats in [-1, 1], not {array.dtype}")
    if not np.isfinite(array).all():
        raise AudioError("the log-mel holds numbers that are not finite")
    if array.size and float(np.abs(array).max()) > 1.0:
        raise AudioError("the log-mel is out of range: floats must lie in [-1, 1]")
    unit = array.astype(np.float32)
    return units.to_levels(unit), unit


def _name_of(blocks: object) -> str:
    return blocks.name if isinstance(blocks, SoundStream) else ""


def _joined(parts: Iterable[Translation]) -> Translation:
    """Put translations of one sound one after the other."""
    # Growing buffers, not lists of arrays: joining at the end would need everything twice.
    fields = (
        "images", "seconds", "informativity", "familiarity", "draw", "mels", "rms_dbfs",
        "waveforms",
    )  # fmt: skip
    buffers = {name: bytearray() for name in fields}
    state: list[State] = []
    last: Translation | None = None
    for part in parts:
        for name, buffer in buffers.items():
            buffer += getattr(part, name).tobytes()
        state += part.state
        last = part
    assert last is not None, "a sound has at least one segment"
    arrays: dict[str, Any] = {}
    for name, buffer in buffers.items():
        like = getattr(last, name)
        arrays[name] = np.frombuffer(buffer, like.dtype).reshape(-1, *like.shape[1:])
    return Translation(
        **arrays, state=state, source=last.source, seed=last.seed, model=last.model,
        warnings=last.warnings,
    )  # fmt: skip
