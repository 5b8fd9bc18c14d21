"""Files and folders that are whole or absent, wherever the program or the machine stops."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from soundsight.core import files as runs
from soundsight.core.files import atomic_file, atomic_folder

OLD, NEW = {"model": "old", "only-old": "old"}, {"model": "new", "sub/only-new": "new"}
CALLS = [(os, name) for name in ("rename", "replace", "fsync", "unlink", "rmdir")]
CALLS += [(runs, "_exchange")]
STOPPED = 9


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def replace(path: Path) -> None:
    with atomic_folder(path, overwrite=True) as temporary:
        write(temporary, NEW)


def rewrite(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("new")


def no_exchange(*_: Path) -> bool:
    return False


def stop_after(calls: int, stop: Callable[[], None]) -> None:
    """Stop after so many of the calls that change what stands on the disk; 0 is at once."""
    left = calls

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            nonlocal left
            done = call(*args, **kwargs)
            left -= 1
            if left == 0:
                stop()
            return done

        return run

    for place, name in CALLS:
        setattr(place, name, counted(getattr(place, name)))


def wherever_the_machine_stops(change: Callable[[Path], None], places: Path) -> list[int]:
    """Change ``places``/1, 2, ... in processes that are gone after 1, 2, ... calls.

    Returns:
        How each of them ended, up to the first that came to its own end.
    """
    codes: list[int] = []
    while not codes or codes[-1]:

        def work(calls: int = len(codes) + 1) -> None:
            stop_after(calls, lambda: os._exit(STOPPED))
            change(places / str(calls) / "model")

        codes.append(end_of(work))
    return codes


def end_of(work: Callable[[], None]) -> int:
    """How a process ends that does this and no more."""
    with warnings.catch_warnings():
        # Other threads of the tests hold nothing that writing files needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_a_folder_is_old_or_new_wherever_the_machine_stops(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(runs, "_exchange", no_exchange)
    places = [tmp_path / str(calls) / "model" for calls in range(1, 30)]
    for path in places:
        write(path, OLD)
    codes = wherever_the_machine_stops(replace, tmp_path)
    assert codes == [STOPPED] * (len(codes) - 1) + [0]
    # Two files, two folders, the change of names and the folder around are the least.
    assert len(codes) > 6
    seen = []
    for path in places[: len(codes)]:
        if exchange:
            assert content(path) in (OLD, NEW)
        # The next call for the same path finds one of them, whatever becomes of that call.
        with contextlib.suppress(RuntimeError), atomic_folder(path, overwrite=True):
            seen.append(content(path))
            raise RuntimeError
        assert content(path) == seen[-1]
        # Nothing that was half-written or replaced is left.
        assert [place.name for place in path.parent.iterdir()] == ["model"]
    first_new = seen.index(NEW)
    assert seen == [OLD] * first_new + [NEW] * (len(codes) - first_new)
    assert 0 < first_new < len(codes) - 1


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_an_interrupt_leaves_the_old_or_the_new_folder_and_nothing_else(
    tmp_path: Path, exchange: bool
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    calls, seen, ends = 0, [], False
    while not ends:
        calls += 1
        path = tmp_path / str(calls) / "model"
        write(path, OLD)
        with pytest.MonkeyPatch.context() as patch:
            for place, name in CALLS:
                patch.setattr(place, name, getattr(place, name))  # put back at the end
            if not exchange:
                runs._exchange = no_exchange
            stop_after(calls, interrupt)
            try:
                replace(path)
                ends = True
            except KeyboardInterrupt:
                pass
        seen.append(content(path))
        assert seen[-1] in (OLD, NEW)
        hidden = [p.name for p in path.parent.iterdir() if p != path]
        # An interrupt of the very removal of the old folder is all that may leave something.
        assert not hidden or seen[-1] == NEW
        replace(path)
        assert [p.name for p in path.parent.iterdir()] == ["model"]
    assert OLD in seen
    assert NEW in seen


def stopped_half_way(path: Path) -> None:
    """Leave what a stop leaves between the two renames, where names cannot be exchanged."""
    write(path, OLD)
    rename = os.rename

    def stepped_aside(a: Path, b: Path) -> None:
        rename(a, b)
        if a == path:
            os._exit(STOPPED)

    def work() -> None:
        runs._exchange = no_exchange
        os.rename = stepped_aside  # type: ignore[assignment]
        replace(path)

    assert end_of(work) == STOPPED
    assert not os.path.lexists(path)


def hidden_content(folder: Path) -> list[dict[str, str]]:
    return [content(place) for place in folder.glob(".*")]


def test_an_empty_folder_does_not_cost_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    stopped_half_way(path)
    path.mkdir()
    with pytest.raises(runs.OutputError, match="exists already"), atomic_folder(path):
        pass
    assert content(path) == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_stands_in_the_place_of_the_old_folder_does_not_cost_it(tmp_path: Path) -> None:
    path, other = tmp_path / "model", {"something": "else"}
    stopped_half_way(path)
    write(path, other)
    with pytest.raises(runs.OutputError, match="exists already"), atomic_folder(path):
        pass
    with (
        pytest.raises(runs.OutputError, match="is kept"),
        atomic_folder(path, overwrite=True, ours=lambda _: False),
    ):
        pass
    with contextlib.suppress(RuntimeError), atomic_folder(path, overwrite=True):
        raise RuntimeError
    assert content(path) == other
    assert OLD in hidden_content(tmp_path)
    # It comes back as soon as there is room for it.
    kept = tmp_path / "elsewhere"
    path.rename(kept)
    with pytest.raises(runs.OutputError, match="exists already"), atomic_folder(path):
        pass
    assert content(path) == OLD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "model"]
    # Where it is replaced as was asked, nothing of before is left.
    path.rename(tmp_path / "before")
    stopped_half_way(path)
    write(path, other)
    replace(path)
    assert content(path) == NEW
    assert hidden_content(tmp_path) == []


def test_a_folder_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path, overwrite=True) as slow:
        write(slow, {"slow": "1"})
        replace(path)
        assert content(path) == NEW
        assert content(slow) == {"slow": "1"}
    assert content(path) == {"slow": "1"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_waits_for_one_folder_is_not_another_s(tmp_path: Path) -> None:
    names = ["model", "model.abcdefgh", "m*", "x" * 255]
    for name in names:
        stopped_half_way(tmp_path / name)
    for count, name in enumerate(names, 1):
        with contextlib.suppress(RuntimeError), atomic_folder(tmp_path / name, overwrite=True):
            raise RuntimeError
        assert content(tmp_path / name) == OLD
        assert len(hidden_content(tmp_path)) == 2 * (len(names) - count)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", none)
    path = tmp_path / "model"
    stopped_half_way(path)
    replace(path)
    assert content(path) == NEW
    with contextlib.suppress(RuntimeError), atomic_folder(path, overwrite=True):
        raise RuntimeError
    # What may still be written is not removed.
    assert hidden_content(tmp_path) == [NEW]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    happened: list[tuple[str, object]] = []
    sync, rename, over = os.fsync, os.rename, os.replace

    def fsync(handle: int) -> None:
        happened.append(("sync", os.fstat(handle).st_ino))
        sync(handle)

    def named(call: Callable[[Path, Path], None], a: Path, b: Path) -> None:
        happened.append(("rename", b))
        call(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", partial(named, rename))
    monkeypatch.setattr(os, "replace", partial(named, over))
    (replace if kind == "folder" else rewrite)(path)
    at = happened.index(("rename", path))
    before = {inode for what, inode in happened[:at] if what == "sync"}
    assert {p.stat().st_ino for p in [path, *path.rglob("*")]} <= before
    assert ("sync", tmp_path.stat().st_ino) in happened[at:]


def test_a_file_is_old_or_new_wherever_the_machine_stops(tmp_path: Path) -> None:
    places = [tmp_path / str(calls) / "model" for calls in range(1, 5)]
    for path in places:
        path.parent.mkdir()
        path.write_text("old")
    codes = wherever_the_machine_stops(rewrite, tmp_path)
    # Its content is synced, it gets its name, the folder is synced; no fourth call comes.
    assert codes == [STOPPED] * 3 + [0]
    assert [path.read_text() for path in places] == ["old", "new", "new", "new"]


def test_names_are_exchanged_in_one_step_where_the_system_can(tmp_path: Path) -> None:
    write(tmp_path / "a", OLD)
    write(tmp_path / "b", NEW)
    if not runs._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system does not exchange names")
    assert (content(tmp_path / "a"), content(tmp_path / "b")) == (NEW, OLD)


def test_a_system_that_does_not_sync_folders_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    replace(tmp_path / "model")
    rewrite(tmp_path / "file")
    assert content(tmp_path / "model") == NEW
    assert (tmp_path / "file").read_text() == "new"


def test_a_disk_that_fails_is_an_error_and_the_old_content_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "file").write_text("old")
    write(tmp_path / "model", OLD)
    monkeypatch.setattr(os, "fsync", fsync)
    for change, path in ((rewrite, tmp_path / "file"), (replace, tmp_path / "model")):
        with pytest.raises(runs.OutputError, match="Input/output error"):
            change(path)
    assert (tmp_path / "file").read_text() == "old"
    assert content(tmp_path / "model") == OLD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model"]


def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    write(tmp_path / "target", OLD)
    (tmp_path / "model").symlink_to(tmp_path / "target")
    replace(tmp_path / "model")
    assert not (tmp_path / "model").is_symlink()
    assert content(tmp_path / "model") == NEW
    assert content(tmp_path / "target") == OLD
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "target"]


def test_what_appears_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace(tmp_path / "model")
        rewrite(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
