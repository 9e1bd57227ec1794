"""What communication costs: one algorithm a file, and the choice among them."""

from sim.collectives.choice import algorithms, candidates, fastest, in_one_domain, seconds
from sim.collectives.phase import Phase, pipeline_s
from sim.collectives.placement import Placement, placement

__all__ = [
    "Phase",
    "Placement",
    "algorithms",
    "candidates",
    "fastest",
    "in_one_domain",
    "pipeline_s",
    "placement",
    "seconds",
]
