"""A trained run becomes a model folder: ONNX networks, ``model.json``, a card; parity checked.

BatchNorm is folded into the convolutions, and weights are rounded to fp16 on disk (with a cast in
the graph that ONNX Runtime folds away when it loads), so that a folder is half as large and runs
just as fast. Each ONNX network must give what PyTorch gives to 1e-4 before the folder is written.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from soundsight import __version__
from soundsight.core import units
from soundsight.core.config import check_values, to_dict
from soundsight.core.errors import ModelError, SoundsightError
from soundsight.core.files import atomic_folder, commit, sha256_of, write_json
from soundsight.export.card import write_card
from soundsight.media.mel import MelConfig
from soundsight.models.published.autoencoder import EMBEDDING_LAYER
from soundsight.runtime import model_folder
from soundsight.training.align import AlignTask
from soundsight.training.checkpoints import TRAINABLE, Pretrained, read_tensors, save_weights
from soundsight.training.encoder import AudioEncoder, condition, load_encoder
from soundsight.training.flow import DistilTask, FlowTask, load_flow_generator
from soundsight.training.labels import FittedLabelHead, load_label_head
from soundsight.training.ood import LIMIT, load_ood
from soundsight.training.published import load_generator
from soundsight.training.run_folder import read_run

TOLERANCE = 1e-4
"""Largest difference between PyTorch and ONNX Runtime, as a share of the largest number, or in
the networks' range [-1, 1]."""

QUIET_DBFS = -60.0
"""Seconds below this level count as quiet: under the noise of a quiet room into a microphone."""

# What a model says of its training. The command line is left out: it names places on a machine.
_PROVENANCE = ("kind", "config", "commit", "soundsight", "torch", "python", "threads", "begun")

