"""Listening to a live signal: windows become states that do not flicker, and events.

A window of 1 s every quarter of a second says more than a person can follow, and says it four
times a second. What is shown is therefore steadied:

* *Quiet* and *sound* change places only when the level leaves a band of 3 dB around the threshold.
* The model's confidence is averaged over the last windows; a picture appears where it reaches the
  threshold in several in a row, and goes where it stays a step below it.
* A sound is *settled* once it has been heard in several windows: the first of them hold little of
  it and would be mistaken often.
* What sounds is *one event* as long as it is of one kind, short pauses included: a dog that barks
  eight times is one dog. Another kind has to be clearly ahead to take over, and is another event
  then, unless the sound has only just begun and was mistaken.
* All pictures of an event share their random numbers and their place among the candidates: the
  picture moves with the sound and with nothing else.

The confidence of a window is the geometric mean of how familiar the sound is and of how sure the
names are (``runtime.naming``); a model without names takes the critic's score in their place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.draws import generator_draws
from soundsight.core.errors import ConfigError
from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.media.segments import Segment
from soundsight.runtime.critic import State
from soundsight.runtime.translator import MAX_CANDIDATES, Translator, check_options

MAX_LIVE_DRAWS = 4
"""Pictures of one moment that a live view shows at most."""

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
        settle: windows with sound, from its beginning, after which it is told what it is.
        windows: windows in a row that it takes to show or hide a picture, or to change the kind.
        lead: by how much another kind must be ahead in probability.
        alike: cosine between two embeddings above which they are of one kind, without names.
        pause_s: an event goes on after a pause of at most this long.

    Raises:
        ConfigError: when a number is out of its range.
    """

    level_band_db: float = 3.0
    confidence_band: float = 0.06
    newest: float = 0.5
    settle: int = 3
    windows: int = 2
    lead: float = 0.3
    alike: float = 0.6
    pause_s: float = 5.0

    def __post_init__(self) -> None:
        if self.settle < 1 or self.windows < 1:
            raise ConfigError("settle and windows must be at least 1")
        if not 0 < self.newest <= 1:
            raise ConfigError("newest must be above 0 and at most 1")
        if not all(0 <= v < math.inf for v in (self.level_band_db, self.lead, self.pause_s)):
            raise ConfigError("level_band_db, lead and pause_s must be at least 0")
        if not (0 <= self.confidence_band <= 1 and -1 <= self.alike <= 1):
            raise ConfigError("confidence_band must be from 0 to 1, alike from -1 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """Something that sounds, as far as it has been heard.

    Attributes:
        number: counts the events of a signal, from 1.
        began_s: when it was first heard, in seconds of the signal, to the step between windows.
        heard_s: the end of its last window with sound.
        repeats: how often it has sounded: 1, and 1 more after each pause.
    """

    number: int
    began_s: float
    heard_s: float
    repeats: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Heard:
    """What one window has come to.

    Attributes:
        start_s: start of the window in seconds of the signal.
        settled: false while a sound has just begun. Its state is ``nothing_recognisable`` then,
            which is not yet worth telling.
        state: what is to be shown; steadied.
        images: uint8 [draws, px, px, 3]; empty where the state is not ``picture``.
        level_dbfs: level of the window, in dB re full scale.
        familiarity: in [0, 1], NaN for a quiet window or a model that cannot tell.
        informativity: the critic's score of each picture, [draws] in [0, 1]; NaN without a critic.
        confidence: in [0, 1], averaged over the last windows; NaN while it is quiet.
        name: what it probably is, in the model's words; empty without names or a picture.
        event: the event that this window belongs to; None while it is quiet or not settled.
    """

    start_s: float
    settled: bool
    state: State
    images: NDArray[np.uint8]
    level_dbfs: float
    familiarity: float
    informativity: NDArray[np.float32]
    confidence: float
    name: str
    event: Event | None

    @property
    def end_s(self) -> float:
        """End of the window in seconds of the signal."""
        return self.start_s + units.SEGMENT_S


def is_surer(confidence: float, than: float) -> bool:
    """Whether a moment says better than another what an event is; NaN, not known, is the least."""
    return confidence > than or (math.isnan(than) and not math.isnan(confidence))


@dataclass(kw_only=True, eq=False)
class Surest:
    """What an event is shown as: what its surest moment with a picture has said of it.

    The one rule of the terminal, the storyboard and the page (``static/strip.js``): name, picture
    and confidence are of one moment, and a later one takes their place only where it is surer.

    Attributes:
        name: in the model's words; empty without names.
        confidence: in [0, 1]; NaN where it is not known.
        picture: uint8 [px, px, 3], the first of that moment; None before there is one.
    """

    name: str = ""
    confidence: float = math.nan
    picture: NDArray[np.uint8] | None = None

    def take(self, heard: Heard) -> bool:
        """Take a window of the event; true where it is the surest moment so far."""
        if heard.state is not State.PICTURE:
            return False
        if self.picture is not None and not is_surer(heard.confidence, self.confidence):
            return False
        self.name, self.confidence = heard.name, heard.confidence
        self.picture = heard.images[0].copy()
        return True


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kind:
    """What a window, or the average of several, sounds like."""

    embedding: NDArray[np.float32]
    shares: NDArray[np.float32] | None
    familiarity: float

    @property
    def top(self) -> int:
        """The most probable name."""
        assert self.shares is not None
        return int(self.shares.argmax())

    def towards(self, newer: _Kind, share: float) -> _Kind:
        """The running average that takes ``newer`` in."""
        shares = self.shares
        if shares is not None and newer.shares is not None:
            shares = shares + share * (newer.shares - shares)
        return _Kind(
            embedding=self.embedding + share * (newer.embedding - self.embedding),
            shares=shares,
            familiarity=self.familiarity + share * (newer.familiarity - self.familiarity),
        )


class Listener:
    """Follows one signal. Its windows come from ``runtime.stream.LiveCutter``, in order.

    Windows may be left out when there is no time for them. Not safe for use by two threads at
    once; many listeners may share one translator.

    Args:
        translator: a loaded translator.
        draws: pictures of each window, 1 to 4.
        candidates: see ``Translator.translate``; may be set to another number at any time.
        seed: another seed imagines other pictures.
        sensitivity: 0 (shows only what is loud and sure) to 1 (shows more, and errs more).
        steady: how much it takes to change what is shown.

    Raises:
        ConfigError: when an option is wrong.
    """

    def __init__(
        self,
        translator: Translator,
        *,
        draws: int = 1,
        candidates: int | None = None,
        seed: int = 0,
        sensitivity: float = 0.5,
        steady: SteadyConfig | None = None,
    ) -> None:
        check_options(1, seed)
        self._translator = translator
        self._steady = steady or SteadyConfig()
        self._seed = seed
        self.candidates = translator.candidates(candidates)
        self._draws = 1
        self.draws = draws
        self._sensitivity = 0.5
        self.sensitivity = sensitivity
        self._state = State.QUIET
        # The running average since it was last quiet, over so many windows; when that began.
        self._average: _Kind | None = None
        self._age = 0
        self._onset_s = 0.0
        self._heard_until_s = 0.0  # the end of the last window
        self._event: Event | None = None
        self._anchor: _Kind | None = None  # what the event was when it was told apart
        self._told = 0  # windows that have been told as the event's
        self._chosen: list[int] = []  # the number of each draw's picture among the candidates
        self._score = math.nan  # the critic's, averaged, where the names do not say how sure
        self._pictured = False
        self._high = 0  # windows in a row that would show a picture
        self._low = 0  # windows in a row that would hide it
        self._other = 0  # windows in a row of another kind than the event's
        self._other_since_s = 0.0

    @property
    def draws(self) -> int:
        """Pictures of each window."""
        return self._draws

    @draws.setter
    def draws(self, value: int) -> None:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 1 <= value <= MAX_LIVE_DRAWS
        ):
            raise ConfigError(
                f"draws must be a whole number from 1 to {MAX_LIVE_DRAWS}, not {value!r}"
            )
        self._draws = value

    @property
    def sensitivity(self) -> float:
        """0 (least) to 1 (most)."""
        return self._sensitivity

    @sensitivity.setter
    def sensitivity(self, value: float) -> None:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not 0 <= value <= 1:  # NaN is refused, too
            raise ConfigError(f"sensitivity must be from 0 to 1, not {value!r}")
        self._sensitivity = float(value)

    @property
    def quiet_dbfs(self) -> float:
        """Level under which a window counts as quiet, at this sensitivity."""
        middle = self._translator.info.thresholds.quiet_dbfs
        return middle + (0.5 - self._sensitivity) * SENSITIVITY_DB

    @property
    def confidence_needed(self) -> float:
        """Confidence from which on a picture is shown, at this sensitivity."""
        middle = self._translator.info.thresholds.confidence
        wanted = middle + (0.5 - self._sensitivity) * SENSITIVITY_CONFIDENCE
        return min(1.0, max(0.0, wanted))

    def hear(self, segment: Segment) -> Heard:
        """Take the next window."""
        heard = self._quiet(segment) if self._is_quiet(segment) else self._sound(segment)
        self._heard_until_s = heard.end_s
        return heard

    def _sound(self, segment: Segment) -> Heard:
        now = self._look(segment)
        average = self._take(now, segment.start_s)
        settled = self._age >= self._steady.settle
        event = self._belongs(now, average, segment.start_s) if settled else None
        images, informativity = self._nothing()
        confidence, name = self._named(average, event)
        # A model without names says how sure it is once it has drawn.
        sure = confidence is None or confidence >= self.confidence_needed
        self._high = self._high + 1 if sure else 0
        if event is not None:
            # Where the names alone say that nothing will be shown, nothing is drawn.
            if confidence is None or self._pictured or self._high >= self._steady.windows:
                images, informativity = self._draw(now.embedding, event)
            if confidence is None:
                confidence = _mean_of(average.familiarity, self._scored(informativity))
            self._show(confidence, informativity)
        self._state = State.PICTURE if self._pictured else State.NOTHING_RECOGNISABLE
        return Heard(
            start_s=segment.start_s,
            settled=settled,
            state=self._state,
            images=images if self._pictured else images[:0],
            level_dbfs=segment.rms_dbfs,
            familiarity=now.familiarity,
            informativity=informativity,
            confidence=math.nan if confidence is None else confidence,
            name=name if self._pictured else "",
            event=event,
        )

    # --- quiet or not ------------------------------------------------------------------------

    def _is_quiet(self, segment: Segment) -> bool:
        was_quiet = self._state is State.QUIET
        band = self._steady.level_band_db / 2
        threshold = self.quiet_dbfs + (band if was_quiet else -band)
        # A log-mel that is black beside a bang of the last 10 s shows no sound, loud as it may be.
        blackest = INAUDIBLE_LEVEL * (1.25 if was_quiet else 0.8)
        return segment.rms_dbfs < threshold or float(segment.mel.mean()) < blackest

    def _quiet(self, segment: Segment) -> Heard:
        self._state = State.QUIET
        self._average = None
        self._age = 0
        self._pictured, self._high = False, 0
        images, informativity = self._nothing()
        return Heard(
            start_s=segment.start_s,
            settled=True,
            state=State.QUIET,
            images=images,
            level_dbfs=segment.rms_dbfs,
            familiarity=math.nan,
            informativity=informativity,
            confidence=math.nan,
            name="",
            event=None,
        )

    # --- which event -------------------------------------------------------------------------

    def _look(self, segment: Segment) -> _Kind:
        translator = self._translator
        embedding = translator.session.embed(units.to_unit(segment.mel[None])[:, None])
        names = translator.names
        return _Kind(
            embedding=embedding[0],
            shares=None if names is None else names.probabilities(embedding)[0],
            familiarity=float(translator.memory.familiarity(segment.mel[None])[0]),
        )

    def _take(self, now: _Kind, start_s: float) -> _Kind:
        """Take a window with sound into the running average."""
        if self._average is None:
            self._average = now
            # What was quiet in the last window has begun behind it; the first window of all may be
            # full of it.
            self._onset_s = max(start_s, self._heard_until_s)
        else:
            self._average = self._average.towards(now, self._steady.newest)
        self._age += 1
        return self._average

    def _belongs(self, now: _Kind, average: _Kind, start_s: float) -> Event:
        """Say which event a settled window belongs to."""
        event, anchor = self._event, self._anchor
        end_s = start_s + units.SEGMENT_S
        resumed = self._age == self._steady.settle
        if event is None or anchor is None:
            return self._begin(average, self._onset_s, end_s)
        if resumed:
            near = self._onset_s - event.heard_s <= self._steady.pause_s
            if not near or not self._same(anchor, average):
                return self._begin(average, self._onset_s, end_s)
            return self._go_on(event, end_s, event.repeats + 1)
        self._other = 0 if self._same(anchor, average) else self._other + 1
        if self._other == 1:
            self._other_since_s = max(start_s, self._heard_until_s)
        if self._other < self._steady.windows:
            return self._go_on(event, end_s, event.repeats)
        # The old kind is forgotten at once, or it would be heard in the new one for a second.
        self._average = now
        if self._told <= 2 * self._steady.settle:
            # What has only just begun was mistaken: the same event has another kind.
            self._anchor, self._other = average, 0
            return self._go_on(event, end_s, event.repeats)
        return self._begin(average, self._other_since_s, end_s)

    def _same(self, anchor: _Kind, kind: _Kind) -> bool:
        if anchor.shares is not None and kind.shares is not None:
            return float(kind.shares.max() - kind.shares[anchor.top]) < self._steady.lead
        a, b = anchor.embedding, kind.embedding
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return lengths == 0 or float(a @ b) / lengths >= self._steady.alike

    def _go_on(self, event: Event, end_s: float, repeats: int) -> Event:
        self._other = 0 if repeats != event.repeats else self._other
        self._told += 1
        self._event = Event(
            number=event.number, began_s=event.began_s, heard_s=end_s, repeats=repeats
        )
        return self._event

    def _begin(self, kind: _Kind, began_s: float, end_s: float) -> Event:
        number = 1 if self._event is None else self._event.number + 1
        self._anchor = kind
        self._chosen = []
        self._score = math.nan
        self._told = 1
        self._pictured, self._low, self._other = False, 0, 0
        self._event = Event(number=number, began_s=began_s, heard_s=end_s, repeats=1)
        return self._event

    # --- the pictures ------------------------------------------------------------------------

    def _draw(
        self, embedding: NDArray[np.float32], event: Event
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Draw the pictures of an event: [draws, px, px, 3], and what the critic says of each.

        The first window of an event chooses among the candidates; the later ones keep its choice.
        """
        images, informativity = [], []
        for draw in range(self._draws):
            if draw < len(self._chosen):
                numbers = [self._chosen[draw]]
            else:
                # Whatever the number of candidates becomes, no two draws share a picture.
                first = draw * MAX_CANDIDATES
                numbers = list(range(first, first + self.candidates))
            made = np.concatenate([self._picture(embedding, event.number, n) for n in numbers])
            said = self._translator.critic.informativity(made)
            best = int(said.argmax())
            if draw >= len(self._chosen):
                self._chosen.append(numbers[best])
            images.append(made[best])
            informativity.append(said[best])
        return np.stack(images), np.asarray(informativity, np.float32)

    def _picture(
        self, embedding: NDArray[np.float32], event: int, number: int
    ) -> NDArray[np.uint8]:
        info = self._translator.info
        noise, dropout = generator_draws(
            self._seed, event * 2**16 + number, info.noise_size, info.dropout_size
        )
        return self._translator.session.draw(embedding[None], noise[None], dropout[None])

    # --- whether to show them ----------------------------------------------------------------

    def _named(self, kind: _Kind, event: Event | None) -> tuple[float | None, str]:
        """Confidence and name by the model's names; None where it has none."""
        names = self._translator.names
        if kind.shares is None or names is None:
            return None, ""
        # An event keeps its name; where another is clearly ahead, another event begins.
        anchor = None if event is None else self._anchor
        best = kind.top if anchor is None or anchor.shares is None else anchor.top
        return _mean_of(kind.familiarity, float(kind.shares[best])), names.names[best]

    def _scored(self, informativity: NDArray[np.float32]) -> float:
        """What the critic says of the best picture, averaged over an event's windows."""
        said = float(informativity.max())
        newest = 1.0 if math.isnan(self._score) else self._steady.newest
        self._score = said if newest == 1.0 else self._score + newest * (said - self._score)
        return self._score

    def _show(self, confidence: float, informativity: NDArray[np.float32]) -> None:
        """Decide between a picture and nothing recognisable."""
        # NaN, where there is no critic, hides nothing.
        hidden = bool(informativity.max() < self._translator.info.thresholds.informativity)
        needed = self.confidence_needed
        if not self._pictured:
            long = self._high >= self._steady.windows
            if confidence >= needed and long and not hidden:
                self._pictured, self._low = True, 0
        else:
            low = confidence < needed - self._steady.confidence_band or hidden
            self._low = self._low + 1 if low else 0
            if self._low >= self._steady.windows:
                self._pictured = False

    def _nothing(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        px = self._translator.info.image_px
        images = np.empty((0, px, px, units.IMAGE_CHANNELS), np.uint8)
        return images, np.full(self._draws, np.nan, np.float32)


def _mean_of(familiarity: float, score: float) -> float:
    """Geometric mean of two scores in [0, 1]; NaN, what cannot be told, counts as 1."""
    a, b = (1.0 if math.isnan(value) else value for value in (familiarity, score))
    return math.sqrt(a * b)
