"""How fast and how small is `soundsight prepare`? Side by side in one run.

    pip install -e '.[dev,bench]'
    python benchmarks/prepare.py --videos 6 --repeats 3      # speed a core
    python benchmarks/prepare.py --memory                    # a 3-hour file, two workers
    python benchmarks/prepare.py --packing 3000              # parts to shards

Speed: videos of 10 s, 1280 x 720, H.264 with 1 to 3 key frames and AAC, become pairs (no cleaning),
one core each; also with every cheap cleaning step; beside

* the floor: what PyAV needs to decode the sound and the frames up to the last one needed, with no
  conversion, no log-mel and nothing written;
* the common way: ffmpeg to a wav file, librosa's mel of it, OpenCV reading every frame, the middle
  one of each second resized and saved.

The repeats alternate, so that a machine that slows down slows all; printed are CPU and wall
seconds a video and the ratios of the medians of the CPU seconds, which neighbours on a shared
machine disturb least.

Memory: the sum of the proportional set sizes of the command and its workers, looked at ten times a
second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

# One core each: must be set before the libraries start their threads.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from soundsight.media.container import quiet_av  # noqa: E402

sys.path.append(str(Path(__file__).parents[1]))
from recipes import synth  # noqa: E402

SECONDS, FPS, WIDTH, HEIGHT = 10, 30, 1280, 720


def write_video(path: Path, subject: str, key_frames: int, seed: int) -> None:
    """Write a moving, slightly grainy 720p scene with its sound."""
    av = quiet_av()
    rng = np.random.default_rng(seed)
    wide = Image.fromarray(synth.scene(subject, 0.5, seed, 256)).resize((1920, 1080))
    grain = rng.integers(-3, 4, (HEIGHT, WIDTH, 1), np.int16)
    ground = np.asarray(wide, np.int16)
    with av.open(str(path), "w", format="mp4") as container:
        gop = -(-SECONDS * FPS // key_frames)
        picture = container.add_stream(
            "libx264",
            rate=FPS,
            options={"preset": "veryfast", "crf": "23", "g": str(gop), "sc_threshold": "0"},
        )
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        voice = container.add_stream("aac", rate=44_100, layout="stereo")
        for index in range(SECONDS * FPS):
            x, y = 2 * index % 600, index % 340
            shown = ground[y : y + HEIGHT, x : x + WIDTH] + np.roll(grain, 37 * index, axis=1)
            frame = av.VideoFrame.from_ndarray(
                np.clip(shown, 0, 255).astype(np.uint8), format="rgb24"
            )
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        mono = synth.sound(subject, SECONDS, seed)
        sound = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(np.stack([mono, mono])), format="fltp", layout="stereo"
        )
        sound.sample_rate = 44_100
        cutter = av.AudioResampler(format="fltp", layout="stereo", rate=44_100, frame_size=1024)
        for piece in [*cutter.resample(sound), *cutter.resample(None)]:
            container.mux(voice.encode(piece))
        container.mux(voice.encode(None))


def ours(path: Path, folder: Path) -> None:
    """The per-video function of the product, without cleaning."""
    from soundsight.data.prepare.clean import CleanConfig
    from soundsight.data.prepare.ingest import IngestConfig, ingest
    from soundsight.data.prepare.staging import Part
    from soundsight.data.records import Clip

    config = IngestConfig(duplicates=False, clean=CleanConfig(steps=()))
    clip = Clip(path=str(path), key=path.name, group=path.name)
    part = folder / f"{path.stem}.tar"
    ingest(clip, config, part)
    assert len(Part(part).kept) == SECONDS


def ours_cleaned(path: Path, folder: Path) -> None:
    """The per-video function with every cleaning step that needs no training."""
    from soundsight.data.prepare.ingest import IngestConfig, ingest
    from soundsight.data.prepare.staging import Part
    from soundsight.data.records import Clip

    clip = Clip(path=str(path), key=path.name, group=path.name)
    part = folder / f"{path.stem}.tar"
    ingest(clip, IngestConfig(), part)
    assert "failure" not in Part(part).about


def floor(path: Path, folder: Path) -> None:
    """Decode the sound, and the frames up to the last one needed; keep nothing."""
    del folder
    av = quiet_av()
    with av.open(str(path)) as container:
        for _ in container.decode(audio=0):
            pass
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        track.codec_context.thread_count = 1
        for frame in container.decode(track):
            if frame.time >= SECONDS - 0.5:
                break


def common_way(path: Path, folder: Path) -> None:
    """ffmpeg to wav, librosa's mel, OpenCV reading every frame."""
    import cv2
    import imageio_ffmpeg
    import librosa

    cv2.setNumThreads(1)
    wav = folder / f"{path.stem}.wav"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-threads", "1", "-i", str(path),
         "-vn", "-ac", "1", "-ar", "44100", str(wav)],
        check=True,
    )  # fmt: skip
    samples, rate_hz = librosa.load(wav, sr=None)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate_hz, n_fft=2048, hop_length=441, n_mels=128, fmax=11_025
    )
    db = librosa.power_to_db(mel, ref=np.max, top_db=50)
    levels = np.rint((db + 50) * 5.1).astype(np.uint8)
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    fps, number = video.get(cv2.CAP_PROP_FPS), 0
    while True:
        there, frame = video.read()
        if not there:
            break
        second = int(number / fps)
        if number == int((second + 0.5) * fps):
            side = min(frame.shape[:2])
            top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
            square = cv2.resize(
                frame[top : top + side, left : left + side], (96, 96), interpolation=cv2.INTER_AREA
            )
            cv2.imwrite(str(folder / f"{path.stem}_{second}.jpg"), square)
            cv2.imwrite(
                str(folder / f"{path.stem}_{second}.png"),
                levels[::-1, 100 * second : 100 * second + 100],
            )
        number += 1


