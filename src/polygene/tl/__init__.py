"""Tools: predictions of a model about the cells of an AnnData or a file."""

from typing import TYPE_CHECKING

from polygene.runtime import extras

if TYPE_CHECKING:
    from polygene.tl._annotate import annotate
    from polygene.tl._balance import balance
    from polygene.tl._counterfactual import counterfactual
    from polygene.tl._denoise import denoise
    from polygene.tl._embed import embed
    from polygene.tl._finetune import finetune
    from polygene.tl._generate import generate
    from polygene.tl._perturb import perturb

__all__ = [
    "annotate",
    "balance",
    "counterfactual",
    "denoise",
    "embed",
    "finetune",
    "generate",
    "perturb",
]

_MODULE_OF = {
    "annotate": "polygene.tl._annotate",
    "balance": "polygene.tl._balance",
    "counterfactual": "polygene.tl._counterfactual",
    "denoise": "polygene.tl._denoise",
    "embed": "polygene.tl._embed",
    "finetune": "polygene.tl._finetune",
    "generate": "polygene.tl._generate",
    "perturb": "polygene.tl._perturb",
}

__getattr__ = extras.lazy(_MODULE_OF, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
