"""Numbers for people: units that fit, three digits that count."""

GIB = 2.0**30
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def digits(value: float, count: int = 3) -> str:
    """At least so many digits that count, never an exponent: 29.1, 0.0123, 1,234."""
    if value == 0.0:
        return "0"
    places = max(count - 1 - _magnitude(value), 0)
    return f"{value:,.{places}f}"


def seconds(value: float) -> str:
    """`29.1 s`, `13.8 ms`."""
    scale, unit = _scale(value)
    return f"{digits(value / scale)} {unit}"


def seconds_like(value: float, reference: float) -> str:
    """In the unit of another time, to a thousandth of it, so that a column can be compared at a glance."""
    scale, unit = _scale(reference)
    places = max(3 - _magnitude(reference / scale), 0) if reference > 0.0 else 0
    return f"{value / scale:,.{places}f} {unit}"


def gib(value: float) -> str:
    """Bytes as `36.4 GiB`."""
    return f"{digits(value / GIB)} GiB"


def size(value: float) -> str:
    """Bytes as powers of ten: `50.3 MB`."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if value >= pair[0]), (1.0, "B"))
    return f"{digits(value / scale)} {unit}"


def percent(share: float) -> str:
    """`36.4 %`."""
    return f"{100 * share:.1f} %"


def tera(flops_per_s: float) -> str:
    """`312 TFLOP/s`."""
    return f"{digits(flops_per_s / 1e12)} TFLOP/s"


def parameters(count: float) -> str:
    """`175B`, `1.24B`, `354M`."""
    scale, unit = (1e9, "B") if count >= 0.9995e9 else (1e6, "M")
    return f"{digits(count / scale)}{unit}"


def bar(share: float, width: int) -> str:
    """A horizontal bar, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


def _scale(value: float) -> tuple[float, str]:
    """The largest unit of which there is one."""
    return next((pair for pair in SECONDS if value >= pair[0] * 0.9995), SECONDS[-1])


def _magnitude(value: float) -> int:
    """The power of ten of the first digit."""
    return int(f"{value:e}".partition("e")[2])
