"""What every benchmark needs: fair rounds of timing, and XLA's count of memory."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def median_seconds(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median time of each, over rounds that run every one once; the first round is not counted.

    A slow moment of the machine so falls on all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """What a program allocates beside its arguments and results."""
    # Not `peak_memory_in_bytes`, which leaves the temporaries out on CPU.
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise ValueError(f"{jax.default_backend()} does not report the memory of its programs")
    return analysis.temp_size_in_bytes
