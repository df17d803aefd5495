"""Time and memory of the Contextual Loss against the floor: the products it cannot avoid."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp

import cxjax
from cxjax.distances import product
from cxjax.losses.contextual import Implementation
from experiments.benchmark.config import Config
from experiments.benchmark.timing import median_seconds, temporary_bytes
from experiments.common import tables
from experiments.common.environment import about, environment
from experiments.common.runs import make_folder, to_json, write_json


def floor(block_size: int, *, targets_too: bool) -> Callable[[jax.Array, jax.Array], Any]:
    """Two products of blocks with one exp between them; twice, if the targets are differentiated.

    That much every gradient costs that neither holds the similarities nor approximates them.
    """

    def run(x: jax.Array, y: jax.Array) -> Any:
        starts = jnp.arange(0, x.shape[0] - block_size + 1, block_size)

        def for_sources(gradient, start):
            block = jax.lax.dynamic_slice_in_dim(x, start, block_size)
            rows = product(jnp.exp(product(block, y)), y.T)
            return jax.lax.dynamic_update_slice_in_dim(gradient, rows, start, 0), None

        def for_targets(gradient, start):
            block = jax.lax.dynamic_slice_in_dim(x, start, block_size)
            return gradient + product(jnp.exp(product(block, y)).T, block.T), None

        gradients = [jax.lax.scan(for_sources, jnp.zeros_like(x), starts)[0]]
        if targets_too:
            gradients.append(jax.lax.scan(for_targets, jnp.zeros_like(y), starts)[0])
        return gradients

    return run


def cases(config: Config, n: int) -> dict[str, Callable[[jax.Array, jax.Array], Any]]:
    """Name to function of the two sets. A floor is named by what it is the floor of."""
    functions = {}
    blocks = [block for block in config.blocks if n % block == 0]
    for block in blocks:
        functions[f"floor x, block {block}"] = floor(block, targets_too=False)
        functions[f"floor x and y, block {block}"] = floor(block, targets_too=True)
    for implementation in get_args(Implementation):
        if implementation == "reference" and n > config.dense_up_to:
            continue
        loss = functools.partial(cxjax.contextual_loss, implementation=implementation)
        functions[f"{implementation} value"] = loss
        functions[f"{implementation} x"] = jax.value_and_grad(loss, 0)
        functions[f"{implementation} x and y"] = jax.value_and_grad(loss, (0, 1))
    for block in blocks:
        loss = functools.partial(cxjax.contextual_loss, block_size=block)
        functions[f"blockwise x, block {block}"] = jax.value_and_grad(loss, 0)
    return functions


def measure(config: Config, n: int) -> list[dict[str, Any]]:
    """Median seconds and XLA temporaries of every case at one size, interleaved in rounds."""
    key_x, key_y = jax.random.split(jax.random.key(0))
    scale = config.channels**-0.25  # products of unit size: the floor's exp stays finite
    x = scale * jax.random.normal(key_x, (n, config.channels))
    y = scale * jax.random.normal(key_y, (n, config.channels))
    compiled = {name: jax.jit(f).lower(x, y).compile() for name, f in cases(config, n).items()}
    medians = median_seconds(
        {name: functools.partial(run, x, y) for name, run in compiled.items()}, config.repeats
    )
    rows = []
    for name, run in compiled.items():
        what = name.split(" ", 1)[1].split(",")[0]
        floors = [s for other, s in medians.items() if other.startswith(f"floor {what}, ")]
        rows.append(
            {
                "n": n,
                "m": n,
                "channels": config.channels,
                "case": name,
                "seconds": medians[name],
                "times_floor": medians[name] / min(floors) if floors else None,
                "temporary_megabytes": temporary_bytes(run) / 1e6,
            }
        )
    return rows


def table(config: Config, rows: list[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    about_it = (
        f"n = m points of {config.channels} channels, float32, bandwidth 0.5, cosine distance; "
        f"median of {config.repeats} rounds in which every case runs once. {about()}. Without a "
        "block in its name, the blockwise implementation chooses its own."
    )
    cells = [
        [
            f"{row['n']:,}",
            row["case"],
            f"{row['seconds']:.3f}",
            "" if row["times_floor"] is None else f"{row['times_floor']:.2f}",
            f"{row['temporary_megabytes']:,.1f}",
        ]
        for row in rows
    ]
    header = ["n", "case", "seconds", "times floor", "XLA temporaries, MB"]
    shown = [about_it, tables.markdown(header, cells)]
    if len({row["n"] for row in rows}) > 1:
        shown.append(growth(rows))
    return "\n\n".join(shown) + "\n"


def growth(rows: list[dict[str, Any]]) -> str:
    """How time and memory of each case grow from its smallest to its largest size."""
    cells = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = sorted((row for row in rows if row["case"] == case), key=lambda row: row["n"])
        first, last = of_case[0], of_case[-1]
        if first["n"] < last["n"]:
            exponents = [
                math.log(last[what] / first[what]) / math.log(last["n"] / first["n"])
                for what in ("seconds", "temporary_megabytes")
            ]
            ends = [f"{first['n']:,}", f"{last['n']:,}"]
            cells.append([case, *ends, *(f"{exponent:.2f}" for exponent in exponents)])
    header = ["case", "from n", "to n", "time grows as n to the", "temporaries as n to the"]
    return tables.markdown(header, cells)


def run(config: Config) -> list[dict[str, Any]]:
    """Measures every size, smallest first; after each, what there is stands on disk."""
    out = make_folder(config.out, Path("out/benchmark"))
    rows: list[dict[str, Any]] = []
    for n in sorted(set(config.sizes)):
        print(f"n = m = {n:,} ...", flush=True)
        rows += measure(config, n)
        measured = {"config": to_json(config), "environment": environment(), "rows": rows}
        write_json(out / "benchmark.json", measured)
        (out / "benchmark.md").write_text(table(config, rows))
    print(table(config, rows), end="")
    return rows
