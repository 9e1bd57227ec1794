"""What a transformer is: its shape, its parameters and the FLOPs of a token.

Symbols below: h hidden, l layers, f ffn, V vocabulary, s sequence length, a heads, g kv heads, d head_dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

Family = Literal["gpt", "llama", "bert"]
Norm = Literal["layer_norm", "rms_norm"]
Biases = Literal["none", "qkv", "attention", "all"]
Positions = Literal["learned", "rope", "alibi", "none"]
Activation = Literal["gelu", "silu", "relu", "squared_relu"]

SIZES = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab", "max_positions")
FLAGS = ("gated", "tied_embeddings", "qk_norm", "embedding_norm", "norm_bias", "sinks", "clamped", "rope_scaled")
CHOICES: dict[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "norm": get_args(Norm),
    "biases": get_args(Biases),
    "positions": get_args(Positions),
    "activation": get_args(Activation),
}

# Well above any model, well below what overflows a float somewhere downstream.
LARGEST_SIZE = 10**8

# Sentence A and sentence B of a BERT input.
SEGMENT_TYPES = 2


class Kind(NamedTuple):
    """In what the layers of a model differ: without experts, seeing only a window, predicting a further token."""

    dense: bool
    windowed: bool
    predicts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A transformer, dense or with a mixture of experts in the place of every MLP.

    A `bert` is an encoder (bidirectional attention) with the heads that it is pre-trained with: pooler,
    masked-token head and next-sentence classifier. `gpt` and `llama` are causal decoders; the difference
    between those two is only in the other fields.

    Args:
        ffn: columns of the MLP's inner layer (of each of the two projections where `gated`).
        vocab: rows of the embedding table as the model is trained, padding included.
        biases: which linear layers have one: those of Q, K and V; of the attention with its output
            projection; all in the transformer layers, router and experts among them. The vocabulary projection
            never has.
        positions: how the order enters; only `learned` ones are parameters.
        max_positions: longest sequence; for `learned`, the rows of the table (OPT keeps two spare ones);
            for `alibi`, the length that it was trained with.
        qk_norm: each head's Q and K go through an RMS norm of `head_dim` weights (Qwen3).
        embedding_norm: the embedding's output is normalised (BERT, BLOOM).
        norm_bias: whether a layer norm has a bias beside its weight; an RMS norm never has.
        experts: MLPs of a layer, of `ffn` columns each; 0 for a dense model, which has one.
        topk: experts that a token goes to.
        expert_groups: of equal size; all experts of a token are of `topk_groups` of them (DeepSeek-V3). 1: no groups.
        shared_ffn: columns of the MLP that every token goes to beside its experts; 0 for none.
        dense_layers: first layers, with one MLP of `dense_ffn` columns in the place of experts.
        kv_rank: columns that keys and values are projected down to and up from again (latent attention,
            DeepSeek-AI, arXiv:2405.04434); 0 for none.
        q_rank: likewise of queries; 0 where they are projected at once.
        rope_dim: of the `head_dim` columns of latent attention's queries and keys, those that are rotated; all heads
            share the keys'.
        value_dim: columns of a head's value in latent attention, which may differ from `head_dim`.
        window: tokens that a token sees in layers with sliding windows, itself the last of them; 0 without windows.
        full_every: of so many layers the last one has no window (2: every other layer); 0: all have it.
        sinks: each head has a learned logit that takes part in the softmax and is worth no value (GPT-OSS).
        clamped: the two inputs of a gated activation are clamped first (GPT-OSS).
        mtp_layers: layers behind the last one that each predict one token further (multi-token prediction, DeepSeek-AI,
            arXiv:2412.19437, 2.2), with a projection of 2 h columns in front and norms; they share embedding and head.
            `parameters` leaves them out.
        rope_scaled: rotary positions also scale queries and keys (YaRN, arXiv:2309.00071, unless `mscale` undoes it).
    """

    name: str
    family: Family
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    gated: bool
    norm: Norm
    biases: Biases
    tied_embeddings: bool
    positions: Positions
    max_positions: int
    activation: Activation
    qk_norm: bool = False
    embedding_norm: bool = False
    norm_bias: bool = True
    experts: int = 0
    topk: int = 0
    expert_groups: int = 1
    topk_groups: int = 1
    shared_ffn: int = 0
    dense_layers: int = 0
    dense_ffn: int = 0
    kv_rank: int = 0
    q_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0
    window: int = 0
    full_every: int = 0
    sinks: bool = False
    clamped: bool = False
    rope_scaled: bool = False
    mtp_layers: int = 0

    @property
    def dense(self) -> "Model":
        """The model that has all layers like the first ones, which are without experts."""
        ffn = self.dense_ffn or self.ffn
        return replace(self, ffn=ffn, experts=0, topk=0, shared_ffn=0, dense_layers=0, dense_ffn=0)

    def kind(self, layer: int) -> Kind:
        """Of a layer, counted from 0; those that predict further tokens stand behind the others."""
        full = not self.window or (self.full_every > 0 and (layer + 1) % self.full_every == 0)
        return Kind(dense=layer < self.dense_layers, windowed=not full, predicts=layer >= self.layers)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of all layers that are trained, each once, in order."""
        return tuple(dict.fromkeys(map(self.kind, range(self.layers + self.mtp_layers))))

    def alike(self, kind: Kind) -> "Model":
        """The model that has all layers of one kind."""
        model = self.dense if kind.dense else self
        return replace(model, window=self.window if kind.windowed else 0, full_every=0) if self.full_every else model

    @property
    def value_head_dim(self) -> int:
        """Columns of a head's value: `head_dim`, unless latent attention has others."""
        return self.value_dim or self.head_dim

    @property
    def qkv_columns(self) -> int:
        """Output columns of the fused query, key and value projection: (a + 2 g) d."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def attention_columns(self) -> int:
        """Columns of the values of all heads, the input of the attention's output projection: a d."""
        return self.heads * self.value_head_dim

    @property
    def down_columns(self) -> int:
        """Columns that latent attention projects the hidden state to before all else; 0 without it."""
        return self.q_rank + self.kv_rank + self.rope_dim if self.kv_rank else 0

    @property
    def attention_matmul_parameters(self) -> int:
        """Weights of the projections of the attention of one layer."""
        out = self.attention_columns * self.hidden
        if not self.kv_rank:
            return self.hidden * self.qkv_columns + out
        query = (self.q_rank or self.hidden) * self.heads * self.head_dim
        key_value = self.kv_rank * self.heads * (self.head_dim - self.rope_dim + self.value_dim)
        return self.hidden * self.down_columns + query + key_value + out

    @property
    def ffn_in_columns(self) -> int:
        """Output columns of the MLP's first projection, gate and up together: f or 2 f."""
        return (2 if self.gated else 1) * self.ffn

    @property
    def norm_parameters(self) -> int:
        """Of one norm over the hidden size."""
        return self.hidden * (2 if self.norm == "layer_norm" and self.norm_bias else 1)

    @property
    def layer_matmul_parameters(self) -> int:
        """Weights of the projections of one layer; with experts, of attention, router and the shared MLP."""
        routed = self.hidden * self.experts + self.shared_parameters
        return self.attention_matmul_parameters + (routed if self.experts else self.mlp_parameters)

    @property
    def shared_parameters(self) -> int:
        """Weights of the MLP that every token goes to beside its experts."""
        return self.shared_ffn * self.hidden * (3 if self.gated else 2)

    @property
    def mlp_parameters(self) -> int:
        """Weights of the projections of one MLP, or of one expert."""
        return self.hidden * self.ffn_in_columns + self.ffn * self.hidden

    @property
    def mlp_bias_parameters(self) -> int:
        """Biases of the projections of one MLP, or of one expert."""
        return self.ffn_in_columns + self.hidden if self.biases == "all" else 0

    @property
    def layer_expert_parameters(self) -> int:
        """Weights and biases of all experts of one layer."""
        return self.experts * (self.mlp_parameters + self.mlp_bias_parameters)

    @property
    def layer_active_parameters(self) -> int:
        """Weights of one layer that a token is multiplied with."""
        return self.layer_matmul_parameters + self.topk * self.mlp_parameters

    @property
    def layer_bias_parameters(self) -> int:
        """Biases of the linear layers of one layer; with experts, of attention and router."""
        qkv, attention = self.qkv_columns, self.qkv_columns + self.hidden
        everything = attention + (self.experts or self.mlp_bias_parameters)
        return {"none": 0, "qkv": qkv, "attention": attention, "all": everything}[self.biases]

    @property
    def layer_parameters(self) -> int:
        """Of one layer without experts: projections, biases, two norms; norms of Q and K, and sinks, if any."""
        inner = (2 * self.head_dim if self.qk_norm else 0) + self.q_rank + self.kv_rank
        inner += self.heads if self.sinks else 0
        return self.layer_matmul_parameters + self.layer_bias_parameters + 2 * self.norm_parameters + inner

    @property
    def mtp_matmul_parameters(self) -> int:
        """Weights of what a layer that predicts a further token has in front: hidden state and embedding to one."""
        return 2 * self.hidden * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Tokens, learned positions, segment types of a BERT, and the norm after them where there is one."""
        positions = self.max_positions if self.positions == "learned" else 0
        segments = SEGMENT_TYPES if self.family == "bert" else 0
        norm = self.norm_parameters if self.embedding_norm else 0
        return (self.vocab + positions + segments) * self.hidden + norm

    @property
    def final_norm_parameters(self) -> int:
        """Of the norm after the last layer.

        A BERT that normalises its embedding is the original one: the norms stand after the residual sums,
        and the last layer ends with one of its own.
        """
        return 0 if self.family == "bert" and self.embedding_norm else self.norm_parameters

    @property
    def head_parameters(self) -> int:
        """Of the vocabulary projection: none where it shares the embedding's weights."""
        return 0 if self.tied_embeddings else self.vocab * self.hidden

    @property
    def pretraining_head_parameters(self) -> int:
        """Of a BERT's heads beside the vocabulary projection, none for the others.

        Pooler (h² + h); masked-token head: transform (h² + h), norm, output bias (V); next-sentence
        classifier (2 h + 2). Devlin et al. 2019; BERT-base then has 110,106,428 parameters in all.
        """
        if self.family != "bert":
            return 0
        dense = self.hidden * self.hidden + self.hidden
        return 2 * dense + self.norm_parameters + self.vocab + 2 * self.hidden + 2

    @property
    def parameters(self) -> int:
        """All of them, shared ones once."""
        ends = self.embedding_parameters + self.final_norm_parameters + self.head_parameters
        layers = (self.layers - self.dense_layers) * (self.layer_parameters + self.layer_expert_parameters)
        layers += self.dense_layers * self.dense.layer_parameters if self.dense_layers else 0
        return layers + ends + self.pretraining_head_parameters

    @property
    def matmul_flops_per_token(self) -> float:
        """FLOPs of a token in the forward pass's linear layers, the vocabulary projection included.

            2 (l (h (a + 2 g) d + a d h + n h f) + h V),   n = 3 if gated else 2

        and 2 h² more for the masked-token head of a BERT, whose vocabulary projection is counted at every
        position as well; the pooler runs once a sequence and is not counted. Looking up an embedding is
        free. With e experts, k n h f + h e stand in the place of n h f: the k that a token goes to, and the
        router. A layer that predicts a further token counts with its projection (2 h²) and a head of its own.
        GPT-2 (l 12, h 768, V 50257): 2 (12 · 12 · 768² + 768 · 50257) = 247,064,064.
        """
        layers = (self.layers - self.dense_layers) * self.layer_active_parameters
        layers += self.dense_layers * self.dense.layer_active_parameters if self.dense_layers else 0
        layers += self.mtp_layers * (self.layer_active_parameters + self.mtp_matmul_parameters)
        return 2.0 * layers + self.head_flops_per_token

    @property
    def head_flops_per_token(self) -> float:
        """Those of them behind the last layer, and behind each that predicts a further token."""
        transform = self.hidden * self.hidden if self.family == "bert" else 0
        return 2.0 * (1 + self.mtp_layers) * (self.hidden * self.vocab + transform)

    def attention_flops_per_token(self, seq_len: int, causal: bool) -> float:
        """FLOPs of a token in the forward pass's Q K^T and (softmax) V, averaged over the sequence.

            4 l a d s,   or with the masked half left out   4 l a d (s + 1) / 2

        and in layers with a window of w < s tokens   4 l a d w,   or   4 l a d (w - w (w - 1) / (2 s)).
        GPT-2 at s = 1024: 4 · 12 · 768 · 1024 = 37,748,736; causal 18,892,800.
        """
        layers = self.layers + self.mtp_layers
        windowed = sum(self.kind(layer).windowed for layer in range(layers))
        keys = windowed * _mean_keys(seq_len, min(self.window, seq_len), causal=causal)
        keys += (layers - windowed) * _mean_keys(seq_len, seq_len, causal=causal)
        return 2.0 * self.heads * (self.head_dim + self.value_head_dim) * keys


