"""Pictures of several finished runs beside each other: strips of a pair, and galleries of pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxjax.data import images
from experiments.style_transfer.config import PairName
from experiments.style_transfer.data import PAIRS

_WIDTH, _SMALLEST = 1152, 128  # pixels of a gallery, and of a square in it

Files = Mapping[str, Path]
"""Results of a pair, by the names to show."""


def write(folder: Path, files: Mapping[PairName, Files], *, size: int) -> None:
    """Writes a strip of each pair, as `PAIR/strip.png`, and a gallery of all pairs, `gallery.png`.

    A strip has content, target, and what was made of them and is here, in the content's size. The
    gallery has squares under their names: a row for each pair, or two in a row where only one
    result is shown, of the results that all pairs can have; a pair that lacks one is left out.

    Args:
      folder: Where to write.
      files: Results of each pair.
      size: Longest side of content and target, in pixels.
    """
    for pair, paths in files.items():
        if made := [images.read_image(path) for path in paths.values() if path.is_file()]:
            content, target, _ = PAIRS[pair].read(size)
            made = [images.resize_to(picture, content.shape[:2]) for picture in made]
            (folder / pair).mkdir(parents=True, exist_ok=True)
            strip = images.strip([content, target, *made])
            images.write_image(folder / pair / "strip.png", strip)
    of_each = list(files.values())
    common = (
        [name for name in of_each[0] if all(name in paths for paths in of_each)] if files else []
    )
    shown = []
    for pair, paths in files.items():
        if common and all(paths[name].is_file() for name in common):
            made = [images.read_image(paths[name]) for name in common]
            shown.append([*PAIRS[pair].read(size)[:2], *made])
    names = ["content", "target", *common]
    if not shown:
        return
    if len(names) == 3 and len(shown) % 2 == 0:
        names = 2 * names
        shown = [left + right for left, right in zip(shown[::2], shown[1::2], strict=True)]
    side = min(size, max(_WIDTH // len(names), _SMALLEST))
    rows = [np.concatenate([_in_square(picture, side) for picture in row], 1) for row in shown]
    path = folder / "gallery.png"
    images.write_image(path, np.concatenate([_headings(names, side), *rows]))
    print(f"{path}: {', '.join(names)}; pair by pair")


def _headings(names: Sequence[str], side: int) -> images.Picture:
    """The names side by side, each as wide as a square, in as many lines as it takes."""
    size = max(9, min(side // 9, 14))
    font = ImageFont.load_default(size)
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines_of = []
    for name in names:
        lines = [""]
        for word in name.split():
            longer = f"{lines[-1]} {word}".strip()
            fits = canvas.textlength(longer, font=font) <= side - 4
            lines = [*lines[:-1], longer] if fits or not lines[-1] else [*lines, word]
        lines_of.append(lines)
    height = round(1.3 * size)
    lines = max(map(len, lines_of))
    image = Image.new("RGB", (side * len(names), height * lines + 4), "white")
    draw = ImageDraw.Draw(image)
    for column, lines in enumerate(lines_of):
        for number, line in enumerate(lines):
            draw.text((column * side + 2, 2 + number * height), line, "black", font=font)
    return np.asarray(image, np.float32) / 255


def _in_square(picture: images.Picture, side: int) -> images.Picture:
    """The picture, made smaller, in the middle of a white square."""
    picture = images.resize(picture, longest_side=side - 4)
    square = np.ones((side, side, 3), np.float32)
    top, left = ((side - length) // 2 for length in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square
