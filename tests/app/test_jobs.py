"""What the worker computes for the page, against the verbs themselves; and files that are wrong."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

pytest.importorskip("fastapi")
pytest.importorskip("umap")

import polygene as pg
from polygene.app import ask, columns, jobs, layout, takeaway, worker
from polygene.app.incoming import column_file
from polygene.app.python import python_of
from polygene.errors import DataError, GeneError
from polygene.vocab.expression import warn_totals

OF_PYTHON = r"adata|--\w|layer=|totals=|docs/|sc\.pp"
OPTIONS = {"model": "polygene-512", "predict": ["cell_type", "age"], "coverage": 0.9}


def unpacked(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Read a column as the page does."""
    content = path.read_bytes()
    size = int(np.frombuffer(content, np.uint32, 1)[0])
    assert size % 4 == 0
    facts = json.loads(content[4 : 4 + size])
    return facts, np.frombuffer(content, np.int16 if facts["kind"] == "labels" else np.float32, offset=4 + size)


class Said(list):
    """What the jobs tell the server."""

    def send(self, message: dict[str, Any]) -> None:
        self.append(message)

    def state(self, key: str) -> Any:
        return [one["state"][key] for one in self if one["kind"] == "state" and key in one["state"]][-1]


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """120 cells of the example, opened and annotated as the page does it."""
    folder = tmp_path_factory.mktemp("session")
    cells = pg.datasets.pbmc()[::6].copy()
    cells.write_h5ad(folder / "pbmc.h5ad")
    said = Said()
    worker._SPEAKER[:] = [said]
    file = jobs.read(path=str(folder / "pbmc.h5ad"), name="pbmc.h5ad", folder=folder)
    jobs.annotate(file=file, folder=folder, options=OPTIONS)
    jobs.draw(file=file, folder=folder, model=OPTIONS["model"], plane="X_umap")
    worker._SPEAKER.clear()
    state = {key: said.state(key) for key in ("file", "run", "map", "plane")}
    return {"folder": folder, "file": file, "cells": cells, "run": state["run"], "state": state}


