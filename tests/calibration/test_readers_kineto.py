"""Traces of PyTorch: shapes that can be known, and the step that they show."""

from pathlib import Path

import pytest

from calibration.readers import ReaderError, as_in_a_trace, read_file, step_breakdown

FIXTURES = Path(__file__).parent / "fixtures"
CUDA, ROCM = FIXTURES / "kineto-cuda.json", FIXTURES / "kineto-rocm.json"


def changed(tmp_path: Path, path: Path, old: str, new: str) -> Path:
    content = path.read_text("utf-8")
    assert old in content
    (tmp_path / path.name).write_text(content.replace(old, new), "utf-8")
    return tmp_path / path.name


def by_op(path: Path) -> dict[str, list[object]]:
    rows: dict[str, list[object]] = {}
    for row in read_file(path).records:
        rows.setdefault(row.op, []).append((row.m, row.n, row.k, row.layout, row.ranks, row.bytes, row.samples))
    return rows


def test_a_gemm_with_shapes_is_the_sum_of_its_kernels():
    row = next(row for row in read_file(CUDA).records if row.op == "gemm")
    assert (row.m, row.n, row.k, row.layout, row.dtype, row.samples) == (256, 128, 64, "tn", "bf16", 3)
    assert row.time_s == pytest.approx(350.25e-6)  # 300.25 of the product and 50 of the sum over the splits


def test_a_collective_counts_bytes_as_nccl_tests_do():
    assert by_op(CUDA)["all_reduce"] == [(None, None, None, None, 2, 2e6, 3)]


def test_an_all_gather_counts_what_comes_out(tmp_path: Path):
    path = changed(tmp_path, CUDA, '"allreduce"', '"_allgather_base"')
    path.write_text(path.read_text("utf-8").replace('"Out msg nelems": 1000000', '"Out msg nelems": 2000000'))
    assert by_op(path)["all_gather"] == [(None, None, None, None, 2, 4e6, 3)]


def test_collectives_without_facts_stay_kernels(tmp_path: Path):
    found = read_file(changed(tmp_path, CUDA, '"Collective name"', '"Other"'))
    assert "all_reduce" not in {row.op for row in found.records}
    assert any("3 x collective that the trace says nothing of" in note for note in found.notes)


def test_rocm_has_no_grids_and_no_bytes_of_copies():
    rows = by_op(ROCM)
    assert rows["gemm"] == [(128, 64, 5, "nt", None, None, 1)]
    assert len(rows["kernel"]) == 3  # addmm with a copy of its bias, and the memory copy
    assert "memcpy" not in rows


def test_a_gemm_in_tf32_or_fp32_is_one_only_where_the_kernel_says_which(tmp_path: Path):
    assert "gemm" not in by_op(changed(tmp_path, ROCM, "_SB_", "_XX_"))


def test_ids_of_launches_are_not_taken_for_ids_of_ops(tmp_path: Path):
    path = changed(tmp_path, ROCM, '"correlation": 3', '"correlation": 8')
    assert "gemm" not in by_op(path)


def test_the_step_runs_from_last_kernel_to_last_kernel():
    step = step_breakdown(CUDA)
    assert (step.rank, step.steps) == (1, 2)
    assert step.step_s == pytest.approx((3100 - 920) / 2 * 1e-6)
    # By hand: 300.25 + 50 + 20 (200 in the last step); 400 less what 150.375 of compute hide; 60 less 10.
    assert dict(step.breakdown) == pytest.approx(
        {"compute": 460.25e-6, "exposed dp": 249.625e-6, "memcpy": 50e-6, "idle": 330.125e-6}
    )
    assert step.communication_s == pytest.approx(400e-6)


def test_the_parts_add_up_to_the_step():
    for path in (CUDA, ROCM):
        step = step_breakdown(path)
        assert sum(step.breakdown.values()) == pytest.approx(step.step_s)


@pytest.mark.parametrize(
    ("group", "part"),
    [
        ("mesh_tp", "exposed tp"),
        ("TENSOR_MODEL_PARALLEL_GROUP", "exposed tp"),
        ("mesh_pp", "exposed pp"),
        ("mesh_dp_shard_cp", "exposed dp"),
        ("DATA_PARALLEL_GROUP", "exposed dp"),
        ("default_pg", "exposed communication"),
    ],
)
def test_exposed_communication_is_named_by_its_group(tmp_path: Path, group: str, part: str):
    step = step_breakdown(changed(tmp_path, CUDA, "mesh_dp_shard", group))
    assert step.breakdown[part] == pytest.approx(249.625e-6)


def test_one_marked_step_begins_with_the_host_and_ends_with_the_last_kernel(tmp_path: Path):
    path = changed(tmp_path, CUDA, "ProfilerStep#5", "warm-up")
    path.write_text(path.read_text("utf-8").replace("ProfilerStep#6", "warm-up"))
    step = step_breakdown(path)
    assert (step.steps, step.step_s) == (1, pytest.approx(1100e-6))


def test_a_trace_without_marks_is_one_span():
    step = step_breakdown(ROCM)
    assert (step.steps, step.step_s) == (0, pytest.approx((1202.75 - 1040.5) * 1e-6))
    assert "no ProfilerStep" in step.notes[0]


def test_absolute_times_keep_their_nanoseconds(tmp_path: Path):
    path = changed(tmp_path, ROCM, '"ts": 1', '"ts": 1712195495511')  # 1.7e15 us and more: no float holds a ns of it
    assert step_breakdown(path).step_s == pytest.approx(162.25e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schemaVersion": 1', '"schemaVersion": 7', "schemaVersion 7: known is 1"),
        ('"dur": 17.6', '"dur": -17.6', r"traceEvents\[3\]: dur = -17.6: below zero"),
        ('"dur": 17.6', '"dur": "long"', r"dur = 'long': should be microseconds"),
        ('"traceEvents": [', '"other": [', "no list traceEvents"),
        ('"dur": 17.6,', '"dur": 17.6', "no valid JSON"),
    ],
)
def test_damage_is_named(tmp_path: Path, old: str, new: str, message: str):
    with pytest.raises(ReaderError, match=rf"kineto-rocm\.json.*{message}"):
        read_file(changed(tmp_path, ROCM, old, new), reader="kineto")


def test_a_trace_without_gpu_has_no_step(tmp_path: Path):
    path = changed(tmp_path, ROCM, '"cat": "kernel"', '"cat": "python_function"')
    path.write_text(path.read_text("utf-8").replace('"cat": "gpu_memcpy"', '"cat": "python_function"'))
    with pytest.raises(ReaderError, match="no kernel of a GPU"):
        step_breakdown(path)


def test_a_predicted_breakdown_is_laid_beside_one_of_a_trace():
    predicted = {"forward": 1.0, "backward": 2.0, "exposed dp": 0.5, "bubble": 0.25, "host": 0.25}
    assert as_in_a_trace(predicted) == {"compute": 3.0, "exposed dp": 0.5, "idle": 0.5}


def test_an_old_trace_of_capital_categories_reads_alike(tmp_path: Path):
    path = changed(tmp_path, ROCM, '"cat": "kernel"', '"cat": "Kernel"')
    path.write_text(path.read_text("utf-8").replace('"gpu_memcpy"', '"Memcpy"').replace('"cpu_op"', '"Operator"'))
    assert read_file(path).records == read_file(ROCM).records
