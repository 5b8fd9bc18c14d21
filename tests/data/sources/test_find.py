"""Sources: what a user may name, under which keys it comes out, and what is refused in one line."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from soundsight.core.errors import ConfigError, DataError
from soundsight.data.records import Clip
from soundsight.data.sources.find import VIDEO_SUFFIXES, Clips, find_clips


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def keys(clips: Clips) -> list[str]:
    return [clip.key for clip in clips.clips]


def reasons(clips: Clips) -> dict[str, str]:
    return dict(clips.skipped)


def by_key(clips: Clips) -> dict[str, Clip]:
    return {clip.key: clip for clip in clips.clips}


def refused(*sources: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        find_clips([str(source) for source in sources], **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


# --- folders ---------------------------------------------------------------------------------


def test_a_folder_is_read_to_its_depths_in_the_order_of_keys(tmp_path: Path) -> None:
    touch(tmp_path / "b.mp4", tmp_path / "a" / "z.MKV", tmp_path / "a" / "deep" / "x.webm")
    touch(tmp_path / "notes.txt", tmp_path / "a" / "cover.jpg", tmp_path / "video.dat")
    # Hidden files and folders are passed over, and not counted.
    touch(tmp_path / "._a.mp4", tmp_path / ".cache" / "b.mp4")
    found = find_clips([str(tmp_path)])
    assert keys(found) == ["a/deep/x.webm", "a/z.MKV", "b.mp4"]
    assert [clip.path for clip in found.clips] == [str(tmp_path / key) for key in keys(found)]
    assert [clip.group for clip in found.clips] == ["a/deep/x", "a/z", "b"]
    assert (found.ignored, found.repeated, found.missing) == (3, 0, 0)
    assert found.skipped == ()
    assert found.layouts == ("folder",)


def test_paths_do_not_depend_on_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "in" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    (clip,) = find_clips(["in"]).clips
    assert clip == find_clips([str(tmp_path / "in")]).clips[0]
    (clip,) = find_clips(["./in/a.mp4"]).clips
    assert (clip.path, clip.key) == (str(tmp_path / "in" / "a.mp4"), "a.mp4")


def test_what_only_bears_a_videos_name_is_never_opened(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "folder.mp4" / "b.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    found = find_clips([str(tmp_path)])
    assert keys(found) == ["a.mp4", "folder.mp4/b.mp4"]
    assert reasons(found) == {
        "pipe.mp4": "no regular file",
        "gone.mp4": "a broken link",
        "self.mp4": "a broken link",
    }
    assert found.ignored == 2


def test_links_are_followed_once(tmp_path: Path) -> None:
    source, other = tmp_path / "in", tmp_path / "other"
    touch(source / "z" / "real.mp4", other / "far.mp4")
    (source / "z" / "loop").symlink_to(source)
    (source / "a").symlink_to(source / "z")
    (source / "b.mp4").symlink_to(source / "z" / "real.mp4")
    (source / "linked").symlink_to(other)
    (source / "linked-again").symlink_to(other)
    found = find_clips([str(source)])
    # The real name wins, although the links' names come before it.
    assert keys(found) == ["linked/far.mp4", "z/real.mp4"]
    assert found.repeated == 1
    assert found.skipped == ()


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "locked" / "b.mp4")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_clips([str(tmp_path)])
    assert keys(found) == ["a.mp4"]
    assert reasons(found) == {"locked": "cannot be listed: Permission denied"}
    assert "Permission denied" in refused(tmp_path / "locked")


def test_the_output_inside_the_source_is_no_input(tmp_path: Path) -> None:
    out = tmp_path / "in" / "data"
    touch(tmp_path / "in" / "a.mp4", out / "dropped" / "b.mp4", tmp_path / "in" / "data2" / "c.mp4")
    (tmp_path / "in" / "link").symlink_to(out / "dropped")
    (tmp_path / "in" / "link.mp4").symlink_to(out / "dropped" / "b.mp4")
    found = find_clips([str(tmp_path / "in")], exclude=out)
    assert keys(found) == ["a.mp4", "data2/c.mp4"]
    assert keys(find_clips([f"{tmp_path}/in/**/*.mp4"], exclude=out)) == keys(found)
    (tmp_path / "in" / "list.txt").write_text("a.mp4\ndata/dropped/b.mp4\n")
    listed = find_clips([str(tmp_path / "in" / "list.txt")], exclude=out)
    assert keys(listed) == ["a.mp4"]
    assert reasons(listed) == {"data/dropped/b.mp4": "lies in the output folder"}
    for source in (out, out / "dropped", out / "dropped" / "b.mp4"):
        assert "lies in the output folder" in refused(source, exclude=out)


@pytest.mark.parametrize(
    "name",
    ["line\nbreak.mp4", "🎬 film.mp4", "#1 - 2.mp4", " lead.mp4", os.fsdecode(b"caf\xe9.mp4")],
)
def test_any_name_is_carried_through(tmp_path: Path, name: str) -> None:
    try:
        touch(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (clip,) = find_clips([str(tmp_path)], exclude=tmp_path / "data").clips
    assert clip.key == name
    assert len(clip.id) == 16
    assert Path(clip.path).samefile(tmp_path / name)
    if "\n" not in name:
        (tmp_path / "list.txt").write_bytes(b"./" + os.fsencode(name) + b"\n")
        (listed,) = find_clips([str(tmp_path / "list.txt")]).clips
        assert listed.key == name


def test_clips_of_one_downloaded_video_share_a_group(tmp_path: Path) -> None:
    names = ["Dog [dQw4w9WgXcQ].mp4", "d/Dog, again [dQw4w9WgXcQ].webm", "Rain [documentary].mp4"]
    touch(*(tmp_path / name for name in names), tmp_path / "dQw4w9WgXcQ_000010.mp4")
    groups = {clip.key: clip.group for clip in find_clips([str(tmp_path)]).clips}
    assert groups[names[0]] == groups[names[1]] == "dQw4w9WgXcQ"
    assert groups[names[2]] == "Rain [documentary]"
    assert groups["dQw4w9WgXcQ_000010.mp4"] == "dQw4w9WgXcQ_000010"


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt", tmp_path / "b.dat")
    message = refused(tmp_path)
    assert f"no video in {tmp_path}: 2 files" in message
    assert all(f".{suffix}" in message for suffix in VIDEO_SUFFIXES)


def test_what_is_missing_or_strange_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "no") == f"no such source: {tmp_path / 'no'}"
    assert "no source" in refused("")
    assert "null" in refused("a\0b")
    assert "File name too long" in refused("a" * 300)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "is no regular file" in refused(tmp_path / "pipe.mp4")
    assert "no source" in refused()
    with pytest.raises(ConfigError, match="unknown layout 'nonsense'; choose from audioset, auto"):
        find_clips([str(tmp_path)], layout="nonsense")


# --- several sources ---------------------------------------------------------------------------


def test_keys_of_several_sources_start_with_their_names(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "clips" / "a.mp4", tmp_path / "y" / "clips" / "a.mp4")
    touch(tmp_path / "one" / "a.mp4", tmp_path / "two" / "a.mp4", tmp_path / "two" / "b.mp4")
    (tmp_path / "more.txt").write_text("y/clips/a.mp4\none/a.mp4\n")
    sources = ["x/clips", "y/clips/", "one/a.mp4", "two/a.mp4", "two/*.mp4", "more.txt"]
    found = find_clips([str(tmp_path / source) for source in sources])
    assert keys(found) == ["a-2.mp4", "a.mp4", "clips-2/a.mp4", "clips/a.mp4", "two/b.mp4"]
    assert {clip.key: clip.group for clip in found.clips}["a-2.mp4"] == "a-2"
    assert found.repeated == 3
    assert len({clip.id for clip in found.clips}) == 5


def test_a_whole_file_and_its_parts_share_a_group(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4")
    (tmp_path / "m.csv").write_text("path,start_s,end_s,group\nin/a.mp4,0,2,\nin/b.mp4,0,2,tape\n")
    found = by_key(find_clips([str(tmp_path / "in"), str(tmp_path / "m.csv")]))
    assert found["in/a.mp4"].group == found["m/in/a.mp4#0-2"].group == "in/a"
    assert found["in/b.mp4"].group == found["m/in/b.mp4#0-2"].group == "tape"


def test_each_source_must_hold_something(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "a.mp4")
    (tmp_path / "b").mkdir()
    assert f"no video in {tmp_path / 'b'}" in refused(tmp_path / "a", tmp_path / "b")


# --- single files and lists ----------------------------------------------------------------------


def test_a_named_file_counts_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "film.dat", tmp_path / "no suffix")
    found = find_clips([str(tmp_path / "film.dat"), str(tmp_path / "no suffix")])
    assert keys(found) == ["film.dat", "no suffix"]
    assert "needs a folder" in refused(tmp_path / "film.dat", layout="ave")


def test_a_list_names_files_relative_to_its_folder(tmp_path: Path) -> None:
    folder, far = tmp_path / "lists", tmp_path / "elsewhere"
    names = ["my film.mp4", "🎬.mp4", "#hash.mp4", "x\u2028y.mp4"]
    touch(*(folder / name for name in names), tmp_path / "up.mp4")
    touch(far / "p" / "a.mp4", far / "q" / "b.mp4", folder / "real.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "l.mp4").symlink_to("real.mp4")
    text = (
        "# a comment\n\nmy film.mp4\r\n🎬.mp4  \n./#hash.mp4\nx\u2028y.mp4\n../up.mp4\n"
        f"{far}/p/a.mp4\n{far}/q/b.mp4\n{folder}/real.mp4\nl.mp4\nmissing.mp4\nfolder.mp4\n"
    )
    (folder / "list.lst").write_text(text, "utf-8")
    found = find_clips([str(folder / "list.lst")])
    assert keys(found) == sorted([*names, "up.mp4", "p/a.mp4", "q/b.mp4", "l.mp4"])
    assert all(os.path.isfile(clip.path) for clip in found.clips)
    assert found.repeated == 1
    assert reasons(found) == {
        "missing.mp4": "no such file",
        "folder.mp4": "a folder, not a video",
    }


def test_names_that_would_collide_in_a_list_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "a.mp4", tmp_path / "lists" / "x" / "a.mp4")
    (tmp_path / "lists" / "l.txt").write_text("x/a.mp4\n../x/a.mp4\n")
    found = find_clips([str(tmp_path / "lists" / "l.txt")])
    assert keys(found) == ["x/a-2.mp4", "x/a.mp4"]
    assert [clip.group for clip in found.clips] == ["x/a-2", "x/a"]


def test_a_list_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("# nothing\n")
    assert "nothing is named" in refused(path)
    path.write_text("gone.mp4\n")
    assert "'gone.mp4': no such file" in refused(path)
    path.write_bytes(b"a.mp4\n\0\0")
    assert refused(path) == f"{path}, line 2: no UTF-8 text: save it as UTF-8"


# --- manifests -----------------------------------------------------------------------------------


def test_a_manifest_gives_parts_labels_and_groups(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "m.csv").write_bytes(
        b"\xef\xbb\xbfpath,start_s,end_s,label,split,group,licence\r\n"
        b"a.mp4,3,13.5,dog,train,,CC0\r\n"
        b"a.mp4,20.125,,,,,\r\n"
        b"a.mp4,,0.1,,,,\r\n\r\n"
        b'b.mp4,,,"cat, ""tom""",val,tape 7,\r\n'
        b"b.mp4,1000.0001,,,,,\r\nb.mp4,1000.00011,,,,,\r\n"
    )
    found = by_key(find_clips([str(tmp_path / "m.csv")]))
    assert list(found) == [
        "a.mp4#-0.1", "a.mp4#20.125-", "a.mp4#3-13.5", "b.mp4", "b.mp4#1000.0001-",
        "b.mp4#1000.00011-",
    ]  # fmt: skip
    clip = found["a.mp4#3-13.5"]
    assert (clip.start_s, clip.end_s, clip.label, clip.split) == (3.0, 13.5, "dog", "train")
    assert (clip.licence, clip.group, clip.path) == ("CC0", "a", str(tmp_path / "a.mp4"))
    assert (found["b.mp4"].label, found["b.mp4"].group) == ('cat, "tom"', "tape 7")
    assert found["a.mp4#20.125-"].label is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("name\na.mp4", "line 1: no column path"),
        ("path,start\na.mp4,1", "line 1: unknown column 'start'; choose from path, start_s"),
        ("path,label,label\na.mp4,x,y", "line 1: the column label stands there twice"),
        ("", "is empty: a header with at least path is expected"),
        ("path,start_s\na.mp4,soon", "line 2: start_s is 'soon', a number of seconds"),
        ("path,start_s\na.mp4,nan", "line 2: start_s is 'nan', a number of seconds"),
        ("path,start_s\na.mp4,1e999", "line 2: start_s is '1e999', a number of seconds"),
        ("path,end_s\na.mp4,-1", "line 2: end_s is '-1', it cannot be negative"),
        ("path,start_s,end_s\na.mp4,3,3", "line 2: end_s must be greater than start_s"),
        ("path,end_s\na.mp4,0", "line 2: end_s must be greater than start_s"),
        ("path,split\n\na.mp4,dev", "line 3: unknown split 'dev'; choose from train, val, test"),
        ("path,split\n,train", "line 2: path is blank"),
        ("path,split\na.mp4", "line 2: 2 fields expected, 1 found"),
        ("path,start_s\na.mp4,0\nb.mp4,\na.mp4,", "line 4: the same path and times as line 2"),
        ('path,label\n"a.mp4,x', "line 2: unexpected end of data"),
        ('path,label\na.mp4,"x\ny"\na.mp4,"x', "line 4: unexpected end of data"),
    ],
)
def test_a_mistake_in_a_manifest_is_one_line_with_its_number(
    tmp_path: Path, rows: str, message: str
) -> None:
    touch(tmp_path / "a.mp4")
    path = tmp_path / "m.csv"
    path.write_text(rows)
    assert refused(path).startswith(f"{path}, {message}" if rows else f"{path} {message}")


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes("path,label\na.mp4,café\n".encode("latin-1"))
    assert refused(path) == f"{path}, line 2: label is no UTF-8 text: save it as UTF-8"
    path.write_bytes("path\na.mp4\n".encode("utf-16"))
    assert refused(path) == f"{path}, line 1: no UTF-8 text: save it as UTF-8"


