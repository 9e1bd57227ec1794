"""config.json and the short table -> Model: every covered architecture, and input that somebody got wrong."""

import json
import math

import pytest

from workloads.architectures import ARCHITECTURES, CLASSES
from workloads.errors import WorkloadError
from workloads.hf import model_from_config, model_from_table
from workloads.model import Model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 32,
}
EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    **{"kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 4, "v_head_dim": 16},
    **{"first_k_dense_replace": 1, "n_shared_experts": 2},
}
TABLE = {"family": "gpt", "layers": 2, "hidden": 64, "heads": 4, "vocab": 100, "max_positions": 32}


def config(model_type: str, **changes: object) -> dict[str, object]:
    """The smallest that every architecture understands."""
    routed = EXPERTS if ARCHITECTURES[model_type].experts else {}
    latent = LATENT if model_type.startswith(("deepseek", "kimi")) else {}
    return {**LLAMA, **routed, **latent, "model_type": model_type, "num_key_value_heads": 4, **changes}


def llama(**changes: object) -> Model:
    return model_from_config({**LLAMA, **changes}, "mine")


def faults(read, values) -> tuple[str, ...]:
    with pytest.raises(WorkloadError) as caught:
        read(values, "mine")
    assert caught.value.where == "mine"
    return caught.value.faults


