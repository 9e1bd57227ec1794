"""Parameters of one rank, told apart by who holds the same: experts are spread over ranks that share all else."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Counts of one rank, before sharding.

    Args:
        dense: the same on all data-parallel ranks.
        experts: the same on every ep-th of them.
    """

    dense: float = 0.0
    experts: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense + self.experts

    def __add__(self, other: "Parameters") -> "Parameters":
        """Of two parts of a rank."""
        return Parameters(dense=self.dense + other.dense, experts=self.experts + other.experts)

    def __mul__(self, count: float) -> "Parameters":
        """Of so many equal parts."""
        return Parameters(dense=self.dense * count, experts=self.experts * count)


def summed(parts: Iterable[Parameters]) -> Parameters:
    """Of all parts of a rank."""
    return sum(parts, Parameters())
