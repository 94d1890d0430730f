"""Tools: what a model says about the cells of an AnnData, written into it."""

from polygene.tl.annotate import annotate
from polygene.tl.classify import classify
from polygene.tl.denoise import denoise
from polygene.tl.embed import embed
from polygene.tl.impute import impute

__all__ = ["annotate", "classify", "denoise", "embed", "impute"]
