"""Memory of a GPU: bytes of each parameter by hand, shares of ZeRO, the worst stage, and whether it fits."""

from dataclasses import replace
from typing import Any

import pytest

from sim.catalog import stack
from sim.memory import Memory, most_kept, peak_memory
from tests.conftest import GPT, LLAMA, changed, make_shard
from workloads.schedules import Slot, schedule
from workloads.stage import Blocks, chunk_kept_bytes, layer_kept_bytes, stage_chunks

PARAMETERS = GPT.parameters
LARGE = 1e12


def memory(model=GPT, stack_name: str = "megatron-lm-2022", capacity: float = LARGE, **keywords: Any) -> Memory:
    return peak_memory(make_shard(model, stack_name, **keywords), capacity)


def per_parameter(found: Memory, parameters: float = PARAMETERS) -> tuple[float, float, float]:
    return (found.weights / parameters, found.gradients / parameters, found.optimizer / parameters)


def test_megatron_keeps_18_bytes_a_parameter():
    """fp16 weight 2, fp32 gradient 4, fp32 master weight 4, two fp32 moments 8 (arXiv:2205.05198, section 4)."""
    assert per_parameter(memory(training={"precision": "fp16"})) == (2.0, 4.0, 4.0 + 8.0)


def test_mixed_precision_with_16_bit_gradients_keeps_16_bytes():
    """ZeRO, section 3.1: 2 + 2 + 12."""
    on = changed(stack("megatron-lm-2022"), storage={"gradient": "compute", "fp32_gradient_copy": False})
    assert per_parameter(memory(on=on)) == (2.0, 2.0, 12.0)


def test_an_fp32_copy_of_the_gradients_adds_4_bytes():
    on = changed(stack("megatron-lm-2022"), storage={"gradient": "compute", "fp32_gradient_copy": True})
    assert per_parameter(memory(on=on)) == (2.0, 2.0, 16.0)


def test_deepspeed_keeps_bf16_gradients_beside_the_fp32_ones_that_they_are_added_to():
    """BF16_Optimizer: weight 2, gradient 2 and 4, master weight and moments 12."""
    on = stack("megatron-deepspeed-2022")
    assert per_parameter(memory(on=on, training={"precision": "bf16"})) == (2.0, 4.0 + 2.0, 4.0 + 8.0)
    assert per_parameter(memory(on=on, training={"precision": "fp16"})) == (2.0, 2.0, 4.0 + 4.0 + 8.0)


def test_the_other_half_of_a_master_weight_is_enough_beside_bf16_weights():
    on = changed(stack("megatron-lm-2022"), storage={"remainders": True})
    assert per_parameter(memory(on=on, training={"precision": "bf16"})) == (2.0, 4.0, 2.0 + 8.0)
    assert per_parameter(memory(on=on, training={"precision": "fp16"})) == (2.0, 4.0, 4.0 + 8.0)


def test_fp32_parameters_need_no_master_copy():
    """FSDP over fp32 parameters: 4 + 4 + 8."""
    on = changed(stack("torchtitan"), storage={"weight": "fp32", "gradient": "fp32"})
    assert per_parameter(memory(LLAMA, on=on), LLAMA.parameters) == (4.0, 4.0, 8.0)


def test_pure_16_bit_training_keeps_8_bytes():
    on = changed(stack("megatron-lm-2022"), storage={"gradient": "compute"})
    assert per_parameter(memory(on=on, training={"precision": "bf16-pure"})) == (2.0, 2.0, 4.0)


def test_momentum_is_one_state():
    assert per_parameter(memory(training={"optimizer": "sgd"})) == (2.0, 4.0, 4.0 + 4.0)


def test_adapters_keep_weights_only():
    assert per_parameter(memory(training={"task": "lora"})) == (2.0, 0.0, 0.0)


def test_frozen_weights_of_linear_layers_are_kept_in_8_bits_alone_where_8_bit_copies_are_kept():
    """12 h^2 a layer, in 8 layers; embedding, biases and norms have 16 bits."""
    eight = 12 * GPT.hidden**2 * 8
    kept = 2 * GPT.parameters - eight
    assert memory(training={"task": "lora", "precision": "fp8"}).weights == pytest.approx(kept)
    casts = changed(stack("megatron-lm-2022"), kernels={"quantise_weights": ("quantize_fp8",)})
    found = memory(on=casts, training={"task": "lora", "precision": "fp8"})
    assert found.weights == pytest.approx(2 * GPT.parameters)


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "optimizer"),
    [(0, 2, 4, 12), (1, 2, 4, 12 / 8), (2, 2, 4 / 8, 12 / 8), (3, 2 / 8, 4 / 8, 12 / 8)],
)
def test_each_stage_of_zero_divides_one_more(zero, weights, gradients, optimizer):
    on = changed(stack("megatron-lm-2022"), storage={"sharded_gradient_buffer": True})
    assert per_parameter(memory(on=on, dp=8, zero=zero)) == (weights, gradients, optimizer)


