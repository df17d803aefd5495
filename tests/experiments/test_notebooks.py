"""Every notebook runs as it is kept, in an empty folder, and on this checkout's code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

from cxjax.data import images
from experiments.common import cli, runs
from experiments.single_image_animation import __main__ as animation
from experiments.single_image_animation.config import VARIANTS

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("experiments/**/*.ipynb"))
of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

RUN = """
assert {"config.json", "results.json", "strip.png"} <= {path.name for path in config.out.iterdir()}
assert results == json.loads((config.out / "results.json").read_text())
"""
# What holds in a notebook's own names after it has run.
HOLDS = {
    "tour": "assert losses[-1] < losses[0] - 0.01 and after < before",
    "style_transfer": RUN + 'assert (config.out / "result.png").is_file()',
    "single_image_animation": RUN + 'assert (config.out / "animation.webp").is_file()',
    "puppet_control": RUN + 'assert results["whole"]["lpips"] > 0',
    "domain_transfer": RUN
    + """
import numpy as np
assert {"lpips", "psnr", "ssim", "cx", "target", "classifier", "kid"} <= results.keys()
assert results["lpips"] > 0
rows = np.asarray(Image.open(config.out / "strip.png")).reshape(3, config.size, -1, 3) * 1.0
assert np.abs(rows[0] - rows[1]).mean() > 1
""",
}
SAID = {"domain_transfer": "judged target", "puppet_control": "| LPIPS |"}  # among what it prints
HERE = f"""
import json
from pathlib import Path
import cxjax
import experiments.common
for module in (cxjax, experiments.common):
    assert Path(module.__file__).is_relative_to({str(ROOT)!r}), module
"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_of(notebook, name):
    (found,) = [cell for cell in notebook.cells if cell.id == name]
    return found


@of_each
def test_a_notebook_runs_and_ends_with_its_results(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # as conftest.py, to compile less
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "empty").mkdir()
    notebook.cells.append(nbformat.v4.new_code_cell(HERE + HOLDS[path.stem]))
    nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        resources={"metadata": {"path": tmp_path / "empty"}},
    ).execute()
    assert not any((tmp_path / "empty").iterdir())
    assert cell_of(notebook, "install").outputs == []  # nothing was installed
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in said
    assert SAID.get(path.stem, "") in said


@of_each
def test_a_notebook_is_kept_without_outputs_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert cell_of(notebook, "smoke").source.startswith("SMOKE = True  # False for the real thing")


def test_a_generator_of_ones_own_is_trained_in_fifteen_lines():
    tour = nbformat.read(ROOT / "experiments/tour/tour.ipynb", as_version=4)
    source = cell_of(tour, "training").source
    assert "cxjax.contextual_loss" in source
    assert len([line for line in source.splitlines() if line.strip()]) == 15


# --- Pictures of one's own ---


def read(name):
    return nbformat.read(ROOT / f"experiments/{name}/{name}.ipynb", as_version=4)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("style_transfer", "UPLOAD = True"),
        ("style_transfer", "CONTENT = 'a.png'"),
        ("style_transfer", "TARGET = 'a.png'"),
        ("single_image_animation", "SOURCE = 'a.mp4'"),
        ("single_image_animation", "TARGET = 'a.png'"),
    ],
)
def test_own_files_are_not_taken_by_the_smoke_run(name, given):
    source = cell_of(read(name), "pictures").source
    exec(source, {"SMOKE": True})  # without any
    source, count = re.subn(rf"^{given.split()[0]} = (None|False)", given, source, flags=re.M)
    assert count == 1
    with pytest.raises(ValueError, match="set SMOKE = False at the top for your own"):
        exec(source, {"SMOKE": True})
    if "UPLOAD" not in given:
        exec(source, {"SMOKE": False})


