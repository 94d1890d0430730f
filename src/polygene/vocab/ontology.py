"""The ontologies: what labels are called in them, what stands above them, and which term a prediction is sure of.

The tables ship with PolyGene; their heads give the day, and recipes/vocab/ontologies.py makes them again.
Legend: C cells, V labels of a model, N terms: those labels and everything above them.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
import pandas as pd

from polygene.errors import check_number
from polygene.vocab.columns import shipped_table, some

Relation = Literal["same", "finer", "broader", "other"]
logger = logging.getLogger("polygene")
TABLES = {"cell_type": ("CL", "cell_types"), "tissue": ("UBERON", "tissues"), "disease": ("MONDO", "diseases")}
"""By phenotype the prefix of its ids and the table."""
SURE = 0.9  # the probability from which a prediction counts as sure, unless another is given
ROUNDING = 1e-5  # probabilities add up to one within this


@dataclass(frozen=True, kw_only=True)
class Ontology:
    """Its terms: `names` by id, the ids `above` an id with its own, `ids` by name or synonym in lower case."""

    names: Mapping[str, str]
    above: Mapping[str, frozenset[str]]
    ids: Mapping[str, str]

    def find(self, label: str) -> str | None:
        """Give the id of a name, a synonym or an id; None where there is none."""
        return label if label in self.names else self.ids.get(label.strip().lower())

    def compare(self, predicted: str, truth: str) -> Relation:
        """Compare a predicted label with the true one; a label that is not in the ontology is only itself."""
        a, b = self.find(predicted) or predicted, self.find(truth) or truth
        if a == b:
            return "same"
        if b in self.above.get(a, ()):
            return "finer"
        return "broader" if a in self.above.get(b, ()) else "other"

    @cached_property
    def information(self) -> dict[str, float]:
        """How specific an id is, from 0 (the root) to 1 (nothing below it): Seco et al. 2004, ECAI, 1089."""
        n_below = Counter(term for terms in self.above.values() for term in terms)
        specific_N = 1 - np.log(list(n_below.values())) / np.log(max(n_below.values()))
        return dict(zip(n_below, specific_N.tolist(), strict=True))


@cache
def ontology_of(phenotype: str) -> Ontology:
    """Read the table of a phenotype in `TABLES`, once."""
    prefix, table = TABLES[phenotype]

    def id_of(number: str) -> str:
        # A term of another ontology, such as PATO's "normal", stands with its whole id.
        return number if ":" in number else f"{prefix}:{number:0>7}"

    names, parents, ids = dict[str, str](), dict[str, list[str]](), dict[str, str]()
    for number, name, over, others in shipped_table(table):
        term = id_of(number)
        names[term], parents[term] = name, [id_of(one) for one in over.split("|") if one]
        ids |= {one.lower(): term for one in (name, *others.split("|")) if one}
    above = dict[str, frozenset[str]]()

    def all_above(term: str) -> frozenset[str]:
        if term not in above:
            above[term] = frozenset({term}).union(*map(all_above, parents[term]))
        return above[term]

    for term in parents:
        all_above(term)
    return Ontology(names=names, above=above, ids=ids)


def at_or_below(phenotype: str, labels: Sequence[str]) -> np.ndarray | None:
    """Tell which labels (columns) are at or below which (rows) in the ontology of a phenotype, bool (V, V).

    A label that is no term stands for itself; two names of one term are at or below each other. None where no label
    is above another.

    >>> at_or_below("cell_type", ["T cell", "CD4-positive, alpha-beta T cell", "my cluster"]).astype(int).tolist()
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    return _table(phenotype, tuple(labels)) if phenotype in TABLES and labels else None


@cache
def _table(phenotype: str, labels: tuple[str, ...]) -> np.ndarray | None:
    tree = LabelTree(labels, phenotype)
    table_VV: np.ndarray = tree.under_NV[tree.of_label_V]
    table_VV.setflags(write=False)
    if table_VV.sum() == len(labels):
        return None
    if tree.unknown:
        n_unknown, n_labels, few = len(tree.unknown), len(labels), some(map(repr, tree.unknown), 3)
        logger.info("%s: %d of %d labels stand for themselves, in no ontology: %s", phenotype, n_unknown, n_labels, few)
    return table_VV


def table_of(at_or_below_VV: np.ndarray | None, n_labels: int) -> np.ndarray:
    """Give which labels are at or below which, bool (V, V); without a tree each is alone."""
    return np.eye(n_labels, dtype=bool) if at_or_below_VV is None else at_or_below_VV


