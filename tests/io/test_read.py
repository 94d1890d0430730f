import logging
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import DataError, ScaleError
from polygene.io.paths import expand_paths
from polygene.io.read import open_cells, open_sources
from polygene.vocab.columns import given_texts
from polygene.vocab.expression import log1p_values
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import CELLXGENE


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
    adata.obs["nullable_yes"] = pd.array([None if i % 5 == 0 else i % 2 == 0 for i in range(150)], dtype="boolean")
    adata.obs["nullable_text"] = pd.array([None if i % 5 == 0 else f"{i}" for i in range(150)], dtype="string")
    adata.obs["unused"] = pd.Categorical(["used"] * 150, categories=["never", "used"])
    adata.obs["some"] = pd.Categorical([None if i % 3 == 0 else "given" for i in range(150)])
    return adata


def saved(adata, tmp_path, name="cells.h5ad"):
    path = tmp_path / name
    with ad.settings.override(allow_write_nullable_strings=True):
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


def test_what_is_stored_by_genes_is_turned_once_on_disk_and_this_is_said(adata, tmp_path, caplog):
    cells = open_cells(saved(stored_as(adata, "csc"), tmp_path))
    with caplog.at_level(logging.WARNING, logger="polygene"):
        for _ in range(2):
            assert len(list(cells.chunks())) == 1
    assert caplog.text.count("is stored by genes (CSC); it is first transposed to rows, which takes 1 MB in") == 1
    assert "adata.X = adata.X.tocsr()" in caplog.text


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


def test_columns_of_mixed_values_are_read_as_they_are(adata):
    adata.obs["mixed"] = pd.Series([1, "a", np.nan, 2.0, "b"] * 30, index=adata.obs_names, dtype=object)
    cells = open_cells(adata)
    assert pd.concat([chunk.obs["mixed"] for chunk in cells.chunks(size=64)]).tolist()[:2] == [1, "a"]
    codes, names = given_texts(cells.frame(["mixed"])["mixed"])
    assert [names[code] if code >= 0 else None for code in codes[:5]] == ["1", "a", None, "2", "b"]


def test_labels_with_gaps_flags_and_unused_categories_are_given_as_text(adata, tmp_path):
    frame = open_cells(saved(adata, tmp_path)).frame(["nullable", "nullable_yes", "nullable_text", "unused", "some"])
    read = {column: given_texts(frame[column]) for column in frame}
    texts = {
        column: [names[code] if code >= 0 else None for code in codes[:3]] for column, (codes, names) in read.items()
    }
    assert texts == {
        "nullable": [None, "1", "2"],
        "nullable_yes": [None, "False", "True"],
        "nullable_text": [None, "1", "2"],
        "unused": ["used"] * 3,
        "some": [None, "given", "given"],
    }
    assert read["unused"][1] == ["used"]


def test_a_pattern_that_names_one_file_opens_it_and_one_that_names_several_is_refused(adata, tmp_path):
    saved(adata, tmp_path)
    assert open_cells(str(tmp_path / "*.h5ad")).name == "cells"
    saved(adata, tmp_path, "more.h5ad")
    with pytest.raises(DataError, match=r"'.*\*\.h5ad' names 2 files; give one"):
        open_cells(str(tmp_path / "*.h5ad"))


def test_a_file_with_other_genes_is_read_by_its_own_genes(make_adata, tmp_path):
    first, second = make_adata(), make_adata(seed=1)[:, ::-1][:, 5:].copy()
    saved(first, tmp_path, "shard_0.h5ad")
    saved(second, tmp_path, "shard_1.h5ad")
    opened = open_sources(str(tmp_path / "shard_{0..1}.h5ad"))
    assert [list(cells.var.index) for cells in opened] == [list(first.var_names), list(second.var_names)]
    assert (next(opened[1].chunks()).X != second.X).nnz == 0


def test_shards_with_other_genes_in_another_order_make_the_corpus_that_ordered_shards_make(make_adata, tmp_path):
    config = PrepareConfig(n_genes=30)
    first, second = make_adata(seed=1), make_adata(seed=2)[:, 5:].copy()
    for name, order in (("ordered", slice(None)), ("shuffled", np.random.default_rng(0).permutation(25))):
        saved(first, tmp_path, f"{name}_0.h5ad")
        saved(second[:, order].copy(), tmp_path, f"{name}_1.h5ad")
    ordered = {"first": tmp_path / "ordered_0.h5ad", "second": tmp_path / "ordered_1.h5ad"}
    shuffled = dict(zip(ordered, expand_paths(str(tmp_path / "shuffled_{0..1}.h5ad")), strict=True))
    one, two = (prepare(it, tmp_path / "out" / str(i), config=config) for i, it in enumerate((ordered, shuffled)))
    assert one.info["tokenizer"] == two.info["tokenizer"]
    assert (one.split("test").values() != two.split("test").values()).nnz == 0
    absent = [f"GENE{g}" for g in range(5)]
    assert np.isin(two.tokenizer.panel.symbols, absent)[~two.measured_SG[1]].all()
    assert (~two.measured_SG).sum(1).tolist() == [0, 5]


