"""Names are a regression that knows when it does not know; their file belongs to its encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soundsight.core.config import to_dict
from soundsight.core.errors import ConfigError, DataError, ModelError
from soundsight.data.vegas.bench import Bench
from soundsight.models.contrastive import SoundEncoder
from soundsight.models.presets import preset
from soundsight.training import labels, other_sounds
from soundsight.training.checkpoints import save_weights
from soundsight.training.configs import LabelHeadConfig
from soundsight.training.kinds import hear_labelled, hear_made

SIZES = preset("tiny").contrastive
E = 6
ONE = LabelHeadConfig(penalties=(1e-3,))


def seconds(count: int, seed: int, *, spread: float = 1.0) -> labels.Seconds:
    """Three names, each around its own axis, overlapping."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    x = rng.normal(0, spread, (count, E))
    x[np.arange(count), kind] += 2.0
    return x, [("dog", "train", "zebra")[k] for k in kind]


def elsewhere(count: int, seed: int) -> NDArray[np.float64]:
    """Seconds that lie away from all three."""
    x = np.random.default_rng(seed).normal(0, 1, (count, E))
    x[:, 3:] += 2.0
    return x


def encoder(seed: int = 0) -> SoundEncoder:
    torch.manual_seed(seed)
    return SoundEncoder(SIZES).eval()


def test_names_are_right_as_often_as_they_say() -> None:
    fitted = labels.fit_label_head(seconds(4000, 0), seconds(4000, 1), LabelHeadConfig())
    assert fitted.head.labels == ("dog", "train", "zebra")
    assert not fitted.head.other
    unseen, truth = seconds(6000, 2)
    shares = fitted.head.probabilities(unseen)
    numbers = np.array([fitted.head.labels.index(name) for name in truth])
    # The best that can be done with three Gaussians of this spread is 85 %.
    assert (shares.argmax(axis=1) == numbers).mean() > 0.83
    assert labels.calibration_error(shares, numbers) < 0.02
    figures = fitted.figures
    assert figures.seconds == 4000
    assert figures.calibration_error < 0.02
    assert figures.others == 0
    assert figures.named == 1.0
    assert "4,000 audible val seconds" in figures.words()
    assert "none of them" not in figures.words()


def test_weights_against_plain_gradient_descent() -> None:
    data = seconds(400, 0)
    config = LabelHeadConfig(penalties=(0.1,))
    fitted = labels.fit_label_head(data, seconds(400, 1), config)
    mean, spread = data[0].mean(axis=0), data[0].std(axis=0, ddof=1) + 1e-3
    x = (data[0] - mean) / spread
    y = np.array([fitted.head.labels.index(name) for name in data[1]])
    w, b = np.zeros((3, E)), np.zeros(3)
    for _ in range(4000):
        logits = x @ w.T + b
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        w -= 0.5 * (p.T @ x / len(y) + 0.1 * w)
        b -= 0.5 * p.mean(axis=0)
    expected = w / spread / fitted.figures.temperature
    np.testing.assert_allclose(fitted.head.weights, expected, atol=1e-3)


def test_two_names_are_fitted_as_three_are() -> None:
    def pair(count: int, seed: int) -> labels.Seconds:
        x, names = seconds(count, seed)
        kept = [i for i, name in enumerate(names) if name != "zebra"]
        return x[kept], [names[i] for i in kept]

    config = LabelHeadConfig(penalties=(0.1,))
    fitted = labels.fit_label_head(pair(400, 0), pair(400, 1), config)
    x, names = pair(400, 0)
    standard = (x - x.mean(axis=0)) / (x.std(axis=0, ddof=1) + 1e-3)
    y, w, b = np.array([name == "train" for name in names]), np.zeros(E), 0.0
    for _ in range(4000):
        # Both rows of weights carry half of the difference, and half of the penalty each.
        error = 1 / (1 + np.exp(-(standard @ w + b))) - y
        w -= 0.5 * (standard.T @ error / len(y) + 0.05 * w)
        b -= 0.5 * error.mean()
    both = fitted.head.weights * fitted.figures.temperature * (x.std(axis=0, ddof=1) + 1e-3)
    np.testing.assert_allclose(both, [-w / 2, w / 2], atol=1e-3)


