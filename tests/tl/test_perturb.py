"""Perturb: what changes in which cells, what an effect is, how it is tested, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polygene.errors import DataError, GeneError, PhenotypeError
from polygene.io.read import CellSource
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities
from polygene.tl import perturb
from polygene.tl._perturb_cells import FOLDS, Asker, Perturbation, bins_of, perturbed, raised_bins, wanted_bins
from polygene.tl._perturb_null import Sums, against_matched, matched, nearest_genes
from polygene.vocab.binning import ExpressionBinner, InverseFit
from polygene.vocab.tokenizer import EncodedCells

MakeAnnData = Callable[..., ad.AnnData]


@pytest.fixture
def adata(make_adata: MakeAnnData) -> ad.AnnData:
    """48 cells of four donors that measure 36 of the model's 40 genes; GENE5 is expressed in none."""
    adata = make_adata(48, 36, n_donors=4)
    x = adata.X.toarray()
    x[:, 5] = 0
    x[:, 7] = np.arange(48) % 3
    adata.X = x
    return adata


@pytest.fixture
def model(tiny_model: PolyGene, adata: ad.AnnData) -> PolyGene:
    """The tiny model, whose tokenizer has seen these cells."""
    fit = InverseFit(tiny_model.tokenizer.binner, 40)
    encoded = tiny_model.tokenizer.encode(adata, use_labels=False)
    x_CG = tiny_model.tokenizer.decode(encoded)[0]
    x_CG.data = encoded.values_N
    fit.add(x_CG[:, :36], np.arange(40) < 36)
    return replace(tiny_model, tokenizer=replace(tiny_model.tokenizer, inverse=fit.finish()))


def row(table: pd.DataFrame, *which: str) -> pd.Series:
    """The one row of (perturbation, effect_on, target), or of the last two."""
    columns = ["perturbation", "effect_on", "target"][-len(which) :]
    (found,) = np.flatnonzero((table[columns] == list(which)).all(axis=1))
    return table.loc[found]


def without(cells: EncodedCells, g: int) -> tuple[EncodedCells, np.ndarray]:
    """The cells that express a gene, without it, and which they are: entries left out by hand."""
    expresses = np.array([g in cells.genes_N[cells.offsets_C1[i] : cells.offsets_C1[i + 1]] for i in range(len(cells))])
    some = cells.rows(expresses)
    kept = some.genes_N != g
    offsets = some.offsets_C1 - np.arange(len(some) + 1)
    names = ("genes_N", "bins_N", "values_N")
    return replace(some, offsets_C1=offsets, **{name: getattr(some, name)[kept] for name in names}), expresses


def over_donors(effect_S: np.ndarray, donors_S: pd.Series) -> tuple[float, float, float]:
    """Mean of the donors' means, and its interval from Student's t."""
    means = pd.Series(effect_S).groupby(donors_S.to_numpy(dtype=str)).mean()
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return means.mean(), low, high


def test_a_knock_out_is_the_answer_without_the_gene_in_cells_that_express_it(
    adata: ad.AnnData, model: PolyGene
) -> None:
    cells = model.tokenizer.encode(adata, use_labels=False)
    changed, expresses = without(cells, 7)
    table = perturb(adata, model, knock_out="GENE7", predict=["cell_type"])
    (before_CV,) = label_probabilities(model, cells.rows(expresses), predict=["cell_type"])
    (after_CV,) = label_probabilities(model, changed, predict=["cell_type"])
    donors = adata.obs["donor_id"][expresses]
    for v, label in enumerate(("B cell", "T cell", "monocyte")):
        found = row(table, "GENE7 KO", "cell_type", label)
        expected = over_donors((after_CV - before_CV)[:, v], donors)
        np.testing.assert_allclose(found[["effect", "low", "high"]].astype(float), expected, atol=1e-6)
        assert found["before"] == pytest.approx(over_donors(before_CV[:, v], donors)[0], abs=1e-6)
        assert (found["n_cells"], found["n_donors"]) == (expresses.sum(), 4) == (32, 4)
    moved_C = np.linalg.norm(cell_states(model, changed) - cell_states(model, cells.rows(expresses)), axis=1)
    assert row(table, "embedding", "distance")["effect"] == pytest.approx(over_donors(moved_C, donors)[0], abs=1e-5)
    assert set(table["effect_on"]) == {"cell_type", "embedding"}


