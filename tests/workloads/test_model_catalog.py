"""The catalogue of models: laws over every file, published counts, and what goes wrong with paths."""

import json
import pickle
import re
import tomllib
from dataclasses import replace

import pytest

from workloads.catalog import MODELS, model, models
from workloads.errors import WorkloadError, nearest, unknown
from workloads.model import check, step_model_flops

# Exact counts of the published checkpoints; of the BERTs with their pre-training heads. Of DeepSeek's without the
# layers that predict further tokens and the corrections of the routers, which no gradient reaches.
PUBLISHED = {
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_404_352,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    "bloom-560m": 559_214_592,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gpt-2": 124_439_808,
    "gpt-2-medium": 354_823_168,
    "gpt-2-large": 774_030_080,
    "gpt-2-xl": 1_557_611_200,
    "gpt-neox-20b": 20_554_567_680,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "kimi-k2": 1_026_408_209_408,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "mpt-7b": 6_649_286_656,
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "opt-30b": 29_974_540_288,
    "pythia-1.4b": 1_414_647_808,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
}

# In billions, where the name rounds more than 3 % away: as the paper prints it, or 12 l h^2 + V h by hand.
ROUNDED = {
    "internlm-7b": 7.3,
    "megatron-bert-345m": 0.332,
    "mpt-1b": 1.31,
    "mpt-3b": 2.65,
    "mpt-70b": 64.9,
    "nemotron-4-15b": 15.6,
    "starcoder-15b": 15.5,
}

SIZE = re.compile(r"(\d+(?:\.\d+)?)([mbt])(\d?)$")


def nominal(name: str) -> float:
    """Parameters as the name says: 7.5b, 1t, 560m, 7b1 for 7.1b."""
    if name in ROUNDED:
        return ROUNDED[name] * 1e9
    found = SIZE.search(name)
    assert found, f"{name}: no size in the name; add its published count to PUBLISHED"
    number = float(f"{found[1]}.{found[3]}" if found[3] else found[1])
    return number * {"m": 1e6, "b": 1e9, "t": 1e12}[found[2]]


def raw(name: str) -> dict[str, object]:
    (path,) = [path for path in MODELS.iterdir() if path.stem == name]
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)


def faults_of(path: object) -> str:
    with pytest.raises(WorkloadError) as caught:
        model(path)
    return str(caught.value)


def test_the_catalogue_is_worth_its_name():
    assert len(models()) >= 40
    assert list(models()) == sorted(set(models()))


def test_every_file_in_the_folder_is_a_model_of_its_own():
    assert len(list(MODELS.iterdir())) == len(models())


@pytest.mark.parametrize("name", models())
class TestEveryModel:
    def test_is_sound(self, name):
        assert check(model(name)) == ()

    def test_carries_its_name_in_kebab_case(self, name):
        assert model(name).name == name
        assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", name)

    def test_says_where_its_figures_come_from(self, name):
        source = raw(name)["source"]
        assert isinstance(source, str) and len(source) > 10

    def test_has_the_parameters_that_were_published(self, name):
        if name in PUBLISHED:
            assert model(name).parameters == PUBLISHED[name]
        else:
            assert model(name).parameters == pytest.approx(nominal(name), rel=0.03)

    def test_is_made_of_its_parts(self, name):
        m = model(name)
        routed = (m.layers - m.dense_layers) * (m.layer_parameters + m.layer_expert_parameters)
        layers = routed + m.dense_layers * m.dense.layer_parameters
        parts = m.embedding_parameters + layers + m.final_norm_parameters
        assert m.parameters == parts + m.head_parameters + m.pretraining_head_parameters

    def test_does_about_six_flops_for_each_parameter_and_token(self, name):
        """Kaplan et al. 2020: 6 N, N without the embedding; short sequences leave attention out."""
        m = replace(model(name), mtp_layers=0)
        resting = (m.layers - m.dense_layers) * (m.experts - m.topk) * m.mlp_parameters
        multiplied = m.parameters - resting - m.embedding_parameters - m.head_parameters + m.vocab * m.hidden
        assert step_model_flops(m, 1, 1) == pytest.approx(6 * multiplied, rel=0.02)

    def test_is_a_value_that_survives_a_trip_to_another_process(self, name):
        assert pickle.loads(pickle.dumps(model(name))) == model(name)


