"""Paintings and photographs out of GCompris, a collection of games for children."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cxjax.data.images import on_white
from experiments.datasets.archives import CorruptArchiveError, read_members, read_rcc
from experiments.datasets.builder import Builder, open_picture
from experiments.datasets.fetch import fetch

_SMALLEST = 256  # pixels of the shorter side of a photograph
_CITATION = "GCompris 3.1, gcompris.net; each picture's origin is in its feature `licence`."
_PIECE = re.compile(
    r'"pixmapfile"\s*:\s*"image/([^"]+\.webp)"[^}]*?"x"\s*:\s*"([\d.]+)"[^}]*?'
    r'"y"\s*:\s*"([\d.]+)"'
)
_BOARD = re.compile(r'"width"\s*:\s*(\d+),\s*"height"\s*:\s*(\d+)')
_TITLE = re.compile(r'instruction\s*:\s*qsTr\("([^"]*)"\)')


class Paintings(Builder):
    features = {"title": tfds.features.Text(), "licence": tfds.features.Text()}
    citation = _CITATION

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        archives = _archives("paintings", "details")
        examples = [*_assembled(archives["paintings"]), *_details(archives["details"], True)]
        yield from enumerate(sorted(examples, key=lambda example: example["id"]))


class Photographs(Builder):
    features = {
        "title": tfds.features.Text(),
        "licence": tfds.features.Text(),
        "group": tfds.features.Text(),
    }
    citation = _CITATION
    groups = {
        "train": ("erase", "explore_farm_animals", "explore_monuments", "details"),
        "test": ("explore_world_animals",),
    }

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        archives = _archives(*(group for groups in self.groups.values() for group in groups))
        return {
            split: self._generate_examples({group: archives[group] for group in groups})
            for split, groups in self.groups.items()
        }

    def _generate_examples(
        self, archives: dict[str, dict[str, bytes]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for group, files in archives.items():
            photographs = _details(files, False) if group == "details" else _photographs(files)
            for example in photographs:
                if min(example["image"].size) >= _SMALLEST:
                    yield number, example | {"group": group, "id": f"{group}/{example['id']}"}
                    number += 1


def _archives(*names: str) -> dict[str, dict[str, bytes]]:
    """The .rcc archives of these names; folders inside are cut down to the activity's own."""
    wanted = {f"usr/share/gcompris-qt/rcc/{name}.rcc": name for name in names}
    package = fetch("gcompris-qt-data")
    archives = {}
    for member, content in read_members(package, wanted.__contains__):
        name = wanted[member]
        prefix = f"gcompris/src/activities/{name}/resource/"
        archives[name] = {
            path.removeprefix(prefix): file
            for path, file in read_rcc(content).items()
            if path.startswith(prefix)
        }
    missing = sorted(set(names) - set(archives))
    if missing:
        raise CorruptArchiveError(f"{package} has no archives {', '.join(missing)}")
    return archives


