"""Recomputation: what is kept between the passes, and what is run again.

none            everything that a backward pass needs is kept
selective       scores and masks of the attention core are run again (arXiv:2205.05198)
selective-op    outputs of GEMMs and attention are kept, everything else is run again
selective-op-alternate    as before, but only every other GEMM's output is kept
full            only the input of a layer is kept
"""

from collections.abc import Sequence

from workloads.graph import Work
from workloads.pieces import Piece


def run_again(pieces: Sequence[Piece], mode: str) -> tuple[tuple[Work, ...], ...]:
    """Forward work of the pieces that the backward pass runs a second time."""
    match mode:
        case "full":
            return tuple(piece.forward for piece in pieces)
        case "selective":
            return tuple(piece.forward for piece in pieces if piece.core_bytes)
        case "selective-op":
            return tuple(piece.forward for piece in pieces if piece.kind == "pointwise")
        case "selective-op-alternate":
            kept = _every_other_gemm(pieces)
            return tuple(
                piece.forward
                for index, piece in enumerate(pieces)
                if piece.kind == "pointwise" or (piece.kind == "gemm" and index not in kept)
            )
        case _:
            return ()


def kept_bytes(pieces: Sequence[Piece], mode: str, input_bytes: float) -> float:
    """Activations of one layer and micro-batch that stay in memory until its backward pass."""
    match mode:
        case "full":
            return input_bytes
        case "selective":
            return sum(piece.saved_bytes - piece.core_bytes for piece in pieces)
        case "selective-op" | "selective-op-alternate":
            everything = mode == "selective-op"
            kept = _every_other_gemm(pieces)
            outputs = sum(
                piece.output_bytes
                for index, piece in enumerate(pieces)
                if piece.kind == "core" or (piece.kind == "gemm" and (everything or index in kept))
            )
            return input_bytes + outputs
        case _:
            return sum(piece.saved_bytes for piece in pieces)


def _every_other_gemm(pieces: Sequence[Piece]) -> set[int]:
    gemms = [index for index, piece in enumerate(pieces) if piece.kind == "gemm"]
    return set(gemms[::2])
