"""Videos as arrays: animated GIF, WebP and PNG by Pillow, all others by FFmpeg.

A video is a float32 NumPy array `(t, h, w, 3)`, RGB with values in [0, 1].
"""

import contextlib
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Num, UInt8

try:
    from PIL import Image, UnidentifiedImageError
except ImportError as error:
    raise ImportError('cxjax.data.video needs Pillow: pip install "cxjax[images]"') from error

from cxjax.data.images import Pixels, on_white, to_bytes

Video = Float[np.ndarray, "_ _ _ 3"]  # time, height, width, RGB
Frame = UInt8[np.ndarray, "_ _ 3"]  # height, width, RGB

_ANIMATIONS = ("GIF", "WEBP", "PNG")
_WRITES = (".mp4", ".gif", ".webp")


def read_video(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
    max_bytes: int = 2**31,
) -> Video:
    """Reads the frames of a video.

    Args:
      path: A video of any kind that FFmpeg knows, or a GIF, WebP or PNG file; a still picture is
        one frame. Transparent parts show white.
      start: First frame to keep, counted from 0.
      stop: Frame to stop before; `None` for the end.
      every: Keep one frame out of so many.
      max_bytes: Refuse to fill more memory than this with the result.

    Returns:
      The frames, `(t, h, w, 3)`, RGB in [0, 1].

    Raises:
      FileNotFoundError: If there is no such file.
      ImportError: If FFmpeg is to read it and imageio-ffmpeg is missing.
      ValueError: If the file is no video, is damaged, has none of the frames asked for, has frames
        of differing sizes, or too many frames for `max_bytes`.
    """
    kept: list[Frame] = []
    for frame in iterate_video(path, start=start, stop=stop, every=every):
        if kept and frame.shape != kept[0].shape:
            raise ValueError(f"{path} has frames of {kept[0].shape[:2]} and of {frame.shape[:2]}")
        if (len(kept) + 1) * frame.size * 4 > max_bytes:
            raise ValueError(
                f"{path} has more than {len(kept)} frames of {frame.shape[1]} x {frame.shape[0]} "
                f"pixels, which fill {max_bytes / 2**20:.4g} MiB; choose some by start=, stop= and "
                "every=, or raise max_bytes="
            )
        kept.append(frame)
    if not kept:
        raise ValueError(f"{path} has no frame from {start} on")
    video = np.empty((len(kept), *kept[0].shape), np.float32)
    for index, frame in enumerate(kept):
        np.divide(frame, 255, out=video[index], casting="unsafe")
    return video


