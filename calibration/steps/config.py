"""A case -> the file that its trainer reads: TOML for TorchTitan 0.2, JSON for ranks of our own."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from calibration.steps.case import TORCHTITAN, Case, Shape, chosen

Section = Mapping[str, object]
MODEL = "steptime_llama"
MODEL_OF_EXPERTS = "steptime_qwen3_moe"
MODEL_LATENT = "steptime_deepseek_v2"
# The output layer stays in bf16, as TorchTitan's float8 recipes for Llama have it.
FLOAT8_SKIPS = ("output",)


def written(case: Case, assets: Path, folder: Path, steps: int, *, trace: bool = False) -> Path:
    """The file, in `folder`.

    assets: where `corpus.build` put tokenizer and text.
    trace: whether the last step is profiled; the steps that prepare it are slower.
    """
    if chosen().framework != TORCHTITAN:
        return _of_rank(case, folder, steps, trace=trace)
    path = folder / f"{case.name}.toml"
    tables = sections(case, assets, folder, steps) | (_profiling(steps) if trace else {})
    path.write_text(text(tables))
    return path


def _of_rank(case: Case, folder: Path, steps: int, *, trace: bool) -> Path:
    path = folder / f"{case.name}.json"
    shape = asdict(chosen().shapes[case.shape])
    path.write_text(json.dumps({"case": asdict(case), "shape": shape, "steps": steps, "trace": trace}))
    return path


def sections(case: Case, assets: Path, folder: Path, steps: int) -> dict[str, Section]:
    """Tables of the file by their dotted name."""
    return {
        "job": {"description": case.name, "dump_folder": str(folder / "dump")},
        "experimental": {"custom_import": "calibration.steps.titan"},
        "metrics": {"log_freq": 1, "disable_color_printing": True},
        "model": {
            "name": name_of(chosen().shapes[case.shape]),
            "flavor": case.shape,
            "hf_assets_path": str(assets / "tokenizer"),
            "converters": ["quantize.linear.float8"] if case.float8 else [],
        },
        "optimizer": {"name": "AdamW", "lr": 3e-4, "implementation": "fused"},
        "lr_scheduler": {"warmup_steps": 2},
        "training": _training(case, assets, steps),
        "parallelism": _parallelism(case),
        "activation_checkpoint": _recompute(case.recompute),
        "compile": {"enable": case.compile, "components": ["model", "loss"]},
        "quantize.linear.float8": _float8(case),
        "training.dataloader": {"num_workers": 1, "prefetch_factor": 4},
        "debug": {"moe_force_load_balance": True},
    }


def name_of(shape: Shape) -> str:
    """The model of TorchTitan that a shape is a flavour of, under a name of ours."""
    return MODEL_LATENT if shape.latent else MODEL_OF_EXPERTS if shape.experts else MODEL


def _training(case: Case, assets: Path, steps: int) -> Section:
    return {
        "dataset": "c4_test",
        "dataset_path": str(assets / "text"),
        "local_batch_size": case.batch,
        "global_batch_size": case.global_batch,
        "seq_len": case.seq_len,
        "steps": steps,
        "max_norm": 1.0,
        "dtype": case.dtype,
        "mixed_precision_reduce": case.reduce,
    }


def _parallelism(case: Case) -> Section:
    """Pipeline stages of equal layers: the embedding and the output layer count for none."""
    return {
        "data_parallel_replicate_degree": case.ddp,
        "data_parallel_shard_degree": case.fsdp,
        "tensor_parallel_degree": case.tp,
        "context_parallel_degree": case.cp,
        "expert_parallel_degree": case.ep,
        "pipeline_parallel_degree": case.pp,
        "pipeline_parallel_schedule": case.schedule,
        "pipeline_parallel_microbatch_size": case.micro_batch,
        "pipeline_parallel_first_stage_less_layers": 0,
        "pipeline_parallel_last_stage_less_layers": 0,
    }


def _recompute(recompute: str) -> Section:
    if recompute in ("none", "full"):
        return {"mode": recompute}
    return {"mode": "selective", "selective_ac_option": recompute.removeprefix("layers:")}


def _profiling(steps: int) -> dict[str, Section]:
    return {"profiling": {"enable_profiling": True, "profile_freq": steps, "profiler_active": 1, "profiler_warmup": 2}}


def _float8(case: Case) -> Section:
    """Row-wise scales by recipe; tensor-wise ones with the all-gather of FSDP in fp8 too."""
    if case.float8 == "rowwise":
        return {"recipe_name": "rowwise", "filter_fqns": list(FLOAT8_SKIPS)}
    gathered = case.float8 == "tensorwise" and case.sharded
    return {
        "filter_fqns": list(FLOAT8_SKIPS),
        "enable_fsdp_float8_all_gather": gathered,
        "precompute_float8_dynamic_scale_for_fsdp": gathered,
    }


def text(tables: Mapping[str, Section]) -> str:
    """As TOML: strings, numbers, switches and lists of strings are written as in JSON."""
    return "\n".join(_table(name, fields) for name, fields in tables.items())


def _table(name: str, fields: Section) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join([f"[{name}]", *lines, ""])
