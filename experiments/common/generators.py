"""Generators that the experiments train: their settings, networks and optimiser."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import cxjax
from cxjax.features.vgg import Network, Pooling
from cxjax.models import crn, patchgan, resnet, unet
from cxjax.training.devices import Parallelism
from experiments.common.runs import RunConfig, check_numbers
from experiments.common.terms import Features

Model = Literal["crn", "unet", "resnet"]
Precision = Literal["float32", "bfloat16"]
Make = Callable[[np.ndarray], Any]
"""`(images (.. h, w, 3)) -> images`."""

MODELS = {"crn": crn, "unet": unet, "resnet": resnet}
CLASSES = {"crn": crn.CRN, "unet": unet.UNet, "resnet": resnet.ResNet}
CHECKPOINTS = "checkpoints"  # folder in that of a run
GENERATOR = "generator"  # among the parameters, where other networks are trained too
SMALLEST = 31  # pixels that AlexNet, by which results are evaluated, needs

PROCESSES = ("distributed", "coordinator", "process_count", "process_index")  # of one launch
_AT_ONCE = 32  # images through a trained generator
_INCIDENTAL = ("out", "resume", "save_every", "log_every", "sample_every", "profile")
_INCIDENTAL += ("parallelism", "remat", *PROCESSES)
RESUMABLE = (*_INCIDENTAL, "steps")  # may differ between a run and the one that resumes it


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig(RunConfig):
    INCIDENTAL: ClassVar = _INCIDENTAL

    resume: bool = False
    """Resume the run in --out, or else the last one under out/, with the options that it was begun
    with."""
    seed: int = 0
    """Seed of the first parameters, the order of the data and all draws, 0 to 2**32 - 1."""

    size: int = 128
    """Height and width of the images that are trained on, in pixels."""
    model: Model = "crn"
    """Generator: cascaded refinement (the paper's), U-Net, or Johnson's with residual blocks."""
    small: bool = True
    """A preset that two CPU cores train; otherwise the published size."""
    batch_size: int = 2
    """Images per step, over all devices; as many of these are used as divide it."""
    steps: int = 1000
    """Steps of gradient descent in all; --resume may change it, and with it the cosine's length."""
    learning_rate: float | None = None
    """Adam's learning rate; it falls to a tenth by a cosine unless --schedule constant. Without it
    that which was found best for the loss, 0.0005 where none was sought."""
    beta1: float | None = None
    """Adam's decay of the mean gradient, in [0, 1); without it 0.9, and 0.5 beside a
    discriminator."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate over the steps."""
    clip_norm: float = 0.0
    """Largest norm that a gradient, of all parameters together, keeps; 0 does not clip."""
    accumulate: int = 1
    """Steps whose gradients are averaged before the parameters change."""
    ema_decay: float | None = None
    """Decay per update, in [0, 1), of a moving average of the parameters, which is then what is
    used."""
    precision: Precision = "float32"
    """Type the networks compute in; parameters and losses are float32 in any case."""

    network: Network = "vgg16"
    """Feature network; vgg19 needs a download or --weights."""
    weights: Path | None = None
    """File of weights for it: .safetensors, .pth, .mat, .h5 or .ckpt."""
    pooling: Pooling = "average"
    """Pooling of the network; the authors' is the average."""
    remat: bool = False
    """Compute the network's activations again in the backward pass: less memory, more time. CPUs
    do not heed it."""

    save_every: int = 200
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 200
    """Steps between sample grids."""
    profile: int = 0
    """Number of steps to write a trace of, under trace/; 0 for none."""
    parallelism: Parallelism = "jit"
    """How the step is spread over the devices: jit with shardings, shard_map, or pmap."""
    distributed: bool = False
    """Join the other processes of a run on several hosts; JAX finds them on a TPU slice or under
    Slurm, elsewhere give the three options below."""
    coordinator: str | None = None
    """Address and port of process 0, as HOST:PORT."""
    process_count: int | None = None
    """Number of processes of the run."""
    process_index: int | None = None
    """Number of this process, from 0."""

    def __post_init__(self) -> None:
        counts = ("size", "batch_size", "steps", "accumulate", "save_every", "log_every")
        check_numbers(self, *counts, "sample_every", least=1)
        check_numbers(self, "clip_norm", "profile")
        check_numbers(self, "seed", most=2**32 - 1)
        rate, beta1 = self.adam
        if not math.isfinite(rate) or rate <= 0:
            raise ValueError(f"--learning-rate must be positive; got {rate}")
        if not 0 <= beta1 < 1:
            raise ValueError(f"--beta1 must lie in [0, 1); got {beta1}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must lie in [0, 1); got {self.ema_decay}")
        if self.distributed and self.out is None:
            raise ValueError("--distributed needs --out, a folder that all processes see")

    @property
    def chosen(self) -> tuple[float, float]:
        """Learning rate and beta1 where none is given."""
        return 5e-4, 0.9

    @property
    def adam(self) -> tuple[float, float]:
        """Adam's learning rate and beta1."""
        rate, beta1 = self.chosen
        return (
            rate if self.learning_rate is None else self.learning_rate,
            beta1 if self.beta1 is None else self.beta1,
        )


def make_model(config: GeneratorConfig) -> nn.Module:
    """The generator; a cascaded refinement network has the levels that suit the size."""
    options: dict[str, Any] = {}
    if config.precision == "bfloat16":
        options["dtype"] = jnp.bfloat16
    if config.model == "crn":
        options["levels"] = max(1, round(math.log2(config.size / 4)) + 1)
    make = MODELS[config.model].small if config.small else CLASSES[config.model]
    return make(**options)


def make_features(config: GeneratorConfig, layers: Sequence[str]) -> Features:
    """`(images (.. h, w, 3)) -> {layer: (.. h, w, c)}` of the frozen feature network."""
    model, params = cxjax.load_vgg(
        config.network, path=config.weights, pooling=config.pooling, remat=config.remat
    )
    if config.precision == "bfloat16":
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def features(pictures: jax.Array | np.ndarray) -> dict[str, jax.Array]:
        if config.precision == "bfloat16":
            pictures = pictures.astype(jnp.bfloat16)
        return cast(dict[str, jax.Array], model.apply(params, pictures, layers=tuple(layers)))

    return features


def make_discriminator(config: GeneratorConfig) -> nn.Module:
    """A PatchGAN discriminator, as small or large as the generator."""
    return patchgan.small() if config.small else patchgan.PatchGAN()


def make_optimizer(config: GeneratorConfig) -> optax.GradientTransformation | optax.MultiSteps:
    """Adam, with what the settings add to it."""
    rate, beta1 = config.adam
    updates = max(1, config.steps // config.accumulate)
    decaying = optax.cosine_decay_schedule(rate, updates, 0.1)
    optimizer = optax.adam(decaying if config.schedule == "cosine" else rate, b1=beta1)
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optax.MultiSteps(optimizer, config.accumulate) if config.accumulate > 1 else optimizer


def generator_of(params: Any) -> Any:
    """The generator's variables among trained parameters."""
    has_others = isinstance(params, Mapping) and GENERATOR in params
    return params[GENERATOR] if has_others else params


def make_all(make: Callable[[np.ndarray], np.ndarray], given: np.ndarray) -> np.ndarray:
    """What a generator makes of many images `(n, h, w, 3)`, some at a time, clipped to [0, 1]."""
    parts = [given[i : i + _AT_ONCE] for i in range(0, len(given), _AT_ONCE)]
    return np.clip(np.concatenate([np.asarray(make(part)) for part in parts]), 0, 1)
