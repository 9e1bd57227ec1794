"""Blocks of kernels, played by hand: who waits for whom, and what the time is made of."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks import BlockTime, Launches, block_tasks, counting_s, gpu_s, host_s, play_block, segment_s
from workloads.graph import COMPUTE, HIDDEN, LAYER, Block, Segment, Work
from workloads.ops import Collective, Gemm, Op, Pointwise, Transfer
from workloads.stack import Host

FREE = Host(launch_s={"eager": 0.0}, message_s={"eager": 0.0, "compile": 0.0})


def op(seconds: float) -> Op:
    """A stand-in whose price is written on it, in milliseconds."""
    return Pointwise(op="copy", rows=round(seconds * 1000), cols=1, dtype="bf16")


def kernel(seconds: float, **keywords: object) -> Work:
    return Work(op(seconds), **keywords)  # type: ignore[arg-type]


def message(seconds: float, name: str = "", stream: str = "tp", *, beside: bool = False) -> Work:
    return Work(op(seconds), stream, name, asynchronous=beside)


def block(*pieces: tuple[Work, ...]) -> Block:
    return Block(name="layer", phase="forward", pieces=pieces)


def played(made: Block, host: Host = FREE, rate: float = 1.0) -> BlockTime:
    prices = {work.op: work.op.rows / 1000 for work in made.work}  # type: ignore[union-attr]
    return play_block(made, prices, Launches(costs=host, execution="eager", recompute="none"), rate)


def spans(time: BlockTime) -> list[tuple[float, float]]:
    return list(zip(time.timeline.start_s.tolist(), time.timeline.end_s.tolist(), strict=True))


def test_kernels_run_one_after_the_other():
    time = played(block((kernel(1), kernel(2)), (kernel(4),)))
    assert (time.seconds, time.compute_s) == (7, 7)
    assert (time.interference_s, time.launch_s, time.exposed_s) == (0, 0, {})


def test_an_empty_block_takes_no_time():
    assert played(block()).seconds == 0


def test_a_message_holds_up_what_follows():
    time = played(block((kernel(1), message(2), kernel(4))))
    assert spans(time) == [(0, 1), (1, 3), (3, 7)]
    assert (time.compute_s, time.exposed_s) == (5, {"tp": 2})


def test_asynchronous_work_holds_up_nobody_in_its_piece():
    time = played(block((kernel(1), message(2, beside=True), kernel(4))))
    assert spans(time) == [(0, 1), (1, 3), (1, 5)]
    assert (time.seconds, time.exposed_s) == (5, {})


def test_the_end_of_a_piece_waits_for_asynchronous_work():
    time = played(block((kernel(1), message(5, beside=True), kernel(2)), (kernel(1),)))
    assert spans(time) == [(0, 1), (1, 6), (1, 3), (6, 7)]
    assert time.exposed_s == {"tp": 3}


def test_work_may_wait_for_asynchronous_work_by_name():
    time = played(block((message(3, "gather", beside=True), kernel(1), kernel(2, waits="gather"), kernel(1))))
    assert spans(time) == [(0, 3), (0, 1), (3, 5), (5, 6)]
    assert time.exposed_s == {"tp": 2}


def test_a_name_is_known_in_its_own_piece_only():
    """The second piece has its own message of the same name, and waits for that one."""
    first = (message(3, "kv", "cp", beside=True), kernel(1, waits="kv"))
    second = (message(2, "kv", "cp", beside=True), kernel(1, waits="kv"))
    assert spans(played(block(first, second))) == [(0, 3), (3, 4), (4, 6), (6, 7)]


def test_an_empty_piece_does_not_open_the_barrier():
    tasks = block_tasks(block((kernel(1), message(1, beside=True)), (), (kernel(1),)))
    assert tasks[2].after == (0, 1)


def test_a_ring_of_messages_beside_computation():
    """Context parallelism over three: own block 4 s, then the others', 3 s each, with messages of 5 s."""
    ring = (
        message(5, "kv0", "cp", beside=True),
        kernel(4),
        message(5, "kv1", "cp", beside=True)._replace(waits="kv0"),
        kernel(3, waits="kv0"),
        kernel(3, waits="kv1"),
    )
    time = played(block(ring))
    # 0-5 and 5-10 messages; 0-4, 5-8, 10-13 computation: exposed 4-5 and 8-10.
    assert (time.seconds, time.compute_s, time.exposed_s) == (13, 10, {"cp": 3})


