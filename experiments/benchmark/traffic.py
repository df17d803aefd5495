"""Bytes that a train step sends between devices, read from the compiled program."""

import collections
import contextlib
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import cxjax
from cxjax.training import devices
from cxjax.training.devices import AXIS, Parallelism
from experiments.benchmark.config import TrafficConfig
from experiments.benchmark.step import Training, make_training
from experiments.benchmark.timing import temporary_bytes
from experiments.common import tables
from experiments.common.environment import about, environment
from experiments.common.runs import make_folder, to_json, write_json

# What each device sends, as a multiple of the array's bytes, in a ring of n (the bandwidth-optimal
# algorithm). The array is the operation's result on one device.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_WIDTHS |= {"s64": 8, "u64": 8, "f64": 8}
_OPERATION = re.compile(rf"= (.+?) ({'|'.join(_SENT)})(-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|(?:branch|true|false)_computations?)=(\{[^}]*\}|[^,\s]+)"
)


def find_devices(config: TrafficConfig) -> list[Any]:
    """As many devices as the largest number asks for, to compile for."""
    most = max(config.devices)
    if config.topology is not None:
        try:
            available = topologies.get_topology_desc(
                platform="tpu", topology_name=config.topology
            ).devices
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"cannot compile for --topology {config.topology}: {error}. It needs libtpu (pip "
                "install libtpu, on Linux) and a name such as v5e:2x4"
            ) from error
    else:
        with contextlib.suppress(RuntimeError):  # JAX has begun, with as many as it has
            jax.config.update("jax_num_cpu_devices", most)
        available = jax.devices("cpu")
    if len(available) < most:
        raise ValueError(f"--devices {most} are more than the {len(available)} that there are")
    return list(available)


def compile_step(
    training: Training, batch_per_device: int, used: list[Any], parallelism: Parallelism
) -> Any:
    """The train step of the animation, with one target, compiled for some devices."""
    model, _, target, loss_fn, optimizer = training
    mesh = devices.make_mesh(used)
    step = devices.make_parallel_step(loss_fn, optimizer, mesh=mesh, parallelism=parallelism)

    def start(key):
        params = model.init(key, target)
        return cxjax.TrainState.create(params=params, optimizer=optimizer), key

    whole, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (AXIS,)))
    state, key = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        jax.eval_shape(start, jax.random.key(0)),
    )
    images = (batch_per_device * len(used), *target.shape)
    batch = {"image": jax.ShapeDtypeStruct(images, jnp.float32, sharding=spread)}
    return jax.jit(step, donate_argnums=0).lower(state, batch, key).compile()


def collectives(program: str, number: int) -> list[dict[str, Any]]:
    """The operations between devices in the text of a compiled program.

    Args:
      program: Text of an HLO module, `compiled.as_text()`.
      number: Devices that take part.

    Returns:
      A row per kind of operation: `"kind"`, `"count"`, `"bytes"` of the arrays on one device,
      `"sent"` by each device in a ring.

    Raises:
      ValueError: If one stands in a loop, where a text does not say how often it runs.
    """
    inside, name = _in_loops(program), ""
    rows: dict[str, dict[str, Any]] = {}
    for line in program.splitlines():
        if opened := _COMPUTATION.match(line):
            name = opened[1]
        if not (operation := _OPERATION.search(line)):
            continue
        shapes, kind, started = operation.groups()
        if name in inside:
            raise ValueError(f"{kind} stands in the loop {name}: it cannot be counted")
        sizes = [_bytes(*array) for array in _ARRAY.findall(shapes)]
        # An asynchronous permutation returns operand, result, two numbers; others return operands,
        # results; a reduction its results alone.
        if started and kind == "collective-permute":
            sizes = sizes[1:2]
        elif started and kind != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]
        row = rows.setdefault(kind, {"kind": kind, "count": 0, "bytes": 0, "sent": 0.0})
        row["count"] += 1
        row["bytes"] += sum(sizes)
        row["sent"] += _SENT[kind](number) * sum(sizes)
    return list(rows.values())


def _bytes(kind: str, shape: str) -> int:
    return _WIDTHS[kind] * math.prod(int(n) for n in shape.split(",") if n)


def _in_loops(program: str) -> set[str]:
    """Names of the computations that a loop's body calls, itself among them."""
    called, bodies, name = collections.defaultdict(set), set(), ""
    for line in program.splitlines():
        if opened := _COMPUTATION.match(line):
            name = opened[1]
        names = set(re.findall(r"[\w.-]+", " ".join(_CALLED.findall(line))))
        called[name] |= names
        if " while(" in line:
            bodies |= names
    seen, left = set(), list(bodies)
    while left:
        if (computation := left.pop()) not in seen:
            seen.add(computation)
            left += called[computation]
    return seen


def measure(
    training: Training, batch_per_device: int, used: list[Any], parallelism: Parallelism
) -> dict[str, Any]:
    """The traffic of one number of devices."""
    compiled = compile_step(training, batch_per_device, used, parallelism)
    operations = collectives(compiled.as_text(), len(used))
    return {
        "devices": len(used),
        "parallelism": parallelism,
        "operations": operations,
        "bytes": sum(row["bytes"] for row in operations),
        "sent": sum(row["sent"] for row in operations),
        "temporary_megabytes": temporary_bytes(compiled) / 1e6,
    }


def table(config: TrafficConfig, rows: list[dict[str, Any]], kind: str) -> str:
    """The traffic as Markdown."""
    about_it = (
        f"CRN {'small' if config.small else 'of the published size'}, {config.size} px, "
        f"{config.batch_per_device} images per device, Contextual Loss on "
        f"{' + '.join(config.target_layers)}{', remat' if config.remat else ''}; compiled for "
        f"{kind}. {about()}."
    )
    header = ["devices", "parallelism", "operations", "arrays reduced, MB"]
    header += ["sent by each device, MB", "XLA temporaries, MB"]
    cells = [
        [
            str(row["devices"]),
            row["parallelism"],
            ", ".join(f"{o['count']} {o['kind']}" for o in row["operations"]) or "none",
            f"{row['bytes'] / 1e6:.3f}",
            f"{row['sent'] / 1e6:.3f}",
            f"{row['temporary_megabytes']:.1f}",
        ]
        for row in rows
    ]
    return f"{about_it}\n\n{tables.markdown(header, cells)}\n"


def run(config: TrafficConfig) -> list[dict[str, Any]]:
    """Compiles for every number of devices; after each, what there is stands on disk."""
    available = find_devices(config)
    out = make_folder(config.out, Path("out/benchmark-traffic"))
    training = make_training(
        config.target_layers, size=config.size, small=config.small, remat=config.remat
    )
    rows: list[dict[str, Any]] = []
    for parallelism in config.parallelism:
        for number in config.devices:
            print(f"{parallelism}, {number} devices ...", flush=True)
            used = available[:number]
            rows.append(measure(training, config.batch_per_device, used, parallelism))
            kept = {"config": to_json(config), "environment": environment(), "rows": rows}
            write_json(out / "traffic.json", kept)
            (out / "traffic.md").write_text(table(config, rows, available[0].device_kind))
    print(table(config, rows, available[0].device_kind), end="")
    return rows
