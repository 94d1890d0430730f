"""Phenotypes: columns of `obs` to labels and back, "not given".

Shapes: C cells, P phenotypes, V labels of one phenotype.
"""

import difflib
import logging
import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import pandas as pd

from polygene.errors import PhenotypeError, check_choice, missing_column
from polygene.vocab.columns import by_code, factorize, is_given, some
from polygene.vocab.label_matching import LabelPlaces, one_name_an_age, order_of_ages

logger = logging.getLogger("polygene")
MOST_LABELS = 5_000  # losses and ontologies hold tables of labels by labels: 200 MB each

ENDINGS = (
    "probability", "error", "set", "set_size", "set_term", "abstains", "years", "years_low", "years_high", "term",
    "term_id", "term_probability",
)  # fmt: skip
"""`annotate` writes obs["polygene_<name>"] for a phenotype, and obs["polygene_<name>_<ending>"]."""
RESERVED = ("generated", "no_panel_genes", "novelty", "unknown")
"""What the verbs write as obs["polygene_<word>"] of any cell."""


@dataclass(frozen=True, kw_only=True)
class Phenotype:
    """One property of a cell besides its expression.

    `column` of `obs` holds it. The labels of an `ordinal` phenotype have an order, for "age" by `age_in_years`. An
    `added` one came with fine-tuning: its slot is behind [END], and where it is not given there is no token, so that
    all other predictions stay the same.
    """

    name: str
    column: str
    ordinal: Literal["age"] | None = None
    added: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            msg = f"A phenotype's name is a word of letters, digits and _, such as cell_type, got {self.name!r}."
            raise PhenotypeError(msg)
        if self.ordinal not in (None, "age"):
            msg = f"The order of {self.name} is 'age' or None, got {self.ordinal!r}."
            raise PhenotypeError(msg)

    @property
    def absent_token(self) -> str:
        """The token of its slot where no label is given, such as [NO_CELL_TYPE]."""
        return f"[NO_{self.name.upper()}]"


