"""How much the ears know of Everyday's kinds: a linear reading of sounds never heard, by label.

A linear classifier is fitted to embeddings of train (the sounds as they are, two of their copies,
and everything in a narrow band once more), its penalty chosen on val. Kinds count the same. Labels
are used here alone, to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight.evaluation.informativity import MEAN, Share, Shares, shares
from soundsight.evaluation.probes import LinearProbe, fit_probe
from soundsight.pairs.bench import Bench
from soundsight.pairs.everyday import ALERTS, KINDS, OF_BENCH, SUBJECTS, Everyday, bench_kind
from soundsight.pairs.everyday_sounds import audible, darkened, hear
from soundsight.training.encoder import AudioEncoder, to_float
from soundsight.training.sound_bank import SoundBank

NARROW_HZ = 8_000
"""The low sample rate at which everything is measured once more."""

PENALTIES = (0.03, 0.01, 3e-3, 1e-3, 3e-4)

_COPIES = 2
_AT_ONCE = 256

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """n seconds with what they are.

    Attributes:
        mels: uint8 [n, 128, 100].
        kinds: kind of each.
        recordings: recording of each; bench videos are recordings like others.
        bench: bool [n], whether it is from the bench.
    """

    mels: NDArray[np.uint8]
    kinds: NDArray[np.str_]
    recordings: NDArray[np.str_]
    bench: NDArray[np.bool_]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Place of each kind in ``KINDS``."""
        return np.array([KINDS.index(kind) for kind in self.kinds], np.int64)

    def of(self, rows: NDArray[np.bool_]) -> Labelled:
        """Return some of them."""
        return Labelled(
            mels=self.mels[rows], kinds=self.kinds[rows], recordings=self.recordings[rows],
            bench=self.bench[rows],
        )  # fmt: skip


def labelled_seconds(
    everyday: Everyday, bench: Bench, split: str, *, narrow: bool = False
) -> Labelled:
    """Return every second of a split of both data sets that can be heard.

    Args:
        everyday: Everyday's folder.
        bench: the bench beside it.
        split: which.
        narrow: as recorded at 8 kHz; the bench's, which are no waveforms, dark above 4 kHz.
    """
    heard = hear(everyday, everyday.sounds(split), narrow_hz=NARROW_HZ if narrow else None)
    pairs = bench.pairs(split)
    mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
    if narrow:
        mels = darkened(mels, NARROW_HZ / 2)
    everything = Labelled(
        mels=np.concatenate([heard.mels, mels]),
        kinds=np.array(heard.kinds + [bench_kind(pair.subject) for pair in pairs]),
        recordings=np.array(heard.recordings + [f"bench:{pair.video}" for pair in pairs]),
        bench=np.arange(len(heard.mels) + len(pairs)) >= len(heard.mels),
    )
    return everything.of(audible(everything.mels))


def labelled_train(bank: SoundBank, bench: Bench) -> Labelled:
    """Return train seconds of every kind: clean, in copies, and the bench's dark above 4 kHz too.

    Args:
        bank: the seconds that ears are trained on.
        bench: the bench beside it.
    """
    kinds = np.array([bank.sounds[i].kind for i in bank.sound])
    names = np.array([bank.sounds[i].recording for i in bank.sound])
    known = np.flatnonzero(np.isin(kinds, KINDS))
    copies = [
        bank.take(known, np.full(len(known), copy)) for copy in range(min(_COPIES, bank.copies) + 1)
    ]
    pairs = bench.pairs("train")
    mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
    times = len(copies)
    everything = Labelled(
        mels=np.concatenate([*copies, mels, darkened(mels[::2], NARROW_HZ / 2)]),
        kinds=np.concatenate(
            [np.tile(kinds[known], times), labels := np.array([bench_kind(p.subject) for p in pairs]),
             labels[::2]]
        ),
        recordings=np.concatenate(
            [np.tile(names[known], times), videos := np.array([f"bench:{p.video}" for p in pairs]),
             videos[::2]]
        ),
        bench=np.arange(times * len(known) + len(mels) + len(mels[::2])) >= times * len(known),
    )  # fmt: skip
    return everything.of(audible(everything.mels))


