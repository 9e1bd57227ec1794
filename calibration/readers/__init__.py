"""What the vendors' tools wrote, as rows of the measurement table.

One file for each tool; `read_file` finds the one that a file is from. Nothing of a file reaches the table that
the tool did not measure: unknown versions and damaged files raise ReaderError.
"""

from calibration.readers.folder import read_file, read_topology, readers
from calibration.readers.kineto_step import StepTrace, as_in_a_trace, step_breakdown
from calibration.readers.record import Context, Import, Reader, ReaderError
from calibration.readers.topology import Topology, cluster_toml

__all__ = [
    "Context",
    "Import",
    "Reader",
    "ReaderError",
    "StepTrace",
    "Topology",
    "as_in_a_trace",
    "cluster_toml",
    "read_file",
    "read_topology",
    "readers",
    "step_breakdown",
]
