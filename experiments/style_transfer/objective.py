"""What style transfer minimises: likeness to the target's manner and to the content's things."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

import cxjax
from cxjax import points
from cxjax.distances import pairwise
from cxjax.features.vgg import VGG
from experiments.losses import relative, self_similarity_loss
from experiments.style_transfer.config import OF_MAPS, Config
from experiments.style_transfer.warp import centered_positions, look_up, pull, strain

Features = dict[str, jax.Array]

_SELF_SIMILARITY_POINTS = 1024  # their distances are held as a matrix
# Luma and two differences of colour (BT.601), so that grey and colour are compared apart.
_YUV = ((0.299, -0.147, 0.615), (0.587, -0.289, -0.515), (0.114, 0.436, -0.100))


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


def layers(config: Config) -> tuple[str, ...]:
    """All layers that the objective looks at."""
    matched = (config.deformation_layer,) if config.deformation else ()
    return tuple(dict.fromkeys((*config.style_layers, *config.content_layers, *matched)))


def features_of(config: Config, model: VGG, params: Any, image: jax.Array) -> Features:
    """Their features of an image."""
    return cast(Features, model.apply(params, image, layers=layers(config)))


def concatenate(features: Features, config: Config) -> jax.Array:
    """The style layers as one, each resized to the grid's layer and divided by its channels."""
    return points.concatenate(features, layers=config.style_layers, grid=config.grid)


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
    return jnp.concatenate([_interpolate(found, places) for found in maps], axis=-1)


def _interpolate(found: jax.Array, places: jax.Array) -> jax.Array:
    shape = jnp.asarray(found.shape[:2])
    return look_up(found, places * shape[None, :] - 0.5)


def _sets(key: jax.Array, config: Config, found: Reference) -> list[Points]:
    """The sets of points that stand for a picture's manner: one per layer, or one of all."""
    if config.layers == "hypercolumns":
        places = jax.random.uniform(key, (config.max_points, 2))
        columns = hypercolumns(found.image, found.features, config.style_layers, places)
        regions = found.regions
        if regions is not None:
            shape = jnp.asarray(regions.shape)
            rows, across = jnp.moveaxis((places * shape[None, :]).astype(int), -1, 0)
            regions = regions[rows, across]
        sides = jnp.asarray(found.image.shape[:2])
        return [Points(columns, (places - 0.5) * (sides / sides.max())[None], regions)]
    if config.layers == "concatenated":
        maps = [concatenate(found.features, config)]
    else:
        maps = [found.features[name] for name in config.style_layers]
    return [
        _at_most(config.max_points, jax.random.fold_in(key, number), found_map, found.regions)
        for number, found_map in enumerate(maps)
    ]


def _at_most(count: int, key: jax.Array, found: jax.Array, regions: jax.Array | None) -> Points:
    """A map as points, of which no more than `count` are drawn; 0 takes all."""
    if regions is not None:
        regions = jax.image.resize(regions, found.shape[:2], "nearest").reshape(-1)
    positions = centered_positions(found.shape[:2]).reshape(-1, 2)
    flat = Points(found.reshape(-1, found.shape[-1]), positions, regions)
    if not 0 < count < len(flat.points):
        return flat
    return points.sample(key, flat, count=count)


def _by_region(
    loss: Callable[..., jax.Array], x: Points, y: Points, number_of_regions: int
) -> jax.Array:
    """A loss of two sets; with regions each is compared with its like, weighted by its points."""
    if x.regions is None or y.regions is None:
        return loss(x, y)
    terms = []
    for region in range(number_of_regions):
        of_x, of_y = x.regions == region, y.regions == region
        terms.append(of_x.mean() * loss(x, y, x_mask=of_x, y_mask=of_y))
    return jnp.stack(terms).sum()


def _contextual(config: Config, x: Points, y: Points, **masks: jax.Array) -> jax.Array:
    """The Contextual Loss, where asked for of distances that grow with that of the places."""
    options = {"bandwidth": config.style_bandwidth, "direction": config.direction, **masks}
    if not config.position_weight:
        return cxjax.contextual_loss(x.points, y.points, **options)
    weights = masks.get("y_mask", jnp.ones(len(y.points)))[:, None]
    mean = (weights * y.points).sum(axis=0, keepdims=True) / jnp.maximum(weights.sum(), 1)
    c = y.points.shape[1]

    def distance(a, b):
        of_features = pairwise(a[:, :c], b[:, :c], jnp.zeros(c), distance="cosine")
        squares = pairwise(a[:, c:], b[:, c:], jnp.zeros(2), distance="l2")
        return of_features + config.position_weight * jnp.sqrt(squares + 1e-12)

    sets = [jnp.concatenate([one.points - mean, one.positions], axis=-1) for one in (x, y)]
    return cxjax.contextual_loss(*sets, distance=distance, **options)