@torch.no_grad()
def embedded(encoder: AudioEncoder, mels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return embeddings of log-mels uint8 [n, 128, 100]: float64 [n, E]."""
    parts = [
        encoder.encode(to_float(torch.from_numpy(mels[start : start + _AT_ONCE])[:, None]))
        for start in range(0, len(mels), _AT_ONCE)
    ]
    return torch.cat(parts).double().numpy()


def fit_names_probe(
    encoder: AudioEncoder, train: Labelled, val: Labelled, kinds: Sequence[str]
) -> LinearProbe:
    """Fit the linear classifier of some kinds on train, its penalty chosen on val."""
    parts = []
    for of in (train, val):
        own = of.of(np.isin(of.kinds, kinds))
        classes = np.array([kinds.index(kind) for kind in own.kinds], np.int64)
        parts += [embedded(encoder, own.mels), classes]
    return fit_probe(
        parts[0], parts[1], parts[2], parts[3], penalties=PENALTIES, count=len(kinds), balanced=True
    )


def read_kinds(
    probe: LinearProbe,
    encoder: AudioEncoder,
    asked: Labelled,
    kinds: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Shares]:
    """Return shares of right seconds, and of right recordings, with intervals over recordings.

    A recording is named by the mean of its seconds' log-probabilities.

    Args:
        probe: the classifier of ``kinds``.
        encoder: the ears that it reads.
        asked: seconds to be named.
        kinds: what they may be; other seconds are left out.
        seed: of the intervals.
    """
    own = asked.of(np.isin(asked.kinds, kinds))
    classes = np.array([kinds.index(kind) for kind in own.kinds], np.int64)
    logs = np.log(np.maximum(probe.probabilities(embedded(encoder, own.mels)), 1e-12))
    right = logs.argmax(axis=1) == classes
    names, first, place = np.unique(own.recordings, return_index=True, return_inverse=True)
    sums = np.zeros((len(names), len(kinds)))
    np.add.at(sums, place, logs)
    right_recordings = sums.argmax(axis=1) == classes[first]
    return {
        "seconds": shares(
            right, own.kinds.tolist(), own.recordings.tolist(), seed=seed, among=kinds
        ),
        "recordings": shares(
            right_recordings, own.kinds[first].tolist(), names.tolist(), seed=seed, among=kinds
        ),
    }


def mean_over(found: Shares, kinds: Sequence[str]) -> float:
    """Return the mean share over some of the kinds that were measured."""
    return float(np.mean([found[kind].share for kind in kinds if kind in found]))


def evaluate_ears(
    encoder: AudioEncoder,
    everyday: Everyday,
    bench: Bench,
    bank: SoundBank,
    split: str,
    *,
    seed: int = 0,
    tell: Tell = lambda _what, _done, _of: None,
) -> dict[str, Any]:
    """Measure ears on a split: 22 subjects, 28 kinds, the five of the bench; and all at 8 kHz.

    Args:
        encoder: the ears.
        everyday: Everyday's folder.
        bench: the bench beside it.
        bank: the seconds that ears are trained on.
        split: ``val`` or ``devtest``; the penalty is chosen on val.
        seed: of the intervals.
        tell: called with (what, how many done, how many in all).

    Returns:
        Figures as JSON holds them, with the interval over recordings of each kind.
    """
    train, val = labelled_train(bank, bench), labelled_seconds(everyday, bench, "val")
    asked = {"whole band": val if split == "val" else labelled_seconds(everyday, bench, split),
             "8 kHz": labelled_seconds(everyday, bench, split, narrow=True)}  # fmt: skip
    report: dict[str, Any] = {"split": split, "seed": seed}
    for done, (name, kinds) in enumerate((("22 subjects", SUBJECTS), ("28 kinds", KINDS))):
        tell("measuring", done, 2)
        probe = fit_names_probe(encoder, train, val, kinds)
        report[name] = {"penalty": probe.penalty}
        for band, seconds in asked.items():
            found = read_kinds(probe, encoder, seconds, kinds, seed=seed)
            groups = {"bench": tuple(OF_BENCH), "alerts": ALERTS}
            report[name][band] = {
                unit: {
                    **{kind: asdict(share) for kind, share in own.items()},
                    **{
                        group: mean_over(own, of)
                        for group, of in groups.items() if any(kind in own for kind in of)
                    },
                }
                for unit, own in found.items()
            }  # fmt: skip
    return report


def summary(report: dict[str, Any]) -> str:
    """Return the main figures of :func:`evaluate_ears` in a few lines."""
    lines = []
    for name in ("22 subjects", "28 kinds"):
        for band, units in report[name].items():
            if band == "penalty":
                continue
            for unit, own in units.items():
                mean = Share(**own[MEAN])
                groups = "".join(
                    f", {group} {own[group]:.3f}" for group in ("bench", "alerts") if group in own
                )
                lines.append(
                    f"{name}, {band}, {unit}: {mean.share:.3f} "
                    f"({mean.low:.3f} to {mean.high:.3f}){groups}"
                )
    return "\n".join(lines)
