"""Sliding windows: which keys a query sees, in which layers, and what that costs."""

from dataclasses import replace

import pytest

from calibration.cost.physics import Physics
from hardware.catalog import device
from sim.profiles import cost_model, measured
from tests.conftest import LLAMA, make_job, make_shard
from workloads.build import build
from workloads.errors import WorkloadError
from workloads.graph import leaf_runs
from workloads.hf import model_from_config
from workloads.layout import check
from workloads.model import Model
from workloads.model import check as model_faults
from workloads.ops import Attention
from workloads.stage import Blocks, kinds, stage_chunks

WINDOWED = replace(LLAMA, name="small-windowed", window=16)
EVERY_OTHER = replace(WINDOWED, full_every=2)
KERNEL = Attention(batch=4, seq_q=4096, seq_kv=4096, heads=64, kv_heads=8, head_dim=64, dtype="bf16", kernel="cudnn")
WINDOWS = (0, 1, 64, 128, 512, 1000, 2048, 4095, 4096, 5000)
CONFIG = {
    **{"model_type": "mistral", "num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 128},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 64},
}
FULL, SLIDING = "full_attention", "sliding_attention"


def seconds(op: Attention, name: str = "h200-sxm") -> float:
    return float(Physics().price([op], device(name)).seconds[0])


def attentions(model: Model, **layout: object) -> dict[tuple[int, str], int]:
    """How often each window and direction occurs in a step."""
    runs = leaf_runs(build(make_shard(model, "megatron-core", **layout))).items()
    found: dict[tuple[int, str], int] = {}
    for op, often in runs:
        if isinstance(op, Attention):
            found[op.window, op.direction] = found.get((op.window, op.direction), 0) + often
    return found


def test_a_window_by_hand():
    """4096 queries of 128 keys, less 127 + 126 + ... of the first ones: 4096 x 128 - 128 x 127 / 2."""
    op = replace(KERNEL, window=128)
    assert op.pairs == 4096 * 128 - 128 * 127 / 2 == 516_160
    assert op.flops == 2 * 2 * 4 * 64 * 64 * 516_160
    assert KERNEL.pairs / op.pairs == pytest.approx(16.3, abs=0.1)


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (3, 7), (7, 3), (1, 1)])
@pytest.mark.parametrize("window", [0, 1, 2, 3, 5, 7, 9])
def test_pairs_are_those_of_the_mask(queries, keys, window):
    """Query i stands at position i + keys - queries."""
    seen = range(queries)
    reach = window or keys
    mask = [max(0, min(i + keys - queries + 1, reach)) for i in seen]
    op = Attention(batch=1, seq_q=queries, seq_kv=keys, heads=1, kv_heads=1, head_dim=8, dtype="bf16", window=window)
    assert op.pairs == sum(mask)


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("name", ["a100-sxm-80g", "h200-sxm", "b200-sxm"])
def test_a_wider_window_takes_longer_and_none_longer_than_all_before(name, direction):
    ops = [replace(KERNEL, window=window, direction=direction) for window in WINDOWS[1:]]
    times = [seconds(op, name) for op in ops]
    assert times == sorted(times)
    assert times[-1] == times[-2] == seconds(replace(KERNEL, direction=direction), name)


def test_time_of_a_window_grows_with_the_sequence_and_not_with_its_square():
    short, long = (replace(KERNEL, seq_q=s, seq_kv=s, window=128) for s in (8192, 32768))
    assert seconds(long) / seconds(short) == pytest.approx(4, rel=0.05)


def test_no_window_counts_as_measured():
    """The profile of the H200 knows attention over the whole sequence alone; physics prices a window."""
    machine = device("h200-sxm")
    model = cost_model(machine)
    ops = [KERNEL, replace(KERNEL, window=128)]
    assert measured(model, ops, machine).tolist() == [True, False]
    assert model.price(ops, machine).seconds[1] == seconds(ops[1])


def test_a_block_of_queries_visits_whole_tiles_of_its_window():
    """128 rows with a window of 128 keys touch 255 of them, so that half of their work is masked."""
    op = replace(KERNEL, window=128)
    assert seconds(op) > 3 * op.flops / KERNEL.flops * seconds(KERNEL)


@pytest.mark.parametrize(
    ("seq", "window", "share"), [(4096, 512, 0.306), (4096, 1024, 0.496), (16384, 512, 0.123), (16384, 1024, 0.181)]
)
def test_windows_take_about_the_share_that_cudnn_measured(seq, window, share):
    """Backward, 16 heads of 64, on a GPU of the Blackwell RTX generation: github.com/NVIDIA/cudnn-frontend/pull/505."""
    full = replace(KERNEL, batch=1, seq_q=seq, seq_kv=seq, heads=16, kv_heads=16, direction="bwd")
    found = seconds(replace(full, window=window), "rtx-pro-6000-server") / seconds(full, "rtx-pro-6000-server")
    assert found == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("seq", "heads", "head_dim", "window", "shares"),
    [
        (4096, 64, 64, 128, (0.259, 0.331)),
        (8192, 64, 64, 128, (0.134, 0.175)),
        (16384, 32, 128, 1024, (0.149, 0.186)),
        (16384, 32, 128, 4096, (0.470, 0.494)),
    ],
)
def test_windows_take_about_the_share_that_an_h200_measured(seq, heads, head_dim, window, shares):
    """Forward and backward by cuDNN, through JAX's dot_product_attention with `local_window_size`."""
    full = replace(KERNEL, batch=1, seq_q=seq, seq_kv=seq, heads=heads, kv_heads=8, head_dim=head_dim)
    for direction, share in zip(("fwd", "bwd"), shares, strict=True):
        one = replace(full, direction=direction)
        assert seconds(replace(one, window=window)) / seconds(one) == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("layout", [{}, {"pp": 2, "dp": 2}, {"pp": 4, "vp": 2}, {"dp": 4, "zero": 3}], ids=str)