def test_exposed_communication_of_two_streams_is_counted_once():
    """tp from 0 to 4, cp from 0 to 6, computation from 0 to 1: exposed 3 s and then 2 s."""
    time = played(block((message(4, beside=True), message(6, stream="cp", beside=True), kernel(1))))
    assert time.seconds == 6
    assert time.exposed_s == {"tp": 3, "cp": 2}


def test_communication_slows_down_computation_beside_it():
    """4 s of message at a rate of 3/4 do 3 of 6 s: 7 s in all."""
    time = played(block((message(4, beside=True), kernel(6))), rate=0.75)
    assert (time.seconds, time.compute_s, time.interference_s) == (7, 6, 1)


def test_the_host_holds_up_short_kernels():
    """Ten kernels of 1 ms, 5 ms each to launch: the device waits for 40 of 50 ms."""
    time = played(block(tuple(kernel(0.001) for _ in range(10))), Host(launch_s={"eager": 0.005}))
    assert time.seconds == pytest.approx(0.050)
    assert time.launch_s == pytest.approx(0.040)
    assert time.compute_s == pytest.approx(0.010)


def test_the_host_is_hidden_behind_long_kernels():
    time = played(block((kernel(1), kernel(1))), Host(launch_s={"eager": 0.005}))
    assert (time.seconds, time.launch_s) == (2, 0)


def test_messages_are_launched_too():
    time = played(block((kernel(0.001), message(0.001))), Host(launch_s={"eager": 1.0}, message_s={"eager": 0.5}))
    assert time.seconds == pytest.approx(1.5)


def test_blocking_launches_add_up():
    """CUDA_LAUNCH_BLOCKING=1: each of three kernels costs its launch and a gap on top."""
    host = Host(launch_s={"eager": 0.25}, blocking=True, synchronise_s=0.5)
    time = played(block((kernel(1), kernel(2), kernel(4))), host)
    assert (time.seconds, time.compute_s, time.launch_s) == (9.25, 7, 2.25)


def test_blocking_messages_count_as_exposed_communication():
    """A kernel of 1 s and a message of 2 s, launched in 0.25 and 0.5 s, with gaps of 0.5 s: 4.75 s in all."""
    host = Host(launch_s={"eager": 0.25}, message_s={"eager": 0.5}, blocking=True, synchronise_s=0.5)
    time = played(block((kernel(1), message(2))), host)
    assert (time.seconds, time.compute_s) == (4.75, 1)
    assert time.launch_s + time.exposed_s["tp"] == 3.75


def test_blocking_is_never_faster():
    made = block((kernel(1), kernel(0.001), message(2), kernel(0.001)))
    host = Host(launch_s={"eager": 0.005})
    assert played(made, replace(host, blocking=True)).seconds >= played(made, host).seconds


def test_each_execution_has_its_own_launches():
    host = Host(launch_s={"eager": 2.0, "compile": 1.0})
    made = block((kernel(0.001),))
    prices = {work.op: 0.001 for work in made.work}
    ways = [Launches(costs=host, execution=name, recompute="none") for name in ("eager", "compile")]
    times = [play_block(made, prices, way, 1.0).seconds for way in ways]
    assert times == [2.0, 1.0]


works = st.builds(
    lambda seconds, stream, beside: Work(op(seconds), stream, asynchronous=beside and stream != COMPUTE),
    st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    st.sampled_from([COMPUTE, COMPUTE, "tp", "cp"]),
    st.booleans(),
)
blocks = st.lists(st.lists(works, max_size=5).map(tuple), max_size=4).map(lambda pieces: block(*pieces))
hosts = st.builds(
    lambda launch, blocking: Host(
        launch_s={"eager": launch}, message_s={"eager": launch / 2}, blocking=blocking, synchronise_s=0.125
    ),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.booleans(),
)


