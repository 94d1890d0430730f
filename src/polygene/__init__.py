"""PolyGene: a masked language model over single cells.

The public names are loaded when they are first used, so that `import polygene` and `polygene --help` stay fast:
neither imports torch, pandas or anndata.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polygene import pl, tl
    from polygene.binning import ExpressionBinner
    from polygene.checkpoint import PolyGene
    from polygene.genes import GenePanel
    from polygene.phenotypes import PhenotypeSchema
    from polygene.recipe import Recipe
    from polygene.tokenizer import CellTokenizer

__version__ = "0.1.0"

__all__ = [
    "CellTokenizer",
    "ExpressionBinner",
    "GenePanel",
    "PhenotypeSchema",
    "PolyGene",
    "Recipe",
    "__version__",
    "pl",
    "tl",
]

_MODULE_OF = {
    "CellTokenizer": "polygene.tokenizer",
    "ExpressionBinner": "polygene.binning",
    "GenePanel": "polygene.genes",
    "PhenotypeSchema": "polygene.phenotypes",
    "PolyGene": "polygene.checkpoint",
    "Recipe": "polygene.recipe",
}
_SUBPACKAGES = frozenset({"pl", "tl"})


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return import_module(f"polygene.{name}")
    if name in _MODULE_OF:
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    msg = f"module 'polygene' has no attribute {name!r}; its public names are {', '.join(__all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
