"""What the Contextual Loss gives pictures that nobody made: what it would have a generator do."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from experiments.common import tables
from experiments.common.apply import load_generator
from experiments.common.generators import make_features
from experiments.common.runs import read_config
from experiments.domain_transfer.config import DEFAULT, MEASURED, PAIRED, Config, Measured
from experiments.domain_transfer.data import Domains, Sources, random_targets, read_domains
from experiments.domain_transfer.objective import layers_of, make_comparison

_DRAWN = 8  # random targets of each source


@dataclasses.dataclass(frozen=True, kw_only=True)
class TermsConfig:
    """Shows what CX gives the validation's sources themselves, their truth, and random targets."""

    domains: tuple[Measured, ...] = MEASURED
    """Pairs of domains, a table each."""
    run: Path | None = None
    """Folder of a run, of which what it made is added; then only its own pair of domains."""


def show(config: TermsConfig) -> None:
    """Prints a table for each pair of domains."""
    makers, pairs = {}, config.domains
    if config.run is not None:
        pairs = (read_config(Config, config.run).domains,)
        if pairs[0] not in PAIRED:
            raise ValueError(f"--run {config.run} is of {pairs[0]}, which has no true pairs")
        makers = {config.run.name: load_generator(config.run, Config)}
    for name in pairs:
        of = dataclasses.replace(DEFAULT, domains=name)
        rows = [
            [made, *(f"{value:.2f}" for value in values)]
            for made, values in measure(of, read_domains(of), makers).items()
        ]
        print(f"\n{tables.markdown([name, 'to the target', 'to the source', 'sum'], rows)}")


def measure(
    config: Config,
    domains: Domains,
    makers: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
) -> dict[str, tuple[float, float, float]]:
    """The terms to target and source, and their weighted sum, of three answers to each source, and
    of those that trained generators give, `(image (h, w, 3)) -> image`, by name.

    A random target is drawn as in training, `_DRAWN` times; "a random target" is that very one,
    which no generator could know.
    """
    compare = jax.jit(make_comparison(config, make_features(config, layers_of(config))))
    draw, generator = random_targets(domains.target), np.random.default_rng(config.seed)
    sources, truths = Sources(domains.held_out_source), domains.held_out_target.stack()
    losses: dict[str, list[tuple[float, float, float]]] = {}
    for index, truth in enumerate(truths):
        drawn = [draw(sources[index], generator) for _ in range(_DRAWN)]
        source = np.stack([pair["source"] for pair in drawn]).astype(np.float32) / 255
        batch = {"source": source, "target": np.stack([pair["target"] for pair in drawn])}
        answers = {"source itself": source, "true target": np.broadcast_to(truth, source.shape)}
        answers["a random target"] = batch["target"]
        for name, make in (makers or {}).items():
            answers[name] = np.broadcast_to(make(source[0]), source.shape)
        for name, made in answers.items():
            loss, terms = compare(made, batch)
            row = (float(terms["target"]), float(terms["source"]), float(loss))
            losses.setdefault(name, []).append(row)
    means = {name: np.mean(rows, axis=0) for name, rows in losses.items()}
    return {name: (float(row[0]), float(row[1]), float(row[2])) for name, row in means.items()}
