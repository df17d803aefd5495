"""Time of a train step beside that of its parts, and what saving checkpoints adds to it."""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax import points
from cxjax.features.vgg import check_known_layers
from cxjax.training.checkpoint import Checkpoints
from cxjax.training.state import Optimizer
from cxjax.training.step import LossFn
from experiments import generators
from experiments.benchmark.timing import median_seconds
from experiments.cli import make_folder, to_json
from experiments.environment import about, environment
from experiments.single_image_animation.config import Config as AnimationConfig
from experiments.single_image_animation.objective import make_loss

MINUTE = 60.0
_ARRAY_BYTES = 2_000_000  # of each array of a state that is only there to be saved


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Times a train step beside its parts, and what saving checkpoints adds to it."""

    out: Path | None = None
    """Folder for step.json and step.md, new or empty; without it a new out/benchmark-step."""
    size: int = 128
    """Height and width of the images, in pixels."""
    batch_size: int = 4
    """Images per step."""
    small: bool = True
    """The small cascaded refinement network; otherwise the published one."""
    layers: tuple[str, ...] = ("conv3_2", "conv4_2")
    """Layers of VGG16 on which the images are compared with one target."""
    repeats: int = 9
    """Timed rounds after one that is not; the median counts. Each round runs every case once."""
    state_megabytes: tuple[int, ...] = (8, 100, 300)
    """Sizes of the states that are saved while steps go on, in MB."""
    steps_beside: int = 4
    """Number of steps that are timed with a save begun after the first, and without."""

    def __post_init__(self) -> None:
        check_known_layers(self.layers, "vgg16")
        numbers = (self.size, self.batch_size, self.repeats, self.steps_beside)
        if min(*numbers, *self.state_megabytes, 2) < 1 or not self.layers:
            raise ValueError("all numbers must be at least 1, and --layers needs at least one")


class Training(NamedTuple):
    """What a step is made of."""

    model: nn.Module
    features: generators.Features
    target: np.ndarray
    loss_fn: LossFn
    optimizer: Optimizer


def make_training(layers: Sequence[str], **settings: Any) -> Training:
    """The animation's generator and loss, to a random target alone; `settings` as in its Config."""
    config = AnimationConfig(target_layers=tuple(layers), source_layers=(), **settings)
    model = generators.make_model(config)
    features = generators.make_features(config, layers)
    target = np.asarray(jax.random.uniform(jax.random.key(0), (config.size, config.size, 3)))
    loss_fn = make_loss(config, model, features, target)
    return Training(model, features, target, loss_fn, generators.make_optimizer(config))


class Step:
    """A train step on arrays that are at hand, as the loop runs it, and its parts."""

    def __init__(self, config: StepConfig):
        training = make_training(config.layers, size=config.size, small=config.small)
        self.model, self.features, target, loss_fn, optimizer = training
        self.layers = config.layers
        of_images, of_params = jax.random.split(jax.random.key(1))
        shape = (config.batch_size, config.size, config.size, 3)
        self.images = jax.random.uniform(of_images, shape)
        self.of_target = jax.jit(self.features)(target)
        self.params = jax.jit(self.model.init)(of_params, self.images[0])
        self._step = jax.jit(cxjax.make_train_step(loss_fn, optimizer), donate_argnums=0)
        self.state = cxjax.TrainState.create(
            params=jax.tree.map(jnp.copy, self.params), optimizer=optimizer
        )

    def __call__(self) -> Any:
        """Takes a step, and returns its metrics."""
        self.state, metrics = self._step(self.state, {"image": self.images}, jax.random.key(0))
        return metrics

    def loss(self, made: dict[str, jax.Array]) -> jax.Array:
        """The Contextual Loss of a batch's features to the target's."""
        each = dict.fromkeys(self.layers, 1.0)
        compare = lambda x: points.over_layers(
            cxjax.contextual_loss, x, self.of_target, weights=each
        )
        return jax.vmap(compare)(made).mean()

    @functools.cached_property
    def parts(self) -> dict[str, Callable[[], Any]]:
        """Generator and feature network forward and backward, and the loss with its gradient."""

        def generator(params, images, cotangent):
            made, pull = jax.vjp(lambda params: self.model.apply(params, images), params)
            return made, pull(cotangent)

        def network(images, cotangent):
            found, pull = jax.vjp(self.features, images)
            return found, pull(cotangent)

        made = jax.jit(self.features)(self.images)
        generator, network = jax.jit(generator), jax.jit(network)
        loss = jax.jit(jax.value_and_grad(self.loss))
        return {
            "generator, forward and backward": lambda: generator(
                self.params, self.images, self.images
            ),
            "feature network, forward and backward": lambda: network(self.images, made),
            "loss, value and gradient": lambda: loss(made),
        }


