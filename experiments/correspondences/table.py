"""How many matches are right where the truth is known: photographs under smooth warps."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxjax.data.images import Picture
from cxjax.features.vgg import Network
from cxjax.points import Points
from experiments.correspondences.config import check, check_positive
from experiments.correspondences.matching import make_features, match
from experiments.correspondences.pictures import Photograph, photograph
from experiments.correspondences.score import middle, score
from experiments.correspondences.warp import draw_warp, recoloured, warped_pair
from experiments.tables import collect, markdown, spread

CONDITIONS = ("warped", "recoloured")  # and warped before that
_MARGIN = 1.25  # sides of the whole photograph, of which the source is the middle


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Makes the table of right matches: runs what has no result yet. It can be stopped at any time,
    and goes on.
    """

    results: Path = Path(__file__).with_name("results")
    """Folder of the small files, one per photograph and condition. That which is committed beside
    the experiment holds the figures of its README; a new one has all run again."""
    photographs: tuple[Photograph, ...] = ("astronaut", "coffee", "chelsea")
    """Photographs of scikit-image."""
    seeds: int = 5
    """Number of warps of each photograph, 1 to 1000."""
    size: int = 256
    """Side of the pictures, in pixels."""
    network: Network = "vgg16"
    """Feature network; vgg19 needs a download or --weights."""
    weights: Path | None = None
    """File of weights for it: .safetensors, .pth, .mat, .h5 or .ckpt."""
    layers: tuple[str, ...] = ("conv3_2", "conv4_2")
    """Layers that a point's features are of; several are resized to the first one's grid."""
    bandwidths: tuple[float, ...] = (0.1, 0.2, 0.5)
    """h of the Contextual Similarity, above 0, a row each."""
    spatial_weights: tuple[float, ...] = (0.25,)
    """CoBi's weight of a displacement as long as the picture's side, above 0, a row each."""
    radii: tuple[float, ...] = (4.0, 8.0, 16.0)
    """How far from the truth a match may be, in pixels, a column each."""

    def __post_init__(self) -> None:
        check(self)
        for name in ("bandwidths", "spatial_weights", "radii"):
            check_positive(name, *getattr(self, name))
        if not self.photographs or not self.radii:
            raise ValueError("--photographs and --radii need at least one each")
        if len(set(self.photographs)) < len(self.photographs):
            raise ValueError(f"a photograph is named twice in {self.photographs}")
        if not 1 <= self.seeds <= 1000:
            raise ValueError(f"--seeds must lie in 1 to 1000; got {self.seeds}")
        if self.results.exists() and not self.results.is_dir():
            raise ValueError(f"--results {self.results} is not a folder")


def run(config: TableConfig) -> dict[str, Mapping[str, Any]]:
    """Measures what has no file yet, and prints the tables."""
    settings = dataclasses.replace(config, results=Path(), weights=None)  # no paths in the files
    runs = {
        f"{name}{_ending(condition)}": dataclasses.replace(settings, photographs=(name,))
        for condition in CONDITIONS
        for name in config.photographs
    }
    features: list[Callable[[Picture], Points]] = []

    def measure(name: str, settings: TableConfig) -> dict[str, Any]:
        if not features:  # not loaded where all results are there
            features.append(make_features(config))
        recolour = name.endswith("-recoloured")
        rounds = [_judge(settings, features[0], seed, recolour) for seed in range(config.seeds)]
        return {key: _listed([one[key] for one in rounds]) for key in rounds[0]}

    found = collect(runs, measure, config.results)
    if found:
        print(tables(config, found))
    return found


def _judge(
    config: TableConfig, features: Callable[[Picture], Points], seed: int, recolour: bool
) -> dict[str, Any]:
    """The figures of one warp of the first photograph."""
    name = config.photographs[0]
    generator = randomness(name, seed)
    warp = draw_warp(generator, config.size)
    whole = photograph(name, shortest_side=round(_MARGIN * config.size))
    source, target = warped_pair(whole, warp)
    if recolour:
        target = recoloured(generator, target)
    x, y = features(source), features(target)
    options = {"bandwidths": config.bandwidths, "spatial_weights": config.spatial_weights}
    return score(x, y, match(x, y, **options, size=config.size), warp, config.radii)


def randomness(name: Photograph, seed: int) -> np.random.Generator:
    """Draws warp and light: others for each photograph, so that none is tuned on that is scored."""
    return np.random.default_rng([seed, *name.encode()])


def _listed(values: list[Any]) -> Any:
    """The figures of several seeds: each number a list of numbers, to four digits."""
    if isinstance(values[0], dict):
        return {key: _listed([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [_listed(list(value)) for value in zip(*values, strict=True)]
    return [round(value, 4) for value in values]


def tables(config: TableConfig, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Four Markdown tables: matches of all photographs together, of each on its own, what is gained
    over nearest neighbours, and how often a source is used.

    A figure is the mean over the seeds with its standard deviation; of all photographs together,
    each seed's is itself the mean over the photographs.
    """
    of = {c: [found[name] for name in found if name.endswith(_ending(c))] for c in CONDITIONS}
    of = {condition: files for condition, files in of.items() if files}
    first = next(iter(found.values()))
    rules, baseline, *others = first["share"], *first["used"]
    at = middle(config.radii)
    within = f"{config.radii[at]:g} px"

    together, gains, sources = [], [], []
    for rule in rules:
        shares = [_mean([f["share"][rule] for f in files]) for files in of.values()]
        together.append([rule, *(spread(list(share)) for all in shares for share in all)])
    for rule in others:
        row = [rule]
        for files in of.values():
            gain = [np.subtract(f["share"][rule][at], f["share"][baseline][at]) for f in files]
            better = f"{(np.ravel(gain) > 0).sum()} of {np.size(gain)}"
            row += [spread(_mean(gain)), better]
        gains.append(row)
    for rule in (baseline, *others):
        row = [rule]
        for files in of.values():
            row.append(spread(_mean([f["used"][rule] for f in files]), 2))
            row += [
                spread(_mean([f["crowd"][rule][g] for f in files]), 1) for g in ("wrong", "right")
            ]
        sources.append(row)
    each = [[rule, *(spread(f["share"][rule][at]) for f in found.values())] for rule in rules]

    moved = [file["displacement"] for file in found.values()]
    mean, largest = (np.ravel([m[key] for m in moved]) for key in ("mean", "largest"))
    radii = [f"{condition}, {radius:g} px" for condition in of for radius in config.radii]
    better = [part for c in of for part in (f"{c}, less {baseline}", "pairs where better")]
    crowds = [
        f"{c}, {part}"
        for c in of
        for part in ("sources used", "targets of a source, if wrong", "if right")
    ]
    return "\n\n".join(
        [
            markdown(["matches within", *radii], together),
            markdown([f"within {within}", *found], each),
            markdown([f"within {within}", *better], gains),
            markdown([f"within {within}", *crowds], sources),
            f"Displacement: {mean.mean():.1f} px on average, {largest.max():.1f} at most, of "
            f"{config.size}.",
        ]
    )


def _ending(condition: str) -> str:
    return f"-{condition}"


def _mean(figures: Sequence[Any]) -> list[Any]:
    """Of each seed, and each radius if there are several, the mean over the files."""
    return np.mean(figures, axis=0).tolist()
