"""What the experiments that train a generator share: settings, the run, and its use afterwards."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import cxjax
from cxjax.data import images
from cxjax.features.vgg import Network, Pooling
from cxjax.models import crn, resnet, unet
from cxjax.training import devices, loop, records
from cxjax.training.checkpoint import Checkpoints
from cxjax.training.devices import Parallelism
from cxjax.training.step import LossFn
from experiments.cli import (
    Resumable,
    check_folder,
    differences,
    flag,
    make_folder,
    read_config,
    to_json,
)
from experiments.environment import environment
from experiments.locks import alone

Model = Literal["crn", "unet", "resnet"]
Precision = Literal["float32", "bfloat16"]
Features = Callable[[jax.Array | np.ndarray], dict[str, jax.Array]]

MODELS = {"crn": crn, "unet": unet, "resnet": resnet}
CLASSES = {"crn": crn.CRN, "unet": unet.UNet, "resnet": resnet.ResNet}
CHECKPOINTS = "checkpoints"  # folder in that of a run
FIGURES = "results.json"  # file of a run that has ended
GENERATOR = "generator"  # among the parameters, where other networks are trained too

PROCESSES = ("distributed", "coordinator", "process_count", "process_index")  # of one launch
_AT_ONCE = 32  # images through a trained generator
# What may differ between a run and the one that resumes it.
RESUMABLE = ("out", "resume", "steps", "save_every", "log_every", "sample_every", "profile")
RESUMABLE += ("parallelism", "remat", *PROCESSES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    out: Path | None = None
    """Folder for the results, new or empty; without it a new one under out/."""
    resume: bool = False
    """Go on with the run in --out, or else with the last one under out/; its options are those it
    was begun with."""
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
    """Decay per step, in [0, 1), of a moving average of the parameters, which is then what is
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
        positive = ("size", "batch_size", "steps", "accumulate")
        for name in (*positive, "save_every", "log_every", "sample_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} must be at least 1; got {getattr(self, name)}")
        rate, beta1 = self.adam
        if not math.isfinite(rate) or rate <= 0:
            raise ValueError(f"--learning-rate must be positive; got {rate}")
        if not 0 <= beta1 < 1:
            raise ValueError(f"--beta1 must lie in [0, 1); got {beta1}")
        if not self.clip_norm >= 0:
            raise ValueError(f"--clip-norm must be at least 0; got {self.clip_norm}")
        if self.profile < 0:
            raise ValueError(f"--profile must be at least 0; got {self.profile}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must lie in 0 to 2**32 - 1; got {self.seed}")
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


