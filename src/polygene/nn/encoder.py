"""BERT's encoder on packed rows: the weights, their names and the arithmetic of Hugging Face's BertModel.

Legend: T packed tokens and what fills up their row, R those that are read, D width, I inputs, H heads, E their width.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad
from torch.utils.checkpoint import checkpoint

from polygene.nn.attention import CellOffsets, few_attention, packed_attention
from polygene.nn.config import PolyGeneConfig
from polygene.nn.linear import linear, linear_gelu


class First(NamedTuple):
    """Tokens and what a layer projects them to before it attends, (T, D) each; queries of those that attend alone."""

    x_TD: Tensor
    q_TD: Tensor
    k_TD: Tensor
    v_TD: Tensor


class Encoder(nn.Module):
    """BERT's embeddings and layers; a state dict of BertModel without pooler fits, and the other way round.

    Rows are filled up to a multiple of `FULL` tokens: oneDNN makes a program for each shape that it meets, which takes
    time and memory.
    """

    FULL = 256

    def __init__(self, config: PolyGeneConfig) -> None:
        super().__init__()
        if config.hidden_act != "gelu":
            msg = f"the activation is gelu; got hidden_act = {config.hidden_act!r}"
            raise ValueError(msg)
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, width),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, width),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, eps=config.layer_norm_eps),
            }
        )
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.dropout = config.hidden_dropout_prob
        self.gradient_checkpointing = False

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last."""
        return [cast("Layer", layer) for layer in cast("nn.ModuleList", self.encoder["layer"])]

    def embed(self, words_TD: Tensor, slots_T: Tensor, types_T: Tensor) -> Tensor:
        """Embed tokens by word, type and slot: what the first layer reads, (T, D)."""
        x_TD = words_TD + self.embeddings["token_type_embeddings"](types_T)
        return cast("Tensor", self.embeddings["LayerNorm"](x_TD + self.embeddings["position_embeddings"](slots_T)))

    def run(
        self,
        x_TD: Tensor,
        cells: CellOffsets,
        reading: CellOffsets | None = None,
        *,
        before_last: bool = False,
        first: First | None = None,
    ) -> Tensor:
        """Run embedded tokens through the layers; `first` saves the projections of the first of several.

        States after the last layer of the tokens that attend in `reading`, (R, D), or of all; or those before it.
        """
        n_tokens = len(x_TD)
        x_TD = filled(x_TD, self.FULL)
        if self.training and self.dropout:
            x_TD = x_TD * kept(x_TD, self.dropout)
        *layers, last = self.layers
        for layer in layers:
            x_TD, first = self._through(layer, x_TD, cells, first), None
        if before_last:
            return x_TD[:n_tokens]
        if reading is None or reading.attending_at_A is None:
            return self._through(last, x_TD, cells)[:n_tokens]
        return self._through(last, x_TD, reading)[: len(reading.attending_at_A)]

    def _through(self, layer: Layer, x_TD: Tensor, cells: CellOffsets, first: First | None = None) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return cast("Tensor", checkpoint(layer, x_TD, cells, use_reentrant=False))
        return cast("Tensor", layer(x_TD, cells, first))


class Layer(nn.Module):
    """A layer of BERT: keys and values of all tokens, the rest only of the tokens that attend."""

    def __init__(self, config: PolyGeneConfig) -> None:
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        projections = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": projections, "output": _into_residual(width, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, wide)})
        self.output = _into_residual(wide, config)
        self.n_heads = config.num_attention_heads
        self.dropout, self.attention_dropout = config.hidden_dropout_prob, config.attention_probs_dropout_prob

    def projected(self, x_TD: Tensor, read_RD: Tensor) -> First:
        """Project the tokens, and of those that attend the queries, (R, D)."""
        part: Any = self.attention["self"]
        return First(x_TD, linear(read_RD, part["query"]), linear(x_TD, part["key"]), linear(x_TD, part["value"]))

    def forward(self, x_TD: Tensor, cells: CellOffsets, first: First | None = None) -> Tensor:
        """States of the tokens that attend, and of what fills up their row, (R, D)."""
        part: Any = self.attention["self"]
        read_RD = x_TD
        if cells.attending_at_A is not None:
            read_RD = filled(x_TD.index_select(0, cells.attending_at_A), Encoder.FULL)
        if cells.few and not torch.is_grad_enabled():
            q_RHE = linear(read_RD, part["query"]).unflatten(1, (self.n_heads, -1))
            o_RD = few_attention(q_RHE, x_TD, part["key"], part["value"], cells)
        else:
            _, *projected = first or self.projected(x_TD, read_RD)
            q, k, v = (x.unflatten(1, (self.n_heads, -1)).transpose(0, 1)[None] for x in projected)
            rate = self.attention_dropout if self.training else 0.0
            o_RD = packed_attention(q, k, v, cells, dropout=rate)[0].flatten(1)
        x_RD = self._add(self.attention["output"], o_RD, read_RD)
        dense: Any = self.intermediate["dense"]
        wide = linear_gelu(x_RD, dense) if not torch.is_grad_enabled() else gelu(linear(x_RD, dense))
        return self._add(self.output, wide, x_RD)

    def _add(self, part: Any, y_RI: Tensor, x_RD: Tensor) -> Tensor:
        y_RD = linear(y_RI, part["dense"])
        if self.training and self.dropout:
            x_RD = torch.addcmul(x_RD, y_RD, kept(y_RD, self.dropout))
        else:  # in place where nothing else needs it: fresh memory takes longer than the sum
            x_RD = x_RD + y_RD if torch.is_grad_enabled() or y_RD.dtype != x_RD.dtype else y_RD.add_(x_RD)
        return cast("Tensor", part["LayerNorm"](x_RD))


def _into_residual(n_in: int, config: PolyGeneConfig) -> nn.ModuleDict:
    width = config.hidden_size
    norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
    return nn.ModuleDict({"dense": nn.Linear(n_in, width), "LayerNorm": norm})


def filled(x_TD: Tensor, multiple: int) -> Tensor:
    """Fill up with rows of zeros to a multiple."""
    lacking = -len(x_TD) % multiple
    return pad(x_TD, (0, 0, 0, lacking)) if lacking else x_TD


def kept(like_TD: Tensor, rate: float) -> Tensor:
    """Draw what dropout multiplies by: 0 at a share `rate` of the places, and what keeps the mean at the others.

    Four places share a random number of 64 bits: `bernoulli_` takes a number each, on one core, a tenth of a step.
    """
    levels, shape = 1 << 16, like_TD.shape
    dropped = round(rate * levels)
    bits = torch.empty(-(-shape.numel() // 4), dtype=torch.int64, device=like_TD.device).random_(-(1 << 63), None)
    keep_TD = bits.view(torch.int16)[: shape.numel()].view(shape) >= dropped - levels // 2
    return keep_TD.to(like_TD.dtype).mul_(levels / (levels - dropped))
