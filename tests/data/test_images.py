"""Pictures of every mode and turn, and files that are none."""

import jax
import numpy as np
import pytest
from PIL import Image

from cxjax.data import images


@pytest.fixture
def picture():
    """A non-square picture whose every pixel differs."""
    h, w = 20, 30
    red, green = np.meshgrid(np.linspace(0, 250, w), np.linspace(0, 250, h))
    return np.stack([red, green, np.full((h, w), 90)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "jpg"])
def test_formats(tmp_path, picture, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}
    Image.fromarray(picture).save(path, **options.get(suffix, {}))
    image = images.read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, picture / 255, atol=0.03 if suffix == "jpg" else 1e-6)


def test_alpha_shows_white(tmp_path, picture):
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    alpha[10:12] = 128
    Image.fromarray(np.dstack([picture, alpha]), "RGBA").save(tmp_path / "a.png")
    image = images.read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[:10], np.ones_like(image[:10]))
    half = picture[10:12] / 255 * (128 / 255) + (1 - 128 / 255)
    np.testing.assert_allclose(image[10:12], half, atol=0.01)
    np.testing.assert_allclose(image[12:], picture[12:] / 255, atol=1e-6)


def test_palette_with_transparency(tmp_path):
    pixels = Image.fromarray(np.tile(np.array([[0, 1]], np.uint8), (4, 3)), "P")
    pixels.putpalette([255, 0, 0, 0, 0, 255])
    pixels.save(tmp_path / "a.png", transparency=0)
    image = images.read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[0, 0], [1, 1, 1])
    np.testing.assert_allclose(image[0, 1], [0, 0, 1])


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, picture, mode):
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.fromarray(picture).convert(mode).save(path)
    image = images.read_image(path)
    assert image.shape == (20, 30, 3)
    if mode in ("CMYK", "YCbCr"):
        np.testing.assert_allclose(image, picture / 255, atol=0.02)
        return
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    grey = picture @ [0.299, 0.587, 0.114] / 255
    if mode == "1":  # dithered
        assert set(np.unique(image)) == {0, 1}
        np.testing.assert_allclose(image.mean(), grey.mean(), atol=0.02)
    else:
        np.testing.assert_allclose(image[..., 0], grey, atol=0.005)


def test_sixteen_bits_keep_their_precision(tmp_path):
    ramp = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    image = images.read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[..., 1], ramp / 65535, atol=1e-6)
    assert len(np.unique(image)) == 600


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGB", "png"), ("RGB", "tiff"), ("RGB", "jpg"), ("L", "png"), ("L", "tiff")),
        *(("CMYK", "tiff"), ("CMYK", "jpg"), ("I;16", "png"), ("I;16", "tiff")),
    ],
)
def test_exif_turn_is_applied(tmp_path, picture, mode, suffix):
    if mode == "I;16":
        stored = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
        shown = picture[..., :1].repeat(3, axis=2) / 255
    else:
        stored = Image.fromarray(picture).convert(mode)
        shown = np.asarray(stored.convert("RGB")) / 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees, to be shown clockwise
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    image = images.read_image(path)
    np.testing.assert_allclose(image, np.rot90(shown, -1), atol=0.1 if suffix == "jpg" else 1e-6)


def test_grey_outside_its_range_is_refused_and_transparency_is_white(tmp_path):
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    np.testing.assert_allclose(images.read_image(tmp_path / "a.tiff")[..., 1], ramp)
    for wrong in (ramp * 255, ramp - 0.5, np.where(ramp > 0.5, np.nan, ramp)):
        Image.fromarray(wrong.astype(np.float32)).save(tmp_path / "b.tiff")
        with pytest.raises(ValueError, match=r"b\.tiff: values from .* should have 0 to 1"):
            images.read_image(tmp_path / "b.tiff")
    levels = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "c.png", transparency=300)
    np.testing.assert_allclose(images.read_image(tmp_path / "c.png")[0, :, 0], [0, 1, 1])


