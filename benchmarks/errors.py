"""Errors an hour of the live path: what is told of other sounds, and what is missed of known ones.

    python benchmarks/errors.py [--half test] [--figure docs/figures/errors_an_hour.png] [--server]

One hour of sound that is of no kind the model knows, recordings of the kinds that it knows, and
videos of three (``errors_material.py`` says what they are) go through ``LiveCutter`` and
``EventTracker``, a window every quarter of a second, as in the server. A sound is *shown* by a
picture or, of an alert, by its name. Counted are

* events for which something wrong was told, and seconds during which it was: anything beside a
  sound that is of no known kind; another kind beside one that is;
* misses: recordings of a kind that was never told beside them.

The half ``val`` chooses the default threshold, by this rule, which was written down before the
other half was looked at: **the highest confidence (in steps of .02) at which at least half of the
recordings are rightly told, as a mean over the subjects that are drawn, and likewise over the
alerts.** At that confidence it also chooses where the words begin (``SURENESS``): *quite sure* at
the lowest limit above which nine of ten events are right, *probably* at the lowest above which six
of ten are within .1, where as many sounds are of a known kind as are not. ``--server`` also sends
some minutes through the WebSocket of a real server and compares what it says with the curve's own
listener.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from errors_material import HALVES, Item, Stretch, stretches
from numpy.typing import NDArray

from soundsight.core.errors import SoundsightError
from soundsight.core.state import State
from soundsight.core.units import RATE_HZ
from soundsight.data.everyday.folder import ALERTS, KINDS, find_everyday
from soundsight.data.vegas.bench import find_bench
from soundsight.evaluation.everyday import kind_of
from soundsight.runtime import model_folder
from soundsight.runtime.events import EventTracker, SteadyConfig, WindowResult
from soundsight.runtime.surest import Second
from soundsight.runtime.translator import Translator
from soundsight.views.events import SURENESS, sureness

CONFIDENCES = [round(0.3 + 0.02 * k, 2) for k in range(29)]
SENSITIVITIES = [0.0, 0.25, 0.5, 0.75, 1.0]
LEAST_SHOWN = 0.5
QUITE_SURE, PROBABLY = 0.9, 0.6


class Remembering:
    """A translator that does nothing twice: many settings of a tracker see the same windows."""

    def __init__(self, translator: Translator) -> None:
        self.info = translator.info
        self.label_head = translator.label_head
        self.guess = translator.guess
        self._real = translator
        self._known: dict[bytes, Second] = {}

    def confident(self, confidence: float) -> None:
        """Set the threshold at the middle of the sensitivity's scale."""
        thresholds = dataclasses.replace(self.info.thresholds, confidence=confidence)
        self.info = dataclasses.replace(self.info, thresholds=thresholds)

    def recognise(self, mel: NDArray[np.uint8]) -> Second:
        """Recognise a window, or remember it."""
        key = hashlib.blake2b(np.ascontiguousarray(mel), digest_size=16).digest()
        if key not in self._known:
            self._known[key] = self._real.recognise(mel)
        return self._known[key]


