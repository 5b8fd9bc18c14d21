"""The authors' checkpoints, read into this package's networks.

Their code (arXiv 2106.01266) saves plain state dicts from ``DataParallel``: every key starts with
``module.``. Sizes are not in the files; they are read off the tensors, so that any E and any widths
load. Layers keep their published names here.

Shapes (n pictures or sounds, E = embedding size, Z = noise size)::

    generator      embedding [n, E] or [n, E, 1, 1] (, noise [n, Z])   -> image [n, 3, 96, 96]
    autoencoder    mel [n, 1, 128, 100]            -> mel [n, 1, 128, 100], embedding [n, E]
    discriminator  image [n, 3, 96, 96], embedding -> RC-score [n]
    informativity  image [n, 3, 96, 96]            -> log-probabilities [n, 2]

"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from soundsight.core.config import choose
from soundsight.core.errors import ConfigError, DataError
from soundsight.models.published.autoencoder import Autoencoder, AutoencoderConfig
from soundsight.models.published.discriminator import RCDiscriminator, RCDiscriminatorConfig
from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig
from soundsight.models.published.informativity import (
    InformativityClassifier,
    InformativityConfig,
)

_PREFIX = "module."
_WRAPPERS = ("state_dict", "model_state_dict")
# How many batches a BatchNorm has seen changes no output, and older files do not say it.
_COUNTER = "num_batches_tracked"

_AGAIN = "save it again with torch.save(network.state_dict(), PATH)"


def load(kind: str, path: str | Path, *, embedding_size: int | None = None) -> Any:
    """Read a checkpoint of the published code, as data: what would run code is refused.

    Its outputs are those of that code to 1e-4. The network is in evaluation mode, float32, on the
    CPU. Keys may or may not start with ``module.``; a state dict may lie under ``state_dict`` or
    ``model_state_dict``; half and double precision are converted.

    The published system leaves the generator's **spatial dropout on when it draws**. Here dropout
    is an input: ``generator(embedding)`` draws without it and is deterministic;
    ``generator(embedding, None, uniforms)``, with ``uniforms`` [n, ``generator.dropout_size``] in
    [0, 1), draws with it. Its rates are not in the files: they are the published ones.

    Args:
        kind: ``generator``, ``autoencoder``, ``discriminator`` or ``informativity``.
        path: the file, as a rule ``*.pth``.
        embedding_size: E of a generator that takes noise before its embedding (the published one
            takes none): the rest of what its first layer takes is noise. None: all of it is E.

    Returns:
        The network; see the shapes above.

    Raises:
        DataError: when the file cannot be read, holds code, is damaged, is of another network, or
            its sizes do not fit together.
        ConfigError: on an unknown ``kind``, or an ``embedding_size`` that is out of place.
    """
    choose("kind of network", kind, _KINDS)
    if embedding_size is not None and (kind != "generator" or embedding_size < 1):
        raise ConfigError("embedding_size is a generator's, and at least 1")
    tensors = _read(Path(path))
    with torch.device("meta"):  # no memory is filled before all sizes are known to fit
        names = {k: _names(network(config())) for k, (network, config, _) in _KINDS.items()}
        _check_names(tensors, names, kind, path)
        sizes = _Sizes(tensors, path, embedding_size)
        of_network, _, of_sizes = _KINDS[kind]
        network = of_network(of_sizes(sizes))
    for name, expected in network.state_dict().items():
        if name.endswith(_COUNTER):
            tensors[name] = torch.zeros((), dtype=expected.dtype)
        elif tensors[name].shape != expected.shape:
            raise DataError(
                f"{path}: {name} is {_shown(tensors[name])}, where its other layers need "
                f"{_shown(expected)}: the file is damaged, or of a changed {kind}"
            )
    network = network.to_empty(device="cpu")
    network.load_state_dict(tensors)
    for name, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise DataError(f"{path}: {name} holds numbers that are not finite in float32")
    return network.eval()


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without the prefix and BatchNorm's counters."""
    if not os.path.isfile(path):
        what = "is a folder or no plain file" if os.path.lexists(path) else "does not exist"
        raise DataError(f"{path} {what}: give a checkpoint, such as generator.pth")
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        with file, warnings.catch_warnings():
            # Pickle versions and the like; what matters of them comes as an error.
            warnings.simplefilter("ignore")
            content = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        # A foreign file makes the reader fail in any way whatever.
        if isinstance(error, UnpicklingError) and "GLOBAL " in str(error):
            raise DataError(
                f"{path} holds more than tensors, and is not run: where it was made, {_AGAIN}"
            ) from error
        raise DataError(
            f"{path} is no checkpoint of PyTorch, or it is cut short or damaged: fetch it again"
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path} holds no state dict: where it was made, {_AGAIN}")
    names = [str(name) for name in content]
    cut = len(_PREFIX) if all(name.startswith(_PREFIX) for name in names) else 0
    tensors: dict[str, Tensor] = {}
    for name, value in zip(names, content.values(), strict=True):
        if name.endswith(_COUNTER):
            continue
        plain = isinstance(value, Tensor) and value.layout == torch.strided
        if not plain or not value.is_floating_point():
            raise DataError(f"{path}: {name} is no tensor of weights: {_AGAIN}")
        tensors[name[cut:]] = value.detach()
    return tensors


