"""The scores against implementations that share no code with them, and against what must be."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
from numpy.lib.stride_tricks import sliding_window_view
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from experiments.common import metrics

SCORES = {"psnr": metrics.psnr, "ssim": metrics.ssim, "lpips": metrics.lpips}


def _photographs(size=64):
    astronaut, coffee = skimage.data.astronaut() / 255, skimage.data.coffee() / 255
    corners = [(astronaut, 60, 170), (astronaut, 200, 200), (coffee, 100, 200), (coffee, 200, 300)]
    return np.stack([image[y : y + size, x : x + size] for image, y, x in corners])


def _blurred(images, sigma):
    return np.clip(scipy.ndimage.gaussian_filter(images, (0, sigma, sigma, 0)), 0, 1)


def _noisy(images, scale):
    noise = np.random.default_rng(0).normal(size=images.shape)
    return np.clip(images + scale * noise, 0, 1)


WORSE = {
    "noise": [lambda a, s=s: _noisy(a, s) for s in (0.02, 0.1, 0.3)],
    "blur": [lambda a, s=s: _blurred(a, s) for s in (0.5, 1, 3)],
    "shift": [lambda a, s=s: np.roll(a, s, axis=2) for s in (1, 4, 16)],
    "colour": [lambda a, s=s: a ** (1 + s) for s in (0.05, 0.3, 1)],
}


@pytest.mark.parametrize("worsen", WORSE)
@pytest.mark.parametrize("name", SCORES)
def test_the_worse_the_image_the_worse_its_score(name, worsen):
    truth = _photographs()
    better = -1 if name == "lpips" else 1
    scores = [better * SCORES[name](change(truth), truth).mean() for change in WORSE[worsen]]
    assert scores[0] > scores[1] > scores[2]
    perfect = better * SCORES[name](truth, truth)
    assert (perfect > scores[0]).all()
    np.testing.assert_allclose(
        perfect, {"psnr": np.inf, "ssim": 1, "lpips": 0}[name], rtol=1e-5, atol=1e-6
    )


def test_psnr_and_ssim_agree_with_scikit_image():
    truth = _photographs(37)
    made = _noisy(_blurred(truth, 1), 0.05)
    where = np.random.default_rng(1).random(truth.shape[:3]) < 0.3
    for number, (a, b) in enumerate(zip(made, truth, strict=True)):
        ratio = peak_signal_noise_ratio(b, a, data_range=1)
        np.testing.assert_allclose(metrics.psnr(made, truth)[number], ratio, rtol=1e-10)
        ratio = peak_signal_noise_ratio(b[where[number]], a[where[number]], data_range=1)
        np.testing.assert_allclose(metrics.psnr(made, truth, where)[number], ratio, rtol=1e-10)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        options |= {"data_range": 1, "channel_axis": -1, "full": True}
        maps = structural_similarity(b, a, **options)[1][5:-5, 5:-5]
        np.testing.assert_allclose(metrics.ssim(made, truth)[number], maps.mean(), atol=1e-5)
        inner = maps[where[number][5:-5, 5:-5]]
        np.testing.assert_allclose(
            metrics.ssim(made, truth, where)[number], inner.mean(), atol=1e-5
        )


def _alexnet(image):
    """AlexNet of one image in float64, window by window: the maps after each of the five ReLUs."""
    x = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    maps = []
    for number, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        layer = metrics._weights()["AlexNet_0"][f"Conv_{number}"]
        kernel = np.asarray(layer["kernel"], np.float64)
        x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
        windows = sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]
        x = np.einsum("hwiyx,yxio->hwo", windows, kernel, optimize=True)
        x = np.maximum(x + np.asarray(layer["bias"]), 0)
        maps.append(x)
        if number < 2:
            x = sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(-2, -1))
    return maps


def test_lpips_and_its_features_agree_with_loops():
    truth = _photographs(39)[:1]
    made = _noisy(_blurred(truth, 1), 0.05)
    expected = 0.0
    both = [_alexnet(made[0]), _alexnet(truth[0])]
    for number, (a, b) in enumerate(zip(*both, strict=True)):
        a, b = (x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10) for x in (a, b))
        weights = np.asarray(metrics._weights()[f"NetLinLayer_{number}"]["Conv_0"]["kernel"])
        expected += ((a - b) ** 2 @ weights[0, 0, :, 0].astype(np.float64)).mean()
    np.testing.assert_allclose(metrics.lpips(made, truth), [expected], rtol=1e-4)
    pooled = both[0][-1].mean(axis=(0, 1))
    assert pooled.max() > 0.1
    np.testing.assert_allclose(metrics.alexnet_features(made)[0], pooled, rtol=1e-3, atol=1e-4)
    second = both[0][1][:2, :2]  # maps of 4 x 4 pixels, of which each cell has 2 x 2
    found = metrics.alexnet_features(made, layer=2, cells=2)[0].reshape(2, 2, -1)
    np.testing.assert_allclose(found[0, 0], second.mean(axis=(0, 1)), rtol=1e-3, atol=1e-4)
    assert np.abs(found[0, 0] - found[1, 1]).max() > 0.1


def test_what_lies_outside_the_region_does_not_count():
    truth = _photographs()
    where = np.zeros(truth.shape[:3], bool)
    where[:3, 20:40, 10:50] = True
    outside = np.where(where[..., None], truth, _noisy(truth, 0.5))
    inside = np.where(where[..., None], _noisy(truth, 0.2), truth)
    everywhere = np.where(where[..., None], inside, outside)
    for name, score in SCORES.items():
        found = score(outside, truth, where)
        perfect = score(truth, truth)
        if name != "ssim":  # whose windows look beyond the region
            np.testing.assert_allclose(found[:3], perfect[:3], atol=1e-6)
        found, whole = score(inside, truth, where)[:3], score(inside, truth)[:3]
        if name == "lpips":  # a sum over the picture, whose rest is the truth already
            assert (whole > 0.01).all()
            np.testing.assert_array_equal(found, whole)
            np.testing.assert_array_equal(score(everywhere, truth, where)[:3], whole)
        else:  # a mean over what counts
            assert (np.abs(found - whole) > 1e-3).all()
    for score in SCORES.values():
        assert np.isnan(score(outside, truth, where)[3])


def _kernel_distance(x, y):
    """Binkowski et al. 2018, equation 4, pair by pair."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    same_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    same_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    other = sum(kernel(a, b) for a in x for b in y)
    return same_x / (n * (n - 1)) + same_y / (m * (m - 1)) - 2 * other / (n * m)


