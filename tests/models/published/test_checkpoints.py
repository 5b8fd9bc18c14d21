"""The authors' checkpoints give what the authors' networks give; other files give one line.

The reference is written here once more, as plain modules from the published description, and is
saved as their code saves: the state dict of a ``DataParallel``.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundsight.core.errors import ConfigError, DataError
from soundsight.models.published import checkpoints as published

KINDS = ("generator", "autoencoder", "discriminator", "informativity")
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


class Plain(nn.Module):
    def add(self, name: str, layer: nn.Module) -> None:
        self.add_module(name, layer)
        linear = isinstance(layer, nn.Linear)
        norm = nn.BatchNorm1d(layer.out_features) if linear else nn.BatchNorm2d(layer.out_channels)
        self.add_module(f"{name}_bn", norm)

    def run(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))

    def relus(self, name: str, last: int, x: Tensor) -> Tensor:
        for i in range(1, last + 1):
            x = F.relu(self.run(f"{name}{i}", x))
        return x


class PlainGenerator(Plain):
    def __init__(self, taken: int, widths: Sequence[int], blocks: Sequence[Sequence[int]]) -> None:
        super().__init__()
        shapes = [(2, 1, 0), (3, 1, 0), (3, 1, 0), *[(4, 2, 1)] * 4]
        for k, (a, b, c) in enumerate(blocks):
            self.add(f"transition{k}", nn.ConvTranspose2d(taken, widths[k], *shapes[k]))
            for i, maps in enumerate(((widths[k], a), (a, b), (a + b, c)), start=3 * k + 1):
                self.add(f"convT{i}", nn.ConvTranspose2d(*maps, 3, padding=1))
            taken = a + b + c
        self.add("transition6", nn.ConvTranspose2d(taken, 3, *shapes[6]))

    def forward(self, x: Tensor, uniforms: Tensor | None = None) -> Tensor:
        for k, rate in enumerate((0.15, 0.13, 0.11, 0.09, 0.07, 0.05)):
            x = F.relu(self.run(f"transition{k}", x))
            if uniforms is not None:
                mine, uniforms = uniforms[:, : x.shape[1]], uniforms[:, x.shape[1] :]
                x = torch.where(mine[:, :, None, None] < rate, 0.0, x / (1 - rate))
            a = F.relu(self.run(f"convT{3 * k + 1}", x))
            b = F.relu(self.run(f"convT{3 * k + 2}", a))
            c = F.relu(self.run(f"convT{3 * k + 3}", torch.cat((a, b), 1)))
            x = torch.cat((a, b, c), 1)
        return torch.tanh(self.run("transition6", x))


class PlainAutoencoder(Plain):
    def __init__(self, maps: Sequence[int], size: int) -> None:
        super().__init__()
        widths = [1, *maps, size]
        kernels = [(7, 5), (5, 3), (5, 3), (5, 3), (5, 3)] + [(3, 3)] * 8
        mirror = [(3, 3)] * 8 + [(5, 3), (5, 3), (5, 3), (5, 4), (8, 6)]
        for i, kernel in enumerate(kernels, start=1):
            stride = 2 if i < 3 else 1
            self.add(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], kernel, stride))
        for i, kernel in enumerate(mirror, start=1):
            stride = 2 if i > 11 else 1
            self.add(f"convT{i}", nn.ConvTranspose2d(widths[-i], widths[-i - 1], kernel, stride))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = torch.tanh(self.run("conv13", self.relus("conv", 12, x)))
        return torch.tanh(self.run("convT13", self.relus("convT", 12, code))), code


class PlainDiscriminator(Plain):
    def __init__(self, maps: Sequence[int], size: int) -> None:
        super().__init__()
        for i, (before, width) in enumerate(pairwise((3, *maps)), start=1):
            kernel, stride = (5, 2) if i == 1 else (3, 2) if i == 2 else (3, 1)
            self.add(f"conv{i}", nn.Conv2d(before, width, kernel, stride, bias=False))
        self.add("conv13", nn.Conv2d(maps[-1] + size // 4, 1, 2, bias=False))

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        x = torch.cat((self.relus("conv", 12, image), code.reshape(len(code), -1, 2, 2)), 1)
        return torch.tanh(self.run("conv13", x)).reshape(-1)


class PlainInformativity(Plain):
    def __init__(self) -> None:
        super().__init__()
        for i, (before, width) in enumerate(pairwise((3, 12, 32, 32, 32, 32)), start=1):
            self.add(f"conv{i}", nn.Conv2d(before, width, 5 if i == 1 else 3, 2))
        self.add("fc1", nn.Linear(32, 32))
        self.add("fc2", nn.Linear(32, 32))
        self.fc3 = nn.Linear(32, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relus("conv", 5, image).flatten(1)
        return F.log_softmax(self.fc3(F.relu(self.run("fc2", x))), 1)


WIDTHS = (512, 512, 352, 224, 160, 112)
BLOCKS = (
    (512, 512, 512), (512, 416, 352), (304, 256, 224), (192, 176, 160), (144, 128, 112),
    (96, 80, 64),
)  # fmt: skip
SOUND_MAPS = (80, 176, 192, 224, 272, 304, 352, 416, 512, 512, 512, 512)
PICTURE_MAPS = (96, 192, 192, 208, 224, 240, 256, 256, 256, 256, 256, 256)

# All widths differ, so that no two sizes can be taken for one another.
FEW_WIDTHS = (13, 12, 11, 10, 9, 8)
FEW_BLOCKS = ((7, 6, 5), (8, 7, 6), (6, 5, 4), (5, 6, 7), (4, 5, 6), (3, 4, 5))
FEW_MAPS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)


def network(kind: str, size: int = 16, noise: int = 0) -> nn.Module:
    """A small reference, its numbers random and its statistics no longer 0 and 1."""
    return scattered(
        {
            "generator": lambda: PlainGenerator(noise + size, FEW_WIDTHS, FEW_BLOCKS),
            "autoencoder": lambda: PlainAutoencoder(FEW_MAPS, size),
            "discriminator": lambda: PlainDiscriminator(FEW_MAPS, size),
            "informativity": PlainInformativity,
        }[kind]()
    )


def scattered(made: nn.Module, seed: int = 1) -> nn.Module:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in made.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=rng)
                module.running_var.uniform_(0.3, 1.5, generator=rng)
                # At the ends of a tanh all outputs look the same.
                if name in ("transition6_bn", "conv13_bn", "convT13_bn"):
                    module.running_var.mul_(400.0 if isinstance(made, PlainDiscriminator) else 20.0)
                module.weight.uniform_(0.7, 1.4, generator=rng)
                module.bias.uniform_(-0.2, 0.2, generator=rng)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                # Wide enough that the signal lives through eighteen layers.
                fan = module.weight[0].numel()
                if isinstance(module, nn.ConvTranspose2d):
                    fan = module.in_channels * module.weight[0, 0].numel() // module.stride[0] ** 2
                module.weight.normal_(0.0, (2 / fan) ** 0.5, generator=rng)
    return made.eval()


def save(made: nn.Module, path: Path) -> Path:
    """Write the checkpoint as the authors' code does."""
    torch.save(nn.DataParallel(made).state_dict(), path)
    return path


