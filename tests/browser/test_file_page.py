"""The file page and the saved page as a person meets them, in real Chromium."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.sounds import write_tones

from soundsight.media import audio

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=60_000)

RATE = 44_100

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Full Chromium without a window."""
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(
            executable_path=chromium,
            args=["--autoplay-policy=no-user-gesture-required", "--no-sandbox"],
        )
        yield made
        made.close()


@pytest.fixture(scope="module")
def server(serving: Any, tiny_model: Path) -> Iterator[str]:
    """The address of a server, with a slash at its end."""
    with serving("--model", tiny_model) as (address, _):
        yield address


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The file page; any error in its console is a fault."""
    with opened(browser, f"{server}file") as made:
        yield made


@contextlib.contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    faults: list[str] = []
    made = browser.new_page(**options)
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("console", lambda said: said.type == "error" and faults.append(said.text))
    made.goto(address)
    yield made
    made.close()
    # A refused request is told in the console, too, whatever the page makes of it.
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    """Sound from 1 to 3 s and from 11 to 12 s."""
    return write_tones(tmp_path / "dog.wav", (1, 0), (2, 1), (8, 0), (1, 1), (1, 0))


@pytest.fixture(scope="module")
def long_sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half an hour: telling it takes seconds."""
    return write_tones(tmp_path_factory.mktemp("long") / "long.flac", (1800, 0.1), rate_hz=8000)


def region(page: Any, name: str) -> Any:
    """The section of a file."""
    return page.get_by_role("region", name=name, exact=True)


def button(place: Any, name: str) -> Any:
    return place.get_by_role("button", name=name, exact=True)


def choose(page: Any, *files: Path) -> None:
    page.get_by_label("Choose files").set_input_files([str(file) for file in files])


def told(page: Any, file: Path) -> Any:
    """The section of a file, once its storyboard is done."""
    section = region(page, file.name)
    button(section, "Sheet (PNG)").wait_for(timeout=60_000)
    return section


def told_of(page: Any, file: Path) -> Any:
    """Choose a file and wait for its storyboard."""
    choose(page, file)
    return told(page, file)


def says(section: Any, words: str) -> None:
    """What is said of the present time."""
    expect(section.locator(".board-title")).to_have_text(words)


