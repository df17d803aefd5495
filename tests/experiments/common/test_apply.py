"""A trained generator on new images: names, rates, and what cannot be written."""

import numpy as np
import pytest
from PIL import Image

from cxjax.data import images, video
from experiments.common import apply as application
from experiments.single_image_animation.config import VARIANTS, Config


@pytest.fixture
def apply(monkeypatch, tmp_path):
    """Applies a generator that makes negatives."""
    monkeypatch.setattr(application, "load_generator", lambda *_, **__: lambda picture: 1 - picture)
    monkeypatch.setattr(application, "read_config", lambda *_: VARIANTS["default"])

    def call(given, output, **options):
        config = application.ApplyConfig(
            run=tmp_path,
            input=tmp_path / given,
            output=tmp_path / output,
            **{"size": 0} | options,
        )
        application.apply(config, Config)
        return tmp_path / output

    return call


def test_pictures_of_one_name_do_not_take_each_others_place(apply, tmp_path):
    pixels = np.full((4, 5, 3), 51, np.uint8)
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "deep/b.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    made = apply("in", "new/made")
    found = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.png"))
    assert found == ["a.bmp.png", "a.png.png", "deep/b.png.png"]
    np.testing.assert_allclose(images.read_image(made / found[0]), 0.8, atol=0.003)


def test_a_video_keeps_its_rate(apply, tmp_path):
    frames = np.linspace(0, 1, 5 * 8 * 8 * 3, dtype=np.float32).reshape(5, 8, 8, 3)
    video.write_video(tmp_path / "clip.webp", frames, frames_per_second=12.5, quality=100)
    assert video.frame_rate(apply("clip.webp", "made.webp")) == 12.5
    made = apply("clip.webp", "quick.webp", frames_per_second=50.0)
    assert video.frame_rate(made) == 50
    np.testing.assert_allclose(video.read_video(made), 1 - frames, atol=0.05)


def test_a_folder_of_frames_can_become_a_video(apply, tmp_path):
    (tmp_path / "frames").mkdir()
    for number in range(12):
        picture = np.full((8, 8, 3), number / 20, np.float32)
        images.write_image(tmp_path / f"frames/{number}.png", picture)  # 10 comes after 9
    made = apply("frames", "video.webp")
    assert made.is_file()
    assert video.frame_rate(made) == 25
    shades = video.read_video(made).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(shades, 1 - np.arange(12) / 20, atol=0.02)


def test_pictures_are_made_in_the_size_that_was_trained(apply, tmp_path):
    columns = np.tile(np.arange(300) < 100, (200, 1))[..., None] * [1.0, 1.0, 1.0]
    images.write_image(tmp_path / "a.png", columns.astype(np.float32))
    trained = images.read_image(apply("a.png", "trained.png", size=None))
    assert trained.shape == (128, 192, 3)  # the shorter side is that of the run
    assert trained[0, 62].max() < 0.1 < 0.9 < trained[0, 66].min()
    assert images.read_image(apply("a.png", "small.png", size=20)).shape == (20, 30, 3)
    part = images.read_image(apply("a.png", "part.png", crop=(90, 50, 190, 150), size=50))
    assert part.shape == (50, 50, 3)
    assert part[0, 3].max() < 0.1 < 0.9 < part[0, 7].min()
    with pytest.raises(ValueError, match="--crop .* which is 300 x 200 pixels"):
        apply("a.png", "b.png", crop=(0, 0, 400, 100))


def test_an_output_that_cannot_be_written_is_refused_before_any_work(apply, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("the generator was loaded")

    monkeypatch.setattr(application, "load_generator", load)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot write .*made\.avi: .* a video in \.mp4, \.webp"):
        apply("a.png", "made.avi")
    with pytest.raises(ValueError, match=r"a\.png exists; name another output"):
        apply("a.png", "a.png")
    with pytest.raises(ValueError, match="there is no file or folder"):
        apply("b.png", "c.png")
