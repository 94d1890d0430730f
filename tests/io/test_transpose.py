import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from polygene.errors import DataError
from polygene.io import transpose
from polygene.io.read import open_cells
from polygene.io.transpose import TransposedMatrix


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def drawn(n_cells, n_genes, n_entries, seed=0):
    rng = np.random.default_rng(seed)
    places = rng.choice(n_cells * n_genes, n_entries, replace=False)
    return places // n_genes, places % n_genes, rng.integers(0, 9, n_entries).astype(np.float32)


@pytest.mark.parametrize("bucket", [1, 7, 100, 10_000])
@pytest.mark.parametrize("n_cells", [1, 5, 101])
def test_entries_in_any_order_become_the_rows_that_scipy_makes_of_them(monkeypatch, bucket, n_cells):
    monkeypatch.setattr(transpose, "BUCKET", bucket)
    rows, columns, values = drawn(n_cells, 40, n_cells * 8)
    blocks = ((rows[i : i + 33], columns[i : i + 33], values[i : i + 33]) for i in range(0, len(rows), 33))
    matrix = TransposedMatrix(blocks, (n_cells, 40), len(rows), values.dtype)
    expected = sparse.csr_matrix((values, (rows, columns)), shape=(n_cells, 40))
    for first, last in ((0, n_cells), (0, 1), (n_cells // 2, n_cells), (n_cells - 1, n_cells)):
        read = matrix[first:last]
        assert np.array_equal(read.toarray(), expected[first:last].toarray())
        assert read.nnz == expected[first:last].nnz
        assert read.has_canonical_format


def test_values_keep_their_type():
    rows, columns, values = drawn(5, 5, 10)
    for dtype in (np.int64, np.float64, np.uint16):
        matrix = TransposedMatrix(iter([(rows, columns, values.astype(dtype))]), (5, 5), 10, dtype)
        assert matrix[0:5].dtype == dtype


def test_files_go_with_the_matrix_also_if_it_was_never_whole(tmp_path):
    matrix = TransposedMatrix(iter([drawn(5, 5, 10)]), (5, 5), 10, np.float32)
    assert sorted(path.name for path in matrix.folder.iterdir()) == ["data", "indices", "indptr"]
    del matrix

    def broken():
        yield drawn(5, 5, 10)
        msg = "the source is damaged"
        raise OSError(msg)

    with pytest.raises(OSError, match="the source is damaged"):
        TransposedMatrix(broken(), (5, 5), 20, np.float32)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_forked_leaves_the_files_to_the_first(monkeypatch):
    matrix = TransposedMatrix(iter([drawn(5, 5, 10)]), (5, 5), 10, np.float32)
    folder, owner = matrix.folder, os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: owner + 1)
    del matrix
    assert folder.is_dir()
    monkeypatch.undo()
    transpose._remove(folder, owner)
    assert not folder.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_said_with_the_room_that_is_needed(make_adata, write_as, tmp_path, monkeypatch):
    path = write_as(make_adata(), tmp_path, "csc.h5ad")

    monkeypatch.setattr(Path, "open", lambda _, mode: open("/dev/full", mode))  # noqa: PTH123, SIM115
    with pytest.raises(DataError, match=r"could not be transposed .*No space left.* It takes 1 MB: set TMPDIR"):
        list(open_cells(path).chunks())
    gc.collect()
    assert list(tmp_path.iterdir()) == [path]
