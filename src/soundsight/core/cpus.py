"""How many CPUs this process may use, which is seldom how many the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return the CPUs that this process may run on, or its container's quota if that is less.

    A quota of one and a half is two: threads may wait, a CPU that idles is lost.
    """
    count = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(count, _quota(_CGROUPS, _OWN))))


def _quota(root: Path, own: Path) -> float:
    """CPUs that the control groups above a process grant; infinity without a limit."""
    limits = [math.inf]
    try:
        for line in own.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            # Version 2 has one tree, "0::/path"; version 1 one for each resource.
            if controllers and "cpu" not in controllers.split(","):
                continue
            tree = root / "cpu" if controllers else root
            # In a container the path may be the host's, of which the container sees its own end.
            group = Path(os.path.normpath(f"{tree}/{path}"))
            folders = (group, *group.parents)
            limits += [_limit(folder) for folder in folders if folder.is_relative_to(tree)]
    except (OSError, ValueError):
        return math.inf
    return min(limits)


def _limit(folder: Path) -> float:
    """CPUs that one control group grants; infinity where it sets no limit or cannot be read."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text("ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period")
            )
        return math.inf if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