def test_other_genes_are_asked_with_the_same_genes_hidden_before_and_after(adata: ad.AnnData, model: PolyGene) -> None:
    cells = model.tokenizer.encode(adata, use_labels=False)
    changed, expresses = without(cells, 7)
    donors = adata.obs["donor_id"][expresses]
    table = perturb(adata, model, knock_out=["GENE7"], genes="all")
    assert set(table.loc[table["effect_on"] == "expression", "target"]) == {f"GENE{g}" for g in range(36) if g != 7}
    for target in (14, 8):  # hidden with GENE7, and not
        hidden = [g for g in range(target % FOLDS, 40, FOLDS) if g != 7]
        answers = []
        for some in (cells.rows(expresses), changed):
            asked = np.arange(len(some)), np.full(len(some), target)
            p_CB = bin_probabilities(model, some, *asked, ~np.isin(some.genes_N, hidden))
            answers.append(p_CB @ model.tokenizer.inverse.mean_GB[target])
        effect = over_donors(answers[1] - answers[0], donors)[0]
        assert row(table, "expression", f"GENE{target}")["effect"] == pytest.approx(effect, abs=1e-5)
    alone = perturb(adata, model, knock_out=["GENE7"], genes=["GENE8"])
    found, again = (row(some, "expression", "GENE8")[["effect", "p"]] for some in (alone, table))
    np.testing.assert_allclose(found.astype(float), again.astype(float), rtol=1e-3, atol=1e-6)


def test_a_scan_gives_each_gene_what_it_gets_alone_and_skips_what_is_expressed_nowhere(
    adata: ad.AnnData, model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="polygene"):
        scan = perturb(adata, model, knock_out="all", predict=["sex"])
    assert "35 of 40 panel genes are knocked out in turn; left out: 4 not measured, 1 that would" in caplog.text
    assert scan["perturbation"].nunique() == 35
    alone = perturb(adata, model, knock_out=["GENE9"], predict=["sex"])
    for column in ("before", "effect", "low", "high", "matched", "p"):
        np.testing.assert_allclose(
            scan.loc[scan["perturbation"] == "GENE9 KO", column], alone[column], rtol=1e-3, atol=1e-6
        )
    for _, rows in scan.groupby("effect_on"):
        np.testing.assert_allclose(rows["q"], stats.false_discovery_control(rows["p"]))


def test_raising_sets_the_highest_bin_seen_in_training_and_lowers_none(adata: ad.AnnData, model: PolyGene) -> None:
    counts_GB = model.tokenizer.inverse.counts_GB
    raised_G = raised_bins(model.tokenizer.inverse)
    for g in range(40):
        seen = [b for b in range(1, 10) if counts_GB[g, b] >= min(10, counts_GB[g, 1:].max()) and counts_GB[g, b] > 0]
        assert raised_G[g] == max(seen, default=0)
    cells = model.tokenizer.encode(adata, use_labels=False)
    one = Perturbation(off=(7,), up=(9, 11))
    changed = bins_of(perturbed(cells, np.repeat(wanted_bins([one], raised_G), 48, axis=0), model.tokenizer))
    bins = bins_of(cells)
    assert (changed[:, 7] == 0).all()
    np.testing.assert_array_equal(changed[:, [9, 11]], np.maximum(bins[:, [9, 11]], raised_G[[9, 11]]))
    others = np.setdiff1d(np.arange(40), [7, 9, 11])
    np.testing.assert_array_equal(changed[:, others], bins[:, others])
    table = perturb(adata, model, knock_out=["GENE7"], over_express=["GENE9", "GENE11"])
    assert set(table["perturbation"]) == {"GENE7 KO + GENE9 OE + GENE11 OE"}
    assert (table["n_cells"] == (changed != bins).any(axis=1).sum()).all()


