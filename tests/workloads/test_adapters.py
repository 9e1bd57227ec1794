"""Adapters of low rank beside frozen linear layers: what they compute, send and launch."""

import pytest

from tests.conftest import LLAMA, make_shard
from workloads.adapters import RANK
from workloads.build import build
from workloads.graph import leaf_runs
from workloads.linear import linear
from workloads.ops import Collective, Gemm, Pointwise
from workloads.parallelism import tensor
from workloads.pieces import Piece


def layer(name: str = "qkv", *, task: str = "lora", tp: int = 1, row_parallel: bool = False) -> Piece:
    shard = make_shard(LLAMA, "nemo", tp=tp, sequence_parallel=tp > 1, training={"task": task})
    return linear(shard, name, 64 // tp if row_parallel else 64, (128,), row_parallel=row_parallel)


def narrow(piece: Piece) -> list[tuple[int, int, int]]:
    work = (*piece.forward, *piece.backward)
    return [(w.op.m, w.op.n, w.op.k) for w in work if isinstance(w.op, Gemm) and RANK in (w.op.m, w.op.n, w.op.k)]


def test_an_adapter_is_two_products_forward_and_four_backward():
    assert narrow(layer()) == [(64, 16, 64), (64, 128, 16), (64, 16, 128), (128, 16, 64), (64, 64, 16), (16, 64, 64)]


def test_what_comes_out_is_added_to_the_layer_and_to_its_data_gradient():
    sums = [(w.op.rows, w.op.cols) for w in (*layer().forward, *layer().backward) if isinstance(w.op, Pointwise)]
    assert sums == [(64, 128), (64, 64)]


@pytest.mark.parametrize(("name", "task"), [("up", "lora"), ("qkv", "pretrain")])
def test_other_layers_and_other_tasks_have_none(name, task):
    assert narrow(layer(name, task=task)) == []


def test_the_adapter_of_a_row_parallel_layer_makes_parts_of_the_sequence_of_parts_of_the_columns():
    """Two ranks, each with 64 of 128 columns of 64 tokens, in bf16; the layer's own sum is scattered by `row`."""
    piece = layer("proj", tp=2, row_parallel=True)
    sent = [[w.op for w in part if isinstance(w.op, Collective)] for part in (piece.forward, piece.backward)]
    assert [[(op.op, op.bytes, op.ranks) for op in part] for part in sent] == [[("all_to_all", 64 * 64 * 2, 2)]] * 2
    assert {w.op.rows for w in piece.forward if isinstance(w.op, Pointwise)} == {32}


def test_the_reduction_of_the_data_gradient_comes_behind_the_adapters_part():
    shard = make_shard(LLAMA, "nemo", tp=2, sequence_parallel=True, training={"task": "lora"})
    backward = tensor.column(shard, linear(shard, "qkv", 64, (64,))).backward
    reduced = next(
        place for place, w in enumerate(backward) if isinstance(w.op, Collective) and w.op.op == "reduce_scatter"
    )
    added = next(place for place, w in enumerate(backward) if isinstance(w.op, Pointwise) and w.op.op == "add")
    assert added < reduced


def test_the_host_calls_each_product_once_in_each_pass():
    along = [[w.along for w in part] for part in (layer().forward, layer().backward)]
    assert [part.count(False) for part in along] == [1 + 2, 1 + 2]  # the layer's own, and two of the adapter


def test_adapters_read_their_inputs_in_16_bits():
    shard = make_shard(LLAMA, "nemo", tp=2, sequence_parallel=True, training={"task": "lora", "precision": "fp8"})
    gathered = [op for op in leaf_runs(build(shard)) if isinstance(op, Collective) and op.op == "all_gather"]
    assert {op.dtype for op in gathered} == {"bf16", "fp8"}  # of qkv; of up, and gradients
