"""What a report says, chapter by chapter: the document that both of its pages are written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from soundsight.core.units import INAUDIBLE_LEVEL
from soundsight.data.vegas.bench import SUBJECTS
from soundsight.evaluation import blind
from soundsight.evaluation.fidelity import HASH_BITS, NEAR_DUPLICATE_BITS
from soundsight.evaluation.informativity import MEAN
from soundsight.evaluation.page import Document, Figure, Section, Table, per_cent
from soundsight.evaluation.seconds import (
    DIFFERENCE,
    INFORMATIVITY,
    RETRIEVAL,
    RIGHT,
    SECOND,
    SHUFFLED,
)
from soundsight.evaluation.stored import BASELINE
from soundsight.judges.tables import FLOOR

REAL_PHOTOS = "real photos"

_CONTROLS = (
    SHUFFLED, DIFFERENCE, REAL_PHOTOS, "photos of other", "floor:", "silence:", "white noise:",
    f"{BASELINE}:",
)  # fmt: skip
"""What the names of the rows of controls begin with."""


def document_of(report: Mapping[str, Any], figures: Mapping[str, Figure]) -> Document:
    """Write a report out.

    Args:
        report: what report.json holds.
        figures: ``sheet.png``, ``curves.svg``, ``curves-second.svg``, ``nearest.png``, ``blind``,
            as far as they were made.
    """
    rows, settings = report["rows"], report["settings"]
    sections = [
        *([_blind(figures["blind"])] if "blind" in figures else []),
        _informativity(report),
        _controls(rows),
        _judges(report),
        Section(
            title="Where the threshold lies",
            texts=["Share of pictures that each judge accepts as its threshold moves."],
            figures=[
                figures[name] for name in ("curves.svg", "curves-second.svg") if name in figures
            ],
        ),
    ]
    if "confusion" in report:
        sections.append(_classes(report))
    if "retrieval" in report:
        sections.append(_retrieval(report))
    if "fidelity" in report:
        sections.append(_fidelity(report, figures))
    sections.append(
        Section(
            title="What it drew",
            figures=[figures["sheet.png"]],
        )
    )
    if report["left_out"]:
        sections.append(Section(title="Left out", notes=report["left_out"]))
    sections.append(_made(report))
    return Document(
        title=f"Report on {report['model'].get('name', 'the translator')}",
        texts=[
            f"Measured on {sum(report['sounds'].values())} unknown 1-s sounds of "
            f"{settings['split']}. Shares are in per cent with "
            f"{100 * settings['confidence']:.0f} % bootstrap intervals over videos "
            f"({settings['resamples']} resamples), by class and as the mean over classes. The "
            "first picture drawn of each second counts; none is "
            "selected."
        ],
        tiles=_tiles(rows),
        sections=sections,
    )


def share_table(
    caption: str, rows: Mapping[str, Mapping[str, Any]], strong: Sequence[str] = ()
) -> Table:
    """Make a table of shares: a row a name, the mean and a column a class."""
    return Table(
        caption=caption,
        head=["", MEAN, *SUBJECTS],
        rows=[
            [name, *[per_cent(row.get(key)) for key in (MEAN, *SUBJECTS)]]
            for name, row in rows.items()
        ],
        strong=frozenset(strong),
    )


def numbers_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures that are no shares of seconds: name -> number in words."""
    found: dict[str, str] = {}
    for subject, values in report.get("fidelity", {}).items():
        if subject in ("pictures", "training photos"):
            kid, spread = 1000 * values["kid"], 1000 * values["kid_spread"]
            found[f"KID x 1000, {subject}"] = f"{kid:.2f} (spread {spread:.2f})"
            found[f"Frechet distance, {subject}"] = f"{values['frechet']:.2f}"
            found[f"precision, {subject}"] = f"{100 * values['precision']:.1f}"
            found[f"recall, {subject}"] = f"{100 * values['recall']:.1f}"
        elif subject == "copying":
            found["nearest training photo, median distance"] = f"{values['generated']:.3f}"
            found["the same of unseen photos"] = f"{values['real']:.3f}"
            found["nearer than 19 of 20 unseen photos"] = f"{100 * values['closer']:.1f}"
            if "near_duplicates" in values:
                found["near-duplicates of training photos"] = _percent(values["near_duplicates"])
        elif subject == "variety" and values:
            found["variety as a share of the photos'"] = f"{values['mean']:.2f}"
    if report.get("agreement"):
        both = report["agreement"]["all"]
        found["agreement of the judges"] = f"{100 * both['share']:.1f} (kappa {both['kappa']:z.2f})"
    return found


