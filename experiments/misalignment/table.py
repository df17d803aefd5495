"""The table: every loss at every shift, on three photographs with three seeds each."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cxjax.data import images
from experiments import tables
from experiments.misalignment import figures
from experiments.misalignment.config import (
    LOSSES,
    OPTIMIZED,
    VARIANTS,
    Config,
    Loss,
    check_distinct,
)
from experiments.misalignment.pairs import load_photograph, make_pair
from experiments.misalignment.train import Figures, measure, numbers

PHOTOGRAPHS = (
    "explore_world_animals/jaguar",
    "explore_world_animals/lemur",
    "explore_world_animals/scarlet_macaw",
)

# Score, heading of its table, digits.
COLUMNS = (
    ("psnr", "PSNR, dB", 2),
    ("ssim", "SSIM", 3),
    ("lpips", "LPIPS", 3),
    ("contrast", "contrast", 2),
)

ByShift = dict[Loss, dict[int, dict[str, list[float]]]]  # the numbers by loss, shift and score


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Makes the table: runs what has no result yet. It can be stopped at any time, and goes on."""

    results: Path
    """Folder of the runs' small files. That which is committed beside the experiment holds the
    figures of its README; a new one has all run again."""
    pictures: Path = Path("out/misalignment/table")
    """Folder for the figures, and for the pictures that the runs' first seed makes."""
    photographs: tuple[str, ...] = PHOTOGRAPHS
    """Photographs: ids of the set `photographs`, or files."""
    losses: tuple[Loss, ...] = LOSSES
    """Losses, a row of the table each."""
    shifts: tuple[int, ...] = (0, 2, 5, 10)
    """Largest shifts, in pixels, a column of the table each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, at least 0, a run of each photograph each."""
    variant: str = "default"
    """Variant whose other settings the runs have: default, paper or smoke."""

    def __post_init__(self) -> None:
        check_distinct(self, "photographs", "losses", "shifts", "seeds")
        if self.variant not in VARIANTS:
            raise ValueError(f"--variant must be one of {', '.join(VARIANTS)}; got {self.variant}")
        names = [Path(photograph).stem for photograph in self.photographs]
        if len(set(names)) < len(names):
            raise ValueError(f"--photographs must differ in their last name; got {names}")


def runs_of(config: TableConfig) -> dict[str, Config]:
    """The runs by name of file, loss by loss."""
    runs = {}
    for loss in config.losses:
        for shift in config.shifts:
            for photograph in config.photographs:
                run = dataclasses.replace(
                    VARIANTS[config.variant],
                    photograph=photograph,
                    shift=shift,
                    losses=(loss,),
                    seeds=config.seeds,
                )
                runs[_name(loss, photograph, shift)] = run.of(loss)
    return runs


def _name(loss: Loss, photograph: str, shift: int) -> str:
    return f"{loss}/{Path(photograph).stem}-shift{shift:02d}"


def run(config: TableConfig) -> str:
    """Runs what is missing, writes the figures, prints the tables and returns them."""
    runs = runs_of(config)
    firsts = {run.photograph: run for run in runs.values()}
    photographs = {name: load_photograph(run) for name, run in firsts.items()}
    config.pictures.mkdir(parents=True, exist_ok=True)

    def measured(name: str, run: Config) -> Figures:
        found, made = measure(run, photographs[run.photograph], run.losses[0])
        path = config.pictures / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        images.write_image(path, made[0])
        return found

    found = tables.collect(runs, measured, config.results, ignore=("out",))
    printed = show(config, found)
    print(printed)
    figures.write_curves(config.pictures / "curves.webp", gather(config, found))
    for name, photograph in photographs.items():
        _write_strip(config, name, photograph)
    print(f"figures in {config.pictures}")
    return printed


