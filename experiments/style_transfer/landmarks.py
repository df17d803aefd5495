"""Landmarks, placed by hand in the portraits and in some results of the study of the deformation.

Eyes, tip of the nose, corners of the mouth, chin, cheeks at the nose, then top, left and right of
hair or hat: across and down, per cent of the picture.
"""

from typing import NamedTuple

import numpy as np

from cxjax.data import images
from experiments.common.deformation import between, deformation
from experiments.style_transfer.config import PairName
from experiments.style_transfer.data import PAIRS

Landmarks = tuple[tuple[float, float], ...]
FACE, OUTLINE = slice(0, 8), slice(8, 11)  # of the landmarks

LANDMARKS: dict[str, Landmarks] = {
    "astronaut": (
        *((42, 36.5), (58, 37), (50, 45), (42, 51), (57, 51), (48.5, 60.5), (36.5, 47), (62, 48)),
        *((52, 5.5), (25, 26), (77, 30)),
    ),
    "grace_hopper": (
        *((39, 49), (62, 49), (52.5, 64), (43, 74), (62, 72.5), (50, 87), (31, 66), (75, 66)),
        *((50, 7), (22, 36), (79, 36)),
    ),
    "PortraitOfPereTanguy": (
        *((46, 36), (62, 36), (53, 45), (48, 49), (58, 49), (52, 60), (39, 47), (70, 46)),
        *((50, 8), (17, 22), (91, 16)),
    ),
}


class Placed(NamedTuple):
    """Landmarks in results for a pair: a flow does not see an outline that is painted anew."""

    shape: tuple[int, int]
    """Height and width of the results."""
    target_shape: tuple[int, int]
    landmarks: dict[str, Landmarks]
    """By setting of the study."""


PLACED_SIZE = 160  # of the runs, in pixels
# fmt: off
PLACED: dict[PairName, Placed] = {
    "astronaut-tanguy": Placed((160, 160), (160, 157), {
        "default": (
            (42, 35.5), (58.5, 36.5), (51, 45), (43, 50.5), (57, 50.5), (50, 62),
            (36, 47), (63, 48), (54, 6.5), (13.5, 17), (93, 18),
        ),
        "the paper's losses": (
            (42.5, 35.5), (58, 36.5), (50, 45), (43, 50.5), (57, 50.5), (48.5, 62),
            (36, 47), (63, 48), (55, 7), (12.5, 17), (77, 29),
        ),
        "places, weight 0.3": (
            (42, 35.5), (58, 35.5), (50.5, 45), (43, 50.5), (57, 50.5), (49.5, 62),
            (34.5, 47), (64.5, 48), (53, 6), (12.5, 17.5), (93.5, 18),
        ),
        "deformation 10": (
            (50, 35.5), (66, 36.5), (57, 45.5), (51, 49.5), (64, 50), (57, 62),
            (44, 48), (71, 49), (57, 6.5), (20.5, 19), (81.5, 30),
        ),
    }),
    "astronaut-hopper": Placed((160, 160), (160, 160), {
        "default": (
            (42, 36), (57.5, 36.5), (50, 46.5), (42.5, 51), (56.5, 51), (49.5, 63.5),
            (35, 48), (63.5, 48), (52, 5.5), (25, 25), (77, 30),
        ),
        "the paper's losses": (
            (41, 35.5), (57.5, 36.5), (50, 46.5), (42.5, 51), (56.5, 51), (49.5, 63),
            (34.5, 47), (63.5, 48), (53, 5.5), (24.5, 26), (77, 30),
        ),
        "places, weight 0.3": (
            (41, 35.5), (57.5, 36.5), (50, 46.5), (42.5, 51), (56.5, 51), (49.5, 63.5),
            (34.5, 47), (64, 48), (52, 6), (25, 23), (77, 31),
        ),
        "deformation 10": (
            (43, 42.5), (60, 41), (52, 54), (43.5, 58.5), (59, 59.5), (50, 70.5),
            (36, 54), (67, 54), (52.5, 6.5), (25, 28), (78, 34),
        ),
    }),
}
# fmt: on


def score(
    pair: PairName, content: images.Picture, target: images.Picture, result: images.Picture
) -> dict[str, float]:
    """How far a result's shapes moved, by the flow; nothing for pairs without landmarks."""
    landmarks = [LANDMARKS.get(source.name) for source in (PAIRS[pair].content, PAIRS[pair].target)]
    if None in landmarks:
        return {}
    return deformation(
        content,
        result,
        landmarks=np.array(landmarks[0]),
        target_landmarks=np.array(landmarks[1]),
        target_shape=target.shape[:2],
    )._asdict()


def score_by_hand() -> dict[str, dict[str, float]]:
    """The same of the results in which landmarks were placed, by setting and pair: of all of them,
    of the face and of the outline."""
    rows = {}
    for pair, placed in PLACED.items():
        content, target = (
            np.array(LANDMARKS[source.name]) for source in (PAIRS[pair].content, PAIRS[pair].target)
        )
        for setting, points in placed.landmarks.items():
            whole, face, outline = (
                between(
                    content[part],
                    np.array(points)[part],
                    target[part],
                    shape=placed.shape,
                    target_shape=placed.target_shape,
                )
                for part in (slice(None), FACE, OUTLINE)
            )
            rows[f"{setting} ({pair})"] = {
                "share": whole.share,
                "of the face": face.share,
                "its shape share": face.shape_share,
                "of the outline": outline.share,
            }
    return rows
