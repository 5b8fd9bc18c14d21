"""Real recordings through the front-end: what is recognised, and what is wrongly shown.

    python recipes/real_sounds.py --encoder runs/flagship/encoder --out runs/real_sounds --threads 1
    python recipes/real_sounds.py --model runs/flagship/model --out runs/real_sounds --threads 1
    python recipes/real_sounds.py --files bundled --clips 140 --out runs/real_sounds --threads 2

With ``--encoder`` (may be repeated): the 60 ESC-10 recordings of dogs, babies and the sea, as they
are and disturbed: over a telephone (300 to 3,400 Hz), in a reverberant room (.6 s), in white noise
10 dB below them, and as mp3 at 64 kb/s. Nearest train seconds and a linear probe, both fitted on
the spectrograms of the bench, say which of the five subjects they hear; a second and a recording
(mean over its seconds), mean over the three classes. Nearly silent seconds are left out.

With ``--model``: the share of seconds that the program shows a picture of, for every class of
ESC-10 (seven of them are none of the five subjects), for silence and for steady noise; and, for the
three that are, how often the independent photo classifier sees their subject in what is shown.
Beside it the share of the recordings whose loudest second is shown.

With ``--files MODEL`` (``bundled`` for the package's): what becomes of a recording's picture when
the recording is softer, clipped, coded, in several channels, in a room, in noise (``PERTURBATIONS``
in ``perturbations.py``). Every recording is written as a file and translated as ``soundsight
translate`` does, so that the program's own reading is measured. Known are the devtest recordings of
the model's subjects in ``shared/everyday`` (``--everyday``) and the dogs, babies and sea waves of
ESC-10; unknown are the devtest kinds and subjects there that it does not know. Of both a clip of
each kind is taken in turn.

Nothing is fitted or chosen here; labels of the bench and of ESC-10 measure only.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.progress import track

from perturbations import PERTURBATIONS, Samples, noise, room, telephone, untouched
from soundsight.core.files import atomic_file, commit
from soundsight.core.state import State
from soundsight.core.units import RATE_HZ
from soundsight.data.everyday.folder import Everyday, find_everyday
from soundsight.data.everyday.sounds import audible
from soundsight.data.vegas.bench import SUBJECTS, Bench, find_bench
from soundsight.evaluation.encoders import embed_segments, fit_probe, neighbour_votes
from soundsight.evaluation.everyday import kind_of
from soundsight.evaluation.segments import bench_segments
from soundsight.judges.apply import Judges
from soundsight.judges.pictures import columns_of
from soundsight.media import audio
from soundsight.media.segments import Segment, segments
from soundsight.runtime.translator import Translator
from soundsight.training.encoder import AudioEncoder, load_encoder, to_float
from steps import arguments, command_line, recordings, table

KNOWN = {"dog_bark": "dog", "baby_cry": "baby", "sea_waves": "water"}
NOISE_SECONDS = 40


def mp3(samples: Samples, rng: np.random.Generator) -> Samples:
    """Through an mp3 of 64 kb/s and back."""
    del rng
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="FLOAT")
    buffer.seek(0)
    coded = io.BytesIO()
    with av.open(buffer) as source, av.open(coded, "w", format="mp3") as target:
        stream = target.add_stream("mp3", rate=RATE_HZ, layout="mono")
        stream.bit_rate = 64_000
        cutter = av.AudioResampler(format=stream.codec_context.format or "s16p", layout="mono",
                                   rate=RATE_HZ, frame_size=1152)  # fmt: skip
        for frame in source.decode(audio=0):
            for piece in cutter.resample(frame):
                target.mux(stream.encode(piece))
        for piece in cutter.resample(None):
            target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    coded.seek(0)
    with av.open(coded) as source:
        parts = [f.to_ndarray() for f in source.decode(audio=0)]
    out = np.concatenate(parts, axis=1).mean(axis=0).astype(np.float32)
    out = out / 32768 if np.abs(out).max() > 2 else out
    return np.pad(out, (0, max(0, len(samples) - len(out))))[: len(samples)]


DISTURBANCES: dict[str, Callable[[Samples, np.random.Generator], Samples]] = {
    "as they are": untouched,
    "telephone": telephone,
    "reverberant room": room,
    "noise at 10 dB": noise,
    "mp3, 64 kb/s": mp3,
}


def decoded(bench: Bench) -> list[tuple[str, Samples]]:
    """Return class and samples of every recording."""
    return [(name, audio.decode(path, RATE_HZ)) for name, path in recordings(bench)]


def seconds(samples: Samples) -> list[Segment]:
    """Cut a recording into seconds, as the program does."""
    return list(segments([samples]))


@torch.no_grad()
def embedded(encoder: AudioEncoder, mels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Embed log-mels."""
    return encoder.encode(to_float(torch.from_numpy(mels)[:, None])).double().numpy()


