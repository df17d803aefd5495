"""What the experiments share: command line, runs and their records, grids, terms of losses."""