def select(annotated: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    (annotated["folder"] / "selection.bin").write_bytes(np.array(rows, np.uint32).tobytes())
    return {"file": annotated["file"], "folder": annotated["folder"]}


def test_the_overview_says_what_is_in_the_file_and_what_to_expect(annotated) -> None:
    file, cells = annotated["file"], annotated["cells"]
    assert (file["cells"], file["genes"], file["scale"]) == (cells.n_obs, cells.n_vars, "counts")
    assert file["maps"] == ["X_umap"]
    match = pg.PolyGene.from_pretrained("polygene-512").tokenizer.panel.match(cells.var)
    assert file["models"][0]["measured"] == match.n_measured
    shares = [file["models"][0][f"{which}_share_of_macro_f1"] for which in ("lowest", "expected")]
    assert 0.5 < shares[0] <= shares[1] <= 1
    labels = {one["name"]: dict(one["labels"]) for one in file["phenotypes"]}
    assert labels["tissue"] == {"blood": cells.n_obs}
    assert labels["sex"] == {}
    assert labels["cell_type"].items() <= cells.obs["cell_type"].value_counts().to_dict().items()


def test_predictions_are_those_of_annotate(annotated) -> None:
    cells = annotated["cells"].copy()
    pg.tl.annotate(cells, OPTIONS["model"], predict=OPTIONS["predict"], coverage=OPTIONS["coverage"])
    written = ad.read_h5ad(annotated["folder"] / "annotated.h5ad")
    pd.testing.assert_series_equal(written.obs["polygene_cell_type"], cells.obs["polygene_cell_type"])
    np.testing.assert_allclose(written.obsm["polygene_age"], cells.obsm["polygene_age"], atol=1e-5)


def test_columns_of_the_page_hold_the_values_of_obs(annotated) -> None:
    obs = ad.read_h5ad(annotated["folder"] / "annotated.h5ad").obs
    shown = [one["name"] for one in annotated["run"]["columns"]]
    assert shown == [name for name in obs.columns if not columns.NOT_SHOWN.fullmatch(name)]
    assert {"polygene_cell_type", "polygene_cell_type_set_size", "polygene_novelty", "author_label"} <= set(shown)
    for name in ("polygene_cell_type", "author_label", "polygene_cell_type_abstains"):
        facts, codes_C = unpacked(column_file(annotated["folder"] / "columns", name))
        texts = obs[name].map({True: "yes", False: "no"}) if obs[name].dtype == bool else obs[name].astype(str)
        assert [facts["labels"][code] for code in codes_C] == texts.tolist()
        assert facts["counts"] == sorted(facts["counts"], reverse=True)
    facts, values_C = unpacked(column_file(annotated["folder"] / "columns", "polygene_novelty"))
    np.testing.assert_array_equal(values_C, obs["polygene_novelty"].to_numpy())


def test_progress_names_the_cell_types_so_far(annotated) -> None:
    steps: list[dict[str, Any]] = Said()
    worker._SPEAKER[:] = [steps]
    progress = worker._Progress()
    with worker.listening(progress):
        pg.tl.annotate(annotated["cells"].copy(), predict=["sex", "cell_type"])
    worker._SPEAKER.clear()
    last = [one for one in steps if one.get("live")][-1]
    assert last["n"] == last["total"] == annotated["cells"].n_obs
    assert sum(n for _, n in last["live"]) <= annotated["cells"].n_obs
    assert any("monocyte" in label for label, _ in last["live"])


def test_the_plane_of_the_file_keeps_its_shape(annotated) -> None:
    xy_C2 = np.fromfile(annotated["folder"] / "map.bin", np.float32).reshape(-1, 2)
    plane_C2 = annotated["cells"].obsm["X_umap"][:, :2]
    assert np.abs(xy_C2).max() == pytest.approx(1)
    scale = np.polyfit(plane_C2[:, 0], xy_C2[:, 0], 1)[0]
    np.testing.assert_allclose(np.polyfit(plane_C2[:, 1], xy_C2[:, 1], 1)[0], scale, rtol=1e-4)


def test_a_gene_is_shown_in_log1p_counts_per_10000(annotated) -> None:
    jobs.gene(file=annotated["file"], folder=annotated["folder"], name="LYZ")
    _, values_C = unpacked(column_file(annotated["folder"], "gene LYZ"))
    counts_CG = annotated["cells"].X.toarray()
    own_C = counts_CG[:, annotated["cells"].var_names.get_loc("LYZ")]
    np.testing.assert_allclose(values_C, np.log1p(1e4 * own_C / counts_CG.sum(axis=1)), rtol=1e-5)


@pytest.mark.parametrize("name", ["ms4a1", "ENSG00000156738", "ensg00000156738.17", "CD20", "cd20"])
def test_a_gene_is_found_by_any_of_its_names_and_shown_by_its_symbol(annotated, name: str) -> None:
    assert jobs.gene(file=annotated["file"], folder=annotated["folder"], name=name) == {"gene": "MS4A1"}
    _, values_C = unpacked(column_file(annotated["folder"], "gene MS4A1"))
    own_C = annotated["cells"][:, "MS4A1"].X.toarray()[:, 0]
    np.testing.assert_array_equal(values_C > 0, own_C > 0)


def test_a_gene_of_a_file_with_ids_only_is_shown_by_its_symbol(tmp_path: Path) -> None:
    cells = pg.datasets.pbmc()[:20, ["MS4A1", "CD79A"]].copy()
    cells.var = pd.DataFrame(index=["ENSG00000156738", "ENSG00000105369"])
    cells.write_h5ad(tmp_path / "ids.h5ad")
    file = {"path": str(tmp_path / "ids.h5ad"), "layer": None}
    for name in ("ms4a1", "ENSG00000156738"):
        assert jobs.gene(file=file, folder=tmp_path, name=name) == {"gene": "MS4A1"}


def test_a_gene_that_is_not_there_is_refused_in_words(annotated) -> None:
    for name in ("NOPE", ""):
        with pytest.raises(GeneError, match=f"'{name}' is not among the 13,656 genes"):
            jobs.gene(file=annotated["file"], folder=annotated["folder"], name=name)


def test_selected_cells_are_described_by_their_mean_probabilities(annotated) -> None:
    rows = [3, 5, 8, 50]
    found = ask.selected(folder=select(annotated, rows)["folder"])
    every = ad.read_h5ad(annotated["folder"] / "annotated.h5ad")
    labels, written = list(every.uns["polygene"]["annotate"]["labels"]["cell_type"]), every[rows]
    mean_V = written.obsm["polygene_cell_type"].mean(axis=0)
    assert found["phenotypes"][0]["name"] == "cell_type"
    for label, probability in found["phenotypes"][0]["labels"]:
        assert probability == pytest.approx(mean_V[labels.index(label)], abs=1e-5)
    assert found["unsure"] == (written.obs["polygene_cell_type_abstains"] != "").mean()
    assert found["phenotypes"][1]["years"][0] == pytest.approx(written.obs["polygene_age_years"].median())


def test_markers_of_b_cells_are_genes_of_b_cells(annotated) -> None:
    rows = np.flatnonzero(annotated["cells"].obs["author_label"] == "B cell").tolist()
    genes = [one["gene"] for one in ask.markers(**select(annotated, rows))["genes"]]
    assert {"CD79A", "HLA-DRA", "CD74"} & set(genes[:10])


@pytest.mark.parametrize("rows", [[4], list(range(117))], ids=["one cell", "all cells but none"])
def test_genes_of_too_few_cells_are_not_compared(annotated, rows: list[int]) -> None:
    rows = rows if len(rows) == 1 else list(range(annotated["cells"].n_obs))
    assert "two cells or more" in ask.markers(**select(annotated, rows))["why"]


def test_changed_labels_give_the_effects_of_counterfactual(annotated) -> None:
    rows = list(range(0, 100, 5))
    found = ask.change_labels(
        **select(annotated, rows), model="polygene-512", changes={"disease": "COVID-19"}, donor="donor_id"
    )
    table = pg.tl.counterfactual(annotated["cells"][rows].copy(), "polygene-512", {"disease": "COVID-19"})
    largest = table.sort_values("tokens_expression_change", ascending=False).iloc[0]
    assert found["up"][0]["gene"] == largest["gene"]
    assert found["up"][0]["change"] == pytest.approx(largest["tokens_expression_change"], abs=1e-6)
    assert found["up"][0]["low"] is None, "one donor has no interval"
    assert (found["cells"], found["taken"]) == (20, [])
    assert (annotated["folder"] / "what-if.csv").exists()


def test_a_label_that_the_file_does_not_give_is_changed_from_the_predicted_one(annotated) -> None:
    found = ask.change_labels(
        **select(annotated, [1, 2, 3]), model="polygene-512", changes={"age": "80-year-old stage"}, donor="donor_id"
    )
    assert found["taken"] == ["age"]


def test_changed_genes_give_the_effects_of_perturb(annotated) -> None:
    rows = np.flatnonzero(annotated["cells"].obs["author_label"] == "B cell").tolist()
    found = ask.change_genes(
        **select(annotated, rows), model="polygene-512", knock_out=["CD79A"], over_express=[], donor="donor_id"
    )
    table = pg.tl.perturb(annotated["cells"][rows].copy(), "polygene-512", knock_out="CD79A")
    effects = table[table["effect_on"] == "cell_type"].set_index("target")["effect"]
    shown = next(one for one in found["phenotypes"] if one["name"] == "cell_type")["rows"][0]
    assert shown["target"] == effects.abs().idxmax()
    assert shown["change"] == pytest.approx(effects[shown["target"]], abs=1e-6)


def test_a_question_about_no_cell_is_refused_in_words(annotated) -> None:
    for rows in ([], [1_000_000]):  # none, and one that the file does not have
        with pytest.raises(DataError, match="No cell is selected"):
            ask.selected(folder=select(annotated, rows)["folder"])


def test_tables_hold_the_predictions_with_the_names_of_the_cells(annotated) -> None:
    for what, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        jobs.take(what=what, state=annotated["state"], folder=annotated["folder"])
        table = read(annotated["folder"] / f"take.{what}")
        obs = ad.read_h5ad(annotated["folder"] / "annotated.h5ad").obs
        assert table["cell"].tolist() == obs.index.tolist()
        assert table["polygene_cell_type"].astype(str).tolist() == obs["polygene_cell_type"].astype(str).tolist()


def test_the_report_escapes_what_comes_from_the_file(annotated) -> None:
    state = annotated["state"] | {"file": annotated["file"] | {"name": "<script>alert(1)</script>.h5ad"}}
    jobs.take(what="html", state=state, folder=annotated["folder"])
    text = (annotated["folder"] / "take.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "data:image/png;base64," in text
    assert "classical monocyte" in text


def test_the_report_begins_with_cell_type_and_warns_where_a_cell_is_flagged(annotated, tmp_path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(takeaway, "_picture", lambda _, phenotype, __: drawn.append(phenotype))
    note = "few genes: they may be in raw, if it is not read"
    run = annotated["run"] | {"predict": ["age", "cell_type"], "notes": [note]}
    folder = shutil.copytree(annotated["folder"], tmp_path / "session")
    texts = []
    for n_unknown in (0, 1):
        with h5py.File(folder / "annotated.h5ad", "r+") as opened:
            flags = np.zeros(annotated["cells"].n_obs, bool)
            flags[:n_unknown] = True
            opened["obs/polygene_unknown"][...] = flags
        jobs.take(what="html", state=annotated["state"] | {"run": run}, folder=folder)
        texts.append((folder / "take.html").read_text())
    assert drawn == ["cell_type", "cell_type"]
    assert texts[0].index("<h2>Cell type</h2>") < texts[0].index("<h2>Age</h2>")
    assert "<li>few genes: they may be in raw, if it is not read</li>" in texts[0]
    assert "do not trust" not in texts[0]
    assert "No cell is unlike" in texts[0]
    assert "1 of the 117 cells (0.9%) is unlike" in " ".join(texts[1].split())


def test_the_lines_of_python_run_and_give_the_same(annotated, monkeypatch) -> None:
    monkeypatch.chdir(annotated["folder"])
    names: dict[str, Any] = {}
    exec(python_of(annotated["state"]), names)
    written = ad.read_h5ad(annotated["folder"] / "annotated.h5ad").obs
    assert (
        names["adata"].obs["polygene_cell_type"].astype(str).tolist()
        == written["polygene_cell_type"].astype(str).tolist()
    )


def test_a_million_labels_become_the_most_frequent_and_one_for_the_others(tmp_path: Path) -> None:
    texts = np.array([f"label {i}" for i in range(1_000_000)] + ["often"] * 3, dtype=object)
    facts, codes_C = columns.packed(pd.Series(texts))
    assert facts["labels"][0] == "often"
    assert facts["counts"][0] == 3
    assert facts["labels"][-1] == "all other labels (999,701)"
    assert sum(facts["counts"]) == len(codes_C) == 1_000_003
    columns.write(tmp_path / "a.column", facts, codes_C)
    assert (tmp_path / "a.column").stat().st_size < 2_100_000


def test_html_in_names_stays_text(tmp_path: Path, make_adata) -> None:
    evil = "<img src=x onerror=alert(1)>"
    cells = pg.datasets.pbmc()[:30].copy()
    cells.obs[evil] = pd.Categorical([evil, "b", "c"] * 10)
    cells.var_names = [evil, *cells.var_names[1:]]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    file = jobs.read(path=str(tmp_path / "cells.h5ad"), name=evil, folder=tmp_path)
    assert evil in [one["name"] for one in file["columns"]]
    assert json.loads((tmp_path / "genes.json").read_text())["all"][0] == evil


def test_a_label_as_long_as_a_book_is_cut() -> None:
    facts, _ = columns.packed(pd.Series(["x" * 1_000_000, "b"]))
    assert {len(label) for label in facts["labels"]} == {1, 200}


def test_missing_values_have_no_label_and_no_number() -> None:
    facts, codes_C = columns.packed(pd.Series(["a", None, "a"], dtype="category"))
    assert codes_C.tolist() == [0, -1, 0]
    facts, values_C = columns.packed(pd.Series([1.0, np.nan, 3.0]))
    assert np.isnan(values_C[1])
    assert 1 <= facts["low"] < facts["high"] <= 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not an .h5ad file"),
        (b"\x89HDF\r\n\x1a\n" + b"x" * 100, "cut off or damaged"),
        (b"text", "is not an .h5ad file"),
    ],
)
def test_broken_files_give_the_messages_of_the_command_line(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "cells.h5ad"
    file.write_bytes(content)
    with pytest.raises(DataError) as of_page:
        jobs.read(path=str(file), name="cells.h5ad", folder=tmp_path)
    with pytest.raises(DataError) as of_verb:
        pg.tl.annotate(file, out=tmp_path / "out.h5ad")
    assert says in str(of_page.value)
    assert str(of_page.value) == str(of_verb.value)


def test_scaled_values_are_a_problem_that_another_layer_solves(tmp_path: Path) -> None:
    cells = pg.datasets.pbmc()[:50].copy()
    cells.layers["counts"] = cells.X.copy()
    cells.X = sparse.csr_matrix(cells.X.toarray() - 1)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    file = jobs.read(path=str(tmp_path / "cells.h5ad"), name="cells.h5ad", folder=tmp_path)
    assert "looks scaled" in file["problem"]
    assert file["layers"] == ["counts"]
    file = jobs.read(path=str(tmp_path / "cells.h5ad"), name="cells.h5ad", folder=tmp_path, layer="counts")
    assert "problem" not in file
    assert file["scale"] == "counts"


def test_mouse_cells_are_a_problem_in_words(tmp_path: Path) -> None:
    cells = pg.datasets.pbmc()[:20].copy()
    cells.var_names = cells.var_names.str.capitalize()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    file = jobs.read(path=str(tmp_path / "cells.h5ad"), name="cells.h5ad", folder=tmp_path)
    assert "seems to be of mouse" in file["problem"]


def test_a_zipped_10x_folder_is_read(tmp_path: Path, write_as) -> None:
    cells = pg.datasets.pbmc()[:40].copy()
    folder = write_as(cells, tmp_path, "mtx")
    shutil.make_archive(str(tmp_path / "sample"), "zip", folder.parent, folder.name)
    file = jobs.read(path=str(tmp_path / "sample.zip"), name="sample.zip", folder=tmp_path)
    assert (file["cells"], file["genes"]) == cells.shape
    assert not file["notes"], "that it is transposed is nothing to do for who reads the page"


def scaled(cells: ad.AnnData) -> None:
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X.toarray() - 1


def few(cells: ad.AnnData) -> ad.AnnData:
    return cells[:, :3_000]


def turned(cells: ad.AnnData) -> ad.AnnData:
    return cells.T


def numbered(cells: ad.AnnData) -> None:
    cells.var = pd.DataFrame({"kind": ["gene"] * cells.n_vars}, index=[str(i) for i in range(cells.n_vars)])


def of_another_log(cells: ad.AnnData) -> None:
    sc.pp.normalize_total(cells, target_sum=1e5)
    sc.pp.log1p(cells)
    cells.X.data += np.random.default_rng(0).uniform(0, 0.1, cells.X.nnz).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (scaled, "counts or log1p values: choose where those are under “Expression is in”."),
        (few, "which may be in raw (under “Expression is in”, where the file has it), if it is not read"),
        (turned, "into the gene names of the file. Where its rows are the genes, make the cells its rows."),
        (numbered, "set the gene names of the file to gene symbols or Ensembl ids; its table of genes has the columns"),
        (of_another_log, "or normalise to 10,000 before the log."),
    ],
)
def test_messages_speak_of_the_page_and_not_of_python(tmp_path: Path, change: Any, says: str) -> None:
    cells = pg.datasets.pbmc()[:50].copy()
    cells = change(cells) or cells
    cells.write_h5ad(tmp_path / "cells.h5ad")
    said = Said()
    worker._SPEAKER[:] = [said]
    worker._run(jobs.read, {"path": str(tmp_path / "cells.h5ad"), "name": "cells.h5ad", "folder": tmp_path})
    worker._SPEAKER.clear()
    facts = said[-1].get("result", {"notes": [said[-1].get("text")]})
    text = " ".join([*facts["notes"], facts.get("problem", "")])
    assert says in text
    assert not re.search(OF_PYTHON, text)


