"""Pictures as arrays: reading any format that Pillow knows, resizing, writing, strips.

An image is a float32 NumPy array `(h, w, 3)`, RGB with values in [0, 1].
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError('cxjax.data.images needs Pillow: pip install "cxjax[images]"') from error

Picture = Float[np.ndarray, "_ _ 3"]  # height, width, RGB
Pixels = Num[np.ndarray, "_ _ 3"]  # the same, or integers over the range of their type
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

APPLE = (".heic", ".heif")  # pictures of Apple's phones, which Pillow does not read


def read_image(path: str | os.PathLike[str], *, crop: Box | None = None) -> Picture:
    """Reads a picture of any format and mode, upright.

    Transparent parts show white, grey becomes RGB (grey of 16 bits keeps its precision, colour has
    8), EXIF orientation is applied, and of an animation the first frame is
    taken. Grey in integers of 32 bits is read as if of 16; in floating point it lies in [0, 1].

    Args:
      path: File to read.
      crop: Left, top, right, bottom of the part to keep, in pixels of the upright picture.

    Returns:
      The image, `(h, w, 3)`, RGB in [0, 1].

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is no picture, is damaged, has values outside the range of its mode,
        or the crop does not lie inside it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no picture {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a picture file")
    try:
        # Not opened by its name: Pillow would map a TIFF into memory, and turn it wrongly.
        with path.open("rb") as file, Image.open(file) as opened:
            opened.load()
            image = _to_array(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        hint = "; save it as JPEG or PNG first" if path.suffix.lower() in APPLE else ""
        raise ValueError(f"{path} is not a picture in a format that Pillow reads{hint}") from error
    except Exception as error:  # each of Pillow's decoders has its own
        raise ValueError(f"cannot read the picture {path}: {error}") from error
    return image if crop is None else cut(image, crop, inside=str(path))


def cut(image: Picture, box: Box, *, name: str = "the crop", inside: str = "the image") -> Picture:
    """Cuts a part out of an image.

    Args:
      image: Image, `(h, w, 3)`.
      box: Left, top, right, bottom of the part, in pixels.
      name: What the box is called in the message of an error.
      inside: What the image is called there.

    Returns:
      The part, a view of the image.

    Raises:
      ValueError: If the box does not lie inside the image.
    """
    left, top, right, bottom = box
    height, width = image.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"{name} (left {left}, top {top}, right {right}, bottom {bottom}) does not lie "
            f"inside {inside}, which is {width} x {height} pixels"
        )
    return image[top:bottom, left:right]


def middle_square(image: Picture) -> Box:
    """The largest square in the middle of an image: left, top, right, bottom.

    Args:
      image: Image, `(h, w, 3)`.

    Returns:
      Its box, for `cut`.
    """
    height, width = image.shape[:2]
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _to_array(picture: Image.Image) -> Picture:
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float32)
        top = 1 if picture.mode == "F" else 65535
        if not (grey.min() >= 0 and grey.max() <= top):  # a NaN is neither
            raise ValueError(
                f"values from {grey.min()} to {grey.max()}, where its mode {picture.mode} should "
                f"have 0 to {top}"
            )
        if isinstance(transparent := picture.info.get("transparency"), int):
            grey = np.where(grey == transparent, top, grey)
        return np.repeat(grey[:, :, None] / top, 3, axis=2)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = on_white(picture)
    return np.asarray(picture.convert("RGB"), np.float32) / 255


