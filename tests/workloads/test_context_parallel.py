"""Context parallelism: what the ranks send each other, and that together they compute what one would."""

from dataclasses import replace

import pytest

from tests.conftest import GPT, LLAMA, TRAINING, make_job, make_shard
from workloads.attention import flash
from workloads.build import build
from workloads.catalog import model as catalogued
from workloads.errors import WorkloadError
from workloads.graph import Work, leaf_runs
from workloads.layout import CONTEXT_MODES, Layout, Training, check
from workloads.model import Model
from workloads.ops import Attention, Collective, Gemm, Pointwise, Transfer
from workloads.pieces import Piece
from workloads.shard import Shard
from workloads.stage import Blocks, layer_kept_bytes
from workloads.transformer import layer

SEQ = 64
EXCHANGES = ("tokens for heads", "heads for tokens")
# Keys and values of the whole sequence, 16 bits: llama has 4 heads of them, 8 wide.
KEYS_AND_VALUES = SEQ * 2 * 4 * 8 * 2


def shard(cp: int, mode: str = "ring", model=LLAMA, **layout) -> Shard:
    return make_shard(model, "torchtitan", cp=cp, context_mode=mode, **layout)


def core(cp: int, direction: str, mode: str = "ring", **layout) -> tuple[Work, ...]:
    piece = flash(shard(cp, mode, **layout))
    return piece.forward if direction == "fwd" else piece.backward


def exchange(name: str, cp: int, **layout) -> Piece:
    """One of the two pieces around attention, llama's unless said."""
    (found,) = (piece for piece in layer(shard(cp, "all_to_all", **layout)) if piece.name == name)
    return found


def exchanged_bytes(work: tuple[Work, ...]) -> list[float]:
    return [item.op.bytes for item in work if isinstance(item.op, Collective) and item.op.op == "all_to_all"]


def computed(work: tuple[Work, ...]) -> float:
    return sum(item.op.flops for item in work if isinstance(item.op, Attention))


def test_one_rank_sends_nothing():
    assert [type(work.op) for work in core(1, "fwd")] == [Attention]


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_a_ring_passes_on_the_keys_and_values_of_all_others(cp):
    sent = [work.op.bytes for work in core(cp, "fwd") if isinstance(work.op, Transfer)]
    assert len(sent) == cp - 1
    assert sum(sent) == KEYS_AND_VALUES * (cp - 1) / cp


@pytest.mark.parametrize("cp", [2, 4])
def test_backward_the_gradients_travel_too(cp):
    sent = [[w.op.bytes for w in core(cp, d) if isinstance(w.op, Transfer)] for d in ("fwd", "bwd")]
    assert sum(sent[1]) == 2 * sum(sent[0])


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_all_gathering_collects_keys_and_values_once(cp):
    forward = [w.op for w in core(cp, "fwd", "all_gather") if isinstance(w.op, Collective)]
    backward = [w.op for w in core(cp, "bwd", "all_gather") if isinstance(w.op, Collective)]
    assert [(op.op, op.bytes, op.ranks) for op in forward] == [("all_gather", KEYS_AND_VALUES, cp)]
    assert [op.op for op in backward] == ["all_gather", "reduce_scatter"]
    assert {op.bytes for op in backward} == {KEYS_AND_VALUES}


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("cp", [2, 4, 8])
def test_the_ranks_of_a_ring_compute_what_one_would(cp, direction):
    assert cp * computed(core(cp, direction)) == pytest.approx(computed(core(1, direction)), rel=1e-12)


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_gathering_ranks_compute_what_one_would(cp):
    """Up to the diagonal: half of the square, instead of s (s + 1) / 2 pairs."""
    together = cp * computed(core(cp, "fwd", "all_gather"))
    assert together == pytest.approx(computed(core(1, "fwd")), rel=1.01 / SEQ)


@pytest.mark.parametrize("mode", ["ring", "all_gather"])
def test_neighbours_stand_as_far_apart_as_tensor_parallel_ranks_are_many(mode):
    strides = {work.op.stride for work in core(2, "fwd", mode, tp=4) if isinstance(work.op, Transfer | Collective)}
    assert strides == {4}


