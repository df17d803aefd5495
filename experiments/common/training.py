"""The runner of all experiments that train a generator.

An experiment declares a `Task`: how its data are read, what is minimised, how a generator is
evaluated. `run` does the rest: processes, folder, lock, resuming, training, sample grids, results.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

import cxjax
from cxjax.data import images
from cxjax.data.pipeline import Transform, batches
from cxjax.data.sources import Source
from cxjax.training import devices, loop, records
from cxjax.training.checkpoint import Checkpoints
from cxjax.training.step import LossFn
from experiments.common.generators import (
    CHECKPOINTS,
    GENERATOR,
    PROCESSES,
    RESUMABLE,
    GeneratorConfig,
    Make,
    generator_of,
    make_features,
    make_model,
    make_optimizer,
)
from experiments.common.runs import (
    CONFIG,
    Metrics,
    Resumable,
    check_folder,
    differences,
    make_folder,
    read_results,
    read_settings,
    to_json,
    try_lock,
    varying,
    write_json,
    write_results,
)
from experiments.common.terms import Features


class TrainingData(NamedTuple):
    """What a generator is trained on."""

    examples: Source
    transform: Transform | None
    """What `batches` calls for each example."""
    shown: np.ndarray
    """Inputs that the sample grids show, `(n, h, w, 3)`, in [0, 1]."""
    target: np.ndarray | None = None
    """Picture to show beside them."""


class Networks(NamedTuple):
    """What an objective is computed with."""

    model: nn.Module
    """The generator."""
    features: Features | None
    """The feature network, of the layers that the task asked for."""
    others: Mapping[str, nn.Module]
    """Networks that are trained beside the generator, such as a discriminator, by name."""


class Task(NamedTuple):
    """What an experiment that trains a generator declares; `config` is its configuration."""

    read: Callable[[Any], Any]
    """`(config) -> data`: opens what it trains on and is evaluated on."""
    training: Callable[[Any, Any], TrainingData]
    """`(config, data) -> what to train on`."""
    layers: Callable[[Any], tuple[str, ...]]
    """`(config) -> layers of the feature network` that the objective looks at; `()` for none."""
    make_loss: Callable[[Any, Networks, Any], LossFn]
    """`(config, networks, data) -> loss function of a train step`."""
    evaluate: Callable[[Any, Networks, Any, Make, Path], Metrics]
    """`(config, networks, data, make, folder) -> metrics`; writes pictures into the folder."""
    show: Callable[[Mapping[str, Metrics]], str]
    """`(results by name of the run) -> a table`."""
    others: Callable[[Any], Mapping[str, tuple[nn.Module, int]]] = lambda config: {}
    """`(config) -> networks to train beside the generator`, each with the channels it sees."""
    untrained: Callable[[Any, Any], Make | None] = lambda config, data: None
    """`(config, data) -> make`, where the loss is a baseline that trains nothing."""


def run(task: Task, config: GeneratorConfig) -> dict[str, Any]:
    """Trains a generator, evaluates it, and writes all into the run's folder.

    Returns:
      The metrics, with seconds, hardware and versions; none in processes but the first.

    Raises:
      ValueError: Before any work, if an option, the data or the folder does not fit.
      FloatingPointError: If the loss does not stay finite.
      Resumable: If a signal stopped it.
    """
    began = time.perf_counter()
    mesh = _begin(config)
    data = task.read(config)
    untrained = make = task.untrained(config, data)
    networks, loss_fn = Networks(make_model(config), None, {}), None
    if make is None:
        layers = task.layers(config)
        features = make_features(config, layers) if layers else None
        others = {name: network for name, (network, _) in task.others(config).items()}
        networks = Networks(networks.model, features, others)
        loss_fn = task.make_loss(config, networks, data)
    elif jax.process_index():
        return {}
    folder = _open_folder(config)
    if jax.process_index() == 0:
        print(f"results in {folder}")
    if loss_fn is not None:
        training = task.training(config, data)
        params = _train(config, folder, mesh, networks, task.others(config), loss_fn, training)
        if jax.process_index():
            return {}
        make = functools.partial(jax.jit(networks.model.apply), generator_of(params))
    assert make is not None
    metrics = task.evaluate(config, networks, data, make, folder)
    seconds = 0.0 if untrained else time.perf_counter() - began
    results = write_results(folder, metrics, seconds=None if config.resume else seconds)
    print(task.show({folder.name: results}))
    return results


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Shows the results of several runs as one table."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of one or more runs that have ended."""


def show_command(task: Task) -> tuple[type, Callable[[ShowConfig], None]]:
    """The command `show` of a task.

    It raises a `ValueError` if a folder has no results, or the runs cannot be compared.
    """

    def show(config: ShowConfig) -> None:
        if not config.runs:
            raise ValueError("name the folder of at least one run")
        print(task.show({str(folder): read_results(folder) for folder in config.runs}))

    return ShowConfig, show


