"""Guidance: pictures of flat colours that say which parts of two pictures belong together."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from cxjax.data import images

_MOST = 16  # regions; more are the colours of a photograph or of a JPEG's noise

Regions = Int[np.ndarray, "_ _"]  # height, width; the number of each pixel's region


def read_regions(
    content: Path,
    target: Path,
    *,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    crops: tuple[images.Box | None, images.Box | None] = (None, None),
) -> tuple[Regions, Regions]:
    """Reads two masks; equal colours are the same region.

    Args:
      content: Mask of the content: a picture of flat colours.
      target: Mask of the target, in which every colour of the content's occurs.
      sizes: Height and width of the content and of the target, cropped.
      crops: What is cut out of the pictures, and so of their masks.

    Returns:
      The number of each pixel's region, `(h, w)`, from 0, of the content and of the target. What
      the content does not have gets the number of regions, and so takes no part.

    Raises:
      ValueError: If a mask has more than 16 colours, is not of its picture's size, or the content's
        has a colour that the target's has not.
    """
    colours = [
        _read(path, size, crop, name)
        for path, size, crop, name in zip(
            (content, target), sizes, crops, ("--content-mask", "--target-mask"), strict=True
        )
    ]
    wanted = np.unique(colours[0])
    missing = sorted(set(wanted.tolist()) - set(np.unique(colours[1]).tolist()))
    if missing:
        named = ", ".join(f"#{colour:06x}" for colour in missing)
        raise ValueError(
            f"--content-mask {content} has the colours {named}, which --target-mask {target} has "
            "not: paint what belongs together in one colour"
        )
    of_content, of_target = (np.searchsorted(wanted, of_mask) for of_mask in colours)
    known = np.isin(colours[1], wanted)
    return of_content, np.where(known, of_target, len(wanted))


def _read(path: Path, size: tuple[int, int], crop: images.Box | None, name: str) -> Regions:
    picture = images.read_image(path, crop=crop)
    if picture.shape[:2] != size:
        height, width = picture.shape[:2]
        raise ValueError(
            f"{name} {path} is {width} x {height} px{' once cropped' if crop else ''}, its picture "
            f"{size[1]} x {size[0]}; give a mask of the picture's size"
        )
    levels = np.round(picture * 255).astype(np.int64)
    colours = levels[..., 0] * 65536 + levels[..., 1] * 256 + levels[..., 2]
    if (count := len(np.unique(colours))) > _MOST:
        raise ValueError(
            f"{name} {path} has {count} colours, where each is a region, of which there can be "
            f"{_MOST}: paint it in flat colours, without soft edges, and save it as PNG"
        )
    return colours


def resize(regions: Regions, shape: tuple[int, int]) -> Regions:
    """Regions on another grid: those of the nearest pixels."""
    return np.asarray(jax.image.resize(regions, shape, "nearest"))
