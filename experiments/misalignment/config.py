"""Settings of the misalignment experiment, and its named variants."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal, get_args

from cxjax.features.vgg import check_known_layers
from experiments.common.runs import RunConfig, check_distinct, check_numbers

Loss = Literal[
    "none",  # leaves the source as it is
    "mean",  # of the targets
    "l1",
    "l2",
    "perceptual",
    "contextual",
    "contextual_l2",
    "cobi",
    "sliced_wasserstein",
]
LOSSES: tuple[Loss, ...] = get_args(Loss)
OPTIMIZED = LOSSES[2:]
SMALLEST = 31  # pixels that AlexNet, which LPIPS is computed with, needs

# What the grid `tune` found best, on another photograph than the table's.
TUNED: dict[str, dict[str, float]] = {
    "l1": {"learning_rate": 0.003},
    "l2": {"learning_rate": 0.003},
    "perceptual": {"learning_rate": 0.003},
    "contextual": {"learning_rate": 0.003, "bandwidth": 0.5},
    "contextual_l2": {"learning_rate": 0.003, "bandwidth": 0.5},
    "cobi": {"learning_rate": 0.003, "spatial_weight": 0.1},
    "sliced_wasserstein": {"learning_rate": 0.01},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """What a loss compares, and how."""

    patch: int = 5
    """Side of the RGB patches that are compared, in pixels. L1, L2 and perceptual have none."""
    stride: int = 2
    """Pixels from one patch to the next."""
    bandwidth: float | None = None
    """h of the Contextual Loss, above 0; None is what was tuned."""
    spatial_weight: float | None = None
    """Weight of CoBi's spatial distance, whose unit is the crop's side, at least 0; None is what
    was tuned."""
    projections: int = 32
    """Number of directions that the sliced Wasserstein loss draws in each step."""
    layers: tuple[str, ...] = ("conv2_2", "conv3_2")
    """Layers of VGG16 that the perceptual loss compares."""

    def __post_init__(self) -> None:
        check_numbers(self, "patch", "stride", "bandwidth", "projections", above=True)
        check_numbers(self, "spatial_weight")
        check_distinct(self, "layers")
        check_known_layers(self.layers, "vgg16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Objective, RunConfig):
    photograph: str = "explore_world_animals/lemur"
    """Id of one of the set `photographs`, or a file; `drawn` needs neither."""
    longest: int = 320
    """Longest side that it is scaled to, in pixels: the set is lossy, and smaller it is clean."""
    crop: int = 96
    """Side of the source and of the targets, in pixels."""
    noise: float = 0.15
    """Standard deviation of the source's Gaussian noise, the range being 0 to 1."""
    targets: int = 20
    """Number of clean crops, which take their turns."""
    shift: int = 5
    """Targets lie up to so many pixels from the source, down and across."""
    max_shift: int = 10
    """Largest --shift that the source leaves room for. The scores leave out a border of one more
    pixel, so that they are of the same pixels for all shifts."""
    losses: tuple[Loss, ...] = LOSSES
    """Losses to optimise. `none` leaves the source as it is, `mean` is the mean of the targets,
    `contextual` has the cosine distance, `contextual_l2` the squared L2 distance."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, at least 0, a run each: of the place of the crop, the noise and the shifts."""
    steps: int = 300
    """Steps of gradient descent, one target each."""
    learning_rate: float | None = None
    """Adam's learning rate, which falls to 0 by a cosine; None is what was tuned for each loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "longest", "crop", "targets", "steps", "learning_rate", above=True)
        check_numbers(self, "noise", "shift", "max_shift", "seeds")
        check_distinct(self, "losses", "seeds")
        if unknown := [loss for loss in self.losses if loss not in LOSSES]:
            raise ValueError(f"--losses: no loss {unknown[0]!r}; known: {', '.join(LOSSES)}")
        if self.shift > self.max_shift:
            raise ValueError(
                f"--shift must be at most --max-shift {self.max_shift}; got {self.shift}"
            )
        if self.patch > self.crop:
            raise ValueError(f"--patch must be at most --crop {self.crop}; got {self.patch}")
        if self.crop < SMALLEST + 2 * self.border:
            raise ValueError(
                f"--crop must be at least {SMALLEST + 2 * self.border}, so that {SMALLEST} pixels "
                f"are left to score inside the border of {self.border}; got {self.crop}"
            )

    @property
    def border(self) -> int:
        """Pixels on each side that the scores leave out: room to look for a shift."""
        return self.max_shift + 1

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        return Path("out/misalignment") / f"{Path(self.photograph).stem}-shift{self.shift}"

    def tuned(self, loss: Loss) -> dict[str, float]:
        """The settings that tuning chose for a loss, but for those that are given."""
        chosen = TUNED.get(loss, {})
        return {name: value for name, value in chosen.items() if getattr(self, name) is None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig(Config):
    """Settings of the table, whose runs have one of its photographs, shifts and losses each."""

    INCIDENTAL: ClassVar = (*Config.INCIDENTAL, "photographs", "shifts")

    photographs: tuple[str, ...] = (
        "explore_world_animals/jaguar",
        "explore_world_animals/lemur",
        "explore_world_animals/scarlet_macaw",
    )
    """Photographs: ids of the set `photographs`, or files."""
    shifts: tuple[int, ...] = (0, 2, 5, 10)
    """Largest shifts, in pixels, a column of the table each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(self, "photographs", "shifts")
        names = [Path(photograph).stem for photograph in self.photographs]
        if len(set(names)) < len(names):
            raise ValueError(f"--photographs must differ in their last name; got {names}")


VARIANTS = {
    "default": Config(),
    # PAPER: RGB patches of 5 x 5 at a stride of 2, shifts up to 10 px, L1 against the Contextual
    # Loss. Unknown: picture, noise, number of targets, optimiser, steps, bandwidth (the authors'
    # configuration has 0.5), distance (cosine elsewhere in the paper).
    "paper": Config(shift=10, losses=("none", "l1", "contextual"), bandwidth=0.5),
    "smoke": Config(
        photograph="drawn", longest=64, crop=40, targets=3, shift=2, max_shift=3, steps=4
    ),
}
