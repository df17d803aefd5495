"""Settings of the picture of matches, and its named variants."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import tyro

from cxjax.features.vgg import Network, check_known_layers
from experiments.cli import flag

MOST_POINTS = 128 * 128  # whose matrix of distances holds 1 GB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    x: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[X]")] = None
    """Picture of the sources, on the left; without it scikit-image's astronaut."""
    y: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[Y]")] = None
    """Picture of the targets, on the right; without it matplotlib's Grace Hopper."""
    x_crop: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom of the part of x to use, in pixels."""
    y_crop: tuple[int, int, int, int] | None = None
    """The same of y, in pixels."""
    out: Path | None = None
    """Folder for the results, new or empty; without it a new one under out/correspondences/."""
    size: int = 256
    """Longest side of both pictures as the network sees them, in pixels."""
    network: Network = "vgg16"
    """Feature network; vgg19 needs a download or --weights."""
    weights: Path | None = None
    """File of weights for it: .safetensors, .pth, .mat, .h5 or .ckpt."""
    layers: tuple[str, ...] = ("conv4_2",)
    """Layers that a point's features are of; several are resized to the first one's grid."""
    bandwidth: float = 0.2
    """h of the Contextual Similarity, above 0; the smaller, the more the nearest alone counts."""
    strongest: int = 20
    """Number of matches to draw: those of the highest similarity."""
    apart: float = 0.1
    """Least distance of the targets drawn, as a share of --size, 0 to 1."""
    drawn_size: int = 384
    """Longest side of each picture as it is drawn, in pixels, 1 to 8192."""

    def __post_init__(self) -> None:
        check(self)
        if self.strongest < 1:
            raise ValueError(f"--strongest must be at least 1; got {self.strongest}")
        if not 0 <= self.apart <= 1:
            raise ValueError(f"--apart must lie in 0 to 1; got {self.apart}")
        if not 1 <= self.drawn_size <= 8192:
            raise ValueError(f"--drawn-size must lie in 1 to 8192; got {self.drawn_size}")
        check_positive("bandwidth", self.bandwidth)


def check(config) -> None:
    """Checks what the picture and the table have in common: size, network and layers."""
    if not config.layers:
        raise ValueError("--layers needs at least one layer")
    check_known_layers(config.layers, config.network)
    if len(set(config.layers)) < len(config.layers):
        raise ValueError(f"a layer is named twice in --layers {' '.join(config.layers)}")
    least = max(map(stride, config.layers))
    if config.size < least:
        raise ValueError(
            f"--size must be at least {least} for {' '.join(config.layers)}; got {config.size}"
        )
    count = (config.size // stride(config.layers[0])) ** 2
    if count > MOST_POINTS:
        raise ValueError(
            f"--size {config.size} has {count:,} points in the grid of {config.layers[0]}, and "
            f"{MOST_POINTS:,} is the most: take a smaller size, or a deeper layer first"
        )


def check_positive(name: str, *values: float) -> None:
    """Checks numbers that must be positive and finite."""
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{flag(name)} must be positive; got {value}")


def stride(layer: str) -> int:
    """Pixels from one cell of a layer to the next: `conv4_2` has 8, and so has `pool3`."""
    block = int(layer.removeprefix("pool").removeprefix("conv").removeprefix("relu")[0])
    return 2 ** (block if layer.startswith("pool") else block - 1)


VARIANTS = {
    "default": Config(),
    # What the paper's Fig. 3 was drawn with is not known: these are the network, a layer and h of
    # the authors' released code.
    "paper": Config(network="vgg19", bandwidth=0.5),
    "smoke": Config(size=64, layers=("conv2_2",), strongest=6, drawn_size=96),
}
