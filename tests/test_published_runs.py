"""Accuracy as a claim: no source of published runs may get worse, and no run may drop out in silence."""

import json

import pytest

from sim.validate import Validation, validate_table
from tests.record_published_errors import RECORDED, errors

RECORD = json.loads(RECORDED.read_text("utf-8"))
TOLERANCE = 1.1


@pytest.fixture(scope="module")
def published() -> Validation:
    return validate_table()


def test_no_published_run_drops_out(published: Validation):
    assert [row["id"] for row in published.rows if row["skipped"]] == []
    assert len(published.rows) == 187


@pytest.mark.parametrize("source", RECORD)
def test_no_source_gets_worse(published: Validation, source: str):
    now, then = errors(published)[source], RECORD[source]
    assert now["n"] >= then["n"]
    for name in ("mean_abs_error", "memory_mean_abs_error"):
        assert now.get(name, 0.0) <= TOLERANCE * then.get(name, 0.0), (
            f"{source}: {name} was {then[name]:.1%}, is {now[name]:.1%}; what moved it?"
        )


def test_the_runs_of_the_papers_with_the_clearest_set_up_are_close(published: Validation):
    found = errors(published)
    assert found["Korthikanti et al. 2022, Table 5"]["mean_abs_error"] < 0.06
    assert found["Narayanan et al. 2021 (SC21), Table 1"]["mean_abs_error"] < 0.08
    assert found["Korthikanti et al. 2022, Figure 1"]["memory_mean_abs_error"] < 0.08


def test_selective_recomputation_buys_time(published: Validation):
    """Full recomputation against selective, in each pair of Korthikanti et al."""
    step_s = {row["id"]: row["predicted_s"] for row in published.rows}
    pairs = [(f"KOR-000{number}", f"KOR-000{number + 1}") for number in (1, 3, 5, 7)]
    assert all(0.7 < step_s[selective] / step_s[full] < 0.8 for full, selective in pairs)
