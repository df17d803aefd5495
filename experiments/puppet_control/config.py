"""Settings of the puppet control, and its named variants."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from cxjax.features.vgg import check_known_layers
from cxjax.options import check_option
from experiments.common.generators import SMALLEST, GeneratorConfig
from experiments.common.runs import check_numbers

PAIRS = ("man-woman", "smiley-cat", "drawn")
Loss = Literal[
    "cx", "cx_perceptual", "l1", "l1_perceptual", "perceptual", "gram", "pix2pix", "identity"
]
LOSSES: tuple[Loss, ...] = get_args(Loss)
HeldOut = Literal["validation", "test"]

# Of `sweeps.RATES` the best by `sweeps.best_rates`, by the grid `tune`; of aligned pairs for the
# control in which L1 should do well.
CHOSEN: dict[Loss, float] = {
    "cx": 1e-2,
    "cx_perceptual": 3e-3,
    "l1": 1e-2,
    "l1_perceptual": 1e-3,
    "perceptual": 3e-3,
    "gram": 1e-3,
    "pix2pix": 1e-3,
}
CHOSEN_ALIGNED: dict[Loss, float] = {"l1": 3e-3, "cx": 3e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratorConfig):
    pair: str = "man-woman"
    """Driver and puppet: `man-woman` and `smiley-cat` are animated emoji of two who do the same, or
    feel the same; `drawn` is made on the spot. Or a folder of your own that holds `driver` and
    `puppet`, and in each, for every action, a video or a folder of frames of the same name; the
    last action by name is held out."""
    held_out: HeldOut = "validation"
    """Actions that are not trained on, and scored. Settings are chosen on `validation`; `test` is
    for the table, and trains on the validation actions too. Of your own folder both are the
    same."""

    jitter: int = 2
    """Largest difference in time between driver and puppet, in frames, at least 0."""
    shift: int = 6
    """Largest shift of the puppet, in pixels, along each axis."""
    warp: float = 1.0
    """Standard deviation of the puppet's smooth displacement at the 4 x 4 knots that it is smooth
    between, in pixels; between them it is less, .8 of it over all pixels."""

    loss: Loss = "cx"
    """What is minimised: the Contextual Loss; the same and the paper's 0.1 perceptual; L1; L1 and
    perceptual; perceptual; Gram; L1 and a discriminator (pix2pix); or `identity`, which trains
    nothing and hands on the driver's frame."""
    layers: tuple[str, ...] = ("conv2_2", "conv3_2")
    """Layers of the Contextual Loss, of the Gram loss, and of the perceptual loss by itself or
    with L1."""
    deep_layers: tuple[str, ...] = ("conv5_2",)
    """Layers of the perceptual loss beside the Contextual Loss."""
    bandwidth: float = 0.5
    """h of the Contextual Loss, above 0; the smaller, the more the nearest alone counts."""
    perceptual_weight: float = 0.1
    """Weight of the perceptual loss beside another one, at least 0."""
    l1_weight: float = 100.0
    """Weight of L1 beside the discriminator, at least 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("--loss", self.loss, Loss)
        check_option("--held-out", self.held_out, HeldOut)
        if self.size < SMALLEST:
            raise ValueError(f"--size must be at least {SMALLEST}; got {self.size}")
        if self.pair not in PAIRS and not Path(self.pair).is_dir():
            raise ValueError(
                f"unknown --pair {self.pair!r}; known: {', '.join(PAIRS)}, and a folder that holds "
                "driver and puppet"
            )
        check_known_layers((*self.layers, *self.deep_layers), self.network)
        if not self.layers:
            raise ValueError("--layers needs at least one layer")
        check_numbers(self, "jitter", "shift", "warp", "perceptual_weight", "l1_weight")
        if self.shift >= self.size:
            raise ValueError(f"--shift {self.shift} is no less than the --size {self.size}")
        check_numbers(self, "bandwidth", above=True)

    @property
    def chosen(self) -> tuple[float, float]:
        """Learning rate and beta1 where none is given."""
        rate, beta1 = super().chosen
        return CHOSEN.get(self.loss, rate), 0.5 if self.loss == "pix2pix" else beta1

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        return Path("out/puppet_control") / f"{Path(self.pair).resolve().name}-{self.loss}"


DEFAULT = Config(
    size=64,
    model="unet",
    batch_size=8,
    steps=400,
    save_every=100,
    sample_every=100,
)
VARIANTS = {
    "default": DEFAULT,
    "paper": dataclasses.replace(
        # From memory of the paper (no text of it was at hand): a cascaded refinement network,
        # conv2_2 to conv4_2, 0.1 perceptual on conv5_2. Number of pairs, epochs and rate are not
        # known: those of the authors' release of the animation.
        DEFAULT,
        network="vgg19",
        size=256,
        model="crn",
        small=False,
        batch_size=1,
        steps=10_000,
        learning_rate=1e-4,
        schedule="constant",
        loss="cx_perceptual",
        layers=("conv2_2", "conv3_2", "conv4_2"),
        jitter=2,
        shift=24,
        warp=4.0,
    ),
    "smoke": dataclasses.replace(
        DEFAULT,
        pair="drawn",
        model="crn",
        size=32,
        batch_size=2,
        steps=2,
        layers=("conv1_2", "conv2_1"),
        deep_layers=("conv2_2",),
        shift=2,
        jitter=1,
        save_every=1,
        log_every=1,
        sample_every=2,
    ),
}
