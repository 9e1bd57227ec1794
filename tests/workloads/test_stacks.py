"""Stacks: every file reads, and names only kernels that there are."""

import re
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest

from hardware import catalog as hardware
from hardware.descriptor import DescriptorError, read_toml
from sim.catalog import STACKS, stack, stacks
from tests.conftest import GPT, LLAMA, make_job
from workloads.build import build
from workloads.catalog import models
from workloads.errors import WorkloadError
from workloads.graph import leaf_ops, verify
from workloads.layout import recompute_fault
from workloads.ops import Attention, Pointwise, traffic_table
from workloads.precision import PRECISIONS
from workloads.stack import EXECUTIONS, Kernels, Optimizer, Stack

every_stack = pytest.mark.parametrize("name", stacks())
FAMILIES = {
    "gpt": GPT,
    "llama": LLAMA,
    "bert": replace(GPT, name="small-bert", family="bert", embedding_norm=True),
    "relu": replace(GPT, activation="squared_relu"),
}


# Inputs are cast the same way in both passes; metrics have no backward pass, gradients of sinks no forward one.
ONE_WAY = {"quantise": ("fwd",), "metrics": ("fwd",), "sinks": ("bwd",)}


def kernels_of(found: Stack) -> set[tuple[str, str]]:
    """(kernel, direction) of all kernels that a stack names."""
    used = set()
    for execution, recomputed, unfused in product(found.host.launch_s, (False, True), (False, True)):
        kernels = found.kernels_for(execution, recomputed=recomputed, unfused=unfused)
        for field in fields(Kernels):
            directions = ONE_WAY.get(field.name, ("fwd", "bwd"))
            used |= {(kernel, way) for kernel in getattr(kernels, field.name) or () for way in directions}
    of_optimizer = (getattr(found.optimizer, field.name) for field in fields(Optimizer))
    return used | {(kernel, "fwd") for kernels in of_optimizer if isinstance(kernels, tuple) for kernel in kernels}


def test_there_are_stacks():
    assert {"megatron-lm-2021", "megatron-lm-2022", "torchtitan"} <= set(stacks())


@every_stack
def test_a_file_is_named_after_its_stack(name):
    assert stack(name).name == name


def written(folder: Path, name: str, **said: object) -> str:
    """The name of a stack's file with these keys; a mapping is a table."""
    lines = [f'name = "{name}"', 'title = "t"', 'source = "s"']
    lines += [f"{key} = {value}" for key, value in said.items() if not isinstance(value, dict)]
    for key, table in said.items():
        lines += [f"[{key}]", *(f"{at} = {value}" for at, value in table.items())] if isinstance(table, dict) else []
    (folder / f"{name}.toml").write_text("\n".join(lines))
    return f"{name}.toml"


def test_a_stack_that_is_like_another_says_what_differs(tmp_path):
    """Tables are joined by key, other values replaced; where it comes from is its own."""
    known = stack("nemo")
    file = written(tmp_path, "mine", like='"nemo"', zero=0, kernels={"rope": '["rope_eager"]'})
    found = stack(file, tmp_path)
    expected = replace(known, name="mine", title="t", source="s", zero=0, earlier={})
    assert found == replace(expected, kernels=replace(known.kernels, rope=("rope_eager",)))


def test_a_stack_may_be_like_one_that_is_like_another(tmp_path):
    written(tmp_path, "first", like='"nemo"', zero=0)
    second = stack(written(tmp_path, "second", like='"first.toml"', dropout="true"), tmp_path)
    assert (second.zero, second.dropout, second.flash_kernel) == (0, True, "cudnn")


@pytest.mark.parametrize(
    ("likes", "words"),
    [
        ({"one": '"nemmo"'}, "like: no stack 'nemmo'; nearest: nemo"),
        ({"one": "3"}, "like: no stack '3'"),
        ({"one": '"nothing.toml"'}, "nothing.toml: .*"),
        ({"one": '"one.toml"'}, "like: 'one.toml' is like this stack itself"),
        ({"one": '"two.toml"', "two": '"one.toml"'}, "like: 'one.toml' is like this stack itself"),
    ],
)
def test_a_stack_that_is_like_none_is_refused(tmp_path, likes, words):
    files = [written(tmp_path, name, like=like) for name, like in likes.items()]
    with pytest.raises(DescriptorError) as refused:
        stack(files[0], tmp_path)
    assert re.search(words, str(refused.value))


@every_stack
def test_a_stack_says_what_it_is_and_where_that_comes_from(name):
    assert stack(name).title
    assert stack(name).source


@every_stack
def test_what_it_tries_is_recomputation_that_there_is_and_ends_with_all_of_it(name):
    tried = stack(name).recipes.recompute
    assert [fault for each in tried if (fault := recompute_fault(each.replace(":N", ":1")))] == []
    assert tried[-1] == "full"


@every_stack
def test_what_it_cannot_offload_it_does_not_try_to(name):
    assert stack(name).offloads or "offload:N" not in stack(name).recipes.recompute


@every_stack
def test_recipes_run_on_a_stack_that_there_is_and_that_has_no_other(name):
    found = stack(name).recipes.stack
    assert not found or (found in stacks() and stack(found).recipes.stack in ("", found))


