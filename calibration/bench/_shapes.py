"""Sizes of real models, from the catalogue, for the families that draw from them."""

from functools import cache

from calibration.bench._sampling import pick
from workloads import catalog
from workloads.model import Model

TENSOR_PARALLEL = (1, 2, 4, 8)


@cache
def real_models() -> tuple[Model, ...]:
    """All of the catalogue, small ones first."""
    found = (catalog.model(name) for name in catalog.models())
    return tuple(sorted(found, key=lambda model: (model.hidden * model.layers, model.name)))


@cache
def projections(model: Model, ranks: int) -> tuple[tuple[int, int], ...]:
    """(outputs, inputs) of each linear layer of one rank under tensor parallelism; whole numbers only."""
    columns = [
        (model.qkv_columns, model.hidden),
        (model.attention_columns, model.hidden),
        (model.kv_heads * model.head_dim, model.hidden),
        (model.ffn_in_columns, model.hidden),
        (model.ffn, model.hidden),
        (model.vocab, model.hidden),
    ]
    rows = [(model.hidden, model.attention_columns), (model.hidden, model.ffn)]
    split = [(n // ranks, k) for n, k in columns if n % ranks == 0]
    split += [(n, k // ranks) for n, k in rows if k % ranks == 0]
    return tuple(dict.fromkeys(split))


@cache
def widths() -> tuple[int, ...]:
    """Columns of activations: hidden sizes and inner layers of the models, whole or split."""
    found = {model.hidden for model in real_models()}
    found |= {
        model.ffn // ranks for model in real_models() for ranks in TENSOR_PARALLEL if model.ffn % (8 * ranks) == 0
    }
    return tuple(sorted(found))


@cache
def vocabularies() -> tuple[int, ...]:
    """Columns of logits, whole or split."""
    found = {model.vocab // ranks for model in real_models() for ranks in TENSOR_PARALLEL if model.vocab % ranks == 0}
    return tuple(sorted(found))


@cache
def head_shapes() -> tuple[tuple[int, int, int], ...]:
    """(query heads, key heads, head dimension) of one rank."""
    found = set[tuple[int, int, int]]()
    for model in real_models():
        for ranks in TENSOR_PARALLEL:
            if model.heads % ranks == 0 and model.kv_heads % ranks == 0:
                found.add((model.heads // ranks, model.kv_heads // ranks, model.head_dim))
    return tuple(sorted(found))


def projection(model_share: float, ranks_share: float, layer_share: float) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer, by three numbers in 0..1."""
    model = pick(model_share, real_models())
    found = projections(model, pick(ranks_share, TENSOR_PARALLEL)) or projections(model, 1)
    return pick(layer_share, found)