def _mean_keys(seq_len: int, window: int, *, causal: bool) -> float:
    """Keys that a token is multiplied with, of at most `window`; without the causal mask those of the last one."""
    return window - window * (window - 1) / (2 * seq_len) if causal else float(window)


def step_model_flops(model: Model, seq_len: int, sequences: int, *, head: bool = True) -> float:
    """Model FLOPs of a training step on `sequences` sequences, with those of the head or without: what MFU counts.

    Forward, and twice that for backward; recomputation does not count, and attention counts in full, also
    under a causal mask (Narayanan et al. 2021; Chowdhery et al. 2022, appendix B). With f = 4 h and a d = h
    it is the formula of Narayanan et al. 2021 without recomputation,

        72 B s l h² (1 + s / (6 h) + V / (12 l h))

    GPT-3 175B (l 96, h 12288, V 51200), s 2048, B 1536: 3.3862e18.
    """
    token = model.matmul_flops_per_token + model.attention_flops_per_token(seq_len, causal=False)
    return 3.0 * sequences * seq_len * (token if head else token - model.head_flops_per_token)


def check(model: Model) -> tuple[str, ...]:
    """Everything that is wrong with the values of a model; empty if it can exist."""
    faults = [fault for field in SIZES if (fault := size_fault(field, getattr(model, field)))]
    faults += [
        f"{field} is {shown(getattr(model, field))}; true or false is right"
        for field in FLAGS
        if not isinstance(getattr(model, field), bool)
    ]
    faults += [
        f"{field} is {shown(getattr(model, field))}; one of {', '.join(known)} is right"
        for field, known in CHOICES.items()
        if getattr(model, field) not in known
    ]
    return tuple(faults) or _inconsistencies(model)


