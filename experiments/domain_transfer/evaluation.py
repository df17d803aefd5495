"""What is made of the held-out sources: pictures and scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import metrics, tables
from experiments.common.generators import Make, make_all, make_features
from experiments.common.runs import Metrics
from experiments.common.tables import Column, metric
from experiments.common.terms import loss_of, over_batch
from experiments.common.training import Networks
from experiments.domain_transfer.classifier import train_classifier
from experiments.domain_transfer.config import Config
from experiments.domain_transfer.data import Domains

SHOWN = 10
COLUMNS = (
    Column("LPIPS", metric("lpips")),
    Column("PSNR", metric("psnr"), 2),
    Column("SSIM", metric("ssim")),
    Column("CX", metric("cx"), 2),
    Column("judged target", metric("target"), 2),
    Column("KID", metric("kid")),
)
_JUDGED_BY = 1000  # true pictures of each domain that the classifier learns from, at most


def evaluate(
    config: Config, networks: Networks, domains: Domains, make: Make, folder: Path
) -> Metrics:
    """Writes what is made of the held-out sources, and returns its scores."""
    given = domains.held_out_source.stack()
    made = make_all(make, given)
    truth = domains.held_out_target.stack()
    shown = np.linspace(0, len(given) - 1, SHOWN).round().astype(int)
    rows = {"given": given[shown], "made": made[shown]}
    tables.write_rows(folder, rows | ({"truth": truth[shown]} if domains.paired else {}))
    return score(config, made, truth, domains)


def show(results: Mapping[str, Metrics]) -> str:
    """The scores of a run, as a table."""
    return tables.table("", {"": list(results.values())}, columns_of(results.values()))


def columns_of(runs: Any) -> list[Column]:
    """The columns of the scores that some of the runs have, and the seconds."""
    known = [column for column in COLUMNS if any(column.value(run) is not None for run in runs)]
    return [*known, tables.SECONDS]


def score(config: Config, made: np.ndarray, truth: np.ndarray, domains: Domains) -> Metrics:
    """Scores of what was made: against each hidden truth if there are any, and as a set.

    Returns:
      `"lpips"`, `"psnr"`, `"ssim"`, and `"cx"`, the Contextual Loss on the layers that `cx`
      compares with the target; `"target"`, the share that the classifier takes for the target, with
      its share of right answers on true held-out pictures, `"classifier"`; `"kid"`. Of pairs these
      are the pairs whose truth it finds more like the target than the source, and, of those, the
      results that it finds nearer to their truth than to their source.
    """
    scores: dict[str, Any] = {}
    if domains.paired:
        features = jax.jit(make_features(config, config.target_layers))

        @jax.jit
        def contextual(x, y):
            return over_batch(loss_of("contextual"), x, y, config.target_layers)

        scores["lpips"] = float(metrics.lpips(made, truth).mean())
        scores["psnr"] = float(metrics.psnr(made, truth).mean())
        scores["ssim"] = float(metrics.ssim(made, truth).mean())
        pairs = zip(made, truth, strict=True)
        losses = [contextual(*(features(image[None]) for image in pair)) for pair in pairs]
        scores["cx"] = float(np.mean(losses))
    classify = train_classifier(domains.source.stack(_JUDGED_BY), domains.target.stack(_JUDGED_BY))
    odds, low, high = map(classify, (made, domains.held_out_source.stack(), truth))
    if domains.paired:
        right = high > low
        taken = (odds > (low + high) / 2)[right]
    else:
        right, taken = np.concatenate([high > 0, low < 0]), odds > 0
    return scores | {
        "target": float(taken.mean()) if len(taken) else 0.0,
        "classifier": float(right.mean()),
        "kid": metrics.kid(made, truth),
    }
