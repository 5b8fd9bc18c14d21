"""Two processes do what one does with the same batch; really started, talking over gloo.

BatchNorm takes its statistics over both: those of the decoder's encoder and decoder, too, until the
encoder is frozen and takes what it has learned. The flow has none. Ears share theirs as well, but
mix and disturb their own sounds, so that they are held to each other and not to one process.

Run as a program this file is one of the two processes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError
from soundsight.data.everyday.folder import Everyday, find_everyday
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench, find_bench
from soundsight.models.decoder import LatentDecoder
from soundsight.models.ears import PictureProjection, ears_preset
from soundsight.models.eyes import NETWORKS, Eyes
from soundsight.models.flow import Flow
from soundsight.training.align import AlignTask
from soundsight.training.checkpoints import read_checkpoint, save_weights
from soundsight.training.configs import (
    AlignConfig,
    BankConfig,
    DecoderConfig,
    EarsTrainingConfig,
    EncoderConfig,
    FlowTrainingConfig,
    LoopConfig,
    MovingAverageConfig,
    TranslatorConfig,
)
from soundsight.training.decoder import SIZES, DecoderTask
from soundsight.training.devices import Machine, MachineConfig, start_machine
from soundsight.training.distributed import SharedDraws
from soundsight.training.ears import EarsTask
from soundsight.training.ears_data import open_ears_data
from soundsight.training.encoder import EncoderTask, load_encoder
from soundsight.training.flow import SIZES as FLOW_SIZES
from soundsight.training.flow import FlowTask
from soundsight.training.flow_data import FlowPairs
from soundsight.training.trainer import Scalars, Task, fit
from soundsight.training.translator import TranslatorTask

SILENT = Console(quiet=True, stderr=True)
LOOP = LoopConfig(
    steps=3, batch_size=8, log_every=1, checkpoint_every=3, picture_every=3, evaluate_every=3
)
IN_TWO = replace(LOOP, accumulate=2)
KINDS: dict[
    str, EncoderConfig | TranslatorConfig | DecoderConfig | FlowTrainingConfig | AlignConfig
] = {
    "contrastive": EncoderConfig(kind="contrastive", preset="tiny", loop=LOOP),
    "autoencoder": EncoderConfig(kind="autoencoder", preset="tiny", loop=LOOP),
    "relativistic": TranslatorConfig(
        encoder="x", preset="tiny", objective="relativistic", penalty_every=2, loop=LOOP
    ),
    "variational": TranslatorConfig(
        encoder="x", preset="tiny", objective="relativistic", penalty_every=2, loop=LOOP,
        contrast_weight=1.0, coherence_weight=1.0, variational_weight=1.0,
    ),
    "rc": TranslatorConfig(
        encoder="x", preset="tiny", objective="rc", pixel_weight=1.0, loop=LOOP,
        moving_average=MovingAverageConfig(reading="snapshots", snapshots=2, snapshot_every=1),
    ),
    "contrastive in two": EncoderConfig(kind="contrastive", preset="tiny", loop=IN_TWO),
    "decoder": DecoderConfig(
        preset="tiny", sharpen_from=1, frozen_from=2, warm_up=0, rate=0.05, loop=LOOP,
    ),
    "flow": FlowTrainingConfig(preset="tiny", warm_up=0, rate=0.05, loop=LOOP),
    "flow in two": FlowTrainingConfig(preset="tiny", warm_up=0, rate=0.05, loop=IN_TWO),
    "align": AlignConfig(preset="tiny", ahead=1, warm_up=0, rate=0.05, others=4, loop=LOOP),
    "relativistic in two": TranslatorConfig(
        encoder="x", preset="tiny", objective="relativistic", penalty_every=2, loop=IN_TWO
    ),
}  # fmt: skip


def flow_pairs() -> FlowPairs:
    rng = torch.Generator().manual_seed(2)
    return FlowPairs(
        embeddings=torch.randn(2, 12, 16, generator=rng),
        latents=torch.randn(2, 12, 4, 6, 6, generator=rng),
        rows=torch.stack([torch.arange(12)] * 2, dim=1),
    )


def few_steps(encoder_run: Path) -> Path:
    """Where what an alignment starts from lies."""
    return encoder_run.parent / "few"


def write_few_steps(run: Path) -> None:
    """Write a few-step flow, its decoder and the ears' photo projection, as yet untrained."""
    eyes = {"eyes": NETWORKS["lite0"].sha256}
    torch.manual_seed(1)
    flow, ears = Flow(FLOW_SIZES["tiny"]), ears_preset("everyday-tiny")
    times = {"network": to_dict(FLOW_SIZES["tiny"]), "times": [0.0, 0.5, 1.0]}
    save_weights(run / "flow.safetensors", flow, times)
    about = {"network": to_dict(SIZES["tiny"]), **eyes}
    save_weights(run / "latent_decoder.safetensors", LatentDecoder(SIZES["tiny"]), about)
    about = {"network": to_dict(ears), "temperature": 0.5, **eyes}
    save_weights(run / "picture_encoder.safetensors", PictureProjection(ears), about)