def test_a_buffer_that_is_not_sharded_keeps_all_gradients():
    on = changed(stack("megatron-lm-2022"), storage={"sharded_gradient_buffer": False})
    assert per_parameter(memory(on=on, dp=8, zero=2))[1] == 4.0


def test_zero_shards_over_context_parallel_ranks_too():
    assert per_parameter(memory(LLAMA, "torchtitan", dp=2, cp=4, zero=1), LLAMA.parameters)[2] == 8.0 / 8


def test_zero_shards_within_its_group():
    assert per_parameter(memory(dp=8, zero=1, zero_group=2))[2] == 12.0 / 2


def test_activations_are_layers_times_micro_batches_under_way():
    """1F1B on 4 stages: the first keeps 4 micro-batches of its 2 layers."""
    shard = make_shard(pp=4)
    assert peak_memory(shard, LARGE).stage == 0
    assert peak_memory(shard, LARGE).activations == 4 * 2 * layer_kept_bytes(Blocks(shard=shard), recomputed=False)


def test_gpipe_keeps_all_micro_batches():
    one, all_of_them = (memory(pp=4, schedule=name).activations for name in ("one_f_one_b", "gpipe"))
    assert all_of_them == one * 16 / 4


def test_interleaving_keeps_a_little_more():
    """1 + (p - 1) / (p v) of 1F1B: arXiv:2205.05198, section 4.2.3."""
    plain, interleaved = (memory(pp=4, vp=vp).activations for vp in (1, 2))
    assert interleaved == plain * (1 + 3 / 8)


def test_most_kept_worked_by_hand():
    """Chunks of 5 and 7 bytes: 5, 12, 17, then 10 and 15."""
    passes = [("F", 0, 0), ("F", 0, 1), ("F", 1, 0), ("B", 0, 1), ("F", 2, 0), ("B", 0, 0)]
    assert most_kept([Slot(*one) for one in passes], [5.0, 7.0]) == 17.0  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "chunks"), [("gpipe", 1), ("one_f_one_b", 1), ("interleaved", 2)])
def test_nothing_is_kept_at_the_end(name, chunks):
    slots = list(schedule(name).order(0, 2, chunks, 4))
    now = sum(1 if slot.direction == "F" else -1 for slot in slots)
    assert now == 0


def test_the_worst_stage_counts():
    """A large table makes the last stage the worst: embedding and logits against a third of the layers."""
    assert memory(replace(LLAMA, layers=4, vocab=512 * 400), pp=2).stage == 1
    assert memory(LLAMA, pp=4).stage == 0
    assert memory(LLAMA).stage == 0


def test_the_stage_that_is_shown_needs_most():
    shard = make_shard(LLAMA, pp=4)
    kept = [chunk_kept_bytes(Blocks(shard=shard), stage_chunks(shard, stage)[0]) for stage in range(4)]
    assert peak_memory(shard, LARGE).activations == max(4 * kept[0], 3 * kept[1])


def test_what_is_allocated_is_the_sum_of_its_parts():
    found = memory(pp=2, dp=2, zero=1)
    parts = ("weights", "gradients", "optimizer", "activations", "temporaries", "communication")
    assert found.allocated == pytest.approx(sum(getattr(found, part) for part in parts))
    assert all(getattr(found, part) >= 0 for part in parts)


def test_the_driver_and_the_allocator_take_their_part():
    on = changed(stack("megatron-lm-2022"), storage={"reserved_bytes": 1e9, "fragmentation": {"eager": 0.1}})
    found = memory(on=on)
    assert found.reserved == 1e9
    assert found.lost == pytest.approx(0.1 * found.allocated)


def test_a_job_fits_to_the_last_byte():
    found = memory()
    needed = found.held + found.reserved
    assert memory(capacity=needed).fits
    assert not memory(capacity=needed - 1.0).fits


def test_one_gpu_has_nothing_to_communicate():
    assert memory().communication == 0.0
    assert memory(pp=2).communication == 0.0


def test_gradients_go_through_one_bucket():
    on = changed(stack("megatron-lm-2022"), data={"bucket_bytes": 1000.0}, storage={"reduce": "fp32"})
    assert memory(on=on, dp=2).communication == 1000.0
    all_at_once = changed(on, data={"bucket_bytes": 1e12})
    assert memory(on=all_at_once, dp=2).communication == 4.0 * PARAMETERS


@pytest.mark.parametrize(
    "less",
    [
        {"training": {"recompute": "full"}},
        {"training": {"recompute": "selective"}},
        {"tp": 2},
        {"pp": 2},
        {"dp": 2, "zero": 1},
        {"dp": 2, "zero": 3},
    ],
    ids=str,
)
def test_what_saves_memory_does(less):
    training = {"seq_len": 64, "micro_batch": 4}
    layout = {key: value for key, value in less.items() if key != "training"}
    saved = memory(training=training | less.get("training", {}), **layout)
    assert saved.allocated < memory(training=training).allocated


