"""Tools: what a model says about the cells of an AnnData, written into it."""

from polygene.tl.annotate import annotate
from polygene.tl.balance import balance
from polygene.tl.classify import classify
from polygene.tl.denoise import denoise
from polygene.tl.embed import embed
from polygene.tl.generate import generate
from polygene.tl.impute import impute

__all__ = ["annotate", "balance", "classify", "denoise", "embed", "generate", "impute"]
