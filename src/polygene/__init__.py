"""PolyGene: a masked language model over single cells.

The public names are loaded when they are first used, so that `import polygene` and `polygene --help` stay fast:
neither imports torch, pandas or anndata.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polygene import errors, pl, pp, tl
    from polygene.corpus.corpus import Corpus
    from polygene.corpus.parts import join, prepare_part
    from polygene.corpus.prepare import prepare
    from polygene.evaluation.evaluate import evaluate
    from polygene.io import datasets
    from polygene.model.checkpoint import PolyGene
    from polygene.model.recipe import Recipe
    from polygene.training.train import train
    from polygene.vocab.binning import ExpressionBinner
    from polygene.vocab.panel import GenePanel
    from polygene.vocab.phenotypes import PhenotypeSchema
    from polygene.vocab.tokenizer import CellTokenizer

from polygene._version import __version__
from polygene.runtime import extras

__all__ = [
    "CellTokenizer",
    "Corpus",
    "ExpressionBinner",
    "GenePanel",
    "PhenotypeSchema",
    "PolyGene",
    "Recipe",
    "__version__",
    "datasets",
    "errors",
    "evaluate",
    "join",
    "pl",
    "pp",
    "prepare",
    "prepare_part",
    "tl",
    "train",
]

_MODULE_OF = {
    "CellTokenizer": "polygene.vocab.tokenizer",
    "Corpus": "polygene.corpus.corpus",
    "ExpressionBinner": "polygene.vocab.binning",
    "GenePanel": "polygene.vocab.panel",
    "PhenotypeSchema": "polygene.vocab.phenotypes",
    "PolyGene": "polygene.model.checkpoint",
    "Recipe": "polygene.model.recipe",
    "evaluate": "polygene.evaluation.evaluate",
    "join": "polygene.corpus.parts",
    "prepare": "polygene.corpus.prepare",
    "prepare_part": "polygene.corpus.parts",
    "train": "polygene.training.train",
}
_MODULES = {
    "datasets": "polygene.io.datasets",
    "errors": "polygene.errors",
    "pl": "polygene.pl",
    "pp": "polygene.pp",
    "tl": "polygene.tl",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name in _MODULES:
        return extras.load(_MODULES[name])
    if name in _MODULE_OF:
        value = getattr(extras.load(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    msg = f"module 'polygene' has no attribute {name!r}; its public names are {', '.join(__all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
