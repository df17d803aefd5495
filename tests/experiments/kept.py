"""What is kept beside an experiment, tables' results and README, against each other."""

from pathlib import Path

from experiments import sweeps


def check_rates(table, sweep, chosen):
    """The sweep is whole, and the rates chosen are those that it found best.

    Args:
      table: The experiment's module of that name.
      sweep: Its function that collects the sweep.
      chosen: The rates that its tables take.
    """
    results = Path(table.__file__).parent / "results"
    found = sweep(table.TuneConfig(results=results, runs=results, missing=False))
    assert all(len(by_rate) == len(sweeps.RATES) for by_rate in found.values())
    assert sweeps.best_rates(found) == chosen


def check_readme(table, config, tmp_path, capsys, also=()):
    """The README has every line of the tables and of the sweeps; returns how many these are.

    Args:
      table: The experiment's module of that name.
      config: Its configuration of the tables.
      tmp_path: Where pictures may go.
      capsys: The test's.
      also: Other functions that show a table, each with its configuration.
    """
    home = Path(table.__file__).parent
    of = {"results": home / "results", "runs": tmp_path, "missing": False}
    for show, kind in ((table.make, config), (table.tune, table.TuneConfig), *also):
        show(kind(**of))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    readme = (home / "README.md").read_text()
    for line in lines:
        assert line in readme
    return len(lines)