@dataclass
class Counted:
    """What one setting has come to, over all stretches.

    Attributes:
        wrong_events: on other sounds, within the hour.
        wrong_s: likewise, in seconds.
        confused_events: wrong pictures beside subjects.
        confused_s: likewise, in seconds.
        shown: subject -> for each of its recordings, whether its picture was shown.
        by_kind: kind of other sound -> how many there were, how many with a wrong picture.
        told: for each event with a picture whether the sound was a subject's, the highest
            confidence, and whether the name it was told with then was right.
        other_hours: length of the stretch of other sounds.
        subject_hours: length of the other stretches.
    """

    wrong_events: int = 0
    wrong_s: float = 0.0
    confused_events: int = 0
    confused_s: float = 0.0
    shown: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    by_kind: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    told: list[tuple[bool, float, bool]] = field(default_factory=list)
    other_hours: float = 0.0
    subject_hours: float = 0.0

    def share(self, subject: str) -> float:
        """Share of a subject's recordings for which its picture was shown."""
        return float(np.mean(self.shown[subject]))

    def mean(self, alerts: bool) -> float:
        """Mean over the subjects that are drawn, or over the alerts; NaN where there is none."""
        found = [self.share(kind) for kind in self.shown if (kind in ALERTS) == alerts]
        return float(np.mean(found)) if found else float("nan")

    @property
    def misses(self) -> int:
        """Recordings of subjects for which no right picture was shown."""
        return sum(not shown for found in self.shown.values() for shown in found)

    def take(self, stretch: Stretch, heard: list[WindowResult]) -> None:
        """Count one stretch."""
        hop_s = 0.25
        wrong_events, wrong_items, right_items = set(), set(), set()
        wrong = 0
        surest: dict[int, tuple[float, bool]] = {}
        for number, answer in zip(stretch.item_of, heard, strict=True):
            if not answer.state.is_known:
                continue
            subject = stretch.items[number].subject if number >= 0 else None
            right = subject is not None and kind_of(answer.name) == subject
            if answer.event is not None:
                before = surest.get(answer.event.number, (-1.0, False))
                surest[answer.event.number] = max(before, (answer.confidence, right))
            if right:
                right_items.add(number)
                continue
            wrong += 1
            assert answer.event is not None
            wrong_events.add(answer.event.number)
            wrong_items.add(number)
        self.told += [(stretch.name != "others", *told) for told in surest.values()]
        hours = stretch.seconds / 3600
        if stretch.name == "others":
            self.other_hours += hours
            self.wrong_events += len(wrong_events)
            self.wrong_s += wrong * hop_s
        else:
            self.subject_hours += hours
            self.confused_events += len(wrong_events)
            self.confused_s += wrong * hop_s
        for number, item in enumerate(stretch.items):
            if item.subject is None:
                self.by_kind[item.kind].append(number in wrong_items)
            else:
                self.shown[item.subject].append(number in right_items)

    def row(self) -> dict[str, float]:
        """The figures, an hour where they are counts."""
        return {
            "wrong_events_an_hour": self.wrong_events / self.other_hours,
            "wrong_s_an_hour": self.wrong_s / self.other_hours,
            "shown": self.mean(alerts=False),
            "alerts_told": self.mean(alerts=True),
            **{f"told_{kind}": self.share(kind) for kind in self.shown},
            "misses_an_hour": self.misses / self.subject_hours,
            "confused_events_an_hour": self.confused_events / self.subject_hours,
            "confused_s_an_hour": self.confused_s / self.subject_hours,
        }


def listen(
    translator: Remembering | Translator,
    heard_by: list[Stretch],
    *,
    sensitivity: float = 0.5,
    steady: SteadyConfig | None = None,
) -> Counted:
    """Let a fresh listener hear each stretch."""
    counted = Counted()
    for stretch in heard_by:
        # What would be drawn is not looked at.
        tracker = EventTracker(
            translator,  # type: ignore[arg-type]
            draws=0, sensitivity=sensitivity, steady=steady,
        )  # fmt: skip
        counted.take(stretch, [tracker.update(window) for window in stretch.windows])
    return counted


def curve(
    translator: Remembering, heard_by: list[Stretch], steady: SteadyConfig | None = None
) -> dict[float, Counted]:
    """Every confidence threshold, at the middle sensitivity."""
    found = {}
    for confidence in CONFIDENCES:
        translator.confident(confidence)
        found[confidence] = listen(translator, heard_by, steady=steady)
    return found


def choose(found: dict[float, Counted]) -> float:
    """The rule: see the top of this file."""
    good = [
        confidence
        for confidence, counted in found.items()
        # Without alerts there is no mean of them, which is no reason against.
        if not min(counted.mean(False), counted.mean(True)) < LEAST_SHOWN
    ]
    return max(good, default=min(found))


def table(rows: dict[str, Counted], marked: str) -> str:
    """Lay settings out as lines."""
    lines = [f"{'':>8}  {'wrongly told':>16}  {'misses':>9}  told: subjects, alerts   confused"]
    for name, counted in rows.items():
        row = counted.row()
        lines.append(
            f"{name:>8}  {row['wrong_events_an_hour']:4.0f}/h {row['wrong_s_an_hour']:5.0f} s/h"
            f"  {row['misses_an_hour']:7.0f}/h  {100 * row['shown']:5.1f} %"
            f" {100 * row['alerts_told']:7.1f} %   {row['confused_events_an_hour']:4.0f}/h"
            f" {row['confused_s_an_hour']:5.0f} s/h" + ("   <- default" if name == marked else "")
        )
    return "\n".join(lines)


def kinds(counted: Counted) -> str:
    """Of each kind of other sound, the share with a wrong picture."""
    return ", ".join(
        f"{kind} {100 * np.mean(found):.0f} % of {len(found)}"
        for kind, found in sorted(counted.by_kind.items(), key=lambda pair: -np.mean(pair[1]))
    )


def of_kinds(counted: Counted) -> str:
    """Of each known kind, the share of its recordings that is told, the least first."""
    return ", ".join(
        f"{kind} {100 * counted.share(kind):.0f} % of {len(counted.shown[kind])}"
        for kind in sorted(counted.shown, key=counted.share)
    )


