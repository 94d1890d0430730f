"""Fine-tuning: labels of one's own in a normal checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import sparse
from scipy.special import softmax
from sklearn.metrics import f1_score

from polygene.cli.describe import describe
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import ColumnError, CorpusError, DataError, OutputError, PhenotypeError
from polygene.evaluation.evaluate import evaluate
from polygene.model.calibration import Calibration
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import predict_labels
from polygene.model.metrics import Metrics
from polygene.runtime.subsample import spread
from polygene.tl import annotate, balance, counterfactual, denoise, finetune, generate

MakeAnnData = Callable[..., ad.AnnData]


@pytest.fixture
def adata(make_adata: MakeAnnData) -> ad.AnnData:
    """200 cells of three types that express other genes, named in words of their own."""
    adata = make_adata(200, 36)
    adata.obs["stage of mine"] = adata.obs["cell_type"].map(lambda label: f"my {label}").where(np.arange(200) % 5 > 0)
    return adata


def predicted(adata: ad.AnnData, model: PolyGene, name: str) -> np.ndarray:
    copy = adata.copy()
    annotate(copy, model, predict=name)
    return copy.obsm[f"polygene_{name}"]


def test_a_head_predicts_a_new_phenotype_and_leaves_the_others_alone(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="polygene")
    tuned = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    assert "40 cells without a label in obs['stage of mine'] are left out" in caplog.text
    loaded = PolyGene.from_pretrained(tmp_path / "mine")
    asked = adata.obs["stage of mine"].isna().to_numpy()
    annotate(adata, loaded, predict=["stage_of_mine", "sex"])
    right = adata.obs["polygene_stage_of_mine"].astype(str) == "my " + adata.obs["cell_type"].astype(str)
    assert right[asked].mean() > 0.9
    np.testing.assert_allclose(adata.obsm["polygene_sex"], predicted(adata, tiny_model, "sex"), atol=2e-6)
    said = loaded.metrics.finetuned
    assert (said["label"], said["cells"], said["held_out"]) == ("stage of mine", 160, "donors")
    assert said["labels"] == ["my B cell", "my T cell", "my monocyte"]
    assert "stage_of_mine" in loaded.calibration.labels
    np.testing.assert_allclose(
        predicted(adata, tuned, "stage_of_mine"), adata.obsm["polygene_stage_of_mine"], atol=1e-6
    )
    assert tiny_model.tokenizer.schema.names == ("sex", "tissue", "cell_type", "age", "disease")


def test_annotate_also_ends_with_what_a_head_predicted(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = finetune(adata, tiny_model, label="stage of mine")
    with caplog.at_level("INFO", logger="polygene"):
        annotate(adata, tuned)
    counts = adata.obs["polygene_stage_of_mine"].value_counts()
    few = ", ".join(f"{label} {n / adata.n_obs:.0%}" for label, n in counts.items() if n)
    assert f"stage_of_mine: {few}" in caplog.messages[-4:]


def outside_the_panel(adata: ad.AnnData) -> ad.AnnData:
    """The same cells; genes that no panel has tell their types apart, those of the panel are shuffled."""
    x_CG = sparse.csr_matrix(adata.X)
    shuffled_CG = x_CG[np.random.default_rng(1).permutation(adata.n_obs)]
    names = [*adata.var_names, *(f"OWN{g}" for g in range(adata.n_vars))]
    return ad.AnnData(sparse.hstack([shuffled_CG, x_CG], format="csr"), obs=adata.obs, var=pd.DataFrame(index=names))


def right(adata: ad.AnnData, model: PolyGene) -> float:
    asked = adata[adata.obs["stage of mine"].isna().to_numpy()].copy()
    annotate(asked, model, predict="stage_of_mine")
    return float((asked.obs["polygene_stage_of_mine"].astype(str) == "my " + asked.obs["cell_type"].astype(str)).mean())


def test_a_head_reads_genes_outside_the_panel_also_from_its_folder(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    cells = outside_the_panel(adata)
    tuned = finetune(cells, tiny_model, label="stage of mine", out=tmp_path / "mine")
    loaded = PolyGene.from_pretrained(tmp_path / "mine")
    assert {f"OWN{g}" for g in range(30)} <= set(loaded.heads["stage_of_mine"].genes.symbols)
    assert right(cells, loaded) > 0.9
    np.testing.assert_array_equal(predicted(cells, tuned, "stage_of_mine"), predicted(cells, loaded, "stage_of_mine"))
    order = np.random.default_rng(0).permutation(cells.n_vars)
    np.testing.assert_allclose(
        predicted(cells[:, order].copy(), tuned, "stage_of_mine"), predicted(cells, tuned, "stage_of_mine"), atol=1e-5
    )


def test_genes_of_a_head_that_a_file_lacks_contribute_nothing_and_this_is_said(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    cells = outside_the_panel(adata)
    tuned = finetune(cells, tiny_model, label="stage of mine")
    head = tuned.heads["stage_of_mine"]
    lacking = cells[:, [not name.startswith("OWN") for name in cells.var_names]].copy()
    mean_of = dict(zip(head.genes.symbols, head.mean_H, strict=True))
    caplog.clear()
    p_CV = predicted(lacking, tuned, "stage_of_mine")
    n_own = sum(name.startswith("OWN") for name in head.genes.symbols)
    assert f"the other {n_own:,} contribute nothing" in caplog.text
    assert np.isfinite(p_CV).all()
    # by hand: the head's logits with the mean in place of each gene that is not there
    encoded = tiny_model.tokenizer.encode(lacking, use_labels=False)
    bare = replace(tiny_model, calibration=Calibration())
    (p_CN,), (states_CD,) = predict_labels(bare, encoded, predict=["cell_type"], branch=True)
    values_CG = encoded.as_csr(encoded.values_N, 40).toarray()
    panel = {name: g for g, name in enumerate(tiny_model.tokenizer.panel.symbols)}
    values_CH = np.stack(
        [
            values_CG[:, panel[name]] if name in panel else np.full(len(values_CG), mean_of[name])
            for name in head.genes.symbols
        ],
        axis=1,
    )
    features_CF = np.hstack([states_CD, np.log(np.maximum(p_CN, 1e-4)), values_CH])
    logits_CV = features_CF @ head.weights_FV + head.bias_V
    expected_CV = softmax(logits_CV / tuned.calibration.temperature("stage_of_mine"), axis=1)
    np.testing.assert_allclose(p_CV, expected_CV, atol=1e-4)


def test_a_file_with_none_of_a_heads_genes_is_predicted_from_the_network(
    adata: ad.AnnData, make_adata: MakeAnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    """The head was fitted on six genes of the panel, the new file measures the others."""
    few, others = adata[:, :6].copy(), adata[:, 6:].copy()
    tuned = finetune(few, tiny_model, label="stage of mine")
    caplog.clear()
    p_CV = predicted(others, tuned, "stage_of_mine")
    assert "reads 6 genes, of which adata measures 0" in caplog.text
    np.testing.assert_allclose(p_CV.sum(axis=1), 1, atol=1e-5)


def test_without_a_folder_the_model_is_returned_and_nothing_is_written(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    tuned = finetune(adata, tiny_model, label="stage of mine")
    np.testing.assert_array_equal(predicted(adata, tuned, "stage_of_mine"), predicted(adata, saved, "stage_of_mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_score_is_near_that_on_donors_that_were_left_out(
    make_adata: MakeAnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    """Noisy cells of forty donors: the score that is reported, and that of other donors."""
    caplog.set_level("INFO", logger="polygene")
    cells = make_adata(800, 36, n_donors=40)
    rng = np.random.default_rng(0)
    cells.X = sparse.csr_matrix(rng.poisson(0.02 * sparse.csr_matrix(cells.X).toarray()).astype(np.float32))
    cells.obs["mine"] = cells.obs["cell_type"].astype(str)
    first = cells.obs["donor_id"].isin([f"donor{d}" for d in range(20)]).to_numpy()
    tuned = finetune(cells[first].copy(), tiny_model, label="mine")
    facts, asked = tuned.metrics.finetuned, cells[~first].copy()
    annotate(asked, tuned, predict="mine")
    score = f1_score(asked.obs["mine"], asked.obs["polygene_mine"].astype(str), average="macro")
    assert 0.4 < score < 0.95
    assert facts["macro_f1"] == pytest.approx(score, abs=0.08)
    said = f"{first.sum()} cells with 3 labels; cross-validated macro-F1 {facts['macro_f1']:.3f} (held-out donors"
    assert any(said in message for message in caplog.messages)


@pytest.mark.parametrize("donors", ["none", "one"])
def test_without_donors_or_with_one_a_warning_calls_the_score_flattering(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture, donors: str
) -> None:
    del adata.obs["donor_id"]
    if donors == "one":
        adata.obs["donor_id"] = "me"
    assert finetune(adata, tiny_model, label="stage of mine").metrics.finetuned["held_out"] == "cells"
    assert "flatters" in caplog.text


def test_labels_of_a_phenotype_it_has_are_added_to_those_it_knows(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The labels of the cells are predicted then; the others stay in the vocabulary, which is said."""
    renamed = {"B cell": "B cell", "T cell": "memory T cell", "monocyte": "classical monocyte"}
    adata.obs["cell_type"] = adata.obs["cell_type"].map(renamed)
    tuned = finetune(adata, tiny_model, label="cell_type", out=tmp_path / "mine")
    schema = tuned.tokenizer.schema
    known = tiny_model.tokenizer.schema.labels[2]
    assert schema.labels[2] == (*known, "classical monocyte", "memory T cell")
    p_CV = predicted(adata, tuned, "cell_type")
    old = [v for v, label in enumerate(schema.labels[2]) if label not in renamed.values()]
    assert p_CV[:, old].max() < 1e-6
    assert f"cell_type: {len(old)} other labels of the model are not predicted any more" in caplog.text
    best = np.array(schema.labels[2])[p_CV.argmax(axis=1)]
    assert (best == adata.obs["cell_type"].astype(str)).mean() > 0.9


