"""Weights to start training from: those of a finished run, or of a model folder.

A run leaves its weights behind; a model folder carries the same files where it was exported with
them (``soundsight export --trainable``).
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
LATENT_ENCODER = "latent_encoder"
LATENT_DECODER = "latent_decoder"
FLOW = "flow"
TAUGHT_BY = "many_step_flow"
"""The flow whose few-step copy a run's flow is; training goes on from this one."""

TRAINABLE = (
    ENCODER, PICTURE_ENCODER, GENERATOR, DISCRIMINATOR, POSTERIOR, LATENT_ENCODER, LATENT_DECODER,
    FLOW,
)  # fmt: skip
"""Every network whose weights a run leaves, or may leave, for others to start from."""


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from."""

    folder: Path  #: a finished run, or a model folder with weights to train

    def has(self, name: str) -> bool:
        """Whether the weights of this network are there."""
        return self.file(name).is_file()

    def file(self, name: str) -> Path:
        """Return where the weights of this network are, or would be."""
        taught_by = self.folder / f"{TAUGHT_BY}.safetensors"
        if name == FLOW and taught_by.is_file():
            return taught_by
        return self.folder / f"{name}.safetensors"

    def about(self, name: str) -> dict[str, Any]:
        """Return what stands beside the weights of a network.

        Raises:
            DataError: when they are missing or damaged.
        """
        self._need(name)
        return read_tensors(self.file(name))[1]

    def load(self, name: str, network: nn.Module) -> dict[str, Any]:
        """Load weights into ``network``; return what stands beside them.

        Raises:
            DataError: when they are missing, damaged or of a network of other sizes.
        """
        self._need(name)
        return load_weights(self.file(name), network)

    def sha256(self, *names: str) -> str:
        """Return one hash for those networks' weights that are there; the first must be."""
        self._need(names[0])
        present = [name for name in names if self.has(name)]
        hashes = "".join(str(self.about(name)["sha256"]) for name in present)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def preset(self, name: str = ENCODER) -> str:
        """Return the name of the sizes that a network has."""
        try:
            return str(self.about(name)["preset"])
        except KeyError as error:
            raise DataError(f"{self.folder}/{name}.json is damaged: no preset") from error

    def _need(self, name: str) -> None:
        if self.has(name):
            return
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder} to start from")
        if (self.folder / "model.json").is_file():
            advice = "export its run with --trainable, or start from the run"
        elif (self.folder / "run.json").is_file():
            kind = json.loads((self.folder / "run.json").read_text("utf-8")).get("kind")
            advice = f"it is a run of kind {kind}"
            if not (self.folder / "done.json").is_file():
                advice += ": go on with its command until it is finished"
        else:
            advice = "a finished run or a model folder is expected"
        raise DataError(f"{self.folder} holds no weights of a {name} to start from: {advice}")
