"""What every benchmark needs: fair rounds of timing, XLA's count of memory, the hardware's name."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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


def environment() -> dict[str, Any]:
    """Hardware and versions, for the table's head."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
    }


def about() -> str:
    """`environment()` as a line of text."""
    return ", ".join(f"{key} {value}" for key, value in environment().items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