def weight_of_others(counted: Counted) -> float:
    """What an other sound weighs where as many sounds are subjects' as are not."""
    subjects = sum(map(len, counted.shown.values()))
    return subjects / sum(map(len, counted.by_kind.values()))


def word_limits(counted: Counted, confidence: float) -> tuple[float, float]:
    """Where "quite sure" and "probably" begin, by the rule; see the top of this file.

    Args:
        counted: at the threshold ``confidence``.
        confidence: from which on something is told.
    """
    weight = weight_of_others(counted)

    def right(low: float, high: float) -> float:
        told = [one for one in counted.told if low <= one[1] < high]
        whole = sum(1.0 if known else weight for known, _, _ in told)
        return sum(right for *_, right in told) / whole if whole else 0.0

    limits = [limit for limit in (k / 50 for k in range(50)) if limit >= confidence]
    sure = next((low for low in limits if right(low, 2.0) >= QUITE_SURE), limits[-1])
    probable = next((low for low in limits if right(low, low + 0.1) >= PROBABLY), sure)
    return sure, min(probable, sure)


def words(counted: Counted) -> str:
    """How often each word of certainty is right where as many sounds are subjects' as are not."""
    weight = weight_of_others(counted)
    said: dict[str, list[float]] = {word: [0, 0, 0] for _, word in SURENESS}
    for known, confidence, right in counted.told:
        kind = 0 if right else 1 if known else 2
        said[sureness(confidence)][kind] += 1
    parts = []
    for word, (right, confused, unknown) in said.items():
        whole = right + confused + weight * unknown
        share = f"{100 * right / whole:.0f} %" if whole else "never said"
        parts.append(f"{word} {share} ({right:g} right, {confused:g} another, {unknown:g} unknown)")
    return "; ".join(parts)