def _assembled(files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    """The jigsaws put together: a board tells where the centre of each piece lies."""
    for name in sorted(files):
        if not name.startswith("board/"):
            continue
        board = files[name].decode()
        title, size = _TITLE.search(board), _BOARD.search(board)
        pieces = _PIECE.findall(board)
        if title is None or size is None or not pieces:
            raise CorruptArchiveError(f"paintings.rcc: {name} is not a board")
        placed = [
            (open_picture(piece, files[f"image/{piece}"]), float(x), float(y))
            for piece, x, y in pieces
        ]
        picture = assemble(placed, width=int(size[1]), height=int(size[2]))
        yield {
            "image": picture,
            "id": re.sub(r"[_-][a-z]?\d+\.webp$", "", pieces[0][0]),
            "title": title[1],
            "licence": "WebMuseum's scan, GPL-3.0-or-later by its README; the painting is in the "
            "public domain",
        }


def assemble(
    pieces: Sequence[tuple[Image.Image, float, float]], *, width: int, height: int
) -> Image.Image:
    """Puts a jigsaw together, and fills the joints between its pieces from their surroundings.

    Args:
      pieces: Pictures, and where the centre of each lies, as shares of the board's width and
        height.
      width: Of the board, in pixels.
      height: Of the board, in pixels.

    Returns:
      The picture, RGB, as large as the pieces together.
    """
    board = Image.new("RGBA", (width, height))
    for piece, x, y in pieces:
        left, top = round(x * width - piece.width / 2), round(y * height - piece.height / 2)
        layer = Image.new("RGBA", board.size)
        layer.paste(piece.convert("RGBA"), (left, top))
        board.alpha_composite(layer)
    return fill(board.crop(board.getbbox()))


def fill(picture: Image.Image) -> Image.Image:
    """Replaces transparent pixels by the mean of the opaque ones around, from the rim inwards.

    Args:
      picture: RGBA; a pixel of half opacity or more counts as opaque.

    Returns:
      The picture, RGB. Without an opaque pixel it is black.
    """
    pixels = np.asarray(picture.convert("RGBA"), np.float32)
    known = pixels[..., 3] >= 128
    colours = np.where(known[..., None], pixels[..., :3], 0)
    while not known.all() and known.any():
        count, total = np.zeros(known.shape, np.float32), np.zeros_like(colours)
        padded, padded_colours = np.pad(known, 1), np.pad(colours, ((1, 1), (1, 1), (0, 0)))
        for dy, dx in np.ndindex(3, 3):
            window = np.s_[dy : dy + known.shape[0], dx : dx + known.shape[1]]
            count += padded[window]
            total += padded_colours[window]
        reached = ~known & (count > 0)
        colours[reached] = total[reached] / count[reached][:, None]
        known = known | reached
    return Image.fromarray(colours.round().astype(np.uint8))


def _details(files: dict[str, bytes], paintings: bool) -> Iterator[dict[str, Any]]:
    """The whole pictures of the game that hides details: paintings, or the photographs."""
    licences = read_licences(files["image/README"].decode())
    titles = {}
    for name, content in files.items():
        if name.startswith("board/"):
            board = content.decode()
            picture, title = re.search(r"image/(\S+_background\.webp)", board), _TITLE.search(board)
            if picture and title:
                titles[picture[1]] = title[1]
    for name in sorted(files):
        file = name.removeprefix("image/")
        if not file.endswith("_background.webp"):
            continue
        licence = licences.get(file, "")
        if ("painting" in licence) == paintings:
            yield {
                "image": on_white(open_picture(name, files[name])),
                "id": file.removesuffix("_background.webp"),
                "title": titles.get(file, ""),
                "licence": licence,
            }


def _photographs(files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    """The photographs of the game in which one wipes, and of those in which one explores."""
    readme = next(content for name, content in files.items() if name.endswith("README"))
    licences = read_licences(readme.decode())
    for name in sorted(files):
        if name.endswith(".webp"):
            stem = name.removeprefix("animals/").removesuffix(".webp")
            file = name.removeprefix("animals/")
            yield {
                "image": on_white(open_picture(name, files[name])),
                "id": stem.rsplit("/", 1)[-1],
                "title": stem,
                "licence": licences.get(file, licences.get(name, "")),
            }


def read_licences(readme: str) -> dict[str, str]:
    """Who made the pictures and on what terms, from a README of GCompris.

    Args:
      readme: Paragraphs, each naming files and saying `Copyright:`, `License:` and so on.

    Returns:
      Name of a file -> the statements about it, joined.
    """
    licences = {}
    for paragraph in re.split(r"\n\s*\n", readme):
        files = re.findall(r"[\w./-]+\.webp", paragraph)
        said = [line.strip() for line in paragraph.splitlines() if ": " in line]
        said = [line for line in said if not line.startswith("Files:")]
        licences |= dict.fromkeys(files, "; ".join(said))
    return licences
