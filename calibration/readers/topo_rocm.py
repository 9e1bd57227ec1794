"""`rocm-smi --showtopo`: its matrix of link types and its NUMA lines.

Its hops are not counted: they are one between any two GPUs with xGMI, also where others stand between them.
"""

import re
from pathlib import Path

from calibration.readers.record import ReaderError
from calibration.readers.text import Line, lines
from calibration.readers.topology import Topology

NAME = "rocm-smi-topo"
TITLE = "rocm-smi --showtopo"
_SECTION = re.compile(r"^=+\s*([^=]*?)\s*=+$")
_LINKS = re.compile(r"Link Type between two GPUs", re.IGNORECASE)
_NUMA = re.compile(r"^GPU\[(\d+)\]\s*:.*Numa Node: (-?\d+)", re.IGNORECASE)


def claims(head: str, path: Path) -> bool:
    """The title of its matrix of links, or of another of its matrices."""
    del path
    return bool(re.search(r"^=+ (?:Weight|Hops|Link Type) between two GPUs =+$", head, re.MULTILINE))


def topology(path: Path) -> Topology:
    """The machine. Raises ReaderError."""
    found = lines(path)
    starts = [at for at, line in enumerate(found) if (title := _SECTION.match(line.text)) and _LINKS.match(title[1])]
    if len(starts) != 1:
        fault = "no section 'Link Type between two GPUs'" if not starts else "several outputs in one file: keep one"
        raise ReaderError(path, f"{fault} (rocm-smi --showtopo)")
    links = _matrix(path, found, starts[0] + 1)
    numa = {int(match[1]): int(match[2]) for line in found if (match := _NUMA.match(line.text))}
    return Topology(
        source=f"rocm-smi --showtopo ({path.name})",
        gpus=len(links),
        links=links,
        numa=tuple(numa.get(gpu) for gpu in range(len(links))),
    )


def _matrix(path: Path, found: list[Line], at: int) -> tuple[tuple[str, ...], ...]:
    if at >= len(found):
        raise ReaderError(path, "is cut off after the title of the links", found[-1].number)
    names = found[at].text.split()
    rows: list[tuple[str, ...]] = []
    for line in found[at + 1 : at + 1 + len(names)]:
        cells = line.text.split()
        if len(cells) != len(names) + 1 or cells[0] != names[len(rows)]:
            raise ReaderError(path, f"{line.text.strip()[:60]!r} is no row of {len(names)} links", line.number)
        rows.append(tuple(_kind(path, line, cell) for cell in cells[1:]))
    if not names or len(rows) != len(names):
        raise ReaderError(path, f"{len(rows)} rows of links for {len(names)} GPUs: is it cut off?", found[at].number)
    _check(path, found[at], rows)
    return tuple(rows)


def _kind(path: Path, line: Line, cell: str) -> str:
    words = {"0": "X", "XGMI": "XGMI", "PCIE": "PCIE"}
    if cell.upper() not in words:
        raise ReaderError(path, f"link {cell!r}: should be XGMI, PCIE, or 0 for a GPU itself", line.number)
    return words[cell.upper()]


def _check(path: Path, header: Line, rows: list[tuple[str, ...]]) -> None:
    for one, row in enumerate(rows):
        for other, link in enumerate(row):
            if link != rows[other][one] or (link == "X") != (one == other):
                fault = f"GPU{one} - GPU{other}: {link} and {rows[other][one]} do not fit each other"
                raise ReaderError(path, fault, header.number)
