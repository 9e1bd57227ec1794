"""What to change: the slowest stage of a pipeline is named where layers can be moved from it."""

from pathlib import Path

import pytest

from sim.jobfile import read_job
from sim.report.hints import hints
from sim.step import simulate
from tests.conftest import GPT, SIMPLE, make_job

EXAMPLE = Path(__file__).parents[2] / "examples" / "korthikanti-175b.toml"


def advice(**layout: object) -> str:
    return " ".join(hints(simulate(make_job(GPT, pp=4, training={"global_batch": 8}, **layout), SIMPLE)))


@pytest.mark.parametrize(("split", "slowest"), [("1 1 5 1", 2), ("4 2 1 1", 0)])
def test_a_stage_that_the_others_wait_for_is_named(split: str, slowest: int):
    found = advice(chunk_layers=split)
    assert f"Stage {slowest} is busy" in found
    assert "layout.chunk_layers can take layers off it" in found


def test_even_stages_are_not_blamed():
    """GPT-3 175B: 12 layers on each of 8 stages, and the head, which is less than half of one."""
    found = " ".join(hints(simulate(read_job(EXAMPLE, ["layout.vp=1"]))))
    assert "Pipeline bubble" in found
    assert "is busy" not in found


def test_a_stage_is_busy_as_long_as_its_layers_take():
    """The third stage has five layers of eight."""
    busy = simulate(make_job(GPT, pp=4, chunk_layers="1 1 5 1"), SIMPLE).busy_s
    assert len(busy) == 4
    assert busy[2] == max(busy)
    assert busy[2] / busy[1] == pytest.approx(5.0, rel=0.1)


def test_one_layer_cannot_be_moved():
    assert "is busy" not in advice(vp=2, chunk_layers="1x8")


def test_the_layers_of_a_stage_are_those_that_its_routes_have():
    """Folded, parts 3 and 6 of 8 lie on the third stage, and the last part with the head on the first."""
    assert "Stage 2 is busy" in advice(vp=2, schedule="zero_bubble_v", chunk_layers="0 1 2 1 1 2 1 0")


@pytest.mark.parametrize(("schedule", "said"), [("auto", True), ("one_f_one_b", False), ("zero_bubble", False)])
def test_more_chunks_are_proposed_where_the_schedule_is_left_open(schedule: str, said: bool):
    assert ("layout.vp = 2" in advice(schedule=schedule)) == said
