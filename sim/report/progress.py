"""A progress bar on standard error, where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from sim.report.terminal import console


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each of `total` pieces of work."""
    shown = console(errors=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
