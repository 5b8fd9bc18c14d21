"""ONNX Runtime on the CPU: log-mel -> embedding and features; embedding -> picture.

Shapes: n sounds, E the embedding, F the features, Z the noise, M the dropout, px the side of a
picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundsight.core import units
from soundsight.core.cpus import usable_cpus
from soundsight.core.errors import ConfigError, ModelError, first_line
from soundsight.runtime.model_folder import ENCODER, GENERATOR, ModelInfo

if TYPE_CHECKING:
    import onnxruntime

MAX_THREADS = 4
"""More threads than this make one small picture no faster."""


def default_threads() -> int:
    """Return how many threads a session takes: the CPUs this process may use, at most 4."""
    return min(usable_cpus(), MAX_THREADS)


def open_onnx(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, quietly.

    Args:
        threads: threads of one run; None takes ``default_threads()``.

    Raises:
        ModelError: when the file is no ONNX network.
        ConfigError: when ``threads`` is below 1.
    """
    import onnxruntime

    threads = default_threads() if threads is None else threads
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"threads must be a whole number from 1 on, not {threads!r}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Faults come back as exceptions; the library's own lines on stderr would say them twice.
    options.log_severity_level = 4
    # Each network has its own threads: left spinning, the encoder's would take the cores from the
    # generator that runs right after it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"{path} cannot be used as a network: {first_line(error)}") from error


class Network:
    """One ONNX file, run item by item.

    A batch is never handed to the network as a batch: its matrix products would be cut up
    differently for each batch size, and the last bits of a picture would depend on its
    neighbours. One by one, a sound gives the same bits alone and among thousands.
    """

    def __init__(self, path: Path, outputs: tuple[str, ...], threads: int | None = None) -> None:
        self._session = open_onnx(path, threads)
        self._outputs = list(outputs)
        self._path = path
        self.inputs: frozenset[str] = frozenset(i.name for i in self._session.get_inputs())
        there = {o.name for o in self._session.get_outputs()}
        for output in outputs:
            if output not in there:
                raise ModelError(
                    f"{path} is not the network that is expected: no output {output!r}"
                )

    def require(self, needed: set[str]) -> None:
        """Check the names of the inputs.

        Raises:
            ModelError: when they are others than ``needed``.
        """
        if self.inputs != needed:
            raise ModelError(
                f"{self._path} is not the network that is expected: its inputs are "
                f"{', '.join(sorted(self.inputs))}, not {', '.join(sorted(needed))}"
            )

    def run(
        self, shapes: tuple[tuple[int, ...], ...], **inputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], ...]:
        """Run the network on each item.

        Args:
            shapes: of one item's outputs, one each.
            inputs: float32 [n, ...] each.

        Returns:
            float32 [n, *shape] for each of ``shapes``.

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


class ImagineSession:
    """The encoder and the generator of a model folder.

    Args:
        info: a folder that ``model_folder.read`` has checked.
        threads: threads of one run; None takes the CPUs of the process, at most 4.

    Raises:
        ModelError: when a network cannot be opened or has other inputs and outputs.
    """

    def __init__(self, info: ModelInfo, threads: int | None = None) -> None:
        self.info = info
        self._encoder = Network(info.folder / ENCODER, ("embedding", "features"), threads)
        self._generator = Network(info.folder / GENERATOR, ("image",), threads)
        self._encoder.require({"mel"})
        sizes = {"embedding": 1, "noise": info.noise_size, "dropout": info.dropout_size}
        # An input of size 0 is left out of the graph.
        self._generator.require({name for name, size in sizes.items() if size})

    def embed(self, mels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed log-mels.

        Args:
            mels: float32 [n, 1, 128, 100] in [-1, 1].

        Returns:
            Embeddings [n, E], and the features [n, F] that they are made from.
        """
        info = self.info
        embedding, features = self._encoder.run(
            ((info.embedding_size,), (info.feature_size,)), mel=mels
        )
        return embedding, features

    def draw(
        self,
        embedding: NDArray[np.float32],
        noise: NDArray[np.float32],
        dropout: NDArray[np.float32],
    ) -> NDArray[np.uint8]:
        """Draw pictures.

        Args:
            embedding: float32 [n, E].
            noise: float32 [n, Z], standard normal.
            dropout: float32 [n, M], uniform in [0, 1).

        Returns:
            uint8 [n, px, px, 3].
        """
        feed: dict[str, Any] = {"embedding": embedding}
        if self.info.noise_size:
            feed["noise"] = noise
        if self.info.dropout_size:
            feed["dropout"] = dropout
        px = self.info.image_px
        (images,) = self._generator.run(((units.IMAGE_CHANNELS, px, px),), **feed)
        return np.ascontiguousarray(units.to_levels(images).transpose(0, 2, 3, 1))
