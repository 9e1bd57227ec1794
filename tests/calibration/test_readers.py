"""What holds for every reader of the folder: files of its own making are read, damaged ones never lie."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from calibration.readers import Context, ReaderError, cluster_toml, read_file, read_topology, readers
from calibration.table import Measurement, append, read_table
from hardware import catalog
from tests.calibration.sqlite_fixtures import nsys, rocpd

FIXTURES = Path(__file__).parent / "fixtures"
TOPOLOGIES = ("nvidia-smi-topo.txt", "rocm-smi-topo.txt", "nccl-topology.xml")
FILES = sorted(path.name for path in FIXTURES.iterdir() if path.name not in TOPOLOGIES)
MINE = Context(device="h200-sxm", stack="torch-2.11-cu130")
# Tools whose rows are one measurement each; the others sum up what is there.
SINGLE = ("nccl-tests", "hipblaslt-bench", "rocblas-bench", "nsys-csv-2020", "rocprof-v1-stats", "rocprofv3-stats")


def reader_name(file: str) -> str:
    """Of the reader after which a fixture is named."""
    return max((name for name in readers() if file.startswith(name)), key=len)


def shapes(rows: Sequence[Measurement]) -> set[tuple[object, ...]]:
    return {(row.op, row.kernel, row.m, row.n, row.k, row.ranks, row.bytes) for row in rows}


def test_every_reader_has_a_fixture():
    assert {reader_name(file) for file in FILES} | {"nsys-sqlite", "rocpd"} == set(readers())


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_claimed_by_its_reader_and_no_other(file: str):
    beginning = (FIXTURES / file).read_text("utf-8")
    claiming = [name for name, reader in readers().items() if reader.claims(beginning, FIXTURES / file)]
    assert claiming == [reader_name(file)]


@pytest.mark.parametrize("file", FILES)
def test_rows_say_where_they_come_from_and_fit_the_table(file: str, tmp_path: Path):
    rows = read_file(FIXTURES / file, context=MINE).records
    assert all((row.device, row.stack) == ("h200-sxm", "torch-2.11-cu130") for row in rows)
    assert all(row.time_s is not None and row.time_s > 0 for row in rows)
    if rows:
        append(tmp_path / "table.csv", rows)
        assert shapes(read_table(tmp_path / "table.csv")) == shapes(rows)


@pytest.mark.parametrize("file", FILES)
def test_reading_twice_gives_the_same(file: str):
    assert read_file(FIXTURES / file) == read_file(FIXTURES / file)


@pytest.mark.parametrize("file", FILES)
def test_a_packed_file_reads_as_the_plain_one(file: str, tmp_path: Path):
    (tmp_path / f"{file}.gz").write_bytes(gzip.compress((FIXTURES / file).read_bytes()))
    assert read_file(tmp_path / f"{file}.gz").records == read_file(FIXTURES / file).records


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_was_cut_off_gives_fewer_rows_or_a_message_never_other_ones(file: str, tmp_path: Path):
    content = (FIXTURES / file).read_bytes()
    whole = read_file(FIXTURES / file).records
    times = {(row.op, row.kernel, row.m, row.bytes, row.time_s) for row in whole}
    for length in range(0, len(content), max(1, len(content) // 150)):
        (tmp_path / file).write_bytes(content[:length])
        try:
            rows = read_file(tmp_path / file).records
        except ReaderError as error:
            assert str(tmp_path / file) in str(error)
            continue
        assert shapes(rows) <= shapes(whole) or reader_name(file) == "cutlass-profiler"
        if file.startswith(SINGLE):
            assert {(row.op, row.kernel, row.m, row.bytes, row.time_s) for row in rows} <= times


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", readers())
def test_a_reader_given_the_file_of_another_tool_says_so(file: str, name: str):
    if name == reader_name(file):
        return
    try:
        assert read_file(FIXTURES / file, reader=name).records == ()
    except ReaderError as error:
        assert file in str(error)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 300, b"{}", b"[]", b"<a/>", b"\x1f\x8b broken", "größer".encode("latin-1")]
)
def test_what_is_from_no_tool_is_refused_by_name(content: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ReaderError, match=r"file: (is from no known tool; known: .*kineto|is damaged|no list)"):
        read_file(tmp_path / "file")


def test_missing_files_and_readers_are_named(tmp_path: Path):
    with pytest.raises(ReaderError, match="no such file"):
        read_file(tmp_path / "absent.csv")
    with pytest.raises(ReaderError, match="is a folder"):
        read_file(tmp_path)
    with pytest.raises(ReaderError, match=r"no reader 'nvprof'; known: .*nsys-csv"):
        read_file(tmp_path, reader="nvprof")


def test_the_sqlite_files_are_told_apart(tmp_path: Path):
    for name, make in (("nsys-sqlite", nsys), ("rocpd", rocpd)):
        path = make(tmp_path / f"{name}.db")
        assert [each for each, reader in readers().items() if reader.claims("SQLite format 3", path)] == [name]


def test_a_sqlite_file_that_was_cut_off_is_refused(tmp_path: Path):
    path = nsys(tmp_path / "run.sqlite")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ReaderError, match=r"run\.sqlite"):
        read_file(path, reader="nsys-sqlite")


@pytest.mark.parametrize("file", TOPOLOGIES)
def test_a_topology_that_was_cut_off_gives_a_message_or_the_same_links(file: str, tmp_path: Path):
    content = (FIXTURES / file).read_bytes()
    whole = read_topology(FIXTURES / file)
    for length in range(0, len(content), max(1, len(content) // 150)):
        (tmp_path / file).write_bytes(content[:length])
        try:
            assert read_topology(tmp_path / file).links == whole.links
        except ReaderError as error:
            assert str(tmp_path / file) in str(error)


def test_a_cluster_file_needs_the_speed_of_the_adapters():
    with pytest.raises(ReaderError, match="give nic_gb_per_s"):
        cluster_toml(read_topology(FIXTURES / "nvidia-smi-topo.txt"), catalog.device("a100-sxm-80g"), name="mine")
