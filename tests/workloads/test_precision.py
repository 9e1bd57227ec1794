"""Data types of a step."""

import pytest

from tests.conftest import LLAMA, make_shard
from workloads.build import build
from workloads.graph import leaf_runs
from workloads.ops import DTYPE_BYTES, Gemm
from workloads.precision import PRECISIONS


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_every_type_has_a_size(precision):
    types = (precision.gemm, precision.activation, precision.weight, precision.moments)
    assert all(dtype in DTYPE_BYTES for dtype in types)
    assert precision.master in (None, "fp32")


@pytest.mark.parametrize("name", ["fp8", "mxfp8", "nvfp4"])
def test_narrow_gemms_have_their_inputs_cast(name):
    assert PRECISIONS[name].quantised
    assert PRECISIONS[name].activation == "bf16"


@pytest.mark.parametrize("name", ["fp32", "tf32", "fp16", "bf16", "bf16-pure"])
def test_the_others_compute_in_what_they_store(name):
    assert not PRECISIONS[name].quantised


def test_mixed_precision_keeps_master_weights():
    """16-bit weights, fp32 master weights and moments: 2 + 4 + 8 bytes a parameter beside the gradient."""
    fp16 = PRECISIONS["fp16"]
    assert (fp16.weight, fp16.master, fp16.moments) == ("fp16", "fp32", "fp32")


def test_pure_precision_keeps_one_copy():
    assert PRECISIONS["bf16-pure"].master is None
    assert PRECISIONS["bf16-pure"].moments == "bf16"
    assert PRECISIONS["fp32"].master is None


@pytest.mark.parametrize(("precision", "split"), [("fp8", {"nn", "nt"}), ("bf16", set()), ("mxfp8", set())])
def test_gradients_in_fp8_are_added_up_outside_of_the_tensor_cores(precision: str, split: set[str]):
    shard = make_shard(LLAMA, "megatron-core", training={"precision": precision})
    gemms = [op for op in leaf_runs(build(shard)) if isinstance(op, Gemm)]
    assert {op.layout for op in gemms if op.split_accumulator} == split
    assert all(op.dtype == "fp8" for op in gemms if op.split_accumulator)
