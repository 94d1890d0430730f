"""Pictures, drawn with matplotlib without touching its global state."""

from polygene.pl._confusion import confusion
from polygene.pl._counterfactual import counterfactual
from polygene.pl._forest import forest
from polygene.pl._perturbation import perturbation
from polygene.pl._reliability import reliability
from polygene.pl._umap import umap

__all__ = [
    "confusion",
    "counterfactual",
    "forest",
    "perturbation",
    "reliability",
    "umap",
]
