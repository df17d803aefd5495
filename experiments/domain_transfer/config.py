"""Settings of the unpaired domain transfer, and its named variants."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from cxjax.features.vgg import check_known_layers
from cxjax.options import check_option
from experiments.common.generators import SMALLEST, GeneratorConfig
from experiments.common.runs import check_numbers, flag

Loss = Literal["cx", "cx_target", "gram", "cyclegan", "histogram", "identity"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
HeldOut = Literal["validation", "test"]
UNTRAINED: tuple[Loss, ...] = ("identity", "histogram")
PAIRED = ("man-woman", "noto-fluent", "drawn")
Measured = Literal["man-woman", "noto-fluent"]
MEASURED: tuple[Measured, ...] = get_args(Measured)  # those of the tables

# Of `sweeps.RATES` the best by `sweeps.best_rates`, by the grid `tune`, on man-woman.
CHOSEN: dict[Loss, float] = {"cx": 3e-3, "cx_target": 3e-2, "gram": 3e-3, "cyclegan": 3e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GeneratorConfig):
    domains: str = "man-woman"
    """Source and target: `man-woman` and `noto-fluent` are emoji with hidden true pairs; `celeb_a`
    (male to female) and `cycle_gan/NAME` are sets of tensorflow-datasets without; `drawn` is made
    on the spot. Or a folder of your own that holds `trainA` and `trainB`, and if you like `testA`
    and `testB`, which are then scored; without them the last tenth of each, at least two."""
    held_out: HeldOut = "validation"
    """What is scored: settings are chosen on `validation`; `test` is for the table. Of your own
    folder both are the same."""

    loss: Loss = "cx"
    """What is minimised: the Contextual Loss to the target and to the source; the same without the
    source; Gram to the target with features of the source; CycleGAN's. Or, with nothing trained:
    the colour histogram of a random target, or the source itself."""
    target_layers: tuple[str, ...] = ("conv2_2", "conv3_2")
    """Layers compared with the target's."""
    source_layers: tuple[str, ...] = ("conv3_2", "conv4_2")
    """Layers compared with the source's."""
    bandwidth: float = 0.5
    """h of the Contextual Loss, above 0; the smaller, the more the nearest alone counts."""
    source_weight: float = 1.0
    """Weight of the term to the source, at least 0; that to the target has 1."""
    cycle_weight: float = 10.0
    """CycleGAN's weight of the two reconstructions, at least 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("--loss", self.loss, Loss)
        check_option("--held-out", self.held_out, HeldOut)
        if self.size < SMALLEST:
            raise ValueError(f"--size must be at least {SMALLEST}; got {self.size}")
        if self.domains not in (*PAIRED, "celeb_a") and not (
            self.domains.startswith("cycle_gan/") or Path(self.domains).is_dir()
        ):
            raise ValueError(
                f"unknown --domains {self.domains!r}; known: {', '.join(PAIRED)}, celeb_a, "
                "cycle_gan/NAME, and a folder that holds trainA and trainB"
            )
        check_known_layers((*self.target_layers, *self.source_layers), self.network)
        for name in ("target_layers", "source_layers"):
            if not getattr(self, name):
                raise ValueError(f"{flag(name)} needs at least one layer")
        check_numbers(self, "source_weight", "cycle_weight")
        check_numbers(self, "bandwidth", above=True)

    @property
    def chosen(self) -> tuple[float, float]:
        """Learning rate and beta1 where none is given."""
        rate, beta1 = super().chosen
        return CHOSEN.get(self.loss, rate), 0.5 if self.loss == "cyclegan" else beta1

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        folder = Path(self.domains)
        name = folder.resolve().name if folder.is_dir() else self.domains.replace("/", "-")
        return Path("out/domain_transfer") / f"{name}-{self.loss}"


DEFAULT = Config(
    size=64,
    model="unet",
    batch_size=8,
    steps=600,
    save_every=100,
    sample_every=150,
)
# The authors' gender run, whose name is in their config.py: VGG19, conv3_2 and conv4_2 to the
# target, conv4_2 to the source, h = 0.5; the rest as in their animation. Steps are not known.
PAPER = dataclasses.replace(
    DEFAULT,
    domains="celeb_a",
    network="vgg19",
    size=256,
    model="crn",
    small=False,
    batch_size=1,
    steps=100_000,
    learning_rate=1e-4,
    schedule="constant",
    target_layers=("conv3_2", "conv4_2"),
    source_layers=("conv4_2",),
    save_every=1000,
    sample_every=1000,
)
VARIANTS = {
    "default": DEFAULT,
    "paper": PAPER,
    "horse2zebra": dataclasses.replace(PAPER, domains="cycle_gan/horse2zebra"),
    "smoke": dataclasses.replace(
        DEFAULT,
        domains="drawn",
        model="crn",
        size=32,
        batch_size=2,
        steps=2,
        target_layers=("conv1_2", "conv2_1"),
        source_layers=("conv2_2",),
        save_every=1,
        log_every=1,
        sample_every=2,
    ),
}
