"""Capture without a GPU: whose turn it is, what is on disk, how it goes on, what it says when it cannot."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calibration import capture as module
from calibration import environment
from calibration.bench._session import Session, Timing, UnsupportedError, measured, timing
from calibration.capture import CaptureError, Options, Plan, Queue, capture
from calibration.environment import Facts
from calibration.table import Measurement, key, read_table
from hardware import catalog
from hardware.descriptor import DescriptorError

FACTS = Facts(
    device="h200-sxm",
    title="NVIDIA H200",
    vendor="nvidia",
    architecture="sm_90",
    stack="torch-2.11-cu130",
    fp8="float8_e4m3fn",
    memory_bytes=150e9,
    l2_bytes=6e7,
    sm_count=132,
    uuid="",
    index=0,
    versions={"driver": "580"},
)


class OutOfMemoryError(RuntimeError):
    """As PyTorch calls its own."""


class Counting:
    """A family that measures nothing and takes as long as it says."""

    def __init__(self, name: str, weight: float = 1.0, ranks: int = 1, taking_s: float = 0.0) -> None:
        self.NAME, self.WEIGHT, self.RANKS, self.taking_s = name, weight, ranks, taking_s

    def shapes(self, seed: int, count: int) -> Iterator[Measurement]:
        yield from (Measurement(op=self.NAME, rows=seed * 1000 + number + 1) for number in range(min(count, 20)))

    def run(self, shape: Measurement, session: Session) -> Measurement:
        del session
        time.sleep(self.taking_s)
        number = (shape.rows or 0) % 1000
        if number % 5 == 1:
            raise OutOfMemoryError("tried to allocate 3 GiB")
        if number % 5 == 2:
            raise UnsupportedError("no such\n kernel")
        if number % 5 == 3:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return measured(shape, Timing(1e-3, 9e-4, 2e-3, 11))


def session(synchronize: Any = lambda: None) -> Session:
    cuda = SimpleNamespace(synchronize=synchronize, memory_reserved=lambda: 0)
    return Session(torch=SimpleNamespace(cuda=cuda), facts=FACTS)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Capture with these families, on a session that never touches a device."""

    def install(*families: Counting, made: Session | None = None) -> None:
        @contextmanager
        def opened() -> Iterator[Session]:
            yield made or session()

        monkeypatch.setattr(module, "_session", opened)
        monkeypatch.setattr(module, "families", lambda: {family.NAME: family for family in families})

    return install


def test_every_shape_is_a_row_with_its_time_or_its_reason(on_a_gpu: Any, tmp_path: Path):
    on_a_gpu(Counting("one"), Counting("two"))
    summary = capture(Options(out=tmp_path / "new" / "table.csv", budget_s=30.0))
    rows = read_table(tmp_path / "new" / "table.csv")
    assert len(rows) == 40
    assert summary.rows == {"one": 8, "two": 8}
    assert summary.failures == {"one": 12, "two": 12}
    assert {row.notes for row in rows} == {
        None,
        "out of memory",
        "not supported: no such kernel",
        "not supported: RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED",
    }
    assert {(row.device, row.stack) for row in rows} == {("h200-sxm", "torch-2.11-cu130")}


def test_the_same_command_goes_on_where_it_stopped(on_a_gpu: Any, tmp_path: Path):
    on_a_gpu(Counting("one", taking_s=0.01))
    options = Options(out=tmp_path / "table.csv", budget_s=0.05)
    first = capture(options)
    second = capture(replace(options, budget_s=30.0))
    rows = read_table(options.out)
    assert 0 < second.before < 20
    assert second.before == sum(first.rows.values()) + sum(first.failures.values())
    assert len({key(row) for row in rows}) == len(rows) == 20
    assert capture(options).rows == {"one": 0}


def test_another_seed_adds_other_rows(on_a_gpu: Any, tmp_path: Path):
    on_a_gpu(Counting("one"))
    for seed in (1, 2):
        capture(Options(out=tmp_path / "table.csv", budget_s=30.0, seed=seed))
    assert len(read_table(tmp_path / "table.csv")) == 40


def test_time_is_shared_by_weight():
    heavy, light = Counting("heavy", weight=3.0), Counting("light", weight=1.0)
    plan = Plan([Queue(family, family.shapes(1, 99)) for family in (heavy, light)])
    turns = []
    for _ in range(16):
        turn = plan.next(session())
        assert turn is not None
        turn[0].spent_s += 1.0
        turns.append(turn[0].family.NAME)
    assert turns.count("heavy") == 12
    assert set(turns[:2]) == {"heavy", "light"}


def failing(*_: Any) -> Measurement:
    raise UnsupportedError("never")


