"""Fixtures that several rooms share: a toy bench, tiny models, toy sounds, a running server."""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from soundsight.data.everyday import folder as everyday
from soundsight.data.everyday.folder import Everyday, find_everyday
from soundsight.data.vegas.bench import SPLITS, SUBJECTS, Bench, find_bench

# A shell that runs the tests in its background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

COLOURS = {
    "baby": (220, 40, 40),
    "dog": (40, 220, 40),
    "rail": (40, 40, 220),
    "fireworks": (220, 220, 40),
    "water": (40, 220, 220),
}
"""A toy photo has its class's colour in the left half; the right half is random."""

VIDEOS, WINDOWS, PHOTOS = 4, 3, 10


def jpeg(levels: np.ndarray) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="JPEG", quality=95)
    return file.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of small files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def toy_photo(subject: str, rng: np.random.Generator) -> np.ndarray:
    """Draw uint8 [96, 96, 3]: the class's colour beside a random one."""
    photo = np.empty((96, 96, 3), dtype=np.uint8)
    photo[:, :48] = COLOURS[subject]
    photo[:, 48:] = rng.integers(256, size=3)
    return photo


def write_bench(root: Path, seed: int = 0) -> Path:
    """Write a bench: 4 videos of 3 s and 10 photos a class in every split."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, split in enumerate(SPLITS):
        sounds, photos = [], []
        for code, subject in enumerate(SUBJECTS, start=1):
            members = [f"{subject}/toy_{number}{k:03d}.jpg" for k in range(PHOTOS)]
            photos += [(member, jpeg(toy_photo(subject, rng))) for member in members]
            for v in range(VIDEOS):
                video = f"c{code:03d}_s{number}{v:04d}"
                for window in range(WINDOWS):
                    name = f"{video}_w{window:03d}.jpg"
                    mel = rng.integers(20 * code, 20 * code + 40, (128, 100), dtype=np.uint8)
                    # The first second of a class's last video cannot be heard.
                    mel *= not (v == VIDEOS - 1 and window == 0)
                    sounds.append((name, jpeg(mel)))
                    rows.append([split, subject, video, window, name, members[v]])
        write_tar(root / "vegas-audio" / f"{split}-000.tar", sounds)
        write_tar(root / "photos" / f"{split}.tar", photos)
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["split", "class", "video", "window", "spectrogram", "photo"], *rows]
        )
    return root


@pytest.fixture(name="jpeg", scope="session")
def _jpeg() -> Callable[[np.ndarray], bytes]:
    """The encoder of the toy bench: picture -> JPEG."""
    return jpeg


@pytest.fixture(name="write_tar", scope="session")
def _write_tar() -> Callable[[Path, Iterable[tuple[str, bytes]]], None]:
    """The writer of the toy bench: (path, [(name, bytes)]) -> a tar."""
    return write_tar


@pytest.fixture(scope="session")
def colours() -> dict[str, tuple[int, int, int]]:
    """Subject -> the colour that stands for it in the toy bench."""
    return COLOURS


@pytest.fixture
def bench_root(tmp_path: Path) -> Path:
    """A fresh toy bench that a test may damage."""
    return write_bench(tmp_path / "bench")


@pytest.fixture(scope="session")
def toy_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A toy bench that no test changes."""
    return find_bench(write_bench(tmp_path_factory.mktemp("toy") / "bench"))


@pytest.fixture(scope="session")
def toy_judges(colours: dict[str, tuple[int, int, int]]):
    """Five judges; a score is 1 at the class's colour and falls with the distance from it."""
    from soundsight.judges.apply import Judges

    def scorer(images: np.ndarray) -> np.ndarray:
        left = images[:, 8:88, 4:44].astype(np.float32)
        # Colour as it should be, everywhere: a patch or a blur of it does not do.
        wanted = np.array([colours[subject] for subject in SUBJECTS], np.float32)
        away = [np.abs(left - colour).max(axis=(1, 2, 3)) for colour in wanted]
        return (1 - np.stack(away, axis=1) / 255).astype(np.float32)

    return Judges(scorer, dict.fromkeys(SUBJECTS, 0.85), name="toy", sha256="0" * 64)


# --- toy data of everyday kinds -----------------------------------------------------------------

EVERYDAY_PHOTOS = 5
EVERYDAY_SOUNDS = {
    "sounds": (("baby", 300.0), ("cat", 1400.0), ("knock", 90.0)),
    "others": (("pig", 700.0),),
}
"""Kinds of the toy data and the pitch of each, in hertz; a knock has no photos."""


