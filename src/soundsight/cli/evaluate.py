"""``soundsight evaluate``: how often does a picture show what its sound was?"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.console import say
from soundsight.cli.options import option
from soundsight.core.errors import ConfigError, DataError, ModelError, first_line, require_extra
from soundsight.core.files import local_output, sha256_of, write_json
from soundsight.core.progress import progress_bar

if TYPE_CHECKING:
    from soundsight.data.vegas.bench import Bench

_SAID = (
    "informativity", "right", "recordings right", "shuffled sounds", "real photos",
    "class accuracy",
)  # fmt: skip
"""Rows whose means are printed, where a report has them."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(evaluate)
    app.command(name="score-blind")(score_blind)


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_MODEL", help="A model folder, or a training run: translator or encoder."
        ),
    ],
    out: Annotated[Path, option("REPORT", "Folder of the report.", "--out", "-o")],
    data: Annotated[
        Path | None,
        option(
            "FOLDER", "The bench (default: SOUNDSIGHT_BENCH, else ../shared/data), or Everyday's."
        ),
    ] = None,
    split: Annotated[
        str, option("SPLIT", "devtest, or val for a look while training.")
    ] = "devtest",
    judges: Annotated[
        Path | None,
        option("FOLDER", "The judges, or Everyday's judge (default: those of the package)."),
    ] = None,
    early: Annotated[
        list[Path] | None,
        option("PATH", "The early-generator pictures that the judges were trained with."),
    ] = None,
    baseline: Annotated[Path | None, option("REPORT", "Another report to compare with.")] = None,
    features: Annotated[
        Path | None,
        option(
            "FILE",
            "TorchScript network (an Inception) for KID and Frechet distance, instead of the "
            "judges' classifier.",
        ),
    ] = None,
    blind_sheet: Annotated[
        bool,
        option(
            "",
            "Add 50 (Everyday: 66) pictures without labels and, apart, the key.",
            "--blind-sheet",
        ),
    ] = False,
    seed: Annotated[int, option("N", "Seed of pictures, controls and intervals.", min=0)] = 0,
    limit: Annotated[
        int | None, option("N", "At most so many seconds a class (default: all).", min=1)
    ] = None,
) -> None:
    """Measure a translator on unknown sounds, with controls and 95 % intervals.

    The first picture of every second is judged; none is selected. REPORT gets report.json,
    report.md, report.html and their figures. For an encoder: how well its embeddings tell the
    classes.
    """
    local_output(out)
    kind = _kind_of_run(model)
    exporting = ("onnx", "onnxscript") if kind == "translator" else ()
    require_extra(
        "soundsight evaluate", "train", "torch", "safetensors", "jaxtyping", "matplotlib",
        "sklearn", "jinja2", "torchmetrics", "threadpoolctl", *exporting,
    )  # fmt: skip
    from soundsight.data.everyday.folder import find_everyday, is_everyday

    on_everyday = data is not None and is_everyday(data)
    bench_only: dict[str, Any] = {"early": early, "baseline": baseline, "features": features}
    how: dict[str, Any] = {"split": split, "seed": seed}
    sized = how | {"limit": limit, "blind_sheet": blind_sheet}
    report: dict[str, Any] = {}
    lines: list[str] = []
    with _one_thread(), progress_bar(log=True) as progress:
        told: dict[str, Any] = {
            "command": shlex.join(["soundsight", *sys.argv[1:]]), "progress": progress
        }  # fmt: skip
        if kind in ("encoder", "ears"):
            if on_everyday and kind == "encoder":
                raise ConfigError(f"{model} is an encoder of the bench: leave out --data")
            bench = _bench(None if on_everyday else data)
            _refuse(
                "translators, not for an encoder", judges=judges, limit=limit,
                blind_sheet=blind_sheet, **bench_only,
            )  # fmt: skip
            from soundsight.evaluation import encoders

            if kind == "ears":
                everyday = find_everyday(data if on_everyday else None)
                lines = encoders.report_ears(model, everyday, bench, out, **how, **told)
            else:
                encoders.evaluate_encoder(model, bench, out, **how, **told)
        elif on_everyday:
            _refuse("the bench, not for Everyday", **bench_only)
            from soundsight.data.vegas.bench import find_bench
            from soundsight.evaluation import everyday as measurement
            from soundsight.judges.everyday import PhotoJudge

            config = measurement.EverydayConfig(**sized)
            found = find_everyday(data)
            with _model_folder(model) as folder:
                drawer: Any = measurement.TranslatorModel.load(folder)
                report = measurement.evaluate_everyday(
                    drawer, PhotoJudge.load(judges), found,
                    find_bench(), out, config, about=_facts(model, folder), **told,
                )  # fmt: skip
        else:
            report = _measure(model, _bench(data), out, sized, judges=judges, **bench_only, **told)
    _say_report(report, lines, out, blind_sheet=blind_sheet)


