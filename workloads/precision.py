"""Which data types a step computes, stores and reduces in.

Mixed precision keeps 16-bit weights beside fp32 master weights (Micikevicius et al., arXiv:1710.03740). The
8- and 4-bit types are for the GEMMs of the layers alone; activations between them stay in bf16.
"""

from dataclasses import dataclass
from typing import Any, Literal

from workloads.ops import DTYPE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Data types by use; `gradient` and `reduce` may be changed by the stack."""

    name: str
    gemm: str
    activation: str
    weight: str
    master: str | None
    moments: str
    scales: Literal["tensor", "row"] = "tensor"  # of 8-bit types: one for a tensor, or one for each row

    @property
    def activation_bytes(self) -> float:
        """Of one activation."""
        return DTYPE_BYTES[self.activation]

    @property
    def pure(self) -> bool:
        """Whether everything is kept in the type that computes, without master weights."""
        return self.master is None

    @property
    def quantised(self) -> bool:
        """Whether GEMM inputs have to be cast to a narrower type first."""
        return self.gemm not in ("fp32", "tf32") and DTYPE_BYTES[self.gemm] < self.activation_bytes


def _mixed(name: str, gemm: str, activation: str, **others: Any) -> Precision:
    kept: dict[str, Any] = {"weight": activation, "master": "fp32", "moments": "fp32"}
    return Precision(name=name, gemm=gemm, activation=activation, **kept, **others)


def _pure(name: str, gemm: str, dtype: str, **others: Any) -> Precision:
    return Precision(name=name, gemm=gemm, activation=dtype, weight=dtype, master=None, moments=dtype, **others)


PRECISIONS = {
    precision.name: precision
    for precision in (
        _pure("fp32", "fp32", "fp32"),
        _pure("tf32", "tf32", "fp32"),
        _pure("bf16-pure", "bf16", "bf16"),
        _mixed("fp16", "fp16", "fp16"),
        _mixed("bf16", "bf16", "bf16"),
        _mixed("fp8", "fp8", "bf16"),
        _mixed("fp8-rowwise", "fp8", "bf16", scales="row"),
        _pure("fp8-pure", "fp8", "bf16"),
        _pure("fp8-rowwise-pure", "fp8", "bf16", scales="row"),
        _mixed("mxfp8", "mxfp8", "bf16"),
        _mixed("nvfp4", "nvfp4", "bf16"),
    )
}