def test_warnings_of_a_run_speak_of_the_page(annotated) -> None:
    cells = annotated["cells"].copy()
    cells.obs["total_counts"] = 2 * np.asarray(cells.X.sum(axis=1)).ravel()
    with jobs._warnings() as notes:
        warn_totals(cells, totals=None, scale="counts")
    assert "so genes were left out of it and values come out too high" in notes[0]
    assert not re.search(OF_PYTHON, notes[0])


@pytest.mark.slow  # umap-learn compiles itself when it is first used
def test_cells_of_one_type_lie_together_on_the_map(annotated, tmp_path: Path) -> None:
    cells = pg.datasets.pbmc()
    xy_C2 = layout.lay_out(cells)
    assert xy_C2.shape == (700, 2)
    assert neighbours_agree(xy_C2, cells.obs["author_label"]) > 0.75
    placed_C2 = layout.lay_out(cells, most_fitted=350)
    assert np.isfinite(placed_C2).all()
    assert neighbours_agree(placed_C2, cells.obs["author_label"]) > 0.7
    folder = shutil.copytree(annotated["folder"], tmp_path / "session")
    jobs.draw(file=annotated["file"], folder=folder, model=OPTIONS["model"])
    written = ad.read_h5ad(folder / "annotated.h5ad")
    np.testing.assert_array_equal(written.obsm["X_polygene_umap"], layout.lay_out(annotated["cells"]))


