"""The pieces of a transformer: one layer, the embedding before it and the head behind it.

Written for one device in the shapes of its `Shard`; the parallelisms add their communication.
"""

from dataclasses import replace

from workloads import experts
from workloads.attention import core
from workloads.linear import linear
from workloads.parallelism import context, tensor
from workloads.pieces import Piece, behind_wait, kernel_work, pointwise
from workloads.shard import Shard

SUM = "add"


def layer(shard: Shard) -> tuple[Piece, ...]:
    """Attention and MLP, or experts, with their norms and residuals."""
    half = _routed_half if shard.model.experts else _mlp_half
    return (*(_further(shard) if shard.predicts else ()), *_attention_half(shard), *half(shard))


def _further(shard: Shard) -> tuple[Piece, ...]:
    """In front of a layer that predicts a further token: the hidden state and the next token's embedding, as one.

    Both are normalised, laid side by side and projected (arXiv:2412.19437, equation 21).
    """
    hidden, split = shard.model.hidden, shard.split_tokens
    joined = linear(shard, "further", 2 * hidden, (hidden // shard.layout.tp,), behind_norm=True)
    return (
        *embedding(shard),
        replace(_norm(shard), name="further norm"),
        replace(_norm(shard), name="further norm"),
        pointwise(shard, "side by side", ("copy",), split, 2 * hidden),
        tensor.gathered(shard, tensor.column(shard, joined)),
    )


def _routed_half(shard: Shard) -> tuple[Piece, ...]:
    routed = experts.routed(shard)
    if shard.stack.gathers_routed and not shard.model.shared_ffn:  # a shared MLP gathers and scatters for both
        routed = tensor.between(shard, routed)
    return (_norm(shard), *_shared(shard), *routed, _residual(shard))


def _shared(shard: Shard) -> tuple[Piece, ...]:
    """The MLP that every token goes to, and its sum with what the experts return."""
    if not shard.model.shared_ffn:
        return ()
    added = pointwise(shard, "shared sum", (SUM,), shard.split_tokens, shard.model.hidden)
    return (*_mlp(shard, shard.model.shared_ffn // shard.layout.tp, "shared "), added)


def _attention_half(shard: Shard) -> tuple[Piece, ...]:
    model = shard.model
    biased = model.biases != "none"
    rotary = model.positions == "rope"
    rope = (_latent_rope if model.kv_rank else _rope)(shard) if rotary else ()
    sums = model.biases == "all" and not _sums_bias(_residual_kernels(shard))
    columns = model.attention_columns // shard.layout.tp
    out = linear(shard, "proj", columns, (model.hidden,), bias=sums, row_parallel=True)
    return (
        _norm(shard),
        *(_latent(shard) if model.kv_rank else _projected(shard, biased=biased)),
        *rope,
        *context.exchanged(shard, core(shard)),
        tensor.row(shard, out),
        _residual(shard),
    )


def _projected(shard: Shard, *, biased: bool) -> tuple[Piece, ...]:
    """Queries, keys and values of the hidden state."""
    qkv = linear(shard, "qkv", shard.model.hidden, _qkv_outputs(shard), bias=biased, behind_norm=True)
    return (tensor.column(shard, qkv), *_head_norms(shard))


def _latent(shard: Shard) -> tuple[Piece, ...]:
    """Queries, keys and values by way of few columns, which are normalised and are the same on all ranks."""
    model = shard.model
    query, rest = shard.heads * model.head_dim, model.kv_rank + model.rope_dim
    down = linear(shard, "latent", model.hidden, (model.q_rank or query, rest), behind_norm=True)
    up = (model.q_rank, query), (model.kv_rank, shard.heads * (model.head_dim - model.rope_dim + model.value_dim))
    norms = shard.kernels.rms_norm
    raised = [
        (
            pointwise(shard, "latent norm", norms, shard.tokens, rank, shard.norm_dtype),
            linear(shard, "latent up", rank, (columns,), behind_norm=True),
        )
        for rank, columns in up
        if rank
    ]
    return (tensor.column(shard, down), *(piece for pair in raised for piece in pair))


def _qkv_outputs(shard: Shard) -> tuple[int, ...]:
    query, key = shard.heads * shard.model.head_dim, shard.kv_heads * shard.model.head_dim
    return (query + 2 * key,) if shard.stack.fused_projections else (query, key, key)


def _mlp_half(shard: Shard) -> tuple[Piece, ...]:
    return (_norm(shard), *_mlp(shard, shard.ffn), _residual(shard))


def _mlp(shard: Shard, columns: int, name: str = "") -> tuple[Piece, ...]:
    """Of so many inner columns on this rank; its pieces are called by a name in front."""
    model = shard.model
    gates = 2 if model.gated else 1
    fused = shard.stack.fused_projections and shard.stack.fused_gate
    outputs = (gates * columns,) if fused else (columns,) * gates
    activation = shard.kernels.gated if model.gated else shard.kernels.activation(model.activation)
    biased = model.biases == "all"
    up_bias, down_bias = (biased and not _sums_bias(kernels) for kernels in (activation, _residual_kernels(shard)))
    return (
        tensor.column(shard, linear(shard, f"{name}up", model.hidden, outputs, bias=up_bias, behind_norm=True)),
        pointwise(shard, f"{name}activation", activation, shard.tokens, columns),
        tensor.row(shard, linear(shard, f"{name}down", columns, (model.hidden,), bias=down_bias, row_parallel=True)),
    )


def _norm(shard: Shard) -> Piece:
    kernels = shard.kernels.rms_norm if shard.model.norm == "rms_norm" else shard.kernels.layer_norm
    return pointwise(shard, "norm", kernels, shard.split_tokens, shard.model.hidden, shard.norm_dtype)


def _residual(shard: Shard) -> Piece:
    """Backward, two branches meet: a kernel sums their gradients, that of `add` where the stack has one."""
    kernels = _residual_kernels(shard)
    piece = pointwise(shard, "residual", kernels, shard.split_tokens, shard.model.hidden, shard.residual_dtype)
    if SUM in kernels:
        return piece
    summed = kernel_work(shard, (SUM,), shard.split_tokens, shard.model.hidden, "bwd", shard.residual_dtype)
    return replace(piece, backward=(*piece.backward, *summed))


def _residual_kernels(shard: Shard) -> tuple[str, ...]:
    return shard.kernels.residual_with_dropout if shard.dropout else shard.kernels.residual


def _sums_bias(kernels: tuple[str, ...]) -> bool:
    """Whether the kernels behind a linear layer add its bias, and so sum its gradient in their backward pass."""
    return any(kernel.startswith("bias_") for kernel in kernels)


def _latent_rope(shard: Shard) -> tuple[Piece, ...]:
    """Of queries, and of the part of the keys that is one for all heads, which a kernel may put where it belongs."""
    model, kernels = shard.model, shard.kernels
    if not kernels.latent_keys:
        return (pointwise(shard, "latent rope", kernels.rope, shard.tokens, (shard.heads + 1) * model.rope_dim),)
    apart = shard.heads * (model.head_dim - model.rope_dim + model.value_dim)
    return (
        pointwise(shard, "latent rope", kernels.latent_queries, shard.tokens, shard.heads * model.rope_dim),
        pointwise(shard, "latent keys", kernels.latent_keys, shard.tokens, apart),
    )


def _rope(shard: Shard) -> tuple[Piece, ...]:
    columns = (shard.heads + shard.kv_heads) * shard.model.head_dim
    normalised = shard.kernels.rope_normalised if shard.model.qk_norm else ()
    scaled = shard.kernels.rope_scaled if shard.model.rope_scaled else ()
    return (pointwise(shard, "rope", scaled or normalised or shard.kernels.rope, shard.tokens, columns),)


def _head_norms(shard: Shard) -> tuple[Piece, ...]:
    """Norms of each head's query and key, where the model has them (Qwen3)."""
    if not shard.model.qk_norm:
        return ()
    rows = shard.tokens * (shard.heads + shard.kv_heads)
    return (pointwise(shard, "head norms", shard.kernels.rms_norm, rows, shard.model.head_dim),)


def embedding(shard: Shard) -> tuple[Piece, ...]:
    """Token and position look-up; split over the vocabulary, the parts are summed."""
    rows, cols = shard.tokens, shard.model.hidden
    piece = pointwise(shard, "embedding", shard.kernels.embedding, rows, cols, shard.residual_dtype)
    norm = (_norm(shard),) if shard.model.embedding_norm else ()
    return (tensor.embedding(shard, piece), *norm)


def head(shard: Shard) -> tuple[Piece, ...]:
    """Final norm, projection onto the vocabulary in the activation type, loss."""
    logits = linear(shard, "logits", shard.model.hidden, (shard.vocab,), narrow=False, behind_norm=True)
    before = _masked_token_transform(shard) if shard.model.family == "bert" else ()
    return (_norm(shard), *before, tensor.logits(shard, logits), _loss(shard))


def _masked_token_transform(shard: Shard) -> tuple[Piece, ...]:
    """What a BERT puts in front of the vocabulary projection, on every rank: h x h, activation, norm."""
    hidden = shard.model.hidden
    return (
        linear(shard, "transform", hidden, (hidden,), narrow=False, bias=True),
        pointwise(shard, "activation", shard.kernels.gelu, shard.tokens, hidden),
        _norm(shard),
    )


def _loss(shard: Shard) -> Piece:
    split = shard.layout.tp > 1 and shard.stack.parallel_loss
    kernels = (split and shard.kernels.loss_split) or shard.kernels.loss
    vocab = shard.vocab if split else shard.vocab * shard.layout.tp
    piece = pointwise(shard, "loss", kernels, shard.tokens, vocab)
    metrics = kernel_work(shard, shard.kernels.metrics, shard.tokens, vocab, "fwd")
    found = tensor.loss(shard, replace(piece, forward=(*piece.forward, *metrics)))
    return replace(found, backward=behind_wait(found.backward)) if shard.stack.host.loss_s else found
