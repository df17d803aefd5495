"""Semantic style transfer: an image optimised, coarse to fine, to take on a target's manner."""

import collections
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import cxjax
from cxjax.data import images
from cxjax.features.vgg import VGG
from experiments.cli import check_folder, make_folder, to_json
from experiments.correspondences.pictures import crop_of, portrait
from experiments.style_transfer import masks, pyramid, warp
from experiments.style_transfer.config import Config
from experiments.style_transfer.objective import Reference, features_of, make_objective


class Stage(NamedTuple):
    """One scale."""

    steps: int
    content: images.Picture
    target: images.Picture
    regions: tuple[masks.Regions, masks.Regions] | None  # of the content and of the target
    content_factor: float  # of the content's weight


class Parameters(NamedTuple):
    """What is optimised."""

    pieces: list[jax.Array]  # a picture's pyramid
    warp: jax.Array | None  # the field's control points, where shapes may move


class State(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: Parameters
    optimizer: optax.OptState
    best_loss: jax.Array
    best_params: Parameters  # that had it
    best: jax.Array  # the image that they make


def run(config: Config) -> dict[str, Any]:
    """Runs style transfer, writes its pictures and figures, and returns the figures."""
    began = time.perf_counter()
    check_folder(config.out)
    content, target = load_pair(config)
    regions = load_regions(config, content, target)
    model, params = cxjax.load_vgg(
        config.network, path=config.weights, pooling=config.pooling, padding=config.padding
    )
    stages = make_stages(config, model, params, content, target, regions)

    names = [
        path.stem if path else built_in
        for path, built_in in ((config.content, "astronaut"), (config.target, "grace_hopper"))
    ]
    name = "-".join([*names, config.loss])
    out = make_folder(config.out, Path("out/style_transfer") / name)
    (out / "config.json").write_text(json.dumps(to_json(config), indent=1) + "\n")
    print(f"results in {out}")
    initial = _initial(config, stages[0])
    image, metrics, interrupted = np.asarray(initial), {"step": 0}, False
    with (out / "metrics.jsonl").open("w") as log:
        try:
            for image, metrics in optimize(config, model, params, stages, initial):
                log.write(json.dumps(metrics) + "\n")
                if metrics["step"] % config.save_every == 0:
                    images.write_image(out / f"step{metrics['step']:05d}.png", image)
                    if not sys.stderr.isatty():  # where there is no progress bar
                        print(f"step {metrics['step']} of {sum(config.steps)}")
        except KeyboardInterrupt:
            interrupted = True
            step = metrics["step"]
            kept = f"after step {step}: keeping the best picture so far" if step else "at the start"
            print(f"interrupted {kept}")

    image = np.clip(jax.image.resize(image, stages[-1].content.shape, "cubic"), 0, 1)
    shown = [stages[-1].content, images.resize(target, longest_side=config.size), image]
    images.write_image(out / "result.png", image)
    images.write_image(out / "strip.png", images.strip(shown))
    results = {
        "last_step": metrics,
        "total_variation": {
            name: float(cxjax.total_variation(picture))
            for name, picture in zip(("content", "target", "result"), shown, strict=True)
        },
        "interrupted": interrupted,
        "seconds_in_all": time.perf_counter() - began,
        "device": jax.devices()[0].device_kind,
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))
    return results


def load_pair(config: Config) -> tuple[images.Picture, images.Picture]:
    """The content and the target; what is not given comes with an installed package."""
    return (
        portrait(config.content, config.content_crop, "astronaut"),
        portrait(config.target, config.target_crop, "grace_hopper"),
    )


def load_regions(
    config: Config, content: images.Picture, target: images.Picture
) -> tuple[masks.Regions, masks.Regions] | None:
    """The regions of the two pictures, if there are masks: of the whole pictures, and cut as they
    are."""
    if config.content_mask is None or config.target_mask is None:
        return None
    return masks.read_regions(
        config.content_mask,
        config.target_mask,
        sizes=(content.shape[:2], target.shape[:2]),
        crops=(
            crop_of(config.content, config.content_crop, "astronaut"),
            crop_of(config.target, config.target_crop, "grace_hopper"),
        ),
    )


def make_stages(
    config: Config,
    model: VGG,
    params: Any,
    content: images.Picture,
    target: images.Picture,
    regions: tuple[masks.Regions, masks.Regions] | None = None,
) -> list[Stage]:
    """The pictures at each scale; a ValueError if one is too small for a layer."""
    stages = [_stage(config, content, target, regions, i) for i in range(len(config.scales))]
    for stage in stages:
        features = _check_sizes(config, model, params, stage)
        if stage.regions is not None:
            _check_regions(config, stage.regions, features)
    return stages


