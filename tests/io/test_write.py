"""What verbs add: the same in memory and in a copy of the file, whole or not at all."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError, OutputError
from polygene.io.read import open_cells
from polygene.io.results import SUFFIXES, Results, ResultsChunk
from polygene.io.write import no_formulas, results_writer, write_results
from polygene.runtime.atomic import atomic_file
from polygene.runtime.json import write_json


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    adata = make_adata(20, 5)
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((20, 2))
    adata.uns["polygene"] = {"embed": {"model": "an earlier one"}}
    adata.raw = adata.copy()
    return adata


LABELS = ["a/b", "b"]


def results(source: Path | ad.AnnData, verb: str = "annotate") -> Results:
    """Results for the cells of `source`, three at a time: a column of labels, one of numbers, an array."""
    cells = open_cells(source)

    def chunks(rows: range) -> Iterator[ResultsChunk]:
        names = np.concatenate(list(cells.names()))
        for first in range(rows.start, rows.stop, 3):
            some = np.arange(first, min(first + 3, rows.stop))
            columns = {"polygene_sex": pd.Categorical.from_codes(some % 2, LABELS), "polygene_p": some / np.float32(7)}
            obsm = {"polygene_sex": np.stack([some, -some], axis=1).astype(np.float32)}
            layers = {"polygene": np.stack([some, some], axis=1).astype(np.float32)} if verb == "denoise" else {}
            yield ResultsChunk(pd.DataFrame(columns if verb == "annotate" else {}, index=names[some]), obsm, layers)

    of_layers = {"columns_M": np.array([1, 3]), "var": {"polygene_panel": np.arange(5) % 2 == 1}}
    return Results(
        verb=verb,
        cells=cells,
        chunks=chunks,
        uns={"model": "m", "given": np.array([], dtype=str)},
        **(of_layers if verb == "denoise" else {}),
    )


def write(source: Path, out: Path, verb: str = "annotate") -> None:
    with results_writer(out) as write_results:
        write_results(results(source, verb))


@pytest.fixture
def source(adata: ad.AnnData, tmp_path: Path) -> Path:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def assert_equal(one: ad.AnnData, other: ad.AnnData) -> None:
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    for name in ("layers", "obsm"):
        assert list(getattr(one, name)) == list(getattr(other, name))
    np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())
    np.testing.assert_array_equal(one.raw.X.toarray(), other.raw.X.toarray())
    np.testing.assert_array_equal(one.obsm["polygene_sex"], other.obsm["polygene_sex"])
    assert set(one.uns["polygene"]) == set(other.uns["polygene"]) == {"annotate", "embed"}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "again over the first"])
def test_a_copy_of_the_file_holds_what_the_object_would(
    times: int, adata: ad.AnnData, source: Path, tmp_path: Path
) -> None:
    for _ in range(times):
        write(source, tmp_path / "out.h5ad")
        source = tmp_path / "out.h5ad"
    results(adata).add_to(adata)
    adata.write_h5ad(tmp_path / "expected.h5ad")
    assert_equal(ad.read_h5ad(source), ad.read_h5ad(tmp_path / "expected.h5ad"))


@pytest.mark.parametrize("times", [1, 2], ids=["once", "again over the first"])
def test_a_layer_is_filled_in_some_columns_and_lengthened_block_by_block(
    times: int, adata: ad.AnnData, source: Path, tmp_path: Path
) -> None:
    for _ in range(times):
        write(source, tmp_path / "out.h5ad", "denoise")
        source = tmp_path / "out.h5ad"
    out = ad.read_h5ad(source)
    rows = np.arange(20, dtype=np.float32)
    expected_CG = np.stack([0 * rows, rows, 0 * rows, rows, 0 * rows], axis=1)
    np.testing.assert_array_equal(out.layers["polygene"].toarray(), expected_CG)
    assert out.layers["polygene"].nnz == 40  # a zero that is an answer is stored
    assert out.var["polygene_panel"].tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(out.layers["counts"].toarray(), adata.layers["counts"].toarray())


def test_cells_may_be_answered_in_place(source: Path) -> None:
    write(source, source)
    assert "polygene_sex" in ad.read_h5ad(source).obs
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_file_without_obs_columns_obsm_and_uns_gets_them(tmp_path: Path) -> None:
    source = tmp_path / "cells.h5ad"
    ad.AnnData(np.ones((20, 3), np.float32)).write_h5ad(source)
    with h5py.File(source, "r+") as file:
        del file["obsm"], file["uns"]
    write(source, tmp_path / "out.h5ad")
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(out.obs) == ["polygene_sex", "polygene_p"]
    assert out.uns["polygene"]["annotate"]["model"] == "m"


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_a_table_as_anndata_0_7_wrote_it_is_written_anew(adata: ad.AnnData, source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "r+") as file:
        del file["obs"]
        obs = file.create_group("obs")
        obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "name"})
        obs.attrs["column-order"] = np.array(["n"], dtype=h5py.string_dtype())
        obs["name"], obs["n"] = [name.encode() for name in adata.obs_names], np.arange(20)
    write(source, tmp_path / "out.h5ad")
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(out.obs) == ["n", "polygene_sex", "polygene_p"]
    assert out.obs_names.tolist() == adata.obs_names.tolist()


@pytest.mark.parametrize("blocks_at_once", [2, 10])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_holds_the_results_by_cell(
    suffix: str, blocks_at_once: int, adata: ad.AnnData, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polygene.io.write.CHUNKS_AT_ONCE", blocks_at_once)
    for verb, columns in (
        ("annotate", ["polygene_sex", "polygene_p"]),
        ("embed", ["polygene_sex_0", "polygene_sex_1"]),
    ):
        path = tmp_path / f"table{suffix}"
        write(source, path, verb)
        table = pd.read_csv(path, index_col="cell") if suffix == ".csv" else pd.read_parquet(path)
        assert table.index.tolist() == adata.obs_names.tolist()
        assert list(table) == columns
        rows = np.arange(20)
        if verb == "annotate":
            assert table["polygene_sex"].tolist() == [LABELS[row % 2] for row in rows]
            np.testing.assert_allclose(table["polygene_p"], rows / 7, rtol=1e-6)
        else:
            np.testing.assert_array_equal(table, np.stack([rows, -rows], axis=1))


def test_a_file_with_results_of_another_verb_keeps_them(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out.h5ad")
    write(tmp_path / "out.h5ad", tmp_path / "more.h5ad", "embed")
    out = ad.read_h5ad(tmp_path / "more.h5ad")
    assert "polygene_sex" in out.obs
    assert set(out.uns["polygene"]) == {"annotate", "embed"}


@pytest.mark.parametrize(
    ("suffix", "verb"), [(".h5ad", "annotate"), (".h5ad", "denoise"), (".csv", "annotate"), (".parquet", "annotate")]
)
def test_a_disk_that_is_full_at_any_moment_leaves_nothing(suffix: str, verb: str, source: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which the system enforces as it does a full disk, is moved through the writing."""
    resource = pytest.importorskip("resource")
    out = tmp_path / f"out{suffix}"
    write(source, out, verb)
    most = max(out.stat().st_size, 5_000) + (6 << 20 if suffix == ".h5ad" else 0)
    out.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = []
    for limit in np.linspace(0, most, 12).astype(int):
        said = None
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), before[1]))
        try:
            write(source, out, verb)
        except OutputError as error:
            said = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if said is not None:
            failed.append(limit)
            assert "could not be written, and nothing was left behind" in said
            assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]
        out.unlink(missing_ok=True)
    assert 3 < len(failed) < 12


