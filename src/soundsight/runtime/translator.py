"""Sound -> pictures: decode, log-mel, embed, name, and draw what may be drawn.

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
from soundsight.core.state import State, calm_picture, is_out_of_distribution, is_quiet
from soundsight.media.audio import SoundStream
from soundsight.media.segments import Cutter, Segment, loudest_segment, segments
from soundsight.runtime import model_folder
from soundsight.runtime.labels import Guess, LabelHead, confidence_of
from soundsight.runtime.model_folder import ModelInfo
from soundsight.runtime.ood import OodDetector
from soundsight.runtime.session import ImagineSession
from soundsight.runtime.stream import (
    Sound,
    blocks_of,
    warnings_of,
)
from soundsight.runtime.surest import DRAW_FROM_SUREST, Second, SurestSeconds, mean_embedding
from soundsight.views.pictograms import alert_picture

_OTHER_SUFFIXES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

MAX_DRAWS = 1000
MAX_SEED = 2**64 - 1
MAX_ITEM = 2**47 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Translation:
    """What was imagined from a sound.

    Attributes:
        images: uint8 [n, 96, 96, 3]. The calm flat picture where the state is quiet or nothing
            recognisable, unless it was asked for anyway; pictogram and word where it is ``named``.
        seconds: float64 [n], where each picture's second starts, in seconds. What is drawn from
            several seconds has the surest of them.
        ood_score: float32 [n] in [0, 1], how far the second is from the kinds that the model knows;
            NaN for a quiet second, or a model that cannot tell.
        state: n states.
        name: n words for what it probably is; empty without names, and where nothing is known.
        second_guess: n words for what else it may be; empty where nothing else is near.
        confidence: float32 [n] in [0, 1], how sure that is; NaN for a quiet second, or a model that
            cannot tell.
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
            sheet.save_png(sheet.picture(self.shown(0, size_px)), folder, self.texts(0))
            return [folder]
        name = Path(self.source).stem or "sound"
        paths = []
        for i in range(len(self)):
            path = folder / f"{name}_s{int(self.seconds[i]):03d}_d{self.draw[i]}.png"
            sheet.save_png(sheet.picture(self.shown(i, size_px)), path, self.texts(i))
            paths.append(path)
        return paths

    def shown(self, index: int, size_px: int | None = None) -> NDArray[np.uint8]:
        """Return picture ``index`` with sides of ``size_px``: uint8 [size, size, 3].

        A pictogram is drawn anew at that size; a picture is resized (Lanczos). None leaves it.
        """
        from soundsight.views import sheet

        if size_px is not None and self.state[index] is State.NAMED:
            return alert_picture(self.name[index], size_px)
        return np.asarray(sheet.picture(self.images[index], size_px))

    def texts(self, index: int) -> dict[str, str]:
        """Say where picture ``index`` comes from: text chunks for its PNG."""
        texts = {
            "source": Path(self.source).name,
            "second": f"{self.seconds[index]:g}",
            "seed": str(self.seed),
            "draw": str(self.draw[index]),
            "state": str(self.state[index]),
            "model": self.model,
        }
        if self.name[index]:
            texts["name"] = self.name[index]
        return {"soundsight": self.caption(index), **texts}

    def caption(self, index: int) -> str:
        """What is said of picture ``index``: that it is imagined, or that it is not."""
        from soundsight.views.sheet import CAPTION, NAMED_CAPTION

        return NAMED_CAPTION if self.state[index] is State.NAMED else CAPTION


