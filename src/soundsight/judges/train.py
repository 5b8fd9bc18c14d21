"""Training of the judges: one binary informativity classifier a class.

Positives are real photos of the class; negatives are photos of the other classes and pictures in
which nobody sees anything (:mod:`soundsight.judges.negatives`).

Beside the judges stand, in the same folder and from the same fold, a second judge and a photo
classifier (:mod:`soundsight.judges.fit`) and a space for retrieval
(:mod:`soundsight.judges.retrieval_space`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from soundsight.core.errors import ConfigError
from soundsight.core.progress import progress_bar
from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.judges.files import (
    CLASSIFIER,
    NAMES,
    SECOND,
    VIEWERS,
    JudgeFolder,
    agreement,
    load_into,
    round_weights,
    val_table,
)
from soundsight.judges.fit import (
    FitConfig,
    JudgeTask,
    ViewerConfig,
    accuracy,
    fit,
    head_scores,
    mix,
    viewer_task,
)
from soundsight.judges.negatives import EARLY, load_early
from soundsight.judges.pictures import Pictures, augment, look_at
from soundsight.judges.retrieval_space import (
    FoldPairs,
    SpaceConfig,
    fit_space,
    val_precision,
)
from soundsight.models.picture_classifier import PictureClassifier
from soundsight.models.published.informativity import (
    INFORMATIVE,
    UNINFORMATIVE,
    InformativityClassifier,
    InformativityConfig,
)


@dataclass(frozen=True, kw_only=True)
class BinaryConfig:
    """How a judge is trained and where its threshold lies."""

    seed: int = 0
    steps: int = 5000
    """Batches a judge."""
    batch: int = 64
    """Pictures a batch; half are positives."""
    learning_rate: float = 5e-3
    """Peak of AdamW's rate: linear warm-up over a twentieth of the steps, then a cosine to 0."""
    weight_decay: float = 0.02
    smoothing: float = 0.1
    """Label smoothing."""
    average_decay: float = 0.998
    """Of the moving average of the weights, which is what is kept."""
    strength: float = 1.5
    """Of the augmentation."""
    hidden_share: float = 0.5
    """Part of the pictures in which a box is hidden."""
    bfloat16: bool = True
    """Convolutions in bfloat16: twice as fast on a processor that has it (AVX512-BF16, AMX),
    slower on one that has not."""
    other_share: float = 0.4
    """Part of the negatives that are photos of other classes."""
    made_per_kept: int = 4
    """Uninformative pictures made, of all kinds in equal parts, for each that is learned from:
    those that the moving average of the judge likes best, whatever their kind."""
    fold: int = 0
    """Fold of the photos, in train and val (``fold_of``): 0 or 1; the judges' is 0."""
    accept_rate: float = 0.85
    """Share of the class's val photos that the threshold accepts."""
    val_per_kind: int = 400
    """Uninformative val pictures made of each kind, to measure what passes."""
    model: InformativityConfig = field(
        default_factory=lambda: InformativityConfig(
            spatial_dropout=(0.0, 0.02, 0.07, 0.12, 0.15), dropout=0.25
        )
    )
    """The published dropout (.1 to .5, and .5) underfits with the 500 photos of a class here:
    ``docs/LOG.md``."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 4 or self.val_per_kind < 1:
            raise ConfigError("steps and val_per_kind must be at least 1, batch at least 4")
        if self.made_per_kept < 1:
            raise ConfigError("made_per_kept must be at least 1")
        if not 0 < self.accept_rate <= 1:
            raise ConfigError("accept_rate must lie in (0, 1]")
        if not 0 <= self.other_share <= 1 or not 0 <= self.hidden_share <= 1:
            raise ConfigError("other_share and hidden_share must lie in [0, 1]")
        if not 0 <= self.smoothing < 1 or not 0 <= self.average_decay < 1:
            raise ConfigError("smoothing and average_decay must lie in [0, 1)")
        if self.fold not in (0, 1):
            raise ConfigError("fold must be 0 or 1")


@dataclass(frozen=True, kw_only=True)
class ViewersConfig:
    """How the networks beside the published judges are trained."""

    second: ViewerConfig = field(default_factory=ViewerConfig)
    """The second judge."""
    classifier: ViewerConfig = field(default_factory=ViewerConfig)
    """The photo classifier."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    """The space of sounds and pictures."""


@dataclass(frozen=True, kw_only=True)
class JudgesConfig(BinaryConfig):
    """The judges' settings and those of the networks beside them."""

    viewers: ViewersConfig = field(default_factory=ViewersConfig)