def gather(config: TableConfig, found: Mapping[str, Mapping[str, list]]) -> ByShift:
    """The numbers of all photographs and seeds together; what is not run yet is left out."""
    scores: ByShift = {}
    for loss in config.losses:
        for shift in config.shifts:
            for photograph in config.photographs:
                for score, values in found.get(_name(loss, photograph, shift), {}).items():
                    by_score = scores.setdefault(loss, {}).setdefault(shift, {})
                    by_score.setdefault(score, []).extend(numbers(values))
    return scores


def show(config: TableConfig, found: Mapping[str, Mapping[str, list]]) -> str:
    """The tables: one for each score, mean and standard deviation over photographs and seeds; how
    often each loss has a lower LPIPS than L1; LPIPS by photograph at the last shift; and the times.
    """
    scores = gather(config, found)
    parts = [_table(scores, *one) for one in COLUMNS]
    if "l1" in scores:
        parts.append(_against_l1(scores))
    return "\n\n".join([*parts, _by_photograph(config, found), _times(scores)])


def _table(scores: ByShift, score: str, title: str, digits: int) -> str:
    def cell(loss: Loss, shift: int) -> str:
        return tables.spread(scores[loss].get(shift, {}).get(score, []), digits)

    return _grid(scores, title, cell)


def _against_l1(scores: ByShift) -> str:
    """The same sources one by one: they differ more than the losses do."""

    def cell(loss: Loss, shift: int) -> str:
        both = [scores[one].get(shift, {}).get("lpips", []) for one in (loss, "l1")]
        if loss == "l1" or len(both[0]) != len(both[1]):  # or not all are run yet
            return ""
        return f"{sum(a < b for a, b in zip(*both, strict=True))} of {len(both[0])}"

    return _grid(scores, "LPIPS below L1's", cell)


def _by_photograph(config: TableConfig, found: Mapping[str, Mapping[str, list]]) -> str:
    shift = config.shifts[-1]
    rows = []
    for loss in config.losses:
        names = [_name(loss, photograph, shift) for photograph in config.photographs]
        values = [numbers(found.get(name, {}).get("lpips", [])) for name in names]
        rows.append([figures.LABELS[loss], *(tables.spread(one) for one in values)])
    stems = [Path(photograph).stem.replace("_", " ") for photograph in config.photographs]
    return tables.markdown([f"LPIPS at {shift} px", *stems], rows)


def _grid(scores: ByShift, title: str, cell: Callable[[Loss, int], str]) -> str:
    shifts = sorted({shift for by_shift in scores.values() for shift in by_shift})
    rows = [[figures.LABELS[one], *(cell(one, shift) for shift in shifts)] for one in scores]
    return tables.markdown([title, *(f"{shift} px" for shift in shifts)], rows)


def _times(scores: ByShift) -> str:
    parts = []
    for loss, by_shift in scores.items():
        seconds = [value for by_score in by_shift.values() for value in by_score["seconds"]]
        parts.append(f"{figures.LABELS[loss]} {np.mean(seconds):.1f} ({len(seconds)} runs)")
    return f"Seconds a run: {', '.join(parts)}."


def _write_strip(config: TableConfig, name: str, photograph: np.ndarray) -> None:
    """A row for each shift, the same source in all; only what this folder has pictures of."""
    rows = []
    for shift in config.shifts:
        run = dataclasses.replace(VARIANTS[config.variant], shift=shift, photograph=name)
        paths = {
            figures.LABELS[loss]: config.pictures / f"{_name(loss, name, shift)}.png"
            for loss in config.losses
            if loss in OPTIMIZED
        }
        if not all(path.exists() for path in paths.values()):
            print(f"{name} at shift {shift}: no pictures of all losses in {config.pictures}")
            continue
        clean = make_pair(run, photograph, config.seeds[0]).clean
        made = {label: images.read_image(path) for label, path in paths.items()}
        rows.append((f"{shift} px", {"clean": clean, **made}))
    if rows:
        figures.write_strip(config.pictures / f"{Path(name).stem}.webp", rows)
