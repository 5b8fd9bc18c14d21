"""The card of a folder of judges: what it is, on what it was trained, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from soundsight.data.vegas.bench import SUBJECTS
from soundsight.judges.negatives import EARLY_VAL_FOLDS
from soundsight.judges.retrieval_space import CANDIDATES_A_CLASS
from soundsight.judges.tables import CLASSIFIER, FLOOR, SECOND, SPACE, VIEWERS

_JUDGES = """One binary classifier a class (Fanzeres & Nadeu 2021, arXiv 2106.01266; 34,730 \
parameters each): does a picture show this class? Beside them a second judge (one small residual \
network with a head a class), an independent photo classifier and a space of sounds and pictures \
for retrieval. For evaluation only: no translator is trained against them."""


def card(record: Mapping[str, Any]) -> str:
    """Return the card of ``judges.json`` as Markdown.

    Args:
        record: the content of the file.
    """
    config, early = record["settings"]["config"], record["settings"]["early"]
    binary = [name for name in record["names"] if name not in VIEWERS]
    early_line = (
        f"Of {early['count']} early-generator pictures those of one fold of the sounds, and one "
        f"sound in {EARLY_VAL_FOLDS} kept for val."
        if early["count"]
        else "No early-generator pictures were among the negatives."
    )
    parts = [
        "# Informativity judges",
        _JUDGES,
        f"**Trained on.** {record['trained_on']} Fold {config['fold']} of the photos (by a hash of "
        f"the name), {config['steps']} batches of {config['batch']} a classifier, seed "
        f"{config['seed']}, on a CPU. {early_line}",
        "**Weights** are fp16 and were rounded before the thresholds were set.",
        "## What passes on val",
        "Photos beyond the threshold count as accepted; every other column is the share of val "
        f"negatives that pass. A judge with over {FLOOR:.0%} of an uninformative kind (in bold) is "
        "to be retrained, not re-thresholded.",
        _passing({name: record["done"][name] for name in binary}, config["accept_rate"]),
    ]
    if SECOND in record["names"]:
        second = record["done"][SECOND]
        parts += [
            "## The second judge on val",
            _passing(second["tables"], config["accept_rate"]),
            "Agreement of the two judges over these photos and negatives:",
            _table(
                ["", "agree on", "Cohen's kappa", "pictures"],
                [
                    [name, f"{a['share']:.1%}", f"{a['kappa']:.2f}", str(a["count"])]
                    for name, a in second["agreement"].items()
                ],
            ),
            "## The photo classifier and the space on val",
            "Share of val photos whose subject the photo classifier names, and share of val sounds "
            f"for which the nearest of {CANDIDATES_A_CLASS * len(SUBJECTS)} val photos "
            f"({CANDIDATES_A_CLASS} of each subject, or as many as there are) in the space is of "
            "the sound's subject.",
            _shares(
                {
                    "photo classifier": record["done"][CLASSIFIER]["accuracy"],
                    "space": record["done"][SPACE]["precision"],
                }
            ),
        ]
    parts.append(f"Version {record['version']}, commit {record['commit']}.")
    return "\n\n".join(parts) + "\n"


def _passing(tables: Mapping[str, Mapping[str, Any]], rate: float) -> str:
    kinds = list(dict.fromkeys(kind for done in tables.values() for kind in done["passed"]))
    rows = []
    for name, done in tables.items():
        row = [name, f"{done['threshold']:.4f}", f"{done['accepted']:.1%} of {done['photos']}"]
        for kind in kinds:
            share = done["passed"].get(kind)
            bold = "**" if share is not None and share > FLOOR and " of " not in kind else ""
            row.append("" if share is None else f"{bold}{share:.1%}{bold}")
        rows.append(row)
    return _table(["", "threshold", f"val photos accepted (at least {rate:.0%})", *kinds], rows)


def _shares(rows: Mapping[str, Mapping[str, float]]) -> str:
    heads = list(next(iter(rows.values())))
    cells = [[name, *(f"{shares[head]:.1%}" for head in heads)] for name, shares in rows.items()]
    return _table(["", *heads], cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
