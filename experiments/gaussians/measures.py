"""How alike two clouds of points are, by each measure."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

import cxjax


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
