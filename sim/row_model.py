"""The model of a row of runs: one of the catalogue where the sizes are its own, otherwise the usual of its family."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from sim.cells import SkippedRowError, whole
from workloads.catalog import model as catalogued
from workloads.catalog import models
from workloads.errors import WorkloadError
from workloads.model import Family, Model, check

LATENT = "mla-moe"  # latent attention and experts

# Row family -> that of the model.
FAMILIES: Mapping[str, Family] = {
    **{"gpt": "gpt", "llama": "llama", "bert": "bert"},
    **{"moe": "llama", LATENT: "llama"},
}

Sizes = tuple[str | int, ...]
# What a table has no columns for, and a model of the catalogue with the sizes of a row says.
UNSAID = ("head_dim", "biases", "qk_norm", "window", "full_every", "sinks", "clamped", "rope_scaled")


def model_of(row: Mapping[str, str]) -> Model:
    """The model that a row describes; raises WorkloadError or SkippedRowError.

    Tables of runs have no column for the size of a head, for biases, windows and the like (`UNSAID`). A model of
    the catalogue with the same sizes answers that, whatever the row calls it and however many layers ran. Embeddings
    stay the family's: trainers do not tie them wherever the published weights are tied. Latent attention, shared
    experts and dense first layers have no columns at all: only a model of the catalogue has them.
    """
    if row["family"] not in FAMILIES:
        raise SkippedRowError(f"family {row['family']!r} is not simulated; covered: {', '.join(FAMILIES)}")
    model = _usual(row)
    alike = _by_sizes().get(_sizes(model), ())
    if row["family"] == LATENT:
        return _latent(model, alike)
    said = {tuple(getattr(each, name) for name in UNSAID) for each in alike}
    if len(said) == 1:  # models of the same sizes may differ
        model = replace(model, **dict(zip(UNSAID, said.pop(), strict=True)))
    elif model.hidden % model.heads or (model.positions == "rope" and model.head_dim % 2):
        shape = f"hidden / heads = {model.hidden} / {model.heads}"
        raise SkippedRowError(f"{shape} is not the size of a head, and no model of the catalogue has these sizes")
    if row.get("qk_norm"):
        model = replace(model, qk_norm=row["qk_norm"] == "yes")
    if faults := check(model):
        raise WorkloadError(model.name, faults)
    return model


def names_of(model: Model) -> frozenset[str]:
    """Models of the catalogue with the sizes of a model, whatever a row calls it and however many layers ran."""
    return frozenset(alike.name for alike in _by_sizes().get(_sizes(model), ()))


def _latent(row: Model, alike: Sequence[Model]) -> Model:
    """The one with latent attention among the models with the sizes of a row, in as many layers.

    A model that is cut down to fewer layers is without those that predict further tokens.
    """
    found = [model for model in alike if model.kv_rank]
    if not found:
        raise SkippedRowError(f"family {LATENT!r} has more sizes than its row, and no model of the catalogue fits it")
    further = found[0].mtp_layers if row.layers == found[0].layers else 0
    model = replace(found[0], layers=row.layers, max_positions=row.max_positions, mtp_layers=further)
    if faults := check(model):
        raise WorkloadError(row.name, faults)
    return model


def _usual(row: Mapping[str, str]) -> Model:
    """Of the family: GPT-2, Llama or the original BERT, in the sizes of the row."""
    family = FAMILIES[row["family"]]
    llama = family == "llama"
    heads, hidden = whole(row, "heads"), whole(row, "hidden")
    return Model(
        name=row.get("model") or row["id"],
        family=family,
        layers=whole(row, "layers"),
        hidden=hidden,
        ffn=whole(row, "ffn"),
        heads=heads,
        kv_heads=whole(row, "kv_heads", heads),
        head_dim=hidden // heads,
        vocab=whole(row, "vocab"),
        gated=llama,
        norm="rms_norm" if llama else "layer_norm",
        biases="none" if llama else "all",
        tied_embeddings=not llama,
        positions="rope" if llama else "learned",
        max_positions=whole(row, "seq_len"),
        activation="silu" if llama else "gelu",
        embedding_norm=family == "bert",
        experts=whole(row, "experts", 0),
        topk=whole(row, "topk", 0),
    )


@cache
def _by_sizes() -> Mapping[Sizes, Sequence[Model]]:
    """Models of the catalogue."""
    found: dict[Sizes, list[Model]] = {}
    for model in map(catalogued, models()):
        found.setdefault(_sizes(model), []).append(model)
    return found


def _sizes(model: Model) -> Sizes:
    shape = model.hidden, model.ffn, model.heads, model.kv_heads, model.vocab
    return model.family, *shape, model.experts, model.topk
