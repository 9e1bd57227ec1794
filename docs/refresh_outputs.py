"""Runs the commands of the documentation again and puts their output in its place.

    python docs/refresh_outputs.py

A line `<!-- output of: COMMAND -->` is followed by a fenced block, which is replaced by what COMMAND prints.
`<!-- output of: COMMAND (lines 1-9, 20-24) -->` keeps these lines, counted from 1, and `(parts sweeps, memory)` what
stands between blank lines and begins with these words; `...` stands for the rest.
A COMMAND is `steptime ...`, or `cat FILE`; paths start at the root of the repository, `*` stands for all that match.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?P<head><!-- output of: (?P<command>.*?)"
    r"(?: \((?:lines (?P<lines>[\d, -]+)|parts (?P<parts>[^)]+))\))? -->\n```\w*\n)"
    r".*?(?P<tail>^```$)",
    re.DOTALL | re.MULTILINE,
)
LEFT_OUT = "..."


def refreshed(page: str) -> str:
    """The text of a page with every output made anew."""
    return BLOCK.sub(lambda found: f"{found['head']}{_shown(found)}\n{found['tail']}", page)


def _shown(found: re.Match[str]) -> str:
    lines = [line.rstrip() for line in output(found["command"]).rstrip("\n").splitlines()]
    if found["parts"]:
        lines = begun(lines, found["parts"])
    return "\n".join(kept(lines, found["lines"]) if found["lines"] else lines)


def output(command: str) -> str:
    """What a command prints, standard error behind standard output; raises ValueError for other programs."""
    program, *words = shlex.split(command)
    arguments = [argument for word in words for argument in expanded(word)]
    if program == "cat":
        return "".join((ROOT / argument).read_text("utf-8") for argument in arguments)
    if program != "steptime":
        raise ValueError(f"{command}: only steptime and cat are run")
    line = [sys.executable, "-m", "sim.cli", *arguments]
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(line, cwd=ROOT, env=environment, check=False, capture_output=True, encoding="utf-8")
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout + done.stderr


def expanded(word: str) -> list[str]:
    """The paths that a pattern stands for; any other word as it is."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(word)) if "*" in word else [word]


def kept(lines: list[str], ranges: str) -> list[str]:
    """The lines of ranges such as `1-9, 20-24`, with a mark where others were left out."""
    found: list[str] = []
    behind = 0
    for part in ranges.split(","):
        first, _, last = part.strip().partition("-")
        start, stop = int(first) - 1, int(last or first)
        found += [LEFT_OUT] * (start > behind)
        found += lines[start:stop]
        behind = stop
    return [*found, *[LEFT_OUT] * (behind < len(lines))]


def begun(lines: list[str], words: str) -> list[str]:
    """The parts between blank lines that begin with words such as `sweeps, memory`, with a mark for others."""
    wanted = [each.strip() for each in words.split(",")]
    parts = [list(part) for some, part in groupby(lines, bool) if some]
    taken = [any(part[0].startswith(word) for word in wanted) for part in parts]
    if sum(taken) < len(wanted):
        raise ValueError(f"{words}: begin {sum(taken)} parts of the output")
    found: list[str] = []
    for part, keeps in zip(parts, taken, strict=True):
        if keeps:
            found += [*([""] if found and found[-1] != LEFT_OUT else []), *part]
        elif found[-1:] != [LEFT_OUT]:
            found.append(LEFT_OUT)
    return found


def main() -> None:
    """Refresh every page."""
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        before = path.read_text("utf-8")
        after = refreshed(before)
        if after != before:
            path.write_text(after, "utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
