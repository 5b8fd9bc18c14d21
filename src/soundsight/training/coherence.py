"""Do the sound and the picture of a pair agree? Scores for dropping the pairs that agree least.

Two scorers, both cross-fitted: pairs that share a video or a photo, directly or through others,
stand in one fold, and a fold is scored by networks that were fitted on the other folds, since a
network may have learned a wrong pair by heart.

* :func:`contrastive_scores` uses no label: two towers learn by contrast which sounds and pictures
  go together, on the very pairs that are to be cleaned.
* :func:`classifier_scores` uses class labels, for cleaning only: photo classifiers say how much a
  picture looks like its own class, as in the published pre-cleaning (arXiv 2106.01266). It looks
  at pictures alone, so it cannot find a wrong sound.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError, SoundsightError
from soundsight.core.units import FRAMES_PER_SEGMENT, IMAGE_PX, N_MELS
from soundsight.data.store.dataset import batch_indices
from soundsight.models.contrastive import (
    ContrastiveConfig,
    ContrastivePair,
    PictureEncoder,
    limit_temperature,
)
from soundsight.models.published.informativity import InformativityClassifier, InformativityConfig
from soundsight.training.augment import augment_image, augment_mel
from soundsight.training.configs import Checked, Count, Decay, LoopConfig, Positive, Weight
from soundsight.training.encoder import to_float
from soundsight.training.kept import kept_arrays
from soundsight.training.losses import info_nce
from soundsight.training.trainer import LossTask, fit

Network = TypeVar("Network", bound=nn.Module)
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all), over every fold and network of a call."""

FEWEST_PAIRS = 200
FEWEST_GROUPS = 40
"""With fewer pairs, or fewer separate groups of videos, a held-out score is noise."""

_FEWEST_FRAMES = 32
_SCORED_AT_ONCE = 256


class Pairs(Protocol):
    """What is scored: n pairs.

    ``videos``, int64 [n], are equal where the sound is of one video; ``photos`` where the picture
    is one (bench) or of one video.
    """

    @property
    def videos(self) -> NDArray[np.int64]: ...

    @property
    def photos(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Rows) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return log-mels uint8 [k, 128, frames] and pictures uint8 [k, h, w, 3]."""
        ...


@dataclass(frozen=True, kw_only=True)
class _FitConfig(Checked):
    """How the networks of a scorer are fitted."""

    folds: int = 3  #: parts of the data, each scored by networks fitted on the rest
    #: times a network sees each pair (or photo) it learns from, within ``min_steps``, ``max_steps``
    passes: Positive = 20.0
    min_steps: Count = 300  #: fewest batches a network
    max_steps: int = 20_000  #: most batches a network: the time for millions of pairs is bounded
    batch_size: int = 128  #: pairs a batch; fewer where there are few
    learning_rate: Positive = 2e-3  #: AdamW's peak
    weight_decay: Weight = 1e-2  #: AdamW's, on matrices and filters
    picture_px: int = 64  #: side to which pictures are shrunk before the picture tower
    seed: int = 0  #: of folds, networks, batches and candidates
    #: sizes of the towers
    network: ContrastiveConfig = field(default_factory=ContrastiveConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2 or self.min_steps > self.max_steps:
            raise ConfigError("folds must be at least 2, and min_steps at most max_steps")
        if self.batch_size < 8 or not 0 <= self.seed < 2**32:
            raise ConfigError("batch_size must be at least 8, and seed lie in [0, 2^32)")
        if not 32 <= self.picture_px <= 256:
            raise ConfigError("picture_px must lie in 32 .. 256")

    def steps(self, items: int) -> int:
        """Return the number of batches of a network that learns from so many items."""
        wanted = round(self.passes * items / self.batch_size)
        return min(max(wanted, self.min_steps), self.max_steps)


@dataclass(frozen=True, kw_only=True)
class CoherenceConfig(_FitConfig):
    """How the label-free scorer is fitted."""

    #: random pairs of the held-out fold that stand for "any sound, any picture"
    candidates: int = 2000
    frames_pooled: Count = 2  #: neighbouring 10-ms frames averaged into one before the sound tower
    #: convolutions in bfloat16: twice as fast where the processor has it, slower elsewhere
    bfloat16: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 16 or self.frames_pooled > 4:
            raise ConfigError("candidates must be at least 16, frames_pooled at most 4")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(_FitConfig):
    """How the photo classifiers are fitted; of a batch every class is as likely as another."""

    #: one published classifier of 96 px a class (half a batch are its own), or one for all
    kind: Annotated[str, ("binary", "multiclass")] = "multiclass"
    passes: Positive = 30.0
    min_steps: Count = 200
    learning_rate: Positive = 3e-3
    weight_decay: Weight = 2e-2
    smoothing: Decay = 0.1  #: label smoothing of ``multiclass``
    #: the published classifier
    binary: InformativityConfig = field(
        default_factory=lambda: InformativityConfig(
            spatial_dropout=(0.0, 0.0, 0.05, 0.1, 0.1), dropout=0.2
        )
    )


def contrastive_scores(
    pairs: Pairs,
    config: CoherenceConfig | None = None,
    *,
    work: Path | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Score how well each pair's sound and picture agree, without any label.

    The score is an estimate of the pointwise mutual information in nats: how much likelier the
    picture is with this sound than any picture of the fold, averaged with the same from picture to
    sound (van den Oord et al. 2018). Above 0 a pair fits better than chance; where even the mean
    is not above 0 hardly anything was learned (``docs/cleaning.md``).

    Args:
        pairs: at least ``FEWEST_PAIRS``; read in batches, never all at once.
        work: folder in which the scores of each finished fold are kept; the same call goes on
            after a stop. Other settings or other pairs make its content void.

    Returns:
        float32 [n], finite, higher = agrees better.

    Raises:
        DataError: on too few pairs or groups, on one group that holds most pairs, or on log-mels
            or pictures of a wrong shape.
        SoundsightError: when the loss is no longer finite.
        OutputError: when ``work`` cannot be written to.
    """
    config = config or CoherenceConfig()
    fold = folds_of(pairs.videos, pairs.photos, config.folds, config.seed)
    steps = [config.steps(int((fold != k).sum())) for k in range(config.folds)]

    def score(k: int, learned: Rows, held_out: Rows, stepped: Callable[[], None]) -> Scores:
        seed = _seed(config.seed, k, 0)
        network = fit_pair(pairs, learned, config, steps[k], seed, stepped)
        return agreement(network, pairs, held_out, config).astype(np.float32)

    settings = {"scorer": "contrastive", **to_dict(config)}
    return _cross_fit(pairs, fold, score, settings, work, progress, steps)