def recognised(bench: Bench, runs: list[Path]) -> list[list[object]]:
    """Say what each encoder recognises under each disturbance."""
    sounds = [(KNOWN[name], samples) for name, samples in decoded(bench) if name in KNOWN]
    rows: list[list[object]] = []
    for run in runs:
        encoder = load_encoder(run)
        train, val = (
            embed_segments(encoder, bench_segments(bench, bench.pairs(split)))
            for split in ("train", "val")
        )
        classes = columns_of(train.of.kinds)
        probe = fit_probe(train.embeddings, classes, val.embeddings, columns_of(val.of.kinds))
        for name, disturb in DISTURBANCES.items():
            rng = np.random.default_rng(0)
            cut = [[s.mel for s in seconds(disturb(samples, rng))] for _, samples in sounds]
            mels = np.stack([mel for of_one in cut for mel in of_one])
            owner = np.repeat(np.arange(len(cut)), [len(of_one) for of_one in cut])
            truth = columns_of([subject for subject, _ in sounds])
            heard = audible(mels)
            asked = embedded(encoder, mels[heard])
            votes = {
                "nearest": neighbour_votes(train.embeddings, classes, asked),
                "probe": probe.probabilities(asked),
            }
            line: list[object] = [run.name if len(runs) == 1 else str(run), name]
            for said in votes.values():
                right = said.argmax(axis=1) == truth[owner[heard]]
                summed = np.zeros((len(cut), len(SUBJECTS)))
                np.add.at(summed, owner[heard], said)
                whole = summed.argmax(axis=1) == truth
                line += [_mean(right, truth[owner[heard]]), _mean(whole, truth)]
            rows.append(line)
    return rows


