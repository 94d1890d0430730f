"""Pictures, drawn with matplotlib without touching its global state."""

from typing import TYPE_CHECKING

from polygene.runtime import extras

if TYPE_CHECKING:
    from polygene.pl._confusion import confusion
    from polygene.pl._counterfactual import counterfactual
    from polygene.pl._forest import forest
    from polygene.pl._perturbation import perturbation
    from polygene.pl._reliability import reliability
    from polygene.pl._umap import umap

__all__ = [
    "confusion",
    "counterfactual",
    "forest",
    "perturbation",
    "reliability",
    "umap",
]

_MODULE_OF = {
    "confusion": "polygene.pl._confusion",
    "counterfactual": "polygene.pl._counterfactual",
    "forest": "polygene.pl._forest",
    "perturbation": "polygene.pl._perturbation",
    "reliability": "polygene.pl._reliability",
    "umap": "polygene.pl._umap",
}

__getattr__ = extras.lazy(_MODULE_OF, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