def train(
    config: JudgesConfig,
    bench: Bench,
    out: Path,
    *,
    early: Sequence[Path] = (),
) -> Path:
    """Train one judge a class, and the networks beside them, into the folder ``out``.

    The same command goes on after a stop, and the same arguments give the same bytes.

    Args:
        config: the same settings for every judge.
        bench: photos and pairs of train (to learn from) and val (for thresholds and figures).
        out: gets ``<name>.safetensors`` (fp16), ``judges.json`` and ``CARD.md``.
        early: ``.npz`` files, or folders of them, with ``images`` uint8 [n, 96, 96, 3]: pictures
            of early generators. Without any this kind of negative is left out.

    Returns:
        ``out``.

    Raises:
        ConfigError: when ``out`` was begun with other settings, photos or early pictures.
        DataError: when pictures or pairs of a class are missing or damaged.
        OutputError: when ``out`` holds something else or cannot be written to.
    """
    kept = load_early(early)
    folder = JudgeFolder(out, config, kept, _about(bench))
    if folder.finished:
        return out
    learned, val = (Pictures.read(bench, split, config.fold, kept) for split in ("train", "val"))
    with torch.random.fork_rng(devices=[]):
        for own, name in enumerate(NAMES):
            if name in folder.done:
                continue
            if name in VIEWERS:
                _add_viewer(name, config, bench, learned, val, folder)
            else:
                _add_binary(name, own, config, learned, val, folder)
    folder.finish()
    return out


