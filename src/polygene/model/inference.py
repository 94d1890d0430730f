"""Cells through the network, batch by batch.

Legend: C cells, P phenotypes, V labels of one phenotype, Q queries, B bins, T packed tokens, D width, G genes, N genes
that cells express, S leading slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polygene.model.batches import batches, by_rows, pack_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.eval_mode import predicts
from polygene.nn.attention import CellOffsets
from polygene.nn.known import KnownTokens
from polygene.nn.network import PolyGeneModel
from polygene.nn.packing import PackedCells, rank_within
from polygene.vocab.cells import EncodedCells
from polygene.vocab.tokenizer import CellTokenizer

MOST_KNOWN, MOST_QUERIES = 2**25, 8  # numbers kept of known tokens; phenotypes up to which `few_attention` is less work


def key_labels(model: PolyGene, cells: EncodedCells, given: Sequence[str]) -> np.ndarray:
    """Labels that stand as keys, (C, P): those of the given phenotypes; all others are not given."""
    labels_CP = np.full_like(cells.labels_CP, -1)
    for name in given:
        p = model.tokenizer.schema.index(name)
        labels_CP[:, p] = cells.labels_CP[:, p]
    return labels_CP


def row_of(packed: PackedCells, network: PolyGeneModel) -> dict[str, Tensor]:
    """Give packed cells as the network takes them, on its device."""
    return {name: x.to(network.device) for name, x in packed.as_dict().items()}


def shared_tokens(tokenizer: CellTokenizer) -> PackedCells:
    """Lay out what cells share: genes in every bin, [CLS], [END], phenotypes that are not given or are queries."""
    bins_CG = np.arange(1, tokenizer.binner.n_bins, dtype=np.uint8)[:, None].repeat(len(tokenizer.panel), axis=1)
    nothing_CP = np.full((len(bins_CG), len(tokenizer.schema.names)), -1, dtype=np.int16)
    all_G, slots_P = np.ones(len(tokenizer.panel), dtype=bool), tokenizer.phenotype_slots
    cells = tokenizer.from_bins(bins_CG, nothing_CP, all_G)
    return pack_cells(tokenizer, cells, nothing_CP, np.zeros_like(slots_P), slots_P)[0]


def known_tokens(model: PolyGene, cells: EncodedCells) -> KnownTokens | None:
    """Compute what cells share once, on a processor, where it is less work and takes at most 128 MB."""
    network, config = model.network, model.network.config
    n_tokens = config.n_genes * config.n_bins
    worth = len(cells.genes_N) > 2 * n_tokens and 4 * n_tokens * config.hidden_size <= MOST_KNOWN
    useful = worth and network.device.type == "cpu" and config.num_hidden_layers > 1
    return KnownTokens.of(network.bert, shared_tokens(model.tokenizer)) if useful else None


def label_probabilities(
    model: PolyGene,
    cells: EncodedCells,
    *,
    predict: Sequence[str],
    given: Sequence[str] = (),
    visible_share: float = 1.0,
) -> list[np.ndarray]:
    """Predict phenotypes from expression and the given labels; `visible_share` is that of `pack_cells`.

    For each name in `predict` the probabilities of its labels, float32 (C, V), whatever else is predicted. They are
    calibrated if the model is; its temperatures were learned with nothing given, and are used with labels given too.
    """
    return predict_labels(model, cells, predict=predict, given=given, visible_share=visible_share)[0]


@predicts
def predict_labels(
    model: PolyGene,
    cells: EncodedCells,
    *,
    predict: Sequence[str],
    given: Sequence[str] = (),
    visible_share: float = 1.0,
    branch: bool = False,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what `label_probabilities` does, and the hidden states of the queries, (C, D) for each.

    With `branch` the linear branch is added to the states, as where labels are decoded; without it they show novel
    cells (docs/decisions.md). Where the model has a head for a phenotype, it predicts, from states with the branch and
    from the genes of the cell.
    """
    schema, network = model.tokenizer.schema, model.network
    phenotypes = [schema.index(name) for name in predict]
    temperatures = [model.calibration.temperature(name) for name in predict]
    labels_CP, n = key_labels(model, cells, given), len(phenotypes)
    sizes = [network.config.hidden_size, *network.config.phenotype_sizes]
    none = [(np.zeros((0, sizes[p + 1]), np.float32), np.zeros((0, sizes[0]), np.float32)) for p in phenotypes]
    known = known_tokens(model, cells)

    def compute(rows: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        part, found = cells.rows(rows), []
        hidden_QD, state_QD = _label_states(model, part, labels_CP[rows], phenotypes, visible_share, known)
        for i, (name, p) in enumerate(zip(predict, phenotypes, strict=True)):
            head = model.heads.get(name)
            logits_CV = network.decode_labels(state_QD[i::n], schema.index(head.query) if head else p).float()
            if head:
                p_CN, values_CH = logits_CV.softmax(-1).cpu().numpy(), part.own.get(name)
                values_CH = head.values(part, model.tokenizer.panel) if values_CH is None else values_CH
                state_CD = state_QD[i::n, : sizes[0]].float().cpu().numpy()
                logits_CV = torch.from_numpy(head.logits(state_CD, p_CN, values_CH, sizes[p + 1]))
            states_CD = (state_QD if branch else hidden_QD)[i::n, : sizes[0]].float().cpu().numpy()
            found.append((torch.softmax(logits_CV / temperatures[i], dim=-1).float().cpu().numpy(), states_CD))
        return found

    parts = [none, *by_rows(compute, cells, network.config.first_gene_slot + 1 + n, network)]
    p_PCV, states_PCD = ([np.concatenate([part[i][k] for part in parts]) for i in range(n)] for k in (0, 1))
    return p_PCV, states_PCD


def _label_states(
    model: PolyGene,
    cells: EncodedCells,
    labels_CP: np.ndarray,
    phenotypes: Sequence[int],
    visible_share: float,
    known: KnownTokens | None,
) -> tuple[Tensor, Tensor]:
    """States of the queries for phenotypes, cell after cell, without and with the linear branch, (Q, D) each."""
    network, n = model.network, len(phenotypes)
    cells_Q = np.repeat(np.arange(len(cells)), n)
    slots_Q = np.tile(model.tokenizer.phenotype_slots[list(phenotypes)], len(cells))
    packed, at_Q = pack_cells(model.tokenizer, cells, labels_CP, cells_Q, slots_Q, visible_share=visible_share)
    row = row_of(packed, network)
    label_at, few = torch.from_numpy(at_Q).to(network.device), n <= MOST_QUERIES and network.device.type == "cpu"
    hidden_QD = network.encode(**row, read_at=label_at, before_last=False, few=few, known=known)
    places = (row["input_ids"], row["position_ids"], CellOffsets(row["n_keys"], row["n_queries"]), label_at)
    return hidden_QD, network.label_states(hidden_QD, *places, row.get("unmeasured"))


def cell_states(model: PolyGene, cells: EncodedCells, *, given: Sequence[str] = ()) -> np.ndarray:
    """Return the state of each cell from which its cell type is predicted, float32 (C, D); `given` as elsewhere.

    Of a model that has learned no cell types, and where cell types are given, it is the mean state of the cell's
    expressed genes before the last layer, zero in a cell without any. Why: "The state of a cell" in docs/decisions.md.
    """
    schema = model.tokenizer.schema
    if "cell_type" in given or "cell_type" not in schema.names or len(schema.labels[schema.index("cell_type")]) < 2:
        return _mean_of_genes(model, cells, given)
    return predict_labels(model, cells, predict=["cell_type"], given=given, branch=True)[1][0]


def _mean_of_genes(model: PolyGene, cells: EncodedCells, given: Sequence[str]) -> np.ndarray:
    found = [np.zeros((0, model.network.config.hidden_size), np.float32)]
    return np.concatenate(found + [part.means_CD for part in key_states(model, cells, given=given)])


class KeyStates(NamedTuple):
    """States of the keys of a batch of cells, float32; entry n is gene `genes_N[n]` of cell `cells_N[n]` of the batch.

    `rows` are the cells, `leading_CSD` the states of [CLS], the phenotype slots and [START].
    """

    rows: slice
    leading_CSD: np.ndarray
    cells_N: np.ndarray
    genes_N: np.ndarray
    bins_N: np.ndarray
    genes_ND: np.ndarray

    @property
    def means_CD(self) -> np.ndarray:
        """Mean state of the genes of each cell, zero in a cell that expresses none."""
        sums_CD = np.zeros((len(self.leading_CSD), self.genes_ND.shape[1]), np.float32)
        np.add.at(sums_CD, self.cells_N, self.genes_ND)
        return sums_CD / np.bincount(self.cells_N, minlength=len(sums_CD)).clip(min=1)[:, None].astype(np.float32)


def key_states(model: PolyGene, cells: EncodedCells, *, given: Sequence[str] = ()) -> Iterator[KeyStates]:
    """Compute the states of the keys before the last layer, batch by batch; a state depends on its own cell alone.

    No prediction depends on what a key becomes in the last layer, so training shapes the states before it.
    """
    labels_CP, network = key_labels(model, cells, given), model.network
    for rows in batches(cells, network.config.first_gene_slot + 1, network):
        yield _key_states(model, cells.rows(rows), labels_CP[rows], rows)


@predicts
def _key_states(model: PolyGene, cells: EncodedCells, labels_CP: np.ndarray, rows: slice) -> KeyStates:
    network, no_query = model.network, np.zeros(0, dtype=np.int64)
    packed, _ = pack_cells(model.tokenizer, cells, labels_CP, no_query, no_query)
    hidden_TD = network.encode(**row_of(packed, network), before_last=True, few=False, known=None).float().cpu().numpy()
    cell_N, rank_N = (x.numpy() for x in cells_and_ranks(cells))
    first_gene, cls_at_C = network.config.first_gene_slot, packed.cls_at.numpy()
    return KeyStates(
        rows=rows,
        leading_CSD=hidden_TD[cls_at_C[:, None] + np.arange(first_gene)],
        cells_N=cell_N,
        genes_N=cells.genes_N.astype(np.int64),
        bins_N=cells.bins_N,
        genes_ND=hidden_TD[cls_at_C[cell_N] + first_gene + rank_N],
    )


@predicts
def static_genes(model: PolyGene) -> np.ndarray:
    """Give the embedding of each gene outside any cell, float32 (G, D): that of its slot."""
    network, first = model.network, model.network.config.first_gene_slot
    slots_G = torch.arange(first, first + network.config.n_genes, device=network.device)
    vectors_GD: np.ndarray = network.bert.embeddings["position_embeddings"](slots_G).float().cpu().numpy()
    return vectors_GD


def cells_and_ranks(cells: EncodedCells) -> tuple[Tensor, Tensor]:
    """Cell of every expressed gene, and its place among the genes of its cell, (N,) each."""
    cell_N = cells.cells_N
    return torch.from_numpy(cell_N), torch.from_numpy(rank_within(cell_N, len(cells))[1])


@predicts
def bin_probabilities(
    model: PolyGene,
    cells: EncodedCells,
    query_cells_Q: np.ndarray,
    query_genes_Q: np.ndarray,
    visible_N: np.ndarray,
    *,
    given: Sequence[str] = (),
    visible_share: float = 1.0,
) -> np.ndarray:
    """Predict genes from the visible genes and the given labels: the bins of each query, float32 (Q, B).

    Queries are sorted by cell. `visible_N` says which expressed entries of `cells` are keys; a queried gene must not be
    among them. `visible_share` is the share of the genes, zeros included, that is visible, as for `pack_cells`.
    """
    labels_CP, network = key_labels(model, cells, given), model.network
    n_queries_C = np.bincount(query_cells_Q, minlength=len(cells))
    first_slot = network.config.first_gene_slot

    def compute(rows: slice) -> np.ndarray:
        first, last = np.searchsorted(query_cells_Q, [rows.start, rows.stop])
        genes_Q = query_genes_Q[first:last].astype(np.int64)
        packed, at_Q = pack_cells(
            model.tokenizer,
            cells.rows(rows),
            labels_CP[rows],
            query_cells_Q[first:last] - rows.start,
            genes_Q + first_slot,
            visible_N[cells.offsets_C1[rows.start] : cells.offsets_C1[rows.stop]],
            visible_share,
        )
        read_at = torch.from_numpy(at_Q).to(network.device)
        hidden_QD = network.encode(**row_of(packed, network), read_at=read_at, before_last=False, few=False, known=None)
        logits_QB = network.decode_genes(hidden_QD, torch.from_numpy(genes_Q).to(hidden_QD.device))
        return bins_from_logits(logits_QB.cpu(), network.config.bin_targets).numpy()

    none = np.zeros((0, model.tokenizer.binner.n_bins), np.float32)
    extra_tokens = first_slot + 1 + int(n_queries_C.max(initial=0))
    return np.concatenate([none, *by_rows(compute, cells, extra_tokens, network)])


def bins_from_logits(logits_QB: Tensor, targets_BB: Sequence[Sequence[float]] | None = None) -> Tensor:
    """Probabilities over bins: softmax, or from the one logit of a binary model, (Q, B).

    A network trained on smoothed targets T predicts p T where it believes p; `targets_BB` is T, and p is solved for.
    p is at least a fiftieth of the prediction, since a network fits T only nearly.
    """
    if logits_QB.shape[1] == 1:
        expressed_Q1 = torch.sigmoid(logits_QB.float())
        return torch.cat([1 - expressed_Q1, expressed_Q1], dim=1)
    predicted_QB = torch.softmax(logits_QB.float(), dim=-1)
    if targets_BB is None:
        return predicted_QB
    believed_QB = torch.linalg.solve(torch.tensor(targets_BB).T, predicted_QB.T).T.maximum(predicted_QB / 50)
    return believed_QB / believed_QB.sum(dim=1, keepdim=True)