def neighbours_agree(xy_C2: np.ndarray, labels_C: pd.Series) -> float:
    """Return the share of cells whose five nearest on the map mostly have their label."""
    from sklearn.neighbors import KNeighborsClassifier

    nearest = KNeighborsClassifier(6).fit(xy_C2, labels_C.astype(str))
    return float((nearest.predict(xy_C2) == labels_C.astype(str)).mean())


@pytest.mark.parametrize("n_cells", [1, 2, 5])
def test_a_few_cells_have_a_map_too(n_cells: int) -> None:
    assert np.isfinite(layout.lay_out(pg.datasets.pbmc()[:n_cells].copy())).all()


def test_a_model_of_the_users_own_stands_before_those_that_ship(idle, tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    from polygene.app.routes import make_app

    cells = pg.datasets.pbmc()[::6].copy()
    cells.obs["mine"] = np.where(np.arange(cells.n_obs) % 2, "this", "that")
    pg.tl.finetune(cells, "polygene-512", label="mine", out=tmp_path / "own")
    own = str(tmp_path / "own")
    with TestClient(make_app(model=own), base_url="http://127.0.0.1:8787") as client:
        client.headers.update({"origin": "http://127.0.0.1:8787", "x-polygene": "1"})
        client.get("/")
        assert client.post("/api/open", json={}).status_code == 200
        _, given = idle[0].sent[0]
        assert given["models"] == [own, "polygene-512", "polygene-2432"]
        facts = jobs.read(**given, folder=idle[0].folder)
        assert [one["name"] for one in facts["models"]] == given["models"]
        assert facts["phenotypes"][-1]["known"] == ["that", "this"]
