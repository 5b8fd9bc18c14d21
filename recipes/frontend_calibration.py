"""Does the log-mel of a waveform look like the published spectrograms? The evidence.

    python recipes/frontend_calibration.py --out runs/frontend
    python recipes/frontend_calibration.py --out runs/frontend-encoder --encoder runs/encoder

1. A small classifier is fitted on the published spectrograms of the train split alone (labels are
   used: this measures the front-end, it makes no translator) and checked on the val split.
2. Every second of the ESC-10 recordings of dog bark, baby cry and sea waves goes through the
   front-end under each setting, and the classifier says what it hears. Chance is 1 in 5.
3. Beside it: how far the histogram of levels and the mean band profile are from those of the same
   subjects in the published spectrograms.

Settings are chosen on one half of the recordings (by a hash of the name) and reported on the
other half and on all. Writes ``calibration.json`` and ``calibration.md`` to ``--out``; the fitted
classifier is kept there and used again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from soundsight.core.files import write_json
from soundsight.data.everyday.sounds import audible
from soundsight.data.records import opaque_id
from soundsight.data.store.dataset import PairDataset, batch_indices
from soundsight.data.vegas.bench import SUBJECTS, Bench, find_bench
from soundsight.media import audio, mel, segments
from soundsight.models.contrastive import ContrastiveConfig, SoundEncoder
from soundsight.training.augment import augment_mel
from soundsight.training.checkpoints import load_weights, save_weights
from soundsight.training.encoder import embed, load_encoder, one_cycle, to_float

SOUNDS = {"dog_bark": "dog", "baby_cry": "baby", "sea_waves": "water"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to turn a waveform into levels."""

    name: str
    mel: mel.MelConfig


def settings() -> list[Setting]:
    """The grid: upper edge and dB range, then the window around the default."""
    base = mel.MelConfig()
    grid = [
        Setting(
            name=f"up to {top:.0f} Hz, {r} dB",
            mel=replace(base, f_max_hz=top, range_db=float(r)),
        )
        for top in (8_000.0, 11_025.0, 16_000.0, 22_050.0)
        for r in (40, 50, 60, 80)
    ]
    for window in (1024, 4096):
        config = replace(base, window_samples=window)
        grid.append(Setting(name=f"window {window}, as the default else", mel=config))
    return grid


def new_classifier(seed: int) -> nn.Module:
    """A sound tower and a linear layer: [n, 1, 128, 100] -> [n, 5]."""
    torch.manual_seed(seed)
    sizes = ContrastiveConfig(embedding_size=64, sound_maps=(12, 24, 48, 64, 96))
    return nn.Sequential(SoundEncoder(sizes), nn.Linear(64, len(SUBJECTS)))


class NearestNeighbours(nn.Module):
    """A label-free encoder, and the subjects of the 20 train seconds nearest to each sound."""

    def __init__(self, run: Path, bench: Bench) -> None:
        super().__init__()
        self.encoder = load_encoder(run)
        self.known = F.normalize(embed(self.encoder, PairDataset(bench, "train")), dim=1)
        # The dataset's order is that of its opaque ids.
        pairs = sorted(bench.pairs("train"), key=lambda pair: opaque_id(pair.spectrogram))
        self.subjects = torch.tensor([SUBJECTS.index(pair.subject) for pair in pairs])

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Return votes: [n, 1, 128, 100] -> [n, 5]."""
        unknown = F.normalize(self.encoder.encode(mels), dim=1)
        nearest = (unknown @ self.known.T).topk(20, dim=1).indices
        return F.one_hot(self.subjects[nearest], len(SUBJECTS)).sum(dim=1)


def fit_classifier(bench: Bench, steps: int, seed: int) -> tuple[nn.Module, float]:
    """Fit on train spectrograms; return the network and its share right on val."""

    def load(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = bench.pairs(split)
        mels = np.stack([bench.spectrogram(p.spectrogram) for p in pairs])
        labels = [SUBJECTS.index(p.subject) for p in pairs]
        return torch.from_numpy(mels)[:, None], torch.tensor(labels)

    network = new_classifier(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    mels, labels = load("train")
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * one_cycle(step, steps, 0.1)
        rows = torch.from_numpy(batch_indices(len(mels), 128, seed, step))
        logits = network(augment_mel(to_float(mels[rows]), rng, masks=0))
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {float(loss.detach()):.3f}", flush=True)
    network.eval()
    mels, labels = load("val")
    return network, float((classify(network, mels) == labels).float().mean())


@torch.no_grad()
def classify(network: nn.Module, levels: torch.Tensor) -> torch.Tensor:
    """Return the subject of each log-mel: uint8 [n, 1, 128, 100] -> int64 [n]."""
    return torch.cat([network(to_float(part)).argmax(dim=1) for part in levels.split(256)])


def recordings(root: Path) -> list[tuple[str, str, np.ndarray]]:
    """Decode every recording of the three subjects: (name, subject, samples)."""
    found = []
    with (root / "sounds" / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["class"] in SOUNDS:
                samples = audio.decode(root / "sounds" / row["file"])
                found.append((row["file"], SOUNDS[row["class"]], samples))
    return found


def half_of(name: str) -> int:
    """0: settings are chosen on it; 1: they are reported on it."""
    return hashlib.sha256(name.encode()).digest()[0] % 2


def profile(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of levels (16 bins) and mean band profile of [n, 128, 100]."""
    histogram = np.histogram(levels, bins=16, range=(0, 256))[0] / levels.size
    return histogram, levels.mean(axis=(0, 2)) / 255.0


