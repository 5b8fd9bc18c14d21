"""On the way from a sound to a picture there is no torch, and this test would notice one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes import synth

HEAVY = ("torch", "lightning_fabric", "onnx", "onnxscript", "safetensors", "tensorboard")

REPORT = f"""
import sys
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.stderr.write("LOADED:" + ",".join(heavy) + "\\n")
"""


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and say which heavy packages it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], capture_output=True, text=True, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("LOADED:")]
    assert done.returncode == 0, done.stderr
    assert len(lines) == 1, done.stderr
    return set(filter(None, lines[0].removeprefix("LOADED:").split(",")))


def translate(sound: Path, model: Path, out: Path, first: str = "") -> str:
    """The code of ``soundsight translate``, every option that loads something included."""
    arguments = ["soundsight", "translate", str(sound), "-o", str(out), "--model", str(model)]
    return f"""
import sys
{first}
sys.argv = {[*arguments, "--json", "--draws", "2"]!r}
from soundsight.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_import_soundsight_loads_nothing() -> None:
    code = "import soundsight, sys; assert 'numpy' not in sys.modules\n"
    code += "from soundsight import Translator, Translation, SoundsightError"
    assert loaded_by(code) == set()


def test_translate_loads_no_torch(
    tiny_model: Path, tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    sound = write_sound(tmp_path / "a.wav", 1.5)
    assert loaded_by(translate(sound, tiny_model, tmp_path / "out")) == set()
    assert (tmp_path / "out" / "a_d1.png").is_file()


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_this_test_can_fail(
    tiny_model: Path, tmp_path: Path, write_sound: Callable[..., Path], name: str
) -> None:
    """With the import put into the translator's way, the check above sees it."""
    pytest.importorskip(name)
    sound = write_sound(tmp_path / "a.wav", 1.5)
    inject = f"""
import soundsight.runtime.session as session
_open = session.Network.__init__
def __init__(self, *args):
    import {name}
    _open(self, *args)
session.Network.__init__ = __init__
"""
    assert name in loaded_by(translate(sound, tiny_model, tmp_path / "out", inject))


def test_prepare_and_data_load_no_torch(tmp_path: Path) -> None:
    """Preparing pairs takes no torch, in the command as in its workers (which ingest in here)."""
    pytest.importorskip("imagehash")
    video = tmp_path / "videos" / "a.mp4"
    synth.write_video(video, "dog", 2.0, 0, fps=5, size_px=64)
    code = f"""
import sys
from pathlib import Path
from soundsight.data.prepare.ingest import IngestConfig, ingest
from soundsight.data.prepare.staging import Part
from soundsight.data.records import Clip
folder, video = Path({str(tmp_path)!r}), Path({str(video)!r})
clip = Clip(path=str(video), key="a.mp4", group="a")
ingest(clip, IngestConfig(), folder / "part.tar")
assert len(Part(folder / "part.tar").kept) == 2
from soundsight.cli.main import main
for words in (
    ["prepare", str(folder / "videos"), "-o", str(folder / "data"), "--workers", "1"],
    ["data", "info", str(folder / "data")],
    ["data", "verify", str(folder / "data")],
    ["data", "sheet", str(folder / "data"), "-o", str(folder / "sheet.png")],
):
    sys.argv = ["soundsight", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""
    assert loaded_by(code) == set()
    assert (tmp_path / "sheet.png").is_file()


def test_the_server_loads_no_torch(
    tiny_model: Path, tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    """A stream and an upload are answered without it."""
    pytest.importorskip("fastapi")
    sound = write_sound(tmp_path / "a.wav", 1.5)
    code = f"""
import threading, time
from pathlib import Path
import httpx, numpy as np, uvicorn
from websockets.sync.client import connect
from soundsight.core import protocol
from soundsight.server.app import create_app
from soundsight.server.limits import Access, Limits
app = create_app(Access(), Limits(), model=Path({str(tiny_model)!r}), workers=1)
server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
while not server.started:
    time.sleep(0.01)
at = "127.0.0.1:%d" % server.servers[0].sockets[0].getsockname()[1]
sent = Path({str(sound)!r}).read_bytes()
answer = httpx.post(f"http://{{at}}/v1/translate", content=sent, timeout=100)
assert answer.status_code == 200, answer.text
samples = np.full(66_150, 3_000, np.int16)
samples[::2] *= -1
with connect(f"ws://{{at}}/v1/stream", open_timeout=100) as socket:
    socket.send(protocol.Hello().model_dump_json())
    protocol.read_server_text(socket.recv())
    for number in range(3):
        at, piece = number * 22_050, samples[:22_050]
        socket.send(protocol.SoundFrame(sequence=number, position=at, samples=piece).pack())
    said = [socket.recv()]
    while isinstance(said[-1], str):  # a notice
        said.append(socket.recv())
    facts, _ = protocol.read_window(said[-1])
    assert facts.end_s >= 1.0
server.should_exit = True
thread.join()
"""
    assert loaded_by(code) == set()