def classifier_scores(
    pairs: Pairs,
    labels: Sequence[str] | NDArray[np.int64],
    config: ClassifierConfig | None = None,
    *,
    work: Path | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Return the probability, float32 [n], that each pair's picture is of its own class.

    Every class counts as likely as another; sounds play no part. ``labels`` are the class of each
    pair, of two at least, for cleaning only. ``pairs``, ``work`` and errors are those of
    :func:`contrastive_scores`; DataError also when a class is missing from a fold's training part.
    """
    config = config or ClassifierConfig()
    if len(labels) != len(pairs):
        raise DataError(f"{len(labels)} labels for {len(pairs)} pairs: give one a pair")
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    label = label.astype(np.int64)
    if len(names) < 2:
        raise DataError("all pairs are of one class: photo classifiers need at least two")
    photos = pairs.photos
    fold = folds_of(pairs.videos, photos, config.folds, config.seed)
    for k in range(config.folds):
        for lacking in sorted(set(range(len(names))) - set(label[fold != k].tolist())):
            raise DataError(
                f"class {names[lacking]} hangs together by its videos and photos and cannot be "
                "divided into folds: leave it out or give it more videos"
            )
    steps = [config.steps(len(np.unique(photos[fold != k]))) for k in range(config.folds)]
    # One network for all classes, or one for each.
    binary = config.kind == "binary"
    networks: list[int | None] = [*range(len(names))] if binary else [None]

    def score(k: int, learned: Rows, held_out: Rows, stepped: Callable[[], None]) -> Scores:
        result = np.empty(len(held_out), dtype=np.float32)
        for own in networks:
            seed = _seed(config.seed, k, own or 0)
            network = _fit_classes(
                pairs, learned, label, len(names), config, steps[k], seed, stepped, own
            )
            rows = np.flatnonzero((label[held_out] == own) | (own is None))
            for start in range(0, len(rows), _SCORED_AT_ONCE):
                part = rows[start : start + _SCORED_AT_ONCE]
                target = label[held_out[part]] if own is None else np.ones(len(part), np.int64)
                _, image = read_batch(pairs, held_out[part], px=_side(config))
                with torch.no_grad():
                    logs = network(_last(image)).gather(1, torch.from_numpy(target)[:, None])
                result[part] = logs[:, 0].exp().numpy()
        return result

    text = hashlib.sha256(json.dumps([str(name) for name in names]).encode() + label.tobytes())
    settings = {"scorer": "classifier", **to_dict(config), "labels": text.hexdigest()}
    in_all = [len(networks) * n for n in steps]
    return _cross_fit(pairs, fold, score, settings, work, progress, in_all)


def keep_share(scores: NDArray[np.floating], drop_share: float) -> NDArray[np.bool_]:
    """Return which pairs stay, bool [n], when the share with the lowest scores is dropped.

    ``round(drop_share * n)`` pairs go; of equal scores the later ones go first. ConfigError when
    ``drop_share`` does not lie in [0, 1), DataError when a score is not finite.
    """
    if not 0 <= drop_share < 1:
        raise ConfigError(f"the share to drop must lie in [0, 1), not {drop_share}")
    values = np.asarray(scores)
    if not np.isfinite(values).all():
        raise DataError("a coherence score is not finite: score the pairs again")
    keep = np.ones(len(values), dtype=np.bool_)
    order = np.argsort(-values, kind="stable")
    keep[order[len(values) - round(drop_share * len(values)) :]] = False
    return keep


def folds_of(videos: Rows, photos: Rows, folds: int, seed: int) -> Rows:
    """Return the fold of each pair, int64 [n]; folds share neither a video nor a photo.

    Pairs linked by a video or a photo, directly or through others, stay together; the largest such
    groups are placed first, each into the emptiest fold, and ``seed`` decides between those of one
    size. DataError on too few pairs or groups, or when one group is larger than a fold.
    """
    n = len(videos)
    if n < FEWEST_PAIRS:
        raise DataError(
            f"{n} pairs are too few to learn which sounds and pictures agree: at least "
            f"{FEWEST_PAIRS} are needed, or leave the coherence filter out"
        )
    # Connected components of the links between videos and photos.
    _, v = np.unique(videos, return_inverse=True)
    _, p = np.unique(photos, return_inverse=True)
    size = int(v.max()) + int(p.max()) + 2
    links = coo_array((np.ones(n), (v, p + int(v.max()) + 1)), shape=(size, size))
    component = connected_components(links, directed=False)[1]
    _, group, sizes = np.unique(component[v], return_inverse=True, return_counts=True)
    if len(sizes) < max(FEWEST_GROUPS, folds):
        raise DataError(
            f"the pairs come from {len(sizes)} separate groups of videos: at least "
            f"{max(FEWEST_GROUPS, folds)} are needed to judge each by the others"
        )
    if sizes.max() > n / folds:
        raise DataError(
            f"{sizes.max()} of {n} pairs hang together by their videos and photos: "
            "no fair division into folds, leave the coherence filter out"
        )
    chance = np.random.default_rng((seed, 1)).random(len(sizes))
    load = np.zeros(folds, dtype=np.int64)
    place = np.empty(len(sizes), dtype=np.int64)
    for g in np.lexsort((chance, -sizes)):
        place[g] = int(load.argmin())
        load[place[g]] += sizes[g]
    return place[group]


def fit_pair(
    pairs: Pairs,
    rows: Rows,
    config: CoherenceConfig,
    steps: int,
    seed: int,
    stepped: Callable[[], None] = lambda: None,
) -> ContrastivePair:
    """Return two towers fitted on the pairs at ``rows``, in eval mode."""
    videos, photos = torch.tensor(pairs.videos), torch.tensor(pairs.photos)
    batch_size = min(config.batch_size, len(rows) // 2)
    # Shifts and masks as long as on whole frames.
    shift, mask = 20 // config.frames_pooled, 15 // config.frames_pooled

    def loss(network: ContrastivePair, step: int, rng: torch.Generator) -> Tensor:
        chosen = rows[batch_indices(len(rows), batch_size, seed, step)]
        mel, image = _read(pairs, chosen, config)
        mel = augment_mel(mel, rng, shift_frames=shift, mask_frames=mask)
        image = augment_image(image, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            sound, picture = network(_last(mel), _last(image))
        limit_temperature(network.log_scale)
        video, photo = videos[chosen], photos[chosen]
        return info_nce(sound.float(), picture.float(), video, photo, network.log_scale)

    return _fit(lambda: ContrastivePair(config.network), loss, config, steps, seed, stepped)


@torch.no_grad()
def agreement(
    network: ContrastivePair, pairs: Pairs, rows: Rows, config: CoherenceConfig
) -> NDArray[np.float64]:
    """Return the score in nats of each pair at ``rows``, among random pairs of ``rows``."""
    sounds, pictures = [], []
    for start in range(0, len(rows), _SCORED_AT_ONCE):
        mel, image = _read(pairs, rows[start : start + _SCORED_AT_ONCE], config)
        sound, picture = network(_last(mel), _last(image))
        sounds.append(F.normalize(sound, dim=1))
        pictures.append(F.normalize(picture, dim=1))
    sound, picture = torch.cat(sounds), torch.cat(pictures)
    rng = np.random.default_rng((config.seed, 2))
    among = rng.permutation(len(rows))[: config.candidates]
    video, photo = pairs.videos[rows], pairs.photos[rows]
    scale = network.log_scale.exp()
    result = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(rows), _SCORED_AT_ONCE):
        here = slice(start, start + _SCORED_AT_ONCE)
        same = video[here, None] == video[None, among]
        same |= photo[here, None] == photo[None, among]
        other = torch.from_numpy(~same)
        own = (sound[here] * picture[here]).sum(dim=1) * scale
        by_sound = _log_mean_exp(sound[here] @ picture[among].T * scale, other)
        by_picture = _log_mean_exp(picture[here] @ sound[among].T * scale, other)
        above = own - 0.5 * (by_sound + by_picture)
        # With nothing to compare with, a pair is as good as chance.
        result[here] = torch.where(other.any(dim=1), above, 0.0).double().numpy()
    return result


def _log_mean_exp(values: Float[Tensor, "n k"], valid: Tensor) -> Float[Tensor, " n"]:
    total = torch.logsumexp(values.masked_fill(~valid, float("-inf")), dim=1)
    return total - valid.sum(dim=1).clamp(min=1).log()


def read_batch(
    pairs: Pairs, rows: Rows, *, pooled: int = 1, px: int = IMAGE_PX
) -> tuple[Float[Tensor, "n 1 128 t"], Float[Tensor, "n 3 px px"]]:
    """Return log-mels and pictures of some pairs at the networks' sizes, in [-1, 1].

    ``pooled`` neighbouring frames are averaged into one; pictures become squares of ``px``.
    DataError on a shape that cannot be judged.
    """
    mel, image = pairs.gather(rows)
    bands, frames = mel.shape[1:]
    if bands != N_MELS or frames < _FEWEST_FRAMES or mel.dtype != np.uint8:
        raise DataError(
            f"log-mels of shape {mel.shape[1:]} ({mel.dtype}) cannot be judged: 8-bit levels of "
            f"{N_MELS} bands and at least {_FEWEST_FRAMES} frames are expected"
        )
    if image.ndim != 4 or image.shape[3] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"pictures of shape {image.shape[1:]} ({image.dtype}) cannot be judged: "
            "8-bit RGB is expected"
        )
    spare = max(0, mel.shape[2] - FRAMES_PER_SEGMENT) // 2
    mel = mel[:, :, spare : spare + FRAMES_PER_SEGMENT]
    # Copies, as what was read may be read-only.
    sound = to_float(torch.from_numpy(np.array(mel)))[:, None]
    if pooled > 1:
        sound = F.avg_pool2d(sound, (1, pooled))
    picture = to_float(torch.from_numpy(np.array(image))).permute(0, 3, 1, 2)
    if picture.shape[2:] != (px, px):
        picture = F.interpolate(picture, size=(px, px), mode="bilinear", antialias=True)
    return sound, picture


def _read(pairs: Pairs, rows: Rows, config: CoherenceConfig) -> tuple[Tensor, Tensor]:
    return read_batch(pairs, rows, pooled=config.frames_pooled, px=config.picture_px)


def _last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _side(config: ClassifierConfig) -> int:
    return config.picture_px if config.kind == "multiclass" else IMAGE_PX


def _seed(*words: int) -> int:
    """Mix numbers into one 63-bit seed for PyTorch."""
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 31) ^ int(state[1])


def _cross_fit(
    pairs: Pairs,
    fold: Rows,
    score: Callable[[int, Rows, Rows, Callable[[], None]], Scores],
    settings: dict[str, Any],
    work: Path | None,
    progress: Progress | None,
    steps: Sequence[int],
) -> Scores:
    """Score every fold that is not in ``work`` yet; return the scores in the pairs' order.

    ``score`` takes a fold, its rows to learn from and to score, and what to call after each of its
    ``steps``; ``settings`` are what the scores depend on beside the pairs.
    """
    report = progress or (lambda _done, _of: None)
    total, fitted = sum(steps), set()

    def make(k: int) -> dict[str, Scores]:
        fitted.add(k)
        done = itertools.count(sum(steps[:k]) + 1)
        learned, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        scores = score(k, learned, held_out, lambda: report(next(done), total))
        if not np.isfinite(scores).all():
            raise SoundsightError("a coherence score is not finite: try a lower learning_rate")
        return {"scores": scores}

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    # Kept scores are void when the pairs are others. Ids may stay while the pictures change: a few
    # pairs stand for all.
    some = np.linspace(0, len(pairs) - 1, 16).astype(np.int64)
    for values in (pairs.videos, pairs.photos, *pairs.gather(some)) if work else ():
        digest.update(np.ascontiguousarray(values).tobytes())
    result = np.empty(len(pairs), dtype=np.float32)
    for k in range(len(steps)):
        if work is None:
            kept = make(k)
        else:
            path = work / f"{settings['scorer']}-{k:02d}.npz"
            kept = kept_arrays(path, digest.hexdigest(), partial(make, k), repair=True)
        if k not in fitted:
            report(sum(steps[: k + 1]), total)
        result[fold == k] = kept["scores"]
    return result


def _fit(
    make: Callable[[], Network],
    loss: Callable[[Network, int, torch.Generator], Tensor],
    config: _FitConfig,
    steps: int,
    seed: int,
    stepped: Callable[[], None],
) -> Network:
    """Fit one network in memory and return it in eval mode; torch's own randomness stays."""
    loop = LoopConfig(steps=steps, batch_size=config.batch_size, seed=seed, log_every=25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        task = LossTask(
            "coherence filter", network, lambda step, rng: loss(network, step, rng), loop,
            learning_rate=config.learning_rate, weight_decay=config.weight_decay,
        )  # fmt: skip
        fit(task, None, loop, progress=lambda _step, _steps: stepped())
    return network.eval()


class _PictureClassifier(nn.Module):
    """A picture tower and a linear layer: [n, 3, 96, 96] -> log-probabilities [n, classes]."""

    def __init__(self, config: ContrastiveConfig, classes: int) -> None:
        super().__init__()
        self.tower = PictureEncoder(config)
        self.out = nn.Linear(config.embedding_size, classes)

    def forward(self, image: Float[Tensor, "n 3 96 96"]) -> Float[Tensor, "n c"]:
        return F.log_softmax(self.out(self.tower(image)), dim=1)


def _fit_classes(
    pairs: Pairs,
    learned: Rows,
    label: Rows,
    classes: int,
    config: ClassifierConfig,
    steps: int,
    seed: int,
    stepped: Callable[[], None],
    own: int | None,
) -> nn.Module:
    """Return a classifier of all classes, or of the class ``own`` against the others."""
    label = label[learned]
    # Every class is as likely as another, and every photo of a class.
    both = np.stack([label, pairs.photos[learned]])
    distinct, photo, count = np.unique(both, axis=1, return_inverse=True, return_counts=True)
    weight = 1.0 / (count[photo] * np.bincount(distinct[0], minlength=classes)[label])

    def some(count: int, among: NDArray[Any], rng: np.random.Generator) -> Rows:
        share = weight * among
        return rng.choice(len(share), size=count, p=share / share.sum())

    def loss(network: nn.Module, step: int, rng: torch.Generator) -> Tensor:
        draws, size = np.random.default_rng((seed, step)), config.batch_size
        if own is None:
            rows, target, smooth = some(size, np.ones(len(label)), draws), label, config.smoothing
        else:
            target, smooth, half = (label == own).astype(np.int64), 0.0, size // 2
            parts = (some(half, target, draws), some(size - half, 1 - target, draws))
            rows = np.concatenate(parts)
        _, image = read_batch(pairs, learned[rows], px=_side(config))
        logs = network(_last(augment_image(image, rng)))
        nll = F.nll_loss(logs, torch.from_numpy(target[rows]))
        return (1 - smooth) * nll - smooth * logs.mean()

    def make() -> nn.Module:
        if own is None:
            return _PictureClassifier(config.network, classes)
        return InformativityClassifier(config.binary)

    return _fit(make, loss, config, steps, seed, stepped)
