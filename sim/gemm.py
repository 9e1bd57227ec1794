"""One GEMM on one device: its time, and what bounds it."""

from typing import Any

import numpy as np

from calibration.cost import power
from calibration.cost.model import draw_of
from calibration.cost.rates import hbm_bytes_per_s, peak_flops_per_s
from hardware.descriptor import DescriptorError
from hardware.types import Device
from sim.pricing_table import priced
from sim.profiles import cost_model
from workloads.ops import Gemm


def gemm_document(op: Gemm, device: Device) -> dict[str, Any]:
    """One GEMM, in a short benchmark and in a long run; an unsupported dtype raises DescriptorError."""
    try:
        models = [cost_model(device, sustained=long) for long in (False, True)]
        burst, sustained = (priced([op], model, device)[0] for model in models)
    except ValueError as error:
        raise DescriptorError("--dtype", [str(error)]) from error
    peak = peak_flops_per_s(device, op.dtype)
    draw = draw_of(models[0], device) * power.draws([op], np.array([burst.seconds]), device)
    watts = float(power.watts(draw, device)[0])
    compute_s, memory_s = op.flops / peak, op.bytes / hbm_bytes_per_s(device)
    return {
        "device": device.name,
        "dtype": op.dtype,
        **{name: getattr(op, name) for name in ("m", "n", "k", "batch", "layout", "out_dtype")},
        "predicted_s": burst.seconds,
        "predicted_low_s": burst.low_s,
        "predicted_high_s": burst.high_s,
        "flops": op.flops,
        "bytes": op.bytes,
        "flops_per_s": op.flops / burst.seconds,
        "peak_flops_per_s": peak,
        "peak_share": compute_s / burst.seconds,
        "bound_by": "compute" if compute_s > memory_s else "memory",
        "compute_bound_s": compute_s,
        "memory_bound_s": memory_s,
        "sustained_s": sustained.seconds,
        "sustained_flops_per_s": op.flops / sustained.seconds,
        "sustained_peak_share": compute_s / sustained.seconds,
        "sustained_w": watts,
        "sustained_j": watts * sustained.seconds,
    }
