"""What each expressed gene adds to the log-odds of a label: integrated gradients, and removal.

Legend: C cells, N expressed genes of cells, T packed tokens, D width, V labels of a phenotype, Q queries (one a cell).

Log-odds are those of the label and of all labels below it against all others, in the network's own logits: without
temperature and without fine-tuned heads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polygene.errors import DataError
from polygene.model.batches import batches, pack_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.eval_mode import predicts
from polygene.model.inference import cells_and_ranks, row_of
from polygene.nn.attention import CellOffsets
from polygene.nn.packing import PackedCells
from polygene.vocab.cells import EncodedCells
from polygene.vocab.columns import some


def labels_of(model: PolyGene, phenotype: str, label: str) -> np.ndarray:
    """Which labels are the label or below it, bool (V,)."""
    schema = model.tokenizer.schema
    labels = schema.labels[schema.index(phenotype)]
    if phenotype in model.heads:
        msg = f"A fine-tuned head predicts {phenotype} here: attribution is of the network's own labels."
        raise DataError(msg)
    if len(labels) < 2 or label not in labels:
        known = some(labels, 8)
        msg = f"The model knows no label {label!r} of {phenotype} that others differ from; it knows {known}."
        raise DataError(msg)
    below_VV = model.at_or_below(phenotype)
    chosen_V = np.array(labels) == label if below_VV is None else below_VV[labels.index(label)]
    return np.asarray(chosen_V, dtype=bool)


def log_odds(
    model: PolyGene, cells: EncodedCells, phenotype: str, label: str, visible_N: np.ndarray | None = None
) -> np.ndarray:
    """Log-odds of the label from expression alone, float32 (C,); `visible_N`: which expressed entries stay."""
    return _integrate(model, cells, phenotype, label, 0, visible_N)[1]


def integrated_gradients(
    model: PolyGene, cells: EncodedCells, phenotype: str, label: str, *, n_steps: int = 16
) -> np.ndarray:
    """Attribute the log-odds of the label to the expressed genes, float32 (N,) (Sundararajan et al. 2017).

    The path leads from gene tokens whose embedding is zero, and which add nothing to the linear branch, to what the
    cell has; a midpoint sum of `n_steps` gradients. Attributions of a cell sum to the difference of its log-odds.
    """
    return _integrate(model, cells, phenotype, label, n_steps)[0]


class _Row(NamedTuple):
    packed: PackedCells
    query_at: Tensor
    gene_at_N: Tensor
    cell_N: Tensor


@predicts
def _integrate(
    model: PolyGene,
    cells: EncodedCells,
    phenotype: str,
    label: str,
    n_steps: int,
    visible_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    chosen_V, p, network = labels_of(model, phenotype, label), model.tokenizer.schema.index(phenotype), model.network
    attributed, odds = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for rows in batches(cells, network.config.first_gene_slot + 2, network):
        visible = None if visible_N is None else visible_N[cells.offsets_C1[rows.start] : cells.offsets_C1[rows.stop]]
        with torch.inference_mode(False):
            target_V = torch.tensor(chosen_V, device=network.device)
            row = _pack(model, cells.rows(rows), p, visible)
            found_N = torch.zeros(len(row.gene_at_N))
            for step in range(n_steps):
                found_N += _gradient(model, row, p, target_V, (step + 0.5) / n_steps) / n_steps
            with torch.no_grad():
                odds.append(_odds(model, row, p, target_V, 1.0)[0].cpu().numpy())
        attributed.append(found_N.numpy())
    return np.concatenate(attributed), np.concatenate(odds)


def _pack(model: PolyGene, cells: EncodedCells, p: int, visible_N: np.ndarray | None) -> _Row:
    """Lay out cells with nothing given and a query for the phenotype each."""
    at_C = np.arange(len(cells))
    slots_C = np.full(len(cells), model.tokenizer.phenotype_slots[p])
    labels_CP = np.full_like(cells.labels_CP, -1)
    packed, query_at_Q = pack_cells(model.tokenizer, cells, labels_CP, at_C, slots_C, visible_N)
    cell_N, rank_N = cells_and_ranks(cells)
    gene_at_N = (
        packed.cls_at[cell_N] + model.network.config.first_gene_slot + rank_N if visible_N is None else rank_N[:0]
    )
    return _Row(packed, torch.from_numpy(query_at_Q), gene_at_N, cell_N)


def _gradient(model: PolyGene, row: _Row, p: int, target_V: Tensor, share: float) -> Tensor:
    """Gradient of the log-odds along the path at this share of it, for each gene, (N,)."""
    with torch.enable_grad():
        odds_C, inputs = _odds(model, row, p, target_V, share)
        along = torch.autograd.grad(odds_C.sum(), list(inputs))
    return torch.stack(along).sum(dim=0).cpu()


def _odds(model: PolyGene, row: _Row, p: int, target_V: Tensor, share: float) -> tuple[Tensor, Sequence[Tensor]]:
    """Log-odds of each cell, (C,), where genes count by a share, and the shares of each gene in encoder and branch."""
    network, device = model.network, model.network.device
    inputs = row_of(row.packed, network)
    ids_T, slots_T, unmeasured = inputs["input_ids"][0], inputs["position_ids"][0], inputs.get("unmeasured")
    cells, at_Q = CellOffsets(inputs["n_keys"], inputs["n_queries"]), row.query_at.to(device)
    places = CellOffsets(inputs["n_keys"], inputs["n_queries"], at_Q)
    gene_at_N, cell_N = row.gene_at_N.to(device), row.cell_N[: len(row.gene_at_N)].to(device)
    shares = [torch.full((len(gene_at_N),), share, device=device, requires_grad=True) for _ in range(2)]
    x_TD = network.bert.embed(network.words(ids_T, cells, unmeasured), slots_T, inputs["token_type_ids"][0])
    x_TD = x_TD.detach().index_copy(0, gene_at_N, x_TD.detach()[gene_at_N] * shares[0][:, None])
    hidden_QD = network.bert.run(x_TD, cells, places)
    branch = network.linear_branch
    state_QD = network.label_states(hidden_QD, inputs["input_ids"], inputs["position_ids"], cells, at_Q, unmeasured)
    # the branch is a sum over genes: taking a share off is adding what it lacks
    genes_N = slots_T[gene_at_N] - branch.first_slot
    lacking_ND = (shares[1] - 1)[:, None] * (branch.bins[ids_T[gene_at_N], None] * branch.genes(genes_N)).detach()
    state_QD = state_QD.index_add(0, cell_N, lacking_ND)
    logits_QV = network.decode_labels(state_QD, p).float()
    return logits_QV[:, target_V].logsumexp(1) - logits_QV[:, ~target_V].logsumexp(1), shares


def removal_effects(
    model: PolyGene, cells: EncodedCells, phenotype: str, label: str, genes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take each of these genes out of the cells that express it, one at a time.

    Returns
    -------
    Cell and gene of each such pair, and the log-odds of the label with the gene less those without it.
    """
    whole_C = log_odds(model, cells, phenotype, label)
    found_cells, found_genes, effects = [], [], []
    for g in genes:
        rows = np.unique(cells.cells_N[cells.genes_N == g])
        if len(rows):
            part = cells.rows(rows)
            without_R = log_odds(model, part, phenotype, label, part.genes_N != g)
            found_cells.append(rows)
            found_genes.append(np.full(len(rows), g))
            effects.append(whole_C[rows] - without_R)
    if not effects:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32)
    return np.concatenate(found_cells), np.concatenate(found_genes), np.concatenate(effects)