def test_overconfident_weights_are_cooled() -> None:
    """On val that is noisier than train, the temperature makes the names less sure."""
    sure = labels.fit_label_head(seconds(500, 0, spread=0.4), seconds(2000, 1, spread=0.4), ONE)
    noisy = labels.fit_label_head(seconds(500, 0, spread=0.4), seconds(2000, 1, spread=1.5), ONE)
    assert noisy.figures.temperature > 1.5 * sure.figures.temperature
    assert noisy.figures.calibration_error < 0.06


def test_the_best_penalty_on_val_is_kept() -> None:
    few, val = seconds(40, 0), seconds(2000, 1)
    losses = {
        p: labels.fit_label_head(few, val, LabelHeadConfig(penalties=(p,))).figures.log_loss
        for p in (1e-5, 1e-1, 1e2)
    }
    both = labels.fit_label_head(few, val, LabelHeadConfig(penalties=tuple(losses))).figures
    assert both.penalty == min(losses, key=lambda p: losses[p])
    assert both.log_loss == pytest.approx(min(losses.values()))


def test_other_sounds_get_no_name() -> None:
    others = elsewhere(900, 3), elsewhere(300, 4)
    fitted = labels.fit_label_head(seconds(2000, 0), seconds(1000, 1), ONE, others)
    assert fitted.head.other
    assert fitted.head.weights.shape == (4, E)
    unknown = fitted.head.probabilities(elsewhere(500, 5))
    known = fitted.head.probabilities(seconds(500, 6)[0])
    assert unknown.max(axis=1).mean() < 0.15
    assert known.max(axis=1).mean() > 0.6
    assert fitted.figures.others == 300
    assert fitted.figures.others_told > 0.9
    assert fitted.figures.named > 0.85
    assert "of 300 made seconds" in fitted.figures.words()


def test_a_larger_weight_of_others_tells_more_of_them() -> None:
    others = elsewhere(900, 3), elsewhere(300, 4)
    told = [
        labels.fit_label_head(
            seconds(2000, 0), seconds(1000, 1),
            LabelHeadConfig(penalties=(1e-3,), others_weight=weight), others,
        ).figures.others_told
        for weight in (0.05, 1.0, 20.0)
    ]  # fmt: skip
    assert told[0] < told[1] < told[2]


def test_val_seconds_of_a_name_that_train_does_not_know_are_left_out() -> None:
    x, names = seconds(500, 1)
    val = x, ["giraffe" if name == "zebra" else name for name in names]
    fitted = labels.fit_label_head(seconds(500, 0), val, ONE)
    assert fitted.figures.seconds == sum(name != "giraffe" for name in val[1])


def test_too_few_seconds_or_names() -> None:
    with pytest.raises(DataError, match="at least 20"):
        labels.fit_label_head(seconds(10, 0), seconds(500, 1), ONE)
    with pytest.raises(DataError, match="at least 20"):
        labels.fit_label_head(seconds(500, 0), seconds(10, 1), ONE)
    x, names = seconds(500, 0)
    with pytest.raises(DataError, match="1 names"):
        labels.fit_label_head((x, ["dog"] * len(names)), (x, ["dog"] * len(names)), ONE)


def test_calibration_error_by_hand() -> None:
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.45, 0.55]])
    # 0.9: one of two right; 0.6 and 0.55 lie in bins of their own.
    expected = 0.5 * abs(0.5 - 0.9) + 0.25 * (1 - 0.6) + 0.25 * 0.55
    assert labels.calibration_error(shares, np.array([0, 1, 0, 0])) == pytest.approx(expected)
    certain = np.eye(2)
    assert labels.calibration_error(certain, np.array([0, 1])) == 0.0


