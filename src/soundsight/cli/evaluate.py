"""``soundsight evaluate``: how often does a picture show what its sound was?"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.console import say
from soundsight.core.errors import ConfigError, DataError, ModelError, first_line, require_extra
from soundsight.core.files import local_output
from soundsight.core.progress import progress_bar

if TYPE_CHECKING:
    from soundsight.data.vegas.bench import Bench
    from soundsight.evaluation.bench import EvaluationConfig


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
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="REPORT", help="Folder of the report.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="The bench (default: SOUNDSIGHT_BENCH, else ../shared/data), or Everyday's folder."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="devtest, or val for a look while training.")
    ] = "devtest",
    judges: Annotated[
        Path | None,
        typer.Option(help="Folder of judges, or Everyday's judge (default: those of the package)."),
    ] = None,
    early: Annotated[
        list[Path] | None,
        typer.Option(help="The early-generator pictures that the judges were trained with."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="REPORT", help="Another report, whose figures are put beside."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TorchScript network (an Inception) for KID and Frechet distance, instead of the "
            "judges' classifier.",
        ),
    ] = None,
    blind_sheet: Annotated[
        bool,
        typer.Option(
            "--blind-sheet",
            help="Add 50 (Everyday: 66) pictures without labels and, apart, the key.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures, controls and intervals.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many seconds a class (default: all).")
    ] = None,
) -> None:
    """Measure a translator on unknown sounds, with controls and 95 % intervals.

    The first picture drawn of every second is judged, none is selected. REPORT gets report.json,
    report.md, report.html and what they show. Of an encoder: how well its embeddings know sounds.
    """
    local_output(out)
    kind = _kind_of_run(model)
    exporting = ("onnx", "onnxscript") if kind == "translator" else ()
    require_extra(
        "soundsight evaluate", "train", "torch", "safetensors", "jaxtyping", "matplotlib",
        "sklearn", "jinja2", "torchmetrics", "threadpoolctl", *exporting,
    )  # fmt: skip
    command = shlex.join(["soundsight", *sys.argv[1:]])
    from soundsight.data.everyday.folder import is_everyday

    with _one_thread():
        on_everyday = data is not None and is_everyday(data)
        if on_everyday and kind not in {"encoder", "ears"}:
            _refuse(
                "the bench, not for Everyday", early=early, baseline=baseline, features=features
            )
            _measure_everyday(
                model, data, out, command,
                split=split, seed=seed, limit=limit, blind_sheet=blind_sheet, judge=judges,
            )  # fmt: skip
            return
        if on_everyday and kind == "encoder":
            raise ConfigError(f"{model} is an encoder of the bench: leave out --data")
        bench = _bench(None if on_everyday else data)
        if kind in {"encoder", "ears"}:
            _refuse(
                "translators, not for an encoder", judges=judges, early=early, baseline=baseline,
                features=features, limit=limit, blind_sheet=blind_sheet,
            )  # fmt: skip
            _measure_encoder(
                model, data if on_everyday else None, bench, out, ears=kind == "ears",
                split=split, seed=seed, command=command,
            )  # fmt: skip
            return
        from soundsight.evaluation.bench import EvaluationConfig

        config = EvaluationConfig(split=split, seed=seed, limit=limit, blind_sheet=blind_sheet)
        report = _measure(
            model, bench, out, config, command,
            judges=judges, early=early, baseline=baseline, features=features,
        )  # fmt: skip
    names = ("informativity", "shuffled sounds", "real photos", "class accuracy")
    _say_report(report, names, out, blind_sheet=blind_sheet)


def _say_report(
    report: dict[str, Any], names: Sequence[str], out: Path, *, blind_sheet: bool
) -> None:
    """Print the means of some rows of a report, and where it was written."""
    from soundsight.evaluation.report import per_cent

    for name in names:
        if name in report["rows"]:
            say(f"{name}: {per_cent(report['rows'][name]['mean'], ' %')}")
    say(f"written: {out / 'report.html'}, report.md, report.json")
    if blind_sheet:
        from soundsight.evaluation.blind import FOLDER, KEY

        say(f"for blind viewing: {out / FOLDER}; the key, to be opened afterwards: {out / KEY}")


def _facts(model: Path, folder: Path) -> dict[str, str]:
    """Name a model and its networks, for a report."""
    return {
        "name": model.resolve().name, "path": str(model), "sha256": _networks_sha256(folder),
    }  # fmt: skip


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


def score_blind(
    answers: Annotated[
        Path, typer.Argument(metavar="ANSWERS", help="The form, filled in: blind/answers.csv.")
    ],
    key: Annotated[Path, typer.Option(help="The key, which lies beside the folder of the form.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the figures as JSON.")
    ] = None,
) -> None:
    """Compare a person's answers to a blind sheet with its key."""
    require_extra(
        "soundsight score-blind", "train", "torch", "safetensors", "jaxtyping", "matplotlib",
        "sklearn", "jinja2",
    )  # fmt: skip
    from soundsight.core.files import write_json
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


