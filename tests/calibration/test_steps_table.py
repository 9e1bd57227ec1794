"""The table of measured steps grows by a row at a time."""

from pathlib import Path

from calibration.steps.row import COLUMNS
from calibration.steps.table import append, read, write


def row(cite: str) -> dict[str, str]:
    return dict.fromkeys(COLUMNS, "") | {"cite": cite}


def test_rows_are_appended_under_one_header(tmp_path: Path):
    path = tmp_path / "step_times.csv"
    for cite in ("a", "b"):
        append(path, row(cite))
    assert read(path) == [row("a"), row("b")]
    assert path.read_text().count("step_time_s") == 1


def test_writing_replaces_what_was_there(tmp_path: Path):
    path = tmp_path / "step_times.csv"
    append(path, row("a"))
    write(path, [row("b")])
    assert read(path) == [row("b")]