def iterate_video(
    path: str | os.PathLike[str], *, start: int = 0, stop: int | None = None, every: int = 1
) -> Iterator[Frame]:
    """Yields the frames one by one, as bytes, so that a long video need not fit into memory.

    Args:
      path: As in `read_video`.
      start: First frame to keep, counted from 0.
      stop: Frame to stop before; `None` for the end.
      every: Keep one frame out of so many.

    Returns:
      An iterator of frames, uint8 `(h, w, 3)`, RGB in 0 to 255.

    Raises:
      FileNotFoundError: If there is no such file.
      ImportError: If FFmpeg is to read it and imageio-ffmpeg is missing.
      ValueError: If the file is no video or is damaged, or the selection makes no sense.
    """
    check_selection(start, stop, every)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no video {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a video file")
    frames = _frames_by_pillow(path) if _is_animation(path) else _frames_by_ffmpeg(path)
    return itertools.islice(frames, start, stop, every)


def check_selection(start: int, stop: int | None, every: int) -> None:
    """Refuses a selection that takes no frame of any video.

    Args:
      start: As in `iterate_video`.
      stop: Likewise.
      every: Likewise.

    Raises:
      ValueError: If it takes none.
    """
    if start < 0 or every < 1 or (stop is not None and stop <= start):
        raise ValueError(f"no frames in start={start}, stop={stop}, every={every}")


def frame_rate(path: str | os.PathLike[str]) -> float:
    """Frames per second that a video is to be shown at.

    Args:
      path: As in `read_video`.

    Returns:
      Frames per second; 0 for a still picture. An animation whose frames last unequally has the
      rate of their mean.

    Raises:
      FileNotFoundError: If there is no such file.
      ImportError: If FFmpeg is to read it and imageio-ffmpeg is missing.
      ValueError: If the file is no video or does not tell.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no video {path}")
    if _is_animation(path):
        milliseconds = [duration for _, duration in _pictures(path)]
        return 1000 * len(milliseconds) / sum(milliseconds) if sum(milliseconds) else 0.0
    output = subprocess.run(
        [_ffmpeg(), "-nostdin", "-hide_banner", "-i", f"file:{path}"], capture_output=True
    ).stderr.decode(errors="replace")
    rate = re.search(r"Video:.*?([\d.]+)(k?) fps", output)  # it writes 1000 as 1k
    if rate is None:
        raise ValueError(f"{path} is not a video, or does not tell its frames per second")
    return float(rate[1]) * (1000 if rate[2] else 1)


def write_video(
    path: str | os.PathLike[str],
    frames: Num[np.ndarray, "_ _ _ 3"] | Iterable[Pixels],
    *,
    frames_per_second: float | int,
    quality: int = 80,
) -> None:
    """Writes a video that repeats for ever, whole or not at all.

    Args:
      path: File to write: `.mp4` (H.264; an odd height or width gets its last row or column
        twice, which H.264 needs), `.webp` or `.gif`.
      frames: Frames, `(t, h, w, 3)`, RGB: floating point, clipped to [0, 1], or integers by the
        range of their type. Or an iterator of frames `(h, w, 3)`: an `.mp4` takes and writes them
        one by one, so that a long video need not fit into memory; the other formats hold them, a
        byte a value.
      frames_per_second: Rate to show them at. A GIF keeps hundredths of a second, at least
        one, a WebP thousandths; equal frames that follow one another may be stored as one that
        lasts longer.
      quality: From 0, smallest file, to 100, best picture; a GIF has no choice.

    Raises:
      ImportError: If it is an `.mp4` and imageio-ffmpeg is missing.
      ValueError: If the name ends in none of these, there are no frames or frames of differing
        sizes, or the rate or the quality is out of range; and as `cxjax.data.images.as_float` for
        integers.
      OSError: If it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITES:
        raise ValueError(f"cannot write {path.name}: a video ends in {', '.join(_WRITES)}")
    if not 0 < frames_per_second <= 1000:
        raise ValueError(f"frames_per_second must be in (0, 1000], not {frames_per_second}")
    if not 0 <= quality <= 100:
        raise ValueError(f"quality must be in [0, 100], not {quality}")
    if (shape := getattr(frames, "shape", None)) is not None and (len(shape) != 4 or 0 in shape):
        raise ValueError(f"a video is (t, h, w, 3), none of them 0, not {shape}")
    pixels = _as_bytes(frames)
    first = next(pixels, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    pixels = itertools.chain([first], pixels)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        unfinished = Path(folder) / f"video{suffix}"
        if suffix == ".mp4":
            _write_mp4(unfinished, pixels, first.shape, frames_per_second, quality)
        else:
            shortest = 10 if suffix == ".gif" else 1  # milliseconds; 0 would say nothing
            start, *rest = (Image.fromarray(frame) for frame in pixels)
            options: dict[str, Any] = {"quality": quality, "method": 6} if suffix == ".webp" else {}
            start.save(
                unfinished,
                save_all=True,
                append_images=rest,
                duration=max(round(1000 / frames_per_second), shortest),
                loop=0,
                **options,
            )
        unfinished.replace(path)


def _is_animation(path: Path) -> bool:
    try:
        with Image.open(path, formats=_ANIMATIONS):
            return True
    except UnidentifiedImageError:
        return False
    except OSError:  # damaged, and of a kind that shows
        return True


def _pictures(path: Path) -> Iterator[tuple[Image.Image, float]]:
    """The pictures of an animation, and for how many milliseconds to show each."""
    try:
        with Image.open(path, formats=_ANIMATIONS) as opened:
            for index in range(getattr(opened, "n_frames", 1)):
                opened.seek(index)
                picture = opened.convert("RGBA")  # which reads it; a WebP tells the time only then
                yield picture, opened.info.get("duration", 0)
    except (OSError, SyntaxError, EOFError, ValueError) as error:  # each decoder has its own
        raise ValueError(f"cannot read the animation {path}: {error}") from error


def _frames_by_pillow(path: Path) -> Iterator[Frame]:
    for picture, _ in _pictures(path):
        yield np.asarray(on_white(picture))


def _ffmpeg() -> str:
    """The program, of imageio-ffmpeg or of the system."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError('videos need imageio-ffmpeg: pip install "cxjax[images]"') from error
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise ImportError(
            "imageio-ffmpeg has no FFmpeg for this system: install FFmpeg, or set "
            "IMAGEIO_FFMPEG_EXE to it"
        ) from error


def _frames_by_ffmpeg(path: Path) -> Iterator[Frame]:
    """Frames as FFmpeg gives them in PPM: each tells its size, and none is doubled for a clock."""
    command = [_ffmpeg(), "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}", "-an"]
    command += ["-fps_mode", "passthrough", "-f", "image2pipe"]
    command += ["-pix_fmt", "rgb24", "-c:v", "ppm", "-"]  # of 10 bits it would make PPM of 16
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints)
        assert process.stdout is not None
        finished = False
        try:
            while (frame := _read_ppm(process.stdout)) is not None:
                yield frame
            finished = True
        finally:
            process.stdout.close()
            if not finished:
                process.kill()
            process.wait()
        if process.returncode:
            complaints.seek(0)
            last = complaints.read().decode(errors="replace").strip().splitlines()
            reason = last[-1] if last else f"FFmpeg ended with {process.returncode}"
            raise ValueError(f"{path} is not a video, or is damaged: {reason}")


def _read_ppm(stream: IO[bytes]) -> Frame | None:
    """The next of the pictures `P6 width height 255` and bytes; `None` at the end."""
    if stream.readline().strip() != b"P6":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()
    content = stream.read(width * height * 3)
    if len(content) < width * height * 3:
        return None
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _as_bytes(frames: Iterable[Any]) -> Iterator[Frame]:
    size = None
    for frame in frames:
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame is (h, w, 3), none of them 0, not {frame.shape}")
        if size not in (None, frame.shape):
            raise ValueError(f"frames of a video must be of one size; got {size} and {frame.shape}")
        size = frame.shape
        yield to_bytes(frame)


def _write_mp4(
    path: Path, pixels: Iterable[Frame], shape: Sequence[int], rate: float | int, quality: int
) -> None:
    height, width = (side + side % 2 for side in shape[:2])
    command = [_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", f"{rate}", "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", f"{round(51 - 0.4 * quality)}"]
    command += ["-movflags", "+faststart", str(path)]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints)
        assert process.stdin is not None
        more = ((0, height - shape[0]), (0, width - shape[1]), (0, 0))
        try:
            with contextlib.suppress(BrokenPipeError):  # FFmpeg has ended, and says why
                for frame in pixels:
                    process.stdin.write(np.pad(frame, more, "edge").tobytes())
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
        if process.returncode:
            complaints.seek(0)
            reason = complaints.read().decode(errors="replace").strip()
            raise OSError(f"FFmpeg cannot write: {reason[-300:]}")
