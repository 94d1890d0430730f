"""States of genes in chosen cells: what the analyses share."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
import torch

from polygene.errors import ColumnError, DataError
from polygene.model import inference
from polygene.model.batches import pack_cells
from polygene.model.checkpoint import PolyGene
from polygene.tl import _states
from polygene.tl._reader import CellReader, groups_of


@pytest.fixture
def adata(make_adata: Callable[..., ad.AnnData]) -> ad.AnnData:
    return make_adata(60, 36)


def test_states_of_keys_are_those_of_the_cell_alone_in_a_row(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    cells, nothing = tiny_model.tokenizer.encode(adata, use_labels=["sex"]), np.zeros(0, dtype=np.int64)
    (found,) = inference.key_states(tiny_model, cells, given=["sex"])
    for c in (0, 17, 59):
        one = cells.rows(np.array([c]))
        packed, _ = pack_cells(tiny_model.tokenizer, one, one.labels_CP, nothing, nothing)
        with torch.inference_mode():
            alone_TD = tiny_model.network.encode(**packed.as_dict(), before_last=True).numpy()
        np.testing.assert_allclose(found.leading_CSD[c], alone_TD[:7], atol=1e-5)
        np.testing.assert_allclose(found.genes_ND[found.cells_N == c], alone_TD[7:-1], atol=1e-5)
        np.testing.assert_array_equal(found.genes_N[found.cells_N == c], one.genes_N)
        np.testing.assert_allclose(found.means_CD[c], alone_TD[7:-1].mean(axis=0), atol=1e-5)


def test_states_do_not_depend_on_chunk_or_batch(
    adata: ad.AnnData, tiny_model: PolyGene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states() -> tuple[np.ndarray, list[int]]:
        rows = np.arange(3, 50, 2)
        parts = list(_states.states_of(CellReader(adata, tiny_model.tokenizer), tiny_model, rows))
        cells = [at for where, _ in parts for at in range(where.start, where.stop)]
        return np.concatenate([part.genes_ND for _, part in parts]), cells

    whole_ND, cells = states()
    assert cells == list(range(24))
    monkeypatch.setattr("polygene.model.batches.TOKENS_PER_ROW", 60)
    monkeypatch.setattr(CellReader, "raw", lambda self, rows: self.cells.chunks(rows, size=7))
    cut_ND, cells = states()
    assert cells == list(range(24))
    np.testing.assert_allclose(cut_ND, whole_ND, atol=1e-5)


def test_balanced_cells_are_spread_over_the_groups_and_depend_on_the_seed_alone() -> None:
    contexts_C, donors_C = np.repeat([0, 1, -1], [90, 10, 20]), np.arange(120) % 2
    rows = _states.balanced([contexts_C, donors_C], 40, seed=3)
    pairs = np.unique(np.stack([contexts_C[rows], donors_C[rows]]), axis=1, return_counts=True)[1]
    assert pairs.tolist() == [15, 15, 5, 5]
    np.testing.assert_array_equal(rows, _states.balanced([contexts_C, donors_C], 40, seed=3))
    assert not np.array_equal(rows, _states.balanced([contexts_C, donors_C], 40, seed=4))


def test_a_missing_column_is_named_with_what_it_would_hold(adata: ad.AnnData, tiny_model: PolyGene) -> None:
    reader = CellReader(adata, tiny_model.tokenizer)
    with pytest.raises(ColumnError, match=r"'organ'.*the context of each cell"):
        groups_of(reader.cells, "organ", holds="the context of each cell")


def test_two_models_of_one_name_stay_apart(tiny_model: PolyGene) -> None:
    assert list(_states.named_models([tiny_model, tiny_model])) == ["not saved", "not saved (2)"]
    with pytest.raises(DataError, match="No model is given"):
        _states.named_models([])
