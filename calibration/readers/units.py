"""Units as the vendors write them, to SI."""

from collections.abc import Mapping

SECONDS: Mapping[str, float] = {
    **dict.fromkeys(("ns", "nsec", "nsecond", "nanosecond"), 1e-9),
    **dict.fromkeys(("us", "usec", "usecond", "microsecond"), 1e-6),
    **dict.fromkeys(("ms", "msec", "msecond", "millisecond"), 1e-3),
    **dict.fromkeys(("s", "sec", "second"), 1.0),
}
HERTZ: Mapping[str, float] = {
    **dict.fromkeys(("hz", "cycle/second", "cycle/s"), 1.0),
    **dict.fromkeys(("khz", "cycle/msecond", "cycle/ms"), 1e3),
    **dict.fromkeys(("mhz", "cycle/usecond", "cycle/us"), 1e6),
    **dict.fromkeys(("ghz", "cycle/nsecond", "cycle/ns"), 1e9),
}