def make_task(kind: str, bench: Bench, encoder_run: Path) -> Task:
    """A task whose optimisers move weights in proportion to gradients.

    Adam divides by the gradient's size: where that is rounding noise alone, as for a bias before
    BatchNorm, it makes whole steps out of nothing.
    """
    config, data = KINDS[kind], PairDataset(bench, "train")
    if isinstance(config, EncoderConfig):
        task: Any = EncoderTask(config, data)
        task.optimizer = torch.optim.SGD(task.network.parameters(), lr=0.05)
        return task  # type: ignore[no-any-return]
    if isinstance(config, DecoderConfig):
        torch.manual_seed(0)
        eyes = Eyes(NETWORKS["lite0"]).eval().requires_grad_(False)
        task = DecoderTask(config, torch.from_numpy(data.photos()), eyes)
        drawing = [*task.encoder.parameters(), *task.decoder.parameters()]
        task.optimizer = torch.optim.SGD(drawing, lr=config.rate)
        task.d_optimizer = torch.optim.SGD(task.discriminator.heads.parameters(), lr=0.05)
        return task  # type: ignore[no-any-return]
    if isinstance(config, AlignConfig):
        torch.manual_seed(0)
        eyes = Eyes(NETWORKS["lite0"]).eval().requires_grad_(False)
        photos = torch.from_numpy(data.photos())
        task = AlignTask(config, flow_pairs(), photos, eyes, run=few_steps(encoder_run))
        drawing = [*task.flow.parameters(), *task.decoder.parameters()]
        task.optimizer = torch.optim.SGD(drawing, lr=config.rate)
        task.d_optimizer = torch.optim.SGD(task.discriminator.heads.parameters(), lr=0.05)
        return task  # type: ignore[no-any-return]
    if isinstance(config, FlowTrainingConfig):
        pairs = flow_pairs()
        task = FlowTask(config, pairs, runs=(encoder_run, encoder_run))
        task.optimizer = torch.optim.SGD(task.flow.parameters(), lr=config.rate)
        return task  # type: ignore[no-any-return]
    task = TranslatorTask(config, load_encoder(encoder_run).double(), data, encoder_run=encoder_run)
    drawing = [*task.generator.parameters()]
    drawing += [] if task.posterior is None else task.posterior.parameters()
    task.g_optimizer = torch.optim.SGD(drawing, lr=0.05)
    task.d_optimizer = torch.optim.SGD(task.discriminator.parameters(), lr=0.05)
    return task  # type: ignore[no-any-return]


