"""A quick look at a translator while it is trained: how many val pictures do the judges accept?"""

from __future__ import annotations

import numpy as np

from soundsight.data.vegas.bench import SUBJECTS, Bench
from soundsight.judges.apply import Judges
from soundsight.training.trainer import Task
from soundsight.training.translator import TranslatorTask

_SECONDS_A_CLASS = 40


class ValInformativity:
    """Draws pictures of the same val sounds each time and asks the judges; no interval, no control.

    It chooses nothing and stops nothing: a run is judged by ``soundsight evaluate``.

    Args:
        judges: who accepts.
        bench: whose val split it draws from, up to 40 seconds a class.
        seed: of the choice of seconds.
    """

    def __init__(self, judges: Judges, bench: Bench, *, seed: int = 0) -> None:
        self._judges = judges
        pairs = bench.pairs_of_every_class("val", "evaluation")
        rng = np.random.default_rng(seed)
        chosen = []
        for subject in SUBJECTS:
            mine = [pair for pair in pairs if pair.subject == subject]
            order = rng.permutation(len(mine))[:_SECONDS_A_CLASS]
            chosen += [mine[i] for i in sorted(order)]
        self._subjects = [pair.subject for pair in chosen]
        self._mels = np.stack([bench.spectrogram(pair.spectrogram) for pair in chosen])

    def __call__(self, task: Task, step: int) -> dict[str, float]:
        """Return the share accepted of each class (``val_dog``, ...) and ``val_informativity``."""
        del step
        assert isinstance(task, TranslatorTask)  # no other task draws pictures
        accepted = self._judges.accepts(task.draw(self._mels), self._subjects)
        of_class = np.array(self._subjects)
        present = [s for s in SUBJECTS if (of_class == s).any()]
        shares = {s: float(accepted[of_class == s].mean()) for s in present}
        figures = {f"val_{subject}": share for subject, share in shares.items()}
        return {"val_informativity": float(np.mean(list(shares.values()))), **figures}
