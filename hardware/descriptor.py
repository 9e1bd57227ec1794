"""Files to frozen dataclasses: every fault of a file at once, in words for the person who wrote it.

The only module that knows the validation library. Types are strict: `true` and `"8"` are not numbers, 2.0 is
not a whole number; 2 is fine where a number is asked for. A dataclass may forbid unknown keys and NaN for
itself (`__pydantic_config__ = hardware.types.STRICT`) and may check what spans several fields in
`__post_init__`, by a ValueError with one line for each fault.
"""

import tomllib
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, SchemaValidator

T = TypeVar("T")

LIKE = "like"  # key of a file: the other one that it differs from in what it says

_UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}
_NO_TABLE = {"dataclass_type", "dict_type", "mapping_type"}
_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}
_PLAIN_TYPES = {"int", "float", "str", "bool", "date"}
_BOUND_WORDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_TYPE_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "date": "a date"}


class DescriptorError(ValueError):
    """What is wrong with a file or with a name that was looked up: all faults, one line each.

    Args:
        path: the file; empty where a name was looked up and no file is to blame.
        faults: each says which key, what is wrong with it, and what would be right.
    """

    def __init__(self, path: str | Path, faults: Iterable[str]) -> None:
        self.path = str(path)
        self.faults = tuple(faults)
        super().__init__(self.path, self.faults)

    def __str__(self) -> str:
        prefix = f"{self.path}: " if self.path else ""
        return "\n".join(prefix + fault for fault in self.faults)


