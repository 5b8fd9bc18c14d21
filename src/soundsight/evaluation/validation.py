"""A look at a translator in training, on seconds of val: figures of one number each.

It chooses nothing and stops nothing; a run is judged by ``soundsight evaluate``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundsight.data.vegas.bench import SUBJECTS, Bench, Pair
from soundsight.evaluation import fidelity, segments
from soundsight.evaluation.bench import read_photos
from soundsight.evaluation.metrics import log_odds, matching_gap
from soundsight.judges.apply import Judges
from soundsight.judges.pictures import columns_of, mean_over_classes
from soundsight.training.encoder import to_float
from soundsight.training.losses import pixel_loss
from soundsight.training.published import TranslatorTask
from soundsight.training.trainer import Task

_SECONDS_A_CLASS = 100


def _tensor(levels: NDArray[np.uint8]) -> Tensor:
    return to_float(torch.from_numpy(levels))


class ValFigures:
    """A quick look at a translator in training: what do the judges say of val pictures?

    It draws the same val sounds each time, up to 100 seconds a class, without interval or control,
    and nothing is hidden. It chooses nothing and stops nothing: a run is judged by ``soundsight
    evaluate``.
    """

    def __init__(self, judges: Judges, bench: Bench, *, seed: int = 0) -> None:
        self._judges = judges
        pairs = bench.pairs_of_every_class("val", "evaluation")
        rng = np.random.default_rng(seed)
        chosen: list[Pair] = []
        for subject in SUBJECTS:
            mine = [pair for pair in pairs if pair.subject == subject]
            order = rng.permutation(len(mine))[:_SECONDS_A_CLASS]
            chosen += [mine[i] for i in sorted(order)]
        self._sounds = segments.bench_segments(bench, chosen)
        photos, classes = (np.array(of) for of in ([p.photo for p in chosen], self._sounds.kinds))
        self._frames = _tensor(np.stack([bench.photo(photo) for photo in photos]))
        # The next frame of the class that is another one; its own where there is none.
        self._other = np.arange(len(chosen))
        for i in range(len(chosen)):
            others = np.flatnonzero((classes == classes[i]) & (photos != photos[i]))
            if len(others):
                self._other[i] = others[np.searchsorted(others, i) % len(others)]
        self._photos: NDArray[np.float32] | None = None
        if judges.classifier is not None:
            self._photos = judges.classifier.features(read_photos(bench, "val")[0])

    def __call__(self, task: Task, step: int) -> dict[str, float]:
        """Return figures by name.

        ``val_informativity``: the share accepted by the judge of the sound's class, mean over
        classes; ``val_dog`` and so on of each. ``val_shuffled``: the share that a judge accepts of
        the pictures of other classes' sounds. ``val_coherence``: how much higher the judges'
        log-odds are for the sound's class than for another's (:func:`metrics.matching_gap`). With
        ``val_second_`` the last two and informativity by the second judge. ``val_kid``: KID from
        val's photos in the classifier's features. ``val_pixel_loss``: L1 from the sound's own
        frame, in [-1, 1]; ``val_other_pixel_loss``: from another frame of its class.
        """
        del step
        assert isinstance(task, TranslatorTask)  # no other task draws pictures
        kinds, judges = self._sounds.kinds, self._judges
        pictures = task.draw(self._sounds.mels)
        own = np.arange(len(kinds)), columns_of(kinds)
        drawn = _tensor(pictures)
        figures = {
            f"val_{name}pixel_loss": float(pixel_loss(drawn, self._frames[rows], "l1"))
            for name, rows in (("", own[0]), ("other_", self._other))
        }
        for name, panel in (("val_", judges), ("val_second_", judges.second)):
            if panel is None:
                continue
            scores = panel.scores(pictures)
            accepted = panel.decide(scores)
            found = mean_over_classes(accepted[own], kinds)
            gap = matching_gap(accepted.astype(np.float64), kinds)
            figures[f"{name}informativity"] = found["mean"]
            figures[f"{name}shuffled"] = found["mean"] - gap
            figures[f"{name}coherence"] = matching_gap(log_odds(scores), kinds)
            if panel is judges:
                figures |= {f"val_{subject}": found[subject] for subject in SUBJECTS}
        if judges.classifier is not None and self._photos is not None:
            figures["val_kid"] = fidelity.kernel_distance(
                self._photos, judges.classifier.features(pictures),
                subsets=fidelity.SUBSETS, subset_size=fidelity.SUBSET_SIZE, seed=0,
            )[0]  # fmt: skip
        return figures
