"""Layouts: small trees made as the datasets come; nothing here is decoded, the files are empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from soundsight.core.errors import DataError
from soundsight.data.sources.find import Clips, find_clips
from soundsight.data.sources.layouts import LAYOUTS, bracketed_id, stem_of

DOG, CAT, RAIL = "-0SQ2mV4YJg", "_x9YzAbC-12", "Yabcdefghij"


def tree(root: Path, *names: str) -> Path:
    for name in names:
        write(root, name, "")
    return root


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode("utf-8", "surrogateescape"))


def told(clips: Clips) -> dict[str, tuple[str, str | None, str | None]]:
    return {clip.key: (clip.group, clip.label, clip.split) for clip in clips.clips}


def reasons(clips: Clips) -> dict[str, str]:
    return dict(clips.skipped)


def refused(root: Path, layout: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        find_clips([str(root)], layout=layout)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- folder and classes --------------------------------------------------------------------------


def test_a_plain_folder_knows_no_label(tmp_path: Path) -> None:
    root = tree(tmp_path, f"train/dog/{DOG}_000010_000020.mp4")
    found = find_clips([str(root)])
    key = f"train/dog/{DOG}_000010_000020"
    assert told(found) == {f"{key}.mp4": (key, None, None)}
    assert found == find_clips([str(root)], layout="folder")


def test_class_folders_give_the_label_and_a_split_where_there_is_one(tmp_path: Path) -> None:
    expected = {
        f"train/playing drums/{DOG}_000010_000020.mp4": (DOG, "playing drums", "train"),
        f"validate/tap_dancing/{CAT}_000000_000010.mp4": (CAT, "tap_dancing", "val"),
        f"testing/laughing/more/{RAIL}_000005.mp4": (RAIL, "laughing", "test"),
        f"test/{RAIL}_000007_000017.mp4": (RAIL, None, "test"),
        "singing/my song.mp4": ("my song", "singing", None),
        f"singing/Title [{DOG}].webm": (DOG, "singing", None),
    }
    found = find_clips([str(tree(tmp_path, *expected, "at the root.mp4"))], layout="classes")
    assert told(found) == expected
    assert reasons(found) == {"at the root.mp4": "in no class folder"}
    assert found.layouts == ("classes",)


def test_a_class_named_train_is_no_split(tmp_path: Path) -> None:
    expected = {
        "dog/a.mp4": ("a", "dog", None),
        "train/b.mp4": ("b", "train", None),
        "train/c.mp4": ("c", "train", None),
    }
    assert told(find_clips([str(tree(tmp_path, *expected))], layout="classes")) == expected


# --- VEGAS ---------------------------------------------------------------------------------------


def test_vegas_takes_the_class_from_the_folder_and_the_id_from_its_row(tmp_path: Path) -> None:
    dogs, rail = "dog/videos/video_0000", "rail_transport/videos/video_00000"
    expected = {
        f"{dogs}0.mp4": (DOG, "dog", None),
        f"{dogs}2.mp4": (DOG, "dog", None),
        f"{dogs}3.mp4": (f"{dogs}3", "dog", None),
        f"{rail}.mp4": (rail, "rail_transport", None),
    }
    root = tree(tmp_path, *expected, "dog/audios/video_00000.wav", "dog/img/video_00000.jpg")
    rows = f"YTID,start_second,end_second\n{DOG},30,40\n{CAT},0,10\n{DOG},70,80\n"
    write(root, "dog/video_info.csv", rows)
    found = find_clips([str(root)])
    assert found.layouts == ("vegas",)
    assert told(found) == expected
    assert all(clip.start_s is None and clip.end_s is None for clip in found.clips)
    assert found.ignored == 3


def test_vegas_may_lie_deeper_or_flatter(tmp_path: Path) -> None:
    root = tree(tmp_path, "data/gun/videos/video_00000.mp4", "drum/video_00001.mp4", "x.mp4")
    found = find_clips([str(root)], layout="vegas")
    labels = {clip.key: clip.label for clip in found.clips}
    assert labels == {"data/gun/videos/video_00000.mp4": "gun", "drum/video_00001.mp4": "drum"}
    assert reasons(found) == {"x.mp4": "not named CLASS/videos/video_NUMBER"}


def test_a_foreign_table_in_a_vegas_class_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "dog/videos/video_00000.mp4")
    write(root, "dog/video_info.csv", "name,start\nx,1\n")
    assert f"{root}/dog/video_info.csv, line 1: no column YTID" in refused(root)
    write(root, "dog/video_info.csv", "start_second,YTID\n1\n")
    assert "video_info.csv, line 2: 2 fields expected, 1 found" in refused(root)


# --- VGGSound ------------------------------------------------------------------------------------

VGGSOUND = (
    f'{DOG},10,dog barking,train\n{DOG},170,"dog bow-wow, again",test\n'
    f"{CAT},0,cat meowing,test\n{RAIL},5,railroad car,train\n"
)


def test_vggsound_finds_each_clip_by_id_and_start(tmp_path: Path) -> None:
    expected = {
        f"video/{DOG}_000010.mp4": (DOG, "dog barking", "train"),
        f"video/{DOG}_000170.mp4": (DOG, "dog bow-wow, again", "test"),
        f"{CAT}_0_10000.mp4": (CAT, "cat meowing", "test"),
    }
    root = tree(tmp_path, *expected, f"video/{CAT}_000099.mp4", "video/other.mp4")
    write(root, "vggsound.csv", VGGSOUND)
    found = find_clips([str(root)])
    assert found.layouts == ("vggsound",)
    assert told(found) == expected
    assert all(clip.start_s is None for clip in found.clips)
    assert found.missing == 1
    assert reasons(found) == {
        f"video/{CAT}_000099.mp4": "no row in vggsound.csv",
        "video/other.mp4": "not named ID_START",
    }


def test_vggsound_finds_its_table_in_a_folder_when_asked(tmp_path: Path) -> None:
    root = tree(tmp_path, f"clips/{DOG}_000010.mp4")
    write(root, "annotations/vggsound.csv", VGGSOUND)
    assert find_clips([str(root)]).layouts == ("folder",)
    (clip,) = find_clips([str(root)], layout="vggsound").clips
    assert clip.label == "dog barking"
    write(root, "spare/vggsound.csv", VGGSOUND)
    message = refused(root, "vggsound")
    assert "has annotations/vggsound.csv and spare/vggsound.csv: keep one" in message


# --- AVE -----------------------------------------------------------------------------------------

AVE_HEADER = "Category&VideoID&Quality&StartTime&EndTime\n"


def ave(root: Path) -> Path:
    tree(root, f"AVE/{DOG}.mp4", f"AVE/{CAT}.mp4", f"AVE/{RAIL}.mp4", "AVE/stray.mp4")
    rows = {
        "trainSet.txt": [f"Bark&{DOG}&good&2&7", f"Male speech, man&{DOG}&good&0&10"],
        "valSet.txt": [f"Cat&{CAT}&good&0&10"],
        "testSet.txt": ["Bus&gone_______&good&1&3"],
    }
    for name, lines in rows.items():
        write(root, name, "".join(f"{line}\n" for line in lines))
    every = [line for lines in rows.values() for line in lines]
    every += [f"Train&{RAIL}&good&4&4", f"Shofar&{CAT}&good&0&10"]
    write(root, "Annotations.txt", AVE_HEADER + "\n".join(every))
    return root


def test_ave_takes_the_seconds_where_the_event_is_heard_and_seen(tmp_path: Path) -> None:
    found = find_clips([str(ave(tmp_path))])
    assert found.layouts == ("ave",)
    assert told(found) == {
        f"AVE/{DOG}.mp4#2-7": (DOG, "Bark", "train"),
        f"AVE/{DOG}.mp4#0-10": (DOG, "Male speech, man", "train"),
        f"AVE/{CAT}.mp4#0-10": (CAT, "Cat", "val"),
    }
    (bark,) = (clip for clip in found.clips if clip.label == "Bark")
    assert (bark.start_s, bark.end_s) == (2.0, 7.0)
    assert (found.missing, found.repeated) == (1, 1)
    assert reasons(found) == {
        f"AVE/{RAIL}.mp4": "Annotations.txt, line 6: the event lasts no time",
        "AVE/stray.mp4": "no row in Annotations.txt",
    }


def test_ave_without_its_sets_asks_for_no_split(tmp_path: Path) -> None:
    root = ave(tmp_path)
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).unlink()
    assert {clip.split for clip in find_clips([str(root)]).clips} == {None}


# --- AudioSet ------------------------------------------------------------------------------------

COMMENTS = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def audioset(root: Path) -> Path:
    rows = f'{DOG}, 30.000, 40.000, "/m/0bt9lr,/m/05tny_"\n{CAT}, 0.000, 10.000, "/m/01yrx"\n'
    write(root, "balanced_train_segments.csv", COMMENTS + rows)
    write(root, "eval_segments.csv", COMMENTS + f'{RAIL}, 21.500, 31.500, "/m/06d_3"\n')
    return root


def test_audioset_cuts_whole_videos_and_keeps_cut_ones(tmp_path: Path) -> None:
    root = audioset(tmp_path)
    dog = (DOG, "/m/0bt9lr", "train")
    expected = {
        f"v/{DOG}.mp4#30-40": dog,
        f"v/Y{DOG}.mp4": dog,
        f"v/{DOG}_30.mp4": dog,
        f"v/{DOG}_30000_40000.mp4": dog,
        f"v/{RAIL}_000021.mkv": (RAIL, "/m/06d_3", "test"),
    }
    unknown = {
        f"v/{DOG}_000050.mp4": "no row in the segments csv",
        "v/AAAAAAAAAAA.mp4": "no row in the segments csv",
        "v/b.mp4": "not named ID, YID, ID_START or ID_START_END",
    }
    tree(root, *(key.partition("#")[0] for key in expected), *unknown)
    found = find_clips([str(root)])
    assert found.layouts == ("audioset",)
    assert told(found) == expected
    assert found.missing == 1
    assert reasons(found) == unknown


def test_audioset_shows_names_where_it_has_them(tmp_path: Path) -> None:
    root = tree(audioset(tmp_path), f"{DOG}.mp4", f"{CAT}.mp4")
    names = 'index,mid,display_name\n74,/m/0bt9lr,"Dog"\n81,/m/01yrx,"Cat, tom"\n'
    write(root, "class_labels_indices.csv", names)
    labels = {clip.group: clip.label for clip in find_clips([str(root)]).clips}
    assert labels == {DOG: "Dog", CAT: "Cat, tom"}
    write(root, "class_labels_indices.csv", "index,mid\n")
    assert (
        "class_labels_indices.csv, line 1: 3 fields expected (index,mid,display_name)"
        in refused(root)
    )


def test_a_csv_of_audiosets_kind_is_found_when_asked(tmp_path: Path) -> None:
    root = tree(tmp_path, f"{DOG}.mp4")
    text = COMMENTS + f'{DOG}, 1.000, 3.000, "/m/x"\n{DOG}, 7.000, 9.000, "/m/y"\n'
    write(root, "csv/my choice.csv", text)
    write(root, "csv/other.csv", "a,b\n")
    found = find_clips([str(root)], layout="audioset")
    assert told(found) == {
        f"{DOG}.mp4#1-3": (DOG, "/m/x", None),
        f"{DOG}.mp4#7-9": (DOG, "/m/y", None),
    }
    assert "has no segments csv" in refused(tree(tmp_path / "none", "a.mp4"), "audioset")


@pytest.mark.parametrize(
    ("layout", "name", "text", "message"),
    [
        ("vggsound", "vggsound.csv", text, message)
        for text, message in (
            (f"{DOG},10,dog,train\n{CAT},10,cat\n", "line 2: 4 fields expected"),
            (f"{DOG},ten,dog,train\n", "line 1: start is 'ten', a number of seconds is expected"),
            (f"{DOG},10,dog,dev\n", "line 1: unknown split 'dev'"),
            ("id,start,label,split\n", "line 1: 'id' is no YouTube id: this is a foreign csv"),
            (f"{DOG},10,dog,train\n\n{DOG},10,cat,test\n", "line 3: repeats line 1"),
            (f'{DOG},10,"dog,train\n', "line 1: unexpected end of data"),
            (f"{DOG},1,a,test\n{CAT},1,caf\udce9,test\n", "line 2: no UTF-8 text: save it as"),
        )
    ]
    + [
        ("ave", name, text, message)
        for name, text, message in (
            ("Annotations.txt", "Category,VideoID\n", "line 1: the header must be Category&Video"),
            ("Annotations.txt", f"{AVE_HEADER}Cat&{CAT}&good&0\n", "line 2: 5 fields expected"),
            ("Annotations.txt", f"{AVE_HEADER}Cat&{CAT}&good&a&1\n", "line 2: StartTime is 'a'"),
            ("valSet.txt", f"Cat&{CAT}&good&0&10\nCat\n", "line 2: 5 fields expected"),
            ("valSet.txt", f"Cat&{CAT}&good&0&-1\n", "line 1: EndTime is '-1', it cannot be neg"),
        )
    ]
    + [
        ("auto", "eval_segments.csv", COMMENTS + row, message)
        for row, message in (
            (f"{DOG}, 30.000, 40.000, /m/a,/m/b\n", "line 4: 4 fields expected"),
            (f'{DOG}, x, 40.000, "/m/a"\n', "line 4: start_seconds is 'x'"),
            (f'{DOG}, 40.000, 40.000, "/m/a"\n', "line 4: end_seconds must be greater"),
            ('short, 30.000, 40.000, "/m/a"\n', "line 4: 'short' is no YouTube id"),
        )
    ],
)
def test_a_faulty_table_is_one_line(
    tmp_path: Path, layout: str, name: str, text: str, message: str
) -> None:
    root = ave(tmp_path) if layout == "ave" else tree(tmp_path, f"{DOG}_000010.mp4")
    write(root, name, text)
    assert refused(root, layout).startswith(f"{root}/{name}, {message}")


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["vggsound", "ave", "audioset"])
def test_a_layout_without_its_table_is_refused(tmp_path: Path, layout: str) -> None:
    message = refused(tree(tmp_path, f"{DOG}.mp4"), layout)
    assert message.startswith(f"{tmp_path} has no ")
    assert ": " in message


def test_two_datasets_in_one_folder_are_not_guessed_at(tmp_path: Path) -> None:
    root = ave(tmp_path)
    write(root, "vggsound.csv", VGGSOUND)
    assert "has the tables of vggsound and ave: choose one with --layout" in refused(root)
    assert find_clips([str(root)], layout="ave").layouts == ("ave",)


def test_a_layout_that_matches_nothing_says_what_it_saw(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.mp4")
    write(root, "vggsound.csv", VGGSOUND)
    assert "(4 rows without a video, 1 files passed over)" in refused(root)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in ave(tmp_path).rglob("*.*"):
        system.pipe(f"/bucket/{path.relative_to(tmp_path).as_posix()}", path.read_bytes())
    yield "memory://bucket"
    system.store.clear()


def test_a_layout_reads_a_bucket_like_a_disk(tmp_path: Path, bucket: str) -> None:
    here, there = find_clips([str(tmp_path)]), find_clips([bucket])
    assert told(there) == told(here)
    assert (there.layouts, there.missing, there.skipped) == (("ave",), 1, here.skipped)


def test_every_layout_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "layouts.md").read_text("utf-8")
    for name in LAYOUTS:
        assert f"\n## {name}" in text
        assert f"--layout {name} " in text


def test_the_id_of_a_downloaded_file() -> None:
    assert bracketed_id(f"A dog [{DOG}]") == DOG
    assert bracketed_id(f"two\nlines [x] [{CAT}]") == CAT
    for stem in (DOG, f"{DOG}_000010", f"[{DOG}]", "Rain [documentary]", "Sea [20261123001]"):
        assert bracketed_id(stem) is None


def test_a_stem_keeps_what_is_no_suffix() -> None:
    assert [stem_of(name) for name in ("a/b.c.mp4", "a.b/c", ".mp4")] == ["b.c", "c", ".mp4"]