def config_faults(**changes: object) -> tuple[str, ...]:
    return faults(model_from_config, {**LLAMA, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_covered_architecture_reads(architecture):
    assert model_from_config(config(architecture), "mine").name == "mine"


@pytest.mark.parametrize(("prefix", "architecture"), CLASSES.items())
def test_the_class_name_says_it_as_well_as_the_type(prefix, architecture):
    values = config(architecture)
    typed = model_from_config(values, "mine")
    del values["model_type"]
    assert model_from_config({**values, "architectures": [f"{prefix}ForCausalLM"]}, "mine") == typed


def test_gpt_2_spells_it_its_own_way():
    model = model_from_config(
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 100},
        "m",
    )
    assert (model.hidden, model.layers, model.heads, model.max_positions) == (64, 2, 4, 32)
    assert model.ffn == 256
    assert model.tied_embeddings


def test_an_inner_size_counts_and_null_means_the_usual_one():
    assert model_from_config(config("gpt2", intermediate_size=None, n_inner=128), "m").ffn == 128
    assert model_from_config(config("gpt2", intermediate_size=None, n_inner=None), "m").ffn == 256


def test_experts_by_the_keys_of_either_architecture():
    model = model_from_config(config("mixtral"), "m")
    assert (model.experts, model.topk, model.ffn) == (8, 2, 96)
    model = model_from_config(config("qwen3_moe", num_local_experts=None, num_experts=16), "m")
    assert (model.experts, model.topk, model.ffn) == (16, 2, 32)


def test_dense_layers_among_routed_ones_are_refused():
    found = faults(model_from_config, config("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[0]))
    assert [fault.split("'")[1] for fault in found] == ["decoder_sparse_step", "mlp_only_layers"]


def test_deepseek_has_latent_attention_shared_experts_and_dense_first_layers():
    model = model_from_config(config("deepseek_v3"), "m")
    assert (model.head_dim, model.rope_dim, model.value_dim, model.kv_heads) == (16, 4, 16, 4)
    assert (model.q_rank, model.kv_rank) == (24, 16)
    assert (model.ffn, model.shared_ffn, model.dense_ffn, model.dense_layers) == (32, 64, 96, 1)


@pytest.mark.parametrize(("given", "layers"), [(None, 0), (0, 0), (1, 1)])
def test_a_deepseek_model_may_predict_further_tokens(given: int | None, layers: int):
    assert model_from_config(config("deepseek_v3", num_nextn_predict_layers=given), "m").mtp_layers == layers


def test_parts_that_a_deepseek_model_may_be_without():
    bare = config("deepseek_v2", q_lora_rank=None, n_shared_experts=None, first_k_dense_replace=0)
    model = model_from_config(bare, "m")
    assert (model.q_rank, model.shared_ffn, model.dense_ffn, model.dense_layers) == (0, 0, 0, 0)
    found = faults(model_from_config, config("deepseek_v3", moe_layer_freq=2, attention_bias=True))
    assert [fault.split("'")[1] for fault in found] == ["moe_layer_freq", "attention_bias"]


def test_a_table_may_have_experts():
    model = model_from_table({**TABLE, "experts": 4, "topk": 1, "biases": "none"}, "m")
    assert (model.experts, model.topk) == (4, 1)
    assert "topk 0 of 4 experts" in faults(model_from_table, {**TABLE, "experts": 4, "biases": "none"})[0]
    assert "topk 5 of 4" in faults(model_from_table, {**TABLE, "experts": 4, "topk": 5, "biases": "none"})[0]
    biased = model_from_table({**TABLE, "experts": 4, "topk": 1}, "m")
    assert biased.parameters - model.parameters == 2 * (3 * 64 + 64 + 4 + 4 * (256 + 64))


def test_unknown_keys_are_normal():
    assert llama(rope_theta=1e6, quantization_config={"bits": 4}, torch_dtype="bfloat16") == llama()


def test_grouped_queries():
    assert llama(num_key_value_heads=2).kv_heads == 2
    assert llama().kv_heads == 4
    assert llama(num_key_value_heads=None).kv_heads == 4


def test_a_head_may_be_larger_than_its_share():
    assert llama(head_dim=32).attention_columns == 128
    assert model_from_config(config("qwen3"), "m").head_dim == 128
    assert model_from_config(config("gemma"), "m").head_dim == 256


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        ("gpt2", True),
        ("gpt_neox", False),
        ("opt", True),
        ("bloom", True),
        ("mpt", True),
        ("llama", False),
        ("mistral", False),
        ("qwen2", False),
        ("qwen3", False),
        ("gemma", True),
        ("nemotron", False),
        ("bert", True),
    ],
)
def test_embeddings_are_tied_as_the_architecture_does_unless_said(architecture, tied):
    assert model_from_config(config(architecture), "m").tied_embeddings is tied
    said = config(architecture, tie_word_embeddings=not tied)
    assert model_from_config(said, "m").tied_embeddings is not tied


@pytest.mark.parametrize(
    ("switches", "biases"),
    [
        ({}, "none"),
        ({"attention_bias": True}, "attention"),
        ({"attention_bias": True, "mlp_bias": True}, "all"),
    ],
)
def test_llama_switches_its_biases(switches, biases):
    assert llama(**switches).biases == biases


def test_qwen_2_biases_its_queries_keys_and_values_only():
    assert model_from_config(config("qwen2"), "m").biases == "qkv"


def test_bigcode_shares_one_head_of_keys_unless_told_otherwise():
    assert model_from_config(config("gpt_bigcode"), "m").kv_heads == 1
    assert model_from_config(config("gpt_bigcode", multi_query=False), "m").kv_heads == 4


def test_opt_keeps_two_spare_positions():
    assert model_from_config(config("opt"), "m").max_positions == 34


def test_nemotron_squares_its_relu_and_does_not_gate():
    model = model_from_config(config("nemotron", hidden_act="relu2"), "m")
    assert (model.activation, model.gated, model.norm) == ("squared_relu", False, "layer_norm")


def test_bert_normalises_first_and_megatron_bert_last():
    assert model_from_config(config("bert"), "m").final_norm_parameters == 0
    assert model_from_config(config("megatron-bert"), "m").final_norm_parameters == 128


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({}, "ffn", 256),
        ({"expansion_ratio": 2}, "ffn", 128),
        ({}, "biases", "none"),
        ({"no_bias": False}, "biases", "all"),
        ({"no_bias": False}, "norm_bias", True),
        ({}, "positions", "alibi"),
        ({"attn_config": {"alibi": False}}, "positions", "learned"),
        ({"attn_config": {"alibi": False}, "learned_pos_emb": False}, "positions", "none"),
        ({"attn_config": {"alibi": False, "rope": True}}, "positions", "rope"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "kv_heads", 1),
        ({"attn_config": {"attn_type": "grouped_query_attention", "kv_n_heads": 2}}, "kv_heads", 2),
    ],
)
def test_mpt_by_its_own_keys(changes, field, value):
    assert getattr(model_from_config(config("mpt", **changes), "m"), field) == value


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model_type": "qwen2_moe"}, "'qwen2_moe' (a mixture of experts)"),
        ({"model_type": "deepseek_v4", "n_routed_experts": 256}, "(a mixture of experts)"),
        ({"model_type": "llama", "num_local_experts": 16}, "'llama' (a mixture of experts)"),
        ({"model_type": "t5"}, "architecture 't5' is not covered; covered are bert, bloom"),
        (
            {"model_type": None, "architectures": ["FalconForCausalLM"]},
            "architecture 'Falcon' is not covered",
        ),
        ({"model_type": 7}, "architecture 7 is not covered"),
        ({"model_type": ["llama"]}, "architecture ['llama'] is not covered"),
        ({"model_type": None, "architectures": "LlamaForCausalLM"}, "no 'model_type' and no 'architectures'"),
        ({"model_type": None, "architectures": [3]}, "no 'model_type' and no 'architectures'"),
    ],
)
def test_what_is_not_covered_is_named_with_what_is(changes, fault):
    (message,) = config_faults(**changes)
    assert fault in message
    assert "qwen3" in message


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "model_type"])
@pytest.mark.parametrize("value", [0, -1, True, 64.0, math.nan, math.inf, "64", [64], {}, 10**400])
def test_a_wrong_size_is_named_by_its_key(key, value):
    (fault,) = config_faults(**{key: value})
    assert fault.startswith(f"'{key}' is ")
    assert "a whole number from 1" in fault


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "model_type"])
def test_a_missing_key_is_named(key):
    (fault,) = faults(model_from_config, {k: v for k, v in LLAMA.items() if k != key})
    assert fault.startswith(f"no '{key}'")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"num_key_value_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"num_attention_heads": 5}, "5 heads do not divide a hidden size of 64"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"hidden_act": "tanh"}, "'hidden_act' is 'tanh'; one of gelu,"),
        ({"hidden_act": ["silu"]}, "'hidden_act' is ['silu']"),
        ({"tie_word_embeddings": "no"}, "'tie_word_embeddings' is 'no'; true or false is right"),
        ({"tie_word_embeddings": 1}, "'tie_word_embeddings' is 1; true or false is right"),
        ({"mlp_bias": True}, "'mlp_bias' true without 'attention_bias'"),
        ({"model_type": "mistral"}, "no 'num_key_value_heads'"),
        (
            {"model_type": "opt", "word_embed_proj_dim": 32},
            "'word_embed_proj_dim' 32 is not covered; only 64",
        ),
        ({"model_type": "opt", "do_layer_norm_before": False}, "'do_layer_norm_before' False is not covered"),
        ({"model_type": "gpt_neox", "attention_bias": False}, "'attention_bias' False is not covered"),
        ({"model_type": "bert", "type_vocab_size": 3}, "'type_vocab_size' 3 is not covered; only 2"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "'position_embedding_type'"),
        ({"model_type": "mpt", "expansion_ratio": -4}, "'expansion_ratio' is -4"),
        ({"model_type": "mpt", "attn_config": 3}, "'attn_config' is 3; an object is right"),
        ({"model_type": "mpt", "attn_config": {"alibi": 1}}, "'attn_config.alibi' is 1"),
        ({"model_type": "mpt", "attn_config": {"qk_ln": True}}, "'attn_config.qk_ln' True is not covered"),
        ({"model_type": "mpt", "attn_config": {"attn_type": "x"}}, "'attn_config.attn_type' is 'x'"),
        (
            {"model_type": "mpt", "attn_config": {"attn_type": "grouped_query_attention"}},
            "no 'attn_config.kv_n_heads'",
        ),
    ],
)
def test_values_that_make_no_model(changes, fault):
    (message,) = config_faults(**changes)
    assert fault in message


