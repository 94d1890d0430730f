"""Cells in one row: what stands where."""

import numpy as np
import pytest
import torch

from polygene.model.batches import pack_cells
from polygene.nn.packing import PackedCells, pack, rank_within

NONE = np.zeros(0, dtype=np.int64)


def lay_out_one_by_one(tokenizer, cells, labels_CP, questions, visible_N):
    """Write the row down cell by cell, token by token, as the module's drawing says."""
    ids, slots, n_keys, n_queries = [], [], [], []
    n_phenotypes = labels_CP.shape[1]
    for c in range(len(cells)):
        keys = [(tokenizer.cls_id, 0)]
        for p in range(n_phenotypes):
            label = labels_CP[c, p]
            keys.append((tokenizer.absent_id(p) if label < 0 else tokenizer.label_range(p)[0] + label, p + 1))
        keys.append((tokenizer.start_id, n_phenotypes + 1))
        entries = [n for n in range(cells.offsets_C1[c], cells.offsets_C1[c + 1]) if visible_N[n]]
        keys += [(cells.bins_N[n], n_phenotypes + 2 + cells.genes_N[n]) for n in entries]
        keys.append((tokenizer.end_id, tokenizer.n_slots - 1))
        asked = [(tokenizer.mask_id, slot) for cell, slot in questions if cell == c]
        ids += [token for token, _ in keys + asked]
        slots += [slot for _, slot in keys + asked]
        n_keys.append(len(keys))
        n_queries.append(len(asked))
    return ids, slots, n_keys, n_queries


def test_a_row_holds_each_cell_as_its_keys_then_its_queries(toy_tokenizer, toy_cells):
    rng = np.random.default_rng(0)
    visible_N = rng.random(len(toy_cells.genes_N)) < 0.7
    questions = [(int(c), int(s)) for c, s in rng.integers(0, (len(toy_cells), toy_tokenizer.n_slots), (30, 2))]
    cells_Q, slots_Q = np.array(questions).T
    packed, query_at_Q = pack_cells(toy_tokenizer, toy_cells, toy_cells.labels_CP, cells_Q, slots_Q, visible_N)
    ids, slots, n_keys, n_queries = lay_out_one_by_one(
        toy_tokenizer, toy_cells, toy_cells.labels_CP, questions, visible_N
    )
    assert packed.input_ids.tolist() == [ids]
    assert packed.position_ids.tolist() == [slots]
    assert packed.n_keys.tolist() == n_keys
    assert packed.n_queries.tolist() == n_queries
    assert len(packed) == len(toy_cells)
    cell_of_T = np.repeat(np.arange(len(toy_cells)), np.add(n_keys, n_queries))
    assert (cell_of_T[query_at_Q] == cells_Q).all(), "a question stands in the row of its own cell"
    assert (packed.position_ids[0, query_at_Q].numpy() == slots_Q).all()
    assert len(set(query_at_Q)) == len(query_at_Q)


def test_unexpressed_and_hidden_genes_take_no_place(toy_tokenizer, toy_cells):
    hidden_N = np.arange(len(toy_cells.genes_N)) % 3 == 0
    packed, _ = pack_cells(toy_tokenizer, toy_cells, toy_cells.labels_CP, NONE, NONE, ~hidden_N)
    n_leading = len(toy_tokenizer.schema.phenotypes) + 2
    assert packed.input_ids.shape[1] == len(toy_cells) * (n_leading + 1) + (~hidden_N).sum()


def test_a_cell_that_expresses_nothing_keeps_its_leading_tokens_and_end(toy_tokenizer, toy_cells):
    visible_N = np.ones(len(toy_cells.genes_N), dtype=bool)
    visible_N[toy_cells.offsets_C1[3] : toy_cells.offsets_C1[4]] = False
    packed, _ = pack_cells(toy_tokenizer, toy_cells, toy_cells.labels_CP, NONE, NONE, visible_N)
    start = int(packed.n_keys[:3].sum())
    assert packed.n_keys[3] == 8
    assert packed.position_ids[0, start : start + 8].tolist() == [0, 1, 2, 3, 4, 5, 6, toy_tokenizer.n_slots - 1]


def test_packing_no_cells_gives_an_empty_row():
    packed, query_at_Q = pack(
        leading_ids_CS=np.zeros((0, 7), dtype=np.int64),
        start_types_C=NONE,
        gene_cells_N=NONE,
        gene_slots_N=NONE,
        gene_ids_N=NONE,
        query_cells_Q=NONE,
        query_slots_Q=NONE,
        end_id=0,
        end_slot=1,
        mask_id=2,
    )
    assert len(packed) == 0
    assert packed.input_ids.shape == (1, 0)
    assert len(query_at_Q) == 0


def test_as_dict_hands_over_the_tensors_themselves():
    tensors = {name: torch.arange(3) for name in ("input_ids", "position_ids", "token_type_ids", "n_keys", "n_queries")}
    handed = PackedCells(**tensors).as_dict()
    assert list(handed) == list(tensors)
    assert all(handed[name] is tensors[name] for name in tensors)


@pytest.mark.parametrize("n_cells", [5, 9])
def test_rank_within_numbers_the_entries_of_each_cell_from_zero(n_cells):
    cells_N = np.array([0, 0, 2, 2, 2, 4])
    counts_C, rank_N = rank_within(cells_N, n_cells)
    assert counts_C.tolist() == [list(cells_N).count(c) for c in range(n_cells)]
    assert rank_N.tolist() == [0, 1, 0, 1, 2, 0]
