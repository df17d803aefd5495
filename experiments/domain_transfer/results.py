"""What is made of the held-out sources: pictures and scores."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cxjax
from experiments import generators, metrics, tables
from experiments.domain_transfer.config import Config
from experiments.domain_transfer.domains import Domains
from experiments.domain_transfer.judge import train_classifier
from experiments.losses import over_batch

SHOWN = 10
SCORES = {
    "lpips": "LPIPS",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "cx": "CX",
    "target": "judged target",
    "kid": "KID",
}
_JUDGED_BY = 1000  # true pictures of each domain that the classifier learns from, at most


def finish(
    config: Config,
    folder: Path,
    *,
    make: Callable[[np.ndarray], np.ndarray],
    domains: Domains,
    seconds: float | None,
) -> dict[str, Any]:
    """Writes what is made of the held-out sources, and its scores; returns these."""
    given = domains.held_out_source.stack()
    made = generators.make_all(make, given)
    truth = domains.held_out_target.stack()
    shown = np.linspace(0, len(given) - 1, SHOWN).round().astype(int)
    rows = {"given": given[shown], "made": made[shown]}
    tables.write_rows(folder, rows | ({"truth": truth[shown]} if domains.paired else {}))
    figures = judge(config, made, truth, domains)
    figures = generators.write_figures(folder, figures, seconds=seconds)
    print(tables.markdown(*shown_scores({"": [figures]})))
    return figures


def judge(config: Config, made: np.ndarray, truth: np.ndarray, domains: Domains) -> dict[str, Any]:
    """Scores of what was made: against each hidden truth if there are any, and as a set.

    Returns:
      `"lpips"`, `"psnr"`, `"ssim"`, and `"cx"`, the Contextual Loss on the layers that `cx`
      compares with the target; `"target"`, the share that the classifier takes for the target, with
      its share of right answers on true held-out pictures, `"classifier"`; `"kid"`. Of pairs these
      are the pairs whose truth it finds more like the target than the source, and, of those, the
      results that it finds nearer to their truth than to their source.
    """
    figures: dict[str, Any] = {}
    if domains.paired:
        features = jax.jit(generators.make_features(config, config.target_layers))

        @jax.jit
        def contextual(x, y):
            return over_batch(cxjax.contextual_loss, x, y, config.target_layers)

        figures["lpips"] = float(metrics.lpips(made, truth).mean())
        figures["psnr"] = float(metrics.psnr(made, truth).mean())
        figures["ssim"] = float(metrics.ssim(made, truth).mean())
        pairs = zip(made, truth, strict=True)
        losses = [contextual(*(features(image[None]) for image in pair)) for pair in pairs]
        figures["cx"] = float(np.mean(losses))
    classify = train_classifier(domains.source.stack(_JUDGED_BY), domains.target.stack(_JUDGED_BY))
    odds, low, high = map(classify, (made, domains.held_out_source.stack(), truth))
    if domains.paired:
        right = high > low
        taken = (odds > (low + high) / 2)[right]
    else:
        right, taken = np.concatenate([high > 0, low < 0]), odds > 0
    return figures | {
        "target": float(taken.mean()) if len(taken) else 0.0,
        "classifier": float(right.mean()),
        "kid": metrics.kid(made, truth),
    }


def shown_scores(rows: Mapping[str, list[Mapping[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: by name, the figures of several seeds."""
    digits = {"psnr": 2, "cx": 2, "target": 2}
    names = [
        name for name in SCORES if any(name in f for figures in rows.values() for f in figures)
    ]
    cells = [
        [
            row,
            *(
                tables.spread([f[name] for f in figures if name in f], digits.get(name, 3))
                for name in names
            ),
            tables.spread([f["seconds"] for f in figures if f.get("seconds")], 0),
        ]
        for row, figures in rows.items()
    ]
    return ["", *(SCORES[name] for name in names), "seconds"], cells