@contextmanager
def in_double() -> Iterator[None]:
    """Compute in float64 what the package computes in float32.

    A step of these small batches multiplies rounding errors a thousandfold, in one process as in
    two; in float64 they stay too small to be taken for anything else.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def train(kind: str, bench: Bench, encoder_run: Path, run: Path, machine: Machine) -> None:
    config = KINDS[kind]
    task = make_task(kind, bench, encoder_run)
    assert fit(task, run, config.loop, to_dict(config), machine=machine, console=SILENT)


def stop_on_the_second(run: Path, machine: Machine, bench: Bench) -> None:
    """Ask the second process alone to stop, in the middle of the second step."""
    config = EncoderConfig(preset="tiny", loop=LOOP)
    task = EncoderTask(config, PairDataset(bench, "train"))
    inner = task.step

    def step(number: int, rng: torch.Generator) -> Scalars:
        if number == 1 and machine.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(number, rng)

    task.step = step  # type: ignore[method-assign]
    fit(task, run, config.loop, to_dict(config), machine=machine, console=SILENT)


def change_the_config(run: Path, machine: Machine, bench: Bench) -> None:
    config = EncoderConfig(preset="tiny", loop=replace(LOOP, seed=1))
    task = EncoderTask(config, PairDataset(bench, "train"))
    fit(task, run, config.loop, to_dict(config), machine=machine, console=SILENT)


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun gives to a process."""
    return {
        **os.environ,
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip


def in_two_processes(*arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Start this file twice as torchrun would, and wait."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, *arguments], env=environment(rank, port),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    done = []
    for process in started:
        out, err = process.communicate(timeout=200)
        done.append(subprocess.CompletedProcess(arguments, process.returncode, out, err))
    return done


@pytest.fixture(scope="module")
def encoder_run(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "encoder"
    config = EncoderConfig(preset="tiny", loop=replace(LOOP, steps=1))
    task = EncoderTask(config, PairDataset(toy_bench, "train"))
    assert fit(task, run, config.loop, to_dict(config), console=SILENT)
    write_few_steps(few_steps(run))
    return run


@pytest.fixture(scope="module")
def pair(toy_bench: Bench, encoder_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs, one a kind, of two processes."""
    out = tmp_path_factory.mktemp("pair")
    done = in_two_processes("train", str(toy_bench.root), str(encoder_run), str(out))
    assert [p.returncode for p in done] == [0, 0], "".join(p.stderr for p in done)
    assert [p.stdout + p.stderr for p in done] == ["", ""]
    return out


def tensors_of(run: Path) -> dict[str, Tensor]:
    return read_checkpoint(run / "checkpoint.safetensors")[0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_two_processes_equal_one_on_the_same_batch(
    kind: str, pair: Path, toy_bench: Bench, encoder_run: Path, tmp_path: Path
) -> None:
    with in_double():
        train(kind, toy_bench, encoder_run, tmp_path / kind, Machine())
        fresh = make_task(kind, toy_bench, encoder_run).networks()
    one, two = tensors_of(tmp_path / kind), tensors_of(pair / kind)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-8, rtol=1e-8, msg=name)
    # The weights moved much further than that.
    moved = max(
        float((one[f"network.{key}.{name}"] - value.detach()).abs().max())
        for key, network in fresh.items()
        for name, value in network.named_parameters()
    )
    assert moved > 1e-4
    logs = [
        [json.loads(line) for line in (root / kind / "log.jsonl").read_text().splitlines()]
        for root in (tmp_path, pair)
    ]
    for alone, both in zip(*logs, strict=True):
        assert alone.keys() == both.keys()
        for name in set(alone) - {"items_per_s", "variety"}:
            assert both[name] == pytest.approx(alone[name], rel=1e-6, abs=1e-8), name


def ears_task(everyday: Path, bench: Path, bank: Path) -> EarsTask:
    """Ears on toy data, seen through eyes without their package of weights."""
    torch.manual_seed(0)
    eyes = Eyes(NETWORKS["lite0"]).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Eyes, "load", lambda _name: eyes)
        config = EarsTrainingConfig(
            preset="everyday-tiny", alone=0.25, bank=BankConfig(copies=1),
            loop=replace(LOOP, batch_size=16),
        )  # fmt: skip
        data = open_ears_data(bank, find_everyday(everyday), find_bench(bench), config.bank)
    return EarsTask(config, data)


def test_ears_of_two_processes_are_one(
    toy_everyday: Everyday, toy_bench: Bench, tmp_path: Path
) -> None:
    places = [str(toy_everyday.root), str(toy_bench.root), str(tmp_path / "bank")]
    before = ears_task(*map(Path, places)).network.ears.state_dict()
    done = in_two_processes("ears", *places, str(tmp_path))
    assert [p.returncode for p in done] == [0, 0], "".join(p.stderr for p in done)
    first, second = (torch.load(tmp_path / f"ears-{rank}.pt") for rank in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)
    assert any(not torch.equal(value, before[name]) for name, value in first.items())


def test_the_record_names_the_processes(pair: Path) -> None:
    (start,) = json.loads((pair / "rc" / "run.json").read_text())["starts"]
    assert (start["processes"], start["device"], start["step"]) == (2, "cpu", 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_stop_when_one_is_asked_to(rank: int, pair: Path, toy_bench: Bench) -> None:
    ended = json.loads((pair / f"ended-{rank}.json").read_text())
    assert ended[0] == "KeyboardInterrupt()"
    # What the first process has said the second does not say again.
    said = "ConfigError" if rank == 0 else "SystemExit(2)"
    assert ended[1].startswith(said)
    if rank == 0:
        run = pair / "stopped"
        assert read_checkpoint(run / "checkpoint.safetensors")[1]["step"] == 2
        assert not (run / "done.json").exists()
        # One process goes on with what two began.
        config = EncoderConfig(preset="tiny", loop=LOOP)
        task = EncoderTask(config, PairDataset(toy_bench, "train"))
        assert fit(task, run, config.loop, to_dict(config), console=SILENT)
        starts = json.loads((run / "run.json").read_text())["starts"]
        assert [(s["step"], s["processes"]) for s in starts] == [(0, 2), (2, 1)]


def test_a_batch_must_divide() -> None:
    machine = Machine()
    machine.world = 3
    with pytest.raises(ConfigError, match="a multiple of 6"):
        machine.parts_of(np.arange(8), 2)
    machine.rank = 1
    assert [part.tolist() for part in machine.parts_of(np.arange(12), 2)] == [[2, 3], [8, 9]]


def test_draws_that_cannot_be_shared_are_refused() -> None:
    rng = torch.Generator()
    with SharedDraws(rng), pytest.raises(TypeError, match="cannot be shared"):
        torch.randperm(3, generator=rng)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "tpu"}, "unknown accelerator"),
        ({"devices": 0}, "devices must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_machines_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MachineConfig(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        start_machine(MachineConfig(accelerator="cuda"))


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_what_the_launcher_started_is_not_overruled(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (
        environment(0, 1)
        if launcher == "torchrun"
        else {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train"}
    )
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="devices is 3 but the launcher started 2"):
        start_machine(MachineConfig(accelerator="cpu", devices=3))


def test_compiling_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.cpp_builder.config.cpp.cxx", ("/nowhere/c++",))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        start_machine(MachineConfig(accelerator="cpu", compile=True))


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    here = start_machine(MachineConfig(accelerator="cpu"))
    if what == "ears":
        *data, out = map(Path, paths)
        ears = ears_task(*data)
        assert fit(ears, out / "ears", ears.config.loop, {}, machine=here, console=SILENT)
        torch.save(ears.network.ears.state_dict(), out / f"ears-{here.rank}.pt")
    elif what == "train":
        root, encoder, out = map(Path, paths)
        with in_double():
            for each in KINDS:
                train(each, find_bench(root), encoder, out / each, here)
        ended = []
        for act in (stop_on_the_second, change_the_config):
            try:
                act(out / "stopped", here, find_bench(root))
            except BaseException as end:
                ended.append(repr(end))
        (out / f"ended-{here.rank}.json").write_text(json.dumps(ended))
