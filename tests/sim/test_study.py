"""Studies: every combination, in an order that does not depend on the number of processes."""

from pathlib import Path

import pytest

from hardware.descriptor import DescriptorError
from sim.study import FIGURES, read_study, run_study

STUDY = """
[model]
name = "gpt-2-large"
[cluster]
name = "hgx-h200"
nodes = 2
[training]
seq_len = 1024
global_batch = 64
[stack]
name = "megatron-core"
[grid]
"layout.tp" = [1, 2, 5]
[grid.training]
micro_batch = [1, 2, 4]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, STUDY)


def test_every_combination_is_a_row(path: Path):
    rows = run_study(read_study(path), 1)
    points = {(row["layout.tp"], row["training.micro_batch"]) for row in rows}
    assert points == {(tp, micro) for tp in (1, 2, 5) for micro in (1, 2, 4)}
    assert all(list(row)[2:] == list(FIGURES) for row in rows)


def test_the_fastest_comes_first_and_skipped_points_say_why(path: Path):
    rows = run_study(read_study(path), 1)
    speeds = [row["tokens_per_s_per_gpu"] for row in rows if row["fits"]]
    assert speeds == sorted(speeds, reverse=True)
    assert [bool(row["skipped"]) for row in rows] == [False] * 6 + [True] * 3
    assert "does not divide the 16 GPUs" in rows[-1]["skipped"]


def test_what_does_not_fit_comes_behind_what_fits(tmp_path: Path):
    text = (
        STUDY.replace("gpt-2-large", "gpt-3-13b")
        .replace("nodes = 2", "nodes = 16")
        .replace("= 64", "= 512")
        .replace("[1, 2, 5]", "[1, 8]")
    )
    fits = [row["fits"] for row in run_study(read_study(written(tmp_path, text)), 1)]
    assert set(fits) == {True, False}
    assert fits == sorted(fits, reverse=True)


def test_the_number_of_processes_changes_nothing(path: Path):
    study = read_study(path)
    assert run_study(study, 1) == run_study(study, 2)


def test_progress_is_told_after_each_point(path: Path):
    told: list[int] = []
    run_study(read_study(path), 1, lambda: told.append(1))
    assert len(told) == 9


@pytest.mark.parametrize(
    ("grid", "fault"),
    [
        ("", "grid: missing"),
        ("[grid]", "grid: is empty"),
        ("[grid.layout]\ntpp = [1]", "no key 'layout.tpp'; nearest: layout"),
        ("[grid.layout]\ntp = 4", "grid.layout.tp: should be a list"),
        ("[grid.layout]\ntp = []", "grid.layout.tp: should be a list"),
        ('[grid.layout]\ntp = [1, "2", 0]', "layout.tp = '2'(.|\n)*layout.tp = 0"),
        ('[grid.cluster]\nname = ["hgx-h200", "hgx-h900"]', "no cluster 'hgx-h900'; nearest: hgx-h"),
        ("[grid.layout]\ntp = 1\n[grid.training]\nseq = []", "tp: should be(.|\n)*seq: should be"),
    ],
)
def test_a_grid_that_is_not_right_is_refused(tmp_path: Path, grid: str, fault: str):
    text = STUDY.partition("[grid]")[0] + grid
    with pytest.raises(DescriptorError, match=fault):
        read_study(written(tmp_path, text))
