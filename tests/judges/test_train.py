"""Judges: what they learn from and that they learn, their folder, and going on after a stop."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.errors import ConfigError, DataError, ModelError, OutputError, SoundsightError
from soundsight.core.files import sha256_of
from soundsight.data.vegas.bench import SUBJECTS, Bench, find_bench, fold_of
from soundsight.judges import files as judge_files
from soundsight.judges import train as judges
from soundsight.judges.files import CLASSIFIER, REFERENCES, SECOND, JudgeFolder, accepting
from soundsight.judges.negatives import in_early_part, load_early
from soundsight.judges.pictures import Pictures, augment
from soundsight.judges.train import (
    NOTHING,
    JudgesConfig,
    PhotoClassifier,
    ReferenceConfig,
    ReferencesConfig,
    fit,
    head_scores,
    heads_loss,
    reference_task,
    score,
    train,
)
from soundsight.models.picture_classifier import PictureClassifierConfig
from soundsight.models.published.informativity import InformativityClassifier


@pytest.fixture
def early_file(tmp_path: Path) -> Path:
    """200 grey pictures in place of an early generator's: of 100 sounds, each drawn twice."""
    levels = np.arange(200, dtype=np.uint8)[:, None, None, None]
    path = tmp_path / "early.npz"
    np.savez_compressed(path, images=np.broadcast_to(levels, (200, 96, 96, 3)))
    return path


