# ruff: noqa: PLC0415 -- heavy imports stay where they are used
"""What the commands share: their arguments, how bad input is answered, how a document is printed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

BAD_INPUT = 2
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the job, as in layout.tp=4. Can be repeated."),
]
JobPath = Annotated[Path, typer.Argument(metavar="JOB", help="A job file (TOML).", show_default=False)]
TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="A CSV table.", show_default=False)]
Sustained = Annotated[bool, typer.Option("--sustained/--burst", help="Clocks of a long run, or of a short benchmark.")]
ProfilePath = Annotated[
    Path | None,
    typer.Option("--profile", help="Of the machine, a file or its folder; by default that of its device."),
]
DeviceName = Annotated[str, typer.Option("--device", help="A device of the catalogue, or a TOML file.")]
Size = Annotated[int, typer.Argument(min=1, max=10**9, show_default=False)]


@contextmanager
def bad_input() -> Iterator[None]:
    """Faults of the input become one message and exit code 2; anything else is a bug and shows itself."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not any(hasattr(error, name) for name in ("faults", "fault")):
            raise
        typer.echo(_message(error), err=True)
        raise typer.Exit(BAD_INPUT) from None


def _message(error: Exception) -> str:
    """One line for one fault; else their number, and a line each."""
    faults = getattr(error, "faults", ())
    where = getattr(error, "path", "") or getattr(error, "where", "")
    if len(faults) <= 1:
        return str(error)
    return "\n  ".join([f"{where}: {len(faults)} faults" if where else f"{len(faults)} faults", *faults])


def print_json(document: object) -> None:
    """One document on standard output."""
    from sim.report.document import json_text

    typer.echo(json_text(document), nl=False)
