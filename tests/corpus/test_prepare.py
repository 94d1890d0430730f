import dataclasses
import errno
import filecmp
import json
import logging
import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from polygene.corpus.arrow import SPLITS, ShardWriter
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import ColumnError, GeneError, OutputError, RecipeError, RunEndedError, ScaleError
from polygene.runtime.hashing import uniform
from polygene.vocab.binning import InverseFit
from polygene.vocab.expression import log1p_values

CONFIG = PrepareConfig(n_genes=20)
THINNED = dataclasses.replace(CONFIG, thinned=True)


@pytest.fixture
def adata(make_adata):
    return make_adata(400, 40, n_donors=12)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def split_of(corpus):
    """Say for each cell name in which split it is."""
    return pd.Series({name: split for split in SPLITS for name in corpus.split(split).names_C})


def test_the_same_input_and_seed_give_the_same_bytes(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for out in ("one", "two"):
        prepare(tmp_path / "cells.h5ad", tmp_path / out, config=CONFIG)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    for file in files_of(tmp_path / "one"):
        assert filecmp.cmp(tmp_path / "one" / file, tmp_path / "two" / file, shallow=False), file
    assert "cells.h5ad" in (tmp_path / "one/corpus.json").read_text()
    assert str(tmp_path) not in (tmp_path / "one/corpus.json").read_text()


@pytest.fixture(scope="module")
def files(make_adata, tmp_path_factory):
    """Two files of several blocks each."""
    folder = tmp_path_factory.mktemp("files")
    for seed in (1, 2):
        make_adata(400, 40, n_donors=12, seed=seed).write_h5ad(folder / f"cells{seed}.h5ad")
    return [folder / "cells1.h5ad", folder / "cells2.h5ad"]


@pytest.fixture(scope="module")
def by_one_process(files, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polygene.corpus.source.BLOCK", 150)
        return prepare(files, tmp_path_factory.mktemp("one") / "corpus", config=THINNED).folder


@pytest.mark.parametrize("num_proc", [2, 3])
def test_the_number_of_processes_changes_no_byte(files, by_one_process, tmp_path, monkeypatch, num_proc):
    monkeypatch.setattr("polygene.corpus.source.BLOCK", 150)
    prepare(files, tmp_path / "corpus", config=THINNED, num_proc=num_proc)
    assert files_of(tmp_path / "corpus") == files_of(by_one_process)
    for file in files_of(by_one_process):
        assert filecmp.cmp(tmp_path / "corpus" / file, by_one_process / file, shallow=False), file


def test_thinned_copies_are_of_training_cells_and_hold_a_binomial_share_of_their_counts(adata, tmp_path):
    plain = prepare({"cells": adata}, tmp_path / "plain", config=CONFIG)
    corpus = prepare({"cells": adata}, tmp_path / "thinned", config=THINNED)
    assert corpus.info["tokenizer"] == plain.info["tokenizer"]
    for part in ("validation", "test"):
        assert corpus.split(part).names_C.tolist() == plain.split(part).names_C.tolist()
    cells, copies = split_of(plain), split_of(corpus)
    copies = copies[copies.index.str.endswith(" (thinned)")]
    assert set(copies.index) == {f"{name} (thinned)" for name in cells.index[cells == "train"]}
    assert corpus.info["sources"][0]["thinned"] == len(copies)
    train = corpus.split("train")
    rows = {name: row for row, name in enumerate(train.names_C)}
    pairs = [(rows[name], rows[name.removesuffix(" (thinned)")]) for name in copies.index]
    thin_C, whole_C = (np.array(some) for some in zip(*pairs, strict=True))
    assert np.array_equal(train.labels_CP[thin_C], train.labels_CP[whole_C])
    assert np.array_equal(train.donors_C[thin_C], train.donors_C[whole_C])
    expressed_CG = train.values().toarray() > 0
    assert (expressed_CG[thin_C] <= expressed_CG[whole_C]).all()  # no gene appears
    # A gene with n counts stays at share s with the chance 1 - (1 - s)^n.
    columns = [list(adata.var_names).index(gene) for gene in corpus.tokenizer.panel.symbols]
    cells_C = adata.obs_names.get_indexer(train.names_C[whole_C])
    counts_CG, shares_C = (
        adata.X.toarray()[np.ix_(cells_C, columns)],
        0.1 ** uniform(0, 0 * cells_C, cells_C, np.array([0])),
    )
    expected = (1 - (1 - shares_C) ** counts_CG).sum()
    assert expressed_CG[thin_C].sum() == pytest.approx(expected, rel=0.02)
    assert expressed_CG[thin_C].sum() < 0.75 * expressed_CG[whole_C].sum()


def test_an_error_in_another_process_is_raised_here(adata, tmp_path, monkeypatch):
    adata.X.data[-1] = np.nan
    monkeypatch.setattr("polygene.io.read.SAMPLE", 10)  # so that looking at a sample does not find it
    with pytest.raises(ScaleError, match=r"^cells: .*NaN"):
        prepare({"cells": adata}, tmp_path / "corpus", config=CONFIG, num_proc=2)
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_the_same_cells_in_memory_give_the_same_cells(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    one = prepare(tmp_path / "cells.h5ad", tmp_path / "one", config=CONFIG)
    two = prepare({"cells": adata}, tmp_path / "two", config=CONFIG)
    assert one.info["tokenizer"] == two.info["tokenizer"]
    assert np.array_equal(one.split("test").values().toarray(), two.split("test").values().toarray())


@pytest.mark.parametrize("binning", ["linear", "cell_rank", "binary"])
def test_altering_cells_that_do_not_train_changes_no_byte_of_the_tokenizer(adata, tmp_path, binning):
    config = dataclasses.replace(CONFIG, binning=binning)
    adata.X.data = np.minimum(adata.X.data, 15)
    corpus = prepare(adata, tmp_path / "before", config=config)
    held_out = split_of(corpus)[adata.obs_names].to_numpy() != "train"
    rng = np.random.default_rng(1)
    counts = adata.X.toarray()
    # Fractions below 20, which alone would be read as log1p values.
    counts[held_out] = rng.poisson(50, counts[held_out].shape) * (rng.random(counts[held_out].shape) < 0.5) / 7
    adata.X = sparse.csr_matrix(counts)
    for column in ("sex", "cell_type", "development_stage"):  # the labels of a donor stay its own: the draw is the same
        values = adata.obs[column].astype(object)
        for donor in adata.obs["donor_id"][held_out].unique():
            mine = (adata.obs["donor_id"] == donor).to_numpy() & held_out
            values[mine] = rng.permutation(values[mine].to_numpy())
        adata.obs[column] = values
    after = prepare(adata, tmp_path / "after", config=config)
    assert split_of(after).equals(split_of(corpus))
    for file in ("tokenizer.json", "tokenizer.safetensors", "genes.tsv"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()
    assert (after.split("test").values() != corpus.split("test").values()).nnz > 0


def test_labels_of_cells_that_do_not_train_never_enter_the_vocabulary(adata, tmp_path, monkeypatch):
    corpus = prepare(adata, tmp_path / "before", config=CONFIG)
    held_out = split_of(corpus)[adata.obs_names].to_numpy() != "train"
    part_C = split_of(corpus)[adata.obs_names].map({split: part for part, split in enumerate(SPLITS)}).to_numpy()
    monkeypatch.setattr("polygene.corpus.prepare.split_cells", lambda *_, **__: [part_C])
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(~held_out, "never seen")
    adata.obs["disease"] = adata.obs["disease"].astype(object).where(~held_out, "unknown")
    after = prepare(adata, tmp_path / "after", config=CONFIG)
    assert after.info["tokenizer"] == corpus.info["tokenizer"]
    (source,) = after.info["sources"]
    assert source["unseen_in_training"] == {"cell_type": {"never seen": int(held_out.sum())}}
    assert sum(source["not_given"]["cell_type"].values()) == held_out.sum()
    assert source["not_given"]["disease"]["train"] == 0
    assert (after.split("test").labels_CP[:, [2, 4]] == -1).all()


def test_altering_a_training_cell_does_change_the_tokenizer(adata, tmp_path):
    corpus = prepare(adata, tmp_path / "before", config=CONFIG)
    trains = np.flatnonzero(split_of(corpus)[adata.obs_names].to_numpy() == "train")
    counts = adata.X.toarray()
    counts[trains[:20]] = counts[trains[:20]][:, ::-1]
    adata.X = sparse.csr_matrix(counts)
    assert prepare(adata, tmp_path / "after", config=CONFIG).info["tokenizer"] != corpus.info["tokenizer"]


def test_the_panel_is_ranked_on_training_donors_as_scanpy_would(adata, tmp_path, monkeypatch):
    monkeypatch.setattr("polygene.corpus.source.BLOCK", 150)
    corpus = prepare(adata, tmp_path / "corpus", config=CONFIG)
    train = adata[split_of(corpus)[adata.obs_names].to_numpy() == "train"].copy()
    sc.pp.normalize_total(train, target_sum=1e4)
    sc.pp.highly_variable_genes(train, flavor="seurat_v3", n_top_genes=20, check_values=False)
    score = train.var["variances_norm"].to_numpy()
    assert corpus.tokenizer.panel.symbols == tuple(adata.var_names[np.argsort(-score)[:20]])


@pytest.mark.parametrize("chunk", [64, 1000])
def test_the_inverse_is_that_of_all_training_cells_at_once(adata, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("polygene.io.read.CellSource.chunks.__defaults__", (None, chunk))
    monkeypatch.setattr("polygene.corpus.source.BLOCK", 128)
    corpus = prepare(adata, tmp_path / "corpus", config=CONFIG)
    trains = split_of(corpus)[adata.obs_names].to_numpy() == "train"
    fit = InverseFit(corpus.tokenizer.binner, 20)
    match = corpus.tokenizer.panel.match(adata.var)
    fit.add(log1p_values(adata[trains], match), match.measured_G)
    np.testing.assert_allclose(corpus.tokenizer.inverse.mean_GB, fit.finish().mean_GB, rtol=2e-3)
    assert np.array_equal(corpus.tokenizer.inverse.counts_GB, fit.finish().counts_GB)


@pytest.mark.parametrize("kind", ["linear", "cell_rank", "binary"])
def test_the_binning_that_is_asked_is_used(adata, tmp_path, kind):
    corpus = prepare(adata, tmp_path / "corpus", config=dataclasses.replace(CONFIG, binning=kind, n_bins=6))
    assert corpus.tokenizer.binner.kind == kind
    assert corpus.tokenizer.binner.n_bins == (2 if kind == "binary" else 6)
    assert corpus.split("train").cells(slice(None)).bins_N.max() < corpus.tokenizer.binner.n_bins


def test_counts_and_their_log1p_give_the_same_tokens(adata, tmp_path):
    counts = prepare({"cells": adata}, tmp_path / "counts", config=CONFIG)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    logs = prepare({"cells": adata}, tmp_path / "logs", config=CONFIG)
    assert [logs.info["sources"][0]["scale"], counts.info["sources"][0]["scale"]] == ["log1p", "counts"]
    assert logs.tokenizer.panel == counts.tokenizer.panel
    assert np.array_equal(
        logs.split("train").cells(slice(None)).bins_N, counts.split("train").cells(slice(None)).bins_N
    )


def test_recorded_totals_take_the_place_of_the_sum(adata, tmp_path):
    adata.obs["n_counts"] = 10.0 * np.asarray(adata.X.sum(1)).ravel()
    corpus = prepare(adata, tmp_path / "corpus", config=dataclasses.replace(CONFIG, totals="n_counts"))
    train = corpus.split("train")
    counts = adata[train.names_C, list(corpus.tokenizer.panel.symbols)].X.toarray()
    totals = adata.obs["n_counts"][train.names_C].to_numpy()
    expected = np.log1p(1e4 * counts / totals[:, None])
    np.testing.assert_allclose(train.values().toarray(), np.where(expected >= 0.1, expected, 0), rtol=1e-3)
    with pytest.raises(ColumnError, match=r"no column 'n_count' in obs. Did you mean 'n_counts'"):
        prepare(adata, tmp_path / "other", config=dataclasses.replace(CONFIG, totals="n_count"))


def test_cells_without_counts_are_kept(adata, tmp_path):
    adata.X = adata.X.multiply((np.arange(400) % 10 > 0)[:, None]).tocsr()
    corpus = prepare(adata, tmp_path / "corpus", config=CONFIG)
    assert sum(len(corpus.split(split)) for split in SPLITS) == 400
    assert corpus.info["sources"][0]["cells_without_panel_genes"] == 40


def test_phenotypes_are_read_from_the_columns_that_are_named(adata, tmp_path):
    adata.obs["sex_inferred"] = adata.obs["sex"].astype(str).str.upper()
    adata.obs["drug"] = ["aspirin" if i % 2 else "none" for i in range(400)]
    config = dataclasses.replace(CONFIG, phenotypes={"sex": "sex_inferred", "treatment": "drug"})
    schema = prepare(adata, tmp_path / "corpus", config=config).tokenizer.schema
    assert schema.names == ("sex", "tissue", "cell_type", "age", "disease", "treatment")
    assert schema.labels[0] == ("FEMALE", "MALE")
    assert schema.labels[5] == ("aspirin",)
    config = dataclasses.replace(CONFIG, phenotypes={"sex": "sex_infered"})
    with pytest.raises(ColumnError, match=r"no column 'sex_infered' in obs. Did you mean 'sex_inferred'"):
        prepare(adata, tmp_path / "other", config=config)


def test_what_is_logged_of_genes_and_labels_names_the_source(adata, make_adata, tmp_path, caplog):
    other = make_adata(200, 30, seed=5)
    other.var_names = [*other.var_names[:28], "GENE1", "gene29"]
    del other.obs["development_stage"]
    with caplog.at_level(logging.INFO, logger="polygene"):
        prepare({"one": adata, "other": other}, tmp_path / "corpus", config=CONFIG)
    of_genes = [line for line in caplog.messages if "genes: " in line or "not given" in line]
    assert "other: genes: 1 in several columns, which are summed: GENE1" in of_genes
    assert any(line.startswith("other: age: 200 of 200 cells not given") for line in of_genes)
    assert {line.partition(": ")[0] for line in of_genes} == {"one", "other"}
    scales = [line for line in caplog.messages if " genes, counts" in line]
    assert [line.partition(": ")[0] for line in scales] == ["one", "other"]
    assert caplog.messages[-1].startswith("prepared ")


def test_a_column_of_the_five_may_be_missing(adata, tmp_path, caplog):
    del adata.obs["development_stage"]
    with caplog.at_level(logging.INFO, logger="polygene"):
        corpus = prepare(adata, tmp_path / "corpus", config=CONFIG)
    assert corpus.info["sources"][0]["not_given"]["age"]["train"] == len(corpus.split("train"))
    assert "age: 400 of 400 cells not given (no column 'development_stage')" in caplog.text


def test_genes_to_include_are_in_the_panel(adata, tmp_path):
    counts = adata.X.toarray()
    counts[:, 3] = 1.0  # hardly variable
    adata.X = sparse.csr_matrix(counts)
    config = dataclasses.replace(CONFIG, include_genes=["GENE3"])
    assert "GENE3" not in prepare(adata, tmp_path / "without", config=CONFIG).tokenizer.panel.symbols
    assert "GENE3" in prepare(adata, tmp_path / "with", config=config).tokenizer.panel.symbols


def test_a_source_that_only_tests_has_no_say_in_the_panel(make_adata, tmp_path):
    adatas = [make_adata(seed=seed) for seed in range(4)]
    before = prepare(dict(zip("abcd", adatas, strict=True)), tmp_path / "before", config=PrepareConfig(split="study"))
    held_out = [source["name"] for source in before.info["sources"] if not source["cells"]["train"]]
    other = adatas["abcd".index(held_out[0])]
    other.var_names = [f"NEW{i}" if i > 20 else name for i, name in enumerate(other.var_names)]
    after = prepare(dict(zip("abcd", adatas, strict=True)), tmp_path / "after", config=PrepareConfig(split="study"))
    assert len(held_out) == 2
    assert after.info["tokenizer"] == before.info["tokenizer"]
    assert after.measured_SG["abcd".index(held_out[0])].sum() == 21


def test_one_panel_is_made_of_symbols_and_ensembl_ids(make_adata, tmp_path):
    symbols, ids = make_adata(seed=1), make_adata(seed=2)
    ids.var["feature_name"] = ids.var_names
    ids.var_names = [f"ENSG{g:011d}.3" for g in range(30)]
    corpus = prepare({"symbols": symbols, "ids": ids}, tmp_path / "corpus", config=PrepareConfig(n_genes=30))
    assert sorted(corpus.tokenizer.panel.symbols) == sorted(symbols.var_names)
    assert sorted(corpus.tokenizer.panel.ensembl_ids) == [f"ENSG{g:011d}" for g in range(30)]
    assert corpus.measured_SG.all()


def write_fails(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(ShardWriter, "write", fail)


DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (DISK_FULL, OutputError, r"could not be written, and nothing was left behind.*No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
    ids=["disk full", "interrupted"],
)
def test_nothing_is_left_of_a_corpus_that_cannot_be_written(adata, tmp_path, monkeypatch, error, kind, message):
    write_fails(monkeypatch, error)
    with pytest.raises(kind, match=message):
        prepare(adata, tmp_path / "corpus", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_a_bad_value_is_met_late_and_the_source_is_named(adata, tmp_path, monkeypatch):
    adata.X.data[-1] = np.nan
    monkeypatch.setattr("polygene.io.read.SAMPLE", 10)  # so that looking at a sample does not find it
    with pytest.raises(ScaleError, match=r"^cells: .*NaN"):
        prepare({"cells": adata}, tmp_path / "corpus", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_genes_with_numbers_for_names_are_refused_and_the_source_is_named(adata, tmp_path):
    adata.var_names = [str(g) for g in range(adata.n_vars)]
    with pytest.raises(GeneError, match=r"^cells: .*numbers for names"):
        prepare({"cells": adata}, tmp_path / "corpus", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_genes_that_are_there_twice_are_one(adata, tmp_path):
    half = np.random.default_rng(0).binomial(adata.X.toarray().astype(int), 0.5).astype(np.float32)
    halves = sparse.csr_matrix(np.hstack([adata.X.toarray() - half, half]))
    with pytest.warns(UserWarning, match="not unique"):
        twice = ad.AnnData(halves, obs=adata.obs, var=pd.DataFrame(index=[*adata.var_names, *adata.var_names]))
    once = prepare({"cells": adata}, tmp_path / "once", config=CONFIG)
    assert prepare({"cells": twice}, tmp_path / "twice", config=CONFIG).tokenizer.panel == once.tokenizer.panel
    for name in ("train", "test"):
        a, b = (Corpus(tmp_path / folder).split(name).cells(slice(None)) for folder in ("once", "twice"))
        assert np.array_equal(a.genes_N, b.genes_N)
        np.testing.assert_allclose(a.values_N, b.values_N, rtol=1e-5)


def test_one_panel_is_made_of_old_and_new_names(make_adata, tmp_path):
    old, new = make_adata(n_genes=3, seed=1), make_adata(n_genes=3, seed=2)
    old.var_names, new.var_names = ["MARCH1", "SEPT2", "CD74"], ["MARCHF1", "SEPTIN2", "CD74"]
    corpus = prepare({"old": old, "new": new}, tmp_path / "corpus", config=PrepareConfig(n_genes=30))
    assert sorted(corpus.tokenizer.panel.ensembl_ids) == ["ENSG00000019582", "ENSG00000145416", "ENSG00000168385"]
    assert corpus.measured_SG.all()


def test_a_corpus_is_not_replaced_unless_it_is_said_and_survives_a_failure(adata, tmp_path, monkeypatch):
    before = prepare(adata, tmp_path / "corpus", config=CONFIG).info
    with pytest.raises(OutputError, match="exists, and it is not replaced: choose another folder, or delete it"):
        prepare(adata, tmp_path / "corpus", config=CONFIG)
    with monkeypatch.context() as patch:
        write_fails(patch, DISK_FULL)
        with pytest.raises(OutputError, match="No space left"):
            prepare(adata, tmp_path / "corpus", config=CONFIG, overwrite=True)
    assert Corpus(tmp_path / "corpus").info == before
    config = dataclasses.replace(CONFIG, seed=3)
    assert prepare(adata, tmp_path / "corpus", config=config, overwrite=True).info["config"]["seed"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_second_run_into_the_same_folder_is_refused_and_leaves_the_first_alone(adata, tmp_path, monkeypatch):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = prepare({"cells": adata}, tmp_path / "alone", config=CONFIG)
    write, refused = ShardWriter.write, []
    again = [sys.executable, "-m", "polygene", "prepare", tmp_path / "cells.h5ad", "--out", tmp_path / "corpus"]

    def write_while_another_begins(*arguments):
        if not refused:
            done = subprocess.run(again, capture_output=True, text=True, check=False)
            refused.append((done.returncode, "is being written by another process" in " ".join(done.stderr.split())))
        return write(*arguments)

    monkeypatch.setattr(ShardWriter, "write", write_while_another_begins)
    corpus = prepare({"cells": adata}, tmp_path / "corpus", config=CONFIG)
    assert refused == [(2, True)]
    assert corpus.info == expected.info
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "cells.h5ad", "corpus"]


def test_torchrun_is_refused(adata, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunEndedError, match="start it without torchrun"):
        prepare(adata, tmp_path / "corpus", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_corpus_is_never_replaced(adata, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").touch()
    with pytest.raises(OutputError, match=r"holds no corpus\.json, so it is not replaced"):
        prepare(adata, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"binning": "log"}, "binning is one of cell_rank, cell_quantile, linear, binary; got 'log'"),
        ({"split": "cell"}, "split is one of donor, study, random; got 'cell'"),
        ({"fractions": (0.7, 0.2)}, "add up to 1"),
        ({"fractions": (0.7, 0.2, 0.2)}, "add up to 1"),
        ({"fractions": (0.0, 0.5, 0.5)}, "add up to 1"),
        ({"n_genes": 0}, "n_genes lies between 1 and 65,535; got 0"),
        ({"n_bins": 257}, "n_bins lies between 2 and 256; got 257"),
        ({"seed": -1}, "seed lies between"),
    ],
)
def test_a_wrong_setting_is_refused(wrong, message):
    with pytest.raises(RecipeError, match=message):
        PrepareConfig(**wrong)


def test_what_was_asked_is_written_down(adata, tmp_path):
    config = dataclasses.replace(CONFIG, split="random", seed=7, include_genes=["GENE1"])
    corpus = prepare(adata, tmp_path / "corpus", config=config)
    written = json.loads((tmp_path / "corpus/corpus.json").read_text())["config"]
    assert corpus.split_word == "random"
    assert PrepareConfig(**{**written, "fractions": tuple(written["fractions"])}) == config


def test_two_phenotypes_of_one_column_are_refused(adata, tmp_path):
    config = dataclasses.replace(CONFIG, phenotypes={"sx": "sex"})
    with pytest.raises(RecipeError, match="two phenotypes are read from the column 'sex'"):
        prepare(adata, tmp_path / "corpus", config=config)


def test_a_phenotype_of_its_own_is_said_and_so_is_the_name_that_was_perhaps_meant(adata, tmp_path, caplog):
    adata.obs["patient"] = adata.obs["donor_id"]
    prepare(adata, tmp_path / "corpus", config=dataclasses.replace(CONFIG, phenotypes={"donor": "patient"}))
    assert "donor is a phenotype of its own, read from obs['patient']; did you mean donor_id?" in caplog.messages


def test_a_donor_in_several_splits_is_counted_once(adata, tmp_path):
    corpus = prepare(adata, tmp_path / "corpus", config=dataclasses.replace(CONFIG, split="random"))
    (source,) = corpus.info["sources"]
    assert source["donors_in_all"] == 12 == source["donors"]["train"]


def test_ages_that_no_training_donor_has_are_kept_in_years(adata, tmp_path, caplog):
    adata.obs["development_stage"] = [f"{20 + int(d[5:])}-year-old stage" for d in adata.obs["donor_id"]]
    adata.obs["development_stage"] = adata.obs["development_stage"].where(np.arange(400) % 5 > 0, "adult stage")
    corpus = prepare(adata, tmp_path / "corpus", config=CONFIG)
    test, age = corpus.split("test"), corpus.tokenizer.schema.index("age")
    expected = adata.obs["development_stage"][test.names_C].str.extract(r"^(\d+)")[0].astype(np.float32)
    np.testing.assert_array_equal(test.years_C, expected)
    assert (test.labels_CP[np.isfinite(test.years_C), age] == -1).all()
    ages = len(corpus.tokenizer.schema.labels[age])
    assert f"age: 1 of {ages} labels name no years: adult stage" in caplog.messages


@pytest.mark.parametrize("seen", [-0.1, 0.6])
def test_an_impossible_share_to_set_aside_is_refused(seen):
    with pytest.raises(RecipeError, match=r"set aside, from 0 to 0\.5"):
        PrepareConfig(seen=seen)
