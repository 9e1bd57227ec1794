"""What a measurement was taken with: GPU, driver and library versions; power and clock while it runs.

PyTorch and the vendors' management libraries are imported only when something is measured.
"""

import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hardware import catalog
from hardware.types import Device

# Of a kernel's word, the word for what takes its place on the other vendor's GPUs.
VENDOR_KERNELS: Mapping[str, Mapping[str, str]] = {"amd": {"cudnn": "ck"}, "nvidia": {}}
# GPUs whose 8-bit type has no negative zero (CDNA 3): the architecture as the ROCm driver names it.
FNUZ_ARCHITECTURES = ("gfx940", "gfx941", "gfx942")
_NOISE = {"nvidia", "amd", "tesla", "instinct", "geforce", "radeon", "graphics", "one", "of", "the", "gpus", "gpu"}
MEMORY_TOLERANCE = 0.08


class CaptureError(RuntimeError):
    """Why nothing can be measured here, in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The GPU and the software, as the driver and the libraries say."""

    device: str
    title: str
    vendor: str
    architecture: str
    stack: str
    fp8: str
    memory_bytes: float
    l2_bytes: float
    sm_count: int
    uuid: str
    index: int
    versions: Mapping[str, str]


def torch_module() -> Any:
    """PyTorch, if it is there and sees a GPU. Raises CaptureError."""
    try:
        torch = import_module("torch")
    except ImportError:
        raise CaptureError(
            "PyTorch is not installed; capture needs it and a GPU: pip install steptime[capture]"
        ) from None
    if not torch.cuda.is_available():
        raise CaptureError(f"no GPU is visible to PyTorch {torch.__version__}; capture needs one")
    return torch


def facts(torch: Any, index: int = 0) -> Facts:
    """Of one of the GPUs that PyTorch sees."""
    found = torch.cuda.get_device_properties(index)
    vendor = "amd" if torch.version.hip else "nvidia"
    architecture = getattr(found, "gcnArchName", "") if vendor == "amd" else f"sm_{found.major}{found.minor}"
    uuid = str(getattr(found, "uuid", ""))
    return Facts(
        device=device_id(
            found.name, float(found.total_memory), found.multi_processor_count, _limit_w(vendor, uuid, index)
        ),
        title=found.name,
        vendor=vendor,
        architecture=architecture,
        stack=stack(torch),
        fp8="float8_e4m3fnuz" if architecture.split(":")[0] in FNUZ_ARCHITECTURES else "float8_e4m3fn",
        memory_bytes=float(found.total_memory),
        l2_bytes=float(getattr(found, "L2_cache_size", 0)),
        sm_count=found.multi_processor_count,
        uuid=uuid,
        index=index,
        versions=_versions(torch, vendor, uuid, index),
    )


def stack(torch: Any) -> str:
    """As in torch-2.11-cu130 or torch-2.8-rocm6.4."""
    release = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    if torch.version.hip:
        return f"torch-{release}-rocm{'.'.join(torch.version.hip.split('.')[:2])}"
    return f"torch-{release}-cu{torch.version.cuda.replace('.', '')}"


def vendor_kernel(kernel: str | None, of: Facts) -> str | None:
    """The kernel's word on this vendor's GPUs."""
    return VENDOR_KERNELS[of.vendor].get(kernel, kernel) if kernel else kernel


def device_id(title: str, memory_bytes: float, sm_count: int, limit_w: float = 0.0) -> str:
    """The catalogue's name of the GPU that the driver calls `title`; of an unknown one, its own in kebab-case.

    An entry fits if it shares a word with a digit (h200, mi300x), has as many SMs and about as much memory;
    of several, the one whose title is most alike, then the one whose power limit is nearest.
    """
    known = (catalog.device(name) for name in catalog.devices())
    fitting = [device for device in known if _fits(device, title, memory_bytes, sm_count)]
    if not fitting:
        return "-".join(re.findall(r"[a-z0-9]+", title.lower().replace("nvidia", "").replace("amd", ""))) or "gpu"
    return max(fitting, key=lambda device: (_likeness(device, title), -abs(device.power_limit_w - limit_w))).name


