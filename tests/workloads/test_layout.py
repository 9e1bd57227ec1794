"""Layouts: every inconsistency is said, all at once; layers are shared out over chunks."""

from dataclasses import replace
from itertools import product

import pytest

from tests.conftest import GPT, TRAINING
from workloads.errors import WorkloadError
from workloads.layout import Layout, Training, check, chunk_layers, micro_batches, recomputed_layers


def faults(layout: Layout, training: Training = TRAINING, model=GPT) -> tuple[str, ...]:
    with pytest.raises(WorkloadError) as raised:
        check(model, layout, training)
    return raised.value.faults


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(dp=16),
        Layout(dp=2, tp=4, pp=2, sequence_parallel=True),
        Layout(pp=2, vp=2, zero=1),
        Layout(pp=2, zero=2),
        Layout(dp=8, zero=3, zero_group=4),
        Layout(cp=4, context_mode="all_gather"),
        Layout(tp=2, cp=4, context_mode="all_to_all"),
        Layout(dp=2, pp=4, schedule="gpipe"),
        Layout(dp=2, pp=2, vp=4, tp=2, cp=2, zero=1, zero_group=2, sequence_parallel=True),
        Layout(pp=5),  # 8 + 2 layers
    ],
)
def test_what_goes_together_passes(layout):
    check(GPT, layout, TRAINING)


@pytest.mark.parametrize("degree", ["dp", "tp", "pp", "vp", "cp", "ep"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_degree_is_at_least_one(degree, value):
    assert faults(Layout(**{degree: value})) == (f"layout.{degree} = {value}: a degree is 1 or more",)


@pytest.mark.parametrize("key", ["seq_len", "global_batch", "micro_batch"])
def test_a_size_is_at_least_one(key):
    assert faults(Layout(), replace(TRAINING, **{key: 0})) == (f"training.{key} = 0: must be 1 or more",)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(zero=4), "layout.zero = 4"),
        (Layout(zero=1, zero_group=-2), "layout.zero_group = -2"),
        (Layout(schedule="2f2b"), "no schedule '2f2b'"),
        (Layout(context_mode="star"), "no mode 'star'"),
        (Layout(tp=3), "heads = 8 is not divisible by layout.tp = 3"),
        (Layout(tp=3), "ffn = 256 is not divisible by layout.tp = 3"),
        (Layout(pp=16), "layers = 8, the embedding and the head are fewer than pp x vp = 16"),
        (Layout(cp=3), "seq_len = 64 is not divisible by layout.cp = 3"),
        (Layout(cp=16, tp=8, sequence_parallel=True), "seq_len / cp = 4 is not divisible by layout.tp = 8"),
        (Layout(sequence_parallel=True), "needs layout.tp of 2 or more"),
        (Layout(ep=2), "has no experts"),
        (Layout(dp=8, zero=1, zero_group=3), "zero_group = 3 does not divide dp x cp = 8"),
        (Layout(dp=3), "global_batch = 16 is not divisible by dp x micro_batch = 3 x 1"),
        (Layout(pp=1, vp=2), "interleaved needs pp of 2 or more"),
        (Layout(pp=2, vp=2, schedule="gpipe"), "gpipe runs one chunk a stage"),
        (Layout(pp=4, vp=2, dp=8), "divisible by pp (4)"),
    ],
)
def test_every_inconsistency_is_said(layout, words):
    assert any(words in fault for fault in faults(layout))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp61"}, "no precision 'fp61'; nearest: fp16"),
        ({"recompute": "some"}, "no recomputation 'some'"),
        ({"recompute": "full:0"}, "no recomputation 'full:0'"),
        ({"recompute": "full:x"}, "no recomputation 'full:x'"),
        ({"recompute": "full:"}, "no recomputation 'full:'"),
        ({"recompute": "offload"}, "no recomputation 'offload'; nearest: offload:N"),
        ({"recompute": "offload:0"}, "no recomputation 'offload:0'"),
        ({"recompute": "offload:8"}, "of the 8 layers of small-gpt, at least the last one stays"),
        ({"recompute": "selective:3"}, "no module '3'"),
        ({"recompute": "selective:"}, "no module ''"),
        ({"recompute": "selective:M+M"}, "no module 'M'"),
        ({"recompute": "selective:core_attn+layernrm"}, "no module 'layernrm'; nearest: layernorm"),
        ({"recompute": "selective-op:mlp"}, "no recomputation 'selective-op:mlp'"),
        ({"recompute": "selective:moe_act"}, "moe_act is to be run again, and small-gpt has no experts"),
        ({"recompute": "selective:mla_up_proj"}, "has no latent attention"),
        ({"recompute": "full:N"}, "no recomputation 'full:N'"),
        ({"optimizer": "adamm"}, "no optimizer 'adamm'; nearest: adam"),
        ({"gradients": "int8"}, "training.gradients: no type 'int8'"),
        ({"task": "finetune"}, "no task 'finetune'"),
        ({"micro_batch": 3}, "dp x micro_batch = 1 x 3"),
    ],
)
def test_every_word_of_the_training_is_checked(change, words):
    found = faults(Layout(), replace(TRAINING, **change))
    assert len(found) == 1
    assert words in found[0]


