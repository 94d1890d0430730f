"""Tools: what a model says about the cells of an AnnData, written into it."""

from polygene.tl.annotate import annotate
from polygene.tl.balance import balance
from polygene.tl.classify import classify
from polygene.tl.counterfactual import counterfactual
from polygene.tl.embed import embed
from polygene.tl.generate import generate

__all__ = ["annotate", "balance", "classify", "counterfactual", "embed", "generate"]
