"""The tables of a job file: which keys there are, of what type, and what they are when left out."""

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, get_type_hints

from annotated_types import Ge, Gt, Le

from workloads.stack import STRICT

Size = Annotated[int, Gt(0), Le(10**9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """`name` in the catalogue, or the path of a config.json or TOML file."""

    __pydantic_config__: ClassVar = STRICT

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTable:
    """`name` in the catalogue, or the path of a TOML file; without `nodes`, as many as the file says."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    nodes: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTable:
    """The fields of `Training`."""

    __pydantic_config__: ClassVar = STRICT

    seq_len: Size
    global_batch: Size
    micro_batch: Size = 1
    precision: str = "bf16"
    recompute: str = "none"
    optimizer: str = "adamw"
    gradients: str = "auto"
    task: str = "pretrain"
    mtp_layers: Annotated[int, Ge(0), Le(100)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutTable:
    """The fields of `Layout`; without `dp`, all GPUs are used; `sequence_parallel` follows the stack."""

    __pydantic_config__: ClassVar = STRICT

    dp: Size | None = None
    tp: Size = 1
    pp: Size = 1
    vp: Size = 1
    cp: Size = 1
    ep: Size = 1
    etp: Annotated[int, Ge(0), Le(10**9)] = 0
    zero: Annotated[int, Ge(0), Le(3)] = 0
    zero_group: Annotated[int, Ge(0), Le(10**9)] = 0
    sequence_parallel: bool | None = None
    schedule: str = "auto"
    chunk_layers: str = ""
    context_mode: str = "ring"
    expert_mode: str = "all_to_all"
    expert_overlap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StackTable:
    """`name` in the catalogue, or the path of a TOML file; the rest as the stack usually does."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    execution: str = ""
    attention: str = ""
    host_pace: Annotated[float, Gt(0), Le(1000)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A job file as it stands there."""

    __pydantic_config__: ClassVar = STRICT

    model: ModelTable
    cluster: ClusterTable
    training: TrainingTable
    stack: StackTable
    layout: LayoutTable = field(default_factory=LayoutTable)


def keys() -> tuple[str, ...]:
    """Every key that a job file can have, such as `layout.tp`."""
    hints = get_type_hints(Tables)
    return tuple(f"{table}.{key.name}" for table in Tables.__slots__ for key in fields(hints[table]))
