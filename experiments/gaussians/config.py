"""Settings of the two clouds, and their named variants."""

import dataclasses
import math
from pathlib import Path

from experiments.common.runs import RunConfig, check_distinct, check_numbers
from experiments.gaussians.measures import MEASURES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    measures: tuple[str, ...] = tuple(MEASURES)
    """What is computed of two clouds: the Contextual Similarity by distance and bandwidth, and two
    distances."""
    points: int = 100
    """Points of each cloud, at least 2."""
    draws: int = 1000
    """Pairs of clouds that an expectation is the mean of, at least 2; the same for every cell."""
    largest: float = 10.0
    """Shift and standard deviation of the target's cloud go from 0 to this, a whole number from 2
    to 1000; the source's standard deviation is 1."""
    step: float = 0.5
    """From one shift, or one standard deviation, to the next; 1 over a whole number."""
    seed: int = 0
    """Seed of the clouds, 0 to 2**32 - 1."""

    def __post_init__(self) -> None:
        check_distinct(self, "measures")
        if unknown := [name for name in self.measures if name not in MEASURES]:
            raise ValueError(f"--measures: no measure {unknown[0]!r}; known: {', '.join(MEASURES)}")
        check_numbers(self, "points", "draws", least=2)
        check_numbers(self, "seed", most=2**32 - 1)
        if not 0 < self.step <= 1 or not _is_whole(1 / self.step):
            raise ValueError(f"--step must be 1 over a whole number; got {self.step}")
        if not 2 <= self.largest <= 1000 or not _is_whole(self.largest):
            raise ValueError(f"--largest must be a whole number, 2 to 1000; got {self.largest}")

    @property
    def steps_per_unit(self) -> int:
        """Cells of the grid from one whole number to the next."""
        return round(1 / self.step)

    @property
    def grid(self) -> tuple[float, ...]:
        """The shifts, and the standard deviations."""
        count = round(self.largest) * self.steps_per_unit
        return tuple(i / self.steps_per_unit for i in range(count + 1))

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        return Path("out/gaussians/clouds")


def _is_whole(value: float) -> bool:
    return math.isclose(value, round(value), rel_tol=1e-6)


VARIANTS = {
    "default": Config(),
    # The paper's clouds and ranges, which the default has too, on a finer grid. Its own step,
    # draws, distance and bandwidth are not known.
    "paper": Config(step=0.25),
    "smoke": Config(points=20, draws=8, largest=4.0, step=1.0),
}
