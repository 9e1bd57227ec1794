"""What a layer keeps and what it runs again, against the formulas of Korthikanti et al., arXiv:2205.05198.

With s the sequence, b the micro-batch, h the hidden size, a the heads and t the tensor-parallel ranks:

    none                     s b h (34 + 5 a s / h)
    tensor parallel          s b h (10 + 24 / t + 5 a s / (h t))
    with sequence parallel   s b h / t (34 + 5 a s / h)
    selective, with both     s b h 34 / t
    full                     2 s b h
"""

from dataclasses import replace

import pytest

from sim.catalog import stack
from tests.conftest import GPT, LLAMA, TRAINING, changed, make_shard
from workloads import layout
from workloads.errors import WorkloadError
from workloads.graph import Work
from workloads.model import Model
from workloads.ops import Attention, Collective, Gemm, Pointwise
from workloads.pieces import Piece, pointwise
from workloads.recompute import MODULES, kept_bytes, needed, run_again
from workloads.shard import Shard
from workloads.stage import Blocks, chunk_kept_bytes, end_blocks, layer_kept_bytes, stage_chunks

MODES = ("none", "selective", "selective-op", "selective-op-alternate", "full")
S, B, H, A = 64, 3, 64, 8
SBH = S * B * H


def fp16(tp: int = 1, recompute: str = "none", *, sequence_parallel: bool = False) -> Shard:
    """Megatron-LM as in the paper: unfused attention, dropout, fp16."""
    training = {"precision": "fp16", "micro_batch": B, "global_batch": B, "recompute": recompute}
    return make_shard(tp=tp, sequence_parallel=sequence_parallel, training=training)


def kept(shard: Shard) -> float:
    return layer_kept_bytes(Blocks(shard=shard), recomputed=True)


def test_one_gpu_keeps_what_the_paper_says():
    assert kept(fp16()) == SBH * (34 + 5 * A * S / H)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_keep_what_the_paper_says(tp):
    assert kept(fp16(tp)) == pytest.approx(SBH * (10 + 24 / tp + 5 * A * S / (H * tp)))


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_sequence_parallelism_divides_everything(tp):
    assert kept(fp16(tp, sequence_parallel=True)) == pytest.approx(SBH / tp * (34 + 5 * A * S / H))


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_selective_recomputation_gives_up_the_scores(tp):
    assert kept(fp16(tp, "selective", sequence_parallel=tp > 1)) == pytest.approx(34 * SBH / tp)


def test_full_recomputation_keeps_the_input():
    assert kept(fp16(1, "full")) == 2 * SBH
    assert kept(fp16(4, "full")) == 2 * SBH
    assert kept(fp16(4, "full", sequence_parallel=True)) == 2 * SBH / 4


def test_the_figures_of_the_paper():
    """GPT-3 175B, t = 8, s 2048, b 1, figure 7: sequence parallelism and selective recomputation keep 34 of 114 / 8."""
    model = replace(GPT, hidden=12288, ffn=4 * 12288, heads=96, kv_heads=96, head_dim=128, max_positions=2048)
    training = {"precision": "fp16", "seq_len": 2048, "recompute": "selective"}
    selective = make_shard(model, tp=8, sequence_parallel=True, training=training)
    everything = make_shard(model, tp=8, training=training | {"recompute": "none"})
    sbh = 2048 * 12288
    assert kept(selective) == 34 * sbh / 8
    assert kept(everything) == sbh * (10 + 24 / 8 + 80 / 8)


def test_full_recomputation_of_some_layers():
    """2 of the 8 layers keep their input only, the other 6 everything."""
    shard = fp16(1, "full:2")
    chunk = stage_chunks(shard, 0)[0]
    assert chunk_kept_bytes(Blocks(shard=shard), chunk) == 2 * (2 * SBH) + 6 * SBH * (34 + 5 * A * S / H)


def test_chunks_share_out_the_layers_that_are_recomputed():
    """Two chunks of 2 layers on a stage, 3 recomputed: 2 of the first, 1 of the second."""
    shard = make_shard(pp=2, vp=2, training={"recompute": "full:3"})
    assert [chunk.recomputed for chunk in stage_chunks(shard, 0)] == [2, 1]


@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])
@pytest.mark.parametrize("stack", ["megatron-lm-2022", "torchtitan"])
def test_each_mode_keeps_no_more_than_the_one_before(model, stack):
    sizes = [kept(make_shard(model, stack, training={"recompute": mode})) for mode in MODES]
    none, selective, by_op, alternate, full = sizes
    assert none >= selective
    assert none >= by_op >= alternate >= full


