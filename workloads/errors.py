"""The one error of the workloads layer, for the person whose file or name is wrong."""

from collections.abc import Iterable
from difflib import get_close_matches

# So many names still fit in a message; of more, only the nearest are given.
FEW = 12


class WorkloadError(ValueError):
    """A description of work that cannot be used: where it stands, and every fault found in it.

    Attributes:
        where: the file, the table, or the name that was asked for.
        faults: what is wrong and what would be right, one sentence each.
    """

    def __init__(self, where: str, faults: Iterable[str]) -> None:
        self.where = where
        self.faults = tuple(faults)
        super().__init__(self.where, self.faults)

    def __str__(self) -> str:
        return "\n".join(f"{self.where}: {fault}" for fault in self.faults)


def nearest(name: str, known: Iterable[str]) -> str:
    """Up to three known names, the one most like `name` first, joined by commas."""
    return ", ".join(get_close_matches(name[:80].lower(), sorted(known), n=3, cutoff=0.0))


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The fault of a name that is not there: `no schedule '2f2b'; nearest: ...; known: ...`."""
    names, text = tuple(known), str(name)[:80]
    hint = f"no {what} {text!r}; nearest: {nearest(text, names)}"
    return f"{hint}; known: {', '.join(names)}" if len(names) <= FEW else hint
