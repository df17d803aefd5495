"""What a run was made on: hardware, versions and commit."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
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


@functools.cache
def commit() -> str | None:
    """The commit of this clone, with `-dirty` where files differ from it; None without git."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> str:
    """A name for this kind of processor: its architecture, and a digest of model and features."""
    features = f"{_processor()} {_of_cpu('flags') or _of_cpu('Features')}"
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _processor() -> str:
    return _of_cpu("model name") or platform.processor()


def _of_cpu(field: str) -> str:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
