"""A result as one JSON document: SI units, ratios 0..1."""

import json
from dataclasses import fields
from typing import Any

from sim.jobfile import resolved
from sim.memory import Memory
from sim.profiles import origin
from sim.result import Result


def run_document(result: Result) -> dict[str, Any]:
    """All figures of a step, with the job as it was understood."""
    low, high = result.interval_s
    return {
        "step_s": result.step_s,
        "step_low_s": low,
        "step_high_s": high,
        "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_gpu": result.tokens_per_s_per_gpu,
        "mfu": result.mfu,
        "hfu": result.hfu,
        "model_flops": result.model_flops,
        "prices": origin(result.cost_model),
        "measured_share": result.measured_share,
        "clock": result.load.clock,
        "power_w": result.power_w,
        "energy_j": result.energy_j,
        "memory_bytes": result.memory.allocated,
        "memory": memory_components(result.memory),
        "memory_stage": result.memory.stage,
        "memory_capacity_bytes": result.memory.capacity,
        "fits": result.memory.fits,
        "breakdown": result.breakdown,
        "bubble": result.bubble,
        "exposed": result.exposed_s,
        "critical_path": result.critical_path,
        "gpus": result.job.gpus,
        "tasks": len(result.program.tasks),
        "job": resolved(result.job),
    }


def memory_components(memory: Memory) -> dict[str, float]:
    """Bytes by what holds them, in the order of the fields."""
    others = ("stage", "capacity")
    return {part.name: getattr(memory, part.name) for part in fields(memory) if part.name not in others}


def json_text(document: object) -> str:
    """The same document gives the same bytes; not a number is a mistake of ours."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