def measure_parts(step: Step, repeats: int) -> dict[str, float]:
    """Median seconds of the step, of its parts, and their sum."""
    parts = step.parts
    found = median_seconds({**parts, "train step": step}, repeats)
    return {
        **{name: found[name] for name in parts},
        "their sum": sum(found[name] for name in parts),
        "train step": found["train step"],
    }


def measure_saving(
    step: Callable[[], Any], folder: Path, *, megabytes: int, steps: int, repeats: int
) -> dict[str, float]:
    """What one save adds to the time of some steps, to the last byte on the disk.

    Args:
      step: Takes a step.
      folder: Where to save; removed afterwards.
      megabytes: Size of the state that is saved, in arrays of 2 MB.
      steps: Number of steps; the save begins after the first.
      repeats: Timed rounds.

    Returns:
      Medians: `"blocked"`, seconds for which the save held up the step; `"added"`, seconds by which
      the steps took longer, waiting for the save to end included.
    """
    count = max(1, round(megabytes * 1e6 / _ARRAY_BYTES))
    arrays = jax.random.normal(jax.random.key(1), (count, _ARRAY_BYTES // 4))
    state = {f"array{i}": array for i, array in enumerate(arrays)}
    blocked, saved = [], 0

    def run(saves: bool) -> None:
        nonlocal saved
        for number in range(steps):
            jax.block_until_ready(step())
            if saves and number == 0:
                began = time.perf_counter()
                saved += 1
                checkpoints.save(saved, state)
                blocked.append(time.perf_counter() - began)
        if saves:
            checkpoints.wait()

    with Checkpoints(folder, config={}, keep=1) as checkpoints:
        found = median_seconds({"with": lambda: run(True), "without": lambda: run(False)}, repeats)
    shutil.rmtree(folder)
    return {"blocked": float(np.median(blocked[1:])), "added": found["with"] - found["without"]}


def table(config: StepConfig, seconds: dict[str, float], saving: dict[int, Any]) -> str:
    """The measurements as Markdown."""
    layers = " + ".join(config.layers)
    lines = [
        f"CRN {'small' if config.small else 'of the published size'}, {config.size} px, batch "
        f"{config.batch_size}, Contextual Loss on {layers}, float32; median of {config.repeats} "
        f"rounds in which every case runs once. {about()}.",
        "",
        "| part | seconds | times the sum |",
        "|---|---|---|",
    ]
    for name, value in seconds.items():
        lines.append(f"| {name} | {value:.4f} | {value / seconds['their sum']:.2f} |")
    if saving:
        lines += ["", "| state saved, MB | step held up, s | added in all, s | at one a minute |"]
        lines.append("|---|---|---|---|")
    for megabytes, found in saving.items():
        share = f"{100 * found['added'] / MINUTE:.1f} %"
        lines.append(f"| {megabytes} | {found['blocked']:.3f} | {found['added']:.2f} | {share} |")
    return "\n".join(lines) + "\n"


def run(config: StepConfig) -> dict[str, Any]:
    """Measures all; after each figure, what there is stands on disk."""
    out = make_folder(config.out, Path("out/benchmark-step"))
    step = Step(config)
    seconds = measure_parts(step, config.repeats)
    saving: dict[int, Any] = {}
    found: dict[str, Any] = {"config": to_json(config), "environment": environment()}

    def write() -> None:
        found.update(seconds=seconds, saving=saving)
        (out / "step.json").write_text(json.dumps(found, indent=1))
        (out / "step.md").write_text(table(config, seconds, saving))

    write()
    for megabytes in config.state_megabytes:
        print(f"saving {megabytes} MB ...", flush=True)
        saving[megabytes] = measure_saving(
            step,
            out / "checkpoints",
            megabytes=megabytes,
            steps=config.steps_beside,
            repeats=config.repeats,
        )
        write()
    print(table(config, seconds, saving), end="")
    return found
