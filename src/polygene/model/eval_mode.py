"""Predictions are made in eval mode, whatever mode the network was left in."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from polygene.model.checkpoint import PolyGene

Function = TypeVar("Function", bound=Callable[..., Any])


def predicts(function: Function) -> Function:
    """Run a function of a model without gradients and dropout, on a CPU in float32; each module gets its mode back."""

    @wraps(function)
    def run(model: PolyGene, *args: Any, **kwargs: Any) -> Any:
        in_training = [module for module in model.network.modules() if module.training]
        model.network.eval()
        try:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):  # which threads would not hear of
                return function(model, *args, **kwargs)
        finally:
            for module in in_training:
                module.training = True

    return cast("Function", run)