def draw(curves: dict[str, dict[float, Counted]], default: float, path: Path) -> None:
    """Wrong pictures an hour over the share of recordings that are shown, for both halves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.2, 3.7), dpi=100)
    for half, style in (("val", "--"), ("test", "-")):
        if half not in curves:
            continue
        found = curves[half]
        rows = [counted.row() for counted in found.values()]
        wrong = [row["wrong_events_an_hour"] for row in rows]
        left.plot(list(found), wrong, style, color="#b4480f", label=f"wrong pictures, {half}")
        missed = [row["misses_an_hour"] for row in rows]
        left.plot(list(found), missed, style, color="#1f5f99", label=f"misses, {half}")
        shares = [100 * row["shown"] for row in rows]
        right.plot(shares, wrong, style, color="#333333", label=half)
        at = list(found).index(default)
        right.plot(shares[at], wrong[at], "o", color="#b4480f")
    left.axvline(default, color="#888888", linewidth=1)
    left.set_xlabel("confidence from which on a picture is shown")
    left.set_ylabel("an hour")
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    left.set_title(f"default {default:.2f}", fontsize=9)
    right.set_xlabel("recordings rightly told, % (mean over drawn kinds)")
    right.set_ylabel("wrong pictures in an hour of other sounds")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
    right.set_title("the default is marked", fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


async def _over_the_wire(port: int, samples: NDArray[np.float32], speed: float) -> list[Any]:
    import websockets

    from soundsight.core import protocol

    facts: list[Any] = []
    url = f"ws://127.0.0.1:{port}{protocol.PATH}"
    async with websockets.connect(
        url, subprotocols=[protocol.SUBPROTOCOL], compression=None, open_timeout=60
    ) as socket:
        await socket.send(protocol.Hello(client="errors").model_dump_json())
        await socket.recv()

        async def hear() -> None:
            async for data in socket:
                if isinstance(data, bytes):
                    facts.append(protocol.read_window(data)[0])

        hearing = asyncio.create_task(hear())
        whole = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
        began, step = time.perf_counter(), RATE_HZ // 25
        for number, first in enumerate(range(0, len(whole), step)):
            frame = protocol.SoundFrame(
                sequence=number, position=first, samples=whole[first : first + step]
            )
            await socket.send(frame.pack())
            wait_s = began + (first + step) / RATE_HZ / speed - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
        await socket.send(protocol.End().model_dump_json())
        await hearing
    return facts


def through_the_server(
    model: Path, translator: Translator, stretch: Stretch, minutes: float, speed: float
) -> str:
    """Send the beginning of a stretch to a real server; compare it with a listener in process."""
    from server import server  # benchmarks/server.py

    assert stretch.samples is not None
    samples = stretch.samples[: int(60 * minutes * RATE_HZ)]
    with server(model, "--max-speed", str(speed + 1)) as (port, *_):
        facts = asyncio.run(_over_the_wire(port, samples, speed))
    tracker = EventTracker(translator, draws=0)
    ours = {}
    for window in stretch.windows:
        if window.start_s + 1 > len(samples) / RATE_HZ:
            break
        ours[window.start_s] = tracker.update(window)
    # At its end the server hears the last windows with other sound behind them than we do.
    both = [fact for fact in facts if fact.start_s in ours and fact.start_s < max(ours) - 0.5]
    skipped = sum(fact.skipped for fact in facts)
    same = 0
    for fact in both:
        mine = ours[fact.start_s]
        number = None if mine.event is None else mine.event.number
        theirs = None if fact.event is None else fact.event.number
        same += (mine.state, mine.name, number) == (State(fact.state), fact.name, theirs)
    events = len({fact.event.number for fact in both if fact.event})
    pictured = len({f.event.number for f in both if f.event and f.state == State.PICTURE.value})
    return (
        f"{minutes:g} min of '{stretch.name}' over the WebSocket at {speed:g} times real time: "
        f"{len(both)} windows ({skipped} left out), {events} events, {pictured} with a picture; "
        f"state, name and event equal in {same} of {len(both)}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder [default: the bundled one]")
    parser.add_argument("--half", choices=[*HALVES, "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="draw the curves here")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--server", action="store_true", help="also through a real server")
    parser.add_argument("--minutes", type=float, default=3.0, help="... so long")
    parser.add_argument("--speed", type=float, default=1.0, help="... so fast")
    options = parser.parse_args()
    try:
        everyday, bench = find_everyday(), find_bench()
        model = options.model or model_folder.bundled()
        real = Translator.load(model)
    except SoundsightError as error:
        print(f"skipped: errors an hour: {error}", file=sys.stderr)
        return
    default = real.info.thresholds.confidence
    known = {kind_of(name) for name in real.names.names} if real.names else set()
    known &= set(KINDS)
    if not known:
        raise SystemExit(f"error: {model} names no kind of Everyday: nothing could be right")
    print(f"model {real.info.label}, {len(known)} kinds known, default confidence {default:g}, "
          f"seed {options.seed}, {os.cpu_count()} CPUs")  # fmt: skip
    curves: dict[str, dict[float, Counted]] = {}
    report: dict[str, Any] = {"default": default, "seed": options.seed}
    halves = HALVES if options.half == "both" else [options.half]
    for half in halves:
        began = time.perf_counter()
        heard_by = stretches(everyday, bench, half, real.info.mel, options.seed, known)
        translator = Remembering(real)
        found = curves[half] = curve(translator, heard_by)
        print(f"\n{half}: " + "; ".join(_about(stretch) for stretch in heard_by))
        print(table({f"{c:.2f}": counted for c, counted in found.items()}, f"{default:.2f}"))
        if half == "val":
            chosen = choose(found)
            sure, probable = word_limits(found[chosen], chosen)
            print(f"the rule chooses {chosen:.2f}; quite sure from {sure:.2f}, probably from "
                  f"{probable:.2f}")  # fmt: skip
        translator.confident(default)
        at = listen(translator, heard_by)
        print(f"default {default:g}, other sounds of which something was told: {kinds(at)}")
        print(f"told, by kind: {of_kinds(at)}")
        print(f"how often each word is right: {words(at)}")
        print("sensitivity, which moves the quiet threshold too:")
        moved = {f"{s:.2f}": listen(translator, heard_by, sensitivity=s) for s in SENSITIVITIES}
        print(table(moved, "0.50"))
        report[half] = {
            "default": at.row(),
            "confidence": {c: counted.row() for c, counted in found.items()},
            "sensitivity": {name: counted.row() for name, counted in moved.items()},
            "by_kind": {k: [sum(v), len(v)] for k, v in at.by_kind.items()},
        }
        if options.server and half == halves[-1]:
            for stretch in heard_by[:2]:
                print(through_the_server(model, real, stretch, options.minutes, options.speed))
        print(f"({time.perf_counter() - began:.0f} s)", flush=True)
    if options.figure:
        nearest = min(CONFIDENCES, key=lambda c: abs(c - default))
        draw(curves, nearest, options.figure)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def _about(stretch: Stretch) -> str:
    seconds = sum(_length_s(item) for item in stretch.items)
    return f"{stretch.name} {stretch.seconds:.0f} s, {len(stretch.items)} sounds of {seconds:.0f} s"


def _length_s(item: Item) -> float:
    return item.end_s - item.begin_s


if __name__ == "__main__":
    main()
