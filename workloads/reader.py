"""Typed values out of a mapping that somebody else wrote, with all its faults at once."""

from collections.abc import Mapping
from typing import TypeVar

from workloads.model import shown, size_fault

Word = TypeVar("Word", bound=str)


class Reader:
    """Reads typed values out of a mapping and collects what is wrong with them.

    A faulty value is read as a harmless one, so that reading goes on to the next fault; `raise_faults`
    has to come before the values are used.
    """

    def __init__(self, values: Mapping[str, object], faults: list[str], prefix: str = "") -> None:
        self.values = values
        self.faults = faults
        self.prefix = prefix

    def found(self, *keys: str) -> tuple[str, object]:
        """The first key that has a value, and the value; None stands for absent, as in JSON."""
        given = ((key, self.values[key]) for key in keys if self.values.get(key) is not None)
        return next(given, (keys[0], None))

    def size(self, *keys: str, default: int | None = None) -> int:
        """A positive whole number."""
        key, value = self.found(*keys)
        if value is None and default is not None:
            return default
        if value is None:
            self.faults.append(f"no '{self.prefix}{keys[0]}'" + _also(keys[1:]))
            return 1
        fault = size_fault(f"'{self.prefix}{key}'", value)
        self.faults += [fault] if fault else []
        return value if isinstance(value, int) and not fault else 1

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.faults.append(f"'{self.prefix}{key}' is {shown(value)}; true or false is right")
        return default

    def word(self, *keys: str, words: Mapping[str, Word], default: Word) -> Word:
        """One of the keys of `words`, as what it stands for."""
        key, value = self.found(*keys)
        if value is None:
            return default
        if isinstance(value, str) and value in words:
            return words[value]
        self.faults.append(f"'{self.prefix}{key}' is {shown(value)}; one of {', '.join(words)} is right")
        return default

    def text(self, key: str, default: str) -> str:
        """Any text."""
        value = self.values.get(key, default)
        if isinstance(value, str) and value:
            return value
        self.faults.append(f"'{self.prefix}{key}' is {shown(value)}; a text is right")
        return default

    def table(self, key: str) -> "Reader":
        """A mapping inside this one; an absent one is empty."""
        value = self.values.get(key)
        if value is None or isinstance(value, Mapping):
            return Reader(value or {}, self.faults, f"{self.prefix}{key}.")
        self.faults.append(f"'{self.prefix}{key}' is {shown(value)}; an object is right")
        return Reader({}, self.faults)

    def head_dim(self, *keys: str, hidden: int, heads: int, default: int | None = None) -> int:
        """The given size of a head, or hidden / heads where that comes out even."""
        if self.found(*keys)[1] is not None or default is not None:
            return self.size(*keys, default=default)
        # A faulty size was read as 1: its own fault is enough.
        if hidden > 1 and hidden % heads:
            self.faults.append(f"{heads} heads do not divide a hidden size of {hidden}, and no '{keys[0]}' is given")
        return max(hidden // heads, 1)

    def refuse_unless(self, key: str, right: object, absent: object) -> None:
        """A fault where a key has another value than the only one that a Model can express."""
        value = self.values.get(key, absent)
        if value is not None and value != right:
            self.faults.append(f"'{self.prefix}{key}' {shown(value)} is not covered; only {shown(right)} is")


def _also(keys: tuple[str, ...]) -> str:
    return f" (nor {', '.join(keys)})" if keys else ""