_BATCH = 3
_LEAST_FP16 = 256


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What an exported model is called and carries."""

    name: str
    version: str = "1"
    licence: str = "BSD-3-Clause"
    trained_on: str = ""  #: one sentence for ``model.json`` and the card
    figures: Mapping[str, Any] | None = None  #: measured, each with the command that makes it
    ood: Path | None = None  #: folder of `soundsight train ood`; None: it draws any sound
    labels: Path | None = None  #: folder of `soundsight train labels`; None: it names nothing
    confidence: float = 0.5  #: how sure a live view has to be to show a picture, 0 to 1
    trainable: bool = False  #: also carry the weights that training can go on from, in fp16

    def __post_init__(self) -> None:
        check_values(self, share="confidence")


class Generator(Protocol):
    """What draws: any network whose ``forward(embedding[, noise[, dropout]])`` gives pictures.

    Embeddings are [n, condition_size], noise is normal [n, noise_size], dropout uniform
    [n, dropout_size], pictures are [n, 3, 96, 96] in [-1, 1]. What has size 0 is passed as None, or
    not at all where nothing comes behind it.
    """

    embedding_size: int
    condition_size: int
    noise_size: int
    dropout_size: int


class _Encode(nn.Module):
    """The encoder's side alone: condition and features of a sound."""

    def __init__(self, encoder: AudioEncoder, source: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.source = source

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        return condition(self.encoder, mel, self.source), self.encoder.features(mel)


class _Draw(nn.Module):
    """The generator with only the random inputs that it has."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, embedding: Tensor, *rest: Tensor) -> Tensor:
        left = list(rest)
        given = [left.pop(0) if self.generator.noise_size else None]
        if self.generator.dropout_size:
            given.append(left.pop(0))
        picture: Tensor = self.generator(embedding, *given)
        return picture


def export_run(
    run: Path, out: Path, config: ExportConfig | None = None, *, overwrite: bool = False
) -> Path:
    """Export a finished run of a translator, or of its few-step copy, as the model folder ``out``.

    It appears whole or not at all, in place of an old one where ``overwrite`` says so; ``config``
    is by default the run's name alone.

    Raises:
        DataError: when ``run`` is no finished translator run, or its ood network or label head
            were fitted to another encoder.
        ModelError: when the label head is damaged.
        OutputError: when ``out`` exists and ``overwrite`` is false, or cannot be written to.
        SoundsightError: when a network does not survive the export to ``TOLERANCE``.
    """
    about = read_run(run)
    if about["kind"] in (FlowTask.kind, DistilTask.kind, AlignTask.kind):
        generator: Generator = load_flow_generator(run)
    else:
        generator = load_generator(run)
    encoder = load_encoder(run)
    config = config or ExportConfig(name=run.resolve().name)
    ood = None if config.ood is None else load_ood(config.ood, run)
    size = encoder.embedding_size
    labels = None if config.labels is None else load_label_head(config.labels, run, size)
    return export_networks(
        encoder, generator, out, config,
        ood=ood, labels=labels, about=about, weights=run if config.trainable else None,
        overwrite=overwrite,
    )  # fmt: skip


def export_networks(
    encoder: AudioEncoder,
    generator: Generator,
    out: Path,
    config: ExportConfig,
    *,
    ood: nn.Module | None = None,
    labels: FittedLabelHead | None = None,
    about: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder of these networks; see :func:`export_run`.

    ``ood`` turns features [n, F] into ood scores [n] in [0, 1], unknown above
    ``training.ood.LIMIT``; ``labels`` is the label head, fitted to ``encoder``; ``about`` is the
    run's ``run.json``, for the card; ``weights`` is a finished run whose weights are carried for
    others to start from.
    """
    if encoder.embedding_size != generator.embedding_size:
        raise ModelError(
            f"the encoder's embedding has {encoder.embedding_size} numbers, the generator wants "
            f"{generator.embedding_size}"
        )
    rng = torch.Generator().manual_seed(0)
    mel = torch.rand(_BATCH, 1, units.N_MELS, units.FRAMES_PER_SEGMENT, generator=rng) * 2 - 1
    inputs = {"embedding": torch.randn(_BATCH, generator.condition_size, generator=rng)}
    if generator.noise_size:
        inputs["noise"] = torch.randn(_BATCH, generator.noise_size, generator=rng)
    if generator.dropout_size:
        inputs["dropout"] = torch.rand(_BATCH, generator.dropout_size, generator=rng)
    with atomic_folder(out, overwrite=overwrite, ours=_is_model) as folder:
        # A published generator may attend to an earlier layer than the embedding.
        source = getattr(getattr(generator, "config", None), "audio_source", EMBEDDING_LAYER)
        encode = _Encode(encoder, source)
        _export(encode, {"mel": mel}, ("embedding", "features"), folder / model_folder.ENCODER)
        _export(_Draw(generator), inputs, ("image",), folder / model_folder.GENERATOR)
        thresholds = {"quiet_dbfs": QUIET_DBFS, "confidence": config.confidence}
        if ood is not None:
            features = torch.randn(_BATCH, encoder.feature_size, generator=rng)
            path = folder / model_folder.OOD
            _export(ood, {"features": features}, ("ood_score",), path)
            thresholds["ood_score"] = LIMIT
        figures = dict(config.figures or {})
        if labels is not None:
            # The file says more of its origin than the program needs: that part stays behind.
            write_json(folder / model_folder.LABELS, labels.head.to_json())
            figures["labels"] = labels.figures.words()
        if weights is not None:
            _carry(Pretrained(weights), folder)
        values = {
            "format": model_folder.FORMAT,
            "format_version": model_folder.FORMAT_VERSION,
            "name": config.name,
            "version": config.version,
            "licence": config.licence,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "soundsight": __version__,
            "commit": commit(),
            "segment_s": units.SEGMENT_S,
            "mel": to_dict(MelConfig()),
            "image_px": units.IMAGE_PX,
            "embedding_size": generator.condition_size,
            "feature_size": encoder.feature_size,
            "noise_size": generator.noise_size,
            "dropout_size": generator.dropout_size,
            "thresholds": thresholds,
            "trained_on": config.trained_on,
            "training": {key: about[key] for key in _PROVENANCE if key in about} if about else {},
            "figures": figures,
        }
        if labels is not None:
            values["labels"] = list(labels.head.labels)
            values["alerts"] = list(labels.head.alerts)
        write_card(folder / "CARD.md", values)
        values["files"] = {
            path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
        }
        write_json(folder / model_folder.MODEL_JSON, values)
        model_folder.read(folder)
    return out


def _carry(start: Pretrained, folder: Path) -> None:
    """Write the weights of a run that training can go on from, rounded to fp16."""
    for name in TRAINABLE:
        if start.file(name).is_file():
            tensors, about = read_tensors(start.file(name))
            halved = {k: t.half() if t.dtype == torch.float32 else t for k, t in tensors.items()}
            save_weights(folder / f"{name}.safetensors", halved, about)


def _is_model(folder: Path) -> bool:
    """Tell whether a folder is a model folder, sound or not; nothing else may be replaced."""
    try:
        values = json.loads((folder / model_folder.MODEL_JSON).read_text("utf-8"))
        return bool(values["format"] == model_folder.FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose BatchNorms are folded into the layers before them.

    In every network of this package the BatchNorm of layer ``x`` is called ``x_bn``, or follows
    its layer in an ``nn.Sequential``.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        children: dict[str, Any] = dict(module.named_children())
        names = list(children)
        for place, (name, norm) in enumerate(children.items()):
            if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                continue
            before = name.removesuffix("_bn") if name.endswith("_bn") else names[place - 1]
            layer, fuse = children[before], cast(Any, fuse_linear_bn_weights)
            if not isinstance(layer, nn.Linear):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                fuse = partial(fuse_conv_bn_weights, transpose=transposed)
            layer.weight, layer.bias = fuse(
                layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip
            setattr(module, name, nn.Identity())
    return network


def _export(
    network: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...], path: Path
) -> None:
    """Write one network to ``path`` and check it against PyTorch."""
    folded: Any = fold_batch_norms(network)
    folded.to(memory_format=torch.contiguous_format).requires_grad_(False)
    with torch.no_grad():
        # The rounded weights are the model: PyTorch and ONNX must agree on them exactly.
        for tensor in (*folded.parameters(), *folded.buffers()):
            tensor.copy_(tensor.half().float())
        made = folded(*inputs.values())
        expected = [tensor.numpy() for tensor in (made if len(outputs) > 1 else (made,))]
    batch = torch.export.Dim("n", min=1, max=4096)
    names = list(inputs)
    shapes: Any = [{0: batch}] * len(names)
    if isinstance(network, _Draw) and len(names) > 1:
        # Its random inputs are one variadic argument.
        shapes = [shapes[0], tuple(shapes[1:])]
    with _quiet():
        program = torch.onnx.export(
            folded, tuple(inputs.values()), dynamo=True, input_names=names,
            output_names=list(outputs), dynamic_shapes=tuple(shapes), verbose=False,
            opset_version=18,
        )  # fmt: skip
    assert program is not None  # only the older exporter returns nothing
    program.optimize()
    model = program.model_proto
    _halve_weights(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    _check(session, inputs, expected, path.name)


def _check(
    session: Any, inputs: Mapping[str, Tensor], expected: Sequence[np.ndarray], name: str
) -> None:
    for rows in (slice(None), slice(0, 1)):
        feed = {key: value[rows].numpy() for key, value in inputs.items()}
        got = session.run(None, feed)
        # Features have no range: theirs is as large as they are.
        worst = max(
            float(np.abs(a - b[rows]).max() / max(1.0, np.abs(b).max()))
            for a, b in zip(got, expected, strict=True)
        )
        if not worst <= TOLERANCE:
            raise SoundsightError(
                f"{name}: ONNX Runtime differs from PyTorch by {worst:.2g}, more than "
                f"{TOLERANCE:g}: not exported"
            )


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 initialisers as float16 behind a cast to float32."""
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST_FP16:
            continue
        values = numpy_helper.to_array(tensor).astype(np.float16)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values, name + "_fp16"))
        casts.append(helper.make_node("Cast", [name + "_fp16"], [name], to=TensorProto.FLOAT))
    nodes: Sequence[onnx.NodeProto] = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _forget_sources(model.graph)


def _forget_sources(graph: onnx.GraphProto) -> None:
    """Take the names of our source files out of a graph, and out of the steps inside it."""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _forget_sources(attribute.g)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's log lines, and warnings of its own dependencies."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
