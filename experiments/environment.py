"""What figures were made on: hardware and versions, for benchmarks and the generators' results."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Hardware and versions."""
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
