"""Pictures, drawn with matplotlib without touching its global state."""

from polygene.pl.counterfactual import counterfactual
from polygene.pl.umap import umap

__all__ = ["counterfactual", "umap"]
