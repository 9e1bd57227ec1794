"""What a rank of our own does around a step: clock, metrics and trace, for `calibration.steps.log`."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]

from calibration.steps.case import Case, Shape
from calibration.steps.log import ACTIVE, DATA, METRICS, RESERVED, TOKENS

GIB = float(1 << 30)
Step = Callable[[], float]  # one step of training, and its loss


def joined() -> None:
    """The process group of the ranks that the environment names, each on its own GPU."""
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))


def read(config: Path) -> tuple[Case, Shape, dict[str, Any]]:
    """Case and shape of a file, and all of it."""
    document = json.loads(config.read_text())
    return Case(**document["case"]), Shape(**document["shape"]), document


def trained(config: Path, step: Step) -> None:
    """A line of metrics for each step, and a Kineto trace of one more where the file asks for it."""
    case, _, document = read(config)
    for number in range(1, document["steps"] + 1):
        loss, took_s = timed(step)
        found = record(number, loss, case.global_batch * case.seq_len / case.gpus / took_s)
        print(METRICS + json.dumps(found), flush=True)  # noqa: T201
    if document["trace"]:
        traced(step, config.with_suffix(f".{torch.distributed.get_rank()}.trace.json"))
    torch.distributed.destroy_process_group()


def timed(step: Step) -> tuple[float, float]:
    """A loss, and the seconds of its step on this rank's clock: all ranks begin it together."""
    torch.cuda.synchronize()
    torch.distributed.barrier()
    began = time.perf_counter()
    loss = step()
    torch.cuda.synchronize()
    return loss, time.perf_counter() - began


def record(number: int, loss: float, tokens_per_s_per_gpu: float) -> dict[str, float]:
    """In TorchTitan's words."""
    memory = torch.cuda.memory_stats()
    return {
        "step": number,
        TOKENS: tokens_per_s_per_gpu,
        ACTIVE: memory["active_bytes.all.peak"] / GIB,
        RESERVED: memory["reserved_bytes.all.peak"] / GIB,
        DATA: 0.0,
        "loss_metrics/global_avg_loss": loss,
    }


def traced(step: Step, path: Path) -> None:
    """A Kineto trace of one more step."""
    with torch.profiler.profile() as profile:
        timed(step)
    profile.export_chrome_trace(str(path))
