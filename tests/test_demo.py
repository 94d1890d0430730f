"""The demo: everything it promises is there, the same every time, and nothing of others is touched."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from rich.table import Table

from polygene import demo
from polygene.corpus import Corpus
from polygene.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Table]]:
    """A demo that trains for one epoch."""
    folder = tmp_path_factory.mktemp("demo") / "polygene-demo"
    return folder, demo.run(folder, epochs=1)


@pytest.mark.slow
def test_it_leaves_what_it_says(made: tuple[Path, list[Table]]) -> None:
    folder, _ = made
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.MADE)
    assert (folder / "umap.png").read_bytes().startswith(b"\x89PNG")
    assert "Cells, not donors, were held out" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_held_out_cells_are_annotated_and_embedded(made: tuple[Path, list[Table]]) -> None:
    adata = ad.read_h5ad(made[0] / "annotated.h5ad")
    assert set(adata.obs_names) == set(Corpus(made[0] / "corpus").split("test").names_C)
    assert adata.obsm["X_polygene"].shape == (len(adata), 64)
    assert adata.obsm["X_umap"].shape == (len(adata), 2)
    assert adata.obs["polygene_cell_type"].notna().all()
    assert list(adata.obs["polygene_cell_type"].cat.categories) == sorted(demo.blood_cells().obs[demo.LABELS].unique())


@pytest.mark.slow
def test_every_label_is_in_every_part_of_the_split(made: tuple[Path, list[Table]]) -> None:
    corpus = Corpus(made[0] / "corpus")
    for name in ("train", "test"):
        labels_C = corpus.split(name).labels_CP[:, corpus.tokenizer.schema.index("cell_type")]
        assert len(np.unique(labels_C)) == 10


@pytest.mark.slow
def test_the_table_says_how_cells_were_held_out_and_shows_the_baselines(made: tuple[Path, list[Table]]) -> None:
    table = made[1][0]
    assert "cells, not donors" in str(table.title)
    assert {"PolyGene", "majority", "k-nearest neighbours", "logistic regression"} <= set(table.columns[0].cells)
    scores = json.loads((made[0] / "metrics.json").read_text(), parse_constant=pytest.fail)["scores"]
    assert {"PolyGene", "logistic regression"} <= {row["predictor"] for row in scores}


@pytest.mark.slow
def test_it_replaces_an_earlier_demo_by_the_same_one(made: tuple[Path, list[Table]]) -> None:
    def answers() -> np.ndarray:
        adata = ad.read_h5ad(made[0] / "annotated.h5ad")
        return np.hstack([adata.obsm["polygene_cell_type"], adata.obsm["X_polygene"], adata.obsm["X_umap"]])

    before, metrics = answers(), (made[0] / "metrics.json").read_bytes()
    demo.run(made[0], epochs=1)
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
