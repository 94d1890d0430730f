"""Which label of a model a text means: by name, by age in years, by the ontology; and a hint where it means none."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from polygene.vocab.ages import age_in_years
from polygene.vocab.columns import some
from polygene.vocab.ontology import TABLES, ontology_of

SAME_YEARS = 1e-3  # a third of a day
LIKE = 0.8
"""How alike a slip of the pen and the label meant are at least (difflib's ratio): "lungs" and "lung" are 0.89 alike,
"lung" and "pancreas", which a lower limit would offer, 0.5."""


class LabelPlaces:
    """The places of the labels of a phenotype, found in a time that does not grow with them."""

    def __init__(self, phenotype: str, labels: Sequence[str], *, is_age: bool = False) -> None:
        self.phenotype, self.labels, self.is_age = phenotype, labels, is_age
        self.of_name = {label: v for v, label in enumerate(labels)}
        times = Counter(map(str.lower, labels))
        self.of_lower = {label.lower(): v for v, label in enumerate(labels) if times[label.lower()] == 1}

    @cached_property
    def of_term(self) -> dict[str | None, int]:
        """The place of each term of the ontology, the first of equals."""
        return {ontology_of(self.phenotype).find(label): v for v, label in reversed([*enumerate(self.labels)])}

    @cached_property
    def years_V(self) -> np.ndarray:
        """The age of each label, NaN where it is none."""
        return np.array([age_in_years(label) for label in self.labels], dtype=float)

    def find(self, text: str) -> int:
        """Give the place of the label that a text means, -1 where there is none.

        "Male" is male; "17" and "17-year-old human stage" are one age; a synonym or an id of an ontology is its term.
        """
        if (place := self.of_name.get(text, self.of_lower.get(text.lower()))) is not None:
            return place
        if self.is_age:
            same_V = np.abs(self.years_V - np.array(age_in_years(text), dtype=float)) < SAME_YEARS  # None becomes NaN
            return int(same_V.argmax()) if same_V.any() else -1
        term = ontology_of(self.phenotype).find(text) if self.phenotype in TABLES else None
        return -1 if term is None else self.of_term.get(term, -1)

    def between(self, text: str) -> tuple[int, int, float] | None:
        """Give the known ages below and above one that lies between them, and the share of the one above; else None."""
        if not self.is_age or (years := age_in_years(text)) is None:
            return None
        known_V = self.years_V
        if not np.nanmin(known_V, initial=np.inf) < years < np.nanmax(known_V, initial=-np.inf):
            return None
        below = int(np.nanargmax(np.where(known_V <= years, known_V, np.nan)))
        above = int(np.nanargmin(np.where(known_V >= years, known_V, np.nan)))
        return below, above, float((years - known_V[below]) / (known_V[above] - known_V[below]))

    def hint(self, text: str) -> str:
        """Name what the model knows in place of a label that it does not know.

        >>> LabelPlaces("tissue", ["colon", "rectum", "pancreas"]).hint("large intestine")
        "it knows 'colon', 'rectum' of it"
        """
        lower = {label.lower(): label for label in self.labels}
        if not self.is_age and (near := difflib.get_close_matches(text.lower(), lower, n=1, cutoff=LIKE)):
            return f"the nearest is {lower[near[0]]!r}"
        if self.is_age and age_in_years(text) is not None and np.isfinite(self.years_V).any():
            return f"it knows ages from {np.nanmin(self.years_V):g} to {np.nanmax(self.years_V):g} years"
        if self.phenotype in TABLES:
            compare = ontology_of(self.phenotype).compare
            for relation, of in (("finer", "of it"), ("broader", "which it is part of")):
                if related := [label for label in self.labels if compare(label, text) == relation]:
                    return f"it knows {some(map(repr, related), 8)} {of}"
        return f"it knows {some(map(repr, self.labels), 8)}"


def one_name_an_age(counts: Mapping[str, int]) -> dict[str, int]:
    """Add up the cells of labels that are one age under the name that most cells have; the first of equals."""
    names: dict[float | str, str] = {}
    summed: dict[str, int] = {}
    for label, n in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        years = age_in_years(label)
        name = names.setdefault(label if years is None else round(years, 3), label)
        summed[name] = summed.get(name, 0) + n
    return summed


def order_of_ages(label: str) -> tuple[float, str]:
    """Sort ages, those without a number last, by name."""
    years = age_in_years(label)
    return (np.inf if years is None else years, label)
