"""Studies of one choice at a time: bandwidth, layers, weight of the content, size, deformation."""

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxjax.data import images
from experiments import tables
from experiments.deformation import Deformation, deformation
from experiments.style_transfer import pairs
from experiments.style_transfer.compare import (
    PairsConfig,
    collect,
    given_of,
    score_of,
    stylize,
    write_strip,
)
from experiments.style_transfer.config import VARIANTS, Config
from experiments.style_transfer.scores import Scores

Study = Literal["bandwidth", "layers", "content_weight", "size", "deformation"]

# What each differs in from the default.
STUDIES: dict[Study, dict[str, dict[str, Any]]] = {
    "bandwidth": {f"h = {h}": {"style_bandwidth": h} for h in (0.05, 0.1, 0.2, 0.5, 1.0)},
    "layers": {
        "conv1_2": {"style_layers": ("conv1_2",)},
        "conv2_2": {"style_layers": ("conv2_2",)},
        "conv3_2": {"style_layers": ("conv3_2",)},
        "conv4_2": {"style_layers": ("conv4_2",)},
        "conv3_2 + conv4_2": {"style_layers": ("conv3_2", "conv4_2")},
        "conv2_2 + conv3_2 + conv4_2": {},
        "and conv5_2": {"style_layers": ("conv2_2", "conv3_2", "conv4_2", "conv5_2")},
    },
    "content_weight": {f"w = {w}": {"content_weight": w} for w in (0.0, 0.3, 1.0, 3.0)},
    "size": {
        **{f"{size} px": {"size": size} for size in (96, 128, 192, 256)},
        "256 px from 64 px": {"size": 256, "scales": (0.25, 0.5, 1.0), "steps": (100, 100, 80)},
    },
    "deformation": {
        "default": {},
        "no loss to the content": {"content_weight": 0.0},
        "content at conv5_2": {"content_layers": ("conv5_2",)},
        "self-similarity": {"content_loss": "self_similarity"},
        "coarse scales first": {
            "scales": (0.25, 0.5, 1.0),
            "steps": (100, 100, 80),
            "coarse_content_weight": 0.3,
        },
        "deformation 3": {"deformation": 3.0},
        "deformation 10": {"deformation": 10.0},
        "deformation 30": {"deformation": 30.0},
    },
}

_WITH_LANDMARKS = ("astronaut-tanguy", "astronaut-hopper")
_WITH_MASKS = ("cathedral-church", "bear-bison")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig(PairsConfig):
    """Makes a study: runs what has no result yet. It can be stopped at any time, and goes on."""

    name: Study = "deformation"
    """What is varied; everything else is as in the default."""
    results: Path = Path("out/style_transfer/study/results")
    """Folder of the runs' small files; that beside the experiment holds the README's figures."""
    runs: Path = Path("out/style_transfer/study")
    """Folder for the pictures."""
    pairs: tuple[str, ...] = ()
    """Names of the pairs of pictures. Without any, for deformation those with landmarks, by which
    it is known, and else those with masks, by which semantics are."""
    size: int = 160
    """Longest side of the pictures, in pixels; what --name size makes larger or smaller is brought
    to it and judged there."""


def runs_of(config: StudyConfig) -> dict[str, Config]:
    """The runs by name of file, setting by setting."""
    base = dataclasses.replace(VARIANTS[config.variant], size=config.size)
    return {
        _name(config, setting, pair): dataclasses.replace(base, **changes)
        for setting, changes in STUDIES[config.name].items()
        for pair in _pairs(config)
    }


def _pairs(config: StudyConfig) -> tuple[str, ...]:
    return config.pairs or (_WITH_LANDMARKS if config.name == "deformation" else _WITH_MASKS)


def _name(config: StudyConfig, setting: str, pair: str) -> str:
    plain = "".join(one if one.isalnum() or one in "._" else "-" for one in setting)
    return f"{config.name}/{pair}-{config.size}/{plain}"


def run(config: StudyConfig) -> str:
    """Runs what is missing, writes a picture of each pair, prints the table and returns it."""
    wanted = runs_of(config)
    shapes = config.name == "deformation"

    def make(name: str, pair: pairs.Pair) -> images.Picture:
        return stylize(pair, wanted[name])

    def scores(pair: pairs.Pair, result: images.Picture) -> dict[str, Any]:
        result = images.resize_to(result, given_of(pair, config.size)[0].shape[:2])
        found = score_of(pair, result, config.size)._asdict()
        return found | (_deformation(pair, result, config.size) if shapes else {})

    printed = show(config, collect(config, wanted, make, scores))
    print(printed)
    for pair in _pairs(config):
        names = [_name(config, setting, pair) for setting in STUDIES[config.name]]
        write_strip(config, pair, [config.runs / f"{name}.png" for name in names])
    return printed


def _deformation(pair: pairs.Pair, result: images.Picture, size: int) -> dict[str, float]:
    sources = (pair.content, pair.target)
    if not all(source.name in pairs.LANDMARKS for source in sources):
        return {}
    content, target = given_of(pair, size)
    landmarks = [np.array(pairs.LANDMARKS[source.name]) for source in sources]
    return deformation(
        content,
        result,
        landmarks=landmarks[0],
        target_landmarks=landmarks[1],
        target_shape=target.shape[:2],
    )._asdict()


def show(config: StudyConfig, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the means over the pairs, a row for each setting; semantics only of those with
    masks."""
    names = [*Scores._fields, *(Deformation._fields if config.name == "deformation" else ())]
    known = {name for one in found.values() for name, value in one.items() if value is not None}
    names = [name for name in names if name in known]
    rows = []
    for setting in STUDIES[config.name]:
        runs = [found.get(_name(config, setting, pair)) for pair in _pairs(config)]
        runs = [figures for figures in runs if figures]
        values = [[one[name] for one in runs if one.get(name) is not None] for name in names]
        cells = [f"{statistics.fmean(found):.3f}" if found else "" for found in values]
        rows.append([f"{setting} ({len(runs)})", *cells])
    headings = [name.replace("_", " ") for name in names]
    return tables.markdown([f"at {config.size} px (pairs)", *headings], rows)
