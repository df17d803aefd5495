"""What every loss does with its arguments: checks that say what to do, masks, dtypes."""

import math
import numbers
import operator
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

AnyArray = Array | np.ndarray
AxisName = str | tuple[str, ...]


class PointSet(NamedTuple):
    """Points ready for arithmetic: what stood in those that take no part is gone."""

    points: Float[Array, "n c"]
    weights: Float[Array, " n"] | None  # multiplicities, not all zero; None is ones
    is_empty: Bool[Array, ""] | None  # whether no point took part; None is no

    @property
    def present(self) -> Bool[Array, " n"] | None:
        """Which points take part; `None` is all."""
        return None if self.weights is None else self.weights > 0

    @property
    def takes_part(self) -> Bool[Array, " n"]:
        """Which points take part, of an empty set none."""
        if self.weights is None or self.is_empty is None:
            return jnp.ones(self.points.shape[0], bool)
        return (self.weights > 0) & ~self.is_empty


def point_set(points: Array, mask: Any, name: str, axis_name: AxisName | None = None) -> PointSet:
    """Takes a mask in: its points are replaced by one that takes part, before any arithmetic.

    If none takes part, all do, as zeros, so that nothing is NaN, and `is_empty` says so.
    """
    if mask is None:
        return PointSet(points, None, None)
    weights = _as_weights(points, mask, name)
    present = weights > 0
    any_here = present.any()
    filling = jnp.where(any_here, points[present.argmax()], 0)
    points = jnp.where(present[:, None], points, jax.lax.stop_gradient(filling)[None, :])
    count = any_here.astype(jnp.int32)
    is_empty = (count if axis_name is None else jax.lax.psum(count, axis_name)) == 0
    return PointSet(points, jnp.where(is_empty, 1, weights), is_empty)


def none_where_empty(value: Array, *sets: PointSet) -> Array:
    """0 instead of `value` if a set is empty, without a gradient."""
    for found in sets:
        if found.is_empty is not None:
            value = jnp.where(found.is_empty, 0, value)
    return value


def _as_weights(points: Array, mask: Any, name: str) -> Array:
    mask = jnp.asarray(mask)
    if mask.shape != points.shape[:1]:
        raise ValueError(
            f"{name}_mask must have one entry per point, shape {points.shape[:1]} for {name} of "
            f"shape {points.shape}; got shape {mask.shape}"
        )
    if not any(jnp.issubdtype(mask.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
        raise ValueError(f"{name}_mask must be boolean, or non-negative weights; got {mask.dtype}")
    if not isinstance(mask, jax.core.Tracer) and not bool((mask >= 0).all()):
        raise ValueError(f"{name}_mask must not be negative; its smallest entry is {mask.min()}")
    return jax.lax.stop_gradient(mask.astype(points.dtype))


def as_arrays(*arrays: Any) -> list[Array]:
    """The arrays in one dtype, at least float32; others than floating are refused later."""
    found = [jnp.asarray(array) for array in arrays]
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in found):
        return found
    dtype = jnp.result_type(jnp.float32, *found)
    return [array.astype(dtype) for array in found]


def check_floating(*arrays: Array) -> None:
    """Refuses integers: a picture of 0-255 would not mean what the caller thinks."""
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays):
        given = " and ".join(str(array.dtype) for array in arrays)
        raise ValueError(
            f"floating-point arrays are needed; got {given}. Convert with .astype(jnp.float32), "
            "images of 0-255 also with / 255"
        )


def check_points(x: Array, y: Array) -> None:
    """Refuses what are not two floating point sets of the same channels."""
    shapes = f"got x of shape {x.shape} and y of shape {y.shape}"
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(
            f"x and y must be point sets (n, c) and (m, c); {shapes}. Turn a feature map (h, w, c) "
            "into points with .reshape(-1, c), and use jax.vmap for a batch"
        )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same number of channels; {shapes}")
    if 0 in x.shape or 0 in y.shape:
        raise ValueError(f"x and y must each hold at least one point and one channel; {shapes}")
    check_floating(x, y)


def check_distances(distances: Any, x: Array, y: Array) -> None:
    """Refuses what a caller's distance function returned, unless it is `(n, m)`."""
    expected = (x.shape[0], y.shape[0])
    shape, dtype = getattr(distances, "shape", None), getattr(distances, "dtype", None)
    if shape != expected or dtype != x.dtype:
        raise ValueError(
            f"the distance function must return {x.dtype} of shape {expected} for x of shape "
            f"{x.shape} and y of shape {y.shape}; it returned {dtype} of shape {shape}"
        )


def check_mean(mean: Any, x: Array) -> None:
    """Refuses a centre that is not one floating vector of the points' channels."""
    shape, dtype = jnp.shape(mean), jnp.result_type(mean)
    if shape != x.shape[1:] or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"centering must be 'target', 'none' or a floating mean of shape {x.shape[1:]} for x "
            f"of shape {x.shape}; got {dtype} of shape {shape}"
        )


def positive(name: str, value: Any) -> float:
    """The value, a positive number known when the program is built."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python number, fixed when the program is built; got "
            f"{value}. Pass it as a static argument, or as float({name}) outside jit"
        )
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number; got {value!r}")
    return float(value)


def block_size_of(value: Any) -> int | None:
    """The number of rows asked for, or `None`."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"block_size must be a positive integer or None; got {value!r}")
    return operator.index(value)
