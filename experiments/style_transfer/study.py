"""Studies of one choice at a time: bandwidth, layers, weights, optimiser, size, deformation."""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxjax.data import images
from experiments import tables
from experiments.deformation import Deformation, between, deformation
from experiments.style_transfer import pairs
from experiments.style_transfer.compare import (
    PairsConfig,
    collect,
    given_of,
    score_of,
    stylize,
    write_gallery,
    write_strip,
)
from experiments.style_transfer.config import VARIANTS, Config
from experiments.style_transfer.scores import Scores

Study = Literal[
    "bandwidth",
    "layers",
    "content_weight",
    "moment_weight",
    "position_weight",
    "size",
    "optimizer",
    "deformation",
]

# What each differs in from the default.
STUDIES: dict[Study, dict[str, dict[str, Any]]] = {
    "bandwidth": {f"h = {h}": {"style_bandwidth": h} for h in (0.05, 0.1, 0.2, 0.5, 1.0)},
    "layers": {
        "conv1_2": {"style_layers": ("conv1_2",)},
        "conv2_2": {"style_layers": ("conv2_2",)},
        "conv3_2": {"style_layers": ("conv3_2",)},
        "conv4_2": {"style_layers": ("conv4_2",)},
        "conv3_2 + conv4_2": {"style_layers": ("conv3_2", "conv4_2")},
        "conv2_2 + conv3_2 + conv4_2": {"style_layers": ("conv2_2", "conv3_2", "conv4_2")},
        "and conv5_2": {},
    },
    "content_weight": {f"w = {w}": {"content_weight": w} for w in (0.0, 0.3, 1.0, 3.0)},
    "moment_weight": {f"m = {m}": {"moment_weight": m} for m in (0.0, 1.0, 3.0, 10.0)},
    "position_weight": {f"p = {p}": {"position_weight": p} for p in (0.0, 0.1, 0.3, 1.0)},
    "optimizer": {
        "NovoGrad, pyramid": {},
        "Adam, pyramid": {"optimizer": "adam"},
        "Adam, pixels, no total variation": {
            "optimizer": "adam",
            "pyramid_levels": 1,
            "tv_weight": 0.0,
            "chroma_tv_weight": 0.0,
        },
        "L-BFGS, pyramid": {"optimizer": "lbfgs"},
    },
    "size": {f"{size} px": {"size": size} for size in (96, 128, 192)},
    "deformation": {
        "default": {},
        "the paper's losses": {
            "style_layers": ("conv2_2", "conv3_2", "conv4_2"),
            "moment_weight": 0.0,
        },
        "no loss to the content": {"content_weight": 0.0},
        "content at conv5_2": {"content_layers": ("conv5_2",)},
        "self-similarity": {"content_loss": "self_similarity"},
        "coarse scales first, less content there": {
            "scales": (0.25, 0.5, 1.0),
            "steps": (100, 100, 80),
            "coarse_content_weight": 0.3,
        },
        "places, weight 0.3": {"position_weight": 0.3},
        "places, weight 1": {"position_weight": 1.0},
        "deformation 3": {"deformation": 3.0},
        "deformation 10": {"deformation": 10.0},
        "deformation 30": {"deformation": 30.0},
    },
}

_WITH_LANDMARKS = ("astronaut-tanguy", "astronaut-hopper")
_WITH_MASKS = ("cathedral-church", "bear-bison")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig(PairsConfig):
    """Varies one setting and shows the scores, in half an hour and more: runs what has no result
    yet. It can be stopped at any time, and goes on."""

    name: Study
    """What is varied; everything else is as in the default."""
    results: Path = Path("out/style_transfer/study/results")
    """Folder of the runs' small files; that beside the experiment holds the README's figures."""
    runs: Path = Path("out/style_transfer/study")
    """Folder for the pictures."""
    pairs: tuple[str, ...] = ()
    """Names of the pairs of pictures. Without any, for deformation those with landmarks, by which
    it is known, and else those with masks, by which semantics are."""
    size: int = 128
    """Longest side of the pictures, in pixels; what --name size makes larger or smaller is brought
    to it and judged there."""


def runs_of(config: StudyConfig) -> dict[str, Config]:
    """The runs by name of file, setting by setting."""
    return {
        _name(config, setting, pair): _settings(config, setting)
        for setting in STUDIES[config.name]
        for pair in _pairs(config)
    }


def _default(config: StudyConfig) -> Config:
    return dataclasses.replace(VARIANTS[config.variant], size=config.size)


def _settings(config: StudyConfig, setting: str) -> Config:
    return dataclasses.replace(_default(config), **STUDIES[config.name][setting])


def _pairs(config: StudyConfig) -> tuple[str, ...]:
    return config.pairs or (_WITH_LANDMARKS if config.name == "deformation" else _WITH_MASKS)


