"""A smooth displacement field, optimised together with the picture that it moves.

The losses of style transfer know no places, and so move no shapes. Here a pull does: each place
of the picture is drawn to where the target has what is like it, by the Contextual Bilateral Loss,
whose gradient with respect to the positions is the field's.
"""

import jax
import jax.numpy as jnp

import cxjax

UNIT = 0.1  # of the longest side: what a control point of 1 moves by


def start(cells: int, shape: tuple[int, int]) -> jax.Array:
    """The control points of a field that moves nothing.

    Args:
      cells: Cells of their grid along the longest side.
      shape: Height and width of the picture, in pixels.

    Returns:
      Zeros, `(a, b, 2)`, of the points inside: those on the border stay where they are.
    """
    longest = max(shape)
    across = [max(2, round(cells * side / longest)) for side in shape]
    return jnp.zeros((across[0] - 1, across[1] - 1, 2))


def field(control: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The displacements between the control points, by cubic interpolation.

    Args:
      control: `(a, b, 2)`, in units of a tenth of the longest side.
      shape: Height and width of the picture, in pixels.

    Returns:
      `(h, w, 2)`, down and across, as shares of the longest side: where what is seen at a place
      comes from, less the place.
    """
    padded = jnp.pad(control, ((1, 1), (1, 1), (0, 0)))
    scale = [(size - 1) / (side - 1) for size, side in zip(shape, padded.shape, strict=False)]
    # The outermost points lie in the middle of the outermost pixels.
    return UNIT * jax.image.scale_and_translate(
        padded,
        (*shape, 2),
        (0, 1),
        jnp.asarray(scale),
        jnp.asarray([(1 - factor) / 2 for factor in scale]),
        "cubic",
        antialias=False,
    )


def over_cells(control: jax.Array, shape: tuple[int, int], cells: tuple[int, int]) -> jax.Array:
    """A picture's field, averaged around the centre of each cell of a map.

    On the map's own grid the border, which stays, would be as wide as a cell.

    Args:
      control: The field's control points.
      shape: Height and width of the picture, in pixels.
      cells: Those of the map.

    Returns:
      `(*cells, 2)`, as `field`.
    """
    return jax.image.resize(field(control, shape), (*cells, 2), "linear")


def move(image: jax.Array, control: jax.Array) -> jax.Array:
    """The image seen through the field, `(h, w, c)`; linear between pixels, its border repeated."""
    height, width = image.shape[:2]
    places = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    places = places + max(height, width) * field(control, (height, width))
    return look_up(image, places)


def look_up(image: jax.Array, places: jax.Array) -> jax.Array:
    """An image or a map at places between its pixels, linearly; outside, its border.

    Args:
      image: `(h, w, c)`.
      places: `(..., 2)`, down and across, in pixels; 0 is the middle of the first.

    Returns:
      `(..., c)`.
    """
    at_places = lambda channel: jax.scipy.ndimage.map_coordinates(
        channel, [places[..., 0], places[..., 1]], order=1, mode="nearest"
    )
    return jax.vmap(at_places, in_axes=-1, out_axes=-1)(image)


def pull(
    features: jax.Array,
    target: jax.Array,
    control: jax.Array,
    *,
    shape: tuple[int, int],
    spatial_weight: float = 0.5,
) -> jax.Array:
    """How far what is alike is apart: a loss whose gradient moves the field, and nothing else.

    Args:
      features: A map of the moved picture, `(h, w, c)`.
      target: The same of the target, `(h', w', c)`.
      control: The field's control points.
      shape: Height and width of the moved picture, in pixels.
      spatial_weight: w_s of the Contextual Bilateral Loss, for positions as shares of the longest
        side about the middle.

    Returns:
      A scalar.
    """
    (height, width), (rows, columns) = features.shape[:2], target.shape[:2]
    moved = over_cells(control, shape, (height, width))
    # Content from further right is content that goes left.
    shift = jax.lax.stop_gradient(moved) - moved
    places = centered_positions((height, width)) + shift
    return cxjax.contextual_bilateral_loss(
        jax.lax.stop_gradient(features).reshape(-1, features.shape[-1]),
        target.reshape(-1, target.shape[-1]),
        x_positions=places.reshape(-1, 2),
        y_positions=centered_positions((rows, columns)).reshape(-1, 2),
        spatial_weight=spatial_weight,
    )


def centered_positions(sides: tuple[int, ...]) -> jax.Array:
    """Where the cells of a map are: `(h, w, 2)`, as shares of the longest side about the middle."""
    down, across = ((jnp.arange(side) + 0.5 - side / 2) / max(sides) for side in sides)
    return jnp.stack(jnp.meshgrid(down, across, indexing="ij"), -1)


def strain(control: jax.Array, cells: int) -> jax.Array:
    """Mean squared gradient of the field: 0 where nothing is stretched."""
    padded = UNIT * cells * jnp.pad(control, ((1, 1), (1, 1), (0, 0)))
    return jnp.square(jnp.diff(padded, axis=0)).mean() + jnp.square(jnp.diff(padded, axis=1)).mean()
