"""The loop: 2 + 2 steps equal 4, a stop loses nothing, and a changed config is refused."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError, OutputError, SoundsightError
from soundsight.data.store.dataset import PairDataset
from soundsight.data.vegas.bench import Bench
from soundsight.training.checkpoints import load_weights, read_checkpoint, save_weights
from soundsight.training.configs import EncoderConfig, LoopConfig, TranslatorConfig
from soundsight.training.devices import enough_memory, start_devices
from soundsight.training.encoder import EncoderTask, load_encoder
from soundsight.training.published import TranslatorTask, load_generator
from soundsight.training.run_folder import picture_grid, read_run
from soundsight.training.trainer import LossTask, Scalars, Task, fit, one_cycle, step_rng

STEPS = 4


def loop_config(steps: int = STEPS, **changes: int | str) -> LoopConfig:
    return LoopConfig(
        **{"steps": steps, "batch_size": 6, "log_every": 1, "checkpoint_every": 1,
           "picture_every": 2, **changes}
    )  # fmt: skip


@pytest.fixture
def task_of(toy_bench: Bench, encoder_run: Path) -> Callable[..., tuple[Task, Any]]:
    """(kind, changes of the loop) -> a task on the toy bench, and its config."""

    def make(kind: str = "contrastive", **changes: int | str) -> tuple[Task, Any]:
        loop, data = loop_config(**changes), PairDataset(toy_bench, "train")
        if kind in ("contrastive", "autoencoder"):
            config: Any = EncoderConfig(kind=kind, preset="tiny", loop=loop)
            return EncoderTask(config, data), config
        weights = dict.fromkeys(("contrast_weight", "coherence_weight", "variational_weight"), 1.0)
        config = TranslatorConfig(
            encoder="x", preset="tiny", objective="rc" if kind == "rc" else "relativistic",
            penalty_every=2, loop=loop, **(weights if kind == "variational" else {}),
        )  # fmt: skip
        encoder = load_encoder(encoder_run)
        return TranslatorTask(config, encoder, data, encoder_run=encoder_run), config

    return make


def tensors_of(run: Path) -> dict[str, Tensor]:
    return read_checkpoint(run / "checkpoint.safetensors")[0]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Line(Task):
    """Fits a line, without anything that couples the items of a batch."""

    kind = "line"

    def __init__(self, loop: LoopConfig, spoil: Callable[[int, Tensor], Tensor] | None = None):
        torch.manual_seed(0)
        self.loop, self.spoil = loop, spoil
        self.network = nn.Linear(1, 1)
        self.networks = {"line": self.network}
        self.optimizers = {"line": torch.optim.SGD(self.network.parameters(), lr=0.1)}

    def step(self, step: int, rng: torch.Generator) -> Scalars:
        x = torch.randn(self.loop.batch_size, 1, generator=rng)

        def loss_of(part: Tensor) -> tuple[Tensor, Scalars]:
            loss = (self.network(part) - 3 * part + 1).square().mean()
            if self.spoil:
                loss = self.spoil(step, loss)
            return loss, {"loss": loss}

        parts = x.chunk(self.loop.accumulate)
        return self.descend("gradient", self.optimizers["line"], parts, loss_of)

    def finish(self, run: Path) -> None:
        save_weights(run / "line.safetensors", self.network)


def fit_line(
    run: Path, spoil: Callable[[int, Tensor], Tensor] | None = None, *,
    max_time_s: float | None = None, data: dict[str, int] | None = None, **changes: int,
) -> Line:  # fmt: skip
    loop = loop_config(**changes)
    task = Line(loop, spoil)
    finished = fit(task, run, loop, to_dict(loop), max_time_s=max_time_s, data=data)
    assert finished == (max_time_s is None)
    return task


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def step_of(run: Path) -> int:
    return read_checkpoint(run / "checkpoint.safetensors")[1]["step"]


class Interrupted:
    """Presses Ctrl-C in the middle of one step: when its last optimiser has moved the weights."""

    def __init__(self, task: Task, at: int) -> None:
        self.at, self.inner = at, task.step
        self.optimizer = list(task.optimizers.values())[-1]
        task.step = self  # type: ignore[method-assign,assignment]

    def __call__(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        if step == self.at:
            self.moved = self.optimizer.step
            self.optimizer.step = self.press  # type: ignore[method-assign]
        return self.inner(step, rng)

    def press(self, *args: object) -> None:
        del args
        self.moved()
        self.optimizer.step = self.moved  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("kind", "accumulate"),
    [
        ("contrastive", 1), ("autoencoder", 1), ("relativistic", 1), ("rc", 1), ("variational", 1),
        ("autoencoder", 3),
        *(pytest.param(*one, marks=pytest.mark.slow)
          for one in (("relativistic", 2), ("rc", 3), ("variational", 2))),
    ],
)  # fmt: skip
def test_two_and_two_steps_equal_four_to_the_last_bit(
    kind: str, accumulate: int, task_of: Callable[..., tuple[Task, Any]], tmp_path: Path
) -> None:
    task, config = task_of(kind, accumulate=accumulate)
    assert fit(task, tmp_path / "whole", config.loop, to_dict(config))
    task, config = task_of(kind, accumulate=accumulate)
    Interrupted(task, at=1)
    with pytest.raises(KeyboardInterrupt):
        fit(task, tmp_path / "parts", config.loop, to_dict(config))
    task, config = task_of(kind, accumulate=accumulate)
    torch.manual_seed(999)
    assert fit(task, tmp_path / "parts", config.loop, to_dict(config))
    assert_same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))


def test_a_translator_run_keeps_early_pictures_grids_and_its_encoder(
    task_of: Callable[..., tuple[Task, Any]], encoder_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "translator"
    task, config = task_of("relativistic")
    fit(task, run, config.loop, to_dict(config))
    with np.load(next((run / "early").iterdir())) as early:
        assert early["images"].dtype == np.uint8
        assert early["images"].shape[1:] == (96, 96, 3)
    assert (run / "pictures" / "step-0000004.png").exists()
    mel = torch.zeros(1, 1, 128, 100)
    torch.testing.assert_close(
        load_encoder(run).encode(mel), load_encoder(encoder_run).encode(mel), atol=0, rtol=0
    )
    assert load_generator(run).embedding_size == 16


def test_a_run_folder_holds_what_it_is_said_to_hold_and_refuses_what_is_other(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    fit_line(run, data={"pairs": 60})
    assert read_run(run, "line")["config"]["steps"] == STEPS
    assert [line["step"] for line in logged(run)] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in logged(run))
    assert (run / "done.json").exists()
    assert list(run.glob("events.out.*"))
    # A finished run is left alone.
    before = (run / "checkpoint.safetensors").stat().st_mtime_ns
    fit_line(run, data={"pairs": 60})
    assert (run / "checkpoint.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"another config \(log_every, seed\)"):
        fit_line(run, data={"pairs": 60}, seed=5, log_every=2)
    with pytest.raises(ConfigError, match=r"data\.pairs"):
        fit_line(run, data={"pairs": 61})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="no run folder"):
        fit_line(tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["letters.txt"]


def test_time_out_keeps_a_checkpoint_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit_line(run, max_time_s=0.0)
    assert "out of time at step 1 of 4; the same command goes on" in capsys.readouterr().err
    assert not (run / "line.safetensors").exists()
    # What was logged after the checkpoint does not stand there twice.
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    fit_line(run)
    fit_line(tmp_path / "whole")
    assert_same(tensors_of(tmp_path / "whole"), tensors_of(run))
    assert [start["step"] for start in read_run(run)["starts"]] == [0, 1]
    assert [line["step"] for line in logged(run)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "at", "changes"),
    [(math.nan, 2, {}), (math.inf, 3, {"log_every": 10, "checkpoint_every": 2})],
    ids=["at a log line", "between two log lines"],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    value: float, at: int, changes: dict[str, int], tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def spoil(step: int, loss: Tensor) -> Tensor:
        return loss.detach() * value + loss if step == at else loss

    with pytest.raises(SoundsightError, match=rf"loss is (nan|inf) at step {at + 1}"):
        fit_line(run, spoil, **changes)
    assert step_of(run) == 2


def test_a_bad_gradient_stops_the_run_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def spoil(step: int, loss: Tensor) -> Tensor:
        # The loss stays a number; its gradient does not.
        return loss + (0.0 * loss.detach() + (loss - loss.detach()).sqrt()) if step == 2 else loss

    with pytest.raises(SoundsightError, match=r"gradient is (nan|inf) at step 3.*failed") as caught:
        fit_line(run, spoil)
    assert "\n" not in str(caught.value)
    good, about = read_checkpoint(run / "checkpoint.safetensors")
    assert about["step"] == 2
    assert all(tensor.isfinite().all() for tensor in good.values())
    bad, about = read_checkpoint(run / "failed.safetensors")
    assert about["step"] == 3
    assert not all(tensor.isfinite().all() for tensor in bad.values())
    assert not (run / "done.json").exists()


def test_without_a_folder_nothing_is_written_and_every_step_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loop, seen = loop_config(), []
    task, same = Line(loop), Line(loop)
    assert fit(task, None, loop, progress=lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not list(tmp_path.iterdir())
    fit(same, tmp_path / "run", loop)
    torch.testing.assert_close(task.network.weight, same.network.weight, atol=0, rtol=0)
    bad = Line(loop, lambda step, loss: loss * math.nan if step else loss)
    with pytest.raises(SoundsightError, match="line: loss is nan at step 2"):
        fit(bad, None, loop)


def test_one_network_descends_one_loss_and_its_average_is_kept() -> None:
    torch.manual_seed(0)
    network, loop = nn.Linear(1, 1), loop_config(steps=200)

    def loss(step: int, rng: torch.Generator) -> Tensor:
        del step
        x = torch.randn(8, 1, generator=rng)
        return (network(x) - 3 * x + 1).square().mean()

    task = LossTask(
        "line", network, loss, loop, learning_rate=0.1, weight_decay=0.0, average_decay=0.9
    )
    fit(task, None, loop)
    assert task.kept is not network
    assert task.kept.weight.item() == pytest.approx(3, abs=0.05)
    assert task.kept.bias.item() == pytest.approx(-1, abs=0.05)


def test_sizes_that_a_preset_no_longer_names_are_refused(
    task_of: Callable[..., tuple[Task, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    task, config = task_of(steps=1)
    fit(task, run, config.loop, to_dict(config))
    about = json.loads((run / "run.json").read_text())
    assert about["networks"]["encoder"]["embedding_size"] == 16
    about["networks"]["encoder"]["embedding_size"] = 24
    (run / "run.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"another config \(networks\.encoder\.embedding_size"):
        fit(task, run, config.loop, to_dict(config))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 3))
    with pytest.raises(DataError, match="other sizes"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(4, 3))
    with pytest.raises(DataError, match="another network"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(2, 3, bias=False))


def test_what_does_not_fit_into_memory_is_one_line() -> None:
    for much in (lambda: torch.empty(2**55), lambda: np.empty(2**55)):
        with pytest.raises(ConfigError, match="do not fit into memory"), enough_memory():
            much()
    with pytest.raises(RuntimeError, match="must match"), enough_memory():
        torch.ones(2) + torch.ones(3)


def test_training_learns_from_toy_pairs(toy_bench: Bench, tmp_path: Path) -> None:
    config = EncoderConfig(
        kind="autoencoder", preset="tiny", learning_rate=1e-2, loop=loop_config(steps=30)
    )
    task = EncoderTask(config, PairDataset(toy_bench, "train"))
    fit(task, tmp_path / "run", config.loop, to_dict(config))
    lines = logged(tmp_path / "run")
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(s, 100, 0.1) for s in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.01


def test_picture_grid_lays_rows_out() -> None:
    pictures = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    grid = picture_grid(pictures, columns=2)
    assert grid[::2, ::2, 0].tolist() == [[0, 1], [2, 0]]
    assert grid.shape == (4, 4, 3)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    whole = fit_line(tmp_path / "whole", steps=5)
    parts = fit_line(tmp_path / "parts", steps=5, accumulate=3)
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(*(logged(tmp_path / name) for name in ("whole", "parts")), strict=True):
        for name in ("loss", "gradient"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)


def test_the_step_is_plain_gradient_descent(tmp_path: Path) -> None:
    """Against a line fitted by hand: gradient of the mean square, its norm, one SGD step."""
    task = Line(loop_config(steps=1))
    weight, bias = task.network.weight.item(), task.network.bias.item()
    inputs: list[np.ndarray] = []
    inner = task.network.forward
    task.network.forward = lambda x: (inputs.append(x.numpy()), inner(x))[1]  # type: ignore[method-assign]
    fit(task, tmp_path / "run", task.loop, to_dict(task.loop))
    x = inputs[0][:, 0].astype(np.float64)
    error = weight * x + bias - (3 * x - 1)
    gradient = np.array([2 * (error * x).mean(), 2 * error.mean()])
    assert task.network.weight.item() == pytest.approx(weight - 0.1 * gradient[0], abs=1e-6)
    assert task.network.bias.item() == pytest.approx(bias - 0.1 * gradient[1], abs=1e-6)
    norm = logged(tmp_path / "run")[0]["gradient"]
    assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit_line(run, steps=5, keep=2)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["step-0000004.safetensors", "step-0000005.safetensors"]
    assert [read_checkpoint(run / "checkpoints" / name)[1]["step"] for name in kept] == [4, 5]
    # An earlier one, put in the place of the latest, is gone on with to the same end.
    end = {name: tensor.clone() for name, tensor in tensors_of(run).items()}
    (run / "checkpoint.safetensors").write_bytes((run / "checkpoints" / kept[0]).read_bytes())
    (run / "done.json").unlink()
    fit_line(run, steps=5, keep=2)
    assert_same(end, tensors_of(run))


def test_an_evaluation_is_logged_and_disturbs_nothing(
    task_of: Callable[..., tuple[Task, Any]], tmp_path: Path
) -> None:
    steps = []

    def evaluate(task: Task, step: int) -> dict[str, float]:
        steps.append(step)
        assert isinstance(task, TranslatorTask)
        pictures = task.draw(np.full((70, 128, 100), 99, np.uint8))
        assert pictures.shape == (70, 96, 96, 3)
        torch.manual_seed(5)
        return {"brightness": float(pictures.mean()) + float(torch.rand(()))}

    runs = {}
    for name, callback in (("with", evaluate), ("without", None)):
        task, config = task_of("rc", log_every=3, evaluate_every=2)
        fit(task, tmp_path / name, config.loop, to_dict(config), evaluate=callback)
        runs[name] = tensors_of(tmp_path / name)
    assert steps == [2, 4]
    assert_same(runs["with"], runs["without"])
    lines = logged(tmp_path / "with")
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert ["brightness" in line for line in lines] == [True, False, True]
    assert ["d_loss" in line for line in lines] == [False, True, True]


def test_sigterm_stops_as_ctrl_c_does(tmp_path: Path) -> None:
    def spoil(step: int, loss: Tensor) -> Tensor:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            # torchrun hands on what the terminal has said already.
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit_line(tmp_path / "run", spoil)
    assert signal.getsignal(signal.SIGTERM) is before
    assert step_of(tmp_path / "run") == 2


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit_line(run, max_time_s=0.0)
    path = run / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="SHA-256"):
        fit_line(run)


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(
    task_of: Callable[..., tuple[Task, Any]], tmp_path: Path
) -> None:
    """The system itself lets no file grow beyond what a checkpoint takes."""
    run = tmp_path / "run"
    task, config = task_of()
    fit(task, run, config.loop, to_dict(config), max_time_s=0.0)
    before = (run / "checkpoint.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*checkpoint") as caught:
            fit(task_of()[0], run, config.loop, to_dict(config))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert (run / "checkpoint.safetensors").read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    assert fit(task_of()[0], run, config.loop, to_dict(config))


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def spoil(step: int, loss: Tensor) -> Tensor:
        if step == 1:
            (run / "log.jsonl").unlink()
            (run / "log.jsonl").mkdir()
        return loss

    with pytest.raises(OutputError, match=r"cannot write to .*its checkpoint is kept"):
        fit_line(run, spoil)


@pytest.mark.parametrize("kind", ["contrastive", "autoencoder", "relativistic", "rc"])
def test_bfloat16_networks_have_float32_weights_and_losses(
    kind: str, task_of: Callable[..., tuple[Task, Any]], tmp_path: Path
) -> None:
    devices = start_devices("cpu", precision="bf16-mixed")
    task, config = task_of(kind, precision="bf16-mixed", steps=2)
    seen = []
    for network in task.networks.values():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _module, _given, out: seen.append(out.dtype))
    inner = task.step

    def step(number: int, rng: torch.Generator) -> Scalars:
        scalars = inner(number, rng)
        assert {value.dtype for value in scalars.values()} == {torch.float32}
        return scalars

    # A step alone: pictures are drawn in float32.
    task.place(devices)
    for number in range(2):
        step(number, step_rng(0, number))
    assert set(seen) == {torch.bfloat16}
    task.step = step  # type: ignore[method-assign]
    assert fit(task, tmp_path / "run", config.loop, {}, devices=devices)
    weights = [t for name, t in tensors_of(tmp_path / "run").items() if "weight" in name]
    assert {weight.dtype for weight in weights} == {torch.float32}
