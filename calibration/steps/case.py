"""What one measured run trains, and how: the entries of `cases.toml`."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from workloads.catalog import model
from workloads.model import Model

VOCAB = 128256
CASES = "STEPTIME_CASES"
TORCHTITAN = "torchtitan"
MEGATRON = "megatron"
TRANSFORMERS = "transformers"
SELECTIVE = "selective:"  # and modules, joined by a plus sign
FLOAT8 = {TORCHTITAN: ("tensorwise", "rowwise"), MEGATRON: ("tensorwise", "delayed"), TRANSFORMERS: ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama: gated MLP, RMSNorm, grouped queries, untied embeddings.

    experts: of every MLP, 0 for one dense MLP; then a Qwen3 MoE, whose queries and keys are normalised head by head.
    topk: experts that a token goes to.
    ffn: width of the MLP, or of one expert.
    model: of the catalogue that it is, in as many layers: a DeepSeek or a GPT-OSS. A file of cases gives no other size.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int = VOCAB
    experts: int = 0
    topk: int = 0
    model: str = ""

    @property
    def catalogued(self) -> Model:
        """The model of the catalogue in as many layers, where it is one."""
        return replace(model(self.model), layers=self.layers)

    @property
    def latent(self) -> bool:
        """Whether it is a DeepSeek, with latent attention."""
        return bool(self.model and self.catalogued.kv_rank)

    @property
    def sinks(self) -> bool:
        """Whether it is a GPT-OSS: biases, clamped activations, windows, sinks."""
        return bool(self.model and self.catalogued.sinks)

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Weights, norms and both embeddings included."""
        if self.model:
            return self.catalogued.parameters
        attention = 2 * self.hidden * (self.hidden + self.kv_heads * self.head_dim)
        mlp = 3 * self.hidden * self.ffn * max(1, self.experts)
        routed = self.hidden * self.experts + 2 * self.head_dim if self.experts else 0
        layer = attention + mlp + routed + 2 * self.hidden
        return self.layers * layer + 2 * self.vocab * self.hidden + self.hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run.

    batch: sequences that a replica works through at once; under pipeline parallelism all its micro-batches.
    ddp: replicas; with fsdp, of groups that are sharded inside (hybrid sharding).
    ep: ranks that share the experts; they are ranks of fsdp and tp, not more of them. Experts are whole.
    recompute: none, op (every other GEMM is kept), layers:2 (every second layer), full; for Megatron-Core none, full,
        selective:MODULE+MODULE.
    dtype: float32 keeps fp32 weights and computes in bf16 where the trainer casts (by FSDP, or by autocast under
        DDP and on one GPU; never under TP or PP alone); bfloat16 keeps and computes everything in bf16.
    float8: "" for none, or tensorwise, rowwise; for Megatron-Core tensorwise, delayed.
    reduce: type in which FSDP reduces gradients: float32, bfloat16.
    overlap: whether Megatron-Core reduces gradients and gathers weights beside the computation; TorchTitan always does.

    Megatron-Core keeps bf16 weights beside fp32 master weights (dtype says nothing there), works through `batch` in
    micro-batches and shards the optimizer over all replicas of `ddp`.
    """

    name: str
    shape: str
    seq_len: int
    batch: int
    fsdp: int = 1
    ddp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    schedule: str = "1F1B"
    micro_batch: int = 1
    accumulate: int = 1
    recompute: str = "none"
    dtype: str = "float32"
    float8: str = ""
    reduce: str = "float32"
    compile: bool = False
    overlap: bool = False

    @property
    def gpus(self) -> int:
        """Ranks, one a GPU."""
        return self.fsdp * self.ddp * self.tp * self.pp * self.cp

    @property
    def global_batch(self) -> int:
        """Sequences of a step."""
        return self.batch * self.fsdp * self.ddp * self.accumulate

    @property
    def sharded(self) -> bool:
        """Whether FSDP is at work; context parallelism brings it along."""
        return self.fsdp > 1 or self.cp > 1

    @property
    def precision(self) -> str:
        """In the words of a job file."""
        if self.float8:
            scales = "-rowwise" if self.float8 == "rowwise" else ""
            return f"fp8{scales}" + ("-pure" if self.dtype == "bfloat16" else "")
        if self.dtype == "bfloat16":
            return "bf16-pure"
        mixed = self.sharded or (self.tp == 1 and self.pp == 1)
        return "bf16" if mixed else "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Shapes by name, and the runs in order of importance.

    framework: that trains them, torchtitan, megatron or transformers.
    """

    shapes: Mapping[str, Shape]
    cases: tuple[Case, ...]
    framework: str = TORCHTITAN


