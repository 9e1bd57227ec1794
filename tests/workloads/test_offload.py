"""Layers whose activations wait in the memory of the host: what stays on the device, and who waits for which copy."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sim.engine import Timeline, play
from tests.conftest import GPT, LLAMA, TRAINING, make_shard
from workloads.build import build
from workloads.graph import COMPUTE, Message, Program, Segment
from workloads.layout import Layout, check, offload_fault
from workloads.offload import STREAM, Copies, most_resident_bytes
from workloads.ops import HostCopy
from workloads.schedules import Slot
from workloads.stage import Blocks, chunk_kept_bytes, layer_kept_bytes, layers_kept_bytes, stage_chunks
from workloads.weave import Weave

ALL_BUT_ONE = range(1, GPT.layers)


def shard(recompute: str, model=LLAMA, **layout):
    return make_shard(model, "megatron-core", training={"recompute": recompute}, **layout)


def kept(recompute: str, model=LLAMA) -> float:
    found = shard(recompute, model)
    return chunk_kept_bytes(Blocks(shard=found), stage_chunks(found, 0)[0])


def program(recompute: str, **layout) -> Program:
    return build(shard(recompute, **layout))


def copies(found: Program) -> list[Message]:
    ops = [found.ops[op] for op, stream in zip(found.tasks.ops, found.tasks.streams, strict=True) if stream == STREAM]
    return [op for op in ops if isinstance(op, Message)]


def passed(layers: int, away: int, copy_s: float) -> Timeline:
    """One micro-batch: 1 s forward and 2 s backward a layer, `copy_s` for each copy."""
    weave = Weave(1)
    queue = Copies(weave, [1.0] * layers, away)
    passes = {direction: Segment(name=direction, blocks=()) for direction in "FB"}
    for slot, order in ((Slot("F", 0, 0), range(layers)), (Slot("B", 0, 0), reversed(range(layers)))):
        for layer in order:
            done = weave.add(passes[slot.direction], 0, queue.before(slot, layer))
            queue.behind(slot, layer, done)
    found = weave.program()
    seconds = {passes["F"]: 1.0, passes["B"]: 2.0}
    return play(found.tasks, [seconds.get(found.ops[op], copy_s) for op in found.tasks.ops])  # type: ignore[call-overload]


def test_of_a_llama_layer_17_widths_of_a_row_are_offloaded():
    """Worked by hand, h = 64, f = 256, kv heads half of the heads, 2 bytes each.

    Inputs of two norms, of qkv, of the output projection and of gate and up: 5 h. Q, K, V: h + 2 (h / 2) = 2 h, with 4
    bytes for each of 8 heads. Gate and up: 2 f = 8 h. Input of the last product: f = 4 h.
    """
    found = shard("offload:3")
    assert layer_kept_bytes(Blocks(shard=found), recomputed=False) == 64 * (2 * 64 * (5 + 2 + 8 + 4) + 4 * 8)


def test_what_is_offloaded_is_all_that_a_layer_keeps():
    layer = layer_kept_bytes(Blocks(shard=shard("none")), recomputed=False)
    assert {op for message in copies(program("offload:3")) for op in message.ops} == {HostCopy(bytes=layer)}


@pytest.mark.parametrize("away", ALL_BUT_ONE)
def test_the_other_layers_stay(away):
    assert kept(f"offload:{away}") == pytest.approx(kept("none") * (8 - away) / 8)


def test_more_offloaded_layers_never_keep_more():
    sizes = [kept("none"), *(kept(f"offload:{away}") for away in ALL_BUT_ONE)]
    assert sizes == sorted(sizes, reverse=True)


def test_of_unequal_layers_the_largest_neighbours_count():
    """Worked by hand: 3 + 1, 1 + 1 and 1 + 4 bytes of two layers in a row."""
    assert most_resident_bytes([3.0, 1.0, 1.0, 4.0], 2) == 5.0


def test_layers_of_two_kinds_are_told_apart():
    experts = replace(LLAMA, experts=4, topk=2, dense_layers=2, dense_ffn=256)
    found = shard("offload:3", experts)
    sizes = layers_kept_bytes(Blocks(shard=found), stage_chunks(found, 0)[0])
    assert len(sizes) == experts.layers
    assert len(set(sizes[:2])) == len(set(sizes[2:])) == 1
    assert sizes[0] != sizes[2]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("away", [1, 4, 7])
def test_each_offloaded_layer_goes_out_and_comes_back_in_each_micro_batch(zero, away):
    names = [message.name for message in copies(program(f"offload:{away}", dp=2, zero=zero))]
    assert names.count("out") == names.count("back") == away * 8  # 16 sequences on 2 replicas


def test_nothing_is_copied_unless_asked():
    assert not copies(program("none"))
    assert not copies(program("full:4"))


def test_every_copy_waits_for_computation_and_every_copy_is_waited_for():
    found = program("offload:5", dp=2, zero=3).tasks
    place = {index for index, stream in enumerate(found.streams) if stream == STREAM}
    assert all(found.streams[earlier] == COMPUTE for index in place for earlier in found.after[index])
    assert place <= {earlier for after in found.after for earlier in after}


def test_a_slow_link_makes_the_passes_wait():
    """Worked by hand: 4 layers of 1 s forward and 2 s backward, 2 of them offloaded, 3 s a copy.

    Layers 0 and 1 run to 2, and go out from 1 to 4 and from 4 to 7. Layer 2 needs the room of layer 0: 4 to 5; layer 3
    that of layer 1: 7 to 8. Backward: layer 3 to 10, layer 2 to 12; layer 1 is fetched from 10 to 13 and runs to 15,
    layer 0 from 13 to 16 and runs to 18.
    """
    assert passed(4, 2, copy_s=3.0).seconds == 18.0


def test_a_link_that_is_fast_enough_costs_nothing():
    """2 s of copies out beside 3 s of layers, and 1 s each beside 2 s of the layer behind, but for the last step."""
    assert passed(4, 2, copy_s=1.0).seconds == passed(4, 2, copy_s=0.0).seconds == 12.0


def test_with_one_layer_left_on_the_device_nothing_is_hidden():
    """Transformer Engine warns: computation and copies take turns. 4 + 8 s, 3 copies out and 3 back."""
    assert passed(4, 3, copy_s=1.0).seconds == 12.0 + 6.0


@pytest.mark.parametrize("away", ALL_BUT_ONE)
@pytest.mark.parametrize("copy_s", [0.25, 0.75, 1.0, 1.2, 1.5, 2.0, 2.5, 6.0])
def test_copies_are_hidden_where_they_take_no_longer_than_all_layers_but_two(away, copy_s):
    """docs/models/offloading.md: n c <= (L - 2) min(f, b), and no more than L - 2 layers."""
    hidden = away * copy_s <= 6 * 1.0 and away <= 6
    assert (passed(8, away, copy_s=copy_s).seconds == 8 * 3.0) == hidden


@pytest.mark.parametrize("away", [1, 3, 5, 7])
def test_a_slower_link_is_never_faster(away):
    times = [passed(8, away, copy_s=copy_s).seconds for copy_s in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert times == sorted(times)
    assert times[0] == 8 * 3.0


@pytest.mark.parametrize("copy_s", [0.5, 1.0, 3.0])
def test_more_offloaded_layers_are_never_faster(copy_s):
    times = [passed(8, away, copy_s=copy_s).seconds for away in ALL_BUT_ONE]
    assert times == sorted(times)


def fault(recompute: str, **layout: int) -> str | None:
    return offload_fault(GPT, Layout(**layout), replace(TRAINING, recompute=recompute))  # type: ignore[arg-type]


def test_the_last_layer_stays():
    assert fault("offload:7") is None
    assert "of the 8 layers of small-gpt, at least the last one stays" in str(fault("offload:8"))


def test_pipeline_stages_do_not_offload():
    assert "needs layout.pp = 1" in str(fault("offload:2", pp=2))
    assert fault("full", pp=2) is None


def test_check_says_so():
    with pytest.raises(ValueError, match=r"training.recompute: offload:2 needs layout.pp = 1"):
        check(GPT, Layout(pp=2), replace(TRAINING, recompute="offload:2"))


def test_the_words_name_a_number_of_layers():
    counts = [replace(TRAINING, recompute=words).offloaded_layers for words in ("none", "full:4", "offload:4")]
    assert counts == [0, 0, 4]


def tasks_of(found: Program) -> Sequence[str]:
    return [op.name for op in found.ops if isinstance(op, Segment)]


def test_a_job_that_offloads_nothing_is_written_as_before():
    """Whole passes are single tasks: only copies cut them."""
    assert len(program("none").tasks) < len(program("offload:1").tasks)
    assert tasks_of(program("none")) == tasks_of(program("full:4"))
