"""Pairs in which sounds that are alike go with photos that are alike. Ours, not the paper's.

    python recipes/aligned_pairs.py --encoder runs/published_search/autoencoder -o runs/aligned

The bench gives every video one photo of its kind, by lot. What a pixel loss can learn from such
pairs is the average photo of what a sound may be; the paper's frames came from the sound's own
video. Here a video gets the photo of its kind whose features (the eyes, EfficientNet-Lite0) are
nearest to the mean of those that go with the ``NEIGHBOURS`` videos that sound most like it, as the
frozen autoencoder hears them. A photo serves as many videos as the share of its kind allows, or a
few average-looking photos would serve all. The lot is drawn first and then mended ``ROUNDS`` times.
Photos of val and devtest are chosen by the neighbours of a sound in train.

Writes a folder that every ``--data`` takes: its own ``pairs.csv``, and links to the bench's files.
A label takes part as it does in the bench's own table: a sound is paired with its own kind.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from soundsight.data.vegas.bench import PAIR_COLUMNS, SPLITS, SUBJECTS, Bench, Pair, find_bench
from soundsight.evaluation.segments import write_csv
from soundsight.models.eyes import Eyes
from soundsight.training.ears_data import look
from soundsight.training.encoder import AudioEncoder, load_encoder, to_float

NEIGHBOURS = 12
ROUNDS = 8
AXES = 32
AT_ONCE = 64

Vectors = NDArray[np.float64]


@torch.no_grad()
def sounds_of(bench: Bench, videos: dict[str, list[Pair]], encoder: AudioEncoder) -> Vectors:
    """Return the mean embedding of each video's seconds, [v, E]."""
    means = []
    for pairs in videos.values():
        mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])[:, None]
        means.append(encoder.encode(to_float(torch.from_numpy(mels))).mean(dim=0).numpy())
    return np.stack(means).astype(np.float64)


@torch.no_grad()
def photo_features(bench: Bench, photos: list[str], eyes: Eyes) -> Vectors:
    """Return the eyes' pooled features of photos, [p, 1280]."""
    found = []
    for start in range(0, len(photos), AT_ONCE):
        levels = np.stack([bench.photo(photo) for photo in photos[start : start + AT_ONCE]])
        found.append(look(eyes, to_float(torch.from_numpy(levels)).permute(0, 3, 1, 2)).numpy())
    return np.concatenate(found).astype(np.float64)


def assigned(wanted: Vectors, features: Vectors, uses: int) -> NDArray[np.int64]:
    """Give each wanted vector [v, d] a photo of features [p, d], each at most ``uses`` times.

    The sum of the squared distances is the least that there is.
    """
    cost = ((wanted[:, None] - features[None]) ** 2).sum(axis=2)
    rows, slots = linear_sum_assignment(np.repeat(cost, uses, axis=1))
    chosen = np.empty(len(wanted), np.int64)
    chosen[rows] = slots // uses
    return chosen


def align(
    known: Vectors, sounds: dict[str, Vectors], features: dict[str, Vectors], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return the photo of each video of one kind, by split.

    Args:
        known: embeddings of train's videos.
        sounds: those of every split's.
        features: of every split's photos.
    """
    rng = np.random.default_rng(seed)
    search = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(known)
    near = search.kneighbors(known, return_distance=False)[:, 1:]
    uses = {split: -(-len(sounds[split]) // len(features[split])) for split in SPLITS}
    order = rng.permutation(len(known)) % len(features["train"])
    for _ in range(ROUNDS):
        wanted = features["train"][order][near].mean(axis=1)
        # Means lie close together; spread as wide as the photos, they choose among all of them.
        wanted = (wanted - wanted.mean(axis=0)) / wanted.std(axis=0)
        wanted = wanted * features["train"].std(axis=0) + features["train"].mean(axis=0)
        order = assigned(wanted, features["train"], uses["train"])
    found = {"train": order}
    for split in SPLITS[1:]:
        near = search.kneighbors(sounds[split], NEIGHBOURS, return_distance=False)
        wanted = features["train"][order][near].mean(axis=1)
        found[split] = assigned(wanted, features[split], uses[split])
    return found


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=None, help="the bench")
    parser.add_argument("--encoder", type=Path, required=True, help="run of an autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench, encoder, eyes = find_bench(args.data), load_encoder(args.encoder), Eyes.load()
    rows: list[Pair] = []
    photo_of: dict[str, str] = {}
    for subject in SUBJECTS:
        videos: dict[str, dict[str, list[Pair]]] = {split: defaultdict(list) for split in SPLITS}
        photos, sounds, features = {}, {}, {}
        for split in SPLITS:
            for pair in bench.pairs(split):
                if pair.subject == subject:
                    videos[split][pair.video].append(pair)
            photos[split] = [p for p in bench.photos(split) if p.startswith(subject + "/")]
            sounds[split] = sounds_of(bench, videos[split], encoder)
            features[split] = photo_features(bench, photos[split], eyes)
        axes = PCA(AXES, whiten=False, random_state=0).fit(features["train"])
        features = {split: axes.transform(found) for split, found in features.items()}
        chosen = align(sounds["train"], sounds, features, args.seed)
        for split in SPLITS:
            for video, place in zip(videos[split], chosen[split], strict=True):
                photo_of[video] = photos[split][place]
            rows += [pair for pairs in videos[split].values() for pair in pairs]
        print(f"{subject}: {len(set(chosen['train']))} of {len(photos['train'])} photos of train")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("vegas-audio", "photos", "sounds"):
        link = args.out / name
        if not link.exists() and (bench.root / name).exists():
            link.symlink_to((bench.root / name).resolve())
    table = (
        [p.split, p.subject, p.video, p.window, p.spectrogram, photo_of[p.video]] for p in rows
    )
    write_csv(args.out / "pairs.csv", PAIR_COLUMNS, table)


if __name__ == "__main__":
    main()
