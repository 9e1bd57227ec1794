"""Each tool: values worked out by hand from its fixture, and the traps of its format."""

from collections.abc import Callable
from pathlib import Path

import pytest

from calibration.readers import Context, Import, ReaderError, read_file
from calibration.readers.kernels import short_name
from calibration.table import Measurement
from tests.calibration.sqlite_fixtures import nsys, rocpd

FIXTURES = Path(__file__).parent / "fixtures"
Changed = Callable[..., Path]


def read(name: str) -> Import:
    return read_file(FIXTURES / name)


def times(found: Import) -> dict[object, float | None]:
    return {row.kernel: row.time_s for row in found.records}


def gemm(row: Measurement) -> tuple[object, ...]:
    return (row.dtype, row.batch, row.m, row.n, row.k, row.layout)


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """A fixture with some text replaced; the text must be there."""

    def make(name: str, old: str, new: str, saved_as: str = "") -> Path:
        content = (FIXTURES / name).read_text("utf-8")
        assert old in content
        path = tmp_path / (saved_as or name)
        path.write_text(content.replace(old, new), "utf-8")
        return path

    return make


class TestNcclTests:
    def test_prefixes_repeated_headers_and_noise_do_not_matter(self):
        rows = read("nccl-tests-mpi.txt").records
        assert {(row.op, row.dtype, row.ranks, row.ranks_per_node, row.samples) for row in rows} == {
            ("all_reduce", "fp32", 4, 2, 25)
        }
        assert [row.bytes for row in rows] == [1024, 2**20, 2**26, 2**30, 2**32]

    def test_times_are_microseconds_in_every_notation(self):
        # The last is printed as 1.2e+06: 2**32 bytes at the 3.58 GB/s beside it say more.
        rows = read("nccl-tests-mpi.txt").records
        assert [row.time_s for row in rows] == pytest.approx([15.63e-6, 35.2e-6, 412.3e-6, 6021.4e-6, 1.1997115])

    def test_rows_of_size_zero_are_counted_and_left_out(self):
        assert read("nccl-tests-mpi.txt").notes == ("1 row left out: size 0",)

    def test_an_old_log_is_named_by_its_file_or_by_the_context(self, changed: Changed):
        assert {row.op for row in read("nccl-tests-old-all_gather.log").records} == {"all_gather"}
        anonymous = changed("nccl-tests-old-all_gather.log", "# Using devices", "#", saved_as="run.log")
        with pytest.raises(ReaderError, match=r"run\.log:12: does not name its collective"):
            read_file(anonymous)
        assert len(read_file(anonymous, context=Context(op="all_gather")).records) == 3

    def test_the_wrong_collective_is_noticed_by_its_bus_bandwidth(self, changed: Changed):
        other = changed("nccl-tests-old-all_gather.log", "# Using devices", "#", saved_as="all_reduce.log")
        with pytest.raises(ReaderError, match=r"busbw / algbw is 0\.750; all_reduce on 4 ranks has 1\.5"):
            read_file(other)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("35.20", "3.520", "algbw .* does not fit 1048576 bytes in 3.52 us"),
            ("262144     float", "262145     float", "size 1048576 is not count 262145 x 4 bytes"),
            ("float     sum", "quad      sum", "type 'quad': should be one of"),
            (
                "#       size         count      type   redop    root     time",
                "# size count type redop root cputime",
                "times of the host",
            ),
            ("Rank  3 Group  0 Pid  4103", "Rank  0 Group  0 Pid  4103", "rank 0 is there twice"),
            ("#  Rank  1 ", "#  Rnk  1 ", "some are missing"),
        ],
    )
    def test_damage_is_named_with_its_line(self, changed: Changed, old: str, new: str, message: str):
        with pytest.raises(ReaderError, match=rf"nccl-tests-mpi\.txt:\d+: .*{message}"):
            read_file(changed("nccl-tests-mpi.txt", old, new))

    def test_groups_count_by_themselves(self, changed: Changed):
        path = changed("nccl-tests-old-all_gather.log", "Rank  2 Pid", "Rank  2 Group  1 Pid")
        with pytest.raises(ReaderError, match=r"groups of \[1, 3\] ranks"):
            read_file(path)

    def test_a_log_without_its_end_is_noted(self, changed: Changed):
        path = changed("nccl-tests-mpi.txt", "# Out of bounds values : 0 OK\n[1,0]<stdout>:# Avg bus bandwidth", "")
        assert "cut off" in read_file(path).notes[-1]

    def test_a_run_in_a_graph_is_marked(self, changed: Changed):
        rows = read_file(changed("nccl-tests-mpi.txt", "graph: 0", "graph: 1")).records
        assert {row.notes for row in rows} == {"launched by a graph"}

    def test_an_op_that_the_table_does_not_have_is_counted(self, changed: Changed):
        path = changed("nccl-tests-mpi.txt", "all_reduce_perf", "reduce_perf")
        found = read_file(path)
        assert (found.records, found.notes[-1]) == ((), "5 rows left out: reduce is no op of the table")

    def test_json_gives_percentiles_and_falls_back_to_in_place(self):
        first, second = read("nccl-tests.json").records
        assert (first.op, first.ranks, first.bytes) == ("reduce_scatter", 2, 2**20)
        assert (first.time_s, first.time_p10_s, first.time_p90_s) == pytest.approx((105e-6, 101e-6, 109e-6))
        assert (second.time_s, second.notes) == (pytest.approx(150e-6), "in place")
        assert read("nccl-tests.json").notes == ("1 row left out: time is not a number",)

    def test_the_environment_in_the_json_goes_nowhere(self):
        assert "do-not-keep-this" in (FIXTURES / "nccl-tests.json").read_text("utf-8")
        assert "do-not-keep-this" not in repr(read("nccl-tests.json"))

    def test_json_of_a_killed_run_or_another_version_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match=r":\d+: is no valid JSON .*killed"):
            read_file(changed("nccl-tests.json", '"out_of_bounds"', ""))
        with pytest.raises(ReaderError, match="4300 digits"):
            read_file(changed("nccl-tests.json", '"version": 3', f'"version": {"3" * 5000}'))
        with pytest.raises(ReaderError, match="version 4 of the JSON file"):
            read_file(changed("nccl-tests.json", '"version": 3', '"version": 4'))
        with pytest.raises(ReaderError, match=r"results\[1\]: holds times of the host"):
            read_file(changed("nccl-tests.json", '"time": 105.0', '"cpu_time": 105.0'))