def test_donors_are_the_replicates_or_it_is_said_that_cells_are(
    adata: ad.AnnData, model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    whole = perturb(adata, model, knock_out=["GENE7"])
    assert set(whole["replicates"]) == {"donors"}
    adata.obs["patient"] = adata.obs["donor_id"].astype(object).where(np.arange(48) > 5)
    assert perturb(adata, model, knock_out=["GENE7"], donor="patient")["n_cells"].max() == 28
    assert "6 cells without a donor are left out" in caplog.text
    adata.obs["patient"] = "one"
    alone = perturb(adata, model, knock_out=["GENE7"], donor="patient")
    assert alone["low"].isna().all()
    assert alone["p"].notna().all()
    assert "there is one donor" in caplog.text
    del adata.obs["donor_id"]
    cells = perturb(adata, model, knock_out=["GENE7"])
    assert set(cells["replicates"]) == {"cells"}
    assert set(cells["n_donors"]) == {0}
    assert "cells are the replicates, so intervals are too narrow" in caplog.text
    np.testing.assert_allclose(cells["effect"], alone["effect"], atol=1e-9)
    widths = [some["high"] - some["low"] for some in (cells, whole)]
    assert (widths[0] > 0).all()
    assert not np.allclose(*widths)


def test_an_anndata_keeps_the_table_and_says_what_it_is(adata: ad.AnnData, model: PolyGene, tmp_path: Path) -> None:
    table = perturb(adata, model, knock_out=["GENE7"])
    assert set(table["evidence"]) == {"association"}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    kept = ad.read_h5ad(tmp_path / "cells.h5ad").uns["polygene"]["perturb"]
    assert "not mechanisms" in kept["note"]
    assert list(kept["knock_out"]) == ["GENE7"]
    pd.testing.assert_frame_equal(
        kept["effects"].reset_index(drop=True), table, check_dtype=False, check_categorical=False
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_gives_what_the_object_gives(suffix: str, adata: ad.AnnData, model: PolyGene, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / f"effects{suffix}"
    table = perturb(tmp_path / "cells.h5ad", model, knock_out=["GENE7"], out=out)
    pd.testing.assert_frame_equal(table, perturb(adata, model, knock_out=["GENE7"]))
    pd.testing.assert_frame_equal(pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out), table)
    assert {path.name for path in tmp_path.iterdir()} == {"cells.h5ad", out.name}


def test_a_stopped_scan_goes_on_where_it_was(
    adata: ad.AnnData,
    model: PolyGene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("polygene.tl._perturb_run.SAVE_EVERY", -1.0)
    caplog.set_level("INFO", logger="polygene")
    monkeypatch.setattr("polygene.tl._perturb_cells.STACK", 60)
    out, part = tmp_path / "effects.csv", tmp_path / "effects.csv.part"
    effects, calls = Asker.effects, []

    def stopped(self: Any, *arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return effects(self, *arguments)

    def scan(**options: Any) -> pd.DataFrame:
        return perturb(adata, model, **({"knock_out": "all", "predict": ["sex"], "out": out} | options))

    in_one, chunks = scan(out=None), CellSource.chunks
    monkeypatch.setattr(CellSource, "chunks", lambda self, rows=None, **how: chunks(self, rows, 20, **how))
    whole = scan(out=None)
    np.testing.assert_allclose(whole["effect"], in_one["effect"], atol=1e-6)
    monkeypatch.setattr(Asker, "effects", stopped)
    with pytest.raises(KeyboardInterrupt):
        scan()
    assert [path.name for path in tmp_path.iterdir()] == [part.name]
    stopped_part = part.read_bytes()
    pd.testing.assert_frame_equal(scan(), whole)
    n_rest = len(calls) - 8
    assert "going on from" in caplog.text
    calls[:] = range(10)
    scan(out=None)
    assert n_rest == len(calls) - 10 - 7
    assert [path.name for path in tmp_path.iterdir()] == [out.name]

    for content, options, said in (
        (stopped_part, {"predict": ["cell_type"]}, "of another model, other cells or other questions"),
        (stopped_part[:100], {}, "is damaged"),
    ):
        part.write_bytes(content)
        caplog.clear()
        pd.testing.assert_frame_equal(scan(**options), scan(out=None, **options))
        assert said in caplog.text
        assert not part.exists()


def test_matched_genes_are_the_nearest_in_expression_and_none_of_the_perturbed() -> None:
    detection_G, level_G = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 0.0])
    like = nearest_genes(detection_G, level_G, detection_G > 0)
    assert {g: others[0] for g, others in like.items()} == {0: 1, 1: 0, 2: 1, 3: 2, 4: 3}
    assert matched(Perturbation(off=(1,)), like, {})[:2] == [Perturbation(off=(0,)), Perturbation(off=(2,))]
    for one in matched(Perturbation(off=(1,), up=(2,)), like, like):
        assert not {1, 2} & {*one.off, *one.up}
        assert one.off != one.up


@pytest.mark.parametrize("noise", [0.0, 2.0], ids=["genes differ", "donors differ"])
def test_p_values_are_uniform_where_genes_differ_by_chance_alone(noise: float) -> None:
    rng = np.random.default_rng(0)
    n_P, donors = 31, 12
    effect_PRT = rng.normal(size=(n_P, 1, 2_000)) + noise * rng.normal(size=(n_P, donors, 2_000))
    sums = Sums(np.ones((n_P, donors), int), effect_PRT, effect_PRT, (effect_PRT**2).sum(axis=1))
    _, effect_PT, error_PT, count_P = sums.means(donors=True)
    np.testing.assert_allclose(error_PT, stats.sem(effect_PRT, axis=1), rtol=1e-6, atol=1e-6)
    mean_T, p_T = against_matched(effect_PT, error_PT, count_P, 0, range(1, n_P))
    np.testing.assert_allclose(mean_T, effect_PT[1:].mean(axis=0))
    assert stats.kstest(p_T, "uniform").pvalue > 0.01
    assert 0.035 < (p_T < 0.05).mean() < 0.065
    if noise == 0:  # Crawford and Howell's test of one case against a sample
        t_T = (effect_PT[0] - mean_T) / (effect_PT[1:].std(axis=0, ddof=1) * np.sqrt(1 + 1 / 30))
        np.testing.assert_allclose(p_T, 2 * stats.t.sf(np.abs(t_T), 29), rtol=1e-4)


def test_few_other_genes_give_no_p_value(
    make_adata: MakeAnnData, model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    table = perturb(make_adata(30, 8), model, knock_out=["GENE1"])
    assert table[["p", "q", "matched"]].isna().all(axis=None)
    assert table["effect"].notna().all()
    assert "1 of 1 perturbations have no p-value: fewer than 10 other genes" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, GeneError, "No gene is named"),
        ({"knock_out": ["GENE77"]}, GeneError, "'GENE77' is not among the 40 genes .* Did you mean 'GENE7'"),
        ({"knock_out": ["GENE38"]}, GeneError, "GENE38 is not measured"),
        ({"knock_out": ["GENE5"]}, GeneError, "GENE5 is expressed in no cell"),
        ({"over_express": ["GENE5"]}, GeneError, "GENE5 cannot be raised"),
        ({"knock_out": "GENE7", "over_express": "GENE7"}, GeneError, "GENE7: knocked out and over-expressed at once"),
        ({"knock_out": "all", "over_express": "GENE7"}, GeneError, "no others can be named"),
        ({"knock_out": "GENE7", "genes": ["LYZ"]}, GeneError, "'LYZ' is not among"),
        ({"knock_out": "GENE7", "predict": "cell_typ"}, PhenotypeError, "Did you mean 'cell_type'"),
        ({"knock_out": "GENE7", "donor": "patient"}, DataError, "no column 'patient'"),
        ({"knock_out": "GENE7", "out": "effects.xlsx"}, DataError, "must end with .csv or .parquet"),
    ],
)
def test_what_cannot_be_perturbed_is_told(
    options: dict[str, Any], error: type[Exception], says: str, adata: ad.AnnData, model: PolyGene
) -> None:
    with pytest.raises(error, match=says):
        perturb(adata, model, **options)
    assert "polygene" not in adata.uns


def test_no_cells_no_model_and_a_binary_model_asked_for_values(
    adata: ad.AnnData, model: PolyGene, make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match="empty"):
        perturb(adata[:0].copy(), model, knock_out="GENE7")
    with pytest.raises(DataError, match="model is a PolyGene, got str"):
        perturb(adata, "polygene-512", knock_out="GENE7")  # type: ignore[arg-type]
    binary = PolyGene.new(
        make_tokenizer(40, ExpressionBinner.binary()),
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    with pytest.raises(DataError, match="only whether a gene is expressed"):
        perturb(adata, binary, knock_out="GENE7", genes="all")
    assert perturb(adata, binary, knock_out="GENE7")["effect"].abs().max() > 0
