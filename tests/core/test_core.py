"""Units, configs, draws, atomic files, CPUs and the progress bar."""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from soundsight.core import cpus, progress, units
from soundsight.core import files as runs
from soundsight.core.config import choose, differences, from_dict, to_dict
from soundsight.core.draws import generator_draws, item_of
from soundsight.core.errors import ConfigError, MissingExtraError, OutputError
from soundsight.core.files import atomic_file, atomic_folder, sha256_of
from soundsight.core.progress import progress_bar


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
    noise, dropout = generator_draws(1, 2, 5, 4)
    assert noise.dtype == dropout.dtype == np.float32
    for seed, item, is_same in ((1, 2, True), (2, 2, False), (1, 3, False)):
        others = generator_draws(seed, item, 5, 4)
        assert np.array_equal(noise, others[0]) == np.array_equal(dropout, others[1]) == is_same
    noise, dropout = generator_draws(0, 0, 20_000, 20_000)
    assert abs(float(noise.std()) - 1) < 0.03
    assert 0 <= dropout.min() < dropout.max() < 1


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
    assert list(path.parent.iterdir()) == [path]


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
    assert list(tmp_path.iterdir()) == [path]


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
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    ours, installed = tmp_path / "files.py", tmp_path / "venv" / "files.py"
    installed.parent.mkdir()
    for file in (ours, installed):
        file.write_text("x = 1\n")
    monkeypatch.setattr(runs, "__file__", str(ours))
    assert runs.commit() is None
    git("init", "--quiet")
    git("add", "files.py")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "--short=12", "HEAD")
    assert runs.commit() == head
    ours.write_text("x = 2\n")
    assert runs.commit() == head + "+"
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert runs.commit() is None


def test_a_missing_extra_says_what_to_run() -> None:
    error = MissingExtraError("soundsight train", "train", "torch")
    assert "pip install 'soundsight[train]'" in str(error)
    assert error.exit_code == 2


# --- CPUs ----------------------------------------------------------------------------------------


def groups(root: Path, own: str, **limits: str) -> float:
    """The quota of a process in a made-up tree; ``a__b`` names the folder a/b."""
    (root / "own").write_text(own)
    for name, text in limits.items():
        folder, _, file = name.rpartition("__")
        path = root / "cgroup" / folder.replace("__", "/")
        path.mkdir(parents=True, exist_ok=True)
        (path / file.replace("_", ".", 1)).write_text(text)
    return cpus._quota(root / "cgroup", root / "own")


V1 = "4:cpu,cpuacct:/x\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {"cpu_max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 1.5),
        # The least of all groups above counts.
        ("0::/a/b\n", {"a__cpu_max": "200000 100000", "a__b__cpu_max": "max 100000"}, 2),
        # A path of the host that the container does not see.
        ("0::/docker/1234\n", {"cpu_max": "50000 100000"}, 0.5),
        # The older trees.
        (V1, {"cpu__x__cpu_cfs_quota_us": "300000", "cpu__x__cpu_cfs_period_us": "100000"}, 3),
        (V1, {"cpu__x__cpu_cfs_quota_us": "-1", "cpu__x__cpu_cfs_period_us": "100000"}, math.inf),
    ],
)
def test_quotas(tmp_path: Path, own: str, limits: dict[str, str], expected: float) -> None:
    assert groups(tmp_path, own, **limits) == expected


def test_what_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("1000 100000")
    assert groups(tmp_path, "0::/../..\n") == math.inf  # a path that leads out
    for text in ("", "nonsense", "1 2 3", "10 0"):
        assert groups(tmp_path, "0::/\n", cpu_max=text) == math.inf
    assert groups(tmp_path, "nonsense") == math.inf


def test_a_quota_is_rounded_up_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(os.sched_getaffinity(0))
    for quota, expected in ((0.2, 1), (1.5, min(2, count)), (math.inf, count)):
        monkeypatch.setattr(cpus, "_quota", lambda *_, quota=quota: quota)
        assert cpus.usable_cpus() == expected


# --- progress ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("unit", "words"),
    [("", "2 of 4"), ("bytes", "2 bytes of 4 bytes"), ("seconds", "0:00:02 of 0:00:04")],
)
def test_a_terminal_gets_a_bar(
    unit: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(unit) as show:
        show("listening", 1, 4, "a.wav")
        show("imagining", 2, 4, "b\n[red].wav")
    shown = screen.getvalue()
    assert "imagining" in shown
    assert words in shown
    assert "b?[red].wav" in shown
    assert "-:--:--" in shown
    assert capsys.readouterr().out == ""
    with progress_bar(unit, hidden=True) as show:
        show("hidden", 1, 2)
    assert "hidden" not in screen.getvalue()


def test_without_a_terminal_it_is_silent_or_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for log in (False, True):
        with progress_bar(log=log) as show:
            for done in range(5):
                show("videos", done, 4, "1 failed")
                now[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "videos: 2 of 4, 1 failed, 0:00:40 left", "videos: 4 of 4, 1 failed, 0:00:00 left",
    ]  # fmt: skip
