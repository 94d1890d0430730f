"""Masking: which genes and phenotypes of a training cell are visible, and which are queries.

Legend: C cells, G panel genes, N expressed entries (cell, gene), P phenotypes, Q queries, S sources.

Masked genes and phenotypes are never keys. A masked phenotype leaves its [NO_*] token behind, the one that also stands
where a label is missing; a masked gene leaves nothing, as an unexpressed gene does. The query is a token of its own.

Every random choice is a function of (seed, epoch, cell, slot): resuming, ranks and workers change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polygene.errors import RecipeError, is_number
from polygene.model.batches import pack_cells
from polygene.runtime.hashing import uniform
from polygene.vocab.cells import EncodedCells
from polygene.vocab.tokenizer import CellTokenizer


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How much is masked in training (shares between 0 and 1).

    Parameters
    ----------
    gene_rate
        Share of a cell's measured panel genes, zeros included, that is masked, at the least.
    varied_rate
        Share of the cells of which more is masked: a share uniform between `gene_rate` and all. It is what a cell looks
        like while it is generated.
    phenotype_rate
        Share of the given labels that is masked.
    all_phenotypes_rate
        Share of the cells whose labels are all masked at once; at most `phenotype_rate`, which stays what it says.
    zero_rate
        Unexpressed genes that are queries, as a share of those that `gene_rate` masks: so many of every cell, weighted
        so that the expected loss is the one of a query for every masked gene.
    unmeasured_rate
        Share of the cells that are read as if their file had measured fewer genes: those that another source of the
        corpus measured, or a random share. Else the unmeasured genes would name the source.
    """

    gene_rate: float = 0.15
    varied_rate: float = 1.0
    phenotype_rate: float = 0.5
    all_phenotypes_rate: float = 0.25
    zero_rate: float = 0.25
    unmeasured_rate: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not is_number(value) or not 0 <= value <= 1:
                msg = f"masking.{name} = {value!r} is no share: give a number between 0 and 1."
                raise RecipeError(msg)
        for name in ("gene_rate", "zero_rate"):
            if getattr(self, name) == 0:
                msg = (
                    f"masking.{name} = 0: unexpressed genes would never be queries, and the model would learn that "
                    "every gene is expressed. Give more, or loss.gene_weight = 0 to learn labels only."
                )
                raise RecipeError(msg)
        if self.all_phenotypes_rate > self.phenotype_rate:
            msg = (
                f"masking.all_phenotypes_rate = {self.all_phenotypes_rate} exceeds phenotype_rate = "
                f"{self.phenotype_rate}: cells whose labels are all masked count towards the rate."
            )
            raise RecipeError(msg)

    @property
    def single_phenotype_rate(self) -> float:
        """Share masked one by one in the other cells, such that `phenotype_rate` holds over all."""
        if self.all_phenotypes_rate == 1:
            return 1.0
        return (self.phenotype_rate - self.all_phenotypes_rate) / (1 - self.all_phenotypes_rate)


