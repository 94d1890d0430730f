import logging

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from polygene.errors import DataError, ScaleError
from polygene.reading import expand_paths, open_cells, open_sources


@pytest.fixture
def adata(make_adata):
    """150 cells with a layer, raw with genes of its own, and every kind of column in obs."""
    adata = make_adata()
    adata.raw = adata[:, :20].copy()
    adata.layers["doubled"] = adata.X * 2
    adata.obs["text"] = [f"text {i % 90}" for i in range(150)]
    adata.obs["whole"] = np.arange(150)
    adata.obs["fraction"] = np.where(np.arange(150) % 7, 0.5, np.nan)
    adata.obs["yes"] = np.arange(150) % 2 == 0
    adata.obs["nullable"] = pd.array([None if i % 5 == 0 else i for i in range(150)], dtype="Int64")
    adata.obs["some"] = pd.Categorical([None if i % 3 == 0 else "given" for i in range(150)])
    return adata


def saved(adata, tmp_path, name="cells.h5ad"):
    path = tmp_path / name
    adata.write_h5ad(path)
    return path


def stored_as(adata, kind):
    adata.X = {"csr": adata.X.tocsr, "csc": adata.X.tocsc, "dense": adata.X.toarray}[kind]()
    return adata


@pytest.mark.parametrize("place", ["file", "memory"])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
@pytest.mark.parametrize("rows", [None, [0], [3, 4, 60, 149], list(range(0, 150, 2))])
def test_chunks_hold_the_cells_of_the_file_in_order(adata, tmp_path, place, kind, rows):
    adata = stored_as(adata, kind)
    cells = open_cells(saved(adata, tmp_path) if place == "file" else adata)
    chunks = list(cells.chunks(None if rows is None else np.array(rows), size=40))
    expected = adata if rows is None else adata[rows]
    x = expected.X if kind == "dense" else expected.X.toarray()
    assert all(sparse.issparse(chunk.X) and chunk.X.format == "csr" and chunk.n_obs <= 40 for chunk in chunks)
    assert np.array_equal(sparse.vstack([chunk.X for chunk in chunks]).toarray(), x)
    assert [name for chunk in chunks for name in chunk.obs_names] == list(expected.obs_names)
    assert all(list(chunk.var_names) == list(adata.var_names) for chunk in chunks)


@pytest.mark.parametrize("place", ["file", "memory"])
@pytest.mark.parametrize("layer", ["doubled", "raw"])
def test_a_layer_and_raw_are_read_by_name(adata, tmp_path, place, layer):
    cells = open_cells(saved(adata, tmp_path) if place == "file" else adata, layer=layer)
    x = adata.raw.X if layer == "raw" else adata.layers[layer]
    assert (sparse.vstack([chunk.X for chunk in cells.chunks(size=64)]) != x).nnz == 0
    assert list(cells.var.index) == list(adata.raw.var_names if layer == "raw" else adata.var_names)


def test_chunks_hold_every_kind_of_column(adata, tmp_path):
    path = saved(adata, tmp_path)
    whole = ad.read_h5ad(path).obs
    cells = open_cells(path)
    assert cells.columns == tuple(whole.columns)
    parts = [chunk.obs for chunk in cells.chunks(size=64)]
    for column in whole:
        values = pd.concat([part[column].astype(object) for part in parts])
        pd.testing.assert_series_equal(values, whole[column].astype(object))
    pd.testing.assert_frame_equal(cells.obs, whole)
    assert list(next(cells.chunks(columns=["whole", "sex"])).obs.columns) == ["whole", "sex"]


def test_a_frame_keeps_text_as_categories_and_skips_columns_that_are_not_there(adata, tmp_path):
    frame = open_cells(saved(adata, tmp_path)).frame(["text", "absent", "whole"])
    assert list(frame) == ["text", "whole"]
    assert isinstance(frame["text"].dtype, pd.CategoricalDtype)
    assert frame["text"].astype(str).tolist() == adata.obs["text"].tolist()


@pytest.mark.filterwarnings("ignore:.*written without encoding metadata")
def test_obs_as_old_versions_of_anndata_wrote_it_is_read(adata, tmp_path):
    path = saved(adata[:, :].copy(), tmp_path)
    with h5py.File(path, "r+") as file:
        del file["obs"]
        file["obs/index"], file["obs/donor_id"] = list(adata.obs_names), [i % 2 for i in range(150)]
        file["obs/donor_id"].attrs["categories"] = file.create_dataset("obs/__categories/donor_id", data=["a", "b"]).ref
        values = {"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"}
        file["obs"].attrs.update({**values, "column-order": np.array(["donor_id"], dtype=object)})
    cells = open_cells(path)
    assert cells.frame(["donor_id"])["donor_id"].tolist() == ["a", "b"] * 75
    assert next(cells.chunks(np.array([3]))).obs["donor_id"].tolist() == ["b"]


