"""Shapes in the order that tells most: every beginning of the sequence covers the whole space."""

import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TypeVar

T = TypeVar("T")


def points(seed: int, dimensions: int) -> Iterator[tuple[float, ...]]:
    """Points in the unit cube without end, spread evenly: x_n = frac(start + n a), the R sequence.

    a_j = g^-j with g^(d + 1) = g + 1 (M. Roberts, "The unreasonable effectiveness of quasirandom
    sequences", 2018; in one dimension g is the golden ratio). The seed moves the start.
    """
    root = _root(dimensions)
    start = random.Random(seed)
    offsets = [start.random() for _ in range(dimensions)]
    for number in count(1):
        yield tuple((offset + number * root ** -(axis + 1)) % 1.0 for axis, offset in enumerate(offsets))


def pick(share: float, choices: Sequence[T]) -> T:
    """One of equally likely choices, by a number in 0..1."""
    return choices[min(int(share * len(choices)), len(choices) - 1)]


def weighted(share: float, choices: Sequence[tuple[T, float]]) -> T:
    """One of the choices, each as likely as its weight says."""
    left = share * sum(weight for _, weight in choices)
    for choice, weight in choices:
        left -= weight
        if left < 0:
            return choice
    return choices[-1][0]


def log_size(share: float, smallest: int, largest: int) -> int:
    """A whole number, every power of two as likely as the next."""
    size: float = smallest * (largest / smallest) ** share
    return max(smallest, min(largest, round(size)))


def aligned(size: int, step: int) -> int:
    """The nearest multiple of a step that is not nothing."""
    return max(step, round(size / step) * step)


def _root(dimensions: int) -> float:
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    return root
