"""The rules of the experiments' house: a file's name means one thing, and none imports another."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ("common", "datasets")  # folders that are no experiments, and that these may import

# File -> what one of the names that it defines looks like.
ROLES = {
    "__main__.py": r"EXPERIMENT",  # its declaration
    "config.py": r"VARIANTS",  # settings, and named variants
    "grids.py": r"GRIDS",  # the sets of runs behind its tables
    "data.py": r"(read|load).*",  # what it reads
    "objective.py": r".*loss.*",  # what is minimised
    "evaluation.py": r"evaluate|score",  # scores and pictures of a finished run
}
ONCE = ("__main__.py", "config.py", "grids.py")  # whose names no other file defines
# Names that stood for one role or another before there were roles.
NO_ROLES = ("train", "table", "results", "scores", "judge", "compare", "study", "tune")


def _trees(root):
    """Each file of the experiments under a root, by its path in them, and its syntax."""
    home = root / "experiments"
    for path in sorted(home.rglob("*.py")):
        yield path.relative_to(home), ast.parse(path.read_text(encoding="utf-8"))


def _experiments(root):
    files = [path for path, _ in _trees(root)]
    return sorted({path.parts[0] for path in files if len(path.parts) > 1} - set(SHARED))


def _imports(tree):
    """The modules of the experiments that are imported, and names imported from their root."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "experiments":
            yield from (f"experiments.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _defined(tree):
    """The names that a file defines on its first level, but for those that are private."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def foreign_imports(root):
    """Imports of an experiment by another one, or by what all share."""
    found = []
    for path, tree in _trees(root):
        allowed = {*SHARED} if path.parts[0] in SHARED else {*SHARED, path.parts[0]}
        for name in _imports(tree):
            parts = name.split(".")
            inner = parts[0] in ("", "experiments", "tests")  # empty: a relative import
            if inner and not (parts[0] == "experiments" and parts[1:] and parts[1] in allowed):
                found.append(f"{path} imports {name}")
    return found


def misnamed_files(root):
    """Files whose name means nothing, or another thing than in the other folders."""
    found = []
    for path, tree in _trees(root):
        names = set(_defined(tree))
        if path.stem in NO_ROLES:
            found.append(f"{path} is named after no role")
        if len(path.parts) < 2 or path.parts[0] in SHARED:
            continue
        role = ROLES.get(path.name)
        if role and not any(re.fullmatch(role, name) for name in names):
            found.append(f"{path} defines no {role}")
        others = {ROLES[file] for file in ONCE if file != path.name}
        found += [f"{path} defines {name}" for name in sorted(names & others)]
    return found


def incomplete_folders(root):
    """Experiments without declaration, settings or README, or declared by another name."""
    found = []
    trees = dict(_trees(root))
    for name in _experiments(root):
        home = root / "experiments" / name
        found += [
            f"{name} has no {file}"
            for file in ("__main__.py", "config.py", "README.md")
            if not (home / file).is_file()
        ]
        main = trees.get(Path(name, "__main__.py"), ast.Module([], []))
        calls = [node for node in ast.walk(main) if isinstance(node, ast.Call)]
        declared = [call for call in calls if ast.unparse(call.func).endswith("Experiment")]
        given = [word.value for call in declared for word in call.keywords if word.arg == "name"]
        if [ast.unparse(value) for value in given] != [repr(name)]:
            found.append(f"{name} is not declared by its name")
    return found


def result_folders(root):
    """Folders of results that git has: what came out of runs is lines of `results.jsonl`."""
    command = ["git", "-C", str(root), "ls-files", "experiments/*/results/*"]
    tracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tracked.splitlines()


RULES = [foreign_imports, misnamed_files, incomplete_folders, result_folders]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_in_order(rule):
    if rule is result_folders and not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    assert rule(ROOT) == []


def test_there_is_a_house():
    assert {"benchmark", "puppet_control", "style_transfer"} < set(_experiments(ROOT))
    assert not {*SHARED, "tour"} & set(_experiments(ROOT))


@pytest.fixture
def house(tmp_path):
    """A house in order; writes files into it."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / "experiments" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
        return [violation for rule in RULES for violation in rule(tmp_path)]

    for name in ("a", "b"):
        main = f"from experiments.{name} import config\nfrom experiments.common import cli\n"
        main += f'EXPERIMENT = cli.Experiment(name="{name}")\n'
        known = {f"{name}/__main__.py": main, f"{name}/config.py": "VARIANTS: dict = {}"}
        assert not write(known | {f"{name}/README.md": "", "common/cli.py": "", "tour/a.md": ""})
    return write


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("a/warp.py", "import experiments.b.config", "a/warp.py imports experiments.b.config"),
        ("a/warp.py", "from experiments import b", "a/warp.py imports experiments.b"),
        ("a/warp.py", "from experiments.b import config", "a/warp.py imports experiments.b"),
        ("a/warp.py", "from ..b import config", "a/warp.py imports ..b"),
        (
            "a/warp.py",
            "def f():\n    from experiments.b import c",
            "a/warp.py imports experiments.b",
        ),
        ("common/x.py", "from experiments.a import config", "common/x.py imports experiments.a"),
        ("datasets/x.py", "from experiments import a", "datasets/x.py imports experiments.a"),
        ("b/train.py", "", "b/train.py is named after no role"),
        ("common/table.py", "", "common/table.py is named after no role"),
        ("a/data.py", "def write(): pass", "a/data.py defines no (read|load).*"),
        ("a/objective.py", "def show(): pass", "a/objective.py defines no .*loss.*"),
        ("a/evaluation.py", "def show(): pass", "a/evaluation.py defines no evaluate|score"),
        ("a/config.py", "SETTINGS = 1", "a/config.py defines no VARIANTS"),
        ("a/warp.py", "GRIDS = 1", "a/warp.py defines GRIDS"),
        ("b/__main__.py", 'EXPERIMENT = Experiment(name="c")', "b is not declared by its name"),
        ("c/masks.py", "", "c has no __main__.py"),
        ("a/results/main/cx.json", "{}", "experiments/a/results/main/cx.json"),
    ],
)
def test_each_rule_sees_what_breaks_it(house, file, text, said):
    assert said in house({file: text})
