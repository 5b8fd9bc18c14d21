"""Coherence scores: what they find, what they never see, and that stopping changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundsight.core.errors import ConfigError, DataError, SoundsightError
from soundsight.models.contrastive import ContrastiveConfig
from soundsight.training import coherence

TOWERS = ContrastiveConfig(
    embedding_size=16, sound_maps=(4, 8, 8, 16, 16), picture_maps=(4, 8, 8, 16, 16), dropout=0.0
)
TINY = coherence.CoherenceConfig(
    folds=2, passes=1.0, min_steps=2, max_steps=2, batch_size=16, candidates=64, network=TOWERS
)
TINY_CLASSES = coherence.ClassifierConfig(
    folds=2, passes=1.0, min_steps=2, max_steps=2, batch_size=16, network=TOWERS
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class ToyPairs:
    """Four kinds of scene: a kind sounds in a band of its own and has a colour of its own.

    ``videos`` of three seconds each; every second has noise of its own.
    """

    def __init__(self, videos: int = 80, *, frames: int = 100, px: int = 96, seed: int = 0) -> None:
        self.seed, self.frames, self.px = seed, frames, px
        self.videos = np.repeat(np.arange(videos, dtype=np.int64), 3)
        self.photos = self.videos
        self.sound = self.videos % 4
        self.picture = self.videos % 4
        self.asked: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.videos)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(np.asarray(indices))
        mels = np.empty((len(indices), 128, self.frames), dtype=np.uint8)
        pictures = np.empty((len(indices), self.px, self.px, 3), dtype=np.uint8)
        colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [190, 190, 190]])
        for place, i in enumerate(indices):
            rng = np.random.default_rng((self.seed, int(i)))
            mels[place] = rng.integers(0, 60, mels.shape[1:])
            band = 32 * int(self.sound[i])
            mels[place, band : band + 32] += 150
            pictures[place] = colours[self.picture[i]] + rng.integers(-40, 40, pictures.shape[1:])
        return mels, pictures

    def spoil(self, share: float) -> np.ndarray:
        """Give some seconds the sound of another kind; return which."""
        rng = np.random.default_rng(self.seed)
        wrong = np.zeros(len(self), dtype=bool)
        wrong[rng.permutation(len(self))[: round(share * len(self))]] = True
        self.sound = np.where(wrong, (self.sound + rng.integers(1, 4, len(self))) % 4, self.sound)
        return wrong


class Frozen(ToyPairs):
    """Pairs of another size that may not be written to."""

    def __init__(self) -> None:
        super().__init__(frames=60, px=64)
        self.videos.flags.writeable = False

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mels, pictures = super().gather(indices)
        mels.flags.writeable = pictures.flags.writeable = False
        return mels, pictures


LEARNS = replace(
    TINY, folds=3, min_steps=60, max_steps=60, batch_size=32, learning_rate=1e-2, picture_px=32
)
SMALL = {"frames": 40, "px": 32}


@pytest.mark.slow
def test_wrong_sounds_are_found_without_a_label() -> None:
    pairs = ToyPairs(**SMALL)
    wrong = pairs.spoil(0.1)
    scores = coherence.contrastive_scores(pairs, LEARNS)
    assert scores.shape == (240,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    dropped = ~coherence.keep_share(scores, 0.15)
    assert dropped[wrong].mean() > 0.9
    # In nats, against chance: right pairs lie above 0, wrong ones below.
    assert scores[~wrong].mean() > 0 > scores[wrong].mean()


@pytest.mark.slow
def test_sounds_and_pictures_that_have_nothing_in_common_score_at_chance() -> None:
    pairs = ToyPairs(**SMALL)
    pairs.sound = np.random.default_rng(1).integers(0, 4, len(pairs))
    assert coherence.contrastive_scores(pairs, LEARNS).mean() <= 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("multiclass", 30), ("binary", 60)])
def test_photo_classifiers_find_pictures_of_another_class(kind: str, steps: int) -> None:
    pairs = ToyPairs(**SMALL)
    wrong = np.zeros(len(pairs), dtype=bool)
    wrong[[*range(30, 33), *range(120, 123), *range(201, 204)]] = True
    labels = pairs.picture.copy()
    pairs.picture = np.where(wrong, (pairs.picture + 1) % 4, pairs.picture)
    config = replace(TINY_CLASSES, kind=kind, min_steps=steps, max_steps=steps, learning_rate=1e-2)
    scores = coherence.classifier_scores(pairs, [f"kind {label}" for label in labels], config)
    assert scores.dtype == np.float32
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert scores[wrong].max() < np.quantile(scores[~wrong], 0.1)


def test_no_pair_is_scored_by_networks_that_saw_its_video_or_photo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = ToyPairs(**SMALL)
    # Some videos share a picture, so that folds by video alone would leak.
    pairs.photos = pairs.videos // 2
    judge, judged = coherence.agreement, []

    def watch(network: object, pairs: ToyPairs, rows: np.ndarray, config: object) -> object:
        judged.append((np.unique(np.concatenate(pairs.asked)), rows))
        scores = judge(network, pairs, rows, config)  # type: ignore[arg-type]
        pairs.asked.clear()
        return scores

    monkeypatch.setattr(coherence, "agreement", watch)
    coherence.contrastive_scores(pairs, replace(TINY, folds=3, min_steps=20, max_steps=20))
    assert len(judged) == 3
    for learned, rows in judged:
        assert len(learned) > 50
        assert not set(pairs.videos[learned]) & set(pairs.videos[rows])
        assert not set(pairs.photos[learned]) & set(pairs.photos[rows])
    assert sorted(np.concatenate([rows for _, rows in judged])) == list(range(len(pairs)))


def test_folds_keep_linked_videos_together_and_are_even() -> None:
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(300), 2)
    photos = rng.integers(0, 250, 300)[videos]
    fold = coherence.folds_of(videos, photos, 4, seed=0)
    for ids in (videos, photos):
        for one in np.unique(ids):
            assert len(set(fold[ids == one])) == 1
    sizes = np.bincount(fold, minlength=4)
    assert sizes.max() - sizes.min() <= 4
    assert (coherence.folds_of(videos, photos, 4, seed=0) == fold).all()
    assert (coherence.folds_of(videos, photos, 4, seed=1) != fold).any()


def test_a_long_chain_of_links_is_one_group() -> None:
    # Video i shares photo i with video i - 1: one group of 60 pairs among single ones.
    videos = np.concatenate([np.repeat(np.arange(30), 2), np.arange(1000, 1400)])
    photos = np.concatenate([np.repeat(np.arange(31), 2)[1:-1], np.arange(2000, 2400)])
    fold = coherence.folds_of(videos, photos, 4, seed=0)
    assert len(set(fold[:60])) == 1
    assert sorted(np.bincount(fold)) == [115, 115, 115, 115]


def test_too_little_to_learn_from_is_said() -> None:
    one = np.arange(coherence.FEWEST_PAIRS - 1)
    with pytest.raises(DataError, match="199 pairs are too few"):
        coherence.folds_of(one, one, 4, seed=0)
    few = np.arange(400) % (coherence.FEWEST_GROUPS - 1)
    with pytest.raises(DataError, match="39 separate groups"):
        coherence.folds_of(few, few, 4, seed=0)
    linked = np.where(np.arange(400) < 250, 0, np.arange(400))
    with pytest.raises(DataError, match="250 of 400 pairs hang together"):
        coherence.folds_of(linked, linked, 4, seed=0)


def test_scores_hang_on_the_seed_alone_and_leave_the_callers_random_state() -> None:
    torch.manual_seed(5)
    first = coherence.contrastive_scores(ToyPairs(frames=60, px=64), TINY)
    drawn = torch.rand(3)
    assert np.isfinite(first).all()
    assert (coherence.contrastive_scores(Frozen(), TINY) == first).all()
    assert (coherence.contrastive_scores(Frozen(), replace(TINY, seed=1)) != first).any()
    torch.manual_seed(5)
    assert (torch.rand(3) == drawn).all()


def test_a_stopped_call_goes_on_with_the_next_fold(tmp_path: Path) -> None:
    whole = coherence.contrastive_scores(ToyPairs(), TINY, work=tmp_path / "whole")
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        coherence.contrastive_scores(ToyPairs(), TINY, work=work, progress=stop)
    assert calls == [(1, 4), (2, 4), (3, 4)]
    assert [path.name for path in work.iterdir()] == ["contrastive-00.npz"]
    pairs = ToyPairs()
    calls.clear()
    resumed = coherence.contrastive_scores(
        pairs, TINY, work=work, progress=lambda *step: calls.append(step)
    )
    assert (resumed == whole).all()
    # The first fold is taken from the folder: its steps count as done at once.
    assert calls == [(2, 4), (3, 4), (4, 4)]


def test_kept_folds_of_other_settings_pairs_or_content_are_void(tmp_path: Path) -> None:
    coherence.contrastive_scores(ToyPairs(), TINY, work=tmp_path)
    for pairs, config in (
        (ToyPairs(), replace(TINY, learning_rate=1e-4)),
        (ToyPairs(videos=81), TINY),
        (ToyPairs(seed=1), TINY),
    ):
        fresh = coherence.contrastive_scores(pairs, config)
        assert (coherence.contrastive_scores(pairs, config, work=tmp_path) == fresh).all()
    (tmp_path / "contrastive-00.npz").write_bytes(b"PK\x03\x04 cut off")
    assert (coherence.contrastive_scores(ToyPairs(), TINY, work=tmp_path)).shape == (240,)
    # Labels are among the settings.
    first = coherence.classifier_scores(pairs, pairs.picture, TINY_CLASSES, work=tmp_path)
    other = coherence.classifier_scores(pairs, (pairs.picture + 1) % 4, TINY_CLASSES, work=tmp_path)
    assert (first != other).any()


def test_other_sizes_are_brought_to_the_towers_and_wrong_shapes_refused() -> None:
    mel, image = coherence.read_batch(ToyPairs(frames=110, px=64), np.arange(5))
    assert mel.shape == (5, 1, 128, 100)
    assert image.shape == (5, 3, 96, 96)
    assert -1 <= float(image.min()) < float(image.max()) <= 1
    whole, _ = coherence.read_batch(ToyPairs(frames=110), np.arange(1))
    expected = ToyPairs(frames=110).gather(np.arange(1))[0][0, :, 5:105] / 127.5 - 1
    np.testing.assert_allclose(whole[0, 0].numpy(), expected, atol=1e-6)
    halved, small = coherence.read_batch(ToyPairs(frames=110), np.arange(1), pooled=2, px=48)
    assert small.shape == (1, 3, 48, 48)
    means = expected.reshape(128, 50, 2).mean(axis=2)
    np.testing.assert_allclose(halved[0, 0].numpy(), means, atol=1e-6)

    for turn, message in (
        (lambda m, p: (m[:, :64], p), "cannot be judged"),
        (lambda m, p: (m[:, :, :20], p), "at least 32 frames"),
        (lambda m, p: (m.astype(np.float32), p), "float32"),
        (lambda m, p: (m, p[..., 0]), "8-bit RGB"),
    ):
        pairs = ToyPairs()
        made = turn(*pairs.gather(np.arange(5)))
        pairs.gather = lambda _rows, made=made: made  # type: ignore[method-assign,misc]
        with pytest.raises(DataError, match=message) as raised:
            coherence.read_batch(pairs, np.arange(5))
        assert "\n" not in str(raised.value)


def test_a_loss_that_is_not_finite_stops_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coherence, "info_nce", lambda *_: torch.tensor(torch.nan) * _[4])
    with pytest.raises(SoundsightError, match="loss is nan at step 1: try a lower"):
        coherence.contrastive_scores(ToyPairs(), TINY)


def test_the_worst_share_is_dropped_and_ties_are_decided_by_place() -> None:
    scores = np.array([0.5, 0.1, 0.9, 0.1, 0.1, 0.7, 0.6, 0.8, 0.3, 0.4])
    assert np.flatnonzero(~coherence.keep_share(scores, 0.2)).tolist() == [3, 4]
    assert coherence.keep_share(scores, 0.0).all()
    assert coherence.keep_share(scores, 0.15).sum() == 8
    assert coherence.keep_share(np.zeros(7), 0.5).tolist() == [True] * 3 + [False] * 4
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="share to drop"):
            coherence.keep_share(scores, share)
    with pytest.raises(DataError, match="not finite"):
        coherence.keep_share(np.array([1.0, np.nan]), 0.1)


def test_labels_must_fit_the_pairs() -> None:
    pairs = ToyPairs()
    with pytest.raises(DataError, match="3 labels for 240 pairs"):
        coherence.classifier_scores(pairs, ["a", "b", "c"], TINY_CLASSES)
    with pytest.raises(DataError, match="one class"):
        coherence.classifier_scores(pairs, ["a"] * 240, TINY_CLASSES)
    labels = ["rare"] * 3 + ["common"] * 237
    with pytest.raises(DataError, match="class rare hangs together"):
        coherence.classifier_scores(pairs, labels, TINY_CLASSES)


def test_pairs_of_the_same_video_or_photo_are_no_comparison() -> None:
    pairs = ToyPairs()
    rows = np.arange(len(pairs))
    network = coherence.fit_pair(pairs, rows, TINY, 2, 0)
    free = coherence.agreement(network, pairs, rows, TINY)
    pairs.photos = pairs.videos % 4
    by_kind = coherence.agreement(network, pairs, rows, TINY)
    assert np.isfinite(by_kind).all()
    assert (free != by_kind).all()
    pairs.photos = np.zeros(len(pairs), dtype=np.int64)
    assert (coherence.agreement(network, pairs, rows, TINY) == 0).all()