def write_everyday(root: Path, write_sound: Callable[..., Path]) -> Path:
    """Write Everyday data: 2 recordings of a kind a split, of 2 s, and of .4 s and 1.6 s."""
    rng = np.random.default_rng(7)
    tables: dict[str, list[list[object]]] = {table: [] for table in EVERYDAY_SOUNDS}
    for table, kinds in EVERYDAY_SOUNDS.items():
        for number, split in enumerate(SPLITS):
            for kind, hz in kinds:
                for piece, (recording, seconds) in enumerate((("a", 2.0), ("b", 0.4), ("b", 1.6))):
                    file = f"{table}/{kind}/{kind}_{piece}_{split}.ogg"
                    f_hz = hz * (1 + 0.1 * number)
                    write_sound(root / file, seconds, hz=f_hz, level=0.3, format="WAV")
                    of = f"{kind}{number}{recording}"
                    tables[table].append([split, kind, of, file, seconds, 44_100, "toy", "CC0"])
    write_tables(root, tables)
    for split in SPLITS:
        members = []
        for kind in ("baby", "cat"):
            for k in range(EVERYDAY_PHOTOS):
                photo = rng.integers(256, size=(96, 96, 3)).astype(np.uint8)
                members.append((f"{kind}/{kind}_{k:04d}_{split}.jpg", jpeg(photo)))
        write_tar(root / f"photos-{split}.tar", members)
    return root


def write_tables(root: Path, tables: dict[str, list[list[object]]]) -> None:
    """Write Everyday's tables of sounds."""
    rest = ["recording", "file", "seconds", "rate_hz", "source", "licence"]
    for table, rows in tables.items():
        with (root / f"{table}.csv").open("w", newline="") as file:
            head = ["split", "subject" if table == "sounds" else "kind", *rest]
            csv.writer(file).writerows([head, *rows])


@pytest.fixture
def everyday_root(tmp_path: Path, write_sound: Callable[..., Path]) -> Path:
    """Fresh toy Everyday data that a test may damage."""
    return write_everyday(tmp_path / "everyday", write_sound)


@pytest.fixture(scope="session")
def toy_everyday(
    tmp_path_factory: pytest.TempPathFactory, write_sound: Callable[..., Path]
) -> Everyday:
    """Toy Everyday data that no test changes."""
    return find_everyday(write_everyday(tmp_path_factory.mktemp("kinds") / "everyday", write_sound))


def write_every_kind(root: Path) -> Path:
    """Write Everyday's folder: two photos a subject, one sound of 2 s a kind in every split.

    A photo is grey, at a level of its subject's own.
    """
    rng = np.random.default_rng(0)
    tables: dict[str, list[list[object]]] = {"sounds": [], "others": []}
    for split in SPLITS:
        photos = []
        for number, subject in enumerate(everyday.SUBJECTS, start=1):
            for i in range(2):
                levels = np.full((96, 96, 3), 10 * number + i, np.uint8)
                photos.append((f"{subject}/{subject}_{i:04d}_{split}.jpg", jpeg(levels)))
        write_tar(root / f"photos-{split}.tar", photos)
        for table, kinds in (("sounds", everyday.KINDS), ("others", ("pig", "wind"))):
            for kind in kinds:
                name = f"{table}/{kind}/{kind}_{split}.ogg"
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                samples = 0.1 * rng.standard_normal(2 * 16000).astype(np.float32)
                soundfile.write(root / name, samples, 16000)
                row = [split, kind, f"{kind}-{split}", name, 2, 16000, "made", "CC0"]
                tables[table].append(row)
    write_tables(root, tables)
    return root


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Everyday:
    """Toy Everyday data with all 28 kinds, that no test changes."""
    return find_everyday(write_every_kind(tmp_path_factory.mktemp("kinds") / "all"))


# --- a model folder that needs no training -----------------------------------------------------

TINY_E, TINY_F, TINY_Z, TINY_M, TINY_SIDE = 8, 32, 4, 5, 6