def until(page: Any, expression: str) -> None:
    """Wait until it holds. The page's policy forbids what Playwright would wait with."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def slider(section: Any) -> Any:
    return section.get_by_role("slider", name="Position in the sound")


# --- a sound is told and played --------------------------------------------------------------


def test_a_sound_is_told(page: Any, dog: Path) -> None:
    section = told_of(page, dog)
    expect(section.locator(".file-state")).to_have_text("0:13.0, 2 events")
    expect(section.locator(".board-card")).to_have_count(2)
    says(section, "quiet")
    expect(section.locator(".board-picture img")).to_be_hidden()
    section.locator(".board-card").first.click()
    says(section, "a familiar sound")
    image = section.get_by_role("img", name="Imagined picture: a familiar sound")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") == 96
    expect(section.locator(".board-picture figcaption")).to_have_text("imagined")
    expect(section.locator(".board-when")).to_have_text("0:01.0 – 0:03.0")  # noqa: RUF001
    expect(section.locator(".board-card").first).to_have_attribute("aria-current", "true")


def test_the_time_line_is_moved_by_keys_and_by_pointer(page: Any, dog: Path) -> None:
    section = told_of(page, dog)
    line = slider(section)
    line.focus()
    steps = (
        ("ArrowRight", 1.0), ("ArrowRight", 2.0), ("ArrowLeft", 1.0), ("Shift+ArrowRight", 11.0),
        ("End", 13.0), ("Home", 0.0), ("n", 1.0), ("n", 11.0), ("p", 1.0), ("PageUp", 2.3),
    )  # fmt: skip
    for key, second in steps:
        page.keyboard.press(key)
        expect(line).to_have_attribute("aria-valuenow", f"{second:.1f}")
    expect(line).to_have_attribute("aria-valuemax", "13.0")
    expect(line).to_have_attribute("aria-valuetext", "0:02.3, a familiar sound")
    box = line.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 50)
    now = "document.querySelector('[role=slider]').getAttribute('aria-valuenow')"
    until(page, f"Math.abs({now} - 6.5) < 0.1")
    says(section, "quiet")


def test_pictures_are_in_time_with_the_sound(page: Any, dog: Path) -> None:
    """While it plays, what is shown is what is said of the media element's own time."""
    section = told_of(page, dog)
    # Watches as it plays: the element's time and what is shown, before each frame is painted.
    page.evaluate(
        """() => {
          window.seen = [];
          const media = [];
          const play = HTMLMediaElement.prototype.play;
          HTMLMediaElement.prototype.play = function () {
            media.push(this);
            return play.call(this);
          };
          const look = () => {
            const shown = !document.querySelector(".board-picture img").hidden;
            if (media[0]) window.seen.push([media[0].currentTime, shown, media[0].paused]);
            requestAnimationFrame(look);
          };
          requestAnimationFrame(look);
        }"""
    )
    button(section, "Play").click()
    expect(button(section, "Pause")).to_be_visible()
    until(page, "window.seen.at(-1)?.[0] > 3.6")
    button(section, "Pause").click()
    expect(button(section, "Play")).to_be_visible()
    seen = page.evaluate("window.seen")
    assert len(seen) > 20
    for at_s, shown, _ in seen:
        if 0.25 < at_s < 0.8 or at_s > 3.25:
            assert not shown, at_s
        if 1.25 < at_s < 2.8:
            assert shown, at_s
    said = page.locator(".board [role=status]").inner_text()
    assert said == "0:03: quiet"


def test_a_video_is_shown_beside(page: Any, tmp_path: Path) -> None:
    from recipes.synth import write_video

    path = write_video(tmp_path / "fire.mp4", "fireworks", 3.0, 0, size_px=192)
    section = told_of(page, path)
    expect(section.get_by_text("the video itself")).to_be_visible()
    video = section.locator("video")
    until(page, "document.querySelector('video').readyState >= 1")
    assert video.evaluate("video => video.duration") == pytest.approx(3.0, abs=0.1)
    slider(section).focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('video').currentTime === 1")


def test_what_the_browser_cannot_play_is_told_all_the_same(page: Any, tmp_path: Path) -> None:
    path = write_tones(tmp_path / "x.au", (1, 0), (2, 1), (1, 0), format="AU")
    section = told_of(page, path)
    expect(section.get_by_text("This browser cannot play the file")).to_be_visible()
    button(section, "Play without sound").click()
    expect(button(section, "Pause")).to_be_visible()
    expect(section.locator(".board-picture img")).to_be_visible()
    says(section, "quiet")


def test_several_files_one_after_the_other(page: Any, dog: Path, tmp_path: Path) -> None:
    still = write_tones(tmp_path / "still.wav", (2, 0))
    text = tmp_path / "notes.txt"
    text.write_text("no sound")
    short = write_tones(tmp_path / "short.wav", (0.02, 1))
    choose(page, dog, text, short, still)
    told(page, dog)
    section = told(page, still)
    expect(section.locator(".file-state")).to_have_text("0:02.0, quiet from beginning to end")
    # A message does not alter the name.
    expect(region(page, "short.wav").locator(".is-fault")).to_have_text(
        "short.wav has only 20 ms of sound: at least 100 ms are needed."
    )
    failed = region(page, "notes.txt")
    expect(failed.locator(".file-state.is-fault")).to_have_text(
        "Cannot read notes.txt: it is no sound or video file, or it is damaged or cut short."
    )
    button(failed, "Remove").click()
    expect(page.locator(".file-job")).to_have_count(3)