def spent(
    work: Callable[[Path, Path], None], videos: list[Path], folder: Path
) -> tuple[float, float]:
    """(CPU, wall) seconds a video, children included."""

    def cpu() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    began, began_cpu = time.perf_counter(), cpu()
    for video in videos:
        work(video, folder)
    return (cpu() - began_cpu) / len(videos), (time.perf_counter() - began) / len(videos)


def speed(count: int, repeats: int) -> None:
    """Print seconds a video and the ratios."""
    ways = {"ours": ours, "floor (PyAV)": floor, "ours, cleaned": ours_cleaned}
    try:
        import cv2  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        print("the common way is left out: run  pip install -e '.[bench]'")
    else:
        ways["common way"] = common_way
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        videos = []
        for number in range(count):
            video = folder / f"v{number}.mp4"
            write_video(video, synth.SUBJECTS[number % 5], number % 3 + 1, number)
            videos.append(video)
        for work in ways.values():
            work(videos[0], folder)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for repeat in range(repeats):
            order = list(ways.items())
            for name, work in order if repeat % 2 == 0 else reversed(order):
                times[name].append(spent(work, videos, folder))
    print(
        f"{count} videos of {SECONDS} s, {WIDTH} x {HEIGHT}, {FPS} fps, 1 to 3 key frames; "
        f"{repeats} alternating repeats, one core"
    )
    medians = {name: statistics.median(cpu for cpu, _ in all_) for name, all_ in times.items()}
    for name, all_ in times.items():
        wall = statistics.median(seconds for _, seconds in all_)
        low, high = min(cpu for cpu, _ in all_), max(cpu for cpu, _ in all_)
        print(
            f"{name:14s} {medians[name]:.3f} CPU s a video ({low:.3f} to {high:.3f}), "
            f"{wall:.3f} s on the clock"
        )
    print(f"ours / floor: {medians['ours'] / medians['floor (PyAV)']:.2f} (at most 1.25 is asked)")
    if "common way" in medians:
        ratio = medians["common way"] / medians["ours"]
        print(f"common way / ours: {ratio:.2f} (at least 1.5 is asked)")


def write_long(path: Path, hours: float) -> None:
    """Write hours of video: ten seconds again and again, their packets copied."""
    av = quiet_av()
    with tempfile.TemporaryDirectory() as place:
        short = Path(place) / "short.mp4"
        write_video(short, "water", 2, 0)
        with av.open(str(short)) as source:
            packets = [p for p in source.demux() if p.dts is not None]
            with av.open(str(path), "w", format="mp4") as target:
                tracks = {s.index: target.add_stream_from_template(s) for s in source.streams}
                lengths = {s.index: round(SECONDS / s.time_base) for s in source.streams}
                stamps = [(p.stream.index, p.pts, p.dts) for p in packets]
                for again in range(round(hours * 3600 / SECONDS)):
                    for packet, (index, pts, dts) in zip(packets, stamps, strict=True):
                        # The encoder's delay makes the sound a little longer than ten seconds.
                        if pts < 0 or pts >= lengths[index]:
                            continue
                        packet.stream = tracks[index]
                        packet.pts = pts + again * lengths[index]
                        packet.dts = dts + again * lengths[index]
                        target.mux_one(packet)


