"""What the host pays: launches, layers forward and backward, an optimizer step, replays of a graph.

`rows` is how many calls or kernels a sample holds; the time is that of one. `queued_kernel` and `graph_kernel`
are tiny kernels as the GPU gets through them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from calibration.bench._session import Session, Timing, Work, measured, timing
from calibration.table import Measurement

NAME = "host"
WEIGHT = 1.0
RANKS = 1

REPEATS = 11
LAYERS = 50
WIDTH = 256
ROWS = 16

# kernel -> calls of one sample
KERNELS: Mapping[str, int] = {
    "launch": 1000,
    "launch_allocating": 1000,
    "linear_forward": 500,
    "layer_norm_forward": 500,
    "attention_forward": 200,
    "module_forward": 2 * LAYERS,
    "module_backward": 2 * LAYERS,
    "queued_kernel": 500,
    "graph_kernel": 1000,
    "graph_replay": 100,
    "adamw_fused_step": 20,
    "adamw_foreach_step": 10,
    "clip_grad_norm": 20,
    "read_back": 100,
}


def shapes(seed: int, count: int) -> Iterator[Measurement]:
    """Each once; nothing is left to chance."""
    del seed
    rows = (Measurement(op="host", dtype="bf16", kernel=name, rows=calls) for name, calls in KERNELS.items())
    return islice(rows, count)


def run(shape: Measurement, session: Session) -> Measurement:
    """Small tensors, so that the GPU never holds the host up."""
    calls = shape.rows or 1
    if shape.kernel in PASSES:
        return measured(shape, PASSES[shape.kernel](session, calls))
    make = WORKS[shape.kernel or "launch"]
    return measured(shape, _host_s(session, make(session), calls))


def _host_s(session: Session, work: Work, calls: int) -> Timing:
    """Of one call, until it returns."""
    times = []
    for _ in range(REPEATS + 1):
        session.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - start) / calls)
    session.synchronize()
    return timing(times[1:])


def _launch(session: Session) -> Work:
    left, right = session.random(1), session.random(1)
    return lambda: left.add_(right)


def _allocating(session: Session) -> Work:
    left, right = session.random(1), session.random(1)
    return lambda: left + right


def _functional(name: str) -> Callable[[Session], Work]:
    def make(session: Session) -> Work:
        function = getattr(session.torch.nn.functional, name)
        inputs = session.random(ROWS, WIDTH, grad=True)
        second = session.random(WIDTH, WIDTH, grad=True) if name == "linear" else (WIDTH,)
        return lambda: function(inputs, second)

    return make


def _attention(session: Session) -> Work:
    compute = session.torch.nn.functional.scaled_dot_product_attention
    heads = session.random(1, 8, 64, 64, grad=True)
    return lambda: compute(heads, heads, heads, is_causal=True)


def _modules(session: Session) -> Any:
    nn = session.torch.nn
    options = {"device": session.device, "dtype": session.dtype("bf16")}
    pairs = [[nn.LayerNorm(WIDTH, **options), nn.Linear(WIDTH, WIDTH, bias=False, **options)] for _ in range(LAYERS)]
    return nn.Sequential(*(module for pair in pairs for module in pair))


def _parameters(session: Session) -> list[Any]:
    parameters = [session.random(WIDTH, WIDTH, dtype="fp32", grad=True) for _ in range(72)]
    for parameter in parameters:
        parameter.grad = session.torch.randn_like(parameter)
    return parameters


def _adamw(**options: Any) -> Callable[[Session], Work]:
    def make(session: Session) -> Work:
        optimizer = session.torch.optim.AdamW(_parameters(session), lr=1e-6, **options)
        step: Work = optimizer.step
        return step

    return make


def _clip(session: Session) -> Work:
    parameters = _parameters(session)
    return lambda: session.torch.nn.utils.clip_grad_norm_(parameters, 1.0)


def _read_back(session: Session) -> Work:
    read: Work = session.random(1).item
    return read


def _graph(session: Session, work: Work, kernels: int) -> Any:
    torch = session.torch
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    session.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(kernels):
            work()
    return graph


def _replay(session: Session) -> Work:
    replay: Work = _graph(session, _launch(session), 1).replay
    return replay


def _pass(*, backward: bool) -> Callable[[Session, int], Timing]:
    """Of a stack of modules, for each module."""

    def taken(session: Session, calls: int) -> Timing:
        model, inputs = _modules(session), session.random(ROWS, WIDTH, grad=True)
        times = []
        for _ in range(REPEATS + 2):
            model.zero_grad(set_to_none=True)
            session.synchronize()
            start = time.perf_counter()
            out = model(inputs)
            if backward:
                gradient = session.torch.ones_like(out)
                session.synchronize()
                start = time.perf_counter()
                out.backward(gradient)
            times.append((time.perf_counter() - start) / calls)
        return timing(times[2:])

    return taken


def _queued(session: Session, calls: int) -> Timing:
    """On the GPU, all launched before the first runs."""
    work = _launch(session)

    def many() -> None:
        for _ in range(calls):
            work()

    return _each(session.burst(many, gap_s=8e-3), calls)


def _graphed(session: Session, calls: int) -> Timing:
    graph = _graph(session, _launch(session), calls)
    return _each(session.burst(graph.replay), calls)


def _each(taken: Timing, calls: int) -> Timing:
    return timing([taken.p10_s / calls, taken.median_s / calls, taken.p90_s / calls])._replace(samples=taken.samples)


PASSES: Mapping[str | None, Callable[[Session, int], Timing]] = {
    "module_forward": _pass(backward=False),
    "module_backward": _pass(backward=True),
    "queued_kernel": _queued,
    "graph_kernel": _graphed,
}

WORKS: Mapping[str, Callable[[Session], Work]] = {
    "launch": _launch,
    "launch_allocating": _allocating,
    "linear_forward": _functional("linear"),
    "layer_norm_forward": _functional("layer_norm"),
    "attention_forward": _attention,
    "graph_replay": _replay,
    "adamw_fused_step": _adamw(fused=True),
    "adamw_foreach_step": _adamw(foreach=True),
    "clip_grad_norm": _clip,
    "read_back": _read_back,
}
