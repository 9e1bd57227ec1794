"""Model descriptions -> Model: a Hugging Face config.json, or a short table of the Model's own fields.

A config.json holds many keys that say nothing about shape, so unknown ones are passed over there; in the
project's own form every key counts, and an unknown one is a fault.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import get_args

from workloads.architectures import (
    ACTIVATIONS,
    ARCHITECTURES,
    CLASSES,
    EXPERT_KEYS,
    EXPERT_NAMES,
    KEYS,
    Traits,
)
from workloads.errors import WorkloadError, unknown
from workloads.model import SEGMENT_TYPES, Activation, Biases, Family, Model, Norm, Positions, check, shown
from workloads.reader import Reader, Word

# What the short form leaves out is that of GPT-2, Llama and the original BERT.
TABLE_DEFAULTS: Mapping[Family, Traits] = {
    "gpt": ARCHITECTURES["gpt2"],
    "llama": ARCHITECTURES["llama"],
    "bert": ARCHITECTURES["bert"]._replace(ffn_ratio=4),
}

OPTIONAL_SIZES = (
    *("experts", "topk", "expert_groups", "topk_groups", "shared_ffn", "dense_layers", "dense_ffn"),
    *("kv_rank", "q_rank", "rope_dim", "value_dim", "window", "full_every", "mtp_layers"),
)
TABLE_KEYS = (*(field.name for field in fields(Model)), "source")


def model_from_config(config: Mapping[str, object], name: str) -> Model:
    """The model that a Hugging Face config.json describes.

    Raises:
        WorkloadError: the architecture is not covered, or values are missing or impossible (all of them).
    """
    faults: list[str] = []
    architecture = _architecture(config, name)
    reader = Reader(config, faults)
    model = _generic(reader, name, ARCHITECTURES[architecture])
    model = SPECIALS.get(architecture, _as_it_is)(reader, model)
    return _sound(model, faults)


def model_from_table(table: Mapping[str, object], name: str) -> Model:
    """The model of a table of the Model's own fields (the TOML form).

    family, layers, hidden, heads, vocab and max_positions have to be there, and ffn for a `llama`. The rest
    defaults to what the family is known for: GPT-2 (ffn 4 x hidden), Llama 2 and the original BERT.

    Raises:
        WorkloadError: unknown keys, missing or impossible values (all of them).
    """
    faults = [unknown("key", key, TABLE_KEYS) for key in table if key not in TABLE_KEYS]
    reader = Reader(table, faults)
    if "family" not in table:
        faults.append(f"no 'family'; one of {', '.join(TABLE_DEFAULTS)} is right")
    traits = TABLE_DEFAULTS[reader.word("family", words=_same(get_args(Family)), default="gpt")]
    hidden, heads = reader.size("hidden"), reader.size("heads")
    model = Model(
        name=reader.text("name", name),
        family=traits.family,
        layers=reader.size("layers"),
        hidden=hidden,
        ffn=reader.size("ffn", default=traits.ffn_ratio and traits.ffn_ratio * hidden),
        heads=heads,
        kv_heads=reader.size("kv_heads", default=heads),
        head_dim=reader.head_dim("head_dim", hidden=hidden, heads=heads),
        vocab=reader.size("vocab"),
        gated=reader.flag("gated", traits.gated),
        norm=reader.word("norm", words=_same(get_args(Norm)), default=traits.norm),
        biases=reader.word("biases", words=_same(get_args(Biases)), default=traits.biases),
        tied_embeddings=reader.flag("tied_embeddings", traits.tied),
        positions=reader.word("positions", words=_same(get_args(Positions)), default=traits.positions),
        max_positions=reader.size("max_positions"),
        activation=reader.word("activation", words=_same(get_args(Activation)), default=traits.activation),
        qk_norm=reader.flag("qk_norm", traits.qk_norm),
        embedding_norm=reader.flag("embedding_norm", traits.embedding_norm),
        norm_bias=reader.flag("norm_bias", traits.norm_bias),
        sinks=reader.flag("sinks", False),
        clamped=reader.flag("clamped", False),
        rope_scaled=reader.flag("rope_scaled", False),
        **{name: reader.size(name) for name in OPTIONAL_SIZES if name in table},
    )
    return _sound(model, faults)


def _sound(model: Model, faults: list[str]) -> Model:
    found = tuple(faults) or check(model)
    if found:
        raise WorkloadError(model.name, found)
    return model


def _architecture(config: Mapping[str, object], name: str) -> str:
    """The `model_type`, or the one that the class in `architectures` belongs to."""
    classes = tuple(_classes(config))
    kind = config.get("model_type") or next((CLASSES[c] for c in classes if c in CLASSES), None)
    experts = [key for key in EXPERT_KEYS if config.get(key) not in (None, 0, 1)]
    if isinstance(kind, str) and kind in ARCHITECTURES and (ARCHITECTURES[kind].experts or not experts):
        return kind
    raise WorkloadError(name, [_not_covered(kind or ", ".join(classes), experts)])


def _not_covered(kind: object, experts: list[str]) -> str:
    covered = f"covered are {', '.join(sorted(ARCHITECTURES))}"
    if not kind:
        return f"no 'model_type' and no 'architectures' that says what it is; {covered}"
    because = " (a mixture of experts)" if experts or EXPERT_NAMES.search(str(kind)) else ""
    return f"architecture {shown(kind)}{because} is not covered; {covered}"


def _classes(config: Mapping[str, object]) -> Iterator[str]:
    """`LlamaForCausalLM` -> `Llama`."""
    named = config.get("architectures")
    for text in named if isinstance(named, list) else ():
        if isinstance(text, str):
            yield re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", text)


def _generic(reader: Reader, name: str, traits: Traits) -> Model:
    """What all architectures say in the same way but for the spelling."""
    hidden, heads = reader.size(*KEYS["hidden"]), reader.size(*KEYS["heads"])
    kv_default = None if traits.kv_heads_given and "num_key_value_heads" not in reader.values else heads
    one = reader.flag("multi_query", traits.multi_query)
    return Model(
        name=name,
        family=traits.family,
        layers=reader.size(*KEYS["layers"]),
        hidden=hidden,
        ffn=reader.size(*KEYS["ffn"], default=traits.ffn_ratio and traits.ffn_ratio * hidden),
        heads=heads,
        kv_heads=1 if one else reader.size(*KEYS["kv_heads"], default=kv_default),
        head_dim=reader.head_dim(*KEYS["head_dim"], hidden=hidden, heads=heads, default=traits.head_dim),
        vocab=reader.size(*KEYS["vocab"]),
        gated=traits.gated,
        norm=traits.norm,
        biases=traits.biases,
        tied_embeddings=reader.flag("tie_word_embeddings", traits.tied),
        positions=traits.positions,
        max_positions=reader.size(*KEYS["max_positions"], default=traits.max_positions),
        activation=reader.word(*KEYS["activation"], words=ACTIVATIONS, default=traits.activation),
        qk_norm=traits.qk_norm,
        embedding_norm=traits.embedding_norm,
        norm_bias=traits.norm_bias,
        experts=reader.size(*KEYS["experts"]) if traits.experts else 0,
        topk=reader.size(*KEYS["topk"]) if traits.experts else 0,
    )


def _as_it_is(_reader: Reader, model: Model) -> Model:
    return model


def _windowed(reader: Reader, model: Model) -> Model:
    """`sliding_window` tokens, in all layers or in those that `layer_types` names."""
    if not reader.values.get("sliding_window"):
        return model
    return replace(model, window=reader.size("sliding_window"), full_every=_full_every(reader, model.layers))


def _full_every(reader: Reader, layers: int) -> int:
    """Of how many layers one sees all of the sequence, the last; 0 where none does."""
    kinds = reader.values.get("layer_types") or ["sliding_attention"] * layers
    known = isinstance(kinds, list) and len(kinds) == layers
    every = kinds.index("full_attention") + 1 if isinstance(kinds, list) and "full_attention" in kinds else 0
    words = [every and (layer + 1) % every == 0 for layer in range(layers)]
    if not known or every == 1 or kinds != ["full_attention" if full else "sliding_attention" for full in words]:
        reader.faults.append(
            f"'layer_types' of {layers} layers: sliding_attention with a full_attention after every so many is covered"
        )
    return every


def _gpt_oss(reader: Reader, model: Model) -> Model:
    """Every other layer with a window, unless it says otherwise; sinks and clamps are part of the code."""
    reader.refuse_unless("attention_bias", right=True, absent=True)
    kinds = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(model.layers)]
    said = {"sliding_window": 128, "layer_types": kinds, **reader.values}
    yarn = reader.table("rope_scaling").values.get("rope_type") == "yarn"
    return replace(_windowed(Reader(said, reader.faults), model), sinks=True, clamped=True, rope_scaled=yarn)


def _qwen(reader: Reader, model: Model) -> Model:
    """Windows may be given and are off; from some layer on they are not covered."""
    reader.refuse_unless("use_sliding_window", right=False, absent=False)
    return model


def _llama(reader: Reader, model: Model) -> Model:
    """Two switches: biases of the four attention projections, and of the MLP."""
    attention, mlp = reader.flag("attention_bias", False), reader.flag("mlp_bias", False)
    if mlp and not attention:
        reader.faults.append("'mlp_bias' true without 'attention_bias' true is not covered")
    biases: Biases = "all" if mlp else "attention" if attention else "none"
    return replace(model, biases=biases)


def _qwen3_moe(reader: Reader, model: Model) -> Model:
    """`intermediate_size` is of dense MLPs, of which there must be none."""
    reader.refuse_unless("decoder_sparse_step", right=1, absent=1)
    reader.refuse_unless("mlp_only_layers", right=[], absent=[])
    return replace(_qwen3(reader, model), ffn=reader.size("moe_intermediate_size"))


def _qwen3(reader: Reader, model: Model) -> Model:
    return _llama(reader, _qwen(reader, model))


def _deepseek(reader: Reader, model: Model) -> Model:
    """Latent attention; the first layers are dense, the others have shared experts beside the routed ones."""
    reader.refuse_unless("moe_layer_freq", right=1, absent=1)
    reader.refuse_unless("attention_bias", right=False, absent=False)
    ffn, rope = reader.size("moe_intermediate_size"), reader.size("qk_rope_head_dim")
    dense = reader.values.get("first_k_dense_replace") != 0
    further = "num_nextn_predict_layers"
    return replace(
        model,
        ffn=ffn,
        kv_heads=model.heads,
        head_dim=reader.size("qk_nope_head_dim") + rope,
        expert_groups=reader.size("n_group", default=1),
        topk_groups=reader.size("topk_group", default=1),
        shared_ffn=ffn * reader.size("n_shared_experts") if reader.values.get("n_shared_experts") else 0,
        dense_layers=reader.size("first_k_dense_replace", default=1) if dense else 0,
        dense_ffn=reader.size("intermediate_size") if dense else 0,
        kv_rank=reader.size("kv_lora_rank"),
        q_rank=reader.size("q_lora_rank") if reader.values.get("q_lora_rank") else 0,
        rope_dim=rope,
        value_dim=reader.size("v_head_dim"),
        mtp_layers=reader.size(further) if reader.values.get(further) else 0,
    )


def _gpt_neox(reader: Reader, model: Model) -> Model:
    """The MLP always has biases."""
    reader.refuse_unless("attention_bias", right=True, absent=True)
    return model


def _opt(reader: Reader, model: Model) -> Model:
    """The table of positions has two rows before the first position (transformers, modeling_opt.py)."""
    reader.refuse_unless("do_layer_norm_before", right=True, absent=True)
    reader.refuse_unless("_remove_final_layer_norm", right=False, absent=False)
    reader.refuse_unless("layer_norm_elementwise_affine", right=True, absent=True)
    if model.hidden > 1:  # not a faulty one
        reader.refuse_unless("word_embed_proj_dim", right=model.hidden, absent=None)
    biases: Biases = "all" if reader.flag("enable_bias", True) else "none"
    return replace(model, biases=biases, max_positions=model.max_positions + 2)


def _mpt(reader: Reader, model: Model) -> Model:
    """Sizes as ratios, attention in a table of its own; without biases the norms have none either."""
    attention = reader.table("attn_config")
    attention.refuse_unless("qk_ln", right=False, absent=False)
    no_bias = reader.flag("no_bias", True)
    return replace(
        model,
        ffn=reader.size("expansion_ratio", default=4) * model.hidden,
        kv_heads=_mpt_kv_heads(attention, model.heads),
        biases="none" if no_bias else "all",
        norm_bias=not no_bias,
        positions=_mpt_positions(reader, attention),
    )


def _mpt_kv_heads(attention: Reader, heads: int) -> int:
    kinds = _same(("multihead_attention", "multiquery_attention", "grouped_query_attention"))
    kind = attention.word("attn_type", words=kinds, default="multihead_attention")
    if kind == "grouped_query_attention":
        return attention.size("kv_n_heads")
    return 1 if kind == "multiquery_attention" else heads


def _mpt_positions(reader: Reader, attention: Reader) -> Positions:
    """A learned table only where neither ALiBi nor rotary positions are on."""
    learned = reader.flag("learned_pos_emb", True)
    if attention.flag("alibi", True):
        return "alibi"
    if attention.flag("rope", False):
        return "rope"
    return "learned" if learned else "none"


def _bert(reader: Reader, model: Model) -> Model:
    """Absolute positions and the two segments of the original."""
    reader.refuse_unless("position_embedding_type", right="absolute", absent="absolute")
    reader.refuse_unless("type_vocab_size", right=SEGMENT_TYPES, absent=SEGMENT_TYPES)
    return model


SPECIALS: Mapping[str, Callable[[Reader, Model], Model]] = {
    "llama": _llama,
    "gpt_oss": _gpt_oss,
    "mistral": _windowed,
    "mixtral": _windowed,
    "qwen2": _qwen,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "gemma": _llama,
    "nemotron": _llama,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "mpt": _mpt,
    "bert": _bert,
    "megatron-bert": _bert,
}


def _same(words: tuple[Word, ...]) -> dict[str, Word]:
    return {word: word for word in words}