def make_optimizer(config: GeneratorConfig) -> optax.GradientTransformation | optax.MultiSteps:
    """Adam, with what the settings add to it."""
    rate, beta1 = config.adam
    updates = max(1, config.steps // config.accumulate)
    decaying = optax.cosine_decay_schedule(rate, updates, 0.1)
    optimizer = optax.adam(decaying if config.schedule == "cosine" else rate, b1=beta1)
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optax.MultiSteps(optimizer, config.accumulate) if config.accumulate > 1 else optimizer


def begin(config: GeneratorConfig) -> Mesh:
    """Joins the other processes, if there are any, and refuses what cannot be trained.

    To be called before JAX is used, and before anything is read or written.

    Returns:
      The devices to train on: in one process as many as divide the batch.

    Raises:
      ValueError: If the batch does not divide over the devices of several processes; if the folder
        holds something, or, with `resume`, no run or one of another configuration.
    """
    if config.distributed:
        devices.initialize_processes(
            coordinator=config.coordinator,
            process_count=config.process_count,
            process_index=config.process_index,
        )
    found, size = jax.devices(), config.batch_size
    if jax.process_count() > 1 and size % len(found):
        raise ValueError(
            f"--batch-size {size} must divide over the {len(found)} devices of all processes"
        )
    number = max(n for n in range(1, len(found) + 1) if size % n == 0)
    if number < len(found):
        print(f"using {number} of {len(found)} devices: --batch-size {size} divides over no more")
    if config.resume:
        _check_resumed(config)
    elif jax.process_index() == 0:
        check_folder(config.out)
    return devices.make_mesh(found[:number] if number < len(found) else None)


def _check_resumed(config: GeneratorConfig) -> None:
    if config.out is None:
        raise ValueError("--resume found no run to go on with; name its folder by --out")
    saved = read_config(type(config), config.out)
    if differing := differences(saved, config, ignore=RESUMABLE):
        raise ValueError(
            f"the run in {config.out} was begun with {differing}; leave these as they are"
        )
    with _alone(config.out):
        taken = max(records.steps_in(config.out / CHECKPOINTS), default=0)
        if config.steps < taken:
            raise ValueError(
                f"the run has taken {taken} steps already; --steps {config.steps} is fewer"
            )
        Checkpoints(config.out / CHECKPOINTS, config=to_json(config), ignore=RESUMABLE).close()


def open_folder(config: GeneratorConfig, default: Path) -> Path:
    """The run's folder, a new one or the one to go on in, with its `config.json`."""
    if jax.process_index():
        return config.out or default
    folder = config.out if config.resume and config.out else make_folder(config.out, default)
    fields = {name: value for name, value in to_json(config).items() if name not in PROCESSES}
    unfinished = folder / "config.tmp"
    unfinished.write_text(json.dumps(fields, indent=1) + "\n")
    unfinished.replace(folder / "config.json")
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuses a folder in which another process trains; where the system has such locks."""
    if jax.process_index():
        yield
        return
    with alone(folder / ".lock") as free:
        if not free:
            raise ValueError(f"another process is training in {folder}; name another")
        yield


def train(
    config: GeneratorConfig,
    *,
    folder: Path,
    mesh: Mesh,
    model: nn.Module,
    loss_fn: LossFn,
    batches: loop.Batches,
    hooks: Sequence[loop.Hook] = (),
    others: Mapping[str, tuple[nn.Module, int]] | None = None,
) -> Any:
    """Trains a generator from the start, or from the folder's newest checkpoint.

    Args:
      config: Settings.
      folder: The run's folder.
      mesh: The devices, of `begin`.
      model: Generator.
      loss_fn: `(params, batch, key) -> (loss, its terms by name)`.
      batches: Data.
      hooks: What else to call.
      others: Networks that are trained at its side, such as a discriminator, each with the number
        of channels it sees. Parameters are then a dict: `"generator"` and these names.

    Returns:
      The parameters, or their moving average if one is kept.
    """
    key = jax.random.key(config.seed)

    def named_loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        loss, terms = loss_fn(params, batch, key)
        return loss, {f"loss/{name}": term for name, term in terms.items()}

    with (
        _alone(folder),
        Checkpoints(folder / CHECKPOINTS, config=to_json(config), ignore=RESUMABLE) as checkpoints,
    ):
        optimizer = make_optimizer(config)
        step_fn = devices.make_parallel_step(
            named_loss,
            optimizer,
            mesh=mesh,
            parallelism=config.parallelism,
            ema_decay=config.ema_decay,
        )
        params = _initial(config, model, others or {}, jax.random.fold_in(key, 0))
        state = cxjax.TrainState.create(
            params=params, optimizer=optimizer, ema=config.ema_decay is not None
        )
        try:
            state = loop.train(
                step_fn,
                devices.replicate(state, mesh),
                batches,
                key=jax.random.fold_in(key, 1),
                steps=config.steps,
                mesh=mesh,
                folder=folder,
                checkpoints=checkpoints,
                save_every=config.save_every,
                log_every=config.log_every,
                hooks=hooks,
                profile=config.profile,
            )
        except loop.Stopped as stopped:
            message = f"{stopped}; go on with --resume --out {folder}"
            if config.distributed:
                message += " and, in each process, the options it joined the others with"
            raise Resumable(message, stopped.signal) from stopped
    return jax.device_get(_used(state))


def _initial(
    config: GeneratorConfig,
    model: nn.Module,
    others: Mapping[str, tuple[nn.Module, int]],
    key: jax.Array,
) -> Any:
    def init(network: nn.Module, channels: int, key: jax.Array) -> Any:
        return jax.jit(network.init)(key, jnp.zeros((config.size, config.size, channels)))

    params = init(model, 3, key)
    if not others:
        return params
    keys = (jax.random.fold_in(key, number) for number in range(len(others)))
    rest = {
        name: init(*given, key) for key, (name, given) in zip(keys, others.items(), strict=True)
    }
    return {GENERATOR: params, **rest}


def generator_of(params: Any) -> Any:
    """The generator's variables among trained parameters."""
    has_others = isinstance(params, Mapping) and GENERATOR in params
    return params[GENERATOR] if has_others else params


def make_all(make: Callable[[np.ndarray], np.ndarray], given: np.ndarray) -> np.ndarray:
    """What a generator makes of many images `(n, h, w, 3)`, some at a time, clipped to [0, 1]."""
    parts = [given[i : i + _AT_ONCE] for i in range(0, len(given), _AT_ONCE)]
    return np.clip(np.concatenate([np.asarray(make(part)) for part in parts]), 0, 1)


def write_figures(
    folder: Path, figures: Mapping[str, Any], *, seconds: float | None
) -> dict[str, Any]:
    """Writes the figures of a run that has ended, with what they were made on; returns them all.

    `seconds` is None where a run was resumed, and not all of its time is known.
    """
    written = {**figures, "seconds": seconds, **environment()}
    (folder / FIGURES).write_text(json.dumps(written, indent=1) + "\n")
    return written


def _used(state: cxjax.TrainState) -> Any:
    """What of a state is used: the moving average if one is kept, else the parameters."""
    return state.params if state.ema is None else state.ema


def sample_grid(
    model: nn.Module,
    pictures: np.ndarray,
    folder: Path,
    *,
    every: int,
    target: np.ndarray | None = None,
) -> loop.Hook:
    """A hook that shows fixed inputs above what is made of them, with a target beside."""
    beside = [] if target is None else [target]

    make = jax.jit(model.apply)

    def call(state):
        params = generator_of(jax.device_get(_used(state)))
        made = np.clip(np.asarray(make(params, pictures)), 0, 1)
        rows = [
            images.strip(row) for row in ([*pictures, *beside], [*made, *map(np.ones_like, beside)])
        ]
        grid = np.concatenate(rows)
        if jax.process_index() == 0:
            (folder / "samples").mkdir(exist_ok=True)
            images.write_image(folder / "samples" / f"step{int(state.step):06d}.png", grid)
        return {"samples": grid}

    return loop.Hook(every, call)