def write_half(out: Path, error: BaseException) -> None:
    with atomic_file(out) as part:
        part.write_text("half")
        raise error


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("before")
    with atomic_file(out) as part:
        part.write_text("whole")
        assert out.read_text() == "before"
    assert out.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "out.csv", KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "before"


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.csv' could not be written, and nothing was left behind.*No space"):
        write_half(tmp_path / "out.csv", OSError(28, "No space left on device"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cells.txt", "must end with .h5ad or .csv"),
        ("none/cells.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=says), atomic_file(tmp_path / name, SUFFIXES):
        pytest.fail("the work began")


def test_json_says_null_where_a_number_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.5, float("nan")], "b": {"c": float("inf"), "d": True, "e": "é"}})
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read == {"a": [1.5, None], "b": {"c": None, "d": True, "e": "é"}}


def test_two_runs_into_one_folder_do_not_touch_each_other(adata: ad.AnnData, source: Path, tmp_path: Path) -> None:
    """Both are under way at once, in names that differ by the suffix only, as two processes would be."""
    with results_writer(tmp_path / "out.csv") as table, results_writer(tmp_path / "out.parquet") as points:
        table(results(source))
        points(results(source, "embed"))
    assert list(pd.read_csv(tmp_path / "out.csv", index_col="cell").columns) == ["polygene_sex", "polygene_p"]
    assert list(pd.read_parquet(tmp_path / "out.parquet").columns) == ["polygene_sex_0", "polygene_sex_1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "out.csv", "out.parquet"]


def test_the_cells_that_are_read_are_written_over_only_when_told_and_stay_whole(source: Path, tmp_path: Path) -> None:
    before = ad.read_h5ad(source)
    (tmp_path / "link.h5ad").symlink_to(source)
    for out in (source, tmp_path / "link.h5ad"):
        with pytest.raises(OutputError, match=r"would replace .*choose another file, or .*--overwrite"):
            write_results(results(source), source, out)
    write_results(results(source), source, tmp_path / "other.h5ad")
    write_results(results(source), source, tmp_path / "link.h5ad", overwrite=True)
    assert (tmp_path / "link.h5ad").is_symlink()
    after = ad.read_h5ad(source)
    assert_equal(after, ad.read_h5ad(tmp_path / "other.h5ad"))
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    pd.testing.assert_index_equal(after.obs_names, before.obs_names)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_never_replaces_the_cells(suffix: str, source: Path) -> None:
    cells = source.rename(source.with_suffix(suffix))
    with pytest.raises(OutputError, match=r"would replace .*: genes would be lost, so choose another"):
        write_results(results(cells), cells, cells, overwrite=True)


def test_cells_that_are_replaced_while_they_are_read_get_no_wrong_results(source: Path, tmp_path: Path) -> None:
    made = results(source)
    other = ad.read_h5ad(source)[::-1].copy()
    chunks = made.chunks

    def replaced(rows: range) -> Iterator[ResultsChunk]:
        yield from chunks(rows)
        other.write_h5ad(source)

    with pytest.raises(DataError, match="was replaced or changed while its cells were read"):
        write_results(replace(made, chunks=replaced), source, tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


def test_no_text_of_a_table_is_a_formula_to_a_spreadsheet() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "B cell", ""]
    table = pd.DataFrame({"label": pd.Categorical(texts), "number": np.arange(7) - 3.0}, index=texts)
    quoted = no_formulas(table)
    expected = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "B cell", ""]
    assert quoted["label"].tolist() == quoted.index.tolist() == expected
    assert quoted["number"].tolist() == table["number"].tolist()
