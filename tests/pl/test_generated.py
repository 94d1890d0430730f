"""The picture of generated cells: a point a gene, where the shares say."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from polygene.errors import DataError
from polygene.pl import generated


def cells(n: int, genes: list[str], seed: int) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(0.7, (n, len(genes))).astype(np.float32)))
    adata.var_names = genes
    return adata


def test_each_gene_of_both_stands_at_its_shares(tmp_path: Path) -> None:
    real, made = cells(40, ["A", "B", "C", "D"], 0), cells(60, ["D", "B", "X"], 1)
    ax = generated(real, made, save=tmp_path / "generated.png")
    expected = [[(part[:, gene].X.toarray() > 0).mean() for part in (real, made)] for gene in ("B", "D")]
    points = sorted(ax.collections[0].get_offsets().tolist())
    np.testing.assert_allclose(points, sorted(expected))
    assert {text.get_text() for text in ax.texts} == {"B", "D"}
    assert (tmp_path / "generated.png").stat().st_size > 0


def test_cells_without_a_gene_in_common_are_refused() -> None:
    with pytest.raises(DataError, match="0 names of genes are in both"):
        generated(cells(4, ["A"], 0), cells(4, ["B"], 0))
