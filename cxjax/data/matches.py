"""Pictures of which point of one image was matched with which of another."""

import colorsys
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw

from cxjax.data.images import Picture, strip
from cxjax.options import check_integer
from cxjax.types import AnyArray

_SUPERSAMPLING = 4  # lines are drawn so many times as large, then averaged
_SHAFT_OPACITY = 0.75
_HEAD = 6  # length of an arrow's head, in widths of its line
_EDGE = (0, 0, 0)
_GOLDEN = (math.sqrt(5) - 1) / 2  # the step of hue that keeps any number of colours apart


def draw_matches(
    x: Picture,
    y: Picture,
    *,
    x_positions: Float[AnyArray, "n 2"],
    y_positions: Float[AnyArray, "m 2"],
    index: Int[AnyArray, " m"],
    similarity: Float[AnyArray, " m"],
    strongest: int | None = 24,
    apart: float = 0.0,
    gap: int = 16,
    line_width: float = 1.25,
) -> Picture:
    """Draws the strongest matches as arrows from the target's points to their sources.

    The source image is on the left, the target on the right. A dot marks the target's point, the
    head of the arrow its source; colours only tell arrows apart. The strongest lies on top. A
    small picture is best enlarged before, its positions with it.

    Args:
      x: Source image, `(h, w, 3)`, RGB in [0, 1].
      y: Target image, `(h', w', 3)`, likewise.
      x_positions: Row and column of each source point in pixels of `x`, `(n, 2)`, counted from the
        outer edge of the first pixel, as `cxjax.points` gives them.
      y_positions: The same of each target point in `y`, `(m, 2)`.
      index: Source of each target point, `(m,)`, as `cxjax.contextual_matches` returns it; where it
        is -1 nothing is drawn.
      similarity: Strength of each match, `(m,)`, finite.
      strongest: How many to draw, strongest first, of equals the first; `None` draws all.
      apart: Least distance of the target points drawn, in pixels: a weaker match nearer to a
        stronger one is left out, so that the arrows do not all come from one place.
      gap: White pixels between the images.
      line_width: In pixels; dots and heads grow with it.

    Returns:
      One image as high as the higher, `(h', w', 3)`, in [0, 1].

    Raises:
      ValueError: If an image is not `(h, w, 3)`, the arrays do not fit one another, an index lies
        outside -1 to `n - 1`, a position that is drawn outside its image, a similarity is not
        finite, or an option is out of range.

    Example:
      >>> x = y = np.full((32, 32, 3), 0.5, np.float32)
      >>> at = np.array([[8.0, 8.0], [20.0, 12.0]], np.float32)
      >>> options = {"index": np.array([1, 0]), "similarity": np.array([0.9, 0.4])}
      >>> print(draw_matches(x, y, x_positions=at, y_positions=at, **options).shape)
      (32, 80, 3)

    References:
      Mechrez et al., ECCV 2018, Fig. 3.
    """
    x_positions, y_positions, index, similarity = map(
        np.asarray, (x_positions, y_positions, index, similarity)
    )
    _check_arrays(x, y, x_positions, y_positions, index, similarity)
    _check_options(strongest, apart, gap, line_width)
    chosen = _choose(y_positions, index, similarity, strongest, apart)
    sources, targets = x_positions[index[chosen]], y_positions[chosen]
    _check_inside(sources, x, "x_positions")
    _check_inside(targets, y, "y_positions")
    height = max(x.shape[0], y.shape[0])
    ends = sources + [(height - x.shape[0]) // 2, 0]
    starts = targets + [(height - y.shape[0]) // 2, x.shape[1] + gap]
    picture = strip([np.asarray(x, np.float32), np.asarray(y, np.float32)], gap=gap)
    return np.clip(_draw_arrows(picture, starts, ends, line_width), 0, 1)


def _choose(positions, index, similarity, strongest: int | None, apart: float) -> list[int]:
    """Of the targets that take part the strongest, none nearer than `apart` to a stronger one."""
    chosen: list[int] = []
    for j in np.argsort(-similarity, kind="stable"):
        if len(chosen) == strongest:
            break
        if index[j] < 0:
            continue
        distances = np.linalg.norm(positions[chosen] - positions[j], axis=1)
        if not (distances < apart).any():
            chosen.append(int(j))
    return chosen


def _draw_arrows(picture: Picture, starts, ends, line_width: float) -> Picture:
    """All shafts, through which the picture shows, and above them all dots and heads."""
    colours = [_colour(rank) for rank in range(len(starts))]
    for draw_part, opacity in ((_draw_shaft, _SHAFT_OPACITY), (_draw_ends, 1.0)):
        height, width = picture.shape[:2]
        layer = Image.new("RGBA", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
        draw = ImageDraw.Draw(layer)
        for start, end, colour in reversed(list(zip(starts, ends, colours, strict=True))):
            # Pillow counts from the middle of the first pixel, and columns before rows.
            tail, tip = (at[::-1] * _SUPERSAMPLING - 0.5 for at in (start, end))
            draw_part(draw, tail, tip, line_width * _SUPERSAMPLING, colour)
        layer = np.asarray(layer.resize((width, height), Image.Resampling.BOX), np.float32) / 255
        covered = layer[..., 3:] * np.float32(opacity)
        picture = picture * (1 - covered) + layer[..., :3] * covered
    return picture


def _colour(rank: int) -> tuple[int, ...]:
    red, green, blue = colorsys.hsv_to_rgb(rank * _GOLDEN % 1, 0.85, 1.0)
    return tuple(round(255 * value) for value in (red, green, blue))


def _directions(start, end):
    """Distance, and the unit vectors along and across; a point matched with itself looks left."""
    length = math.hypot(*(end - start))
    along = (end - start) / length if length else np.array([-1.0, 0.0])
    return length, along, np.array([-along[1], along[0]])


def _draw_shaft(draw: ImageDraw.ImageDraw, start, end, width: float, colour) -> None:
    length, along, across = _directions(start, end)
    base = end - min(length, _HEAD * width) * along  # not beyond the tip of the head
    # First a dark edge, without which a line is lost on a picture of its colour.
    for half, fill in ((width, _EDGE), (width / 2, colour)):
        corners = (start + half * across, base + half * across)
        corners += (base - half * across, start - half * across)
        draw.polygon([tuple(corner) for corner in corners], fill=fill)


def _draw_ends(draw: ImageDraw.ImageDraw, start, end, width: float, colour) -> None:
    _, along, across = _directions(start, end)
    for edge, fill in ((width / 2, _EDGE), (0.0, colour)):
        radius = 2 * width + edge
        draw.ellipse([*(start - radius), *(start + radius)], fill=fill)
        tip, back = end + 2 * edge * along, end - (_HEAD * width + edge) * along
        wing = (2.5 * width + 1.5 * edge) * across
        draw.polygon([tuple(corner) for corner in (tip, back + wing, back - wing)], fill=fill)


def _check_arrays(x, y, x_positions, y_positions, index, similarity) -> None:
    for name, image in (("x", x), ("y", y)):
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"{name} must be an image (h, w, 3); got shape {image.shape}")
        if not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"{name} must be floating, in [0, 1]; got {image.dtype}")
    for name, positions in (("x_positions", x_positions), ("y_positions", y_positions)):
        if positions.ndim != 2 or positions.shape[1] != 2:
            raise ValueError(
                f"{name} must be rows and columns, (n, 2); got shape {positions.shape}"
            )
    expected = y_positions.shape[:1]
    if index.shape != expected or similarity.shape != expected:
        raise ValueError(
            f"index and similarity must have one entry per target point, shape {expected} for "
            f"y_positions of shape {y_positions.shape}; got {index.shape} and {similarity.shape}"
        )
    if not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"index must be integers; got {index.dtype}")
    if not ((index >= -1) & (index < len(x_positions))).all():
        raise ValueError(
            f"index must lie in -1 to {len(x_positions) - 1} for x_positions of shape "
            f"{x_positions.shape}; got {index.min()} to {index.max()}"
        )
    if not np.isfinite(similarity).all():
        raise ValueError("similarity must be finite; some are not")


def _check_options(strongest: Any, apart: float, gap: int, line_width: float) -> None:
    if strongest is not None:
        check_integer("strongest", strongest, more=", or None for all")
    if not (apart >= 0 and gap >= 0):
        raise ValueError(f"apart and gap must not be negative; got {apart} and {gap}")
    if not 0 < line_width < math.inf:
        raise ValueError(f"line_width must be positive; got {line_width}")


def _check_inside(positions, image: Picture, name: str) -> None:
    inside = (positions >= 0) & (positions <= image.shape[:2])
    if not inside.all():
        at = positions[~inside.all(axis=1)][0]
        raise ValueError(
            f"{name} must be in pixels of its image, which has shape {image.shape}; got the row "
            f"and column {at.tolist()}. Of feature maps, give the cell_size of cxjax.points"
        )