def measure(
    setting: Setting,
    network: nn.Module,
    sounds: Sequence[tuple[str, str, np.ndarray]],
    published: dict[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, object]:
    """Share of seconds recognised under one setting, and the distance to the published levels."""
    rows: list[tuple[str, int, bool, bool]] = []
    heard: dict[str, list[np.ndarray]] = {subject: [] for subject in SOUNDS.values()}
    for name, subject, samples in sounds:
        seconds = segments.segments([samples], config=setting.mel)
        levels = np.stack([second.mel for second in seconds])
        heard[subject].append(levels)
        said = classify(network, torch.from_numpy(levels)[:, None]).numpy()
        for heard_at_all, answer in zip(audible(levels), said, strict=True):
            rows.append((subject, half_of(name), bool(heard_at_all), SUBJECTS[answer] == subject))

    def share(subject: str, halves: tuple[int, ...], audible_only: bool) -> float:
        kept = [
            r[3] for r in rows if r[0] == subject and r[1] in halves and (r[2] or not audible_only)
        ]
        return float(np.mean(kept))

    def table(halves: tuple[int, ...], audible_only: bool) -> dict[str, float]:
        by = {s: round(share(s, halves, audible_only), 3) for s in heard}
        return {**by, "mean": round(float(np.mean(list(by.values()))), 3)}

    gaps = [
        (np.abs(mine[0] - theirs[0]).sum() / 2, np.abs(mine[1] - theirs[1]).mean())
        for mine, theirs in ((profile(np.concatenate(heard[s])), published[s]) for s in heard)
    ]
    return {
        "setting": setting.name,
        "chosen on (half 0, audible)": table((0,), True),
        "reported on (half 1, audible)": table((1,), True),
        "all, audible": table((0, 1), True),
        "all seconds": table((0, 1), False),
        "seconds": len(rows),
        "audible seconds": sum(r[2] for r in rows),
        "histogram distance": round(float(np.mean([g[0] for g in gaps])), 3),
        "band profile distance": round(float(np.mean([g[1] for g in gaps])), 3),
    }


def main() -> None:
    """Fit, measure every setting, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/frontend"))
    parser.add_argument(
        "--encoder", type=Path, help="run of a label-free encoder to ask instead of the classifier"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = find_bench(args.data)
    path = args.out / "classifier.safetensors"
    if args.encoder:
        network = NearestNeighbours(args.encoder, bench)
        mels = np.stack([bench.spectrogram(p.spectrogram) for p in bench.pairs("val")])
        right = [SUBJECTS.index(p.subject) for p in bench.pairs("val")]
        said = classify(network, torch.from_numpy(mels)[:, None])
        val = float((said == torch.tensor(right)).float().mean())
    elif path.exists():
        network = new_classifier(args.seed)
        val = float(load_weights(path, network)["val"])
        network.eval()
    else:
        network, val = fit_classifier(bench, args.steps, args.seed)
        save_weights(path, network, {"val": val, "steps": args.steps})
    print(f"the classifier is right on {val:.3f} of the published val seconds")
    published = {
        s: profile(
            np.stack(
                [bench.spectrogram(p.spectrogram) for p in bench.pairs("val") if p.subject == s]
            )
        )
        for s in SOUNDS.values()
    }
    sounds = recordings(bench.root)
    rows = []
    for setting in settings():
        rows.append(measure(setting, network, sounds, published))
        print(json.dumps(rows[-1]), flush=True)
    write_json(
        args.out / "calibration.json",
        {"steps": args.steps, "seed": args.seed, "val": val, "rows": rows},
    )
    lines = [
        "| setting | chosen on | reported on | all audible | dog | baby | water | all seconds "
        "| histogram | bands |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        a, b, c, d = (
            row[k] for k in ("chosen on (half 0, audible)", "reported on (half 1, audible)",
                             "all, audible", "all seconds")
        )  # fmt: skip
        lines.append(
            f"| {row['setting']} | {a['mean']:.3f} | {b['mean']:.3f} | {c['mean']:.3f} "
            f"| {c['dog']:.2f} | {c['baby']:.2f} | {c['water']:.2f} | {d['mean']:.3f} "
            f"| {row['histogram distance']:.3f} | {row['band profile distance']:.3f} |"
        )
    (args.out / "calibration.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
