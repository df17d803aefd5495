"""Feature maps and images as the point sets that the losses take, with their positions.

A map is `(*axes, c)`: features or an image `(h, w, c)`, a signal `(t, c)`, a volume `(d, h, w, c)`.
A position has one coordinate per axis in the axes' order, so row before column, counted from the
outer edge of the map's first cell: the centre of an image's first pixel is (0.5, 0.5). So the maps
of all layers, their patches and the image itself lie in one system. Everything takes one example;
`jax.vmap` gives a batch. NumPy arrays are accepted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from cxjax.options import check_integer, check_option
from cxjax.types import AnyArray

Scaling = Literal["channels", "none"]
PerAxis = int | float | Sequence[int | float]
Tree = TypeVar("Tree")


class Points(NamedTuple):
    """Points, and where they are.

    Attributes:
      points: Points, `(n, c)`.
      positions: A coordinate per axis of the map, `(n, axes)`, row before column.
    """

    points: Float[Array, "n c"]
    positions: Float[Array, "n axes"]


def grid_positions(
    shape: Sequence[int],
    *,
    cell_size: PerAxis = 1.0,
    offset: PerAxis = 0.0,
) -> Float[Array, "n axes"]:
    """Positions of the centres of a map's cells: those of the rows of `map.reshape(-1, c)`.

    Args:
      shape: Cells along each axis, `(h, w)`, `(t,)` or `(d, h, w)`.
      cell_size: Extent of a cell, in the unit that the positions shall have; one number, or one per
        axis. With 1 the unit is the cell. For pixels of the image it is the layer's stride: 4 for
        `conv3_2` of VGG, 2 ** (b - 1) for block b, also if the image's sides are no multiples.
      offset: Where the first cell begins, in the same unit, such as the corner of a crop.

    Returns:
      Positions `(n, axes)`, float32: `(index + 1/2) * cell_size + offset`, the last axis fastest.

    Raises:
      ValueError: If an axis is missing or has no cell, a cell size is not positive, or their number
        is not that of the axes.

    Example:
      >>> print(grid_positions((2, 1), cell_size=4))
      [[2. 2.]
       [6. 2.]]
    """
    if not shape:
        raise ValueError("shape must be the cells along each axis, such as (h, w); got ()")
    shape = tuple(check_integer("each axis of shape", cells) for cells in shape)
    sizes = _per_axis("cell_size", cell_size, len(shape))
    if min(sizes) <= 0:
        raise ValueError(f"cell_size must be positive; got {cell_size}")
    starts = _per_axis("offset", offset, len(shape))
    axes = [
        (jnp.arange(cells, dtype=jnp.float32) + 0.5) * size + start
        for cells, size, start in zip(shape, sizes, starts, strict=True)
    ]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))


def flatten(
    features: Float[AnyArray, "*axes c"],
    *,
    cell_size: PerAxis = 1.0,
    offset: PerAxis = 0.0,
) -> Points:
    """A map as points, with their positions.

    Args:
      features: Map `(h, w, c)`, `(t, c)` or `(d, h, w, c)`, floating. A batch `(b, h, w, c)` would
        be read as one volume: use `jax.vmap`.
      cell_size: As in `grid_positions`.
      offset: As there.

    Returns:
      The points, `(n, c)`, and their positions, `(n, axes)`.

    Raises:
      ValueError: If the map has another number of axes, is empty or not floating; and as
        `grid_positions`.

    Example:
      >>> x, x_positions = flatten(jnp.zeros((3, 5, 8)))
      >>> print(x.shape, x_positions.shape, x_positions[-1])
      (15, 8) (15, 2) [2.5 4.5]
    """
    features = _checked_map(features, "features")
    points = features.reshape(-1, features.shape[-1])
    return Points(points, grid_positions(features.shape[:-1], cell_size=cell_size, offset=offset))


def sample(key: PRNGKeyArray, x: Tree, *, count: int = 65 * 65) -> Tree:
    """Draws points of a set, without replacement; their positions go with them.

    Args:
      key: Key of `jax.random`; with `jax.vmap` one per example.
      x: `Points`, or points `(n, c)` alone, or any tree of arrays that have one row per point, such
        as a tuple of points, positions and mask.
      count: The most points to keep.

    Returns:
      The set, as it was given: `count` points in a random order, or all as they are if there are no
      more.

    Raises:
      ValueError: If an array is not `(n,)` or `(n, c)`, or is empty, two of them differ in number,
        or `count` is not a positive integer.

    Example:
      >>> x = sample(jax.random.key(0), flatten(jnp.zeros((100, 80, 8))))
      >>> print(x.points.shape, x.positions.shape)
      (4225, 8) (4225, 2)
    """
    count = check_integer("count", count)
    x = jax.tree.map(jnp.asarray, x)
    n = _number_of_points(x, "x")
    return _draw(key, x, n, min(n, count))


def sample_pair(
    key: PRNGKeyArray, x: Tree, y: Tree, *, count: int | None = 65 * 65
) -> tuple[Tree, Tree]:
    """Draws as many points of two sets, without replacement; their positions go with them.

    Both come down to `min(n, m, count)` points, and a set that has no more than that stays as it
    is. Two sets of one number give the points of the same indices: with two maps of one grid, those
    of the same cells. The losses do without: their memory is linear, and `n` and `m` may differ.

    Args:
      key: Key of `jax.random`; with `jax.vmap` one per example.
      x: Points `(n, c)`, or more, as in `sample`.
      y: The other set, `(m, c)`.
      count: The most points to keep; `None` keeps all of the smaller set.

    Returns:
      Both sets, as they were given, in a random order where they were drawn from.

    Raises:
      ValueError: As `sample`, of either set; `count` may be `None`.

    Example:
      >>> x, y = flatten(jnp.zeros((100, 80, 8))), flatten(jnp.zeros((50, 40, 8)))
      >>> x, y = sample_pair(jax.random.key(0), x, y)
      >>> print(x.points.shape, y.positions.shape)
      (2000, 8) (2000, 2)

    References:
      Mechrez et al., ECCV 2018: the authors' code draws 65 x 65 of the cells of larger maps, the
      same for both, where this keeps their positions; the text draws from the larger set as many
      points as the smaller has.
    """
    if count is not None:
        count = check_integer("count", count, more=" or None")
    x, y = jax.tree.map(jnp.asarray, x), jax.tree.map(jnp.asarray, y)
    n, m = _number_of_points(x, "x"), _number_of_points(y, "y")
    kept = min(n, m) if count is None else min(n, m, count)
    key_x, key_y = (key, key) if n == m else jax.random.split(key)
    return _draw(key_x, x, n, kept), _draw(key_y, y, m, kept)


def patches(image: Float[AnyArray, "h w c"], *, size: int, stride: int = 1) -> Points:
    """The square patches of an image as points: CoBi's RGB term.

    Args:
      image: Image `(h, w, c)`, floating.
      size: Side of a patch, `k`, in pixels. Patches lie wholly inside the image.
      stride: Pixels from one patch to the next, down and across; only these are computed.

    Returns:
      The patches, `(n, k * k * c)`, each `image[i : i + k, j : j + k].reshape(-1)`, row by row; and
      the positions of their centres in pixels, `(n, 2)`, `(i + k / 2, j + k / 2)`.

    Raises:
      ValueError: If the image is not `(h, w, c)`, empty or not floating, or smaller than a patch,
        or size or stride is not a positive integer.

    Example:
      >>> x, x_positions = patches(jnp.zeros((9, 12, 3)), size=5, stride=2)
      >>> print(x.shape, x_positions[0], x_positions[-1])
      (12, 75) [2.5 2.5] [6.5 8.5]

    References:
      Zhang et al., CVPR 2019: sizes 10 (4x) and 15 (8x) in the paper. The authors' code has other
      sizes, and patches that reach over the border into zeros.
    """
    size, stride = check_integer("size", size), check_integer("stride", stride)
    image = _checked_map(image, "image", axes=(2,))
    height, width, channels = image.shape
    if size > min(height, width):
        raise ValueError(
            f"a patch of size {size} does not fit into an image of shape {image.shape}; "
            f"size can be at most {min(height, width)}"
        )
    shape = tuple((side - size) // stride + 1 for side in (height, width))
    # Across, then down: 2 k slices where one per place in the patch would be k * k.
    across = _windows(image, size, stride, axis=1)
    vectors = _windows(across, size, stride, axis=0).reshape(-1, size * size * channels)
    return Points(vectors, grid_positions(shape, cell_size=stride, offset=(size - stride) / 2))


def concatenate(
    features: Mapping[str, Float[AnyArray, "..."]],
    *,
    layers: Sequence[str] | None = None,
    grid: str | None = None,
    scaling: Scaling = "channels",
    antialias: bool = True,
) -> Float[Array, "*axes c"]:
    """Several layers as one map: each resized to one grid, stacked along the channels.

    Args:
      features: Map by name of layer, `(h, w, c)`; heights, widths and channels may differ.
      layers: Names of those to take, in this order; without it all.
      grid: The one of them that the others are resized to, linearly; without it the first.
      scaling: `"channels"` divides each layer by the number of its channels, so that none outweighs
        the others by having more; `"none"` does not.
      antialias: Whether a layer that is made smaller is smoothed. A larger one never is.

    Returns:
      One map `(h, w, c)`, with the grid of one layer and the channels of all.

    Raises:
      ValueError: If a layer is missing, named twice, not a map, empty or not floating, the maps
        differ in their number of axes, or `layers` is empty, or `scaling` unknown.

    Example:
      >>> features = {"conv2_1": jnp.ones((8, 6, 4)), "conv3_1": jnp.ones((4, 3, 10))}
      >>> print(concatenate(features).shape, concatenate(features, grid="conv3_1").shape)
      (8, 6, 14) (4, 3, 14)

    References:
      The style transfer of Mechrez et al., ECCV 2018, as the authors describe it
      (roimehrez/contextualLoss, issue 2): the first layer's grid, divided by the channels.
    """
    check_option("scaling", scaling, Scaling)
    names = tuple(features) if layers is None else tuple(layers)
    if not names:
        raise ValueError("no layer to concatenate; name at least one")
    if len(set(names)) < len(names):
        raise ValueError(f"a layer is named twice in {names}")
    maps = {name: _checked_map(_layer(features, name, "features"), name) for name in names}
    if len({layer.ndim for layer in maps.values()}) > 1:
        shapes = ", ".join(f"{name} {layer.shape}" for name, layer in maps.items())
        raise ValueError(f"the layers must have the same number of axes; got {shapes}")
    axes = _layer(maps, names[0] if grid is None else grid, "the layers to concatenate").shape[:-1]
    resized = []
    for layer in maps.values():
        channels = layer.shape[-1]
        layer = jax.image.resize(layer, (*axes, channels), "linear", antialias=antialias)
        resized.append(layer / channels if scaling == "channels" else layer)
    return jnp.concatenate(resized, axis=-1)


def over_layers(
    loss: Callable[[Array, Array], Array],
    x: Mapping[str, Float[AnyArray, "..."]],
    y: Mapping[str, Float[AnyArray, "..."]],
    *,
    weights: Mapping[str, Any],
) -> Float[Array, ""]:
    """Weighted sum of a loss over layers, each compared on its own.

    Args:
      loss: Function of two point sets, `(n, c)` and `(m, c)`, to a scalar, such as
        `cxjax.contextual_loss`, or a `functools.partial` of it with options.
      x: Map by name of layer, `(h, w, c)`, or points `(n, c)`, of the image being made.
      y: The same of the target. Layers without a weight play no part.
      weights: Number by name of layer.

    Returns:
      The scalar sum of `weight * loss(points, points)`.

    Raises:
      ValueError: If a layer with a weight is missing, is not a map, empty or not floating, or
        differs in channels, a weight or what the loss returns is not a scalar, or there is no
        weight.

    Example:
      >>> x = {"conv3_2": jnp.ones((4, 4, 8)), "conv4_2": jnp.ones((2, 2, 16))}
      >>> y = {"conv3_2": jnp.zeros((4, 4, 8)), "conv4_2": jnp.zeros((2, 2, 16))}
      >>> l1 = lambda x, y: abs(x - y).mean()
      >>> print(over_layers(l1, x, y, weights={"conv3_2": 1.0, "conv4_2": 0.5}))
      1.5
    """
    if not weights:
        raise ValueError("weights must name at least one layer; got none")
    terms = []
    for name, weight in weights.items():
        if np.shape(weight) != ():
            raise ValueError(f"the weight of {name} must be a number; got {weight}")
        # A batch (b, h, w, c) must not pass for a volume: it would be compared as one image.
        sets = [
            _checked_map(_layer(maps, name, which), f"{which}[{name!r}]", axes=(1, 2))
            for maps, which in ((x, "x"), (y, "y"))
        ]
        if sets[0].shape[-1] != sets[1].shape[-1]:
            raise ValueError(
                f"{name} must have the same number of channels in x and y; got x of shape "
                f"{sets[0].shape} and y of shape {sets[1].shape}"
            )
        term = loss(*(features.reshape(-1, features.shape[-1]) for features in sets))
        if getattr(term, "shape", None) != ():
            raise ValueError(f"the loss must return a scalar array; for {name} it returned {term}")
        terms.append(weight * term)
    return jnp.stack(terms).sum()


# --- Checks and pieces ---


def _per_axis(name: str, value: PerAxis, axes: int) -> tuple[float, ...]:
    values = np.asarray(value, np.float64)
    if values.shape not in ((), (axes,)) or not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be a number, or one for each of the {axes} axes of the shape; got {value}"
        )
    return tuple(np.broadcast_to(values, (axes,)).tolist())


def _checked_map(features: Any, name: str, axes: tuple[int, ...] = (1, 2, 3)) -> Array:
    """The map as an array, if it has one of these numbers of axes besides the channels."""
    features = jnp.asarray(features)
    if features.ndim - 1 not in axes or features.size == 0:
        layouts = {1: "(n, c)", 2: "(h, w, c)", 3: "(d, h, w, c)"}
        expected = " or ".join(layouts[number] for number in axes)
        raise ValueError(
            f"{name} must be {expected} and not be empty; got shape {features.shape}. Use jax.vmap "
            "for a batch"
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be floating-point; got {features.dtype}. Convert with "
            ".astype(jnp.float32), images of 0-255 also with / 255"
        )
    return features


def _layer(maps: Mapping[str, Any], name: str, which: str) -> Any:
    if name not in maps:
        raise ValueError(f"no layer {name!r} in {which}; known: {', '.join(map(repr, maps))}")
    return maps[name]


def _number_of_points(tree: Any, name: str) -> int:
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    is_set = shapes and all(len(shape) in (1, 2) and math.prod(shape) for shape in shapes)
    if not is_set or len({shape[0] for shape in shapes}) > 1:
        given = ", ".join(map(str, shapes)) or "nothing"
        raise ValueError(
            f"{name} must hold points (n, c), and what goes with them one row per point; got "
            f"{given}. Turn a map (h, w, c) into points with flatten, and use jax.vmap for a batch"
        )
    return shapes[0][0]


def _draw(key: PRNGKeyArray, tree: Tree, number: int, kept: int) -> Tree:
    if kept == number:
        return tree
    index = jax.random.choice(key, number, (kept,), replace=False)
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _windows(image: Array, size: int, stride: int, axis: int) -> Array:
    """All windows along an axis: their number takes its place, their inside is a new axis 2.

    Strided slices, whose derivative is a sum of padded ones: a gather's would be a scatter, which a
    GPU adds up in an order of its own.
    """
    length = image.shape[axis] - size + 1
    cuts = [
        jax.lax.slice_in_dim(image, start, start + length, stride, axis) for start in range(size)
    ]
    return jnp.stack(cuts, axis=2)
