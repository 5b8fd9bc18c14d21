"""Names: what they make of an embedding, and every way in which their file can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soundsight.core.errors import ModelError
from soundsight.runtime import model_folder
from soundsight.runtime.labels import LabelHead, confidence_of, read_label_head
from soundsight.runtime.translator import Translator

Make = Callable[..., Any]

E = 8


def content(**changed: Any) -> dict[str, Any]:
    """A sound labels.json of three names for the tiny model, with changes."""
    rng = np.random.default_rng(2)
    rows = 3 + bool(changed.get("other"))
    values = {
        "format": "soundsight-labels",
        "format_version": 1,
        "labels": ["baby crying", "dog", "train"],
        "weights": rng.normal(0, 1, (rows, E)).tolist(),
        "bias": rng.normal(0, 1, rows).tolist(),
    }
    return {**values, **changed}


def softmax(weights: Any, bias: Any, embedding: Any) -> list[float]:
    """The plain reference, a number at a time."""
    logits = [
        sum(w * e for w, e in zip(row, embedding, strict=True)) + b
        for row, b in zip(weights, bias, strict=True)
    ]
    raised = [math.exp(logit) for logit in logits]
    return [value / sum(raised) for value in raised]


@pytest.mark.parametrize("other", [False, True])
def test_probabilities_against_a_plain_reference(
    make_model: Make, tmp_path: Path, other: bool
) -> None:
    values = content(other=other)
    translator = Translator.load(make_model(tmp_path / "model", labels=values), threads=1)
    assert translator.label_head.labels == ("baby crying", "dog", "train")
    embeddings = np.random.default_rng(5).normal(0, 1, (6, E)).astype(np.float32)
    got = translator.label_head.probabilities(embeddings)
    assert got.shape == (6, 3)
    assert got.dtype == np.float32
    expected = [softmax(values["weights"], values["bias"], row.tolist())[:3] for row in embeddings]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # With a row for anything else the names share what it leaves.
    assert (got.sum(axis=1) < 0.999).any() == other


def test_numbers_behind_the_embedding_are_not_read(tmp_path: Path) -> None:
    """Where attention listens to an earlier layer its maps follow the embedding."""
    (tmp_path / "labels.json").write_text(json.dumps(content()), "utf-8")
    names = read_label_head(tmp_path / "labels.json", E + 700)
    rng = np.random.default_rng(1)
    long = rng.normal(0, 50, (4, E + 700)).astype(np.float32)
    np.testing.assert_array_equal(names.probabilities(long), names.probabilities(long[:, :E]))


def test_huge_logits_stay_finite_and_no_other_weights_are_written() -> None:
    names = LabelHead(
        labels=("a", "b"), weights=np.full((2, 1), 1e29, np.float32), bias=np.zeros(2, np.float32)
    )
    with np.errstate(all="raise"):
        np.testing.assert_allclose(names.probabilities([[1.0], [-1.0]]), 0.5)
    with pytest.raises(ValueError, match="finite"):
        replace(names, weights=np.full((2, 1), np.nan, np.float32)).to_json()


def test_names_are_optional(tiny_model: Path) -> None:
    assert LabelHead.of(model_folder.read(tiny_model)) is None


@pytest.mark.parametrize("other", [False, True])
def test_what_is_written_is_what_is_read(tmp_path: Path, other: bool) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content(other=other, alerts=["dog"])), "utf-8")
    first = read_label_head(path, E)
    path.write_text(json.dumps(first.to_json()), "utf-8")
    again = read_label_head(path, E)
    assert (again.labels, again.other, again.alerts) == (first.labels, other, ("dog",))
    np.testing.assert_allclose(again.weights, first.weights, atol=1e-6)
    np.testing.assert_allclose(again.bias, first.bias, atol=1e-6)


RAGGED = [[0.0] * E, [0.0] * E, [0.0]]

WRONG: dict[str, object] = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "deep": b"[" * 100_000,
    "a list": [1, 2],
    "a number": 3,
    "null": b"null",
    "another format": content(format="soundsight-model"),
    "another version": content(format_version=2),
    **{
        f"no {key}": {k: v for k, v in content().items() if k != key}
        for key in ("format", "format_version", "labels", "weights", "bias")
    },
    "names of another kind": content(labels="dog"),
    "a name that is no text": content(labels=["a", "b", 3]),
    "an empty name": content(labels=["a", "b", ""]),
    "a blank name": content(labels=["a", "b", "  "]),
    "a name of two lines": content(labels=["a", "b", "c\nd"]),
    "a long name": content(labels=["a", "b", "c" * 61]),
    "one name twice": content(labels=["a", "b", "a"]),
    "one name": content(labels=["a"], weights=[[0.0] * E], bias=[0.0]),
    "too few weights": content(weights=[[0.0] * E] * 2),
    "too many weights": content(weights=[[0.0] * E] * 4),
    "too long weights": content(weights=[[0.0] * (E + 1)] * 3),
    "no weights": content(weights=[[], [], []]),
    "flat weights": content(weights=[0.0] * 3),
    "ragged weights": content(weights=RAGGED),
    "weights of text": content(weights=[["1"] * E] * 3),
    "weights of null": content(weights=[[None] * E] * 3),
    "true weights": content(weights=[[True] * E] * 3),
    "too short a bias": content(bias=[0.0] * 2),
    "a bias of another shape": content(bias=[[0.0]] * 3),
    "NaN": json.dumps(content(bias=[0.0, math.nan, 0.0])).encode(),
    "infinity": json.dumps(content(bias=[0.0, math.inf, 0.0])).encode(),
    "beyond float32": content(bias=[0.0, 1e300, 0.0]),
    "a huge whole number": content(bias=[0, 10**400, 0]),
    "other without its row": content(other=True, weights=[[0.0] * E] * 3, bias=[0.0] * 3),
    "a row without other": content(weights=[[0.0] * E] * 4, bias=[0.0] * 4),
    "other of another kind": content(other="yes"),
    **{f"alerts {alerts}": content(alerts=alerts) for alerts in (["cat"], "dog", [1], None, {})},
}


@pytest.mark.parametrize("what", WRONG)
def test_damaged_names_are_refused_in_one_line(make_model: Make, tmp_path: Path, what: str) -> None:
    folder = make_model(tmp_path / "model", labels=WRONG[what])
    with pytest.raises(ModelError, match=r"labels.json is damaged") as caught:
        LabelHead.of(model_folder.read(folder))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 400 + len(str(folder))


def test_names_that_cannot_be_read_or_were_changed(make_model: Make, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", labels=content())
    info = model_folder.read(folder)
    (folder / "labels.json").unlink()
    with pytest.raises(ModelError, match=r"labels\.json"):
        LabelHead.of(info)
    with pytest.raises(ModelError, match=r"labels\.json is missing"):
        Translator.load(folder)
    text = json.dumps(content(labels=["dog", "baby crying", "train"]))
    (folder / "labels.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=r"labels\.json is damaged"):
        Translator.load(folder)


def test_the_bundled_model_names_28_kinds_and_draws_22_of_them() -> None:
    names = LabelHead.of(model_folder.read(model_folder.bundled()))
    assert len(names.labels) == 28
    assert {"baby crying", "dog", "train", "fireworks", "water", "siren"} <= set(names.labels)
    assert set(names.alerts) == {
        "smoke alarm", "doorbell", "knock on a door", "telephone", "breaking glass", "alarm clock",
    }  # fmt: skip
    assert names.other


def test_a_second_guess_is_near_from_half_of_the_first_on() -> None:
    names = LabelHead(
        labels=("a", "b", "c"), weights=np.zeros((3, 1), np.float32),
        bias=np.zeros(3, np.float32), alerts=("b",),
    )  # fmt: skip

    def guess(*shares: float, first: int | None = None) -> tuple[str, str, bool]:
        made = names.guess(np.array(shares, np.float32), first)
        return made.name, made.second, made.is_alert

    assert guess(0.6, 0.3, 0.1) == ("a", "b", False)
    assert guess(0.62, 0.3, 0.08) == ("a", "", False)
    assert guess(0.2, 0.7, 0.1) == ("b", "", True)
    # What keeps its name may be overtaken: the other is the second guess.
    assert guess(0.3, 0.6, 0.1, first=0) == ("a", "b", False)
    assert names.guess(np.array([0.6, 0.3, 0.1], np.float32)).share == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("ood_score", "share", "confidence"),
    [(0.19, 0.64, 0.72), (math.nan, 0.64, 0.8), (0.19, math.nan, 0.9), (1.0, 1.0, 0.0)],
)
def test_confidence_is_a_geometric_mean(ood_score: float, share: float, confidence: float) -> None:
    assert confidence_of(ood_score, share) == pytest.approx(confidence)
    assert math.isnan(confidence_of(math.nan, math.nan))