@pytest.mark.parametrize("mode", MODES)
def test_what_is_run_again_is_work_of_the_forward_pass(mode):
    pieces = Blocks(shard=make_shard(LLAMA, "torchtitan")).layer
    forward = [work for piece in pieces for work in piece.forward]
    again = [work for piece in run_again(pieces, mode) for work in piece]
    following = iter(forward)
    assert all(any(work is other for other in following) for work in again)


def again(mode: str, stack: str = "megatron-lm-2022") -> list[object]:
    pieces = Blocks(shard=make_shard(LLAMA, stack)).layer
    return [work.op for piece in run_again(pieces, mode) for work in piece]


def test_nothing_is_run_again_by_default():
    assert again("none") == []


def test_full_recomputation_runs_the_whole_forward_pass_again():
    pieces = Blocks(shard=make_shard(LLAMA)).layer
    assert again("full") == [work.op for piece in pieces for work in piece.forward]


@pytest.mark.parametrize("mode", ["full", "selective-op-alternate"])
def test_recomputation_that_stops_early_ends_before_the_last_product(mode):
    """Its input is the last tensor that is kept; nobody needs its output, or the sum behind it, a second time."""
    ways = [changed(stack("torchtitan"), stops_early=early) for early in (False, True)]
    whole, early = (
        [work.op for work in Blocks(shard=make_shard(LLAMA, on=on, training={"recompute": mode})).again.work]
        for on in ways
    )
    assert early == whole[: len(early)]
    assert [op for op in whole[len(early) :] if isinstance(op, Gemm)] == [
        op for op in whole[-2:] if isinstance(op, Gemm)
    ]
    assert len(early) < len(whole)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_trainer_that_checkpoints_the_head_runs_its_projection_again_but_not_the_loss(recompute):
    on = changed(stack("megatron-lm-2022"), ends_recomputed=True)
    blocks = Blocks(shard=make_shard(LLAMA, on=on, training={"recompute": recompute}))
    head = [work.op for work in blocks.ends["head F"].work]
    again = [block for block, _ in end_blocks(blocks, "head", "B", None) if block.phase == "recompute"]
    assert [work.op for block in again for work in block.work] == (head[:-1] if recompute == "full" else [])


def test_selective_recomputation_runs_the_attention_core_again():
    """Scores, softmax with its dropout, values: two GEMMs batched over heads."""
    ops = again("selective")
    assert [op.batch for op in ops if isinstance(op, Gemm)] == [8, 8]
    assert all(isinstance(op, Gemm | Pointwise) for op in ops)


ROUTED = replace(LLAMA, experts=8, topk=2, shared_ffn=64)
LATENT = replace(ROUTED, kv_heads=8, head_dim=12, kv_rank=16, rope_dim=4, value_dim=8)


def of_modules(names: str, model: Model, **keywords: object) -> Blocks:
    recompute = f"selective:{names}" if names else "none"
    return Blocks(shard=make_shard(model, "megatron-core", training={"recompute": recompute}, **keywords))


def test_every_piece_that_a_module_names_is_one_of_a_layer():
    oss = replace(LLAMA, experts=8, topk=2, biases="all", clamped=True)
    layers = [Blocks(shard=make_shard(model)).layer for model in (GPT, LLAMA, LATENT, oss)]
    layers += [Blocks(shard=make_shard(model, "megatron-core")).layer for model in (LATENT, oss)]
    names = {piece.name for layer in layers for piece in layer}
    assert {name for module in MODULES.values() for part in module for name in part} <= names
    assert {*MODULES, "core_attn"} == set(layout.MODULES)


