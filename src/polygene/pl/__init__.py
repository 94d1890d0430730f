"""Pictures, drawn with matplotlib without touching its global state."""

from polygene.pl.age import age
from polygene.pl.confusion import confusion
from polygene.pl.counterfactual import counterfactual
from polygene.pl.forest import forest
from polygene.pl.generated import generated
from polygene.pl.perturbation import perturbation
from polygene.pl.reliability import reliability
from polygene.pl.risk_coverage import risk_coverage
from polygene.pl.umap import umap

__all__ = [
    "age",
    "confusion",
    "counterfactual",
    "forest",
    "generated",
    "perturbation",
    "reliability",
    "risk_coverage",
    "umap",
]
