"""Fine-tuning: labels of one's own in a normal checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from rich.console import Console
from scipy.special import softmax
from sklearn.metrics import f1_score

from polygene.cli.describe import describe
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import ColumnError, DataError, PhenotypeError
from polygene.evaluation.evaluate import evaluate
from polygene.model.checkpoint import PolyGene
from polygene.model.metrics import Metrics
from polygene.runtime.subsample import spread
from polygene.tl import annotate, finetune
from polygene.tl._head import fit_head, head_features

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
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    tuned = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    loaded = PolyGene.from_pretrained(tmp_path / "mine")
    asked = adata.obs["stage of mine"].isna().to_numpy()
    annotate(adata, loaded, predict=["stage_of_mine", "sex"])
    right = adata.obs["polygene_stage_of_mine"].astype(str) == "my " + adata.obs["cell_type"].astype(str)
    assert right[asked].mean() > 0.9
    np.testing.assert_allclose(adata.obsm["polygene_sex"], predicted(adata, tiny_model, "sex"), atol=2e-6)
    said = loaded.metrics.finetuned
    assert (said["label"], said["how"], said["cells"], said["held_out"]) == ("stage of mine", "head", 160, "donors")
    assert said["labels"] == ["my B cell", "my T cell", "my monocyte"]
    assert "stage_of_mine" in loaded.calibration.labels
    np.testing.assert_allclose(
        predicted(adata, tuned, "stage_of_mine"), adata.obsm["polygene_stage_of_mine"], atol=1e-6
    )
    assert tiny_model.tokenizer.schema.names == ("sex", "tissue", "cell_type", "age", "disease")


def test_the_network_predicts_what_the_regression_predicts(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    tuned = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    encoded = tiny_model.tokenizer.encode(adata, use_labels=False)
    features_CF = head_features(tiny_model, encoded, "cell_type")
    labels_C = adata.obs["stage of mine"].astype("category").cat.codes.to_numpy()
    known = labels_C >= 0
    donors_C = adata.obs["donor_id"].astype("category").cat.codes.to_numpy()
    head = fit_head(features_CF[known], labels_C[known], donors_C[known], width=32)
    logits_CV = features_CF @ head.weights_FV + head.bias_V
    temperature = tuned.calibration.temperature("stage_of_mine")
    np.testing.assert_allclose(
        predicted(adata, tuned, "stage_of_mine"), softmax(logits_CV / temperature, axis=1), atol=1e-4
    )


def test_without_a_folder_the_model_is_returned_and_nothing_is_written(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    tuned = finetune(adata, tiny_model, label="stage of mine")
    np.testing.assert_array_equal(predicted(adata, tuned, "stage_of_mine"), predicted(adata, saved, "stage_of_mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(DataError, match="how='all' trains in a folder"):
        finetune(adata, tiny_model, label="stage of mine", how="all")


def test_the_score_is_that_of_heads_that_did_not_see_the_donor(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="polygene")
    facts = finetune(adata, tiny_model, label="stage of mine").metrics.finetuned
    features_CF = head_features(tiny_model, tiny_model.tokenizer.encode(adata, use_labels=False), "cell_type")
    labels = adata.obs["stage of mine"].astype("category")
    known = labels.notna().to_numpy()
    donors_C = adata.obs["donor_id"].astype("category").cat.codes.to_numpy()
    head = fit_head(features_CF[known], labels.cat.codes.to_numpy()[known], donors_C[known], width=32)
    best = labels.cat.categories[head.held_out_CV.argmax(axis=1)]
    score = f1_score(labels[known].astype(str), best.astype(str), average="macro")
    assert facts["macro_f1"] == pytest.approx(score)
    said = f"160 cells with 3 labels; cross-validated macro-F1 {score:.3f}"
    assert any(said in message for message in caplog.messages)


def test_without_donors_a_warning_calls_the_score_flattering(
    adata: ad.AnnData, tiny_model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    del adata.obs["donor_id"]
    assert finetune(adata, tiny_model, label="stage of mine").metrics.finetuned["held_out"] == "cells"
    assert "flatters" in caplog.text


def test_labels_of_a_phenotype_it_has_are_added_to_those_it_knows(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    """The labels of the cells are predicted then; the others stay in the vocabulary."""
    renamed = {"B cell": "B cell", "T cell": "memory T cell", "monocyte": "classical monocyte"}
    adata.obs["cell_type"] = adata.obs["cell_type"].map(renamed)
    tuned = finetune(adata, tiny_model, label="cell_type", out=tmp_path / "mine")
    schema = tuned.tokenizer.schema
    known = tiny_model.tokenizer.schema.labels[2]
    assert schema.labels[2] == (*known, "classical monocyte", "memory T cell")
    p_CV = predicted(adata, tuned, "cell_type")
    old = [v for v, label in enumerate(schema.labels[2]) if label not in renamed.values()]
    assert p_CV[:, old].max() < 1e-6
    best = np.array(schema.labels[2])[p_CV.argmax(axis=1)]
    assert (best == adata.obs["cell_type"].astype(str)).mean() > 0.9


def test_training_makes_a_checkpoint_like_any_other(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("polygene.tl._finetune"), "EXAMPLES", 500)
    before = {name: weights.clone() for name, weights in tiny_model.network.state_dict().items()}
    options = {"label": "stage of mine", "out": tmp_path / "mine", "how": "all"}
    tuned = finetune(adata, tiny_model, **options)
    loaded = PolyGene.from_pretrained(tmp_path / "mine")
    assert not list(tmp_path.glob("mine/training/corpus"))
    annotate(adata, loaded, predict="stage_of_mine")
    right = adata.obs["polygene_stage_of_mine"].astype(str) == "my " + adata.obs["cell_type"].astype(str)
    assert right.mean() > 0.9
    assert loaded.metrics.finetuned["how"] == "all"
    assert "stage_of_mine_macro_f1" in loaded.metrics.validation
    moved = [
        name for name, was in before.items()
        if was.shape == (now := tuned.network.state_dict()[name]).shape and not was.equal(now)
    ]  # fmt: skip
    assert any("query.weight" in name for name in moved)
    assert any("query.bias" in name for name in moved)
    for name, weights in tiny_model.network.state_dict().items():
        assert weights.equal(before[name]), name
    again = finetune(adata, tiny_model, **options)  # the run has ended: it is only loaded
    np.testing.assert_array_equal(predicted(adata, again, "stage_of_mine"), predicted(adata, tuned, "stage_of_mine"))


def test_a_tuned_model_is_evaluated_on_cells_of_its_own(
    adata: ad.AnnData, make_adata: MakeAnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    tuned = finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine")
    config = PrepareConfig(fractions=(0.5, 0.0, 0.5), seen=0.0)
    corpus = prepare(adata, tmp_path / "corpus", config=config, tokenizer=tuned.tokenizer)
    assert isinstance(corpus, Corpus)
    assert corpus.tokenizer.fingerprint() == tuned.tokenizer.fingerprint()
    results = evaluate(tuned, corpus)
    scored = set(results.scores.phenotype)
    assert {"stage_of_mine", "cell_type"} <= scored


def test_what_is_there_is_not_replaced_and_what_cannot_be_learned_is_refused(
    adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    adata.obs["depth"] = np.random.default_rng(0).random(200)
    for how in ("head", "all"):
        with pytest.raises(DataError, match="exists; choose another folder"):
            finetune(adata, tiny_model, label="stage of mine", out=tmp_path / "mine", how=how)
    for wrong, error, says in (
        ({"label": "stage"}, ColumnError, "no column 'stage'"),
        ({"label": "tissue"}, PhenotypeError, "1 labels for 200 labelled cells"),
        ({"label": "stage of mine", "how": "fully"}, DataError, "head, all; got 'fully'"),
        ({"label": "stage of mine", "donor": "patient"}, ColumnError, "no column 'patient'"),
        ({"label": "depth"}, PhenotypeError, "a number is no label"),
        ({"label": "stage of mine", "seed": -1}, DataError, "the seed is -1"),
    ):
        with pytest.raises(error, match=says):
            finetune(adata, tiny_model, out=tmp_path / "new", **wrong)
        assert not (tmp_path / "new").exists()


def printed(folder: Path) -> str:
    console = Console(width=120, file=StringIO())
    for table in describe(folder):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_info_describes_a_fine_tuned_model(adata: ad.AnnData, tiny_model: PolyGene, tmp_path: Path) -> None:
    base = replace(
        tiny_model, metrics=Metrics(validation={"loss": 1.0, "cell_type_macro_f1": 0.5}, marks={"study": {}})
    )
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
