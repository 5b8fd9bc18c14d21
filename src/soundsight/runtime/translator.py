"""Sound -> pictures: decode and cut, recognise each second, and draw what may be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from soundsight.core import units
from soundsight.core.draws import item_of
from soundsight.core.errors import AudioError, ConfigError
from soundsight.core.state import State, calm_picture, is_out_of_distribution, is_quiet
from soundsight.media import audio
from soundsight.media.audio import Sound
from soundsight.media.segments import Segment, segments
from soundsight.runtime import model_folder
from soundsight.runtime.labels import Guess, confidence_of
from soundsight.runtime.session import Session, checked_seed, checked_whole
from soundsight.runtime.surest import Second, SurestSeconds, mean_embedding
from soundsight.views.pictograms import alert_picture
from soundsight.views.translation import Translation

MAX_DRAWS = 1000
MAX_ITEM = 2**47 - 1

Blocks = Iterator[NDArray[np.float32]]


@dataclass(frozen=True)
class _Options:
    """How pictures are drawn; see ``Translator.translate`` and ``Translator.imagine``."""

    draws: int
    seed: int
    anyway: bool = False
    item: int | None = None

    def __post_init__(self) -> None:
        checked_whole("draws", self.draws, 1, MAX_DRAWS)
        checked_seed(self.seed)
        if self.item is not None:
            checked_whole("item", self.item, 0, MAX_ITEM, "2**47 - 1")


class Translator(Session):
    """Translates sounds into pictures. Make one with ``Translator.load`` and keep it.

    The same sound with the same seed gives the same picture: in any batch, at any position.
    """

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
        one where the model has no labels. The result of ``each_second`` grows by 41 kB a second
        and draw; ``iter_translate`` needs constant memory.

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
        options = _Options(draws, seed, anyway)
        blocks = audio.blocks_of(sound, rate_hz)
        if each_second:
            return Translation.joined(self._each_second(blocks, options))
        return self._whole(blocks, options)

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
        options = _Options(draws, seed, anyway)
        return self._each_second(audio.blocks_of(sound, rate_hz), options)

    def _each_second(self, blocks: Blocks, options: _Options) -> Iterator[Translation]:
        for segment in segments(blocks, config=self.info.mel):
            second = self._recognise(segment)
            yield self._translation(segment, second, options, **_about(blocks))

    def _whole(self, blocks: Blocks, options: _Options) -> Translation:
        """Imagine a sound from its surest seconds: of a second each, and its loudest one."""
        surest = SurestSeconds()
        count, segment = 0, None
        for segment in segments(blocks, config=self.info.mel, loudest=True):
            # The loudest, which is the last, may be one of the others.
            again = segment.start_s.is_integer() and segment.start_s < count
            count += 1
            if self.label_head is None or again:
                continue
            second = self._recognise(segment)
            if second is not None and not self._is_ood(second):
                surest.take(second)
        assert segment is not None, "a sound has a loudest second"
        kind = None
        if not len(surest):
            second = self._recognise(segment)
        else:
            kind = surest.kind
            chosen = surest.of_kind(kind)
            segment = chosen[0].of
            second = Second(
                embedding=mean_embedding(chosen),
                shares=np.mean([one.shares for one in chosen], axis=0, dtype=np.float32),
                ood_score=float(np.mean([one.ood_score for one in chosen])),
            )
        return self._translation(segment, second, options, kind=kind, **_about(blocks))

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
        """Imagine one segment, as ``media.segments`` makes them; ``item``: see ``imagine``.

        Raises:
            ConfigError: when ``draws``, ``seed`` or ``item`` is wrong.
        """
        options = _Options(draws, seed, anyway, item)
        return self._translation(segment, self._recognise(segment), options, source=source)

    def _recognise(self, segment: Segment) -> Second | None:
        """Recognise a segment; None where it is quiet."""
        if is_quiet(segment.mel, segment.rms_dbfs, self.info.thresholds):
            return None
        return self.recognise(segment.mel, of=segment)

    def _is_ood(self, second: Second) -> bool:
        return is_out_of_distribution(second.ood_score, self.info.thresholds)

    def _translation(
        self,
        segment: Segment,
        second: Second | None,
        options: _Options,
        *,
        kind: int | None = None,
        **about: Any,
    ) -> Translation:
        """Draw what a segment was recognised as (None: it is quiet), of this kind."""
        state, guess, confidence, ood_score = State.QUIET, Guess(), np.nan, np.nan
        draws, image_px = options.draws, self.info.image_px
        if second is not None:
            guess, ood_score = self.guess(second, kind), second.ood_score
            confidence = confidence_of(ood_score, guess.share)
            state = State.NAMED if guess.is_alert else State.PICTURE
            if self._is_ood(second):
                state = State.NOTHING_RECOGNISABLE
        anyway = options.anyway and state is State.NOTHING_RECOGNISABLE
        if second is not None and (state is State.PICTURE or anyway):
            images = self._drawn(segment.mel, second.embedding, options)
        else:
            named = state is State.NAMED
            one = alert_picture(guess.name, image_px) if named else calm_picture(image_px)
            images = np.repeat(one[None], draws, axis=0)
        return Translation(
            images=images,
            seconds=np.full(draws, segment.start_s, np.float64),
            ood_score=np.full(draws, ood_score, np.float32),
            state=[state] * draws,
            name=[guess.name if state.is_known else ""] * draws,
            second_guess=[guess.second if state.is_known else ""] * draws,
            confidence=np.full(draws, confidence, np.float32),
            draw=np.arange(draws, dtype=np.int64),
            mels=np.repeat(segment.mel[None], draws, axis=0),
            rms_dbfs=np.full(draws, segment.rms_dbfs, np.float32),
            waveforms=np.repeat(segment.waveform[None], draws, axis=0),
            seed=options.seed,
            model=self.info.label,
            **about,
        )

    def draws(self, mels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which seconds, uint8 [n, 128, 100], would be drawn: those that can be heard, are
        known and no alerts; bool [n].
        """

        drawn = np.zeros(len(mels), np.bool_)
        for i, mel in enumerate(mels):
            if float(mel.mean()) >= units.INAUDIBLE_LEVEL:
                second = self.recognise(mel)
                drawn[i] = not self._is_ood(second) and not self.guess(second).is_alert
        return drawn

    def imagine(
        self, mels: ArrayLike, *, draws: int = 1, seed: int = 0, items: Sequence[int] | None = None
    ) -> NDArray[np.uint8]:
        """Draw pictures of log-mels, whether they would be shown or not.

        Args:
            mels: [n, 128, 100] or [128, 100], uint8 0..255 or floats in [-1, 1].
            draws: pictures of each log-mel.
            seed: another seed imagines another picture.
            items: n numbers (0 .. 2**47 - 1) to draw the random numbers by, instead of the
                log-mel's content. Windows of a live sound that share one share their random
                numbers, so that the picture moves with the sound alone.

        Returns:
            uint8 [n * draws, 96, 96, 3]: all draws of the first log-mel, then of the next.

        Raises:
            AudioError: when ``mels`` has another shape, kind or range, or is not finite.
            ConfigError: when ``draws``, ``seed`` or ``items`` is wrong.
        """
        levels, unit = _checked_mels(mels)
        if items is not None and len(items) != len(levels):
            raise ConfigError(f"items must be {len(levels)}, one of each log-mel, not {len(items)}")
        each = [None] * len(levels) if items is None else items
        options = [_Options(draws, seed, item=item) for item in each]
        embeddings, _ = self.embed(unit[:, None])
        px = self.info.image_px
        images = [self._drawn(*one) for one in zip(levels, embeddings, options, strict=True)]
        return np.reshape(images, (-1, px, px, units.IMAGE_CHANNELS)).astype(np.uint8, copy=False)

    def _drawn(
        self, levels: NDArray[np.uint8], embedding: NDArray[np.float32], options: _Options
    ) -> NDArray[np.uint8]:
        """Draw a log-mel, uint8 [128, 100], or an item: uint8 [draws, px, px, 3]."""
        first, numbers = options.item, range(options.draws)
        items = [item_of(levels, n) if first is None else first * 2**16 + n for n in numbers]
        return self.draw(embedding, items, options.seed)


def _about(blocks: Blocks) -> dict[str, Any]:
    """The source of a sound, and the warnings about it as far as it has been read."""
    source = blocks.name if isinstance(blocks, audio.SoundStream) else ""
    return {"source": source, "warnings": tuple(getattr(blocks, "warnings", ()))}


def _checked_mels(mels: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    array = np.asarray(mels)
    array = array[None] if array.ndim == 2 else array
    expected = (units.N_MELS, units.FRAMES_PER_SEGMENT)
    if array.ndim != 3 or array.shape[1:] != expected:
        raise AudioError(
            f"a log-mel is [n, {expected[0]}, {expected[1]}], not {list(np.shape(mels))}"
        )
    if array.dtype == np.uint8:
        return array, units.to_unit(array)
    if array.dtype.kind != "f":
        raise AudioError(f"a log-mel is uint8 0..255 or floats in [-1, 1], not {array.dtype}")
    if not (np.abs(array) <= 1.0).all():
        raise AudioError("a log-mel of floats must be finite and lie in [-1, 1]")
    unit = array.astype(np.float32)
    return units.to_levels(unit), unit
