"""What a Model counts: parameters and FLOPs, worked by hand."""

from dataclasses import FrozenInstanceError, replace

import pytest

from workloads.model import LARGEST_SIZE, Model, check, step_model_flops

# Small enough to count on paper: h 4, 2 heads of 2, one kv head, f 8, V 10, 3 layers, 6 positions.
TINY = Model(
    name="tiny",
    family="gpt",
    layers=3,
    hidden=4,
    ffn=8,
    heads=2,
    kv_heads=1,
    head_dim=2,
    vocab=10,
    gated=False,
    norm="layer_norm",
    biases="all",
    tied_embeddings=True,
    positions="learned",
    max_positions=6,
    activation="gelu",
)


def gpt(layers: int, hidden: int, heads: int, vocab: int) -> Model:
    return replace(
        TINY,
        layers=layers,
        hidden=hidden,
        ffn=4 * hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocab=vocab,
        max_positions=2048,
    )


def test_a_layer_counted_on_paper():
    weights = 4 * 8 + 4 * 4 + 4 * 8 + 8 * 4  # QKV, attention output, MLP in, MLP out
    biases = 8 + 4 + 8 + 4
    norms = 2 * (4 + 4)
    assert TINY.qkv_columns == 8
    assert TINY.attention_columns == 4
    assert TINY.layer_parameters == weights + biases + norms == 152


def test_a_whole_model_counted_on_paper():
    assert TINY.embedding_parameters == (10 + 6) * 4
    assert TINY.final_norm_parameters == 8
    assert TINY.head_parameters == 0
    assert TINY.parameters == 3 * 152 + 64 + 8


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"tied_embeddings": False}, 10 * 4),
        ({"gated": True}, 3 * (4 * 8 + 8)),
        ({"norm": "rms_norm"}, -7 * 4),
        ({"norm_bias": False}, -7 * 4),
        ({"biases": "none"}, -3 * 24),
        ({"biases": "qkv"}, -3 * 16),
        ({"biases": "attention"}, -3 * 12),
        ({"positions": "rope"}, -6 * 4),
        ({"positions": "alibi"}, -6 * 4),
        ({"qk_norm": True}, 3 * 2 * 2),
        ({"embedding_norm": True}, 8),
        ({"kv_heads": 2}, 3 * (4 * 4 + 4)),
    ],
)
def test_every_feature_changes_the_count_by_what_it_weighs(change, more):
    assert replace(TINY, **change).parameters - TINY.parameters == more


def test_a_bert_has_segments_and_the_heads_of_its_pretraining():
    bert = replace(TINY, family="bert", embedding_norm=True)
    pooler, transform, norm, output_bias, next_sentence = 20, 20, 8, 10, 10
    assert bert.embedding_parameters == (10 + 6 + 2) * 4 + 8
    assert bert.final_norm_parameters == 0
    assert bert.pretraining_head_parameters == pooler + transform + norm + output_bias + next_sentence


def test_flops_of_a_token_counted_on_paper():
    assert TINY.matmul_flops_per_token == 2 * (3 * 112 + 4 * 10)
    assert TINY.attention_flops_per_token(6, causal=False) == 3 * 2 * (2 * 4 * 6)
    assert TINY.attention_flops_per_token(6, causal=True) == 3 * 2 * (2 * 4 * 3.5)


def test_gpt_2_small_by_hand():
    small = gpt(12, 768, 12, 50257)
    assert small.matmul_flops_per_token == 2 * (12 * 12 * 768**2 + 768 * 50257) == 247_064_064
    assert small.attention_flops_per_token(1024, causal=False) == 37_748_736
    assert small.attention_flops_per_token(1024, causal=True) == 18_892_800


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "batch"),
    [(24, 2304, 24, 512), (96, 12288, 96, 1536), (128, 25600, 160, 3072)],
)
def test_step_flops_are_those_of_the_megatron_formula(layers, hidden, heads, batch):
    """Narayanan et al. 2021, section 5.1, without the recomputed forward pass: 72 for 96."""
    seq, vocab = 2048, 51200
    share = 1 + seq / (6 * hidden) + vocab / (12 * layers * hidden)
    formula = 72 * batch * seq * layers * hidden**2 * share
    assert step_model_flops(gpt(layers, hidden, heads, vocab), seq, batch) == pytest.approx(formula, rel=1e-12)


def test_step_flops_of_gpt_3_worked_out():
    assert step_model_flops(gpt(96, 12288, 96, 51200), 2048, 1536) == pytest.approx(3.3862e18, rel=1e-4)


def test_a_gated_mlp_has_three_projections():
    gated = replace(TINY, gated=True)
    assert gated.layer_matmul_parameters - TINY.layer_matmul_parameters == 4 * 8


def test_a_masked_token_head_transforms_every_token():
    bert = replace(TINY, family="bert")
    assert bert.matmul_flops_per_token - TINY.matmul_flops_per_token == 2 * 4 * 4


def test_step_flops_are_proportional_to_the_sequences():
    assert step_model_flops(TINY, 6, 10) == 10 * step_model_flops(TINY, 6, 1)


def test_tying_saves_memory_but_no_flops():
    untied = replace(TINY, tied_embeddings=False)
    assert untied.parameters > TINY.parameters
    assert untied.matmul_flops_per_token == TINY.matmul_flops_per_token


def test_a_sound_model_has_no_faults():
    assert check(TINY) == ()


@pytest.mark.parametrize("size", ["layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab"])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, float("nan"), float("inf"), "4", None, [4], LARGEST_SIZE + 1])
def test_a_size_that_is_none_is_named(size, value):
    (fault,) = check(replace(TINY, **{size: value}))
    assert fault.startswith(size)


def test_an_enormous_number_does_not_fill_the_message():
    (fault,) = check(replace(TINY, layers=10**6000))
    assert len(fault) < 200


def test_all_faults_are_found_at_once():
    faults = check(replace(TINY, layers=0, hidden=-4, family="rnn", gated="yes"))
    assert len(faults) == 4


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"heads": 3, "kv_heads": 2}, "heads 3 is not a multiple of kv_heads 2"),
        ({"positions": "rope", "head_dim": 3}, "head_dim 3 is odd"),
    ],
)
def test_sizes_that_do_not_go_together(change, fault):
    assert fault in check(replace(TINY, **change))[0]


def test_a_model_is_a_value():
    assert {TINY: 1}[replace(TINY)] == 1
    with pytest.raises(FrozenInstanceError):
        TINY.layers = 4
