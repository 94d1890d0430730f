import gzip
import os
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse

from polygene.errors import DataError
from polygene.io.read import open_cells


def whole(cells, **options):
    return sparse.vstack([chunk.X for chunk in cells.chunks(**options)]).tocsr()


@pytest.mark.parametrize("rows", [None, [0], [3, 4, 60, 149]])
def test_every_format_gives_the_same_cells_in_the_same_chunks(make_adata, write_as, tmp_path, cell_format, rows):
    adata = make_adata()
    cells = open_cells(write_as(adata, tmp_path, cell_format))
    expected = adata if rows is None else adata[rows]
    chunks = list(cells.chunks(None if rows is None else np.array(rows), size=40))
    assert all(chunk.X.format == "csr" and chunk.X.has_sorted_indices and chunk.n_obs <= 40 for chunk in chunks)
    assert np.array_equal(sparse.vstack([chunk.X for chunk in chunks]).toarray(), expected.X.toarray())
    assert [name for chunk in chunks for name in chunk.obs_names] == list(expected.obs_names)
    assert list(cells.var.index) == list(adata.var_names)
    assert cells.scale == "counts"


def test_every_format_is_written_as_an_h5ad_that_anndata_reads(make_adata, write_as, tmp_path, cell_format):
    adata = make_adata()
    adata.obs["score"] = np.linspace(0, 1, 150)
    source = open_cells(write_as(adata, tmp_path, cell_format))
    source.write_h5ad(tmp_path / "copy.h5ad")
    copy = ad.read_h5ad(tmp_path / "copy.h5ad")
    x = copy.X if isinstance(copy.X, np.ndarray) else copy.X.toarray()
    assert np.array_equal(x, adata.X.toarray())
    assert list(copy.obs_names) == list(adata.obs_names)
    assert list(copy.var_names) == list(adata.var_names)
    if cell_format.endswith(("h5ad", "zarr", "zip")):
        assert copy.obs.equals(adata.obs)
    else:
        assert list(copy.var["gene_ids"]) == [f"ENSG{g:011d}" for g in range(30)]


@pytest.mark.parametrize("kind", ["csr.zarr", "v2.zarr"])
def test_all_that_a_zarr_holds_is_in_its_copy(make_adata, write_as, tmp_path, kind):
    adata = make_adata()
    adata.raw = adata[:, :20].copy()
    adata.layers["dense"] = adata.X.toarray() * 2
    adata.obsm["X_pca"] = np.arange(300.0).reshape(150, 2)
    adata.obs["text"] = np.array([f"text {i}" for i in range(150)], dtype=object)
    adata.obs["yes"] = np.arange(150) % 2 == 0
    adata.uns["log"] = {"base": None, "steps": np.array(["a", "b"], dtype=object), "number": 3}
    open_cells(write_as(adata, tmp_path, kind)).write_h5ad(tmp_path / "copy.h5ad")
    copy = ad.read_h5ad(tmp_path / "copy.h5ad")
    assert copy.obs.equals(adata.obs)
    assert (copy.raw.X != adata.raw.X).nnz == 0
    assert np.array_equal(copy.layers["dense"], adata.layers["dense"])
    assert np.array_equal(copy.obsm["X_pca"], adata.obsm["X_pca"])
    assert copy.uns["log"]["steps"].tolist() == ["a", "b"]
    assert copy.uns["log"]["number"] == 3
    assert copy.uns["log"]["base"] is None


@pytest.mark.parametrize("kind", ["csr.h5ad", "csr.zarr", "v2.zarr", "zarr.zip"])
@pytest.mark.parametrize("layer", ["doubled", "raw"])
def test_layers_and_raw_are_read_in_every_format_that_has_them(make_adata, write_as, tmp_path, kind, layer):
    adata = make_adata()
    adata.raw = adata[:, :20].copy()
    adata.layers["doubled"] = sparse.csc_matrix(adata.X * 2)
    cells = open_cells(write_as(adata, tmp_path, kind), layer=layer)
    x = adata.raw.X if layer == "raw" else adata.layers[layer]
    assert (whole(cells, size=64) != x).nnz == 0
    assert cells.var.shape[0] == x.shape[1]


