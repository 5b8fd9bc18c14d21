"""Sound -> pictures: determinism, states, and inputs of every kind."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soundsight.core import units
from soundsight.core.draws import generator_draws, item_of
from soundsight.core.errors import AudioError, ConfigError, OutputError
from soundsight.core.state import CALM_LEVEL, State
from soundsight.media import audio
from soundsight.media.segments import segments
from soundsight.runtime.labels import LabelHead
from soundsight.runtime.surest import Second, mean_embedding
from soundsight.runtime.translator import Translator
from soundsight.views.pictograms import alert_picture

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def translator(tiny_model: Path) -> Translator:
    return Translator.load(tiny_model, threads=1)


@pytest.fixture
def load(make_model: Make, tmp_path: Path) -> Make:
    """A translator of a tiny model of its own: settings -> translator."""
    return lambda **how: Translator.load(
        make_model(tmp_path / f"model{len(list(tmp_path.iterdir()))}", **how), threads=1
    )


@pytest.fixture(scope="module")
def mels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (7, 128, 100), dtype=np.uint8)


def tone(seconds: float, rate_hz: int = 44_100, level: float = 0.3) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 0.3 * t)
    return (level * swell * np.sin(2 * np.pi * (300 + 80 * t) * t)).astype(np.float32)


# --- imagine ---------------------------------------------------------------------------------


def test_pictures_do_not_depend_on_the_batch(translator: Translator, mels: np.ndarray) -> None:
    together = translator.imagine(mels, draws=2, seed=5)
    assert together.shape == (14, 96, 96, 3)
    assert together.dtype == np.uint8
    for i in range(len(mels)):
        alone = translator.imagine(mels[i], draws=2, seed=5)
        np.testing.assert_array_equal(together[2 * i : 2 * i + 2], alone)
    backwards = translator.imagine(mels[::-1], draws=2, seed=5)
    np.testing.assert_array_equal(
        together.reshape(7, 2, 96, 96, 3)[::-1], backwards.reshape(7, 2, 96, 96, 3)
    )


def test_seed_and_draw_change_the_picture(translator: Translator, mels: np.ndarray) -> None:
    a, b = translator.imagine(mels[0], draws=2)
    assert (a != b).any()
    assert (translator.imagine(mels[0], seed=1)[0] != a).any()
    # More draws leave the first ones as they were.
    np.testing.assert_array_equal(translator.imagine(mels[0], draws=5)[:2], [a, b])


def test_the_random_numbers_are_the_documented_ones(
    translator: Translator, mels: np.ndarray
) -> None:
    picture = translator.imagine(mels[:1], draws=2, seed=9)[1]
    noise, dropout = generator_draws(9, item_of(mels[0], 1), 4, 5)
    embedding, _ = translator.embed(units.to_unit(mels[:1])[:, None])
    expected = translator.generate(embedding, noise[None], dropout[None])[0]
    np.testing.assert_array_equal(picture, expected)


def test_items_share_the_random_numbers(translator: Translator, mels: np.ndarray) -> None:
    pair = np.stack([mels[0], mels[0]])
    same, other = (translator.imagine(pair, items=items) for items in ([4, 4], [4, 5]))
    np.testing.assert_array_equal(same[0], same[1])
    assert (other[0] != other[1]).any()


def test_levels_and_floats_are_the_same_picture(translator: Translator, mels: np.ndarray) -> None:
    expected = translator.imagine(mels[:2])
    for kind in (np.float32, np.float64):
        unit = units.to_unit(mels[:2]).astype(kind)
        np.testing.assert_array_equal(translator.imagine(unit), expected)
    assert translator.imagine(mels[:0]).shape == (0, 96, 96, 3)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((100, 128), np.uint8), r"\[n, 128, 100\], not \[100, 128\]"),
        (np.zeros((1, 1, 128, 100), np.uint8), r"not \[1, 1, 128, 100\]"),
        (np.zeros((128, 100), np.int64), "int64"),
        (np.full((128, 100), 255.0), "lie in"),
        (np.full((128, 100), np.nan), "finite"),
        (np.full((128, 100), -np.inf), "finite"),
        ("a sound", "128, 100"),
    ],
)
def test_bad_mels(translator: Translator, bad: Any, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        translator.imagine(bad)


BAD = [
    *(("draws", value) for value in (0, -1, 1.5, True, "2", None, 10**9)),
    *(("seed", value) for value in (-1, 2**64, 0.5, None, False, "1")),
    *(("items", value) for value in ([1], [1, -1], [1, 2**47], [1, 0.5])),
]


@pytest.mark.parametrize(("option", "value"), BAD)
def test_bad_options(translator: Translator, mels: np.ndarray, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option.removesuffix("s")):
        translator.imagine(mels[:2], **{option: value})
    if option != "items":
        for call in (translator.translate, translator.iter_translate):
            with pytest.raises(ConfigError, match=option):
                call(tone(1), 44_100, **{option: value})


def test_a_model_without_noise_and_dropout(load: Make, mels: np.ndarray) -> None:
    pictures = load(noise_size=0, dropout_size=0).imagine(mels[0], draws=2)
    np.testing.assert_array_equal(pictures[0], pictures[1])


# --- translate -------------------------------------------------------------------------------


def test_path_and_array_agree(translator: Translator, tmp_path: Path, write_sound: Make) -> None:
    path = write_sound(tmp_path / "a.wav", 3.4, subtype="FLOAT")
    samples = audio.decode(path)
    for options in ({}, {"each_second": True}, {"draws": 3, "seed": 8, "each_second": True}):
        of_path = translator.translate(path, **options)
        of_text = translator.translate(str(path), **options)
        of_array = translator.translate(samples, 44_100, **options)
        for other in (of_text, of_array):
            np.testing.assert_array_equal(of_path.images, other.images)
            np.testing.assert_array_equal(of_path.waveforms, other.waveforms)
            np.testing.assert_array_equal(of_path.seconds, other.seconds)
            assert of_path.state == other.state
        assert of_path.source == str(path)
        assert of_array.source == ""


def test_loudest_second(translator: Translator) -> None:
    samples = np.concatenate([tone(2.0, level=0.05), tone(1.0), tone(2.0, level=0.05)])
    result = translator.translate(samples, 44_100)
    assert len(result) == 1
    assert result.seconds[0] == pytest.approx(2.0, abs=0.3)
    # The waveform is that of the second that was chosen.
    first = round(float(result.seconds[0]) * 44_100)
    second = samples[first : first + 44_100]
    assert result.waveforms[0].max() == second.max()
    assert result.waveforms[0].min() == second.min()


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5, 9.9, 10.0, 12.6, 25.0])
def test_each_second_is_what_the_whole_clip_gives(translator: Translator, seconds: float) -> None:
    samples = tone(seconds)
    expected = list(segments([samples]))
    result = translator.translate(samples, 44_100, each_second=True, draws=2)
    assert len(result) == 2 * len(expected)
    assert result.draw.tolist() == [0, 1] * len(expected)
    for i, segment in enumerate(expected):
        np.testing.assert_array_equal(result.mels[2 * i], segment.mel)
        assert result.seconds[2 * i] == segment.start_s
        part = samples[i * 44_100 : (i + 1) * 44_100]
        assert result.waveforms[2 * i].max() == max(part.max(), 0 if len(part) < 44_100 else -1)
    np.testing.assert_array_equal(
        result.images, translator.imagine(np.stack([s.mel for s in expected]), draws=2)
    )


def test_iter_translate_gives_the_same_second_by_second(translator: Translator) -> None:
    samples = tone(13.0)
    whole = translator.translate(samples, 44_100, each_second=True, draws=2, seed=3)
    parts = list(translator.iter_translate(samples, 44_100, draws=2, seed=3))
    assert [len(part) for part in parts] == [2] * 13
    for name in (
        "images", "mels", "waveforms", "seconds", "rms_dbfs", "confidence", "ood_score", "draw",
    ):  # fmt: skip
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.dtype == getattr(whole, name).dtype
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_silence_is_quiet_and_calm(translator: Translator, load: Make) -> None:
    result = translator.translate(np.zeros(44_100, np.float32), 44_100, draws=2)
    assert result.state == [State.QUIET, State.QUIET]
    assert (result.images == CALM_LEVEL).all()
    assert np.isnan(result.confidence).all()
    # The threshold is the model's.
    assert load(quiet_dbfs=0.0).translate(tone(1.0), 44_100).state == [State.QUIET]


# --- names -----------------------------------------------------------------------------------


@pytest.fixture
def named(load: Make) -> Translator:
    """Names by the first number of an embedding: what is above 0 has the first."""
    translator = load()
    weights = np.zeros((2, 8), np.float32)
    weights[:, 0] = 3.0, -3.0
    bias = np.zeros(2, np.float32)
    translator.label_head = LabelHead(labels=("dog", "train"), weights=weights, bias=bias)
    return translator


def test_a_sound_is_drawn_from_the_surest_seconds_of_its_kind(named: Translator) -> None:
    translator = named
    rng = np.random.default_rng(5)
    samples = np.concatenate([tone(6.0, level=0.2), rng.normal(0, 0.1, 6 * 44_100)])
    samples = samples.astype(np.float32)
    each = translator.translate(samples, 44_100, each_second=True)
    whole = translator.translate(samples, 44_100, seed=3)
    assert (len(whole), whole.state) == (1, [State.PICTURE])
    # The same by hand: of all seconds, and of the loudest where it lies between them.
    *_, loudest = segments([samples], loudest=True)
    mels = [*each.mels, *([] if loudest.start_s.is_integer() else [loudest.mel])]
    embeddings, _ = translator.embed(units.to_unit(np.stack(mels))[:, None])
    shares = translator.label_head.probabilities(embeddings)
    kind = int(shares.sum(axis=0).argmax())
    first = int(shares[:, kind].argmax())
    np.testing.assert_array_equal(whole.mels[0], mels[first])
    assert whole.name == [translator.label_head.labels[kind]]
    noise, dropout = generator_draws(3, item_of(mels[first], 0), 4, 5)
    best = np.argsort(-shares[:, kind], kind="stable")[:8]
    surest = [Second(embedding=embeddings[i], shares=shares[i], ood_score=np.nan) for i in best]
    expected = translator.generate(mean_embedding(surest)[None], noise[None], dropout[None])
    np.testing.assert_array_equal(whole.images, expected)
    # A sound of a second is drawn from that second.
    whole = translator.translate(tone(1.0), 44_100)
    (only,) = translator.iter_translate(tone(1.0), 44_100)
    np.testing.assert_array_equal(whole.images, only.images)
    assert (whole.name, whole.confidence.tolist()) == (only.name, only.confidence.tolist())


def test_an_alert_is_named_and_not_drawn(load: Make, tmp_path: Path, alert_names: Make) -> None:
    translator = load(labels=alert_names())
    for options in ({}, {"each_second": True}, {"anyway": True}):
        result = translator.translate(tone(1.0), 44_100, draws=2, **options)
        assert result.state == [State.NAMED] * 2
        assert (result.name, result.second_guess) == (["smoke alarm"] * 2, ["", ""])
        np.testing.assert_array_equal(result.images[1], alert_picture("smoke alarm", 96))
        assert 0.9 < result.confidence[0] <= 1
    # In a file it is drawn at the file's size, and says that nothing is imagined.
    first, _ = result.save(tmp_path / "out", size_px=200)
    with Image.open(first) as image:
        np.testing.assert_array_equal(np.asarray(image), alert_picture("smoke alarm", 200))
        assert image.info["soundsight"] == "named, not imagined"
        assert (image.info["state"], image.info["name"]) == ("named", "smoke alarm")


def test_names_and_second_guesses(load: Make, alert_names: Make) -> None:
    samples = np.concatenate([tone(1.0), np.zeros(44_100, np.float32)])
    translator = load(ood_score=1.0, labels=alert_names(sure=False))
    result = translator.translate(samples, 44_100, each_second=True)
    assert result.state == [State.PICTURE, State.QUIET]
    assert (result.name, result.second_guess) == (["dog", ""], ["smoke alarm", ""])
    expected = np.sqrt((1 - result.ood_score[0]) / (1 + np.exp(-0.2)))
    assert result.confidence[0] == pytest.approx(expected, rel=1e-4)
    assert np.isnan(result.confidence[1])


# --- ood scores ------------------------------------------------------------------------------


def test_a_sound_of_no_known_kind_is_not_drawn_unless_asked_for(
    load: Make, translator: Translator
) -> None:
    samples = np.concatenate([tone(1.0), np.zeros(44_100, np.float32)])
    how = {"draws": 2, "each_second": True}
    plain = translator.translate(samples, 44_100, **how)
    assert np.isnan(plain.ood_score).all()
    result = load(ood_score=0.9).translate(samples, 44_100, **how)
    assert 0 < result.ood_score[0] < 0.9
    assert result.state == [State.PICTURE] * 2 + [State.QUIET] * 2
    np.testing.assert_array_equal(result.images, plain.images)
    strict = load(ood_score=float(result.ood_score[0]) - 1e-3)
    refused = strict.translate(samples, 44_100, **how)
    assert refused.state == [State.NOTHING_RECOGNISABLE] * 2 + [State.QUIET] * 2
    assert (refused.images == CALM_LEVEL).all()
    np.testing.assert_array_equal(refused.ood_score, result.ood_score)
    # Silence stays calm when it is asked for, too.
    asked = strict.translate(samples, 44_100, anyway=True, **how)
    assert asked.state == refused.state
    np.testing.assert_array_equal(asked.images, result.images)
    (first, _) = strict.iter_translate(samples, 44_100, anyway=True)
    np.testing.assert_array_equal(first.images, result.images[:1])


def test_arrays_need_their_rate(translator: Translator) -> None:
    for rate in (None, 44_100.5, True, "44100"):
        with pytest.raises(ConfigError, match="rate_hz"):
            translator.translate(tone(1), rate)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rate_hz"):
        translator.translate("a.wav", 44_100)
    with pytest.raises(ConfigError, match="bytes"):
        translator.translate(b"RIFF", 44_100)
    mono = tone(1.5, 16_000)
    a, b = (translator.translate(x, 16_000) for x in (mono, np.stack([mono, mono], axis=1)))
    np.testing.assert_array_equal(a.images, b.images)


def test_bad_sounds(translator: Translator, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound", "utf-8")
    bad = tone(1)
    bad[500] = np.nan
    for sound, rate, says in (
        (tmp_path / "no.wav", None, "does not exist"),
        (tmp_path / "text.wav", None, "no sound"),
        (bad, 44_100, "finite"),
    ):
        for each_second in (False, True):
            with pytest.raises(AudioError, match=says):
                translator.translate(sound, rate, each_second=each_second)


def test_open_files_and_bytes_in_memory(
    translator: Translator, tmp_path: Path, write_sound: Make
) -> None:
    path = write_sound(tmp_path / "a.wav", 2.0)
    expected = translator.translate(path)
    assert expected.warnings == ()
    with path.open("rb") as file:
        result = translator.translate(file)
    np.testing.assert_array_equal(result.images, expected.images)
    assert result.source == str(path)
    memory = io.BytesIO(path.read_bytes())
    each = translator.translate(memory, each_second=True)
    assert len(each) == 2
    assert each.source == "the sound"
    with pytest.raises(ConfigError, match="leave rate_hz out"):
        translator.translate(memory, 44_100)
    for several in ([path, path], [str(path)], (str(path), str(path)), [io.BytesIO()]):
        with pytest.raises(ConfigError, match="several sounds were passed: translate them one by"):
            translator.translate(several)


def test_a_stream_may_be_opened_by_hand(
    translator: Translator, tmp_path: Path, write_sound: Make
) -> None:
    path = write_sound(tmp_path / "a.flac", 30.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = translator.translate(path, each_second=True)
    assert len(result) in (15, 16)
    (told,) = result.warnings
    assert "a.flac is damaged at 15." in told
    assert translator.translate(path).warnings == result.warnings
    *_, last = translator.iter_translate(audio.stream(path))
    assert (last.source, last.warnings) == (str(path), result.warnings)
    with pytest.raises(AudioError, match="cut short"):
        translator.translate(audio.stream(path, strict=True))


def test_save(translator: Translator, tmp_path: Path, write_sound: Make) -> None:
    path = write_sound(tmp_path / "dog.wav", 2.0)
    paths = translator.translate(path, each_second=True).save(tmp_path / "out", size_px=32)
    assert [p.name for p in paths] == ["dog_s000_d0.png", "dog_s001_d0.png"]
    with Image.open(paths[1]) as image:
        assert image.size == (32, 32)
        assert image.info["soundsight"] == "imagined from sound"
        assert (image.info["source"], image.info["second"]) == ("dog.wav", "1")
        assert image.info["model"] == "tiny 0.0.1"
    # One picture may have a name.
    one = translator.translate(path)
    for out in (tmp_path / "new" / "x.png", tmp_path / "X.PNG"):
        assert one.save(str(out), size_px=32) == [out]
        assert out.read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "folder.png").mkdir()
    assert one.save(tmp_path / "folder.png") == [tmp_path / "folder.png" / "dog_s001_d0.png"]
    two = translator.translate(path, draws=2)
    for pictures, name, says in (
        (two, "two.png", r"two\.png: there are 2 pictures, name a folder"),
        (one, "x.jpg", "pictures are written as PNG"),
    ):
        with pytest.raises(OutputError, match=says):
            pictures.save(tmp_path / name)
    there = ["X.PNG", "dog.wav", "folder.png", "new", "out"]
    assert sorted(p.name for p in tmp_path.iterdir()) == there


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_bad_threads(tiny_model: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads"):
        Translator.load(tiny_model, threads=threads)


def test_memory_does_not_grow_with_the_sound(translator: Translator) -> None:
    """40 and 120 seconds hold the same: only what the current second needs is kept."""

    def peak(seconds: int) -> int:
        block = tone(10.0)
        tracemalloc.start()
        for _ in translator.iter_translate(block for _ in range(seconds // 10)):
            pass
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(20)
    assert peak(120) < 1.1 * peak(40)
