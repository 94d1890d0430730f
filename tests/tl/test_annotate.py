"""Annotate: what it writes, what its predictions depend on, and what it refuses."""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from polygene.errors import ColumnError, DataError, GeneError, OutputError, PhenotypeError, PolyGeneError, ScaleError
from polygene.io.datasets import pbmc
from polygene.io.read import CHUNK
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.novelty import NoveltyDetector
from polygene.model.studies import StudyCalibration
from polygene.tl import annotate, denoise, embed, perturb, vote
from polygene.tl._reader import CellReader
from polygene.vocab.ages import age_in_years
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.gene_names import XIST, Y_GENES
from polygene.vocab.ontology import LabelTree, ontology_of
from polygene.vocab.phenotypes import ENDINGS, RESERVED, PhenotypeSchema
from polygene.vocab.tokenizer import CellTokenizer

MakeAnnData = Callable[..., ad.AnnData]


@pytest.fixture
def adata(make_adata: MakeAnnData) -> ad.AnnData:
    """60 labelled cells that measure 36 of the model's 40 genes."""
    return make_adata(60, 36)


def annotated(
    adata: ad.AnnData, model: PolyGene, *, verb: Callable[..., None] = annotate, **options: Any
) -> ad.AnnData:
    """A copy of the cells with the results."""
    copy = adata if adata.isbacked else adata.copy()
    verb(copy, model, **options)
    return copy


