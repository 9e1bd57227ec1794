"""Recomputation: what is kept between the passes, and what is run again.

none            everything that a backward pass needs is kept
selective       modules are run again: the attention core (arXiv:2205.05198), or those that are named
selective-op    outputs of GEMMs and attention are kept, everything else is run again
selective-op-alternate    as before, but only every other GEMM's output is kept, and that of reduce-scatters
full            only the input of a layer is kept
offload         everything is kept, that of some layers in the memory of the host (workloads/offload.py)
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from workloads.graph import Work
from workloads.ops import DTYPE_BYTES, Collective, Gemm
from workloads.pieces import Piece


class Module(NamedTuple):
    """Part of a layer that selective recomputation runs again.

    Args:
        again: names of its pieces.
        dropped: names of the pieces whose input is not kept, because one of these makes it again. Norms, activations
            and the up-projections of latent attention keep their own input; the others keep that of the first piece.
    """

    again: frozenset[str]
    dropped: frozenset[str]


def _with_its_inside(*names: str) -> Module:
    """Consecutive pieces of which only the first one's input is kept."""
    return Module(frozenset(names), frozenset(names[1:]))


EXPERTS = (
    *("router", "route", "dispatch", "arrange"),
    *("experts up", "experts up bias", "experts activation", "experts gate"),
    *("experts down", "experts down bias", "restore", "combine"),
)
CORE = frozenset({"tokens for heads", "attention", "heads for tokens"})
# As Megatron-Core names them (`--recompute-modules`); `core_attn` runs CORE again, where that has scores.
MODULES = {
    "layernorm": Module(frozenset({"norm"}), frozenset({"qkv", "latent", "up", "shared up", "router"})),
    "mla_up_proj": Module(frozenset({"latent up", "latent rope", "latent keys"}), frozenset({"attention"})),
    "mlp": _with_its_inside("up", "activation", "down"),
    "moe": _with_its_inside(*EXPERTS),
    "moe_act": Module(frozenset({"experts activation", "experts gate"}), frozenset({"experts gate", "experts down"})),
    "shared_experts": _with_its_inside("shared up", "shared activation", "shared down"),
}


def run_again(
    pieces: Sequence[Piece], mode: str, modules: Collection[str] = ("core_attn",)
) -> tuple[tuple[Work, ...], ...]:
    """Forward work of the pieces that the backward pass runs a second time; `modules` if selective."""
    match mode:
        case "full":
            return tuple(piece.forward for piece in pieces)
        case "selective":
            core = CORE if "core_attn" in modules and any(piece.core_bytes for piece in pieces) else frozenset[str]()
            return tuple(piece.forward for piece in pieces if piece.name in core | _together(modules).again)
        case "selective-op":
            return tuple(piece.forward for piece in pieces if piece.kind == "pointwise")
        case "selective-op-alternate":
            kept = _every_other_gemm(pieces)
            again = (_without(piece, kept) for piece in pieces if piece.kind != "core")
            return tuple(work for work in again if work)
        case _:
            return ()


def needed(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Pieces whose forward work has to be done again for a backward pass that knows the rest of a layer.

    What stands behind everything that is kept is needed for nothing, nor is a linear layer there that keeps its input.
    """
    last = max(place for place, piece in enumerate(pieces) if piece.saved_bytes)
    return pieces[: last if pieces[last].kind == "gemm" else last + 1]


def kept_bytes(
    pieces: Sequence[Piece], mode: str, input_bytes: float, modules: Collection[str] = ("core_attn",)
) -> float:
    """Activations of one layer and micro-batch that stay in memory until its backward pass."""
    match mode:
        case "full":
            return input_bytes
        case "selective":
            dropped, core = _together(modules).dropped, "core_attn" in modules
            inputs = sum(piece.saved_bytes - piece.core_bytes for piece in pieces if piece.name not in dropped)
            return inputs + (0.0 if core else sum(piece.core_bytes for piece in pieces))
        case "selective-op":
            return input_bytes + sum(piece.output_bytes for piece in pieces if piece.kind != "pointwise")
        case "selective-op-alternate":
            cores = sum(piece.output_bytes for piece in pieces if piece.kind == "core")
            return input_bytes + cores + sum(map(_output_bytes, _every_other_gemm(pieces))) + _scattered_bytes(pieces)
        case _:
            return sum(piece.saved_bytes for piece in pieces)


def _together(names: Collection[str]) -> Module:
    """Several modules as one."""
    found = [MODULES[name] for name in names if name in MODULES]
    empty = frozenset[str]()
    return Module(empty.union(*(each.again for each in found)), empty.union(*(each.dropped for each in found)))


def _every_other_gemm(pieces: Sequence[Piece]) -> list[Work]:
    """The first, third, ... of the GEMMs of linear layers, which keep their outputs."""
    layers = [piece for piece in pieces if piece.kind == "gemm"]
    return [work for piece in layers for work in piece.forward if isinstance(work.op, Gemm)][::2]


def _without(piece: Piece, kept: Sequence[Work]) -> tuple[Work, ...]:
    """Forward work of a piece but for GEMMs whose output is kept (that very GEMM, not an equal one) and scatters."""
    spared = {id(work) for work in kept}
    return tuple(work for work in piece.forward if id(work) not in spared and not _is_scatter(work))


def _output_bytes(work: Work) -> float:
    assert isinstance(work.op, Gemm)
    return work.op.batch * work.op.m * work.op.n * DTYPE_BYTES[work.op.out_dtype]


def _scattered_bytes(pieces: Sequence[Piece]) -> float:
    """What reduce-scatters leave a rank, where they are whole."""
    found = [work.op for piece in pieces for work in piece.forward if _is_scatter(work)]
    return sum(op.bytes / op.ranks for op in found if isinstance(op, Collective))


def _is_scatter(work: Work) -> bool:
    return isinstance(work.op, Collective) and work.op.op == "reduce_scatter"