def _begin(config: GeneratorConfig) -> Mesh:
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
    available, size = jax.devices(), config.batch_size
    if jax.process_count() > 1 and size % len(available):
        raise ValueError(
            f"--batch-size {size} must divide over the {len(available)} devices of all processes"
        )
    used = max(n for n in range(1, len(available) + 1) if size % n == 0)
    if used < len(available):
        print(f"using {used} of {len(available)} devices: --batch-size {size} divides over no more")
    if config.resume:
        _check_resumed(config)
    elif jax.process_index() == 0:
        check_folder(config.out)
    return devices.make_mesh(available[:used] if used < len(available) else None)


def _check_resumed(config: GeneratorConfig) -> None:
    if config.out is None:
        raise ValueError("--resume found no run; name its folder by --out")
    if differing := differences(read_settings(config.out), config, ignore=RESUMABLE):
        raise ValueError(
            f"the run in {config.out} was begun with {differing}; leave these as they are"
        )
    with _locked(config.out):
        taken = max(records.steps_in(config.out / CHECKPOINTS), default=0)
        if config.steps < taken:
            raise ValueError(
                f"the run has taken {taken} steps already; --steps {config.steps} is fewer"
            )
        _open_checkpoints(config, config.out).close()


def _open_checkpoints(config: GeneratorConfig, folder: Path) -> Checkpoints:
    # What may differ, and what other versions have not: there `config.json` has been compared.
    ignore = (*RESUMABLE, *varying(type(config)))
    return Checkpoints(folder / CHECKPOINTS, config=to_json(config), ignore=ignore)


def _open_folder(config: GeneratorConfig) -> Path:
    """The run's folder, a new one or the one that is resumed, with its `config.json`."""
    if jax.process_index():
        return config.out or config.default_out
    resumed = config.out if config.resume else None
    folder = resumed or make_folder(config.out, config.default_out)
    fields = {name: value for name, value in to_json(config).items() if name not in PROCESSES}
    write_json(folder / CONFIG, fields)
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Refuses a folder in which another process trains; where the system has such locks."""
    if jax.process_index():
        yield
        return
    with try_lock(folder / ".lock") as free:
        if not free:
            raise ValueError(f"another process is training in {folder}; name another")
        yield


def _train(
    config: GeneratorConfig,
    folder: Path,
    mesh: Mesh,
    networks: Networks,
    others: Mapping[str, tuple[nn.Module, int]],
    loss_fn: LossFn,
    data: TrainingData,
) -> Any:
    """Trains from the start, or from the folder's newest checkpoint.

    Returns:
      The parameters, or their moving average if one is kept. With `others` they are a dict, of
      `"generator"` and the names of these.
    """
    model = networks.model
    stream = batches(
        data.examples,
        batch_size=config.batch_size,
        seed=config.seed,
        transform=data.transform,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    samples = _sample_grid(model, data, folder, every=config.sample_every)
    key = jax.random.key(config.seed)
    with (
        _locked(folder),
        _open_checkpoints(config, folder) as checkpoints,
    ):
        optimizer = make_optimizer(config)
        step_fn = devices.make_parallel_step(
            _with_named_terms(loss_fn),
            optimizer,
            mesh=mesh,
            parallelism=config.parallelism,
            ema_decay=config.ema_decay,
        )
        params = _initial(config, model, others, jax.random.fold_in(key, 0))
        state = cxjax.TrainState.create(
            params=params, optimizer=optimizer, ema=config.ema_decay is not None
        )
        try:
            state = loop.train(
                step_fn,
                devices.replicate(state, mesh),
                stream,
                key=jax.random.fold_in(key, 1),
                steps=config.steps,
                mesh=mesh,
                folder=folder,
                checkpoints=checkpoints,
                save_every=config.save_every,
                log_every=config.log_every,
                hooks=[samples],
                profile=config.profile,
            )
        except loop.Stopped as stopped:
            message = f"{stopped}; resume it by --resume --out {folder}"
            if config.distributed:
                message += " and, in each process, the options it joined the others with"
            raise Resumable(message, stopped.signal) from stopped
    return jax.device_get(_used(state))


def _with_named_terms(loss_fn: LossFn) -> LossFn:
    """The loss, its terms named `loss/<term>`: the loop stops where one of them is not finite."""

    def named(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        loss, terms = loss_fn(params, batch, key)
        return loss, {f"loss/{name}": term for name, term in terms.items()}

    return named


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


def _used(state: cxjax.TrainState) -> Any:
    """What of a state is used: the moving average if one is kept, else the parameters."""
    return state.params if state.ema is None else state.ema


def _sample_grid(model: nn.Module, data: TrainingData, folder: Path, *, every: int) -> loop.Hook:
    """A hook that shows fixed inputs above what is made of them, with a target beside."""
    beside = [] if data.target is None else [data.target]
    make = jax.jit(model.apply)

    def call(state):
        params = generator_of(jax.device_get(_used(state)))
        made = np.clip(np.asarray(make(params, data.shown)), 0, 1)
        rows = [[*data.shown, *beside], [*made, *map(np.ones_like, beside)]]
        grid = np.concatenate([images.strip(row) for row in rows])
        if jax.process_index() == 0:
            (folder / "samples").mkdir(exist_ok=True)
            images.write_image(folder / "samples" / f"step{int(state.step):06d}.png", grid)
        return {"samples": grid}

    return loop.Hook(every, call)
