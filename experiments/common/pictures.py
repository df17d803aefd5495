"""The pictures that come with installed packages: all in the public domain, or CC0."""

import importlib.resources
from pathlib import Path
from typing import Literal

from cxjax.data import images

PORTRAITS = {  # package, file, head and shoulders
    "astronaut": ("skimage", "data/astronaut.png", (85, 0, 365, 280)),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (70, 0, 450, 380)),
}
Photograph = Literal["astronaut", "coffee", "chelsea", "rocket"]
_FILES = {
    "astronaut": "astronaut.png",
    "coffee": "coffee.png",
    "chelsea": "chelsea.png",
    "rocket": "rocket.jpg",
}


def portrait(path: Path | None, crop: images.Box | None, name: str) -> images.Picture:
    """A user's own picture, or else the portrait of this name."""
    crop = crop_of(path, crop, name)
    if path is not None:
        return images.read_image(path, crop=crop)
    package, file, _ = PORTRAITS[name]
    return _read(package, file, crop)


def crop_of(path: Path | None, crop: images.Box | None, name: str) -> images.Box | None:
    """What `portrait` cuts out: what was asked for, else of its own pictures the head and
    shoulders."""
    return crop or (PORTRAITS[name][2] if path is None else None)


def photograph(name: Photograph, *, shortest_side: int) -> images.Picture:
    """A photograph of scikit-image, scaled."""
    picture = _read("skimage", f"data/{_FILES[name]}", None)
    return images.resize_shorter(picture, shorter_side=shortest_side)


def _read(package: str, file: str, crop: images.Box | None) -> images.Picture:
    with importlib.resources.as_file(importlib.resources.files(package) / file) as path:
        return images.read_image(path, crop=crop)
