"""Plans the passes of a pipeline whose backward passes are taken apart, as far as memory allows.

Every stage does at any moment what keeps the others busy: what brings a micro-batch on comes before gradients of
weights, for which nobody waits (the heuristic of arXiv:2401.10241, section 3.1, with fixed lengths in the place of
profiled ones).
"""

from collections import Counter
from functools import lru_cache
from heapq import heappop, heappush
from typing import NamedTuple

from workloads.routes import Place, Route, positions
from workloads.schedules import Direction, Slot

# Time of each pass, in a unit of its own. Weight gradients are GEMMs alone: in 12 profiles 0.50 to 0.74 of a forward
# pass; gradients of inputs are 0.98 to 1.00 of one (arXiv:2401.10241, Table 9).
LENGTHS: dict[Direction, int] = {"F": 3, "I": 3, "W": 2}
# Share of what a forward pass keeps that is still there between the two parts of its backward pass, as planned for:
# linear layers' inputs, and gradients of their outputs (there, Table 1: 32 / (34 + 5 a s / h) without recomputation).
KEPT = 0.5


class _Event(NamedTuple):
    """Something that a stage has to look at; what arrives comes before the choice of what to do at that moment."""

    time: int
    choice: bool
    stage: int
    direction: Direction = "F"
    place: Place = Place(0, 0)


@lru_cache(maxsize=2)
def planned(routes: tuple[Route, ...], micro_batches: int, most: int) -> tuple[tuple[Slot, ...], ...]:
    """The passes of each stage.

    Args:
        micro_batches: on each route.
        most: model chunks of which a stage keeps what their forward passes keep.
    """
    plan = _Plan(routes, micro_batches, most)
    while plan.events:
        event = heappop(plan.events)
        if event.choice:
            plan.choose(event.stage, event.time)
        else:
            plan.arrive(event)
    return tuple(tuple(slots) for slots in plan.slots)


class _Plan:
    def __init__(self, routes: tuple[Route, ...], micro_batches: int, most: int) -> None:
        self.most = most
        self.routes = positions(routes)
        stages = 1 + max(place.stage for place in self.routes)
        # What is further on its way comes first: it soon gives memory back.
        places = sorted(self.routes, key=lambda place: -self.routes[place][1])
        self.places = [[place for place in places if place.stage == stage] for stage in range(stages)]
        self.slots: list[list[Slot]] = [[] for _ in range(stages)]
        self.come: Counter[tuple[Direction, Place]] = Counter({("F", route[0]): micro_batches for route in routes})
        self.done: Counter[tuple[Direction, Place]] = Counter()
        self.free = [0] * stages
        self.kept = [0.0] * stages
        self.forward = [False] * stages  # whether the last pass but W was a forward one: F and I take turns
        self.events = [_Event(0, choice=True, stage=stage) for stage in range(stages)]

    def arrive(self, event: _Event) -> None:
        """A micro-batch is there for its next pass."""
        self.come[event.direction, event.place] += 1
        if self.free[event.stage] <= event.time:
            heappush(self.events, _Event(event.time, choice=True, stage=event.stage))

    def choose(self, stage: int, now: int) -> None:
        """Run the best pass that can run; a stage with nothing to do waits for the next arrival."""
        if self.free[stage] > now:
            return
        inputs, weights = self._ready("I", stage), self._ready("W", stage)
        forward = self._ready("F", stage)
        full = self.kept[stage] + 1 > self.most
        if forward is not None and full and (inputs or weights or self.routes[forward][1] == 0):
            forward = None
        if forward is not None and (inputs is None or not self.forward[stage]):
            self._run("F", forward, now)
        elif inputs is not None:
            self._run("I", inputs, now)
        elif weights is not None:
            self._run("W", weights, now)

    def _ready(self, direction: Direction, stage: int) -> Place | None:
        for place in self.places[stage]:
            if self.done[direction, place] < self.come[direction, place]:
                return place
        return None

    def _run(self, direction: Direction, place: Place, now: int) -> None:
        stage, (route, number) = place.stage, self.routes[place]
        self.slots[stage].append(Slot(direction, self.done[direction, place], place.chunk))
        self.done[direction, place] += 1
        self.kept[stage] += {"F": 1.0, "I": KEPT - 1.0}.get(direction, -KEPT)
        self.forward[stage] = direction == "F" or (direction == "W" and self.forward[stage])
        self.free[stage] = now + LENGTHS[direction]
        heappush(self.events, _Event(self.free[stage], choice=True, stage=stage))
        if direction == "F":
            last = number + 1 == len(route)
            self._send("I" if last else "F", place if last else route[number + 1], self.free[stage])
        elif direction == "I":
            self.come["W", place] += 1
            if number:
                self._send("I", route[number - 1], self.free[stage])

    def _send(self, direction: Direction, to: Place, time: int) -> None:
        heappush(self.events, _Event(time, choice=False, stage=to.stage, direction=direction, place=to))