def _style(
    key: jax.Array, config: Config, made: Reference, target: Reference, number_of_regions: int
) -> tuple[jax.Array, jax.Array | None]:
    """Likeness to the target's manner, and the difference of the moments if that counts."""
    if config.loss in OF_MAPS:
        loss = cxjax.gram_loss if config.loss == "gram" else cxjax.perceptual_loss
        pairs = [(made.features[name], target.features[name]) for name in config.style_layers]
        return jnp.stack([relative(loss, x, y) for x, y in pairs]).mean(), None
    if config.loss == "contextual":
        loss = functools.partial(_contextual, config)
    else:
        # Of 1 - cos, as in STROTSS; the library halves it.
        relaxed = cxjax.relaxed_earth_mover_loss
        loss = lambda x, y, **masks: 2 * relaxed(x.points, y.points, **masks)
    key_x, key_y = jax.random.split(key)
    pairs = list(zip(_sets(key_x, config, made), _sets(key_y, config, target), strict=True))
    style = jnp.stack([_by_region(loss, x, y, number_of_regions) for x, y in pairs]).sum()
    if not config.moment_weight:
        return style, None
    moments = [_by_region(_moments, x, y, number_of_regions) for x, y in pairs]
    return style, jnp.stack(moments).sum()


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


def _palette(
    key: jax.Array, config: Config, made: Reference, target: Reference, number_of_regions: int
) -> jax.Array:
    """Relaxed earth mover's distance of the colours, Euclidean plus cosine (STROTSS)."""
    sets = []
    for found, one in zip((made, target), jax.random.split(key), strict=True):
        drawn = _at_most(config.max_points, one, found.image, found.regions)
        sets.append(drawn._replace(points=drawn.points @ jnp.asarray(_YUV)))

    def distance(a, b):
        squares = jnp.square(a[:, None] - b[None]).mean(axis=-1)
        origin = jnp.zeros(a.shape[1])
        return jnp.sqrt(jnp.maximum(squares, 1e-8)) + 2 * pairwise(a, b, origin, distance="cosine")

    relaxed = functools.partial(cxjax.relaxed_earth_mover_loss, distance=distance)
    loss = lambda x, y, **masks: relaxed(x.points, y.points, **masks)
    return _by_region(loss, sets[0], sets[1], number_of_regions)


def _content(key: jax.Array, config: Config, made: Reference, content: Reference) -> jax.Array:
    if not config.content_layers or not config.content_weight:
        return jnp.zeros(())
    kind = config.content_loss or _CONTENT_LOSSES[config.loss]
    if kind == "contextual":
        contextual = functools.partial(cxjax.contextual_loss, bandwidth=config.content_bandwidth)
        terms = []
        for number, name in enumerate(config.content_layers):
            one = jax.random.fold_in(key, number)  # the same places in both
            sets = [
                _at_most(config.max_points, one, found.features[name], None).points
                for found in (made, content)
            ]
            terms.append(contextual(*sets))
        return jnp.stack(terms).sum()
    if kind in ("perceptual", "squared"):
        loss = cxjax.perceptual_loss if kind == "perceptual" else cxjax.l2_loss
        pairs = [(made.features[name], content.features[name]) for name in config.content_layers]
        return jnp.stack([relative(loss, x, y) for x, y in pairs]).mean()
    places = jax.random.uniform(key, (_SELF_SIMILARITY_POINTS, 2))
    if config.layers == "hypercolumns":
        columns = [
            hypercolumns(found.image, found.features, config.content_layers, places)
            for found in (made, content)
        ]
        return self_similarity_loss(*columns)
    terms = [
        self_similarity_loss(
            *(_interpolate(found.features[name], places) for found in (made, content))
        )
        for name in config.content_layers
    ]
    return jnp.stack(terms).mean()


_CONTENT_LOSSES = {
    "contextual": "contextual",
    "relaxed_earth_mover": "self_similarity",
    "gram": "perceptual",
    "perceptual": "perceptual",
}


def make_objective(
    config: Config, model: VGG, number_of_regions: int = 1
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """`(image, key, parameters, target, content, factor, warp=) -> (loss, its terms)`.

    Target and content are each a `Reference`; the factor multiplies the content's weight, and
    divides the palette's, as STROTSS has it at its coarser scales. The warp is the control points
    of the field that the image was moved by, or `None`.
    """

    def objective(image, key, params, target, content, factor, warp=None):
        made = Reference(image, features_of(config, model, params, image), content.regions)
        grey = image.mean(axis=-1, keepdims=True)
        keys = jax.random.split(key, 3)
        style, moments = _style(keys[0], config, made, target, number_of_regions)
        terms = {
            "style": style,
            "content": _content(keys[1], config, made, content),
            "tv": cxjax.total_variation(image),
            "chroma_tv": cxjax.total_variation(image - grey),
            "range": jnp.square(image - jnp.clip(image, 0, 1)).mean(),
        }
        loss = (
            terms["style"]
            + factor * config.content_weight * terms["content"]
            + config.tv_weight * terms["tv"]
            + config.chroma_tv_weight * terms["chroma_tv"]
            + config.range_weight * terms["range"]
        )
        if moments is not None:
            terms["moments"] = moments
            loss += config.moment_weight * moments
        if config.palette_weight:
            terms["palette"] = _palette(keys[2], config, made, target, number_of_regions)
            loss += config.palette_weight / factor * terms["palette"]
        if warp is not None:
            layer = config.deformation_layer
            terms["pull"] = pull(
                made.features[layer], target.features[layer], warp, shape=image.shape[:2]
            )
            terms["strain"] = strain(warp, config.deformation_cells)
            loss += terms["pull"] + terms["strain"] / config.deformation
        return loss, {"loss": loss, **terms}

    return objective