def test_the_folder_holds_judges_thresholds_hashes_and_a_card(
    folder: Path, toy_bench: Bench
) -> None:
    names = {"CARD.md", "judges.json", "training"}
    names |= {f"{name}.safetensors" for name in (*SUBJECTS, *REFERENCES)}
    assert {path.name for path in folder.iterdir()} == names
    models, record = judge_files.read(folder)
    assert list(models) == [*SUBJECTS, *REFERENCES]
    assert record["fold"] == 0
    assert record["settings"]["config"]["steps"] == 4
    for name, entry in record["files"].items():
        path = folder / name
        assert entry == {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    # The threshold is the one that the stored weights need for the val photos of the class.
    mine = [m for m in toy_bench.photos("val") if m.startswith("rail/") and fold_of(m) == 0]
    photos = np.stack([toy_bench.photo(member) for member in mine])
    scores = score(models["rail"], photos)
    assert record["thresholds"]["rail"] == pytest.approx(accepting(scores, 0.85), abs=1e-6)
    done = record["done"]["rail"]
    assert done["photos"] == len(photos)
    assert set(done["passed"]) == {
        *(f"photos of {s}" for s in SUBJECTS if s != "rail"),
        *("average", "blur", "patches", "noise"),
    }
    card = (folder / "CARD.md").read_text()
    assert "No early-generator pictures" in card
    assert f"| rail | {done['threshold']:.4f} |" in card

    # Beside the judges: a second one, a classifier and a space.
    second = record["done"]["second"]
    scores = head_scores(models["second"], photos)[:, SUBJECTS.index("rail")]
    table = second["tables"]["rail"]
    assert table["threshold"] == pytest.approx(accepting(scores, 0.85), abs=1e-6)
    # Both were measured on the same pictures, and so was their agreement.
    assert table["counts"] == record["done"]["rail"]["counts"]
    assert second["agreement"]["rail"]["count"] == len(photos) + sum(table["counts"].values())
    assert f"| rail | {table['threshold']:.4f} |" in card
    assert f"| rail | {second['agreement']['rail']['share']:.1%} |" in card
    assert f"{record['done']['classifier']['accuracy']['mean']:.1%}" in card
    # Only pairs whose photo is in the judges' fold were learned from.
    train_pairs = [pair for pair in toy_bench.pairs("train") if fold_of(pair.photo) == 0]
    assert record["done"]["space"]["pairs"] == len(train_pairs)


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_judges(
    folder: Path, tiny: JudgesConfig, toy_bench: Bench, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(judges, "_CHECKPOINT_EVERY", 1)
    made, made_batches = judges._batch, []

    def until_ctrl_c(*arguments):
        if len(made_batches) == 6:
            raise KeyboardInterrupt
        made_batches.append(arguments[2:4])
        return made(*arguments)

    monkeypatch.setattr(judges, "_batch", until_ctrl_c)
    parts = tmp_path / "parts"
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, toy_bench, parts)
    with pytest.raises(ModelError, match="its training has not finished"):
        judge_files.read(parts)
    first = (parts / "baby.safetensors").stat().st_mtime_ns
    made_batches.clear()
    made_batches.append(None)
    monkeypatch.setattr(judges, "_batch", lambda *a: made_batches.append(a[2:4]) or made(*a))
    train(tiny, toy_bench, parts)
    # The global randomness is left alone.
    torch.testing.assert_close(torch.rand(3), wanted)
    # The finished judge is left alone, the second goes on with its third batch.
    assert (parts / "baby.safetensors").stat().st_mtime_ns == first
    assert made_batches[1] == (1, 2)
    assert len(made_batches) == 1 + 2 + 3 * 4
    # The same training writes the same bytes.
    for path in folder.iterdir():
        if path.is_file():
            assert (parts / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (parts / "progress.json").exists()
    # A finished folder is not touched again.
    made_batches.clear()
    train(tiny, toy_bench, parts)
    assert not made_batches


@pytest.mark.slow
def test_another_seed_gives_other_judges_and_the_photos_are_of_one_fold(
    folder: Path, tiny: JudgesConfig, toy_bench: Bench, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[str] = []
    read = Bench.photo
    monkeypatch.setattr(Bench, "photo", lambda self, m: seen.append(m) or read(self, m))
    other = train(replace(tiny, seed=1), toy_bench, tmp_path / "j")
    dogs = [(place / "dog.safetensors").read_bytes() for place in (folder, other)]
    assert dogs[0] != dogs[1]
    everything = {*toy_bench.photos("train"), *toy_bench.photos("val")}
    assert set(seen) == {member for member in everything if fold_of(member) == 0}
    assert 0 < len(set(seen)) < len(everything)


def test_what_a_folder_was_begun_with_is_asked_for_again_naming_all_that_differs(
    folder: Path, tiny: JudgesConfig, toy_bench: Bench, tmp_path: Path,
    early_file: Path, bench_root: Path,
) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=r"another config\.seed, config\.steps: give the same"):
        train(replace(tiny, steps=5, seed=1), toy_bench, folder)
    with pytest.raises(ConfigError, match=r"begun with another early\.count"):
        train(tiny, toy_bench, folder, early=[early_file])
    table = bench_root / "pairs.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(ConfigError, match=r"begun with another data\.pairs"):
        train(tiny, Bench(bench_root), folder)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "CARD.md").write_text("notes")
    with pytest.raises(OutputError, match="exists and is no folder of judges"):
        train(tiny, toy_bench, mine)
    assert [path.name for path in mine.iterdir()] == ["CARD.md"]
    assert (mine / "CARD.md").read_text() == "notes"


@pytest.mark.slow
def test_judges_learn_their_class(tiny: JudgesConfig, toy_bench: Bench, tmp_path: Path) -> None:
    config = replace(tiny, steps=40, batch=16, learning_rate=1e-2, val_per_kind=20)
    out = train(config, toy_bench, tmp_path / "judges")
    done = json.loads((out / "judges.json").read_text())["done"]
    passed = {subject: done[subject] for subject in SUBJECTS}
    strangers = [
        share for p in passed.values() for kind, share in p["passed"].items() if " of " in kind
    ]
    assert all(entry["accepted"] >= 0.85 for entry in passed.values())
    assert np.mean(strangers) < 0.25
    # Patches have the colour of the class but not its place: they are refused too.
    assert np.mean([p["passed"]["patches"] for p in passed.values()]) < 0.4


def test_batches_hold_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(
        photos=[np.full((3, 96, 96, 3), 10 + 40 * c, np.uint8) for c in range(5)],
        early=np.full((7, 96, 96, 3), 255, np.uint8),
    )
    monkeypatch.setattr(judges, "augment", lambda images, *_: torch.from_numpy(images))
    config = JudgesConfig(batch=64, other_share=0.5, made_per_kept=1)
    average = InformativityClassifier().eval()
    counts = []
    for step in range(10):
        images, targets = judges._batch(config, pictures, 2, step, average)
        levels = images.reshape(64, -1)[:, 0].numpy()
        assert targets.tolist() == [1] * 32 + [0] * 32
        assert set(levels[:32]) == {90}
        assert set(levels[32:48]) <= {10, 50, 130, 170}
        counts.append(int((levels[48:] == 255).sum()))
    # 16 uninformative pictures of five kinds: each kind has its fifth over five batches.
    assert counts == counts[:5] * 2
    assert sum(counts[:5]) == 16


def test_the_uninformative_pictures_that_the_judge_likes_best_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    levels = rng.permutation(np.arange(100, 200, dtype=np.uint8))
    early = np.broadcast_to(levels[:, None, None, None], (100, 96, 96, 3))
    # Black photos make black averages, blurs, patches and noise.
    black = [np.zeros((3, 96, 96, 3), np.uint8) for _ in range(5)]
    pictures = Pictures(photos=black, early=early)
    monkeypatch.setattr(judges, "augment", lambda images, *_: torch.from_numpy(images))
    # A judge for whom bright is good.
    monkeypatch.setattr(judges, "score", lambda _, images: images.mean(axis=(1, 2, 3)))
    config = JudgesConfig(batch=64, other_share=0.5, made_per_kept=5)
    images, targets = judges._batch(config, pictures, 2, 0, InformativityClassifier())
    assert images.shape == (64, 96, 96, 3)
    assert targets.tolist() == [1] * 32 + [0] * 32
    # Of 80 made 16 are early ones, which alone are bright: all are kept, the brightest first.
    kept = images[48:].reshape(16, -1)[:, 0].tolist()
    assert min(kept) >= 100
    assert kept == sorted(kept, reverse=True)


@pytest.mark.slow
def test_early_pictures_are_a_kind_of_their_own(
    tiny: JudgesConfig, toy_bench: Bench, tmp_path: Path, early_file: Path
) -> None:
    small = replace(tiny, steps=1)
    out = train(small, toy_bench, tmp_path / "j", early=[early_file])
    record = json.loads((out / "judges.json").read_text())
    kept = in_early_part(load_early([early_file]), 0, "val")
    assert record["done"]["dog"]["counts"]["early"] == kept.sum()
    assert record["settings"]["early"]["count"] == 200
    assert "200 early-generator pictures" in (out / "CARD.md").read_text()


def test_too_few_pictures_are_refused(
    tiny: JudgesConfig, bench_root: Path, tmp_path: Path, write_tar, jpeg
) -> None:
    np.savez(tmp_path / "few.npz", images=np.zeros((2, 96, 96, 3), np.uint8))
    early = [tmp_path / "few.npz"]
    with pytest.raises(DataError, match="2 early pictures are too few"):
        train(tiny, Bench(bench_root), tmp_path / "j", early=early)
    picture = jpeg(np.zeros((96, 96, 3), np.uint8))
    path = bench_root / "photos" / "val.tar"
    kept = [m for m in find_bench(bench_root).photos("val") if not m.startswith("dog/")]
    write_tar(path, [(member, picture) for member in kept])
    with pytest.raises(DataError, match=r"photos/val\.tar has too few photos of dog"):
        train(tiny, Bench(bench_root), tmp_path / "k")


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("val", "holds no sounds of val"),
        ("val,dog", "has no sounds of dog in val: the judges needs baby, dog"),
        ("train,rail", "has no sounds of rail in train"),
    ],
)
def test_missing_sounds_are_named_before_anything_is_trained(
    tiny: JudgesConfig, bench_root: Path, tmp_path: Path, gone: str, words: str
) -> None:
    table = bench_root / "pairs.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith(f"{gone},")))
    with pytest.raises(DataError, match=words):
        train(tiny, Bench(bench_root), tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_weights_that_are_no_numbers_are_not_kept(
    tiny: JudgesConfig, toy_bench: Bench, tmp_path: Path
) -> None:
    wild = replace(tiny, steps=2, learning_rate=1e30)
    with pytest.raises(SoundsightError, match="try a lower learning"):
        train(wild, toy_bench, tmp_path / "j")
    assert not list((tmp_path / "j").glob("*.safetensors"))
    assert not (tmp_path / "j" / "judges.json").exists()


# --- the second judge and the photo classifier

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (190, 190, 40), (40, 190, 190))

