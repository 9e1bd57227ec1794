"""Tensors of parameters on a rank, counted by hand."""

from dataclasses import replace

import pytest

from sim.catalog import model
from tests.conftest import LLAMA, make_shard
from workloads.build import build
from workloads.graph import Segment
from workloads.model import Model
from workloads.parameters import Parameters
from workloads.tensors import layer_tensors

CORE, TITAN = "megatron-core", "torchtitan"
ROUTED = replace(LLAMA, ffn=64, experts=8, topk=2)


@pytest.mark.parametrize(
    ("trained", "software", "tensors"),
    [
        (LLAMA, CORE, 6),  # query, key and value in one; output; gate and up in one; down; two norms
        (LLAMA, TITAN, 9),
        (replace(LLAMA, qk_norm=True), CORE, 8),
        (model("gpt-3-175b"), CORE, 12),  # four weights and their biases, two norms of two
        (ROUTED, CORE, Parameters(dense=5, experts=16)),
        (replace(ROUTED, shared_ffn=64), CORE, Parameters(dense=7, experts=16)),
        # Down, up and the norm between, of queries and of keys and values; output; router, shared expert, two norms
        (model("deepseek-v3"), CORE, Parameters(dense=12, experts=512)),
    ],
)
def test_tensors_of_a_layer_by_hand(trained: Model, software: str, tensors: Parameters | int):
    expected = Parameters(dense=tensors) if isinstance(tensors, int) else tensors
    assert layer_tensors(make_shard(trained, software)) == expected


def tensors_of_the_update(**layout: object) -> float:
    program = build(make_shard(ROUTED, CORE, **layout))
    played = [program.ops[task] for task in program.tasks.ops]
    blocks = [block for item in played if isinstance(item, Segment) for block, _ in item.blocks]
    return sum(block.tensors for block in blocks)


def test_a_rank_goes_through_the_tensors_that_it_holds_states_of():
    """By hand: embedding, head, last norm; of each layer 5 and 16, spread over ep ranks and all replicas."""
    alone = tensors_of_the_update()
    assert alone == 3 + ROUTED.layers * 21
    assert tensors_of_the_update(dp=2, zero=1) == alone / 2
    assert tensors_of_the_update(dp=2, ep=2, zero=1) == (3 + ROUTED.layers * 5) / 2 + ROUTED.layers * 8
    assert tensors_of_the_update(pp=2) == alone  # on both stages together
