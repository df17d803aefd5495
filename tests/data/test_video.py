"""Videos: frames, times, transparency, and files that are none."""

import subprocess
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from cxjax.data import video


@pytest.fixture
def frames():
    """Twelve frames of odd sizes, wider than high, in which a square goes to the right."""
    t, h, w = 12, 31, 47
    frames = np.full((t, h, w, 3), [0.9, 0.5, 0.1], np.float32)
    for index in range(t):
        frames[index, 10:20, 3 * index : 3 * index + 10] = [0.1, 0.3, 0.8]
    return frames


def square(frame):
    """Columns that the square fills."""
    return np.flatnonzero(frame[15, :, 2] > 0.45)


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
def test_what_is_written_is_read(tmp_path, frames, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("old")
    video.write_video(path, frames * 2 - 0.5, frames_per_second=10, quality=95)
    read = video.read_video(path)
    even = suffix == "mp4"  # H.264 wants even sizes
    assert read.dtype == np.float32
    assert read.shape == ((12, 32, 48, 3) if even else frames.shape)
    assert video.frame_rate(path) == 10
    assert list(tmp_path.iterdir()) == [path]
    expected = np.clip(frames * 2 - 0.5, 0, 1)
    for index in range(12):
        columns = square(read[index])
        assert abs(columns[0] - 3 * index) <= 1
        assert abs(columns[-1] - (3 * index + 9)) <= 1
        np.testing.assert_allclose(read[index, 25, 5], expected[index, 25, 5], atol=0.04)
    if even:
        np.testing.assert_allclose(read[:, 31], read[:, 30], atol=0.05)


def test_frames_of_integers_are_written_by_the_range_of_their_type(tmp_path, frames):
    pixels = (frames * 255).round().astype(np.uint8)
    for name, given in (("a", pixels), ("b", pixels.astype(np.uint16) * np.uint16(257))):
        video.write_video(tmp_path / f"{name}.webp", given, frames_per_second=10, quality=100)
        video.write_video(tmp_path / "whole.webp", frames, frames_per_second=10, quality=100)
        expected = video.read_video(tmp_path / "whole.webp")
        np.testing.assert_array_equal(video.read_video(tmp_path / f"{name}.webp"), expected)


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
def test_frames_that_come_one_by_one_are_written_as_a_whole_video_is(tmp_path, frames, suffix):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"a.{suffix}"
    video.write_video(whole, frames, frames_per_second=10)
    video.write_video(path, iter(frames), frames_per_second=10)
    np.testing.assert_array_equal(video.read_video(path), video.read_video(whole))

    def fail():
        yield from frames[:3]
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera is gone"):
        video.write_video(path, fail(), frames_per_second=10)
    with pytest.raises(ValueError, match=r"of one size; got \(31, 47, 3\) and \(31, 46, 3\)"):
        video.write_video(path, [frames[0], frames[0][:, 1:]], frames_per_second=10)
    with pytest.raises(ValueError, match="at least one frame"):
        video.write_video(path, [], frames_per_second=10)
    assert len(video.read_video(path)) == 12  # the old one
    assert sorted(tmp_path.iterdir()) == sorted([whole, path])


def test_frames_of_a_video_are_not_held(tmp_path):
    held, most = set(), 0

    def make():
        nonlocal most
        for number in range(8):
            frame = np.full((64, 64, 3), number / 8, np.float32)
            held.add(number)
            weakref.finalize(frame, held.discard, number)
            most = max(most, len(held))
            yield frame

    video.write_video(tmp_path / "a.mp4", make(), frames_per_second=10)
    assert most <= 3


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mov"])
def test_other_kinds_of_video(tmp_path, frames, suffix):
    video.write_video(tmp_path / "a.mp4", frames, frames_per_second=25, quality=95)
    path = tmp_path / f"a.{suffix}"
    command = [video._ffmpeg(), "-v", "error", "-i", tmp_path / "a.mp4", "-q:v", "2", path]
    subprocess.run(command, check=True)
    read = video.read_video(path)
    assert read.shape == (12, 32, 48, 3)
    assert abs(square(read[6])[0] - 18) <= 1
    assert video.frame_rate(path) == 25


def test_a_video_of_ten_bits(tmp_path, frames):
    """As phones and cameras write them: of such FFmpeg would make 16 bits, if it were let."""
    video.write_video(tmp_path / "a.mp4", frames, frames_per_second=25, quality=95)
    path = tmp_path / "a.mov"
    command = [video._ffmpeg(), "-v", "error", "-i", tmp_path / "a.mp4", "-c:v", "prores_ks"]
    subprocess.run([*command, "-pix_fmt", "yuv422p10le", path], check=True)
    read = video.read_video(path)
    assert read.shape == (12, 32, 48, 3)
    assert abs(square(read[6])[0] - 18) <= 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_that_last_unequally_are_read_once(tmp_path, frames, suffix):
    video.write_video(tmp_path / "a.mp4", frames, frames_per_second=25)
    path = tmp_path / f"b.{suffix}"
    choose = ["-vf", "select=lt(n\\,3)+gt(n\\,9)", "-fps_mode", "vfr"]
    subprocess.run([video._ffmpeg(), "-v", "error", "-i", tmp_path / "a.mp4", *choose, path])
    read = video.read_video(path)
    assert [round(square(frame)[0] / 3) for frame in read] == [0, 1, 2, 10, 11]


@pytest.mark.parametrize("suffix", ["mp4", "webp"])
def test_selected_frames(tmp_path, frames, suffix):
    path = tmp_path / f"a.{suffix}"
    video.write_video(path, frames, frames_per_second=25)
    whole = video.read_video(path)
    for start, stop, every in [(0, 1, 1), (3, None, 4), (2, 9, 3), (11, 50, 1)]:
        part = video.read_video(path, start=start, stop=stop, every=every)
        np.testing.assert_array_equal(part, whole[start:stop:every])
    with pytest.raises(ValueError, match="no frame from 12 on"):
        video.read_video(path, start=12)
    for wrong in ({"start": -1}, {"every": 0}, {"start": 3, "stop": 3}):
        with pytest.raises(ValueError, match="no frames in start="):
            video.read_video(path, **wrong)


def test_a_long_video_need_not_fit_into_memory(tmp_path, frames):
    path = tmp_path / "a.mp4"
    video.write_video(path, frames, frames_per_second=25)
    four = 4 * 32 * 48 * 3 * 4
    with pytest.raises(ValueError, match=r"more than 4 frames of 48 x 32.*start=, stop="):
        video.read_video(path, max_bytes=four)
    assert video.read_video(path, every=3, max_bytes=four).shape[0] == 4
    one_by_one = video.iterate_video(path)
    assert next(one_by_one).dtype == np.uint8
    del one_by_one  # ends FFmpeg: what was left open would be a warning, which is an error here


@pytest.mark.parametrize(("suffix", "kind"), [("webp", "WEBP"), ("gif", "GIF"), ("png", "PNG")])
def test_transparent_parts_of_animations_show_white(tmp_path, suffix, kind):
    pictures = []
    for index in range(3):
        pixels = np.zeros((20, 24, 4), np.uint8)
        pixels[5:15, 4 * index : 4 * index + 8] = [200, 20, 20, 255]
        pictures.append(Image.fromarray(pixels))
    options = {"lossless": True} if kind == "WEBP" else {"disposal": 2} if kind == "GIF" else {}
    path = tmp_path / f"a.{suffix}"
    pictures[0].save(
        path, kind, save_all=True, append_images=pictures[1:], duration=[40, 80, 120], **options
    )
    read = video.read_video(path)
    assert read.shape == (3, 20, 24, 3)
    for index in range(3):
        expected = np.ones((20, 24, 3))
        expected[5:15, 4 * index : 4 * index + 8] = np.array([200, 20, 20]) / 255
        np.testing.assert_allclose(read[index], expected, atol=0.01)
    np.testing.assert_allclose(video.frame_rate(path), 1000 / 80)


def test_a_still_picture_is_one_frame(tmp_path):
    Image.new("L", (5, 4), 51).save(tmp_path / "a.png")
    np.testing.assert_allclose(video.read_video(tmp_path / "a.png"), np.full((1, 4, 5, 3), 0.2))
    assert video.frame_rate(tmp_path / "a.png") == 0


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
def test_damaged_files(tmp_path, frames, suffix):
    noise = np.random.default_rng(0).random(frames.shape, np.float32)
    video.write_video(tmp_path / f"whole.{suffix}", noise, frames_per_second=10)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix}"):
        video.read_video(path)