def test_own_clip_and_still_are_those_that_are_animated(monkeypatch):
    run = cell_of(read("single_image_animation"), "cell-5").source
    taken = animation.EXPERIMENT._replace(run=lambda config: config)
    monkeypatch.setattr(animation, "EXPERIMENT", taken)
    monkeypatch.setattr(cli, "show_log", lambda: None)

    def settings(**names):
        exec(run, names)
        return runs.to_json(names["results"]) | {"out": None}

    own = settings(SMOKE=False, SOURCE="a.mp4", TARGET="a.png")
    built_in = settings(SMOKE=False, SOURCE=None, TARGET=None)
    kept = settings(SMOKE=True, SOURCE=None, TARGET=None)
    portrait = {"target": "grace_hopper"}
    assert kept == runs.to_json(VARIANTS["smoke"])
    assert built_in == runs.to_json(VARIANTS["default"]) | portrait
    assert own == built_in | {"source": "a.mp4", "target": "a.png"}


@pytest.mark.parametrize("shape", [(450, 800, 3), (300, 320, 3)])
def test_a_picture_of_ones_own_is_large_enough_for_the_tour(tmp_path, monkeypatch, shape):
    tour = read("tour")
    (instead,) = re.findall(r"`(images\.resize\(.+?)` in", cell_of(tour, "cell-13").source)
    cat, _, _ = cell_of(tour, "cell-14").source.partition("class Generator")
    cat, count = re.subn(r'photograph\("chelsea", [^)]+\)', instead, cat)
    assert count == 1
    monkeypatch.chdir(tmp_path)
    images.write_image("mine.jpg", np.random.default_rng(0).random(shape, np.float32))
    names = {"SMOKE": False, "images": images, "np": np}
    exec(cat, names)
    assert names["truth"].shape == names["target"].shape == (96, 96, 3)


# --- The cell that installs: one and the same in all, and with nothing at hand ---


@of_each
def test_all_notebooks_install_in_one_way(path):
    first, own = (nbformat.read(p, as_version=4) for p in (NOTEBOOKS[0], path))
    assert cell_of(own, "install").source == cell_of(first, "install").source


def run_install(folder, repository=""):
    """Runs the cell in a Python that has the standard library only."""
    source = cell_of(nbformat.read(NOTEBOOKS[0], as_version=4), "install").source
    assert source.startswith('REPOSITORY = ""  #')
    source = source.replace('""', repr(str(repository)), 1)
    source = "import sys; sys.path.insert(0, '')\n" + source  # as in a notebook
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], cwd=folder, capture_output=True, text=True
    )


def test_without_a_repository_the_error_says_what_to_set(tmp_path):
    run = run_install(tmp_path)
    assert run.returncode
    assert "No module named 'experiments'): set REPOSITORY to the project's git URL" in run.stderr
    assert not any(tmp_path.iterdir())


def test_a_repository_is_cloned_once_and_its_installer_called(tmp_path):
    repository, folder = tmp_path / "repository", tmp_path / "folder"
    (repository / "experiments/common").mkdir(parents=True)
    folder.mkdir()
    (repository / "experiments/common/install.py").write_text(
        "install = lambda: print('installed')\n"
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(repository)]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True, env=environment)
    for _ in range(2):
        run = run_install(folder, repository.as_uri())
        assert (run.returncode, run.stdout) == (0, "installed\n"), run.stderr
    assert [path.name for path in folder.iterdir()] == ["cxjax-clone"]


def test_a_folder_that_has_the_project_is_taken_as_it_is(tmp_path):
    """One that is called as the package, too, which Python would take for the package itself."""
    for name in ("experiments/common/install.py", "cxjax/__init__.py"):
        (tmp_path / "cxjax" / name).parent.mkdir(parents=True)
        (tmp_path / "cxjax" / name).touch()
    (tmp_path / "cxjax/experiments/common/install.py").write_text(
        "import cxjax\ninstall = lambda: print(cxjax.__file__)\n"
    )
    run = run_install(tmp_path, "cxjax")
    assert run.stdout == f"{tmp_path / 'cxjax/cxjax/__init__.py'}\n", run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cxjax"]


def test_a_clone_that_fails_says_why(tmp_path):
    run = run_install(tmp_path, tmp_path / "nowhere")
    assert "nowhere' does not exist" in run.stderr.splitlines()[-1], run.stderr
