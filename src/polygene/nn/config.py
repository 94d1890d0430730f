"""The shape of the network.

Legend: G genes, B bins, P phenotypes, V labels of one phenotype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import BertConfig

from polygene.nn.packing import VISIBLE_LEVELS


class PolyGeneConfig(BertConfig):
    """Shape of the network: a BertConfig plus the sizes of the slot groups.

    Parameters
    ----------
    n_genes, n_bins
        Genes of the panel, with slots from `first_gene_slot` on; expression bins, bin 0 included.
    phenotype_sizes, n_added
        Labels of each phenotype, with slots from 1 on; how many of them, the last ones, were added after training:
        their slots stand behind [END].
    bin_targets
        (B, B): the distribution over bins that training took each bin for, if it smoothed (see `losses.gene_targets`).
    unmeasured_vectors
        Whether the network has a vector for each gene that a file did not measure (see `UnmeasuredGenes`).
    """

    model_type = "polygene"

    def __init__(
        self,
        n_genes: int = 512,
        n_bins: int = 10,
        phenotype_sizes: Sequence[int] = (),
        n_added: int = 0,
        bin_targets: Sequence[Sequence[float]] | None = None,
        unmeasured_vectors: bool = True,
        **kwargs: Any,
    ) -> None:
        self.n_genes = n_genes
        self.n_bins = n_bins
        self.phenotype_sizes = list(phenotype_sizes)
        self.n_added = n_added
        self.bin_targets = bin_targets
        self.unmeasured_vectors = unmeasured_vectors
        kwargs.setdefault("max_position_embeddings", len(self.phenotype_sizes) + 3 + n_genes)
        kwargs.setdefault("type_vocab_size", VISIBLE_LEVELS)
        kwargs.setdefault("attention_probs_dropout_prob", 0.0)
        kwargs.setdefault("pad_token_id", None)
        super().__init__(**kwargs)

    @property
    def gene_logits(self) -> int:
        """Logits of one gene: one for each bin, or of two bins one for "expressed"."""
        return 1 if self.n_bins == 2 else self.n_bins

    @property
    def first_gene_slot(self) -> int:
        """Slot of the panel's first gene."""
        return len(self.phenotype_sizes) - self.n_added + 2
