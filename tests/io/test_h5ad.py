import errno
import shutil
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

from polygene.errors import DataError
from polygene.io import h5ad as copying
from polygene.io.read import open_cells


@pytest.mark.parametrize("kind", ["csr.h5ad", "csr.zarr", "10x.h5", "mtx"])
def test_nothing_is_left_when_the_disk_is_full(make_adata, write_as, tmp_path, kind, monkeypatch):
    cells = open_cells(write_as(make_adata(), tmp_path, kind))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(OSError, match="No space left") as error:
        cells.write_h5ad(tmp_path / "copy.h5ad")
    assert error.value.errno == errno.ENOSPC
    assert not (tmp_path / "copy.h5ad").exists()


def test_nothing_is_left_when_the_source_is_damaged(make_adata, write_as, tmp_path):
    path = write_as(make_adata(), tmp_path, "csr.zarr")
    (path / "X/data/c/0").unlink()
    with pytest.raises(DataError, match=r"damaged.*X/data/c/0 is missing"):
        open_cells(path).write_h5ad(tmp_path / "copy.h5ad")
    assert not (tmp_path / "copy.h5ad").exists()


def test_an_array_is_copied_in_blocks_of_whole_chunks(tmp_path, monkeypatch):
    x_CG = np.arange(3000.0).reshape(100, 30)
    group = zarr.open_group(tmp_path / "store", mode="w")
    group.create_array("x", data=x_CG, chunks=(7, 30))
    monkeypatch.setattr(copying, "BLOCK", 300)
    written, n_rows = h5py.Dataset.__setitem__, []

    def spy(dataset, key, value):
        n_rows.append(len(value))
        written(dataset, key, value)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", spy)
    copying.copy_group(group, tmp_path / "copy.h5")
    with h5py.File(tmp_path / "copy.h5") as file:
        assert np.array_equal(file["x"][:], x_CG)
    assert n_rows == [14] * 7 + [2]


def test_cells_in_memory_are_written_as_anndata_writes_them(tmp_path):
    def cells():
        var = pd.DataFrame({"kind": ["a", "b", "a"]}, index=["X", "Y", "Z"])
        raw = ad.AnnData(sparse.csr_matrix(np.eye(3, dtype=np.float32)), var=var)
        raw.obs["type"] = ["B cell", "T cell", "B cell"]
        adata = raw[:, :2].copy()
        adata.raw = raw
        return adata

    copying.write_held(cells(), tmp_path / "ours.h5ad")
    cells().write_h5ad(tmp_path / "anndata.h5ad")
    ours, theirs = (ad.read_h5ad(tmp_path / name) for name in ("ours.h5ad", "anndata.h5ad"))
    for one, other in ((ours.obs, theirs.obs), (ours.var, theirs.var), (ours.raw.var, theirs.raw.var)):
        pd.testing.assert_frame_equal(one, other)
    assert (ours.raw.X != theirs.raw.X).nnz == (ours.X != theirs.X).nnz == 0
