"""The pictures of a run: a user's own, or a pair of those that the grids take, with masks drawn for
two of them.

Every picture of the pairs is in the public domain or CC0, so that results may be shown; where each
comes from is said by its package. All but the first pair's target come with GCompris, which apt
carries.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cxjax.data import images
from experiments.common.pictures import crop_of, portrait
from experiments.datasets import prepare
from experiments.style_transfer import masks
from experiments.style_transfer.config import Config, PairName

Polygon = Sequence[tuple[float, float]]  # per cent of the picture's width and height


class Pictures(NamedTuple):
    """What a run is made of."""

    content: images.Picture
    target: images.Picture
    regions: tuple[masks.Regions, masks.Regions] | None = None
    """The number of each pixel's region, of the content and of the target, if masks guide it."""


def read(config: Config) -> Pictures:
    """A user's pictures and masks; what is not given comes with an installed package.

    Masks are of whole pictures, and cut as these are.
    """
    given = (
        (config.content, config.content_crop, "astronaut"),
        (config.target, config.target_crop, "grace_hopper"),
    )
    content, target = (portrait(*source) for source in given)
    if config.content_mask is None or config.target_mask is None:
        return Pictures(content, target)
    regions = masks.read_regions(
        config.content_mask,
        config.target_mask,
        sizes=(content.shape[:2], target.shape[:2]),
        crops=(crop_of(*given[0]), crop_of(*given[1])),
    )
    return Pictures(content, target, regions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a picture comes from, and what is cut out of it."""

    dataset: Literal["installed", "paintings", "photographs"]
    name: str
    crop: images.Box | None = None
    regions: tuple[Polygon, ...] = ()  # painted one over the other; all else is region 0

    def read(self) -> images.Picture:
        if self.dataset == "installed":
            return portrait(None, self.crop, self.name)
        picture = _pictures(self.dataset)[self.name]
        return picture if self.crop is None else images.cut(picture, self.crop)

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """The number of each pixel's region, `(h, w)`."""
        height, width = shape
        mask = Image.new("L", (width, height))
        for number, polygon in enumerate(self.regions, start=1):
            points = [(x / 100 * width, y / 100 * height) for x, y in polygon]
            ImageDraw.Draw(mask).polygon(points, fill=number)
        return np.asarray(mask).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two pictures, and masks of both or of none."""

    content: Source
    target: Source

    def read(self, size: int | None = None) -> Pictures:
        """Content and target, their longest sides `size` pixels if it is given, and their regions
        if masks were drawn."""
        content, target = (
            picture if size is None else images.resize(picture, longest_side=size)
            for picture in (self.content.read(), self.target.read())
        )
        if not self.content.regions:
            return Pictures(content, target)
        regions = (self.content.mask(content.shape[:2]), self.target.mask(target.shape[:2]))
        return Pictures(content, target, regions)


def _photograph(name: str, crop: images.Box | None = None, *regions: Polygon) -> Source:
    return Source(dataset="photographs", name=name, crop=crop, regions=regions)


def _painting(name: str, crop: images.Box | None = None, *regions: Polygon) -> Source:
    return Source(dataset="paintings", name=name, crop=crop, regions=regions)


@functools.cache
def _pictures(dataset: str) -> dict[str, images.Picture]:
    wanted = {
        source.name
        for pair in PAIRS.values()
        for source in (pair.content, pair.target)
        if source.dataset == dataset
    }
    builder = prepare(dataset)
    pictures = {}
    for split in builder.info.splits:
        for example in builder.as_data_source(split=split):
            if (name := example["id"].decode()) in wanted:
                pictures[name] = example["image"].astype(np.float32) / 255
    return pictures


_ASTRONAUT = Source(dataset="installed", name="astronaut")
# fmt: off
_CATHEDRAL = (
    (0, 47), (6, 46), (12, 47), (13, 38), (18, 26), (20, 31), (22, 34), (30, 35), (35, 39),
    (37, 33), (39, 37), (47, 37), (54, 35), (55.5, 10), (56, 6), (56.5, 10), (58.5, 33), (66, 43),
    (69, 50), (70, 45), (71, 52), (75, 55), (77.5, 42), (80, 55), (84, 58), (85.5, 50), (87.5, 62),
    (90, 68), (91, 78), (91, 100), (0, 100),
)
_TREES = (
    (30, 100), (36, 90), (41, 82), (50, 80), (62, 83), (74, 81), (84, 79), (91, 77), (93, 72),
    (96, 70), (100, 72), (100, 100),
)
_CHURCH = (
    (17, 43), (20, 42), (35, 32), (46, 29), (50, 25), (51, 12), (55, 8), (57, 6), (59, 9), (65, 12),
    (70, 18), (73, 25), (73.5, 33), (86, 32), (87, 29), (88, 33), (92, 40), (97, 48), (98, 68),
    (12, 68), (10, 66), (13, 60), (14, 47),
)
_MEADOW = (
    (0, 52), (5, 52), (10, 54), (13, 60), (10, 66), (12, 68), (30, 65), (48, 66), (60, 66),
    (80, 67), (85, 68), (98, 68), (100, 56), (100, 100), (0, 100),
)
_POLAR_BEAR = (
    (24.5, 60), (29, 59), (31, 52), (33, 44), (37, 37), (43, 33.5), (50, 33.5), (56, 36), (63, 35),
    (70, 41), (77, 41.5), (79, 42), (83, 52), (83, 54), (75, 54), (77, 60), (79, 70), (80, 75),
    (75, 75), (73, 71), (70, 65), (66, 58), (62, 57), (59, 61), (59, 74), (52, 74.5), (51.5, 66),
    (49, 60), (47, 60), (47, 71), (50, 73), (44, 74.5), (40, 72), (40, 63), (36, 64), (30, 67),
    (28.5, 70), (24.5, 70),
)
_BISON = (
    (20, 26), (20.5, 24), (21, 30), (23, 24), (27, 22), (33, 23), (35, 15), (40, 12), (46, 12.5),
    (55, 15), (63, 18), (68, 20), (72, 20), (76, 23), (79, 27), (80.5, 34), (80, 45), (77, 55),
    (77.5, 65), (76, 74), (72, 74), (71, 63), (70, 58), (66, 57), (60, 60), (55, 62), (55, 69),
    (48, 69), (43, 67), (37, 66), (34, 60), (32, 67), (27, 66), (25.5, 60), (23, 54), (23, 45),
    (22, 37), (20, 32),
)
# fmt: on

PAIRS: dict[PairName, Pair] = {
    "astronaut-hopper": Pair(
        content=_ASTRONAUT, target=Source(dataset="installed", name="grace_hopper")
    ),
    "astronaut-tanguy": Pair(
        content=_ASTRONAUT, target=_painting("PortraitOfPereTanguy", (74, 40, 307, 278))
    ),
    "cathedral-church": Pair(
        content=_photograph("explore_monuments/reimsCathedral", None, _CATHEDRAL, _TREES),
        target=_painting("Eglise_dAuvers-sur-Oise", None, _CHURCH, _MEADOW),
    ),
    "gateway-cafe": Pair(
        content=_photograph("explore_monuments/gatewayofIndia"), target=_painting("Gogh4")
    ),
    "aqueduct-bridge": Pair(
        content=_photograph("explore_monuments/pontduGard"),
        target=_painting("VincentVanGoghBridge", (4, 4, 660, 490)),
    ),
    "canyon-harvest": Pair(
        content=_photograph("explore_monuments/canyondeChelly"),
        target=_painting("VincentVanGogh0019", (4, 8, 600, 492)),
    ),
    "bear-bison": Pair(
        content=_photograph("explore_world_animals/polar_bear", None, _POLAR_BEAR),
        target=_photograph("explore_world_animals/bison", None, _BISON),
    ),
    "macaw-kingfisher": Pair(
        content=_photograph("explore_world_animals/scarlet_macaw"),
        target=_photograph("erase/kingfisher", (300, 0, 1380, 1080)),
    ),
}
