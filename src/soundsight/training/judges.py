"""Training of the judges (one binary informativity classifier a class) and of the critic.

Positives are real photos of the class; negatives are photos of the other classes and pictures in
which nobody sees anything (:mod:`soundsight.training.uninformative`). The critic is the same
classifier without a class: every photo is a positive. It serves at run time, so it is trained on
the fold of the photos that the judges never see.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from soundsight.core.errors import ConfigError, DataError, SoundsightError
from soundsight.core.units import to_unit
from soundsight.models.informativity import (
    INFORMATIVE,
    UNINFORMATIVE,
    InformativityClassifier,
    InformativityConfig,
)
from soundsight.pairs.bench import SUBJECTS, Bench, fold_of, photo_subject
from soundsight.training.encoder import one_cycle
from soundsight.training.judge_files import JudgeFolder, ValTable, round_weights
from soundsight.training.loop import StopRequest
from soundsight.training.uninformative import EARLY, KINDS, early_part, load_early, make_many

CRITIC = "critic"
_SAVE_EVERY_S = 60.0
_LOG_EVERY = 25
_WARM_UP = 0.05
_SCORED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class JudgesConfig:
    """How a judge, or the critic, is trained and where its threshold lies."""

    seed: int = 0
    steps: int = 1500
    """Batches a judge."""
    batch: int = 64
    """Pictures a batch; half are positives."""
    learning_rate: float = 5e-3
    """Peak of AdamW's rate: linear warm-up over a twentieth of the steps, then a cosine to 0."""
    weight_decay: float = 0.02
    other_share: float = 0.5
    """Part of the negatives that are photos of other classes; the kinds of uninformative
    pictures share the rest equally. The critic has no other classes and leaves it out."""
    fold: int = 0
    """Fold of the photos, in train and val (``fold_of``): 0 the judges', 1 the critic's."""
    accept_rate: float = 0.85
    """Share of the class's val photos that the threshold accepts."""
    val_per_kind: int = 400
    """Uninformative val pictures made of each kind, to measure what passes."""
    model: InformativityConfig = field(
        default_factory=lambda: InformativityConfig(
            spatial_dropout=(0.0, 0.0, 0.05, 0.1, 0.1), dropout=0.2
        )
    )
    """The published dropout (.1 to .5, and .5) underfits with the 500 photos of a class here:
    ``docs/LOG.md``."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 4 or self.val_per_kind < 1:
            raise ConfigError("steps and val_per_kind must be at least 1, batch at least 4")
        if not 0 < self.accept_rate <= 1 or not 0 <= self.other_share <= 1:
            raise ConfigError("accept_rate must lie in (0, 1], other_share in [0, 1]")
        if self.fold not in (0, 1):
            raise ConfigError("fold must be 0 (judges) or 1 (critic)")


def critic_config(**changes: Any) -> JudgesConfig:
    """Return the critic's settings: its own fold, every class, 95 % of val photos accepted."""
    return JudgesConfig(**{"fold": 1, "other_share": 0.0, "accept_rate": 0.95, **changes})


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """What one fold of one split offers: photos by class (in the order of SUBJECTS), and early."""

    photos: list[NDArray[np.uint8]]
    early: NDArray[np.uint8]

    @property
    def kinds(self) -> tuple[str, ...]:
        return (*KINDS, EARLY) if len(self.early) else KINDS

    def uninformative(
        self, kind: str, own: int | None, count: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        if kind == EARLY:
            return self.early[rng.integers(len(self.early), size=count)]
        return make_many(kind, self.photos, own, count, rng)


def train(
    config: JudgesConfig,
    bench: Bench,
    out: Path,
    *,
    early: Sequence[Path] = (),
    console: Console | None = None,
) -> Path:
    """Train one judge a class into the folder ``out``; the same command goes on after a stop.

    Args:
        config: the same settings for every judge.
        bench: photos of train (to learn from) and val (for the thresholds and the table).
        out: gets ``<class>.safetensors`` (fp16), ``judges.json`` and ``CARD.md``.
        early: ``.npz`` files, or folders of them, with ``images`` uint8 [n, 96, 96, 3]: pictures
            of an early generator. Without any this kind of negative is left out.
        console: where progress is shown; standard error by default.

    Returns:
        ``out``.

    Raises:
        ConfigError: when ``out`` was begun with other settings or other pictures.
        DataError: when pictures are missing or damaged.
    """
    return _train_all(config, bench, out, "judges", list(SUBJECTS), early, console)


def train_critic(
    config: JudgesConfig,
    bench: Bench,
    out: Path,
    *,
    early: Sequence[Path] = (),
    console: Console | None = None,
) -> Path:
    """Train the class-free critic into ``out``: ``critic.safetensors``, ``critic.json``, a card.

    Arguments and errors as in :func:`train`; ``config`` as from :func:`critic_config`.
    """
    return _train_all(config, bench, out, CRITIC, [CRITIC], early, console)


def score(
    model: InformativityClassifier, images: NDArray[np.uint8], device: torch.device | None = None
) -> NDArray[np.float32]:
    """Return the informativity in [0, 1] of pictures uint8 [n, 96, 96, 3] as float32 [n]."""
    model.eval()
    scores = np.empty(len(images), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(images), _SCORED_AT_ONCE):
            chunk = slice(start, start + _SCORED_AT_ONCE)
            batch = torch.from_numpy(to_unit(images[chunk])).permute(0, 3, 1, 2)
            scores[chunk] = model.informativity(batch.to(device)).cpu().numpy()
    return scores


def accepting(scores: NDArray[np.float32], rate: float) -> float:
    """Return the highest threshold that accepts (score >= threshold) at least ``rate`` of them."""
    kept = math.ceil(rate * len(scores) - 1e-9)
    return float(np.sort(scores)[::-1][kept - 1])


def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> Float[Tensor, "n 3 96 96"]:
    """Mirror, shift, scale and tint pictures a little; positives and negatives alike.

    A quarter keep their pixels' places, so that no judge goes by the blur of resampling.

    Args:
        images: uint8 [n, 96, 96, 3].

    Returns:
        float32 in about [-1, 1].
    """
    n = len(images)
    moved = (rng.random(n) >= 0.25).astype(np.float32)
    zoom = np.exp(rng.uniform(-0.15, 0.15, n) * moved)
    theta = np.zeros((n, 2, 3), dtype=np.float32)
    theta[:, 0, 0] = zoom * rng.choice((-1.0, 1.0), n)
    theta[:, 1, 1] = zoom
    theta[:, :, 2] = rng.uniform(-0.12, 0.12, (n, 2)) * moved[:, None]
    unit = torch.from_numpy(to_unit(images)).permute(0, 3, 1, 2)
    grid = F.affine_grid(torch.from_numpy(theta), list(unit.shape), align_corners=False)
    unit = F.grid_sample(unit, grid, padding_mode="reflection", align_corners=False)
    gain = rng.uniform(0.85, 1.15, (n, 1, 1, 1)) * rng.uniform(0.95, 1.05, (n, 3, 1, 1))
    shift = rng.uniform(-0.12, 0.12, (n, 1, 1, 1))
    # In place: at this size an allocation costs as much as the sum.
    unit.mul_(torch.from_numpy(gain.astype(np.float32)))
    return unit.add_(torch.from_numpy(shift.astype(np.float32))).clamp_(-1, 1)


def _train_all(
    config: JudgesConfig,
    bench: Bench,
    out: Path,
    kind: str,
    names: list[str],
    early_paths: Sequence[Path],
    console: Console | None,
) -> Path:
    early = load_early(early_paths)
    folder = JudgeFolder.open(out, kind, names, config, early)
    if folder.finished:
        return out
    pictures = {
        split: _Pictures(
            photos=_photos(bench, split, config.fold),
            early=early_part(early, config.fold, split),
        )
        for split in ("train", "val")
    }
    if len(early) and not all(len(p.early) for p in pictures.values()):
        raise DataError(f"{len(early)} early pictures are too few to divide: give some hundreds")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        for name in names:
            if name in folder.done:
                continue
            task = progress.add_task(name, total=config.steps, rate="")

            def show(step: int, rate: float, task: TaskID = task) -> None:
                progress.update(task, completed=step, rate=f"{rate:.1f} batches/s")

            own = None if kind == CRITIC else names.index(name)
            model, seconds = _train_one(config, pictures["train"], own, name, folder, show)
            folder.add(name, model, _val_table(config, model, pictures["val"], own), seconds)
    folder.finish()
    return out


def _train_one(
    config: JudgesConfig,
    pictures: _Pictures,
    own: int | None,
    name: str,
    folder: JudgeFolder,
    show: Callable[[int, float], None],
) -> tuple[InformativityClassifier, float]:
    from torch.utils.tensorboard import SummaryWriter

    key = len(SUBJECTS) if own is None else own
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config.seed, key, -1))
        model = InformativityClassifier(config.model)
        # Channels last is a quarter faster on a CPU, and no result depends on it.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
        first, seconds = folder.load_state(name, model, optimizer)
        began = saved = time.monotonic()
        model.train()
        with StopRequest() as stop, SummaryWriter(str(folder.path / "tensorboard")) as board:
            for step in range(first, config.steps):
                images, targets = _batch(config, pictures, own, step, key)
                torch.manual_seed(_seed(config.seed, key, step))
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * one_cycle(step, config.steps, _WARM_UP)
                loss = F.nll_loss(model(images), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                now = time.monotonic()
                show(step + 1, (step + 1 - first) / max(now - began, 1e-9))
                if step % _LOG_EVERY == 0:
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise SoundsightError(
                            f"the loss of {name} is {value} at step {step}: try a lower "
                            "learning_rate, in another folder"
                        )
                    board.add_scalar(f"{name}/loss", value, step)
                if stop.asked or now - saved > _SAVE_EVERY_S:
                    folder.save_state(name, model, optimizer, step + 1, seconds + now - began)
                    saved = now
                if stop.asked:
                    raise KeyboardInterrupt
    return round_weights(model).eval(), seconds + time.monotonic() - began


def _batch(
    config: JudgesConfig, pictures: _Pictures, own: int | None, step: int, key: int
) -> tuple[Float[Tensor, "n 3 96 96"], Tensor]:
    """Make the batch of ``step``, a function of (seed, judge, step) alone."""
    rng = np.random.default_rng((config.seed, key, step))
    everyone = list(range(len(pictures.photos)))
    half = config.batch // 2
    others = 0 if own is None else round(config.other_share * half)
    chosen = [_draw(pictures.photos, everyone if own is None else [own], half, rng)]
    if others:
        chosen.append(_draw(pictures.photos, [c for c in everyone if c != own], others, rng))
    kinds = pictures.kinds
    counts = np.bincount((np.arange(half - others) + step) % len(kinds), minlength=len(kinds))
    for kind, count in zip(kinds, counts, strict=True):
        chosen.append(pictures.uninformative(kind, own, int(count), rng))
    targets = torch.full((2 * half,), UNINFORMATIVE)
    targets[:half] = INFORMATIVE
    images = augment(np.concatenate(chosen), rng)
    return images.contiguous(memory_format=torch.channels_last), targets


def _draw(
    photos: list[NDArray[np.uint8]], classes: list[int], count: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw photos with every class as likely as another: uint8 [count, 96, 96, 3]."""
    picked = rng.choice(classes, size=count)
    return np.stack([photos[c][rng.integers(len(photos[c]))] for c in picked])


def _val_table(
    config: JudgesConfig, model: InformativityClassifier, pictures: _Pictures, own: int | None
) -> ValTable:
    """Set the threshold on the val photos and measure which negatives pass it."""
    rng = np.random.default_rng((config.seed, len(SUBJECTS) if own is None else own, 1 << 32))
    by_class = [score(model, photos) for photos in pictures.photos]
    positives = np.concatenate(by_class) if own is None else by_class[own]
    threshold = accepting(positives, config.accept_rate)
    negatives: dict[str, NDArray[np.float32]] = {}
    if own is not None:
        negatives |= {f"photos of {s}": by_class[c] for c, s in enumerate(SUBJECTS) if c != own}
    for kind in pictures.kinds:
        made = pictures.uninformative(kind, own, config.val_per_kind, rng)
        negatives[kind] = score(model, pictures.early if kind == EARLY else made)
    return ValTable(
        threshold=threshold,
        photos=len(positives),
        accepted=float((positives >= threshold).mean()),
        passed={name: float((scores >= threshold).mean()) for name, scores in negatives.items()},
        counts={name: len(scores) for name, scores in negatives.items()},
    )


def _photos(bench: Bench, split: str, fold: int) -> list[NDArray[np.uint8]]:
    by_class: dict[str, list[NDArray[np.uint8]]] = {subject: [] for subject in SUBJECTS}
    for member in bench.photos(split):
        if fold_of(member) == fold:
            by_class[photo_subject(member)].append(bench.photo(member))
    for subject, photos in by_class.items():
        if len(photos) < 2:
            raise DataError(f"photos/{split}.tar has too few photos of {subject} to judge by")
    return [np.stack(by_class[subject]) for subject in SUBJECTS]


def _seed(seed: int, key: int, step: int) -> int:
    """Mix into one 63-bit seed for PyTorch."""
    words = np.random.SeedSequence((seed, key, step + 1)).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])
