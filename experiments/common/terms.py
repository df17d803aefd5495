"""The terms that objectives are made of: a registry of losses by name, and what joins them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

import cxjax
from cxjax import points
from cxjax.distances import pairwise

Tree = TypeVar("Tree")
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Features = Callable[[Any], dict[str, jax.Array]]
"""`(images (.. h, w, 3)) -> {layer: (.. h, w, c)}`, of a frozen network."""


def relative(loss: Loss, x: jax.Array, y: jax.Array) -> jax.Array:
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

    def shares(features):
        origin = jnp.zeros(features.shape[1])
        distances = pairwise(features, features, origin, distance="cosine")
        return distances / jnp.maximum(distances.sum(axis=0, keepdims=True), 1e-6)

    return jnp.abs(shares(x) - shares(y)).sum(axis=0).mean()


def relaxed_earth_mover(x: jax.Array, y: jax.Array, **options: Any) -> jax.Array:
    """The relaxed earth mover's distance of 1 - cos, as in STROTSS; the library halves it."""
    return 2 * cxjax.relaxed_earth_mover_loss(x, y, **options)


# Losses of two sets of points `(n, c)`, `(m, c)`, or of two maps or images of one shape.
LOSSES: Mapping[str, Callable[..., jax.Array]] = {
    "contextual": cxjax.contextual_loss,
    "contextual_bilateral": cxjax.contextual_bilateral_loss,
    "relaxed_earth_mover": relaxed_earth_mover,
    "sliced_wasserstein": cxjax.sliced_wasserstein_loss,
    "self_similarity": self_similarity_loss,
    "perceptual": functools.partial(relative, cxjax.perceptual_loss),
    "gram": functools.partial(relative, cxjax.gram_loss),
    "squared": functools.partial(relative, cxjax.l2_loss),
    "l1": cxjax.l1_loss,
    "l2": cxjax.l2_loss,
}


def loss_of(name: str, **options: Any) -> Callable[..., jax.Array]:
    """The loss of this name, with its options set.

    Raises:
      ValueError: Lists the names, if it is none of them.
    """
    if name not in LOSSES:
        raise ValueError(f"no loss {name!r}; known: {', '.join(LOSSES)}")
    return functools.partial(LOSSES[name], **options) if options else LOSSES[name]


def priors(image: jax.Array) -> dict[str, jax.Array]:
    """What any picture should be: smooth, without coloured specks, and in [0, 1].

    Args:
      image: `(h, w, 3)`.

    Returns:
      `"tv"`, its total variation; `"chroma_tv"`, that of the colours less the grey; `"range"`, the
      mean squared excess over [0, 1].
    """
    grey = image.mean(axis=-1, keepdims=True)
    return {
        "tv": cxjax.total_variation(image),
        "chroma_tv": cxjax.total_variation(image - grey),
        "range": jnp.square(image - jnp.clip(image, 0, 1)).mean(),
    }


def draw(key: jax.Array, sets: Tree, count: int) -> Tree:
    """No more than `count` points of a set, with all that has a row per point; 0 takes all."""
    number = len(jax.tree.leaves(sets)[0])
    return points.sample(key, sets, sets, count=count)[0] if 0 < count < number else sets


def over_batch(
    loss: Loss,
    made: Mapping[str, jax.Array],
    given: Mapping[str, jax.Array],
    layers: Sequence[str],
) -> jax.Array:
    """A loss of two sets of features, summed over layers, mean over the batch.

    Args:
      loss: Loss of two sets of points, `(n, c)` and `(m, c)`.
      made: Features of the images being made, `{layer: (b, h, w, c)}`.
      given: Features of the references, of each or, `{layer: (h, w, c)}`, one for all.
      layers: Layers to compare.

    Returns:
      A scalar.
    """
    weights = dict.fromkeys(layers, 1.0)
    each = lambda x, y: points.over_layers(loss, x, y, weights=weights)
    one_for_all = given[layers[0]].ndim < made[layers[0]].ndim
    return jax.vmap(each, in_axes=(0, None if one_for_all else 0))(made, given).mean()


def to_target_and_source(
    made: Mapping[str, jax.Array],
    target: Mapping[str, jax.Array],
    source: Mapping[str, jax.Array],
    *,
    losses: tuple[Loss, Loss],
    layers: tuple[Sequence[str], Sequence[str]],
    source_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`L = loss(G(s), t; target layers) + w loss(G(s), s; source layers)`, mean over the batch.

    Args:
      made: Features of the images being made, `{layer: (b, h, w, c)}`.
      target: Features of their targets, or of the one target.
      source: Features of their sources.
      losses: That to the target and that to the source.
      layers: Layers compared with the target's and with the source's; without the latter the
        term to the source is left out.
      source_weight: w.

    Returns:
      The loss, and its terms `"target"` and `"source"`.

    References:
      Mechrez et al., ECCV 2018, sections on animation and on unpaired domain transfer.
    """
    terms = {"target": over_batch(losses[0], made, target, layers[0])}
    loss = terms["target"]
    if layers[1]:
        terms["source"] = over_batch(losses[1], made, source, layers[1])
        loss = loss + source_weight * terms["source"]
    return loss, terms


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