def process_tree_bytes(pid: int) -> int:
    """Proportional set size of a process and all below it."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += process_tree_bytes(int(child))
    except OSError:
        return total
    return total


def memory(hours: float) -> None:
    """Print the most memory that two workers and their parent take."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "videos"
        folder.mkdir()
        write_long(folder / "a.mp4", hours)
        os.link(folder / "a.mp4", folder / "b.mp4")
        size = (folder / "a.mp4").stat().st_size
        print(f"two files of {hours:g} h, {size / 2**20:.0f} MiB each", flush=True)
        program = "from soundsight.cli.main import main; main()"
        command = [
            sys.executable, "-c", program, "prepare", str(folder), "-o",
            str(Path(place) / "data"), "--workers", "2", "--timeout", "36000",
        ]  # fmt: skip
        began = time.perf_counter()
        run = subprocess.Popen(command)
        peak = [0]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                peak[0] = max(peak[0], process_tree_bytes(run.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = run.wait()
        over.set()
        watcher.join()
        print(
            f"exit code {code}, {time.perf_counter() - began:.0f} s, at most "
            f"{peak[0] / 2**20:.0f} MiB together (under 600 is asked)"
        )


def packing(clips: int) -> None:
    """Print how fast parts become shards: one process, the pairs of one video again and again."""
    from soundsight.data.prepare.duplicates import VideoPrint
    from soundsight.data.prepare.ingest import IngestConfig, ingest
    from soundsight.data.prepare.pack import PackConfig, pack
    from soundsight.data.prepare.staging import Part, Stage
    from soundsight.data.records import Clip, Record
    from soundsight.data.store.shards import write_shard

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        video, part = Path(place) / "v.mp4", Path(place) / "v.tar"
        write_video(video, "water", 2, 0)
        ingest(Clip(path=str(video), key="v.mp4", group="v"), IngestConfig(), part)
        model = Part(part)
        pairs = [(entry, model.record(entry).files) for entry in model.entries]
        with Stage(Path(place) / "data", {}) as stage:
            made = [Clip(path="", key=f"v{k}.mp4", group=f"v{k}") for k in range(clips)]
            for clip in made:
                # Prints of their own: the clips are no copies of one another.
                own = VideoPrint(
                    key=f"2 {clip.id}",
                    pictures=rng.integers(0, 2**63, len(pairs), np.uint64),
                    sounds=rng.integers(0, 2**32, 190, np.uint32),
                    sound_at=np.arange(190, dtype=np.int32),
                )
                records = [
                    Record(key=f"{clip.id}_{number:06d}", files=files, sums=entry.sums)
                    for number, (entry, files) in enumerate(pairs)
                ]
                known = {
                    "clip": clip.key, "unseen": 0, "content": clip.id, "print": own.to_json(),
                }  # fmt: skip
                write_shard(stage.part_path(clip.id), records, known)
            about = {"mel_bands": 128, "mel_frames": 100, "image_px": 96}
            began, began_s = time.process_time(), time.perf_counter()
            pack(stage, made, PackConfig(), about)
            cpu_s, clock_s = time.process_time() - began, time.perf_counter() - began_s
            packed = json.loads((stage.data / "dataset.json").read_text("utf-8"))
    count = packed["counts"]["pairs"]
    size = sum(shard["bytes"] for part in packed["splits"].values() for shard in part["shards"])
    print(
        f"packing {count} pairs of {clips} clips, {size / count / 1000:.1f} kB each: "
        f"{count / cpu_s:.0f} pairs a CPU second, {count / clock_s:.0f} pairs/s on the clock"
    )


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=6, help="how many to prepare")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each, alternating")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--packing", type=int, metavar="CLIPS", help="measure packing instead")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long file")
    options = parser.parse_args()
    if options.memory:
        memory(options.hours)
    elif options.packing:
        packing(options.packing)
    else:
        speed(options.videos, options.repeats)


if __name__ == "__main__":
    main()
