"""``soundsight data info|verify|sheet|export``: what a finished dataset holds, and if it is whole.

DATA is a folder, or a URL that fsspec opens.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundsight.cli.console import complain, counted, say
from soundsight.cli.group import App
from soundsight.cli.options import option
from soundsight.cli.prepare import funnel_lines
from soundsight.core.errors import ConfigError, DataError, SoundsightError, require_extra
from soundsight.core.files import local_output
from soundsight.core.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soundsight.data.records import Record
    from soundsight.data.store.shards import PairFolder

    Embedder = Callable[[Record], NDArray[np.float32]]

Data = Annotated[str, typer.Argument(metavar="DATA", help="A dataset's folder, or its URL.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = App(help="Look at, check and export prepared pairs.")
    for command in (info, verify, sheet, export):
        group.command()(command)
    app.add_typer(group, name="data")


def info(data: Data) -> None:
    """Say what a dataset holds."""
    folder = _open(data)
    about = folder.about
    bands, frames = folder.mel_shape
    say(f"{folder.where}")
    say(f"  log-mels {bands} x {frames}, pictures {folder.image_px} x {folder.image_px} px")
    say(f"  in each pair: {', '.join(about['files'])}")
    size = 0
    for split in folder.splits:
        part, shards = about["splits"][split], folder.shards(split)
        here = sum(shard.bytes for shard in shards)
        size += here
        told = [f"{part[name]:,} {name}" for name in ("videos", "groups") if name in part]
        words = [f"{folder.count(split):,} pairs", *told, f"{len(shards)} shards", _size(here)]
        say(f"  {split}: {', '.join(words)}")
    say(f"  together: {len(folder):,} pairs, {_size(size)}")
    labels = about.get("labels") or []
    if labels:
        say(f"  {len(labels)} labels: {', '.join(map(str, labels))}")
    cleaning = (about.get("counts") or {}).pop("cleaning", None) or []
    for line in funnel_lines(cleaning):
        say(f"  cleaning.{line}")
    for name in ("counts", "statistics", "settings"):
        for line in _lines(about.get(name)):
            say(f"  {name}.{line}")
    versions = {"soundsight": about.get("soundsight"), **(about.get("created_with") or {})}
    say("  made with " + ", ".join(f"{name} {v}" for name, v in versions.items()))


def verify(
    data: Data,
    quick: Annotated[bool, option("", "Check only the sizes of the shards.", "--quick")] = False,
) -> None:
    """Compare every byte with its checksum.

    Names what is damaged, missing or foreign. Exit code 2 says that something is wrong.
    """
    _need_for(data)
    from soundsight.data.store.verify import verify as check

    count = 0
    with progress_bar("bytes") as show:
        for problem in check(data, deep=not quick, progress=partial(show, "checking")):
            count += 1
            complain(DataError(f"{data}: {problem}"))
    if count:
        say(f"{counted(count, 'problem')} in {data}", err=True)
        raise typer.Exit(SoundsightError.exit_code)
    say(f"{data}: " + ("files and sizes are right" if quick else "every byte is as it was written"))


def sheet(
    data: Data,
    out: Annotated[Path, option("FILE", "The PNG to write.", "--out", "-o")] = Path("sheet.png"),
    split: Annotated[str, option("SPLIT", "Pairs of train, val or test.")] = "train",
    count: Annotated[int, option("N", "How many pairs.", min=1, max=600)] = 30,
    seed: Annotated[int, option("N", "Another seed shows other pairs.", min=0)] = 0,
) -> None:
    """Draw pairs from as many videos as possible: frame, log-mel, video name and time."""
    local_output(out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: the sheet is a PNG, name it so")
    folder = _open(data)
    from soundsight.core.files import atomic_file
    from soundsight.data.records import SIDECAR
    from soundsight.views.drawing import clock
    from soundsight.views.sheet import PairCard, pairs_sheet

    total = folder.count(split)
    folder.require_pairs()
    if not total:
        raise DataError(f"{data}: the split {split} holds no pairs")
    chosen = _spread(folder, split, count, random.Random(seed))
    cards = []
    for index in chosen:
        record = folder.record(split, index)
        mel, image = folder.decode(record)
        assert image is not None
        about = json.loads(record.files[SIDECAR])
        caption = f"{about['clip']}   {clock(float(about['start_s']))}"
        cards.append(PairCard(mel=mel, image=image, caption=caption))
    title = f"{len(cards)} of {total:,} pairs, {split}; log-mels: low below, loud bright"
    with atomic_file(out) as temporary:
        pairs_sheet(cards, title=title).save(temporary, format="PNG")
    say(f"written: {out}")


def _spread(folder: PairFolder, split: str, count: int, draw: random.Random) -> list[int]:
    """Draw ``count`` pairs, a pair of every video before a second one of any."""
    total = folder.count(split)
    turns: Counter[str] = Counter()
    places = []
    for index in draw.sample(range(total), min(10 * count, total)):
        group = folder.find(split, index)[1].group
        turns[group] += 1
        places.append((turns[group], index))
    # The sort is stable: within a turn the order is that of the draw.
    places.sort(key=lambda place: place[0])
    return sorted(index for _, index in places[:count])


def export(
    data: Data,
    out: Annotated[Path, option("FOLDER", "A new folder.", "--out", "-o")],
    kind: Annotated[
        str, option("KIND", "What the batches hold: audio, spectrogram or embedding.")
    ] = "spectrogram",
    model: Annotated[
        Path | None,
        option(
            "FOLDER",
            "Model whose encoder makes embeddings (default: those in DATA, else the bundled"
            " model).",
        ),
    ] = None,
    per_file: Annotated[int, option("N", "Records in a file.", min=1)] = 5000,
    overwrite: Annotated[bool, option("", "Replace FOLDER.", "--overwrite")] = False,
) -> None:
    """Write pairs as binary batches of the published form, with a table of what its numbers mean.

    Classes are numbered in the order of their labels, videos in that of their names; labels and
    names of the published form (c001, c001_s00001) keep their numbers.
    """
    local_output(out)
    from soundsight.core.config import choose
    from soundsight.core.files import atomic_folder
    from soundsight.data.records import EMBEDDING
    from soundsight.data.vegas.batches import CLASSES, VIDEOS, Kind, export_batches, is_export

    wanted = choose("kind", kind, {str(k): k for k in Kind})
    folder = _open(data)
    folder.require_size()
    embeds = wanted is Kind.EMBEDDING
    stored = embeds and model is None and EMBEDDING in folder.about["files"]
    embed = _embedder(model, stored=stored) if embeds else None
    folder.require_pairs(mel=not stored, image=wanted is not Kind.AUDIO)
    with (
        atomic_folder(out, overwrite=overwrite, ours=is_export) as made,
        progress_bar() as show,
    ):
        export_batches(folder, made, wanted, per_file, embed, partial(show, "exporting"))
    say(f"written: {out} ({len(folder):,} records, {CLASSES}, {VIDEOS})")


# --- opening, checking, telling --------------------------------------------------------------


def _need_for(data: str) -> None:
    if "://" in data or "::" in data:
        require_extra("soundsight data", "prepare", "fsspec")


def _open(data: str) -> PairFolder:
    _need_for(data)
    from soundsight.data.store.shards import open_dataset

    return open_dataset(data)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _lines(value: Any) -> Iterator[str]:
    """Yield the leaves of a table as ``a.b = value``."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            for line in _lines(inner):
                yield f"{name}{'' if line.startswith(' =') else '.'}{line}"
    elif value is not None:
        yield f" = {json.dumps(value)}"


def _embedder(model: Path | None, *, stored: bool) -> Embedder:
    """Return what gives a record's embedding, float32 [E]: as stored, or of a model's encoder."""
    import io

    import numpy as np

    from soundsight.core.units import to_unit
    from soundsight.data.records import EMBEDDING, MEL
    from soundsight.data.store.shards import decode_mel
    from soundsight.runtime import model_folder
    from soundsight.runtime.session import Network

    if stored:
        return lambda record: np.load(io.BytesIO(record.files[EMBEDDING]))
    info = model_folder.read(model or model_folder.bundled())
    encoder = Network(info.folder / model_folder.ENCODER, ["mel"], ["embedding"])

    def embed(record: Record) -> Any:
        mel = to_unit(decode_mel(record.files[MEL]))[None, None]
        return encoder.run(((info.embedding_size,),), mel=mel)[0][0]

    return embed
