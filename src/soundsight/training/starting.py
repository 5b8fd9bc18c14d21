"""Where training starts when it does not start from nothing: a finished run, or a model folder.

A run leaves its weights behind; a model folder carries them where it was exported with them
(``soundsight export --trainable``). Both hold the same files, so one can be gone on from as the
other can.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from soundsight.core.errors import DataError
from soundsight.training.checkpoints import load_weights, read_tensors

ENCODER = "encoder"
PICTURE_ENCODER = "picture_encoder"
GENERATOR = "generator"
DISCRIMINATOR = "discriminator"
POSTERIOR = "posterior"

TRAINABLE = (ENCODER, PICTURE_ENCODER, GENERATOR, DISCRIMINATOR, POSTERIOR)
"""Every network whose weights a run leaves, or may leave, for others to start from."""


@dataclass(frozen=True)
class StartingPoint:
    """Weights to start from.

    Attributes:
        folder: a finished run, or a model folder with weights to train.
    """

    folder: Path

    def has(self, name: str) -> bool:
        """Whether the weights of this network are there."""
        return (self.folder / f"{name}.safetensors").is_file()

    def about(self, name: str) -> dict[str, Any]:
        """Return what stands beside the weights of a network.

        Raises:
            DataError: when they are missing or damaged.
        """
        self._need(name)
        return read_tensors(self.folder / f"{name}.safetensors")[1]

    def load(self, name: str, network: nn.Module) -> dict[str, Any]:
        """Load weights into ``network``; return what stands beside them.

        Raises:
            DataError: when they are missing, damaged or of a network of other sizes.
        """
        self._need(name)
        return load_weights(self.folder / f"{name}.safetensors", network)

    def sha256(self, *names: str) -> str:
        """Return one hash for the weights of several networks.

        Raises:
            DataError: when the first is missing, or one is damaged.
        """
        self._need(names[0])
        present = [name for name in names if self.has(name)]
        hashes = "".join(str(self.about(name)["sha256"]) for name in present)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def preset(self) -> str:
        """Return the name of the sizes that the encoder has.

        Raises:
            DataError: when there is no encoder, or it does not say.
        """
        try:
            return str(self.about(ENCODER)["preset"])
        except KeyError as error:
            raise DataError(f"{self.folder}/{ENCODER}.json is damaged: no preset") from error

    def _need(self, name: str) -> None:
        if self.has(name):
            return
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder} to start from")
        if (self.folder / "model.json").is_file():
            advice = "export its run with --trainable, or start from the run"
        elif (self.folder / "run.json").is_file():
            kind = json.loads((self.folder / "run.json").read_text("utf-8")).get("kind")
            advice = f"it is a run of kind {kind}: go on with its command until it is finished"
        else:
            advice = "a finished run or a model folder is expected"
        raise DataError(f"{self.folder} holds no weights of a {name} to start from: {advice}")
