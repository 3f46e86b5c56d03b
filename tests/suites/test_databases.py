"""SQLite on a volume: its journals and locks hold, also when a process dies in a transaction."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suites.programs import run

pytestmark = pytest.mark.integration

ROWS = 400

#: Changes every row in one transaction, with a cache so small that changed pages go to the
#: database before it commits; then says so and waits to be killed.
HALF_WAY = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 4")
connection.execute("BEGIN")
connection.execute("UPDATE parts SET body = zeroblob(900)")
print("half-way", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def opened(path: Path, mode: str):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
        yield connection


def fill(connection) -> None:
    connection.execute("CREATE TABLE parts (number INTEGER PRIMARY KEY, body BLOB)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO parts VALUES (?, ?)", ((n, f"{n:>4}".encode() * 200) for n in range(ROWS))
    )
    connection.execute("COMMIT")


def check(connection) -> None:
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT number, body FROM parts ORDER BY number").fetchall()
    assert rows == [(n, f"{n:>4}".encode() * 200) for n in range(ROWS)]


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite_commits_rolls_back_and_survives_a_remount(blob, mode):
    with blob() as top:
        with opened(top / "data.db", mode) as connection:
            fill(connection)
            for number in range(20):
                connection.execute("BEGIN")
                connection.execute("UPDATE parts SET body = 'x' WHERE number % 20 = ?", (number,))
                connection.execute("ROLLBACK")
                connection.execute("INSERT INTO parts VALUES (?, 'y')", (ROWS + number,))
            connection.execute("DELETE FROM parts WHERE number >= ?", (ROWS,))
            connection.execute("VACUUM")
            check(connection)
    with blob() as top:
        with opened(top / "data.db", mode) as connection:
            check(connection)


@pytest.mark.parametrize("mode", ["delete", "truncate"])
def test_a_process_killed_in_a_transaction_leaves_the_rows_as_they_were(volume, mode):
    with volume() as top:
        with opened(top / "data.db", mode) as connection:
            fill(connection)
        before = (top / "data.db").read_bytes()
        with subprocess.Popen(
            [sys.executable, "-c", HALF_WAY, top / "data.db"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout.readline() == b"half-way\n"
            process.kill()
        assert (top / "data.db").read_bytes() != before, "nothing was half-way"
        assert (top / "data.db-journal").stat().st_size > 0
    with volume() as top:
        with opened(top / "data.db", mode) as connection:
            check(connection)


def test_two_processes_see_and_lock_out_each_other(volume):
    with volume() as top:
        path = top / "data.db"
        with opened(path, "delete") as connection:
            fill(connection)
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(AssertionError, match="database is locked"):
                run("sqlite3", path, "DELETE FROM parts", cwd=top)
            connection.execute("COMMIT")
            run("sqlite3", path, "UPDATE parts SET body = 'other' WHERE number = 7", cwd=top)
            found = connection.execute("SELECT body FROM parts WHERE number = 7").fetchone()
            assert found == ("other",)
            assert run("sqlite3", path, "PRAGMA integrity_check", cwd=top).strip() == "ok"


def test_the_shell_dumps_and_restores(blob):
    with blob() as top:
        with opened(top / "data.db", "delete") as connection:
            fill(connection)
        dump = run("sqlite3", top / "data.db", ".dump", cwd=top)
        run("sqlite3", top / "copy.db", cwd=top, stdin=dump)
        assert os.stat(top / "copy.db").st_size > ROWS * 800
        with opened(top / "copy.db", "delete") as connection:
            check(connection)
