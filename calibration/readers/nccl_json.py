"""The JSON of version 3 that nccl-tests writes with `-J`. Its `env` is never looked at: it may hold secrets."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.readers.json_table import json_table
from calibration.readers.kernels import summed
from calibration.readers.nccl_log import Log, checked_row, op_in
from calibration.readers.record import Context, Import, ReaderError, skipped
from calibration.readers.text import Line
from calibration.table import Measurement

VERSION = "3"


def read_json(path: Path, content: str, context: Context) -> Import:
    """The rows of a document. Raises ReaderError."""
    document = json_table(path, content, "was the run killed?")
    if str(document.get("version")) != VERSION:
        raise ReaderError(path, f"version {document.get('version')!r} of the JSON file: known is {VERSION}")
    log = _json_log(path, document, context)
    records: list[Measurement] = []
    left_out: Counter[str] = Counter()
    results = document.get("results")
    if not isinstance(results, list) or not results:
        raise ReaderError(path, "results: missing or empty")
    for place, result in enumerate(results, 1):
        try:
            found = _json_row(log, result)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            said = error.fault if isinstance(error, ReaderError) else f"malformed ({error})"
            raise ReaderError(path, f"results[{place}]: {said}") from None
        records += [found] if isinstance(found, Measurement) else []
        left_out.update([found] if isinstance(found, str) else [])
    return Import(records=tuple(records), notes=skipped(left_out))


def _json_log(path: Path, document: Mapping[str, Any], context: Context) -> Log:
    arguments = document.get("args")
    named = re.search(r"(\w+?)_perf\b", str(arguments[0])) if isinstance(arguments, list) and arguments else None
    log = Log(path=path, context=context, op_name=named[1] if named else context.op or op_in(path.name))
    try:
        for device in document["devices"]:
            place = f"{device['device']} {device.get('device_hex', '')}"
            log.ranks[int(device["rank"])] = (str(device.get("group", 0)), "", str(device["hostname"]), place)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReaderError(path, f"devices: malformed or missing ({error})") from None
    settings = document.get("config")
    settings = settings if isinstance(settings, dict) else {}
    log.in_graph = str(settings.get("graph", "false")).lower() not in ("false", "0")
    iterations = settings.get("iterations")
    log.iterations = int(str(iterations)) if str(iterations).isdigit() else None
    return log


def _json_row(log: Log, result: Mapping[str, Any]) -> Measurement | str:
    line = Line(0, "")
    log.in_place_only = result.get("out_of_place") is None
    block = result["in_place"] if log.in_place_only else result["out_of_place"]
    if block is None:
        return "no times"
    if "cpu_time" in block:
        raise ReaderError(log.path, "holds times of the host (-C), not of the device: run without -C")
    if "nan" in str(block["time"]).lower():
        return "time is not a number"
    wrong = block.get("nwrong")
    log.columns = ["wrong"]
    cells = (str(block["time"]), str(block["alg_bw"]), str(block["bus_bw"]), "N/A" if wrong is None else str(wrong))
    found = checked_row(log, line, int(result["size"]), int(result["count"]), str(result["type"]), cells)
    times = list(_microseconds(block, result))
    if isinstance(found, str) or not times:
        return found
    spread = summed([each * 1e-6 for each in times], op=found.op, context=log.context)
    return replace(found, samples=spread.samples, time_p10_s=spread.time_p10_s, time_p90_s=spread.time_p90_s)


def _microseconds(block: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[float]:
    """Of each iteration, where -I wrote them."""
    for holder in (block, result):
        for value in holder.get("times_us") or ():
            yield float(value)
        if holder.get("times_us"):
            return
