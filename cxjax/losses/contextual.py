"""The Contextual Loss: how well every target point is matched by some source point."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cxjax.distances import Distance, weighted_mean
from cxjax.losses.arguments import (
    AxisName,
    Centering,
    Mask,
    PointSet,
    block_size_of,
    center,
    comparable,
    constant_where_empty,
    point_set,
    positive,
    zero_where_empty,
)
from cxjax.options import check_option
from cxjax.similarity import blockwise, reference
from cxjax.types import AnyArray

Direction = Literal["paper", "reverse", "symmetric"]
Implementation = Literal["blockwise", "reference"]


def contextual_similarity(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    distance: Distance = "cosine",
    bandwidth: float = 0.5,
    epsilon: float = 1e-5,
    centering: Centering = "target",
    x_mask: Mask | None = None,
    y_mask: Mask | None = None,
    implementation: Implementation = "blockwise",
    block_size: int | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, ""]:
    r"""Contextual similarity CX of a source set to a target set.

    With $d_{ij}$ the distance of source $i$ to target $j$,

    $$\tilde d_{ij} = \frac{d_{ij}}{\min_k d_{ik} + \epsilon}, \quad
    w_{ij} = e^{(1 - \tilde d_{ij}) / h}, \quad
    \mathrm{CX}_{ij} = \frac{w_{ij}}{\sum_k w_{ik}}, \quad
    \mathrm{CX}(x, y) = \frac{1}{m} \sum_j \max_i \mathrm{CX}_{ij}$$

    Positions play no part, so the images need not be aligned, nor of one size. Where several
    entries share a minimum or a maximum, the lowest index takes the gradient.

    Args:
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      distance: `"cosine"`, $(1 - \cos) / 2$ of both sets less the target's mean; `"l2"`, squared;
        `"l1"`; or a function `(b, c), (m, c) -> (b, m)` of non-negative distances, whose row `i`
        depends on row `i` of its first argument alone. It is given the points uncentred, in
        the dtype of the computation. Outside `jit` it is compiled anew at every call.
      bandwidth: $h$, a positive Python number; smaller is closer to nearest neighbours.
      epsilon: $\epsilon$, a positive Python number, in the distance's unit.
      centering: What both sets are taken about for the cosine distance: `"target"`, the mean of
        `y`; `"none"`; or a mean `(c,)` of your own, such as one over a data set. The other
        distances do not depend on it.
      x_mask: Which sources take part: boolean, or non-negative weights, `(n,)`. Source weights act
        only as a mask.
      y_mask: Which targets take part: boolean, or non-negative weights, `(m,)`. A weight is a
        multiplicity: 2 is the same as the target twice, in the row sum, the mean and the centring.
        (Weights between 0 and 1 can take CX above 1.) Weights are constants: they have no gradient.
        Points with zero weight are ignored, even if they are NaN. If no source or no target takes
        part, CX is 1, the loss 0, and there is no gradient.
      implementation: `"blockwise"` holds a block of rows of the distances, `"reference"` the whole
        `n x m`; they are equal. Forward mode (`jax.jvp`, `jax.jacfwd`) needs `"reference"`;
        `jax.hessian`, which is forward over reverse, does not.
      block_size: Rows that `"blockwise"` holds at a time, at least 2; `None` chooses.
      axis_name: Inside `shard_map` or `pmap`, the mesh axis over which the points of `x` (and
        `x_mask`) are spread: one similarity on several devices. `y` is whole on each, the result
        is the same on all. `"blockwise"` only.

    Returns:
      CX, a scalar in (0, 1].

    Raises:
      ValueError: If a set is not `(n, c)`, is empty or not floating, the channels differ, a mask
        or a mean does not fit, or an option has an unknown or impossible value.
      TypeError: If `bandwidth` or `epsilon` is traced: they are fixed when the program is built;
        or by JAX, if forward mode meets `"blockwise"`.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> print(f"{contextual_similarity(x, -x, bandwidth=1.0):.3f}")
      0.620

    References:
      Mechrez et al., `The Contextual Loss for Image Transformation with Non-Aligned Data
      <https://arxiv.org/abs/1803.02077>`_, ECCV 2018, section 3. As in the authors' code the cosine
      distance is halved, so that $\epsilon$ weighs twice as much as on $1 - \cos$; unlike there,
      the mean is the target image's own, not the batch's.
    """
    options = _Options(
        distance, bandwidth, epsilon, centering, implementation, block_size, axis_name
    )
    x, y, options = _checked(x, y, options)
    return jnp.exp(-_loss("paper", x, y, x_mask, y_mask, options))


def contextual_loss(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    direction: Direction = "paper",
    distance: Distance = "cosine",
    bandwidth: float = 0.5,
    epsilon: float = 1e-5,
    centering: Centering = "target",
    x_mask: Mask | None = None,
    y_mask: Mask | None = None,
    implementation: Implementation = "blockwise",
    block_size: int | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, ""]:
    r"""Contextual loss: minus the logarithm of the contextual similarity.

    $$L(x, y) = -\log \mathrm{CX}(x, y)$$

    Args:
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      direction: `"paper"` is $L(x, y)$; `"reverse"` is $L(y, x)$, the roles wholly exchanged (`x`
        centres and normalises); `"symmetric"` is the mean of the two.
      distance: As in `contextual_similarity`.
      bandwidth: $h$, as there.
      epsilon: $\epsilon$, as there.
      centering: As there; in the direction `"reverse"` the target is `x`.
      x_mask: As there; in the direction `"reverse"` these are the weights with multiplicity.
      y_mask: As there.
      implementation: As there.
      block_size: As there.
      axis_name: As there: `x` is spread over the axis in every direction.

    Returns:
      A scalar, at least 0 (less is possible only with weights below 1): `log(m)` when every source
      is equally far from all targets.

    Raises:
      ValueError: As `contextual_similarity`.
      TypeError: As `contextual_similarity`.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> print(f"{contextual_loss(x, -x, bandwidth=1.0):.3f}")
      0.479

    References:
      Mechrez et al., ECCV 2018, section 3; see `contextual_similarity`.
    """
    check_option("direction", direction, Direction)
    options = _Options(
        distance, bandwidth, epsilon, centering, implementation, block_size, axis_name
    )
    x, y, options = _checked(x, y, options)
    if direction != "symmetric":
        return _loss(direction, x, y, x_mask, y_mask, options)
    forth = _loss("paper", x, y, x_mask, y_mask, options)
    return (forth + _loss("reverse", x, y, x_mask, y_mask, options)) / 2


def contextual_matches(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    distance: Distance = "cosine",
    bandwidth: float = 0.5,
    epsilon: float = 1e-5,
    centering: Centering = "target",
    x_mask: Mask | None = None,
    y_mask: Mask | None = None,
    implementation: Implementation = "blockwise",
    block_size: int | None = None,
    axis_name: AxisName | None = None,
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    r"""The source point that each target point is matched with: the arrows of the paper's Fig. 3.

    Args:
      x: Source points, `(n, c)`, floating.
      y: Target points, `(m, c)`.
      distance: As in `contextual_similarity`.
      bandwidth: $h$, as there.
      epsilon: $\epsilon$, as there.
      centering: As there.
      x_mask: As there.
      y_mask: As there.
      implementation: As there.
      block_size: As there.
      axis_name: As there; the indices count over all devices.

    Returns:
      The index $\arg\max_i \mathrm{CX}_{ij}$ of each target's source, the lowest on ties, and the
      similarity $\max_i \mathrm{CX}_{ij}$, both `(m,)`; -1 and 0 for a target that takes no part.
      The similarities are differentiable, and their mean is CX: a loss per target is made of them.

    Raises:
      ValueError: As `contextual_similarity`.
      TypeError: As `contextual_similarity`.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> index, similarity = contextual_matches(x, x[::-1])
      >>> print(index)
      [2 1 0]

    References:
      Mechrez et al., ECCV 2018, Fig. 3.
    """
    options = _Options(
        distance, bandwidth, epsilon, centering, implementation, block_size, axis_name
    )
    x, y, options = _checked(x, y, options)
    matches = _match("paper", x, y, x_mask, y_mask, options)
    takes_part = matches.targets.takes_part
    if matches.sources.is_empty is not None:
        takes_part = takes_part & ~matches.sources.is_empty
    index = jnp.where(takes_part, matches.index, -1)
    log_cx = jnp.where(takes_part, matches.log_cx, -jnp.inf)
    return index, jnp.exp(log_cx)


# --- Shared by the three ---


class _Options(NamedTuple):
    distance: Distance
    bandwidth: float
    epsilon: float
    centering: Centering
    implementation: Implementation
    block_size: int | None
    axis_name: AxisName | None


class _Matches(NamedTuple):
    """For every target the best of the sources, and what is left of the sets after masking."""

    log_cx: Float[Array, " m"]
    index: Int[Array, " m"]
    sources: PointSet
    targets: PointSet


def _loss(direction: Direction, x, y, x_mask, y_mask, options: _Options) -> Array:
    """-log mean_j max_i CX_ij, without leaving log space; never below 0, nor -0."""
    matches = _match(direction, x, y, x_mask, y_mask, options)
    over_devices = options.axis_name if direction == "reverse" else None
    log_cx = matches.log_cx
    if matches.targets.present is not None:
        log_cx = jnp.where(matches.targets.present, log_cx, -jnp.inf)
    top = jax.lax.stop_gradient(log_cx.max())
    if over_devices is not None:
        top = jax.lax.pmax(top, over_devices)
    cx = jnp.exp(log_cx - top)
    mean = weighted_mean(cx[:, None], matches.targets.weights, over_devices)[0]
    loss = jnp.log(1 / mean) - top
    return zero_where_empty(loss, matches.sources, matches.targets)


def _match(direction: Direction, x, y, x_mask, y_mask, options: _Options) -> _Matches:
    axis = options.axis_name
    x, y = constant_where_empty(point_set(x, x_mask, "x", axis), point_set(y, y_mask, "y"))
    sources, targets = (y, x) if direction == "reverse" else (x, y)
    target_axis = axis if direction == "reverse" else None
    keywords = {
        "distance": options.distance,
        "bandwidth": options.bandwidth,
        "epsilon": options.epsilon,
        "present": sources.present,
        "weights": targets.weights,
    }
    mean = center(targets, options.centering, options.distance, target_axis)
    if options.implementation == "reference":
        return _Matches(
            *reference.maximum_log_similarity(sources.points, targets.points, mean, **keywords),
            sources,
            targets,
        )
    keywords |= {"block_size": options.block_size, "target_axis": target_axis}
    try:
        log_cx, index = blockwise.maximum_log_similarity(
            sources.points, targets.points, mean, **keywords
        )
    except TypeError as error:
        if "forward-mode" in str(error):  # JAX names its mechanism, not what the caller can do
            error.add_note(
                "implementation='blockwise' has a reverse-mode derivative only: use "
                "implementation='reference' for jax.jvp and jax.jacfwd of the loss itself. "
                "jax.hessian works with both."
            )
        raise
    if axis is not None and direction != "reverse":
        log_cx, index = _match_over_devices(log_cx, index, sources.points.shape[0], axis)
    return _Matches(log_cx, index, sources, targets)


def _match_over_devices(log_cx, index, sources_here: int, axis: AxisName) -> tuple[Array, Array]:
    """The best over the devices; of equals that of the first, so that the lowest index wins."""
    highest = jax.lax.pmax(jax.lax.stop_gradient(log_cx), axis)
    device, devices = jax.lax.axis_index(axis), jax.lax.axis_size(axis)
    winner = jax.lax.pmin(jnp.where(log_cx == highest, device, devices), axis) == device
    index = jax.lax.psum(jnp.where(winner, index + device * sources_here, 0), axis)
    maximum = jax.lax.psum(jnp.where(winner, log_cx, 0), axis)
    is_nan = jax.lax.pmax(jnp.isnan(log_cx).astype(jnp.int32), axis) > 0  # no device wins these
    return jnp.where(is_nan, jnp.nan, maximum), index


def _checked(x, y, options: _Options) -> tuple[Array, Array, _Options]:
    """The sets in one dtype and plain options, once all that can be wrong is looked at."""
    check_option("implementation", options.implementation, Implementation)
    bandwidth = positive("bandwidth", options.bandwidth)
    epsilon = positive("epsilon", options.epsilon)
    block_size = block_size_of(options.block_size)
    x, y = comparable(x, y, options.distance, options.centering)
    if bandwidth * epsilon * epsilon < jnp.finfo(x.dtype).tiny:  # the largest slope is its inverse
        raise ValueError(
            f"bandwidth {bandwidth} and epsilon {epsilon} are too small together for {x.dtype}"
        )
    names = options.axis_name if isinstance(options.axis_name, tuple) else (options.axis_name,)
    if options.axis_name is not None and not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"axis_name must name a mesh axis, or several in a tuple; got {options.axis_name!r}"
        )
    if options.axis_name is not None and options.implementation == "reference":
        raise ValueError("axis_name needs implementation='blockwise'; got 'reference'")
    return x, y, options._replace(bandwidth=bandwidth, epsilon=epsilon, block_size=block_size)