class TestNsight:
    def test_several_reports_in_one_file_units_and_thousands(self):
        expected = {"gemm_kernel": 990.5e-6, "my_scale": 99e-6, "other": 1.5e-6, "[CUDA memcpy Host-to-Device]": 4e-7}
        assert times(read("nsys-csv.csv")) == pytest.approx(expected)

    def test_an_old_summary_has_the_mean_in_nanoseconds(self):
        (row,) = read("nsys-csv-2020.csv").records
        assert (row.kernel, row.time_s, row.samples) == ("axpy", pytest.approx(1e-6), 3)
        assert (row.notes or "").startswith("mean")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("Total Time (us),Instances", "Total Time (fortnights),Instances", "unknown unit 'fortnights'"),
            ('"4,000.0",4', '"4,000.0",5', "5 times the mean is 0.005 s, but the total is 0.004 s"),
            ("100.0,99.0,", "100.0,n/a,", "should be a number"),
            ("10,100.0,99.0,95.0,112.0", "10,100.0,99.0", "7 cells; the header in line 12 has 9"),
        ],
    )
    def test_damage_of_a_report_is_named_with_its_line(self, changed: Changed, old: str, new: str, message: str):
        with pytest.raises(ReaderError, match=rf"nsys-csv\.csv:\d+: .*{message}"):
            read_file(changed("nsys-csv.csv", old, new))

    def test_sqlite_names_kernels_by_id_and_counts_nanoseconds(self, tmp_path: Path):
        rows = read_file(nsys(tmp_path / "run.sqlite")).records
        assert {(row.op, row.kernel): row.time_s for row in rows} == pytest.approx(
            {("kernel", "scale"): 2e-6, ("kernel", "fill"): 5e-7, ("memcpy", "host_to_device"): 8e-7}
        )
        assert next(row.bytes for row in rows if row.op == "memcpy") == 4194304

    def test_sqlite_of_another_version_is_refused(self, tmp_path: Path):
        with pytest.raises(ReaderError, match=r"version 9\.0\.0 of the export"):
            read_file(nsys(tmp_path / "run.sqlite", version="9.0.0"))

    def test_compute_details_with_scaled_units_and_rules(self):
        found = read("ncu-details.csv")
        assert times(found) == pytest.approx({"add": 2.0125e-3, "mul": 9e-7})
        assert [row.sm_clock_hz for row in found.records] == pytest.approx([1.5e9, 1.4e9])
        assert found.notes[-1] == "1 kernel without a duration left out"

    def test_compute_raw_page_has_its_units_in_the_second_line(self):
        (row,) = read("ncu-raw.csv").records
        assert (row.time_s, row.sm_clock_hz, row.samples) == pytest.approx((2e-3, 1.42e9, 2))

    def test_a_decimal_comma_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match="decimal comma; export with LC_ALL=C"):
            read_file(changed("ncu-details.csv", '"2.61"', '"2,61"'))

    def test_an_unknown_unit_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match=r"ncu-details\.csv:\d+: Duration: unknown unit 'lustrum'"):
            read_file(changed("ncu-details.csv", '"Duration","us"', '"Duration","lustrum"'))