def _say_report(report: dict[str, Any], lines: list[str], out: Path, *, blind_sheet: bool) -> None:
    """Print the main figures of a report, and where it was written."""
    from soundsight.evaluation.blind import FOLDER, KEY
    from soundsight.evaluation.report import per_cent

    rows = report.get("rows", {})
    for line in [*lines, *(f"{n}: {per_cent(rows[n]['mean'], ' %')}" for n in _SAID if n in rows)]:
        say(line)
    say(f"written: {out / 'report.html'}, report.md, report.json")
    if blind_sheet:
        say(f"for blind viewing: {out / FOLDER}; the key, to be opened afterwards: {out / KEY}")


def _measure(
    model: Path,
    bench: Bench,
    out: Path,
    sized: dict[str, Any],
    *,
    judges: Path | None,
    early: list[Path] | None,
    features: Path | None,
    **more: Any,
) -> dict[str, Any]:
    """Load what a report on the bench takes and make it."""
    from soundsight.evaluation import bench as measurement
    from soundsight.evaluation.fidelity import FeatureNetwork
    from soundsight.judges.apply import Judges
    from soundsight.judges.files import check_early
    from soundsight.judges.negatives import load_early
    from soundsight.runtime.translator import Translator

    config = measurement.EvaluationConfig(**sized)
    loaded = Judges.load(judges)
    kept = load_early(early) if early else None
    if kept is not None:
        check_early(judges, kept)
    network = FeatureNetwork(features) if features else None
    with _model_folder(model) as folder:
        return measurement.evaluate(
            Translator.load(folder), loaded, bench, out, config,
            model=_facts(model, folder), early=kept, network=network, **more,
        )  # fmt: skip


def score_blind(
    answers: Annotated[
        Path, typer.Argument(metavar="ANSWERS", help="The form, filled in: blind/answers.csv.")
    ],
    key: Annotated[Path, option("FILE", "The key, which lies beside the folder of the form.")],
    out: Annotated[Path | None, option("FILE", "Write the figures as JSON.", "--out", "-o")] = None,
) -> None:
    """Compare a person's answers to a blind sheet with its key."""
    require_extra(
        "soundsight score-blind", "train", "torch", "safetensors", "jaxtyping", "matplotlib",
        "sklearn", "jinja2",
    )  # fmt: skip
    from soundsight.evaluation.blind import score
    from soundsight.evaluation.report import per_cent

    found = score(answers, key)
    if out is not None:
        write_json(out, found)
    say(f"right: {per_cent(found['right'])} % of {found['count']} pictures (95 % Wilson interval)")
    say(f"right with nothing hidden: {per_cent(found['right_unhidden'])} %")
    for subject, line in found["confusion"].items():
        answered = ", ".join(f"{count} {answer}" for answer, count in line.items() if count)
        share = per_cent(found["classes"].get(subject))
        say(f"{subject}: {share} %; seen as {answered or 'not asked'}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Judges are small, and one thread gives the same sums on every machine."""
    import torch

    from soundsight.training.devices import numpy_on_one_thread

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with numpy_on_one_thread():
            yield
    finally:
        torch.set_num_threads(threads)


def _bench(data: Path | None) -> Bench:
    from soundsight.data.store.dataset import open_pairs
    from soundsight.data.vegas.bench import Bench

    opened = open_pairs(data)
    if not isinstance(opened, Bench):
        raise DataError(
            f"{opened.where} is a dataset of pairs: evaluation needs a bench, which has photos by "
            "class and a devtest split, for the judges go by class"
        )
    return opened


def _refuse(why: str, **options: object) -> None:
    """Refuse options that were given where they have no meaning."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')} is for {why}")


def _facts(model: Path, folder: Path) -> dict[str, str]:
    """Name a model and its networks: model.json also holds a date, and later these figures."""
    networks = sorted(folder.glob("*.onnx"))
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in networks)
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    return {"name": model.resolve().name, "path": str(model), "sha256": sha256}


def _kind_of_run(path: Path) -> str:
    """Return the kind of a training run: translator or encoder; empty when it is none."""
    if not os.path.exists(path / "run.json"):
        return ""
    try:
        kind = json.loads((path / "run.json").read_text("utf-8")).get("kind", "translator")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path / 'run.json'} is damaged: {first_line(error)}") from error
    return str(kind)


@contextmanager
def _model_folder(path: Path) -> Iterator[Path]:
    """Yield the model folder: ``path`` itself, or a temporary export of a training run."""
    if not _kind_of_run(path):
        yield path
        return
    from soundsight.export.onnx import export_run

    with tempfile.TemporaryDirectory(prefix="soundsight-") as place:
        folder = Path(place) / path.resolve().name
        export_run(path, folder)
        yield folder
