"""Studies: one job over a grid of values of its keys."""

from sim.study.grid import Study, read_study
from sim.study.points import FIGURES, run_study

__all__ = ["FIGURES", "Study", "read_study", "run_study"]