def test_files_that_are_no_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no video .*missing\.mp4"):
        video.read_video(tmp_path / "missing.mp4")
    with pytest.raises(FileNotFoundError, match="there is no video"):
        video.frame_rate(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="is a folder"):
        video.read_video(tmp_path)
    for content in (b"", b"not a video" * 100):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.mp4 is not a video, or is damaged: .*nvalid"):
            video.read_video(tmp_path / "a.mp4")
        with pytest.raises(ValueError, match=r"a\.mp4 is not a video"):
            video.frame_rate(tmp_path / "a.mp4")


def test_without_imageio_ffmpeg_animations_can_still_be_read(tmp_path, frames, monkeypatch):
    video.write_video(tmp_path / "a.mp4", frames, frames_per_second=10)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    message = r'videos need imageio-ffmpeg: pip install "cxjax\[images\]"'
    for use in (video.read_video, video.frame_rate):
        with pytest.raises(ImportError, match=message):
            use(tmp_path / "a.mp4")
    with pytest.raises(ImportError, match=message):
        video.write_video(tmp_path / "b.mp4", frames, frames_per_second=10)
    video.write_video(tmp_path / "b.webp", frames, frames_per_second=10)
    assert len(video.read_video(tmp_path / "b.webp")) == 12


def test_a_system_that_imageio_ffmpeg_has_no_program_for(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "")
    imageio = pytest.importorskip("imageio_ffmpeg")

    def none():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio, "get_ffmpeg_exe", none)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    with pytest.raises(ImportError, match="install FFmpeg, or set IMAGEIO_FFMPEG_EXE"):
        video.read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("suffix", "written", "read"),
    [
        *(("mp4", 1000, 1000), ("webp", 1000, 1000), ("gif", 1000, 100), ("gif", 120, 100)),
        *(("mp4", 29.97, 29.97), ("mp4", 0.5, 0.5), ("webp", 0.5, 0.5), ("gif", 0.5, 0.5)),
    ],
)
def test_very_fast_and_very_slow_rates_are_told(tmp_path, suffix, written, read):
    noise = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
    path = tmp_path / f"a.{suffix}"
    video.write_video(path, noise, frames_per_second=written)
    assert video.frame_rate(path) == read
    assert len(video.read_video(path)) == 4


