"""How near a result is to the clean picture, wherever it has settled among the targets."""

import numpy as np

from experiments import metrics
from experiments.misalignment.config import Config


def best_shift(
    image: np.ndarray, clean: np.ndarray, *, reach: int, border: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Lays the inner part of an image over the clean picture where the PSNR is highest.

    Args:
      image: Image, `(h, w, 3)`.
      clean: Clean picture, the same shape.
      reach: Largest shift to try in each direction, at most `border`.
      border: Pixels on each side of the image that are left out, whatever the shift.

    Returns:
      The image's inner part `(h - 2 border, w - 2 border, 3)`, the part of the clean picture that
      is most like it, and where that lies: rows and columns from the inner part's own place.
    """
    height, width = image.shape[:2]
    if not 0 <= reach <= border or 2 * border >= min(height, width):
        raise ValueError(
            f"the border {border} must be at least the reach {reach} and leave something of "
            f"{image.shape}"
        )

    def window(picture, down, across):
        rows = slice(border + down, height - border + down)
        return picture[rows, border + across : width - border + across]

    inner = window(image, 0, 0)
    shifts = range(-reach, reach + 1)
    found = {(i, j): np.square(inner - window(clean, i, j)).mean() for i in shifts for j in shifts}
    best = min(found, key=lambda shift: found[shift])
    return inner, window(clean, *best), best


def scores(config: Config, image: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """What a result is worth.

    Args:
      config: Settings; the shifts tried are those of its targets and one more pixel.
      image: Result, `(crop, crop, 3)`, in [0, 1].
      clean: The source without its noise, the same shape.

    Returns:
      PSNR, SSIM and LPIPS of the inner part at the shift of the highest PSNR, that shift (`down`,
      `across`), and the `contrast`: the standard deviation as a share of the clean picture's.
    """
    reach = config.shift + 1
    made, truth, (down, across) = best_shift(image, clean, reach=reach, border=config.border)
    found = {
        name: float(score(made[None], truth[None])[0])
        for name, score in (
            ("psnr", metrics.psnr),
            ("ssim", metrics.ssim),
            ("lpips", metrics.lpips),
        )
    }
    contrast = float(made.std() / truth.std())
    return {**found, "contrast": contrast, "down": down, "across": across}
