"""``soundsight evaluate --data EVERYDAY``: all figures of a model on Everyday, and their pages."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight import __version__
from soundsight.core.errors import ConfigError, DataError
from soundsight.core.files import atomic_file, atomic_folder, commit, write_json
from soundsight.core.units import FRAMES_PER_SEGMENT, N_MELS
from soundsight.data.everyday.folder import ALERTS, KINDS, SUBJECTS, Everyday
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import Bench
from soundsight.evaluation import blind
from soundsight.evaluation import everyday as figures_of
from soundsight.evaluation.choice import blind_seconds, shown_seconds
from soundsight.evaluation.everyday import Heard, Model, Tell
from soundsight.evaluation.fidelity import fidelity
from soundsight.evaluation.informativity import (
    CONFIDENCE,
    MEAN,
    RESAMPLES,
    Shares,
    shares,
    shuffled,
    white_noise_mels,
)
from soundsight.evaluation.page import (
    Document,
    Figure,
    Section,
    Table,
    as_html,
    as_markdown,
    per_cent,
    photograph,
    save_figure,
)
from soundsight.evaluation.report import is_report, machine_facts
from soundsight.evaluation.sheets import nearest_sheet, seeds_sheet, sheet
from soundsight.judges.everyday import ANSWERS, PhotoJudge, uninformative, verdicts
from soundsight.models.eyes import Eyes

KIND = "everyday"
"""Stands in report.json where a report on the bench has none."""

REPORT_VERSION = 1

_SHOWN_A_KIND = 6
_BLIND_A_KIND = 3
_SEEDS = 8
_NEAREST_SHOWN = 20
_CONTROL_SOUNDS = 20

RIGHT, RECORDINGS, SHUFFLED = "right", "recordings right", "shuffled sounds"
PHOTOS = "real photos"


@dataclass(frozen=True, kw_only=True)
class EverydayConfig:
    """What is measured, and with which seed."""

    split: str = "devtest"
    seed: int = 0
    limit: int | None = None
    """At most so many seconds a kind; None = all."""
    blind_sheet: bool = False
    """Write a sheet for blind viewing, three pictures a subject, a form and the key."""
    varied: int = 200
    """Pictures of each subject that variety and recall look at."""
    made_per_kind: int = 220
    """Uninformative pictures of each kind."""

    def __post_init__(self) -> None:
        if self.split not in ("devtest", "val"):
            raise ConfigError(f"{self.split} is not for evaluation: choose from devtest, val")
        if self.varied < 4 or self.made_per_kind < 1:
            raise ConfigError("varied must be at least 4, made_per_kind at least 1")


def evaluate_everyday(
    model: Model,
    judge: PhotoJudge,
    everyday: Everyday,
    bench: Bench,
    out: Path,
    config: EverydayConfig,
    *,
    about: Mapping[str, Any],
    command: str = "",
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure a model on Everyday's unknown sounds and write the report into ``out``.

    The folder appears whole or not at all: ``report.json``, ``report.md``, ``report.html`` (all of
    it in one file), ``seconds.csv``, sheets and, when asked, the blind sheet with its key apart.

    Args:
        model: draws, names and refuses.
        judge: says what a picture shows.
        everyday: sounds and photos.
        bench: more sounds of five subjects.
        out: the folder; an earlier report in it is replaced.
        config: split, seed, limits.
        about: what names the model in the report.
        command: how this was started, for the report.
        tell: called with (what, how many done, how many in all).

    Returns:
        What report.json holds.

    Raises:
        DataError: when sounds or photos are missing or damaged.
        OutputError: when ``out`` cannot be written to, holds something else or filled-in answers.
    """
    tell = tell or (lambda _what, _done, _of: None)
    tell("hearing", 0, 0)
    heard = figures_of.known_seconds(
        everyday, bench, config.split, limit=config.limit, seed=config.seed
    )
    subjects, names = heard.of(SUBJECTS), everyday.photos(config.split)
    if missing := [s for s in SUBJECTS if s not in subjects.kinds]:
        raise DataError(f"{config.split} has no sounds of {', '.join(missing)}")
    work = _Work(
        model=model, judge=judge, everyday=everyday, bench=bench, config=config, tell=tell,
        heard=heard, subjects=subjects, photo_names=names,
        photos=np.stack([everyday.photo(name) for name in names]),
    )  # fmt: skip
    report: dict[str, Any] = {
        "kind": KIND,
        "report_version": REPORT_VERSION,
        "model": dict(about),
        "judge": judge.about,
        "settings": asdict(config) | {"resamples": RESAMPLES, "confidence": CONFIDENCE},
        "sounds": {kind: work.heard.kinds.count(kind) for kind in KINDS},
        "left_out": [],
    }
    with atomic_folder(out, overwrite=True, ours=is_report) as place:
        figures: dict[str, Figure] = {}
        _right_pictures(work, report, place, figures)
        report["controls"] = _controls(work)
        _names(work, report)
        _refusal(work, report)
        _looks(work, report, place, figures)
        report |= {
            "command": command,
            "machine": machine_facts(),
            "version": __version__,
            "commit": commit(),
        }
        write_json(place / "report.json", report)
        document = document_of(report, figures)
        for name, text in (("md", as_markdown(document)), ("html", as_html(document))):
            with atomic_file(place / f"report.{name}") as temporary:
                temporary.write_text(text, "utf-8")
    return report


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What the steps of a measurement share."""

    model: Model
    judge: PhotoJudge
    everyday: Everyday
    bench: Bench
    config: EverydayConfig
    tell: Tell
    heard: Heard
    """Seconds of all 28 kinds."""
    subjects: Heard
    """Those of the 22 that are drawn."""
    photos: NDArray[np.uint8]
    photo_names: list[str]

    @property
    def photo_kinds(self) -> list[str]:
        return [name.split("/")[0] for name in self.photo_names]

    def share(
        self,
        values: NDArray[np.generic],
        kinds: Sequence[str],
        recordings: Sequence[str],
        among: Sequence[str] = SUBJECTS,
    ) -> Shares:
        return shares(values, kinds, recordings, seed=self.config.seed, among=among)


def _right_pictures(
    work: _Work, report: dict[str, Any], place: Path, figures: dict[str, Figure]
) -> None:
    """Draw and judge every second and recording, and show some."""
    model, judge, subjects, seed = work.model, work.judge, work.subjects, work.config.seed
    pictures = figures_of.drawn_of(model, subjects.mels, seed, work.tell, "seconds drawn")
    shown = model.draws(subjects.mels)
    work.tell("judging", 0, 0)
    features, of_photos = judge.look(pictures), judge.look(work.photos)
    said = judge.read(features)
    rows = figures_of.right_rows(said, shown, subjects, seed)
    rows[RECORDINGS] = _recordings(work)
    order = shuffled(subjects.kinds, seed, SUBJECTS)
    if order is not None:
        hits = verdicts(said[order], subjects.kinds)[1] & shown[order]
        rows[SHUFFLED] = work.share(hits, subjects.kinds, subjects.recordings)
    of_photo = verdicts(judge.read(of_photos), work.photo_kinds)[1]
    rows[PHOTOS] = work.share(of_photo, work.photo_kinds, work.photo_names)
    report["rows"] = figures_of.as_floats(rows)
    report["confusion"] = figures_of.confusion(said, shown, subjects.kinds)
    report["kid"] = asdict(
        fidelity(features, of_photos, subjects.kinds, work.photo_kinds, seed=seed, classes=SUBJECTS)
    )
    _write_seconds(place / "seconds.csv", subjects, shown, said)
    some = shown_seconds(subjects.pairs, _SHOWN_A_KIND, seed, SUBJECTS)
    kinds = [subjects.kinds[i] for i in some]
    right = verdicts(said[some], kinds)[1]
    figures["kinds"] = save_figure(
        place / "kinds.png",
        sheet(subjects.mels[some], pictures[some], right, shown[some], kinds, SUBJECTS),
        "Sounds as log-mels and the first picture drawn of each, a row a subject",
        "Log-mel and first picture of seconds chosen by the seed, never by the score. A green "
        "tick: shown, and accepted by the judge. An amber cross: refused.",
    )
    first = {kind: subjects.mels[i][None] for kind, i in zip(kinds[::-1], some[::-1], strict=True)}
    lines = [
        (kind, np.concatenate([model.draw(first[kind], seed=seed + i) for i in range(_SEEDS)]))
        for kind in SUBJECTS
    ]
    figures["seeds"] = save_figure(
        place / "seeds.png", seeds_sheet(lines),
        "Eight pictures of one sound of each subject, a row a subject",
        "One sound a row, drawn with eight seeds.",
    )  # fmt: skip
    if work.config.blind_sheet:
        figures["blind"] = _blind(place, subjects, pictures, shown, some, seed)


def _recordings(work: _Work) -> Shares:
    """Draw one picture of each recording; refused where none of its seconds is shown."""
    whole = figures_of.recordings_of(work.subjects)
    pictures, shown = [], []
    for _, _, places in whole:
        mels = work.subjects.mels[places]
        pictures.append(work.model.draw_recording(mels, seed=work.config.seed))
        shown.append(work.model.draws(mels).any())
    kinds = [kind for kind, _, _ in whole]
    right = verdicts(work.judge.probabilities(np.stack(pictures)), kinds)[1]
    return work.share(right & np.array(shown), kinds, [f"{kind} {name}" for kind, name, _ in whole])


def _controls(work: _Work) -> dict[str, dict[str, float]]:
    """Show the judge what shows nothing: shares accepted as some subject, and shown."""
    config, kinds = work.config, np.asarray(work.photo_kinds)
    by_subject = [work.photos[kinds == subject] for subject in SUBJECTS]
    rng = np.random.default_rng((config.seed, 5))
    found = {}
    for kind, made in uninformative(by_subject, config.made_per_kind, rng).items():
        said = work.judge.probabilities(made)
        found[f"uninformative: {kind}"] = {
            "accepted": float(figures_of.seen_as_something(said).mean()),
            "said to be nothing": float((said.argmax(axis=1) == len(SUBJECTS)).mean()),
        }
    silence = np.zeros((_CONTROL_SOUNDS, N_MELS, FRAMES_PER_SEGMENT), np.uint8)
    noise = white_noise_mels(_CONTROL_SOUNDS, config.seed)
    for name, mels in (("silence", silence), ("white noise", noise)):
        # Silence is one sound: its pictures differ by the seed alone.
        pictures = np.concatenate(
            [work.model.draw(mel[None], seed=config.seed + turn) for turn, mel in enumerate(mels)]
        )
        accepted = figures_of.seen_as_something(work.judge.probabilities(pictures))
        shown = work.model.draws(mels)
        found[name] = {
            "accepted": float(accepted.mean()),
            "shown": float(shown.mean()),
            "shown and accepted": float((accepted & shown).mean()),
        }
    return found


def _names(work: _Work, report: dict[str, Any]) -> None:
    said = work.model.names(work.heard.mels)
    if said is None:
        report["left_out"].append("Names: the model has none.")
        return
    report["names"] = {
        what: figures_of.as_floats(figures_of.names_rows(said, work.heard, kinds, work.config.seed))
        for what, kinds in (("28 kinds", KINDS), ("22 subjects", SUBJECTS), ("alerts", ALERTS))
    }


def _refusal(work: _Work, report: dict[str, Any]) -> None:
    """Ask how unknown sounds are told from known ones, at full band and at 8 kHz."""
    work.tell("unknown sounds", 0, 0)
    model, config = work.model, work.config
    of_known = model.familiarity(work.heard.mels)
    if np.isnan(of_known).any():
        report["left_out"].append("Refusal: the model cannot say how well it knows a sound.")
        return

    def known(split: str, narrow: bool) -> tuple[NDArray[np.float32], Heard]:
        if split == config.split and not narrow:
            return of_known, work.heard
        heard = figures_of.known_seconds(
            work.everyday, work.bench, split, limit=config.limit, seed=config.seed, narrow=narrow
        )
        return model.familiarity(heard.mels), heard

    threshold = figures_of.threshold_that_keeps(*known("val", False))
    found: dict[str, Any] = {"threshold": threshold}
    for what, narrow in (("full band", False), ("8 kHz", True)):
        others = figures_of.other_seconds(work.everyday, config.split, narrow=narrow)
        rows = figures_of.refusal_rows(
            known(config.split, narrow),
            (model.familiarity(others.mels), others),
            threshold,
            config.seed,
        )
        rows["unknown drawn, as the model is set"] = work.share(
            model.draws(others.mels), others.kinds, others.recordings,
            list(dict.fromkeys(others.kinds)),
        )  # fmt: skip
        found[what] = figures_of.as_floats(rows)
    report["refusal"] = found


def _looks(work: _Work, report: dict[str, Any], place: Path, figures: dict[str, Figure]) -> None:
    """Variety, recall and copies, in the features that training looks through."""
    eyes, config = Eyes.load(), work.config
    varied = figures_of.draw_varied(
        work.model, work.subjects, eyes, config.varied, config.seed, work.tell
    )
    of_photos = figures_of.eyes_features(eyes, work.photos)
    report["variety"] = figures_of.variety(varied, of_photos, work.photo_kinds)
    work.tell("training photos", 0, 0)
    known = figures_of.train_photos(work.everyday, work.bench)
    of_known = figures_of.eyes_features(eyes, known)
    made = np.concatenate([one.features for one in varied])
    drawn = np.concatenate([one.pictures for one in varied])
    copied, places, distances = figures_of.copies(made, of_known)
    unseen, _, unseen_distances = figures_of.copies(of_photos, of_known)
    kinds = np.repeat([one.kind for one in varied], [len(one.pictures) for one in varied])
    report["copies"] = {
        "copied": {"share": float(copied.mean()), "count": len(copied)},
        "unseen photos": {"share": float(unseen.mean()), "count": len(unseen)},
        "by kind": {one.kind: float(copied[kinds == one.kind].mean()) for one in varied},
        "median distance": float(np.median(distances)),
        "median distance of unseen photos": float(np.median(unseen_distances)),
    }
    order = np.argsort(distances, kind="stable")
    # Pictures of one photo's surroundings are many: each photo is shown once.
    _, once = np.unique(places[order], return_index=True)
    chance = np.random.default_rng((config.seed, len(order))).permutation(len(order))
    blocks = [
        ("The nearest of all, each photo once", order[np.sort(once)][:_NEAREST_SHOWN].tolist()),
        ("Chosen by the seed", chance[:_NEAREST_SHOWN].tolist()),
    ]
    figures["nearest"] = save_figure(
        place / "nearest.png", nearest_sheet(blocks, drawn, known, places, distances),
        "Pairs of pictures: left a generated one, right the training photo nearest to it",
        "Left what was drawn, right the nearest training photo in the eyes' features.",
    )  # fmt: skip


def _blind(
    place: Path,
    subjects: Heard,
    pictures: NDArray[np.uint8],
    shown: NDArray[np.bool_],
    known: Sequence[int],
    seed: int,
) -> Figure:
    """Write the blind sheet: no second that another sheet shows with its subject."""
    order = blind_seconds(subjects.pairs, _BLIND_A_KIND, seed, known, SUBJECTS)
    behind = [
        blind.Hidden(
            subject=subjects.kinds[i],
            spectrogram=subjects.pairs[i].spectrogram,
            shown=bool(shown[i]),
        )
        for i in order
    ]
    levels = blind.write_sheet(place, pictures[order], behind, SUBJECTS)
    return photograph(
        f"{blind.FOLDER}/{blind.SHEET}", levels, "Numbered pictures without labels",
        "Numbered pictures of unknown sounds in random order.",
    )  # fmt: skip


def _write_seconds(
    path: Path, subjects: Heard, shown: NDArray[np.bool_], said: NDArray[np.float32]
) -> None:
    """Write what was found of every second: a line each."""
    loud = audible(subjects.mels)
    answer = said.argmax(axis=1)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["second", "kind", "recording", "audible", "shown", "answer", "p_answer",
                        "p_kind"])  # fmt: skip
        for i, pair in enumerate(subjects.pairs):
            own = said[i, SUBJECTS.index(pair.subject)]
            lines.writerow(
                [pair.spectrogram, pair.subject, pair.video, int(loud[i]), int(shown[i]),
                 ANSWERS[answer[i]], f"{said[i, answer[i]]:.4f}", f"{own:.4f}"]
            )  # fmt: skip


def document_of(report: Mapping[str, Any], figures: Mapping[str, Figure]) -> Document:
    """Write a report on Everyday out.

    Args:
        report: what report.json holds.
        figures: ``kinds``, ``seeds``, ``nearest`` and, when made, ``blind``.
    """
    rows, settings = report["rows"], report["settings"]
    sections = []
    if "blind" in figures:
        sections.append(
            Section(
                title="What do you see?",
                texts=[
                    "Before you read on: write into `blind/answers.csv` what each picture shows, "
                    "then `soundsight score-blind`."
                ],
                figures=[figures["blind"]],
            )
        )
    sections += [
        Section(
            title="Pictures that show what sounded",
            texts=[
                "*Right*: the picture is shown, and the judge's answer is the sound's subject with "
                "a probability of at least one half. *Shuffled sounds*: the same asked of the "
                "picture of another subject's sound."
            ],
            tables=[_by_kind("Right pictures, per cent", rows, SUBJECTS)],
            figures=[figures["kinds"], figures["seeds"]],
        ),
        Section(
            title="What was taken for what",
            tables=[_confusion(report["confusion"])],
        ),
        Section(title="Pictures of nothing", tables=[_controls_table(report["controls"])]),
    ]
    if "names" in report:
        for what, found in report["names"].items():
            kinds = [k for k in KINDS if k in found["seconds"]]
            table = _by_kind(f"{what} named right among 28, per cent", found, kinds)
            sections.append(Section(title=f"Names: {what}", tables=[table]))
    if "refusal" in report:
        sections.append(_refusal_section(report["refusal"]))
    sections += [_looks_section(report, figures), _made(report)]
    return Document(
        title=f"Report on {report['model'].get('name', 'the model')}: everyday sounds",
        texts=[
            f"Measured on {sum(report['sounds'].values())} unknown 1-s sounds of "
            f"{settings['split']}. Shares are in per cent, as means over kinds, with "
            f"{100 * settings['confidence']:.0f} % bootstrap intervals over recordings "
            f"({settings['resamples']} resamples). The first picture drawn counts; a refused sound "
            "counts as wrong."
        ],
        tiles=_tiles(report),
        sections=sections,
    )


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    shown = [(name, report["rows"].get(name)) for name in (RIGHT, RECORDINGS, SHUFFLED, PHOTOS)]
    if "refusal" in report:
        shown += [
            (f"unknown drawn, {what}", report["refusal"][what]["unknown drawn"])
            for what in ("full band", "8 kHz")
        ]
    for name, row in shown:
        if row:
            point, _, interval = per_cent(row[MEAN]).partition(" ")
            tiles.append((name, f"{point} %", interval))
    return [
        *tiles,
        ("two draws of one sound differ", f"{report['variety'][MEAN]['of one sound']:.2f}",
         "of two photos' distance"),
        ("copies", f"{100 * report['copies']['copied']['share']:.1f} %",
         f"of {report['copies']['copied']['count']}"),
    ]  # fmt: skip


def _by_kind(caption: str, rows: Mapping[str, Any], kinds: Sequence[str]) -> Table:
    """Make a table with a row a kind, the mean first, and a column a measure."""
    return Table(
        caption=caption,
        head=["", *rows],
        rows=[
            [kind, *[per_cent(row.get(kind)) for row in rows.values()]] for kind in (MEAN, *kinds)
        ],
        strong=frozenset([MEAN]),
    )


def _confusion(shares_of: Sequence[Sequence[float]]) -> Table:
    return Table(
        caption="Per cent of a subject's seconds (rows) that the judge takes for each answer",
        head=["", *ANSWERS, "refused"],
        rows=[
            [kind, *[f"{100 * share:.0f}" if share >= 0.005 else "" for share in row]]
            for kind, row in zip(SUBJECTS, shares_of, strict=True)
        ],
        shades=[list(row) for row in shares_of],
    )


def _controls_table(controls: Mapping[str, Mapping[str, float]]) -> Table:
    head = ["accepted", "said to be nothing", "shown", "shown and accepted"]
    return Table(
        caption="Per cent accepted as any subject: what shows nothing must not be",
        head=["", *head],
        rows=[
            [name, *[f"{100 * found[key]:.1f}" if key in found else "" for key in head]]
            for name, found in controls.items()
        ],
    )


def _refusal_section(refusal: Mapping[str, Any]) -> Section:
    tables = []
    for what in ("full band", "8 kHz"):
        rows = refusal[what]
        kinds = [kind for kind in rows["unknown drawn"] if kind != MEAN]
        unknown = {name: row for name, row in rows.items() if name != "known kept"}
        tables.append(
            _by_kind(
                f"Unknown kinds at {what}, per cent; of the known "
                f"{per_cent(rows['known kept'][MEAN])} are kept",
                unknown,
                kinds,
            )
        )
    return Section(
        title="What is not known",
        texts=[
            "*Unknown drawn*: at the threshold that keeps nine of ten known seconds of val. "
            "*AUROC*: how often a known second is the more familiar one."
        ],
        tables=tables,
    )


def _looks_section(report: Mapping[str, Any], figures: Mapping[str, Figure]) -> Section:
    columns = ("of one sound", "of the kind", "recall")
    copied, kid = report["copies"], report["kid"]
    return Section(
        title="Variety and copies",
        texts=[
            f"Of {copied['copied']['count']} pictures {100 * copied['copied']['share']:.1f} % have "
            "a training photo that is nearer to them than any other training photo is to it; of "
            f"{copied['unseen photos']['count']} photos that were never in training "
            f"{100 * copied['unseen photos']['share']:.1f} %. KID in the judge's features: "
            f"{1000 * kid['kid']:.1f} x 10^-3 (spread {1000 * kid['kid_spread']:.1f})."
        ],
        tables=[
            Table(
                caption="Distances of two draws of one sound, and of two pictures of a subject, as "
                "shares of that of two photos; share of photos among the pictures (recall)",
                head=["", *columns],
                rows=[
                    [kind, *[f"{found[key]:.2f}" if key in found else "" for key in columns]]
                    for kind, found in report["variety"].items()
                ],
                strong=frozenset([MEAN]),
            )
        ],
        figures=[figures["nearest"]],
    )


def _made(report: Mapping[str, Any]) -> Section:
    about = report["model"]
    notes = [
        f"Model: {about.get('name', '')}, SHA-256 `{about.get('sha256', '')}`.",
        f"Judge: `{report['judge']['eyes_sha256'][:16]}`, val: photos named "
        f"{100 * report['judge']['val']['photos']:.1f} %.",
        f"Settings: {', '.join(f'{k} {v}' for k, v in report['settings'].items())}.",
        f"Command: `{report['command']}`." if report["command"] else "Called from a program.",
        f"soundsight {report['version']}, commit {report['commit']}; "
        + ", ".join(f"{k} {v}" for k, v in report["machine"].items())
        + ".",
        *report["left_out"],
    ]
    return Section(title="How it was made", notes=notes)
