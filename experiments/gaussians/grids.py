"""The runs behind the table: one of each measure."""

from experiments.common.grids import Changes, Finished, Grid
from experiments.common.runs import Metrics
from experiments.gaussians.config import Config
from experiments.gaussians.evaluation import table, write


def table_runs(base: Config) -> Changes:
    """A run for each measure."""
    return {name: {"measures": (name,)} for name in base.measures}


def metrics_of(finished: Finished) -> dict[str, Metrics]:
    """The metrics by measure."""
    return {name: metrics[name] for name, metrics in finished.metrics.items()}


GRIDS = {
    "table": Grid(
        about="A run for each measure; the table and the figure of all.",
        runs=table_runs,
        show=lambda finished: table(finished.base, metrics_of(finished)),
        draw=lambda finished: write(finished.folder, finished.base, metrics_of(finished)),
    )
}
