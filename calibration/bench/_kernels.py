"""The memory-bound kernels of `workloads/pointwise.toml` as PyTorch runs them; imports PyTorch.

Each entry makes a forward function and its inputs. Those of `FUSED` go through `torch.compile`.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from calibration.bench._session import Session
from calibration.table import Measurement

torch: Any = import_module("torch")
functional: Any = import_module("torch.nn.functional")

HEAD_DIM = 128
TOPK = 8  # experts of a token
DROPOUT = 0.1
EPSILON = 1e-5


class Call(NamedTuple):
    """A forward function and its inputs; those that ask for gradients get them in the backward pass."""

    forward: Callable[..., Any]
    inputs: tuple[Any, ...]


Maker = Callable[[Session, Measurement], Call]


def work(shape: Measurement, session: Session) -> Callable[[], object]:
    """What runs one direction of the kernel once."""
    if shape.kernel == "compile":
        return _compiled(shape, session)
    call = EAGER[shape.op](session, shape)
    return _direction(call.forward, call.inputs, shape)


def _compiled(shape: Measurement, session: Session) -> Callable[[], object]:
    """Compiled for this shape alone; what was compiled for others is forgotten."""
    dynamo: Any = import_module("torch._dynamo")
    functorch: Any = import_module("torch._functorch.config")
    functorch.donated_buffer = False  # backward passes are repeated
    dynamo.reset()
    call = FUSED[shape.op](session, shape)
    return _direction(torch.compile(call.forward, dynamic=False), call.inputs, shape)


def _direction(forward: Callable[..., Any], inputs: tuple[Any, ...], shape: Measurement) -> Callable[[], object]:
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if shape.direction != "bwd":
        return lambda: forward(*inputs)
    out = forward(*inputs)
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, wanted, gradient, retain_graph=True)


def _tensors(session: Session, shape: Measurement, form: str) -> tuple[Any, ...]:
    """x: [rows, cols] with a gradient, X: without one, w: [cols] with a gradient."""
    rows, cols = shape.rows or 1, shape.cols or 1
    sizes = {"x": (rows, cols), "X": (rows, cols), "w": (cols,)}
    return tuple(session.random(*sizes[letter], dtype=shape.dtype, grad=letter != "X") for letter in form)


def _plain(forward: Callable[..., Any], form: str) -> Maker:
    return lambda session, shape: Call(forward, _tensors(session, shape, form))


def _copy(session: Session, shape: Measurement) -> Call:
    target, source = _tensors(session, shape, "XX")
    return Call(lambda: target.copy_(source), ())


def _argmax(session: Session, shape: Measurement) -> Call:
    return Call(lambda logits: logits.argmax(-1), (session.random(shape.rows or 1, shape.cols or 1, dtype="fp32"),))


def _zero(session: Session, shape: Measurement) -> Call:
    (target,) = _tensors(session, shape, "X")
    return Call(target.zero_, ())


def _causal_mask(session: Session, shape: Measurement) -> tuple[Any, Any]:
    """Scores [samples and heads, seq, seq] and the mask that all of them share."""
    seq = shape.cols or 1
    rows = max(1, (shape.rows or 1) // seq)
    scores = session.random(rows, seq, seq, dtype=shape.dtype, grad=True)
    return scores, torch.ones(seq, seq, device=session.device, dtype=torch.bool).triu(1)


def _masked(session: Session, shape: Measurement) -> Call:
    scores, mask = _causal_mask(session, shape)
    return Call(lambda x: x.masked_fill(mask, -10000.0), (scores,))


def _softmax_eager(session: Session, shape: Measurement) -> Call:
    scores, mask = _causal_mask(session, shape)

    def forward(x: Any) -> Any:
        hidden = (x * 0.125).masked_fill(mask, -10000.0)
        return functional.softmax(hidden, -1, dtype=torch.float32).to(hidden.dtype)

    return Call(forward, (scores,))


def _softmax_math(session: Session, shape: Measurement) -> Call:
    scores, mask = _causal_mask(session, shape)
    bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))
    return Call(lambda x: torch._safe_softmax(x + bias, -1), (scores,))


def _scale_mask_softmax(session: Session, shape: Measurement) -> Call:
    scores, _ = _causal_mask(session, shape)
    return Call(scale_mask_softmax, (scores,))


def _layer_norm(session: Session, shape: Measurement) -> Call:
    size = (shape.cols or 1,)
    return Call(lambda x, w, b: functional.layer_norm(x, size, w, b), _tensors(session, shape, "xww"))


def _rms_norm(session: Session, shape: Measurement) -> Call:
    size = (shape.cols or 1,)
    return Call(lambda x, w: functional.rms_norm(x, size, w, EPSILON), _tensors(session, shape, "xw"))


def _heads(session: Session, shape: Measurement) -> Any:
    rows, heads = shape.rows or 1, max(1, (shape.cols or 1) // HEAD_DIM)
    return session.random(rows, heads, HEAD_DIM, dtype=shape.dtype, grad=True)


def _rope(session: Session, shape: Measurement) -> Call:
    tables = (session.random(shape.rows or 1, 1, HEAD_DIM, dtype=shape.dtype) for _ in range(2))
    return Call(rope, (_heads(session, shape), *tables))


def _rope_complex(session: Session, shape: Measurement) -> Call:
    angles = session.random(shape.rows or 1, 1, HEAD_DIM // 2, dtype="fp32")
    turns = torch.polar(torch.ones_like(angles), angles)

    def forward(x: Any) -> Any:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(2).type_as(x)

    return Call(forward, (_heads(session, shape),))


def _embedding(session: Session, shape: Measurement) -> Call:
    rows = shape.n or 32000
    ids = torch.randint(0, rows, (shape.rows or 1,), device=session.device)
    table = session.random(rows, shape.cols or 1, dtype=shape.dtype, grad=True)
    return Call(lambda w: functional.embedding(ids, w), (table,))


def _labels(session: Session, shape: Measurement) -> Any:
    return torch.randint(0, shape.cols or 1, (shape.rows or 1,), device=session.device)


def _loss(forward: Callable[..., Any]) -> Maker:
    return lambda session, shape: Call(forward, (*_tensors(session, shape, "x"), _labels(session, shape)))


def rms_norm_eager(x: Any, w: Any) -> Any:
    """As models write it: in fp32, cast back before the weight."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)).type_as(x) * w


