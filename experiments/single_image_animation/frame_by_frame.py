"""The baseline without a generator: style transfer of each held-out frame, on its own."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

import cxjax
from cxjax.data.images import Picture, resize
from cxjax.features.vgg import VGG
from experiments.common import pyramid
from experiments.common.generators import make_features
from experiments.common.optimization import (
    Parameters,
    Scale,
    check_scales,
    coarse_to_fine,
    last_image,
)
from experiments.common.runs import make_folder, read_config, write_results
from experiments.common.terms import draw, loss_of, priors
from experiments.single_image_animation.config import Config
from experiments.single_image_animation.data import read_pair
from experiments.single_image_animation.evaluation import evaluate_frames, show
from experiments.single_image_animation.objective import layers_of

Features = dict[str, jax.Array]

# The default of experiments.style_transfer, with the paper's layers and without the moments, as the
# README's figures were made.
_LAYERS = ("conv2_2", "conv3_2", "conv4_2")  # compared with the target's
_CONTENT_LAYER = "conv4_2"
_BANDWIDTH, _CONTENT_BANDWIDTH = 0.2, 0.1
_WEIGHTS = {"style": 1.0, "content": 1.0, "tv": 6.0, "chroma_tv": 24.0, "range": 100.0}
_MAX_POINTS = 4096  # of a layer; of more, others are drawn at each step
_DESCENT: Any = {"levels": 6, "optimizer": "novograd", "learning_rate": 0.01, "seed": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameByFrameConfig:
    """Baseline: makes each held-out frame of a run by style transfer, on its own."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, whose clip and target are taken."""
    out: Path | None = None
    """Folder for the results, new or empty; without it a new one beside the run's."""
    scales: tuple[float, ...] = (0.5, 1.0)
    """Sizes optimised one after the other, as shares of the run's --size. Network and pooling are
    the run's too; the rest is the default of experiments.style_transfer, with the paper's layers
    and without the moments."""
    steps: tuple[int, ...] = (120, 80)
    """Steps of gradient descent at each scale, for each frame."""

    def __post_init__(self) -> None:
        check_scales(self.scales, self.steps)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The Contextual Losses of a frame to the target and to its own content, and priors."""

    model: VGG

    def __call__(
        self, params: Parameters, key: jax.Array, network: Any, target: Features, content: Features
    ) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        """`(loss, (image, the loss and its terms))`."""
        image = pyramid.merge(params.pieces)
        made = _features_of(self.model, network, image)
        key_style, key_content, _ = jax.random.split(key, 3)
        keys = jax.random.split(key_style)
        to_target = [
            loss_of("contextual", bandwidth=_BANDWIDTH)(
                _points(keys[0], number, made[layer]), _points(keys[1], number, target[layer])
            )
            for number, layer in enumerate(_LAYERS)
        ]
        both = (maps[_CONTENT_LAYER] for maps in (made, content))  # the same places in both
        to_content = (_points(key_content, 0, features) for features in both)
        terms = {
            "style": jnp.stack(to_target).sum(),
            "content": loss_of("contextual", bandwidth=_CONTENT_BANDWIDTH)(*to_content),
            **priors(image),
        }
        loss = jnp.asarray(sum(_WEIGHTS[name] * term for name, term in terms.items()))
        return loss, (image, {"loss": loss, **terms})


@functools.partial(jax.jit, static_argnums=0)
def _features_of(model: VGG, network: Any, image: Any) -> Features:
    return cast(Features, model.apply(network, image, layers=_LAYERS))


def _points(key: jax.Array, number: int, features: jax.Array) -> jax.Array:
    points = features.reshape(-1, features.shape[-1])
    return draw(jax.random.fold_in(key, number), points, _MAX_POINTS)


def run(config: FrameByFrameConfig) -> dict[str, Any]:
    """Makes the animation of the held-out frames, and scores it; returns the metrics."""
    began = time.perf_counter()
    of_run: Config = read_config(Config, config.run)
    pair = read_pair(of_run)
    model, network = cxjax.load_vgg(
        of_run.network, path=of_run.weights, pooling=of_run.pooling, padding="edge"
    )
    folder = make_folder(config.out, config.run.with_name(f"{config.run.name}-frame_by_frame"))
    print(f"results in {folder}")
    sides = [max(1, round(of_run.size * scale)) for scale in config.scales]
    stylize = functools.partial(_stylize, model, network, pair.target, sides, config.steps)
    made = [stylize(frame) for frame in tqdm(pair.held_out, unit="frame")]
    features = make_features(of_run, layers_of(of_run))
    metrics = evaluate_frames(of_run, features, pair, np.stack(made), folder)
    results = write_results(folder, metrics, seconds=time.perf_counter() - began)
    print(show({folder.name: results}))
    return results


def _stylize(
    model: VGG,
    network: Any,
    target: Picture,
    sides: Sequence[int],
    steps: Sequence[int],
    frame: Picture,
) -> Picture:
    """A frame in the style of the target, its longest side one of `sides` after the other."""
    scales = []
    for side, count in zip(sides, steps, strict=True):
        content, style = (resize(picture, longest_side=side) for picture in (frame, target))
        given = (network, *(_features_of(model, network, image) for image in (style, content)))
        maps = [features for of_image in given[1:] for features in of_image.values()]
        scales.append(
            Scale(
                steps=count,
                shape=content.shape,
                objective=Objective(model),
                references=lambda given=given: given,
                drawn=any(of.shape[0] * of.shape[1] > _MAX_POINTS for of in maps),
            )
        )
    start = resize(frame, longest_side=sides[0])
    return last_image(coarse_to_fine(scales, start, **_DESCENT, quiet=True))
