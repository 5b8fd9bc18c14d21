"""The judge of Everyday's pictures: which of the 22 subjects does one show, or nothing?

A linear reading of frozen photo features: what a picture shows, not how well it pleases the network
that training looked through, so these features are of another network (``lite1``). It is fitted on
real photos of one fold, changed a little as pictures may differ, and on pictures in which nobody
sees anything. Shapes::

    pictures uint8 [n, 96, 96, 3] -> [n, 3, 160, 160] in [-1, 1] -> features [n, 1280]
    -> linear -> softmax -> [n, 23]: the subjects in the order of ``SUBJECTS``, then *nothing*
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from soundsight.core.config import check_values, from_dict
from soundsight.core.errors import ConfigError, DataError, ModelError
from soundsight.core.files import atomic_file, commit
from soundsight.core.progress import Progress
from soundsight.core.units import IMAGE_PX, to_unit
from soundsight.data.everyday.folder import BENCH_PREFIX, SUBJECTS, Everyday, photos_of, read_photo
from soundsight.data.vegas.bench import Bench, fold_of
from soundsight.judges.negatives import KINDS, load_early, make_many
from soundsight.judges.pictures import augment, check_pictures, columns_of, mean_over_classes
from soundsight.models.eyes import POOLED_SIZE, Eyes

NOTHING = "nothing"
ANSWERS = (*SUBJECTS, NOTHING)
EYES = "lite1"
FILE = "judge.safetensors"
BUNDLED = Path(__file__).parents[1] / "assets" / "judges" / "everyday"
ACCEPTED_FROM = 0.5
"""Probability from which the judge is said to be sure of its answer."""

_FORMAT = "soundsight-photo-judge-1"

_SOURCES = (
    "Sources: FairFace (CC BY 4.0), UTKFace, Imagenette, CamSDD, Tiny-ImageNet, MiniPlaces, "
    "Caltech-101, PACS, MWD and sets of instruments, birds and fires (research use). The weights "
    "are for research and non-commercial use; the photos are not distributed."
)
_AT_ONCE = 64

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PhotoJudgeConfig:
    """How the judge is fitted."""

    seed: int = 0
    fold: int = 0  #: of the train photos, by ``fold_of``: half of them
    #: side to which pictures are enlarged: what the network was trained on is 240 px
    size_px: int = 160
    changed: int = 4  #: changed copies of each photo that are learned from beside the photo itself
    nothings: int = 1500  #: uninformative pictures made of each kind
    #: of all pictures of nothing together, where each subject's photos together weigh 1
    nothing_weight: float = 3.0
    decay: float = 3e-4  #: weight of the squared weights in the loss
    iterations: int = 200  #: of L-BFGS, at most

    def __post_init__(self) -> None:
        check_values(
            self, at_least_0="changed decay", at_least_1="nothings iterations",
            above_0="nothing_weight",
        )  # fmt: skip
        if not IMAGE_PX <= self.size_px <= 512 or self.fold not in (0, 1):
            raise ConfigError(f"size_px must lie between {IMAGE_PX} and 512, fold be 0 or 1")


class PhotoJudge:
    """Says what a picture shows: a linear reading, [23, 1280] and [23], of what frozen eyes see.

    ``about`` is what is known of it; ``about["config"]`` are the settings.
    """

    def __init__(self, eyes: Eyes, weight: Tensor, bias: Tensor, about: dict[str, Any]) -> None:
        self.eyes, self.weight, self.bias, self.about = eyes, weight, bias, about

    @classmethod
    def load(cls, path: Path | None = None) -> PhotoJudge:
        """Load a fitted judge from its folder, that of the package where none is given.

        Raises:
            ConfigError: when the package of photo features is not installed.
            DataError: when that package holds other weights.
            ModelError: when the file is missing, damaged, or was fitted on other features.
        """
        path = path or BUNDLED
        if path.is_dir():
            path /= FILE
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["soundsight"])
                weight, bias = (file.get_tensor(name).float() for name in ("weight", "bias"))
            fits = about["format"] == _FORMAT and tuple(about["answers"]) == ANSWERS
            if not fits or weight.shape != (len(ANSWERS), POOLED_SIZE) or bias.ndim != 1:
                raise ValueError("another judge")
            from_dict(PhotoJudgeConfig, about["config"])
        except FileNotFoundError as error:
            raise ModelError(f"there is no judge at {path}") from error
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise ModelError(f"{path} is no judge of Everyday's pictures") from error
        eyes = Eyes.load(EYES)
        if about["eyes_sha256"] != eyes.sha256:
            raise ModelError(f"{path} was fitted on other photo features than {EYES} here")
        return cls(eyes, weight, bias, about)

    def probabilities(self, pictures: Pictures) -> NDArray[np.float32]:
        """Return how likely each answer is: float32 [n, 23] of pictures uint8 [n, 96, 96, 3].

        Raises:
            DataError: when the pictures have another size or type.
        """
        return self.read(self.look(pictures))

    def look(self, pictures: Pictures) -> NDArray[np.float32]:
        """Return the features, float32 [n, 1280], by which the judge goes.

        Raises:
            DataError: when the pictures have another size or type.
        """
        check_pictures(pictures)
        return look(self.eyes, pictures, self.about["config"]["size_px"]).numpy()

    def read(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how likely each answer is, float32 [n, 23], from what :meth:`look` gave."""
        logits = F.linear(torch.from_numpy(features), self.weight, self.bias)
        return F.softmax(logits, dim=1).numpy()


