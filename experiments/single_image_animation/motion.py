"""How much of a clip's motion an animation has, and how much it flickers.

All of it on consecutive frames that the generator never saw, `(t, h, w, 3)`, RGB in [0, 1]. Motion
is dense optical flow (TV-L1, Zach, Pock and Bischof 2007, scikit-image's) between neighbouring
frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from skimage.registration import optical_flow_tvl1
from skimage.transform import warp

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the frame

STILL = 0.05  # pixels: where the source moves less on average, there is no motion to carry over
_SEEN = 0.05  # change of grey value up to which the flow is held to explain a pixel of the source


def flow(frames: np.ndarray) -> np.ndarray:
    """Optical flow from each frame to the next.

    Args:
      frames: `(t, h, w, 3)`.

    Returns:
      Displacements in pixels, rows then columns, `(t - 1, 2, h, w)`: what is at p in frame i is at
      p + flow in frame i + 1.
    """
    grey = np.asarray(frames, np.float32).mean(axis=-1)
    pairs = zip(grey, grey[1:], strict=False)
    return np.stack([optical_flow_tvl1(here, there, attachment=15) for here, there in pairs])


def track(motion: np.ndarray, box: Box) -> list[tuple[slice, slice]]:
    """Follows a box through a clip, by the median of the flow inside it.

    Args:
      motion: The clip's flow, `(t - 1, 2, h, w)`.
      box: The box in the first frame.

    Returns:
      Rows and columns of the box in each frame but the last.
    """
    height, width = motion.shape[-2:]
    top, left = box[1] * height, box[0] * width
    rows, columns = round((box[3] - box[1]) * height), round((box[2] - box[0]) * width)
    boxes = []
    for field in motion:
        y = min(max(0, round(top)), height - rows)
        x = min(max(0, round(left)), width - columns)
        boxes.append((slice(y, y + rows), slice(x, x + columns)))
        moved = np.median(field[:, boxes[-1][0], boxes[-1][1]].reshape(2, -1), axis=1)
        top, left = top + moved[0], left + moved[1]
    return boxes


def motion_carried(
    source: np.ndarray, result: np.ndarray, boxes: Mapping[str, Box] | None = None
) -> dict[str, float]:
    """Correlation of the motion in the result with that in the source.

    Args:
      source: Flow of the source, `(t - 1, 2, h, w)`.
      result: Flow of the result, the same shape.
      boxes: Parts of the first frame by name, followed in the source. Of `"head"` the mean motion
        is compared over time; of the others, the motion of each pixel less the head's.

    Returns:
      `"whole"`, over all pixels, and each part: 1 where the motion is the same up to a factor, 0
      where it has nothing to do with the source's, NaN where the source stands still.
    """
    fields = (source, result)
    carried = {"whole": _correlation(*fields)}
    tracked = {name: track(source, box) for name, box in (boxes or {}).items()}
    heads: list[Any] = [0.0, 0.0]
    if "head" in tracked:
        head = tracked.pop("head")
        heads = [_inside(field, head).mean(axis=(2, 3), keepdims=True) for field in fields]
        carried["head"] = _correlation(*heads, least=0.0)
    for name, places in tracked.items():
        parts = [_inside(field, places) - head for field, head in zip(fields, heads, strict=True)]
        carried[name] = _correlation(*parts)
    return carried


def _inside(motion: np.ndarray, places: Sequence[tuple[slice, slice]]) -> np.ndarray:
    return np.stack([field[:, y, x] for field, (y, x) in zip(motion, places, strict=True)])


def _correlation(source: np.ndarray, result: np.ndarray, least: float = STILL) -> float:
    """Pearson's, of displacements `(t, 2, h, w)`, each component centred by itself."""
    x, y = (a - a.mean(axis=(0, 2, 3), keepdims=True) for a in (source, result))
    spread = np.sqrt((x * x).mean() * (y * y).mean())
    if np.sqrt((x * x).mean()) <= least:
        return float("nan")
    return float((x * y).mean() / spread) if spread > 0 else 0.0


def flicker(frames: np.ndarray, source: np.ndarray, motion: np.ndarray) -> float:
    """Change from frame to frame that the source's motion does not explain.

    Args:
      frames: Clip to judge, `(t, h, w, 3)`.
      source: Clip whose motion it should have.
      motion: The source's flow.

    Returns:
      Mean absolute difference between each frame and the next one brought back along the source's
      flow, where that flow explains the source itself; in the range of the pixels, 0 to 1.
    """
    differences, seen = (_warped_differences(clip, motion) for clip in (frames, source))
    explained = seen.mean(axis=-1, keepdims=True) < _SEEN
    return float((differences * explained).sum() / (3 * max(1, explained.sum())))


def _warped_differences(frames: np.ndarray, motion: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(frames.shape[1:3])
    differences = []
    for here, there, (v, u) in zip(frames, frames[1:], motion, strict=False):
        where = np.stack([rows + v, columns + u])
        back = [warp(there[..., c], where, mode="edge", order=1) for c in range(3)]
        differences.append(np.abs(np.stack(back, axis=-1) - here))
    return np.stack(differences)