def score(model: InformativityClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the informativity in [0, 1] of pictures uint8 [n, 96, 96, 3] as float32 [n]."""
    model.eval()
    return look_at(lambda batch: model.informativity(batch)[:, None], images, 1)[:, 0]


def _about(bench: Bench) -> dict[str, str]:
    """Return the hashes of the names of what is learned from, checked to be enough.

    Raises:
        DataError: when the judges' space would have no sounds of a class.
    """
    names = {"photos": [*bench.photos("train"), *bench.photos("val")]}
    pairs = [p for s in ("train", "val") for p in bench.pairs_of_every_class(s, "the jury")]
    names["pairs"] = [f"{pair.spectrogram} {pair.photo}" for pair in pairs]
    return {
        what: hashlib.sha256("\n".join(of_it).encode()).hexdigest() for what, of_it in names.items()
    }


def _add_binary(
    name: str,
    own: int,
    config: BinaryConfig,
    train: Pictures,
    val: Pictures,
    folder: JudgeFolder,
) -> None:
    """Train a judge, that of class number ``own``, and measure it on val."""

    def loss(logs: Tensor, targets: Tensor) -> Tensor:
        return (1 - config.smoothing) * F.nll_loss(logs, targets) - config.smoothing * logs.mean()

    how = FitConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        average_decay=config.average_decay,
        bfloat16=config.bfloat16,
        seed=(config.seed, own),
    )
    task = JudgeTask(
        lambda: InformativityClassifier(config.model),
        lambda step, average: _batch(config, train, own, step, average),
        loss,
        how,
    )
    model = fit(name, task, folder)
    positives, negatives = _val_pictures(config, val, own)
    table = val_table(
        score(model, positives),
        {kind: score(model, images) for kind, images in negatives.items()},
        config.accept_rate,
    )
    folder.add(name, model, asdict(table))


def _add_viewer(
    name: str,
    config: JudgesConfig,
    bench: Bench,
    train: Pictures,
    val: Pictures,
    folder: JudgeFolder,
) -> None:
    """Train one of the networks beside the judges and measure it on val."""
    seed = (config.seed, len(SUBJECTS) + 1 + VIEWERS.index(name))
    settings, bfloat16 = config.viewers, config.bfloat16
    if name in (SECOND, CLASSIFIER):
        how = settings.second if name == SECOND else settings.classifier
        task = viewer_task(name, how, train, seed=seed, bfloat16=bfloat16)
        network = fit(name, task, folder)
        about = (
            _beside_the_first(config, network, val, folder)
            if name == SECOND
            else {"accuracy": accuracy(network, val)}
        )
        folder.add(name, network, about)
    else:
        pairs = FoldPairs(bench, "train", config.fold)
        done, steps = itertools.count(1), settings.space.steps(pairs)
        with progress_bar() as show:
            space = fit_space(
                settings.space, pairs, mix(*seed), bfloat16=bfloat16,
                stepped=lambda: show(name, next(done), steps),
            )  # fmt: skip
        space = round_weights(space)
        precision = val_precision(space, settings.space, bench, val.photos, config.seed)
        folder.add(name, space, {"pairs": len(pairs), "precision": precision})


def _beside_the_first(
    config: JudgesConfig, second: PictureClassifier, val: Pictures, folder: JudgeFolder
) -> dict[str, Any]:
    """Measure the second judge on what the first was measured on, and compare their verdicts."""
    tables, agreements = {}, {}
    for own, subject in enumerate(SUBJECTS):
        first = load_into(InformativityClassifier(config.model), folder.path, subject)
        positives, negatives = _val_pictures(config, val, own)
        kinds = {"own": positives, **negatives}
        scores = {kind: head_scores(second, images)[:, own] for kind, images in kinds.items()}
        table = val_table(scores.pop("own"), scores, config.accept_rate)
        tables[subject] = asdict(table)
        everything = np.concatenate(list(kinds.values()))
        agreements[subject] = asdict(
            agreement(
                score(first, everything) >= np.float32(folder.done[subject]["threshold"]),
                head_scores(second, everything)[:, own] >= np.float32(table.threshold),
            )
        )
    return {"tables": tables, "agreement": agreements}


def _batch(
    config: BinaryConfig,
    pictures: Pictures,
    own: int,
    step: int,
    average: InformativityClassifier,
) -> tuple[Float[Tensor, "n 3 96 96"], Tensor]:
    """Make the batch of ``step``, a function of (seed, judge, step, average of the weights)."""
    rng = np.random.default_rng((config.seed, own, step))
    half = config.batch // 2
    others = round(config.other_share * half)
    photos = [pictures.draw([own], half, rng)[0]]
    if others:
        strange = [c for c in range(len(SUBJECTS)) if c != own]
        photos.append(pictures.draw(strange, others, rng)[0])
    wanted = half - others
    made = pictures.of_every_kind(own, config.made_per_kept * wanted, step, rng)
    if config.made_per_kept > 1:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            # Stable, as what is equally liked must be kept in one order.
            order = np.argsort(-score(average, made), kind="stable")
        made = made[order[:wanted]]
    targets = torch.full((2 * half,), UNINFORMATIVE)
    targets[:half] = INFORMATIVE
    images = np.concatenate([*photos, made])
    return augment(images, rng, config.strength, config.hidden_share), targets


def _val_pictures(
    config: BinaryConfig, val: Pictures, own: int
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Return the val photos of a class and its negatives by kind."""
    rng = np.random.default_rng((config.seed, own, 1 << 32))
    positives = val.photos[own]
    negatives = {f"photos of {s}": val.photos[c] for c, s in enumerate(SUBJECTS) if c != own}
    for kind in val.kinds:
        made = val.uninformative(kind, own, config.val_per_kind, rng)
        negatives[kind] = val.early if kind == EARLY else made
    return positives, negatives