@pytest.mark.parametrize("kind", ["10x.h5", "mtx"])
def test_a_layer_is_refused_where_the_format_has_none(make_adata, write_as, tmp_path, kind):
    with pytest.raises(DataError, match=f"cells-{kind} has no layer 'counts'"):
        open_cells(write_as(make_adata(), tmp_path, kind), layer="counts")


@pytest.mark.parametrize("kind", ["csr.h5ad", "csc.h5ad", "dense.h5ad"])
def test_a_backed_anndata_is_read_from_its_file(make_adata, write_as, tmp_path, kind):
    adata = make_adata()
    source = ad.read_h5ad(write_as(adata, tmp_path, kind), backed="r")
    assert (whole(open_cells(source), size=64) != adata.X).nnz == 0


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.6, 0.9, 0.9999])
@pytest.mark.parametrize("kind", ["csr.h5ad", "10x.h5", "zarr.zip"])
def test_a_file_that_is_cut_off_anywhere_is_refused_by_name(make_adata, write_as, tmp_path, kind, share):
    path = write_as(make_adata(), tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"cells-{kind}.* (cut off|damaged)"):
        open_cells(path)


def test_bytes_that_were_changed_on_the_way_are_refused(make_adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    make_adata(2000).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        where = file["X/data"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(where.byte_offset + where.size // 2)
        file.write(bytes(64))
    with pytest.raises(DataError, match=r"cells\.h5ad cannot be read, it is cut off or damaged"):
        list(open_cells(path).chunks())


def test_a_matrix_that_names_genes_beyond_the_last_is_refused(make_adata, write_as, tmp_path):
    path = write_as(make_adata(), tmp_path, "csr.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][7] = 30
    with pytest.raises(DataError, match="contradicts itself between cells 0 and 64"):
        list(open_cells(path).chunks(size=64))


@pytest.mark.parametrize("kind", ["csr.zarr", "v2.zarr"])
@pytest.mark.parametrize("part", ["data", "indices"])
def test_a_zarr_with_a_part_missing_is_refused_and_not_read_as_zeros(make_adata, write_as, tmp_path, kind, part):
    path = write_as(make_adata(), tmp_path, kind)
    (path / "X" / part / ("0" if kind == "v2.zarr" else "c/0")).unlink()
    with pytest.raises(DataError, match=rf"damaged.*X/{part}/.*is missing"):
        list(open_cells(path).chunks())


def test_a_matrix_and_names_that_do_not_fit_are_refused(make_adata, write_as, tmp_path):
    path = write_as(make_adata(), tmp_path, "csr.h5ad")
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = (149, 30)
    with pytest.raises(DataError, match="is damaged: a matrix of"):
        open_cells(path)


def test_what_holds_no_cells_is_refused_by_what_it_holds(tmp_path):
    for name, message in (("empty", "no matrix.mtx"), ("x.zarr", "no matrix.mtx")):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=message):
            open_cells(tmp_path / name)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = [1]
    with pytest.raises(DataError, match=r"holds no cells: it has kernel\. PolyGene reads \.h5ad, \.zarr"):
        open_cells(tmp_path / "weights.h5")
    with zipfile.ZipFile(tmp_path / "letters.zip", "w") as file:
        file.writestr("letter.txt", "dear")
    with pytest.raises(DataError, match=r"there is no zarr store at .*letters\.zip"):
        open_cells(tmp_path / "letters.zip")
    page = tmp_path / "login.h5ad"
    page.write_text("<html>please log in</html>")
    with pytest.raises(DataError, match=r"login\.h5ad is not an \.h5ad file"):
        open_cells(page)


def test_a_packed_file_is_refused_with_what_unpacks_it(make_adata, write_as, tmp_path):
    packed = tmp_path / "cells.h5ad.gz"
    packed.write_bytes(gzip.compress(write_as(make_adata(), tmp_path, "csr.h5ad").read_bytes()))
    with pytest.raises(DataError, match="Unpack it first, with gunzip"):
        open_cells(packed)


@pytest.mark.parametrize(
    ("name", "call", "options"),
    [
        ("counts.csv", "read_csv(path)", {}),
        ("counts.csv.gz", "read_csv(path)", {}),
        ("counts.tsv", r"read_csv(path, delimiter='\t')", {"delimiter": "\t"}),
        ("counts.txt.gz", r"read_csv(path, delimiter='\t')", {"delimiter": "\t"}),
    ],
)
def test_of_a_table_is_said_what_makes_a_file_of_it_and_it_does(tmp_path, name, call, options):
    content = options.get("delimiter", ",").join(["cell", "CD74", "LYZ\ncell-1", "1", "3\n"]).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError) as raised:
        open_cells(path)
    assert f"Make an .h5ad of it: anndata.io.{call}.write_h5ad('cells.h5ad'), with .T where" in str(raised.value)
    assert "gunzip" not in str(raised.value)
    made = ad.io.read_csv(path, **options)
    assert (made.var_names.tolist(), made.X.tolist()) == (["CD74", "LYZ"], [[1, 3]])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.rds", "In R, write a folder of 10x"),
        ("a.tar.gz", "Unpack it first, and give"),
        ("a.pkl", "cut off. PolyGene"),
    ],
)
def test_a_file_that_is_not_read_is_refused_with_what_to_do(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"no cells")
    with pytest.raises(DataError, match=says):
        open_cells(tmp_path / name)


