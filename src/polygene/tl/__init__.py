"""Tools: what a model says about the cells of an AnnData, written into it."""

from polygene.tl.annotate import annotate
from polygene.tl.classify import classify
from polygene.tl.embed import embed
from polygene.tl.perturb import perturb

__all__ = ["annotate", "classify", "embed", "perturb"]
