"""What the covered Hugging Face architectures fix, and how each of them spells its sizes."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from workloads.model import Activation, Biases, Family, Norm, Positions


class Traits(NamedTuple):
    """What an architecture's code fixes, or assumes where its configuration is silent."""

    family: Family
    norm: Norm
    biases: Biases
    positions: Positions
    activation: Activation
    tied: bool
    gated: bool = False
    ffn_ratio: int | None = None  # ffn / hidden where the configuration gives no ffn; None: it has to
    kv_heads_given: bool = False  # the configuration has to say; otherwise as many as heads
    head_dim: int | None = None  # None: hidden / heads
    experts: bool = False  # every MLP is a mixture of them
    max_positions: int | None = None  # where the configuration gives none; None: it has to
    multi_query: bool = False
    qk_norm: bool = False
    embedding_norm: bool = False
    norm_bias: bool = True


MISTRAL = Traits("llama", "rms_norm", "none", "rope", "silu", tied=False, gated=True, kv_heads_given=True)
DEEPSEEK = MISTRAL._replace(experts=True, kv_heads_given=False, head_dim=1)  # the size of a head follows from its parts
QWEN_3 = MISTRAL._replace(head_dim=128, qk_norm=True)

# By `model_type`; sources are the configuration and modelling files of the transformers library (4.x).
ARCHITECTURES: Mapping[str, Traits] = {
    "gpt2": Traits("gpt", "layer_norm", "all", "learned", "gelu", tied=True, ffn_ratio=4),
    "gpt_bigcode": Traits("gpt", "layer_norm", "all", "learned", "gelu", tied=True, ffn_ratio=4, multi_query=True),
    "gpt_neox": Traits("gpt", "layer_norm", "all", "rope", "gelu", tied=False),
    "opt": Traits("gpt", "layer_norm", "all", "learned", "relu", tied=True),
    "bloom": Traits(
        "gpt",
        "layer_norm",
        "all",
        "alibi",
        "gelu",
        tied=True,
        ffn_ratio=4,
        max_positions=2048,
        embedding_norm=True,
    ),
    "mpt": Traits("gpt", "layer_norm", "none", "alibi", "gelu", tied=True, ffn_ratio=4, norm_bias=False),
    "nemotron": Traits("gpt", "layer_norm", "none", "rope", "squared_relu", tied=False),
    "llama": Traits("llama", "rms_norm", "none", "rope", "silu", tied=False, gated=True),
    "mistral": MISTRAL,
    "qwen2": Traits("llama", "rms_norm", "qkv", "rope", "silu", tied=False, gated=True, kv_heads_given=True),
    "qwen3": QWEN_3,
    "mixtral": MISTRAL._replace(experts=True),
    "qwen3_moe": QWEN_3._replace(experts=True),
    "gpt_oss": MISTRAL._replace(biases="all", head_dim=64, experts=True),
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "kimi_k2": DEEPSEEK,
    "gemma": Traits(
        "llama",
        "rms_norm",
        "none",
        "rope",
        "gelu",
        tied=True,
        gated=True,
        kv_heads_given=True,
        head_dim=256,
    ),
    "bert": Traits("bert", "layer_norm", "all", "learned", "gelu", tied=True, embedding_norm=True),
    "megatron-bert": Traits("bert", "layer_norm", "all", "learned", "gelu", tied=True),
}

# The class names in `architectures`, without what they do, where there is no `model_type`.
CLASSES = {
    "GPT2": "gpt2",
    "GPTBigCode": "gpt_bigcode",
    "GPTNeoX": "gpt_neox",
    "OPT": "opt",
    "Bloom": "bloom",
    "Mpt": "mpt",
    "MPT": "mpt",
    "Nemotron": "nemotron",
    "Llama": "llama",
    "LLaMA": "llama",
    "Mistral": "mistral",
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Mixtral": "mixtral",
    "Qwen3Moe": "qwen3_moe",
    "GptOss": "gpt_oss",
    "DeepseekV2": "deepseek_v2",
    "DeepseekV3": "deepseek_v3",
    "Gemma": "gemma",
    "Bert": "bert",
    "MegatronBert": "megatron-bert",
}

# One concept, the spellings of the covered architectures; the first that is there counts.
KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "ffn": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim", "kv_channels"),
    "vocab": ("vocab_size",),
    "max_positions": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
    "activation": ("hidden_act", "activation_function"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "topk": ("num_experts_per_tok",),
}

# Marks of mixtures of experts: in the configuration, and in the architecture's name.
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
EXPERT_NAMES = re.compile("moe|mixtral|deepseek|dbrx|gpt_oss|grok|arctic", re.IGNORECASE)

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "squared_relu",
}