def test_crop(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    image = images.read_image(tmp_path / "a.png", crop=(3, 5, 13, 9))
    np.testing.assert_allclose(image, picture[5:9, 3:13] / 255, atol=1e-6)
    with pytest.raises(ValueError, match=r"right 31.*does not lie inside.*30 x 20 pixels"):
        images.read_image(tmp_path / "a.png", crop=(0, 0, 31, 20))


def test_files_that_are_no_pictures(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*missing\.png"):
        images.read_image(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="is a folder"):
        images.read_image(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png is not a picture"):
        images.read_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cannot read the picture .*cut\.png"):
        images.read_image(tmp_path / "cut.png")


@pytest.mark.parametrize(("shorter_side", "shape"), [(7, (7, 10)), (20, (20, 30)), (50, (50, 75))])
def test_the_shorter_side_is_as_long_as_asked_for(picture, shorter_side, shape):
    wide = picture / np.float32(255)
    for image, wanted in ((wide, shape), (wide.swapaxes(0, 1), shape[::-1])):
        assert images.resize_shorter(image, shorter_side=shorter_side).shape == (*wanted, 3)


@pytest.mark.parametrize("size", [(7, 11), (33, 30), (50, 9)])
def test_the_filter_is_lanczos_whatever_the_type(size):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = (pixels / 255).astype(np.float32)
    expected = np.clip(jax.image.resize(image, (*size, 3), "lanczos3"), 0, 1)
    np.testing.assert_allclose(images.resize_to(image, size), expected, atol=5e-5)
    sixteen = images.resize_to(pixels.astype(np.uint16) * np.uint16(257), size)
    np.testing.assert_allclose(sixteen, expected, atol=5e-5)
    eight = images.resize_to(pixels, size)
    assert eight.dtype == np.uint8
    np.testing.assert_allclose(eight / 255, expected, atol=2 / 255)  # rounded twice


def test_resize_keeps_proportions_and_does_not_alias(picture):
    image = (picture / 255).astype(np.float32)
    assert images.resize(image, longest_side=15).shape == (10, 15, 3)
    assert images.resize(image, longest_side=60).shape == (40, 60, 3)
    assert images.resize(image, longest_side=30) is image
    checks = (np.indices((64, 64)).sum(axis=0) % 2)[..., None].repeat(3, -1).astype(np.float32)
    small = images.resize(checks, longest_side=16)
    np.testing.assert_allclose(small[2:-2, 2:-2], 0.5, atol=0.01)


def test_written_images_read_back_and_replace_the_old(tmp_path, picture):
    path = tmp_path / "a.png"
    path.write_text("old")
    images.write_image(path, (picture / 255).astype(np.float32) * 2 - 0.2)
    expected = np.clip(picture / 255 * 2 - 0.2, 0, 1)
    np.testing.assert_allclose(images.read_image(path), expected, atol=0.003)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("dtype", "factor"), [(np.uint8, 1), (np.uint16, 257)])
def test_integers_are_written_by_the_range_of_their_type(tmp_path, picture, dtype, factor):
    images.write_image(tmp_path / "a.png", picture.astype(dtype) * dtype(factor))
    np.testing.assert_allclose(images.read_image(tmp_path / "a.png"), picture / 255, atol=1e-6)
    with pytest.raises(ValueError, match="int64 values up to 250 would show black"):
        images.write_image(tmp_path / "b.png", picture.astype(np.int64))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_strip_sets_images_of_different_heights_side_by_side(picture):
    image = (picture / 255).astype(np.float32)
    joined = images.strip([image, picture[:10, :8]], gap=2)  # of two types
    assert joined.shape == (20, 30 + 2 + 8, 3)
    np.testing.assert_array_equal(joined[:, :30], image)
    np.testing.assert_array_equal(joined[5:15, 32:], image[:10, :8])
    np.testing.assert_array_equal(joined[:, 30:32], np.ones((20, 2, 3)))
