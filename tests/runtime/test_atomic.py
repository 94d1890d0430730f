"""Atomic writes: whole or not at all, and two runs into one place do not touch each other."""

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from polygene.errors import OutputError
from polygene.runtime.atomic import atomic_file, atomic_folder, atomic_update, locked, refuse_input, write_text, writing


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
    there.close()  # so that a child that dies ends the wait
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


def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/out.csv").write_text("before")
    (tmp_path / "link.csv").symlink_to("real/out.csv")
    (tmp_path / "model").symlink_to("real", target_is_directory=True)
    with atomic_file(tmp_path / "link.csv") as partial:
        partial.write_text("after")
    with atomic_update(tmp_path / "model", last="sums") as folder:
        (folder / "sums").write_text("1")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "model").is_symlink()
    assert {path.name: path.read_text() for path in (tmp_path / "real").iterdir()} == {"out.csv": "after", "sums": "1"}


def test_a_new_folder_appears_whole_and_what_is_in_another_stays(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: pytest.fail("moved file by file"))
        with atomic_update(tmp_path / "new", last="b") as folder:
            (folder / "a").write_text("1")
            (folder / "b").write_text("1")
    (tmp_path / "new/mine").write_text("mine")
    with atomic_update(tmp_path / "new", last="b") as folder:
        (folder / "b").write_text("2")
    contents = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    assert contents == {"a": "1", "b": "2", "mine": "mine"}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux alone names open files there")
def test_files_and_the_names_of_their_folder_are_on_the_disk_before_the_last_name(tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded(number: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "replace", lambda one, other: (done.append(f"-> {other.name}"), replace(one, other)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").touch()
    with atomic_update(tmp_path / "run", last="sums") as folder:
        (folder / "sums").write_text("1")
        (folder / "weights").write_text("1")
    assert [one for one in done if ".part" not in one] == ["-> weights", str(tmp_path / "run"), "-> sums",
                                                            str(tmp_path / "run"), str(tmp_path)]  # fmt: skip
    assert {Path(one).name for one in done[:2]} == {"sums", "weights"}


def test_no_output_replaces_an_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cells = tmp_path / "in/cells.h5ad"
    cells.touch()
    (tmp_path / "link.h5ad").symlink_to(cells)
    os.link(cells, tmp_path / "hard.h5ad")
    for out in (
        cells,
        tmp_path / "in/../in/cells.h5ad",
        tmp_path / "link.h5ad",
        tmp_path / "hard.h5ad",
        tmp_path / "in",
    ):
        with pytest.raises(OutputError, match=r"would replace .*cells\.h5ad', which is read"):
            refuse_input(out, None, "https://host/cells.h5ad", cells)
    for out in (tmp_path / "in/other.h5ad", tmp_path / "none/cells.h5ad"):
        refuse_input(out, cells)


def test_one_run_may_lock_a_place_twice_and_another_not_at_all(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        with locked(tmp_path / "out"):
            pass
        assert (tmp_path / ".out.lock").exists()
        with ThreadPoolExecutor() as pool, pytest.raises(OutputError, match="written by another process"):
            pool.submit(locked(tmp_path / "out").__enter__).result()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("basic_ios::clear: iostream error"),
        ValueError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_as_that_whoever_meets_it(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="could not be written"), writing(tmp_path / "out"):
        raise error
    with pytest.raises(RuntimeError, match=r"^other$"), writing(tmp_path / "out"):
        raise RuntimeError("other")  # noqa: EM101
