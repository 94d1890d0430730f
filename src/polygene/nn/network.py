"""The network: Hugging Face BertModel on packed rows, a shortcut, and one linear decoder read in slot groups.

Legend: C cells, T packed tokens, R those that are read, Q queries, H heads, E width of a head, D width, G genes,
B logits of a gene (bins; 1 if binary), V labels of one phenotype, P phenotypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer
from transformers.utils import ModelOutput

from polygene.nn.attention import PACKED, CellOffsets, packed_attention
from polygene.nn.packing import SHOWN_LEVELS


class PolyGeneConfig(BertConfig):
    """Shape of the network: a BertConfig plus the sizes of the slot groups.

    Parameters
    ----------
    n_genes
        Genes of the panel; they have the slots from `first_gene_slot` on.
    n_bins
        Expression bins, bin 0 included. Two bins are answered by one logit ("expressed").
    phenotype_sizes
        Number of labels V of each of the P phenotypes; phenotypes have the slots from 1 on.
    n_added
        How many of them, the last ones, were added after training; their slots stand behind [END].
    heads
        Places of phenotypes whose answer is also read from the visible genes directly (see `Shortcut`).
    bin_targets
        (B, B): the distribution over bins that training took each bin for, if it smoothed (see `losses.gene_targets`).
    """

    model_type = "polygene"

    def __init__(
        self,
        n_genes: int = 512,
        n_bins: int = 10,
        phenotype_sizes: Sequence[int] = (),
        n_added: int = 0,
        heads: Sequence[int] = (),
        bin_targets: Sequence[Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.n_genes = n_genes
        self.n_bins = n_bins
        self.phenotype_sizes = list(phenotype_sizes)
        self.n_added = n_added
        self.heads = list(heads)
        self.bin_targets = bin_targets
        kwargs.setdefault("max_position_embeddings", len(self.phenotype_sizes) + 3 + n_genes)
        kwargs.setdefault("type_vocab_size", SHOWN_LEVELS)
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
        return len(self.phenotype_sizes) - self.n_added + 2


@dataclass
class PolyGeneOutput(ModelOutput):
    """What the network answers.

    Attributes
    ----------
    gene_logits
        (Q, B): logits over the bins for every asked gene; (Q, 1) if binary.
    label_logits
        P tensors (Q_p, V_p): logits over a phenotype's labels for every time it was asked.
    """

    gene_logits: Tensor | None = None
    label_logits: tuple[Tensor, ...] | None = None


class LastLayer(BertLayer):
    """BERT's last layer with the same weights: keys and values of all tokens, the rest only of those that are read."""

    def forward(
        self, hidden_1TD: Tensor, *args: Any, cells: CellOffsets, reading: CellOffsets | None = None, **kwargs: Any
    ) -> Tensor:
        """States of the tokens that attend in `reading`, (1, R, D); of all tokens without it."""
        if reading is None or reading.attending_at_A is None:
            return super().forward(hidden_1TD, *args, cells=cells, **kwargs)
        attention = self.attention.self
        read_1RD = hidden_1TD.index_select(1, reading.attending_at_A)
        q_1HRE, k_1HTE, v_1HTE = (
            project(x).unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)
            for project, x in ((attention.query, read_1RD), (attention.key, hidden_1TD), (attention.value, hidden_1TD))
        )
        dropout = attention.dropout.p if self.training else 0.0
        o_1RHE, _ = packed_attention(
            attention, q_1HRE, k_1HTE, v_1HTE, None, cells=reading, scaling=attention.scaling, dropout=dropout
        )
        return self.feed_forward_chunk(self.attention.output(o_1RHE.flatten(2), read_1RD))