def mask_genes(
    cells: EncodedCells,
    measured_CG: np.ndarray,
    random_CG: np.ndarray,
    config: MaskingConfig,
    more_C: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cell, gene, bin and weight of every gene query, and which expressed entries stay visible.

    One random number for each gene decides twice: below the cell's rate the gene is masked, and a zero is a query when
    the number is below `gene_rate` times the share of zeros that are queries. `more_C` is the share of the other genes
    that is masked besides. The weights of a cell sum to 1 in expectation.
    """
    rate, zero_rate = config.gene_rate, config.zero_rate
    rate_C = rate + (1 - rate) * np.broadcast_to(more_C, len(cells))
    cells_N = cells.cells_N
    masked_N = random_CG[cells_N, cells.genes_N] < rate_C[cells_N]
    query_CG = (random_CG < rate * zero_rate) & measured_CG
    query_CG[cells_N, cells.genes_N] = False
    zero_cells, zero_genes = np.nonzero(query_CG)
    n_measured_C = np.maximum(measured_CG.sum(1), 1)
    cells_Q = np.concatenate([cells_N[masked_N], zero_cells])
    genes_Q = np.concatenate([cells.genes_N[masked_N].astype(np.int64), zero_genes])
    bins_Q = np.concatenate([cells.bins_N[masked_N].astype(np.int64), np.zeros(len(zero_cells), dtype=np.int64)])
    weights_Q = 1 / (np.where(bins_Q > 0, np.maximum(rate_C[cells_Q], 1e-9), rate * zero_rate) * n_measured_C[cells_Q])
    return cells_Q, genes_Q, bins_Q, weights_Q, ~masked_N


@dataclass(frozen=True, kw_only=True)
class MaskingCollator:
    """Cells of a corpus to a training batch.

    Parameters
    ----------
    tokenizer
        The corpus's tokenizer.
    measured_SG
        Which panel genes each source measured; a gene that was not measured is never a query.
    config, seed
        What is masked.
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
        """Mask cells and pack them.

        Returns
        -------
        The fields of `PackedCells`; `gene_at`, `label_at`, `label_phenotype` as `PolyGeneModel.forward` takes them; and
        for the loss `bins`, `bin_weights`, `labels`, `label_weights`, in the same order as the queries. The weights
        of a cell's genes sum to 1 in expectation, and so do those of its labels.
        """
        random_CS = uniform(self.seed, epochs_C, cell_ids_C, np.arange(self.tokenizer.n_slots))
        slots_P, first_gene = self.tokenizer.phenotype_slots, self.tokenizer.schema.n_leading + 2
        masked_CP = self._masked_phenotypes(random_CS[:, [0, *slots_P]]) & (cells.labels_CP >= 0)
        more_C = self._more_masked(random_CS[:, first_gene - 1])
        measured_CG = self.measured_SG[sources_C]
        gene_cells_Q, genes_Q, bins_Q, gene_weights_Q, visible_N = mask_genes(
            cells, measured_CG, random_CS[:, first_gene : self.tokenizer.end_slot], self.config, more_C
        )
        # genes that only count as unmeasured stay queries: the network learns genes that a file lacks
        read_CG = measured_CG & self._read_as_measured(epochs_C, cell_ids_C)
        visible_N &= read_CG[cells.cells_N, cells.genes_N]
        label_cells_Q, phenotypes_Q = np.nonzero(masked_CP)
        packed, query_at_Q = pack_cells(
            self.tokenizer,
            cells,
            np.where(masked_CP, -1, cells.labels_CP),
            np.concatenate([gene_cells_Q, label_cells_Q]),
            np.concatenate([genes_Q + first_gene, slots_P[phenotypes_Q]]),
            visible_N,
            (1 - self.config.gene_rate) * (1 - more_C),
            ~read_CG,
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

    def _masked_phenotypes(self, random_CS: np.ndarray) -> np.ndarray:
        """Which labels are masked, (C, P); the first column of the random numbers decides about all at once."""
        all_C = random_CS[:, 0] < self.config.all_phenotypes_rate
        return all_C[:, None] | (random_CS[:, 1:] < self.config.single_phenotype_rate)

    def _read_as_measured(self, epochs_C: np.ndarray, cell_ids_C: np.ndarray) -> np.ndarray:
        """Which genes each cell is read with, (C, G): all, those of a random source, or a random share."""
        rate, n_slots, n_genes = self.config.unmeasured_rate, self.tokenizer.n_slots, self.measured_SG.shape[1]
        if not rate:
            return np.ones((1, n_genes), dtype=bool)
        # slots beyond the last one have random numbers of their own
        random_CS = uniform(self.seed, epochs_C, cell_ids_C, np.arange(n_slots, n_slots + 2 + n_genes))
        as_source_C, share_C = random_CS[:, 0] < rate / 2, np.where(random_CS[:, 0] < rate, random_CS[:, 1], 0)
        as_source_CG = self.measured_SG[(random_CS[:, 1] * len(self.measured_SG)).astype(np.int64)]
        read_CG: np.ndarray = np.where(as_source_C[:, None], as_source_CG, random_CS[:, 2:] >= share_C[:, None])
        return read_CG

    def _more_masked(self, random_C: np.ndarray) -> np.ndarray:
        """Share of the genes beyond `gene_rate` that is masked in each cell, by the random number of [START]."""
        rate = self.config.varied_rate
        return np.where(random_C < rate, random_C / max(rate, 1e-9), 0.0)
