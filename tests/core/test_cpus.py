"""How many CPUs a process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from soundsight.core import cpus


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


def test_a_path_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("1000 100000")
    assert groups(tmp_path, "0::/../..\n") == math.inf


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3", "10 0"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    assert groups(tmp_path, "0::/\n", cpu_max=text) == math.inf
    assert groups(tmp_path, "nonsense") == math.inf


def test_a_quota_is_rounded_up_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for quota, count in ((0.2, 1), (1.5, min(2, cpus.usable_cpus())), (math.inf, None)):
        with monkeypatch.context() as patch:
            patch.setattr(cpus, "_quota", lambda *_, quota=quota: quota)
            if count is None:
                assert cpus.usable_cpus() == len(os.sched_getaffinity(0))
            else:
                assert cpus.usable_cpus() == count