def test_a_parquet_manifest_reads_like_a_csv(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    table = {"path": ["a.mp4", "b.mp4"], "start_s": [3, None], "end_s": [13.5, 2.0]}
    parquet.write_table(arrow.table({**table, "label": ["dog", None]}), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("path,start_s,end_s,label\na.mp4,3,13.5,dog\nb.mp4,,2,\n")
    found = find_clips([str(tmp_path / "m.parquet")])
    assert found == find_clips([str(tmp_path / "m.csv")])
    assert keys(found) == ["a.mp4#3-13.5", "b.mp4#-2"]


def test_a_mistake_in_a_parquet_manifest_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(b"path\na.mp4\n")
    assert refused(path).startswith(f"{path} is no readable Parquet file")
    parquet.write_table(arrow.table({"path": ["a.mp4", "b.mp4"], "label": ["x", "y"]}), path)
    assert "'a.mp4': no such file" in refused(path)
    parquet.write_table(arrow.table({"path": ["a.mp4", "b"], "split": ["val", "dev"]}), path)
    assert f"{path}, row 2: unknown split 'dev'" in refused(path)
    parquet.write_table(arrow.table({"path": [1, 2]}), path)
    assert f"{path}, row 1: path is '1', a text is expected" in refused(path)
    parquet.write_table(arrow.table({"file": ["a.mp4"]}), path)
    assert f"{path}: no column path" in refused(path)


# --- globs and URLs ------------------------------------------------------------------------------


def test_a_glob_is_matched_component_by_component(tmp_path: Path) -> None:
    touch(tmp_path / "c" / "a.mp4", tmp_path / "c" / "x" / "b.mp4", tmp_path / "c" / "x" / "b.dat")
    touch(tmp_path / "c" / "x" / "y" / "d.mp4", tmp_path / "c" / "e.mkv", tmp_path / "c" / "n.md")
    (tmp_path / "c" / "x" / "loop").symlink_to(tmp_path / "c")
    os.mkfifo(tmp_path / "c" / "x" / "pipe.mp4")

    def matched(pattern: str) -> list[str]:
        return keys(find_clips([f"{tmp_path}/{pattern}"]))

    assert matched("c/*.mp4") == ["a.mp4"]
    assert matched("c/*") == ["a.mp4", "e.mkv"]
    assert matched("c/*/*.mp4") == ["x/b.mp4"]
    assert matched("c/**/*.mp4") == ["a.mp4", "x/b.mp4", "x/y/d.mp4"]
    assert matched("c/**") == ["a.mp4", "e.mkv", "x/b.mp4", "x/y/d.mp4"]
    assert matched("c/**/[bd].mp?") == ["x/b.mp4", "x/y/d.mp4"]
    assert matched("*/x/**/d.*") == ["c/x/y/d.mp4"]
    assert matched("c/x/*.dat") == ["b.dat"]
    assert reasons(find_clips([f"{tmp_path}/c/x/*.mp4"])) == {"pipe.mp4": "no regular file"}
    assert reasons(find_clips([f"{tmp_path}/c/x/b*"])) == {}
    assert f"no video in {tmp_path}/c/*.webm: nothing matches" in refused(f"{tmp_path}/c/*.webm")
    assert f"no such folder: {tmp_path}/no" in refused(f"{tmp_path}/no/*.mp4")


def test_a_name_with_brackets_is_no_glob_where_it_exists(tmp_path: Path) -> None:
    touch(tmp_path / "set [1]" / "a [dQw4w9WgXcQ].mp4")
    assert keys(find_clips([str(tmp_path / "set [1]")])) == ["a [dQw4w9WgXcQ].mp4"]
    assert keys(find_clips([f"{tmp_path}/set [1]/*.mp4"])) == ["a [dQw4w9WgXcQ].mp4"]


def test_a_file_url_is_the_path_it_names(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.mp4")
    found = find_clips([f"file://{tmp_path}/in", str(tmp_path / "in")])
    assert [clip.path for clip in found.clips] == [str(tmp_path / "in" / "a.mp4")]
    assert found.repeated == 1
    assert find_clips([f"file://{tmp_path}/in/*.mp4"]).clips[0].path == found.clips[0].path


def test_folders_globs_and_files_on_another_file_system(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("a.mp4", "x/b.mp4", "x/y/c.MKV", "x/notes.txt", ".hidden/d.mp4"):
        memory.pipe(f"/set/{name}", name.encode())
    found = find_clips(["memory://set"])
    assert keys(found) == ["a.mp4", "x/b.mp4", "x/y/c.MKV"]
    assert found.ignored == 1
    for clip in found.clips:
        with fsspec.open(clip.path) as file:
            assert file.read() == clip.key.encode()
    assert found.clips[0].path == "memory://set/a.mp4"
    assert keys(find_clips(["memory://set/**/*.mp4"])) == ["a.mp4", "x/b.mp4"]
    assert keys(find_clips(["memory://set/x/*"])) == ["b.mp4"]
    both = find_clips(["memory://set", "memory://set/x/b.mp4"])
    assert keys(both) == [f"set/{key}" for key in keys(found)]
    assert both.repeated == 1
    assert refused("memory://nowhere") == "no such source: memory://nowhere"
    assert "nothing matches" in refused("memory://set/*.webm")
    assert "nonsense" in refused("nonsense://bucket/a.mp4")


def test_lists_and_manifests_on_another_file_system(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("a.mp4", "sub/b.mp4"):
        memory.pipe(f"/set/{name}", name.encode())
    memory.pipe("/set/sub/m.csv", b"path,start_s\nb.mp4,\n../a.mp4,2\nmemory://set/a.mp4,4\n")
    memory.pipe("/set/list.txt", b"sub/b.mp4\n")
    found = find_clips(["memory://set/sub/m.csv"])
    assert [(clip.key, clip.path) for clip in found.clips] == [
        ("a.mp4#2-", "memory://set/a.mp4"),
        ("b.mp4", "memory://set/sub/b.mp4"),
        ("set/a.mp4#4-", "memory://set/a.mp4"),
    ]
    assert [clip.group for clip in found.clips] == ["a", "b", "a"]
    assert keys(find_clips(["memory://set/list.txt"])) == ["sub/b.mp4"]
    memory.pipe("/set/m.csv", b"path,label\n,x\n")
    assert "m.csv, line 2: path is blank" in refused("memory://set/m.csv")


def test_videos_inside_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("a.mp4", "x/b.mp4", "x/readme.md"):
            file.writestr(name, name)
    found = find_clips([f"zip://*.mp4::{archive}"])
    assert [(clip.key, clip.path) for clip in found.clips] == [("a.mp4", f"zip://a.mp4::{archive}")]
    whole = find_clips([f"zip://::{archive}"])
    assert keys(whole) == ["a.mp4", "x/b.mp4"]
    for clip in whole.clips:
        with fsspec.open(clip.path) as stream:
            assert stream.read() == clip.key.encode()
    assert keys(find_clips([f"zip://x/*::{archive}", f"zip://*.mp4::{archive}"])) == [
        "films/a.mp4",
        "x/b.mp4",
    ]
    assert "cannot be read" in refused(f"zip://*.mp4::{tmp_path / 'no.zip'}")


def test_a_list_may_name_urls(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/set/a.mp4", b"a")
    touch(tmp_path / "b.mp4")
    (tmp_path / "l.txt").write_text("memory://set/a.mp4\nb.mp4\n")
    assert keys(find_clips([str(tmp_path / "l.txt")])) == ["b.mp4", "set/a.mp4"]
