"""A net under changes of the experiments: what a user sees of them, recorded and compared.

    python tests/safety_net.py record OUTDIR [--only NAME]
    python tests/safety_net.py compare OLD NEW [--only NAME]

`record` drives the project by its command line alone, so that it runs on another tree as it is:
the smoke variants (numbers, pixels, files, what is printed), the help, the errors, and the tables
of the committed evidence. `--only` takes the items whose name has this text in it, such as `help/`,
`smoke/style_transfer` or `tables/`. `compare` prints every difference; its exit status is 1 if
there is one. Nothing is downloaded, and nothing is written but OUTDIR and temporary folders.

Records of one tree are equal bit for bit, with and without JAX_COMPILATION_CACHE_DIR, which makes
the second one cheaper; but only where machine, number of cores and packages are the same, which is
in `about.json`: on one core in place of two the numbers differ by 1e-7 and more.
"""
# ruff: noqa: T201

import argparse
import difflib
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

ROOT = Path(__file__).absolute().parents[1]
WORK = Path("experiments")

# --- The tables of the committed evidence: the one part whose options a change may rename ---

# Name -> arguments after `python -m experiments.`. A copy of the experiment's evidence lies in the
# folder: `evidence/`, its results, or `evidence.jsonl` where it has one results.jsonl.
TABLES: dict[str, str] = {
    "puppet_control-table": "puppet_control table --results evidence --runs runs --no-missing",
    "puppet_control-tune": "puppet_control tune --results evidence --runs runs --no-missing",
    "domain_transfer-table": "domain_transfer table --results evidence --runs runs --no-missing",
    "domain_transfer-tune": "domain_transfer tune --results evidence --runs runs --no-missing",
    "domain_transfer-weights": "domain_transfer weights --results evidence --runs runs "
    "--no-missing",
    "misalignment-table": "misalignment table --results evidence --pictures runs",
    "misalignment-tune": "misalignment tune --results evidence/tuning",
    "correspondences-table": "correspondences table --results evidence",
    "correspondences-sweep": "correspondences table --results evidence/sweep --photographs rocket "
    "--bandwidths .05 .1 .2 .5 1 --spatial-weights .1 .25 .5 1 2 --seeds 3",
    "gaussians": "gaussians --results evidence --out runs",
    "style_transfer-compare-256": "style_transfer compare --results evidence/compare --runs runs "
    "--no-missing",
    "style_transfer-compare-512": "style_transfer compare --results evidence/compare --runs runs "
    "--no-missing --size 512 --pairs astronaut-hopper cathedral-church --recipes content "
    "contextual strotss gatys perceptual feed_forward",
    **{
        f"style_transfer-study-{name}": f"style_transfer study --name {name} --size {size} "
        "--results evidence/study --runs runs --no-missing"
        for name, size in {
            **dict.fromkeys(("bandwidth", "layers", "content_weight", "moment_weight"), 128),
            **dict.fromkeys(("position_weight", "optimizer", "size"), 128),
            "deformation": 160,
        }.items()
    },
}
# The new form of such a command, by the same name, where it is another one; taken where the
# experiment has no `results/*.json` any more.
NEW_TABLES: dict[str, str] = {}


def evidence() -> dict[str, Any]:
    """The committed figures and configurations, by `EXPERIMENT/NAME`, in either form.

    Today a file `experiments/EXPERIMENT/results/NAME.json` each; the new form, as far as it is
    known, lines of `results.jsonl` with a name, a configuration and figures.
    """
    found = {}
    for path in _tracked("experiments"):
        experiment = path.parts[1]
        if "results" in path.parts and path.suffix == ".json":
            name = Path(*path.parts[3:]).with_suffix("").as_posix()
            content = json.loads((ROOT / path).read_text())
            found[f"{experiment}/{name}"] = content
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in (ROOT / path).read_text().splitlines()]
            found |= {f"{experiment}/{name}": content for name, content in _runs(lines).items()}
    return found