def test_a_second_head_leaves_the_first_alone(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    """A head on labels of the model's own phenotype, and one that reads the network beside it."""
    adata.obs["cell_type"] = adata.obs["cell_type"].map(lambda label: f"{label} of mine")
    first = finetune(adata, tiny_model, label="cell_type", out=tmp_path / "one")
    second = finetune(adata, first, label="stage of mine", out=tmp_path / "two")
    loaded = PolyGene.from_pretrained(tmp_path / "two")
    np.testing.assert_allclose(predicted(adata, loaded, "cell_type"), predicted(adata, first, "cell_type"), atol=2e-6)
    both = adata.copy()
    annotate(both, second, predict=["cell_type", "stage_of_mine"])
    np.testing.assert_allclose(
        both.obsm["polygene_stage_of_mine"], predicted(adata, second, "stage_of_mine"), atol=1e-5
    )
    again = finetune(adata, first, label="cell_type")
    assert again.heads["cell_type"].n_known(32) == len(tiny_model.tokenizer.schema.labels[2])


def test_a_label_of_ones_own_is_learned_again_and_more_labels_with_it(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    first = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "one")
    assert first.heads["stage_of_mine"].query == "cell_type"
    adata.obs["stage of mine"] = np.where(np.arange(200) % 2, adata.obs["stage of mine"].astype(str), "another")
    again = finetune(adata, PolyGene.from_pretrained(tmp_path / "one"), label="stage of mine")
    assert again.heads["stage_of_mine"].query == "cell_type"
    assert again.tokenizer.schema.labels[-1][-1] == "another"
    assert predicted(adata, again, "stage_of_mine").shape == (200, len(again.tokenizer.schema.labels[-1]))


def test_labels_of_ones_own_cannot_be_given_or_asked_for(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    tuned = finetune(adata, tiny_model, label="stage of mine")
    ways: dict[str, Callable[[], object]] = {
        "annotate": lambda: annotate(adata, tuned, given="stage_of_mine"),
        "denoise": lambda: denoise(adata, tuned, given=["stage_of_mine"]),
        "generate": lambda: generate(tuned, {"stage_of_mine": "my T cell"}, n_cells=2),
        "balance": lambda: balance(adata, tuned, key="stage_of_mine"),
        "counterfactual": lambda: counterfactual(adata, tuned, changes={"stage_of_mine": "my T cell"}),
        "given to it": lambda: counterfactual(adata, tuned, changes={"sex": "male"}, given="stage_of_mine"),
    }
    for way in ways.values():
        with pytest.raises(PhenotypeError, match="stage_of_mine: fine-tuned labels can be predicted, but not given"):
            way()


def test_a_tuned_model_is_evaluated_on_cells_of_its_own(
    adata: ad.AnnData, make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    tuned = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    config = PrepareConfig(fractions=(0.5, 0.0, 0.5), seen=0.0)
    corpus = prepare(adata, tmp_path / "corpus", config=config, tokenizer=tuned.tokenizer)
    assert isinstance(corpus, Corpus)
    assert corpus.tokenizer.fingerprint() == tuned.tokenizer.fingerprint()
    results = evaluate(tmp_path / "mine", tmp_path / "corpus")
    with pytest.raises(CorpusError, match=r"fine-tuned on stage_of_mine, which .*other does not know"):
        evaluate(tuned, prepare(adata, tmp_path / "other", config=config, tokenizer=tiny_model.tokenizer))
    scored = set(results.scores.phenotype)
    assert {"stage_of_mine", "cell_type"} <= scored


def test_what_is_there_is_not_replaced_and_what_cannot_be_learned_is_refused(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    adata.obs["depth"] = np.random.default_rng(0).random(200)
    with pytest.raises(DataError, match="exists; choose another folder"):
        finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    for wrong, error, says in (
        ({"label": "stage"}, ColumnError, "no column 'stage'"),
        ({"label": "tissue"}, PhenotypeError, "1 labels for 200 labelled cells"),
        ({"label": "stage of mine", "donor": "patient"}, ColumnError, "no column 'patient'"),
        ({"label": "depth"}, PhenotypeError, "a number is no label"),
        ({"label": "stage of mine", "seed": -1}, DataError, "the seed is -1"),
    ):
        with pytest.raises(error, match=says):
            finetune(adata, tiny_model, out=tmp_path / "new", **wrong)
        assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    tiny_model: PolyGene, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt.* could not be written"):
        finetune(tmp_path / "absent.h5ad", tiny_model, label="stage", out=tmp_path / "notes.txt" / "new")
    with pytest.raises(DataError, match="there is no file"):
        finetune(tmp_path / "absent.h5ad", tiny_model, label="stage", out=tmp_path / "folder" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def printed(folder: Path) -> str:
    console = Console(width=120, file=StringIO())
    for table in describe(folder):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_info_describes_a_fine_tuned_model(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    base = replace(tiny_model, metrics=Metrics(validation={"loss": 1.0, "cell_type_macro_f1": 0.5}))
    tuned = finetune(adata, base, label="cell_type", out=tmp_path / "mine")
    assert tuned.metrics.validation == {"loss": 1.0}, "the score was of other labels"
    text = printed(tmp_path / "mine")
    assert "3 of obs['cell_type']: B cell; T cell; monocyte" in text
    assert "200 of 200 labelled cells" in text
    assert "on donors held out in turn" in text


def test_a_label_that_a_large_file_hardly_has_does_not_shift_the_others(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 160 labelled cells every third or so is read, and the one of the last label is not."""
    monkeypatch.setattr(import_module("polygene.tl._finetune"), "MOST_CELLS", 60)
    labels = adata.obs["stage of mine"].astype(object)
    labels.iloc[4] = "zz rare"
    adata.obs["stage of mine"] = labels
    known = np.flatnonzero(labels.notna())
    assert 4 not in known[spread(len(known), 60)]
    tuned = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    facts = tuned.metrics.finetuned
    assert (facts["cells"], facts["labelled"]) == (60, 160)
    assert "60 of 160 labelled cells" in printed(tmp_path / "mine"), "info counts the cells that were read"
    known_labels = tuned.tokenizer.schema.labels[-1]
    assert known_labels == ("my B cell", "my T cell", "my monocyte", "zz rare")
    best = np.array(known_labels)[predicted(adata, tuned, "stage_of_mine").argmax(axis=1)]
    assert (best == "my " + adata.obs["cell_type"].astype(str)).mean() > 0.8


def test_a_score_of_one_label_is_none_and_the_reason_is_given(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata.obs["mine"] = ["common"] * (adata.n_obs - 1) + ["rare"]
    del adata.obs["donor_id"]
    tuned = finetune(adata, tiny_model, label="mine", out=tmp_path / "mine")
    assert tuned.metrics.finetuned["macro_f1"] is None
    assert tuned.metrics.finetuned["scored"] == 1
    assert "mine: no score, since fewer than two labels are in two cells or more" in caplog.text
    assert "no score: fewer than two labels" in printed(tmp_path / "mine")


@pytest.mark.parametrize("label", ["unknown", "novelty", "cell_type_probability", "sex_set"])
def test_a_label_that_annotate_would_overwrite_is_refused(adata: ad.AnnData, tiny_model: PolyGene, label: str) -> None:
    adata.obs[label] = adata.obs["cell_type"]
    with pytest.raises(PhenotypeError, match=f"cannot be called '{label}'.*Rename the column"):
        finetune(adata, tiny_model, label=label)