def _name(config: StudyConfig, setting: str, pair: str) -> str:
    """Of its file; the default is one run, which all studies share."""
    if _settings(config, setting) == _default(config):
        return f"default/{pair}-{config.size}/default"
    plain = "".join(one if one.isalnum() or one in "._" else "-" for one in setting)
    return f"{config.name}/{pair}-{config.size}/{plain}"


def run(config: StudyConfig) -> str:
    """Runs what is missing, writes a picture of each pair, prints the table and returns it."""
    wanted = runs_of(config)

    def make(name: str, pair: pairs.Pair) -> images.Picture:
        return stylize(pair, wanted[name])

    def scores(pair: pairs.Pair, result: images.Picture) -> dict[str, Any]:
        result = images.resize_to(result, given_of(pair, config.size)[0].shape[:2])
        found = score_of(pair, result, config.size)._asdict()
        return found | _deformation(pair, result, config.size)

    found = collect(config, wanted, make, scores)
    printed = show(config, found)
    print(printed)
    if config.name == "deformation" and (by_hand := show_by_hand(config)):
        print(f"\n{by_hand}")
        printed += f"\n{by_hand}"
    folder = config.runs / config.name
    if config.name == "deformation" and (curve := draw_curve(config, found, folder / "curve.png")):
        print(f"{curve}: share against content lost")
    paths_of = {
        pair: {one: config.runs / f"{_name(config, one, pair)}.png" for one in STUDIES[config.name]}
        for pair in _pairs(config)
    }
    for pair, paths in paths_of.items():
        write_strip(config, pair, [*paths.values()], folder / f"{pair}-{config.size}")
    write_gallery(config, folder / "gallery.png", paths_of)
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
    """A table: a row for each setting, means over the pairs, semantics only of those with masks;
    of deformation, where pairs differ much, a row for each pair."""
    groups = [_pairs(config)]
    if config.name == "deformation":
        groups = [(pair,) for pair in _pairs(config)]
    known = {name for one in found.values() for name, value in one.items() if value is not None}
    fields = (*Scores._fields, *(Deformation._fields if config.name == "deformation" else ()))
    names = [name for name in fields if name in known]
    rows = []
    for group in groups:
        for setting in STUDIES[config.name]:
            runs = [found[n] for pair in group if (n := _name(config, setting, pair)) in found]
            values = [[one[name] for one in runs if one.get(name) is not None] for name in names]
            cells = [f"{statistics.fmean(each):.3f}" if each else "" for each in values]
            of = group[0] if len(group) == 1 else f"{len(runs)} pairs"
            rows.append([f"{setting} ({of})", *cells])
    headings = [name.replace("_", " ") for name in names]
    return tables.markdown([f"at {config.size} px", *headings], rows)


def show_by_hand(config: StudyConfig) -> str | None:
    """A table of landmarks that were placed by hand in some results too, if there are any: a flow
    does not see an outline that is painted anew."""
    path = config.results / "deformation/landmarks.json"
    if not path.exists():
        return None
    rows = []
    for pair, known in json.loads(path.read_text()).items():
        sources = (pairs.PAIRS[pair].content, pairs.PAIRS[pair].target)
        content, target = (np.array(pairs.LANDMARKS[source.name]) for source in sources)
        for setting, placed in known["placed"].items():
            face, outline, whole = (
                between(
                    content[part],
                    np.array(placed)[part],
                    target[part],
                    shape=known["shape"],
                    target_shape=known["target_shape"],
                )
                for part in (pairs.FACE, pairs.OUTLINE, slice(None))
            )
            values = (whole.share, face.share, face.shape_share, outline.share)
            rows.append([f"{setting} ({pair})", *(f"{value:.2f}" for value in values)])
    headings = ["share", "of the face", "its shape share", "of the outline"]
    return tables.markdown(["by hand", *headings], rows)


def draw_curve(
    config: StudyConfig, found: Mapping[str, Mapping[str, Any]], path: Path
) -> Path | None:
    """Draws how far shapes moved against what it cost of the content, a part for each pair."""
    from matplotlib.figure import Figure

    known = [pair for pair in _pairs(config) if _name(config, "default", pair) in found]
    if not known:
        return None
    figure = Figure(figsize=(4.5 * len(known), 3.4), layout="constrained")
    for axes, pair in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        for setting in STUDIES[config.name]:
            if one := found.get(_name(config, setting, pair)):
                of_field = setting.startswith("deformation")
                axes.plot(one["lpips"], one["share"], "s" if of_field else "o", label=setting)
        axes.set(title=pair, xlabel="content lost (LPIPS)", ylabel="share of the way")
        axes.axhline(0, color="grey", linewidth=0.5)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
