"""What a notebook installs, by the runtime's accelerator, and when it asks for a restart."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import install

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("devices", "extra"),
    [
        ((), None),
        (("dev/null", "dev/vfio/vfio", "dev/accel/accel0"), None),  # of no TPU: an NPU's
        (("dev/nvidiactl", "dev/nvidia0"), "cuda12"),
        (("dev/accel0", "dev/accel1"), "tpu"),
        (("dev/vfio/vfio", "dev/vfio/0"), "tpu"),
    ],
)
def test_the_devices_say_which_jax(tmp_path, devices, extra):
    for device in devices:
        (tmp_path / device).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / device).touch()
    assert install.accelerator(tmp_path) == extra


@pytest.fixture
def pip(monkeypatch):
    """In place of pip: keeps its arguments, and replaces or fails as told."""

    class Pip:
        arguments, said, replaces = [], "", {}

        def run(self, command, **_):
            assert command[:4] == [sys.executable, "-m", "pip", "install"]
            self.arguments = command[4:]
            for name, version in self.replaces.items():
                versions[name] = version
            return subprocess.CompletedProcess(command, bool(self.said), "", self.said)

    versions, pip = {}, Pip()
    find = install.importlib.metadata.version
    monkeypatch.setattr(
        install.importlib.metadata, "version", lambda name: versions.get(name, find(name))
    )
    monkeypatch.setattr(install.subprocess, "run", pip.run)
    return pip


@pytest.mark.parametrize(("extra", "jax"), [(None, "jax"), ("tpu", "jax[tpu]")])
def test_this_clone_is_installed_at_the_versions_measured(pip, monkeypatch, extra, jax):
    monkeypatch.setattr(install, "accelerator", lambda: extra)
    install.install()
    assert pip.arguments[-5:] == [
        *(jax, "-e", f"{ROOT}[experiments]"),
        *("-c", str(ROOT / "constraints.txt")),
    ]


def test_a_package_replaced_under_the_session_asks_for_a_restart(pip):
    pip.replaces = {"numpy": "0.1", "a-package-never-imported": "0.1"}
    with pytest.raises(RuntimeError, match=r"but numpy had been imported.*Restart session"):
        install.install()


def test_what_pip_says_is_shown(pip):
    pip.said = "ERROR: No matching distribution found for jax"
    with pytest.raises(OSError, match="could not install jax.*No matching distribution"):
        install.install()