def inputs(kind: str, size: int = 16, n: int = 3) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(2)
    shapes = {"mel": (1, 128, 100), "image": (3, 96, 96), "code": (size, 1, 1)}
    x = {name: torch.rand(n, *shape, generator=rng) * 2 - 1 for name, shape in shapes.items()}
    taken = {"generator": "code", "autoencoder": "mel", "discriminator": "image code"}
    return tuple(x[name] for name in taken.get(kind, "image").split())


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """Where a test writes its checkpoint."""
    return tmp_path / "a.pth"


def check(kind: str, path: Path, made: nn.Module, size: int = 16, n: int = 3) -> nn.Module:
    """See that the file gives the reference's outputs, and return the loaded network."""
    loaded = published.load(kind, path)
    with torch.no_grad():
        outputs = [network(*inputs(kind, size, n)) for network in (loaded, made)]
    if kind != "autoencoder":
        outputs = [(output,) for output in outputs]
    for got, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(got, expected.reshape(got.shape), **TOLERANCE)
        # A flat output would be equal to anything flat.
        assert expected.std() > 0.01
    return loaded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 128])
def test_outputs_are_those_of_the_published_networks(kind: str, size: int, pth: Path) -> None:
    made = network(kind, size)
    loaded = check(kind, save(made, pth), made, size)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    if kind in ("generator", "discriminator"):
        # An embedding may be flat or a map.
        *image, code = inputs(kind, size)
        with torch.no_grad():
            assert torch.equal(loaded(*image, code), loaded(*image, code.flatten(1)))


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "generator": lambda: PlainGenerator(512, WIDTHS, BLOCKS),
    "autoencoder": lambda: PlainAutoencoder(SOUND_MAPS, 512),
    "discriminator": lambda: PlainDiscriminator(PICTURE_MAPS, 512),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_outputs_at_the_published_sizes(kind: str, pth: Path) -> None:
    made = scattered(PUBLISHED[kind]())
    check(kind, save(made, pth), made, 512, n=2)
    pth.unlink()