def _tiles(rows: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    names = (INFORMATIVITY, SHUFFLED, REAL_PHOTOS, SECOND + INFORMATIVITY, RIGHT)
    tiles = []
    for name in names:
        if name in rows:
            point, _, interval = per_cent(rows[name][MEAN]).partition(" ")
            tiles.append((name, f"{point} %", interval))
    return tiles


def _blind(figure: Figure) -> Section:
    return Section(
        title="Blind viewing: before you read on",
        texts=[
            "Say of each picture what it shows: "
            f"{', '.join(SUBJECTS)}, or {blind.NOTHING}. Write it into "
            f"`{blind.FOLDER}/{blind.ANSWERS}`, then compare with the key: "
            f"`soundsight score-blind {blind.FOLDER}/{blind.ANSWERS} --key {blind.KEY}`. "
            "The key is not on this page, and no picture of this sheet is shown with its class."
        ],
        figures=[figure],
    )


def _informativity(report: Mapping[str, Any]) -> Section:
    rows = {
        name: row
        for name, row in report["rows"].items()
        if name.removeprefix(SECOND).startswith((INFORMATIVITY, "hidden"))
        and not name.removeprefix(SECOND).startswith(_CONTROLS)
        and BASELINE not in name
    }
    strong = [INFORMATIVITY, SECOND + INFORMATIVITY]
    return Section(
        title="Informativity",
        texts=[
            "Share of sounds whose picture the judge of the sound's class accepts. What the "
            "program would not show counts as not informative."
        ],
        tables=[share_table("Informativity, %", rows, strong)],
        notes=[
            "*audible seconds*: those whose log-mel has a mean level of at least "
            f"{INAUDIBLE_LEVEL:g} of 255.",
            "*mean of each video*: the seconds of a video are averaged first, so that videos count "
            "the same.",
            "*nothing hidden*: every picture counts, also those that the program would not show "
            "(*hidden*: inaudible seconds, sounds of no known kind, and alerts, which are named).",
        ],
    )


def _controls(rows: Mapping[str, Any]) -> Section:
    chosen = {
        name: row
        for name, row in rows.items()
        if name.removeprefix(SECOND).startswith(_CONTROLS) or BASELINE in name
    }
    tables = []
    for whose, prefix in (("the published judges", ""), ("the second judge", SECOND)):
        theirs = {
            name: row for name, row in chosen.items() if name.startswith(SECOND) == bool(prefix)
        }
        if theirs:
            caption = f"Controls as judged by {whose}, %"
            strong = [prefix + SHUFFLED, prefix + REAL_PHOTOS]
            tables.append(share_table(caption, theirs, strong))
    return Section(
        title="Controls",
        texts=["Without these a share says nothing: a judge may accept anything."],
        tables=tables,
        notes=[
            f"*real photos* is the ceiling; each *floor* must stay under {100 * FLOOR:g}: the "
            "threshold is set by the photos alone, so a judge with a higher floor is to be "
            "retrained.",
            "*shuffled sounds*: the picture of a sound of another class, judged by this sound's "
            "judge; *informativity minus shuffled* is paired by sound.",
            "*silence* and *white noise*: what each class's judge accepts of their pictures.",
            *(
                ["*baseline*: another report on the same seconds; differences are paired by sound."]
                if any(BASELINE in name for name in chosen)
                else []
            ),
        ],
    )


def _judges(report: Mapping[str, Any]) -> Section:
    judges = report["judges"]
    tables = []
    for whose, of_class in judges["val"].items():
        kinds = list(dict.fromkeys(kind for t in of_class.values() for kind in t["passed"]))
        tables.append(
            Table(
                caption=f"Thresholds of the {whose}, and what passes them on val, %",
                head=["", "threshold", "val photos", *kinds],
                rows=[
                    [
                        subject,
                        f"{t['threshold']:.3f}",
                        f"{100 * t['accepted']:.1f} of {t['photos']}",
                        *[
                            f"{100 * t['passed'][kind]:.1f}" if kind in t["passed"] else ""
                            for kind in kinds
                        ],
                    ]
                    for subject, t in of_class.items()
                ],
            )
        )
    if report["agreement"]:
        tables.append(
            Table(
                caption="How far both judges say the same of the pictures",
                head=["", "agree, %", "Cohen's kappa", "pictures"],
                rows=[
                    [name, f"{100 * a['share']:.1f}", f"{a['kappa']:z.2f}", str(a["count"])]
                    for name, a in report["agreement"].items()
                ],
            )
        )
    if not tables:
        of_class = judges["thresholds"].items()
        tables.append(
            Table(
                caption="Thresholds",
                head=["", "threshold"],
                rows=[[subject, f"{threshold:.3f}"] for subject, threshold in of_class],
            )
        )
    return Section(
        title="The judges",
        texts=[
            "A threshold is set by the class's real val photos alone: by the share of them that "
            "reaches it."
        ],
        tables=tables,
    )


def _classes(report: Mapping[str, Any]) -> Section:
    rows = {name: row for name, row in report["rows"].items() if name.startswith(RIGHT)}
    return Section(
        title="What a viewer would see",
        texts=[
            f"An independent classifier of real photos says which of the {len(SUBJECTS)} subjects "
            f"each picture shows; chance is {100 / len(SUBJECTS):.0f} %. Nothing is hidden here. "
            "No picture can tell more than the sound does."
        ],
        tables=[
            share_table("Class accuracy, %", rows, [RIGHT]),
            *[_confusion(report["confusion"][unit], unit) for unit in ("seconds", "videos")],
        ],
        notes=["*whole videos*: the mean of the probabilities of a video's seconds decides."],
    )


def _confusion(counts: Sequence[Sequence[int]], unit: str) -> Table:
    rows, shades = [], []
    for subject, line in zip(SUBJECTS, counts, strict=True):
        total = max(1, sum(line))
        rows.append([f"sound of {subject}", *[f"{n} [{100 * n / total:.0f} %]" for n in line]])
        shades.append([n / total for n in line])
    return Table(
        caption=f"Confusion, {unit}: each sound's class and the class seen in its picture, counts "
        "and shares of the row",
        head=["", *[f"seen: {subject}" for subject in SUBJECTS]],
        rows=rows,
        shades=shades,
    )


def _retrieval(report: Mapping[str, Any]) -> Section:
    found = report["retrieval"]
    rows = {name: row for name, row in report["rows"].items() if name.startswith(RETRIEVAL)}
    of_a_class = found["candidates"] // sum(count > 0 for count in report["sounds"].values())
    chance = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found["chance"].items())
    return Section(
        title="Retrieval",
        texts=[
            f"Each sound looks for pictures among {found['candidates']} candidates, its own among "
            "them, in a space of sounds and pictures that the generator was not trained against."
        ],
        tables=[share_table("Retrieval, %", rows)],
        notes=[
            "*precision@k*: how many of the k nearest are of the sound's class.",
            "*R@k*: whether its own picture is among the k nearest; low by nature, as "
            f"{of_a_class} candidates are of one subject.",
            f"By chance: {chance}.",
        ],
    )


