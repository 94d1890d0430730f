"""Pictures, drawn with matplotlib without touching its global state."""

from polygene.pl.confusion import confusion
from polygene.pl.umap import umap

__all__ = ["confusion", "umap"]