def read(path: str | Path, kind: type[T], **resolved: Any) -> T:
    """The `kind` that the TOML file describes; `resolved` as in `parse`. Raises DescriptorError."""
    return parse(read_toml(path), kind, str(path), **resolved)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises DescriptorError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(Path(path).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DescriptorError(path, [_unreadable(error)]) from error


def read_like(
    path: Path, what: str, folder: Path, own: Collection[str], above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The tables of a TOML file, over those of the one that it says it is `like`. Raises DescriptorError.

    Args:
        what: they describe, in messages.
        folder: of those that have names; others are paths beside the file.
        own: keys that none has from another.
        above: files that it was reached from.
    """
    said = read_toml(path)
    if LIKE not in said:
        return said
    like, names = said.pop(LIKE), tuple(sorted(each.stem for each in folder.glob("*.toml")))
    if not isinstance(like, str) or not (like in names or like.endswith(".toml")):
        raise DescriptorError(path, [f"{LIKE}: {unknown(what, str(like), names)}"])
    other = folder / f"{like}.toml" if like in names else path.parent / like
    if other.resolve() in (path.resolve(), *(each.resolve() for each in above)):
        raise DescriptorError(path, [f"{LIKE}: {like!r} is like this {what} itself; one of them has to say all"])
    theirs = read_like(other, what, folder, own, (*above, path))
    tables = {key: value for key, value in theirs.items() if key not in own}
    for key, value in said.items():
        # An empty table takes nothing over.
        joined = isinstance(value, dict) and value and isinstance(tables.get(key), dict)
        tables[key] = {**tables[key], **value} if joined else value
    return tables


def parse(data: Mapping[str, Any], kind: type[T], where: str, **resolved: Any) -> T:
    """The `kind` that `data` describes; `where` names its origin in messages. Raises DescriptorError.

    `resolved` fills keys with finished objects: a function is called with what `data` says (a device's name
    becomes the device; its ValueError counts as a fault of that key), anything else takes its place.
    """
    if not isinstance(data, Mapping):
        raise DescriptorError(where, [f"is {_brief(data)}: should be a table of keys and values"])
    values = dict(data)
    faults = _resolve(values, resolved)
    try:
        result: T = _validator(cast(Hashable, kind)).validate_python(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if not detail["loc"] or detail["loc"][0] not in faults:
                faults[_key(detail), detail["type"]] = _fault(kind, detail)
    if faults:
        raise DescriptorError(where, (line for fault in faults.values() for line in fault.splitlines()))
    return result


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not there: `no device 'h900'; nearest: h100-sxm; known: ...`."""
    names = sorted(known)
    likeness = {other: _likeness(name.lower(), other.lower()) for other in names}
    close = sorted((other for other in names if likeness[other] >= 0.6), key=lambda other: -likeness[other])
    nearest = f"; nearest: {', '.join(close[:3])}" if close else ""
    return f"no {what} '{name}'{nearest}; known: {', '.join(names) or 'none'}"


def _likeness(name: str, other: str) -> float:
    """0..1; the beginning of a long name counts as much as the whole, as in h100 for h100-sxm."""
    return max(SequenceMatcher(None, name, part).ratio() for part in (other, other[: len(name)]))


def _resolve(values: dict[str, Any], resolved: Mapping[str, Any]) -> dict[Any, str]:
    """Put the resolved objects into `values`; the faults of those that cannot be had, by key."""
    faults: dict[Any, str] = {}
    for key, value in resolved.items():
        if not callable(value):
            values[key] = value
        elif key in values:
            try:
                values[key] = value(values[key])
            except ValueError as error:
                faults[key] = "\n".join(f"{key}: {line}" for line in str(error).splitlines())
    return faults


@cache
def _validator(kind: Any) -> SchemaValidator:
    # Only the plain types: the library's own strict mode takes no table for a dataclass, no list for a tuple.
    return SchemaValidator(_strict(TypeAdapter(kind).core_schema))


def _strict(schema: Any) -> Any:
    """The schema, with its plain types strict."""
    if isinstance(schema, Mapping):
        inner = {key: _strict(value) for key, value in schema.items()}
        return {**inner, "strict": True} if schema.get("type") in _PLAIN_TYPES else inner
    return [_strict(item) for item in schema] if isinstance(schema, list) else schema


def _fault(kind: type[Any], detail: ErrorDetails) -> str:
    """One complaint of the validation library in our words."""
    key, message = _key(detail), detail["msg"]
    if detail["type"] in _UNKNOWN_KEY:
        return f"{key}: {unknown('key', str(detail['loc'][-1]), _keys_at(kind, detail['loc'][:-1]))}"
    if detail["type"] in _MISSING:
        return f"{key}: missing; should be {_wanted(kind, detail['loc'])}"
    if detail["type"] == "value_error":
        said = message.removeprefix("Value error, ")
        return "\n".join(f"{key}: {line}" if key else line for line in said.splitlines())
    if detail["type"] in _NO_TABLE:
        return f"{key} = {_brief(detail['input'])}: {_table_wanted(kind, detail)}"
    return f"{key} = {_brief(detail['input'])}: {message.removeprefix('Input ')}"


def _table_wanted(kind: type[Any], detail: ErrorDetails) -> str:
    """What to write in place of a single value: the table that it belongs to, by name where it has one."""
    named = isinstance(detail["input"], str) and "name" in _keys_at(kind, detail["loc"])
    return f"should be a table: [{_key(detail)}]" + (f", with name = {_brief(detail['input'])}" if named else "")


def _key(detail: ErrorDetails) -> str:
    return ".".join(str(part) for part in detail["loc"])


def _dataclass_at(kind: Any, loc: Iterable[int | str]) -> type[Any] | None:
    """The dataclass that the location leads to, where it leads to one."""
    for part in loc:
        inner = kind if is_dataclass(kind) else _dataclass_in(kind)
        hints = get_type_hints(inner) if inner else {}
        kind = hints.get(str(part), kind)
    return kind if is_dataclass(kind) and isinstance(kind, type) else _dataclass_in(kind)


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The first dataclass named in a hint such as `tuple[Stage, ...] | None`."""
    found = (arg if is_dataclass(arg) else _dataclass_in(arg) for arg in get_args(hint))
    return next((arg for arg in found if isinstance(arg, type)), None)


def _keys_at(kind: type[Any], loc: tuple[int | str, ...]) -> list[str]:
    owner = _dataclass_at(kind, loc)
    return [field.name for field in fields(owner) if field.init] if owner else []


def _wanted(kind: type[Any], loc: tuple[int | str, ...]) -> str:
    """The type of the key at `loc` in words: `a number greater than 0`."""
    owner = _dataclass_at(kind, loc[:-1])
    hint: Any = get_type_hints(owner, include_extras=True).get(str(loc[-1])) if owner else None
    plain = get_origin(hint) or hint
    if isinstance(plain, type) and issubclass(plain, Mapping | list | tuple):
        return "a table" if issubclass(plain, Mapping) else "a list"
    return "a table" if is_dataclass(plain) else _in_words(TypeAdapter(hint).core_schema)


def _in_words(schema: Any) -> str:
    if schema["type"] == "literal":
        return "one of " + ", ".join(repr(value) for value in schema["expected"])
    limits = [f"{text} {schema[bound]:g}" for bound, text in _BOUND_WORDS.items() if bound in schema]
    return " ".join([_TYPE_WORDS.get(schema["type"], "given"), " and ".join(limits)]).strip()


def _brief(value: Any, length: int = 40) -> str:
    text = "a very long number" if isinstance(value, int) and value.bit_length() > 256 else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def _unreadable(error: Exception) -> str:
    """Why a file could not be read."""
    match error:
        case FileNotFoundError():
            return "no such file"
        case IsADirectoryError():
            return "is a folder; should be a TOML file"
        case UnicodeDecodeError():
            return f"is not UTF-8 text (byte {error.start})"
        case OSError():
            return f"cannot be read: {error.strerror}"
        case RecursionError():
            return "is not TOML: nested too deeply"
    return f"is not TOML: {error}"
