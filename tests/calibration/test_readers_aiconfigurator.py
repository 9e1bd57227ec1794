"""aiconfigurator's tables: milliseconds to seconds, linear layers told from GEMMs, and what is left out."""

from pathlib import Path

import pytest

from calibration.readers import Context, ReaderError, read_file
from calibration.table import op_of
from tests.calibration.test_readers import FIXTURES
from workloads.ops import Attention, Gemm

GEMMS, ATTENTION = FIXTURES / "aiconfigurator-gemm.txt", FIXTURES / "aiconfigurator-attention.txt"
H100 = Context(device="h100-sxm")


def test_a_gemm_of_16_bits_is_one_and_one_of_8_bits_a_linear_layer_that_casts_its_input():
    rows = read_file(GEMMS, context=H100).records
    sizes = {"m": 4096, "n": 8192, "k": 4096}
    assert [op_of(row) for row in rows[:3:2]] == [
        Gemm(**sizes, dtype="bf16"),
        Gemm(**sizes, dtype="fp8", casts=True),
    ]
    assert [row.time_s for row in rows] == pytest.approx([392.1e-6, 30.1e-6, 247.1e-6, 387.4e-6])
    assert rows[0].notes == "TRTLLM 1.2.0 torch_flow"


def test_types_with_block_scales_are_counted():
    assert read_file(GEMMS, context=H100).notes == ("1 row left out: type fp8_block is none of the table's",)


def test_attention_is_over_a_whole_prompt_and_causal():
    found = read_file(ATTENTION, context=H100)
    sizes = {"batch": 2, "seq_q": 4096, "seq_kv": 4096, "heads": 32, "head_dim": 128}
    expected = [Attention(**sizes, kv_heads=kv_heads, dtype="bf16") for kv_heads in (8, 32)]
    assert [op_of(row) for row in found.records] == expected
    assert found.notes == (
        "1 row left out: attention in fp8 over a cache in fp8",
        "1 row left out: attention in bfloat16 over a cache in fp8",
        "1 row left out: a prompt behind others that are in the cache",
    )


@pytest.mark.parametrize("old, new, words", [("0.3921", "-1", "should be above zero"), ("4096", "1.5", "whole number")])
def test_a_wrong_number_is_said_with_its_line(tmp_path: Path, old: str, new: str, words: str):
    (tmp_path / "gemm_perf.txt").write_text(GEMMS.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(ReaderError, match=f"gemm_perf.txt:2: .*{words}"):
        read_file(tmp_path / "gemm_perf.txt")


def test_a_pointer_to_a_file_elsewhere_is_no_table(tmp_path: Path):
    """What a checkout without Git LFS holds."""
    (tmp_path / "gemm_perf.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ad84\nsize 8\n")
    with pytest.raises(ReaderError, match="is from no known tool"):
        read_file(tmp_path / "gemm_perf.txt")
