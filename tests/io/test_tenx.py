import gzip
import logging
import shutil

import h5py
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from polygene.errors import DataError
from polygene.io.read import open_cells, open_sources


@pytest.fixture
def adata(make_adata):
    """150 cells; the last five features are antibodies, two more are peaks among the genes."""
    adata = make_adata()
    adata.var["feature_types"] = ["Gene Expression"] * 25 + ["Antibody Capture"] * 5
    adata.var.loc[["GENE3", "GENE9"], "feature_types"] = "Peaks"
    return adata


def whole(cells):
    return sparse.vstack([chunk.X for chunk in cells.chunks(size=64)]).tocsr()


def repack(path, change):
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(change(text).encode()))


@pytest.mark.parametrize("kind", ["10x.h5", "mtx"])
def test_what_scanpy_reads_is_read_and_what_is_no_gene_is_left_out_aloud(adata, write_as, tmp_path, kind, caplog):
    path = write_as(adata, tmp_path, kind)
    with caplog.at_level(logging.WARNING, logger="polygene"):
        cells = open_cells(path)
    assert "23 genes are read; left out are features that are none: 5 Antibody Capture, 2 Peaks" in caplog.text
    read = sc.read_10x_h5(path) if kind == "10x.h5" else sc.read_10x_mtx(path, gex_only=True)
    assert list(cells.var.index) == list(read.var_names)
    assert list(cells.var["gene_ids"]) == list(read.var["gene_ids"])
    assert (whole(cells) != read.X).nnz == 0
    assert list(np.concatenate(list(cells.names()))) == list(read.obs_names)


@pytest.mark.parametrize("kind", ["10x.h5", "mtx"])
def test_a_file_without_genes_is_refused_by_what_it_holds(adata, write_as, tmp_path, kind):
    adata.var["feature_types"] = "Peaks"
    with pytest.raises(DataError, match="no features of the type 'Gene Expression', only 30 Peaks"):
        open_cells(write_as(adata, tmp_path, kind))


def test_two_genomes_are_refused_by_name(adata, write_as, tmp_path):
    path = write_as(adata, tmp_path, "10x-v2.h5")
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(DataError, match="holds the genomes GRCh38, mm10"):
        open_cells(path)


def test_of_several_matrices_in_a_folder_each_is_read_by_its_path(make_adata, write_as, tmp_path):
    folder = tmp_path / "GSE1"
    folder.mkdir()
    drawn = [make_adata(seed=seed) for seed in (0, 1)]
    for i, adata in enumerate(drawn):
        source = write_as(adata, tmp_path, "mtx")
        for path in source.iterdir():
            path.rename(folder / f"GSM{i}_{path.name}")
        shutil.rmtree(source)
    with pytest.raises(DataError, match=r"holds GSM0_matrix\.mtx\.gz, GSM1_matrix\.mtx\.gz; PolyGene reads a folder"):
        open_cells(folder)
    opened = open_sources(str(folder / "GSM{0..1}_matrix.mtx.gz"))
    for cells, adata in zip(opened, drawn, strict=True):
        assert (whole(cells) != adata.X).nnz == 0


def test_entries_in_any_order_twice_or_without_value_are_added_up(make_adata, write_as, tmp_path):
    path = write_as(make_adata(), tmp_path, "mtx") / "matrix.mtx.gz"
    rng = np.random.default_rng(0)
    genes_N, cells_N = rng.integers(1, 31, 500), rng.integers(1, 151, 500)
    lines = "".join(f"{g}\t {c}\n" for g, c in zip(genes_N, cells_N, strict=True))
    path.write_bytes(gzip.compress(f"%%MatrixMarket matrix coordinate pattern general\n30 150 500\n{lines}".encode()))
    expected_CG = np.zeros((150, 30))
    np.add.at(expected_CG, (cells_N - 1, genes_N - 1), 1)
    assert np.array_equal(whole(open_cells(path.parent)).toarray(), expected_CG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2].rpartition("\n")[0], r"ends after [\d,]+ of [\d,]+ entries"),
        (lambda text: text[: len(text) // 2].rpartition(" ")[0], "cut off or damaged"),
        (lambda text: text.replace("\n1 1 ", "\n31 1 ", 1), "names genes or cells beyond the last"),
        (lambda text: text.replace("\n1 1 ", "\n0 1 ", 1), "names genes or cells beyond the last"),
        (lambda text: text.replace("\n1 1 ", "\none 1 ", 1), "cut off or damaged"),
        (lambda text: text.replace("coordinate", "array", 1), "is no Matrix Market file of a sparse matrix"),
        (lambda text: text.replace("30 150 ", "30 151 ", 1), "30 genes × 151 cells, but .* 30 genes and 150 cells"),
        (
            lambda text: text.replace("30 150 ", "150 30 ", 1),
            "rows are cells, and those of 10x are genes: write its tr",
        ),
        (
            lambda text: text.partition("30 150 ")[0] + "30 150 0\n",
            "holds no counts, only the numbers of genes and cells",
        ),
        (lambda text: text.replace("30 150 ", "30 ", 1), "cut off or damaged"),
    ],
)
def test_a_damaged_matrix_is_refused(make_adata, write_as, tmp_path, change, message):
    adata = make_adata()
    adata.X[0, 0] = 3
    path = write_as(adata, tmp_path, "mtx")
    repack(path / "matrix.mtx.gz", change)
    with pytest.raises(DataError, match=message):
        list(open_cells(path).chunks())


def test_of_a_folder_above_is_said_which_holds_the_matrix(make_adata, write_as, tmp_path):
    path = write_as(make_adata(), tmp_path, "mtx")
    with pytest.raises(DataError, match=rf"holds no matrix\.mtx; give {path}$"):
        open_cells(tmp_path)


def test_a_matrix_of_which_the_gzip_is_cut_off_is_refused(make_adata, write_as, tmp_path):
    path = write_as(make_adata(), tmp_path, "mtx")
    content = (path / "matrix.mtx.gz").read_bytes()
    (path / "matrix.mtx.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cut off or damaged"):
        list(open_cells(path).chunks())


@pytest.mark.parametrize("name", ["features.tsv", "barcodes.tsv"])
def test_a_table_that_is_missing_is_named(make_adata, write_as, tmp_path, name):
    path = write_as(make_adata(), tmp_path, "mtx")
    (path / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=rf"has no {name} or {name}\.gz beside matrix\.mtx\.gz"):
        open_cells(path)
