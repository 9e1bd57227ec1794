"""rocpd, the SQLite file that rocprofv3 writes from ROCm 7 on: its view `kernels`, in nanoseconds."""

from pathlib import Path

from calibration.readers.kernels import Run, kernel_records
from calibration.readers.record import Context, Import, ReaderError
from calibration.readers.sqlite_file import columns, has_table, opened, tables

NAME = "rocpd"
TITLE = "rocprofv3 (ROCm 7), rocpd SQLite"


def claims(head: str, path: Path) -> bool:
    """Its tables."""
    return has_table(head, path, "rocpd_")


def read(path: Path, context: Context) -> Import:
    """A row for each kernel on each queue."""
    with opened(path) as base:
        if "kernels" not in tables(base) or not {"name", "start", "end"} <= columns(base, "kernels"):
            raise ReaderError(path, "no view 'kernels' with name, start and end: convert with rocpd2csv")
        there = columns(base, "kernels")
        queue = next((each for each in ("stream", "queue", "queue_id") if each in there), "NULL")
        rows = base.execute(f'SELECT name, "end" - start, {queue} FROM kernels').fetchall()
    if any(name is None or nanoseconds is None or nanoseconds < 0 for name, nanoseconds, _ in rows):
        raise ReaderError(path, "a kernel without a name, or that ends before it starts")
    runs = (Run(name, nanoseconds * 1e-9, str(place or "")) for name, nanoseconds, place in rows)
    return Import(records=kernel_records(runs, context))
