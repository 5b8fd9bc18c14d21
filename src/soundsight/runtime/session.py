"""A loaded model: log-mel -> encoder -> ood score -> label head -> generator, on the CPU.

Shapes: n sounds, E the embedding, F the features, Z the noise, M the dropout, px the side of a
picture.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.cpus import usable_cpus
from soundsight.core.draws import generator_draws
from soundsight.core.errors import ConfigError, ModelError, first_line
from soundsight.runtime.labels import Guess, LabelHead
from soundsight.runtime.model_folder import ENCODER, GENERATOR, OOD, ModelInfo
from soundsight.runtime.surest import Second

MAX_THREADS = 4
"""More threads than this make one small picture no faster."""

MAX_SEED = 2**64 - 1


def default_threads() -> int:
    """Return how many threads a session takes: the CPUs this process may use, at most 4."""
    return min(usable_cpus(), MAX_THREADS)


def checked_whole(name: str, value: object, least: int, most: int, shown: str = "") -> int:
    """Return an option that must be a whole number; ``shown`` is ``most`` in words.

    Raises:
        ConfigError: when it is none, or out of range.
    """
    whole = not isinstance(value, (bool, np.bool_)) and hasattr(value, "__index__")
    number = operator.index(value) if whole else least - 1  # type: ignore[arg-type]
    if not least <= number <= most:
        raise ConfigError(
            f"{name} must be a whole number from {least} to {shown or most}, not {value!r}"
        )
    return number


def checked_seed(seed: int) -> int:
    """Return a seed; ``ConfigError`` where it is no whole number from 0 to 2**64 - 1."""
    return checked_whole("seed", seed, 0, MAX_SEED, "2**64 - 1")


class Network:
    """One ONNX file, run item by item on the CPU.

    A batch is never handed to the network as a batch: its matrix products would be cut up
    differently for each batch size, and the last bits of a picture would depend on its
    neighbours. One by one, a sound gives the same bits alone and among thousands.

    Raises:
        ModelError: when it cannot be opened, or has other inputs or outputs.
        ConfigError: when ``threads`` (of one run; None takes ``default_threads()``) is below 1.
    """

    def __init__(
        self, path: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int | None = None
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        threads = default_threads() if threads is None else threads
        options.intra_op_num_threads = checked_whole("threads", threads, 1, 2**31 - 1, "2**31 - 1")
        options.inter_op_num_threads = 1
        # Faults come back as exceptions; the library's own lines on stderr would say them twice.
        options.log_severity_level = 4
        # Each network has its own threads: left spinning, the encoder's would take the cores from
        # the generator that runs right after it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(f"{path} cannot be used as a network: {first_line(error)}") from error
        self._outputs, self._path = list(outputs), path
        given = {i.name for i in self._session.get_inputs()}
        missing = set(outputs) - {o.name for o in self._session.get_outputs()}
        if given != set(inputs) or missing:
            raise ModelError(
                f"{path} is not the network that is expected: "
                + (f"no output {min(missing)!r}; " if missing else "")
                + f"its inputs are {', '.join(sorted(given))}, not {', '.join(sorted(inputs))}"
            )

    def run(
        self, shapes: tuple[tuple[int, ...], ...], **inputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], ...]:
        """Run the network on each item of float32 [n, ...]: [n, *shape] for each of ``shapes``.

        Raises:
            ModelError: when the network fails, or gives another shape or numbers that are not
                finite.
        """
        count = len(next(iter(inputs.values())))
        results = tuple(np.empty((count, *shape), np.float32) for shape in shapes)
        for i in range(count):
            feed = {name: np.ascontiguousarray(v[i : i + 1]) for name, v in inputs.items()}
            try:
                made = self._session.run(self._outputs, feed)
            except Exception as error:
                raise ModelError(f"{self._path} failed: {first_line(error)}") from error
            for result, one, shape in zip(results, made, shapes, strict=True):
                if one.shape != (1, *shape):
                    raise ModelError(
                        f"{self._path} gave an array of shape {list(one.shape)}, "
                        f"not {[1, *shape]} as model.json says"
                    )
                result[i] = one[0]
        if not all(np.isfinite(result).all() for result in results):
            raise ModelError(f"{self._path} gave numbers that are not finite")
        return results


class Session:
    """The networks of a model folder, and what is made of a second of sound with them.

    Raises:
        ModelError: when a network cannot be opened or has other inputs and outputs, or the label
            head is damaged.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        self.info = info
        folder = info.folder
        self._encoder = Network(folder / ENCODER, ["mel"], ["embedding", "features"], threads)
        # An input of size 0 is left out of the graph.
        sizes = {"embedding": 1, "noise": info.noise_size, "dropout": info.dropout_size}
        self._inputs = [name for name, size in sizes.items() if size]
        self._generator = Network(folder / GENERATOR, self._inputs, ["image"], threads)
        self._ood: Network | None = None
        if OOD in info.files:
            self._ood = Network(folder / OOD, ["features"], ["ood_score"], threads)
        self.label_head = LabelHead.of(info)

    def embed(self, mels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings [n, E], and the features [n, F] that they are made from.

        Args:
            mels: float32 [n, 1, 128, 100] in [-1, 1].
        """
        shapes = ((self.info.embedding_size,), (self.info.feature_size,))
        embedding, features = self._encoder.run(shapes, mel=mels)
        return embedding, features

    def score_features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ood scores in [0, 1] by features [n, F]: float32 [n]; NaN without a network."""
        if self._ood is None:
            return np.full(len(features), np.nan, np.float32)
        (scores,) = self._ood.run(((),), features=features)
        return scores

    def ood_scores(self, mels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the ood scores of sounds: uint8 [n, 128, 100] -> float32 [n] in [0, 1], or NaN."""
        return self.score_features(self.embed(units.to_unit(mels)[:, None])[1])

    def recognise(self, mel: NDArray[np.uint8], of: Any = None) -> Second:
        """Return what a second, uint8 [128, 100], is recognised as, whatever its level."""
        embedding, features = self.embed(units.to_unit(mel[None])[:, None])
        ood_score = self.score_features(features)
        # Without labels there is one kind; the lower the ood score, the surer the second.
        shares = 1.0 - np.nan_to_num(ood_score, nan=0.0)
        if self.label_head is not None:
            shares = self.label_head.probabilities(embedding)[0]
        return Second(embedding=embedding[0], shares=shares, ood_score=float(ood_score[0]), of=of)

    def guess(self, second: Second, kind: int | None = None) -> Guess:
        """Name a second, ``kind`` first where it is given; without labels an empty guess."""
        return Guess() if self.label_head is None else self.label_head.guess(second.shares, kind)

    def generate(
        self,
        embedding: NDArray[np.float32],
        noise: NDArray[np.float32],
        dropout: NDArray[np.float32],
    ) -> NDArray[np.uint8]:
        """Run the generator: uint8 [n, px, px, 3].

        Takes float32 [n, E]; noise [n, Z], standard normal; dropout [n, M], uniform in [0, 1).
        """
        feed = {"embedding": embedding, "noise": noise, "dropout": dropout}
        px = self.info.image_px
        shape = (units.IMAGE_CHANNELS, px, px)
        (images,) = self._generator.run((shape,), **{name: feed[name] for name in self._inputs})
        return np.ascontiguousarray(units.to_levels(images).transpose(0, 2, 3, 1))

    def draw(
        self, embedding: NDArray[np.float32], items: Sequence[int], seed: int
    ) -> NDArray[np.uint8]:
        """Draw pictures of one embedding [E], one for each of the ``items`` that seed the random
        numbers: uint8 [n, px, px, 3].
        """
        sizes = self.info.noise_size, self.info.dropout_size
        drawn = (generator_draws(seed, item, *sizes) for item in items)
        images = [self.generate(embedding[None], n[None], d[None])[0] for n, d in drawn]
        return np.stack(images)