def test_every_phenotype_gets_label_probability_and_all_probabilities(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    before = set(adata.obs.columns)
    annotate(adata, tiny_model)
    schema = tiny_model.tokenizer.schema
    for name, labels in zip(schema.names, schema.labels, strict=True):
        probabilities_CV = adata.obsm[f"polygene_{name}"]
        assert probabilities_CV.dtype == np.float32
        assert probabilities_CV.shape == (60, len(labels))
        np.testing.assert_allclose(probabilities_CV.sum(1), 1, rtol=1e-5)
        occur = set(adata.obs[f"polygene_{name}"])
        assert list(adata.obs[f"polygene_{name}"].cat.categories) == [label for label in labels if label in occur]
        assert adata.obs[f"polygene_{name}"].tolist() == [labels[v] for v in probabilities_CV.argmax(1)]
        np.testing.assert_array_equal(adata.obs[f"polygene_{name}_probability"], probabilities_CV.max(1))
        assert list(adata.uns["polygene"]["annotate"]["labels"][name]) == list(labels)
    written = set(adata.obs.columns) - before
    assert written == {f"polygene_{name}{suffix}" for name in schema.names for suffix in ("", "_probability")} | {
        "polygene_age_years",
        "polygene_age_years_low",
        "polygene_age_years_high",
        "polygene_no_panel_genes",
    }
    assert list(adata.uns["polygene"]["annotate"]["given"]) == []
    assert list(adata.uns["polygene"]["annotate"]["predict"]) == list(schema.names)


def test_years_are_expected_over_the_ages_that_can_be_read(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    annotate(adata, tiny_model, predict="age")
    labels = adata.uns["polygene"]["annotate"]["labels"]["age"]
    for i in range(len(adata)):
        pairs = [(p, age_in_years(label)) for p, label in zip(adata.obsm["polygene_age"][i], labels, strict=True)]
        readable = [(float(p), years) for p, years in pairs if years is not None]
        assert len(readable) < len(pairs)
        expected = sum(p * years for p, years in readable) / sum(p for p, _ in readable)
        assert adata.obs["polygene_age_years"].iloc[i] == pytest.approx(expected, rel=1e-5)


def test_no_label_column_is_needed_and_none_is_used(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    bare = ad.AnnData(adata.X, obs=pd.DataFrame(index=adata.obs_names), var=adata.var)
    annotate(adata, tiny_model)
    annotate(bare, tiny_model)
    for key in adata.obsm:
        np.testing.assert_array_equal(adata.obsm[key], bare.obsm[key])


def test_a_prediction_is_the_same_whatever_else_is_predicted(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    together = annotated(adata, tiny_model, given=["sex"]).obsm["polygene_cell_type"]
    for predict in (["cell_type"], ["tissue", "cell_type"], ["cell_type", "age", "disease"]):
        alone = annotated(adata, tiny_model, given=["sex"], predict=predict).obsm["polygene_cell_type"]
        np.testing.assert_allclose(alone, together, atol=1e-6)


@pytest.mark.parametrize(
    "rows", [np.arange(60)[::-1], np.array([17]), np.array([3, 3, 41])], ids=["reversed", "alone", "with a copy"]
)
def test_a_prediction_depends_on_nothing_but_the_cell(
    rows: np.ndarray, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    whole = annotated(adata, tiny_model).obsm["polygene_cell_type"]
    some = ad.AnnData(adata.X[rows], var=adata.var)
    np.testing.assert_allclose(annotated(some, tiny_model).obsm["polygene_cell_type"], whole[rows], atol=1e-6)


def test_given_labels_are_used_and_a_missing_one_is_not_given(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    alone = annotated(adata, tiny_model, predict=["cell_type"]).obsm["polygene_cell_type"]
    adata.obs["sex"] = adata.obs["sex"].astype(object)
    adata.obs.loc[adata.obs_names[0], "sex"] = np.nan
    adata.obs.loc[adata.obs_names[1], "sex"] = "unknown"
    given = annotated(adata, tiny_model, given="sex", predict="cell_type").obsm["polygene_cell_type"]
    np.testing.assert_allclose(given[:2], alone[:2], atol=1e-6)
    assert (np.abs(given[2:] - alone[2:]).max(1) > 1e-4).all()


def test_a_long_file_is_read_in_pieces_with_the_same_predictions_and_one_report(
    make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = make_adata(2_100, 36)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    caplog.set_level("INFO", logger="polygene")
    annotate(
        tmp_path / "cells.h5ad", tiny_model, given=["sex", "tissue"], predict=["cell_type"], out=tmp_path / "out.h5ad"
    )
    added = ad.read_h5ad(tmp_path / "out.h5ad")
    assert added.obs_names.equals(adata.obs_names)
    assert sum("matched 36 of 40" in message for message in caplog.messages) == 1
    rows = np.array([0, 999, 1_000, 2_099])
    few = annotated(adata[rows].copy(), tiny_model, given=["sex", "tissue"], predict=["cell_type"])
    np.testing.assert_allclose(added.obsm["polygene_cell_type"][rows], few.obsm["polygene_cell_type"], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"vote": {"cell_type": "leiden"}}])
def test_where_results_cannot_go_is_found_out_before_the_model_and_the_cells_are_read(
    options: dict[str, Any], adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.h5ad").write_text("mine")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for work in ("load_model", "CellReader"):
        monkeypatch.setattr(f"polygene.tl._annotate.{work}", lambda *_, **__: pytest.fail("the work began"))
    for name, says in (
        ("out.h5ad", "exists: read it to add to its results"),
        ("cells.h5ad", "would replace"),
        ("out.txt", r"must end with \.h5ad"),
        ("none/out.csv", "there is no folder"),
    ):
        with pytest.raises(OutputError, match=says):
            annotate(tmp_path / "cells.h5ad", out=tmp_path / name, **options)
    with pytest.raises(DataError, match=r"a part of the results \(1/2\) goes into a folder"):
        annotate(tmp_path / "cells.h5ad", out=tmp_path / "new.csv", part="1/2", **options)
    assert (tmp_path / "out.h5ad").read_text() == "mine"


def test_a_file_needs_out_and_an_anndata_takes_none(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match=r"cells\.h5ad need a place: out='annotated\.h5ad'"):
        annotate(tmp_path / "cells.h5ad", tiny_model)
    with pytest.raises(DataError, match="results go into the AnnData; leave `out` out"):
        annotate(adata, tiny_model, out=tmp_path / "out.h5ad")
    assert "polygene_sex" not in adata.obs
    annotate(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "out.h5ad")
    annotate(adata, tiny_model)
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(written.obs, adata.obs)
    for name in adata.obsm:
        np.testing.assert_array_equal(written.obsm[name], adata.obsm[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "out.h5ad"]


def test_the_device_and_the_speed_are_logged_at_the_end(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="polygene")
    annotate(adata, tiny_model, predict=["sex", "age"])
    assert re.fullmatch(r"annotated \(sex, age\) 60 cells on cpu, [\d,]+ cells/s", caplog.messages[-1])


@pytest.mark.parametrize("where", ["layer", "raw", "backed", "csc", "dense"])
def test_expression_is_read_from_the_named_layer(
    where: str, adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    expected = annotated(adata, tiny_model).obsm["polygene_cell_type"]
    layer = None
    if where == "layer":
        adata.layers["counts"], adata.X, layer = adata.X.copy(), None, "counts"
    elif where == "raw":
        adata.raw, layer = adata.copy(), "raw"
        adata = adata[:, :5].copy()
    elif where == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    else:
        adata.X = adata.X.tocsc() if where == "csc" else adata.X.toarray()
    np.testing.assert_allclose(
        annotated(adata, tiny_model, layer=layer).obsm["polygene_cell_type"], expected, atol=1e-6
    )


def test_recorded_totals_change_what_counts_mean(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.obs["all_counts"] = np.asarray(adata.X.sum(1)).ravel() * 50
    own = annotated(adata, tiny_model).obsm["polygene_cell_type"]
    whole = annotated(adata, tiny_model, totals="all_counts").obsm["polygene_cell_type"]
    assert not np.allclose(own, whole, atol=1e-3)


def test_a_cell_without_counts_is_predicted_and_flagged(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    adata.X = sparse.diags((np.arange(60) > 0).astype(np.float32)).tocsr() @ adata.X
    caplog.set_level("WARNING", logger="polygene")
    annotate(adata, tiny_model)
    assert np.isfinite(adata.obsm["polygene_cell_type"]).all()
    assert adata.obs["polygene_no_panel_genes"].tolist() == [True, *[False] * 59]
    assert any("1 of 60 cells express no gene of the panel: they are kept" in message for message in caplog.messages)


def test_a_chunk_that_expresses_no_panel_gene_is_predicted(
    make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    adata = make_adata(CHUNK + 20, 36)
    adata.var_names = ["OTHER", *adata.var_names[1:]]
    only_other = sparse.csr_matrix((np.ones(CHUNK, np.float32), (np.arange(CHUNK), np.zeros(CHUNK, int))), (CHUNK, 36))
    adata.X = sparse.vstack([only_other, adata.X[CHUNK:]], format="csr")
    found = annotated(adata, tiny_model, predict="cell_type")
    assert found.obs["polygene_no_panel_genes"].tolist() == [True] * CHUNK + [False] * 20
    assert np.isfinite(found.obsm["polygene_cell_type"]).all()
    assert np.isfinite(annotated(adata, tiny_model, verb=embed).obsm["X_polygene"]).all()


def test_how_much_of_the_panel_was_measured_is_written_and_survives_the_file(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    annotate(adata, tiny_model)
    embed(adata, tiny_model)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for verb in ("annotate", "embed"):
        genes = again.uns["polygene"][verb]["genes"]
        assert (genes["panel"], genes["measured"], genes["coverage"]) == (40, 36, 0.9)
        assert genes["found"] == {"symbol": 36}
        assert list(genes["missing"]) == ["GENE36", "GENE37", "GENE38", "GENE39"]
        assert genes["counts_share"] == 1


def test_columns_of_one_gene_are_summed_before_they_are_read(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    whole = annotated(adata, tiny_model).obsm["polygene_cell_type"]
    half = np.random.default_rng(0).binomial(adata.X.toarray().astype(int), 0.5).astype(np.float32)
    halves = np.hstack([half, adata.X.toarray() - half])
    with pytest.warns(UserWarning, match="not unique"):
        twice = ad.AnnData(sparse.csr_matrix(halves), var=pd.DataFrame(index=[*adata.var_names, *adata.var_names]))
    annotate(twice, tiny_model)
    np.testing.assert_allclose(twice.obsm["polygene_cell_type"], whole, atol=1e-6)


def test_labels_with_slashes_survive_the_file(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    tokenizer, schema = tiny_model.tokenizer, tiny_model.tokenizer.schema
    slashed = tuple(tuple(f"CD4+/{label}" for label in labels) for labels in schema.labels)
    schema = PhenotypeSchema(phenotypes=schema.phenotypes, labels=slashed)
    annotate(adata, replace(tiny_model, tokenizer=replace(tokenizer, schema=schema)))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert again.obs["polygene_cell_type"].tolist() == adata.obs["polygene_cell_type"].tolist()
    assert list(again.uns["polygene"]["annotate"]["labels"]["cell_type"]) == list(slashed[2])


@pytest.mark.parametrize("in_file", [False, True])
def test_a_second_run_replaces_all_of_what_it_predicts_and_leaves_the_rest(
    in_file: bool, adata: ad.AnnData, calibrated: PolyGene, tmp_path: Path
) -> None:
    plain = annotated(adata, calibrated, predict="cell_type")
    adata.obsm["polygene_of_mine"] = np.zeros((60, 2))
    annotate(adata, calibrated, predict=["sex", "cell_type"], coverage=0.5)
    for name in ("sex", "cell_type"):
        vote(adata, "donor_id", name)
    first = adata.copy()
    adata.uns |= {"polygene_sex_colors": ["red"], "polygene_cell_type_colors": ["red"], "sex_colors": ["blue"]}
    if in_file:
        adata.write_h5ad(tmp_path / "first.h5ad")
        annotate(tmp_path / "first.h5ad", calibrated, predict="cell_type", out=tmp_path / "second.h5ad")
        adata = ad.read_h5ad(tmp_path / "second.h5ad")
    else:
        annotate(adata, calibrated, predict="cell_type")
    stays = [name for name in first.obs if name.startswith("polygene_sex")]
    assert "polygene_sex_donor_id" in stays
    assert "polygene_cell_type_set" in first.obs
    assert set(adata.obs) == {*plain.obs, *stays}
    assert set(adata.obsm) == {"polygene_of_mine", "polygene_sex", "polygene_cell_type"}
    pd.testing.assert_frame_equal(adata.obs[stays], first.obs[stays], check_dtype=not in_file)
    assert set(adata.uns) == {"polygene", "polygene_sex_colors", "sex_colors"}
    record = adata.uns["polygene"]["annotate"]
    assert set(record["labels"]) == {"sex", "cell_type"}
    assert list(record["votes"]) == ["sex_donor_id"]
    vote(adata, "donor_id", "sex")  # which still finds the labels of the first run


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"given": ["sex"], "predict": ["sex", "tissue"]}, "sex: given and predicted at once"),
        ({"predict": ["cell_typ"]}, "Did you mean 'cell_type'"),
        ({"given": ["colour"]}, "the model knows sex, tissue, cell_type, age, disease"),
        ({"given": ["sex", "tissue", "cell_type", "age", "disease"]}, "Nothing is left to predict"),
        ({"given": ["age"], "ages": "95-year-old stage"}, "'95-year-old stage'.*it knows ages from .* to 80 years"),
        ({"given": ["tissue"], "columns": {"tissue": "tisue"}}, "no column 'tissue'.*Did you mean 'tisue'"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_written(
    asked: dict[str, Any], says: str, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    asked = dict(asked)
    adata.obs = adata.obs.rename(columns=asked.pop("columns", {}))
    if age := asked.pop("ages", None):
        adata.obs["development_stage"] = age
    before = adata.copy()
    with pytest.raises((PhenotypeError, ColumnError), match=says):
        annotate(adata, tiny_model, **asked)
    assert list(adata.obs) == list(before.obs)
    assert not adata.obsm
    assert not adata.uns


def test_a_phenotype_without_learned_labels_is_not_predicted(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    tokenizer, schema = tiny_model.tokenizer, tiny_model.tokenizer.schema
    schema = PhenotypeSchema(phenotypes=schema.phenotypes, labels=((), *schema.labels[1:]))
    model = PolyGene.new(replace(tokenizer, schema=schema), hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(PhenotypeError, match=r"learned no label of sex.*can predict tissue, cell_type"):
        annotate(adata, model, predict=["sex"])
    annotate(adata, model)
    assert "polygene_sex" not in adata.obs
    assert "polygene_tissue" in adata.obs


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        (lambda adata: adata.X, DataError, "AnnData"),
        (lambda adata: adata[:0].copy(), DataError, "empty"),
        (lambda adata: adata[:, :0].copy(), DataError, "empty"),
        (lambda adata: ad.AnnData(adata.X - 1.5 * (adata.X > 0)), ScaleError, "negative"),
        (lambda adata: ad.AnnData(adata.X * np.float32("nan")), ScaleError, "NaN"),
        (
            lambda adata: ad.AnnData(adata.X, var=pd.DataFrame(index=[f"OTHER{g}" for g in range(36)])),
            GeneError,
            "None",
        ),
        (
            lambda adata: ad.AnnData(adata.X, var=pd.DataFrame(index=["GENE0", *(f"OTHER{g}" for g in range(35))])),
            GeneError,
            "Only 1 of the 40 genes",
        ),
    ],
    ids=["no AnnData", "no cells", "no genes", "scaled", "NaN", "other genes", "hardly a gene"],
)
def test_cells_that_cannot_be_read_are_refused(
    broken: Callable[[ad.AnnData], Any], error: type, says: str, adata: ad.AnnData, tiny_model: PolyGene
) -> None:
    with pytest.raises(error, match=says):
        annotate(broken(adata), tiny_model)


def test_a_totals_column_that_is_missing_is_named(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(ColumnError, match=r"no column 'n_counts'.*donor_id"):
        annotate(adata, tiny_model, totals="n_counts")


@pytest.fixture
def calibrated(tiny_model: PolyGene) -> PolyGene:
    """Calibrated for cell types, on 12 donors; monocytes were seen in two of them."""
    rng = np.random.default_rng(0)
    p_CV, donors_C = rng.dirichlet([1, 1, 1], 240), np.arange(240) % 12
    truth_C = np.array([rng.choice(3, p=p_V) for p_V in p_CV])  # probabilities that are worth their name
    kept_C = (truth_C != 2) | (donors_C < 2)
    one = calibrate(p_CV[kept_C].astype(np.float32), truth_C[kept_C], donors_C[kept_C].astype(object))
    assert one is not None
    network = deepcopy(tiny_model.network)
    with torch.no_grad():
        network.decoder.weight.mul_(10)  # an untrained network is equally unsure of every cell
    return replace(tiny_model, network=network, calibration=Calibration(labels={"cell_type": one}))


@pytest.mark.parametrize("coverage", [0.5, 0.8])
def test_sets_hold_the_labels_that_may_be_true_most_probable_first(
    coverage: float, adata: ad.AnnData, calibrated: PolyGene
) -> None:
    annotate(adata, calibrated, predict="cell_type", coverage=coverage)
    labels = adata.uns["polygene"]["annotate"]["labels"]["cell_type"]
    p_CV = adata.obsm["polygene_cell_type"]
    set_CV, none_C = calibrated.calibration.labels["cell_type"].sets(p_CV, coverage)
    for i, text in enumerate(adata.obs["polygene_cell_type_set"]):
        expected = [labels[v] for v in np.argsort(-p_CV[i]) if set_CV[i, v]]
        why = "several labels" if len(expected) > 1 else "no typical label" if i in none_C else ""
        assert text == " | ".join(expected)
        assert adata.obs["polygene_cell_type_set_size"].iloc[i] == len(expected)
        assert adata.obs["polygene_cell_type_abstains"].iloc[i] == why
    assert adata.obs["polygene_cell_type_abstains"].nunique() > 1
    sets = adata.uns["polygene"]["annotate"]["sets"]["cell_type"]
    assert (sets["coverage"], sets["unit"], sets["units"]) == (coverage, "donor", 12)
    annotate(adata, calibrated, predict="cell_type", coverage=0.9)
    assert list(adata.uns["polygene"]["annotate"]["sets"]["cell_type"]["held_to_all_labels"]) == ["monocyte"]


def test_sets_go_through_files(adata: ad.AnnData, calibrated: PolyGene, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    annotate(adata, calibrated, predict="cell_type", coverage=0.9)
    for out in (tmp_path / "out.h5ad", tmp_path / "out.csv"):
        annotate(tmp_path / "cells.h5ad", calibrated, predict="cell_type", coverage=0.9, out=out)
        obs = ad.read_h5ad(out).obs if out.suffix == ".h5ad" else pd.read_csv(out)
        for name in ("set", "set_size", "set_term", "abstains"):
            read = obs[f"polygene_cell_type_{name}"]
            assert (read if name == "set_size" else read.astype(object).fillna("")).tolist() == list(
                adata.obs[f"polygene_cell_type_{name}"]
            )


def test_sets_of_too_few_donors_and_of_none_are_a_warning(
    adata: ad.AnnData, calibrated: PolyGene, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(adata, calibrated, predict=["sex", "cell_type"], coverage=0.95)
    told = " ".join(record.message for record in caplog.records)
    assert "sex: no sets, since the model was not calibrated for it" in told
    assert "cell_type: sets rest on 12 calibration donors, 19 are needed for 0.95" in told
    assert "cell_type: sets hold for new donors of the studies that trained the model" in told
    assert "polygene_sex_set" not in adata.obs
    with pytest.raises(PhenotypeError, match="was not calibrated for sex"):
        annotate(adata, tiny_model, predict="sex", coverage=0.9)
    with pytest.raises(DataError, match=r"0\.5 to 0\.99; got 90"):
        annotate(adata, calibrated, coverage=90)


@pytest.fixture
def on_studies(calibrated: PolyGene, discerning: PolyGene) -> PolyGene:
    """Calibrated on studies that were left out: sets hold leaves with 0.3 at least, and errors grow with doubt."""
    studies = StudyCalibration(
        studies=tuple("abcdefghij"), cells=100, least_A=(0.3,) * 50, held=0.9, size=1.5, weights=(1.0, 0.0, 0.0),
        bias=0.0, novelty=1.5, auroc=0.8, auroc_unsure=0.7,
    )  # fmt: skip
    calibration = replace(calibrated.calibration, studies={"cell_type": studies})
    return replace(calibrated, calibration=calibration, novelty=discerning.novelty)


def test_sets_for_new_studies_hold_leaves_and_bear_their_common_term(
    adata: ad.AnnData, on_studies: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(adata, on_studies, predict="cell_type", coverage=0.9)
    p_CV, obs = adata.obsm["polygene_cell_type"], adata.obs
    np.testing.assert_array_equal(obs["polygene_cell_type_set_size"], np.maximum((p_CV >= 0.3).sum(1), 1))
    ontology = ontology_of("cell_type")
    for text, term in set(zip(obs["polygene_cell_type_set"], obs["polygene_cell_type_set_term"], strict=True)):
        shared = frozenset.intersection(*(ontology.above[ontology.find(label)] for label in text.split(" | ")))
        assert term == ontology.names[max(shared, key=lambda one: ontology.information[one])]
    assert "mononuclear leukocyte" in set(obs["polygene_cell_type_set_term"])
    np.testing.assert_allclose(obs["polygene_cell_type_error"], 1 - p_CV.max(1), rtol=1e-3, atol=1e-4)
    sets = adata.uns["polygene"]["annotate"]["sets"]["cell_type"]
    assert (sets["unit"], sets["units"], list(sets["studies"])) == ("study", 10, list("abcdefghij"))
    assert "sets hold for new donors" not in caplog.text


def test_annotate_ends_with_three_lines_for_people(
    adata: ad.AnnData, on_studies: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="polygene"):
        annotate(adata, on_studies)
    labels, errors, tissue = caplog.messages[-3:]
    counts = adata.obs["polygene_cell_type"].value_counts()
    assert labels.startswith(f"60 cells: {counts.index[0]} {counts.iloc[0] / 60:.0%}")
    assert errors.startswith(f"{(adata.obs['polygene_cell_type_error'] > 0.5).sum()} of them")
    assert tissue.startswith("the tissue looks known: ")
    with caplog.at_level("INFO", logger="polygene"):
        annotate(adata, on_studies, predict="cell_type")
    assert caplog.messages[-3:] == [labels, errors, "most look like cells that the model knows"]


@pytest.mark.parametrize("above", [0.01, 1e6])
def test_the_last_line_says_whether_the_tissue_looks_unknown_and_what_to_do(
    above: float, adata: ad.AnnData, on_studies: PolyGene, discerning: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    studies = {"cell_type": replace(on_studies.calibration.studies["cell_type"], novelty=above)}
    model = replace(discerning, calibration=replace(on_studies.calibration, studies=studies))
    with caplog.at_level("INFO", logger="polygene"):
        annotate(adata, model)
    assert adata.obs["polygene_unknown"].all() == (above < 1)
    assert ("polygene finetune" in caplog.messages[-1]) == (above < 1)
    assert adata.uns["polygene"]["annotate"]["unknown_above"] == above


@pytest.fixture
def discerning(adata: ad.AnnData, tiny_model: PolyGene) -> PolyGene:
    """A model that knows half of the cells."""
    encoded = tiny_model.tokenizer.encode(adata, use_labels=False)
    states_CD = predict_labels(tiny_model, encoded, predict=["cell_type"])[1][0]
    return replace(tiny_model, novelty=NoveltyDetector.learn(states_CD[:30], states_CD[30:], None, query="cell_type"))


@pytest.mark.parametrize("asking", [{}, {"predict": "sex"}, {"given": ["cell_type", "sex"]}])
def test_a_novel_cell_is_flagged_whatever_is_given_and_predicted(
    asking: dict[str, Any], adata: ad.AnnData, discerning: PolyGene
) -> None:
    encoded = discerning.tokenizer.encode(adata, use_labels=False)
    states_CD = predict_labels(discerning, encoded, predict=["cell_type"])[1][0]
    annotate(adata, discerning, **asking)
    expected_C = discerning.novelty.score(states_CD)
    np.testing.assert_allclose(adata.obs["polygene_novelty"], expected_C, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(adata.obs["polygene_unknown"], adata.obs["polygene_novelty"] > 1)
    assert 0 < adata.obs["polygene_unknown"].sum() < 60
    assert adata.uns["polygene"]["annotate"]["false_alarms"] == 0.05


def test_a_model_without_a_record_of_its_training_flags_nothing_and_logs_it(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="polygene"):
        annotate(adata, tiny_model)
    assert "novel cells are not flagged" in caplog.text
    assert "polygene_unknown" not in adata.obs
    assert "false_alarms" not in adata.uns["polygene"]["annotate"]


# --- back_off ---


def test_backed_off_types_are_written_with_id_and_probability(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    annotate(adata, tiny_model, predict="cell_type", back_off=0.9)
    tree = LabelTree(tiny_model.tokenizer.schema.labels[2])
    term_C, probability_C = tree.back_off(adata.obsm["polygene_cell_type"], 0.9)
    assert adata.obs["polygene_cell_type_term"].tolist() == tree.names_N[term_C].tolist()
    assert adata.obs["polygene_cell_type_term_id"].tolist() == tree.ids_N[term_C].tolist()
    np.testing.assert_array_equal(adata.obs["polygene_cell_type_term_probability"], probability_C)
    assert (probability_C >= 0.9 - 1e-5).all()
    assert adata.uns["polygene"]["annotate"]["back_off"] == 0.9


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"back_off": 0.4}, DataError, "above 0.5"),
        ({"back_off": 0.9, "predict": "sex"}, PhenotypeError, "not predicted"),
    ],
)
def test_backing_off_needs_a_level_and_cell_types(
    adata: ad.AnnData, tiny_model: PolyGene, options: dict[str, Any], error: type[PolyGeneError], says: str
) -> None:
    with pytest.raises(error, match=says):
        annotate(adata, tiny_model, **options)


def test_types_that_are_not_in_the_ontology_are_named(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    schema = tiny_model.tokenizer.schema
    labels = (*schema.labels[:2], ("B cell", "cluster 7", "monocyte"), *schema.labels[3:])
    tokenizer = replace(tiny_model.tokenizer, schema=replace(schema, labels=labels))
    annotated(adata, replace(tiny_model, tokenizer=tokenizer), back_off=0.9)
    assert "1 of 3 cell types of the model are not in the Cell Ontology" in caplog.text
    assert "'cluster 7'" in caplog.text


def test_no_phenotype_may_have_the_name_of_a_column_that_is_written() -> None:
    adata = pbmc()[:5].copy()
    before = set(adata.obs)
    annotate(adata, coverage=0.9, back_off=0.9)
    schema = PolyGene.from_pretrained("polygene-512").tokenizer.schema
    allowed = {f"polygene_{name}" for name in (*RESERVED, *schema.names)}
    allowed |= {f"polygene_{name}_{ending}" for name in schema.names for ending in ENDINGS}
    assert set(adata.obs) - before <= allowed
    used = {ending for ending in ENDINGS if any(column.endswith(f"_{ending}") for column in adata.obs)}
    assert set(ENDINGS) - used <= {"error"}  # which only a model that was calibrated on left-out studies writes


def test_a_log2_file_is_warned_of_only_where_bins_have_edges(
    adata: ad.AnnData, make_tokenizer: Callable[..., CellTokenizer], caplog: pytest.LogCaptureFixture
) -> None:
    logged = ad.AnnData(adata.X.multiply(1000).log1p().tocsr()[:, :30] / np.log(2), obs=adata.obs, var=adata.var[:30])
    warned = {}
    for binner in (ExpressionBinner.cell_rank(), ExpressionBinner.linear()):
        caplog.clear()
        CellReader(logged, make_tokenizer(40, binner))
        warned[binner.kind] = "bins will be wrong" in caplog.text
    assert warned == {"cell_rank": False, "linear": True}


@pytest.mark.parametrize("verb", [annotate, embed, denoise, perturb])
def test_a_view_of_a_backed_anndata_is_refused_before_the_work(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, verb: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    view = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:30]

    def work(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(CellReader, "chunks", work)
    with pytest.raises(DataError, match=r"is a view of a backed AnnData.*pass adata\.to_memory\(\)"):
        verb(view, tiny_model)


def test_parts_of_a_file_are_written_into_one_folder_and_do_not_vote(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match="a part of the cells cannot vote"):
        annotate(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "out", part="1/2", vote={"cell_type": "sex"})
    for part in ("1/2", "2/2"):
        annotate(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "out", part=part)
    annotate(tmp_path / "cells.h5ad", tiny_model, out=tmp_path / "out.parquet")
    whole = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(pd.concat(map(pd.read_parquet, (tmp_path / "out").glob("*.parquet"))), whole)


def test_a_column_that_is_there_twice_is_named_where_it_is_needed(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    plain = annotated(adata, tiny_model)
    twice = ad.AnnData(adata.X, obs=pd.concat([adata.obs, adata.obs[["sex", "tissue"]]], axis=1), var=adata.var.copy())
    twice.var = pd.DataFrame(np.ones((36, 2)), index=adata.var_names, columns=["n_cells", "n_cells"])
    np.testing.assert_array_equal(
        annotated(twice, tiny_model).obsm["polygene_cell_type"], plain.obsm["polygene_cell_type"]
    )
    with pytest.raises(ColumnError, match=r"obs has several columns 'sex'.*rename or drop some"):
        annotated(twice, tiny_model, given="sex")
    twice.var = pd.DataFrame("", index=adata.var_names, columns=["feature_name", "feature_name"])
    with pytest.raises(ColumnError, match="var has several columns 'feature_name'"):
        annotated(twice, tiny_model)


def test_without_genes_of_sex_every_cell_gets_the_share_of_the_sexes_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cells = pbmc()[:20].copy()
    of_sex = cells.var_names.isin([XIST, *Y_GENES])
    assert of_sex.any()
    without = cells[:, ~of_sex].copy()
    annotate(cells, predict="sex")
    assert not any("neither XIST" in message for message in caplog.messages)
    annotate(without, predict="sex")
    assert sum("neither XIST" in message for message in caplog.messages) == 1
    male_C = without.obsm["polygene_sex"][:, 1]
    assert np.ptp(male_C) < 1e-6  # nothing of the cell is left in it
    assert 0.5 < male_C[0] < 0.6  # 0.55 of the training cells with a sex are of men
    assert np.ptp(cells.obsm["polygene_sex"][:, 1]) > 0.3
    annotate(without, predict="cell_type")
    assert sum("neither XIST" in message for message in caplog.messages) == 1


def test_a_record_that_is_no_record_is_refused_before_the_work(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    adata.uns["polygene"] = "my note"
    before = list(adata.obs)
    with pytest.raises(DataError, match=r"adata\.uns\['polygene'\] is a str, .* rename it"):
        annotate(adata, tiny_model)
    assert list(adata.obs) == before