def _stage(
    config: Config,
    content: images.Picture,
    target: images.Picture,
    regions: tuple[masks.Regions, masks.Regions] | None,
    i: int,
) -> Stage:
    side = max(1, round(config.size * config.scales[i]))
    content = images.resize(content, longest_side=side)
    if config.loss == "perceptual":  # which compares the same place in both
        target = images.resize_to(target, content.shape[:2])
    else:
        target = images.resize(target, longest_side=side)
    if regions is not None:
        shapes = (content.shape[:2], target.shape[:2])
        found = [masks.resize(one, shape) for one, shape in zip(regions, shapes, strict=True)]
        regions = found[0], found[1]
    factor = config.coarse_content_weight ** (len(config.scales) - 1 - i)
    return Stage(config.steps[i], content, target, regions, factor)


def _check_sizes(config: Config, model: VGG, params: Any, stage: Stage) -> list[Any]:
    """The shapes of the features, of the content's and of the target's."""
    shapes = []
    for name, image in (("content", stage.content), ("target", stage.target)):
        try:
            found = jax.eval_shape(functools.partial(features_of, config, model), params, image)
            shapes.append(found)
        except ValueError as error:
            height, width = image.shape[:2]
            raise ValueError(
                f"the {name}, {width} x {height} px at one of the --scales {config.scales} of "
                f"--size {config.size}, is too small: {error}. Give a larger --size or another crop"
            ) from error
    return shapes


def _check_regions(
    config: Config, regions: tuple[masks.Regions, masks.Regions], features: Sequence[Any]
) -> None:
    compared = {"hypercolumns": (), "concatenated": (config.grid,), "summed": config.style_layers}
    for layer in compared[config.layers]:  # hypercolumns take the regions' own pixels
        of_content, of_target = (
            set(np.unique(masks.resize(one, found[layer].shape[:2])).tolist())
            for one, found in zip(regions, features, strict=True)
        )
        if of_content - of_target:
            raise ValueError(
                f"a region of --target-mask is too small for {layer} at one of the --scales "
                f"{config.scales} of --size {config.size}: paint it larger, give a larger --size, "
                "or leave the layer out of --style-layers"
            )


def _initial(config: Config, stage: Stage) -> jax.Array:
    content = jnp.asarray(stage.content)
    if config.initial == "content":
        return content
    if config.initial == "details":
        return jnp.clip(_details(content) + stage.target.mean(axis=(0, 1), keepdims=True), 0, 1)
    return 0.5 + 0.1 * jax.random.normal(jax.random.key(config.seed), content.shape)


def _details(image: jax.Array) -> jax.Array:
    return pyramid.split(image, 2)[0]


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformationExtraArgs:
    """NovoGrad, made to move every level by the learning rate, root mean square; or another."""
    return optax.with_extra_args_support(_optimizer(config, steps))


def _optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    if config.optimizer == "lbfgs":  # finds the length of its steps itself
        return optax.lbfgs(memory_size=10)
    if config.optimizer == "rmsprop":
        return optax.rmsprop(config.learning_rate, decay=0.99)
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps, 0.1)
    if config.optimizer == "adam":
        return optax.adam(schedule)
    momentum = 0.9
    return optax.chain(
        optax.scale_by_novograd(b1=momentum, b2=0.9),
        optax.stateless_with_tree_map(lambda u, _: (1 - momentum) * math.sqrt(jnp.size(u)) * u),
        optax.scale_by_learning_rate(schedule),
    )


def render(params: Parameters) -> jax.Array:
    """The picture: what the pyramid makes, seen through the field if there is one.

    Its gradient with respect to the field is left out: that of losses that know no places is small
    and leads nowhere in particular, and the optimiser would follow it beside the pull.
    """
    image = pyramid.merge(params.pieces)
    if params.warp is None:
        return image
    return warp.move(image, jax.lax.stop_gradient(params.warp))


def make_step(
    config: Config,
    model: VGG,
    optimizer: optax.GradientTransformationExtraArgs,
    number_of_regions: int = 1,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """A pure step `(state, parameters, target, content, factor) -> (state, metrics)`."""
    objective = make_objective(config, model, number_of_regions)

    def step(state, *references):
        # L-BFGS compares losses of several steps, which must be of the same points.
        number = 0 if config.optimizer == "lbfgs" else state.step
        key = jax.random.fold_in(jax.random.key(config.seed), number)

        def loss_fn(params):
            image = render(params)
            loss, metrics = objective(image, key, *references, warp=params.warp)
            return loss, (image, metrics)

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (image, metrics)), grads = gradient(state.params)
        updates, opt_state = optimizer.update(
            grads,
            state.optimizer,
            state.params,
            value=loss,
            grad=grads,
            value_fn=lambda params: loss_fn(params)[0],
        )
        better = loss < state.best_loss
        choose = functools.partial(jax.tree.map, functools.partial(jnp.where, better))
        state = State(
            state.step + 1,
            cast(Parameters, optax.apply_updates(state.params, updates)),
            opt_state,
            jnp.where(better, loss, state.best_loss),
            choose(state.params, state.best_params),
            choose(image, state.best),
        )
        return state, metrics

    return step