def _fidelity(report: Mapping[str, Any], figures: Mapping[str, Figure]) -> Section:
    found = report["fidelity"]
    tables = []
    if "pictures" in found:
        lines = []
        for name in ("pictures", "training photos"):
            v = found[name]
            lines.append(
                [
                    name,
                    f"{1000 * v['kid']:.2f} (spread {1000 * v['kid_spread']:.2f})",
                    f"{v['frechet']:.2f}",
                    f"{100 * v['precision']:.1f}",
                    f"{100 * v['recall']:.1f}",
                    f"{v['generated']} and {v['real']}",
                ]
            )
        tables.append(
            Table(
                caption="Beside the photos of the split, all classes together",
                head=["", "KID x 1000", "Frechet", "precision, %", "recall, %", "compared"],
                rows=lines,
                strong=frozenset({"pictures"}),
            )
        )
    if found.get("variety"):
        names = list(found["variety"])
        tables.append(
            Table(
                caption="Variety: how far apart two pictures of a class are, as a share of how far "
                "apart two of its photos are",
                head=["", *names],
                rows=[["pictures", *[f"{found['variety'][name]:.2f}" for name in names]]],
            )
        )
    copies = found["copying"]
    tables.append(
        Table(
            caption="Distance to the nearest training photo",
            head=["", "median", f"nearer than {copies['near']:.3f}, %", "near-duplicates, %"],
            rows=[
                [
                    "pictures",
                    f"{copies['generated']:.3f}",
                    f"{100 * copies['closer']:.1f}",
                    _percent(copies.get("near_duplicates")),
                ],
                [
                    "unseen photos",
                    f"{copies['real']:.3f}",
                    _percent(copies.get("unseen_closer")),
                    _percent(copies.get("unseen_near_duplicates")),
                ],
            ],
            strong=frozenset({"pictures"}),
        )
    )
    return Section(
        title="Fidelity, variety and copying",
        texts=[f"In the features of: {found['features']['name']}."],
        tables=tables,
        figures=[figures["nearest.png"]],
        notes=[
            "*training photos*: the best that can be had. KID's spread is that of its subsets, no "
            "interval; the Frechet distance depends on how many are compared.",
            "*precision*: pictures that lie among photos; *recall*: photos that lie among "
            "pictures.",
            "Copies would be nearer to training photos than unseen photos are; pictures of the "
            "most common kind are near to many without repeating one, so look at the sheet. "
            f"*near-duplicates*: pictures whose {HASH_BITS}-bit difference hash is within "
            f"{NEAR_DUPLICATE_BITS} bits of that of a training photo or of its mirror image.",
        ],
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _made(report: Mapping[str, Any]) -> Section:
    model, judges = report["model"], report["judges"]
    sounds = ", ".join(f"{count} {subject}" for subject, count in report["sounds"].items())
    facts = {
        "seconds": f"{sum(report['sounds'].values())} ({sounds}), {report['audible']} audible; "
        "each of them in `seconds.csv`",
        "model": f"`{model.get('path', '')}` {model.get('sha256', '')}",
        "judges": f"`{judges['name']}` {judges['sha256']}",
        "settings": ", ".join(f"{key} {value}" for key, value in report["settings"].items()),
        "command": f"`{report['command']}`",
        "machine": ", ".join(f"{key} {value}" for key, value in report["machine"].items()),
        "version": f"{report['version']}, commit {report['commit']}",
    }
    if BASELINE in report:
        other = report[BASELINE]["model"]
        facts["baseline"] = f"`{other.get('path', '')}` {other.get('sha256', '')}"
    return Section(title="How it was made", notes=[f"{key}: {v}" for key, v in facts.items()])