def test_quality_is_paid_for_in_bytes(tmp_path, frames):
    noise = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    for suffix in ("mp4", "webp"):
        sizes = []
        for quality in (10, 50, 90):
            path = tmp_path / f"{quality}.{suffix}"
            video.write_video(path, noise, frames_per_second=10, quality=quality)
            sizes.append(path.stat().st_size)
        assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "a.avi"}, r"cannot write a\.avi: a video ends in \.mp4, \.gif, \.webp"),
        ({"frames": np.zeros((0, 4, 4, 3), np.float32)}, r"not \(0, 4, 4, 3\)"),
        ({"frames_per_second": 0}, "must be in"),
        ({"frames_per_second": float("nan")}, "must be in"),
        ({"quality": 101}, r"in \[0, 100\], not 101"),
    ],
)
def test_what_cannot_be_written(tmp_path, frames, change, message):
    arguments = {"path": "a.mp4", "frames": frames, "frames_per_second": 10} | change
    with pytest.raises(ValueError, match=message):
        video.write_video(tmp_path / arguments.pop("path"), arguments.pop("frames"), **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["mp4", "webp"])
def test_a_failure_leaves_the_old_file(tmp_path, frames, monkeypatch, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("old")
    if suffix == "mp4":
        monkeypatch.setattr(video, "_ffmpeg", lambda: "false")
    else:
        monkeypatch.setattr(Image.Image, "save", lambda *_, **__: 1 / 0)
    with pytest.raises((OSError, ZeroDivisionError)):
        video.write_video(path, frames, frames_per_second=10)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
