# ruff: noqa: PLC0415 -- a command imports what it needs itself
"""`steptime validate`: predictions against measured steps."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli_input import AsJson, ProfilePath, bad_input, print_json

app = typer.Typer()


@app.command()
def validate(
    path: Annotated[Path | None, typer.Argument(metavar="[TABLE]")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Show every row, of a long table as well.")] = False,
    worst: Annotated[int, typer.Option(min=0, help="Account for so many rows with the largest errors.")] = 0,
    profile: ProfilePath = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with a picture and all tables.")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate measured training steps, and report the errors; by default of the published runs that ship."""
    from sim.account import account
    from sim.report.terminal import show
    from sim.report.validation import report
    from sim.validate import validate_table

    with bad_input():
        found = validate_table(path, profile)
        if html:
            from sim.report.files import write_text
            from sim.report.validation_page import page

            write_text(html, page(found, f"{path.name if path else 'Published runs'}: predicted against measured"))
    accounted = account(found.rows, worst) if worst else None
    if as_json:
        document: dict[str, Any] = {"rows": found.rows, "summary": found.summary}
        document |= {f"by_{name}": groups for name, groups in found.groups.items()}
        document |= {"sweeps": found.sweeps, "sweep_summary": found.sweep_summary, "repeats": found.repeats}
        print_json(document | ({"account": accounted} if accounted else {}))
    else:
        show(*report(found, rows=rows, account=accounted))
