"""The catalogue of known machines: a file in a folder is an entry, found because it is there.

Each look-up takes a name of the catalogue or the path of a file of the same form (it ends in `.toml`, or is a
Path). Inside a file, paths are relative to that file. A file is read once, and again when it has changed.
Raises DescriptorError.
"""

from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from hardware.descriptor import DescriptorError, parse, read, read_like, read_toml, unknown
from hardware.types import Architecture, Cluster, Device, Fabric

_FOLDER = Path(__file__).parent


def architectures() -> tuple[str, ...]:
    """Names of the known generations of devices."""
    return _names("architecture")


def devices() -> tuple[str, ...]:
    """Names of the known devices."""
    return _names("device")


def fabrics() -> tuple[str, ...]:
    """Names of the known kinds of interconnect."""
    return _names("fabric")


def clusters() -> tuple[str, ...]:
    """Names of the known clusters."""
    return _names("cluster")


def architecture(name: str | Path, base: Path = Path()) -> Architecture:
    """How the kernels of one generation behave; a relative path starts at `base`."""
    return _architecture(_file("architecture", name, base))


def device(name: str | Path, base: Path = Path()) -> Device:
    """The data sheet of one device; a relative path starts at `base`."""
    return _device(_file("device", name, base))


def fabric(name: str | Path, base: Path = Path()) -> Fabric:
    """How one kind of interconnect behaves; a relative path starts at `base`."""
    return _fabric(_file("fabric", name, base))


def cluster(name: str | Path, nodes: int | None = None) -> Cluster:
    """A cluster of so many nodes; by default as many as its file says, one where it says nothing."""
    found = _cluster(_file("cluster", name, Path()))
    return found if nodes is None else _resized(found, nodes)


class _File(NamedTuple):
    """A file as it was at one time: what the caches remember it by."""

    path: Path
    changed_ns: int


@cache
def _architecture(file: _File) -> Architecture:
    own = ("name", "source")
    tables = read_like(file.path, "architecture", _FOLDER / "architectures", own)
    found = parse(tables, Architecture, str(file.path))
    _check_kernels(found, file.path)
    return found


@cache
def _device(file: _File) -> Device:
    return read(file.path, Device, architecture=partial(architecture, base=file.path.parent))


@cache
def _fabric(file: _File) -> Fabric:
    return read(file.path, Fabric)


@cache
def _cluster(file: _File) -> Cluster:
    table = {"nodes": 1} | read_toml(file.path)
    at = file.path.parent
    fabric_at, device_at = partial(fabric, base=at), partial(device, base=at)
    found = parse(table, Cluster, str(file.path), device=device_at, scale_up=fabric_at, scale_out=fabric_at)
    _check_domain(found, file.path)
    return found


def _resized(found: Cluster, nodes: int) -> Cluster:
    # Through the reader and not by `replace`, so that a bad number of nodes is refused.
    table = {key: getattr(found, key) for key in Cluster.__slots__}
    return parse(table | {"nodes": nodes}, Cluster, f"cluster '{found.name}'")


def _check_kernels(found: Architecture, path: Path) -> None:
    faults = [
        f"attention_softmax: {unknown('kernel of attention_share', kernel, found.attention_share)}"
        for kernel in sorted(found.attention_softmax.keys() - found.attention_share.keys())
    ]
    if faults:
        raise DescriptorError(path, faults)


def _check_domain(found: Cluster, path: Path) -> None:
    """A domain is made of whole nodes, or a node of whole domains."""
    small, large = sorted((found.domain_gpus, found.gpus_per_node))
    if large % small:
        wanted = f"should be a multiple or a divisor of gpus_per_node = {found.gpus_per_node}"
        raise DescriptorError(path, [f"domain_gpus = {found.domain_gpus}: {wanted}"])


@cache
def _names(what: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_FOLDER / f"{what}s").glob("*.toml")))


def _file(what: str, name: object, base: Path) -> _File:
    """The file that the name, or the path relative to `base`, stands for."""
    if not isinstance(name, str | Path):
        raise DescriptorError("", [f"{name!r} should be the name of a {what}, or the path of its file"])
    if isinstance(name, Path) or name.endswith(".toml"):
        return _stamped(base / name)
    if name not in _names(what):
        raise DescriptorError("", [unknown(what, name, _names(what))])
    return _stamped(_FOLDER / f"{what}s" / f"{name}.toml")


def _stamped(path: Path) -> _File:
    try:
        return _File(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):  # the reader says why
        return _File(path, 0)
