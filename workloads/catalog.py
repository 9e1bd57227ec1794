"""The models that can be asked for by name, and models from files of one's own."""

import json
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from workloads.errors import WorkloadError, nearest, unknown
from workloads.hf import model_from_config, model_from_table
from workloads.model import Model

MODELS = Path(__file__).parent / "models"

# What reads the text of a file, and what makes a model of the result.
Loader = tuple[Callable[[str], object], Callable[[Mapping[str, object], str], Model]]
LOADERS: Mapping[str, Loader] = {
    ".json": (json.loads, model_from_config),
    ".toml": (tomllib.loads, model_from_table),
}


@cache
def models() -> tuple[str, ...]:
    """The names in the catalogue, in alphabetical order."""
    return tuple(sorted(path.stem for path in _files()))


def model(name_or_path: str | Path) -> Model:
    """The model of a name in the catalogue, or of a file.

    A path is what ends in .json (Hugging Face) or .toml (the Model's own fields), has a separator, or is
    there; a folder stands for the config.json in it.

    Raises:
        WorkloadError: no such name or file, or a file that does not describe a model.
    """
    text = str(name_or_path)
    if text in models():
        return _catalogued(text)
    if _is_path(text):
        return read_model(Path(text))
    raise WorkloadError("model", [unknown("model", text, models())])


def read_model(path: Path) -> Model:
    """The model of one file, read anew each time; named after the file, or the folder of a config.json."""
    file = path / "config.json" if _holds(path, Path.is_dir) else path
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    try:
        return _made(file, name)
    except WorkloadError as error:
        raise WorkloadError(str(file), error.faults) from None


@cache
def _catalogued(name: str) -> Model:
    return read_model(next(path for path in _files() if path.stem == name))


def _files() -> list[Path]:
    return [path for path in MODELS.iterdir() if path.suffix in LOADERS]


def _is_path(text: str) -> bool:
    if Path(text).suffix.lower() in LOADERS or "/" in text or "\\" in text:
        return True
    return text != "" and _holds(Path(text), Path.exists)


def _holds(path: Path, claim: Callable[[Path], bool]) -> bool:
    """Whether a claim about a path is true; not so for a name longer than any file's."""
    try:
        return claim(path)
    except OSError:
        return False


def _made(file: Path, name: str) -> Model:
    """Read, parsed and checked; the errors name no file yet."""
    text = _text(file)
    if file.suffix.lower() not in LOADERS:
        raise WorkloadError(name, [f"a model file ends in {' or '.join(LOADERS)}"])
    parse, make = LOADERS[file.suffix.lower()]
    return make(_parsed(text, parse), name or "model")


def _text(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        asked = file.parent.name if file.name == "config.json" else file.name
        hint = f"nearest in the catalogue: {nearest(asked, models())}"
        raise WorkloadError(str(file), [f"no such file; {hint}"]) from None
    except UnicodeDecodeError as error:
        raise WorkloadError(str(file), [f"not UTF-8 text (byte {error.start})"]) from None
    except (OSError, ValueError) as error:
        raise WorkloadError(str(file), [f"cannot be read: {_reason(error)}"]) from None
    if not text.strip():
        raise WorkloadError(str(file), ["empty; a model description is right"])
    return text


def _parsed(text: str, parse: Callable[[str], object]) -> Mapping[str, object]:
    """The table at the top; the parsers' own messages give line and column."""
    form = "JSON" if parse is json.loads else "TOML"
    try:
        document = parse(text)
    except (ValueError, RecursionError) as error:
        raise WorkloadError("text", [f"not {form}: {str(error) or 'nested too deeply'}"]) from None
    if not isinstance(document, Mapping):
        raise WorkloadError("text", [f"holds a {type(document).__name__}; an object with keys is right"])
    return document


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
