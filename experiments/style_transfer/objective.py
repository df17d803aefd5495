"""What style transfer minimises: likeness to the target's style and to the content's things."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

import cxjax
from cxjax import points
from cxjax.distances import pairwise
from cxjax.features.vgg import VGG
from experiments.common import pyramid
from experiments.common.optimization import Parameters
from experiments.common.terms import draw, loss_of, priors
from experiments.style_transfer.config import OF_MAPS, Comparison, ContentLoss, Loss
from experiments.style_transfer.warp import centered_positions, look_up, move, pull, strain

Features = dict[str, jax.Array]

_SELF_SIMILARITY_POINTS = 1024  # their distances are held as a matrix
# Luma and two differences of colour (BT.601), so that grey and colour are compared apart.
_YUV = ((0.299, -0.147, 0.615), (0.587, -0.289, -0.515), (0.114, 0.436, -0.100))
_CONTENT_LOSSES: dict[Loss, ContentLoss] = {
    "contextual": "contextual",
    "relaxed_earth_mover": "self_similarity",
    "gram": "perceptual",
    "perceptual": "perceptual",
}


class Reference(NamedTuple):
    """What the objective has to know of the content, or of the target."""

    image: jax.Array  # (h, w, 3)
    features: Features
    regions: jax.Array | None  # (h, w), the number of each pixel's region


class Points(NamedTuple):
    """A set of features, and the region of each."""

    points: jax.Array
    positions: jax.Array  # as shares of the longest side, about the middle
    regions: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of an image. Equal objectives share a compiled program."""

    settings: Comparison
    model: VGG
    number_of_regions: int = 1

    def __call__(
        self,
        params: Parameters,
        key: jax.Array,
        network: Any,
        target: Reference,
        content: Reference,
        factor: jax.Array | float,
    ) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        """Computes the loss.

        Args:
          params: The image's pyramid, and the control points of the field that it is seen through.
          key: Of the points that are drawn.
          network: Parameters of the feature network.
          target: Whose style is taken on.
          content: Whose things are kept.
          factor: Multiplies the content's weight, and divides the palette's, as STROTSS has it at
            its coarser scales.

        Returns:
          `(loss, (image, the loss and its terms))`.
        """
        settings, image = self.settings, render(params)
        features = features_of(self.model, layers_of(settings), network, image)
        made = Reference(image, features, content.regions)
        keys = jax.random.split(key, 3)
        style, moments = self.style(keys[0], made, target)
        terms = {"style": style, "content": self.content(keys[1], made, content), **priors(image)}
        loss = (
            terms["style"]
            + factor * settings.content_weight * terms["content"]
            + settings.tv_weight * terms["tv"]
            + settings.chroma_tv_weight * terms["chroma_tv"]
            + settings.range_weight * terms["range"]
        )
        if moments is not None:
            terms["moments"] = moments
            loss += settings.moment_weight * moments
        if settings.palette_weight:
            terms["palette"] = self.palette(keys[2], made, target)
            loss += settings.palette_weight / factor * terms["palette"]
        if params.others is not None:
            layer, (height, width, _) = settings.deformation_layer, image.shape
            terms["pull"] = pull(
                made.features[layer], target.features[layer], params.others, shape=(height, width)
            )
            terms["strain"] = strain(params.others, settings.deformation_cells)
            loss += terms["pull"] + terms["strain"] / settings.deformation
        return loss, (image, {"loss": loss, **terms})

    def style(
        self, key: jax.Array, made: Reference, target: Reference
    ) -> tuple[jax.Array, jax.Array | None]:
        """Likeness to the target's style, and the difference of the moments if that counts."""
        settings = self.settings
        if settings.loss in OF_MAPS:
            return _of_maps(settings.loss, made, target, settings.style_layers), None
        loss = _of_points(settings.loss)
        if settings.loss == "contextual":
            loss = functools.partial(_contextual, settings)
        sets = map(self._sets, jax.random.split(key), (made, target))
        pairs = list(zip(*sets, strict=True))
        style = self._over(loss, pairs)
        return style, self._over(_moments, pairs) if settings.moment_weight else None

    def content(self, key: jax.Array, made: Reference, content: Reference) -> jax.Array:
        """Likeness to the content."""
        if not (self.settings.content_layers and self.settings.content_weight):
            return jnp.zeros(())
        layers, both = self.settings.content_layers, (made, content)
        kind = content_loss_of(self.settings)
        if kind in ("perceptual", "squared"):
            return _of_maps(kind, made, content, layers)
        if kind == "contextual":
            loss = _of_points(kind, bandwidth=self.settings.content_bandwidth)
            keys = [jax.random.fold_in(key, number) for number in range(len(layers))]
            terms = [  # the same places in both
                loss(*(self._at_most(key, x.features[layer]) for x in both))
                for key, layer in zip(keys, layers, strict=True)
            ]
            return jnp.stack(terms).sum()
        loss, places = loss_of(kind), jax.random.uniform(key, (_SELF_SIMILARITY_POINTS, 2))
        if self.settings.layers == "hypercolumns":
            return loss(*(hypercolumns(x.image, x.features, layers, places) for x in both))
        terms = [loss(*(interpolate(x.features[name], places) for x in both)) for name in layers]
        return jnp.stack(terms).mean()

    def palette(self, key: jax.Array, made: Reference, target: Reference) -> jax.Array:
        """Relaxed earth mover's distance of the colours, Euclidean plus cosine (STROTSS)."""

        def colours(key, reference):
            drawn = self._at_most(key, reference.image, reference.regions)
            return drawn._replace(points=drawn.points @ jnp.asarray(_YUV))

        def distance(a, b):
            squares = jnp.square(a[:, None] - b[None]).mean(axis=-1)
            euclidean = jnp.sqrt(jnp.maximum(squares, 1e-8))
            return euclidean + 2 * pairwise(a, b, jnp.zeros(a.shape[1]), distance="cosine")

        relaxed = functools.partial(cxjax.relaxed_earth_mover_loss, distance=distance)
        loss = lambda x, y, **masks: relaxed(x.points, y.points, **masks)
        return self._by_region(loss, *map(colours, jax.random.split(key), (made, target)))

    def _over(
        self, loss: Callable[..., jax.Array], pairs: Sequence[tuple[Points, Points]]
    ) -> jax.Array:
        """A loss of two sets, summed over pairs of them."""
        return jnp.stack([self._by_region(loss, x, y) for x, y in pairs]).sum()

    def _by_region(self, loss: Callable[..., jax.Array], x: Points, y: Points) -> jax.Array:
        """A loss of two sets; with regions each is compared with its like, weighted by its
        points."""
        if x.regions is None or y.regions is None:
            return loss(x, y)
        terms = []
        for region in range(self.number_of_regions):
            of_x, of_y = x.regions == region, y.regions == region
            terms.append(of_x.mean() * loss(x, y, x_mask=of_x, y_mask=of_y))
        return jnp.stack(terms).sum()

    def _sets(self, key: jax.Array, reference: Reference) -> list[Points]:
        """The sets of points that stand for a picture's style: one per layer, or one of all."""
        settings, features = self.settings, reference.features
        if settings.layers == "hypercolumns":
            places = jax.random.uniform(key, (settings.max_points, 2))
            columns = hypercolumns(reference.image, features, settings.style_layers, places)
            regions = reference.regions
            if regions is not None:
                shape = jnp.asarray(regions.shape)
                rows, across = jnp.moveaxis((places * shape[None, :]).astype(int), -1, 0)
                regions = regions[rows, across]
            sides = jnp.asarray(reference.image.shape[:2])
            return [Points(columns, (places - 0.5) * (sides / sides.max())[None], regions)]
        maps = [features[name] for name in settings.style_layers]
        if settings.layers == "concatenated":
            layers, grid = settings.style_layers, settings.grid
            maps = [points.concatenate(features, layers=layers, grid=grid)]
        return [
            self._at_most(jax.random.fold_in(key, number), values, reference.regions)
            for number, values in enumerate(maps)
        ]

    def _at_most(
        self, key: jax.Array, values: jax.Array, regions: jax.Array | None = None
    ) -> Points:
        """A map as points, of which no more than `max_points` are drawn."""
        if regions is not None:
            regions = jax.image.resize(regions, values.shape[:2], "nearest").reshape(-1)
        positions = centered_positions(values.shape[:2]).reshape(-1, 2)
        whole = Points(values.reshape(-1, values.shape[-1]), positions, regions)
        return draw(key, whole, self.settings.max_points)


