"""The demo: everything it promises is there, the same every time, and nothing of others is touched."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from polygene.cli import demo
from polygene.corpus.corpus import Corpus
from polygene.errors import DataError, PolyGeneError
from polygene.model.checkpoint import PolyGene
from polygene.vocab.ontology import ontology_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str | Table]]:
    """A demo: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "polygene-demo"
    return folder, list(demo.run(folder))


@pytest.fixture(scope="module")
def obs(made: tuple[Path, list[str | Table]]) -> pd.DataFrame:
    return ad.read_h5ad(made[0] / "annotated.h5ad").obs


@pytest.mark.slow
def test_it_leaves_what_it_says(made: tuple[Path, list[str | Table]]) -> None:
    folder, _ = made
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.MADE)
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "Cells, not donors, were held out" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_prints_each_line_once_and_fits_a_screen(made: tuple[Path, list[str | Table]]) -> None:
    console = Console(width=120, file=None, record=True, quiet=False)
    with console.capture() as capture:
        for thing in made[1]:
            console.print(thing)
    lines = [line for line in capture.get().splitlines() if line.strip()]
    assert len(lines) <= 24
    assert len(set(lines)) == len(lines)


@pytest.mark.slow
def test_cells_are_annotated_by_the_shipped_model_and_by_the_tuned_one(
    made: tuple[Path, list[str | Table]], obs: pd.DataFrame
) -> None:
    shipped = PolyGene.from_pretrained(demo.MODEL)
    schema = shipped.tokenizer.schema
    assert set(obs[demo.PREDICTED].cat.categories) <= set(schema.labels[schema.index("cell_type")])
    assert set(obs[f"polygene_{demo.LABEL}"].cat.categories) == set(obs[demo.LABEL].cat.categories)
    assert set(obs.index[obs["held_out"]]) == set(Corpus(made[0] / "corpus").split("test").names_C)
    assert obs["held_out"].sum() == len(obs) / 2


@pytest.mark.slow
def test_the_table_counts_what_agrees_by_the_ontology(made: tuple[Path, list[str | Table]], obs: pd.DataFrame) -> None:
    (table,) = (thing for thing in made[1] if isinstance(thing, Table))
    rows = {row[0]: row[1:] for row in zip(*(column.cells for column in table.columns), strict=True)}
    natural_killers = obs[obs[demo.LABEL] == "NK cell"]
    compare = ontology_of("cell_type").compare
    how = [compare(label, "natural killer cell") for label in natural_killers[demo.PREDICTED]]
    agrees = np.mean([one in {"same", "finer"} for one in how])
    assert rows["NK cell"][:2] == (f"{len(natural_killers)}", f"{agrees:.0%}")
    assert list(rows) == list(obs[demo.LABEL].cat.categories)
    assert sum(int(row[0]) for row in rows.values()) == len(obs)


@pytest.mark.slow
def test_printed_scores_are_those_of_the_held_out_half(made: tuple[Path, list[str | Table]], obs: pd.DataFrame) -> None:
    scores = json.loads((made[0] / "metrics.json").read_text(), parse_constant=pytest.fail)["scores"]
    f1 = {row["predictor"]: row["value"] for row in scores if row["score"] == "macro_f1"}
    asked = obs[obs["held_out"]]
    truth, predicted = (asked[name].astype(str) for name in (demo.LABEL, f"polygene_{demo.LABEL}"))
    assert f1["PolyGene"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert f1["PolyGene"] > f1["majority"] + 0.3
    said = "\n".join(thing for thing in made[1] if isinstance(thing, str))
    for who in ("PolyGene", "logistic regression"):
        assert f"{f1[who]:.2f} [" in said


@pytest.mark.slow
def test_it_replaces_an_earlier_demo_by_the_same_one(made: tuple[Path, list[str | Table]]) -> None:
    def predictions() -> np.ndarray:
        adata = ad.read_h5ad(made[0] / "annotated.h5ad")
        return np.hstack([adata.obsm["polygene_author_label"], adata.obsm["polygene_cell_type"]])

    before, metrics = predictions(), (made[0] / "metrics.json").read_bytes()
    list(demo.run(made[0]))
    np.testing.assert_array_equal(predictions(), before)
    assert (made[0] / "metrics.json").read_bytes() == metrics


def test_a_label_outside_the_ontology_agrees_with_nothing_but_itself() -> None:
    obs = pd.DataFrame(
        {
            demo.PREDICTED: ["cluster 7", "cluster 7", "lymphocyte", "naive B cell", "CD14-positive monocyte"],
            "cell_type": ["B cell", "cluster 7", "B cell", "B cell", "classical monocyte"],
        }
    )
    alike = demo.agreement(obs)
    assert list(alike["agrees"]) == [False, True, False, True, True]
    assert list(alike["broader"]) == [False, False, True, False, False]
    assert (alike.sum(axis=1) == 1).all()


def test_a_negative_seed_is_refused_before_an_earlier_demo_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "demo.png").write_text("of an earlier demo")
    with pytest.raises(PolyGeneError, match="the seed is -1"):
        next(demo.run(tmp_path, seed=-1))
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"holds thesis\.txt, which no demo made"):
        next(demo.run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "thesis.txt"]


@pytest.fixture
def _loud() -> Iterator[None]:
    logger = logging.getLogger("polygene")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("_loud")
def test_the_log_is_as_loud_after_the_demo_as_before(tmp_path: Path) -> None:
    for _ in zip(demo.run(tmp_path / "demo"), range(1), strict=False):  # stop after the first message
        pass
    assert logging.getLogger("polygene").level == logging.INFO
