"""The demo: everything it promises is there, the same every time, and nothing of others is touched."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from rich.table import Table
from sklearn.metrics import f1_score

from polygene.cli import demo
from polygene.corpus.corpus import Corpus
from polygene.errors import DataError
from polygene.model.checkpoint import PolyGene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Table]]:
    """A demo."""
    folder = tmp_path_factory.mktemp("demo") / "polygene-demo"
    return folder, demo.run(folder)


@pytest.mark.slow
def test_it_leaves_what_it_says(made: tuple[Path, list[Table]]) -> None:
    folder, _ = made
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.MADE)
    assert (folder / "umap.png").read_bytes().startswith(b"\x89PNG")
    assert "Cells, not donors, were held out" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_cells_are_annotated_by_the_shipped_model_and_by_the_tuned_one(made: tuple[Path, list[Table]]) -> None:
    adata = ad.read_h5ad(made[0] / "annotated.h5ad")
    shipped = PolyGene.from_pretrained(demo.MODEL)
    assert adata.shape == (700, 765)
    assert list(adata.obs["polygene_cell_type"].cat.categories) == list(shipped.tokenizer.schema.labels[2])
    assert adata.obsm["X_polygene"].shape == (700, shipped.network.config.hidden_size)
    assert adata.obsm["X_umap"].shape == (700, 2)
    labels = sorted(demo.blood_cells().obs[demo.LABELS].unique())
    assert list(adata.obs["polygene_bulk_labels"].cat.categories) == labels
    held_out = adata.obs_names[adata.obs["held_out"]]
    assert set(held_out) == set(Corpus(made[0] / "corpus").split("test").names_C)
    assert len(held_out) == 140


@pytest.mark.slow
def test_the_first_table_counts_what_agrees_by_the_ontology(made: tuple[Path, list[Table]]) -> None:
    adata, table = ad.read_h5ad(made[0] / "annotated.h5ad"), made[1][0]
    counted = zip(*(column.cells for column in table.columns[2:6]), strict=True)
    rows = dict(zip(table.columns[0].cells, counted, strict=True))
    monocytes = adata.obs["polygene_cell_type"][adata.obs[demo.LABELS] == "CD14+ Monocyte"].astype(str)
    finer = monocytes.isin(["non-classical monocyte", "classical monocyte"]).mean()
    assert rows["CD14+ Monocyte"] == ("129", f"{(monocytes == 'monocyte').mean():.0%}", f"{finer:.0%}", "0%")
    assert sum(int(row[0]) for row in rows.values()) == 700
    assert set(demo.MEANT) == set(rows)


@pytest.mark.slow
def test_the_scores_say_how_cells_were_held_out_and_show_the_baselines(made: tuple[Path, list[Table]]) -> None:
    table = made[1][1]
    assert "cells, not donors" in str(table.title)
    assert {"PolyGene", "majority", "k-nearest neighbours", "logistic regression"} <= set(table.columns[0].cells)
    scores = json.loads((made[0] / "metrics.json").read_text(), parse_constant=pytest.fail)["scores"]
    f1 = {row["predictor"]: row["value"] for row in scores if row["score"] == "macro_f1"}
    assert f1["PolyGene"] > f1["majority"] + 0.3
    adata = ad.read_h5ad(made[0] / "annotated.h5ad")
    asked = adata.obs[adata.obs["held_out"]]
    truth, answers = (asked[name].astype(str) for name in (demo.LABELS, "polygene_bulk_labels"))
    assert f1["PolyGene"] == pytest.approx(f1_score(truth, answers, average="macro", labels=truth.unique()))


@pytest.mark.slow
def test_it_replaces_an_earlier_demo_by_the_same_one(made: tuple[Path, list[Table]]) -> None:
    def answers() -> np.ndarray:
        adata = ad.read_h5ad(made[0] / "annotated.h5ad")
        return np.hstack([adata.obsm["polygene_bulk_labels"], adata.obsm["X_polygene"], adata.obsm["X_umap"]])

    before, metrics = answers(), (made[0] / "metrics.json").read_bytes()
    demo.run(made[0])
    np.testing.assert_array_equal(answers(), before)
    assert (made[0] / "metrics.json").read_bytes() == metrics


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"holds thesis\.txt, which no demo made"):
        demo.run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "thesis.txt"]


def test_the_cells_are_those_of_scanpy_before_they_were_scaled() -> None:
    adata = demo.blood_cells()
    assert adata.shape == (700, 765)
    assert adata.X.min() == 0
    assert adata.obs[demo.LABELS].nunique() == 10
