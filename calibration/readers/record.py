"""What a reader is given and what it hands back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from calibration.table import Measurement


class ReaderError(ValueError):
    """What is wrong with a file, and in which line.

    Args:
        path: the file.
        fault: what is wrong with it, and what would be right.
        line: counted from one; None where the fault has no line.
    """

    def __init__(self, path: str | Path, fault: str, line: int | None = None) -> None:
        self.path, self.fault, self.line = str(path), fault, line
        super().__init__(self.path, fault, line)

    def __str__(self) -> str:
        place = "" if self.line is None else f":{self.line}"
        return f"{self.path}{place}: {self.fault}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the file does not say: the person who imports it does.

    Args:
        device: name in the catalogue of the device that was measured.
        stack: the software, as `torch-2.11-cu130`.
        op: collective of a log that does not name it.
        ranks_per_node: of a log that does not show on which hosts its ranks ran.
        dtype: of the inputs of GEMMs in a log that does not name it.
        kernel: of attention in a file that does not name it.
    """

    device: str | None = None
    stack: str | None = None
    op: str | None = None
    ranks_per_node: int | None = None
    dtype: str | None = None
    kernel: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """The rows of one file; `notes` say what of it has become no row, and what to know of the rest."""

    records: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """A module of this folder with the name of a tool, a test for its files, and a function that reads one."""

    NAME: str
    TITLE: str

    def claims(self, head: str, path: Path) -> bool:
        """Whether a file that begins like this (64 KiB, unpacked) is one of the tool's."""

    def read(self, path: Path, context: Context) -> Import:
        """Its rows. Raises ReaderError."""


def skipped(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Notes on rows that are not in the table: reason -> how many."""
    return tuple(f"{count:,} row{'s' * (count > 1)} left out: {reason}" for reason, count in counts.items())