class Shortcut(nn.Module):
    """What each visible gene says of the phenotypes by itself: a vector a gene times a value a bin, summed over a cell.

    It stands beside the encoder as a linear model does beside a deep one (wide and deep, Cheng et al. 2016), and learns
    in few passes what a linear model can tell. In training half of the cells do without it, so that the encoder learns
    to answer alone, and its states tell what cells are (docs/decisions.md). A phenotype with a head of its own, which
    fine-tuning fits, has besides for each gene a number a label.
    """

    def __init__(self, config: PolyGeneConfig) -> None:
        super().__init__()
        self.genes = nn.Embedding(config.n_genes, config.hidden_size)
        self.bins = nn.Parameter(torch.linspace(0.5, 1.5, config.n_bins))
        self.heads = nn.ModuleDict(
            {str(p): nn.Embedding(config.n_genes, config.phenotype_sizes[p]) for p in config.heads}
        )
        self.first_slot = config.first_gene_slot

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cells: CellOffsets,
        label_at: Tensor,
        genes: nn.Embedding | None = None,
    ) -> Tensor:
        """Give what is added to the states of the questions for labels that stand at these places, (Q, D).

        With one of the `heads` as `genes`, what is added to the logits of its labels, (Q, V).
        """
        ids_T, genes_T = input_ids[0], position_ids[0] - self.first_slot
        lengths_C = cells.n_keys_C + cells.n_queries_C
        cell_T = torch.arange(len(lengths_C), device=ids_T.device).repeat_interleave(lengths_C, output_size=len(ids_T))
        is_gene_T = (genes_T >= 0) & (genes_T < self.genes.num_embeddings)
        visible_N = (is_gene_T & (ids_T < len(self.bins))).nonzero()[:, 0]  # a question has the id of [MASK]
        said_ND = self.bins[ids_T[visible_N], None] * (self.genes if genes is None else genes)(genes_T[visible_N])
        sums_CD = said_ND.new_zeros(len(lengths_C), said_ND.shape[1]).index_add(0, cell_T[visible_N], said_ND)
        if self.training and genes is None:  # what is hidden decides which half: no batch and no process changes it
            sums_CD = sums_CD * (cells.n_keys_C % 2)[:, None]
        return sums_CD[cell_T[label_at]]


