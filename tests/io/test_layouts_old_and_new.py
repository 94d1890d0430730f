"""Layouts of other versions of anndata, written by hand; what is unknown names itself, and is not called damaged."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem
from scipy import sparse

from polygene.errors import DataError
from polygene.io.formats import read_errors
from polygene.io.read import open_cells
from tests.io.hands import as_anndata_06, as_mudata, as_nullable_strings, stored_as


def whole(cells):
    return sparse.vstack([chunk.X for chunk in cells.chunks(size=64)]).toarray()


@pytest.fixture
def adata(make_adata):
    adata = make_adata()
    adata.raw = adata[:, :20].copy()
    adata.obs["score"] = np.arange(150.0)
    return adata


@pytest.mark.parametrize("kind", ["csr.h5ad", "csr.zarr", "v2.zarr"])
def test_names_as_nullable_strings_which_pandas_3_writes_are_read_and_copied(adata, write_as, tmp_path, kind):
    path = write_as(adata, tmp_path, kind)
    as_nullable_strings(path, ["obs/_index", "var/_index", "obs/donor_id/categories"])
    cells = open_cells(path)
    assert np.concatenate(list(cells.names(size=64))).tolist() == adata.obs_names.tolist()
    assert list(cells.var.index) == list(adata.var_names)
    assert np.array_equal(whole(cells), adata.X.toarray())
    assert cells.frame(["donor_id"])["donor_id"].tolist() == adata.obs["donor_id"].tolist()
    cells.write_h5ad(tmp_path / "copy.h5ad")
    assert list(ad.read_h5ad(tmp_path / "copy.h5ad").obs_names) == list(adata.obs_names)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::anndata._warnings.OldFormatWarning")
@pytest.mark.parametrize("place", ["X", "raw"])
def test_a_file_of_anndata_0_6_is_read_as_anndata_reads_it(adata, tmp_path, place):
    path = as_anndata_06(adata, tmp_path / "old.h5ad")
    read = ad.read_h5ad(path)
    cells = open_cells(path, layer=None if place == "X" else "raw")
    assert np.array_equal(whole(cells), (read if place == "X" else read.raw).X.toarray())
    assert list(cells.var.index) == list((read if place == "X" else read.raw).var_names)
    assert cells.frame(["donor_id"])["donor_id"].tolist() == adata.obs["donor_id"].tolist()
    assert cells.obs["score"].tolist() == adata.obs["score"].tolist()
    cells.write_h5ad(tmp_path / "copy.h5ad")
    copy = ad.read_h5ad(tmp_path / "copy.h5ad")
    assert copy.obs["donor_id"].tolist() == adata.obs["donor_id"].tolist()
    assert np.array_equal(copy.raw.X.toarray(), adata.raw.X.toarray())


@pytest.mark.parametrize("kind", ["csr.h5ad", "csr.zarr"])
def test_of_a_mudata_the_rna_is_read_and_copied(adata, write_as, tmp_path, kind, caplog):
    path = as_mudata({"rna": adata, "prot": adata[:, :3].copy()}, tmp_path, kind)
    cells = open_cells(path)
    assert "is a MuData: of prot, rna, rna is read" in caplog.text
    assert np.array_equal(whole(cells), adata.X.toarray())
    assert cells.columns == tuple(adata.obs.columns)
    cells.write_h5ad(tmp_path / "copy.h5ad")
    copy = ad.read_h5ad(tmp_path / "copy.h5ad")
    assert np.array_equal(copy.X.toarray(), adata.X.toarray())
    assert copy.obs["donor_id"].tolist() == adata.obs["donor_id"].tolist()


def test_of_a_mudata_the_genes_may_have_another_name(adata, tmp_path):
    path = as_mudata({"gex": adata, "prot": adata[:, :3].copy()}, tmp_path, "csr.h5ad")
    assert np.array_equal(whole(open_cells(path)), adata.X.toarray())


def test_a_mudata_without_one_rna_names_its_modalities_and_one_in_memory_what_to_pass(adata, tmp_path):
    path = as_mudata({"a": adata, "b": adata[:, :3].copy()}, tmp_path, "csr.h5ad")
    with pytest.raises(DataError, match=r"is a MuData of a, b, .* mdata\['a'\]\.write_h5ad"):
        open_cells(path)
    with pytest.raises(DataError, match=r"got MuData; pass the modality with the genes, such as mdata\['rna'\]"):
        open_cells(type("MuData", (), {})())


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", ">f8", ">i4", ">u2", "|u1", "|b1", "<i8"])
@pytest.mark.parametrize("kind", ["csr.h5ad", "csc.h5ad", "dense.h5ad", "csr.zarr", "csc.zarr", "dense.zarr"])
def test_numbers_of_any_type_and_byte_order_are_cast(make_adata, write_as, tmp_path, kind, dtype):
    if kind.endswith("zarr") and dtype == ">f2":
        pytest.skip("the same as <f2 and >f4 together")
    adata = make_adata(60, 20)
    adata.X.data = np.minimum(adata.X.data, 1 if dtype == "|b1" else 200)
    path = write_as(adata, tmp_path, kind)
    stored_as(path, "X" if kind.startswith("dense") else "X/data", dtype)
    assert np.array_equal(whole(open_cells(path)), adata.X.toarray())


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">i4"])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_numbers_in_memory_are_cast_too(make_adata, kind, dtype):
    adata = make_adata(60, 20)
    expected = adata.X.toarray()
    if kind == "dense":
        adata = ad.AnnData(expected.astype(dtype), obs=adata.obs, var=adata.var)
    else:
        adata.X = adata.X if kind == "csr" else adata.X.tocsc()
        adata.X.data = adata.X.data.astype(dtype)
    adata.obs["number"] = np.arange(60).astype(">i8")
    cells = open_cells(adata)
    assert np.array_equal(whole(cells), expected)
    assert cells.frame(["number"])["number"].astype("category").tolist() == list(range(60))


def test_what_is_laid_out_in_an_unknown_way_names_itself_and_is_not_called_damaged(adata, write_as, tmp_path):
    path = write_as(adata, tmp_path, "csr.h5ad")
    with h5py.File(path, "r+") as file:
        file["var"].attrs["encoding-type"] = "dataframe-of-tomorrow"
    with pytest.raises(DataError, match=r"cannot be read \(IORegistryError: .*Nothing says that it is damaged"):
        open_cells(path)


def test_a_file_that_one_may_not_open_says_so(adata, write_as, tmp_path, monkeypatch):
    path = write_as(adata, tmp_path, "csr.h5ad")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py.File, "__init__", refuse)
    with pytest.raises(DataError, match="you may not open it"):
        open_cells(path)


def test_an_index_with_a_gap_is_read(adata, write_as, tmp_path):
    path = write_as(adata, tmp_path, "csr.h5ad")
    as_nullable_strings(path, ["obs/_index"], gaps=[3])
    names = np.concatenate(list(open_cells(path).names()))
    assert len(names) == 150
    assert names[4] == adata.obs_names[4]
    with h5py.File(path) as file:
        assert pd.isna(read_elem(file["obs"]).index[3])


@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        ("s3://bucket/cells.zarr", RuntimeError("reset by peer"), "out of reach, cut off or damaged"),
        ("s3://bucket/cells.zarr", AttributeError("no shape"), "Nothing says that it is damaged"),
        ("cells.h5ad", RuntimeError("odd"), "Nothing says that it is damaged"),
        ("cells.h5ad", OSError("short read"), "it is cut off or damaged"),
        ("cells.h5ad", EOFError("ended"), "it is cut off or damaged"),
    ],
)
def test_an_error_is_called_damage_where_bytes_are_read_or_fetched(place, error, says):
    with pytest.raises(DataError, match=says), read_errors(place):
        raise error
