"""`steptime validate`: every row stays reachable, summaries come first, pages need no other file."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli import app
from sim.report.validation import SHORT_TABLE
from tests.sim.test_sweeps import LAYOUTS
from tests.sim.test_validate import row, table

SOURCE = "<a & b>"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A sweep of four, another size and device, and a row that is skipped."""
    sweep = [row(id=f"S-{place}", source=SOURCE, cp="1", vp="1") | layout for place, layout in enumerate(LAYOUTS)]
    other = row(
        id="big", device="h100-sxm", stack="megatron-core", layers="96", hidden="12288", ffn="49152", heads="96"
    )
    return table(tmp_path / "runs.csv", *sweep, other, row(id="moe", family="cnn"))


def said(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["validate", *map(str, arguments)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.stdout


def document(*arguments: object):
    return json.loads(said(*arguments, "--json"))


def test_the_document_has_every_row_and_every_summary(runs: Path):
    found = document(runs)
    assert [one["id"] for one in found["rows"]] == ["S-0", "S-1", "S-2", "S-3", "big", "moe"]
    for one in found["rows"]:
        assert {"id", "source", "measured_s", "predicted_s", "error", "skipped"} <= set(one)
        assert (one["predicted_s"] is None) == bool(one["skipped"])
    assert [one["source"] for one in found["summary"]][-2:] == ["all rows", "each source with equal weight"]
    assert [one["device"] for one in found["by_device"]] == ["a100-sxm-80g", "h100-sxm"]
    assert [one["stack"] for one in found["by_stack"]] == ["megatron-core", "megatron-lm-2022"]
    assert [one["size"] for one in found["by_size"]] == ["below 3B", "80B and more", "not known"]
    assert [one["layouts"] for one in found["sweeps"]] == [4]
    assert found["sweep_summary"][0]["sweeps"] == 1
    assert "account" not in found


def test_each_group_counts_every_row_once(runs: Path):
    found = document(runs)
    for name in ("by_device", "by_stack", "by_size"):
        assert sum(one["n"] + one["skipped"] for one in found[name]) == len(found["rows"])


def test_the_parts_of_a_row_add_up_to_its_step(runs: Path):
    for one in document(runs)["rows"]:
        if not one["skipped"]:
            assert sum(one["parts"].values()) == pytest.approx(one["predicted_s"])


def test_a_short_table_is_shown_below_its_summaries(runs: Path):
    text = said(runs)
    places = [text.index(word) for word in ("all rows", "a100-sxm-80g", "megatron-core", "80B and", "sweeps", "S-0")]
    assert places == sorted(places)
    assert "family 'cnn' is not simulated" in text


def test_a_long_table_is_shown_when_asked_and_tells_what_it_skipped(tmp_path: Path):
    rows = [row(id=f"A-{place}") for place in range(SHORT_TABLE)]
    path = table(tmp_path / "runs.csv", *rows, row(id="moe", family="cnn"))
    text = said(path)
    assert "A-7" not in text
    assert "skipped moe: family 'cnn' is not simulated" in " ".join(text.split())
    assert "31 rows; --rows shows them" in text
    assert all(f"A-{place}" in said(path, "--rows") for place in (0, 7, 29))


def test_the_worst_rows_are_accounted_for(runs: Path):
    found = document(runs, "--worst", 2)["account"]
    errors = sorted((abs(one["error"]) for one in document(runs)["rows"] if one["error"] is not None), reverse=True)
    assert [abs(one["error"]) for one in found["worst"]] == errors[:2]
    text = said(runs, "--worst", 5)
    assert "nothing is fitted from it" in " ".join(text.split())
    assert "launch" in text


def test_runs_alike_in_every_column_are_told(tmp_path: Path):
    path = table(tmp_path / "runs.csv", row(id="one"), row(id="two", step_time_s="0.6"))
    assert document(path)["repeats"][0]["most_apart"] == pytest.approx(0.2)
    assert "Runs alike in every column" in said(path, "--worst", 1)


def test_nothing_to_account_for_is_no_mistake(tmp_path: Path):
    path = table(tmp_path / "runs.csv", row(family="cnn"))
    assert document(path, "--worst", 5)["account"] == {"worst": [], "sources": []}
    assert "moe" in said(path, "--worst", 5)


def test_a_page_has_each_source_and_row_and_needs_no_other_file(runs: Path, tmp_path: Path):
    said(runs, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert all(f"S-{place}" in text for place in range(4))
    assert "&lt;a &amp; b&gt;" in text
    assert SOURCE not in text
    assert "<script src=" not in text


def test_a_page_of_skipped_rows_can_be_written(tmp_path: Path):
    said(table(tmp_path / "runs.csv", row(family="cnn")), "--html", tmp_path / "page.html")
    assert "is not simulated" in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_is_said(runs: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["validate", str(runs), "--html", str(tmp_path / "no" / "page.html")])
    assert done.exit_code == 2
    assert "cannot be written" in done.output
