"""The readers of this folder, found because their files are there.

A module with functions `claims` and `read` reads measurements, one with `claims` and `topology` a machine.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

from calibration.readers.record import Context, Import, Reader, ReaderError
from calibration.readers.text import head
from calibration.readers.topology import Topology

_FOLDER = Path(__file__).parent


@cache
def readers() -> dict[str, Reader]:
    """Name -> reader of measurements."""
    return {module.NAME: cast(Reader, module) for module in _modules() if hasattr(module, "read")}


def reader(path: str | Path) -> Reader:
    """The one reader that claims a file. Raises ReaderError."""
    return readers()[_claiming(Path(path), "read").NAME]


def read_file(path: str | Path, *, reader: str | None = None, context: Context | None = None) -> Import:
    """The rows of a file, by the reader of that name or else by the one that claims it. Raises ReaderError."""
    if reader is not None and reader not in readers():
        raise ReaderError(path, f"no reader {reader!r}; known: {', '.join(readers())}")
    name = reader or _claiming(Path(path), "read").NAME
    return readers()[name].read(Path(path), context or Context())


def read_topology(path: str | Path) -> Topology:
    """The machine that nvidia-smi, rocm-smi or NCCL describes in a file. Raises ReaderError."""
    found: Topology = _claiming(Path(path), "topology").topology(Path(path))
    return found


@cache
def _modules() -> tuple[ModuleType, ...]:
    found = (import_module(f"calibration.readers.{path.stem}") for path in sorted(_FOLDER.glob("[a-z]*.py")))
    return tuple(module for module in found if hasattr(module, "claims"))


def _claiming(path: Path, verb: str) -> ModuleType:
    """The one module with this function that claims the file."""
    beginning = head(path)
    able = [module for module in _modules() if hasattr(module, verb)]
    claiming = [module for module in able if module.claims(beginning, path)]
    if len(claiming) == 1:
        return claiming[0]
    if claiming:
        raise ReaderError(path, f"may be from {' or '.join(each.NAME for each in claiming)}: say which")
    raise ReaderError(path, f"is from no known tool; known: {', '.join(each.NAME for each in able)}")