def _names(network: nn.Module) -> list[str]:
    return [name for name in network.state_dict() if not name.endswith(_COUNTER)]


def _check_names(
    tensors: Mapping[str, Tensor], names: Mapping[str, list[str]], kind: str, where: str | Path
) -> None:
    """Names are the same at every size."""
    expected = names[kind]
    for other, of_other in names.items():
        if other != kind and set(tensors) == set(of_other):
            raise DataError(f"{where} is a checkpoint of the {other}, not of the {kind}")
    missing = [name for name in expected if name not in tensors]
    if len(missing) == len(expected):
        raise DataError(f"{where} is no checkpoint of the published {kind}: no layer is called so")
    if missing:
        raise DataError(
            f"{where} is not whole, or is of another network than the published {kind}: it has "
            f"{len(expected) - len(missing)} of {len(expected)} tensors; {missing[0]} is missing"
        )
    if extra := next((name for name in tensors if name not in expected), None):
        raise DataError(f"{where} is of another network: the published {kind} has no {extra}")


def _shown(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape) or "one number"


class _Sizes:
    """Reads sizes off the weights of convolutions."""

    def __init__(
        self, tensors: Mapping[str, Tensor], where: str | Path, embedding_size: int | None
    ) -> None:
        self._tensors, self._where, self._embedding_size = tensors, where, embedding_size

    def of(self, names: str, numbers: Iterable[int], axis: int) -> tuple[int, ...]:
        """Weights are [out, in, h, w], transposed [in, out, h, w]."""
        found = []
        for name in (f"{names}{number}.weight" for number in numbers):
            weight = self._tensors[name]
            if weight.ndim != 4 or not weight.numel():
                raise DataError(f"{self._where}: {name} is {_shown(weight)}, no convolution's")
            found.append(weight.shape[axis])
        return tuple(found)

    def generator(self) -> DenseGeneratorConfig:
        (taken,) = self.of("transition", [0], axis=0)
        size = taken if self._embedding_size is None else self._embedding_size
        if taken < size:
            raise DataError(
                f"{self._where} takes {taken} numbers, fewer than an embedding of {size}"
            )
        maps = self.of("convT", range(1, 19), axis=1)
        return DenseGeneratorConfig(
            embedding_size=size,
            blocks=tuple(zip(maps[::3], maps[1::3], maps[2::3], strict=True)),
            transitions=self.of("transition", range(6), axis=1),
            noise_ratio=(taken - size) / size,
        )

    def autoencoder(self) -> AutoencoderConfig:
        *maps, size = self.of("conv", range(1, 14), axis=0)
        return AutoencoderConfig(embedding_size=size, maps=tuple(maps))

    def discriminator(self) -> RCDiscriminatorConfig:
        maps = self.of("conv", range(1, 13), axis=0)
        # At 2x2 the picture's maps and a quarter of the embedding come together.
        quarter = self.of("conv", [13], axis=1)[0] - maps[-1]
        if quarter < 1:
            raise DataError(
                f"{self._where}: its last layer takes no embedding: no discriminator of sounds"
            )
        return RCDiscriminatorConfig(embedding_size=4 * quarter, maps=maps)

    def informativity(self) -> InformativityConfig:
        return InformativityConfig()


_KINDS: dict[str, tuple[Any, Any, Callable[[_Sizes], Any]]] = {
    "generator": (DenseGenerator, DenseGeneratorConfig, _Sizes.generator),
    "autoencoder": (Autoencoder, AutoencoderConfig, _Sizes.autoencoder),
    "discriminator": (RCDiscriminator, RCDiscriminatorConfig, _Sizes.discriminator),
    "informativity": (InformativityClassifier, InformativityConfig, _Sizes.informativity),
}
"""Kind -> network, its sizes by default, and those of a file."""