@pytest.mark.parametrize("model", [GPT, LLAMA, ROUTED, LATENT], ids=["gpt", "llama", "routed", "latent"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_run_again_keeps_less(name, model):
    """And one that the model has not is refused."""
    if layout.missing_module(model, replace(TRAINING, recompute=f"selective:{name}")):
        with pytest.raises(WorkloadError, match=f"{name} is to be run again"):
            of_modules(name, model)
        return
    none, some = of_modules("", model), of_modules(name, model)
    assert layer_kept_bytes(some, recomputed=False) < layer_kept_bytes(none, recomputed=False)
    assert some.again.work


def test_modules_add_up():
    """What both run again and both give up."""
    one, other, both = (of_modules(names, LATENT) for names in ("mla_up_proj", "moe", "mla_up_proj+moe"))
    none = layer_kept_bytes(of_modules("", LATENT), recomputed=False)
    given_up = [none - layer_kept_bytes(blocks, recomputed=False) for blocks in (one, other, both)]
    assert given_up[2] == given_up[0] + given_up[1]
    assert len(both.again.work) == len(one.again.work) + len(other.again.work)


def test_norms_that_are_run_again_leave_the_inputs_of_projections_unkept():
    """Of a Llama layer, those of qkv and of up: 2 bytes of h columns each."""
    none, some = (layer_kept_bytes(of_modules(names, LLAMA), recomputed=False) for names in ("", "layernorm"))
    assert none - some == 2 * 64 * 64 * 2
    assert {work.op.op for work in of_modules("layernorm", LLAMA).again.work} == {"rms_norm_te"}


def test_experts_that_are_run_again_send_their_rows_again():
    blocks = of_modules("moe", ROUTED, dp=2, ep=2)
    sent = [work.op for work in blocks.again.work if isinstance(work.op, Collective)]
    assert len(sent) == 2


def test_flash_attention_leaves_selective_recomputation_nothing_to_do():
    assert again("selective", "torchtitan") == []


def test_recomputation_by_op_spares_gemms_and_attention():
    assert all(isinstance(op, Pointwise) for op in again("selective-op", "torchtitan"))
    alternate = again("selective-op-alternate", "torchtitan")
    assert any(isinstance(op, Gemm) for op in alternate)
    assert not any(isinstance(op, Attention) for op in alternate)


def test_what_is_kept_worked_by_hand():
    """Norm, GEMM, core, GEMM that save 1, 2, 4 (3 of them scores) and 8 and hand on 10, 20, 30 and 40; input 5.

    The first GEMM writes 2 x 5 fp16 values, which are kept if every other one is.
    """
    shard = make_shard()
    gemm = Work(Gemm(m=2, n=5, k=3, dtype="fp16", out_dtype="fp16"))
    blank = Piece(name="", kind="gemm", forward=(), backward=(), saved_bytes=0.0)
    pieces = (
        replace(blank, kind="pointwise", saved_bytes=1.0, output_bytes=10.0),
        replace(blank, forward=(gemm,), saved_bytes=2.0, output_bytes=20.0),
        replace(blank, kind="core", saved_bytes=4.0, core_bytes=3.0, output_bytes=30.0),
        replace(blank, forward=(gemm,), saved_bytes=8.0, output_bytes=40.0),
    )
    sizes = [kept_bytes(pieces, mode, 5.0) for mode in MODES]
    assert sizes == [15.0, 12.0, 5 + 20 + 30 + 40, 5 + 20 + 30, 5.0]
    assert pointwise(shard, "none", (), 2, 3).saved_bytes == 0.0


def test_every_other_gemm_of_a_llama_layer_worked_by_hand():
    """Of q, k, v, proj, gate, up and down the first, third, fifth and seventh are kept: q, v, gate and down."""
    shard = make_shard(LLAMA, "torchtitan", training={"recompute": "selective-op-alternate"}, dp=2, zero=3)
    model, keys = LLAMA, LLAMA.kv_heads * LLAMA.head_dim
    columns = model.hidden + model.hidden + keys + model.ffn + model.hidden + model.hidden
    assert layer_kept_bytes(Blocks(shard=shard), recomputed=False) == 2 * shard.tokens * columns
    gemms = [op.n for op in again("selective-op-alternate", "torchtitan") if isinstance(op, Gemm)]
    assert gemms == [keys, model.hidden, model.ffn]


def test_a_stack_may_mean_every_other_gemm_by_selective_op():
    modes = [
        make_shard(LLAMA, name, training={"recompute": "selective-op"}).recompute_mode
        for name in ("torchtitan", "nemo")
    ]
    assert modes == ["selective-op-alternate", "selective-op"]


def test_a_compiler_fuses_what_is_run_again_into_the_backward_pass():
    """Its own kernels are not launched again; GEMMs, attention and what it does not compile are."""

    def again(execution: str) -> set[str]:
        shard = replace(make_shard(LLAMA, "torchtitan", training={"recompute": "full"}), execution=execution)
        block = Blocks(shard=shard).again
        return {work.op.op if isinstance(work.op, Pointwise) else type(work.op).__name__ for work in block.work}

    assert {"rms_norm", "silu", "mul", "add", "rope_complex", "Gemm", "Attention"} <= again("eager")
    assert again("compile") == {"add", "cast", "rope_complex", "Gemm", "Attention"}  # casts of weights


def test_a_compiler_leaves_out_the_layer_whose_output_goes_nowhere():
    """Down takes a quarter of the products of a layer; what weighs rows of experts keeps them, so all are needed."""
    layer = Blocks(shard=make_shard(LLAMA, "torchtitan")).layer
    assert [piece.name for piece in layer[len(needed(layer)) :]] == ["down", "residual"]
    routed = Blocks(shard=make_shard(replace(LLAMA, experts=4, topk=2), "torchtitan")).layer
    assert [piece.name for piece in routed[len(needed(routed)) :]] == ["residual"]
