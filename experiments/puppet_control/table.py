"""The table: every loss on the same pairs, over seeds, shifts, and another pair of characters."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from experiments import sweeps, tables
from experiments.puppet_control import train
from experiments.puppet_control.config import DEFAULT, LOSSES, Config, Loss

Part = Literal["main", "shift", "aligned", "cat"]
OUT = Path("out/puppet_control")
SEEDS = (0, 1, 2)
SHIFTS = (0, 2, 4, 8)  # pixels of 64; 0 is the aligned control
ALIGNED = {"shift": 0, "jitter": 0, "warp": 0.0}
TRAINED: tuple[Loss, ...] = tuple(loss for loss in LOSSES if loss != "identity")
SWEPT: tuple[Loss, ...] = ("cx", "l1", "l1_perceptual", "perceptual", "gram")
NAMES: dict[Loss, str] = {
    "identity": "identity: the driver's own frame",
    "l1": "L1",
    "l1_perceptual": "L1 + 0.1 perceptual",
    "perceptual": "perceptual",
    "gram": "Gram",
    "pix2pix": "pix2pix: 100 L1 + adversarial",
    "cx": "CX",
    "cx_perceptual": "CX + 0.1 perceptual",
}
# The same of aligned pairs, for the control in which L1 should do well.
CHOSEN_ALIGNED: dict[Loss, float] = {"l1": 3e-3, "cx": 3e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetTableConfig(tables.TableConfig):
    """Makes the tables: runs what has no result yet. It can be stopped at any time, and goes on."""

    results: Path = OUT / "results"
    runs: Path = OUT / "runs"
    part: tuple[Part, ...] = ("main", "shift", "aligned", "cat")
    """Tables to make: the losses over seeds, over shifts, on aligned pairs with rates tuned on
    such, and from smileys to cats."""
    losses: tuple[Loss, ...] = LOSSES
    """Losses to run and show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(tables.TableConfig):
    """Tries learning rates for each loss, on the validation actions."""

    results: Path = OUT / "results"
    runs: Path = OUT / "runs"


def settings(loss: Loss) -> Config:
    """The configuration of a loss in the tables."""
    rate, beta1 = dataclasses.replace(DEFAULT, loss=loss).adam
    return dataclasses.replace(DEFAULT, loss=loss, beta1=beta1, learning_rate=rate)


def table_runs() -> dict[str, Config]:
    """The configurations of all runs of the tables, by name."""
    test: dict[Loss, Config] = {
        loss: dataclasses.replace(settings(loss), held_out="test") for loss in NAMES
    }
    runs = {}
    for seed in SEEDS:
        for loss, config in test.items():
            if loss != "identity" or seed == 0:
                runs[f"main/{loss}-seed{seed}"] = dataclasses.replace(config, seed=seed)
    for loss, config in test.items():
        runs[f"cat/{loss}"] = dataclasses.replace(config, pair="smiley-cat")
    for shift in SHIFTS:
        for loss in SWEPT:
            runs[f"shift/{loss}-{shift}"] = dataclasses.replace(
                test[loss], **(ALIGNED | {"shift": shift})
            )
    for seed in SEEDS:
        for loss, rate in CHOSEN_ALIGNED.items():
            runs[f"aligned/{loss}-seed{seed}"] = dataclasses.replace(
                test[loss], **ALIGNED, learning_rate=rate, seed=seed
            )
    return runs


def make(config: PuppetTableConfig) -> None:
    """Makes the tables and shows them."""
    chosen = {
        name: run
        for name, run in table_runs().items()
        if name.split("/")[0] in config.part and run.loss in config.losses
    }
    found = tables.without_diverged(tables.collect_trained(chosen, train.run, config))
    if "main" in config.part:
        print(f"\n{_seeds_table(found, 'main', 'loss')}")
    if "cat" in config.part:
        print(f"\n{_cat_table(found)}")
    if "shift" in config.part:
        print(f"\n{_shift_table(found)}")
    if "aligned" in config.part:
        print(f"\n{_seeds_table(found, 'aligned', 'aligned pairs')}")
    for part, names in (
        ("main", [f"main/{loss}-seed{SEEDS[0]}" for loss in NAMES]),
        ("cat", [f"cat/{loss}" for loss in NAMES]),
    ):
        if part in config.part:
            tables.write_gallery(config.runs / f"{part}.webp", config.runs, names)
    if "shift" in config.part:
        draw_shifts(found, config.runs / "shift.webp")


