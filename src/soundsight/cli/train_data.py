"""What ``--data`` of ``soundsight train`` names: benches, prepared datasets, Everyday's folder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundsight.cli.console import say
from soundsight.core.errors import ConfigError
from soundsight.core.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soundsight.data.everyday.folder import Everyday
    from soundsight.data.store.dataset import PairDataset
    from soundsight.data.store.shards import PairFolder
    from soundsight.data.vegas.bench import Bench
    from soundsight.models.ears import Ears
    from soundsight.training.configs import BankConfig, MixtureConfig
    from soundsight.training.devices import Devices
    from soundsight.training.ears_data import EarsData
    from soundsight.training.flow_data import FlowPairs
    from soundsight.training.kinds import KindSeconds

_SHOWN = 16


def open_all(data: list[Path] | None) -> list[Bench | PairFolder]:
    """Open the pairs that ``--data`` names; without it the bench."""
    from soundsight.data.store.dataset import open_pairs

    return [open_pairs(where) for where in data] if data else [open_pairs(None)]


def about_all(pairs: list[Bench | PairFolder], split: str) -> dict[str, Any]:
    """Say which pairs these are, wherever they lie."""
    from soundsight.data.store.dataset import describe

    about = [describe(place, split) for place in pairs]
    return about[0] if len(about) == 1 else {"kind": "several", "of": about, "split": split}


@dataclass(frozen=True, kw_only=True, eq=False)
class EverydayData:
    """What the everyday parts are trained on: Everyday's folder, other pairs, or both.

    Attributes:
        everyday: Everyday's folder with the bench beside it, or None.
        pairs: datasets of `soundsight prepare`, and benches.
    """

    everyday: tuple[Everyday, Bench] | None
    pairs: list[Bench | PairFolder]

    def about(self, digest: str) -> dict[str, Any]:
        """Say what these are, for the run's record."""
        own = "several" if self.everyday else "prepared"
        return {"kind": own if self.pairs else "everyday", "sha256": digest}

    def folder(self, bank: Path) -> Path:
        """Return where what is made of them is kept: other pairs do not displace Everyday's."""
        return bank / "own" if self.pairs else bank

    def ears(
        self,
        bank: Path,
        config: BankConfig,
        tell: Callable[[str, int, int], None],
        teacher: Path | None = None,
        mixtures: MixtureConfig | None = None,
    ) -> EarsData:
        """Return seconds, photo features and pairs."""
        from soundsight.training.ears_data import joined, open_ears_data, prepared_ears_data

        if self.everyday is None and teacher is not None:
            raise ConfigError("--teacher hears waveforms, and prepared pairs hold none")
        parts = []
        if self.everyday is not None:
            parts.append(
                open_ears_data(
                    bank, *self.everyday, config, teacher=teacher, mixtures=mixtures, tell=tell
                )
            )
        if self.pairs:
            parts.append(
                prepared_ears_data(self.folder(bank), self._train, self._digest, tell=tell)
            )
        return functools.reduce(joined, parts)

    def photos(self) -> tuple[str, NDArray[np.uint8]]:
        """Return the train photos, in the order of those of :meth:`ears`, and a hash of them."""
        import numpy as np

        from soundsight.data.everyday.folder import read_photos

        names: list[str] = []
        levels: list[NDArray[np.uint8]] = []
        if self.everyday is not None:
            names, found = read_photos(*self.everyday, "train")
            levels.append(found)
        if self.pairs:
            names = [*names, self._digest]
            levels.append(self._train.photos())
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        return digest, levels[0] if len(levels) == 1 else np.concatenate(levels)

    def shown(self) -> NDArray[np.uint8] | None:
        """Return some photos of val, uint8 [n, 3, 96, 96]; None where there is no val."""
        from soundsight.data.everyday.folder import read_photos
        from soundsight.data.store.dataset import PairDataset, describe

        if self.everyday is not None:
            return read_photos(*self.everyday, "val", every=80)[1]
        if not any(describe(place, "val")["pairs"] for place in self.pairs):
            return None
        photos = PairDataset(self.pairs, "val").photos()
        return photos[:: -(-len(photos) // _SHOWN)]

    @functools.cached_property
    def _train(self) -> PairDataset:
        from soundsight.data.store.dataset import PairDataset

        return PairDataset(self.pairs, "train")

    @functools.cached_property
    def _digest(self) -> str:
        about = json.dumps(about_all(self.pairs, "train"), sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()


def open_everyday(data: list[Path] | None) -> EverydayData:
    """Open what ``--data`` names; without it Everyday's folder.

    Raises:
        ConfigError: when Everyday's folder is named more than once.
        DataError: when something is missing or damaged.
    """
    from soundsight.data.everyday.folder import find_everyday, is_everyday
    from soundsight.data.vegas.bench import find_bench

    named = [where for where in data or [] if is_everyday(where)]
    others = [where for where in data or [] if where not in named]
    if len(named) > 1:
        raise ConfigError("--data names Everyday's folder more than once")
    pairs = open_all(others) if others else []
    if others and not named:
        return EverydayData(everyday=None, pairs=pairs)
    where = named[0] if named else None
    return EverydayData(everyday=(find_everyday(where), find_bench()), pairs=pairs)


def flow_pairs(
    source: EverydayData, encoder: Path, decoder: Path, bank: Path, here: Devices, seed: int
) -> FlowPairs:
    """Return what the flow learns from; kept beside the bank, by encoder and decoder."""
    from soundsight.training.configs import BankConfig
    from soundsight.training.flow_data import flow_pairs_of

    def opened() -> FlowPairs:
        with progress_bar(log=True) as show:
            return flow_pairs_of(
                source.folder(bank), source.ears(bank, BankConfig(seed=seed), show), encoder,
                decoder, lambda: source.photos()[1], seed=seed, tell=show,
            )  # fmt: skip

    with here.autocast():
        if here.world > 1:
            # One process embeds and encodes, and all read it.
            here.on_first(lambda: opened().digest)
        return opened()


def everyday_seconds(
    ears: Ears, encoder: Path, data: list[Path] | None, others: Path | None, bank: Path
) -> tuple[KindSeconds, KindSeconds, KindSeconds | None]:
    """Return seconds with their features: train, val, and a folder of other sounds where given.

    What cannot be read of this folder is named on standard error.
    """
    from soundsight.training.kinds import hear_labelled, joined, open_kinds, open_others

    source = open_everyday(data)
    assert source.everyday is not None
    unread: list[str] = []
    found = None
    with progress_bar(log=True) as show:
        train, val = (
            joined(
                [
                    open_kinds(bank, encoder, *source.everyday, split, tell=show),
                    *hear_labelled(ears, source.pairs, split),
                ]
            )
            for split in ("train", "val")
        )
        if others is not None:
            found = open_others(bank, encoder, others, tell=show, unread=unread.append)
    if unread:
        say(f"left out {len(unread)} that cannot be read, such as: {unread[0]}", err=True)
    return train, val, found