def _runs(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Configuration and figures by name, if these lines are of runs."""
    found = {}
    for line in lines:
        name = next((line[key] for key in ("name", "run", "file") if key in line), None)
        if name is not None and "figures" in line:
            found[name] = {key: one for key, one in line.items() if one != name}
    return found


def readme_tables() -> dict[str, list[str]]:
    """Every Markdown table of every README, as text, by the README's path."""
    found = {}
    for path in _tracked("README.md", "experiments"):
        if path.name == "README.md":
            text = (ROOT / path).read_text()
            found[path.as_posix()] = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    return found


def _tracked(*paths: str) -> list[Path]:
    command = ["git", "ls-files", "-z", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(filter(None, listed.split("\0")))]


# --- Smoke: commands that share a folder; all that they leave there is recorded ---

PUPPET = "puppet_control --variant smoke"
DOMAIN = "domain_transfer --variant smoke"
ANIMATION = "single_image_animation --variant smoke"
STYLE = "style_transfer --variant smoke --out run"
OWN_STYLE = "style_transfer pictures/content.png pictures/target.png --variant smoke --out run"
APPLY = (
    "{} apply run given/a.png made/a.png",
    "{} apply run given made/folder",
    "{} apply run given/a.png made/part.png --size 0 --crop 4 2 36 34 --step 1",
    "{} apply run own/driver/wave made/film.webp --size 24 --frames-per-second 12.5",
    "{} apply run given made/sizes.webp",  # of several sizes: refused
)
SMOKE: dict[str, tuple[str, ...]] = {
    **{
        f"puppet_control-{loss}": (f"{PUPPET} --loss {loss} --out run",)
        for loss in ("cx_perceptual", "l1", "l1_perceptual", "perceptual", "gram", "pix2pix")
    },
    "puppet_control-cx": (
        f"{PUPPET} --loss cx --out run",
        *(one.format("puppet_control") for one in APPLY),
    ),
    "puppet_control-identity": (  # into the default folder, the second into one that is numbered
        f"{PUPPET} --loss identity",
        f"{PUPPET} --loss identity --held-out test",
    ),
    "puppet_control-resumed": (
        f"{PUPPET} --out run",
        "puppet_control --resume --out run --steps 4",
    ),
    "puppet_control-last": (f"{PUPPET} --loss l1", "puppet_control --resume --steps 3"),
    "puppet_control-options": (
        f"{PUPPET} --loss cx_perceptual --model unet --steps 4 --ema-decay .5 --accumulate 2 "
        "--clip-norm 1 --schedule constant --learning-rate .002 --beta1 .8 --seed 3 "
        "--held-out test --bandwidth .3 --perceptual-weight .2 --out run",
        "puppet_control apply run given/a.png made/a.png",
    ),
    "puppet_control-resnet": (
        f"{PUPPET} --model resnet --precision bfloat16 --parallelism shard_map --out run",
    ),
    "puppet_control-own": (f"{PUPPET} --pair own --loss l1 --warp 0 --out run",),
    **{
        f"domain_transfer-{loss}": (f"{DOMAIN} --loss {loss} --out run",)
        for loss in ("cx_target", "gram", "cyclegan", "histogram", "identity")
    },
    "domain_transfer-cx": (
        f"{DOMAIN} --loss cx --out run",
        *(one.format("domain_transfer") for one in APPLY),
        "domain_transfer terms --run run",
    ),
    "domain_transfer-resumed": (
        f"{DOMAIN} --loss cyclegan --out run",
        "domain_transfer --resume --out run --steps 4",
        "domain_transfer apply run given/a.png made/a.png",
    ),
    "domain_transfer-own": (f"{DOMAIN} --domains domains --held-out test --out run",),
    "single_image_animation-contextual": (
        f"{ANIMATION} --loss contextual --head .2 .1 .8 .9 --out run",
        "single_image_animation frame-by-frame run --out frames --scales .5 1 --steps 2 1",
        "single_image_animation compare run frames",
        "single_image_animation apply run given/a.png made/a.png",
        "single_image_animation apply run given made/folder",
        "single_image_animation apply run run/result.webp made/film.webp",
    ),
    "single_image_animation-gram": (f"{ANIMATION} --loss gram --out run",),
    "single_image_animation-resumed": (
        f"{ANIMATION} --out run",
        "single_image_animation --resume --out run --steps 6",
    ),
    "single_image_animation-shapes": (  # of drawn files that have the first command's names
        f"{ANIMATION} --source carphone --target MonaLisa --held-out 24 --out run",
        "single_image_animation shapes run",
    ),
    **{
        f"style_transfer-{loss}": (f"{STYLE} --loss {loss}",)
        for loss in ("contextual", "relaxed_earth_mover", "gram", "perceptual")
    },
    **{
        f"style_transfer-{optimizer}": (f"{STYLE} --optimizer {optimizer}",)
        for optimizer in ("adam", "rmsprop", "lbfgs")
    },
    "style_transfer-concatenated": (
        f"{STYLE} --layers concatenated --style-layers conv1_1 conv2_1 conv3_1 conv4_1 "
        "--style-bandwidth .1 --moment-weight 0",
    ),
    "style_transfer-hypercolumns": (
        f"{STYLE} --loss relaxed_earth_mover --layers hypercolumns --max-points 100 "
        "--palette-weight .25 --initial details",
    ),
    "style_transfer-position_weight": (f"{STYLE} --position-weight .3",),
    "style_transfer-deformation": (f"{STYLE} --deformation 3 --deformation-cells 4",),
    "style_transfer-self_similarity": (f"{STYLE} --content-loss self_similarity",),
    "style_transfer-squared": (f"{STYLE} --content-loss squared --coarse-content-weight 2",),
    "style_transfer-noise": (
        f"{STYLE} --initial noise --seed 5 --max-points 50 --direction symmetric "
        "--pyramid-levels 1",
    ),
    "style_transfer-masks": (
        f"{OWN_STYLE} --content-mask pictures/content_mask.png --target-mask "
        "pictures/target_mask.png --size 64 --style-layers conv2_2 conv3_2",
    ),
    "style_transfer-crops": (
        f"{OWN_STYLE} --content-crop 4 2 84 72 --target-crop 10 10 80 90 --pooling max",
    ),
    **{
        f"style_transfer-{variant}": (
            f"style_transfer --variant {variant} --size 48 --scales 1 --steps 3 --out run",
        )
        for variant in ("strotss", "gatys")
    },
    "style_transfer-compare": (
        "style_transfer compare --variant smoke --size 48 --pairs astronaut-hopper --recipes "
        "content contextual contextual_w3 strotss --results made --runs runs",
        "style_transfer compare --variant smoke --size 48 --pairs astronaut-hopper --recipes "
        "content contextual contextual_w3 strotss --results made --runs runs",
    ),
    "style_transfer-study": (
        "style_transfer study --name moment_weight --variant smoke --size 48 --pairs "
        "astronaut-hopper --results made --runs runs",
    ),
    "misalignment": ("misalignment --variant smoke --out run",),
    "misalignment-options": (
        "misalignment --variant smoke --photograph explore_world_animals/lemur --losses cobi "
        "sliced_wasserstein --seeds 0 2 --shift 3 --learning-rate .02 --out run",
    ),
    "misalignment-table": (
        *2  # the second shows what is there
        * (
            "misalignment table --variant smoke --results made --pictures runs --photographs drawn "
            "--losses none l1 contextual --shifts 0 2 --seeds 0 1",
        ),
    ),
    "gaussians": (
        "gaussians --variant smoke --out run",
        "gaussians --variant smoke --results run/results --out again",
    ),
    "correspondences": ("correspondences --variant smoke --out run",),
    "correspondences-own": (
        "correspondences pictures/content.png pictures/target.png --variant smoke --layers conv2_2 "
        "conv3_1 --x-crop 4 2 84 72 --out run",
    ),
    "correspondences-table": (
        *2
        * (
            "correspondences table --results made --photographs astronaut chelsea --seeds 2 --size "
            "48 --layers conv2_2 --radii 2 4 8",
        ),
    ),
    "benchmark": ("benchmark --variant smoke --out run",),
    "benchmark-step": (
        "benchmark step --size 32 --batch-size 2 --layers conv1_2 --repeats 1 --state-megabytes 2 "
        "--steps-beside 2 --out run",
    ),
    "benchmark-traffic": (
        "benchmark traffic --size 32 --target-layers conv1_2 --devices 1 2 --parallelism jit "
        "--out run",
    ),
}

# --- Help, and what a user can get wrong ---

VARIANTS = {
    "puppet_control": ("paper", "smoke"),
    "domain_transfer": ("paper", "horse2zebra", "smoke"),
    "single_image_animation": ("paper", "smoke"),
    "style_transfer": ("concatenated", "paper", "strotss", "gatys", "smoke"),
    "misalignment": ("paper", "smoke"),
    "gaussians": ("paper", "smoke"),
    "correspondences": ("paper", "smoke"),
    "benchmark": ("smoke",),
    "datasets": (),
}
COMMANDS = {
    "puppet_control": ("apply", "tune", "table"),
    "domain_transfer": ("apply", "tune", "table", "terms", "weights"),
    "single_image_animation": ("apply", "frame-by-frame", "compare", "shapes"),
    "style_transfer": ("compare", "study"),
    "misalignment": ("table", "tune"),
    "correspondences": ("table",),
    "benchmark": ("step", "traffic"),
    "datasets": ("list", "prepare"),
}
HELP: dict[str, tuple[str, ...]] = {
    "experiments": ("", "--help"),
    **{
        name: (
            f"{name} --help",
            *(f"{name} --variant {variant} --help" for variant in variants),
            *(f"{name} {command} --help" for command in COMMANDS.get(name, ())),
        )
        for name, variants in VARIANTS.items()
    },
}
HELP["datasets"] += ("datasets", "datasets list")

OF_ALL = (
    "{} --variant smoke --nosuch 1",
    "{} --variant nosuch",
    "{} --variant smoke --out full",
    "{} --variant smoke --out full/file/run",
    "{} nosuch",
)
OF_GENERATORS = (
    *OF_ALL,
    "{} --variant smoke --steps 0",
    "{} --variant smoke --loss nosuch",
    "{} --variant smoke --learning-rate -1",
    "{} --variant smoke --bandwidth nan",
    "{} --variant smoke --batch-size 99",
    "{} --variant smoke --save-evry 3",
    "{} --resume",
    "{} --resume --out nosuch",
    "{} --resume --variant smoke",
    "{} apply",
    "{} apply nosuch given/a.png made.png",
    "{} apply nosuch nosuch.png made.png",
    "{} apply nosuch given/a.png full",
    "{} apply nosuch given/a.png made.avi",
    "{} apply nosuch given made --size -1",
)
ERRORS: dict[str, tuple[str, ...]] = {
    "experiments": ("nosuch", "gaussians"),
    "puppet_control": (
        *OF_GENERATORS,
        "{} --variant smoke --pair nosuch",
        "{} --variant smoke --pair full",
        "{} --variant smoke --size 16",
        "{} --variant smoke --shift 32",
        "{} --variant smoke --layers conv9_9",
        "{} --variant smoke --held-out train",
        "{} table --nosuch",
        "{} table --losses nosuch",
        "{} table --results nosuch --no-missing",
        "{} tune --results nosuch --no-missing",
    ),
    "domain_transfer": (
        *OF_GENERATORS,
        "{} --variant smoke --domains nosuch",
        "{} --variant smoke --domains full",
        "{} --variant smoke --size 16",
        "{} --variant smoke --source-layers",
        "{} table --domains nosuch",
        "{} table --results nosuch --no-missing",
        "{} weights --results nosuch --no-missing",
        "{} terms --run nosuch",
    ),
    "single_image_animation": (
        *OF_GENERATORS,
        "{} --variant smoke --held-out 2",
        "{} --variant smoke --held-out 12",
        "{} --variant smoke --head .5 .5 .4 .6",
        "{} --variant smoke --target nosuch.png",
        "{} --variant smoke --source full --held-out 3",
        "{} --variant smoke --source own/driver/wave --source-crop 0 0 400 100 --held-out 3",
        "{} compare nosuch",
        "{} compare",
        "{} shapes full",
        "{} frame-by-frame nosuch",
        "{} frame-by-frame",
    ),
    "style_transfer": (
        *OF_ALL,
        "{} nosuch.png --variant smoke",
        "{} full/file --variant smoke",
        "{} --variant smoke --size 8",
        "{} --variant smoke --size 0",
        "{} --variant smoke --loss lpips",
        "{} --variant smoke --style-layers conv9_1",
        "{} --variant smoke --layers concatenated",
        "{} --variant smoke --scales 1 .5",
        "{} --variant smoke --content-mask pictures/content_mask.png",
        "{} --variant smoke --deformation 1 --optimizer lbfgs",
        "{} --variant smoke --weights nosuch.pth",
        "{} --variant smoke --loss gram --position-weight 1",
        "{} compare --pairs nosuch",
        "{} compare --recipes nosuch",
        "{} compare --results nosuch --no-missing",
        "{} study",
        "{} study --name nosuch",
        "{} study --name layers --results nosuch --no-missing",
    ),
    "misalignment": (
        *OF_ALL,
        "{} --variant smoke --losses lpips",
        "{} --variant smoke --losses l1 l1",
        "{} --variant smoke --shift 4",
        "{} --variant smoke --crop 30",
        "{} --variant smoke --longest 45",
        "{} --variant smoke --seeds -1",
        "{} --variant smoke --bandwidth nan",
        "{} --variant smoke --losses l2 --learning-rate 1e38",
        "{} table",
        "{} table --results made --variant none",
        "{} table --results made --photographs a/b c/b",
        "{} table --results made --shifts 11",
        "{} tune --results made --losses mean",
    ),
    "gaussians": (
        *OF_ALL,
        "{} --variant smoke --points 1",
        "{} --variant smoke --step .3",
        "{} --variant smoke --largest 2.5",
        "{} --variant smoke --seed -1",
        "{} --variant smoke --results full/file",
    ),
    "correspondences": (
        *OF_ALL,
        "{} nosuch.png --variant smoke",
        "{} --variant smoke --size 1",
        "{} --variant smoke --layers conv2_2 conv2_2",
        "{} --variant smoke --bandwidth 0",
        "{} --variant smoke --apart 2",
        "{} --variant smoke --size 4096",
        "{} table --results full/file",
        "{} table --results made --seeds 0",
        "{} table --results made --photographs nosuch",
    ),
    "benchmark": (
        *OF_ALL,
        "{} --variant smoke --sizes 100",
        "{} --variant smoke --blocks 1",
        "{} --variant smoke --channels 0",
        "{} step --repeats 0",
        "{} step --layers conv9_9",
        "{} traffic --devices",
        "{} traffic --size 0",
    ),
    "datasets": ("{} nosuch", "{} prepare", "{} prepare nosuch", "{} prepare emoji/nosuch"),
}

# --- Running ---

# What the tree does not decide: times, rates, and the machine.
VOLATILE = {"seconds", "seconds_in_all", "images_per_second", "data_wait", "environment"}
VOLATILE |= {"device", "processor", "cores", "jax", "jaxlib", "python"}
PICTURES = {".png", ".webp", ".gif", ".jpg"}
GUARD = """
# `experiments` has no __init__.py: a clone that is installed fills in what this tree lacks.
import os, sys
here = os.environ["SAFETY_NET_ROOT"]
sys.path[:] = [p for p in sys.path if p == here or not os.path.isdir(f"{p}/experiments")]
"""


class Runner:
    """Runs commands of this tree in a folder, and records what they print."""

    def __init__(self, guard: Path) -> None:
        (guard / "sitecustomize.py").write_text(GUARD)
        settings = {"COLUMNS": "100", "NO_COLOR": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        settings |= {"PYTHONPATH": f"{guard}{os.pathsep}{ROOT}", "SAFETY_NET_ROOT": str(ROOT)}
        self.environment = {"JAX_PLATFORMS": "cpu", **os.environ, **settings}
        self.environment.pop("DISTRIBUTED", None)

    def python(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
        """Runs Python on this tree."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )

    def check(self, folder: Path) -> None:
        """Raises unless both packages are this tree's, and its alone."""
        code = "import cxjax, experiments; print(*cxjax.__path__, *experiments.__path__, sep='\\n')"
        found = self.python("-c", code, folder=folder)
        where = set(found.stdout.splitlines())
        if found.returncode or where != {str(ROOT / "cxjax"), str(ROOT / "experiments")}:
            raise RuntimeError(f"not this tree's packages: {where} {found.stderr}")

    def __call__(
        self, command: str, folder: Path, *, is_experiment: bool = True, seconds: bool = False
    ) -> dict[str, Any]:
        """The record of `python -m experiments.COMMAND`, or of `python -m experiments COMMAND`;
        with the seconds of its tables, if these are no measurement.
        """
        name, *arguments = shlex.split(command) if is_experiment else ("", *shlex.split(command))
        module = f"experiments.{name}" if name else "experiments"
        done = self.python("-m", module, *arguments, folder=folder)
        return {
            "command": command,
            "status": done.returncode,
            "stdout": _lines(done.stdout, folder, keep=seconds),
            "stderr": _lines(done.stderr, folder),
        }


def _lines(text: str, folder: Path, *, keep: bool = False) -> list[str]:
    """Printed text without what changes from run to run: log lines of XLA, bars, times, paths."""
    text = text.replace(str(folder.resolve()), "{folder}").replace(str(folder), "{folder}")
    text = text.replace(str(ROOT), "{root}").replace(sys.executable, "{python}")
    text = re.sub(r"\S+ images/s", "# images/s", text)
    text = re.sub(r"\b\d+ s\b", "# s", text)
    lines, seconds = [], None
    for line in text.splitlines():
        if re.match(r"[IWEF]\d{4} \d\d:", line) or "%|" in line:
            continue
        if keep:
            lines.append(line.rstrip())
            continue
        line = re.sub(r"^(Seconds a run:).*", r"\1 #", line)
        cells = line.split("|")
        if not line.startswith("|"):
            seconds = None
        elif seconds is None:
            names = [cell.strip() for cell in cells]
            seconds = names.index("seconds") if "seconds" in names else -1
        elif seconds > 0 and "---" not in line:
            line = "|".join([*cells[:seconds], " # ", *cells[seconds + 1 :]])
        lines.append(line.rstrip())
    return lines


def record_smoke(runner: Runner, name: str, folder: Path) -> dict[str, Any]:
    """Runs the commands of a case; returns what they printed and what is in the folder."""
    write_given(folder)
    given = set(folder.rglob("*"))
    steps = [runner(command, folder) for command in SMOKE[name]]
    made = sorted(path for path in folder.rglob("*") if path.is_file() and path not in given)
    named = {_file_name(path.relative_to(folder)): path for path in made}
    found: dict[str, Any] = {"steps": steps, "files": sorted(named)}
    for file, path in named.items():
        if path.suffix == ".json":
            content = _scrub(json.loads(path.read_text()))
            is_run = isinstance(content, dict) and set(content) == {"config", "figures"}
            key = file.removesuffix(".json") if is_run else file
            found.setdefault("runs" if is_run else "json", {})[key] = content
        elif path.suffix == ".jsonl":
            lines = [_scrub(json.loads(line)) for line in path.read_text().splitlines()]
            if runs := _runs(lines):  # the new form of many small files
                home = Path(file).parent if path.stem == "results" else Path(file).with_suffix("")
                runs = {(home / name).as_posix(): one for name, one in runs.items()}
                found["runs"] = found.get("runs", {}) | runs
            else:
                found.setdefault("jsonl", {})[file] = lines
        elif path.suffix == ".md":
            found.setdefault("text", {})[file] = _lines(path.read_text(), folder)
        elif path.suffix in PICTURES:
            found.setdefault("pictures", {})[file] = _pixels(path)
    return _without_numbers(found) if name.startswith("benchmark") else found


def _file_name(path: Path) -> str:
    """A file's path; of a checkpoint that of its folder, of curves without time and host."""
    parts = path.parts
    for number, part in enumerate(parts[:-1]):
        if part == "checkpoints":
            return "/".join([*parts[: number + 2], ""])
    return re.sub(r"(events\.out\.tfevents)\..*", r"\1", path.as_posix())


def _scrub(value: Any) -> Any:
    """JSON without times and the machine."""
    if isinstance(value, dict):
        return {key: _scrub(one) for key, one in value.items() if key not in VOLATILE}
    return [_scrub(one) for one in value] if isinstance(value, list) else value


def _without_numbers(value: Any) -> Any:
    """What is left of a benchmark's record where every figure is of that moment."""
    if isinstance(value, dict):
        return {key: _without_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_numbers(one) for one in value]
    if isinstance(value, str):
        spaced = re.sub(r"-?\d[\d.,]*", "#", value)
        return spaced.split("device cpu")[0]
    return "#" if isinstance(value, float) else value


def _pixels(path: Path) -> dict[str, Any]:
    """Mode, size, frames, and the SHA-256 of the decoded pixels of all frames."""
    with Image.open(path) as opened:
        frames = [frame.copy() for frame in ImageSequence.Iterator(opened)]
        durations = [frame.info.get("duration") for frame in ImageSequence.Iterator(opened)]
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.mode} {frame.size} ".encode() + frame.tobytes())
    first = np.asarray(frames[0].convert("RGB"), np.float64)
    return {
        "mode": frames[0].mode,
        "size": list(frames[0].size),
        "frames": len(frames),
        "durations": sorted({duration for duration in durations if duration}),
        "mean": [round(float(value), 4) for value in first.mean(axis=(0, 1))],
        "sha256": digest.hexdigest(),
    }


def write_given(folder: Path) -> None:
    """Draws the inputs: always the same, small, and enough for every command."""

    def draw(path: str, width: int, height: int, seed: int, phase: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        down, across = np.mgrid[:height, :width] / max(width, height)
        pixels = np.stack([down, across, 1 - down], axis=-1)
        for colour in random.uniform(size=(6, 3)):
            top, left = random.uniform(0.2, 0.8, 2) + 0.1 * np.array([np.sin(phase), np.cos(phase)])
            pixels[np.hypot(down - top, across - left) < random.uniform(0.05, 0.2)] = colour
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * pixels).round().astype(np.uint8)).save(file, format="PNG")

    draw("given/a.png", 44, 40, 1)
    draw("given/b.png", 36, 52, 2)
    for action in ("nod", "wave"):
        for number in range(5):
            for seed, character in enumerate(("driver", "puppet")):
                draw(f"own/{character}/{action}/{number}.png", 40, 40, seed + 3, number)
    for seed, (split, count) in enumerate(
        {"trainA": 6, "trainB": 5, "testA": 3, "testB": 3}.items()
    ):
        for number in range(count):
            draw(f"domains/{split}/{number}.png", 40, 36, 10 * seed + number)
    for name, width, height, seed in (("content", 96, 80, 5), ("target", 88, 96, 6)):
        draw(f"pictures/{name}.png", width, height, seed)
        mask = np.zeros((height, width, 3), np.uint8)
        mask[:, width // 2 :] = (255, 0, 0)
        Image.fromarray(mask).save(folder / f"pictures/{name}_mask.png")
    # Files with the names of sets come before these sets, so that nothing is fetched.
    for number in range(27):
        draw(f"carphone/{number}.png", 176, 144, 7, number / 2)
    draw("MonaLisa", 320, 240, 8)
    for seed, animal in enumerate(("jaguar", "lemur", "scarlet_macaw")):
        draw(f"explore_world_animals/{animal}", 320, 240, 20 + seed)
    draw("erase/crab", 320, 240, 23)
    (folder / "full").mkdir()
    (folder / "full/file").write_text("no picture\n")


def record_texts(
    runner: Runner, name: str, folder: Path, commands: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What commands print that leave nothing: help, errors."""
    write_given(folder)
    before = set(folder.rglob("*"))
    is_experiment = name != "experiments"
    steps = [
        runner(command.format(name), folder, is_experiment=is_experiment)
        for command in commands[name]
    ]
    left = {path.relative_to(folder).as_posix() for path in set(folder.rglob("*")) - before}
    return {"steps": steps, "files": sorted(left)}


def record_table(runner: Runner, name: str, folder: Path) -> dict[str, Any]:
    """What a command shows of the committed evidence, a copy of which it sees."""
    write_given(folder)
    command = TABLES[name]
    home = ROOT / WORK / command.split()[0]
    if any(home.glob("results/**/*.json")):
        shutil.copytree(home / "results", folder / "evidence")
    else:
        command = NEW_TABLES.get(name, command)
        for source, copy in ((home / "results.jsonl", "evidence.jsonl"), (home, "evidence")):
            if source.is_file():
                shutil.copy(source, folder / copy)
            elif source.is_dir():
                shutil.copytree(source, folder / copy)
    done = runner(command, folder, seconds=True)
    # The command itself may be another one; what it shows may not.
    rows = [line for line in done["stdout"] if line.startswith("|")]
    files = sorted(p.relative_to(folder).as_posix() for p in folder.glob("runs/**/*"))
    pictures = {
        path.relative_to(folder).as_posix(): _pixels(path)
        for path in sorted(folder.glob("runs/**/*"))
        if path.suffix in PICTURES
    }
    return {
        "status": done["status"],
        "rows": rows,
        "stdout": done["stdout"],
        "stderr": done["stderr"],
        "files": files,
        "pictures": pictures,
    }


def record(out: Path, only: str) -> int:
    """Records all items whose name has this text in it; returns the exit status."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="safety-net-") as guard:
        runner = Runner(Path(guard))
        runner.check(Path(guard))
        makers = {
            **{f"help/{name}": (record_texts, name, HELP) for name in HELP},
            **{f"errors/{name}": (record_texts, name, ERRORS) for name in ERRORS},
            **{f"tables/{name}": (record_table, name) for name in TABLES},
            **{f"smoke/{name}": (record_smoke, name) for name in SMOKE},
        }
        plain = {"evidence": evidence, "readme_tables": readme_tables}
        for name, make in plain.items():
            if only in name:
                _write(out / f"{name}.json", make())
        for item, (make, *arguments) in makers.items():
            if only not in item:
                continue
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="safety-net-") as folder:
                found = make(runner, arguments[0], Path(folder).resolve(), *arguments[1:])
            seconds[item] = round(time.perf_counter() - began, 1)
            _write(out / f"{item}.json", found)
            steps = found.get("steps", [found])
            statuses = " ".join(str(step["status"]) for step in steps)
            print(f"{item}: {seconds[item]:.0f} s, exit status {statuses}", flush=True)
    _write(out / "about.json", about())
    path = out / "seconds.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    _write(path, known | seconds)
    parts: Counter[str] = Counter()
    for item, value in seconds.items():
        parts[item.split("/")[0]] += value
    print(", ".join(f"{part} {value:.0f} s" for part, value in parts.items()))
    return 0


def about() -> dict[str, Any]:
    """What the last bits depend on beside the tree."""
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    cpu = Path("/proc/cpuinfo")
    models = re.findall("model name\t: (.*)", cpu.read_text()) if cpu.exists() else []
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pillow", "tyro", "matplotlib")
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(affinity(0)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- Comparing ---


_NOTHING = object()


def pairs(old: Any, new: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any, Any]]:
    """`(place, old, new)` of everything in two JSON values, or one of a part that only one has; a
    list of texts is one value.
    """
    if isinstance(old, dict) and isinstance(new, dict) and (old or new):
        for key in dict.fromkeys([*old, *new]):
            yield from pairs(old.get(key, _NOTHING), new.get(key, _NOTHING), (*place, key))
    elif isinstance(old, list) and isinstance(new, list) and not _is_text(old) | _is_text(new):
        for number, (one, other) in enumerate(itertools.zip_longest(old, new, fillvalue=_NOTHING)):
            yield from pairs(one, other, (*place, str(number)))
    else:
        yield place, old, new


def _is_text(value: list[Any]) -> bool:
    return all(isinstance(one, str) for one in value)


def compare(old: Path, new: Path, only: str) -> int:
    """Prints the differences of two records; returns the exit status."""
    counts: dict[str, Counter[str]] = {}
    items = [
        {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.json")}
        for folder in (old, new)
    ]
    if all("about" in of for of in items):
        for place, *found in pairs(*(_read(folder / "about.json") for folder in (old, new))):
            if found[0] != found[1]:
                print(f"NOT MADE ALIKE: {place[0]} {found[0]}, {found[1]}")
    for item in sorted(set.union(*items) - {"seconds", "about"}):
        if only not in item:
            continue
        if missing := [str(f) for f, of in zip((old, new), items, strict=True) if item not in of]:
            print(f"{item}: not recorded in {missing[0]}")
            counts.setdefault("items", Counter())["different"] += 1
            continue
        for place, *found in pairs(*(_read(folder / f"{item}.json") for folder in (old, new))):
            texts = [None if one is _NOTHING else json.dumps(one) for one in found]
            equal = texts[0] == texts[1]
            counts.setdefault(_kind(item, place), Counter())["equal" if equal else "different"] += 1
            if not equal:
                _show(f"{item}: {' / '.join(place)}", *found, texts)
    print()
    for kind, count in sorted(counts.items()):
        print(f"{kind:28} {count['equal']:7} equal {count['different']:5} different")
    different = sum(count["different"] for count in counts.values())
    print(f"{different} differences" if different else "no difference")
    return 1 if different else 0


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _kind(item: str, place: tuple[str, ...]) -> str:
    part = item.split("/")[0]
    if part in ("help", "errors", "tables", "smoke"):
        inner = place[2] if place[0] == "steps" and len(place) > 2 else place[0]
        return f"{part}, {inner}"
    return f"{part}, {place[1]}" if part == "evidence" and len(place) > 1 else part


def _show(title: str, old: Any, new: Any, found: Sequence[str | None]) -> None:
    if isinstance(old, list) and isinstance(new, list):
        print(f"{title}:")
        for line in difflib.unified_diff(old, new, "old", "new", lineterm="", n=1):
            print(f"    {line}")
        return
    shown = ["nothing" if one is None else one for one in found]
    shown = [one if len(one) < 300 else f"{one[:300]}..." for one in shown]
    if isinstance(old, float) and isinstance(new, float) and old:
        shown.append(f"relative {abs(new - old) / abs(old):.1e}")
    print(f"{title}: {' -> '.join(shown[:2])}{''.join(f' ({one})' for one in shown[2:])}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="record this tree")
    recording.add_argument("out", type=Path, metavar="OUTDIR")
    comparing = commands.add_parser("compare", help="compare two records")
    comparing.add_argument("old", type=Path, metavar="OLD")
    comparing.add_argument("new", type=Path, metavar="NEW")
    for one in (recording, comparing):
        one.add_argument("--only", default="", metavar="NAME", help="items with this in the name")
    chosen = parser.parse_args(arguments)
    if chosen.command == "record":
        return record(chosen.out.absolute(), chosen.only)
    return compare(chosen.old, chosen.new, chosen.only)


if __name__ == "__main__":
    sys.exit(main())