def test_the_bench_s_audible_seconds_have_names(toy_bench: Bench) -> None:
    heard = hear_labelled(encoder(), [toy_bench], "train")
    # Twelve seconds a subject, of which one cannot be heard.
    assert heard.embeddings.shape == (55, SIZES.embedding_size)
    names, counts = np.unique(heard.kinds, return_counts=True)
    assert set(names) == set(labels.BENCH_NAMES)
    assert set(counts) == {11}
    both = hear_labelled(encoder(), [toy_bench, toy_bench], "train")
    assert len(both) == 110
    np.testing.assert_allclose(both.embeddings[:55], heard.embeddings, rtol=1e-5, atol=1e-6)


def test_names_come_back_from_disk_and_belong_to_their_encoder(tmp_path: Path) -> None:
    def run_folder(name: str, network: SoundEncoder) -> Path:
        folder = tmp_path / name
        about = {"kind": "contrastive", "preset": "tiny", "network": to_dict(SIZES)}
        save_weights(folder / "encoder.safetensors", network, about)
        return folder

    own, other = run_folder("own", encoder()), run_folder("other", encoder(1))
    fitted = labels.fit_label_head(
        seconds(500, 0), seconds(300, 1), ONE, (elsewhere(50, 2), elsewhere(20, 3))
    )
    path = labels.write_label_head(tmp_path / "names", own, fitted, ONE)
    again = labels.load_label_head(tmp_path / "names", own, E)
    assert isinstance(again, labels.FittedLabelHead)
    assert again.figures == fitted.figures
    assert again.head.other
    np.testing.assert_allclose(again.head.weights, fitted.head.weights, atol=1e-6)
    with pytest.raises(DataError, match="another encoder"):
        labels.load_label_head(tmp_path / "names", other, E)
    with pytest.raises(ModelError, match="another length"):
        labels.load_label_head(tmp_path / "names", own, E - 1)
    with pytest.raises(DataError, match="soundsight train labels"):
        labels.load_label_head(tmp_path / "nowhere", own, E)
    values = json.loads(path.read_text("utf-8"))
    for damaged in (
        {k: v for k, v in values.items() if k != "encoder"},
        {k: v for k, v in values.items() if k != "figures"},
        {**values, "figures": {"seconds": 3}},
        {**values, "figures": {**values["figures"], "accuracy": "much"}},
        {**values, "figures": 7},
    ):
        path.write_text(json.dumps(damaged), "utf-8")
        with pytest.raises(DataError, match="fit it again"):
            labels.load_label_head(tmp_path / "names", own, E)
    path.write_text("{", "utf-8")
    with pytest.raises(ModelError, match="damaged"):
        labels.load_label_head(tmp_path / "names", own, E)


# --- sounds that are none of the subjects ----------------------------------------------------


@pytest.mark.parametrize("kind", other_sounds.KINDS)
def test_made_sounds(kind: str) -> None:
    first, again, second = (other_sounds.made(kind, number) for number in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    for sound in (first, second):
        assert 3 * 44_100 <= len(sound) <= 7 * 44_100
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() <= 1.0
        body = sound[22_050:-22_050]
        level = 10 * np.log10(np.square(body, dtype=np.float64).mean())
        # Clipping may take a little from what is loud and spiky.
        assert -46 < level < -11
        room = 10 * np.log10(np.square(sound[:22_050], dtype=np.float64).mean())
        assert -75 < room < -69
    count = min(len(first), len(second))
    assert not np.array_equal(first[:count], second[:count])
    mels = list(other_sounds.log_mels([kind], range(1)))
    assert mels
    assert all(mel.shape == (128, 100) and mel.dtype == np.uint8 for mel in mels)


def test_made_sounds_of_train_and_val_are_others() -> None:
    config = LabelHeadConfig(others=("ticking", "noise"), others_each=1)
    train, val = (hear_made(encoder(), config, split) for split in ("train", "val"))
    assert train.shape[1] == val.shape[1] == SIZES.embedding_size
    assert len(train) > 4
    assert len(val) > 4
    count = min(len(train), len(val))
    assert not np.array_equal(train[:count], val[:count])
    none = LabelHeadConfig(others_each=0)
    assert [len(hear_made(encoder(), none, split)) for split in ("train", "val")] == [0, 0]
    with pytest.raises(ConfigError, match="other sound"):
        other_sounds.made("thunder", 0)