def test_no_more_than_a_chunk_of_the_matrix_is_read_at_once_and_nothing_between_rows(adata, tmp_path, monkeypatch):
    cells = open_cells(saved(adata, tmp_path))
    read, n_read = h5py.Dataset.__getitem__, []

    def spy(dataset, key, *args):
        values = read(dataset, key, *args)
        if dataset.name in ("/X/data", "/X/indices"):
            n_read.append(len(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    list(cells.chunks(np.array([1, 2, 145]), size=10))
    assert n_read == [adata.X[1:3].nnz] * 2 + [adata.X[145].nnz] * 2


def test_a_csc_file_is_read_whole_and_this_is_said(adata, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="polygene"):
        open_cells(saved(stored_as(adata, "csc"), tmp_path))
    assert "held in memory" in caplog.text


def test_names_that_repeat_are_read_without_a_warning(adata, tmp_path):
    path = saved(adata, tmp_path)
    with h5py.File(path, "r+") as file:
        file["var/_index"][1] = file["var/_index"][0]
        file["obs/_index"][1] = file["obs/_index"][0]
    chunk = next(open_cells(path).chunks())
    assert chunk.var_names[0] == chunk.var_names[1]


def test_the_names_of_cells_come_without_their_expression(adata, tmp_path):
    names = list(open_cells(saved(adata, tmp_path)).names(size=64))
    assert [len(some) for some in names] == [64, 64, 22]
    assert np.concatenate(names).tolist() == adata.obs_names.tolist()


def test_rows_out_of_order_are_refused(adata):
    cells = open_cells(adata)
    for rows in ([3, 2], [2, 2], [-1, 4], [149, 150]):
        with pytest.raises(ValueError, match="increasing numbers from 0 to 149"):
            list(cells.chunks(np.array(rows)))


def test_the_scale_is_told_from_the_rows_that_are_asked(adata, caplog):
    adata.X = sparse.vstack([adata.X[:100], -adata.X[100:]]).tocsr()
    cells = open_cells(adata)
    with caplog.at_level(logging.INFO, logger="polygene"):
        assert cells.find_scale(np.arange(100)) == "counts"
    assert "adata: 150 cells × 30 genes, counts" in caplog.text
    with pytest.raises(ScaleError, match="negative"):
        _ = cells.scale


def test_paths_and_globs_are_expanded_each_once(tmp_path):
    for name in ("b.h5ad", "a.h5ad", "c.txt"):
        (tmp_path / name).touch()
    found = expand_paths([tmp_path / "b.h5ad", str(tmp_path / "*.h5ad")])
    assert [path.name for path in found] == ["b.h5ad", "a.h5ad"]
    assert expand_paths(tmp_path / "c.txt") == [tmp_path / "c.txt"]
    with pytest.raises(DataError, match=r"there is no file .*none"):
        expand_paths(str(tmp_path / "none*.h5ad"))


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    (tmp_path / "cells[1].h5ad").touch()
    assert expand_paths(tmp_path / "cells[1].h5ad") == [tmp_path / "cells[1].h5ad"]


def test_every_source_has_a_name_of_its_own(adata, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [saved(adata, tmp_path), saved(adata, tmp_path / "other")]
    assert [cells.name for cells in open_sources([*paths, adata, adata])] == ["cells", "cells-2", "adata", "adata-2"]
    assert [cells.name for cells in open_sources({"healthy": paths[0], "sick": adata})] == ["healthy", "sick"]
    assert [cells.name for cells in open_sources(str(tmp_path / "*.h5ad"))] == ["cells"]
    with pytest.raises(DataError, match="no cells were given"):
        open_sources([])


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_file_that_is_cut_off_is_refused(adata, tmp_path, share):
    path = saved(adata, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cells\.h5ad cannot be read, it is cut off or damaged.*again"):
        open_cells(path)


def test_what_is_no_anndata_is_refused(adata, tmp_path):
    with pytest.raises(DataError, match="got DataFrame"):
        open_cells(adata.obs)
    with pytest.raises(DataError, match=r"there is no file .*absent\.h5ad"):
        open_cells(tmp_path / "absent.h5ad")
    text = tmp_path / "text.h5ad"
    text.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"text\.h5ad is not an \.h5ad file"):
        open_cells(text)
    with pytest.raises(DataError, match=r"is not an \.h5ad file"):
        open_cells(tmp_path)
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = [1]
    with pytest.raises(DataError, match="holds no AnnData: it has matrix"):
        open_cells(tmp_path / "other.h5ad")


@pytest.mark.parametrize("place", ["file", "memory"])
def test_what_is_empty_is_refused(adata, tmp_path, place):
    for part, found in ((adata[:0].copy(), "0 cells × 30 genes"), (adata[:, :0].copy(), "150 cells × 0 genes")):
        with pytest.raises(DataError, match=f"is empty: {found}"):
            open_cells(saved(part, tmp_path) if place == "file" else part)


@pytest.mark.parametrize("place", ["file", "memory"])
def test_a_matrix_that_is_not_there_is_refused_with_the_names_of_those_that_are(adata, tmp_path, place):
    source = saved(adata, tmp_path) if place == "file" else adata
    with pytest.raises(DataError, match="has no layer 'counts'; it has layer='doubled', layer='raw'"):
        open_cells(source, layer="counts")
    adata.raw, adata.X = None, None
    source = saved(adata, tmp_path) if place == "file" else adata
    with pytest.raises(DataError, match="has no matrix X; it has layer='doubled'"):
        open_cells(source)
    with pytest.raises(DataError, match="has no layer 'raw'"):
        open_cells(source, layer="raw")
