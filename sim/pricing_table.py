"""Prices a measurement table: `predicted_s` beside each shape, and the error where it was measured.

A row that cannot be priced (an unknown op, a data type that its device has not) keeps blanks and a reason in
`skipped`. A device's collectives run on the cluster of the catalogue that has it.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple, cast

import numpy as np

from calibration.cost.model import CostModel
from calibration.profile import Profile
from hardware import catalog
from hardware.descriptor import DescriptorError
from hardware.types import Cluster, Device
from sim.machine import usual_cluster
from sim.message_price import message_prices
from sim.profiles import cost_model, given_for, model_of
from sim.result import NINETY_PERCENT
from sim.table_rows import Row, SkippedError, compute_op, count, family, ops, read_table
from workloads.errors import unknown
from workloads.ops import Collective, CollectiveKind, CommunicationOp, ComputeOp, Transfer

ADDED = ("predicted_s", "predicted_low_s", "predicted_high_s", "skipped")


class Pricing(NamedTuple):
    """Seconds and their 90 % interval."""

    seconds: float
    low_s: float
    high_s: float


# A cell of a row: its price, or why it has none.
Outcome = Pricing | str


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedTable:
    """Rows with the columns of `ADDED`, and all columns in order."""

    columns: tuple[str, ...]
    rows: list[Row]

    @property
    def priced(self) -> int:
        """Rows that have a price."""
        return sum(not row["skipped"] for row in self.rows)

    def skipped(self) -> dict[str, int]:
        """Reason -> rows that have none."""
        reasons = [row["skipped"] for row in self.rows if row["skipped"]]
        return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}

    def summary(self) -> list[dict[str, Any]]:
        """Errors against `time_s` by op, device and dtype."""
        groups: dict[tuple[str, ...], list[float]] = {}
        for row in self.rows:
            if row.get("time_s") and row["predicted_s"]:
                key = (row["op"], row["device"], row.get("dtype", ""))
                groups.setdefault(key, []).append(float(row["predicted_s"]) / float(row["time_s"]) - 1.0)
        return [
            {"op": op, "device": device, "dtype": dtype, **_statistics(errors)}
            for (op, device, dtype), errors in sorted(groups.items())
        ]

    def text(self) -> str:
        """As CSV."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """A device for all rows, or each row's own; a cluster for collectives, or the device's usual one.

    Rows of the device of `profile`, a file or its folder, get its prices.
    """

    device: str = ""
    cluster: str = ""
    profile: Path | None = None


def price_table(path: Path, machines: Machines, *, sustained: bool = False) -> PricedTable:
    """Price every row of a CSV file; raises DescriptorError with all faults of the table or the names.

    Raises ProfileError for a profile that no row is priced with.

    Prices are those of the device's profile where there is one. A row with `mode` sustained is priced in a long run.
    """
    _check_names(machines)
    needed = ("op",) if machines.device else ("op", "device")
    columns, rows = read_table(path, needed)
    named = [row | {"device": machines.device or row["device"]} for row in rows]
    profile = given_for(machines.profile, (_device_name(row) for row in named)) if machines.profile else None
    outcomes = _outcomes(named, machines.cluster, profile, sustained=sustained)
    kept = [row | _cells(outcome) for row, outcome in zip(named, outcomes, strict=True)]
    return PricedTable(columns=tuple(dict.fromkeys((*columns, "device", *ADDED))), rows=kept)


def _check_names(machines: Machines) -> None:
    """Raise DescriptorError for an unknown --device or --cluster, or both."""
    look_ups = (
        ("--device", machines.device, catalog.device),
        ("--cluster", machines.cluster, catalog.cluster),
    )
    faults = list[str]()
    for option, name, look_up in look_ups:
        try:
            if name:
                look_up(name)
        except DescriptorError as error:
            faults += [f"{option}: {line}" for line in str(error).splitlines()]
    if faults:
        raise DescriptorError("", faults)


def _cells(outcome: Outcome) -> Row:
    if isinstance(outcome, str):
        return dict(zip(ADDED, ("", "", "", outcome), strict=True))
    return dict(zip(ADDED, (*(f"{seconds:.6g}" for seconds in outcome), ""), strict=True))


def _statistics(errors: Sequence[float]) -> dict[str, Any]:
    sizes = [abs(error) for error in errors]
    return {"n": len(errors), "median": median(sizes), "mean": fmean(sizes), "bias": fmean(errors)}


def _outcomes(rows: Sequence[Row], cluster: str, profile: Profile | None, *, sustained: bool) -> list[Outcome]:
    """Of every row, in order; ops that share a device and a data type are priced in one call."""
    outcomes: list[Outcome] = [""] * len(rows)
    batches: dict[tuple[object, ...], list[tuple[int, Any]]] = {}
    calls: dict[tuple[object, ...], Callable[[list[Any]], list[Pricing]]] = {}
    for index, row in enumerate(rows):
        try:
            key, op, call = _request(row, cluster, profile, sustained=sustained or row.get("mode") == "sustained")
            batches.setdefault(key, []).append((index, op))
            calls.setdefault(key, call)
        except SkippedError as error:
            outcomes[index] = str(error)
    for key, batch in batches.items():
        for (index, _), outcome in zip(batch, _tried(calls[key], [op for _, op in batch]), strict=True):
            outcomes[index] = outcome
    return outcomes


def _tried(call: Callable[[list[Any]], list[Pricing]], batch: list[Any]) -> Sequence[Outcome]:
    try:
        return call(batch)
    except ValueError as error:  # the device has not this data type or kernel
        return [str(error)] * len(batch)


Request = tuple[tuple[object, ...], ComputeOp | CommunicationOp, Callable[[list[Any]], list[Pricing]]]


def _request(row: Row, cluster: str, profile: Profile | None, *, sustained: bool) -> Request:
    """(what it can be priced together with, the op, how to price such ops); raises SkippedError."""
    device, kind = _device(row["device"]), family(row["op"])
    model = partial(_model, profile, device)
    if not kind:
        raise SkippedError(unknown("op", row["op"], ops()))
    if kind == "collective":
        machine = _machine(row, cluster or _usual_cluster(device.name))
        if machine.device.name != device.name:
            raise SkippedError(f"{machine.name} has {machine.device.name}, not {device.name}")
        return (machine.name, machine.nodes), _message(row, machine), lambda batch: _messages(batch, machine, model())
    op = compute_op(row)
    key = (device.name, sustained, kind, op.dtype, getattr(op, "out_dtype", ""), getattr(op, "kernel", ""))
    return key, op, lambda batch: priced(batch, model(sustained=sustained), device)


def _model(profile: Profile | None, device: Device, *, sustained: bool = False) -> CostModel:
    return model_of(profile, device, sustained=sustained) or cost_model(device, sustained=sustained)


def priced(batch: Sequence[ComputeOp], model: CostModel, device: Device) -> list[Pricing]:
    """What each op of a batch costs on a device; an unsupported data type raises ValueError."""
    return _pricings(*model.price(batch, device))


def _messages(batch: list[CommunicationOp], machine: Cluster, model: CostModel) -> list[Pricing]:
    return _pricings(*message_prices(batch, machine, model))


def _pricings(seconds: Sequence[float] | np.ndarray, spread: Sequence[float] | np.ndarray) -> list[Pricing]:
    factor = np.exp(NINETY_PERCENT * np.asarray(spread))
    columns = np.asarray(seconds), np.asarray(seconds) / factor, np.asarray(seconds) * factor
    return [Pricing(*row) for row in np.column_stack(columns).tolist()]


@cache
def _device(name: str) -> Device:
    try:
        return catalog.device(name)
    except DescriptorError as error:
        raise SkippedError("; ".join(error.faults)) from None


def _device_name(row: Row) -> str:
    """As its description calls it; one that is unknown, as the row does."""
    try:
        return _device(row["device"]).name
    except SkippedError:
        return row["device"]


def _usual_cluster(device: str) -> str:
    found = usual_cluster(device)
    if not found:
        raise SkippedError(f"no cluster of the catalogue has the device {device}; --cluster names one")
    return found


def _machine(row: Row, cluster: str) -> Cluster:
    """With as many nodes as the ranks need; blank ranks_per_node fills nodes."""
    machine, ranks = catalog.cluster(cluster, 1), count(row, "ranks")
    on_node = min(count(row, "ranks_per_node", machine.gpus_per_node), ranks)
    if on_node > machine.gpus_per_node:
        raise SkippedError(f"{on_node} ranks on a node; one of {machine.name} has {machine.gpus_per_node} GPUs")
    if ranks % on_node:
        raise SkippedError(f"{ranks} ranks are no multiple of {on_node} on a node")
    return catalog.cluster(cluster, ranks // on_node)


def _message(row: Row, machine: Cluster) -> CommunicationOp:
    """The ranks of a node stand as far apart as its devices allow."""
    ranks, size = count(row, "ranks"), float(row["bytes"])
    if row["op"] == "send_recv":
        return Transfer(bytes=size, stride=machine.gpus_per_node if machine.nodes > 1 else 1, ranks=ranks)
    stride = machine.gpus_per_node * machine.nodes // ranks if machine.nodes > 1 else 1
    kind = cast(CollectiveKind, row["op"])
    return Collective(op=kind, bytes=size, ranks=ranks, stride=stride, dtype=row.get("dtype") or "bf16")
