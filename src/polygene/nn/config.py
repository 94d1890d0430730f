"""The shape of the network.

Legend: G genes, B bins, P phenotypes, V labels of one phenotype.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polygene.nn.packing import VISIBLE_LEVELS

BERT = {
    "architectures": ["PolyGeneModel"],
    "model_type": "polygene",
    "pad_token_id": None,
    "chunk_size_feed_forward": 0,
    **dict.fromkeys(("is_decoder", "add_cross_attention", "use_cache"), False),
}


@dataclass(kw_only=True)
class PolyGeneConfig:
    """Shape of the network: the fields of transformers' BertConfig that it uses, and the sizes of the slot groups.

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
    label_regression
        Whether a logistic regression of the labels on the genes was joined to it (see `LinearBranch`).
    """

    n_genes: int = 512
    n_bins: int = 10
    phenotype_sizes: Sequence[int] = ()
    n_added: int = 0
    bin_targets: Sequence[Sequence[float]] | None = None
    unmeasured_vectors: bool = True
    label_regression: bool = False
    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 0
    type_vocab_size: int = VISIBLE_LEVELS
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        self.phenotype_sizes = list(self.phenotype_sizes)
        self.max_position_embeddings = self.max_position_embeddings or len(self.phenotype_sizes) + 3 + self.n_genes

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json holds; with it transformers' BertConfig describes the same encoder."""
        return asdict(self) | BERT

    def to_json_string(self) -> str:
        """Return the text of config.json; loggers of transformers' Trainer ask for it by this name."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @property
    def gene_logits(self) -> int:
        """Logits of one gene: one for each bin, or of two bins one for "expressed"."""
        return 1 if self.n_bins == 2 else self.n_bins

    @property
    def first_gene_slot(self) -> int:
        """Slot of the panel's first gene."""
        return len(self.phenotype_sizes) - self.n_added + 2
