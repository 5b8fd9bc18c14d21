"""The loop: 2 + 2 steps equal 4, a stop loses nothing, and a changed config is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError, OutputError, SoundsightError
from soundsight.pairs.bench import Bench
from soundsight.pairs.dataset import PairDataset
from soundsight.training.checkpoints import load_weights, read_checkpoint, save_weights
from soundsight.training.encoder import EncoderConfig, EncoderTask, load_encoder, one_cycle
from soundsight.training.loop import LoopConfig, Task, fit, picture_grid, read_run
from soundsight.training.translator import (
    TranslatorConfig,
    TranslatorTask,
    default_config,
    load_generator,
)

SILENT = Console(quiet=True, stderr=True)
STEPS = 4


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C works, even where the tests themselves run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def loop_config(steps: int = STEPS, **changes: int) -> LoopConfig:
    return LoopConfig(
        **{"steps": steps, "batch_size": 6, "log_every": 1, "checkpoint_every": 1,
           "picture_every": 2, **changes}
    )  # fmt: skip


def encoder_task(bench: Bench, kind: str = "contrastive") -> tuple[EncoderTask, EncoderConfig]:
    config = EncoderConfig(kind=kind, preset="tiny", loop=loop_config())
    return EncoderTask(config, PairDataset(bench, "train")), config


@pytest.fixture(scope="module")
def encoder_run(toy_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "encoder"
    task, config = encoder_task(toy_bench)
    assert fit(task, run, config.loop, to_dict(config), console=SILENT)
    return run


def translator_task(
    bench: Bench, encoder_run: Path, objective: str
) -> tuple[TranslatorTask, TranslatorConfig]:
    config = TranslatorConfig(
        encoder="x", preset="tiny", objective=objective, penalty_every=2, loop=loop_config()
    )
    data = PairDataset(bench, "train")
    return TranslatorTask(config, load_encoder(encoder_run), data, encoder_run=encoder_run), config


def tensors_of(run: Path) -> dict[str, Tensor]:
    return read_checkpoint(run / "checkpoint.safetensors")[0]


class Interrupted:
    """Presses Ctrl-C in the middle of one step: when its last optimiser has moved the weights."""

    def __init__(self, task: Task, at: int) -> None:
        self.at, self.inner = at, task.step
        self.optimizer = list(task.optimizers().values())[-1]
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


@pytest.mark.parametrize("kind", ["contrastive", "autoencoder", "relativistic", "rc"])
def test_two_and_two_steps_equal_four_to_the_last_bit(
    kind: str, toy_bench: Bench, encoder_run: Path, tmp_path: Path
) -> None:
    def make() -> tuple[Task, EncoderConfig | TranslatorConfig]:
        if kind in ("contrastive", "autoencoder"):
            return encoder_task(toy_bench, kind)
        return translator_task(toy_bench, encoder_run, kind)

    task, config = make()
    assert fit(task, tmp_path / "whole", config.loop, to_dict(config), console=SILENT)
    task, config = make()
    Interrupted(task, at=1)
    with pytest.raises(KeyboardInterrupt):
        fit(task, tmp_path / "parts", config.loop, to_dict(config), console=SILENT)
    task, config = make()
    torch.manual_seed(999)
    assert fit(task, tmp_path / "parts", config.loop, to_dict(config), console=SILENT)
    whole, parts = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_run_folder_holds_what_it_is_said_to_hold(encoder_run: Path) -> None:
    about = read_run(encoder_run, "encoder")
    assert about["config"]["preset"] == "tiny"
    lines = [json.loads(line) for line in (encoder_run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert (encoder_run / "done.json").exists()
    assert list(encoder_run.glob("events.out.*"))


def test_a_translator_run_keeps_early_pictures_grids_and_its_encoder(
    toy_bench: Bench, encoder_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "translator"
    task, config = translator_task(toy_bench, encoder_run, "relativistic")
    fit(task, run, config.loop, to_dict(config), console=SILENT)
    with np.load(next((run / "early").iterdir())) as early:
        assert early["images"].dtype == np.uint8
        assert early["images"].shape[1:] == (96, 96, 3)
    assert (run / "pictures" / "step-0000004.png").exists()
    mel = torch.zeros(1, 1, 128, 100)
    torch.testing.assert_close(
        load_encoder(run).encode(mel), load_encoder(encoder_run).encode(mel), atol=0, rtol=0
    )
    assert load_generator(run).embedding_size == 16


def test_a_finished_run_is_left_alone(toy_bench: Bench, encoder_run: Path) -> None:
    before = (encoder_run / "checkpoint.safetensors").stat().st_mtime_ns
    task, config = encoder_task(toy_bench)
    assert fit(task, encoder_run, config.loop, to_dict(config), console=SILENT)
    assert (encoder_run / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_a_changed_config_is_refused_and_named(toy_bench: Bench, encoder_run: Path) -> None:
    task, config = encoder_task(toy_bench)
    changed = to_dict(config)
    changed["loop"]["seed"] = 5
    changed["learning_rate"] = 1.0
    with pytest.raises(ConfigError, match=r"learning_rate, loop\.seed"):
        fit(task, encoder_run, config.loop, changed, console=SILENT)


def test_a_folder_with_other_things_in_it_is_refused(toy_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    task, config = encoder_task(toy_bench)
    with pytest.raises(OutputError, match="no run folder"):
        fit(task, tmp_path, config.loop, to_dict(config), console=SILENT)
    assert [p.name for p in tmp_path.iterdir()] == ["letters.txt"]


def test_time_out_keeps_a_checkpoint_and_the_run_goes_on(toy_bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "run"
    task, config = encoder_task(toy_bench)
    assert not fit(task, run, config.loop, to_dict(config), max_time_s=0.0, console=SILENT)
    with pytest.raises(DataError, match="not finished"):
        load_encoder(run)
    task, config = encoder_task(toy_bench)
    assert fit(task, run, config.loop, to_dict(config), console=SILENT)


def test_a_loss_that_is_not_finite_stops_the_run(toy_bench: Bench, tmp_path: Path) -> None:
    task, config = encoder_task(toy_bench)
    inner = task.step

    def step(number: int, rng: torch.Generator) -> dict[str, Tensor]:
        scalars = inner(number, rng)
        return {"loss": torch.tensor(float("nan"))} if number == 2 else scalars

    task.step = step  # type: ignore[method-assign]
    with pytest.raises(SoundsightError, match="loss is nan at step 3"):
        fit(task, tmp_path / "run", config.loop, to_dict(config), console=SILENT)
    _, about = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 2


def test_a_bad_loss_between_two_log_lines_is_not_saved(toy_bench: Bench, tmp_path: Path) -> None:
    config = EncoderConfig(preset="tiny", loop=loop_config(log_every=10, checkpoint_every=2))
    task = EncoderTask(config, PairDataset(toy_bench, "train"))
    inner = task.step

    def step(number: int, rng: torch.Generator) -> dict[str, Tensor]:
        scalars = inner(number, rng)
        return {"loss": torch.tensor(float("inf"))} if number == 3 else scalars

    task.step = step  # type: ignore[method-assign]
    with pytest.raises(SoundsightError, match="loss is inf at step 4"):
        fit(task, tmp_path / "run", config.loop, to_dict(config), console=SILENT)
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 2


def test_log_lines_after_the_checkpoint_do_not_stand_twice(
    toy_bench: Bench, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    task, config = encoder_task(toy_bench)
    fit(task, run, config.loop, to_dict(config), max_time_s=0.0, console=SILENT)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    task, config = encoder_task(toy_bench)
    fit(task, run, config.loop, to_dict(config), console=SILENT)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"batch_size": 1}, {"log_every": 0}, {"seed": -1}, {"seed": 2**63}]
)
def test_settings_out_of_range_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"loop.{next(iter(changes))}"):
        loop_config(**changes)


def test_a_damaged_checkpoint_is_refused(toy_bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "run"
    task, config = encoder_task(toy_bench)
    fit(task, run, config.loop, to_dict(config), max_time_s=0.0, console=SILENT)
    path = run / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="SHA-256"):
        fit(task, run, config.loop, to_dict(config), console=SILENT)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", torch.nn.Linear(2, 3))
    with pytest.raises(DataError, match="other sizes"):
        load_weights(tmp_path / "w.safetensors", torch.nn.Linear(4, 3))
    with pytest.raises(DataError, match="another network"):
        load_weights(tmp_path / "w.safetensors", torch.nn.Linear(2, 3, bias=False))


def test_training_learns_from_toy_pairs(toy_bench: Bench, tmp_path: Path) -> None:
    config = EncoderConfig(
        kind="autoencoder", preset="tiny", learning_rate=1e-2, loop=loop_config(steps=30)
    )
    task = EncoderTask(config, PairDataset(toy_bench, "train"))
    fit(task, tmp_path / "run", config.loop, to_dict(config), console=SILENT)
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_options_of_an_objective() -> None:
    assert default_config("rc", "compact", "x").pixel_weight > 0
    with pytest.raises(ConfigError, match="relativistic, rc"):
        default_config("wasserstein", "compact", "x")
    with pytest.raises(ConfigError, match="l1, mse"):
        TranslatorConfig(encoder="x", pixel="huber")
    with pytest.raises(ConfigError, match="ema_decay"):
        TranslatorConfig(encoder="x", ema_decay=2.0)


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(s, 100, 0.1) for s in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.01


def test_picture_grid_lays_rows_out() -> None:
    pictures = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    grid = picture_grid(pictures, columns=2)
    assert grid.shape == (4, 4, 3)
    assert grid[0, 0, 0] == 0
    assert grid[0, 2, 0] == 1
    assert grid[2, 0, 0] == 2
    assert grid[2, 2, 0] == 0