def test_kernel_distance_agrees_with_loops_and_is_unbiased():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 5)), generator.normal(0.5, 2, size=(4, 5))
    np.testing.assert_allclose(metrics.kernel_distance(x, y), _kernel_distance(x, y), rtol=1e-10)
    draws = [metrics.kernel_distance(*generator.normal(size=(2, 20, 5))) for _ in range(300)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(300)
    assert np.std(draws) > 0.01


def test_kid_tells_sets_apart_and_grows_with_the_damage():
    images = _photographs(48)
    mirrored = np.flip(images, axis=2)
    distances = [metrics.kid(_noisy(mirrored, s), images) for s in (0, 0.05, 0.3)]
    assert distances == sorted(distances)
    assert metrics.kid(images[:2], images[2:]) > metrics.kid(images, mirrored)  # other things


@pytest.mark.parametrize(
    ("made", "truth", "message"),
    [
        (np.zeros((1, 64, 64, 3)), np.zeros((1, 64, 32, 3)), r"\(1, 64, 64, 3\) and \(1, 64, 32"),
        (np.full((1, 64, 64, 3), 1.5), np.zeros((1, 64, 64, 3)), r"lie in \[0, 1\], not 1.5"),
        (np.full((1, 64, 64, 3), np.nan), np.zeros((1, 64, 64, 3)), r"lie in \[0, 1\], not nan"),
        (np.zeros((64, 64, 3)), np.zeros((64, 64, 3)), r"\(b, h, w, 3\)"),
    ],
)
def test_unfit_images_are_refused(made, truth, message):
    for score in SCORES.values():
        with pytest.raises(ValueError, match=message):
            score(made, truth)


def test_images_too_small_for_a_score_are_refused():
    small = np.zeros((1, 30, 30, 3))
    for score in (metrics.lpips, metrics.kid):
        with pytest.raises(ValueError, match=r"31 pixels or more, not \(30, 30\)"):
            score(small, small)
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(small[:, :10], small[:, :10])
    with pytest.raises(ValueError, match="where must be boolean"):
        metrics.psnr(small, small, np.ones((1, 30, 30)))