_features_of = jax.jit(features_of, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _step(
    config: Config, model: VGG, steps: int, regions: int, state: State, *references: Any
) -> Any:
    """`make_step`, compiled once for all pictures of a size."""
    return make_step(config, model, make_optimizer(config, steps), regions)(state, *references)


def stylize(
    config: Config,
    model: VGG,
    params: Any,
    content: images.Picture,
    target: images.Picture,
    regions: tuple[masks.Regions, masks.Regions] | None = None,
) -> images.Picture:
    """The content in the manner of the target, without a word and without a file."""
    stages = make_stages(config, model, params, content, target, regions)
    steps = optimize(config, model, params, stages, _initial(config, stages[0]), quiet=True)
    image, _ = collections.deque(steps, maxlen=1).pop()
    return np.clip(image, 0, 1)


def optimize(
    config: Config,
    model: VGG,
    params: Any,
    stages: Sequence[Stage],
    image: jax.Array,
    *,
    quiet: bool = False,
) -> Iterator[tuple[np.ndarray, dict[str, float]]]:
    """Goes through the stages; after every step yields the stage's best image and the metrics.

    `seconds` are those of the steps, without compilation. `quiet` hides the progress bar.
    """
    seconds, done = 0.0, 0
    control = None
    if config.deformation:
        control = warp.start(config.deformation_cells, stages[0].content.shape[:2])
    total = sum(stage.steps for stage in stages)
    with tqdm(total=total, unit="step", dynamic_ncols=True, disable=quiet or None) as bar:
        for number, stage in enumerate(stages):
            image = jax.image.resize(image, stage.content.shape, "cubic")
            if config.initial == "details" and 0 < number < len(stages) - 1:
                image = image + _details(jnp.asarray(stage.content))
            image = jnp.clip(image, 0, 1)
            start = Parameters(pyramid.split(image, config.pyramid_levels), control)
            opt_state = make_optimizer(config, stage.steps).init(start)
            state = State(
                jnp.asarray(done), start, opt_state, jnp.asarray(jnp.inf), start, render(start)
            )
            state = jax.tree.map(jnp.array, state)  # copies, for a step takes its arguments over
            regions = [None, None] if stage.regions is None else map(jnp.asarray, stage.regions)
            content, target = (
                Reference(jnp.asarray(picture), _features_of(config, model, params, picture), one)
                for picture, one in zip((stage.content, stage.target), regions, strict=True)
            )
            references = (params, target, content, stage.content_factor)
            number_of_regions = 1 if stage.regions is None else int(stage.regions[0].max()) + 1
            bar.set_description(f"{image.shape[1]} x {image.shape[0]} px, compiling")
            lowered = _step.lower(config, model, stage.steps, number_of_regions, state, *references)
            compiled = lowered.compile()
            bar.set_description(f"{image.shape[1]} x {image.shape[0]} px")
            for _ in range(stage.steps):
                began = time.perf_counter()
                state, terms = compiled(state, *references)
                metrics = {name: float(value) for name, value in terms.items()}
                done += 1
                if not math.isfinite(metrics["loss"]):
                    raise FloatingPointError(
                        f"the loss became {metrics['loss']} at step {done}: {metrics}. "
                        "Try a smaller --learning-rate, with L-BFGS another --optimizer; the "
                        "pictures saved so far stand"
                    )
                bar.update()
                bar.set_postfix({k: f"{metrics[k]:.3f}" for k in ("loss", "style", "content")})
                seconds += time.perf_counter() - began
                yield (
                    np.asarray(state.best),
                    {"step": done, "stage": number, **metrics, "seconds": seconds},
                )
            image, control = pyramid.merge(state.best_params.pieces), state.best_params.warp


def summary(results: dict[str, Any]) -> str:
    """The figures, in two lines."""
    variation = results["total_variation"]
    last = results["last_step"]
    if last["step"] == 0:
        return "no step was finished: result.png is the start"
    return (
        f"loss {last['loss']:.3f} (style {last['style']:.3f}, content {last['content']:.3f}) in "
        f"{results['seconds_in_all']:.0f} s, of which {last['seconds']:.0f} s optimising\n"
        "total variation: " + ", ".join(f"{name} {value:.4f}" for name, value in variation.items())
    )
