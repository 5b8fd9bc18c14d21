"""Two processes train every preset as data-parallel training does; really started, over gloo.

Run as a program, this file is one of the two processes: it trains each preset for a few steps and
checks, against the other process, every mean of gradients and all weights at the end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
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
from soundsight.training import configs
from soundsight.training.align import AlignTask
from soundsight.training.checkpoints import read_checkpoint, save_weights
from soundsight.training.decoder import SIZES, DecoderTask
from soundsight.training.devices import Devices, start_devices
from soundsight.training.ears import EarsTask
from soundsight.training.ears_data import open_ears_data
from soundsight.training.encoder import EncoderTask, load_encoder
from soundsight.training.flow import SIZES as FLOW_SIZES
from soundsight.training.flow import DistilTask, FlowPairs, FlowTask
from soundsight.training.published import TranslatorTask
from soundsight.training.trainer import Scalars, Task, fit, step_rng

LOOP = configs.LoopConfig(
    steps=3, batch_size=8, log_every=1, checkpoint_every=3, picture_every=3, evaluate_every=3
)
IN_TWO = replace(LOOP, accumulate=2)
RELATIVISTIC = configs.TranslatorConfig(
    encoder="x", preset="tiny", objective="relativistic", penalty_every=2, loop=LOOP
)
CONFIGS: dict[str, Any] = {
    "contrastive": configs.EncoderConfig(kind="contrastive", preset="tiny", loop=LOOP),
    "autoencoder": configs.EncoderConfig(kind="autoencoder", preset="tiny", loop=LOOP),
    "published": configs.EncoderConfig(
        kind="autoencoder", preset="tiny", schedule="published", learning_rate=0.05, loop=LOOP
    ),
    "relativistic": RELATIVISTIC,
    "relativistic in two": replace(RELATIVISTIC, loop=IN_TWO),
    "variational": replace(
        RELATIVISTIC, contrast_weight=1.0, coherence_weight=1.0, variational_weight=1.0
    ),
    "rc": configs.TranslatorConfig(
        encoder="x", preset="tiny", objective="rc", pixel_weight=1.0, loop=LOOP,
        moving_average=configs.MovingAverageConfig(
            reading="snapshots", snapshots=2, snapshot_every=1
        ),
    ),
    "ears": configs.EarsTrainingConfig(
        preset="everyday-tiny", alone=0.25, bank=configs.BankConfig(copies=1),
        loop=replace(LOOP, batch_size=16),
    ),
    "decoder": configs.DecoderConfig(preset="tiny", sharpen_from=1, frozen_from=2, loop=LOOP),
    "flow": configs.FlowTrainingConfig(preset="tiny", loop=LOOP),
    "distil": configs.DistilConfig(loop=LOOP),
    "align": configs.AlignConfig(preset="tiny", ahead=1, others=4, loop=LOOP),
}  # fmt: skip


def make_task(config: Any, bench: Bench, everyday: Everyday, encoder_run: Path) -> Task:
    """The task of a config, on toy data, seen through eyes with random weights."""
    data = PairDataset(bench, "train")
    few_steps = encoder_run.parent / "few"
    torch.manual_seed(0)
    eyes = Eyes(NETWORKS["lite0"]).eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(2)
    pairs = FlowPairs(
        embeddings=torch.randn(2, 12, 16, generator=rng),
        latents=torch.randn(2, 12, 4, 6, 6, generator=rng),
        rows=torch.stack([torch.arange(12)] * 2, dim=1),
    )
    match config:
        case configs.EncoderConfig():
            return EncoderTask(config, data)
        case configs.TranslatorConfig():
            encoder = load_encoder(encoder_run)
            return TranslatorTask(config, encoder, data, encoder_run=encoder_run)
        case configs.EarsTrainingConfig():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Eyes, "load", lambda _name: eyes)
                bank = encoder_run.parent / "bank"
                return EarsTask(config, open_ears_data(bank, everyday, bench, config.bank))
        case configs.DecoderConfig():
            return DecoderTask(config, torch.from_numpy(data.photos()), eyes)
        case configs.FlowTrainingConfig():
            return FlowTask(config, pairs, runs=(encoder_run, encoder_run))
        case configs.DistilConfig():
            flow = Flow(FLOW_SIZES["tiny"])
            for parameter in flow.parameters():  # A new flow says nothing.
                torch.nn.init.normal_(parameter, std=0.1)
            return DistilTask(config, pairs, flow, run=few_steps)
        case configs.AlignConfig():
            return AlignTask(config, pairs, torch.from_numpy(data.photos()), eyes, run=few_steps)
    raise AssertionError(config)


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


def of_all(tensor: Tensor) -> list[Tensor]:
    """The tensor as each process has it."""
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor.contiguous())
    return found


class CheckedDevices(Devices):
    """Checks each average against what both processes had before, and counts the different ones."""

    differed = 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        before = [of_all(tensor) for tensor in tensors]
        super().average(tensors)
        for tensor, (one, two) in zip(tensors, before, strict=True):
            torch.testing.assert_close(tensor, (one + two) / 2)
            self.differed += not torch.equal(one, two)


def train(config: Any, task: Task, run: Path, here: Devices) -> None:
    """Train, and check that gradients were of different data and end in the same weights."""
    checked = CheckedDevices(here._fabric)
    assert fit(task, run, config.loop, to_dict(config), devices=checked)
    assert checked.differed
    for network in task.networks.values():
        for name, value in network.state_dict().items():
            one, two = of_all(value)
            assert torch.equal(one, two), name


def encoder_task(bench: Bench, **changes: int) -> tuple[EncoderTask, configs.EncoderConfig]:
    config = configs.EncoderConfig(preset="tiny", loop=replace(LOOP, **changes))
    return EncoderTask(config, PairDataset(bench, "train")), config


def stop_on_the_second(run: Path, here: Devices, bench: Bench) -> None:
    """Ask the second process alone to stop, in the middle of the second step."""
    task, config = encoder_task(bench)
    inner = task.step

    def step(number: int, rng: torch.Generator) -> Scalars:
        if number == 1 and here.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(number, rng)

    task.step = step  # type: ignore[method-assign]
    fit(task, run, config.loop, to_dict(config), devices=here)


def change_the_config(run: Path, here: Devices, bench: Bench) -> None:
    task, config = encoder_task(bench, seed=1)
    fit(task, run, config.loop, to_dict(config), devices=here)


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun gives to a process."""
    return {
        **os.environ,
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pair(
    toy_bench: Bench, toy_everyday: Everyday, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the runs, one a preset, of two processes started as torchrun would."""
    out = tmp_path_factory.mktemp("pair")
    write_few_steps(out / "few")
    task, encoder = encoder_task(toy_bench, steps=1)
    assert fit(task, out / "encoder", encoder.loop, to_dict(encoder))
    # The bank is made once: two processes would both make it.
    make_task(CONFIGS["ears"], toy_bench, toy_everyday, out / "encoder")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = map(str, (toy_bench.root, toy_everyday.root, out))
    command = [sys.executable, __file__, *places]
    processes = [
        subprocess.Popen(
            command, env=environment(rank, port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "".join(said)
    assert said[0].splitlines() == ["stopped at step 2 of 3; the same command goes on"]
    assert said[1] == ""
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_two_processes_train_every_preset(kind: str, pair: Path) -> None:
    """The processes themselves have compared gradients and weights; here is what they wrote."""
    lines = (pair / kind / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(value) for line in lines for value in json.loads(line).values())
    (start,) = json.loads((pair / kind / "run.json").read_text())["starts"]
    assert (start["processes"], start["device"], start["step"]) == (2, "cpu", 0)
    assert read_checkpoint(pair / kind / "checkpoint.safetensors")[1]["step"] == 3


@pytest.mark.slow
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
        task, config = encoder_task(toy_bench)
        assert fit(task, run, config.loop, to_dict(config))
        starts = json.loads((run / "run.json").read_text())["starts"]
        assert [(s["step"], s["processes"]) for s in starts] == [(0, 2), (2, 1)]


def test_randomness_is_a_function_of_seed_rank_and_step() -> None:
    def draws(*words: int) -> list[float]:
        rng = step_rng(*words)
        return [float(torch.rand(())), float(torch.rand((), generator=rng))]

    assert draws(1, 2, 3) == draws(1, 2, 3)
    drawn = [draws(*words) for words in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert len({value for both in drawn for value in both}) == 8


def test_a_batch_must_divide() -> None:
    devices = Devices()
    devices.world = 3
    with pytest.raises(ConfigError, match="a multiple of 6"):
        devices.parts_of(np.arange(8), 2)
    devices.rank = 1
    assert [part.tolist() for part in devices.parts_of(np.arange(12), 2)] == [[2, 3], [8, 9]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown accelerator"):
        start_devices("tpu")
    with pytest.raises(ConfigError, match="no CUDA device"):
        start_devices("cuda")


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
        start_devices("cpu", 3)


def test_compiling_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.cpp_builder.config.cpp.cxx", ("/nowhere/c++",))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        start_devices("cpu", compiled=True)


def main(bench: Bench, everyday: Everyday, out: Path) -> None:
    here = start_devices("cpu")
    for kind, config in CONFIGS.items():
        train(config, make_task(config, bench, everyday, out / "encoder"), out / kind, here)
    ended = []
    acts: list[Callable[[Path, Devices, Bench], None]] = [stop_on_the_second, change_the_config]
    for act in acts:
        try:
            act(out / "stopped", here, bench)
        except BaseException as end:
            ended.append(repr(end))
    (out / f"ended-{here.rank}.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    bench_root, everyday_root, folder = map(Path, sys.argv[1:])
    main(find_bench(bench_root), find_everyday(everyday_root), folder)
