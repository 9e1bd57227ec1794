"""nccl-tests and rccl-tests: the text they print, and the JSON of version 3 that `-J` writes.

A row is one size, out of place (in place where that alone was run). `bytes` is their column `size`, the time is
the mean over the iterations of one operation. Each row is checked against the bandwidth and the element count
beside it. The environment that the JSON file holds is never looked at.
"""

import re
from collections import Counter
from pathlib import Path

from calibration.readers.nccl_json import read_json
from calibration.readers.nccl_log import DTYPES, OPS, Log, checked_row, letters, op_in
from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.text import Line, lines, text, unprefixed
from calibration.table import Measurement

NAME = "nccl-tests"
TITLE = "nccl-tests and rccl-tests, text or JSON"
_SETTINGS = re.compile(r"#\s*nThread\s+(\d+)\s+nGpus\s+(\d+)\s+minBytes")
_RANK = re.compile(r"#\s*Rank\s+(\d+)\s+(?:Group\s+(\d+)\s+)?Pid\s+(\d+)\s+on\s+(\S+)\s+device\s+(\d+)\s+\[([^\]]*)\]")
_NAMED = re.compile(r"(?:Collective test starting:\s*|(?:^|[/\s]))(\w+?)_perf\b")
_HEADER = re.compile(r"#\s*size\s+count\s+type\b")
_NOISE = re.compile(r"\S+:\d+:\d+ +(?:\[\d+\] +)?(?:NCCL|RCCL).*$")
_DATA = re.compile(r"^\s*\d+\s+\d+\s+([A-Za-z]\w+)\s")
_SUMMARY = re.compile(r"#\s*(?:Out of bounds values|Avg bus bandwidth)")
_REDOPS = {"sum", "prod", "max", "min", "avg", "mulsum", "none", "all"}


def claims(head: str, path: Path) -> bool:
    """The line of settings, or the keys of the JSON file."""
    del path
    if head.lstrip().startswith("{"):
        keys = ('"version"', '"start_time"', '"args"')
        return all(key in head for key in keys) and "_perf" in head and '"traceEvents"' not in head
    return bool(_SETTINGS.search(head)) or bool(_HEADER.search(head))


def read(path: Path, context: Context) -> Import:
    """Rows of one log; sizes of zero, wrong results and ops that the table does not have are noted."""
    content = text(path)
    if content.lstrip().startswith("{"):
        return read_json(path, content, context)
    return _read_text(path, context)


def _read_text(path: Path, context: Context) -> Import:
    log = Log(path=path, context=context, op_name=context.op or op_in(path.name))
    records: list[Measurement] = []
    left_out: Counter[str] = Counter()
    for line in lines(path):
        plain = _NOISE.sub("", unprefixed(line.text)) if not _RANK.search(line.text) else line.text
        if _is_row(plain, log):
            found = _row(log, Line(line.number, plain))
            records += [found] if isinstance(found, Measurement) else []
            left_out.update([found] if isinstance(found, str) else [])
        else:
            _take(log, Line(line.number, plain))
    if not records and not left_out:
        raise ReaderError(path, "has no rows of results")
    cut = () if log.finished else ("ends without its summary: the run or the file was cut off",)
    return Import(records=tuple(records), notes=(*skipped(left_out), *cut))


def _is_row(plain: str, log: Log) -> bool:
    row = _DATA.match(plain)
    return bool(row) and (bool(log.columns) or (row is not None and row[1] in DTYPES))


def _take(log: Log, line: Line) -> None:
    """A line that is no row: settings, a rank, the name of the collective, the header."""
    if _SETTINGS.search(line.text):
        _start(log, line)
    elif rank := _RANK.search(line.text):
        _add_rank(log, line, rank)
    elif _HEADER.search(line.text):
        _set_columns(log, line)
    elif "#" in line.text and re.search(r"\b(out-of-place|in-place)\b", line.text) and "_perf" not in line.text:
        log.in_place_only = "out-of-place" not in line.text
    elif _SUMMARY.search(line.text):
        log.finished = True
    elif (named := _NAMED.search(line.text)) and letters(named[1]) in OPS:
        log.op_name = letters(named[1])


def _start(log: Log, line: Line) -> None:
    if log.rows_seen:  # the next run of a log of several
        log.ranks, log.columns, log.rows_seen, log.finished = {}, [], False, False
    iterations = re.search(r"(?<!warmup )\biters:\s*(\d+)", line.text)
    log.iterations = int(iterations[1]) if iterations else None
    log.in_graph = bool(re.search(r"\bgraph:\s*[1-9]", line.text))


def _add_rank(log: Log, line: Line, match: re.Match[str]) -> None:
    rank, group, pid, host, device, bus = match.groups()
    known = log.ranks.setdefault(int(rank), (group or "0", pid, host, f"{device} {bus}"))
    if known[1:3] != (pid, host):
        fault = f"rank {rank} is there twice: processes that did not find each other (nccl-tests built without MPI?)"
        raise ReaderError(log.path, fault, line.number)


def _set_columns(log: Log, line: Line) -> None:
    columns = line.text.replace("#wrong", "wrong").replace("#", " ").split()
    if "cputime" in columns:
        raise ReaderError(log.path, "holds times of the host (-C), not of the device: run without -C", line.number)
    if columns.count("time") not in (1, 2) or columns[columns.index("time") :][1:3] != ["algbw", "busbw"]:
        fault = f"unknown columns: {' '.join(columns)}; should be time, algbw, busbw, once or twice"
        raise ReaderError(log.path, fault, line.number)
    log.columns = columns


def _row(log: Log, line: Line) -> Measurement | str:
    """A row of results, or why it is none of the table."""
    if not log.columns:
        raise ReaderError(log.path, "a row of results before its header", line.number)
    log.rows_seen = True
    tokens = line.text.split()
    right = len(log.columns) - log.columns.index("time")
    left = tokens[: max(len(tokens) - right, 0)]
    if not 3 <= len(left) <= 5 or not all(_is_option(token) for token in left[3:]):
        raise ReaderError(log.path, f"{len(tokens)} cells do not fit the header: cut off or mixed", line.number)
    size, count = int(left[0]), int(left[1])
    return checked_row(log, line, size, count, left[2], _block(log, tokens[len(left) :]))


def _is_option(token: str) -> bool:
    return token in _REDOPS or bool(re.fullmatch(r"-?\d+", token))


def _block(log: Log, tokens: list[str]) -> tuple[str, str, str, str]:
    """time, algbw, busbw and wrong: out of place, or else in place."""
    names = log.columns[log.columns.index("time") :]
    first = dict(zip(names, tokens[: len(names)][:4], strict=False))
    if first["time"] == "N/A" and names.count("time") == 2:
        second = names.index("time", 1)
        first = dict(zip(names[second:], tokens[second:], strict=False))
    return first["time"], first["algbw"], first["busbw"], first.get("wrong", first.get("error", "N/A"))
