"""Tools: what a model says about the cells of an AnnData, written into it."""

from polygene.tl.age_gap import age_gap
from polygene.tl.annotate import annotate
from polygene.tl.balance import balance
from polygene.tl.classify import classify
from polygene.tl.counterfactual import counterfactual
from polygene.tl.denoise import denoise
from polygene.tl.embed import embed
from polygene.tl.finetune import finetune
from polygene.tl.generate import generate
from polygene.tl.impute import impute
from polygene.tl.perturb import perturb

__all__ = [
    "age_gap",
    "annotate",
    "balance",
    "classify",
    "counterfactual",
    "denoise",
    "embed",
    "finetune",
    "generate",
    "impute",
    "perturb",
]