def size_fault(field: str, value: object) -> str | None:
    """Why `value` is not the size of something, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIZE:
        return None
    return f"{field} is {shown(value)}; a whole number from 1 to {LARGEST_SIZE} is right"


def shown(value: object) -> str:
    """A value in a message: short, whatever was in the file."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _inconsistencies(model: Model) -> tuple[str, ...]:
    faults = []
    if model.heads % model.kv_heads:
        faults.append(f"heads {model.heads} is not a multiple of kv_heads {model.kv_heads}")
    faults += _routing_faults(model)
    if model.biases == "all" and (model.shared_ffn or model.kv_rank):
        faults.append("biases of shared experts and of latent attention are not covered")
    if model.clamped and not model.gated:
        faults.append("clamped is of gated activations")
    if model.rope_scaled and model.positions != "rope":
        faults.append("rope_scaled is of rotary positions")
    if (model.shared_ffn or model.dense_layers) and not model.experts:
        faults.append("shared_ffn and dense_layers are of models with experts")
    if model.dense_layers > model.layers or bool(model.dense_layers) != bool(model.dense_ffn):
        faults.append(f"dense_layers {model.dense_layers} of {model.layers}, of dense_ffn {model.dense_ffn} columns")
    whole = 0 < model.rope_dim < model.head_dim and model.value_dim and model.kv_heads == model.heads
    if model.kv_rank and not whole:
        faults.append("latent attention (kv_rank) needs rope_dim below head_dim, value_dim, and kv_heads = heads")
    if not model.kv_rank and (model.q_rank or model.rope_dim or model.value_dim):
        faults.append("q_rank, rope_dim and value_dim are of latent attention: kv_rank is missing")
    if model.full_every and not (model.window and 2 <= model.full_every <= model.layers):
        faults.append(f"full_every {model.full_every}: from 2 to the layers of a model that has a window")
    if (model.window or model.mtp_layers) and model.family == "bert":
        faults.append("window and mtp_layers are of causal models")
    if model.positions == "rope" and model.head_dim % 2:
        faults.append(f"head_dim {model.head_dim} is odd; rotary positions need pairs")
    return tuple(faults)


def _routing_faults(model: Model) -> Iterator[str]:
    groups, open_to_all = model.expert_groups, model.topk_groups * (model.experts // max(model.expert_groups, 1))
    if not 0 <= model.topk <= model.experts or bool(model.topk) != bool(model.experts):
        yield f"topk {model.topk} of {model.experts} experts: from 1 to all of them, or none of none"
    if groups != 1 and (
        groups < 1 or model.experts % groups or not 1 <= model.topk_groups <= groups or open_to_all < model.topk
    ):
        yield f"topk {model.topk} from {model.topk_groups} of {groups} groups of {model.experts} experts"
