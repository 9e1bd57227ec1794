"""Starts the ranks of one run and waits for them; each writes a log of its own.

`torchrun` is the plain way. `fork` imports the trainer once and forks the ranks of every run from that process: the
training is the same, and a run starts ten seconds sooner. The process that forks must not touch a GPU.
"""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from calibration.steps.case import MEGATRON, TORCHTITAN, TRANSFORMERS

# As in TorchTitan's own launch script; the second keeps `import` from opening the GPU in the process that forks.
ENVIRONMENT = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "TORCH_WARM_POOL": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}
POLL_S = 0.05
GRACE_S = 5.0
Launch = Callable[[Path, int, Path, float], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A program that trains.

    imports: what a process imports before it forks.
    command: of Python, to which the file of a run is added.
    train: the same inside a process.
    environment: that it runs in.
    """

    imports: tuple[str, ...]
    command: tuple[str, ...]
    train: Callable[[Path], None]
    environment: Mapping[str, str]


def launcher(name: str, framework: str) -> Launch:
    """By its name, torchrun or fork, for the cases of a framework."""
    trainer = TRAINERS[framework]
    os.environ.update({**ENVIRONMENT, **trainer.environment})
    if name == "torchrun":
        return partial(torchrun, trainer)
    for module in trainer.imports:
        importlib.import_module(module)
    return partial(forked, trainer)


def torchrun(trainer: Trainer, config: Path, ranks: int, logs: Path, timeout_s: float) -> list[str]:
    """Logs of the ranks, in order."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--redirects=3"]
    command += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", f"--log_dir={logs}"]
    command += [*trainer.command, str(config)]
    with (logs / "launch.txt").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            run.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    found = [_text(sorted(logs.glob(f"*/attempt_0/{rank}/std*.log"), reverse=True)) for rank in range(ranks)]
    return found if any(found) else [_last_words(logs / "launch.txt")]


def forked(trainer: Trainer, config: Path, ranks: int, logs: Path, timeout_s: float) -> list[str]:
    """Logs of the ranks, in order."""
    port = _free_port()
    paths = [logs / f"rank{rank}.txt" for rank in range(ranks)]
    running = {
        _fork(partial(trainer.train, config), _rendezvous(rank, ranks, port), path): rank
        for rank, path in enumerate(paths)
    }
    _wait(set(running), time.monotonic() + timeout_s)
    return [_text([path]) for path in paths]


def _rendezvous(rank: int, ranks: int, port: int) -> Mapping[str, str]:
    """What torchrun would set."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _fork(train: Callable[[], None], environment: Mapping[str, str], log: Path) -> int:
    """Process id of a rank; the rank itself never returns."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        _redirect(log)
        os.environ.update(environment)
        train()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(log: Path) -> None:
    """Python's own output and that of libraries."""
    target = log.open("w", buffering=1)
    for descriptor in (1, 2):
        os.dup2(target.fileno(), descriptor)
    sys.stdout = sys.stderr = target


def _train_titan(config: Path) -> None:
    """What `python -m torchtitan.train` does, but for the two seconds that it sleeps at its end."""
    train = importlib.import_module("torchtitan.train")
    train.time = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda _: None)  # type: ignore[attr-defined]
    train.init_logger()
    trainer = train.Trainer(train.ConfigManager().parse_args(["--job.config_file", str(config)]))
    trainer.train()
    trainer.close()
    train.torch.distributed.destroy_process_group()


def _train_rank(module: str, config: Path) -> None:
    """What a module of ours runs as a rank."""
    importlib.import_module(module).run(config)


def _wait(running: set[int], deadline: float) -> None:
    """Until all have ended; a rank that fails leaves the others a few seconds."""
    while running:
        for child in tuple(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                running.discard(child)
                _kill_group(child)
                deadline = min(deadline, time.monotonic() + GRACE_S) if status else deadline
        if time.monotonic() > deadline:
            _kill(running)
            return
        time.sleep(POLL_S)


def _kill(running: set[int]) -> None:
    for child in running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _kill_group(child)


def _kill_group(rank: int) -> None:
    """What a rank started: a data loader that outlives it holds its GPU memory."""
    with suppress(ProcessLookupError):
        os.killpg(rank, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_words(log: Path) -> str:
    """Of a launch that no rank came out of, as a log reads that names an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"LaunchError: {lines[-1] if lines else 'it said nothing'}"


def _text(paths: Sequence[Path]) -> str:
    return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())


def tidy(folder: Path) -> None:
    """Keeps the traces of what TorchTitan dumped."""
    for trace in folder.glob("dump/profile_traces/**/*.json*"):
        trace.replace(folder / trace.name)
    shutil.rmtree(folder / "dump", ignore_errors=True)


TRAINERS: Mapping[str, Trainer] = {
    TORCHTITAN: Trainer(
        imports=("torchtitan.train", "calibration.steps.titan"),
        command=("-m", "torchtitan.train", "--job.config_file"),
        train=_train_titan,
        environment={},
    ),
    MEGATRON: Trainer(
        imports=("calibration.steps.megatron",),
        command=("-m", "calibration.steps.megatron"),
        train=partial(_train_rank, "calibration.steps.megatron"),
        environment={"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
    ),
    TRANSFORMERS: Trainer(
        imports=("calibration.steps.hf",),
        command=("-m", "calibration.steps.hf"),
        train=partial(_train_rank, "calibration.steps.hf"),
        environment={"HF_HUB_OFFLINE": "1"},
    ),
}
