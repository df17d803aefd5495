"""Installs this clone into the Python that runs: what a notebook's first cell calls where it must.

Nothing but the standard library is at hand before.
"""

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).absolute().parents[2]
_DEVICES = {  # extra of jax -> devices of its accelerator, on Linux
    "cuda12": ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/dxg"),
    "tpu": ("dev/accel[0-9]*", "dev/vfio/[0-9]*"),
}


def install() -> None:
    """Installs the project and its experiments, with the JAX of the runtime's accelerator.

    Raises:
      OSError: If pip fails; with the end of what it said.
      RuntimeError: If packages that were imported already have been replaced: only a restart of
        the session loads the new ones.
    """
    jax = f"jax[{extra}]" if (extra := accelerator()) else "jax"
    project = ["-e", f"{_ROOT}[experiments]", "-c", str(_ROOT / "constraints.txt")]
    before = _imported()
    run = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", jax, *project],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise OSError(f"pip could not install {jax} and {_ROOT}: {run.stderr[-3000:]}")
    importlib.invalidate_caches()
    after = _imported()
    if replaced := sorted(name for name in before if after.get(name) != before[name]):
        raise RuntimeError(
            f"all is installed, but {', '.join(replaced)} had been imported before in another "
            "version: restart the session (Colab: Runtime > Restart session), then run all cells"
        )


def accelerator(root: Path = Path("/")) -> str | None:
    """The extra of jax for the machine's accelerator, by the devices under `root`."""
    for extra, patterns in _DEVICES.items():
        if any(next(root.glob(pattern), None) for pattern in patterns):
            return extra
    return None


def _imported() -> dict[str, str]:
    """The versions, on disk, of the packages that have been imported."""
    versions = {}
    for module, packages in importlib.metadata.packages_distributions().items():
        if module in sys.modules:
            versions |= {name: importlib.metadata.version(name) for name in packages}
    return versions
