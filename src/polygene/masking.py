"""What is hidden from the network and what it is asked.

Legend: C cells, G panel genes, N expressed entries (cell, gene), P phenotypes, Q questions, S sources.

Hidden genes and phenotypes are never keys. A hidden phenotype leaves its [NO_*] token behind, the one that also stands
where a label is missing; a hidden gene leaves nothing, as an unexpressed gene does. The question is a query of its own.

Whether something is hidden is a function of (seed, epoch, cell, slot): resuming, ranks and workers change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polygene.errors import RecipeError
from polygene.packing import SHOWN_LEVELS, PackedCells, pack
from polygene.tokenizer import CellTokenizer, EncodedCells


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How much is hidden in training (shares between 0 and 1).

    Parameters
    ----------
    gene_rate
        Share of a cell's measured panel genes, zeros included, that is hidden, at the least.
    varied_rate
        Share of the cells of which more is hidden: a share uniform between `gene_rate` and all. It is what a cell looks
        like while it is generated, or in a file that measured few genes.
    phenotype_rate
        Share of the given labels that is hidden.
    all_phenotypes_rate
        Share of the cells whose labels are all hidden at once; at most `phenotype_rate`, which stays what it says.
    zero_rate
        Unexpressed genes that are asked, as a share of those that `gene_rate` hides: so many of every cell, weighted so
        that the expected loss is the one of asking all that are hidden.
    """

    gene_rate: float = 0.15
    varied_rate: float = 1.0
    phenotype_rate: float = 0.5
    all_phenotypes_rate: float = 0.25
    zero_rate: float = 0.25

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1 or (value == 0 and name == "zero_rate"):
                msg = f"masking.{name} = {value} is no share: give a number between 0 and 1."
                raise RecipeError(msg)
        if self.all_phenotypes_rate > self.phenotype_rate:
            msg = (
                f"masking.all_phenotypes_rate = {self.all_phenotypes_rate} exceeds phenotype_rate = "
                f"{self.phenotype_rate}: cells whose labels are all hidden count towards the rate."
            )
            raise RecipeError(msg)

    @property
    def single_phenotype_rate(self) -> float:
        """Share hidden one by one in the other cells, such that `phenotype_rate` holds over all."""
        if self.all_phenotypes_rate == 1:
            return 1.0
        return (self.phenotype_rate - self.all_phenotypes_rate) / (1 - self.all_phenotypes_rate)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers so that neighbours share nothing (finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, epochs_C: np.ndarray, cells_C: np.ndarray, slots_S: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (cell, slot), the same whenever it is asked for; float32 (C, S)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        h_C = _mix(np.full(len(cells_C), seed, dtype=np.uint64) * step + step)
        h_C = _mix(h_C + epochs_C.astype(np.uint64) * step)
        h_C = _mix(h_C + cells_C.astype(np.uint64) * step)
        h_CS = _mix(h_C[:, None] + slots_S.astype(np.uint64)[None, :] * step)
    return (h_CS >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def shown_level(shown: np.ndarray | float) -> np.ndarray:
    """Give the token type of [START] by the share of a cell's measured genes, zeros included, that is not hidden.

    Tenths, but from 80 % on all alike: a cell in training, 15 % of whose genes are asked, stands for a whole one.
    """
    return np.minimum(np.asarray(shown) * 10 + 1e-6, SHOWN_LEVELS - 1).astype(np.int64)


def pack_cells(
    tokenizer: CellTokenizer,
    cells: EncodedCells,
    key_labels_CP: np.ndarray,
    query_cells_Q: np.ndarray,
    query_slots_Q: np.ndarray,
    visible_N: np.ndarray | None = None,
    shown: np.ndarray | float = 1.0,
) -> tuple[PackedCells, np.ndarray]:
    """Lay out cells with these labels and visible genes as keys, and these questions.

    Parameters
    ----------
    visible_N
        Which expressed entries are keys; all if None.
    shown
        Share of each cell's measured genes, zeros included, that is not hidden (one number, or one a cell). It is said
        and not counted, since how many of the hidden genes are expressed must not be told.

    Returns
    -------
    The packed cells, and where in the row each question stands.
    """
    n_cells, n_leading = len(key_labels_CP), tokenizer.schema.n_leading
    cells_N, slots_N = cells.cells_N, cells.genes_N.astype(np.int64) + n_leading + 2
    ids_N: np.ndarray = cells.bins_N
    if visible_N is not None:
        cells_N, slots_N, ids_N = cells_N[visible_N], slots_N[visible_N], ids_N[visible_N]
    phenotype_ids_CP = tokenizer.phenotype_token_ids(key_labels_CP)
    if (key_labels_CP[:, n_leading:] >= 0).any():  # labels of added phenotypes follow the genes of their cell
        told_A, added_A = np.nonzero(key_labels_CP[:, n_leading:] >= 0)
        cells_N = np.concatenate([cells_N, told_A])
        slots_N = np.concatenate([slots_N, tokenizer.phenotype_slots[n_leading + added_A]])
        ids_N = np.concatenate([ids_N, phenotype_ids_CP[told_A, n_leading + added_A]])
        order_N = np.argsort(cells_N, kind="stable")
        cells_N, slots_N, ids_N = cells_N[order_N], slots_N[order_N], ids_N[order_N]
    leading_ids_CS = np.empty((n_cells, n_leading + 2), dtype=np.int64)
    leading_ids_CS[:, 0] = tokenizer.cls_id
    leading_ids_CS[:, 1:-1] = phenotype_ids_CP[:, :n_leading]
    leading_ids_CS[:, -1] = tokenizer.start_id
    return pack(
        leading_ids_CS=leading_ids_CS,
        start_types_C=np.broadcast_to(shown_level(shown), n_cells),
        gene_cells_N=cells_N,
        gene_slots_N=slots_N,
        gene_ids_N=ids_N,
        query_cells_Q=query_cells_Q,
        query_slots_Q=query_slots_Q,
        end_id=tokenizer.end_id,
        end_slot=tokenizer.end_slot,
        mask_id=tokenizer.mask_id,
    )


def hide_genes(
    cells: EncodedCells,
    measured_CG: np.ndarray,
    random_CG: np.ndarray,
    config: MaskingConfig,
    more_C: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cell, gene, bin and weight of every asked gene, and which expressed entries stay visible.

    One number a gene decides twice: below the cell's rate it is hidden, and a zero is asked when the number is below
    `gene_rate` times the share of zeros that is asked. `more_C` is the share of the other genes that a cell hides
    besides. The weights of a cell sum to 1 in expectation.
    """
    rate, zero_rate = config.gene_rate, config.zero_rate
    rate_C = rate + (1 - rate) * np.broadcast_to(more_C, len(cells))
    cells_N = cells.cells_N
    hidden_N = random_CG[cells_N, cells.genes_N] < rate_C[cells_N]
    asked_CG = (random_CG < rate * zero_rate) & measured_CG
    asked_CG[cells_N, cells.genes_N] = False
    zero_cells, zero_genes = np.nonzero(asked_CG)
    n_measured_C = np.maximum(measured_CG.sum(1), 1)
    cells_Q = np.concatenate([cells_N[hidden_N], zero_cells])
    genes_Q = np.concatenate([cells.genes_N[hidden_N].astype(np.int64), zero_genes])
    bins_Q = np.concatenate([cells.bins_N[hidden_N].astype(np.int64), np.zeros(len(zero_cells), dtype=np.int64)])
    weights_Q = 1 / (np.where(bins_Q > 0, np.maximum(rate_C[cells_Q], 1e-9), rate * zero_rate) * n_measured_C[cells_Q])
    return cells_Q, genes_Q, bins_Q, weights_Q, ~hidden_N


@dataclass(frozen=True, kw_only=True)
class MaskingCollator:
    """Cells of a corpus to a training batch.

    Parameters
    ----------
    tokenizer
        The corpus's tokenizer.
    measured_SG
        Which panel genes each source measured; a gene that was not measured is never asked.
    config, seed
        What is hidden.
    class_weights
        For each phenotype a weight per label (mean 1 over training cells), or None for equal weights.
    """

    tokenizer: CellTokenizer
    measured_SG: np.ndarray
    config: MaskingConfig
    seed: int = 0
    class_weights: Sequence[np.ndarray | None] | None = None

    def __call__(
        self, cells: EncodedCells, sources_C: np.ndarray, cell_ids_C: np.ndarray, epochs_C: np.ndarray
    ) -> dict[str, Tensor]:
        """Hide and ask.

        Returns
        -------
        The fields of `PackedCells`; `gene_at`, `label_at`, `label_phenotype` as `PolyGeneModel.forward` takes them; and
        for the loss `bins`, `bin_weights`, `labels`, `label_weights`, in the same order as the questions. The weights
        of a cell's genes sum to 1 in expectation, and so do those of its labels.
        """
        random_CS = uniform(self.seed, epochs_C, cell_ids_C, np.arange(self.tokenizer.n_slots))
        slots_P, first_gene = self.tokenizer.phenotype_slots, self.tokenizer.schema.n_leading + 2
        hidden_CP = self._hidden_phenotypes(random_CS[:, [0, *slots_P]]) & (cells.labels_CP >= 0)
        more_C = self._more_hidden(random_CS[:, first_gene - 1])
        measured_CG = self.measured_SG[sources_C]
        gene_cells_Q, genes_Q, bins_Q, gene_weights_Q, visible_N = hide_genes(
            cells, measured_CG, random_CS[:, first_gene : self.tokenizer.end_slot], self.config, more_C
        )
        label_cells_Q, phenotypes_Q = np.nonzero(hidden_CP)
        packed, query_at_Q = pack_cells(
            self.tokenizer,
            cells,
            np.where(hidden_CP, -1, cells.labels_CP),
            np.concatenate([gene_cells_Q, label_cells_Q]),
            np.concatenate([genes_Q + first_gene, slots_P[phenotypes_Q]]),
            visible_N,
            (1 - self.config.gene_rate) * (1 - more_C),
        )
        labels_Q = cells.labels_CP[label_cells_Q, phenotypes_Q].astype(np.int64)
        given_C = (cells.labels_CP >= 0).sum(1)
        label_weights_Q = 1 / (self.config.phenotype_rate * given_C[label_cells_Q])
        for p, weights_V in enumerate(self.class_weights or ()):
            if weights_V is not None:
                of_p = phenotypes_Q == p
                label_weights_Q[of_p] *= weights_V[labels_Q[of_p]]
        return packed.as_dict() | {
            "gene_at": torch.from_numpy(query_at_Q[: len(genes_Q)]),
            "label_at": torch.from_numpy(query_at_Q[len(genes_Q) :]),
            "label_phenotype": torch.from_numpy(phenotypes_Q),
            "bins": torch.from_numpy(bins_Q),
            "bin_weights": torch.from_numpy(gene_weights_Q.astype(np.float32)),
            "labels": torch.from_numpy(labels_Q),
            "label_weights": torch.from_numpy(label_weights_Q.astype(np.float32)),
        }

    def _hidden_phenotypes(self, random_CS: np.ndarray) -> np.ndarray:
        """Which labels are hidden, (C, P); the first column of the random numbers decides about all at once."""
        all_C = random_CS[:, 0] < self.config.all_phenotypes_rate
        return all_C[:, None] | (random_CS[:, 1:] < self.config.single_phenotype_rate)

    def _more_hidden(self, random_C: np.ndarray) -> np.ndarray:
        """Share of the genes beyond `gene_rate` that each cell hides, by the random number of [START]."""
        rate = self.config.varied_rate
        return np.where(random_C < rate, random_C / max(rate, 1e-9), 0.0)
