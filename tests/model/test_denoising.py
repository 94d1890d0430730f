"""Expected expression: from the cell alone, and never from the gene itself."""

from dataclasses import replace

import numpy as np
import pytest

from polygene.model.checkpoint import PolyGene
from polygene.model.denoising import FOLDS, expected_expression, folds_of
from polygene.model.inference import bin_probabilities
from polygene.vocab.cells import EncodedCells


@pytest.mark.parametrize("n_genes", [3, 40, 2432])
def test_folds_are_equal_in_size_and_never_change(n_genes: int) -> None:
    sizes = np.bincount(folds_of(n_genes), minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1
    assert folds_of(10).tolist() == [0, 2, 4, 5, 1, 2, 1, 6, 0, 3]


def without(cells: EncodedCells, i: int, gene: int, bin_: int | None) -> EncodedCells:
    """Give one gene of one cell another bin, or None: not expressed."""
    here = slice(cells.offsets_C1[i], cells.offsets_C1[i + 1])
    at = cells.offsets_C1[i] + int(np.searchsorted(cells.genes_N[here], gene))
    if bin_ is not None:
        bins_N = cells.bins_N.copy()
        bins_N[at] = bin_
        return replace(cells, bins_N=bins_N)
    offsets_C1 = cells.offsets_C1 - (np.arange(len(cells) + 1) > i)
    kept = {name: np.delete(getattr(cells, name), at) for name in ("genes_N", "bins_N", "values_N")}
    return replace(cells, offsets_C1=offsets_C1, **kept)


@pytest.mark.parametrize("bin_", [9, None], ids=["another bin", "not expressed"])
@pytest.mark.parametrize("output", ["expression", "expressed"])
def test_a_prediction_does_not_depend_on_the_gene_itself(
    output: str, bin_: int | None, tiny_model: PolyGene, toy_cells: EncodedCells
) -> None:
    genes_M = np.arange(40)
    before_CM = expected_expression(tiny_model, toy_cells, genes_M, output=output)
    changed = 0
    for i in range(len(toy_cells)):
        expressed = toy_cells.genes_N[toy_cells.offsets_C1[i] : toy_cells.offsets_C1[i + 1]]
        for gene in expressed[:3]:
            other = without(toy_cells, i, int(gene), bin_)
            after_CM = expected_expression(tiny_model, other, genes_M, output=output)
            fold = folds_of(40) == folds_of(40)[gene]
            fold[~toy_cells.measured_G] = False
            np.testing.assert_allclose(after_CM[i, fold], before_CM[i, fold], atol=1e-5)
            changed += not np.allclose(after_CM[i, ~fold], before_CM[i, ~fold], atol=1e-5)
    assert changed > 0  # while other genes depend on it


def test_a_prediction_depends_on_nothing_but_the_cell_and_the_gene(
    tiny_model: PolyGene, toy_cells: EncodedCells
) -> None:
    whole_CG = expected_expression(tiny_model, toy_cells, np.arange(40))
    rows, genes_M = np.array([7, 2]), np.array([31, 38, 4])
    some_CM = expected_expression(tiny_model, toy_cells.rows(rows), genes_M)
    np.testing.assert_allclose(some_CM, whole_CG[np.ix_(rows, genes_M)], atol=1e-5)


def test_expected_values_are_means_over_bins_of_predictions_one_by_one(
    tiny_model: PolyGene, toy_cells: EncodedCells
) -> None:
    x_CG = expected_expression(tiny_model, toy_cells, np.arange(40))
    p_CG = expected_expression(tiny_model, toy_cells, np.arange(40), output="expressed")
    folds_G = folds_of(40)
    mean_GB = tiny_model.tokenizer.inverse.mean_GB.astype(float)
    for gene in (0, 17, 39):
        hidden = folds_G == folds_G[gene] if toy_cells.measured_G[gene] else np.zeros(40, dtype=bool)
        one_CB = bin_probabilities(
            tiny_model,
            toy_cells,
            np.arange(len(toy_cells)),
            np.full(len(toy_cells), gene),
            ~hidden[toy_cells.genes_N],
        ).astype(float)
        np.testing.assert_allclose(x_CG[:, gene], one_CB @ mean_GB[gene], rtol=1e-4)
        np.testing.assert_allclose(p_CG[:, gene], one_CB[:, 1:].sum(1), rtol=1e-4)


def test_a_given_label_changes_predictions(tiny_model: PolyGene, toy_cells: EncodedCells) -> None:
    labelled = replace(toy_cells, labels_CP=np.zeros_like(toy_cells.labels_CP))
    alone, given = (expected_expression(tiny_model, labelled, np.arange(40), given=g) for g in ((), ("cell_type",)))
    assert (np.abs(alone - given).max(1) > 1e-5).all()
