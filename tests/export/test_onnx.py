"""Exported networks give what PyTorch gives, fold what they ought to, and fail whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import pytest
import torch

from soundsight.core.draws import generator_draws, item_of
from soundsight.core.errors import ConfigError, DataError, ModelError, OutputError, SoundsightError
from soundsight.core.units import to_levels, to_unit
from soundsight.export import onnx as export
from soundsight.export.card import EVERYDAY_HEADLINES, figures_of
from soundsight.models.contrastive import SoundEncoder
from soundsight.models.ears import Ears, ears_preset
from soundsight.models.ood import NearestNeighbourOod, NearestNeighbourOodConfig
from soundsight.models.presets import preset
from soundsight.models.published.autoencoder import Autoencoder
from soundsight.models.published.generator import DenseGenerator
from soundsight.runtime.labels import LabelHead
from soundsight.runtime.translator import Translator
from soundsight.training.labels import FittedLabelHead, LabelHeadFigures

SIZES = preset("tiny")
Network = TypeVar("Network", bound=torch.nn.Module)


def networks() -> tuple[SoundEncoder, DenseGenerator]:
    torch.manual_seed(0)
    return (
        as_trained(SoundEncoder(SIZES.contrastive)),
        as_trained(DenseGenerator(SIZES.generator)),
    )


def ears() -> Ears:
    torch.manual_seed(0)
    return as_trained(Ears(replace(ears_preset("everyday-tiny"), blocks=(0, 1, 0, 1))))


def as_trained(network: Network) -> Network:
    for module in network.modules():
        # Statistics of an untrained BatchNorm are 0 and 1: folding them would prove nothing.
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return network.eval()


def memory() -> NearestNeighbourOod:
    size = SoundEncoder(SIZES.contrastive).feature_size
    made = NearestNeighbourOod(NearestNeighbourOodConfig(features=size, axes=8, sounds=40))
    rng = torch.Generator().manual_seed(1)
    made.axes.normal_(generator=rng)
    made.memory.normal_(generator=rng)
    return made.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "model"
    config = export.ExportConfig(name="toy", figures={"informativity": "0 %"})
    about = {"kind": "translator", "config": {}, "command": f"soundsight -o {Path.home()}/runs"}
    return export.export_networks(*networks(), out, config, ood=memory(), about=about)


def test_pictures_equal_those_of_pytorch(folder: Path) -> None:
    encoder, generator = networks()
    rng = np.random.default_rng(0)
    mels = rng.integers(0, 256, (3, 128, 100), dtype=np.uint8)
    draws = [
        generator_draws(7, item_of(m), generator.noise_size, generator.dropout_size) for m in mels
    ]
    with torch.no_grad():
        expected = generator(
            encoder.encode(torch.from_numpy(to_unit(mels))[:, None]),
            torch.from_numpy(np.stack([d[0] for d in draws])),
            torch.from_numpy(np.stack([d[1] for d in draws])),
        )
    got = Translator.load(folder).imagine(mels, seed=7).astype(int)
    want = to_levels(expected.permute(0, 2, 3, 1).numpy()).astype(int)
    # Weights are stored in half precision: a level or two of 255 is what that may cost.
    assert np.abs(got - want).max() <= 3


def test_batch_norms_are_folded_and_nothing_is_left_of_them(folder: Path) -> None:
    for name in ("encoder", "generator"):
        model = onnx.load(folder / f"{name}.onnx")
        kinds = {node.op_type for node in model.graph.node}
        assert "BatchNormalization" not in kinds
        large = [t for t in model.graph.initializer if np.prod(t.dims) >= 256]
        assert large
        assert {t.data_type for t in large} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}


def test_the_features_are_those_that_the_embedding_is_made_from(folder: Path) -> None:
    encoder, _ = networks()
    mels = np.random.default_rng(2).integers(0, 256, (2, 128, 100), dtype=np.uint8)
    translator = Translator.load(folder)
    embedding, features = translator.embed(to_unit(mels)[:, None])
    with torch.no_grad():
        mel = torch.from_numpy(to_unit(mels))[:, None]
        expected = encoder.features(mel)
        np.testing.assert_allclose(embedding, encoder.encode(mel), rtol=1e-2, atol=2e-2)
        np.testing.assert_allclose(features, expected, rtol=1e-2, atol=2e-2)
        known = memory()(torch.from_numpy(features))
    np.testing.assert_allclose(translator.ood_scores(mels), known, atol=2e-3)
    for n in (1, 2, 7):
        embedding, features = translator.embed(np.zeros((n, 1, 128, 100), np.float32))
        assert (embedding.shape, len(features)) == ((n, 16), n)
    # The convolutions are run once for both.
    nodes = onnx.load(folder / "encoder.onnx").graph.node
    assert sum(node.op_type == "Conv" for node in nodes) == len(SIZES.contrastive.sound_maps)


def test_a_flow_and_its_decoder_export_as_one_generator(tmp_path: Path) -> None:
    from soundsight.models.decoder import LatentConfig, LatentDecoder
    from soundsight.models.flow import Flow, FlowConfig, FlowGenerator

    torch.manual_seed(0)
    encoder, _ = networks()
    flow = Flow(
        FlowConfig(embedding_size=encoder.embedding_size, width=24, layers=2, heads=2, rank=8)
    )
    for block in flow.blocks:  # they begin as the identity, which would prove nothing
        torch.nn.init.normal_(block.listen[1].weight, std=0.1)
    torch.nn.init.normal_(flow.out.weight, std=0.1)
    decoder = LatentDecoder(LatentConfig(widths=(16, 12, 8, 8, 6), growth=(8, 8, 6, 4, 4)))
    for _ in range(30):  # its BatchNorms get to know its maps
        decoder(torch.randn(8, 12, 6, 6))
    drawer = FlowGenerator(flow, decoder, (0.0, 0.3, 1.0), 2.0).eval()
    out = export.export_networks(encoder, drawer, tmp_path / "m", export.ExportConfig(name="flow"))
    graph = onnx.load(out / "generator.onnx")
    # However many steps there are, the graph holds one.
    assert [node.op_type for node in graph.graph.node].count("Scan") == 1
    assert no_path_in((out / "generator.onnx").read_bytes())
    translator = Translator.load(out)
    assert (translator.info.noise_size, translator.info.dropout_size) == (drawer.noise_size, 0)
    mel = np.full((1, 128, 100), 90, np.uint8)
    one, other = translator.imagine(mel, draws=2)
    assert not np.array_equal(one, other)


def test_folding_changes_no_output() -> None:
    encoder, generator = networks()
    with torch.no_grad():
        for network, x in (
            (encoder, torch.randn(2, 1, 128, 100)),
            (generator, torch.randn(2, 16)),
            (Autoencoder(SIZES.autoencoder).eval(), torch.randn(2, 1, 128, 100)),
            (ears(), torch.randn(2, 1, 128, 100)),
        ):
            folded = export.fold_batch_norms(network)
            a, b = network(x), folded(x)
            a, b = (a[1], b[1]) if isinstance(a, tuple) else (a, b)
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_model_json_and_card_say_what_they_should(folder: Path) -> None:
    values = json.loads((folder / "model.json").read_text("utf-8"))
    assert values["format"] == "soundsight-model"
    assert set(values["files"]) == {"encoder.onnx", "generator.onnx", "ood.onnx", "CARD.md"}
    assert (values["format_version"], values["thresholds"]["ood_score"]) == (3, 0.5)
    assert "imagined" in (folder / "CARD.md").read_text("utf-8")
    assert "informativity: 0 %" in (folder / "CARD.md").read_text("utf-8")
    assert all(no_path_in(path.read_bytes()) for path in folder.iterdir())


def fitted_names(size: int) -> FittedLabelHead:
    rng = np.random.default_rng(0)
    figures = LabelHeadFigures(
        seconds=1234, accuracy=0.741, log_loss=0.7, calibration_error=0.02, others=50,
        others_told=0.9, named=0.95, penalty=0.001, temperature=1.1,
    )  # fmt: skip
    names = LabelHead(
        labels=("dog", "train"),
        weights=rng.normal(0, 1, (3, size)).astype(np.float32),
        bias=rng.normal(0, 1, 3).astype(np.float32),
        other=True,
        alerts=("train",),
    )
    return FittedLabelHead(head=names, figures=figures)


def test_ears_names_and_confidence_go_into_the_folder(folder: Path, tmp_path: Path) -> None:
    encoder, generator = ears(), networks()[1]
    fitted = fitted_names(encoder.embedding_size)
    config = export.ExportConfig(name="named", confidence=0.61)
    out = export.export_networks(encoder, generator, tmp_path / "model", config, labels=fitted)
    translator = Translator.load(out)
    # Ears are exported like any encoder.
    mel = torch.rand(3, 1, 128, 100) * 2 - 1
    embedding, _ = translator.embed(mel.numpy())
    np.testing.assert_allclose(embedding, encoder.encode(mel).detach(), atol=0.02)
    assert translator.label_head is not None
    assert (translator.label_head.labels, translator.label_head.other) == (("dog", "train"), True)
    np.testing.assert_allclose(translator.label_head.weights, fitted.head.weights, atol=1e-6)
    assert translator.info.thresholds.confidence == 0.61
    values = json.loads((out / "model.json").read_text("utf-8"))
    assert "labels.json" in values["files"]
    assert (values["labels"], values["alerts"]) == (["dog", "train"], ["train"])
    assert values["figures"]["labels"] == fitted.figures.words()
    card = (out / "CARD.md").read_text("utf-8")
    assert "74.1 % right" in card
    assert "No label reached encoder or generator" in card
    assert "Of these it only names train" in card
    # A model without names says nothing of them.
    assert json.loads((folder / "model.json").read_text("utf-8"))["thresholds"]["confidence"] == 0.5
    assert "## Labels" not in (folder / "CARD.md").read_text("utf-8")
    # A changed file is a damaged one.
    (out / "labels.json").write_text((out / "labels.json").read_text().replace("dog", "cat"))
    with pytest.raises(ModelError, match=r"labels\.json is damaged"):
        Translator.load(out)


def test_a_confidence_that_is_none_is_refused() -> None:
    for confidence in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="confidence"):
            export.ExportConfig(name="x", confidence=confidence)


def no_path_in(data: bytes) -> bool:
    """Whether no path of this machine can be read in a file."""
    here = (b"site-packages", str(Path(export.__file__).parents[1]).encode(),
            str(Path.home()).encode())  # fmt: skip
    return not any(path in data for path in here)


def test_a_paper_shaped_model_without_noise_or_dropout_exports(tmp_path: Path) -> None:
    generator = DenseGenerator(replace(SIZES.generator, noise_ratio=0.0, dropout=(0.0,) * 6)).eval()
    out = tmp_path / "model"
    export.export_networks(
        Autoencoder(SIZES.autoencoder).eval(), generator, out, export.ExportConfig(name="plain")
    )  # fmt: skip
    translator = Translator.load(out)
    pictures = translator.imagine(np.zeros((1, 128, 100), np.uint8), draws=2)
    assert np.array_equal(pictures[0], pictures[1])


def test_networks_that_do_not_fit_or_do_not_survive_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = export.ExportConfig(name="x")
    encoder = SoundEncoder(preset("compact").contrastive)
    with pytest.raises(ModelError, match="128 numbers"):
        export.export_networks(encoder, networks()[1], tmp_path / "m", config)
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(SoundsightError, match="differs from PyTorch"):
        export.export_networks(*networks(), tmp_path / "m", config)
    assert list(tmp_path.iterdir()) == []


def test_only_a_model_folder_is_replaced_and_only_with_overwrite(
    folder: Path, tmp_path: Path
) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("kept")
    config = export.ExportConfig(name="new")
    with pytest.raises(OutputError, match="something else"):
        export.export_networks(*networks(), letters, config, overwrite=True)
    assert (letters / "dear.txt").read_text() == "kept"
    shutil.copytree(folder, tmp_path / "model")
    with pytest.raises(OutputError, match="exists already"):
        export.export_networks(*networks(), tmp_path / "model", config)
    assert Translator.load(tmp_path / "model").info.name == "toy"
    export.export_networks(*networks(), tmp_path / "model", config, overwrite=True)
    assert Translator.load(tmp_path / "model").info.name == "new"


def test_a_report_on_everyday_sounds_says_what_each_kind_reaches(tmp_path: Path) -> None:
    share = {"share": 0.5, "low": 0.42, "high": 0.58}
    rows = {name: {"mean": share} for name in EVERYDAY_HEADLINES}
    rows["right"]["cat"] = {"share": 0.25, "low": 0.125, "high": 0.375}
    report = {
        "kind": "everyday", "rows": rows, "settings": {"split": "devtest", "seed": 3},
        "refusal": {"full band": {"unknown drawn, as the model is set": {"mean": share}}},
        "command": "soundsight evaluate model",
    }  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps(report))
    figures = figures_of(tmp_path / "report.json")
    assert figures["right"] == "50.0 % [42.0, 58.0]"
    assert figures["right, cat"] == "25.0 % [12.5, 37.5]"
    assert figures["measured on"] == "devtest, seed 3"
    del report["refusal"]
    for foreign in (report, {}):
        (tmp_path / "report.json").write_text(json.dumps(foreign))
        with pytest.raises(DataError, match="no report"):
            figures_of(tmp_path / "report.json")
    with pytest.raises(DataError, match=r"no run\.json"):
        export.export_run(tmp_path, tmp_path / "out")