SMALL = ReferenceConfig(
    passes=8,
    photos=10,
    learning_rate=1e-2,
    average_decay=0.8,
    network=PictureClassifierConfig(maps=(4, 8, 8)),
)


def coloured(seed: int) -> Pictures:
    """Ten photos a class, each of the class's colour with a bright bar across."""
    rng = np.random.default_rng(seed)
    photos = []
    for colour in COLOURS:
        levels = rng.normal(colour, 20, (10, 96, 96, 3))
        for photo in levels:
            top = int(rng.integers(80))
            photo[top : top + 12] = 255
        photos.append(np.clip(levels, 0, 255).astype(np.uint8))
    return Pictures(photos=photos, early=np.empty((0, 96, 96, 3), np.uint8))


QUICK = JudgesConfig(bfloat16=False, references=ReferencesConfig(second=SMALL, classifier=SMALL))


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeFolder:
    """A folder just begun; the few steps of a toy network go well with these seeds."""
    monkeypatch.setattr(judges, "_reference_seed", lambda *_: (0, 1))
    return JudgeFolder(tmp_path / "f", QUICK, load_early([]), {})


@pytest.mark.slow
def test_the_photo_classifier_learns_the_subjects(empty_folder: JudgeFolder) -> None:
    pictures = coloured(0)
    task = reference_task(CLASSIFIER, QUICK, pictures)
    assert task.loop.steps == 40
    network = fit(CLASSIFIER, task, empty_folder)
    val, classifier = coloured(1), PhotoClassifier(network)
    found = classifier.accuracy(val)
    assert found["mean"] > 0.8
    assert found["mean"] == pytest.approx(np.mean([v for k, v in found.items() if k != "mean"]))
    images = val.photos[1]
    probabilities = classifier.probabilities(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert found["dog"] == (probabilities.argmax(axis=1) == 1).mean()
    unit = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = network.features(unit)
    np.testing.assert_allclose(classifier.features(images), features, atol=1e-5)
    # The weights can be stored in fp16 without a change.
    weights = network.state_dict().values()
    assert all(torch.equal(v, v.half().float()) for v in weights if v.is_floating_point())


@pytest.mark.slow
def test_the_second_judge_learns_its_classes_and_to_refuse(empty_folder: JudgeFolder) -> None:
    pictures = coloured(0)
    task = reference_task(SECOND, QUICK, pictures)
    network = fit(SECOND, task, empty_folder)
    own, other = [], []
    for number, photos in enumerate(pictures.photos):
        scores = head_scores(network, photos)
        own.append(scores[:, number].mean())
        other.append(np.delete(scores, number, axis=1).mean())
    assert np.mean(own) > np.mean(other) + 0.3
    rng = np.random.default_rng(0)
    noise = pictures.uninformative("noise", None, 30, rng)
    assert head_scores(network, noise).mean() < np.mean(own) - 0.2


def test_batches_of_the_second_judge() -> None:
    pictures = coloured(0)
    task = reference_task(SECOND, QUICK, pictures)
    (images, targets), (again, _), (other, _) = (
        task.batch(step, task.network) for step in (3, 3, 4)
    )
    assert images.shape == (20, 3, 96, 96)
    assert targets[10:].tolist() == [NOTHING] * 10
    assert set(targets[:10].tolist()) <= set(range(5))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_the_loss_weighs_a_half_and_two_quarters() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, 2))
    targets = np.array([0, 0, 1, NOTHING, NOTHING, NOTHING, 1, 1, NOTHING])
    wanted = 0.0
    for head in range(2):
        for own, share, chosen in (
            (1, 0.5, targets == head),
            (0, 0.25, targets == 1 - head),
            (0, 0.25, targets == NOTHING),
        ):
            p = 1 / (1 + np.exp(-logits[chosen, head]))
            soft = own * 0.8 + 0.1
            wanted -= share * np.mean(soft * np.log(p) + (1 - soft) * np.log(1 - p)) / 2
    got = heads_loss(torch.from_numpy(logits), torch.from_numpy(targets), 0.2)
    assert float(got) == pytest.approx(wanted)
    # A batch without a class: head 1 has a half and a quarter of ln 2, the others two quarters.
    loss = heads_loss(torch.zeros(3, 5), torch.tensor([1, 1, NOTHING]), 0.0)
    assert float(loss) == pytest.approx(math.log(2) * (0.75 + 4 * 0.5) / 5)