def _measure(
    model: Path,
    bench: Bench,
    out: Path,
    config: EvaluationConfig,
    command: str,
    *,
    judges: Path | None,
    early: list[Path] | None,
    baseline: Path | None,
    features: Path | None,
) -> dict[str, Any]:
    """Load what a report takes and make it."""
    from soundsight.evaluation.bench import evaluate as measure
    from soundsight.evaluation.fidelity import load_feature_network
    from soundsight.judges.apply import Judges
    from soundsight.judges.files import check_early, val_tables
    from soundsight.judges.negatives import load_early
    from soundsight.runtime.translator import Translator

    jury = Judges.load(judges)
    kept = load_early(early) if early else None
    if kept is not None:
        check_early(judges, kept)
    network = load_feature_network(features) if features else None
    with _model_folder(model) as folder, progress_bar(log=True) as progress:
        translator = Translator.load(folder)
        return measure(
            translator,
            jury,
            bench,
            out,
            config,
            model=_facts(model, folder),
            command=command,
            early=kept,
            val_tables=val_tables(judges),
            draws=translator.draws,
            network=network,
            baseline=baseline,
            progress=progress,
        )


def _measure_everyday(
    model: Path, data: Path | None, out: Path, command: str, *, judge: Path | None, **settings: Any
) -> None:
    from soundsight.data.everyday.folder import find_everyday
    from soundsight.data.vegas.bench import find_bench
    from soundsight.evaluation.everyday import EverydayConfig, TranslatorModel, evaluate_everyday
    from soundsight.judges.everyday import PhotoJudge
    from soundsight.runtime.translator import Translator

    config = EverydayConfig(**settings)
    found = find_everyday(data)
    with _model_folder(model) as folder, progress_bar(log=True) as progress:
        report = evaluate_everyday(
            TranslatorModel(Translator.load(folder)),
            PhotoJudge.load(judge),
            found,
            find_bench(),
            out,
            config,
            about=_facts(model, folder),
            command=command,
            tell=progress,
        )
    names = ("right", "recordings right", "shuffled sounds", "real photos")
    _say_report(report, names, out, blind_sheet=config.blind_sheet)


def _measure_encoder(
    run: Path, everyday: Path | None, bench: Bench, out: Path, *, ears: bool, **settings: Any
) -> None:
    from soundsight.data.everyday.folder import find_everyday
    from soundsight.evaluation import encoders

    with progress_bar(log=True) as progress:
        if ears:
            found = find_everyday(everyday)
            lines = encoders.report_ears(
                run, found, bench, out, progress=progress, **settings
            ).splitlines()
        else:
            lines = []
            encoders.evaluate_encoder(run, bench, out, progress=progress, **settings)
    for line in lines:
        say(line)
    say(f"written: {out / 'report.html'}, report.md, report.json")


def _refuse(why: str, **options: object) -> None:
    """Refuse options that were given where they have no meaning."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')} is for {why}")


def _networks_sha256(folder: Path) -> str:
    """Name a model by its networks alone: model.json also holds a date, and later these figures."""
    import hashlib

    from soundsight.core.files import sha256_of

    networks = sorted(folder.glob("*.onnx"))
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in networks]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