def shipped(name: str = "cases.toml") -> Cases:
    """The cases that ship with the package: `cases.toml`, and those that wait for their host in `host.toml`."""
    return parsed(tomllib.loads(files("calibration.steps").joinpath(name).read_text()))


def chosen() -> Cases:
    """Those of the file that the environment names, which the ranks of a run inherit; else the shipped ones."""
    path = os.environ.get(CASES)
    return read(Path(path)) if path else shipped()


def read(path: Path) -> Cases:
    """Cases of a TOML file."""
    return parsed(tomllib.loads(path.read_text("utf-8")))


def parsed(document: Mapping[str, Any]) -> Cases:
    """Cases of a TOML document; raises ValueError with every fault."""
    shapes = {name: Shape(**_catalogued_sizes(fields), **fields) for name, fields in document["shapes"].items()}
    cases = tuple(Case(**fields) for fields in document["case"])
    framework = document.get("framework", TORCHTITAN)
    if framework not in FLOAT8:
        raise ValueError(f"framework {framework!r}; known: {', '.join(FLOAT8)}")
    if faults := [fault for case in cases for fault in _faults(case, shapes, framework)]:
        raise ValueError("\n".join(faults))
    return Cases(shapes=shapes, cases=cases, framework=framework)


def _catalogued_sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a shape has from its model of the catalogue, where it names one."""
    if "model" not in fields:
        return {}
    found = model(fields["model"])
    return {size: getattr(found, size) for size in ("hidden", "ffn", "heads", "kv_heads", "vocab", "experts", "topk")}


def _faults(case: Case, shapes: Mapping[str, Shape], framework: str) -> list[str]:
    of_framework = {TORCHTITAN: _titan, MEGATRON: _megatron, TRANSFORMERS: _transformers}[framework]
    checks = _checks(case, shapes) | of_framework(case, shapes)
    known = ", ".join(FLOAT8[framework]) or "none"
    checks[f"float8 {case.float8!r}; known: {known}"] = case.float8 in ("", *FLOAT8[framework])
    return [f"{case.name}: {fault}" for fault, right in checks.items() if not right]


def _checks(case: Case, shapes: Mapping[str, Shape]) -> dict[str, bool]:
    """Faults, and whether a case is free of them."""
    known = ", ".join(shapes)
    return {
        f"no shape {case.shape!r}; known: {known}": case.shape in shapes,
        f"batch {case.batch} is not a multiple of micro_batch {case.micro_batch}": case.batch % case.micro_batch == 0,
        f"ep {case.ep}: {case.shape} has no experts": case.ep == 1
        or case.shape not in shapes
        or shapes[case.shape].experts > 0,
    }


def _titan(case: Case, shapes: Mapping[str, Shape]) -> dict[str, bool]:
    return {
        f"{case.shape} is trained by Megatron-Core alone": case.shape not in shapes or not shapes[case.shape].sinks,
        "ddp goes with fsdp alone in TorchTitan": case.ddp in (1, case.gpus // case.fsdp),
        "overlap is a choice with Megatron-Core alone": not case.overlap,
        f"ep {case.ep} does not divide fsdp x tp = {case.fsdp * case.tp}": case.fsdp * case.tp % case.ep == 0,
        f"recompute {case.recompute!r}; known: none, op, layers:N, full": case.recompute in ("none", "op", "full")
        or case.recompute.startswith("layers:"),
        f"reduce {case.reduce!r}; known: float32, bfloat16 (with FSDP)": case.reduce == "float32"
        or (case.reduce == "bfloat16" and case.sharded),
    }


def _megatron(case: Case, _: Mapping[str, Shape]) -> dict[str, bool]:
    ranks = case.gpus // case.pp
    return {
        "fsdp, accumulate, compile and schedules other than 1F1B are TorchTitan's": case.fsdp == case.accumulate == 1
        and not case.compile
        and case.schedule == "1F1B",
        f"ep {case.ep} does not divide the {ranks} ranks of a stage": ranks % case.ep == 0,
        f"recompute {case.recompute!r}; known: none, full, selective:MODULES": case.recompute in ("none", "full")
        or case.recompute.startswith(SELECTIVE),
        f"reduce {case.reduce!r}; known: float32, bfloat16": case.reduce in ("float32", "bfloat16"),
    }


def _transformers(case: Case, shapes: Mapping[str, Shape]) -> dict[str, bool]:
    return {
        "Transformers runs here on one GPU or under DDP alone": case.gpus == case.ddp,
        "compile, overlap and schedules are other trainers'": not (case.compile or case.overlap)
        and case.schedule == "1F1B",
        f"{case.shape} has experts": case.shape not in shapes or not shapes[case.shape].experts,
        f"recompute {case.recompute!r}; known: none, full": case.recompute in ("none", "full"),
        f"reduce {case.reduce!r}; known: float32": case.reduce == "float32",
    }
