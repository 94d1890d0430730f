"""A SOMA experiment as a source: the same corpus as from the file that it was written from."""

import filecmp
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import polygene as pg
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import DataError
from polygene.io.read import open_cells, open_sources
from polygene.vocab.gene_names import human_genes

soma = pytest.importorskip("tiledbsoma")
soma_io = pytest.importorskip("tiledbsoma.io")
CONFIG = PrepareConfig(n_genes=100)


@pytest.fixture(scope="module")
def cells():
    """The bundled cells, as if of eight donors and two data sets, with Ensembl ids."""
    adata = pg.datasets.pbmc()[:, 5000:7000].copy()
    known = human_genes().ids
    adata.var["feature_id"] = [known.get(name, f"none{i}") for i, name in enumerate(adata.var_names)]
    adata = adata[:, ~adata.var["feature_id"].duplicated()].copy()
    rows = np.arange(adata.n_obs)
    adata.obs["donor_id"] = pd.Categorical([f"donor{row % 8}" for row in rows])
    adata.obs["is_primary_data"] = rows % 7 > 0
    adata.obs["dataset"] = pd.Categorical(np.where(rows < 400, "first", "second"))
    del adata.obsm["X_umap"]
    return adata


def write(adata, path, **options):
    soma_io.from_anndata(str(path), adata, "RNA", **({"X_layer_name": "raw"} | options))
    return f"soma://{path}"


@pytest.fixture(scope="module")
def experiment(cells, tmp_path_factory):
    return write(cells, tmp_path_factory.mktemp("soma") / "pbmc")


