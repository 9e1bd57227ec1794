"""GEMM: tile and wave quantisation over tensor, L2 and memory rooflines (docs/models/kernels.md)."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from calibration.cost.power import long_clock
from calibration.cost.rates import (
    Floats,
    hbm_bytes_per_s,
    l2_bytes_per_s,
    main_loop_share,
    on_vector_units,
    overlapped,
    peak_flops_per_s,
)
from hardware.types import Device
from workloads.ops import DTYPE_BYTES, Gemm

SPLITS = (1, 2, 4, 8, 16)
ALIGNMENT_BYTES = 16  # of one vectorised load; rows of other lengths need narrower ones
WORD_BYTES = 4  # that a narrow load or store moves at most: rows of 8 byte steps are no faster than those of 4
TURNING_BYTES = 2  # of the widest elements that an SM transposes on their way to the tensor cores
L2_RESIDENT_SHARE = 0.5  # of L2, what one operand may keep while the other streams through
# Of the rate of a batched GEMM with its choice of kernels that a grouped one reaches: median of 38 of PyTorch's
# (CUTLASS, bf16) on an H200, 2 to 64 groups whose rows vary by half.
GROUPED_SHARE = 0.83
CHUNK = 512  # problems at a time, so that the arrays of all choices stay in the processor's cache


class Choices(NamedTuple):
    """What kernels fix: the output tile of one SM, and over how many SMs they split k; tiles x splits x problems."""

    tile_m: Floats
    tile_n: Floats
    split: Floats

    @classmethod
    def of(cls, device: Device) -> Self:
        """All that kernels for `device` choose from."""
        tile_m, tile_n = np.array(device.architecture.tiles, dtype=np.float64).T[:, :, None, None]
        return cls(tile_m, tile_n, np.array(SPLITS, dtype=np.float64)[:, None])


class Problems(NamedTuple):
    """Columns of many GEMMs on one device."""

    batch: Floats
    m: Floats
    n: Floats
    k: Floats
    a_bytes: Floats  # one batch entry
    b_bytes: Floats
    c_bytes: Floats
    element_bytes: Floats
    added_bytes: Floats  # an element of C that the product is added to; 0 where C is only written
    ragged: Floats  # 1 where the m of the batch entries differ, else 0
    flops_per_s: Floats  # in the main loop, of the device
    long_clock: Floats  # in a long run, relative to a burst
    a_per_s: Floats  # bytes of A into one SM
    b_per_s: Floats
    stored_s: Floats  # of an element of C that an SM stores behind its main loop: in narrow pieces, or on vector units

    @classmethod
    def of(cls, ops: Sequence[Gemm], device: Device) -> Self:
        """Columns of `ops`; an unsupported dtype raises ValueError."""
        rate = {
            kind: _main_loop_flops_per_s(device, *kind) for kind in {(op.dtype, op.split_accumulator) for op in ops}
        }
        clocks = {dtype: long_clock(device, dtype) for dtype in {op.dtype for op in ops}}
        _check_outputs(ops)
        batch, m, n, k = np.array([(op.batch, op.m, op.n, op.k) for op in ops], dtype=np.float64).T
        element_bytes = np.array([DTYPE_BYTES[op.dtype] for op in ops])
        c_element_bytes = np.array([DTYPE_BYTES[op.out_dtype] * (2 if op.accumulate else 1) for op in ops])
        per_sm = hbm_bytes_per_s(device) / device.sm_count
        vector = np.array([on_vector_units(device, op.dtype) for op in ops])
        narrow_per_s = np.array([_narrow_bytes_per_s(op, device) for op in ops])
        return cls(
            batch=batch,
            m=m,
            n=n,
            k=k,
            a_bytes=m * k * element_bytes,
            b_bytes=n * k * element_bytes,
            c_bytes=m * n * c_element_bytes,
            element_bytes=element_bytes,
            added_bytes=np.array([DTYPE_BYTES[op.out_dtype] if op.accumulate else 0.0 for op in ops]),
            ragged=np.array([op.grouped and op.layout != "nt" for op in ops], dtype=np.float64),
            flops_per_s=np.array([rate[op.dtype, op.split_accumulator] for op in ops]),
            long_clock=np.array([clocks[op.dtype] for op in ops]),
            a_per_s=np.minimum(narrow_per_s, [_operand_bytes_per_s(op, device, ("nt",)) for op in ops]),
            b_per_s=np.minimum(narrow_per_s, [_operand_bytes_per_s(op, device, ("nt", "nn")) for op in ops]),
            stored_s=element_bytes / narrow_per_s + np.where(vector, c_element_bytes / per_sm, 0.0),
        )

    def part(self, part: slice) -> "Problems":
        """A slice of every column."""
        return Problems(*(column[part] for column in self))


def gemm_s(ops: Sequence[Gemm], device: Device, clock: Floats) -> Floats:
    """Seconds of each GEMM, with the best of the architecture's tiles and splits of k.

    Args:
        clock: of each, relative to that of a short benchmark.
    """
    if not ops:
        return np.zeros(0)
    problems = Problems.of(ops, device)
    parts = [slice(start, start + CHUNK) for start in range(0, len(ops), CHUNK)]
    seconds = np.concatenate([_clocked_s(problems.part(part), device, clock[part]) for part in parts])
    return np.where([op.grouped for op in ops], seconds / GROUPED_SHARE, seconds)


def _main_loop_flops_per_s(device: Device, dtype: str, split_accumulator: bool) -> float:
    share = device.architecture.split_accumulator_share if split_accumulator else 1.0
    return peak_flops_per_s(device, dtype) * main_loop_share(device, dtype) * share


def _check_outputs(ops: Sequence[Gemm]) -> None:
    unknown = sorted({op.out_dtype for op in ops} - set(DTYPE_BYTES))
    if unknown:
        raise ValueError(f"no output dtype {unknown[0]!r}; known: {', '.join(sorted(DTYPE_BYTES))}")


def _narrow_bytes_per_s(op: Gemm, device: Device) -> float:
    """Through one SM, in the pieces that the shortest alignment among the rows of A, B and C allows; infinite if whole.

    Vector units load narrow pieces anyway.
    """
    element = DTYPE_BYTES[op.dtype] * 2 // 1 / 2  # scales lie in a tensor of their own
    lengths = [element * length for length in ((op.m if op.layout == "nt" else op.k), op.n)]
    if on_vector_units(device, op.dtype) or all(length % ALIGNMENT_BYTES == 0 for length in lengths):
        return math.inf
    piece_bytes = WORD_BYTES if all(length % WORD_BYTES == 0 for length in lengths) else element
    return device.architecture.narrow_per_clock * piece_bytes * device.boost_clock_hz


def _operand_bytes_per_s(op: Gemm, device: Device, turned: Sequence[str]) -> float:
    """From L2 into one SM, of an operand that does not lie along k in the layouts `turned`.

    Tensor cores take that as it is in 16 bits (ldmatrix transposes); wider elements have to be turned.
    """
    wide = DTYPE_BYTES[op.dtype] > TURNING_BYTES and not on_vector_units(device, op.dtype)
    if wide and op.layout in turned:
        return device.architecture.turned_bytes_per_clock * device.boost_clock_hz
    return l2_bytes_per_s(device)


def _clocked_s(problems: Problems, device: Device, clock: Floats) -> Floats:
    """As a benchmark sees it, long GEMMs part of the way to the clock of a long run; then slowed to `clock`."""
    stretches = [np.array(1.0), 1 / problems.long_clock]
    if (clock == 1.0).all():
        full_s, slow_s = _best_s(problems, device, stretches)
        clocked_s = full_s
    else:
        full_s, slow_s, clocked_s = _best_s(problems, device, [*stretches, 1 / clock])
    throttled_share = full_s / (full_s + device.architecture.throttle_s)
    benchmark_s = full_s + throttled_share * (slow_s - full_s)
    slowed_s: Floats = np.maximum(benchmark_s, benchmark_s * (clocked_s / full_s))
    return slowed_s


def _best_s(p: Problems, device: Device, stretches: Sequence[Floats]) -> list[Floats]:
    """Over tiles and splits, for each stretch of the tensor cores' time; vendors' heuristics choose nearly as well."""
    architecture, choices = device.architecture, Choices.of(device)
    tiles = p.batch * _rows_of_tiles(p, choices.tile_m) * np.ceil(p.n / choices.tile_n)
    memory_s = _memory_bytes(p, device, choices, tiles) / hbm_bytes_per_s(device)
    waves = _waves(tiles * choices.split / device.sm_count, architecture.tail_share)
    fixed_s = _fixed_s(p, device, choices.split)
    tensor_s, load_s = _tile_parts(p, device, choices)
    fixed_tile_s = architecture.cta_s + _added_s(p, device, choices) + _stored_s(p, choices)
    found = (fixed_tile_s + overlapped(tensor_s * stretch, load_s) for stretch in stretches)
    return [(fixed_s + overlapped(waves * tile_s, memory_s)).min(axis=(0, 1)) for tile_s in found]


def _fixed_s(p: Problems, device: Device, split: Floats) -> Floats:
    """Of a whole kernel; one that splits k sums the parts in fp32, written and read in L2."""
    architecture = device.architecture
    partial_bytes = 2 * 4.0 * split * p.batch * p.m * p.n
    summed_s = partial_bytes / (l2_bytes_per_s(device) * device.sm_count)
    seconds: Floats = np.where(
        split > 1, architecture.kernel_s + architecture.split_s + summed_s, architecture.kernel_s
    )
    return seconds


def _rows_of_tiles(p: Problems, tile_m: Floats) -> Floats:
    """Rounded up; where the rows of groups differ, by half a tile in the mean."""
    rows: Floats = np.where(p.ragged > 0, p.m / tile_m + 0.5, np.ceil(p.m / tile_m))
    return rows


def _waves(filled: Floats, tail_share: float) -> Floats:
    """Rounds of tiles over the SMs: never below one, and of a partly filled last one only the share lost."""
    waves: Floats = np.maximum(filled + tail_share * (np.ceil(filled) - filled), 1.0)
    return waves


def _tile_parts(p: Problems, device: Device, choices: Choices) -> tuple[Floats, Floats]:
    """Of one output tile on one SM: seconds to multiply, and to load the operands from L2 meanwhile."""
    tile_m, tile_n, split = choices
    k = np.ceil(p.k / split)
    tensor_s = 2.0 * tile_m * tile_n * k * device.sm_count / p.flops_per_s
    load_s = (np.minimum(tile_m, p.m) / p.a_per_s + np.minimum(tile_n, p.n) / p.b_per_s) * k * p.element_bytes
    return tensor_s, load_s


def _stored_s(p: Problems, choices: Choices) -> Floats:
    """Of one output tile on one SM: to store it behind the main loop."""
    seconds: Floats = np.minimum(choices.tile_m, p.m) * np.minimum(choices.tile_n, p.n) * p.stored_s
    return seconds


def _added_s(p: Problems, device: Device, choices: Choices) -> Floats:
    """Of one output tile on one SM: to read the tile of C that the product is added to, where nothing hides that.

    All SMs read at about the same time. The write back is asynchronous.
    """
    tile_bytes = choices.tile_m * choices.tile_n * p.added_bytes * (1.0 - device.architecture.addend_hidden)
    seconds: Floats = tile_bytes * device.sm_count / hbm_bytes_per_s(device)
    return seconds


def _memory_bytes(p: Problems, device: Device, choices: Choices, tiles: Floats) -> Floats:
    """Over HBM: tiles that run together form about a square and share operands through L2.

    An operand is read again for each further square beside the first, unless it stays in L2.
    """
    together = np.minimum(tiles, device.sm_count)
    side = np.sqrt(together * choices.tile_m * choices.tile_n)
    a_again = np.maximum(p.n / side - 1, 0.0) * _evicted_share(p.a_bytes, device)
    b_again = np.maximum(p.m / side - 1, 0.0) * _evicted_share(p.b_bytes, device)
    memory_bytes: Floats = p.batch * (p.a_bytes * (1 + a_again) + p.b_bytes * (1 + b_again) + p.c_bytes)
    return memory_bytes


def _evicted_share(operand_bytes: Floats, device: Device) -> Floats:
    resident_bytes = L2_RESIDENT_SHARE * device.l2_bytes
    share: Floats = np.maximum(1 - resident_bytes / operand_bytes, 0.0)
    return share
