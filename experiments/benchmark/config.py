"""What the benchmark measures."""

import dataclasses
from pathlib import Path


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
        if self.channels < 1 or self.repeats < 1:
            raise ValueError(
                f"channels and repeats must be at least 1; got {self.channels} and {self.repeats}"
            )


VARIANTS = {
    "default": Config(),
    "smoke": Config(sizes=(256, 512), channels=32, blocks=(64, 128), repeats=2),
}
