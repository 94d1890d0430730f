"""Tools: predictions of a model about the cells of an AnnData or a file.

What can be wrong in cells, labels, genes or numbers raises an error of `pg.errors`, whose message says what to do.
"""

from typing import TYPE_CHECKING

from polygene.runtime import extras

if TYPE_CHECKING:
    from polygene.tl._ageing_topology import ageing_topology
    from polygene.tl._annotate import annotate
    from polygene.tl._balance import balance
    from polygene.tl._biomarkers import biomarkers
    from polygene.tl._counterfactual import counterfactual
    from polygene.tl._denoise import denoise
    from polygene.tl._embed import embed
    from polygene.tl._finetune import finetune
    from polygene.tl._gene_network import gene_network
    from polygene.tl._generate import generate
    from polygene.tl._manifold_scores import manifold_scores
    from polygene.tl._network_statistics import network_statistics
    from polygene.tl._perturb import perturb
    from polygene.tl._phenotype_distances import phenotype_distances
    from polygene.tl._polyfunctionality import polyfunctionality
    from polygene.tl._similarity import similarity
    from polygene.tl._vote import vote

__all__ = [
    "ageing_topology",
    "annotate",
    "balance",
    "biomarkers",
    "counterfactual",
    "denoise",
    "embed",
    "finetune",
    "gene_network",
    "generate",
    "manifold_scores",
    "network_statistics",
    "perturb",
    "phenotype_distances",
    "polyfunctionality",
    "similarity",
    "vote",
]

__getattr__ = extras.lazy({name: f"polygene.tl._{name}" for name in __all__}, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