def test_values_that_are_python_objects_are_refused(make_adata):
    adata = make_adata()
    adata.X = adata.X.toarray().astype(object)
    with pytest.raises(DataError, match=r"Python objects, not numbers: set adata\.X = adata\.X\.astype"):
        open_cells(adata)


@pytest.mark.parametrize("kind", ["csr.h5ad", "dense.h5ad", "csr.zarr", "csc.h5ad"])
def test_memory_is_that_of_a_chunk_and_not_of_the_matrix(make_adata, write_as, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("polygene.io.backed.BLOCK", 20_000)
    monkeypatch.setattr("polygene.io.transpose.BUCKET", 20_000)
    adata = make_adata(10_000, 200)
    path = write_as(adata, tmp_path, kind)
    size = adata.X.data.nbytes + adata.X.indices.nbytes
    del adata
    cells = open_cells(path)
    tracemalloc.start()
    for _ in cells.chunks(size=200, columns=()):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 3


@pytest.mark.data
def test_real_cells_are_the_same_in_every_format(write_as, tmp_path):
    adata = ad.read_h5ad(Path(os.environ["POLYGENE_DATA"]) / "pbmc1k_citeseq_10x.h5ad")
    for kind in ("csc.h5ad", "dense.h5ad", "csr.zarr", "10x.h5", "mtx"):
        path = write_as(adata, tmp_path, kind)
        assert (whole(open_cells(path), size=300) != adata.X).nnz == 0
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.data
def test_every_file_of_the_data_folder_opens_and_streams():
    paths = sorted(Path(os.environ["POLYGENE_DATA"]).glob("*.h5ad"))
    assert len(paths) == 19
    for path in paths:
        adata = ad.read_h5ad(path)
        cells = open_cells(path)
        assert cells.scale == {"counts": "counts", "lognorm": "log1p"}[adata.uns["polygene_kind"]], path
        chunks = list(cells.chunks(size=777))
        assert (sparse.vstack([chunk.X for chunk in chunks]) != adata.X).nnz == 0
        for column in adata.obs:
            read = [value for chunk in chunks for value in chunk.obs[column].astype(str)]
            assert read == adata.obs[column].astype(str).tolist(), (path, column)
