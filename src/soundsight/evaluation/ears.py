"""How much the ears know of Everyday's kinds: a linear reading of sounds never heard, by label.

A linear classifier is fitted to embeddings of train, in the whole band and as recorded at 8 kHz,
its penalty chosen on val. Kinds count the same. Labels are used here alone, to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundsight import __version__
from soundsight.core.errors import ConfigError
from soundsight.core.files import atomic_folder, commit, sha256_of, write_json
from soundsight.data.everyday.folder import ALERTS, KINDS, OF_BENCH, SUBJECTS, Everyday, bench_kind
from soundsight.data.everyday.sounds import audible, darkened, hear
from soundsight.data.vegas.bench import Bench
from soundsight.evaluation.informativity import MEAN, Share, Shares, shares
from soundsight.evaluation.probes import LinearProbe, fit_probe
from soundsight.evaluation.report import is_report, machine_facts
from soundsight.training.ears import KIND
from soundsight.training.encoder import AudioEncoder, load_encoder, to_float

REPORT_VERSION = 1

NARROW_HZ = 8_000
"""The low sample rate at which everything is measured once more."""

PENALTIES = (0.03, 0.01, 3e-3, 1e-3)

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

    def of(self, rows: NDArray[np.bool_]) -> Labelled:
        """Return some of them."""
        return Labelled(
            mels=self.mels[rows], kinds=self.kinds[rows], recordings=self.recordings[rows],
            bench=self.bench[rows],
        )  # fmt: skip


def labelled_seconds(
    everyday: Everyday, bench: Bench, split: str, *, narrow: bool = False
) -> Labelled:
    """Return the whole seconds of a split of both data sets that can be heard.

    Args:
        everyday: Everyday's folder.
        bench: the bench beside it.
        split: which.
        narrow: as recorded at 8 kHz; the bench's, which are no waveforms, dark above 4 kHz.
    """
    narrow_hz = NARROW_HZ if narrow else None
    heard = hear(everyday, everyday.sounds(split), narrow_hz=narrow_hz)
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


def joined(parts: Sequence[Labelled]) -> Labelled:
    """Join several."""
    return Labelled(
        mels=np.concatenate([part.mels for part in parts]),
        kinds=np.concatenate([part.kinds for part in parts]),
        recordings=np.concatenate([part.recordings for part in parts]),
        bench=np.concatenate([part.bench for part in parts]),
    )


@torch.no_grad()
def embedded(encoder: AudioEncoder, mels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return embeddings of log-mels uint8 [n, 128, 100]: float64 [n, E]."""
    parts = [
        encoder.encode(to_float(torch.from_numpy(mels[start : start + _AT_ONCE])[:, None]))
        for start in range(0, len(mels), _AT_ONCE)
    ]
    return torch.cat(parts).double().numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """n seconds that have been heard: embeddings float64 [n, E], and what they are."""

    embeddings: NDArray[np.float64]
    of: Labelled

    def among(self, kinds: Sequence[str], *, bench: bool = False) -> Embedded:
        """Return those of some kinds; of the bench alone where asked for."""
        rows = np.isin(self.of.kinds, kinds) & (self.of.bench | (not bench))
        return Embedded(embeddings=self.embeddings[rows], of=self.of.of(rows))

    def classes(self, kinds: Sequence[str]) -> NDArray[np.int64]:
        """Return the place of each second's kind in ``kinds``, int64 [n]."""
        return np.array([kinds.index(kind) for kind in self.of.kinds], np.int64)


def read_kinds(
    probe: LinearProbe, asked: Embedded, kinds: Sequence[str], *, seed: int = 0
) -> dict[str, Shares]:
    """Return shares of right seconds, and of right recordings, with intervals over recordings.

    A recording is named by the mean of its seconds' log-probabilities.

    Args:
        probe: the classifier of ``kinds``.
        asked: seconds of these kinds.
        kinds: what they may be.
        seed: of the intervals.
    """
    classes = asked.classes(kinds)
    logs = np.log(np.maximum(probe.probabilities(asked.embeddings), 1e-12))
    names, first, place = np.unique(asked.of.recordings, return_index=True, return_inverse=True)
    sums = np.zeros((len(names), len(kinds)))
    np.add.at(sums, place, logs)
    return {
        "seconds": shares(
            logs.argmax(axis=1) == classes, asked.of.kinds.tolist(), asked.of.recordings.tolist(),
            seed=seed, among=kinds,
        ),
        "recordings": shares(
            sums.argmax(axis=1) == classes[first], asked.of.kinds[first].tolist(), names.tolist(),
            seed=seed, among=kinds,
        ),
    }  # fmt: skip


READINGS = {
    "22 subjects": (SUBJECTS, False),
    "28 kinds": (KINDS, False),
    "bench's five": (tuple(OF_BENCH), True),
}
"""What is told apart, and whether among the bench's seconds alone."""


