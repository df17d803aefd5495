"""Sources of images: folders, videos, arrays.

A source is anything with a length whose items are images or dicts with an `"image"`: integers over
the range of their type, such as uint8 in 0 to 255, or floating point in [0, 1].
"""

import logging
import os
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from cxjax.data.images import APPLE, as_float, read_image
from cxjax.data.video import iterate_video

log = logging.getLogger(__name__)
_NAMED_ONLY = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow tells what they are, and reads none


@runtime_checkable
class Source(Protocol):
    """Images, or dicts with an `"image"`, that can be had by number, by several threads at once."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """The one of that number, the same each time."""
        ...


class ImageFolder:
    """The pictures in a folder and in the folders in it, in the order of their paths.

    Numbers in a path count as such: `frame2.png` comes before `frame10.png`.
    Items are `{"image": uint8 (h, w, 3), "id": str}`, the id being the path in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Lists the pictures: files whose names end as a format does that Pillow reads.

        Args:
          folder: Folder; names that begin with a dot are left out, and, with a line in the log,
            the HEIC pictures of Apple's phones, which Pillow does not read.

        Raises:
          ValueError: If there is no such folder, or no picture in it.
        """
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        known = {
            end
            for end, kind in Image.registered_extensions().items()
            if kind in Image.OPEN and kind not in _NAMED_ONLY
        }
        paths = [
            path
            for path in self._folder.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(self._folder).parts)
            and path.is_file()
        ]
        if left := sum(path.suffix.lower() in APPLE for path in paths):
            log.warning("%s: %d HEIC pictures are left out; save them as JPEG", folder, left)
        self._paths = sorted((p for p in paths if p.suffix.lower() in known), key=_natural)
        if not self._paths:
            raise ValueError(f"no file in {folder} ends as a picture does that Pillow reads")

    @property
    def ids(self) -> list[str]:
        """The paths in the folder, of all pictures in their order."""
        return [path.relative_to(self._folder).as_posix() for path in self._paths]

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._paths)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Reads a picture; a ValueError names the file that is damaged."""
        path = self._paths[index]
        pixels = (read_image(path) * 255).round().astype(np.uint8)
        return {"image": pixels, "id": path.relative_to(self._folder).as_posix()}


def _natural(path: Path) -> tuple[list[list[str | int]], Path]:
    """A key to sort paths by, in which numbers count; paths that differ in zeros alone, as text."""
    halves = [re.split(r"(\d+)", part) for part in path.parts]  # text and digits by turns
    return [[int(h) if i % 2 else h for i, h in enumerate(part)] for part in halves], path


class VideoFrames:
    """The frames of a video, held in memory as bytes.

    Items are `{"image": uint8 (h, w, 3), "frame": int}`, the frame counted in the whole video.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: int = 0,
        stop: int | None = None,
        every: int = 1,
        max_bytes: int = 2**31,
    ) -> None:
        """Reads the frames.

        Args:
          path: A video, as in `cxjax.data.video.read_video`.
          start: First frame to keep.
          stop: Frame to stop before; `None` for the end.
          every: Keep one frame out of so many.
          max_bytes: Refuse to fill more memory than this.

        Raises:
          FileNotFoundError: If there is no such file.
          ImportError: If FFmpeg is to read it and imageio-ffmpeg is missing.
          ValueError: If it is no video, is damaged, has no such frame, or too many.
        """
        self._frames: list[np.ndarray] = []
        self._start, self._every = start, every
        for frame in iterate_video(path, start=start, stop=stop, every=every):
            if (len(self._frames) + 1) * frame.nbytes > max_bytes:
                raise ValueError(
                    f"{path} has more than {len(self._frames)} frames of {frame.shape[1]} x "
                    f"{frame.shape[0]} pixels, which fill {max_bytes / 2**20:.4g} MiB; choose some "
                    "by start=, stop= and every=, or raise max_bytes="
                )
            self._frames.append(frame)
        if not self._frames:
            raise ValueError(f"{path} has no frame from {start} on")

    def __len__(self) -> int:
        """How many frames are kept."""
        return len(self._frames)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """A frame; from the end, if the index is negative."""
        place = range(len(self._frames))[index]
        return {"image": self._frames[place], "frame": self._start + place * self._every}


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Makes RGB of an image of one to four channels and any type; transparent parts show white.

    Args:
      image: `(h, w)` or `(h, w, c)`: grey, grey and alpha, RGB, or RGB and alpha; of any type that
        `cxjax.data.images.as_float` takes.

    Returns:
      The image, `(h, w, 3)`: of uint8 as uint8, of all other types as float32 in [0, 1].

    Raises:
      ValueError: If it has another shape or is empty; and as `cxjax.data.images.as_float`.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[-1] not in (1, 2, 3, 4) or image.size == 0:
        raise ValueError(f"an image is (h, w) or (h, w, c) with c of 1 to 4, not {image.shape}")
    white = 255.0
    if image.dtype != np.uint8:
        image, white = as_float(image), 1.0
    if image.shape[-1] in (2, 4):
        alpha = image[..., -1:].astype(np.float32) / white
        shown = image[..., :-1].astype(np.float32) * alpha + white * (1 - alpha)
        image = (shown.round() if image.dtype == np.uint8 else shown).astype(image.dtype)
    return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=2)
