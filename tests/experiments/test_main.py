"""`python -m experiments` lists what there is, at once."""

import subprocess
import sys
from pathlib import Path

from experiments import __main__ as listing

ROOT = Path(__file__).parents[2]


def _run(*options):
    command = [sys.executable, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_experiment_is_listed_and_the_sets_of_pictures_apart():
    listed = _run("-m", "experiments")
    assert listed.returncode == 0, listed.stderr
    experiments, hint, others, notebooks = listed.stdout.rstrip().split("\n\n")
    names = [line.split("  ")[0] for line in experiments.splitlines()]
    commands = {path.parent.name for path in ROOT.glob("experiments/*/__main__.py")}
    assert names == sorted(commands - {"datasets"})
    assert len(names) > 7
    assert (ROOT / notebooks.rpartition(" ")[2]).is_file()
    assert "python -m experiments.NAME" in hint
    assert others.startswith("datasets  ")
    for line in (*experiments.splitlines(), *others.splitlines()):
        _, summary = line.split("  ", 1)
        assert summary.strip().endswith("."), f"{line!r} says nothing"


def test_the_list_is_read_without_importing_what_it_lists():
    run = _run("-X", "importtime", "-m", "experiments")
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "ast" in imported  # the measure sees what it should see
    assert not imported & {"jax", "numpy", "tyro", "cxjax", "experiments.common"}


def test_the_line_is_the_first_of_the_docstring(tmp_path):
    sources = {"b": '"""One.\n\nTwo.\n"""\nimport nothing_of_that_name\n', "a": ""}
    for name, source in sources.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__main__.py").write_text(source)
    (tmp_path / "results").mkdir()
    assert list(listing.summaries(tmp_path).items()) == [("a", ""), ("b", "One.")]


def test_a_name_after_a_space_is_told_to_be_a_module(capsys):
    assert listing.main(["gaussians"]) == 2
    assert "gaussians. python -m experiments.NAME --help" in capsys.readouterr().err