def verdicts(
    probabilities: NDArray[np.float32], subjects: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say from probabilities, [n, 23], whether each picture shows its subject: bool [n] twice.

    It is named where it is the likeliest answer; accepted, where its probability is at least
    ``ACCEPTED_FROM``, too.

    Raises:
        DataError: on a subject that there is not.
    """
    own = columns_of(subjects, SUBJECTS)
    named = probabilities.argmax(axis=1) == own
    sure = probabilities[np.arange(len(own)), own] >= ACCEPTED_FROM
    return named, named & sure


def as_any_subject(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pictures are accepted as any subject: bool [n], of [n, 23]."""
    sure: NDArray[np.bool_] = probabilities[:, :-1].max(axis=1) >= ACCEPTED_FROM
    return sure


@torch.inference_mode()
def look(eyes: Eyes, pictures: Pictures | Tensor, size_px: int) -> Tensor:
    """Return the pooled features, float32 [n, 1280], of pictures enlarged to ``size_px``.

    The pictures are uint8 [n, 96, 96, 3], or float32 [n, 3, 96, 96] in [-1, 1].
    """
    seen = [torch.empty(0, POOLED_SIZE)]
    for start in range(0, len(pictures), _AT_ONCE):
        unit = pictures[start : start + _AT_ONCE]
        if not isinstance(unit, Tensor):
            unit = torch.from_numpy(to_unit(unit)).permute(0, 3, 1, 2)
        large = F.interpolate(unit, size=(size_px, size_px), mode="bilinear", align_corners=False)
        seen.append(eyes.pooled(large.contiguous(memory_format=torch.channels_last)))
    return torch.cat(seen)


def fit_judge(
    config: PhotoJudgeConfig,
    everyday: Everyday,
    bench: Bench,
    *,
    early: Sequence[Path] = (),
    show: Progress = lambda *_: None,
) -> PhotoJudge:
    """Fit the judge on the train photos of both data sets; ``about["val"]`` says how it does.

    Pictures of ``early`` generators, as :func:`load_early` reads them, are more pictures of
    nothing.

    Raises:
        ConfigError: when the package of photo features is not installed.
        DataError: when photos are missing or damaged.
    """
    eyes = Eyes.load(EYES)
    rng = np.random.default_rng(config.seed)
    by_subject = []
    for names in photos_of(everyday, bench, "train").values():
        mine = [n for n in names if fold_of(n.removeprefix(BENCH_PREFIX)) == config.fold]
        if len(mine) < 2:
            raise DataError(f"{everyday.root} has too few photos of every subject to judge by")
        by_subject.append(np.stack([read_photo(everyday, bench, name) for name in mine]))
    photos = np.concatenate(by_subject)
    targets = np.repeat(np.arange(len(SUBJECTS)), [len(some) for some in by_subject])
    known = load_early(early).images
    nothing = np.concatenate([*uninformative(by_subject, config.nothings, rng).values(), known])
    pictures = np.concatenate([photos, nothing])
    targets = np.concatenate([targets, np.full(len(nothing), len(SUBJECTS))])
    seen = []
    for turn in range(config.changed + 1):
        show("looking at photos", turn, config.changed + 1)
        seen.append(look(eyes, change(pictures, rng) if turn else pictures, config.size_px))
    wanted = torch.from_numpy(np.tile(targets, config.changed + 1))
    weight, bias = _fit_linear(torch.cat(seen), wanted, config)
    about = {
        "format": _FORMAT,
        "answers": ANSWERS,
        "eyes_sha256": eyes.sha256,
        "config": asdict(config),
        "photos": len(photos),
        "nothings": len(nothing),
        "early": len(known),
        "commit": commit(),
    }
    judge = PhotoJudge(eyes, weight, bias, about)
    about["val"] = check(judge, everyday, "val")
    return judge


def check(judge: PhotoJudge, everyday: Everyday, split: str) -> dict[str, Any]:
    """Show the judge photos that it has not seen, and uninformative pictures made of them.

    Returns ``photos`` and ``sure``, means over subjects of the share that is named, and accepted;
    ``subjects``, the share named of each; of each kind of uninformative picture the share said to
    be ``nothing``, and ``seen`` as some subject.
    """
    by_subject: list[Pictures] = []
    for subject in SUBJECTS:
        names = [name for name in everyday.photos(split) if name.split("/")[0] == subject]
        by_subject.append(np.stack([everyday.photo(name) for name in names]))
    subjects = np.repeat(SUBJECTS, [len(photos) for photos in by_subject]).tolist()
    found = verdicts(judge.probabilities(np.concatenate(by_subject)), subjects)
    named, sure = (mean_over_classes(right, subjects, SUBJECTS) for right in found)
    rng = np.random.default_rng((judge.about["config"]["seed"], 1))
    made = {
        kind: judge.probabilities(pictures)
        for kind, pictures in uninformative(by_subject, 220, rng).items()
    }
    as_nothing = {k: float((p.argmax(axis=1) == len(SUBJECTS)).mean()) for k, p in made.items()}
    return {
        "photos": named.pop("mean"),
        "sure": sure["mean"],
        "subjects": named,
        "nothing": as_nothing,
        "seen": {kind: float(as_any_subject(p).mean()) for kind, p in made.items()},
    }


def uninformative(
    by_subject: Sequence[Pictures], count: int, rng: np.random.Generator
) -> dict[str, Pictures]:
    """Make ``count`` pictures of each kind of ``KINDS``, each subject as often as another."""
    return {kind: make_many(kind, by_subject, None, count, rng) for kind in KINDS}


def change(pictures: Pictures, rng: np.random.Generator) -> Tensor:
    """Blur a third slightly, pass a third through JPEG, and mirror, zoom and tint: [n, 3, 96, 96].

    What is judged was drawn by a network: neither its sharpness nor a file's coding may decide.
    """
    changed = pictures.copy()
    for index, turn in enumerate(rng.integers(3, size=len(pictures)).tolist()):
        picture = Image.fromarray(pictures[index])
        if turn == 1:
            picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
        elif turn == 2:
            coded = io.BytesIO()
            picture.save(coded, "JPEG", quality=int(rng.integers(40, 95)))
            picture = Image.open(coded)
        changed[index] = np.asarray(picture)
    return augment(changed, rng)


def save_judge(judge: PhotoJudge, folder: Path) -> None:
    """Write ``judge.safetensors``, the reading and what is known of it, and ``CARD.md``.

    Raises:
        OutputError: when they cannot be written.
    """
    content = save(
        {"weight": judge.weight.half(), "bias": judge.bias},
        metadata={"soundsight": json.dumps(judge.about)},
    )
    with atomic_file(folder / FILE) as temporary:
        temporary.write_bytes(content)
    about, val, config = judge.about, judge.about["val"], judge.about["config"]
    of_nothing = ", ".join(f"{kind} {share:.1%}" for kind, share in val["nothing"].items())
    of_subject = ", ".join(f"{name} {share:.0%}" for name, share in val["subjects"].items())
    card = f"""# The judge of Everyday's pictures

A linear reading of frozen photo features (`efficientnet-lite1`, ImageNet, Apache-2.0; not among \
these files) at {config["size_px"]} px: which of {len(SUBJECTS)} subjects does a picture show, or \
nothing? For evaluation only: no translator is trained against it, nor through its features.

**Trained on.** {about["photos"]} photos of fold {config["fold"]} (by a hash of the name), each \
{config["changed"] + 1} times, and {about["nothings"]} pictures in which nobody sees anything, \
{about["early"]} of them early generators'. {_SOURCES}

**On val.** Photos named right, mean over subjects: {val["photos"]:.1%}; with a probability of at \
least one half: {val["sure"]:.1%}. Uninformative pictures said to be nothing: {of_nothing}. \
Subjects: {of_subject}.

Commit {about["commit"]}.
"""
    with atomic_file(folder / "CARD.md") as temporary:
        temporary.write_text(card, "utf-8")


def _fit_linear(seen: Tensor, wanted: Tensor, config: PhotoJudgeConfig) -> tuple[Tensor, Tensor]:
    """Fit softmax regression on standardised features, subjects weighing the same."""
    mean, scale = seen.mean(dim=0), seen.std(dim=0) + 1e-3
    of_answer = torch.ones(len(ANSWERS))
    of_answer[-1] = config.nothing_weight
    each = (of_answer / torch.bincount(wanted, minlength=len(ANSWERS)))[wanted]
    model = LogisticRegression(
        C=1 / (2 * config.decay) if config.decay else np.inf, max_iter=config.iterations
    )
    with warnings.catch_warnings():
        # Fewer iterations than it would take are a setting, and val says what they are worth.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(((seen - mean) / scale).numpy(), wanted.numpy(), (each / each.sum()).numpy())
    weight, bias = (
        torch.from_numpy(np.ascontiguousarray(v)).float() for v in (model.coef_, model.intercept_)
    )
    # On features as they are; rounded here to what is stored, so that this is what is measured.
    rounded = (weight / scale).half().float()
    return rounded, bias - rounded @ mean