CELLXGENE: tuple[Phenotype, ...] = (
    Phenotype(name="sex", column="sex"),
    Phenotype(name="tissue", column="tissue"),
    Phenotype(name="cell_type", column="cell_type"),
    Phenotype(name="age", column="development_stage", ordinal="age"),
    Phenotype(name="disease", column="disease"),
)
"""The five phenotypes of the method, in the columns of the CELLxGENE schema."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PhenotypeSchema:
    """The phenotypes of a model and the labels of each."""

    phenotypes: tuple[Phenotype, ...]
    labels: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.phenotypes) != len(self.labels):
            msg = f"A schema needs labels for each phenotype, got {len(self.labels)} for {len(self.phenotypes)}."
            raise PhenotypeError(msg)
        for words in (self.names, *self.labels):
            if len(set(words)) < len(words):
                msg = f"Names and labels of phenotypes are there once each, got {sorted(words)}."
                raise PhenotypeError(msg)
        for one, labels in zip(self.phenotypes, self.labels, strict=True):
            if len(labels) > MOST_LABELS:
                few = ", ".join(map(repr, labels[:3]))
                msg = (
                    f"{one.name} has {len(labels):,} labels ({few}, …), and a phenotype can have {MOST_LABELS:,}. Is "
                    f"obs[{one.column!r}] a number or a name of each cell? Group it, or read another column."
                )
                raise PhenotypeError(msg)
        taken = {*RESERVED, *(f"{name}_{ending}" for name in self.names for ending in ENDINGS)}
        if refused := [name for name in self.names if name in taken]:
            msg = (
                f"A phenotype cannot be called {refused[0]!r}: obs['polygene_{refused[0]}'] would hold two things that "
                "the verbs write. Rename the column, or give the phenotype another name."
            )
            raise PhenotypeError(msg)
        if any(one.added for one in self.phenotypes[: self.n_leading]):
            msg = f"Phenotypes that were added come last, got {', '.join(self.names)}."
            raise PhenotypeError(msg)

    def __repr__(self) -> str:
        return f"PhenotypeSchema: {len(self.names)} phenotypes\n{self.describe()}"

    def describe(self) -> str:
        """List the phenotypes, a line each, with how many labels they have and the first ones."""
        width = max(map(len, self.names), default=0)
        few = [textwrap.shorten(", ".join(labels), 70, placeholder=" …") for labels in self.labels]
        rows = zip(self.names, self.labels, few, strict=True)
        return "\n".join(f"  {name:{width}}  {len(labels):,} labels: {first}" for name, labels, first in rows)

    @classmethod
    def fit(
        cls, counts: Mapping[str, Mapping[str, int]], phenotypes: Sequence[Phenotype] = CELLXGENE, *, min_cells: int = 1
    ) -> Self:
        """Make the vocabulary from the cells of each label in training donors, as `count_labels` gives them.

        Labels of fewer than `min_cells` cells are left out, which is logged.
        """
        kept = []
        for phenotype in phenotypes:
            of_labels, by_age = counts.get(phenotype.name, {}), phenotype.ordinal == "age"
            if by_age:
                of_labels = one_name_an_age(of_labels)
            rare = sorted(label for label, n in of_labels.items() if n < min_cells)
            if rare:
                logger.info("%s: left out %d labels of < %d cells: %s", phenotype.name, len(rare), min_cells, rare)
            labels = of_labels.keys() - set(rare)
            kept.append(tuple(sorted(labels, key=order_of_ages if by_age else None)))
        return cls(phenotypes=tuple(phenotypes), labels=tuple(kept))

    @property
    def names(self) -> tuple[str, ...]:
        """What the phenotypes are called, in the order of their slots."""
        return tuple(phenotype.name for phenotype in self.phenotypes)

    @property
    def n_leading(self) -> int:
        """How many phenotypes have their slots between [CLS] and [START]: all but those that were added."""
        return sum(not one.added for one in self.phenotypes)

    def index(self, name: str) -> int:
        """Return the place p of a phenotype; a PhenotypeError names those that there are."""
        if name not in self.names:
            nearest = difflib.get_close_matches(str(name), self.names, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            msg = f"There is no phenotype {name!r}; the model knows {', '.join(self.names)}.{hint}"
            raise PhenotypeError(msg)
        return self.names.index(name)

    def label_index(self, name: str, label: str) -> int:
        """Return the place v of a label of a phenotype; a PhenotypeError names the nearest."""
        p = self.index(name)
        if not self.labels[p]:
            able = ", ".join(other for other, labels in zip(self.names, self.labels, strict=True) if labels)
            msg = f"The model never saw a label of {name}, so none can be given; it knows labels of {able}."
            raise PhenotypeError(msg)
        v = self.find(p, str(label))
        if v < 0:
            msg = f"{name}: the model does not know the label {label!r}; {self._places[p].hint(str(label))}."
            raise PhenotypeError(msg)
        return v

    def label_indices(self, name: str, label: str, n: int) -> np.ndarray:
        """Give the places of a label for n cells, int16 (n,).

        An age between two known ones is their mixture: cells take the one or the other, in proportion to how near it
        lies, evenly spaced.
        """
        p = self.index(name)
        between = self._places[p].between(str(label)) if self.find(p, str(label)) < 0 else None
        if between is None:
            return np.full(n, self.label_index(name, label), dtype=np.int16)
        below, above, share = between
        steps = np.floor(np.arange(n + 1) * share + 0.5)
        return np.where(np.diff(steps) > 0, above, below).astype(np.int16)

    def encode(
        self,
        obs: pd.DataFrame,
        *,
        use: Collection[str] | None = None,
        unknown: Literal["error", "not given"] = "error",
    ) -> np.ndarray:
        """Turn columns of `obs` into labels_CP (int16, -1 = not given); how many cells have none, and why, is logged.

        Parameters
        ----------
        use
            Names of the phenotypes to read, whose columns must exist; the others are not given. None reads all
            columns that there are.
        unknown
            What a label outside the vocabulary is: an error that names the nearest, or not given.
        """
        check_choice("unknown", unknown, ("error", "not given"))
        used = {self.index(name) for name in (self.names if use is None else use)}
        labels_CP = np.full((len(obs), len(self.phenotypes)), -1, dtype=np.int16)
        notes = []
        for p in sorted(used):
            name, column = self.phenotypes[p].name, self.phenotypes[p].column
            if column in obs:
                labels_CP[:, p], absent = self._encode_column(p, obs[column], unknown)
                why = ", ".join(f"{n:,} {reason}" for reason, n in absent.items())
            elif use is None:
                why = f"no column {column!r}"
            else:
                do = f"Copy it to obs[{column!r}], or leave {name} out."
                raise missing_column(column, obs.columns, of="the table", holds=name, do=do)
            if why:
                notes.append(f"{name}: {(labels_CP[:, p] < 0).sum():,} of {len(obs):,} cells not given ({why})")
        if notes:
            logger.info("%s", "; ".join(notes))
        return labels_CP

    def _encode_column(self, p: int, column: pd.Series, unknown: str) -> tuple[np.ndarray, dict[str, int]]:
        """Return (labels_C, how many cells are not given for which reason)."""
        codes_C, texts, counts = factorize(column)
        labels = np.array([self.find(p, text) if is_given(text) else -1 for text in texts], dtype=np.int16)
        labels_C = by_code(labels, codes_C, -1)
        absent = {"NaN": int((codes_C < 0).sum())}
        outside = {}
        for text, n, v in zip(texts, counts, labels, strict=True):
            if v < 0 and is_given(text):
                if unknown == "error" and self._places[p].between(text):
                    of_C = codes_C == texts.index(text)
                    labels_C[of_C] = self.label_indices(self.phenotypes[p].name, text, n)
                    continue
                outside[text] = n
            elif v < 0:
                absent[repr(text)] = absent.get(repr(text), 0) + n
        if outside and unknown == "error":
            raise PhenotypeError(self._outside(p, outside))
        if outside:
            absent[f"outside the vocabulary: {some(map(repr, sorted(outside)), 3)}"] = sum(outside.values())
        return labels_C, {reason: n for reason, n in absent.items() if n}

    def _outside(self, p: int, outside: Mapping[str, int]) -> str:
        name, known = self.phenotypes[p].name, self.labels[p]
        examples = [f"{text!r} ({n:,} cells; {self._places[p].hint(text)})" for text, n in sorted(outside.items())[:3]]
        more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
        return (
            f"{name}: the model does not know the label {', '.join(examples)}{more}. It knows {len(known)} of {name}. "
            "Rename the labels in obs, or set them to NaN, which gives none."
        )

    def find(self, p: int, text: str) -> int:
        """Give the place of the label of a phenotype that a text means, -1 where there is none."""
        return self._places[p].find(text)

    @cached_property
    def _places(self) -> list[LabelPlaces]:
        of = zip(self.phenotypes, self.labels, strict=True)
        return [LabelPlaces(one.name, labels, is_age=one.ordinal == "age") for one, labels in of]

    def decode(self, labels_CP: np.ndarray) -> pd.DataFrame:
        """Return the columns of `obs` (named `Phenotype.column`, categorical) of labels, NaN where not given."""
        rows = zip(self.phenotypes, labels_CP.T, self.labels, strict=True)
        columns = {one.column: pd.Categorical.from_codes(codes_C, list(labels)) for one, codes_C, labels in rows}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(labels_CP)).astype(str))

    def years(self, name: str) -> np.ndarray:
        """years_V of the labels of a phenotype; NaN where one cannot be read, and wherever it is not an age."""
        p = self.index(name)
        if self.phenotypes[p].ordinal != "age":
            return np.full(len(self.labels[p]), np.nan)
        return self._places[p].years_V


def count_labels(obs: pd.DataFrame, phenotypes: Sequence[Phenotype] = CELLXGENE) -> dict[str, dict[str, int]]:
    """Count the given labels: {name: {label: cells}}, empty for a phenotype without column."""
    counted = {phenotype.name: Counter[str]() for phenotype in phenotypes}
    for phenotype in phenotypes:
        if phenotype.column in obs:
            _, texts, counts = factorize(obs[phenotype.column])
            for text, n in zip(texts, counts, strict=True):
                if is_given(text):
                    counted[phenotype.name][text] += n
    return {name: dict(of_labels) for name, of_labels in counted.items()}