def test_all_inconsistencies_come_at_once():
    found = faults(Layout(tp=3, cp=5, ep=2, dp=3, zero=1, zero_group=2))
    assert len(found) == 6  # heads and ffn, sequence, experts, group, batch


def test_sizes_and_names_come_at_once():
    found = faults(Layout(tp=0, zero=9, schedule="x"), replace(TRAINING, precision="y", seq_len=-1))
    assert len(found) == 5


def test_a_message_is_one_line_and_says_where():
    error = WorkloadError("layout", faults(Layout(tp=3)))
    assert str(error).splitlines()[0].startswith("layout: small-gpt: heads = 8")


def test_heads_of_keys_may_be_fewer_than_ranks():
    check(replace(GPT, kv_heads=2), Layout(tp=8), TRAINING)


def test_gpus_are_all_degrees_multiplied():
    layout = Layout(dp=2, tp=4, pp=8, cp=3, vp=5)
    assert layout.gpus == 2 * 4 * 8 * 3
    assert layout.data_ranks == 6


@pytest.mark.parametrize(
    ("layout", "shards"),
    [
        (Layout(dp=8), 1),
        (Layout(dp=8, zero=1), 8),
        (Layout(dp=4, cp=2, zero=3), 8),
        (Layout(dp=8, zero=3, zero_group=2), 2),
        (Layout(dp=2, zero=3, zero_group=8), 2),
    ],
)
def test_zero_shards_over_its_group(layout, shards):
    assert layout.shards == shards


def test_the_schedule_follows_the_chunks():
    assert Layout(pp=2).schedule_name == "one_f_one_b"
    assert Layout(pp=2, vp=2).schedule_name == "interleaved"
    assert Layout(pp=2, schedule="gpipe").schedule_name == "gpipe"


def test_micro_batches_of_a_replica():
    assert micro_batches(Layout(dp=4), Training(seq_len=1, global_batch=48, micro_batch=3)) == 4


def test_126_layers_on_64_chunks_leave_room_for_embedding_and_head():
    """Llama 3.1 405B: one layer on the first and the last chunk, two on all others."""
    assert chunk_layers(replace(GPT, layers=126), Layout(pp=16, vp=4)) == (1, *(2,) * 62, 1)


def test_layers_are_shared_out_equally_where_they_divide():
    assert chunk_layers(replace(GPT, layers=96), Layout(pp=8, vp=3)) == (4,) * 24


@pytest.mark.parametrize(("layers", "pp", "vp"), list(product((2, 6, 8, 14, 30, 126), (1, 2, 4, 8), (1, 2, 4))))
def test_no_layer_is_lost(layers, pp, vp):
    if layers % (pp * vp) == 0 or (layers + 2) % (pp * vp) == 0:
        shares = chunk_layers(replace(GPT, layers=layers), Layout(pp=pp, vp=vp))
        assert len(shares) == pp * vp
        assert sum(shares) == layers
        assert min(shares) >= 0


@pytest.mark.parametrize(
    ("recompute", "layers"),
    [("none", 0), ("selective", 0), ("full", 12), ("full:5", 5), ("full:12", 12), ("full:99", 12)],
)
def test_layers_that_are_recomputed(recompute, layers):
    assert recomputed_layers(replace(TRAINING, recompute=recompute), 12) == layers