def reported_labels(probabilities_CV: np.ndarray, at_or_below_VV: np.ndarray | None) -> np.ndarray:
    """Choose the label to report for each cell, (C,) of places in V.

    Without a tree it is the most probable one. In a tree a coarse label must not lose to a sibling because its own
    probability is shared out among finer labels: from the top, the branch with the most probability is followed for as
    long as a finer label, with all below it, has more than the coarse label has for itself.
    """
    if at_or_below_VV is None:
        return probabilities_CV.argmax(axis=1)
    finer_VV = at_or_below_VV & ~at_or_below_VV.T  # of two names of one term neither is finer
    skips_VV = finer_VV.astype(np.float32) @ finer_VV.astype(np.float32) > 0  # whole numbers would be multiplied slowly
    next_VV = finer_VV & ~skips_VV
    summed_CV, rows_C = probabilities_CV @ at_or_below_VV.T.astype(np.float32), np.arange(len(probabilities_CV))
    label_C = np.where(finer_VV.any(axis=0), -1.0, summed_CV).argmax(axis=1)
    while True:
        below_CV = np.where(next_VV[label_C], summed_CV, -1.0)
        goes_C = below_CV.max(axis=1) > probabilities_CV[rows_C, label_C]
        if not goes_C.any():
            return label_C
        label_C = np.where(goes_C, below_CV.argmax(axis=1), label_C)


class LabelTree:
    """Labels of a model and the terms above them, specific ones first; a label that is no term stands for itself."""

    def __init__(self, labels: Sequence[str], phenotype: str = "cell_type") -> None:
        terms_of = ontology_of(phenotype)
        found = [terms_of.find(label) for label in labels]
        self.unknown = tuple(label for label, term in zip(labels, found, strict=True) if term is None)
        above = [{label} if term is None else terms_of.above[term] for label, term in zip(labels, found, strict=True)]
        information = {term: terms_of.information.get(term, 1.0) for terms in above for term in terms}
        terms = sorted(information, key=lambda term: (-information[term], term))
        # A label that stands for itself has no id, and all the information there is.
        self.ids_N = np.array([term if term in terms_of.names else "" for term in terms], dtype=object)
        self.names_N = np.array([terms_of.names.get(term, term) for term in terms], dtype=object)
        self.information_N = np.array([information[term] for term in terms])
        self.under_NV = np.stack([np.array([term in above_V for term in terms]) for above_V in above], axis=1)
        place = {term: n for n, term in enumerate(terms)}
        self.of_label_V = np.array([place[term or label] for label, term in zip(labels, found, strict=True)])

    def back_off(self, probabilities_CV: np.ndarray, level: float = SURE) -> tuple[np.ndarray, np.ndarray]:
        """Predict for each cell the most specific term that is sure: (term_C, -1 where none is; probability_C).

        A term is as probable as the labels at and below it together.
        """
        check_level(level)  # above a half, so that of two terms that are sure both hold a common label
        probabilities_CN = probabilities_CV.astype(np.float64) @ self.under_NV.T
        sure_CN = probabilities_CN >= level - ROUNDING
        term_C = np.where(sure_CN.any(axis=1), sure_CN.argmax(axis=1), -1)
        probability_C = probabilities_CN[np.arange(len(term_C)), term_C]
        return term_C, np.where(term_C < 0, np.nan, np.minimum(probability_C, 1)).astype(np.float32)

    def scores(
        self,
        p_CV: np.ndarray,
        truth_C: np.ndarray,
        donors_C: np.ndarray | None,
        level: float = SURE,
        at_or_below_VV: np.ndarray | None = None,
    ) -> dict[str, dict[str, float]]:
        """Score predictions that are sure at a level beside the reported labels, by the ontology; means over donors.

        By kind: `at_label` (share of the cells predicted as a label of the model), `correct` (the true label is the
        prediction or below it), `finer` (it is below the true label, which cannot say whether it is right), `wrong`
        (any other), `information` (0 without a prediction).
        """
        given_C = truth_C >= 0
        p_CV, truth_C = p_CV[given_C], truth_C[given_C]
        donor_C = np.arange(len(truth_C)) if donors_C is None else np.unique(donors_C[given_C], return_inverse=True)[1]
        found = {}
        reported_C = self.of_label_V[reported_labels(p_CV, at_or_below_VV)]
        for name, term_C in (("backed_off", self.back_off(p_CV, level)[0]), ("label", reported_C)):
            sure_C = term_C >= 0
            under_CV, below_truth_CV = self.under_NV[term_C], self.under_NV[self.of_label_V[truth_C]]
            correct_C = sure_C & under_CV[np.arange(len(truth_C)), truth_C]
            finer_C = sure_C & ~correct_C & ~(under_CV & ~below_truth_CV).any(axis=1)
            columns = {
                "at_label": sure_C & np.isin(term_C, self.of_label_V),
                "correct": correct_C,
                "finer": finer_C,
                "wrong": sure_C & ~correct_C & ~finer_C,
                "information": np.where(sure_C, self.information_N[term_C], 0.0),
            }
            by_donor = pd.DataFrame(columns).astype(float).groupby(donor_C).mean()
            found[name] = {key: float(value) for key, value in by_donor.mean().items()}
        return found


def check_level(level: float) -> None:
    """Refuse a level at which two predictions that exclude each other could both be sure."""
    what = f"the probability until which a prediction is backed off, above 0.5 and at most 1, as {SURE}"
    check_number("the level", level, math.nextafter(0.5, 1), 1, what=what)