def test_dropped_files(page: Any, dog: Path) -> None:
    transfer = page.evaluate_handle(
        """async (bytes) => {
          const given = new DataTransfer();
          given.items.add(new File([Uint8Array.from(bytes)], "dropped.wav"));
          return given;
        }""",
        list(write_tones(dog.with_name("short.wav"), (1, 1)).read_bytes()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(told(page, Path("dropped.wav")).locator(".board-card")).to_have_count(1)


def test_a_name_is_no_markup(page: Any, dog: Path) -> None:
    name = "<img src=x onerror=window.evil=1>&amp;.wav"
    path = dog.rename(dog.with_name(name))
    section = told_of(page, path)
    expect(section.get_by_role("heading")).to_have_text(name)
    assert page.evaluate("window.evil") is None
    assert page.locator("img[src=x]").count() == 0


def test_settings(page: Any, dog: Path) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Seed").fill("5")
    page.get_by_label("Sensitivity").fill("0.9")
    expect(page.locator("#sensitivity-words")).to_have_text("more is shown")
    with page.expect_request("**/v1/storyboard*") as sent:
        choose(page, dog)
    assert "seed=5" in sent.value.url
    assert "sensitivity=0.9" in sent.value.url
    told(page, dog)


# --- files to keep ---------------------------------------------------------------------------


def test_files_to_keep(page: Any, dog: Path, tmp_path: Path) -> None:
    section = told_of(page, dog)
    for words, suffix in (("Sheet", "png"), ("Film", "mp4"), ("Page", "html"), ("Data", "json")):
        with page.expect_download(timeout=60_000) as saved:
            section.get_by_role("button", name=words).click()
        assert saved.value.suggested_filename == f"dog-storyboard.{suffix}"
        saved.value.save_as(tmp_path / f"a.{suffix}")
        expect(section.locator(".file-saves p")).to_have_text(f"dog-storyboard.{suffix} is saved.")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["source"] == "dog.wav"
    assert len(json.loads((tmp_path / "a.json").read_text("utf-8"))["events"]) == 2
    assert len(audio.decode(tmp_path / "a.mp4")) >= 13 * RATE
    assert "dog.wav" in (tmp_path / "a.html").read_text("utf-8")


# --- what can go wrong -----------------------------------------------------------------------


def test_cancel(page: Any, long_sound: Path) -> None:
    choose(page, long_sound)
    section = region(page, "long.flac")
    expect(section.locator(".file-state", has_text=" of 30:00")).to_be_visible()
    assert section.get_by_role("progressbar").evaluate("bar => bar.value") < 1
    button(section, "Cancel").click()
    expect(section.locator(".file-state")).to_have_text("cancelled")
    expect(section.get_by_role("progressbar")).to_be_hidden()
    button(section, "Remove").click()
    expect(page.locator(".file-job")).to_have_count(0)


def test_the_token_is_asked_for(browser: Any, serving: Any, tiny_model: Path, dog: Path) -> None:
    with serving("--model", tiny_model, "--token", "secret") as (address, _):
        with opened(browser, f"{address}file") as page:
            choose(page, dog)
            field = page.get_by_label("This server wants a token.")
            field.fill("wrong")
            page.keyboard.press("Enter")
            field = page.get_by_label("The token is wrong.")
            field.fill("secret")
            button(page, "Go on").click()
            told(page, dog)
            expect(field).to_be_hidden()
        with opened(browser, f"{address}file#token=secret") as page:
            choose(page, dog)
            told(page, dog)
            assert "secret" not in page.url


def test_too_big_and_too_long(browser: Any, serving: Any, tiny_model: Path, tmp_path: Path) -> None:
    big = write_tones(tmp_path / "big.wav", (40, 1))
    long = write_tones(tmp_path / "long.flac", (30, 0))
    options = ("--max-upload", "1", "--max-duration", "0.2")
    with (
        serving("--model", tiny_model, *options) as (address, _),
        opened(browser, f"{address}file") as page,
    ):
        choose(page, big, long)
        state = region(page, "big.wav").locator(".is-fault")
        expect(state).to_be_visible()
        assert "too big" in state.inner_text() or "longer than" in state.inner_text()
        state = region(page, "long.flac").locator(".is-fault")
        expect(state).to_contain_text("longer than 12 s, the most that is taken")


def test_the_server_is_gone(
    browser: Any, serving: Any, tiny_model: Path, dog: Path, long_sound: Path
) -> None:
    with (
        serving("--model", tiny_model) as (address, process),
        opened(browser, f"{address}file") as page,
    ):
        choose(page, long_sound)
        section = region(page, "long.flac")
        expect(section.locator(".file-state", has_text=" of 30:00")).to_be_visible()
        process.kill()
        gone = "The server does not answer. Is it still running?"
        expect(section.locator(".is-fault")).to_have_text(gone)
        choose(page, dog)
        state = region(page, "dog.wav").locator(".is-fault")
        expect(state).to_have_text(gone)


# --- for everybody ---------------------------------------------------------------------------


def violations(page: Any, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{v['id']}: {v['help']}: {node['html'][:120]}" for v in found for node in v["nodes"]]


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_barrier(
    browser: Any, server: str, dog: Path, tmp_path: Path, width: int, scheme: str, axe: str
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no sound")
    view = {"width": width, "height": 900}
    with opened(browser, f"{server}file", viewport=view, color_scheme=scheme) as page:
        assert violations(page, axe) == []
        page.get_by_text("Settings").click()
        choose(page, dog, text)
        section = told(page, dog)
        section.locator(".board-card").first.click()
        expect(page.locator(".is-fault")).to_be_visible()
        assert violations(page, axe) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, .file-choose, nav a")]
              .map((each) => each.getBoundingClientRect())
              .filter((box) => box.width && (box.width < 24 || box.height < 24)).length"""
        )
        assert small == 0


def test_by_keyboard_alone(page: Any, dog: Path) -> None:
    with page.expect_file_chooser() as chooser:
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "files":
                break
        page.keyboard.press("Enter")
    chooser.value.set_files(str(dog))
    section = told(page, dog)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.getAttribute('aria-label') ?? "
                "document.activeElement.textContent).trim()"
            )
        )
    for words in ("Remove", "Play", "Next event", "Position in the sound", "Film (MP4)"):
        assert words in reached
    assert any(words.startswith("1 a familiar sound") for words in reached)
    slider(section).focus()
    page.keyboard.press("Space")
    expect(button(section, "Pause")).to_be_visible()


# --- the saved page --------------------------------------------------------------------------


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the page of a sound with the command."""

    def write_page(sound: Path) -> Path:
        out = tmp_path / "saved.html"
        command = [sys.executable, "-m", "soundsight", "storyboard", str(sound), "-o", str(out)]
        subprocess.run([*command, "--model", str(tiny_model)], check=True, capture_output=True)
        return out

    return write_page


def test_the_saved_page_plays(browser: Any, saved: Callable[..., Path], dog: Path) -> None:
    address = saved(dog).as_uri()
    asked: list[str] = []
    view = {"width": 390, "height": 844}
    context = browser.new_context(viewport=view, offline=True)
    context.on("request", lambda request: asked.append(request.url))
    with opened(context, address) as page:
        expect(page.get_by_role("heading")).to_have_text("dog.wav")
        button(page, "Next event").click()
        expect(page.locator(".board-picture img")).to_be_visible()
        button(page, "Play").click()
        says(page, "quiet")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1


def test_the_saved_page_of_an_evil_name(
    browser: Any, saved: Callable[..., Path], dog: Path
) -> None:
    name = "<script>window.evil=1<|script><img src=x onerror=window.evil=1>.wav"
    path = dog.rename(dog.with_name(name))
    with opened(browser, saved(path).as_uri()) as page:
        expect(page.get_by_role("heading")).to_have_text(name)
        assert page.evaluate("window.evil") is None