@given(blocks, hosts, st.sampled_from([1.0, 0.75]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_parts_of_a_block_add_up_to_it(made, host, rate):
    time = played(made, host, rate)
    parts = [time.compute_s, time.interference_s, time.launch_s, *time.exposed_s.values()]
    assert sum(parts) == pytest.approx(time.seconds, abs=1e-9)
    assert all(part >= -1e-9 for part in parts)


@given(blocks, st.sampled_from([1.0, 0.75]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_pieces_are_barriers(made, rate):
    timeline, place = played(made, rate=rate).timeline, 0
    done = 0.0
    for piece in made.pieces:
        starts, ends = (array[place : place + len(piece)].tolist() for array in (timeline.start_s, timeline.end_s))
        assert all(start >= done - 1e-9 for start in starts)
        done, place = max([done, *ends]), place + len(piece)


def test_a_message_beside_computation_is_slower_only_as_long_as_there_is_some():
    """At half speed beside 6 s of work: 4 s of message become 8 s, or less where the work ends before."""
    long = played_beside(block((message(2, beside=True), kernel(6))))
    short = played_beside(block((message(4, beside=True), kernel(2))))
    alone = played_beside(block((message(4, beside=True),)))
    assert [time.timeline.end_s[0] for time in (long, short, alone)] == [4, 5, 4]


def played_beside(made: Block) -> BlockTime:
    prices = {work.op: work.op.rows / 1000 for work in made.work}  # type: ignore[union-attr]
    free = Launches(costs=FREE, execution="eager", recompute="none")
    return play_block(made, prices, free, 1.0, message_rate=0.5)


def test_kernels_that_are_run_again_cost_the_host_more():
    host = Host(launch_s={"eager": 1.0}, again_s={"full": 0.5})
    made = [replace(block((kernel(0.001),)), phase=phase) for phase in ("forward", "recompute")]
    ways = [Launches(costs=host, execution="eager", recompute=mode) for mode in ("full", "none")]
    times = [play_block(each, {w.op: 0.001 for w in each.work}, way, 1.0).seconds for each in made for way in ways]
    assert times == [1.0, 1.0, 1.5, 1.0]


def test_python_launches_the_forward_pass_and_autograd_the_backward_one_by_hand():
    """Two kernels at 1 s each, and at 0.4 of that backward; messages cost the same."""
    host = Host(launch_s={"eager": 1.0}, message_s={"eager": 0.5}, backward=0.4)
    made = [replace(block((kernel(1), kernel(1), message(1))), phase=phase) for phase in ("forward", "backward")]
    way = Launches(costs=host, execution="eager", recompute="full")
    times = [play_block(each, {w.op: 0.0 for w in each.work}, way, 1.0).seconds for each in made]
    assert times == pytest.approx([2.5, 1.3])


def test_kernels_for_each_expert_are_launched_one_by_one_by_hand():
    """Two further ones forward and seven backward for each of four experts, at 0.1 s."""
    forward = Pointwise(op="row_bias_fp32", rows=8, cols=8, dtype="bf16", groups=4)
    works = (forward, replace(forward, direction="bwd"))
    way = Launches(costs=Host(launch_s={"eager": 1.0}, op_s=0.1), execution="eager", recompute="none")
    assert [way.kernel_s(block((Work(op),)), op) for op in works] == pytest.approx([1.8, 3.8])


def test_a_compiler_has_decided_what_is_run_again():
    host = Host(launch_s={"eager": 1.0, "compile": 1.0}, again_s={"full": 0.5})
    made = replace(block((kernel(0.001),)), phase="recompute")
    ways = [Launches(costs=host, execution=how, recompute="full") for how in ("eager", "compile")]
    assert [play_block(made, {made.work[0].op: 0.001}, way, 1.0).seconds for way in ways] == [1.5, 1.0]


def test_a_host_that_waits_for_a_count_is_not_ahead_by_hand():
    """Launches of 3 and 1 s, kernels of 1 and 2 s. A block: launched at 3, ended at 4, read, launched at 5, ended at 7.

    The next one: launched at 8, ended at 9, read, launched at 10, ended at 12: 5 s, of which the GPU works 3.
    """
    work = (kernel(1), kernel(2, counted=True))
    assert counting_s(work, (1.0, 2.0), (3.0, 1.0)) == 2.0
    assert counting_s(tuple(item._replace(counted=False) for item in work), (1.0, 2.0), (3.0, 1.0)) == 0.0


def test_a_count_leaves_its_wait_in_the_launches_of_a_block():
    host = Host(launch_s={"eager": 1.0})
    counted = played(block((kernel(4), kernel(4, counted=True))), host)
    free = played(block((kernel(4), kernel(4))), host)
    assert (counted.launch_s, free.launch_s) == (1.0, 0.0)  # the launch behind the count, with nothing to run meanwhile
    assert counted.seconds == 9.0


def test_the_launch_behind_a_wait_takes_as_long_as_reading_by_hand():
    """The GPU has ended and waits for the launch of 1 s, and for the 0.5 s that Python takes before it."""
    counted = played(block((kernel(4), kernel(4, counted=True))), Host(launch_s={"eager": 1.0}, read_s=0.5))
    assert (counted.launch_s, counted.seconds) == (1.5, 9.5)


def test_a_segment_takes_the_longer_of_its_kernels_and_its_launches():
    slow, quick = (played(block((kernel(1),)), Host(launch_s={"eager": cost})) for cost in (3.0, 0.5))
    for time, expected in ((slow, (2.0, 6.0, 6.0)), (quick, (2.0, 1.0, 2.0))):
        segment, times = Segment(name="forward", blocks=((time.block, 2),)), {id(time.block): time}
        assert (gpu_s(segment, times), host_s(segment, times), segment_s(segment, times)) == expected


EXPERTS = Work(Gemm(m=8, n=8, k=8, batch=4, dtype="bf16", out_dtype="bf16", grouped=True))
GRAPHS = Host(launch_s={"eager": 10.0, "graph": 1.0}, message_s={"eager": 5.0, "graph": 0.5}, group_s=7.0, expert_s=2.0)


def launched(made: Block, execution: str) -> list[float]:
    host = Launches(costs=GRAPHS, execution=execution, recompute="none")
    return [host.launch_s(made, work) for work in made.work]


def test_a_graph_holds_the_kernels_of_a_layer_but_those_of_experts():
    """By hand: 10 + 7 + 4 x 2 eager; a graph holds routing and dispatch, but not the GEMMs of four experts."""
    layer = block((kernel(1), message(1), EXPERTS))
    assert launched(layer, "eager") == [10.0, 5.0, 25.0]
    assert launched(layer, "graph") == [1.0, 0.5, 18.0]


def test_the_chunks_of_a_message_are_sent_by_one_call():
    layer = block((message(1), message(1, HIDDEN, beside=True), kernel(1)))
    assert launched(layer, "eager") == [5.0, 0.0, 10.0]


def test_chunks_in_user_buffers_cost_their_ranks_by_hand():
    """Four ranks at 0.5; a message of the head, or of another dimension, costs what all do."""
    gather = Collective(op="all_gather", bytes=8.0, ranks=4, stride=1, dtype="bf16")
    layer = block((Work(gather, "tp"), Work(gather, "ep")))
    host = Launches(costs=replace(GRAPHS, chunk_s=0.5), execution="eager", recompute="none", chunked=True)
    assert [host.launch_s(layer, work) for work in layer.work] == [2.0, 5.0]
    assert host.launch_s(replace(layer, name="head"), layer.work[0]) == 5.0
    assert replace(host, chunked=False).launch_s(layer, layer.work[0]) == 5.0


def test_a_block_of_a_ring_costs_python_beside_its_message_but_not_in_a_graph():
    layer = block((Work(Transfer(bytes=8.0, stride=1, ranks=2), "cp", asynchronous=True), kernel(1)))
    costs = replace(GRAPHS, ring_s=3.0)
    eager, graph = (Launches(costs=costs, execution=how, recompute="none") for how in ("eager", "graph"))
    assert [host.launch_s(layer, layer.work[0]) for host in (eager, graph)] == [8.0, 0.5]


def test_embedding_and_head_stay_outside_of_a_graph():
    assert launched(replace(block((kernel(1),)), name="head"), "graph") == [10.0]


def test_a_host_that_reads_the_loss_leaves_the_gpu_waiting_by_hand():
    """Behind the loss the host waits 3, then launches for 1 + 0.5; the second kernel is in time."""
    loss = Work(Pointwise(op="cross_entropy", rows=2000, cols=1, dtype="bf16", direction="bwd"), counted=True)
    host = Host(launch_s={"eager": 1.0}, message_s={"eager": 0.0}, loss_s=3.0, read_s=9.0)
    time = played(block((loss, kernel(4))), host)
    assert (time.gpu_s, time.seconds, time.launch_s) == (10.0, 10.0, 4.0)


def test_the_gpu_waits_for_a_host_that_goes_through_tensors_by_hand():
    """Ten at 0.5, whatever the kernel of 4 hides of its launch."""
    host = Host(launch_s={"eager": 1.0}, message_s={"eager": 0.0}, tensor_s=0.5)
    time = played(replace(block((kernel(4),)), tensors=10.0), host)
    assert (time.gpu_s, time.seconds, time.launch_s) == (9.0, 9.0, 5.0)


def test_a_chain_of_kernels_takes_further_launches_where_python_makes_them() -> None:
    norm = Pointwise(op="rms_norm_eager", rows=8, cols=8, dtype="bf16")
    layer = replace(block((Work(norm),)), name=LAYER)
    costs = Host(launch_s={"eager": 1.0, "compile": 1.0}, chain_s=0.1)
    eager = Launches(costs=costs, execution="eager", recompute="none").kernel_s(layer, norm)
    assert eager == pytest.approx(1.0 + 0.1 * (norm.kernels - 1))
    assert Launches(costs=costs, execution="compile", recompute="none").kernel_s(layer, norm) == 1.0
