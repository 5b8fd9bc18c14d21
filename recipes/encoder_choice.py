"""Which audio encoder knows sounds best? Nearest neighbours on the val split.

Labels are used here, after training, to measure; no encoder sees one.

    soundsight train encoder --steps 1400 --batch-size 128 -o runs/encoder
    soundsight train encoder --kind autoencoder --steps 300 --batch-size 64 -o runs/autoencoder
    python recipes/encoder_choice.py runs/encoder runs/autoencoder

For each run: the share of val seconds whose subject is that of the majority of their 20 nearest
train seconds by cosine, over all seconds and over the audible ones (mean level >= 2).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from soundsight.evaluation.informativity import audible
from soundsight.pairs.bench import SUBJECTS, Bench, find_bench
from soundsight.pairs.dataset import PairDataset, opaque_id
from soundsight.training.encoder import embed, load_encoder

NEIGHBOURS = 20


def subjects(bench: Bench, split: str) -> torch.Tensor:
    """Return the subject of every item of a ``PairDataset``, whose order is that of opaque ids."""
    pairs = sorted(bench.pairs(split), key=lambda pair: opaque_id(pair.spectrogram))
    return torch.tensor([SUBJECTS.index(pair.subject) for pair in pairs])


def main(runs: list[str]) -> None:
    """Print one line a run."""
    bench = find_bench()
    train, val = PairDataset(bench, "train"), PairDataset(bench, "val")
    train_subjects, val_subjects = subjects(bench, "train"), subjects(bench, "val")
    heard = torch.from_numpy(audible(np.stack([val.mel(i) for i in range(len(val))])))
    for run in runs:
        encoder = load_encoder(Path(run))
        known, unknown = (F.normalize(embed(encoder, d), dim=1) for d in (train, val))
        nearest = (unknown @ known.T).topk(NEIGHBOURS, dim=1).indices
        votes = F.one_hot(train_subjects[nearest], len(SUBJECTS)).sum(dim=1)
        right = votes.argmax(dim=1) == val_subjects
        by_class = ", ".join(
            f"{s} {float(right[val_subjects == i].float().mean()):.2f}"
            for i, s in enumerate(SUBJECTS)
        )
        print(
            f"{run}: {float(right.float().mean()):.3f} of {len(val)} seconds, "
            f"{float(right[heard].float().mean()):.3f} of the audible ones ({by_class})"
        )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python recipes/encoder_choice.py RUN...")
    main(sys.argv[1:])