def tune(config: TuneConfig) -> None:
    """Makes the sweeps and shows them, the best in bold; the second is of aligned pairs."""
    print(sweeps.show(sweep(config), NAMES))
    print(f"\n{sweeps.show(sweep_aligned(config), NAMES)}")


def sweep(config: TuneConfig) -> sweeps.Sweep:
    """The scores of every loss at every rate, from runs half as long as the table's."""
    return _sweep(config, TRAINED, "tuning")


def sweep_aligned(config: TuneConfig) -> sweeps.Sweep:
    """The same of the losses of the aligned control, on aligned pairs."""
    return _sweep(config, CHOSEN_ALIGNED, "tuning_aligned", **ALIGNED)


def _sweep(config: TuneConfig, losses: Iterable[Loss], folder: str, **pairs: Any) -> sweeps.Sweep:
    """A sweep into a folder, on pairs that are other than the table's in what `pairs` names."""
    steps = DEFAULT.steps // 2
    runs = {loss: dataclasses.replace(settings(loss), steps=steps, **pairs) for loss in losses}
    return sweeps.collect(runs, train.run, config, part="whole", folder=folder)


def _seeds_table(found: Mapping[str, tables.Figures], part: Part, title: str) -> str:
    header = [title, "PSNR", "SSIM", "LPIPS", "region: PSNR", "SSIM", "LPIPS", "seconds"]
    rows = []
    for loss, name in NAMES.items():
        of_seeds = [f for n, f in found.items() if n.startswith(f"{part}/{loss}-seed")]
        if not of_seeds:
            continue
        cells = [
            tables.spread([figures[where][score] for figures in of_seeds], digits)
            for where in ("whole", "region")
            for score, digits in (("psnr", 2), ("ssim", 3), ("lpips", 3))
        ]
        seconds = tables.spread([f["seconds"] for f in of_seeds if f["seconds"]], 0)
        rows.append([name, *cells, seconds])
    return tables.markdown(header, rows)


def _cat_table(found: Mapping[str, tables.Figures]) -> str:
    rows = [
        [name, f"{figures['nearest']:.3f}", f"{figures['kid']:.3f}"]
        for loss, name in NAMES.items()
        if (figures := found.get(f"cat/{loss}"))
    ]
    return tables.markdown(["smiley to cat", "LPIPS to the nearest frame", "KID"], rows)


def _shift_table(found: Mapping[str, tables.Figures]) -> str:
    rows = []
    for score, digits in (("lpips", 3), ("psnr", 2)):
        for loss in SWEPT:
            names = [f"shift/{loss}-{shift}" for shift in SHIFTS]
            cells = [f"{found[n]['whole'][score]:.{digits}f}" if n in found else "" for n in names]
            rows.append([f"{score.upper()}, {NAMES[loss]}", *cells])
    return tables.markdown(["shift by up to", *(f"{shift} px" for shift in SHIFTS)], rows)


def draw_shifts(found: Mapping[str, tables.Figures], path: Path) -> None:
    """Draws LPIPS against the shift, a line for each loss whose runs are all there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for loss in SWEPT:
        names = [f"shift/{loss}-{shift}" for shift in SHIFTS]
        if all(name in found for name in names):
            scores = [found[name]["whole"]["lpips"] for name in names]
            axes.plot(SHIFTS, scores, marker="o", label=NAMES[loss])
    axes.set(xlabel="largest shift in training, pixels of 64", ylabel="LPIPS, held-out actions")
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
