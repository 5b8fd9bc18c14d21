"""Sounds of none of Everyday's kinds, from free games: what ``train ood --others`` takes.

    python recipes/other_sounds.py --out runs/others

1,437 short sounds (swords, doors of a spaceship, sawing, hooves, buttons, monsters) out of
packages of Debian, fetched with ``apt-get download`` and unpacked with ``dpkg-deb``; nothing is
installed. On another system any folder of sounds that are none of the kinds does as well.

Left out, as far as names tell: sounds of the kinds that the model knows; sounds of the kinds that
refusal is measured with on val and devtest, so that these stay unheard; and voices.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    "ardentryst", "boswars-data", "bzflag-data", "colobot-common-sounds",
    "freedroidrpg-data", "hedgewars-data", "lugaru-data", "megaglest-data", "minetest-data",
    "searchandrescue-data", "simutrans-pak64", "sonic-pi-samples", "supertuxkart-data",
    "tuxpaint-stamps-default", "unknown-horizons", "wesnoth-1.16-data", "widelands-data",
)  # fmt: skip
"""Of Debian 12. Their licences: GPL, CC BY, CC BY-SA, CC0 and others that Debian holds free."""

SUFFIXES = (".ogg", ".wav", ".flac", ".opus")

KNOWN = """
    baby infant dog bark wolf puppy coyote train loco rail steam firework water splash sea
    wave river rain stream drip drop ocean cat meow kitten lion bird chick hen rooster duck
    goose gander owl crow parrot eagle hawk turkey cuckoo lark heron penguin vulture tucan
    quetzal nandou farm cow bull moo ox bison cattle frog toad car engine motor truck honk
    horn vehicle bus siren police ambul drill jackham construct child kid crowd cheer applau
    music song theme melody drum timpan snare hat kick bd sn perc loop bass tabla violin
    fiddle string cello guit banjo lute harp ambi fire flame torch burn heli chopper copter
    clock tick alarm bell ring phone knock door glass break shatter intro track race valkyries
    denube
"""

HELD_OUT = """
    sheep lamb bleat goat ram donkey mule zebra wind breeze storm thunder lightning keyboard
    typ click step foot walk church chapel chime tower tooth brush vacuum fan wash cough
    sneeze morning night crickets arctic desert tropic forest
"""

VOICES = """
    voice speech speak talk say lang human people alphabet symbols ack select merchant voi nyx
    pyr ment phys contact start attacking icant not this tux mission hogchant countdown custom
    completed underattack ready level roll dreydl hurt pain jump female male letsgo ohno
    goodidea yipee yoohoo kiss hell inn tavern restaurant airport lenautile wee ugh death
    influencer taunt desc xing ghost
"""

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def is_wanted(path: Path) -> bool:
    """Tell by its path, below its package's folder, whether a file is wanted."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    words = [word.lower() for word in _WORDS.findall(str(path.with_suffix("")))]
    left_out = tuple(f"{KNOWN} {HELD_OUT} {VOICES}".split())
    return not any(word.startswith(left_out) for word in words)


def fetch(package: str, out: Path) -> int:
    """Fetch a package and keep the wanted sounds of it in ``out``; return how many."""
    with tempfile.TemporaryDirectory() as temporary:
        # Fetched by this user: apt's own could not write into the folder.
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package]
        subprocess.run(download, cwd=temporary, check=True)
        archive = next(Path(temporary).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive.name, "all"], cwd=temporary, check=True)
        share = Path(temporary) / "all" / "usr" / "share"
        # The first two folders are the package's own name, in one way or another.
        found = [p for p in sorted(share.rglob("*")) if p.is_file() and is_wanted(_below(p, share))]
        for number, path in enumerate(found):
            shutil.copyfile(path, out / f"{number:04d}-{path.name}")
    return len(found)


def _below(path: Path, share: Path) -> Path:
    return Path(*path.relative_to(share).parts[2:])


def fetch_all(out: Path) -> None:
    """Fetch the sounds of all packages that are not in ``out`` yet."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        sys.exit(
            "error: apt-get and dpkg-deb are needed: fetch the sounds on Debian, or give a folder "
            "of other sounds of your own"
        )
    out.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if (out / package).exists():
            continue
        # A hidden folder is no folder of sounds: a run that was stopped begins the package again.
        unfinished = out / f".{package}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        print(f"{package}: {fetch(package, unfinished)} sounds", flush=True)
        unfinished.rename(out / package)


def main() -> None:
    """Fetch them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/others"))
    fetch_all(parser.parse_args().out)


if __name__ == "__main__":
    main()