def write_tiny_model(
    folder: Path, *, noise_size: int = TINY_Z, dropout_size: int = TINY_M,
    ood_score: float | None = None, confidence: float | None = None, quiet_dbfs: float = -60.0,
    labels: object = None, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a model folder by hand: small random networks with the real inputs and outputs.

    The features are the means of 32 patches of the log-mel; the ood score is the sigmoid of minus
    their mean. ``labels`` is the content of ``labels.json``: bytes, or what JSON can hold.
    """
    import hashlib
    import json

    import onnx

    from soundsight.core.config import to_dict
    from soundsight.media.mel import MelConfig

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)

    def save(name: str, network: str, **constants: np.ndarray) -> None:
        text = f'<ir_version: 8, opset_import: ["": 17]> network {network}'
        model = onnx.parser.parse_model(text)
        for key, value in constants.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
        onnx.checker.check_model(model)
        onnx.save(model, folder / name)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0.0, 1.0, shape).astype(np.float32)

    encoder = f"""
        (float[n, 1, 128, 100] mel)
        => (float[n, {TINY_E}] embedding, float[n, {TINY_F}] features) {{
            patches = AveragePool<kernel_shape=[16, 25], strides=[16, 25]>(mel)
            features = Flatten(patches)
            product = Gemm(features, w)
            embedding = Tanh(product)
        }}"""
    save("encoder.onnx", encoder, w=weight(TINY_F, TINY_E))
    sizes = {"embedding": TINY_E, "noise": noise_size, "dropout": dropout_size}
    sizes = {name: size for name, size in sizes.items() if size}
    generator = f"""
        ({", ".join(f"float[n, {size}] {name}" for name, size in sizes.items())})
        => (float[n, 3, 96, 96] image) {{
            inputs = Concat<axis=1>({", ".join(sizes)})
            product = Gemm(inputs, w)
            levels = Tanh(product)
            small = Reshape(levels, shape)
            image = Resize<mode="nearest">(small, , scales)
        }}"""
    w = weight(sum(sizes.values()), 3 * TINY_SIDE * TINY_SIDE)
    shape, scales = np.array([-1, 3, TINY_SIDE, TINY_SIDE]), np.array([1, 1, 16, 16], np.float32)
    save("generator.onnx", generator, w=w, shape=shape, scales=scales)
    thresholds = {"quiet_dbfs": quiet_dbfs}
    if confidence is not None:
        thresholds["confidence"] = confidence
    if ood_score is not None:
        thresholds["ood_score"] = ood_score
        ood = f"""
            (float[n, {TINY_F}] features) => (float[n] ood_score) {{
                mean = ReduceMean<axes=[1], keepdims=0>(features)
                negated = Neg(mean)
                ood_score = Sigmoid(negated)
            }}"""
        save("ood.onnx", ood)
    if labels is not None:
        content = labels if isinstance(labels, bytes) else json.dumps(labels).encode()
        (folder / "labels.json").write_bytes(content)
    (folder / "CARD.md").write_text("# tiny\n", "utf-8")
    files = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        files[path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    values = {
        "format": "soundsight-model", "format_version": 3, "name": "tiny", "version": "0.0.1",
        "licence": "BSD-3-Clause", "created": "2026-01-01T00:00:00Z", "segment_s": 1.0,
        "mel": to_dict(MelConfig()), "image_px": 96, "embedding_size": TINY_E,
        "feature_size": TINY_F, "noise_size": noise_size, "dropout_size": dropout_size,
        "thresholds": thresholds, "figures": {}, "trained_on": "nothing", "files": files,
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(values), "utf-8")
    return folder


def alert_names(alert: str = "smoke alarm", *, sure: bool = True) -> dict[str, object]:
    """The content of a ``labels.json`` by which every sound is an alert, or (``sure`` false) a dog,
    with the alert as the second guess.
    """
    return {
        "format": "soundsight-labels", "format_version": 1, "labels": ["dog", alert],
        "alerts": [alert], "weights": [[0.0] * TINY_E] * 2, "bias": [0.0, 6.0 if sure else -0.2],
    }  # fmt: skip


@pytest.fixture(scope="session", name="alert_names")
def _alert_names() -> Callable[..., dict[str, object]]:
    """The writer of labels with an alert: (alert, sure=True) -> the content of ``labels.json``."""
    return alert_names


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """The writer of tiny models: (folder, **settings) -> the folder."""
    return write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder that no test changes; it draws every sound."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def own_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    import shutil

    return Path(shutil.copytree(tiny_model, tmp_path / "own-model"))


@pytest.fixture(scope="session")
def write_sound() -> Callable[..., Path]:
    """The writer of toy sounds: (path, seconds, hz=440, level=0.3, rate_hz=44100) -> a wav.

    The sound is a tone that swells in its last second, over a little noise.
    """

    def write(
        path: Path, seconds: float, *, hz: float = 440.0, level: float = 0.3,
        rate_hz: int = 44_100, **kwargs: object,
    ) -> Path:  # fmt: skip
        t = np.arange(int(seconds * rate_hz)) / rate_hz
        noise = np.random.default_rng(int(hz)).normal(0.0, 0.02, len(t))
        swell = np.where(t >= seconds - 1.0, 1.0, 0.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = (level * swell * (np.sin(2 * np.pi * hz * t) + noise)).astype(np.float32)
        soundfile.write(path, sound, rate_hz, **kwargs)
        return path

    return write


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[str]]]]:
    """Runs ``soundsight serve``: (options) -> a context of its address and its process."""

    @contextlib.contextmanager
    def run(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
        command = [sys.executable, "-m", "soundsight", "serve", *map(str, options)]
        if "--port" not in options:
            command += ["--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1].partition("#")[0], process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            process.wait(120)
            process.stdout.close()

    return run
