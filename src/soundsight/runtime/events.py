"""Events of a live signal: windows become states that do not flicker, and events.

A window of 1 s every quarter of a second says more than a person can follow. What is shown is
therefore steadied, as ``SteadyConfig`` says:

* What sounds is *one event* as long as it is of one kind, short pauses included: a dog that barks
  eight times is one dog. Another kind has to be clearly ahead to take over, and is another event
  then, unless the sound has only just begun and was mistaken.
* A picture is drawn when an event is first recognised, when its kind changes and when it becomes
  surer by a step of the words (``views.events.SURENESS``), from the mean embedding of its surest
  windows; between those it stays. All pictures of an event share their random numbers: what moves
  in them is what is known of the sound.
* An alert (``runtime.labels``) is named and not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.errors import ConfigError
from soundsight.core.state import State
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.media.segments import Segment
from soundsight.runtime.labels import confidence_of
from soundsight.runtime.session import Session, checked_seed, checked_whole
from soundsight.runtime.surest import Second, SurestSeconds, mean_embedding
from soundsight.views.events import Recognition, sureness_step

MAX_LIVE_DRAWS = 4
"""Pictures that a live view shows at most."""

SENSITIVITY_DB = 24.0
"""From the least to the most sensitive setting the quiet threshold moves by this much."""

SENSITIVITY_CONFIDENCE = 0.4
"""... and the confidence that a picture needs by this much."""


@dataclass(frozen=True, kw_only=True)
class SteadyConfig:
    """How much it takes to change what is shown.

    Attributes:
        level_band_db: width of the band around the quiet threshold in which nothing changes.
        confidence_band: a picture goes when the confidence is this far below the threshold.
        newest: weight of the newest window in the running averages.
        settle: windows with sound, from its beginning, after which it is said what it is.
        windows: windows in a row that it takes to show or hide a picture, or to change the kind.
        lead: by how much another kind must be ahead in probability.
        alike: cosine between two embeddings above which they are of one kind, without labels.
        pause_s: an event goes on after a pause of at most this long.
    """

    level_band_db: float = 3.0
    confidence_band: float = 0.06
    newest: float = 0.5
    settle: int = 3
    windows: int = 2
    lead: float = 0.3
    alike: float = 0.6
    pause_s: float = 5.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """Something that sounds, so far.

    Attributes:
        number: counts the events of a signal, from 1.
        began_s: when it began, in seconds of the signal, to the step between windows.
        heard_s: the end of its last window with sound.
        repeats: how often it has sounded: 1, and 1 more after each pause.
    """

    number: int
    began_s: float
    heard_s: float
    repeats: int = 1


@dataclass(kw_only=True, eq=False)
class WindowResult(Recognition):
    """What one window has come to; steadied. Its state may be ``quiet``, too.

    Attributes:
        start_s: start of the window in seconds of the signal.
        settled: false while a sound has just begun. Its state is ``nothing_recognisable`` then,
            which is not yet worth showing.
        confidence: in [0, 1], averaged over the last windows; NaN while it is quiet, or where the
            model cannot tell.
        images: uint8 [draws, px, px, 3]; empty where the state is not ``picture``.
        drawing: counts the drawings of a signal: windows that have the same show the same pictures.
        level_dbfs: level of the window, in dB re full scale.
        ood_score: in [0, 1], NaN for a quiet window or a model without ood scores.
        event: the event that this window belongs to; None while it is quiet or not settled.
        sound: the window as the networks see it; None while it is quiet.
    """

    start_s: float
    settled: bool = True
    images: NDArray[np.uint8]
    drawing: int
    level_dbfs: float
    ood_score: float = math.nan
    event: Event | None = None
    sound: Second | None = None

    @property
    def end_s(self) -> float:
        """End of the window in seconds of the signal."""
        return self.start_s + units.SEGMENT_S


def is_surer(confidence: float, than: float) -> bool:
    """Whether a confidence is above another; NaN, not known, is the least."""
    return confidence > than or (math.isnan(than) and not math.isnan(confidence))


def take_surer(shown: Recognition, window: WindowResult) -> bool:
    """Let an event be shown as what its surest window says; true where that is this window.

    The one rule of the terminal, the storyboard and the page (``static/strip.js``).
    """
    surer = not shown.is_known or is_surer(window.confidence, shown.confidence)
    if not window.state.is_known or not surer:
        return False
    shown.state, shown.confidence = window.state, window.confidence
    shown.name, shown.second_guess = window.name, window.second_guess
    shown.picture = window.images[0].copy() if len(window.images) else None
    return True


class EventTracker:
    """Follows one signal. Its windows come from ``media.segments.LiveCutter``, in order.

    Windows may be left out when there is no time for them. Not safe for use by two threads at
    once; many trackers may share one model.

    Args:
        model: a loaded model, such as a ``Translator``.
        draws: pictures of each event, 1 to 4; 0 draws nothing. It may be changed.
        seed: another seed imagines other pictures.
        sensitivity: 0 (shows only what is loud and sure) to 1 (shows more, and errs more); it may
            be changed.
        steady: how much it takes to change what is shown.

    Raises:
        ConfigError: when an option is wrong.
    """

    def __init__(
        self,
        model: Session,
        *,
        draws: int = 1,
        seed: int = 0,
        sensitivity: float = 0.5,
        steady: SteadyConfig | None = None,
    ) -> None:
        self._model, self._seed = model, checked_seed(seed)
        self._steady = steady or SteadyConfig()
        self.draws = checked_whole("draws", draws, 0, MAX_LIVE_DRAWS)
        known = isinstance(sensitivity, int | float) and not isinstance(sensitivity, bool)
        if not known or not 0 <= sensitivity <= 1:  # NaN is refused, too
            raise ConfigError(f"sensitivity must be from 0 to 1, not {sensitivity!r}")
        self.sensitivity = float(sensitivity)
        self._end_s = 0.0  # of the last window
        # The running average since it was last quiet, over so many windows; when that began.
        self._average: Second | None = None
        self._age, self._onset_s = 0, 0.0
        # Windows in a row that would show what it is, or hide it.
        self._high, self._low = 0, 0
        self._recognised = False
        # The event, what it was when it began, its windows and the surest of them.
        self._event: Event | None = None
        self._anchor: Second | None = None
        self._windows, self._surest = 0, SurestSeconds()
        # Windows in a row of another kind than the event's, and when the first of them began.
        self._other, self._other_since_s = 0, 0.0
        # The pictures that are shown, and what they are of: event and kind, and step of the words.
        self._drawn: tuple[tuple[int, int], int, NDArray[np.uint8]] | None = None
        self._drawings = 0

    @property
    def quiet_dbfs(self) -> float:
        """Level under which a window counts as quiet, at this sensitivity."""
        middle = self._model.info.thresholds.quiet_dbfs
        return middle + (0.5 - self.sensitivity) * SENSITIVITY_DB

    @property
    def confidence_needed(self) -> float:
        """Confidence from which on it is shown what sounds, at this sensitivity."""
        middle = self._model.info.thresholds.confidence
        wanted = middle + (0.5 - self.sensitivity) * SENSITIVITY_CONFIDENCE
        return min(1.0, max(0.0, wanted))

    def update(self, segment: Segment) -> WindowResult:
        """Take the next window."""
        px = self._model.info.image_px
        result = WindowResult(
            start_s=segment.start_s,
            state=State.QUIET,
            images=np.empty((0, px, px, units.IMAGE_CHANNELS), np.uint8),
            drawing=self._drawings,
            level_dbfs=segment.rms_dbfs,
        )
        was_quiet = self._average is None
        band = self._steady.level_band_db * (0.5 if was_quiet else -0.5)
        # A log-mel that is black beside a bang of the last 10 s shows no sound, loud as it may be.
        blackest = INAUDIBLE_LEVEL * (1.25 if was_quiet else 0.8)
        if segment.rms_dbfs < self.quiet_dbfs + band or float(segment.mel.mean()) < blackest:
            self._average, self._age = None, 0
            self._recognised, self._high = False, 0
        else:
            self._hear(segment, result)
        self._end_s = result.end_s
        return result

    def _hear(self, segment: Segment, result: WindowResult) -> None:
        """Recognise a window that is not quiet."""
        now = self._model.recognise(segment.mel)
        average = now
        if self._average is None:
            # What was quiet in the last window has begun behind it; the first window of all may be
            # full of it.
            self._onset_s = max(segment.start_s, self._end_s)
        else:
            average = _towards(self._average, now, self._steady.newest)
        self._average = average
        self._age += 1
        settled = self._age >= self._steady.settle
        event = self._event_of(now, average, result) if settled else None
        # An event keeps its name; where another is clearly ahead, another event begins.
        anchor = average if event is None or self._anchor is None else self._anchor
        kind = int(anchor.shares.argmax())
        guess = self._model.guess(average, kind)
        confidence = confidence_of(average.ood_score, guess.share)
        # NaN, of a model that cannot tell how sure it is, hides nothing.
        self._high = 0 if confidence < self.confidence_needed else self._high + 1
        result.state = State.NOTHING_RECOGNISABLE
        if event is not None:
            self._surest.take(now)
            low = confidence < self.confidence_needed - self._steady.confidence_band
            self._low = self._low + 1 if self._recognised and low else 0
            in_a_row = self._low if self._recognised else self._high
            if in_a_row >= self._steady.windows:
                self._recognised, self._low = not self._recognised, 0
            if self._recognised:
                result.state = State.NAMED if guess.is_alert else State.PICTURE
                result.name, result.second_guess = guess.name, guess.second
            if result.state is State.PICTURE and self.draws:
                result.images = self._images(event, kind, sureness_step(confidence))
        result.settled, result.event, result.sound = settled, event, now
        result.confidence, result.ood_score = confidence, now.ood_score
        result.drawing = self._drawings

    def _event_of(self, now: Second, average: Second, window: WindowResult) -> Event:
        """Return the event that a settled window belongs to."""
        steady, event = self._steady, self._event
        same = self._anchor is not None and self._same(self._anchor, average)
        again = self._age == steady.settle  # it was quiet before
        if event is None or again:
            began_s = self._onset_s
            goes_on = event is not None and same and began_s - event.heard_s <= steady.pause_s
            self._other = 0
        else:
            self._other = 0 if same else self._other + 1
            if self._other == 1:
                self._other_since_s = max(window.start_s, self._end_s)
            began_s = self._other_since_s
            goes_on = self._other < steady.windows
            if not goes_on:
                # The old kind is forgotten at once, or it would be in the average for a second.
                self._average = now
                # What has only just begun was mistaken: the same event has another kind.
                goes_on = self._windows <= 2 * steady.settle
                self._anchor, self._surest, self._other = average, SurestSeconds(), 0
        if event is not None and goes_on:
            self._windows += 1
            event = replace(event, heard_s=window.end_s, repeats=event.repeats + again)
        else:
            number = 1 if event is None else event.number + 1
            event = Event(number=number, began_s=began_s, heard_s=window.end_s)
            self._anchor, self._surest, self._windows = average, SurestSeconds(), 1
            self._recognised, self._low = False, 0
        self._event = event
        return event

    def _same(self, anchor: Second, kind: Second) -> bool:
        if self._model.label_head is not None:
            return (
                float(kind.shares.max() - kind.shares[anchor.shares.argmax()]) < self._steady.lead
            )
        a, b = anchor.embedding, kind.embedding
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return lengths == 0 or float(a @ b) / lengths >= self._steady.alike

    def _images(self, event: Event, kind: int, step: int) -> NDArray[np.uint8]:
        """The pictures of an event, drawn anew where it is another one or has become surer."""
        if self._drawn is not None:
            of, drawn_step, images = self._drawn
            if of == (event.number, kind) and len(images) == self.draws and step <= drawn_step:
                return images
        images = self.draw(self._surest.of_kind(kind), event.number, self.draws)
        self._drawings += 1
        self._drawn = (event.number, kind), step, images
        return images

    def draw(self, seconds: Sequence[Second], event: int, draws: int) -> NDArray[np.uint8]:
        """Draw event ``event`` from its surest windows: uint8 [draws, px, px, 3]."""
        items = [event * 2**16 + number for number in range(draws)]
        return self._model.draw(mean_embedding(seconds), items, self._seed)


def _towards(average: Second, newer: Second, share: float) -> Second:
    """The running average that takes ``newer`` in."""
    return Second(
        embedding=average.embedding + share * (newer.embedding - average.embedding),
        shares=average.shares + share * (newer.shares - average.shares),
        ood_score=average.ood_score + share * (newer.ood_score - average.ood_score),
    )