def test_messages_run_beside_the_block_before_them():
    """Own block beside the first message; each further block waits for its own message alone."""
    work = core(4, "fwd")
    assert [w.name for w in work if w.asynchronous] == ["kv0", "kv1", "kv2"]
    assert [w.waits for w in work if isinstance(w.op, Attention)] == ["", "kv0", "kv1", "kv2"]


def test_the_sequence_is_split():
    assert shard(4).sequence == shard(4).tokens == SEQ // 4


def test_gpt_in_a_ring_is_causal_once():
    """Only a rank's own block has a diagonal."""
    masks = [w.op.causal for w in core(4, "fwd", model=GPT) if isinstance(w.op, Attention)]
    assert masks == [True, False, False, False]


@pytest.mark.parametrize("mode", CONTEXT_MODES)
def test_the_mode_is_of_no_account_for_one_rank(mode):
    assert layer(shard(1, mode)) == layer(shard(1))


def test_all_to_alls_by_hand():
    """Llama on two ranks: 32 tokens of 8 heads of queries and 4 of keys, 8 wide, in 16 bits."""
    query, key = 32 * 8 * 8 * 2, 32 * 4 * 8 * 2
    before, behind = (exchange(name, 2) for name in EXCHANGES)
    assert exchanged_bytes(before.forward) == exchanged_bytes(before.backward) == [query, key, key]
    assert exchanged_bytes(behind.forward) == exchanged_bytes(behind.backward) == [query]


def test_all_to_alls_of_a_large_model_by_hand():
    """Llama 3 70B, 32 Ki tokens, tp 2 and cp 4: the bytes of docs/models/layers.md."""
    whole = make_job(
        catalogued("llama-3-70b"), "megatron-core", training={"seq_len": 32768}, tp=2, cp=4, context_mode="all_to_all"
    ).shard()
    sizes = [size for piece in layer(whole) if piece.name in EXCHANGES for size in exchanged_bytes(piece.forward)]
    assert sizes == [67_108_864, 8_388_608, 8_388_608, 67_108_864]
    assert sum(sizes) * 3 / 4 == 113_246_208


def sent(cp: int, model: Model, mode: str) -> float:
    """Bytes that leave a rank for one layer, both ways."""
    total = 0.0
    for piece in layer(shard(cp, mode, model)):
        for work in (*piece.forward, *piece.backward):
            if isinstance(work.op, Transfer):
                total += work.op.bytes
            if isinstance(work.op, Collective):
                total += work.op.bytes * (cp - 1) / cp
    return total


