"""SQLite files with the tables that Nsight Systems and rocprofv3 document."""

import sqlite3
from contextlib import closing
from pathlib import Path


def nsys(path: Path, version: str = "3.25.0") -> Path:
    """Two runs of one kernel, one of another, a copy; names by id."""
    with closing(sqlite3.connect(path)) as base:
        base.executescript(
            """
            CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT NOT NULL);
            CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER,
                correlationId INTEGER, demangledName INTEGER, shortName INTEGER, graphNodeId INTEGER);
            CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER,
                correlationId INTEGER, bytes INTEGER, copyKind INTEGER);
            CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT);
            INSERT INTO StringIds VALUES (1, 'void scale<float>(float*, int)'), (2, 'scale'), (3, 'fill(int)');
            INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (9000, 12000, 0, 7, 2, 1, 2, NULL),
                (1000, 2000, 0, 7, 1, 1, 2, NULL), (3000, 3500, 0, 7, 3, 3, 3, 5);
            INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (100, 900, 0, 13, 4, 4194304, 1);
            """
        )
        base.execute("INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_SCHEMA_VERSION', ?)", [version])
        base.commit()
    return path


def rocpd(path: Path) -> Path:
    """Two kernels in a view `kernels` over a table with the run's id in its name."""
    with closing(sqlite3.connect(path)) as base:
        base.executescript(
            """
            CREATE TABLE rocpd_kernel_dispatch_00a1 (name TEXT, start INTEGER, end INTEGER, stream TEXT);
            INSERT INTO rocpd_kernel_dispatch_00a1 VALUES ('relax(float*) [clone .kd]', 1000, 4000, 'Stream 1'),
                ('relax(float*) [clone .kd]', 5000, 6000, 'Stream 1');
            CREATE VIEW kernels AS SELECT name, start, end, stream FROM rocpd_kernel_dispatch_00a1;
            """
        )
        base.commit()
    return path