def test_augmenting_keeps_range_and_shape_and_follows_the_seed() -> None:
    images = np.random.default_rng(0).integers(256, size=(32, 96, 96, 3), dtype=np.uint8)
    first, again = (augment(images, np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (32, 3, 96, 96)
    assert float(first.abs().max()) <= 1
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    # Tints keep the order of levels, so an unmoved picture correlates with its source or mirror.
    unit = torch.from_numpy(images / 127.5 - 1).permute(0, 3, 1, 2).float()
    alike = [
        max(
            float(torch.corrcoef(torch.stack([a.ravel(), c.ravel()]))[0, 1]) for c in (b, b.flip(2))
        )
        for a, b in zip(first, unit, strict=True)
    ]
    unmoved = sum(value > 0.9 for value in alike)
    assert 3 <= unmoved <= 14


def test_a_box_is_hidden_in_a_share_of_the_pictures() -> None:
    images = np.random.default_rng(0).integers(256, size=(200, 96, 96, 3), dtype=np.uint8)
    shown = augment(images, np.random.default_rng(1), 0.0)
    hidden = augment(images, np.random.default_rng(1), 0.0, 0.3)
    changed = (shown != hidden).any(dim=1)
    boxes = changed.flatten(1).any(dim=1)
    assert 40 <= int(boxes.sum()) <= 80
    for where, before, after in zip(changed[boxes], shown[boxes], hidden[boxes], strict=True):
        rows, columns = where.any(dim=1).nonzero(), where.any(dim=0).nonzero()
        box = (
            slice(int(rows.min()), int(rows.max()) + 1),
            slice(int(columns.min()), int(columns.max()) + 1),
        )
        assert all(16 <= side.stop - side.start <= 48 for side in box)
        mean = before.mean(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(after[:, *box], mean.expand_as(after[:, *box]))


def test_settings_out_of_range_are_refused() -> None:
    for changes in (
        {"steps": 0}, {"batch": 2}, {"accept_rate": 0.0}, {"accept_rate": 1.1}, {"fold": 2},
        {"other_share": 1.5}, {"hidden_share": -0.1}, {"made_per_kept": 0}, {"smoothing": 1.0},
        {"average_decay": -0.1},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            JudgesConfig(**changes)
    for changes in (
        {"passes": 0}, {"photos": 4}, {"learning_rate": 0}, {"smoothing": 1}, {"average_decay": 1},
        {"network": PictureClassifierConfig(outputs=4)},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            ReferenceConfig(**changes)