@every_stack
def test_earlier_releases_are_stacks_of_their_own(name):
    for earlier in stack(name).earlier:
        assert earlier in stacks()
        assert not stack(earlier).earlier


@every_stack
def test_whose_pipelines_drive_it_are_those_of_a_stack(name):
    assert set(stack(name).engines.values()) <= set(stacks())
    assert all(word == word.lower() for word in stack(name).engines)


@every_stack
def test_every_kernel_stands_in_the_table(name):
    find_indices = {("row_map_te", "bwd"), ("chunk_map_te", "bwd")}
    missing = sorted(kernels_of(stack(name)) - set(traffic_table()) - find_indices)
    assert not missing


@every_stack
def test_the_usual_execution_has_its_launches(name):
    found = stack(name)
    assert found.execution in found.host.launch_s
    assert set(found.host.launch_s) <= set(EXECUTIONS)
    assert all(0 < launch < 1e-3 for launch in found.host.launch_s.values())


@every_stack
def test_a_compiler_replaces_kernels_that_there_are(name):
    found = stack(name)
    assert set(found.compiled) <= {field.name for field in fields(Kernels)}
    assert not found.compiled or "compile" in found.host.launch_s
    for job, kernels in found.compiled.items():
        assert getattr(found.kernels_for("compile"), job) == kernels
        assert getattr(found.kernels_for("eager"), job) == getattr(found.kernels, job)


@every_stack
@pytest.mark.parametrize("where", ["recomputed", "unfused"])
def test_full_recomputation_and_unfused_attention_replace_kernels_that_there_are(name, where):
    found = stack(name)
    replaced = getattr(found, where)
    assert set(replaced) <= {field.name for field in fields(Kernels)}
    for job, kernels in replaced.items():
        assert getattr(found.kernels_for("eager", **{where: True}), job) == kernels
        assert getattr(found.kernels_for("eager"), job) == getattr(found.kernels, job)


@every_stack
def test_some_architecture_has_the_attention_kernel(name):
    shares = [hardware.device(device).architecture.attention_share for device in hardware.devices()]
    assert any(stack(name).flash_kernel in known for known in shares)


@every_stack
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("attention", ["flash", "unfused"])
def test_every_stack_trains_every_family(name, family, precision, attention):
    job = make_job(FAMILIES[family], name, tp=2, dp=2, training={"precision": precision})
    program = build(replace(job, attention=attention).shard())
    verify(program)
    ops = leaf_ops(program)
    assert any(isinstance(op, Attention) for op in ops) == (attention == "flash")
    assert all(op.bytes > 0 for op in ops if isinstance(op, Pointwise))


def copied(name: str, path: Path, old: str, new: str) -> Path:
    text = (STACKS / f"{name}.toml").read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('attention = "flash"', 'attention = "flesh"', "attention"),
        ("[overlap]", "[overlap]\ntensors = true", "no key 'tensors'"),
        ('execution = "eager"', "execution = 3", "execution"),
        ("[host]", "[host]\nstep = 1", "no key 'step'"),
        ("dropout = false", 'dropout = "no"', "dropout"),
        ('source = "', 'origin = "', "source"),
    ],
)
def test_a_faulty_stack_is_refused(tmp_path, old, new, words):
    with pytest.raises(DescriptorError, match=words):
        stack(copied("torchtitan", tmp_path / "mine.toml", old, new).name, tmp_path)


def test_a_stack_of_ones_own_is_read_from_its_file(tmp_path):
    path = copied("torchtitan", tmp_path / "mine.toml", 'name = "torchtitan"', 'name = "mine"')
    assert stack("mine.toml", tmp_path).name == "mine"
    assert read_toml(path)["name"] == "mine"


def test_an_unknown_stack_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no stack 'megatron-lm-2023'; nearest: megatron-lm-202"):
        stack("megatron-lm-2023")


def test_every_time_of_a_host_goes_with_its_pace_and_nothing_else():
    host = replace(stack("torchtitan").host, pace=2.0, ring_s=3.0)
    slow = host.paced(host.pace)
    for entry in fields(host):
        was, became = getattr(host, entry.name), getattr(slow, entry.name)
        if entry.name == "pace":
            assert became == 1.0
        elif not entry.name.endswith("_s"):
            assert became == was
        elif isinstance(was, float):
            assert became == 2.0 * was
        else:
            assert became == {key: 2.0 * cost for key, cost in was.items()}
    assert host.paced(1.0) == replace(host, pace=1.0)


@every_stack
def test_recipes_of_experts_are_of_models_and_precisions_that_there_are(name):
    for recipe in stack(name).recipes.experts:
        assert set(recipe.models) <= set(models())
        assert set(recipe.devices) <= set(hardware.devices())
        assert set(recipe.precisions) <= set(PRECISIONS)
        assert recipe.kernels_of in (None, *stacks())


def test_transformers_is_not_simulated_compiled_where_its_attention_is_another():
    assert not stack("transformers").compiled
    job = replace(make_job(LLAMA, "transformers"), execution="compile")
    with pytest.raises(WorkloadError, match="no execution of transformers 'compile'"):
        job.shard()
