"""SQLite files of profilers, read only."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from calibration.readers.record import ReaderError

MAGIC = "SQLite format 3"


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as a database. Raises ReaderError where it is damaged."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as base:
            base.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
            yield base
    except sqlite3.Error as error:
        raise ReaderError(path, f"is no readable SQLite file: {error}") from None


def tables(base: sqlite3.Connection) -> set[str]:
    """Names of tables and views."""
    return {str(name) for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}


def columns(base: sqlite3.Connection, table: str) -> set[str]:
    """Of a table or view that exists."""
    return {str(row[1]) for row in base.execute(f'PRAGMA table_info("{table}")')}


def has_table(head: str, path: Path, prefix: str) -> bool:
    """Whether this is an SQLite file with a table or view whose name begins like this."""
    if not head.startswith(MAGIC):
        return False
    try:
        with opened(path) as base:
            return any(name.startswith(prefix) for name in tables(base))
    except ReaderError:
        return False
