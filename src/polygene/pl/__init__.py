"""Pictures, drawn with matplotlib without touching its global state."""

from typing import TYPE_CHECKING

from polygene.runtime import extras

if TYPE_CHECKING:
    from polygene.pl._ageing import ageing
    from polygene.pl._biomarkers import biomarkers
    from polygene.pl._confusion import confusion
    from polygene.pl._counterfactual import counterfactual
    from polygene.pl._dotplot import dotplot
    from polygene.pl._forest import forest
    from polygene.pl._manifold import manifold
    from polygene.pl._network import degree_distribution, network
    from polygene.pl._perturbation import perturbation
    from polygene.pl._polyfunctionality import polyfunctionality
    from polygene.pl._reliability import reliability
    from polygene.pl._umap import umap
    from polygene.pl._vote import vote

__all__ = [
    "ageing", "biomarkers", "confusion", "counterfactual", "degree_distribution", "dotplot", "forest", "manifold",
    "network", "perturbation", "polyfunctionality", "reliability", "umap", "vote",
]  # fmt: skip

__getattr__ = extras.lazy(
    {name: f"polygene.pl._{name}" for name in __all__} | {"degree_distribution": "polygene.pl._network"}, __name__
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
