"""Units, configs, draws and atomic files."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from soundsight.core import files as runs
from soundsight.core import units
from soundsight.core.config import choose, differences, from_dict, to_dict
from soundsight.core.draws import generator_draws, item_of
from soundsight.core.errors import ConfigError, MissingExtraError, OutputError
from soundsight.core.files import atomic_file, atomic_folder, sha256_of


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    maps: tuple[tuple[int, int], ...] = ((1, 2),)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float | None = None
    inner: Inner = field(default_factory=Inner)
    loud: bool = False

    def __post_init__(self) -> None:
        if self.name == "nobody":
            raise ConfigError("Outer: nobody is no name")


def test_units_divide_exactly() -> None:
    assert units.HOP_SAMPLES * units.FRAMES_PER_SEGMENT == units.SEGMENT_SAMPLES == 44_100
    with pytest.raises(ValueError, match="multiple"):
        units.exact_div(10, 3)


def test_the_pixel_contract_goes_both_ways() -> None:
    levels = np.arange(256, dtype=np.uint8)
    unit = units.to_unit(levels)
    assert unit[0] == -1.0
    assert unit[255] == 1.0
    assert np.array_equal(units.to_levels(unit), levels)
    assert list(units.to_levels(np.array([-5.0, 5.0]))) == [0, 255]


def test_configs_survive_json() -> None:
    config = Outer(name="a", inner=Inner(size=3, maps=((1, 2), (3, 4))))
    assert from_dict(Outer, to_dict(config)) == config


def test_an_unknown_key_lists_the_choices_at_every_depth() -> None:
    with pytest.raises(
        ConfigError, match="unknown key nam for Outer; choose from inner, loud, name"
    ):
        from_dict(Outer, {"nam": "a"})
    with pytest.raises(ConfigError, match=r"unknown key inner\.sizes .*maps, size"):
        from_dict(Outer, {"name": "a", "inner": {"sizes": 1}})
    with pytest.raises(ConfigError, match="missing key name"):
        from_dict(Outer, {})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": 3}, "name: a text is expected, not 3"),
        ({"name": None}, "name: a text is expected, not None"),
        ({"loud": 1}, "loud: true or false is expected, not 1"),
        ({"rate": "fast"}, "rate: a finite number is expected, not 'fast'"),
        ({"rate": True}, "rate: a finite number"),
        ({"rate": float("nan")}, "rate: a finite number is expected, not nan"),
        ({"rate": float("-inf")}, "rate: a finite number"),
        ({"rate": 10**400}, "rate: a finite number"),
        ({"inner": 3}, "inner: a table of settings"),
        ({"inner": {"size": 4.5}}, r"inner\.size: a whole number is expected, not 4\.5"),
        ({"inner": {"size": 2048.0}}, r"inner\.size: a whole number"),
        ({"inner": {"size": "x"}}, r"inner\.size: a whole number is expected, not 'x'"),
        ({"inner": {"size": True}}, r"inner\.size: a whole number"),
        ({"inner": {"maps": 3}}, r"inner\.maps: a list is expected, not 3"),
        ({"inner": {"maps": [3]}}, r"inner\.maps\.0: a list is expected"),
        ({"inner": {"maps": "ab"}}, r"inner\.maps: a list is expected"),
        ({"inner": {"maps": [[1, 2], [1, 2, 3]]}}, r"inner\.maps\.1: a list of 2 is expected"),
        ({"inner": {"maps": [[1, 2.5]]}}, r"inner\.maps\.0\.1: a whole number"),
        ({"name": "nobody"}, "Outer: nobody is no name"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        from_dict(Outer, {"name": "a", **values})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_whole_number_will_do_for_any_number() -> None:
    config = from_dict(Outer, {"name": "a", "rate": 3})
    assert isinstance(config.rate, float)
    assert config == Outer(name="a", rate=3.0)


def test_differences_are_named_with_dots() -> None:
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5, "d": 3}, "e": 0}
    assert differences(old, new) == ["b.c", "e"]


def test_choose_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="unknown size 'x'; choose from a, b"):
        choose("size", "x", {"b": 1, "a": 2})


def test_draws_belong_to_seed_and_item_alone() -> None:
    a, b = generator_draws(1, 2, 5, 4), generator_draws(1, 2, 5, 4)
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])
    for other in (generator_draws(2, 2, 5, 4), generator_draws(1, 3, 5, 4)):
        assert not np.array_equal(a[0], other[0])
    assert a[0].dtype == a[1].dtype == np.float32
    many = generator_draws(0, 0, 20_000, 20_000)
    assert abs(float(many[0].std()) - 1) < 0.03
    assert many[1].min() >= 0
    assert many[1].max() < 1


def test_an_item_is_named_by_content_and_draw() -> None:
    mel = np.zeros((128, 100), np.uint8)
    other = mel.copy()
    other[3, 4] = 1
    assert item_of(mel) == item_of(mel.copy())
    assert len({item_of(mel), item_of(mel, 1), item_of(other)}) == 3


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with contextlib.suppress(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_is_whole_or_absent_and_never_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("1")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(path):
        pass
    with contextlib.suppress(RuntimeError), atomic_folder(path, overwrite=True):
        raise RuntimeError
    assert (path / "x").read_text() == "1"
    with atomic_folder(path, overwrite=True) as temporary:
        (temporary / "y").write_text("2")
    assert [p.name for p in path.iterdir()] == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_place_under_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), atomic_file(tmp_path / "file" / "y"):
        pass


def test_sha256_of_a_known_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_the_commit_is_that_of_the_tree_which_has_this_very_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    ours, installed = tmp_path / "files.py", tmp_path / "venv" / "files.py"
    installed.parent.mkdir()
    for file in (ours, installed):
        file.write_text("x = 1\n")
    monkeypatch.setattr(runs, "__file__", str(ours))
    assert runs.commit() is None
    git("init", "--quiet")
    git("add", "files.py")
    git("commit", "--quiet", "-m", "first")
    assert runs.commit() == git("rev-parse", "--short=12", "HEAD")
    ours.write_text("x = 2\n")
    assert runs.commit() == git("rev-parse", "--short=12", "HEAD") + "+"
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert runs.commit() is None


def test_a_missing_extra_says_what_to_run() -> None:
    error = MissingExtraError("soundsight train", "train", "torch")
    assert "pip install 'soundsight[train]'" in str(error)
    assert error.exit_code == 2