def layers_of(settings: Comparison) -> tuple[str, ...]:
    """All layers that the objective looks at."""
    matched = (settings.deformation_layer,) if settings.deformation else ()
    return tuple(dict.fromkeys((*settings.style_layers, *settings.content_layers, *matched)))


def features_of(model: VGG, layers: tuple[str, ...], network: Any, image: Any) -> Features:
    """An image's features."""
    return cast(Features, model.apply(network, image, layers=layers))


def content_loss_of(settings: Comparison) -> ContentLoss:
    """The loss to the content: that which was asked for, or goes with the loss to the target."""
    return settings.content_loss or _CONTENT_LOSSES[settings.loss]


def draws_points(settings: Comparison, content: Reference, target: Reference) -> bool:
    """Whether another key means other points, so that two losses do not compare.

    Args:
      settings: Settings.
      content: The content, or shapes in place of its arrays.
      target: The same of the target.
    """
    kind = content_loss_of(settings) if settings.content_weight else None
    if settings.layers == "hypercolumns" or (kind == "self_similarity" and settings.content_layers):
        return True
    style = (settings.grid,) if settings.layers == "concatenated" else settings.style_layers
    style = () if settings.loss in OF_MAPS else style
    maps = [reference.features[layer] for reference in (content, target) for layer in style]
    if kind == "contextual":
        maps += [content.features[layer] for layer in settings.content_layers]
    if settings.palette_weight:
        maps += [content.image, target.image]
    return any(0 < settings.max_points < of.shape[0] * of.shape[1] for of in maps)


