"""Several processes, as torchrun starts them: one output, the same as that of one process, or none and a message."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene.errors import RunEndedError
from polygene.model.checkpoint import PolyGene
from polygene.runtime.distributed import process_group
from polygene.runtime.ranks import own_rows
from polygene.tl import annotate, embed

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node"]
VERBS = {"annotate": annotate, "embed": embed}


@pytest.fixture
def folder(tiny_model: PolyGene, make_adata: Callable[..., ad.AnnData], tmp_path: Path) -> Path:
    """A folder with a checkpoint, and 1,203 cells and two."""
    tiny_model.save_pretrained(tmp_path / "model")
    make_adata(1_203, 36).write_h5ad(tmp_path / "cells.h5ad")
    make_adata(2, 36).write_h5ad(tmp_path / "two.h5ad")
    return tmp_path


def start(n_processes: int, verb: str, cells: Path, out: Path, *program: str, **environment: str) -> subprocess.Popen:
    """Start `polygene annotate` or `embed` in several processes, which meet on the loopback alone."""
    arguments = [verb, str(cells), "--out", str(out), "--model", str(cells.parent / "model")]
    command = [sys.executable, *LAUNCH, str(n_processes), *(program or ("-m", "polygene")), *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def finish(process: subprocess.Popen) -> str:
    """Wait for it to end well, and return what it said in the log."""
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def messages(said: str) -> list[str]:
    """Pick what PolyGene said when it failed; the launcher says more."""
    return [line for line in said.splitlines() if line.startswith("polygene: ")]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    model, cells = PolyGene.from_pretrained(folder / "model"), folder / "cells.h5ad"
    running = {verb: start(2, verb, cells, folder / f"{verb}2.h5ad") for verb in VERBS}
    for verb, function in VERBS.items():
        function(cells, model, out=folder / f"{verb}1.h5ad")
        said = finish(running[verb])
        assert said.count("cells/s (process 1 of 2)") == said.count("cells/s") == 1, "only the first process speaks"
        one, two = (ad.read_h5ad(folder / f"{verb}{n}.h5ad") for n in (1, 2))
        assert two.obs_names.tolist() == one.obs_names.tolist()
        assert list(two.obs) == list(one.obs)
        for name, column in one.obs.items():
            if column.dtype == np.float32:
                np.testing.assert_allclose(two.obs[name], column, atol=1e-5)
            else:
                pd.testing.assert_series_equal(two.obs[name], column)
        assert set(two.obsm) == set(one.obsm) != set()
        for name, array in one.obsm.items():
            np.testing.assert_allclose(two.obsm[name], array, atol=1e-5)
        np.testing.assert_array_equal(two.X.toarray(), one.X.toarray())
    assert {path.name for path in folder.iterdir()} == names | {f"{verb}{n}.h5ad" for verb in VERBS for n in (1, 2)}


@pytest.mark.slow
def test_more_processes_than_cells_give_what_one_gives(folder: Path) -> None:
    running = start(3, "annotate", folder / "two.h5ad", folder / "3.parquet")
    annotate(folder / "two.h5ad", PolyGene.from_pretrained(folder / "model"), out=folder / "1.parquet")
    finish(running)
    one, three = (pd.read_parquet(folder / f"{n}.parquet") for n in (1, 3))
    assert three.index.tolist() == one.index.tolist() == ["cell0", "cell1"]
    pd.testing.assert_frame_equal(three, one, rtol=1e-5)


@pytest.mark.slow
def test_a_file_that_none_can_read_is_reported_once(folder: Path) -> None:
    (folder / "two.h5ad").write_text("no cells")
    names = {path.name for path in folder.iterdir()}
    process = start(2, "annotate", folder / "two.h5ad", folder / "out.h5ad")
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert len(messages(said)) == said.count("not an .h5ad file") == 1
    assert {path.name for path in folder.iterdir()} == names


BROKEN = """
import os, signal, sys
import polygene.tl._annotate
from polygene.cli.commands import main

tl = sys.modules["polygene.tl._annotate"]
answer = tl.predict_labels

def answer_or_die(*arguments, **options):
    if os.environ["RANK"] == "1":
        if os.environ["HOW"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(28, "No space left on device")
    return answer(*arguments, **options)

tl.predict_labels = answer_or_die
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("killed", "another process of this run"),
        ("full", "process 2 of 2 failed: .*out.h5ad' could not be written.*No space left on device"),
    ],
)
def test_a_process_that_ends_early_ends_all_with_a_message_and_leaves_nothing(
    how: str, says: str, folder: Path
) -> None:
    (folder / "broken.py").write_text(BROKEN)
    names = {path.name for path in folder.iterdir()}
    process = start(2, "annotate", folder / "cells.h5ad", folder / "out.h5ad", str(folder / "broken.py"), HOW=how)
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    (message,) = messages(said)
    assert re.search(says, message)
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(("n", "n_processes"), [(10, 3), (2, 5), (0, 2), (7, 1)])
def test_every_row_falls_to_one_process(n: int, n_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(n_processes))
    rows: list[int] = []
    for rank in range(n_processes):
        monkeypatch.setenv("RANK", str(rank))
        rows += own_rows(n)
    assert rows == list(range(n))


def test_one_process_waits_for_nobody() -> None:
    with process_group() as gather:
        assert gather("mine") == ["mine"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_process_that_is_ended_from_outside_ends_in_order(tmp_path: Path) -> None:
    def wait_until_ended() -> None:
        with process_group():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(30)

    with pytest.raises(RunEndedError, match="SIGTERM"):
        wait_until_ended()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_processes_that_cannot_be_met_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunEndedError, match="Start with torchrun"), process_group():
        pytest.fail("there is nobody to meet")