def test_a_family_that_always_fails_is_given_up(on_a_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family = Counting("one")
    monkeypatch.setattr(family, "run", failing)
    on_a_gpu(family)
    assert capture(Options(out=tmp_path / "table.csv")).failures == {"one": module.MOST_FAILURES}


def test_a_gpu_that_stops_answering_ends_the_run_after_the_row(on_a_gpu: Any, tmp_path: Path):
    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    on_a_gpu(Counting("one"), made=session(broken))
    with pytest.raises(CaptureError, match="the same command goes on"):
        capture(Options(out=tmp_path / "table.csv"))
    assert len(read_table(tmp_path / "table.csv")) == 1


def test_families_for_several_gpus_wait_for_torchrun(on_a_gpu: Any, tmp_path: Path):
    on_a_gpu(Counting("one"), Counting("many", ranks=2))
    assert capture(Options(out=tmp_path / "table.csv")).rows == {"one": 8}
    with pytest.raises(CaptureError, match="many needs 2 GPUs: start it with torchrun"):
        capture(Options(out=tmp_path / "table.csv", families=("many",)))


def test_an_unknown_family_is_named_with_the_known(tmp_path: Path):
    with pytest.raises(CaptureError, match="no family 'gem'; nearest: gemm"):
        capture(Options(out=tmp_path / "table.csv", families=("gem",)))


def test_a_table_of_something_else_is_left_alone(on_a_gpu: Any, tmp_path: Path):
    on_a_gpu(Counting("one"))
    (tmp_path / "table.csv").write_text("id,answer\n1,42\n", "utf-8")
    with pytest.raises(DescriptorError, match="no column 'id'"):
        capture(Options(out=tmp_path / "table.csv"))
    assert (tmp_path / "table.csv").read_text("utf-8") == "id,answer\n1,42\n"


def test_what_the_rows_were_taken_with_stands_beside_them(on_a_gpu: Any, tmp_path: Path):
    on_a_gpu(Counting("one"))
    capture(Options(out=tmp_path / "table.csv"))
    text = (tmp_path / "table.environment.json").read_text("utf-8")
    assert '"driver": "580"' in text
    assert '"seed": 1' in text


def test_without_pytorch_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CaptureError, match="PyTorch is not installed"):
        capture(Options(out=tmp_path / "table.csv"))
    assert not (tmp_path / "table.csv").exists()


def test_without_a_gpu_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    torch = SimpleNamespace(__version__="2.13.0", cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(CaptureError, match=r"^no GPU is visible to PyTorch 2\.13\.0; capture needs one$"):
        capture(Options(out=tmp_path / "table.csv"))


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests/calibration")
import test_capture as here
family = here.Counting("one", taking_s=0.02)
here.module.families = lambda: {"one": family}
here.module._session = here.contextmanager(lambda: iter([here.session()]))
here.capture(here.Options(out=Path(sys.argv[1]), budget_s=60.0))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_loses_nothing(on_a_gpu: Any, tmp_path: Path, by: signal.Signals):
    table = tmp_path / "table.csv"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(table)], cwd=root, stderr=subprocess.DEVNULL)
    for _ in count():
        if process.poll() is not None or (table.exists() and table.read_text("utf-8").count("\n") > 4):
            break
        time.sleep(0.01)
    process.send_signal(by)
    process.wait(timeout=20)
    on_a_gpu(Counting("one"))
    before = capture(Options(out=table, budget_s=30.0)).before
    assert before >= 4 - 1
    assert len({key(row) for row in read_table(table)}) == len(read_table(table)) == 20


def test_statistics_of_samples():
    taken = timing([float(value) for value in range(11, 0, -1)])
    assert taken == Timing(6.0, 2.0, 10.0, 11, "")


def test_words_are_those_of_the_vendor():
    amd = replace(FACTS, vendor="amd")
    assert environment.vendor_kernel("cudnn", amd) == "ck"
    assert environment.vendor_kernel("cudnn", FACTS) == "cudnn"
    assert environment.vendor_kernel(None, amd) is None


def test_ranks_are_those_present():
    two = replace(session(), ranks=4, ranks_per_node=2)
    labelled = two.labelled(Measurement(op="all_reduce", ranks=2, ranks_per_node=2, bytes=1024.0))
    assert (labelled.ranks, labelled.ranks_per_node) == (4, 2)
    assert two.labelled(Measurement(op="gemm")).ranks is None


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80g"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40g"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40g"),
        ("NVIDIA B200", "b200-sxm"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L20", "l20"),
        ("NVIDIA A40", "a40"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16g"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI250X", "mi250x-gcd"),
    ],
)
def test_the_driver_s_name_leads_to_the_catalogue(title: str, expected: str):
    device = catalog.device(expected)
    said = environment.device_id(title, device.memory_bytes * 0.99, device.sm_count, device.power_limit_w)
    assert said == expected


def test_an_unknown_gpu_keeps_the_driver_s_name():
    assert environment.device_id("NVIDIA X900 Ultra 1TB", 1e12, 999) == "x900-ultra-1tb"
    assert environment.device_id("NVIDIA H200", 10e9, 132) == "h200"


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "expected"),
    [("2.11.0+cu130", "13.0", None, "torch-2.11-cu130"), ("2.8.0a0+git", None, "6.4.43482", "torch-2.8-rocm6.4")],
)
def test_a_stack_names_the_release_and_the_runtime(version: str, cuda: str, hip: str, expected: str):
    torch = SimpleNamespace(__version__=version, version=SimpleNamespace(cuda=cuda, hip=hip))
    assert environment.stack(torch) == expected


def test_the_other_ranks_measure_what_needs_them_and_end_with_rank_zero():
    told = [("many", Measurement(op="many", rows=4)), ("one", Measurement(op="one", rows=4)), None]

    def broadcast(message: list[Any], src: int, group: Any) -> None:
        del src, group
        message[0] = told.pop(0)

    made = session()
    made.torch.distributed = SimpleNamespace(broadcast_object_list=broadcast)
    one, many = Counting("one"), Counting("many", ranks=2)
    queues = [Queue(family, family.shapes(1, 9)) for family in (one, many)]
    assert module._follow(replace(made, rank=1, ranks=2), queues).rows == {"one": 0, "many": 1}
    assert told == []