def rotated(x: Any) -> Any:
    """The second half negated and put before the first."""
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def rope(x: Any, cosines: Any, sines: Any) -> Any:
    """Rotary embedding of [tokens, heads, head_dim]."""
    return x * cosines + rotated(x) * sines


def scale_mask_softmax(x: Any) -> Any:
    """Causal; the mask is made where it is needed."""
    place = torch.arange(x.shape[-1], device=x.device)
    hidden = (x.float() * 0.125).masked_fill(place[None, :] > place[:, None], -10000.0)
    return functional.softmax(hidden, -1).to(x.dtype)


def squared_relu(x: Any) -> Any:
    """Its square where positive."""
    return functional.relu(x).square()


def bias_gelu(x: Any, b: Any) -> Any:
    """The activation of GPT's MLP with the bias before it."""
    return functional.gelu(x + b, approximate="tanh")


def swiglu(gate: Any, up: Any) -> Any:
    """silu(gate) up."""
    return functional.silu(gate) * up


def geglu(gate: Any, up: Any) -> Any:
    """gelu(gate) up."""
    return functional.gelu(gate, approximate="tanh") * up


def dropout_add(x: Any, residual: Any) -> Any:
    """The end of a block."""
    return residual + functional.dropout(x, DROPOUT, True)


def bias_dropout_add(x: Any, b: Any, residual: Any) -> Any:
    """The end of a block with the bias of its last layer."""
    return residual + functional.dropout(x + b, DROPOUT, True)


def cross_entropy_torch(logits: Any, labels: Any) -> Any:
    """Of logits cast to fp32."""
    return functional.cross_entropy(logits.float(), labels)