def render(params: Parameters) -> jax.Array:
    """The picture: what the pyramid makes, seen through the field if there is one.

    Its gradient with respect to the field is left out: that of losses that know no places is small
    and leads nowhere in particular, and the optimiser would follow it beside the pull.
    """
    image = pyramid.merge(params.pieces)
    return image if params.others is None else move(image, jax.lax.stop_gradient(params.others))


def hypercolumns(
    image: jax.Array, features: Mapping[str, jax.Array], layers: Sequence[str], places: jax.Array
) -> jax.Array:
    """An image's colours and its features at some places, stacked.

    Args:
      image: `(h, w, 3)`.
      features: Maps by name of layer.
      layers: Those to take.
      places: `(n, 2)`, down and across, as shares of the height and the width, in [0, 1).

    Returns:
      `(n, 3 + c)`, interpolated linearly.

    References:
      Kolkin et al., STROTSS, CVPR 2019.
    """
    maps = (image, *(features[name] for name in layers))
    return jnp.concatenate([interpolate(values, places) for values in maps], axis=-1)


def interpolate(values: jax.Array, places: jax.Array) -> jax.Array:
    """A map at places, given as in `hypercolumns`."""
    shape = jnp.asarray(values.shape[:2])
    return look_up(values, places * shape[None, :] - 0.5)


def _of_maps(name: str, x: Reference, y: Reference, layers: Sequence[str]) -> jax.Array:
    """A loss of maps, mean over layers."""
    loss = loss_of(name)
    return jnp.stack([loss(x.features[layer], y.features[layer]) for layer in layers]).mean()


def _of_points(name: str, **options: Any) -> Callable[..., jax.Array]:
    """A loss of sets of points, by the points alone."""
    return lambda x, y, **masks: loss_of(name, **options)(x.points, y.points, **masks)


def _contextual(settings: Comparison, x: Points, y: Points, **masks: jax.Array) -> jax.Array:
    """The Contextual Loss, where asked for of distances that grow with that of the places."""
    options = {"bandwidth": settings.style_bandwidth, "direction": settings.direction, **masks}
    if not settings.position_weight:
        return cxjax.contextual_loss(x.points, y.points, **options)
    weights = masks.get("y_mask", jnp.ones(len(y.points)))[:, None]
    mean = (weights * y.points).sum(axis=0, keepdims=True) / jnp.maximum(weights.sum(), 1)
    c = y.points.shape[1]

    def distance(a, b):
        of_features = pairwise(a[:, :c], b[:, :c], jnp.zeros(c), distance="cosine")
        squares = pairwise(a[:, c:], b[:, c:], jnp.zeros(2), distance="l2")
        return of_features + settings.position_weight * jnp.sqrt(squares + 1e-12)

    sets = [jnp.concatenate([a.points - mean, a.positions], axis=-1) for a in (x, y)]
    return cxjax.contextual_loss(*sets, distance=distance, **options)


def _moments(
    x: Points,
    y: Points,
    x_mask: jax.Array | None = None,
    y_mask: jax.Array | None = None,
) -> jax.Array:
    """How far the means and the covariances of two sets are apart (STROTSS)."""

    def moments(a, mask):
        weights = jnp.ones(len(a)) if mask is None else mask.astype(a.dtype)
        weights = (weights / jnp.maximum(weights.sum(), 1))[:, None]
        mean = (weights * a).sum(axis=0, keepdims=True)
        scaled = weights * (a - mean)
        # A difference of near equal numbers: the default precision of a GPU or TPU would be seen.
        return mean, jnp.matmul((a - mean).T, scaled, precision=jax.lax.Precision.HIGHEST)

    both = zip(moments(x.points, x_mask), moments(y.points, y_mask), strict=True)
    difference = jnp.stack([jnp.abs(a - b).mean() for a, b in both]).sum()
    if x_mask is None or y_mask is None:
        return difference
    return jnp.where(x_mask.any() & y_mask.any(), difference, 0)
