"""How far the shapes of a picture that was made have moved towards the target's.

Landmarks are placed by hand in the content and in the target. A dense flow from the content to the
result says where each went; its share of the way to the target's is what is reported: 0 where
nothing moved, 1 where all shapes are the target's. A flow follows edges that move; an outline that
is painted anew elsewhere it does not see, and there landmarks are placed in the result too.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.registration import optical_flow_tvl1

from cxjax.data import images

_NEIGHBOURHOOD = 6 / 256  # of the longest side: over which contrast is evened out


class Deformation(NamedTuple):
    """Shares of the way to the target's shapes."""

    share: float
    """Along the way from the content's landmarks to the target's; 1 is all of it."""
    shape_share: float
    """The same once both are freed of shift, turn and scale."""
    moved: float
    """Root mean square of the landmarks' own ways, per cent of the longest side."""
    wanted: float
    """The same of the ways to the target's landmarks."""


def flow(content: images.Picture, result: images.Picture) -> np.ndarray:
    """Where each of the content's pixels is in the result, less where it was.

    What is compared is the grey less its surroundings, over their contrast: a style changes the
    colours, and leaves most edges.

    Args:
      content: `(h, w, 3)`.
      result: The same shape.

    Returns:
      `(h, w, 2)`, down and across, in pixels.

    References:
      Zach, Pock and Bischof, A Duality Based Approach for Realtime TV-L1 Optical Flow, 2007, by
      scikit-image.
    """
    evened = [_evened(picture) for picture in (content, result)]
    return np.moveaxis(optical_flow_tvl1(*evened, attachment=10, tightness=0.3, num_warp=10), 0, -1)


def _evened(picture: images.Picture) -> np.ndarray:
    grey = picture.mean(axis=-1)
    sigma = _NEIGHBOURHOOD * max(grey.shape)
    mean = ndimage.gaussian_filter(grey, sigma)
    deviation = np.sqrt(ndimage.gaussian_filter(np.square(grey - mean), sigma))
    return (grey - mean) / (deviation + 0.02)


def deformation(
    content: images.Picture,
    result: images.Picture,
    *,
    landmarks: np.ndarray,
    target_landmarks: np.ndarray,
    target_shape: tuple[int, int],
) -> Deformation:
    """How far the content's landmarks went towards the target's.

    Args:
      content: `(h, w, 3)`.
      result: The same shape.
      landmarks: Of the content, `(k, 2)`, across and down, per cent.
      target_landmarks: Of the target.
      target_shape: Its height and width.

    Returns:
      The shares.
    """
    height, width = content.shape[:2]
    ways = 100 * ways_of(landmarks, flow(content, result)) / [width, height]
    return between(
        landmarks,
        landmarks + ways,
        target_landmarks,
        shape=(height, width),
        target_shape=target_shape,
    )


def between(
    landmarks: np.ndarray,
    placed: np.ndarray,
    target_landmarks: np.ndarray,
    *,
    shape: tuple[int, int],
    target_shape: tuple[int, int],
) -> Deformation:
    """The same of landmarks whose places in the result are known, such as by hand.

    Args:
      landmarks: Of the content, `(k, 2)`, across and down, per cent.
      placed: Of the result.
      target_landmarks: Of the target.
      shape: Height and width of content and result.
      target_shape: Those of the target.

    Returns:
      The shares.
    """
    starts, made, ends = (
        _in_shares(points, of)
        for points, of in ((landmarks, shape), (placed, shape), (target_landmarks, target_shape))
    )
    return Deformation(
        share=_share(made - starts, ends - starts),
        shape_share=_share(_shape(starts, made), _shape(starts, ends)),
        moved=100 * _size(made - starts),
        wanted=100 * _size(ends - starts),
    )


def ways_of(landmarks: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Where a flow, smoothed, takes landmarks.

    Args:
      landmarks: Across and down, per cent, `(k, 2)`.
      field: Displacements, down and across, in pixels, `(h, w, 2)`.

    Returns:
      Their displacements, across and down, in pixels, `(k, 2)`.
    """
    height, width = field.shape[:2]
    rows = np.clip(landmarks[:, 1] / 100 * height, 0, height - 1)
    columns = np.clip(landmarks[:, 0] / 100 * width, 0, width - 1)
    smooth = ndimage.gaussian_filter(field, (2, 2, 0))
    return np.stack(
        [ndimage.map_coordinates(smooth[..., i], [rows, columns], order=1) for i in (1, 0)], -1
    )


def _in_shares(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Across and down from the middle, as shares of the longest side."""
    height, width = shape
    return (np.asarray(landmarks) / 100 - 0.5) * [width, height] / max(shape)


def _share(ways: np.ndarray, wanted: np.ndarray) -> float:
    return float((ways * wanted).sum() / np.square(wanted).sum())


def _size(ways: np.ndarray) -> float:
    return float(np.sqrt(np.square(ways).sum(axis=1).mean()))


def _shape(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The ways that no shift, turn and change of scale of the ends explains."""
    origin = starts.mean(axis=0)
    a, b = ((places - places.mean(axis=0)) @ [1, 1j] for places in (starts, ends))
    aligned = b * (np.vdot(b, a) / np.vdot(b, b))
    return np.stack([aligned.real, aligned.imag], axis=-1) + origin - starts
