"""`nvidia-smi topo -m`: straight from the terminal, from a log, or pasted."""

import re
from pathlib import Path

from calibration.readers.record import ReaderError
from calibration.readers.text import Line, lines
from calibration.readers.topology import Topology

NAME = "nvidia-smi-topo"
TITLE = "nvidia-smi topo -m"
_HEADER = re.compile(r"^[\s\x1b\[0-9;m]*GPU0\s+(?:GPU1\b|CPU Affinity|\S*\d+\s)[^\n]*$", re.MULTILINE)
_LINK = re.compile(r"NV\d+|PIX|PXB|PHB|NODE|SYS|X")
_LEGEND = re.compile(r"^\s*(NIC\d+): (\S+)\s*$")


def claims(head: str, path: Path) -> bool:
    """A header of GPUs with CPU affinity, or one followed by a row with an X."""
    del path
    header = _HEADER.search(head)
    if not header:
        return False
    following = head[header.end() :].lstrip().split("\n")[0]
    return bool(re.match(r"GPU0\s+X\b", following))


def topology(path: Path) -> Topology:
    """The one matrix of a file. Raises ReaderError."""
    found = lines(path)
    headers = [place for place, line in enumerate(found) if _HEADER.match(line.text)]
    if not headers:
        raise ReaderError(path, "no header GPU0 GPU1 ...: run nvidia-smi topo -m")
    if len(headers) > 1:
        places = ", ".join(str(found[place].number) for place in headers)
        raise ReaderError(path, f"has {len(headers)} matrices, at lines {places}: keep one")
    return _matrix(path, found, headers[0])


def _matrix(path: Path, found: list[Line], at: int) -> Topology:
    header = found[at].text
    names = re.split(r"\s+CPU Affinity", header)[0].split()
    gpus = [name for name in names if re.fullmatch(r"GPU\d+", name)]
    if gpus != [f"GPU{place}" for place in range(len(gpus))] or names[: len(gpus)] != gpus:
        raise ReaderError(path, f"GPUs {' '.join(gpus)}: should be GPU0, GPU1, ...", found[at].number)
    rows: dict[str, list[str]] = {}
    numa: dict[str, int | None] = {}
    for line in found[at + 1 :]:
        label = line.text.split()[0] if line.text.strip() else ""
        if label not in names or len(rows) == len(names):
            break
        rows[label], rest = _links(path, line, names)
        numa[label] = _numa(header, rest)
    links = _checked(path, found[at], gpus, rows)
    legend = {match[1]: match[2] for line in found[at:] if (match := _LEGEND.match(line.text))}
    nics = tuple(legend.get(name, name) for name in names[len(gpus) :])
    return Topology(
        source=f"nvidia-smi topo -m ({path.name})",
        gpus=len(gpus),
        links=links,
        nics=nics,
        numa=tuple(numa[gpu] for gpu in gpus),
    )


def _links(path: Path, line: Line, names: list[str]) -> tuple[list[str], str]:
    """The links of a row, also where they are glued together, and what follows them."""
    text = line.text.strip().split(maxsplit=1)[1] if len(line.text.split()) > 1 else ""
    matches = list(_LINK.finditer(text))[: len(names)]
    end = matches[-1].end() if matches else 0
    between = _LINK.sub("", text[:end]).strip()
    if len(matches) < len(names) or between:
        fault = f"{len(matches)} links for {len(names)} columns" if not between else f"unknown link {between!r}"
        raise ReaderError(path, fault, line.number)
    return [match[0] for match in matches], text[end:]


def _numa(header: str, rest: str) -> int | None:
    """The column after the CPUs."""
    cells = rest.split()
    if "NUMA Affinity" not in header or len(cells) < 2 or not cells[1].isdigit():
        return None
    return int(cells[1])


def _checked(path: Path, header: Line, gpus: list[str], rows: dict[str, list[str]]) -> tuple[tuple[str, ...], ...]:
    missing = [gpu for gpu in gpus if gpu not in rows]
    if missing:
        raise ReaderError(path, f"no row of {', '.join(missing)}: is the matrix cut off?", header.number)
    links = tuple(tuple(rows[gpu][: len(gpus)]) for gpu in gpus)
    for one in range(len(gpus)):
        for other in range(len(gpus)):
            if links[one][other] != links[other][one] or (links[one][other] == "X") != (one == other):
                fault = f"GPU{one} - GPU{other}: {links[one][other]} and {links[other][one]} do not fit each other"
                raise ReaderError(path, fault, header.number)
    return links