def test_all_faults_of_a_config_at_once():
    found = config_faults(hidden_size=-1, vocab_size="many", num_hidden_layers=None, hidden_act="x", mlp_bias=3)
    assert len(found) == 5


def test_not_a_number_in_a_file_is_a_fault_like_any_other():
    values = json.loads(json.dumps({**LLAMA, "vocab_size": math.nan}))
    assert faults(model_from_config, values) == ("'vocab_size' is nan; a whole number from 1 to 100000000 is right",)


def test_a_table_fills_in_what_its_family_is_known_for():
    gpt = model_from_table(TABLE, "m")
    assert (gpt.ffn, gpt.kv_heads, gpt.head_dim, gpt.biases, gpt.positions) == (256, 4, 16, "all", "learned")
    one = model_from_table({**TABLE, "family": "llama", "ffn": 96}, "m")
    assert (one.gated, one.norm, one.tied_embeddings, one.activation) == (True, "rms_norm", False, "silu")
    bert = model_from_table({**TABLE, "family": "bert"}, "m")
    assert (bert.ffn, bert.embedding_norm) == (256, True)


def test_a_table_and_a_config_of_the_same_model_agree():
    table = {**TABLE, "family": "llama", "ffn": 96, "kv_heads": 2}
    assert model_from_table(table, "mine") == llama(num_key_value_heads=2)


