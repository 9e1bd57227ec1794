"""Nsight Systems, the SQLite export (`nsys export --type sqlite`): kernels and memory copies.

Tables appear only if there was something to put in; names are ids of `StringIds`. Times are in nanoseconds.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from calibration.readers.kernels import Run, kernel_records
from calibration.readers.record import Context, Import, ReaderError
from calibration.readers.sqlite_file import columns, has_table, opened, tables

NAME = "nsys-sqlite"
TITLE = "Nsight Systems, SQLite export"
KERNELS, COPIES = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY"
# Major versions of the export whose tables are these.
VERSIONS = ("2", "3")
# CUpti_ActivityMemcpyKind of the CUPTI documentation.
COPY_KINDS = {1: "host to device", 2: "device to host", 8: "device to device", 10: "peer to peer"}


def claims(head: str, path: Path) -> bool:
    """Its tables of activities or of target facts."""
    return any(has_table(head, path, prefix) for prefix in ("CUPTI_ACTIVITY_", "TARGET_INFO_", "META_DATA_EXPORT"))


def read(path: Path, context: Context) -> Import:
    """A row for each kernel on each stream, and for each kind and size of copy."""
    with opened(path) as base:
        _check_version(path, base)
        there = tables(base)
        runs = [*(_kernels(path, base) if KERNELS in there else ()), *(_copies(base) if COPIES in there else ())]
    said = () if KERNELS in there else (f"no table {KERNELS}: no kernel was traced",)
    return Import(records=kernel_records(runs, context), notes=said)


def _check_version(path: Path, base: sqlite3.Connection) -> None:
    if "META_DATA_EXPORT" not in tables(base):
        return
    rows = base.execute("SELECT value FROM META_DATA_EXPORT WHERE name LIKE '%EXPORT_SCHEMA_VERSION'").fetchall()
    for (version,) in rows:
        if str(version).split(".", maxsplit=1)[0] not in VERSIONS:
            raise ReaderError(path, f"version {version} of the export; known: {', '.join(VERSIONS)}")


def _kernels(path: Path, base: sqlite3.Connection) -> Iterator[Run]:
    names = [name for name in ("demangledName", "shortName", "mangledName") if name in columns(base, KERNELS)]
    if not names or "StringIds" not in tables(base):
        raise ReaderError(path, f"{KERNELS} names no kernels: should have demangledName and a table StringIds")
    where = _where(base, KERNELS)
    name = f"COALESCE({', '.join([*names, 'NULL'])})"
    query = f'SELECT value, "end" - start, {where} FROM {KERNELS} LEFT JOIN StringIds ON id = {name}'
    for kernel, nanoseconds, device, stream in base.execute(query):
        if kernel is None or nanoseconds is None or nanoseconds < 0:
            raise ReaderError(path, f"{KERNELS}: a kernel without a name, or that ends before it starts")
        yield Run(kernel, nanoseconds * 1e-9, _place(device, stream))


def _copies(base: sqlite3.Connection) -> Iterator[Run]:
    query = f'SELECT "end" - start, bytes, copyKind, {_where(base, COPIES)} FROM {COPIES} WHERE "end" >= start'
    for nanoseconds, size, kind, device, stream in base.execute(query):
        name = f"memcpy {COPY_KINDS.get(kind, f'kind {kind}')}"
        yield Run(name, nanoseconds * 1e-9, _place(device, stream), float(size))


def _where(base: sqlite3.Connection, table: str) -> str:
    there = columns(base, table)
    return ", ".join(column if column in there else "NULL" for column in ("deviceId", "streamId"))


def _place(device: object, stream: object) -> str:
    return ", ".join(f"{what} {value}" for what, value in (("device", device), ("stream", stream)) if value is not None)
