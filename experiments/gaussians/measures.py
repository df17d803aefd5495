"""How alike two clouds of points are, by each measure, and the mean of that over many draws."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import cxjax
from experiments.gaussians.config import Config

_DRAWS_AT_ONCE = 50  # which stay in a CPU's cache


def euclidean(x: Float[Array, "n c"], y: Float[Array, "m c"]) -> Float[Array, "n m"]:
    """L2 distances, not squared: a distance of a caller's own to `cxjax`."""
    return jnp.sqrt(jnp.square(x[:, None, :] - y[None, :, :]).sum(axis=-1))


def chamfer(x: Float[Array, "n c"], y: Float[Array, "m c"]) -> Float[Array, ""]:
    """Mean L2 distance of a source from its nearest target, plus that of a target from its nearest
    source.
    """
    distances = euclidean(x, y)
    return distances.min(axis=1).mean() + distances.min(axis=0).mean()


def paired(x: Float[Array, "n c"], y: Float[Array, "n c"]) -> Float[Array, ""]:
    """Mean L2 distance of the k-th source from the k-th target."""
    return jnp.sqrt(jnp.square(x - y).sum(axis=1)).mean()


class Measure(NamedTuple):
    """A measure, as the table and the figure have it."""

    title: str
    function: Callable[[Array, Array], Array]
    is_similarity: bool


def _contextual(title: str, distance, bandwidth: float) -> Measure:
    options = {"distance": distance, "bandwidth": bandwidth}
    function = functools.partial(cxjax.contextual_similarity, **options)
    return Measure(f"CX, {title}, h = {bandwidth}", function, True)


MEASURES: Mapping[str, Measure] = {
    "cosine_0.1": _contextual("cosine", "cosine", 0.1),
    "cosine_0.5": _contextual("cosine", "cosine", 0.5),
    "squared_l2_0.1": _contextual("squared L2", "l2", 0.1),
    "squared_l2_0.5": _contextual("squared L2", "l2", 0.5),
    "l2_0.5": _contextual("L2", euclidean, 0.5),
    "chamfer": Measure("Chamfer", chamfer, False),
    "paired_l2": Measure("L2 of pairs", paired, False),
}


def share_left(
    measure: Measure, config: Config, values: Float[np.ndarray, " k"], equal: int
) -> Float[np.ndarray, " k"]:
    """How much of a measure is left along a line of the grid: 1 where the clouds are alike.

    CX is 0 at its least, 1 / m, where nothing is matched with anything. A distance has no largest
    value, and is 0 at the end of the line.

    Args:
      measure: The measure.
      config: Its settings.
      values: Its means along the line, `(k,)`.
      equal: Where on the line the clouds are alike.

    Returns:
      Shares, `(k,)`.
    """
    end = 1 / config.points if measure.is_similarity else values[-1]
    return (values - end) / (values[equal] - end)


def half_way(shares: Float[np.ndarray, " k"], step: float) -> float | None:
    """Where shares that begin at 1 first come to 1/2; None if they never do."""
    below = np.flatnonzero(shares <= 0.5)
    if len(below) == 0:
        return None
    after, before = below[0], below[0] - 1
    return float(step * (before + (shares[before] - 0.5) / (shares[before] - shares[after])))


class Expectation(NamedTuple):
    """Rows are standard deviations of the target's cloud, columns its shifts."""

    mean: Float[np.ndarray, "deviations shifts"]
    standard_error: Float[np.ndarray, "deviations shifts"]


def clouds(config: Config) -> tuple[Float[Array, "b n 2"], Float[Array, "b n 2"]]:
    """Standard normal points for the sources and for the targets, one pair of clouds per draw."""
    shape = (config.draws, config.points, 2)
    keys = jax.random.split(jax.random.key(config.seed))
    return jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


def expectation(
    function: Callable[[Array, Array], Array], config: Config, grid: tuple[float, ...] | None = None
) -> Expectation:
    r"""The mean of a measure over the draws, for every shift and standard deviation.

    The source is drawn from $N(0, I)$, the target from $N(\mu e, \sigma^2 I)$ with $e$ any unit
    vector: shift $\mu$ is a length, $\sigma$ a standard deviation.

    Args:
      function: Measure, `(n, 2), (m, 2) -> ()`.
      config: Number of points and draws, seed and grid.
      grid: Values of both shift and deviation; without it the configuration's.

    Returns:
      Mean and its standard error, `(deviations, shifts)`.
    """
    values = jnp.asarray(config.grid if grid is None else grid, jnp.float32)
    deviations, shifts = (v.ravel() for v in jnp.meshgrid(values, values, indexing="ij"))
    means, errors = _expectation(function, *clouds(config), deviations, shifts)
    shape = (len(values), len(values))
    return Expectation(np.asarray(means).reshape(shape), np.asarray(errors).reshape(shape))


@functools.partial(jax.jit, static_argnums=0)
def _expectation(function, x, y, deviations, shifts):
    def cell(deviation_and_shift):
        deviation, shift = deviation_and_shift
        shift = jnp.stack([shift, jnp.zeros_like(shift)])

        def one(both):
            return function(both[0], deviation * both[1] + shift[None, :])

        found = jax.lax.map(one, (x, y), batch_size=_DRAWS_AT_ONCE)
        return found.mean(), found.std(ddof=1) / jnp.sqrt(found.size)

    return jax.lax.map(cell, (deviations, shifts))