def assert_equal_corpora(one, two):
    """Every file has the same bytes, but for the names of files and filters in corpus.json."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(two)) for path in two.rglob("*") if path.is_file())
    different = [name for name in names if not filecmp.cmp(one / name, two / name, shallow=False)]
    assert set(different) <= {"corpus.json"}
    facts = [json.loads((folder / "corpus.json").read_text()) for folder in (one, two)]
    for info in facts:
        del info["digest"], info["config"]["where"]
        for source in info["sources"]:
            del source["file"]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("where", [None, "is_primary_data == True and dataset == 'first'"])
def test_an_experiment_and_its_file_give_the_same_bytes(cells, experiment, tmp_path, where):
    chosen = (
        cells.obs["is_primary_data"] & (cells.obs["dataset"] == "first")
        if where
        else cells.obs_names == cells.obs_names
    )
    cells[np.asarray(chosen)].write_h5ad(tmp_path / "pbmc.h5ad")
    of_file = prepare(tmp_path / "pbmc.h5ad", tmp_path / "one", config=CONFIG)
    config = PrepareConfig(n_genes=100, where=where)
    of_soma = prepare(experiment, tmp_path / "two", config=config)
    assert sum(of_soma.info["sources"][0]["cells"].values()) == int(np.sum(chosen))
    assert of_soma.info["config"]["where"] == where
    assert_equal_corpora(of_file.folder, of_soma.folder)


def test_an_experiment_is_read_in_chunks_and_by_several_processes(cells, experiment):
    source = pickle.loads(pickle.dumps(open_cells(experiment)))  # noqa: S301 as a process pool does
    rows = np.array([3, 4, 250, 699])
    chunks = list(source.chunks(rows, size=300, columns=["cell_type"]))
    assert [chunk.n_obs for chunk in chunks] == [3, 1]
    assert [name for chunk in chunks for name in chunk.obs_names] == list(cells.obs_names[rows])
    found = np.concatenate([chunk.X.toarray() for chunk in chunks])
    np.testing.assert_array_equal(found, cells.X[rows].toarray())
    assert list(source.obs["donor_id"]) == list(cells.obs["donor_id"])


def test_a_label_is_the_one_of_its_ontology_id(cells, tmp_path):
    adata = cells[:20].copy()
    adata.obs["cell_type"] = pd.Categorical(["an old name"] * 20)
    adata.obs["cell_type_ontology_term_id"] = pd.Categorical(["CL:0000236"] * 10 + ["unknown"] * 10)
    labels = open_cells(write(adata, tmp_path / "old")).frame(["cell_type"])["cell_type"]
    assert list(labels) == ["B cell"] * 10 + ["an old name"] * 10


@pytest.fixture(scope="module")
def census(cells, tmp_path_factory):
    """A Census of two data sets, of which the second did not measure every third gene."""
    folder = tmp_path_factory.mktemp("census") / "census"
    adata = cells.copy()
    adata.obs["dataset_id"] = adata.obs["dataset"]
    with soma.Collection.create(str(folder)) as root:
        root.add_new_collection("census_data")
        root.add_new_collection("census_info")
    write(adata, folder / "census_data" / "homo_sapiens")
    measured_DG = np.ones((2, adata.n_vars), dtype=bool)
    measured_DG[1, ::3] = False
    with soma.Collection.open(str(folder / "census_data"), "w") as data:
        data.set("homo_sapiens", soma.Experiment.open(str(folder / "census_data" / "homo_sapiens")))
    with soma.Measurement.open(str(folder / "census_data" / "homo_sapiens" / "ms" / "RNA"), "w") as rna:
        name = "feature_dataset_presence_matrix"
        matrix = rna.add_new_sparse_ndarray(name, type=pa.uint8(), shape=measured_DG.shape)
        d, g = np.nonzero(measured_DG)
        matrix.write(pa.table({"soma_dim_0": d, "soma_dim_1": g, "soma_data": np.ones(len(d), np.uint8)}))
    with soma.Collection.open(str(folder / "census_info"), "w") as info:
        schema = pa.schema([("soma_joinid", pa.int64()), ("dataset_id", pa.large_string())])
        table = info.add_new_dataframe("datasets", schema=schema, index_column_names=["soma_joinid"], domain=[(0, 9)])
        table.write(pa.table({"soma_joinid": [0, 1], "dataset_id": ["first", "second"]}, schema=schema))
    return f"soma://{folder}"


def test_each_data_set_of_a_census_is_a_source_with_the_genes_that_it_measured(cells, census, tmp_path):
    rows = {"first": slice(0, 400), "second": slice(400, 700)}
    for name, some in rows.items():
        measured_G = (np.arange(cells.n_vars) % 3 > 0) | (name == "first")
        cells[some, measured_G].write_h5ad(tmp_path / f"{name}.h5ad")
    config = PrepareConfig(n_genes=100, include_genes=list(cells.var_names[[0, 3, 4]]))
    of_files = prepare([tmp_path / "first.h5ad", tmp_path / "second.h5ad"], tmp_path / "one", config=config)
    of_census = prepare(census, tmp_path / "two", config=config)
    assert of_census.sources == ("first", "second")
    assert of_census.measured_SG.sum(axis=1).tolist() == [100, 98]
    assert_equal_corpora(of_files.folder, of_census.folder)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("dataset == 'third'", r"no cell is selected by \"dataset == 'third'\""),
        ("colour == 'red'", r"Column colour does not exist in schema.*there are author_label, cell_type"),
        ("dataset =", r"the filter 'dataset =' cannot be read"),
    ],
    ids=["selects nothing", "names no column", "no condition"],
)
def test_a_filter_that_selects_no_cell_is_named(experiment, tmp_path, where, message):
    with pytest.raises(DataError, match=message):
        prepare(experiment, tmp_path / "corpus", config=PrepareConfig(where=where))
    assert not (tmp_path / "corpus").exists()


def test_a_filter_without_an_experiment_is_refused(cells, tmp_path):
    with pytest.raises(DataError, match="none of the sources is one"):
        prepare(cells, tmp_path / "corpus", config=PrepareConfig(where="dataset == 'first'"))


def test_what_an_experiment_lacks_is_named(cells, tmp_path):
    few = cells[:20].copy()
    with pytest.raises(DataError, match=r"no X\['raw'\].*which has normalized"):
        open_sources(write(few, tmp_path / "log", X_layer_name="normalized"))
    mouse = few.copy()
    mouse.var["feature_id"] = [f"ENSMUSG{i:011d}" for i in range(mouse.n_vars)]
    with pytest.raises(DataError, match="holds cells of mouse"):
        open_sources(write(mouse, tmp_path / "mouse"))
    del few.var["feature_id"]
    with pytest.raises(DataError, match="has no feature_id"):
        open_sources(write(few, tmp_path / "symbols"))
    with pytest.raises(DataError, match="there is no SOMA experiment at"):
        open_sources(f"soma://{tmp_path / 'nowhere'}")