def cross_entropy_eager(logits: Any, labels: Any) -> Any:
    """In separate fp32 kernels, as tensor-parallel losses do it."""
    wide = logits.float()
    shifted = wide - wide.max(-1, keepdim=True).values.detach()
    picked = shifted.gather(-1, labels[:, None]).squeeze(-1)
    return (shifted.exp().sum(-1).log() - picked).mean()


class SplitLogSoftmax(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """Of fp32 logits, as DTensor computes it on a rank's part of the vocabulary; what crosses ranks is left out."""

    @staticmethod
    def forward(context: Any, logits: Any) -> Any:
        """Keeps the result."""
        shifted = logits - logits.amax(-1, keepdim=True)
        out = shifted - shifted.exp().sum(-1, keepdim=True).log()
        context.save_for_backward(out)
        return out

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:  # type: ignore[override,unused-ignore]
        """Of the logits."""
        (out,) = context.saved_tensors
        return gradient - out.exp() * gradient.sum(-1, keepdim=True)


def cross_entropy_split(logits: Any, labels: Any) -> Any:
    """Of logits split by tensor parallelism."""
    return functional.nll_loss(SplitLogSoftmax.apply(logits.float()), labels)


def quantize_fp8(x: Any) -> Any:
    """One scale for the tensor: its largest value, then the cast."""
    scale = 448.0 / x.abs().amax().float()
    return (x.float() * scale).to(torch.float8_e4m3fn)


def quantize_fp8_rows(x: Any) -> Any:
    """One scale for each row, a power of two."""
    scale = torch.exp2(torch.floor(torch.log2(448.0 / x.abs().amax(-1, keepdim=True).float())))
    return (x.float() * scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)


def merge_attention(out: Any, block: Any, part: Any, lse: Any) -> Any:
    """A block of ring attention joined to the others, by their log-sum-exp."""
    wide = out.float()
    return (wide - torch.sigmoid(part - lse) * (wide - block.float())).to(out.dtype)


def _merge(session: Session, shape: Measurement) -> Call:
    rows, cols = shape.rows or 1, shape.cols or 1
    out, block = (_heads(session, shape) for _ in range(2))
    part, lse = (session.random(rows, max(1, cols // HEAD_DIM), 1, dtype="fp32") for _ in range(2))
    return Call(merge_attention, (out, block, part, lse))


def _dealt(rows: int, session: Session) -> Any:
    """Places of rows that are dealt to experts: a random order, the same each time."""
    generator = torch.Generator(device=session.device).manual_seed(rows)
    return torch.randperm(rows, device=session.device, generator=generator)


def _gather_rows(session: Session, shape: Measurement) -> Call:
    """Each token once for each of its experts."""
    rows, cols = shape.rows or 1, shape.cols or 1
    index = _dealt(rows, session) // TOPK
    tokens = session.random(-(-rows // TOPK), cols, dtype=shape.dtype, grad=True)
    return Call(lambda x: x[index], (tokens,))


def _scatter_rows(session: Session, shape: Measurement) -> Call:
    index = _dealt(shape.rows or 1, session)

    def forward(x: Any) -> Any:
        back = torch.zeros_like(x)
        back[index] = x
        return back

    return Call(forward, _tensors(session, shape, "x"))


def _combine(forward: Callable[..., Any]) -> Maker:
    def call(session: Session, shape: Measurement) -> Call:
        tokens = -(-(shape.rows or 1) // TOPK)
        rows = session.random(tokens, TOPK, shape.cols or 1, dtype=shape.dtype, grad=True)
        return Call(forward, (rows, session.random(tokens, TOPK, dtype="fp32", grad=True)))

    return call


def combine_rows(rows: Any, weights: Any) -> Any:
    """[tokens, experts of a token, columns] -> [tokens, columns]."""
    return (rows * weights[..., None]).sum(1).to(rows.dtype)


def combine_rows_eager(rows: Any, weights: Any) -> Any:
    """As a batch of products in fp32."""
    return torch.bmm(weights[:, None, :], rows.float()).to(rows.dtype).squeeze(1)


def quantize_fp8_transpose(x: Any) -> Any:
    """Also the transposed copy that the other GEMMs read."""
    narrow = quantize_fp8(x)
    return narrow, narrow.t().contiguous()


CLAMP = 7.0


def clamp_halves(x: Any) -> Any:
    """Gate from above, up from both sides, side by side as before."""
    gate, up = x.chunk(2, -1)
    return torch.cat((gate.clamp(max=CLAMP), up.clamp(-CLAMP, CLAMP)), -1)


def _clamp_halves(session: Session, shape: Measurement) -> Call:
    """Of so many columns each."""
    wide = session.random(shape.rows or 1, 2 * (shape.cols or 1), dtype=shape.dtype, grad=True)
    return Call(clamp_halves, (wide,))


def row_bias(x: Any, bias: Any, weights: Any) -> Any:
    """The same bias for two experts' rows, each times its weight."""
    parts = zip(x.tensor_split(2), weights.tensor_split(2), strict=True)
    return torch.cat([rows + bias * weight for rows, weight in parts])


def _row_bias(session: Session, shape: Measurement) -> Call:
    x, bias = _tensors(session, shape, "xw")
    return Call(row_bias, (x, bias, session.random(shape.rows or 1, 1, dtype=shape.dtype, grad=True)))


EAGER: Mapping[str, Maker] = {
    "copy": _copy,
    "zero": _zero,
    "argmax": _argmax,
    "cast": _plain(lambda x: x.float(), "x"),
    "transpose": _plain(lambda x: x.t().contiguous(), "X"),
    "add": _plain(lambda x, y: x + y, "XX"),
    "mul": _plain(torch.mul, "xx"),
    "scale": _plain(lambda x: x * 0.37, "x"),
    "mask": _masked,
    "bias_add": lambda session, shape: Call(lambda x, b: x + b, _tensors(session, shape, "Xw")),
    "relu": _plain(functional.relu, "x"),
    "gelu": _plain(lambda x: functional.gelu(x, approximate="tanh"), "x"),
    "silu": _plain(functional.silu, "x"),
    "dropout": _plain(lambda x: functional.dropout(x, DROPOUT, True), "x"),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rms_norm_eager": _plain(rms_norm_eager, "xw"),
    "softmax": _plain(lambda x: functional.softmax(x, -1), "x"),
    "softmax_eager": _softmax_eager,
    "softmax_math": _softmax_math,
    "softmax_dropout": _plain(lambda x: functional.dropout(functional.softmax(x, -1), DROPOUT, True), "x"),
    "rope_eager": _rope,
    "rope_complex": _rope_complex,
    "merge_attention": _merge,
    "gather_rows": _gather_rows,
    "scatter_rows": _scatter_rows,
    "combine_rows_eager": _combine(combine_rows_eager),
    "clamp_halves": _clamp_halves,
    "row_bias": _row_bias,
    "embedding": _embedding,
    "cross_entropy_torch": _loss(cross_entropy_torch),
    "cross_entropy_eager": _loss(cross_entropy_eager),
    "cross_entropy_split": _loss(cross_entropy_split),
}

FUSED: Mapping[str, Maker] = {
    "swiglu": _plain(swiglu, "xx"),
    "geglu": _plain(geglu, "xx"),
    "squared_relu": _plain(squared_relu, "x"),
    "bias_gelu": _plain(bias_gelu, "xw"),
    "dropout_add": _plain(dropout_add, "xx"),
    "bias_dropout_add": _plain(bias_dropout_add, "xwx"),
    "rms_norm_compiled": _plain(rms_norm_eager, "xw"),
    "rope": _rope,
    "scale_mask_softmax": _scale_mask_softmax,
    "combine_rows": _combine(combine_rows),
    "cross_entropy": _loss(cross_entropy_torch),
    "cross_entropy_split_compiled": _loss(cross_entropy_split),
    "quantize_fp8": _plain(quantize_fp8, "X"),
    "quantize_fp8_rows": _plain(quantize_fp8_rows, "X"),
    "quantize_fp8_transpose": _plain(quantize_fp8_transpose, "X"),
}
