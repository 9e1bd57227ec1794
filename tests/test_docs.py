"""The documentation is true where a program can tell: links, job files, commands and the files it shows."""

import importlib.util
import re
import tomllib
from itertools import product
from pathlib import Path

import pytest
import typer

from docs.refresh_outputs import BLOCK, begun, kept
from sim.cli import app
from sim.jobfile import job, parts, read_job
from workloads.schedules import Slot

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = DOCS / "tasks" / "files"
PAGES = sorted([*DOCS.glob("**/*.md"), *ROOT.glob("README.md")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path):
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@every_page
def test_every_job_file_on_a_page_reads_as_a_job(page: Path):
    for text in re.findall(r"^```toml\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        document = tomllib.loads(text)
        if text.startswith("[model]") and "grid" not in document:
            assert job(parts(document, page.name, FILES), page.name).gpus > 0


@every_page
def test_every_table_has_a_header_and_as_many_cells_in_each_row(page: Path):
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row)) for row in table.splitlines()]
        assert len(rows) > 2 and {cell.strip(" -:") for cell in rows[1]} == {""}, f"no header above {table[:80]}"
        assert {len(row) for row in rows} == {len(rows[0])}, f"cells of {table[:80]}"


@every_page
def test_every_subcommand_on_a_page_exists(page: Path):
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = re.findall(r"(?:`|^ {4}|output of: )steptime ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    assert set(named) <= known


@every_page
def test_every_option_on_a_command_line_exists(page: Path):
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"^ {4}steptime ([a-z-]+) (.*)$", page.read_text("utf-8"), re.MULTILINE):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--[a-z-]+", f" {rest}")) <= known


@every_page
def test_every_output_has_been_filled_in(page: Path):
    text = page.read_text("utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("<!-- output of:")
    assert all(block[0].splitlines()[2:-1] not in ([], [""]) for block in blocks)


@every_page
def test_what_a_page_shows_of_a_file_is_what_stands_there(page: Path):
    for block in BLOCK.finditer(page.read_text("utf-8")):
        program, _, path = block["command"].partition(" ")
        if program == "cat":
            assert (ROOT / path).read_text("utf-8").rstrip() in block[0], f"make docs refreshes {path}"


def test_every_page_is_on_the_map():
    text = (DOCS / "index.md").read_text("utf-8")
    pages = [page for page in DOCS.glob("**/*.md") if page.name != "index.md"]
    assert [page.name for page in pages if str(page.relative_to(DOCS)) not in text] == []


def test_left_out_lines_are_marked():
    lines = list("abcdefg")
    assert kept(lines, "2-3, 5") == ["...", "b", "c", "...", "e", "..."]
    assert kept(lines, "1-7") == lines


def test_parts_are_found_by_their_first_words_wherever_they_stand():
    lines = ["memory", "1", "", "sweeps of layouts", "2", "", "notes", "", "rows", "3"]
    assert begun(lines, "sweeps, rows") == ["...", "sweeps of layouts", "2", "...", "rows", "3"]
    assert begun(lines, "memory, sweeps") == ["memory", "1", "", "sweeps of layouts", "2", "..."]
    with pytest.raises(ValueError, match="power: begin 0 parts"):
        begun(lines, "power")


def test_the_job_of_ones_own_reads_its_own_cluster_model_and_stack():
    mine = read_job(FILES / "my-job.toml")
    assert (mine.gpus, mine.cluster.device.name, mine.stack.name) == (32, "my-gpu", "my-stack")
    assert mine.model.parameters == 2_809_285_632  # as add-a-model.md works out by hand


def test_the_schedule_of_the_page_runs_every_pass_once():
    spec = importlib.util.spec_from_file_location("breadth_first", FILES / "breadth_first.py")
    assert spec is not None
    assert spec.loader is not None
    plan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plan)
    slots = list(plan.order(0, 4, 2, 8))
    assert sorted(slots) == sorted(Slot(*each) for each in product("FB", range(8), range(2)))
    assert plan.faults(4, 2, 8) == []
    assert plan.faults(4, 2, 3) != []
