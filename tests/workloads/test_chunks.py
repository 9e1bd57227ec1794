"""How many layers each chunk of a pipeline has: dealt out evenly, or as a job says."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.jobfile import read_job, resolved
from sim.step import simulate
from tests.conftest import GPT, TRAINING
from workloads import chunks
from workloads.errors import WorkloadError
from workloads.layout import Layout, check, chunk_layers

JOB = Path(__file__).parents[2] / "examples" / "korthikanti-175b.toml"  # 96 layers on 64 GPUs


def test_a_run_of_equal_chunks_is_spelt_once():
    assert chunks.read("1 2x62 1") == (1, *(2,) * 62, 1)
    assert chunks.spelt((1, *(2,) * 62, 1)) == "1 2x62 1"
    assert chunks.spelt((7, 7, 6)) == "7x2 6"


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_what_is_spelt_is_read_again(shares: list[int]):
    assert chunks.read(chunks.spelt(shares)) == tuple(shares)


@pytest.mark.parametrize("text", [" ", "a", "2x", "x3", "2x0", "-1 4", "1,2", "2.5", "3x3x3"])
def test_other_words_are_refused(text: str):
    assert list(chunks.faults(6, 2, text))


@given(st.integers(1, 300), st.integers(1, 64))
def test_an_even_split_loses_no_layer_and_differs_by_two_at_most(layers: int, count: int):
    if any(chunks.faults(layers, count, "")):
        assert layers + 2 < count
        return
    shares = chunks.even(layers, count)
    assert (sum(shares), len(shares)) == (layers, count)
    assert min(shares) >= 0
    assert max(shares) - min(shares) <= 2
    assert all(shares[1:-1])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("3 3 3", "is of 3 chunks, and pp x vp = 4"),
        ("3 3 3 4", "adds up to 13, and layers = 12"),
        ("4 0 4 4", "only the first and the last chunk may do without layers"),
        ("six", "layers of each chunk are needed, as in '5 6x14 5'"),
    ],
)
def test_a_split_that_does_not_go_is_explained(text: str, fault: str):
    layout = Layout(pp=2, vp=2, chunk_layers=text)
    with pytest.raises(WorkloadError, match=fault):
        check(replace(GPT, layers=12), layout, replace(TRAINING, global_batch=4, micro_batch=1))


def test_a_job_says_how_its_layers_are_dealt_out():
    layout = Layout(pp=2, vp=2, chunk_layers="4 3x2 2")
    assert chunk_layers(replace(GPT, layers=12), layout) == (4, 3, 3, 2)


def test_the_document_of_a_job_spells_the_split_out():
    assert resolved(read_job(JOB))["layout"]["chunk_layers"] == "4x24"


def test_the_longest_stage_sets_the_pace():
    """1F1B of 64 micro-batches on 8 stages, of 12 layers each or 16 on one: 63 x 16 + 96 layers to 63 x 12 + 96."""
    jobs = (read_job(JOB, ["layout.vp=1", f"layout.chunk_layers={text}"]) for text in ("12x8", "12x3 16 12x3 8"))
    even, uneven = map(simulate, jobs)
    assert 1.2 < uneven.step_s / even.step_s < (63 * 16 + 96) / (63 * 12 + 96)
