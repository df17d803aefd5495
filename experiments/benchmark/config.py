"""What the benchmark measures."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path | None = None
    """Folder for benchmark.json and benchmark.md, new or empty; without it a new out/benchmark."""
    sizes: tuple[int, ...] = (4096, 16384)
    """Points in each of the two sets, one table row group per number."""
    channels: int = 256
    """Channels of a point."""
    block_size: int | None = None
    """Rows that the blockwise implementation holds; None lets it choose."""
    dense_up_to: int = 16384
    """Largest size at which the dense reference runs too (it needs 12 bytes x n x m and more)."""
    repeats: int = 5
    """Timed rounds after one that is not; the median counts. Each round runs every case once."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or any(n % 128 for n in self.sizes):
            raise ValueError(
                f"--sizes must be one or more multiples of 128, the floor's block; got {self.sizes}"
            )
        if self.channels < 1 or self.repeats < 1:
            raise ValueError(
                f"channels and repeats must be at least 1; got {self.channels} and {self.repeats}"
            )


VARIANTS = {
    "default": Config(),
    "smoke": Config(sizes=(256,), channels=32, repeats=2),
}
