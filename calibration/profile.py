"""Fitted profiles: what `fit` learned of a device and its software, in a file that is safe to load from a stranger.

A profile is a zip archive: `profile.json`, to read (`unzip -p profile.npz profile.json`), and arrays of numbers as
NumPy writes them, loaded without pickles. Equal profiles are equal byte for byte.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from calibration.cost.learned_arrays import Array, array_shapes, arrays_of, model_of, table_of
from calibration.cost.learned_family import FamilyModel
from calibration.cost.learned_message_arrays import MESSAGE_SHAPES, message_arrays, message_model, message_table
from calibration.cost.learned_messages import MessageModel
from hardware.types import Device

FORMAT = 2
HEADER = "profile.json"
MESSAGES = "messages"
FILE = "profile.npz"
LEAST_DRAW, MOST_DRAW = 0.5, 3.0  # of a machine that works at all
LARGEST_BYTES = 64_000_000  # of one member, unpacked
WRITTEN = (1980, 1, 1, 0, 0, 0)  # in the archive: the bytes depend on the content alone
FOLDER = Path(__file__).parent / "profiles"


class ProfileError(ValueError):
    """A profile that cannot be used: which file, and what is wrong with it."""

    def __init__(self, path: str | Path, fault: str) -> None:
        self.path, self.faults = str(path), (fault,)
        super().__init__(f"{path}: {fault}")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Fitted parameters, with what they rest on.

    Args:
        device: the catalogue's name of the device, or of the first of several relatives.
        stack: the software that ran, as in torch-2.11-cu130.
        devices: all whose measurements went in.
        families: family -> its model.
        messages: the curves of collectives; None where none were measured.
        draw: power of kernels on this machine relative to the description of its device, from long runs.
        provenance: measurements, versions and settings behind the fit.
    """

    device: str
    stack: str
    devices: tuple[str, ...]
    families: Mapping[str, FamilyModel]
    provenance: Mapping[str, Any]
    messages: MessageModel | None = None
    draw: float = 1.0


def save(profile: Profile, path: str | Path) -> None:
    """Write a profile; the folder is made where it is missing."""
    members = {HEADER: json.dumps(_header(profile), indent=1).encode()}
    for family, model in profile.families.items():
        members |= {f"{family}.{name}.npy": _packed(array) for name, array in arrays_of(model).items()}
    if profile.messages:
        arrays = message_arrays(profile.messages)
        members |= {f"{MESSAGES}.{name}.npy": _packed(array) for name, array in arrays.items()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(_info(name), data)


def load(path: str | Path) -> Profile:
    """Read a profile; raises ProfileError for a file that is damaged, or of another version."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: _member(archive, name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ProfileError(path, f"cannot be read as a profile: {error}") from None
    try:
        return _profile(members)
    except (KeyError, TypeError, ValueError, AttributeError, MemoryError, RecursionError) as error:
        raise ProfileError(path, f"is no profile that this version wrote: {error}; fit it again") from None


def profile_path(device: str, stack: str = "", folder: Path = FOLDER) -> Path | None:
    """The profile of a device: of this stack, or without one the newest; None where there is none."""
    found = sorted(folder.glob(f"{device}/*/{FILE}"), key=lambda path: _version(path.parent.name))
    exact = [path for path in found if not stack or path.parent.name == stack]
    return exact[-1] if exact else None


def profile_for(device: str, stack: str = "", folder: Path = FOLDER) -> Profile | None:
    """Likewise, loaded."""
    path = profile_path(device, stack, folder)
    return _loaded(path, path.stat().st_mtime_ns) if path else None


def relative_for(device: Device, folder: Path = FOLDER) -> Profile | None:
    """The profile of another device of the same architecture, of the newest stack; None where there is none."""
    found = sorted(folder.glob(f"*/*/{FILE}"), key=lambda path: (_version(path.parent.name), path.parent.parent.name))
    profiles = (_loaded(path, path.stat().st_mtime_ns) for path in reversed(found))
    wanted = device.architecture.name
    return next((profile for profile in profiles if wanted in profile.provenance.get("architectures", ())), None)


@cache
def _loaded(path: Path, _changed_ns: int) -> Profile:
    return load(path)


def _version(stack: str) -> list[tuple[int, str]]:
    """So that torch-2.11 comes after torch-2.9."""
    words = "".join(letter if letter.isalnum() else " " for letter in stack).split()
    return [(int(word) if word.isdigit() else -1, word) for word in words]


def _header(profile: Profile) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "device": profile.device,
        "stack": profile.stack,
        "devices": profile.devices,
        "provenance": profile.provenance,
        "draw": profile.draw,
        "families": {family: table_of(model) for family, model in profile.families.items()},
        MESSAGES: message_table(profile.messages) if profile.messages else None,
    }


def _packed(array: Array) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=WRITTEN)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > LARGEST_BYTES:
        raise zipfile.BadZipFile(f"{name} is larger than {LARGEST_BYTES:,} bytes")
    return archive.read(name)


def _profile(members: Mapping[str, bytes]) -> Profile:
    header = json.loads(members[HEADER])
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']}, not {FORMAT}")
    tables = header["families"].items()
    return Profile(
        device=str(header["device"]),
        stack=str(header["stack"]),
        devices=tuple(map(str, header["devices"])),
        families={family: model_of(family, table, _arrays(family, table, members)) for family, table in tables},
        provenance=dict(header["provenance"]),
        messages=_messages(header[MESSAGES], members) if header[MESSAGES] else None,
        draw=_draw(header.get("draw", 1.0)),
    )


def _draw(value: object) -> float:
    if not isinstance(value, int | float) or not LEAST_DRAW <= value <= MOST_DRAW:
        raise ValueError(f"draw {value!r}, not a number from {LEAST_DRAW:g} to {MOST_DRAW:g}")
    return float(value)


def _unpacked(data: bytes) -> Array:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _messages(table: Mapping[str, Any], members: Mapping[str, bytes]) -> MessageModel:
    return message_model(table, {name: _unpacked(members[f"{MESSAGES}.{name}.npy"]) for name in MESSAGE_SHAPES})


def _arrays(family: str, table: Mapping[str, Any], members: Mapping[str, bytes]) -> dict[str, Array]:
    return {name: _unpacked(members[f"{family}.{name}.npy"]) for name in array_shapes(table)}