def evaluate_ears(
    encoder: AudioEncoder,
    everyday: Everyday,
    bench: Bench,
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
        split: ``val`` or ``devtest``; the penalty is chosen on val.
        seed: of the intervals.
        tell: called with (what, how many done, how many in all).

    Returns:
        Reading -> band -> ``seconds`` or ``recordings`` -> kind (or ``mean``) -> share with its
        interval over recordings; and the means over the bench's five and over the alert kinds.

    Raises:
        ConfigError: on another split.
        DataError: when data are missing or damaged, or an embedding is not finite.
    """
    if split not in ("val", "devtest"):
        raise ConfigError(f"{split} is not for evaluation: choose from val, devtest")
    splits = dict.fromkeys(("train", "val", split))
    wanted = [(of, narrow) for of in splits for narrow in (False, True)]
    heard: dict[tuple[str, bool], Embedded] = {}
    for of, narrow in wanted:
        tell("seconds heard", len(heard), len(wanted))
        seconds = labelled_seconds(everyday, bench, of, narrow=narrow)
        heard[of, narrow] = Embedded(embeddings=embedded(encoder, seconds.mels), of=seconds)
    report: dict[str, Any] = {"split": split, "seed": seed}
    for name, (kinds, of_bench) in READINGS.items():
        tell(name, 0, 0)
        own = {key: e.among(kinds, bench=of_bench) for key, e in heard.items()}
        known, chooser = (
            Embedded(
                embeddings=np.concatenate([own[of, n].embeddings for n in (False, True)]),
                of=joined([own[of, n].of for n in (False, True)]),
            )
            for of in ("train", "val")
        )
        probe = fit_probe(
            known.embeddings, known.classes(kinds), chooser.embeddings, chooser.classes(kinds),
            penalties=PENALTIES, count=len(kinds), balanced=True,
        )  # fmt: skip
        report[name] = {"penalty": probe.penalty}
        for band, narrow in (("whole band", False), ("8 kHz", True)):
            found = read_kinds(probe, own[split, narrow], kinds, seed=seed)
            report[name][band] = {unit: _plain(shares) for unit, shares in found.items()}
    return report


def _plain(found: Shares) -> dict[str, Any]:
    """Return shares as JSON holds them, with the means of the two groups where they are there."""
    plain: dict[str, Any] = {kind: asdict(share) for kind, share in found.items()}
    for group, of in (("bench", tuple(OF_BENCH)), ("alerts", ALERTS)):
        present = [found[kind].share for kind in of if kind in found]
        if present:
            plain[group] = float(np.mean(present))
    return plain


def summary(report: dict[str, Any]) -> str:
    """Return the main figures of :func:`evaluate_ears`, a line each."""
    lines = []
    for name in READINGS:
        for band in ("whole band", "8 kHz"):
            for unit, own in report[name][band].items():
                mean = Share(**own[MEAN])
                groups = "".join(
                    f", {group} {own[group]:.3f}" for group in ("bench", "alerts") if group in own
                )
                lines.append(
                    f"{name}, {band}, {unit}: {mean.share:.3f} "
                    f"[{mean.low:.3f}, {mean.high:.3f}]{groups}"
                )
    return "\n".join(lines)


def report_ears(
    run: Path,
    everyday: Everyday,
    bench: Bench,
    out: Path,
    *,
    split: str = "devtest",
    seed: int = 0,
    command: str = "",
    progress: Tell = lambda _what, _done, _of: None,
) -> str:
    """Measure a finished run of ears and write report.json and report.md.

    Args:
        run: folder of the run.
        everyday: Everyday's folder.
        bench: the bench beside it.
        out: the folder; an earlier report in it is replaced.
        split: ``val`` or ``devtest``.
        seed: of the intervals.
        command: how this was started, for the report.
        progress: called with (what, how many done, how many in all).

    Returns:
        The main figures, a line each.

    Raises:
        ConfigError: on another split.
        DataError: when the run is unfinished or damaged, or data are.
        OutputError: when ``out`` cannot be written to or holds something else.
    """
    encoder = load_encoder(run)
    with atomic_folder(out, overwrite=True, ours=is_report) as place:
        figures = evaluate_ears(encoder, everyday, bench, split, seed=seed, tell=progress)
        report = {
            "report_version": REPORT_VERSION, "kind": KIND, "run": str(run),
            "sha256": sha256_of(run / "encoder.safetensors"), **figures, "command": command,
            "machine": machine_facts(), "version": __version__, "commit": commit(),
        }  # fmt: skip
        write_json(place / "report.json", report)
        words = summary(report)
        lines = "".join(f"* {line}\n" for line in words.splitlines())
        text = f"# Ears: {run.resolve().name}, {split}\n\nShares of what is named rightly, means "
        text += f"over kinds with 95 % intervals over recordings.\n\n{lines}\n`{command}`\n"
        (place / "report.md").write_text(text, "utf-8")
    return words
