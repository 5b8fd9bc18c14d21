"""Does the coherence filter find sounds and pictures that do not belong together? The evidence.

    python recipes/cleaning.py find --seed 0         # wrong sounds, planted and looked for
    python recipes/cleaning.py scores                # both scores, a mean for each photo
    python recipes/cleaning.py sheets                # blind sheets of dropped and kept photos
    python recipes/cleaning.py count --marks runs/cleaning/marks.csv

``find``: 10 % of the train pairs are given the sound of a pair of another subject: the chosen pairs
of one random fortieth of the photos exchange their sounds, so that no second is lost or doubled
and the folds stay small. The pair's video id goes with its sound, as the cross-fitting is by the
video that is really heard; the other seconds of a video keep their sounds. Labels are used to
plant the wrong sounds and to measure, never by the scorer. Beside the cross-fitted figure stand
that of one network that has seen every pair it judges, and that network on the devtest pairs with
wrong sounds planted in the same way.

``sheets`` draws, for each scorer, 60 dropped and 60 kept photos of ``rail/railroad_*`` and of
``water/*``; a photo is dropped when its mean score is in the worst share of all train photos.
Which is which stands in the key alone, in a folder of its own. ``marks.csv`` has the columns
number,shows (y or n): does the photo show its subject?

Everything goes to ``runs/cleaning`` and is found again there: a stopped command goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from soundsight.core.files import atomic_file, usable_folder, write_json
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import SUBJECTS, Bench, find_bench
from soundsight.training.coherence import (
    ClassifierConfig,
    CoherenceConfig,
    agreement,
    classifier_scores,
    contrastive_scores,
    fit_pair,
    keep_share,
)

WRONG_SHARE = 0.10
DROP_SHARE = 0.15
BLOCKS, FEWEST_IN_BLOCK = 40, 250
GROUPS = {"railroad": "rail/railroad_", "water": "water/"}
SCORERS = ("contrastive", "classifier")
PER_CELL = 60
SHEET, COLUMNS, SIDE = 40, 8, 150


class TrainPairs:
    """The pairs of a split in memory, with sounds that may be exchanged."""

    def __init__(self, bench: Bench, split: str, limit: int | None = None) -> None:
        pairs = bench.pairs(split)
        if limit is not None:
            every = sorted({pair.photo for pair in pairs})
            share = limit / len(pairs)
            some = np.random.default_rng(len(every)).permutation(every)[: round(share * len(every))]
            some = set(some.tolist())
            pairs = [pair for pair in pairs if pair.photo in some]
        self.names = sorted({pair.photo for pair in pairs})
        photo = {name: number for number, name in enumerate(self.names)}
        video = {v: number for number, v in enumerate(sorted({pair.video for pair in pairs}))}
        self.mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])
        self.pictures = np.stack([bench.photo(name) for name in self.names])
        self.photos = np.array([photo[pair.photo] for pair in pairs], dtype=np.int64)
        self.videos = np.array([video[pair.video] for pair in pairs], dtype=np.int64)
        self.subjects = np.array([SUBJECTS.index(pair.subject) for pair in pairs])

    def __len__(self) -> int:
        return len(self.mels)

    def gather(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return log-mels uint8 [k, 128, 100] and photos uint8 [k, 96, 96, 3]."""
        return self.mels[indices], self.pictures[self.photos[indices]]

    def plant(self, seed: int) -> NDArray[np.bool_]:
        """Give a tenth of the pairs a sound of another subject; return which."""
        rng = np.random.default_rng(seed)
        blocks = min(BLOCKS, 1 + len(self) // FEWEST_IN_BLOCK)
        block = rng.integers(blocks, size=len(self.names))[self.photos]
        source = np.arange(len(self))
        for number in range(blocks):
            rows = np.flatnonzero(block == number)
            chosen = rng.choice(rows, size=round(WRONG_SHARE * len(rows)), replace=False)
            source[chosen] = _exchange(chosen, self.subjects, rng)
        self.mels, self.videos = self.mels[source], self.videos[source]
        heard = self.subjects[source]
        wrong = source != np.arange(len(self))
        assert (heard[wrong] != self.subjects[wrong]).all()
        self.heard = heard
        return wrong


def _exchange(
    rows: NDArray[np.int64], subjects: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Permute ``rows`` at random so that every one gets a row of another subject."""
    for _ in range(1000):
        drawn = rng.permutation(rows)
        for i in np.flatnonzero(subjects[drawn] == subjects[rows]):
            fits = (subjects[drawn] != subjects[rows[i]]) & (subjects[drawn[i]] != subjects[rows])
            if fits.any():
                j = int(rng.choice(np.flatnonzero(fits)))
                drawn[i], drawn[j] = drawn[j], drawn[i]
        if (subjects[drawn] != subjects[rows]).all():
            return drawn
    sys.exit("one subject is more than half of a block: sounds cannot be exchanged within it")


def bar(what: str) -> Callable[[int, int], None]:
    """Print progress at every hundredth."""
    began = time.monotonic()

    def show(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0 or done == total:
            print(f"{what}: {done} of {total} steps, {time.monotonic() - began:.0f} s", flush=True)

    return show


def auc(scores: NDArray[np.floating], wrong: NDArray[np.bool_]) -> float:
    """ROC-AUC of a low score as the sign of a wrong pair; ties count half."""
    values, rank_of = np.unique(scores, return_inverse=True)
    counts = np.bincount(rank_of, minlength=len(values))
    rank = (np.cumsum(counts) - (counts - 1) / 2)[rank_of]
    n_wrong = int(wrong.sum())
    above = rank[~wrong].sum() - (~wrong).sum() * ((~wrong).sum() + 1) / 2
    return float(above / n_wrong / (~wrong).sum())


def figures(
    scores: NDArray[np.floating], wrong: NDArray[np.bool_], photos: NDArray[np.int64], seed: int
) -> dict[str, float | list[float] | int]:
    """AUC and share found, with 95 % bootstrap intervals over photos."""
    dropped = ~keep_share(scores, DROP_SHARE)
    rng = np.random.default_rng(seed)
    order = np.argsort(photos, kind="stable")
    rows_of = np.split(order, np.flatnonzero(np.diff(photos[order])) + 1)
    draws = []
    for _ in range(200):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        draws.append((auc(scores[rows], wrong[rows]), float(dropped[rows][wrong[rows]].mean())))
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
    return {
        "pairs": len(scores),
        "wrong": int(wrong.sum()),
        "auc": round(auc(scores, wrong), 4),
        "auc_interval": [round(float(low[0]), 4), round(float(high[0]), 4)],
        "found": round(float(dropped[wrong].mean()), 4),
        "found_interval": [round(float(low[1]), 4), round(float(high[1]), 4)],
        "wrong_before": round(float(wrong.mean()), 4),
        "wrong_after": round(float(wrong[~dropped].mean()), 4),
        "mean_score": round(float(scores.mean()), 4),
    }


def report(scores: NDArray[np.float32], pairs: TrainPairs, wrong: NDArray[np.bool_]) -> dict:
    """Figures over all seconds, over the audible ones, and by subject of sound and photo."""
    heard = audible(pairs.mels)
    table = {
        "all": figures(scores, wrong, pairs.photos, 0),
        "audible": figures(scores[heard], wrong[heard], pairs.photos[heard], 0),
    }
    dropped = ~keep_share(scores, DROP_SHARE)
    for what, subjects in (("sound", pairs.heard), ("photo", pairs.subjects)):
        table[f"by subject of the {what}"] = {
            name: {
                "found": round(float(dropped[wrong & (subjects == s)].mean()), 3),
                "right ones dropped": round(float(dropped[~wrong & (subjects == s)].mean()), 3),
            }
            for s, name in enumerate(SUBJECTS)
        }
    return table


def coherence_config(args: argparse.Namespace) -> CoherenceConfig:
    """The scorer's settings, from the command."""
    changes = {} if args.max_steps is None else {"max_steps": args.max_steps, "min_steps": 1}
    return CoherenceConfig(seed=args.seed, folds=args.folds, bfloat16=args.bfloat16, **changes)


def find(args: argparse.Namespace) -> None:
    """Plant wrong sounds and look for them."""
    out = args.out / (f"find-{args.seed}" + (f"-{args.limit}" if args.limit else ""))
    usable_folder(out)
    bench = find_bench(args.data)
    pairs = TrainPairs(bench, "train", args.limit)
    wrong = pairs.plant(args.seed)
    config = coherence_config(args)
    began = time.monotonic()
    scores = contrastive_scores(pairs, config, work=out / "work", progress=bar("cross-fitted"))
    result = {
        "seed": args.seed,
        "seconds": round(time.monotonic() - began),
        "cross-fitted": report(scores, pairs, wrong),
    }
    np.savez(out / "scores.npz", scores=scores, wrong=wrong)
    write_json(out / "figures.json", result)
    if args.same:
        rows = np.arange(len(pairs))
        steps = round(config.passes * len(rows) / config.batch_size)
        steps = min(max(steps, config.min_steps), config.max_steps)
        show, done = bar("one network, all pairs"), iter(range(1, steps + 1))
        network = fit_pair(pairs, rows, config, steps, args.seed, lambda: show(next(done), steps))
        seen = agreement(network, pairs, rows, config).astype(np.float32)
        result["the same network has seen the pairs"] = report(seen, pairs, wrong)
        other = TrainPairs(bench, "devtest")
        wrong = other.plant(args.seed)
        unseen = agreement(network, other, np.arange(len(other)), config).astype(np.float32)
        result["devtest, fitted on all train pairs"] = report(unseen, other, wrong)
        write_json(out / "figures.json", result)
    print(json.dumps(result, indent=2))


def scores(args: argparse.Namespace) -> None:
    """Score the train pairs by both scorers and average over each photo."""
    usable_folder(args.out)
    pairs = TrainPairs(find_bench(args.data), "train")
    by_label = ClassifierConfig(seed=args.seed, kind=args.kind)
    labels = [SUBJECTS[s] for s in pairs.subjects]
    work = args.out / f"scores-{args.kind}"
    found = {
        "classifier": classifier_scores(
            pairs, labels, by_label, work=work, progress=bar("classifier")
        )
    }
    counted = np.ones(len(pairs))
    if args.found:
        # One training less: the pairs of ``find`` whose sounds were left alone.
        with np.load(args.found / "scores.npz") as kept:
            found["contrastive"], counted = kept["scores"], (~kept["wrong"]).astype(np.float64)
    else:
        found["contrastive"] = contrastive_scores(
            pairs, coherence_config(args), work=work, progress=bar("contrastive")
        )
    number = np.bincount(pairs.photos, weights=counted)
    left = number > 0
    names = np.array(pairs.names)[left]
    means = {
        scorer: np.bincount(pairs.photos, weights=found[scorer] * counted)[left] / number[left]
        for scorer in SCORERS
    }
    with atomic_file(args.out / "photos.csv") as path, path.open("w", newline="") as file:
        rows = zip(names, *means.values(), strict=True)
        csv.writer(file).writerows([("photo", *means), *rows])
    for scorer, values in means.items():
        keep = keep_share(values, args.drop_share)
        for group, start in {**GROUPS, **{s: f"{s}/" for s in SUBJECTS}}.items():
            mine = np.char.startswith(names, start)
            print(
                f"{scorer}, {group} ({start}): {int((~keep & mine).sum())} of {int(mine.sum())} "
                f"photos dropped; mean score {values[mine].mean():.3f}"
            )
    print(f"correlation over photos: {np.corrcoef(*means.values())[0, 1]:.3f}")


def sheets(args: argparse.Namespace) -> None:
    """Draw the blind sheets and, apart, their key."""
    with (args.out / "photos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = np.array([row["photo"] for row in rows])
    rng = np.random.default_rng(args.seed)
    drawn: dict[str, dict[str, str]] = {}
    for scorer in SCORERS:
        keep = keep_share(np.array([float(row[scorer]) for row in rows]), args.drop_share)
        for start in GROUPS.values():
            mine = np.char.startswith(names, start)
            for state, chosen in (("dropped", ~keep & mine), ("kept", keep & mine)):
                those = names[chosen]
                for name in rng.permutation(those)[:PER_CELL]:
                    drawn.setdefault(str(name), {})[scorer] = state
    order = [str(name) for name in rng.permutation(sorted(drawn))]
    bench = find_bench(args.data)
    usable_folder(args.out / "blind")
    usable_folder(args.out / "key")
    for first in range(0, len(order), SHEET):
        page = _page(bench, order[first : first + SHEET], first + 1)
        page.save(args.out / "blind" / f"sheet-{first // SHEET + 1:02d}.png")
    key = [("number", "photo", *SCORERS)]
    for number, name in enumerate(order, start=1):
        key.append((str(number), name, *(drawn[name].get(scorer, "") for scorer in SCORERS)))
    with atomic_file(args.out / "key" / "key.csv") as path, path.open("w", newline="") as file:
        csv.writer(file).writerows(key)
    print(f"{len(order)} photos on {math.ceil(len(order) / SHEET)} sheets in {args.out / 'blind'}")


def _page(bench: Bench, names: list[str], first: int) -> Image.Image:
    gap, caption = 6, 20
    lines = math.ceil(len(names) / COLUMNS)
    size = (COLUMNS * (SIDE + gap) + gap, lines * (SIDE + caption + gap) + gap)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(16)
    for place, name in enumerate(names):
        x = gap + place % COLUMNS * (SIDE + gap)
        y = gap + place // COLUMNS * (SIDE + caption + gap)
        photo = Image.fromarray(bench.photo(name)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        page.paste(photo, (x, y))
        draw.text((x + 2, y + SIDE), str(first + place), fill="black", font=font)
    return page


def count(args: argparse.Namespace) -> None:
    """Join the marks with the key and count how many photos show their subject."""
    with (args.out / "key" / "key.csv").open(newline="") as file:
        key = {row["number"]: row for row in csv.DictReader(file)}
    with args.marks.open(newline="") as file:
        marks = {row["number"]: row["shows"].strip().lower() for row in csv.DictReader(file)}
    if set(marks) != set(key) or not set(marks.values()) <= {"y", "n"}:
        sys.exit(f"{args.marks}: every number of the key needs one mark, y or n")
    for scorer in SCORERS:
        for group, start in GROUPS.items():
            for state in ("dropped", "kept"):
                shows = [
                    marks[number] == "y"
                    for number, row in key.items()
                    if row["photo"].startswith(start) and row[scorer] == state
                ]
                low, high = wilson(sum(shows), len(shows))
                print(
                    f"{scorer}, {group}, {state}: {sum(shows)} of {len(shows)} show their subject "
                    f"({100 * sum(shows) / max(1, len(shows)):.0f} %, 95 % interval "
                    f"{100 * low:.0f} to {100 * high:.0f} %)"
                )
    with (args.out / "photos.csv").open(newline="") as file:
        table = {row["photo"]: row for row in csv.DictReader(file)}
    for group, start in GROUPS.items():
        viewed = [n for n, row in key.items() if row["photo"].startswith(start)]
        wrong = np.array([marks[n] == "n" for n in viewed])
        for scorer in SCORERS:
            values = np.array([float(table[key[n]["photo"]][scorer]) for n in viewed])
            print(
                f"{scorer}, {group}: a low score as the sign of a photo without its subject: "
                f"ROC-AUC {auc(values, wrong):.3f} over the {len(viewed)} viewed"
            )


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not n:
        return 0.0, 1.0
    z, share = 1.959964, hits / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for command in (find, scores, sheets, count):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--data", default=None)
        sub.add_argument("--out", type=Path, default=Path("runs/cleaning"))
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--drop-share", type=float, default=DROP_SHARE)
        sub.add_argument("--max-steps", type=int, help="fewer steps, for a quick look")
        sub.add_argument("--folds", type=int, default=CoherenceConfig.folds)
        sub.add_argument("--bfloat16", action="store_true", help="faster where the CPU has it")
        sub.add_argument("--same", action="store_true", help="find: without cross-fitting, too")
        sub.add_argument("--limit", type=int, help="find: about so many pairs, of random photos")
        sub.add_argument("--found", type=Path, help="scores: take the contrastive ones of find")
        sub.add_argument("--kind", default="multiclass", help="scores: binary or multiclass")
        sub.add_argument("--marks", type=Path, default=Path("runs/cleaning/marks.csv"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.command(args)


if __name__ == "__main__":
    main()
