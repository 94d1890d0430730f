"""Results as a folder of Parquet files: what they hold, who opens them, and what a second run does."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from polygene.errors import DataError, OutputError
from polygene.io.read import open_cells
from polygene.io.results import Results, ResultsChunk
from polygene.io.write import write_results
from polygene.runtime.ranks import Part

N, OF_A_FILE = 20, 6


class StoppedError(Exception):
    """What a test stops a run with."""


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polygene.io.folder.CELLS", OF_A_FILE)


@pytest.fixture
def source(make_adata: Callable[..., object], tmp_path: Path) -> Path:
    make_adata(N, 5).write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def results(source: Path, *, stop_at: int = N, model: str = "m", asked: list[int] | None = None) -> Results:
    """Results for the cells, three at a time; `asked` collects the rows that are computed."""
    cells = open_cells(source)

    def chunks(rows: range) -> Iterator[ResultsChunk]:
        names = np.concatenate(list(cells.names()))
        for first in range(rows.start, rows.stop, 3):
            if first >= stop_at:
                raise StoppedError
            some = np.arange(first, min(first + 3, rows.stop))
            if asked is not None:
                asked.extend(some.tolist())
            columns = {"label": pd.Categorical.from_codes(some % 2, ["a", "b"]), "p": some / np.float32(7)}
            yield ResultsChunk(pd.DataFrame(columns, index=names[some]), {"unused": np.zeros((len(some), 2))})

    return Results(verb="annotate", cells=cells, chunks=chunks, uns={"model": model, "given": np.array([], dtype=str)})


def table_in(folder: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))]
    return pd.concat(parts)


def expected(source: Path) -> pd.DataFrame:
    chunks = list(results(source).chunks(range(N)))
    return pd.concat([chunk.obs for chunk in chunks]).rename_axis("cell")


def test_a_name_without_an_ending_is_a_folder_of_files_of_equal_size(source: Path, tmp_path: Path) -> None:
    write_results(results(source), source, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["_polygene.json", *(f"part-{k:05d}-of-00004.parquet" for k in range(4))]
    assert [len(pd.read_parquet(tmp_path / "out" / name)) for name in files[1:]] == [6, 6, 6, 2]
    pd.testing.assert_frame_equal(table_in(tmp_path / "out"), expected(source))


def test_duckdb_polars_and_pyarrow_open_the_folder(source: Path, tmp_path: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    write_results(results(source), source, tmp_path / "out")
    glob = str(tmp_path / "out" / "*.parquet")
    with duckdb.connect() as connection:
        counted = connection.sql(f"select label, count(*) from '{glob}' group by label order by label").fetchall()
    assert counted == [("a", 10), ("b", 10)]
    assert polars.scan_parquet(glob).select("cell", "label", "p").collect().height == N
    assert ds.dataset(tmp_path / "out", format="parquet").count_rows() == N


def test_the_code_of_the_guide_puts_a_folder_into_one_h5ad(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n([^`]*h5py\.File[^`]*)```", Path("docs/scale.md").read_text(encoding="utf-8"))
    before = ad.read_h5ad(source)
    monkeypatch.chdir(tmp_path)
    write_results(results(source), source, "results")
    source.rename("atlas.h5ad")
    exec(code, {})
    after = ad.read_h5ad("atlas.h5ad")
    pd.testing.assert_frame_equal(after.obs[["label", "p"]], expected(Path("atlas.h5ad")).rename_axis(None))
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert (after.X != before.X).sum() == 0


def test_a_stopped_run_goes_on_with_the_files_that_are_not_there(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        write_results(results(source, stop_at=15), source, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3  # two files are whole, nothing of the third is left
    (tmp_path / "out" / "part-00000-of-00004.parquet").unlink()
    asked: list[int] = []
    write_results(results(source, asked=asked), source, tmp_path / "out")
    assert asked == [*range(6), *range(12, 20)]
    pd.testing.assert_frame_equal(table_in(tmp_path / "out"), expected(source))


def test_a_full_disk_keeps_the_files_that_are_whole_and_the_same_command_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = pq.ParquetWriter.write_table, []

    def full(self: pq.ParquetWriter, table: pa.Table) -> None:
        written.append(len(table))
        if len(written) > 3:  # two chunks make a file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, table)

    with monkeypatch.context() as disk:
        disk.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OutputError, match=r"the same command goes on.*No space left"):
            write_results(results(source), source, tmp_path / "out")
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["_polygene.json", "part-00000-of-00004.parquet"]
    asked: list[int] = []
    write_results(results(source, asked=asked), source, tmp_path / "out")
    assert asked == [*range(6, 20)]
    pd.testing.assert_frame_equal(table_in(tmp_path / "out"), expected(source))


def test_parts_are_the_files_of_the_whole(source: Path, tmp_path: Path) -> None:
    for number in (3, 1, 2):
        write_results(results(source), source, tmp_path / "parts", part=Part(number, 3))
    write_results(results(source), source, tmp_path / "whole")
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


def test_a_folder_of_other_results_or_of_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    write_results(results(source), source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(OutputError, match="of another model or of other settings"):
        write_results(results(source, model="another"), source, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"holds other files, and no _polygene\.json"):
        write_results(results(source), source, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_part_goes_into_a_folder_only(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a part of the results \(1/2\) goes into a folder"):
        write_results(results(source), source, tmp_path / "out.parquet", part=Part(1, 2))
