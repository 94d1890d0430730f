"""Tools: predictions of a model about the cells of an AnnData or a file."""

from polygene.tl._annotate import annotate
from polygene.tl._balance import balance
from polygene.tl._counterfactual import counterfactual
from polygene.tl._denoise import denoise
from polygene.tl._embed import embed
from polygene.tl._finetune import finetune
from polygene.tl._generate import generate
from polygene.tl._perturb import perturb

__all__ = ["annotate", "balance", "counterfactual", "denoise", "embed", "finetune", "generate", "perturb"]