def on_white(picture: Image.Image) -> Image.Image:
    """Makes RGB of a Pillow picture of any mode of 8 bits, its transparent parts white.

    Args:
      picture: Picture.

    Returns:
      The picture, of mode RGB.
    """
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def resize(image: Pixels, *, longest_side: int) -> Pixels:
    """Scales an image, keeping its proportions, without aliasing.

    Args:
      image: As in `resize_to`, `(h, w, 3)`.
      longest_side: The larger of the new height and width, in pixels; the other is at least 1.

    Returns:
      As `resize_to`.

    Raises:
      ValueError: As `resize_to`.
    """
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    return resize_to(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def resize_shorter(image: Pixels, *, shorter_side: int) -> Pixels:
    """The same by its shorter side.

    Args:
      image: As in `resize_to`, `(h, w, 3)`.
      shorter_side: The smaller of the new height and width, in pixels.

    Returns:
      As `resize_to`.

    Raises:
      ValueError: As `resize_to`.
    """
    height, width = image.shape[:2]
    scale = shorter_side / min(height, width)
    return resize_to(image, (round(height * scale), round(width * scale)))


def resize_to(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Scales an image to a height and a width by a Lanczos filter, without aliasing.

    By Pillow: JAX's filter is the same, but is compiled for every new size (230 ms against 5 ms).

    Args:
      image: Image, `(h, w, 3)`: floating point in [0, 1], or integers as in `as_float`.
      size: Height and width wanted, in pixels.

    Returns:
      The scaled image: of uint8 as uint8, of all other types as float32 in [0, 1]. The image itself
      if it has that size.

    Raises:
      ValueError: As `as_float` for integers.
    """
    if image.shape[:2] == tuple(size):
        return image
    shape = (size[1], size[0])
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.LANCZOS))
    # Channel by channel: Pillow has no colour picture in floating point.
    channels = [Image.fromarray(c) for c in np.moveaxis(_floating(image), 2, 0)]
    scaled = [np.asarray(c.resize(shape, Image.Resampling.LANCZOS)) for c in channels]
    return np.clip(np.stack(scaled, axis=2), 0, 1)


def write_image(path: str | os.PathLike[str], image: Pixels) -> None:
    """Writes an image, whole or not at all, in the format that the file's name says.

    Args:
      path: File to write, such as `result.png`.
      image: Image, `(h, w, 3)`, RGB: floating point, clipped to [0, 1], or integers as in
        `as_float`.

    Raises:
      ValueError: If the name ends in no format that Pillow writes, or as `as_float` for integers.
      OSError: If it cannot be written.
    """
    path = Path(path)
    pixels = to_bytes(image)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        unfinished = Path(folder) / path.name
        Image.fromarray(pixels).save(unfinished)
        unfinished.replace(path)


def to_bytes(image: Pixels) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pixels of 8 bits, as files hold them.

    Args:
      image: Image, `(h, w, 3)`: floating point, clipped to [0, 1], or integers as in `as_float`.

    Returns:
      The pixels, `(h, w, 3)`, uint8.

    Raises:
      ValueError: As `as_float` for integers.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return (np.clip(_floating(image), 0, 1) * 255).round().astype(np.uint8)


def _floating(image: np.ndarray) -> np.ndarray:
    """Floating point as it is, and integers by `as_float`; all as float32."""
    is_floating = jnp.issubdtype(image.dtype, jnp.floating)
    return image.astype(np.float32) if is_floating else as_float(image)


def as_float(image: Shaped[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Values of an image as float32 in [0, 1]: integers by the range of their type.

    Args:
      image: Array of any shape but empty. Of integers the type's largest value becomes 1, such as
        65535 of uint16; of booleans `True`. Floating point must lie in [0, 1].

    Returns:
      The same shape, float32.

    Raises:
      ValueError: If a floating-point value lies outside [0, 1] or is NaN, an integer is negative,
        or the type is none of these. Also if all values of an integer type of 32 or 64 bits are
        below 1/512 of its range, which would show black: most likely they are pixels of 8 bits.
    """
    kind = image.dtype
    if kind == np.uint8:
        return image.astype(np.float32) / 255
    if kind == np.bool_:
        return image.astype(np.float32)
    is_floating = jnp.issubdtype(kind, jnp.floating)  # bfloat16 too
    if not (is_floating or np.issubdtype(kind, np.integer)):
        raise ValueError(f"an image must be integers, booleans or floating point, not {kind}")
    low, high = image.min(), image.max()
    if is_floating:
        if not (low >= 0 and high <= 1):  # a NaN is neither
            raise ValueError(
                f"{kind} values from {low} to {high}; floating-point images must lie in [0, 1]: "
                "divide 8-bit ones by 255, or clip them"
            )
        return np.asarray(image, np.float32)
    largest = np.iinfo(kind).max
    if low < 0:
        raise ValueError(f"{kind} values from {low} to {high}; integer images must not be negative")
    if largest > 65535 and 0 < high < largest / 512:
        raise ValueError(
            f"{kind} values up to {high} would show black, as {largest} is white; convert them to "
            "uint8 (white is 255), uint16 (65535), or floating point in [0, 1]"
        )
    return np.divide(image, largest, dtype=np.float64).astype(np.float32)


def strip(images: Sequence[Pixels], *, gap: int = 4) -> Picture:
    """Sets images side by side on white, centred vertically.

    Args:
      images: Images `(h, w, 3)` of any sizes: floating point, or integers as in `as_float`.
      gap: White pixels between them.

    Returns:
      One image as high as the highest.

    Raises:
      ValueError: As `as_float` for integers.
    """
    height = max(image.shape[0] for image in images)
    pieces = []
    for image in map(_floating, images):
        above = (height - image.shape[0]) // 2
        below = height - image.shape[0] - above
        pieces.append(np.pad(image, ((above, below), (0, gap), (0, 0)), constant_values=1))
    return np.concatenate(pieces, axis=1)[:, :-gap] if gap else np.concatenate(pieces, axis=1)