def test_published_counts_are_of_models_that_are_there():
    assert {*PUBLISHED, *ROUNDED} <= set(models())


def test_table_1_of_narayanan_2021():
    billions = [1.7, 3.6, 7.5, 18.4, 39.1, 76.1, 145.6, 310.1, 529.6, 1008.0]
    names = [f"megatron-{n}b" for n in (1.7, 3.6, 7.5, 18, 39, 76, 145, 310, 530)] + ["megatron-1t"]
    for name, count in zip(names, billions, strict=True):
        assert model(name).parameters / 1e9 == pytest.approx(count, abs=0.06)


def test_a_name_is_read_once():
    assert model("gpt-2") is model("gpt-2")


def test_a_misspelt_name_gets_the_nearest_one():
    message = faults_of("lama-3")
    assert "no model 'lama-3'; nearest: llama-3" in message


@pytest.mark.parametrize("name", ["", " ", "gpt", "LLAMA-3-8B", "x" * 5000, "a\0b", "llama-3-8b "])
def test_names_that_are_not_there(name):
    assert "no model" in faults_of(name)


def test_the_nearest_name_ignores_case():
    assert nearest("Llama-3-8B", models()).startswith("llama-3-8b")


def test_few_names_are_all_given():
    assert (
        unknown("precision", "bf17", ("fp16", "bf16")) == "no precision 'bf17'; nearest: bf16, fp16; known: fp16, bf16"
    )


def test_a_hub_id_is_no_path_but_gets_a_hint():
    assert "llama-3.1-8b" in faults_of("meta-llama/Llama-3.1-8B")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('family = "gpt"\nlayers = 2\nhidden = 8\nheads = 2\nvocab = 16\nmax_positions = 4\n')
    assert model(path) == model(str(path))
    assert model(path).name == "mine"


def test_a_folder_stands_for_the_config_in_it(tmp_path):
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw("llama-3-8b")))
    assert model(folder).name == "my-llama"
    assert model(folder).parameters == PUBLISHED["llama-3-8b"]
    assert model(folder / "config.json") == model(folder)


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(raw("gpt-2")))
    assert model(path).layers == 12
    path.write_text(json.dumps({**raw("gpt-2"), "n_layer": 13}))
    assert model(path).layers == 13


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(raw("gpt-2")).encode())
    assert model(path).parameters == PUBLISHED["gpt-2"]


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("m.json", b"", "empty"),
        ("m.toml", b" \n", "empty"),
        ("m.json", b'{"a": 1,\n "b" 2}', "not JSON: Expecting ':' delimiter: line 2"),
        ("m.toml", b'a = 1\nb = "', "not TOML"),
        ("m.toml", b"a = 1\nb 2", "line 2"),
        ("m.json", b"\xff\xfe{", "not UTF-8 text (byte 0)"),
        ("m.json", b"[1, 2]", "holds a list; an object"),
        ("m.json", b"null", "holds a NoneType"),
        ("m.json", b"[" * 100_000, "not JSON"),
        ("m.json", b"9" * 5000, "not JSON"),
        ("m.json", b"{}", "no 'model_type'"),
        ("m.toml", b"a = 1", "no key 'a'"),
        ("m.yaml", b"a: 1", "a model file ends in .json or .toml"),
    ],
)
def test_files_that_describe_no_model(tmp_path, file, content, fault):
    path = tmp_path / file
    path.write_bytes(content)
    message = faults_of(path)
    assert fault in message
    assert all(line.startswith(str(path)) for line in message.splitlines())


def test_a_path_without_a_file(tmp_path):
    assert "no such file" in faults_of(tmp_path / "gpt-3.toml")


def test_a_path_longer_than_any():
    assert "cannot be read: File name too long" in faults_of("a/" + "b" * 5000)


def test_a_folder_without_a_config(tmp_path):
    assert "no such file" in faults_of(tmp_path)


def test_a_folder_with_the_name_of_a_file(tmp_path):
    (tmp_path / "m.json" / "config.json").mkdir(parents=True)
    assert "cannot be read: Is a directory" in faults_of(tmp_path / "m.json")


def test_the_error_survives_a_trip_to_another_process():
    error = WorkloadError("m.json", ["one", "two"])
    assert str(pickle.loads(pickle.dumps(error))) == "m.json: one\nm.json: two"
    assert error.faults == ("one", "two")
