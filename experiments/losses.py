"""What the experiments' baselines share beside the losses of cxjax."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cxjax import points
from cxjax.distances import pairwise


def relative(
    loss: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, y: jax.Array
) -> jax.Array:
    """A loss as a share of the reference's own size, so that one weight suits every layer.

    Args:
      loss: Loss of two sets of features.
      x: Features of the image being made.
      y: Features of the reference.

    Returns:
      `loss(x, y) / loss(0, y)`.
    """
    return loss(x, y) / loss(jnp.zeros_like(y), y)


def self_similarity_loss(x: jax.Array, y: jax.Array) -> jax.Array:
    """How far the distances within two sets of features differ, place by place.

    Each column of the matrix of cosine distances is divided by its sum, so that it may grow or
    shrink as a whole: what is like what is kept, not what it looks like.

    Args:
      x: Features of the image being made, `(n, c)`; the `n x n` distances are held.
      y: Features of the reference, `(n, d)`, at the same places.

    Returns:
      The mean over columns of the sum of absolute differences, 0 to 2.

    References:
      Kolkin et al., STROTSS, CVPR 2019: the content loss, times n, as in the authors' code.
    """

    def shares(found):
        distances = pairwise(found, found, jnp.zeros(found.shape[1]), distance="cosine")
        return distances / jnp.maximum(distances.sum(axis=0, keepdims=True), 1e-6)

    return jnp.abs(shares(x) - shares(y)).sum(axis=0).mean()


def over_batch(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    made: Mapping[str, jax.Array],
    given: Mapping[str, jax.Array],
    layers: Sequence[str],
) -> jax.Array:
    """A loss of two sets of features, summed over layers, mean over the batch.

    Args:
      loss: Loss of two sets of points, `(n, c)` and `(m, c)`.
      made: Features of the images being made, `{layer: (b, h, w, c)}`.
      given: Features of the references.
      layers: Layers to compare.

    Returns:
      A scalar.
    """
    weights = dict.fromkeys(layers, 1.0)
    each = lambda x, y: points.over_layers(loss, x, y, weights=weights)
    return jax.vmap(each)(made, given).mean()


def adversarial(
    judge: Callable[..., Any], params: Any, *, real: jax.Array, fake: jax.Array
) -> dict[str, jax.Array]:
    """The least-squares losses of a generator and of the discriminator that judges it.

    Their sum has the gradient of each with respect to its own parameters only, so that one step of
    gradient descent trains both at once.

    Args:
      judge: `(params, images) -> scores`.
      params: The discriminator's.
      real: True images, `(b, h, w, c)`.
      fake: Images that were made, of the same shape.

    Returns:
      `"adversarial"`, mean of (D(fake) - 1)^2, and `"discriminator"`, half the sum of the means of
      (D(real) - 1)^2 and D(fake)^2.

    References:
      Mao et al., Least Squares Generative Adversarial Networks, 2017; halved as in CycleGAN.
      Differs from CycleGAN: both are trained in one step, on the same generated images, and there
      is no pool of older ones.
    """
    frozen, given = jax.lax.stop_gradient((params, fake))
    mistakes = jnp.square(judge(params, real) - 1).mean() + jnp.square(judge(params, given)).mean()
    return {
        "adversarial": jnp.square(judge(frozen, fake) - 1).mean(),
        "discriminator": mistakes / 2,
    }
