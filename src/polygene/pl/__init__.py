"""Pictures, drawn with matplotlib without touching its global state."""

from polygene.pl.age import age
from polygene.pl.perturbation import perturbation
from polygene.pl.umap import umap

__all__ = ["age", "perturbation", "umap"]
