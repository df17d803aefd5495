"""Where a train step runs: one device or many, in one process or several.

A state is replicated, a batch is split along its first axis, and the three ways to run the step
(`jit` with shardings, `pmap`, `shard_map`) take and return the same global arrays, so that the loop
does not know which it is.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cxjax.options import check_option
from cxjax.training.state import Optimizer
from cxjax.training.step import LossFn, TrainStep, make_train_step

Parallelism = Literal["jit", "pmap", "shard_map"]

AXIS = "data"  # name of the mesh axis over which a batch is split


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, `"data"`.

    Args:
      devices: Devices to use; without it all, those of other processes among them.

    Returns:
      The mesh, for `replicate`, `split` and `make_parallel_step`.
    """
    if devices is None:
        return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
    # Not by make_mesh, which on TPU takes only devices that fill a box.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of each array on every device.

    Args:
      tree: Arrays, equal in every process.
      mesh: Mesh from `make_mesh`.

    Returns:
      The tree of global arrays.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    leaves, structure = jax.tree.flatten(tree)
    # Typed keys travel as their data: device_put refuses them for devices of other processes.
    impls = [jax.random.key_impl(leaf) if _is_key(leaf) else None for leaf in leaves]
    raw = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]

    # device_put shares what lies on one of the devices already, may_alias=False or not; a step that
    # donates its state would then delete the caller's own parameters. So all is copied.
    def copy(raw):
        copied = map(jnp.copy, raw)
        wrapped = [
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip(copied, impls, strict=True)
        ]
        return jax.tree.unflatten(structure, wrapped)

    return jax.jit(copy, out_shardings=whole)(jax.device_put(raw, whole))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def split(batch: Any, mesh: Mesh) -> Any:
    """Spreads a batch over the devices.

    Args:
      batch: Arrays `(b, ...)`: this process's part of the batch.
      mesh: Mesh from `make_mesh`.

    Returns:
      The tree of global arrays, `(b * processes, ...)`.

    Raises:
      ValueError: If b is not a multiple of this process's devices, or the batch has no arrays.
    """
    if not jax.tree.leaves(batch):
        raise ValueError(f"the batch holds no arrays; got {batch!r}")
    own = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    for leaf in jax.tree.leaves(batch):
        if not np.shape(leaf) or np.shape(leaf)[0] % own:
            raise ValueError(
                f"the batch must divide over the {own} devices of this process; "
                f"an array in it has shape {np.shape(leaf)}"
            )
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    put = functools.partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(lambda leaf: put(np.asarray(leaf)), batch)


def make_parallel_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    *,
    mesh: Mesh,
    parallelism: Parallelism = "jit",
    ema_decay: float | None = None,
) -> TrainStep:
    """`make_train_step`, compiled for the devices of a mesh.

    Args:
      loss_fn: As for `make_train_step`. Under `pmap` and `shard_map` it sees the part of the batch
        that one device has, under `jit` the whole of it.
      optimizer: As for `make_train_step`.
      mesh: Mesh from `make_mesh`.
      parallelism: `"jit"`, with shardings: XLA splits the work. `"shard_map"`, or `"pmap"` (one
        process only): one program per device, gradients and metrics averaged. All three give the
        numbers of one device, up to rounding.
      ema_decay: As for `make_train_step`.

    Returns:
      `(state, batch, key) -> (state, metrics)` on global arrays: the state from `replicate`, the
      batch from `split`. The step reuses the memory of the state it is given, which can then not be
      read any more.

    Raises:
      ValueError: If `parallelism` is unknown, or is `"pmap"` on a mesh of several processes.
    """
    check_option("parallelism", parallelism, Parallelism)
    if parallelism == "jit":
        step = make_train_step(loss_fn, optimizer, ema_decay=ema_decay)
        whole, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))
        return jax.jit(
            step,
            in_shardings=(whole, spread, whole),
            out_shardings=(whole, whole),
            donate_argnums=0,
        )
    step = make_train_step(loss_fn, optimizer, axis_name=AXIS, ema_decay=ema_decay)
    if parallelism == "shard_map":
        # check_vma=False: with it, the gradient of replicated parameters is already summed over
        # the devices, and the step's own mean would leave it too large by their number.
        spread_step = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
            out_specs=(PartitionSpec(), PartitionSpec()),
            check_vma=False,
        )
        return jax.jit(spread_step, donate_argnums=0)
    if jax.process_count() > 1:
        raise ValueError(
            "parallelism='pmap' runs in one process, and this is one of "
            f"{jax.process_count()}; use 'jit' or 'shard_map'"
        )
    mapped = jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        devices=list(mesh.devices.flat),
        donate_argnums=0,
    )

    @functools.partial(jax.jit, static_argnums=1)
    def per_device(batch: Any, number: int) -> Any:
        rows = lambda leaf: leaf.reshape(number, leaf.shape[0] // number, *leaf.shape[1:])
        return jax.tree.map(rows, batch)

    def pmapped_step(state, batch, key):
        return mapped(state, per_device(batch, mesh.size), key)

    return pmapped_step


def initialize_processes(
    *,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
) -> None:
    """Joins this process to the others of a run on several hosts; before any other use of JAX.

    On a Cloud TPU slice or under Slurm no argument is needed: JAX finds the others.

    Args:
      coordinator: Address and port of process 0, such as `"10.0.0.1:1234"`.
      process_count: Number of processes.
      process_index: Number of this one, from 0.

    Raises:
      ValueError: If only some of the three are given, or the index is not below the count.
    """
    given = (coordinator, process_count, process_index)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ValueError(
            "coordinator, process_count and process_index belong together: give all three, or "
            f"none where JAX can find the other processes by itself; got {given}"
        )
    count, index = process_count or 1, process_index or 0
    if not 0 <= index < count:
        raise ValueError(
            f"process_index must lie in 0 to process_count - 1 = {count - 1}; got {index}"
        )
    jax.distributed.initialize(coordinator, process_count, process_index)
