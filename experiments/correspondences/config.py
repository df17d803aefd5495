"""Settings of the picture of matches and of the tables of right ones, and their variants."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from cxjax.data.images import Box
from cxjax.features.vgg import Network, check_known_layers
from experiments.common.pictures import Photograph
from experiments.common.runs import RunConfig, check_distinct, check_numbers

MOST_POINTS = 128 * 128  # whose matrix of distances holds 1 GB
Condition = Literal["warped", "recoloured"]  # and warped before that


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointsConfig(RunConfig):
    """What the points are that are matched."""

    INCIDENTAL: ClassVar = (*RunConfig.INCIDENTAL, "weights")

    size: int = 256
    """Longest side of both pictures as the network sees them, in pixels."""
    network: Network = "vgg16"
    """Feature network; vgg19 needs a download or --weights."""
    weights: Path | None = None
    """File of weights for it: .safetensors, .pth, .mat, .h5 or .ckpt."""
    layers: tuple[str, ...] = ("conv4_2",)
    """Layers that a point's features are of; several are resized to the first one's grid."""

    def __post_init__(self) -> None:
        check_distinct(self, "layers")
        check_known_layers(self.layers, self.network)
        least = max(map(stride, self.layers))
        if self.size < least:
            raise ValueError(
                f"--size must be at least {least} for {' '.join(self.layers)}; got {self.size}"
            )
        count = (self.size // stride(self.layers[0])) ** 2
        if count > MOST_POINTS:
            raise ValueError(
                f"--size {self.size} has {count:,} points in the grid of {self.layers[0]}, and "
                f"{MOST_POINTS:,} is the most: take a smaller size, or a deeper layer first"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PointsConfig):
    x: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[X]")] = None
    """Picture of the sources, on the left; without it scikit-image's astronaut."""
    y: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[Y]")] = None
    """Picture of the targets, on the right; without it matplotlib's Grace Hopper."""
    x_crop: Box | None = None
    """Left, top, right, bottom of the part of x to use, in pixels."""
    y_crop: Box | None = None
    """The same of y, in pixels."""
    bandwidth: float = 0.2
    """h of the Contextual Similarity, above 0; the smaller, the more the nearest alone counts."""
    strongest: int = 20
    """Number of matches to draw: those of the highest similarity."""
    apart: float = 0.1
    """Least distance of the targets drawn, as a share of --size, 0 to 1."""
    drawn_size: int = 384
    """Longest side of each picture as it is drawn, in pixels, 1 to 8192."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "strongest", least=1)
        check_numbers(self, "apart", most=1)
        check_numbers(self, "drawn_size", least=1, most=8192)
        check_numbers(self, "bandwidth", above=True)

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        names = (self.x.stem if self.x else "astronaut", self.y.stem if self.y else "grace_hopper")
        return Path("out/correspondences") / "-".join(names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarpsConfig(PointsConfig):
    """Photographs under smooth warps, whose true matches are known; a run is of one photograph
    under one condition.
    """

    photographs: tuple[Photograph, ...] = ("astronaut", "coffee", "chelsea")
    """Photographs of scikit-image."""
    conditions: tuple[Condition, ...] = ("warped", "recoloured")
    """Whether the warped photographs are recoloured too."""
    seeds: int = 5
    """Number of warps of each photograph, 1 to 1000."""
    bandwidths: tuple[float, ...] = (0.1, 0.2, 0.5)
    """h of the Contextual Similarity, above 0, a row each."""
    spatial_weights: tuple[float, ...] = (0.25,)
    """CoBi's weight of a displacement as long as the picture's side, above 0, a row each."""
    radii: tuple[float, ...] = (4.0, 8.0, 16.0)
    """How far from the truth a match may be, in pixels, a column each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(self, "photographs", "conditions", "radii")
        check_numbers(self, "bandwidths", "spatial_weights", "radii", above=True)
        check_numbers(self, "seeds", least=1, most=1000)

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        return Path("out/correspondences/warps")


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