class Translator:
    """Translates sounds into pictures. Make one with ``Translator.load`` and keep it.

    The same sound with the same seed gives the same picture: in any batch, at any position.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        self.info = info
        self.session = ImagineSession(info, threads)
        self.ood = OodDetector(info, threads)
        self.label_head = LabelHead.of(info)

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
        seed: int = 0,
        anyway: bool = False,
    ) -> Translation:
        """Imagine a sound as a whole, or every second of it.

        As a whole it is drawn from its surest seconds (``runtime.surest``), or from its loudest
        one where the model has no names. A file of any length is read in blocks. The result of
        ``each_second`` grows by 41 kB a second and draw; ``iter_translate`` needs constant memory.

        Args:
            sound: a path, or a file that is open for reading bytes; samples [t] or [t, channels]
                (integers or floats of full scale 1); or what ``media.audio.stream`` opens, where a
                sound track is to be chosen or damage to be refused.
            rate_hz: rate of the samples, in hertz; needed for samples, not for a file.
            each_second: every second, one after the other, instead of the sound as a whole.
            draws: pictures of the sound, or of each second.
            seed: another seed imagines another picture of the same sound.
            anyway: give the pictures of unknown sounds, too. Their state stays what it is, a
                quiet second stays a calm picture, and an alert is named and not drawn.

        Raises:
            AudioError: when the sound cannot be read or is no sound.
            ConfigError: when ``draws``, ``seed`` or ``rate_hz`` is wrong.
        """
        check_options(draws, seed)
        options: dict[str, Any] = {"draws": draws, "seed": seed, "anyway": anyway}
        if not each_second:
            blocks = blocks_of(sound, rate_hz, self.info.mel)
            made = self._whole(blocks, source=_name_of(blocks), **options)
            return replace(made, warnings=warnings_of(blocks))
        return _joined(self.iter_translate(sound, rate_hz, **options))

    def iter_translate(
        self,
        sound: Sound,
        rate_hz: int | None = None,
        *,
        draws: int = 1,
        seed: int = 0,
        anyway: bool = False,
    ) -> Iterator[Translation]:
        """Imagine every second of a sound, one ``Translation`` a second, in constant memory.

        Arguments and errors are those of ``translate``; wrong options are raised at once, a
        damaged sound at the second where the fault is met.
        """
        check_options(draws, seed)
        blocks = blocks_of(sound, rate_hz, self.info.mel)
        options = {"draws": draws, "seed": seed, "anyway": anyway, "source": _name_of(blocks)}
        return self._each_second(blocks, options)

    def _each_second(
        self, blocks: Iterator[NDArray[np.float32]], options: Mapping[str, Any]
    ) -> Iterator[Translation]:
        for segment in segments(blocks, config=self.info.mel):
            made = self.translate_segment(segment, **options)
            yield replace(made, warnings=warnings_of(blocks))

    def _whole(self, blocks: Iterator[NDArray[np.float32]], **options: Any) -> Translation:
        """Imagine a sound from its surest seconds: of a second each, and its loudest one."""
        mel = self.info.mel
        cutter, surest = Cutter(config=mel), SurestSeconds()
        by_kind = self.label_head is not None and DRAW_FROM_SUREST
        seconds = 0

        def take(segments: list[Segment]) -> None:
            nonlocal seconds
            for segment in segments:
                seconds += 1
                heard = self._hear(segment)
                if heard is not None and not self._is_ood(heard):
                    surest.take(heard)

        def passing() -> Iterator[NDArray[np.float32]]:
            for block in blocks:
                if by_kind:
                    take(cutter.push(block))
                yield block

        loudest = loudest_segment(passing(), mel)
        if by_kind:
            take(cutter.flush())
            # It may be one of those: they begin with whole seconds.
            if not loudest.start_s.is_integer() or loudest.start_s >= seconds:
                take([loudest])
        if not len(surest):
            return self.translate_segment(loudest, **options)
        chosen = surest.of_kind(surest.kind)
        best: Segment = chosen[0].of
        heard = Second(
            embedding=mean_embedding(chosen),
            shares=np.mean([second.shares for second in chosen], axis=0, dtype=np.float32),
            ood_score=float(np.mean([second.ood_score for second in chosen])),
            of=best,
        )
        return self._made(best, heard, kind=surest.kind, **options)

    def translate_segment(
        self,
        segment: Segment,
        *,
        draws: int = 1,
        seed: int = 0,
        item: int | None = None,
        anyway: bool = False,
        source: str = "",
    ) -> Translation:
        """Imagine one segment, as ``media.segments`` makes them.

        Args:
            item: see ``imagine``.
            anyway: see ``translate``.

        Raises:
            ConfigError: when ``draws``, ``seed`` or ``item`` is wrong.
        """
        check_options(draws, seed, item)
        return self._made(
            segment, self._hear(segment),
            draws=draws, seed=seed, item=item, anyway=anyway, source=source,
        )  # fmt: skip

    def hear(self, mel: NDArray[np.uint8]) -> Second:
        """Hear one second, whatever its level.

        Args:
            mel: uint8 [128, 100].
        """
        embedding, features = self.session.embed(units.to_unit(mel[None])[:, None])
        ood_score = self.ood.scores(features)
        # Without names there is one kind; the lower the ood score, the surer the second.
        shares = 1.0 - np.nan_to_num(ood_score, nan=0.0)
        if self.label_head is not None:
            shares = self.label_head.probabilities(embedding)[0]
        return Second(embedding=embedding[0], shares=shares, ood_score=float(ood_score[0]))

    def ood_scores(self, mels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the ood scores of sounds: uint8 [n, 128, 100] -> float32 [n] in [0, 1], or NaN."""
        _, features = self.session.embed(units.to_unit(mels)[:, None])
        return self.ood.scores(features)

    def draws(self, mels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tell which seconds, uint8 [n, 128, 100], would be drawn: those that can be heard, are
        known and no alerts; bool [n].
        """

        def drawn(mel: NDArray[np.uint8]) -> bool:
            if float(mel.mean()) < units.INAUDIBLE_LEVEL:
                return False
            heard = self.hear(mel)
            return not self._is_ood(heard) and not self.guess(heard).is_alert

        return np.array([drawn(mel) for mel in mels], np.bool_)

    def guess(self, heard: Second, kind: int | None = None) -> Guess:
        """Name a second; without names an empty guess.

        Args:
            kind: the number of the first guess; None takes the most probable name.
        """
        return Guess() if self.label_head is None else self.label_head.guess(heard.shares, kind)

    def _hear(self, segment: Segment) -> Second | None:
        """Hear a segment; None where it is quiet."""
        if is_quiet(segment.mel, segment.rms_dbfs, self.info.thresholds):
            return None
        return replace(self.hear(segment.mel), of=segment)

    def _is_ood(self, heard: Second) -> bool:
        return is_out_of_distribution(heard.ood_score, self.info.thresholds)

    def _made(
        self,
        segment: Segment,
        heard: Second | None,
        *,
        draws: int,
        seed: int,
        kind: int | None = None,
        item: int | None = None,
        anyway: bool = False,
        source: str = "",
    ) -> Translation:
        """Make the pictures of a segment of which this is heard, of this kind."""
        images = np.repeat(calm_picture(self.info.image_px)[None], draws, axis=0)
        state, guess, confidence = State.QUIET, Guess(), np.nan
        if heard is not None:
            guess = self.guess(heard, kind)
            confidence = confidence_of(heard.ood_score, guess.share)
            state = State.PICTURE
            if self._is_ood(heard):
                state = State.NOTHING_RECOGNISABLE
            elif guess.is_alert:
                state = State.NAMED
                images[:] = alert_picture(guess.name, self.info.image_px)
            if state is State.PICTURE or (anyway and state is State.NOTHING_RECOGNISABLE):
                images = self._draws_of(segment.mel, heard.embedding, draws, seed, item)
        known = state.is_known
        ood_score = np.nan if heard is None else heard.ood_score
        return Translation(
            images=images,
            seconds=np.full(draws, segment.start_s, np.float64),
            ood_score=np.full(draws, ood_score, np.float32),
            state=[state] * draws,
            name=[guess.name if known else ""] * draws,
            second_guess=[guess.second if known else ""] * draws,
            confidence=np.full(draws, confidence, np.float32),
            draw=np.arange(draws, dtype=np.int64),
            mels=np.repeat(segment.mel[None], draws, axis=0),
            rms_dbfs=np.full(draws, segment.rms_dbfs, np.float32),
            waveforms=np.repeat(segment.waveform[None], draws, axis=0),
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
        """Draw pictures of log-mels, whether they would be shown or not.

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
        embeddings, _ = self.session.embed(unit[:, None])
        images = [
            self._draws_of(
                levels[i], embeddings[i], draws, seed, None if names is None else names[i]
            )
            for i in range(len(levels))
        ]
        px = self.info.image_px
        return np.reshape(images, (-1, px, px, units.IMAGE_CHANNELS)).astype(np.uint8, copy=False)

    def draw(
        self, embedding: NDArray[np.float32], names: Sequence[int], seed: int
    ) -> NDArray[np.uint8]:
        """Draw pictures of one embedding.

        Args:
            embedding: float32 [E].
            names: n numbers that the random numbers are drawn by.
            seed: another seed imagines other pictures.

        Returns:
            uint8 [n, px, px, 3].
        """
        info = self.info
        px = info.image_px
        images = np.empty((len(names), px, px, units.IMAGE_CHANNELS), np.uint8)
        for i, name in enumerate(names):
            noise, dropout = generator_draws(seed, name, info.noise_size, info.dropout_size)
            images[i] = self.session.draw(embedding[None], noise[None], dropout[None])[0]
        return images

    def _draws_of(
        self,
        levels: NDArray[np.uint8],
        embedding: NDArray[np.float32],
        draws: int,
        seed: int,
        item: int | None,
    ) -> NDArray[np.uint8]:
        """Draw a log-mel, uint8 [128, 100], or an item: uint8 [draws, px, px, 3]."""
        numbers = range(draws)
        if item is None:
            return self.draw(embedding, [item_of(levels, number) for number in numbers], seed)
        return self.draw(embedding, [item * 2**16 + number for number in numbers], seed)


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
        "images", "seconds", "ood_score", "confidence", "draw", "mels", "rms_dbfs", "waveforms",
    )  # fmt: skip
    buffers = {name: bytearray() for name in fields}
    lists: dict[str, Any] = {"state": [], "name": [], "second_guess": []}
    last: Translation | None = None
    for part in parts:
        for name, buffer in buffers.items():
            buffer += getattr(part, name).tobytes()
        for name, values in lists.items():
            values += getattr(part, name)
        last = part
    assert last is not None, "a sound has at least one segment"
    arrays: dict[str, Any] = {}
    for name, buffer in buffers.items():
        like = getattr(last, name)
        arrays[name] = np.frombuffer(buffer, like.dtype).reshape(-1, *like.shape[1:])
    return Translation(
        **arrays, **lists, source=last.source, seed=last.seed, model=last.model,
        warnings=last.warnings,
    )  # fmt: skip
