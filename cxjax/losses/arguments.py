"""What every loss does with its arguments: checks that say what to do, masks, dtypes."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from cxjax.distances import Distance, DistanceName, weighted_mean
from cxjax.options import check_integer, check_option
from cxjax.types import AnyArray

AxisName = str | tuple[str, ...]
CenteringName = Literal["target", "none"]
Centering = CenteringName | Float[AnyArray, " c"]
Mask = Bool[AnyArray, " _"] | Num[AnyArray, " _"]  # one entry per point


class PointSet(NamedTuple):
    """Points ready for arithmetic: masked points are replaced by a valid one."""

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


def constant_where_empty(*sets: PointSet) -> list[PointSet]:
    """The sets, without a gradient if one of them is empty: a distance of its points may have none.

    A caller's own distance may divide by 0 there, and 0 times its gradient would be NaN.
    """
    empty = [s.is_empty for s in sets if s.is_empty is not None]
    if not empty:
        return list(sets)
    any_empty = functools.reduce(jnp.logical_or, empty)
    points = [jnp.where(any_empty, jax.lax.stop_gradient(s.points), s.points) for s in sets]
    return [s._replace(points=p) for s, p in zip(sets, points, strict=True)]


def zero_where_empty(value: Array, *sets: PointSet) -> Array:
    """0 instead of `value` if a set is empty, without a gradient."""
    for points in sets:
        if points.is_empty is not None:
            value = jnp.where(points.is_empty, 0, value)
    return value


def _as_weights(points: Array, mask: Any, name: str) -> Array:
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if mask.shape != points.shape[:1]:
        raise ValueError(
            f"{name}_mask must have one entry per point, shape {points.shape[:1]} for {name} of "
            f"shape {points.shape}; got shape {mask.shape}"
        )
    if not any(jnp.issubdtype(mask.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
        raise ValueError(f"{name}_mask must be boolean, or non-negative weights; got {mask.dtype}")
    if not isinstance(mask, jax.core.Tracer):  # by NumPy: under `jit` all that JAX makes is traced
        values = np.asarray(mask)
        if not values.min() >= 0:
            raise ValueError(
                f"{name}_mask must not be negative; its smallest entry is {values.min()}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name}_mask must be finite; its largest entry is {values.max()}")
    weights = jax.lax.stop_gradient(jnp.asarray(mask, points.dtype))
    return jnp.where(weights < 0, 0, weights)  # traced ones cannot be refused


def as_arrays(*arrays: Any) -> list[Array]:
    """The arrays in one dtype, at least float32; others than floating are refused later."""
    converted = [jnp.asarray(array) for array in arrays]
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in converted):
        return converted
    dtype = jnp.result_type(jnp.float32, *converted)
    return [
        _widened(dtype, array) if array.dtype == jnp.float16 else array.astype(dtype)
        for array in converted
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _widened(dtype, array):
    """A float16 array in a wider dtype; a gradient too large for float16 is its largest number."""
    return array.astype(dtype)


def _narrowed(dtype, _, gradient):
    largest = jnp.finfo(jnp.float16).max
    return (jnp.clip(gradient, -largest, largest).astype(jnp.float16),)


_widened.defvjp(lambda dtype, array: (array.astype(dtype), None), _narrowed)


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
    mean = mean if isinstance(mean, jax.Array) else np.asarray(mean)
    shape, dtype = mean.shape, mean.dtype
    if shape != x.shape[1:] or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"centering must be 'target', 'none' or a floating mean of shape {x.shape[1:]} for x "
            f"of shape {x.shape}; got {dtype} of shape {shape}"
        )


def positive(name: str, value: Any) -> float:
    """The value, a positive number known when the program is built."""
    return _number(name, value, "positive", lambda number: number > 0)


def non_negative(name: str, value: Any) -> float:
    """The value, a number at least 0 known when the program is built."""
    return _number(name, value, "non-negative", lambda number: number >= 0)


def _number(name: str, value: Any, kind: str, is_right: Callable[[Any], bool]) -> float:
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python number, fixed when the program is built; got "
            f"{value}. Pass it as a static argument, or as float({name}) outside jit"
        )
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not is_right(value):
        raise ValueError(f"{name} must be a {kind} number; got {value!r}")
    return float(value)


def block_size_of(value: Any) -> int | None:
    """The number of rows asked for, or `None`."""
    return None if value is None else check_integer("block_size", value, more=" or None")


def comparable(x: Any, y: Any, distance: Distance, centering: Centering) -> tuple[Array, Array]:
    """The sets in one dtype, once it is known that the distance can be taken between them."""
    if not callable(distance):
        check_option("distance", distance, DistanceName, more=" or a function")
    x, y = as_arrays(x, y)
    check_points(x, y)
    if isinstance(centering, str):
        check_option("centering", centering, CenteringName, more=" or a mean (c,)")
    else:
        check_mean(centering, x)
    if callable(distance):
        check_distances(jax.eval_shape(distance, x, y), x, y)
    return x, y


def center(
    targets: PointSet, centering: Centering, distance: Distance, axis_name: AxisName | None = None
) -> Array:
    """The point that the cosine distance is taken about; squared L2 cancels least at the mean."""
    if distance == "l2" or (isinstance(centering, str) and centering == "target"):
        return weighted_mean(targets.points, targets.weights, axis_name)
    if isinstance(centering, str):
        return jnp.zeros_like(targets.points[0])
    return jnp.asarray(centering).astype(targets.points.dtype)