def test_a_larger_micro_batch_needs_more():
    sizes = [memory(training={"micro_batch": size}).allocated for size in (1, 2, 4, 8)]
    assert sizes == sorted(set(sizes))


def test_the_figure_of_the_paper():
    """GPT-3 175B on 64 A100, t 8, p 8, v 3: 45.6 GiB of states as the paper's figure 1 shows; 18 bytes a parameter."""
    model = replace(
        GPT, layers=96, hidden=12288, ffn=49152, heads=96, kv_heads=96, head_dim=128, vocab=51200, max_positions=2048
    )
    training = {"precision": "fp16", "seq_len": 2048, "global_batch": 64, "recompute": "selective"}
    found = memory(model, tp=8, pp=8, vp=3, sequence_parallel=True, training=training)
    states = (found.weights + found.gradients + found.optimizer) / 2**30
    assert states == pytest.approx(45.56, rel=0.05)
    # 34 s b h / t for each of 96 / p layers, (1 + (p - 1) / (p v)) times p micro-batches
    activations = 34 * 2048 * 12288 / 8 * 96 * (1 + 7 / 24)
    assert found.activations == pytest.approx(activations, rel=1e-9)


def test_a_backward_pass_holds_the_largest_activation_and_its_gradient():
    """The MLP's [64, 256] in 16 bits, twice."""
    assert memory(pp=4).temporaries == 2 * 64 * 256 * 2


def test_a_recomputed_layer_is_there_in_full_while_it_runs_back():
    """34 s b h and the scores 5 a s^2 b, less the input 2 s b h that was kept."""
    sbh = 64 * 64
    again = 34 * sbh + 5 * 8 * 64 * 64 - 2 * sbh
    assert memory(pp=4, training={"recompute": "full"}).temporaries == 2 * 64 * 256 * 2 + again


def torchtitan(**changes: Any) -> Any:
    return changed(stack("torchtitan"), storage=changes)


BATCHES = {"one": {"global_batch": 2, "micro_batch": 2}, "two": {"global_batch": 4, "micro_batch": 2}}


def test_gradients_that_are_freed_between_steps_are_not_there_at_the_loss():
    """With logits enough, the peak is at the loss of the first micro-batch; a second one finds gradients."""
    model = replace(LLAMA, vocab=512 * 400)
    kept, freed = (
        memory(model, on=torchtitan(gradients_kept=each), training=BATCHES["one"] | {"seq_len": 512})
        for each in (True, False)
    )
    assert kept.gradients == 4.0 * model.parameters
    assert freed.gradients == 0.0
    again = memory(model, on=torchtitan(gradients_kept=False), training=BATCHES["two"] | {"seq_len": 512})
    assert again.gradients == kept.gradients


def test_the_end_of_the_backward_pass_may_be_the_peak():
    """Next to no activations: weights, gradients and optimizer, 16 bytes a parameter."""
    found = memory(
        LLAMA, on=torchtitan(gradients_kept=False), training={"seq_len": 16, "micro_batch": 1, "global_batch": 1}
    )
    assert found.activations == 0.0
    assert found.allocated == pytest.approx(16.0 * LLAMA.parameters)


def test_a_pool_of_their_own_adds_gradients_to_what_is_held():
    """In use, they do not meet the loss; the allocator holds room for both."""
    model, training = replace(LLAMA, vocab=512 * 400), BATCHES["one"] | {"global_batch": 4, "seq_len": 512}
    found = [
        memory(model, on=torchtitan(gradient_pool=each, fragmentation={}), training=training, dp=2, zero=3)
        for each in (False, True)
    ]
    assert found[0].lost == 0.0
    assert found[1].lost >= 4.0 * model.parameters / 2
    assert found[0].allocated == found[1].allocated


def test_ddp_keeps_all_its_buckets():
    on = changed(stack("torchtitan"), data={"buckets_kept": True})
    assert memory(LLAMA, on=on, dp=2).communication == 4.0 * LLAMA.parameters


def test_letting_go_of_logits_saves_an_fp32_copy():
    model, training = replace(LLAMA, vocab=512 * 400), BATCHES["one"] | {"seq_len": 512}
    kept, freed = (memory(model, on=torchtitan(frees_logits=each), training=training) for each in (False, True))
    assert kept.temporaries - freed.temporaries == 4.0 * 2 * 512 * model.vocab


def test_gradients_of_pure_16_bit_training_travel_in_16_bits():
    on = changed(stack("torchtitan"), data={"buckets_kept": True})
    assert memory(LLAMA, on=on, dp=2, training={"precision": "bf16-pure"}).communication == 2.0 * LLAMA.parameters