class PolyGeneModel(PreTrainedModel):
    """BertModel on packed cells with a decoder whose softmax never leaves a slot's own group.

    A gene is answered over bins, a phenotype over its own labels: no probability goes to impossible tokens.
    """

    config_class = PolyGeneConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ("BertEmbeddings", "BertLayer", "LastLayer")

    def __init__(self, config: PolyGeneConfig) -> None:
        config._attn_implementation = PACKED
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        n_logits = config.gene_logits + sum(config.phenotype_sizes)
        self.bert.encoder.layer[-1] = LastLayer(config, layer_idx=config.num_hidden_layers - 1)
        self.decoder = nn.Linear(config.hidden_size, n_logits)
        self.gene_bias = nn.Embedding(config.n_genes, config.gene_logits)
        self.shortcut = Shortcut(config)
        self.post_init()
        nn.init.zeros_(self.gene_bias.weight)
        nn.init.zeros_(self.shortcut.genes.weight)

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

    def encode(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        n_keys: Tensor,
        n_queries: Tensor,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Run packed cells through the encoder.

        Parameters
        ----------
        input_ids, position_ids, token_type_ids, n_keys, n_queries
            The fields of `PackedCells`.
        read_at
            Places in the row, ascending, whose states are wanted, so that the last layer leaves out the others; all if
            None.

        Returns
        -------
        (R, D): last hidden state of each of these tokens.
        """
        if self.config._attn_implementation != PACKED:
            msg = (
                f"PolyGene runs under the attention implementation {PACKED!r} only, but "
                f"{self.config._attn_implementation!r} is set: cells of one row would see each other. "
                f"Call model.set_attn_implementation({PACKED!r})."
            )
            raise ValueError(msg)
        return self.bert(
            input_ids=input_ids,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            cells=CellOffsets(n_keys, n_queries),
            reading=None if read_at is None else CellOffsets(n_keys, n_queries, read_at),
        ).last_hidden_state[0]

    def encode_before_last(
        self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor, n_keys: Tensor, n_queries: Tensor
    ) -> Tensor:
        """Run packed cells through all layers but the last: what the last one's keys and values are made of.

        Returns
        -------
        (T, D): state of every packed token. No answer depends on what a key becomes in the last layer, so training
        shapes these states of keys and not those.
        """
        hidden_1TD = self.bert.embeddings(input_ids, token_type_ids, position_ids)
        cells = CellOffsets(n_keys, n_queries)
        for layer in self.bert.encoder.layer[:-1]:
            hidden_1TD = layer(hidden_1TD, None, cells=cells)
        return hidden_1TD[0]

    def decode_genes(self, hidden_QD: Tensor, genes_Q: Tensor) -> Tensor:
        """Logits of the bins of the asked genes, (Q, B)."""
        n = self.config.gene_logits
        logits_QB = nn.functional.linear(hidden_QD, self.decoder.weight[:n], self.decoder.bias[:n])
        return logits_QB + self.gene_bias(genes_Q)

    def answer_labels(
        self,
        hidden_QD: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        cells: CellOffsets,
        label_at: Tensor,
        label_phenotype: Tensor,
    ) -> tuple[Tensor, ...]:
        """Logits of the labels of every phenotype where it was asked, P tensors (Q_p, V_p).

        `hidden_QD` are the encoder's states of the questions; the other parameters are those of `forward`.
        """
        asking_QD = hidden_QD + self.shortcut(input_ids, position_ids, cells, label_at)
        logits = []
        for p in range(len(self.config.phenotype_sizes)):
            of_p = label_phenotype == p
            logits_QV = self.decode_labels(asking_QD[of_p], p)
            if p in self.config.heads:
                logits_QV = logits_QV + self.shortcut(input_ids, position_ids, cells, label_at[of_p], self.head(p))
            logits.append(logits_QV)
        return tuple(logits)

    def decode_labels(self, hidden_QD: Tensor, phenotype: int) -> Tensor:
        """Logits of the labels of one phenotype from states with the shortcut added, (Q, V)."""
        return nn.functional.linear(hidden_QD, *self.label_rows(phenotype))

    def head(self, phenotype: int) -> nn.Embedding:
        """What each gene says of the labels of a phenotype in `config.heads`, (G, V)."""
        return cast("nn.Embedding", self.shortcut.heads[str(phenotype)])

    def label_rows(self, phenotype: int) -> tuple[Tensor, Tensor]:
        """Weights (V, D) and biases (V,) of the decoder that belong to the labels of one phenotype, as views."""
        first = self.config.gene_logits + sum(self.config.phenotype_sizes[:phenotype])
        last = first + self.config.phenotype_sizes[phenotype]
        return self.decoder.weight[first:last], self.decoder.bias[first:last]

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor,
        n_keys: Tensor,
        n_queries: Tensor,
        gene_at: Tensor,
        label_at: Tensor,
        label_phenotype: Tensor,
    ) -> PolyGeneOutput:
        """Answer the questions of packed cells.

        Parameters
        ----------
        input_ids, position_ids, token_type_ids, n_keys, n_queries
            The fields of `PackedCells`.
        gene_at
            (Q,): places in the row of the asked genes.
        label_at, label_phenotype
            Places in the row of the asked phenotypes, and which phenotype (0 … P-1) each of them is.
        """
        read_at_Q, order_Q = torch.cat([gene_at, label_at]).sort()
        hidden_QD = self.encode(input_ids, position_ids, token_type_ids, n_keys, n_queries, read_at_Q)[
            order_Q.argsort()
        ]
        of_genes_QD, of_labels_QD = hidden_QD.split([len(gene_at), len(label_at)])
        genes_Q = position_ids[0, gene_at] - self.config.first_gene_slot
        cells = CellOffsets(n_keys, n_queries)
        label_logits = self.answer_labels(of_labels_QD, input_ids, position_ids, cells, label_at, label_phenotype)
        return PolyGeneOutput(gene_logits=self.decode_genes(of_genes_QD, genes_Q), label_logits=label_logits)
