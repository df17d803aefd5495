"""Time of a train step beside that of its parts, and what saving checkpoints adds to it."""

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax import points
from cxjax.training.checkpoint import Checkpoints
from cxjax.training.state import Optimizer
from cxjax.training.step import LossFn
from experiments.benchmark.config import StepConfig
from experiments.benchmark.timing import median_seconds
from experiments.common import tables
from experiments.common.environment import about, environment
from experiments.common.generators import (
    GeneratorConfig,
    make_features,
    make_model,
    make_optimizer,
)
from experiments.common.runs import make_folder, to_json, write_json
from experiments.common.terms import Features, loss_of, to_target_and_source

MINUTE = 60.0
_ARRAY_BYTES = 2_000_000  # of each array of a state that is only there to be saved


class Training(NamedTuple):
    """What a step is made of."""

    model: nn.Module
    features: Features
    target: np.ndarray
    loss_fn: LossFn
    optimizer: Optimizer


def make_training(layers: Sequence[str], **settings: Any) -> Training:
    """A generator and its Contextual Loss to a random target; `settings` as in its Config."""
    config = GeneratorConfig(**settings)
    model = make_model(config)
    features = make_features(config, layers)
    target = np.asarray(jax.random.uniform(jax.random.key(0), (config.size, config.size, 3)))
    of_target = jax.device_get(jax.jit(features)(target))
    contextual = loss_of("contextual")

    def loss_fn(params, batch, key):
        made = features(cast(jax.Array, model.apply(params, batch["image"])))
        return to_target_and_source(
            made,
            of_target,
            {},
            losses=(contextual, contextual),
            layers=(tuple(layers), ()),
            source_weight=0.0,
        )

    return Training(model, features, target, loss_fn, make_optimizer(config))


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
            maps, pull = jax.vjp(self.features, images)
            return maps, pull(cotangent)

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
    seconds = median_seconds({**parts, "train step": step}, repeats)
    whole = seconds.pop("train step")
    return {**seconds, "their sum": sum(seconds.values()), "train step": whole}


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
        cases = {"with": lambda: run(True), "without": lambda: run(False)}
        seconds = median_seconds(cases, repeats)
    shutil.rmtree(folder)
    return {"blocked": float(np.median(blocked[1:])), "added": seconds["with"] - seconds["without"]}


def table(config: StepConfig, seconds: dict[str, float], saving: dict[int, Any]) -> str:
    """The measurements as Markdown."""
    layers = " + ".join(config.layers)
    about_it = (
        f"CRN {'small' if config.small else 'of the published size'}, {config.size} px, batch "
        f"{config.batch_size}, Contextual Loss on {layers}, float32; median of {config.repeats} "
        f"rounds in which every case runs once. {about()}."
    )
    parts = [
        [name, f"{value:.4f}", f"{value / seconds['their sum']:.2f}"]
        for name, value in seconds.items()
    ]
    shown = [about_it, tables.markdown(["part", "seconds", "times the sum"], parts)]
    if saving:
        rows = [
            [
                str(megabytes),
                f"{cost['blocked']:.3f}",
                f"{cost['added']:.2f}",
                f"{100 * cost['added'] / MINUTE:.1f} %",
            ]
            for megabytes, cost in saving.items()
        ]
        header = ["state saved, MB", "step held up, s", "added in all, s", "at one a minute"]
        shown.append(tables.markdown(header, rows))
    return "\n\n".join(shown) + "\n"


def run(config: StepConfig) -> dict[str, Any]:
    """Measures all; after each part, what there is stands on disk."""
    out = make_folder(config.out, Path("out/benchmark-step"))
    step = Step(config)
    seconds = measure_parts(step, config.repeats)
    saving: dict[int, Any] = {}
    measured: dict[str, Any] = {"config": to_json(config), "environment": environment()}

    def write() -> None:
        measured.update(seconds=seconds, saving=saving)
        write_json(out / "step.json", measured)
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
    return measured
