"""The network: BERT on packed rows, a linear branch, and one linear decoder read in slot groups.

Legend: C cells, T packed tokens, R those that are read, Q queries, H heads, E width of a head, D width, G genes,
B logits of a gene (bins; 1 if binary), V labels of one phenotype, P phenotypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from polygene.nn.attention import CellOffsets
from polygene.nn.config import PolyGeneConfig
from polygene.nn.encoder import Encoder
from polygene.nn.known import KnownTokens
from polygene.nn.linear_branch import LinearBranch, UnmeasuredGenes

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class PolyGeneOutput(NamedTuple):
    """The logits of the gene queries, (Q, B) or (Q, 1) if binary, and of the queries for each phenotype, (Q_p, V_p)."""

    gene_logits: Tensor
    label_logits: tuple[Tensor, ...]


class PolyGeneModel(nn.Module):
    """BERT on packed cells with a decoder whose softmax never leaves a slot's own group: bins, or own labels."""

    _no_split_modules = ("Layer",)  # for FSDP
    name_or_path = ""
    """The checkpoint that the weights are of."""

    def __init__(self, config: PolyGeneConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Encoder(config)
        n_logits = config.gene_logits + sum(config.phenotype_sizes)
        self.decoder = nn.Linear(config.hidden_size, n_logits)
        self.gene_bias = nn.Embedding(config.n_genes, config.gene_logits)
        self.linear_branch = LinearBranch(config)
        self.unmeasured = UnmeasuredGenes(config) if config.unmeasured_vectors else None
        self.apply(self._start)
        nn.init.zeros_(self.gene_bias.weight)
        nn.init.zeros_(self.linear_branch.genes.weight)

    def _start(self, module: nn.Module) -> None:
        """Draw the first weights of a layer as BERT does."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write config.json and model.safetensors, from which transformers' BertModel can load its part."""
        weights = {name: (x.half() if half else x).contiguous() for name, x in self.state_dict().items()}
        save_file(weights, Path(folder) / WEIGHTS, metadata={"format": "pt"})
        (Path(folder) / CONFIG).write_text(self.config.to_json_string(), encoding="utf-8")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.weight.device

    @torch.no_grad()
    def start_from_frequencies(self, bins_GB: Tensor, labels: Sequence[Tensor]) -> None:
        """Set the biases to the logs of the training frequencies, so that learning starts at the marginals.

        `bins_GB` counts the bins of each gene, and P tensors (V_p,) the labels of each phenotype, over training cells.
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
        unmeasured: Tensor | None = None,
        read_at: Tensor | None = None,
        *,
        before_last: bool = False,
        few: bool = False,
        known: KnownTokens | None = None,
    ) -> Tensor:
        """Give the last hidden states of packed cells (the fields of `PackedCells`), (R, D).

        `read_at` are the places in the row, ascending, whose states are wanted: the last layer leaves out the others.
        `few` says that they are a few of each cell; that and `known` save work, without gradients.
        With `before_last`, the states of all tokens before the last layer, (T, D): no prediction depends on what a key
        becomes in the last layer, so training shapes these states of keys.
        """
        cells = CellOffsets(n_keys, n_queries)
        reading = None if read_at is None else CellOffsets(n_keys, n_queries, read_at, few)
        words_TD, slots_T, types_T = self.words(input_ids[0], cells, unmeasured), position_ids[0], token_type_ids[0]
        if known is None:
            x_TD = self.bert.embed(words_TD, slots_T, types_T)
            return self.bert.run(x_TD, cells, reading, before_last=before_last)
        first = known.look_up(self.bert, input_ids[0], words_TD, slots_T, types_T)
        return self.bert.run(first.x_TD, cells, reading, before_last=before_last, first=first)

    def words(self, ids_T: Tensor, cells: CellOffsets, unmeasured: Tensor | None) -> Tensor:
        """Embed the tokens of a row, with the sum over a cell's unmeasured genes added to its [START], (T, D)."""
        x_TD: Tensor = self.bert.embeddings["word_embeddings"](ids_T)
        if self.unmeasured is None or unmeasured is None:
            return x_TD
        start_at_C = cells.starts_C + self.config.first_gene_slot - 1
        sums_CD = self.unmeasured(unmeasured).expand(len(start_at_C), -1)
        return x_TD.index_add(0, start_at_C, sums_CD.to(x_TD.dtype))

    def decode_genes(self, hidden_QD: Tensor, genes_Q: Tensor) -> Tensor:
        """Logits of the bins of the queried genes, (Q, B)."""
        n = self.config.gene_logits
        logits_QB = nn.functional.linear(hidden_QD, self.decoder.weight[:n], self.decoder.bias[:n])
        return logits_QB + self.gene_bias(genes_Q)

    def label_states(
        self,
        hidden_QD: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        cells: CellOffsets,
        label_at: Tensor,
        unmeasured: Tensor | None = None,
    ) -> Tensor:
        """Add the linear branch to the states of phenotype queries: labels are decoded from that.

        (Q, D), with `label_regression` (Q, D + all labels): behind the state stand the logits of the regression.
        """
        sums_QX = self.linear_branch(input_ids, position_ids, cells, label_at, unmeasured)
        return nn.functional.pad(hidden_QD, (0, sums_QX.shape[1] - hidden_QD.shape[1])) + sums_QX

    def decode_labels(self, state_QX: Tensor, phenotype: int) -> Tensor:
        """Logits of the labels of one phenotype from what `label_states` gives, (Q, V).

        With `label_regression` they are the means of those of the network and of the regression.
        """
        weight_VD, bias_V = self.label_rows(phenotype)
        logits_QV = nn.functional.linear(state_QX[:, : self.config.hidden_size], weight_VD, bias_V)
        if not self.config.label_regression:
            return logits_QV
        return (logits_QV + state_QX[:, self.regression_columns(phenotype)]) / 2

    def regression_columns(self, phenotype: int) -> slice:
        """Where a gene's vector in the linear branch, and what `label_states` gives, hold one phenotype's labels."""
        first = self.config.hidden_size + sum(self.config.phenotype_sizes[:phenotype])
        return slice(first, first + self.config.phenotype_sizes[phenotype])

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
        unmeasured: Tensor | None = None,
    ) -> PolyGeneOutput:
        """Predict at the queries of packed cells (the fields of `PackedCells`).

        `gene_at` and `label_at` are the places in the row of the gene and the phenotype queries, (Q,) each, and
        `label_phenotype` says which phenotype (0 … P-1) each of the latter is for.
        """
        read_at_Q, order_Q = torch.cat([gene_at, label_at]).sort()
        row = (input_ids, position_ids, token_type_ids, n_keys, n_queries)
        hidden_QD = self.encode(*row, unmeasured, read_at_Q)[order_Q.argsort()]
        of_genes_QD, of_labels_QD = hidden_QD.split([len(gene_at), len(label_at)])
        genes_Q = position_ids[0, gene_at] - self.config.first_gene_slot
        cells = CellOffsets(n_keys, n_queries)
        places = (cells, label_at, unmeasured)
        state_QD = self.label_states(of_labels_QD, input_ids, position_ids, *places)
        phenotypes = range(len(self.config.phenotype_sizes))
        label_logits = tuple(self.decode_labels(state_QD[label_phenotype == p], p) for p in phenotypes)
        return PolyGeneOutput(gene_logits=self.decode_genes(of_genes_QD, genes_Q), label_logits=label_logits)