def test_rows_out_of_order_are_refused(adata):
    cells = open_cells(adata)
    for rows in ([3, 2], [2, 2], [-1, 4], [149, 150]):
        with pytest.raises(ValueError, match="increasing numbers from 0 to 149"):
            list(cells.chunks(np.array(rows)))


def test_the_scale_is_detected_from_the_rows_that_are_named(adata, caplog):
    adata.X = sparse.vstack([adata.X[:100], -adata.X[100:]]).tocsr()
    cells = open_cells(adata)
    with caplog.at_level(logging.INFO, logger="polygene"):
        assert cells.find_scale(np.arange(100)) == "counts"
    assert "adata: 150 cells × 30 genes, counts" in caplog.text
    with pytest.raises(ScaleError, match="negative"):
        _ = cells.scale


def test_every_source_has_a_name_of_its_own(adata, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [saved(adata, tmp_path), saved(adata[1:].copy(), tmp_path / "other")]
    assert [cells.name for cells in open_sources([*paths, adata, adata])] == ["cells", "cells-2", "adata", "adata-2"]
    assert [cells.name for cells in open_sources({"healthy": paths[0], "sick": adata})] == ["healthy", "sick"]
    assert [cells.name for cells in open_sources(str(tmp_path / "*.h5ad"))] == ["cells"]
    with pytest.raises(DataError, match="no cells were given"):
        open_sources([])


def test_a_file_that_two_patterns_name_is_read_once_and_this_is_said(adata, tmp_path, caplog):
    path = saved(adata, tmp_path)
    (tmp_path / "link.h5ad").symlink_to(path)
    given = [path, str(tmp_path / "c*.h5ad"), tmp_path / "link.h5ad"]
    assert [cells.name for cells in open_sources(given)] == ["cells"]
    assert [message for message in caplog.messages if "was given before, and is read once" in message][1:] == [
        f"{tmp_path / 'link.h5ad'} was given before, and is read once"
    ]


def test_a_copy_of_a_file_is_read_once_and_both_are_named(adata, tmp_path, caplog):
    path, other = saved(adata, tmp_path), saved(adata[::-1].copy(), tmp_path, "other.h5ad")
    copy = Path(shutil.copy(path, tmp_path / "copy.h5ad"))
    assert path.stat().st_size == other.stat().st_size
    assert [cells.name for cells in open_sources([path, other, copy])] == ["cells", "other"]
    assert f"{copy} is a copy of {path}, byte for byte, and the cells are read once" in caplog.messages


def test_what_is_no_anndata_is_refused(adata, tmp_path):
    with pytest.raises(DataError, match="got DataFrame"):
        open_cells(adata.obs)
    with pytest.raises(DataError, match=r"there is no file .*absent\.h5ad"):
        open_cells(tmp_path / "absent.h5ad")


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


def cellxgene(make_adata):
    """Make cells as CELLxGENE ships them: Ensembl ids, log1p values in X, counts in raw, the columns of its schema."""
    adata = make_adata()
    adata.var.index = pd.Index([f"ENSG{g:011d}" for g in range(30)], name="feature_id")
    adata.var["feature_name"] = pd.Categorical([f"GENE{g}" for g in range(30)])
    adata.var["feature_is_filtered"] = False
    adata.var["feature_reference"] = pd.Categorical(["NCBITaxon:9606"] * 30)
    adata.raw = adata.copy()
    adata.obs["is_primary_data"] = True
    adata.obs["sex_ontology_term_id"] = pd.Categorical(["PATO:0000383"] * 150)
    adata.obs["self_reported_ethnicity"] = pd.Categorical(["unknown"] * 150)
    adata.obs["observation_joinid"] = [f"id{i}" for i in range(150)]
    adata.uns["schema_version"] = "5.2.0"
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def test_a_cellxgene_file_is_read_as_it_comes(make_adata, tmp_path):
    path = saved(cellxgene(make_adata), tmp_path)
    normalised, raw = open_cells(path), open_cells(path, layer="raw")
    assert (normalised.scale, raw.scale) == ("log1p", "counts")
    panel = GenePanel(symbols=("GENE3", "GENE7"), ensembl_ids=("ENSG00000000003", ""))
    for cells in (normalised, raw):
        assert panel.match(cells.var).columns_N.tolist() == [3, 7]
        assert cells.frame([phenotype.column for phenotype in CELLXGENE]).shape == (150, 5)
    values = [log1p_values(next(cells.chunks()), scale=cells.scale) for cells in (normalised, raw)]
    np.testing.assert_allclose(values[0].toarray(), values[1].toarray(), rtol=1e-5)


def test_scaled_values_are_refused_with_raw_as_the_way_out(make_adata, tmp_path):
    adata = cellxgene(make_adata)
    adata.X = adata.X.toarray()
    sc.pp.scale(adata)
    path = saved(adata, tmp_path)
    with pytest.raises(ScaleError, match=r"log1p values: pass layer='raw', whichever holds them\."):
        _ = open_cells(path).scale
    assert open_cells(path, layer="raw").scale == "counts"
    del adata.raw
    for place in (adata, saved(adata, tmp_path)):
        with pytest.raises(ScaleError, match=r"log1p values, and there is no other layer\."):
            _ = open_cells(place).scale
