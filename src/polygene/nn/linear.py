"""Linear layers in float32 by oneDNN, where torch has it.

torch gives products in float32 to MKL, which uses less than half of an AMD processor: 100 GFLOP/s a core, where oneDNN
reaches 230 (docs/decisions.md). Legend: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BY_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x_TI: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer, (T, O)."""
    if _by_onednn(x_TI):
        return _Linear.apply(x_TI, layer.weight, layer.bias)
    return functional.linear(x_TI, layer.weight, layer.bias)


def linear_gelu(x_TI: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer and GELU in one pass over memory, (T, O); without gradients."""
    if _by_onednn(x_TI):
        return product(x_TI, layer.weight, layer.bias, "gelu")
    return functional.gelu(functional.linear(x_TI, layer.weight, layer.bias))


def product(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, then: str = "none") -> Tensor:
    """Multiply, add, and apply "gelu" or nothing, (T, O); float32 on a processor, without gradients."""
    if not BY_ONEDNN:
        return functional.linear(x_TI, weight_OI, bias_O)
    product_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, then, [], "none")
    return product_TO


def _by_onednn(x_TI: Tensor) -> bool:
    wide = x_TI.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return BY_ONEDNN and wide and x_TI.is_cpu and len(x_TI) > 0


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        return product(x_TI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (y_TO,), (x_TI, weight_OI) = gradients, ctx.saved_tensors
        return product(y_TO, weight_OI.T, None), product(y_TO.T, x_TI.T, None), y_TO.sum(0)