def _mean(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> str:
    return f"{100 * np.mean([right[truth == k].mean() for k in np.unique(truth)]):.1f}"


def shown(bench: Bench, model: Path, judges: Path | None) -> list[list[object]]:
    """Say of which sounds a picture is shown."""
    translator = Translator.load(model, threads=1)
    classifier = Judges.load(judges).classifier
    rng = np.random.default_rng(0)
    of_class: dict[str, list[Samples]] = {}
    for name, samples in decoded(bench):
        of_class.setdefault(name, []).append(samples)
    of_class["silence"] = [np.zeros(5 * RATE_HZ, np.float32)] * (NOISE_SECONDS // 5)
    for name, slope in {"white noise": 0.0, "pink noise": -0.5, "brown noise": -1.0}.items():
        of_class[name] = [_steady(slope, rng) for _ in range(NOISE_SECONDS // 5)]
    rows: list[list[object]] = []
    for name in sorted(of_class, key=lambda n: (n not in KNOWN, n)):
        counts = dict.fromkeys(State, 0)
        whole_shown, right = 0, []
        for samples in of_class[name]:
            whole = translator.translate(samples, RATE_HZ)
            whole_shown += whole.state[0].is_known
            for segment in seconds(samples):
                result = translator.translate_segment(segment)
                counts[result.state[0]] += 1
                if result.state[0] is State.PICTURE and name in KNOWN and classifier is not None:
                    seen = int(classifier.probabilities(result.images)[0].argmax())
                    right.append(SUBJECTS[seen] == KNOWN[name])
        total = sum(counts.values())
        rows.append(
            [
                f"{name} ({KNOWN[name]})" if name in KNOWN else name, total,
                *(f"{100 * counts[state] / total:.0f}" for state in (
                    State.PICTURE, State.NAMED, State.QUIET, State.NOTHING_RECOGNISABLE)),
                f"{100 * np.mean(right):.0f}" if right else "",
                f"{100 * whole_shown / len(of_class[name]):.0f}",
            ]
        )  # fmt: skip
    return rows


def _steady(slope: float, rng: np.random.Generator) -> Samples:
    """Five seconds of noise whose amplitude falls with frequency to the power of ``slope``."""
    size = 5 * RATE_HZ
    spectrum = np.fft.rfft(rng.normal(size=size))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** slope
    made = np.fft.irfft(spectrum, size)
    return (0.1 * made / np.sqrt(np.mean(made**2))).astype(np.float32)


# --- files, as people have them ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording to be perturbed.

    Attributes:
        path: its file.
        name: the kind that it is; None where the model does not know it.
    """

    path: Path
    name: str | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the program makes of a file: its state, and what it calls what it recognises."""

    state: State
    name: str | None


def chosen(everyday: Everyday, bench: Bench, names: tuple[str, ...], clips: int) -> list[Recording]:
    """Choose the recordings, at most so many known ones and so many unknown ones (seed 0)."""
    kinds = {kind_of(name) for name in names}
    found: dict[str, list[Path]] = defaultdict(list)
    for kind, path in recordings(bench):
        if kind in KNOWN:
            found[KNOWN[kind]].append(path)
    for sound in (*everyday.sounds("devtest"), *everyday.others("devtest")):
        found[sound.kind].append(everyday.path(sound))
    rng = np.random.default_rng(0)
    shuffled = {
        kind: [paths[i] for i in rng.permutation(len(paths))]
        for kind, paths in sorted(found.items())
    }
    taken: list[Recording] = []
    for known in (True, False):
        of_kinds = [(k, paths) for k, paths in shuffled.items() if (k in kinds) == known]
        in_turn = [
            Recording(path=paths[turn], name=kind if known else None)
            for turn in range(max((len(paths) for _, paths in of_kinds), default=0))
            for kind, paths in of_kinds
            if turn < len(paths)
        ]
        taken += in_turn[:clips]
    return taken


_translator: list[Translator] = []


def _load(model: Path | None) -> None:
    _translator.append(Translator.load(model, threads=1))


def _result(path: Path) -> Result:
    """Translate a file as the program does."""
    (translator,) = _translator
    found = translator.translate(path)
    return Result(state=found.state[0], name=kind_of(found.name[0]))


def results_of(recording: Recording) -> dict[str, Result]:
    """Perturb a recording in every way; what is made of it, and (``untouched``) of its own file."""
    found = {"untouched": _result(recording.path)}
    samples = audio.decode(recording.path, RATE_HZ)
    with tempfile.TemporaryDirectory() as folder:
        for name, perturbation in PERTURBATIONS.items():
            rng = np.random.default_rng(0)
            found[name] = _result(perturbation.write(samples, rng, Path(folder) / "sound"))
    return found


def perturbed(
    recordings_: list[Recording], model: Path | None, processes: int
) -> Iterator[list[object]]:
    """Measure every perturbation; yield the rows of the table."""
    with ProcessPoolExecutor(processes, get_context("spawn"), _load, (model,)) as pool:
        told = list(track(pool.map(results_of, recordings_), "recordings", total=len(recordings_)))
    known = [i for i, recording in enumerate(recordings_) if recording.name]
    unknown = [i for i, recording in enumerate(recordings_) if not recording.name]
    for name in ("untouched", *PERTURBATIONS):
        changed = [told[i][name] != told[i]["untouched"] for i in range(len(told))]
        right = [told[i][name].name == recordings_[i].name for i in known]
        drawn = [told[i][name].state.is_known for i in unknown]
        quiet = Counter(told[i][name].state for i in range(len(told)))[State.QUIET]
        yield [
            name, _share([changed[i] for i in known]), _share(right),
            _share([changed[i] for i in unknown]), _share(drawn), quiet,
        ]  # fmt: skip


def _share(hits: list[bool]) -> str:
    return f"{sum(hits)} of {len(hits)} ({100 * np.mean(hits):.0f} %)" if hits else ""


def main() -> None:
    """Measure what is asked for and write it."""
    parser = arguments(__doc__, "runs/real_sounds")
    parser.add_argument("--encoder", type=Path, action="append", default=[])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--files", metavar="MODEL", default=None, help="a model, or: bundled")
    parser.add_argument("--clips", type=int, default=140, help="known ones, and unknown ones")
    parser.add_argument("--everyday", type=Path, default=None, help="shared/everyday")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = find_bench(args.data)
    parts = [f"`{command_line()}`\n"]
    if args.encoder:
        head = ["encoder", "ESC-10 recordings", "nearest, second, %", "nearest, recording, %",
                "probe, second, %", "probe, recording, %"]  # fmt: skip
        parts.append(table(head, recognised(bench, args.encoder)) + "\n")
    if args.model is not None:
        head = ["", "seconds", "drawn, %", "named, %", "quiet, %", "unknown, %",
                "of what is drawn, right, %", "recordings drawn or named, %"]  # fmt: skip
        parts.append(table(head, shown(bench, args.model, args.judges)) + "\n")
    if args.files is not None:
        model = None if args.files == "bundled" else Path(args.files)
        translator = Translator.load(model, threads=1)
        if translator.label_head is None:
            parser.error(f"{args.files} has no names: which of its pictures are right is not known")
        found = chosen(
            find_everyday(args.everyday), bench, translator.label_head.labels, args.clips
        )
        head = ["", "known: another outcome", "known: right", "unknown: another outcome",
                "unknown: drawn or named", "quiet"]  # fmt: skip
        parts.append(table(head, list(perturbed(found, model, args.threads))) + "\n")
        parts.append(f"devtest, seed 0, model {translator.info.label}, commit {commit()}\n")
    text = "\n".join(parts)
    name = "encoders.md" if args.encoder else "shown.md" if args.model else "files.md"
    with atomic_file(args.out / name) as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
