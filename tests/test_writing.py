"""What verbs add: the same in memory and in a copy of the file, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from polygene.errors import DataError
from polygene.writing import Added, write_json, written_beside


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    adata = make_adata(20, 5)
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((20, 2))
    adata.uns["polygene"] = {"embed": {"model": "an earlier one"}}
    adata.raw = adata.copy()
    return adata


@pytest.fixture
def added(adata: ad.AnnData) -> Added:
    obs = pd.DataFrame(
        {"polygene_sex": pd.Categorical.from_codes(np.arange(20) % 2, ["a/b", "b"]), "polygene_p": np.float32(0.5)},
        index=adata.obs_names,
    )
    obsm = {"polygene_sex": np.full((20, 2), 0.5, np.float32)}
    return Added(verb="annotate", obs=obs, obsm=obsm, uns={"model": "m", "given": np.array([], dtype=str)})


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
    times: int, adata: ad.AnnData, added: Added, tmp_path: Path
) -> None:
    source, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    adata.write_h5ad(source)
    for _ in range(times):
        added.write(out, source=source)
        source = out if out.exists() else source
        out = tmp_path / "more.h5ad" if times == 2 else out
    added.add_to(adata)
    adata.write_h5ad(tmp_path / "expected.h5ad")
    assert_equal(ad.read_h5ad(source), ad.read_h5ad(tmp_path / "expected.h5ad"))


def test_a_file_without_obs_columns_obsm_and_uns_gets_them(added: Added, tmp_path: Path) -> None:
    source = tmp_path / "cells.h5ad"
    ad.AnnData(np.ones((20, 3), np.float32), obs=pd.DataFrame(index=added.obs.index)).write_h5ad(source)
    with h5py.File(source, "r+") as file:
        del file["obsm"], file["uns"]
    added.write(tmp_path / "out.h5ad", source=source)
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(out.obs) == ["polygene_sex", "polygene_p"]
    assert out.uns["polygene"]["annotate"]["model"] == "m"


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_a_table_as_anndata_0_7_wrote_it_is_written_anew(adata: ad.AnnData, added: Added, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        del file["obs"]
        obs = file.create_group("obs")
        obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "name"})
        obs.attrs["column-order"] = np.array(["n"], dtype=h5py.string_dtype())
        obs["name"], obs["n"] = [name.encode() for name in adata.obs_names], np.arange(20)
    added.write(tmp_path / "out.h5ad", source=tmp_path / "cells.h5ad")
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(out.obs) == ["n", "polygene_sex", "polygene_p"]
    assert out.obs_names.tolist() == adata.obs_names.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_holds_the_answers_by_cell(suffix: str, adata: ad.AnnData, added: Added, tmp_path: Path) -> None:
    path = tmp_path / f"answers{suffix}"
    added.write(path, source=tmp_path / "not there.h5ad")
    table = pd.read_csv(path, index_col="cell") if suffix == ".csv" else pd.read_parquet(path)
    assert table.index.tolist() == adata.obs_names.tolist()
    assert table["polygene_sex"].astype(str).tolist() == added.obs["polygene_sex"].astype(str).tolist()
    points = Added(verb="embed", obs=added.obs[[]], obsm={"X": np.ones((20, 3), np.float32)}).table()
    assert list(points) == ["X_0", "X_1", "X_2"]


def write_half(out: Path, error: BaseException) -> None:
    with written_beside(out) as part:
        part.write_text("half")
        raise error


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("before")
    with written_beside(out) as part:
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


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"out\.csv' could not be written, and nothing was left behind.*No space"):
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
def test_a_place_that_cannot_be_written_is_told_before_the_work(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=says), written_beside(tmp_path / name):
        pytest.fail("the work began")


def test_json_says_null_where_a_number_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.5, float("nan")], "b": {"c": float("inf"), "d": True, "e": "é"}})
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read == {"a": [1.5, None], "b": {"c": None, "d": True, "e": "é"}}
