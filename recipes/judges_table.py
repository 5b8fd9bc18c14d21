"""What the judges, and the networks beside them, do on pictures that they never saw.

    python recipes/judges_table.py JUDGES --split devtest --early RUN/early RUN/early

Prints Markdown: for both judges the share of real photos, of photos of other classes and of each
kind of uninformative picture that each class's judge accepts; how far the two agree over all of
these; and how often the photo classifier, and the nearest photo in the space, are right. Half of
the val photos set the thresholds; nothing was set on devtest. About a minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from soundsight.data.vegas.bench import SUBJECTS, find_bench
from soundsight.evaluation.bench import control_pictures, photo_controls
from soundsight.judges.apply import Judges
from soundsight.judges.files import agreement, check_early
from soundsight.judges.negatives import load_early
from soundsight.judges.pictures import columns_of, mean_over_classes
from soundsight.judges.retrieval_space import class_precision

COLUMNS = (*SUBJECTS, "mean")


def line(name: str, by_class: Mapping[str, float]) -> None:
    """Print one row of per cent."""
    cells = [f"{100 * by_class[column]:.1f}" for column in COLUMNS]
    print(f"| {name} | {' | '.join(cells)} |")


def head(title: str) -> None:
    """Print the head of a table."""
    print(f"\n| {title} | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")


def with_mean(by_class: Mapping[str, float]) -> dict[str, float]:
    """Add the mean over classes."""
    return {**by_class, "mean": float(np.mean(list(by_class.values())))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("judges", type=Path)
    parser.add_argument("--split", choices=("val", "devtest"), default="val")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--early", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    first, bench = Judges.load(args.judges), find_bench(args.data)
    second, classifier, space = first.second, first.classifier, first.space
    if second is None or classifier is None or space is None:
        parser.error(f"{args.judges} has no networks beside the judges")
    early = load_early(args.early)
    if len(early):
        check_early(args.judges, early)
    pictures = control_pictures(bench, args.split, early=early)
    for judges, title in ((first, "published judge"), (second, "second judge")):
        head(f"{title}, % accepted")
        for name, row in photo_controls(judges, pictures)[0].items():
            line(name, {subject: share.share for subject, share in row.items()})

    everything = [pictures.photos, *pictures.uninformative.values(), pictures.early]
    one, other = (
        np.concatenate([judges.verdicts(images) for images in everything])
        for judges in (first, second)
    )
    found = {s: agreement(one[:, j], other[:, j]) for j, s in enumerate(SUBJECTS)}
    head("both")
    line("agree on, %", with_mean({s: a["share"] for s, a in found.items()}))
    line("Cohen's kappa, x 100", with_mean({s: a["kappa"] for s, a in found.items()}))

    said = classifier.probabilities(pictures.photos).argmax(axis=1)
    right = said == columns_of(pictures.subjects)
    pairs = bench.pairs(args.split)
    nearest = class_precision(
        space.sounds(np.stack([bench.spectrogram(pair.spectrogram) for pair in pairs])),
        [pair.subject for pair in pairs],
        space.pictures(pictures.photos),
        pictures.subjects,
        0,
    )
    head("% right")
    line("photo classifier", mean_over_classes(right, pictures.subjects))
    line("nearest of 100 photos in the space", nearest)


if __name__ == "__main__":
    main()