@pytest.mark.parametrize("model", [GPT, LLAMA])
def test_more_ranks_exchange_fewer_bytes_each(model):
    sizes = [sent(cp, model, "all_to_all") for cp in (2, 4, *((8,) if model is GPT else ()))]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_against_a_ring_grouped_heads_exchange_more_until_there_are_many_ranks():
    """Fewer where cp > 2 (a + g) / 3 g: 4 / 3 with a head of keys for each query's, 2 with one for two."""
    assert sent(2, GPT, "all_to_all") < sent(2, GPT, "ring")
    assert sent(2, LLAMA, "all_to_all") == sent(2, LLAMA, "ring")
    assert sent(4, LLAMA, "all_to_all") < sent(4, LLAMA, "ring")


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("cp", [2, 4])
def test_a_rank_computes_the_whole_sequence_for_its_part_of_the_heads(cp, direction):
    (work,) = core(cp, direction, "all_to_all")
    op = work.op
    assert isinstance(op, Attention)
    assert (op.seq_q, op.seq_kv, op.heads, op.kv_heads, op.causal) == (SEQ, SEQ, 8 // cp, 4 // cp, True)
    assert op.flops == pytest.approx(computed(core(cp, direction)), rel=1e-12)
    assert cp * op.flops == computed(core(1, direction))


def test_neighbours_in_an_exchange_stand_as_far_apart_as_tensor_parallel_ranks_are_many():
    work = exchange("tokens for heads", 2, tp=2).forward
    assert {(w.op.ranks, w.op.stride) for w in work if isinstance(w.op, Collective)} == {(2, 2)}


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_each_tensor_is_copied_before_and_behind_its_message_beside_those_of_the_others(direction):
    work = getattr(exchange("tokens for heads", 2), direction)
    copies = [(w.op.rows * w.op.cols, w.waits) for w in work if isinstance(w.op, Pointwise)]
    names = ("heads0", "heads1", "heads2")
    sizes = (32 * 64, 32 * 32, 32 * 32)
    assert copies == [*((size, "") for size in sizes), *zip(sizes, names, strict=True)]
    assert [w.name for w in work if w.asynchronous] == list(names)


def test_exchanging_ranks_also_keep_the_output_before_it_goes_back():
    """The projection behind keeps what has come back: 32 tokens of 64 columns in 16 bits."""
    ring, heads = (flash(shard(2, mode)).saved_bytes for mode in ("ring", "all_to_all"))
    assert heads - ring == 32 * 64 * 2


def all_to_alls(recompute: str, attention: str = "flash") -> float:
    """How many a step of the small llama runs."""
    job = make_job(LLAMA, "megatron-core", cp=2, context_mode="all_to_all", training={"recompute": recompute})
    runs = leaf_runs(build(replace(job, attention=attention).shard())).items()
    return sum(often for op, often in runs if isinstance(op, Collective) and op.op == "all_to_all")


def test_recomputation_exchanges_again():
    """Eight to and fro in a layer; four again where layers, or what lies between GEMMs, are run again."""
    plain = all_to_alls("none")
    assert plain == 8 * LLAMA.layers * TRAINING.global_batch
    assert all_to_alls("full") == all_to_alls("selective-op") == 1.5 * plain
    assert all_to_alls("selective") == plain
    assert all_to_alls("selective", "unfused") == 1.5 * plain


def test_unfused_attention_has_all_keys_when_heads_are_exchanged():
    """Scores of 4 heads over 64 x 64 tokens on each of two ranks."""
    job = make_job(LLAMA, "megatron-core", cp=2, context_mode="all_to_all")
    unfused = replace(job, attention="unfused").shard()
    (scores, *_) = (w.op for piece in layer(unfused) if piece.name == "attention" for w in piece.forward)
    assert isinstance(scores, Gemm)
    assert (scores.batch, scores.m, scores.n, scores.k) == (4, SEQ, SEQ, 8)
    with pytest.raises(WorkloadError, match="unfused attention needs all keys"):
        replace(job, layout=replace(job.layout, context_mode="ring"), attention="unfused").shard()


@pytest.mark.parametrize("mode", CONTEXT_MODES)
def test_what_full_recomputation_keeps_is_the_same_in_every_mode(mode):
    def kept(name: str) -> float:
        return layer_kept_bytes(Blocks(shard=shard(2, name, training={"recompute": "full"})), recomputed=True)

    assert kept(mode) == kept("ring")


@pytest.mark.parametrize(
    ("model", "layout", "fault"),
    [
        (GPT, {"cp": 16}, "small-gpt: heads / tp = 8 is not divisible by layout.cp = 16"),
        (LLAMA, {"cp": 8}, "small-llama: kv_heads / tp = 4 is not divisible by layout.cp = 8"),
        (LLAMA, {"tp": 8, "cp": 2}, "small-llama: kv_heads / tp = 1 is not divisible by layout.cp = 2"),
    ],
)
def test_heads_that_ranks_cannot_share_are_said(model, layout, fault):
    training = Training(seq_len=64, global_batch=16)
    check(model, Layout(**layout), training)
    with pytest.raises(WorkloadError) as raised:
        check(model, Layout(context_mode="all_to_all", **layout), training)
    assert f'{fault}, which layout.context_mode = "all_to_all" needs' in raised.value.faults


def test_heads_of_latent_attention_are_not_exchanged():
    """Nor does Transformer Engine (`attn_forward_func_with_cp`)."""
    latent, training = catalogued("deepseek-v2-lite"), Training(seq_len=64, global_batch=16)
    check(latent, Layout(cp=2), training)
    with pytest.raises(WorkloadError, match="not covered with latent attention"):
        check(latent, Layout(cp=2, context_mode="all_to_all"), training)
