"""Settings of the style transfer, and its named variants."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cxjax.features.vgg import Network, Padding, Pooling, check_known_layers
from cxjax.losses.contextual import Direction
from experiments.cli import flag

Loss = Literal["contextual", "gram", "perceptual"]
Layers = Literal["concatenated", "summed"]
Initial = Literal["content", "noise"]
Optimizer = Literal["novograd", "adam"]

LARGEST = 8192  # pixels; the comparisons grow with the fourth power of the side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    content: Annotated[Path | None, tyro.conf.Positional] = None
    """Picture whose things are kept; without it scikit-image's astronaut."""
    target: Annotated[Path | None, tyro.conf.Positional] = None
    """Picture whose manner is taken on; without it matplotlib's Grace Hopper."""
    content_crop: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom of the part of the content to use, in pixels."""
    target_crop: tuple[int, int, int, int] | None = None
    """The same of the target. Alike framing of the two helps."""
    out: Path | None = None
    """Folder for the results, new or empty; without it a new one under out/style_transfer/."""
    size: int = 256
    """Longest side of the result, and of the target as it is seen, in pixels."""

    network: Network = "vgg16"
    """Feature network; vgg19 needs a download or --weights."""
    weights: Path | None = None
    """File of weights for it: .safetensors, .pth, .mat, .h5 or .ckpt."""
    pooling: Pooling = "average"
    """Pooling of the network; the authors' is the average."""
    padding: Padding = "edge"
    """What the network sees around the image; zeros leave a frame in the result."""

    loss: Loss = "contextual"
    """The Contextual Loss, or a baseline: Gram (Gatys et al.) or perceptual (aligned features)."""
    style_layers: tuple[str, ...] = ("conv2_2", "conv3_2", "conv4_2")
    """Layers compared with the target's; shallow ones carry its colours."""
    content_layers: tuple[str, ...] = ("conv4_2",)
    """Layers compared with the content's."""
    layers: Layers = "summed"
    """Style layers compared each on its own and summed (the paper), or resized to one grid, divided
    by their channels and compared once (the authors' recipe). Contextual Loss only."""
    grid: str = "conv3_1"
    """Style layer whose grid the concatenated ones are resized to; a finer one costs more."""
    style_bandwidth: float = 0.2
    """h of the Contextual Loss to the target."""
    content_bandwidth: float = 0.1
    """h of the Contextual Loss to the content."""
    direction: Direction = "paper"
    """Of the loss to the target; symmetric also asks that every part of the result resemble some
    part of the target, at twice the cost."""
    content_weight: float = 1.0
    """Weight of the loss to the content; that to the target has 1."""
    tv_weight: float = 6.0
    """Weight of the total variation of the three colours."""
    chroma_tv_weight: float = 24.0
    """Weight of the total variation of each colour less the grey: of coloured specks."""
    range_weight: float = 100.0
    """Weight of the mean squared excess over [0, 1]."""

    initial: Initial = "content"
    """Where to start."""
    pyramid_levels: int = 6
    """Levels of the Laplacian pyramid that is optimised; 1 optimises the pixels themselves."""
    scales: tuple[float, ...] = (0.5, 1.0)
    """Sizes optimised one after the other, as shares of --size; the last is 1."""
    steps: tuple[int, ...] = (120, 80)
    """Steps at each of them."""
    optimizer: Optimizer = "novograd"
    """NovoGrad divides the gradient of each level of the pyramid by one number, Adam that of each
    pixel by its own, which turns what the features hardly see into noise."""
    learning_rate: float = 0.01
    """Change per step, in a picture's range of 0 to 1: with NovoGrad the root mean square of each
    level, with Adam about that of each pixel. Falls to a tenth by a cosine at each scale."""
    seed: int = 0
    """Of the noise that --initial noise starts from."""
    save_every: int = 25
    """Steps between intermediate pictures."""

    def __post_init__(self) -> None:
        positive = ("style_bandwidth", "content_bandwidth", "learning_rate")
        for name in (*positive, "content_weight", "tv_weight", "chroma_tv_weight", "range_weight"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and name in positive):
                bound = "positive" if name in positive else "at least 0"
                raise ValueError(f"{flag(name)} must be {bound}; got {value}")
        for name in ("size", "pyramid_levels", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} must be at least 1; got {getattr(self, name)}")
        if self.size > LARGEST:
            raise ValueError(f"--size must be at most {LARGEST}; got {self.size}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must lie in 0 to 2**32 - 1; got {self.seed}")
        for named in (self.style_layers, self.content_layers):
            if len(set(named)) < len(named):
                raise ValueError(f"a layer is named twice in {named}")
        check_known_layers((*self.style_layers, *self.content_layers), self.network)
        if len(self.scales) != len(self.steps) or not self.scales:
            raise ValueError(
                "--scales and --steps need one number per scale each; "
                f"got scales {self.scales} and steps {self.steps}"
            )
        if self.scales[-1] != 1 or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"--scales must lie in (0, 1] and end in 1; got {self.scales}")
        if min(self.steps) < 1:
            raise ValueError(f"--steps must be at least 1 each; got {self.steps}")
        if not self.style_layers:
            raise ValueError("--style-layers needs at least one layer")
        concatenated = self.loss == "contextual" and self.layers == "concatenated"
        if concatenated and self.grid not in self.style_layers:
            raise ValueError(
                f"--grid must be one of the style layers {self.style_layers}; got {self.grid!r}"
            )


VARIANTS = {
    "default": Config(),
    "concatenated": Config(
        layers="concatenated",
        style_layers=("conv1_1", "conv2_1", "conv3_1", "conv4_1"),
        style_bandwidth=0.1,
    ),
    "paper": Config(
        # The authors' recipe (roimehrez/contextualLoss, issue 2), whose pictures run from 0 to 255.
        # What they did not state (start, resolution, pooling) is the default or a guess: noise.
        network="vgg19",
        layers="concatenated",
        style_layers=("conv2_1", "conv3_1", "conv4_1"),
        grid="conv2_1",
        style_bandwidth=0.1,
        content_weight=0.5,
        tv_weight=1e-4 * 255**2,
        chroma_tv_weight=0.0,
        initial="noise",
        pyramid_levels=1,
        scales=(1.0,),
        steps=(300,),
        optimizer="adam",
        learning_rate=5 / 255,
    ),
    "smoke": Config(size=48, scales=(0.67, 1.0), steps=(2, 3), save_every=2),
}
