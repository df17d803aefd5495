"""The runs behind the table: the two losses, and less weight on the source."""

from experiments.common.grids import Changes, Finished, Grid
from experiments.single_image_animation import evaluation
from experiments.single_image_animation.config import Config


def table_runs(base: Config) -> Changes:
    """The Contextual Loss, the Gram loss, and less weight on the source."""
    return {
        "contextual": {"loss": "contextual"},
        "gram": {"loss": "gram"},
        "source_weight-0.3": {"loss": "contextual", "source_weight": 0.3},
    }


def show_table(finished: Finished) -> str:
    """The metrics of each run, under the source's own."""
    return evaluation.show(finished.metrics) if finished.metrics else "none to compare"


GRIDS = {
    "table": Grid(
        about="The Contextual Loss, the Gram loss, and less weight on the source.",
        runs=table_runs,
        show=show_table,
    ),
}
