import errno
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import zarr

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
