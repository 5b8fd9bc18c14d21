"""What travels through preparation: a clip (work to do) and a record (one finished pair)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

MEL = "mel.png"
"""Name of a record's log-mel: lossless grey PNG, 128 high, row 0 the highest band."""

SIDECAR = "json"
EMBEDDING = "emb.npy"
"""Name of a record's embedding, float32 [E]; only where a dataset was made from embeddings."""

IMAGES = ("jpg", "webp")
"""Names that a record's picture may have, by its coding."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video, or a part of one, to be cut into pairs."""

    path: str  #: where it is read: a local path, or a URL that fsspec opens
    #: Its stable name: the path below the source (with ``/``), followed by ``#start-end`` where
    #: only a part is used. The same on every machine, unique within a dataset.
    key: str
    group: str  #: clips of one group stay in one split (the YouTube id where it is known)
    start_s: float | None = None  #: seconds of the file; None for its beginning
    end_s: float | None = None  #: where it ends; None for the file's end
    label: str | None = None  #: class name, for cleaning and evaluation only
    split: str | None = None  #: the split that the source asks for
    licence: str | None = None  #: of the video

    @property
    def id(self) -> str:
        """16 hex digits that keep identity and drop all else that a name says (a class, say)."""
        return f"{stable_hash(self.key):016x}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One pair as it lies in a shard."""

    key: str  #: ``<clip id>_<window, 6 digits>``: no dot, WebDataset splits names at the first
    files: Mapping[str, bytes]  #: ``MEL``, ``SIDECAR``, ``jpg`` ... -> content
    reasons: tuple[str, ...] = ()  #: cleaning steps that drop it
    sums: tuple[int, ...] = ()  #: of levels and of their squares: log-mel, red, green, blue
    #: Its bytes in a tar, headers and padding included, where it was read from a part.
    stretch: bytes = field(default=b"", compare=False, repr=False)


def rank_of(clip: Clip) -> int:
    """Which of videos that are alike is kept: one that evaluation reserves before all others."""
    return {"test": 0, "val": 1}.get(clip.split or "", 2)


def stable_hash(text: str) -> int:
    """A 64-bit number from a text, the same everywhere and forever."""
    data = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def opaque_id(name: str) -> int:
    """A number that keeps identity and drops everything else a name says (its class, above all)."""
    data = name.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(data, digest_size=8, key=b"soundsight pair").digest()
    return int.from_bytes(digest, "little") >> 1
