"""What the bundled model draws for one recording of each subject: the README's first picture.

    python recipes/first_draws.py --out docs/figures/first_draws.jpg

The first draw of the first recording of each subject in devtest's table. None is chosen; a sound
that is refused or named is shown so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from soundsight import Translator
from soundsight.data.everyday.folder import SUBJECTS, WORDS, find_everyday

COLUMNS, SIDE_PX, LABEL_PX, GAP_PX = 11, 112, 22, 6


def main() -> None:
    """Draw, and lay out in two rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    everyday, translator = find_everyday(), Translator.load()
    first = {sound.kind: sound for sound in reversed(everyday.sounds("devtest"))}
    rows = -(-len(SUBJECTS) // COLUMNS)
    wide, high = SIDE_PX + GAP_PX, SIDE_PX + LABEL_PX + GAP_PX
    page = Image.new("RGB", (COLUMNS * wide + GAP_PX, rows * high + GAP_PX), "white")
    ink, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number, subject in enumerate(SUBJECTS):
        made = translator.translate(everyday.path(first[subject]))
        x = GAP_PX + number % COLUMNS * wide
        y = GAP_PX + number // COLUMNS * high
        picture = Image.fromarray(made.images[0]).resize(
            (SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS
        )
        page.paste(picture, (x, y))
        ink.text((x + 2, y + SIDE_PX + 3), WORDS[subject], fill="black", font=font)
    page.save(args.out, quality=88)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
