"""Atomic writes: whole or not at all, and two runs into one place do not touch each other."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from polygene.errors import OutputError
from polygene.runtime.atomic import atomic_file, atomic_folder, write_text


def write_slowly(folder: Path, pipe: Connection) -> None:
    """Write a folder, and wait half-way for a word."""
    with atomic_folder(folder) as partial:
        (partial / "cells").write_text("of the first")
        pipe.send(str(partial))
        pipe.recv()


@pytest.fixture
def other(tmp_path: Path):
    """Another process, half-way in writing out/."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=write_slowly, args=(tmp_path / "out", there))
    process.start()
    process.partial, process.pipe = Path(here.recv()), here
    yield process
    process.kill()
    process.join()


def test_a_second_run_into_a_folder_is_refused_and_the_first_is_not_touched(other, tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=f"written by another process .*-{other.pid}\\)"),
        atomic_folder(tmp_path / "out"),
    ):
        pytest.fail("the second run began")
    assert (other.partial / "cells").read_text() == "of the first"
    other.pipe.send("go on")
    other.join()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/cells").read_text() == "of the first"


def test_what_a_killed_run_left_is_no_obstacle_and_is_removed(other, tmp_path: Path) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert other.partial.exists()
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "cells").write_text("of the second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/cells").read_text() == "of the second"


def test_other_targets_are_written_at_the_same_time(other, tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out.csv") as one, atomic_folder(tmp_path / "out2"):
        one.write_text("1")
    assert other.partial.exists()


def test_only_a_folder_of_its_kind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for replace, why in ((None, "it is not replaced"), ("corpus.json", "it holds no corpus.json")):
        with pytest.raises(OutputError, match=f"exists, and {why}"), atomic_folder(tmp_path / "out", replace=replace):
            pytest.fail("the work began")
    (tmp_path / "out/corpus.json").touch()
    with atomic_folder(tmp_path / "out", replace="corpus.json") as partial:
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    write_text(tmp_path / "a.txt", "before\n")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.txt", "after\n")
    assert (tmp_path / "a.txt").read_bytes() == b"before\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