def test_dropout_is_on_when_its_numbers_are_given(pth: Path) -> None:
    made = network("generator")
    loaded = published.load("generator", save(made, pth))
    (code,) = inputs("generator")
    assert loaded.dropout_size == sum(FEW_WIDTHS)
    uniforms = torch.rand(3, sum(FEW_WIDTHS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = loaded(code, None, uniforms)
        torch.testing.assert_close(got, made(code, uniforms), **TOLERANCE)
        assert (got - loaded(code)).abs().max() > 0.01
        assert torch.equal(loaded(code), loaded(code))


@pytest.mark.parametrize(("size", "noise"), [(16, 8), (16, 16), (12, 5)])
def test_noise_comes_before_the_embedding(size: int, noise: int, pth: Path) -> None:
    made = network("generator", size, noise)
    path = save(made, pth)
    loaded = published.load("generator", path, embedding_size=size)
    assert (loaded.embedding_size, loaded.noise_size) == (size, noise)
    (code,) = inputs("generator", size)
    normal = torch.randn(3, noise, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        # Its standard deviation is published: .035.
        expected = made(torch.cat((0.035 * normal[:, :, None, None], code), 1))
        torch.testing.assert_close(loaded(code, normal), expected, **TOLERANCE)
    assert published.load("generator", path).embedding_size == size + noise


VARIANTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no prefix": lambda state: state,
    "no counters": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "float64": lambda state: {k: v.double() for k, v in state.items()},
    "state_dict": lambda state: {"epoch": 3679, "state_dict": state},
    "model_state_dict": lambda state: {
        "model_state_dict": {f"module.{k}": v for k, v in state.items()}, "loss": 0.1,
    },
    "parameters": lambda state: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ways_in_which_files_differ(kind: str, variant: str, pth: Path) -> None:
    made = network(kind)
    torch.save(VARIANTS[variant](dict(made.state_dict())), pth)
    check(kind, pth, made)


def test_older_formats_half_precision_and_shared_tensors(pth: Path) -> None:
    made = network("informativity")
    torch.save(made.state_dict(), pth, _use_new_zipfile_serialization=False)
    check("informativity", pth, made)
    half = network("generator").half()
    save(half, pth)
    check("generator", pth, half.float())
    # Tensors that a file stores once, under two names, are two tensors of the network.
    state = dict(made.state_dict())
    torch.save(state | {"fc1.weight": state["fc2.weight"]}, pth)
    loaded = published.load("informativity", pth)
    with torch.no_grad():
        loaded.fc1.weight.zero_()
    assert loaded.fc2.weight.any()


# --- what is refused ----------------------------------------------------------------------------


def refused(kind: str, path: Path, **kwargs: Any) -> str:
    with pytest.raises(DataError) as error:
        published.load(kind, path, **kwargs)
    (line,) = str(error.value).splitlines()
    assert str(path) in line
    return line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_another_kind_is_named(kind: str, other: str, pth: Path) -> None:
    path = save(network(other), pth)
    if kind == other:
        published.load(kind, path)
    else:
        line = refused(kind, path)
        assert line.endswith(f"is a checkpoint of the {other}, not of the {kind}")


def other(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What puts another value (a shape stands for ones) in the place of a tensor."""

    def change(state: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value, tuple):
            return state | {name: value}
        assert name not in state or state[name].shape != value
        return state | {name: torch.ones(value)}

    return change


REFUSED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    *[
        (kind, other(name, shape), "where its other layers need")
        for kind, name, shape in (
            ("generator", "convT2.weight", (7, 5, 3, 3)),  # its layer c then gets another a + b
            ("generator", "transition3.weight", (16, 10, 4, 4)),
            ("generator", "transition6.weight", (12, 1, 4, 4)),
            ("generator", "transition0.weight", (16, 13, 3, 3)),
            ("autoencoder", "convT1.weight", (17, 14, 3, 3)),
            ("autoencoder", "conv1.weight", (3, 2, 7, 5)),
            ("autoencoder", "conv5_bn.running_var", (8,)),
            ("discriminator", "conv4.weight", (6, 4, 3, 3)),
            ("discriminator", "conv13.weight", (1, 18, 3, 3)),
            ("informativity", "fc3.weight", (5, 32)),
            ("informativity", "conv1_bn.weight", ()),
        )
    ],
    ("autoencoder", lambda state: {k: v for k, v in state.items() if "convT" not in k},
     "it has 78 of 156 tensors; convT1.weight is missing"),
    ("discriminator", other("conv1.bias", (3,)), "the published discriminator has no conv1.bias"),
    ("generator", lambda _: nn.Conv2d(3, 4, 3).state_dict(), "no layer is called so"),
    *[
        ("generator", other("convT2.weight", shape), "convT2.weight is ")
        for shape in ((7, 6), (), (7, 0, 3, 3))
    ],
    ("discriminator", other("conv13.weight", (1, 14, 2, 2)), "takes no embedding"),
    *[
        ("informativity", other("fc2.bias", torch.full((32,), value, dtype=torch.float64)),
         "fc2.bias holds numbers that are not finite")
        for value in (torch.nan, torch.inf, 1e300)
    ],
    *[
        ("informativity", other("fc2.bias", value), "fc2.bias is no tensor of weights")
        for value in (torch.zeros(32, dtype=torch.int64), torch.zeros(32).to_sparse(), [0.0] * 32,
                      "zeros", None)
    ],
    *[
        ("generator", lambda _, content=content: content, "holds no state dict")
        for content in ([], {}, torch.zeros(3), 5, {"state_dict": {}})
    ],
    ("generator", lambda _: nn.Linear(2, 2), "torch.save(network.state_dict(), PATH)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "words"), REFUSED)
def test_contents_of_another_network_or_of_none(
    kind: str, change: Callable[[dict[str, Any]], Any], words: str, pth: Path
) -> None:
    torch.save(change(dict(network(kind).state_dict())), pth)
    assert words in refused(kind, pth)


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(zipped: bool, tmp_path: Path, pth: Path) -> None:
    content = {**network("informativity").state_dict(), "trap": Trap(tmp_path / "sprung")}
    torch.save(content, pth, _use_new_zipfile_serialization=zipped)
    assert "holds more than tensors" in refused("informativity", pth)
    assert not (tmp_path / "sprung").exists()
    torch.load(pth, weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap does not work"


def stored(**kwargs: Any) -> bytes:
    file = io.BytesIO()
    torch.save(PlainInformativity().state_dict(), file, **kwargs)
    return file.getvalue()


def foreign_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "b")
    return file.getvalue()


FOREIGN = {
    "empty": b"",
    "zeros": b"\x00" * 100,
    "text": b"hello world\n" * 9,
    "page": b"<!DOCTYPE html><html></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:aaa\nsize 1\n",
    "zip": foreign_zip(),
    "half": stored()[:5000],
    "tail": stored()[:-30],
    "old-tail": stored(_use_new_zipfile_serialization=False)[:-6],
    "old-half": stored(_use_new_zipfile_serialization=False)[:900],
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint(content: bytes, pth: Path) -> None:
    pth.write_bytes(content)
    line = refused("informativity", pth)
    assert "no checkpoint of PyTorch, or it is cut short or damaged" in line


def test_places_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for name, words in (
        ("", "is a folder"),
        ("none.pth", "does not exist"),
        ("pipe.pth", "no plain file"),
        ("x" * 300, "does not exist"),
    ):
        assert words in refused("generator", tmp_path / name)
    path = save(network("informativity"), tmp_path / "a.pth")

    def no(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", no)
    assert refused("informativity", path) == f"cannot read {path}: Permission denied"


def test_arguments_out_of_place(pth: Path) -> None:
    line = refused("generator", save(network("generator"), pth), embedding_size=32)
    assert line.endswith("takes 16 numbers, fewer than an embedding of 32")
    for kind, size, words in (
        ("critic", None, r"unknown kind of network 'critic'; choose from autoenc"),
        ("autoencoder", 16, "embedding_size is a generator's"),
        ("generator", 0, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            published.load(kind, pth, embedding_size=size)
