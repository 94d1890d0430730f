"""The network: Hugging Face BertModel on packed rows, and one linear decoder read in slot groups.

Legend: C cells, T packed tokens, Q queries, D width, G genes, B logits of a gene (bins; 1 if binary), V labels of one
phenotype, P phenotypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.utils import ModelOutput

from polygene.attention import PACKED, CellOffsets


class PolyGeneConfig(BertConfig):
    """Shape of the network: a BertConfig plus the sizes of the slot groups.

    Parameters
    ----------
    n_genes
        Genes of the panel; genes have the slots P+2 … P+1+G.
    n_bins
        Expression bins, bin 0 included. Two bins are answered by one logit ("expressed").
    phenotype_sizes
        Number of labels V of each of the P phenotypes; phenotypes have the slots 1 … P.
    """

    model_type = "polygene"

    def __init__(
        self, n_genes: int = 512, n_bins: int = 10, phenotype_sizes: Sequence[int] = (), **kwargs: Any
    ) -> None:
        self.n_genes = n_genes
        self.n_bins = n_bins
        self.phenotype_sizes = list(phenotype_sizes)
        kwargs.setdefault("max_position_embeddings", len(self.phenotype_sizes) + 3 + n_genes)
        kwargs.setdefault("type_vocab_size", 1)
        kwargs.setdefault("attention_probs_dropout_prob", 0.0)
        kwargs.setdefault("pad_token_id", None)
        super().__init__(**kwargs)

    @property
    def gene_logits(self) -> int:
        """Logits of one gene: a bin each, or one for "expressed"."""
        return 1 if self.n_bins == 2 else self.n_bins

    @property
    def first_gene_slot(self) -> int:
        """Slot of the panel's first gene."""
        return len(self.phenotype_sizes) + 2


@dataclass
class PolyGeneOutput(ModelOutput):
    """What the network answers.

    Attributes
    ----------
    hidden
        (T, D): last hidden state of every packed token.
    gene_logits
        (Q, B): logits over the bins for every asked gene; (Q, 1) if binary.
    label_logits
        P tensors (Q_p, V_p): logits over a phenotype's labels for every time it was asked.
    """

    hidden: Tensor | None = None
    gene_logits: Tensor | None = None
    label_logits: tuple[Tensor, ...] | None = None


class PolyGeneModel(PreTrainedModel):
    """BertModel on packed cells with a decoder whose softmax never leaves a slot's own group.

    A gene is answered over bins, a phenotype over its own labels: no probability goes to impossible tokens.
    """

    config_class = PolyGeneConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ("BertEmbeddings", "BertLayer")

    def __init__(self, config: PolyGeneConfig) -> None:
        config._attn_implementation = PACKED
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        n_logits = config.gene_logits + sum(config.phenotype_sizes)
        self.decoder = nn.Linear(config.hidden_size, n_logits)
        self.gene_bias = nn.Embedding(config.n_genes, config.gene_logits)
        self.post_init()
        nn.init.zeros_(self.gene_bias.weight)

    @torch.no_grad()
    def start_from_frequencies(self, bins_GB: Tensor, labels: Sequence[Tensor]) -> None:
        """Set the biases to the logs of the training frequencies, so that learning starts at the marginals.

        Parameters
        ----------
        bins_GB
            Counts of each gene's bins over training cells; all zero where nothing is known.
        labels
            P tensors (V_p,): counts of each phenotype's labels over training cells.
        """
        smoothed_GB = bins_GB.float() + 0.5
        log_GB = (smoothed_GB / smoothed_GB.sum(1, keepdim=True)).log()
        if self.config.gene_logits == 1:
            log_GB = log_GB[:, 1:] - log_GB[:, :1]
        self.gene_bias.weight.copy_(log_GB)
        logs = [((n_V.float() + 0.5) / (n_V.float() + 0.5).sum()).log() for n_V in labels]
        self.decoder.bias.copy_(torch.cat([torch.zeros(self.config.gene_logits), *logs]))

    def encode(self, input_ids: Tensor, position_ids: Tensor, n_keys: Tensor, n_queries: Tensor) -> Tensor:
        """Run packed cells through the encoder.

        Returns
        -------
        (T, D): last hidden state of every packed token.
        """
        if self.config._attn_implementation != PACKED:
            msg = (
                f"PolyGene runs under the attention implementation {PACKED!r} only, but "
                f"{self.config._attn_implementation!r} is set: cells of one row would see each other. "
                f"Call model.set_attn_implementation({PACKED!r})."
            )
            raise ValueError(msg)
        cells = CellOffsets(n_keys, n_queries)
        return self.bert(
            input_ids=input_ids,
            position_ids=position_ids,
            token_type_ids=torch.zeros_like(input_ids),
            cells=cells,
        ).last_hidden_state[0]

    def decode_genes(self, hidden_QD: Tensor, genes_Q: Tensor) -> Tensor:
        """Logits of the bins of the asked genes, (Q, B)."""
        n = self.config.gene_logits
        logits_QB = nn.functional.linear(hidden_QD, self.decoder.weight[:n], self.decoder.bias[:n])
        return logits_QB + self.gene_bias(genes_Q)

    def decode_labels(self, hidden_QD: Tensor, phenotype: int) -> Tensor:
        """Logits of the labels of one phenotype, (Q, V)."""
        first = self.config.gene_logits + sum(self.config.phenotype_sizes[:phenotype])
        last = first + self.config.phenotype_sizes[phenotype]
        return nn.functional.linear(hidden_QD, self.decoder.weight[first:last], self.decoder.bias[first:last])

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        n_keys: Tensor,
        n_queries: Tensor,
        gene_at: Tensor,
        label_at: Tensor,
        label_phenotype: Tensor,
    ) -> PolyGeneOutput:
        """Answer the questions of packed cells.

        Parameters
        ----------
        input_ids, position_ids, n_keys, n_queries
            The fields of `PackedCells`.
        gene_at
            (Q,): places in the row of the asked genes.
        label_at, label_phenotype
            Places in the row of the asked phenotypes, and which phenotype (0 … P-1) each of them is.
        """
        hidden_TD = self.encode(input_ids, position_ids, n_keys, n_queries)
        genes_Q = position_ids[0, gene_at] - self.config.first_gene_slot
        label_logits = tuple(
            self.decode_labels(hidden_TD[label_at[label_phenotype == p]], p)
            for p in range(len(self.config.phenotype_sizes))
        )
        return PolyGeneOutput(
            hidden=hidden_TD,
            gene_logits=self.decode_genes(hidden_TD[gene_at], genes_Q),
            label_logits=label_logits,
        )
