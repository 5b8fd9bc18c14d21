"""The attention variant: equal to a plain reference, no burden on the plain generator."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from soundsight.core.config import from_dict, to_dict
from soundsight.core.errors import ConfigError
from soundsight.models.presets import preset
from soundsight.models.published.attention import AttentionConfig, AttentionStack
from soundsight.models.published.autoencoder import LAYER_SIZES, Autoencoder
from soundsight.models.published.generator import DenseGenerator, DenseGeneratorConfig

SIZES = preset("tiny")
E = SIZES.generator.embedding_size
PUBLISHED = (0, 18, 0, 0, 0, 0, 0)


def tiny(source: int = 13, attention: tuple[int, ...] = (0, 2, 0, 1, 0, 0, 0)) -> DenseGenerator:
    maps = SIZES.autoencoder.maps[source - 1] if source < 13 else 0
    return DenseGenerator(
        replace(
            SIZES.generator, attention=attention, attention_width=16, attention_heads=4,
            audio_source=source, source_maps=maps,
        )
    )  # fmt: skip


def awake(network: nn.Module) -> nn.Module:
    """Give every parameter, also those that start at nought, and every statistic some value."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.dtype.is_floating_point:
                continue
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(1 + 0.2 * (torch.rand(value.shape, generator=rng) - 0.5))
            else:
                fan = value[0].numel() if value.ndim > 1 else 100
                value.copy_(torch.randn(value.shape, generator=rng) * math.sqrt(1 / fan))
    return network.eval()


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(x: Tensor, memory: Tensor, state: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """Multi-head attention head by head.

    Where the network has no query and key, as with a single token, any will do: here are some.
    """
    d = x.shape[-1]
    some = torch.sin(torch.arange(d * d, dtype=x.dtype) * 0.7).reshape(d, d)
    w_query = state.get(f"{name}.query.weight", some)
    w_key = state.get(f"{name}.key.weight", some.T)
    outputs = []
    for head in range(heads):
        rows = slice(head * d // heads, (head + 1) * d // heads)
        query = torch.einsum("ntd,hd->nth", x, w_query[rows])
        key = torch.einsum("nmd,hd->nmh", memory, w_key[rows])
        value = torch.einsum("nmd,hd->nmh", memory, state[f"{name}.value.weight"][rows])
        score = torch.exp(torch.einsum("nth,nmh->ntm", query, key) / math.sqrt(d / heads))
        outputs.append(torch.einsum("ntm,nmh->nth", score / score.sum(dim=2, keepdim=True), value))
    return torch.cat(outputs, dim=2) @ state[f"{name}.out.weight"].T + state[f"{name}.out.bias"]


def plain_block(x: Tensor, audio: Tensor, state: dict[str, Tensor], heads: int) -> Tensor:
    """One post-norm decoder block, written out from Vaswani et al. 2017."""
    x = norm(x + attend(x, x, state, "attend", heads), state, "attend_norm")
    x = norm(x + attend(x, audio, state, "listen", heads), state, "listen_norm")
    inner = torch.clamp(x @ state["widen.weight"].T + state["widen.bias"], min=0)
    return norm(x + inner @ state["narrow.weight"].T + state["narrow.bias"], state, "feed_norm")


def plain_positions(places: int, width: int) -> Tensor:
    table = np.zeros((places, width))
    for place in range(places):
        for i in range(width):
            angle = place / 10_000 ** (2 * (i // 2) / width)
            table[place, i] = math.sin(angle) if i % 2 == 0 else math.cos(angle)
    return torch.from_numpy(table)


def plain_stack(maps: Tensor, audio: Tensor, state: dict[str, Tensor], heads: int) -> Tensor:
    n, channels, h, w = maps.shape
    width = state["enter.weight"].shape[0]
    # Place (i, j) is token i*w + j.
    tokens = torch.stack([maps[:, :, i, j] for i in range(h) for j in range(w)], dim=1)
    x = tokens @ state["enter.weight"].T + state["enter.bias"] + plain_positions(h * w, width)
    audio = audio @ state["hear.weight"].T + state["hear.bias"]
    audio = audio + plain_positions(audio.shape[1], width)
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for k in range(blocks):
        prefix = f"blocks.{k}."
        own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        x = plain_block(x, audio, own, heads)
    back = x @ state["back.weight"].T + state["back.bias"]
    result = maps.clone()
    for place in range(h * w):
        result[:, :, place // w, place % w] += back[:, place]
    assert result.shape == (n, channels, h, w)
    return result


@pytest.mark.parametrize("tokens", [1, 9])
def test_a_stack_equals_a_plain_reference(tokens: int) -> None:
    config = AttentionConfig(
        maps=6, places=20, blocks=2, width=24, heads=3, audio_maps=5, audio_tokens=tokens
    )
    stack = awake(AttentionStack(config))
    state = {name: value.double() for name, value in stack.state_dict().items()}
    torch.manual_seed(0)
    maps, audio = torch.randn(3, 6, 4, 5), torch.randn(3, tokens, 5)
    with torch.no_grad():
        got = stack(maps, audio)
        want = plain_stack(maps.double(), audio.double(), state, 3)
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert (want - maps).abs().max() > 0.1


def test_a_generator_with_attention_begins_as_the_plain_one() -> None:
    torch.manual_seed(3)
    plain = DenseGenerator(SIZES.generator).eval()
    torch.manual_seed(3)
    other = tiny().eval()
    rng = torch.Generator().manual_seed(0)
    embedding = torch.randn(2, E, generator=rng)
    noise = torch.randn(2, plain.noise_size, generator=rng)
    dropout = torch.rand(2, plain.dropout_size, generator=rng)
    with torch.no_grad():
        before = other(embedding, noise, dropout)
        assert torch.equal(before, plain(embedding, noise, dropout))
        for k in (1, 3):
            nn.init.normal_(getattr(other, f"attention{k}").back.weight)
        assert (other(embedding, noise, dropout) - before).abs().max() > 1e-3
    names = set(other.state_dict()) - set(plain.state_dict())
    assert {name.split(".")[0] for name in names} == {"attention1", "attention3"}
    assert not any(name.endswith(("places", "moments")) for name in names)


@pytest.mark.parametrize("source", [13, 12, 11])
def test_every_parameter_gets_a_gradient_within_two_steps(source: int) -> None:
    torch.manual_seed(0)
    network = tiny(source).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        picture = network(torch.randn(4, network.condition_size), torch.randn(4, E // 2))
        (picture * torch.randn_like(picture)).sum().backward()
        optimizer.step()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before a BatchNorm has a gradient of (nearly) zero.
    assert [n for n in without if n.startswith("attention") or not n.endswith("bias")] == []


def test_a_tiny_network_does_not_mix_its_batch_and_hears_an_earlier_source_by_places() -> None:
    network = awake(tiny(12))
    assert sum(p.numel() for p in network.parameters()) < 100_000
    torch.manual_seed(0)
    condition, noise = torch.randn(5, network.condition_size), torch.randn(5, network.noise_size)
    dropout = torch.rand(5, network.dropout_size)
    with torch.no_grad():
        whole = network(condition, noise, dropout)
        alone = network(condition[3:4], noise[3:4], dropout[3:4])
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(whole[3:4], alone, atol=1e-5, rtol=0)
    condition = condition[:1]
    maps = condition[:, E:].reshape(1, -1, 3, 3)
    with torch.no_grad():
        picture = network(condition)
        turned = network(torch.cat([condition[:, :E], maps.flip(3).flatten(1)], dim=1))
        assert (picture - turned).abs().max() > 1e-3
        heard: list[Tensor] = []
        network.attention1.hear.register_forward_hook(
            lambda _module, inputs, _output: heard.append(inputs[0])
        )
        network(condition)
    assert torch.equal(heard[0][0, 5], maps[0, :, 1, 2])
    with pytest.raises(RuntimeError, match="split"):
        network(condition[:, :-1])


def test_condition_is_the_embedding_and_the_maps_of_a_layer() -> None:
    encoder = awake(Autoencoder(SIZES.autoencoder))
    torch.manual_seed(0)
    mel = torch.rand(2, 1, 128, 100) * 2 - 1
    outputs: dict[int, Tensor] = {}
    for i in range(1, 14):
        getattr(encoder, f"conv{i}_bn").register_forward_hook(
            lambda _module, _inputs, output, i=i: outputs.__setitem__(i, output)
        )
    with torch.no_grad():
        embedding = encoder.encode(mel)
        assert tuple(tuple(outputs[i].shape[2:]) for i in range(1, 14)) == LAYER_SIZES
        for source in (1, 7, 12):
            condition = encoder.condition(mel, source)
            assert torch.equal(condition[:, :E], embedding)
            layer = outputs[source].clamp(min=0)
            assert torch.equal(condition[:, E:].reshape(layer.shape), layer)
            if source > 1:
                assert condition.shape[1] == tiny(source).condition_size
        assert torch.equal(encoder.condition(mel), embedding)
    for source in (0, 14):
        with pytest.raises(ConfigError, match=f"audio_source {source}: .*1 to 13"):
            encoder.condition(mel, source)


@pytest.mark.parametrize(
    ("source", "parameters", "operations"), [(13, 65.016e6, 5.194e9), (12, 68.703e6, 5.377e9)]
)
def test_sizes_of_the_published_layout(
    source: int, parameters: float, operations: float, flop: Callable[[DenseGeneratorConfig], int]
) -> None:
    config = DenseGeneratorConfig(
        attention=PUBLISHED, audio_source=source, source_maps=512 if source < 13 else 0
    )
    with torch.device("meta"):
        network = DenseGenerator(config)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=1e-4)
    assert flop(config) == pytest.approx(operations, rel=1e-4)
    assert network.condition_size == (512 if source == 13 else 512 + 512 * 9)
    assert from_dict(DenseGeneratorConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": (0, 18)}, "7 numbers of blocks"),
        ({"attention": (0, -1, 0, 0, 0, 0, 0)}, "none below 0"),
        ({"attention": (0, 0, 0, 0, 0, 0, 1)}, "the picture itself"),
        ({"attention_width": 100}, "multiple of attention_heads 8"),
        ({"attention_width": 15, "attention_heads": 3}, "must be even"),
        ({"attention_heads": 0}, "at least 1"),
        ({"attention": PUBLISHED, "audio_source": 14, "source_maps": 5}, "audio_source 14"),
        ({"audio_source": 12, "source_maps": 5}, "no attention blocks"),
        ({"attention": PUBLISHED, "audio_source": 12}, "source_maps"),
        ({"attention": PUBLISHED, "source_maps": 5}, "0 for layer 13"),
    ],
)
def test_attention_that_cannot_be_is_refused_in_a_line(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        DenseGeneratorConfig(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_exported_model_listens_as_pytorch_does(tmp_path: Path) -> None:
    from soundsight.core.draws import generator_draws, item_of
    from soundsight.core.units import to_levels, to_unit
    from soundsight.export import onnx as export
    from soundsight.runtime.translator import Translator

    encoder = awake(Autoencoder(SIZES.autoencoder))
    generator = awake(tiny(12, attention=(0, 1, 0, 0, 0, 0, 0)))
    export.export_networks(
        encoder, generator, tmp_path / "m", export.ExportConfig(name="attention")
    )
    assert json.loads((tmp_path / "m/model.json").read_text())["embedding_size"] == (
        generator.condition_size
    )
    mels = np.random.default_rng(0).integers(0, 256, (3, 128, 100), dtype=np.uint8)
    draws = [
        generator_draws(7, item_of(m), generator.noise_size, generator.dropout_size) for m in mels
    ]
    with torch.no_grad():
        expected = generator(
            encoder.condition(torch.from_numpy(to_unit(mels))[:, None], 12),
            torch.from_numpy(np.stack([d[0] for d in draws])),
            torch.from_numpy(np.stack([d[1] for d in draws])),
        )
    want = to_levels(expected.permute(0, 2, 3, 1).numpy()).astype(int)
    got = Translator.load(tmp_path / "m").imagine(mels, seed=7).astype(int)
    # Weights are stored in half precision.
    assert np.abs(got - want).max() <= 3
