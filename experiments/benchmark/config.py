"""What the benchmark measures."""

import dataclasses
from pathlib import Path
from typing import get_args

from cxjax.features.vgg import check_known_layers
from cxjax.training.devices import Parallelism
from experiments.common.runs import check_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path | None = None
    """Folder for benchmark.json and benchmark.md, new or empty; without it a new out/benchmark."""
    sizes: tuple[int, ...] = (4096, 16384)
    """Points in each of the two sets; rows of the table for each number."""
    channels: int = 256
    """Channels of a point."""
    blocks: tuple[int, ...] = (128, 256, 512)
    """Rows of a block, at least 2: of the floors, whose fastest counts, and of a sweep of the
    blockwise gradient of x, beside the size that it chooses by itself."""
    dense_up_to: int = 16384
    """Largest size, in points, at which the dense reference runs too; 0 for none. It needs 12 bytes
    x n x m and more."""
    repeats: int = 5
    """Timed rounds after one that is not; the median counts. Each round runs every case once."""

    def __post_init__(self) -> None:
        if not self.blocks or min(self.blocks) < 2:
            raise ValueError(f"--blocks must be one or more, of at least 2; got {self.blocks}")
        fits = lambda n: n > 0 and any(n % block == 0 for block in self.blocks)
        if not self.sizes or not all(map(fits, self.sizes)):
            raise ValueError(
                f"--sizes must be one or more multiples of one of the blocks {self.blocks}; "
                f"got {self.sizes}"
            )
        check_numbers(self, "channels", "repeats", least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Times a train step beside its parts, and what saving checkpoints adds to it."""

    out: Path | None = None
    """Folder for step.json and step.md, new or empty; without it a new out/benchmark-step."""
    size: int = 128
    """Height and width of the images, in pixels."""
    batch_size: int = 4
    """Images per step."""
    small: bool = True
    """The small cascaded refinement network; otherwise the published one."""
    layers: tuple[str, ...] = ("conv3_2", "conv4_2")
    """Layers of VGG16 on which the images are compared with one target."""
    repeats: int = 9
    """Timed rounds after one that is not; the median counts. Each round runs every case once."""
    state_megabytes: tuple[int, ...] = (8, 100, 300)
    """Sizes of the states that are saved while steps go on, in MB."""
    steps_beside: int = 4
    """Number of steps that are timed with a save begun after the first, and without."""

    def __post_init__(self) -> None:
        check_known_layers(self.layers, "vgg16")
        check_numbers(self, "size", "batch_size", "repeats", "steps_beside", least=1)
        check_numbers(self, "state_megabytes", least=1)
        if not self.layers:
            raise ValueError("--layers needs at least one layer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrafficConfig:
    """Counts the bytes that a train step sends between devices, from the compiled program."""

    out: Path | None = None
    """Folder for traffic.json and traffic.md, new or empty; without it a new
    out/benchmark-traffic."""
    size: int = 128
    """Height and width of the images, in pixels."""
    batch_per_device: int = 1
    """Images per step and device."""
    small: bool = True
    """The small cascaded refinement network; otherwise the published one."""
    target_layers: tuple[str, ...] = ("conv3_2", "conv4_2")
    """Layers of VGG16 on which the images are compared with one target."""
    remat: bool = False
    """Compute the feature network's activations again in the backward pass: less memory, more
    time."""
    parallelism: tuple[Parallelism, ...] = get_args(Parallelism)
    """Ways to run the step."""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices to compile for."""
    topology: str | None = None
    """Compile for these TPUs, such as v5e:2x4, which need not be there: pip install libtpu. Without
    it, for simulated CPU devices."""

    def __post_init__(self) -> None:
        check_numbers(self, "size", "batch_per_device", "devices", least=1)
        if not self.devices:
            raise ValueError("--devices needs one or more")


VARIANTS = {
    "default": Config(),
    "smoke": Config(sizes=(256, 512), channels=32, blocks=(64, 128), repeats=2),
}