def test_every_other_layer_has_a_window_wherever_the_layers_are(layout):
    """Four of eight layers; 16 micro-batches over all replicas."""
    dp = layout.get("dp", 1)
    half = 4 * 16 // dp
    assert attentions(EVERY_OTHER, **layout) == dict.fromkeys([(16, "fwd"), (16, "bwd"), (0, "fwd"), (0, "bwd")], half)


def test_layers_of_a_chunk_stay_in_their_order():
    shard = make_shard(replace(EVERY_OTHER, full_every=3), "megatron-core")
    (chunk,) = stage_chunks(shard, 0)
    found = [(kind.shard.model.window, len(run)) for kind, run in kinds(Blocks(shard=shard), chunk)]
    assert found == [(16, 2), (0, 1), (16, 2), (0, 1), (16, 2)]


def test_without_full_layers_all_have_the_window():
    assert set(attentions(WINDOWED)) == {(16, "fwd"), (16, "bwd")}


def test_a_window_as_wide_as_the_sequence_is_none():
    assert attentions(replace(LLAMA, window=64)) == attentions(LLAMA)


def test_flops_of_a_token_count_the_keys_that_it_sees():
    """64 tokens, 8 heads of 8 columns: 16 - 16 x 15 / 128 keys in windows of 16, in four layers, and 32.5 in four."""
    seen = 16 - 16 * 15 / (2 * 64)
    assert EVERY_OTHER.attention_flops_per_token(64, causal=True) == 4 * 8 * 8 * 4 * (seen + 32.5)
    assert EVERY_OTHER.attention_flops_per_token(64, causal=False) == 4 * 8 * 8 * 4 * (16 + 64)
    kernel = replace(KERNEL, seq_q=64, seq_kv=64, window=16)
    assert kernel.pairs / 64 == seen
    assert replace(LLAMA, window=64).attention_flops_per_token(64, causal=True) == LLAMA.attention_flops_per_token(
        64, causal=True
    )


def test_windows_under_context_parallelism_are_refused():
    job = make_job(EVERY_OTHER, cp=2)
    with pytest.raises(WorkloadError, match="cp = 2: sliding windows"):
        check(EVERY_OTHER, job.layout, job.training)


def test_ranks_that_exchange_heads_see_windows_of_the_whole_sequence():
    """A window of 48 of 64 tokens, 32 of which are on each of two ranks."""
    model = replace(LLAMA, window=48)
    whole, shared = (attentions(model, cp=cp, context_mode="all_to_all") for cp in (1, 2))
    assert whole == shared
    assert {window for window, _ in shared} == {48}


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ({"full_every": 2}, "of a model that has a window"),
        ({"window": 4, "full_every": 1}, "from 2 to the layers"),
        ({"window": 4, "full_every": 9}, "from 2 to the layers"),
    ],
)
def test_what_is_no_pattern_of_windows_is_said(sizes, fault):
    (found,) = model_faults(replace(LLAMA, **sizes))
    assert fault in found


@pytest.mark.parametrize(
    ("keys", "window", "full_every"),
    [
        ({}, 0, 0),
        ({"sliding_window": None}, 0, 0),
        ({"sliding_window": 16}, 16, 0),
        ({"sliding_window": 16, "layer_types": [SLIDING] * 6}, 16, 0),
        ({"sliding_window": 16, "layer_types": [SLIDING, FULL] * 3}, 16, 2),
        ({"sliding_window": 16, "layer_types": [SLIDING, SLIDING, FULL] * 2}, 16, 3),
        ({"sliding_window": 16, "layer_types": [*[SLIDING] * 5, FULL]}, 16, 6),
    ],
    ids=str,
)
def test_a_configuration_says_which_layers_have_windows(keys, window, full_every):
    model = model_from_config(CONFIG | keys, "mistral")
    assert (model.window, model.full_every) == (window, full_every)


@pytest.mark.parametrize(
    "kinds_of_layers",
    [[FULL, SLIDING] * 3, [SLIDING, FULL] * 2, [SLIDING, FULL, FULL] * 2, [SLIDING, "linear_attention"] * 3, "sliding"],
    ids=str,
)
def test_other_patterns_are_refused(kinds_of_layers):
    with pytest.raises(WorkloadError, match="'layer_types' of 6 layers"):
        model_from_config(CONFIG | {"sliding_window": 16, "layer_types": kinds_of_layers}, "mistral")


def test_windows_of_a_qwen_are_off():
    config = CONFIG | {"model_type": "qwen2", "sliding_window": 16}
    assert model_from_config(config | {"use_sliding_window": False}, "qwen").window == 0
    with pytest.raises(WorkloadError, match="'use_sliding_window' True is not covered"):
        model_from_config(config | {"use_sliding_window": True}, "qwen")
