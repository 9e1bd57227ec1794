"""The learned correction of collectives and messages: a curve over their size for each kind and number of ranks.

What a library does to a collective (protocols, channels, registered buffers) depends on its size, and switches at sizes
of its own; a curve through the measured sizes shows these switches. Other numbers of ranks are other algorithms:
between them nothing is interpolated. Equations: docs/models/learned-prices.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.cost.learned_domain import FADE_OCTAVES, MARGIN_OCTAVES
from calibration.cost.learned_spread import Spread
from calibration.cost.rates import Floats
from workloads.ops import CommunicationOp, Transfer

SEND_RECV = "send_recv"
STEP_OCTAVES = 0.25  # between two knots of a curve


class MessageCorrection(NamedTuple):
    """Of each op, relative to physics."""

    log: Floats
    spread: Floats
    trust: Floats  # 0..1, how far both count


@dataclass(frozen=True, kw_only=True)
class MessageModel:
    """log(measured / physics) of each kind of collective, piecewise linear in log2(bytes).

    Args:
        fabric: that joined the ranks; the curves hold for no other.
        kinds: as in `all_reduce/2`, for two ranks.
        curve: [knots] index of the kind that a knot belongs to, ascending.
        size: [knots] log2 of bytes, ascending within a curve. A knot has a measured size within an octave.
        log: [knots] the correction there.
        base_sha256: fingerprint of the physics that is corrected.
        report: errors on folds that the fit had not seen.
    """

    fabric: str
    kinds: tuple[str, ...]
    curve: NDArray[np.int32]
    size: Floats
    log: Floats
    spread: Spread
    base_sha256: str = ""
    report: Mapping[str, object] = field(default_factory=dict)

    def correction(self, ops: Sequence[CommunicationOp]) -> MessageCorrection:
        """Of each op, in the order asked; no trust where its kind was not measured, or no size like it."""
        kinds, sizes = self.members(ops), sizes_of(ops)
        log, distance = np.zeros(len(ops)), np.full(len(ops), np.inf)
        for kind in set(kinds[kinds >= 0].tolist()):
            rows, knots = kinds == kind, self.curve == kind
            log[rows] = np.interp(sizes[rows], self.size[knots], self.log[knots])
            distance[rows] = np.abs(sizes[rows][:, None] - self.size[knots]).min(axis=1)
        left = np.clip(1 - (distance - STEP_OCTAVES / 2 - MARGIN_OCTAVES) / FADE_OCTAVES, 0.0, 1.0)
        return MessageCorrection(log, self.spread.at(sizes, np.maximum(kinds, 0)), left * left * (3 - 2 * left))

    def members(self, ops: Sequence[CommunicationOp]) -> NDArray[np.intp]:
        """Index of each op's kind; -1 for one that was not measured."""
        index = {kind: place for place, kind in enumerate(self.kinds)}
        return np.array([index.get(kind_of(op), -1) for op in ops], dtype=np.intp)


def kind_of(op: CommunicationOp) -> str:
    """What has a curve of its own: a collective, or a message, in a communicator of so many ranks."""
    return f"{SEND_RECV if isinstance(op, Transfer) else op.op}/{op.ranks}"


def sizes_of(ops: Sequence[CommunicationOp]) -> Floats:
    """log2 of the bytes of each; of nothing, as of one byte."""
    sizes: Floats = np.log2(np.maximum(np.array([op.bytes for op in ops], dtype=np.float64), 1.0))
    return sizes