class TestRocprof:
    def test_v1_kernels_are_timed_by_end_less_begin(self):
        assert times(read("rocprof-v1.csv")) == pytest.approx({"relax": 2.5e-6, "copy": 1e-7})
        assert times(read("rocprof-v1-stats.csv")) == pytest.approx({"relax": 2.5e-6, "copy": 1e-7})

    def test_v1_without_timestamps_says_what_to_run(self, changed: Changed):
        with pytest.raises(ReaderError, match="--timestamp on"):
            read_file(changed("rocprof-v1.csv", '"BeginNs"', '"Other"'))

    def test_v1_a_duration_that_does_not_fit_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match=r"rocprof-v1\.csv:3: DurationNs = '2500' is not"):
            read_file(changed("rocprof-v1.csv", "9100,2000", "9100,2500"))

    def test_v3_traces_with_guid_agents_by_name_and_copies(self):
        found = read("rocprofv3-kernel-trace.csv")
        assert times(found) == pytest.approx({"add": 5e-6, "memcpy host to device": 9e-6})
        assert (found.records[0].notes or "").startswith("device 4, stream 2, queue 1")

    def test_v3_times_of_host_functions_are_no_kernels(self):
        assert read("rocprofv3-hip-stats.csv").records == ()
        assert "host functions" in read("rocprofv3-hip-stats.csv").notes[0]

    def test_v3_a_kernel_that_ends_before_it_starts_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match=r"kernel-trace\.csv:2: ends at 1004000 and starts at 1009000"):
            read_file(changed("rocprofv3-kernel-trace.csv", "1000000,", "1009000,"))

    def test_rocpd_reads_the_view_of_kernels(self, tmp_path: Path):
        assert times(read_file(rocpd(tmp_path / "run.db"))) == pytest.approx({"relax": 2e-6})


class TestGemms:
    def test_hipblaslt_swaps_m_and_n_for_the_memory_order_of_the_table(self):
        rows = read("hipblaslt-bench.txt").records
        assert [gemm(row) for row in rows] == [
            ("bf16", 1, 2048, 4096, 1024, "tn"),
            ("fp16", 2, 1024, 512, 256, "nt"),
            ("fp8", 1, 2048, 4096, 1024, "nn"),
            ("tf32", 1, 2048, 4096, 1024, "tn"),
        ]
        assert [row.time_s for row in rows] == pytest.approx([35.5e-6, 12.25e-6, 20e-6, 90e-6])

    def test_hipblaslt_rows_that_are_no_plain_gemm_are_counted(self):
        notes = " ".join(read("hipblaslt-bench.txt").notes)
        assert all(reason in notes for reason in ("beta 1", "'failed'", "both inputs transposed"))

    def test_hipblaslt_a_time_that_does_not_fit_its_rate_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match=r"hipblaslt-bench\.txt:3: .*do not fit"):
            read_file(changed("hipblaslt-bench.txt", "24.54,35.5,", "24.54,355,"))

    def test_rocblas_takes_the_type_from_its_command_line(self):
        rows = read("rocblas-bench.txt").records
        assert [gemm(row) for row in rows] == [
            ("fp16", 1, 1024, 512, 256, "nt"),
            ("fp32", 1, 64, 256, 32, "tn"),
        ]
        assert [row.time_s for row in rows] == pytest.approx([20.5e-6, 4.5e-6])

    def test_rocblas_without_a_type_asks_for_it(self, changed: Changed):
        path = changed("rocblas-bench.txt", "./rocblas-bench", "./bench")
        with pytest.raises(ReaderError, match="give the dtype"):
            read_file(path)
        assert {row.dtype for row in read_file(path, context=Context(dtype="fp16")).records} == {"fp16"}

    def test_cutlass_the_fastest_right_kernel_stands_for_the_problem(self):
        best, by_columns = read("cutlass-profiler.csv").records
        assert (*gemm(best), best.kernel) == ("fp16", 1, 2048, 1024, 512, "tn", "cutlass_b")
        assert best.time_s == pytest.approx(15e-6)
        assert gemm(by_columns) == ("fp32", 1, 128, 256, 64, "nt")
        assert len(read("cutlass-profiler.csv").notes) == 4

    def test_cutlass_a_time_that_does_not_fit_its_rate_is_refused(self, changed: Changed):
        with pytest.raises(ReaderError, match=r"cutlass-profiler\.csv:\d+: .*do not fit"):
            read_file(changed("cutlass-profiler.csv", ",0.015,", ",0.15,"))


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("void at::native::(anonymous namespace)::fill<4, f>(int, f)", "at::native::{anonymous}::fill"),
        ("relax(float*, int) [clone .kd]", "relax"),
        ("void cutlass::Kernel<cutlass_80_gemm_nt>(cutlass_80_gemm_nt::Params)", "cutlass::Kernel<cutlass_80_gemm_nt>"),
        ("ampere_sgemm_128x64_tn", "ampere_sgemm_128x64_tn"),
        ("Memset (Device)", "Memset"),
    ],
)
def test_a_kernel_is_named_by_what_stands_before_its_arguments(full: str, short: str):
    assert short_name(full) == short
