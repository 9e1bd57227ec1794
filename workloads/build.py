"""Model x layout x training x stack -> the program of one step.

The story of a step: every stage runs its micro-batches in the order of the schedule; gradients are summed
over the replicas, beside the last backward pass or behind it; then the optimizer.
"""

from itertools import pairwise

from workloads.graph import COMPUTE, Program
from workloads.layout import micro_batches
from workloads.optimizer import finish
from workloads.parallelism import pipeline
from workloads.passes import Passes
from workloads.routes import Place, positions
from workloads.schedules import Slot, paired, schedule
from workloads.shard import Shard
from workloads.stage import Blocks, stage_chunks
from workloads.weave import Weave


def build(shard: Shard) -> Program:
    """The tasks of one step, for one rank of each pipeline stage. The shard's layout has been checked."""
    weave = Weave(shard.layout.pp)
    blocks = Blocks(shard=shard)
    stages = [Passes(weave, blocks, stage_chunks(shard, stage)) for stage in range(shard.layout.pp)]
    _run_schedule(weave, shard, stages)
    if not shard.training.layers_alone:
        finish(weave, blocks, stages)
    return weave.program()


def _run_schedule(weave: Weave, shard: Shard, stages: list[Passes]) -> None:
    """Queue every slot of every stage, each when what it waits for is queued: one of each stage in a round."""
    layout, count = shard.layout, micro_batches(shard.layout, shard.training)
    plan = schedule(layout.schedule_name)
    orders = (plan.order(stage, layout.pp, layout.vp, count) for stage in range(layout.pp))
    queues = [paired(order) if layout.expert_overlap else iter(order) for order in orders]
    heads = [next(queue, None) for queue in queues]
    sender = _Sender(weave, shard, count)
    while any(heads):
        moved = False
        for stage, slot in enumerate(heads):
            if slot is not None and (after := sender.arrived(stage, slot)) is not None:
                after = sender.received(stage, slot, after)
                sender.send(stage, slot, stages[stage].run(slot, after))
                heads[stage] = next(queues[stage], None)
                moved = True
        assert moved, "the schedule waits for itself"


class _Sender:
    """Carries activations and their gradients from stage to stage.

    A message that blocks stands in the queue of both ends, with the sender what is sent, with the receiver all of it.
    At a rendezvous a receiver posts in its program that it takes a message, and the library that has worked out the
    programs posts it where the sender sends: behind what the receiver has computed by then. Messages of one rank, in
    and out, go one after the other.
    """

    def __init__(self, weave: Weave, shard: Shard, micro_batches: int) -> None:
        self.weave = weave
        self.stages = shard.layout.pp
        self.routes = shard.layout.routes
        self.place = positions(self.routes)
        how = shard.stack.overlap.pipeline
        self.stream = COMPUTE if how in ("none", "blocking") else pipeline.STREAM
        self.meets, self.blocks = how == "rendezvous", how == "blocking"
        self.met: list[tuple[int, ...]] = [()] * self.stages
        ends = {
            frozenset((a.stage, b.stage)) for route in self.routes for a, b in pairwise(route) if a.stage != b.stage
        }
        self.messages = {pair: pipeline.activations(shard, tuple(pair)) for pair in ends}
        self.sends = {pair: pipeline.send_of(sent) if self.blocks else sent for pair, sent in self.messages.items()}
        # Whether forward, place, micro-batch -> what its pass waits for; None if not queued yet.
        self.inbox: dict[bool, dict[Place, list[tuple[int, ...] | None]]] = {
            forward: {place: [None] * micro_batches for place in self.place} for forward in (True, False)
        }
        for route in self.routes:
            self.inbox[True][route[0]] = self.inbox[False][route[-1]] = [()] * micro_batches

    def arrived(self, stage: int, slot: Slot) -> tuple[int, ...] | None:
        """What a slot has to wait for; None if that is not queued yet. Gradients of weights wait for nobody."""
        if slot.direction == "W":
            return ()
        return self.inbox[slot.direction == "F"][Place(stage, slot.chunk)][slot.micro_batch]

    def received(self, stage: int, slot: Slot, after: tuple[int, ...]) -> tuple[int, ...]:
        """What the pass of a slot waits for; a receive that blocks stands in front of it."""
        if not self.blocks or not after:
            return after
        sender = self._next(Place(stage, slot.chunk), forward=slot.direction != "F")
        if sender is None or sender.stage == stage:
            return after
        message = self.messages[frozenset((sender.stage, stage))]
        return self.weave.add(message, stage, after, self.stream, slot.micro_batch)

    def send(self, stage: int, slot: Slot, done: tuple[int, ...]) -> None:
        """Hand on to the next place in the direction of the pass."""
        forward = slot.direction == "F"
        target = None if slot.direction == "W" else self._next(Place(stage, slot.chunk), forward=forward)
        if target is None:
            return
        if target.stage != stage:
            done = self._sent(stage, target.stage, done, slot.micro_batch)
        self.inbox[forward][target][slot.micro_batch] = done

    def _next(self, place: Place, *, forward: bool) -> Place | None:
        route, number = self.place[place]
        target = number + 1 if forward else number - 1
        return route[target] if 0 <= target < len(route) else None

    def _sent(self, stage: int, receiver: int, done: tuple[int, ...], micro_batch: int) -> tuple[int, ...]:
        if self.meets:
            done = (*done, *self.weave.tail(receiver), *self.met[receiver], *self.met[stage])
        sent = self.weave.add(self.sends[frozenset((stage, receiver))], stage, done, self.stream, micro_batch)
        self.met[stage] = self.met[receiver] = sent
        return done if self.blocks else sent
