"""A case and what it measured -> a row of the step-time table (the columns of docs/tasks/validate.md)."""

from dataclasses import dataclass

from calibration.steps.case import MEGATRON, TRANSFORMERS, Case, Shape, chosen
from calibration.steps.log import Measured

HEADER = (
    "id,source,cite,device,gpus,gpus_per_node,fabric,inter_node_gbit_per_s,inter_node_stated,interconnect,stack,"
    "model,family,layers,hidden,ffn,heads,kv_heads,vocab,experts,topk,seq_len,precision,execution,attention,optimizer,"
    "global_batch,micro_batch,tp,pp,vp,cp,ep,dp,zero,zero_group,sequence_parallel,recompute,schedule,overlap,task,"
    "step_time_s,tokens_per_s_per_gpu,memory_gb,measured,missing_inputs,quality,notes,memory_active_gb,outcome,"
    "qk_norm,gradients"
)
COLUMNS = tuple(HEADER.split(","))
RECOMPUTE = {"none": "none", "op": "selective-op-alternate", "full": "full"}
OUT_OF_MEMORY = "OutOfMemoryError"
SHIPPED = "calibration/steps/cases.toml"
TITLES = {
    "deepseek-v2-lite": "DeepSeek-V2",
    "deepseek-v2": "DeepSeek-V2",
    "deepseek-v3": "DeepSeek-V3",
    "gpt-oss-20b": "GPT-OSS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it ran, in the words of the catalogue."""

    device: str = "h200-sxm"
    gpus_per_node: int = 8
    fabric: str = "nvlink-switch"
    inter_node_gbit_per_s: int = 3200

    @property
    def title(self) -> str:
        """Short name; the names of the rows begin with it."""
        return self.device.split("-", maxsplit=1)[0].upper()


def row(
    number: int, case: Case, shape: Shape, measured: Measured, machine: Machine, file: str = SHIPPED
) -> dict[str, object]:
    """A run that went well.

    number: of the case in its file.
    """
    return _inputs(number, case, shape, machine, file) | {
        "step_time_s": f"{measured.step_time_s:.6g}",
        "tokens_per_s_per_gpu": f"{measured.tokens_per_s_per_gpu:.1f}",
        "memory_gb": f"{measured.active_gib if chosen().framework == TRANSFORMERS else measured.reserved_gib:.2f}",
        "memory_active_gb": f"{measured.active_gib:.2f}",
        "measured": "step_time_s;tokens_per_s_per_gpu;memory_gb",
        "outcome": "ok",
        "notes": "; ".join(_notes(case, measured)),
    }


def failed(
    number: int, case: Case, shape: Shape, reason: str, machine: Machine, file: str = SHIPPED
) -> dict[str, object]:
    """A run that did not: `outcome` says why."""
    outcome = "OOM Error" if OUT_OF_MEMORY in reason else "failed"
    return _inputs(number, case, shape, machine, file) | {"outcome": outcome, "notes": reason}


def _inputs(number: int, case: Case, shape: Shape, machine: Machine, file: str) -> dict[str, object]:
    blank: dict[str, object] = dict.fromkeys(COLUMNS, "")
    found = blank | _where(number, case, machine, file) | _model(case, shape) | _how(case, shape)
    return found | _of_framework(number, case, shape, machine)


def _of_framework(number: int, case: Case, shape: Shape, machine: Machine) -> dict[str, object]:
    """What differs from TorchTitan."""
    if chosen().framework == MEGATRON:
        return _of_megatron(number, case, machine)
    return _of_transformers(number, case, shape, machine) if chosen().framework == TRANSFORMERS else {}


def _of_transformers(number: int, case: Case, shape: Shape, machine: Machine) -> dict[str, object]:
    return {
        "id": f"{machine.title}-HF-{number:04d}",
        "source": f"steptime measurement, Transformers 5.17 on {machine.title}",
        "stack": "transformers",
        "qk_norm": "yes" if shape.model and shape.catalogued.qk_norm else "",
        "overlap": "DDP, buckets of 25 MB" if case.ddp > 1 else "",
    }


def _of_megatron(number: int, case: Case, machine: Machine) -> dict[str, object]:
    return {
        "id": f"{machine.title}-MC-{number:04d}",
        "source": f"steptime measurement, Megatron-Core 0.16.1 on {machine.title}",
        "stack": "megatron-core",
        "precision": "fp8" if case.float8 else "bf16",
        "attention": "flash",
        "micro_batch": case.micro_batch,
        "zero": 1,
        "zero_group": "",
        "gradients": "fp32" if case.reduce == "float32" else "compute",
        "overlap": f"TP overlap, p2p overlap{'' if case.overlap else ', DP overlap'} all disabled",
        "qk_norm": "",
    }


def _where(number: int, case: Case, machine: Machine, file: str) -> dict[str, object]:
    return {
        "id": f"{machine.title}-TT-{number:04d}",
        "source": f"steptime measurement, TorchTitan 0.2.2 on {machine.title}",
        "cite": f"case {case.name} of {file}",
        "device": machine.device,
        "gpus": case.gpus,
        "gpus_per_node": machine.gpus_per_node,
        "fabric": machine.fabric,
        "inter_node_gbit_per_s": machine.inter_node_gbit_per_s,
        "inter_node_stated": "no",
        "stack": "torchtitan",
        "missing_inputs": "",
        "quality": "A",
    }


def _model(case: Case, shape: Shape) -> dict[str, object]:
    return {
        "model": f"{_title(shape)} {shape.parameters / 1e9:.2f}B",
        "family": "mla-moe" if shape.latent else "moe" if shape.experts else "llama",
        "layers": shape.layers,
        "hidden": shape.hidden,
        "ffn": shape.ffn,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "vocab": shape.vocab,
        "experts": shape.experts or "",
        "topk": shape.topk or "",
        "qk_norm": "yes" if shape.experts and not shape.model else "",
        "seq_len": case.seq_len,
    }


def _title(shape: Shape) -> str:
    experts = "Mixtral" if chosen().framework == MEGATRON else "Qwen3 MoE"
    return TITLES.get(shape.model, shape.model) or (experts if shape.experts else "Llama")


def _how(case: Case, shape: Shape) -> dict[str, object]:
    dp = case.fsdp * case.ddp
    return {
        "precision": case.precision,
        "execution": "compile" if case.compile else "eager",
        "gradients": "compute" if case.reduce == "bfloat16" else "",
        "attention": "unfused" if case.precision == "fp32" else "flash",
        "optimizer": "AdamW",
        "global_batch": case.global_batch,
        "micro_batch": case.micro_batch if case.pp > 1 else case.batch,
        "tp": case.tp,
        "pp": case.pp,
        "vp": 2 if case.schedule == "Interleaved1F1B" else 1,
        "cp": case.cp,
        "ep": case.ep,
        "dp": dp,
        "zero": 3 if case.sharded else 0,
        "zero_group": case.fsdp * case.cp if case.sharded and case.ddp > 1 else "",
        "sequence_parallel": "yes" if case.tp > 1 else "no",
        "recompute": recompute(case, shape),
        "schedule": case.schedule if case.pp > 1 else "none",
        "overlap": "FSDP2 prefetch" if case.sharded else "DDP, buckets of 100 MB" if case.ddp > 1 else "",
        "task": "pretrain",
    }


def recompute(case: Case, shape: Shape) -> str:
    """In the words of a job file; every Nth layer is the share of a stage's layers that it comes to."""
    if not case.recompute.startswith("layers:"):
        return RECOMPUTE.get(case.recompute, case.recompute)
    return f"full:{shape.layers // case.pp // int(case.recompute.removeprefix('layers:'))}"


def _notes(case: Case, measured: Measured) -> list[str]:
    if chosen().framework == MEGATRON:
        return _notes_of_megatron(case, measured)
    autocast = not case.precision.startswith("fp32") and not case.sharded and case.dtype == "float32"
    notes = [*_figures(measured), f"{measured.data_s * 1e3:.1f} ms of it wait for data"]
    notes += ["torch.autocast over fp32 weights: residuals stay fp32"] if autocast else []
    notes += [f"float8 linears, {case.float8} scales, output layer in bf16"] if case.float8 else []
    notes += ["weights and optimizer states in bf16"] if case.dtype == "bfloat16" else []
    notes += ["tokens dealt evenly to the experts"] if case.ep > 1 else []
    notes += ["every second layer is recomputed"] if case.recompute == "layers:2" else []
    notes += ["fp32 without TF32; attention falls back to the unfused kernel"] if case.precision == "fp32" else []
    return notes


def _notes_of_megatron(case: Case, measured: Measured) -> list[str]:
    notes = ["Transformer Engine 2.11", *_figures(measured)]
    notes += [f"fp8 linears, {case.float8} scales"] if case.float8 else []
    notes += ["gradients and weights move beside the computation"] if case.overlap else []
    return notes


def _figures(measured: Measured) -> tuple[str, ...]:
    return (
        f"median of {measured.steps} steps, {measured.fastest_s:.5g} to {measured.slowest_s:.5g} s",
        f"peak in use {measured.active_gib:.2f} GiB, reserved {measured.reserved_gib:.2f} GiB",
    )