def test_a_table_may_change_every_default():
    other = {
        "gated": True,
        "norm": "rms_norm",
        "biases": "qkv",
        "tied_embeddings": False,
        "positions": "alibi",
    }
    more = {
        "activation": "squared_relu",
        "qk_norm": True,
        "embedding_norm": True,
        "norm_bias": False,
        "name": "n",
    }
    model = model_from_table({**TABLE, **other, **more, "source": "nowhere"}, "m")
    assert {key: getattr(model, key) for key in {**other, **more}} == {**other, **more}


@pytest.mark.parametrize("key", TABLE)
def test_a_table_has_to_have_its_sizes(key):
    (fault,) = faults(model_from_table, {k: v for k, v in TABLE.items() if k != key})
    assert fault.startswith(f"no '{key}'")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"hiden": 8}, "no key 'hiden'; nearest: hidden"),
        ({"family": "rnn"}, "'family' is 'rnn'; one of gpt, llama, bert is right"),
        ({"family": 3}, "'family' is 3"),
        ({"family": "llama"}, "no 'ffn'"),
        ({"layers": 2.5}, "'layers' is 2.5"),
        ({"gated": "yes"}, "'gated' is 'yes'; true or false is right"),
        ({"norm": "batch_norm"}, "'norm' is 'batch_norm'; one of layer_norm, rms_norm"),
        ({"biases": True}, "'biases' is True; one of none, qkv, attention, all"),
        ({"name": 3}, "'name' is 3; a text is right"),
        ({"heads": 7}, "7 heads do not divide a hidden size of 64, and no 'head_dim'"),
        ({"ffn": 0}, "'ffn' is 0"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
    ],
)
def test_tables_that_make_no_model(changes, fault):
    (message,) = faults(model_from_table, {**TABLE, **changes})
    assert fault in message


def test_all_faults_of_a_table_at_once():
    found = faults(model_from_table, {"famly": "gpt", "layers": 0, "hidden": "x", "heads": -1, "vocab": True})
    assert len(found) == 7
