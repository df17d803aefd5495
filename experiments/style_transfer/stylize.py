"""A picture optimised, coarse to fine, to take on a target's style."""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax.data import images
from cxjax.features.vgg import VGG
from experiments.common import pyramid, runs
from experiments.common.optimization import Scale, coarse_to_fine, last_image
from experiments.style_transfer import evaluation, masks, warp
from experiments.style_transfer.config import Config
from experiments.style_transfer.data import Pictures, read
from experiments.style_transfer.objective import (
    Objective,
    Reference,
    draws_points,
    features_of,
    layers_of,
)

_features_of = jax.jit(features_of, static_argnums=(0, 1))


def run(config: Config) -> dict[str, Any]:
    """Runs style transfer, writes its pictures and metrics, and returns the metrics."""
    results = runs.run(prepare, config)
    print(evaluation.summary(results))
    return results


def prepare(config: Config) -> Callable[[Path], runs.Metrics]:
    """Reads and checks all; returns what makes the picture, and writes all into a folder."""
    pictures = read(config)
    optimized = prepare_steps(config, pictures)
    return lambda folder: _follow(config, pictures, optimized(), folder)


def stylize(config: Config, pictures: Pictures) -> images.Picture:
    """The content in the style of the target, without a word and without a file."""
    return last_image(prepare_steps(config, pictures, quiet=True)())


def prepare_steps(
    config: Config, pictures: Pictures, *, quiet: bool = False
) -> Callable[[], Iterator[tuple[np.ndarray, dict[str, float]]]]:
    """Checks all; returns what begins the steps, as of `coarse_to_fine`."""
    model, network = cxjax.load_vgg(
        config.network, path=config.weights, pooling=config.pooling, padding=config.padding
    )
    scaled = pictures_at_scales(config, pictures)
    scales = [make_scale(config, model, network, scaled, number) for number in range(len(scaled))]
    control = None
    if config.deformation:
        control = warp.start(config.deformation_cells, scaled[0].content.shape[:2])
    return functools.partial(
        coarse_to_fine,
        scales,
        initial_image(config, scaled[0]),
        levels=config.pyramid_levels,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        seed=config.seed,
        others=control,
        quiet=quiet,
    )


def pictures_at_scales(config: Config, pictures: Pictures) -> list[Pictures]:
    """The pictures and their regions in the size of each scale."""
    scaled = []
    for scale in config.scales:
        side = max(1, round(config.size * scale))
        content = images.resize(pictures.content, longest_side=side)
        if config.loss == "perceptual":  # which compares the same place in both
            target = images.resize_to(pictures.target, content.shape[:2])
        else:
            target = images.resize(pictures.target, longest_side=side)
        regions = None
        if pictures.regions is not None:
            regions = (
                masks.resize(pictures.regions[0], content.shape[:2]),
                masks.resize(pictures.regions[1], target.shape[:2]),
            )
        scaled.append(Pictures(content, target, regions))
    return scaled


def make_scale(
    config: Config, model: VGG, network: Any, scaled: Sequence[Pictures], number: int
) -> Scale:
    """What is optimised at one of the scales.

    Raises:
      ValueError: If a picture, or a region of the target, is too small for a layer.
    """
    pictures, last, settings = scaled[number], len(scaled) - 1, config.comparison
    shapes = [
        _shapes_of(config, model, network, name, picture)
        for name, picture in (("content", pictures.content), ("target", pictures.target))
    ]
    regions, number_of_regions = (None, None), 1
    if pictures.regions is not None:
        _check_regions(config, pictures.regions, shapes)
        number_of_regions = int(pictures.regions[0].max()) + 1
        regions = pictures.regions

    def references() -> tuple[Any, ...]:
        content, target = (
            Reference(
                jnp.asarray(picture),
                _features_of(model, layers_of(settings), network, picture),
                None if numbers is None else jnp.asarray(numbers),
            )
            for picture, numbers in zip(pictures[:2], regions, strict=True)
        )
        return network, target, content, config.coarse_content_weight ** (last - number)

    again = config.initial == "details" and 0 < number < last
    return Scale(
        steps=config.steps[number],
        shape=pictures.content.shape,
        objective=Objective(settings, model, number_of_regions),
        references=references,
        drawn=config.optimizer != "lbfgs" and draws_points(settings, *shapes),
        details=details_of(pictures.content) if again else None,
    )


def _shapes_of(
    config: Config, model: VGG, network: Any, name: str, picture: images.Picture
) -> Reference:
    """Shapes of a picture and of its features."""
    of_image = functools.partial(features_of, model, layers_of(config))
    try:
        shapes: Any = jax.eval_shape(of_image, network, picture)
        return Reference(jnp.asarray(picture), shapes, None)
    except ValueError as error:
        height, width = picture.shape[:2]
        raise ValueError(
            f"the {name}, {width} x {height} px at one of the --scales {config.scales} of "
            f"--size {config.size}, is too small: {error}. Give a larger --size or another crop"
        ) from error


def _check_regions(
    config: Config, regions: tuple[masks.Regions, masks.Regions], shapes: Sequence[Reference]
) -> None:
    compared = {"hypercolumns": (), "concatenated": (config.grid,), "summed": config.style_layers}
    for layer in compared[config.layers]:  # hypercolumns take the regions' own pixels
        of_content, of_target = (
            set(np.unique(masks.resize(numbers, (height, width))).tolist())
            for numbers, (height, width, _) in zip(
                regions, (of.features[layer].shape for of in shapes), strict=True
            )
        )
        if of_content - of_target:
            raise ValueError(
                f"a region of --target-mask is too small for {layer} at one of the --scales "
                f"{config.scales} of --size {config.size}: paint it larger, give a larger --size, "
                "or leave the layer out of --style-layers"
            )


def initial_image(config: Config, pictures: Pictures) -> jax.Array:
    """Where to start, of the pictures at the first scale."""
    content = jnp.asarray(pictures.content)
    if config.initial == "content":
        return content
    if config.initial == "details":
        mean = pictures.target.mean(axis=(0, 1), keepdims=True)
        return jnp.clip(details_of(content) + mean, 0, 1)
    return 0.5 + 0.1 * jax.random.normal(jax.random.key(config.seed), content.shape)


def details_of(image: images.Picture | jax.Array) -> jax.Array:
    """The finest level of an image's pyramid."""
    return pyramid.split(jnp.asarray(image), 2)[0]


def _follow(
    config: Config,
    pictures: Pictures,
    steps: Iterator[tuple[np.ndarray, dict[str, float]]],
    folder: Path,
) -> runs.Metrics:
    """Takes the steps, writes their pictures and metrics, and the best picture even where they are
    interrupted.
    """
    image, metrics, interrupted = None, {"step": 0}, False
    with (folder / "metrics.jsonl").open("w") as log:
        try:
            for image, metrics in steps:
                log.write(json.dumps(metrics) + "\n")
                if metrics["step"] % config.save_every == 0:
                    images.write_image(folder / f"step{metrics['step']:05d}.png", image)
                    if not sys.stderr.isatty():  # where there is no progress bar
                        print(f"step {metrics['step']} of {sum(config.steps)}")
        except KeyboardInterrupt:
            interrupted = True
            step = metrics["step"]
            kept = f"after step {step}: keeping the best picture so far" if step else "at the start"
            print(f"interrupted {kept}")
    if image is None:
        image = initial_image(config, pictures_at_scales(config, pictures)[0])
    scores = evaluation.finish(folder, pictures, image, size=config.size)
    return {"last_step": metrics, **scores, "interrupted": interrupted}
