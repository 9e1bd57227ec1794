"""Where the parts of a model lie on the stages of a pipeline, and the routes that micro-batches take through them."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple


class Place(NamedTuple):
    """A model chunk of a stage."""

    stage: int
    chunk: int


Route = tuple[Place, ...]  # the places of the parts of a model, from the embedding to the head


@cache
def positions(routes: tuple[Route, ...]) -> Mapping[Place, tuple[Route, int]]:
    """Every place -> its route, and the number in the model of the part that lies there."""
    return {place: (route, number) for route in routes for number, place in enumerate(route)}


@cache
def around(stages: int, chunks: int) -> tuple[Route, ...]:
    """Over all stages, and around again for each further chunk of a stage."""
    return (tuple(Place(stage, chunk) for chunk in range(chunks) for stage in range(stages)),)


@cache
def there_and_back(stages: int, chunks: int) -> tuple[Route, ...]:  # noqa: ARG001
    """Down the stages through their first chunks and up again through their second: in the shape of a V."""
    down, up = both_ways(stages, 1)
    return ((*down, *up),)


@cache
def both_ways(stages: int, chunks: int) -> tuple[Route, ...]:  # noqa: ARG001
    """Two copies of the model: half of the micro-batches go down the stages through one, half up through the other."""
    down = tuple(Place(stage, 0) for stage in range(stages))
    up = tuple(Place(stage, 1) for stage in reversed(range(stages)))
    return down, up
