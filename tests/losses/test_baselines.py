"""The losses that the paper compares with, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cxjax
from tests.sets import points


def test_simple_losses_match_numpy(key):
    x, y = (np.asarray(a) for a in points(key, 5, 5))
    image = np.asarray(jax.random.normal(key, (4, 7, 3)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(cxjax.l1_loss(x, y), np.mean(np.abs(x - y)))
    close(cxjax.l1_loss(x, y, reduction="paper"), np.linalg.norm((x - y).ravel(), 1))
    close(cxjax.l2_loss(x, y), np.mean((x - y) ** 2))
    close(cxjax.l2_loss(x, y, reduction="paper"), np.linalg.norm(x - y))
    close(cxjax.perceptual_loss(x, y), np.mean(np.abs(x - y)))
    close(cxjax.perceptual_loss(x, y, reduction="paper"), np.abs(x - y).sum())

    other = np.asarray(jax.random.normal(key, (6, 3)))
    grams = np.einsum("hwa,hwb->ab", image, image), np.einsum("na,nb->ab", other, other)
    close(
        cxjax.gram_loss(image, other),
        np.mean((grams[0] / (4 * 7 * 3) - grams[1] / (6 * 3)) ** 2),
    )
    close(
        cxjax.gram_loss(image, other, reduction="paper"),
        np.linalg.norm(grams[0] - grams[1], "fro") ** 2,
    )
    rows, columns = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    close(cxjax.total_variation(image), np.mean(rows**2) + np.mean(columns**2))
    close(cxjax.total_variation(np.stack([image, image])), np.mean(rows**2) + np.mean(columns**2))
    close(cxjax.total_variation(image[:1]), np.mean(columns[:1] ** 2))


def test_simple_losses_have_a_finite_gradient_at_the_optimum(key):
    x, _ = points(key, 5, 5)
    for loss in (cxjax.l1_loss, cxjax.l2_loss, cxjax.perceptual_loss, cxjax.gram_loss):
        for reduction in ("mean", "paper"):
            gradient = jax.jit(jax.grad(functools.partial(loss, reduction=reduction)))(x, x)
            np.testing.assert_allclose(gradient, np.zeros_like(x), atol=1e-7)
    assert jnp.isfinite(jax.grad(cxjax.total_variation)(jnp.ones((3, 3, 1)))).all()


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("loss", [cxjax.l1_loss, cxjax.l2_loss, cxjax.gram_loss])
def test_integers_are_refused(loss):
    with pytest.raises(ValueError, match="floating-point arrays are needed; got uint8 and float32"):
        loss(jnp.ones((3, 4), jnp.uint8), jnp.ones((3, 4)))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("loss", [cxjax.l1_loss, cxjax.l2_loss, cxjax.perceptual_loss])
def test_unequal_shapes_never_broadcast(loss):
    with pytest.raises(ValueError, match=r"same shape.*\(3, 4\).*\(1, 4\)"):
        loss(jnp.ones((3, 4)), jnp.ones((1, 4)))
    with pytest.raises(ValueError, match=r"not be empty.*\(0, 4\)"):
        loss(jnp.ones((0, 4)), jnp.ones((0, 4)))
    with pytest.raises(ValueError, match="unknown reduction 'sum'.*'mean', 'paper'"):
        loss(jnp.ones((3, 4)), jnp.ones((3, 4)), reduction="sum")


@pytest.mark.usefixtures("unchecked_types")
def test_gram_and_total_variation_refuse_wrong_shapes():
    with pytest.raises(ValueError, match=r"same number of channels.*\(3, 4\).*\(3, 5\)"):
        cxjax.gram_loss(jnp.ones((3, 4)), jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"\(h, w, c\).*got shape \(3, 4\)"):
        cxjax.total_variation(jnp.ones((3, 4)))