class Meter:
    """Board power and clock of one GPU, from the vendor's management library."""

    def __init__(self, joules: Callable[[], float], hertz: Callable[[], float]) -> None:
        self._joules, self._hertz = joules, hertz

    @classmethod
    def of(cls, of: Facts) -> "Meter | None":
        """None where the library is not there or does not answer."""
        try:
            meter = _amd_meter(of.index) if of.vendor == "amd" else _nvidia_meter(of.uuid, of.index)
            meter.clocks_hz()
            meter.power()
        except Exception:  # each library has errors of its own
            return None
        return meter

    def clocks_hz(self) -> list[float]:
        """The clock of the SMs now."""
        return [self._hertz()]

    def power(self) -> "Power":
        """Starts to count energy."""
        return Power(self._joules)


class Power:
    """Mean power since it was made, from the energy counter."""

    def __init__(self, joules: Callable[[], float]) -> None:
        self._joules, self._start_s, self._start_j = joules, time.monotonic(), joules()

    def watts(self) -> float | None:
        """None if the counter stood still."""
        used = self._joules() - self._start_j
        return used / (time.monotonic() - self._start_s) if used > 0 else None


def _fits(device: Device, title: str, memory_bytes: float, sm_count: int) -> bool:
    shared = _words(device.title) & _words(title)
    chip = any(re.search(r"\d", word) for word in shared)
    alike = abs(device.memory_bytes / memory_bytes - 1.0) < MEMORY_TOLERANCE
    return chip and alike and device.sm_count == sm_count


def _likeness(device: Device, title: str) -> float:
    """Share of the words that both titles have."""
    ours, theirs = _words(device.title), _words(title)
    return len(ours & theirs) / len(ours | theirs)


def _words(title: str) -> frozenset[str]:
    """Without vendor and memory size; SXM5 is SXM."""
    text = re.sub(r"\b\d+ ?gb\b|\bhbm\d\w*", " ", title.lower())
    words = {re.sub(r"^sxm\d$", "sxm", word) for word in re.findall(r"[a-z0-9]+", text)}
    return frozenset(words - _NOISE)


def _versions(torch: Any, vendor: str, uuid: str, index: int) -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu_count": str(os.cpu_count()),
        "torch": torch.__version__,
        "gpus": str(torch.cuda.device_count()),
    }
    probes: Mapping[str, Callable[[], Any]] = {
        "runtime": lambda: torch.version.hip or torch.version.cuda,
        "cudnn": torch.backends.cudnn.version,
        "nccl": lambda: ".".join(map(str, torch.cuda.nccl.version())),
        "triton": lambda: import_module("triton").__version__,
        "driver": lambda: _driver(vendor, uuid, index),
        "cpu": _cpu,
        "power_limit_w": lambda: f"{_limit_w(vendor, uuid, index):.0f}",
    }
    for name, probe in probes.items():
        try:
            found[name] = str(probe())
        except Exception:  # a library that is missing has no version
            found[name] = "unknown"
    return found


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))


def _driver(vendor: str, uuid: str, index: int) -> str:
    if vendor == "amd":
        return str(import_module("amdsmi").amdsmi_get_gpu_driver_info(_amd_handle(index))["driver_version"])
    return str(_nvidia_handle(uuid, index)[0].nvmlSystemGetDriverVersion())


def _limit_w(vendor: str, uuid: str, index: int) -> float:
    """The power limit in force; 0 where nobody says."""
    try:
        if vendor == "amd":
            cap = import_module("amdsmi").amdsmi_get_power_cap_info(_amd_handle(index))["power_cap"]
            return float(cap) * (1e-6 if cap > 1e5 else 1.0)
        library, handle = _nvidia_handle(uuid, index)
        return float(library.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1e3
    except Exception:  # no library, or one that refuses
        return 0.0


def _nvidia_handle(uuid: str, index: int) -> tuple[Any, Any]:
    library = import_module("pynvml")
    library.nvmlInit()
    try:
        return library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except library.NVMLError:
        return library, library.nvmlDeviceGetHandleByIndex(index)


def _nvidia_meter(uuid: str, index: int) -> Meter:
    library, handle = _nvidia_handle(uuid, index)
    return Meter(
        lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
        lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM) * 1e6,
    )


def _amd_handle(index: int) -> Any:
    library = import_module("amdsmi")
    library.amdsmi_init()
    return library.amdsmi_get_processor_handles()[index]


def _amd_meter(index: int) -> Meter:
    library, handle = import_module("amdsmi"), _amd_handle(index)

    def joules() -> float:
        count = library.amdsmi_get_energy_count(handle)
        counter = count.get("energy_accumulator", count.get("power", 0))
        return float(counter) * float(count["counter_resolution"]) * 1e-6

    return Meter(joules, lambda: library.amdsmi_get_clock_info(handle, library.AmdSmiClkType.GFX)["clk"] * 1e6)
