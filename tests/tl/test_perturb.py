"""Perturb: what changes in which cells, what an effect is, and what is refused."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polygene.errors import ColumnError, DataError, GeneError, OutputError, PhenotypeError
from polygene.io.read import CellSource
from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import folds_of
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities
from polygene.tl import perturb
from polygene.tl._perturb_run import Perturbation, Predictor, Sums, bins_after, bins_of, raised_bins, wanted_bins
from polygene.vocab.binning import ExpressionBinner, InverseFit
from polygene.vocab.cells import EncodedCells

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


def test_a_knock_out_predicts_without_the_gene_in_cells_that_express_it(adata: ad.AnnData, model: PolyGene) -> None:
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


def test_expression_is_predicted_with_the_same_genes_masked_before_and_after(
    adata: ad.AnnData, model: PolyGene
) -> None:
    cells = model.tokenizer.encode(adata, use_labels=False)
    changed, expresses = without(cells, 7)
    donors = adata.obs["donor_id"][expresses]
    table = perturb(adata, model, knock_out=["GENE7"], genes="all")
    assert set(table.loc[table["effect_on"] == "expression", "target"]) == {f"GENE{g}" for g in range(36) if g != 7}
    folds_G = folds_of(40)
    same, other = (next(g for g in range(8, 36) if (folds_G[g] == folds_G[7]) == wanted) for wanted in (True, False))
    for target in (same, other):  # masked together with GENE7, and not
        masked = [g for g in np.flatnonzero(folds_G == folds_G[target]) if g != 7]
        answers = []
        for some in (cells.rows(expresses), changed):
            asked = np.arange(len(some)), np.full(len(some), target)
            p_CB = bin_probabilities(model, some, *asked, ~np.isin(some.genes_N, masked))
            answers.append(p_CB @ model.tokenizer.inverse.mean_GB[target])
        effect = over_donors(answers[1] - answers[0], donors)[0]
        assert row(table, "expression", f"GENE{target}")["effect"] == pytest.approx(effect, abs=1e-5)
    alone = perturb(adata, model, knock_out=["GENE7"], genes=["GENE8"])
    found, again = (row(some, "expression", "GENE8")[["effect", "low"]] for some in (alone, table))
    np.testing.assert_allclose(found.astype(float), again.astype(float), rtol=1e-3, atol=1e-6)


def test_a_scan_gives_each_gene_what_it_gets_alone_and_skips_what_is_expressed_nowhere(
    adata: ad.AnnData, model: PolyGene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="polygene"):
        scan = perturb(adata, model, knock_out="all", predict=["sex"])
    assert "35 of 40 panel genes are knocked out in turn; left out: 4 not measured, 1 that would" in caplog.text
    assert scan["perturbation"].nunique() == 35
    alone = perturb(adata, model, knock_out=["GENE9"], predict=["sex"])
    for column in ("before", "effect", "low", "high"):
        np.testing.assert_allclose(
            scan.loc[scan["perturbation"] == "GENE9 KO", column], alone[column], rtol=1e-3, atol=1e-6
        )
    for _, rows in scan.groupby(["effect_on", "target"]):
        by_size = rows.sort_values("rank")["effect"].abs().to_numpy()
        assert (by_size[:-1] >= by_size[1:]).all()
        assert sorted(rows["rank"]) == list(range(1, 36))
    assert set(alone["rank"]) == {1}


def test_raising_sets_the_highest_bin_seen_in_training_and_lowers_none(adata: ad.AnnData, model: PolyGene) -> None:
    counts_GB = model.tokenizer.inverse.counts_GB
    raised_G = raised_bins(model.tokenizer.inverse)
    for g in range(40):
        seen = [b for b in range(1, 10) if counts_GB[g, b] >= min(10, counts_GB[g, 1:].max()) and counts_GB[g, b] > 0]
        assert raised_G[g] == max(seen, default=0)
    cells = model.tokenizer.encode(adata, use_labels=False)
    one = Perturbation(off=(7,), up=(9, 11))
    bins = bins_of(cells)
    changed = bins_after(bins, wanted_bins([one], raised_G))
    assert (changed[:, 7] == 0).all()
    np.testing.assert_array_equal(changed[:, [9, 11]], np.maximum(bins[:, [9, 11]], raised_G[[9, 11]]))
    others = np.setdiff1d(np.arange(40), [7, 9, 11])
    np.testing.assert_array_equal(changed[:, others], bins[:, others])
    table = perturb(adata, model, knock_out=["GENE7"], over_express=["GENE9", "GENE11"])
    assert set(table["perturbation"]) == {"GENE7 KO + GENE9 OE + GENE11 OE"}
    assert (table["n_cells"] == (changed != bins).any(axis=1).sum()).all()


def test_donors_are_the_replicates_or_a_warning_names_cells(
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
    assert alone["effect"].notna().all()
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


def test_an_anndata_keeps_the_table_and_its_note(adata: ad.AnnData, model: PolyGene, tmp_path: Path) -> None:
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
    monkeypatch.setattr("polygene.tl._perturb_run.COPIES", 60)
    out, part = tmp_path / "effects.csv", tmp_path / "effects.csv.part"
    effects, calls = Predictor.effects, []

    def stopped(self: Any, *arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return effects(self, *arguments)

    def scan(**options: Any) -> pd.DataFrame:
        return perturb(
            adata, model, **({"knock_out": "all", "predict": ["sex"], "out": out, "overwrite": True} | options)
        )

    in_one, chunks = scan(out=None), CellSource.chunks
    monkeypatch.setattr(CellSource, "chunks", lambda self, rows=None, **how: chunks(self, rows, 20, **how))
    whole = scan(out=None)
    np.testing.assert_allclose(whole["effect"], in_one["effect"], atol=1e-6)
    monkeypatch.setattr(Predictor, "effects", stopped)
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

    for content in (stopped_part[:100], _altered(stopped_part)):
        part.write_bytes(content)
        caplog.clear()
        pd.testing.assert_frame_equal(scan(), scan(out=None))
        assert "is damaged" in caplog.text
        assert not part.exists()
    part.write_bytes(stopped_part)
    with pytest.raises(DataError, match="a stopped run of another model, other cells or other targets: finish that"):
        scan(predict=["cell_type"])
    assert part.read_bytes() == stopped_part


def _altered(part: bytes) -> bytes:
    """Count cells of a saved state twice, in an archive that is whole in itself."""
    arrays = dict(np.load(io.BytesIO(part[32:])))
    new = io.BytesIO()
    np.savez(new, **arrays | {"n_PR": arrays["n_PR"] * 2})
    return part[:32] + new.getvalue()


def test_errors_over_donors_are_those_of_the_donors_means() -> None:
    effect_PRT = np.random.default_rng(0).normal(size=(3, 12, 50))
    sums = Sums(np.ones((3, 12), int), effect_PRT, effect_PRT, (effect_PRT**2).sum(axis=1))
    _, effect_PT, error_PT, n_P = sums.means(by_donor=True)
    np.testing.assert_allclose(effect_PT, effect_PRT.mean(axis=1))
    np.testing.assert_allclose(error_PT, stats.sem(effect_PRT, axis=1), rtol=1e-6)
    assert set(n_P) == {12}


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
        ({"knock_out": "GENE7", "donor": "patient"}, ColumnError, "no column 'patient'"),
        ({"knock_out": "GENE7", "out": "effects.xlsx"}, OutputError, "must end with .csv or .parquet"),
    ],
)
def test_a_wrong_perturbation_is_refused(
    options: dict[str, Any], error: type[Exception], says: str, adata: ad.AnnData, model: PolyGene
) -> None:
    with pytest.raises(error, match=says):
        perturb(adata, model, **options)
    assert "polygene" not in adata.uns


def test_no_cells_no_model_and_values_of_a_binary_model_are_refused(
    adata: ad.AnnData, model: PolyGene, make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match="empty"):
        perturb(adata[:0].copy(), model, knock_out="GENE7")
    with pytest.raises(DataError, match="model is a PolyGene, a folder or a name such as 'polygene-512'; got 512"):
        perturb(adata, 512, knock_out="GENE7")  # type: ignore[arg-type]
    binary = PolyGene.new(
        make_tokenizer(40, ExpressionBinner.binary()),
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    with pytest.raises(DataError, match="whether a gene is expressed, not how much"):
        perturb(adata, binary, knock_out="GENE7", genes="all")
    assert perturb(adata, binary, knock_out="GENE7")["effect"].abs().max() > 0


def test_sums_of_too_many_donors_are_refused(adata: ad.AnnData, model: PolyGene, monkeypatch) -> None:
    monkeypatch.setattr("polygene.errors.MOST_SUMS", 1_000)
    adata.obs["cell"] = adata.obs_names
    with pytest.raises(DataError, match=r"sums of 48 donors.* names cells, give another one"):
        perturb(adata, model, knock_out=["GENE7"], donor="cell")
