"""Calibration: a temperature for each phenotype, and conformal sets of labels.

Both are learned from donors that did not train. A new donor's cells are like each other and unlike those of the donors
at hand, so the exchangeable unit is the donor, not the cell: a thousand cells of two donors predict little of a third.

Legend: C cells, V labels of one phenotype, A coverages.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from polygene.errors import CheckpointError, check_number
from polygene.model.pooling import (
    SMALLEST_PROBABILITY,
    best_temperature,
    log_sum_exp,
    mean_logs,
    surprise,
    unit_weights,
)
from polygene.model.studies import StudyCalibration
from polygene.runtime.files import read_json
from polygene.vocab.ontology import reported_labels, table_of

COVERAGES = tuple(percent / 100 for percent in range(50, 100))
"""Coverages that sets are kept for; one between them is rounded up."""
MANY_UNITS, MOST_STEPS = 100, 1_000
ROUNDING = 1e-6
"""Single precision: so much less than the lowest probability is still accepted."""


@dataclass(frozen=True, kw_only=True)
class LabelCalibration:
    """The calibration of one phenotype.

    Attributes
    ----------
    temperature
        Divides the logits. Above 1 the network was overconfident.
    unit
        The exchangeable unit: "donor", or "cell" where donors are not known, which is too optimistic.
    units, cells
        How many there were.
    log_loss_before, log_loss
        Mean over donors without and with the temperature, in nats.
    vote
        The weight with which the cells of a group decide together, see `pooled`; 1 where none was learned.
    units_V
        Units that show each label.
    least_AV
        The lowest probability with which a label is in the set, for each of `COVERAGES` and each label, from the cells
        that have the label; 0 (always in the set) where the units are too few for the coverage.
    least_A
        The same from the cells of all labels together.
    """

    temperature: float
    unit: Literal["donor", "cell"]
    units: int
    cells: int
    log_loss_before: float
    log_loss: float
    units_V: tuple[int, ...] = field(repr=False)
    least_AV: tuple[tuple[float, ...], ...] = field(repr=False)
    least_A: tuple[float, ...] = field(repr=False)
    vote: float = 1.0

    def fits(self, n_labels: int) -> bool:
        """Whether it is of so many labels, and its numbers are numbers."""
        tables = (self.least_AV, (len(COVERAGES), n_labels)), (self.least_A, (len(COVERAGES),))
        numbers_fit = all(
            np.shape(table) == shape and np.isfinite(np.array(table, dtype=float)).all()
            for table, shape in (*tables, (self.units_V, (n_labels,)), ([self.units, self.cells], (2,)))
        )
        return numbers_fit and 0 < self.temperature < np.inf

    def own(self, coverage: float) -> np.ndarray:
        """Which labels have enough units of their own for sets of this coverage, bool (V,)."""
        return np.array(self.units_V) >= units_needed(coverage)

    def sets(
        self, probabilities_CV: np.ndarray, coverage: float, at_or_below_VV: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make the sets, bool (C, V), and say which cells, by number, have no typical label.

        A label with too few units of its own has the threshold of all labels together. With `at_or_below_VV`, as for
        `calibrate`, a label is as probable as all labels at and below it together. A set is never empty: without a
        typical label it holds the label that is reported, and all labels above it.
        """
        a = level(coverage)
        least_V = np.where(self.own(coverage), self.least_AV[a], self.least_A[a])
        set_CV = summed(probabilities_CV, at_or_below_VV) >= least_V - ROUNDING
        none_C = np.flatnonzero(~set_CV.any(axis=1))
        label_C = reported_labels(probabilities_CV[none_C], at_or_below_VV)
        set_CV[none_C] = table_of(at_or_below_VV, len(least_V)).T[label_C]
        return set_CV, none_C


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration by phenotype; a phenotype that is not in it keeps the probabilities of the network.

    `labels` are for new donors of known studies, `studies` for studies never seen.
    """

    labels: Mapping[str, LabelCalibration] = field(default_factory=dict)
    studies: Mapping[str, StudyCalibration] = field(default_factory=dict)

    def temperature(self, phenotype: str) -> float:
        """What divides the logits of a phenotype."""
        return self.labels[phenotype].temperature if phenotype in self.labels else 1.0

    def save(self, file: Path) -> None:
        """Write the file calibration.json of a checkpoint."""
        table: dict[str, Any] = {"coverages": COVERAGES}
        for kind, of_kind in (("labels", self.labels), ("studies", self.studies)):
            table[kind] = {name: asdict(one) for name, one in of_kind.items()}
        file.write_text(json.dumps(table) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path, sizes: Mapping[str, int]) -> "Calibration":
        """Read what `save` wrote.

        Raises
        ------
        CheckpointError
            It is not what `save` writes, or fits other labels than these phenotypes (their `sizes`) have.
        """
        try:
            table: dict[str, Any] = read_json(file)
            labels = {name: LabelCalibration(**one) for name, one in table["labels"].items()}
            studies = {name: StudyCalibration(**one) for name, one in table.get("studies", {}).items()}
            fits = tuple(table["coverages"]) == COVERAGES and all(one.fits(sizes[name]) for name, one in labels.items())
            if not fits or any(len(one.least_A) != len(COVERAGES) for one in studies.values()):
                msg = "its numbers are of other labels or coverages, or are none"
                raise ValueError(msg)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            msg = f"{file} is no calibration of this model ({why}): get the checkpoint again, whole."
            raise CheckpointError(msg) from error
        return cls(labels=labels, studies=studies)


def check_coverage(coverage: float) -> None:
    """Refuse a coverage that sets cannot be made for, and name those that there are."""
    least, most = COVERAGES[0], COVERAGES[-1]
    what = f"the share of cells whose set holds the true label, {least} to {most}"
    check_number("coverage", coverage, least, most, what=what)


def level(coverage: float) -> int:
    """Number of the coverage, or of the next higher one, among `COVERAGES`."""
    return int(np.searchsorted(COVERAGES, coverage - 1e-9))


def units_needed(coverage: float) -> int:
    """Units without which no set but that of all labels has this coverage: nine for 0.9."""
    return ceil(coverage / (1 - coverage) - 1e-9)


def summed(probabilities_CV: np.ndarray, at_or_below_VV: np.ndarray | None) -> np.ndarray:
    """Give the probability of each label and all labels below it together, (C, V)."""
    return probabilities_CV if at_or_below_VV is None else probabilities_CV @ at_or_below_VV.T.astype(np.float32)


def finest(set_CV: np.ndarray, at_or_below_VV: np.ndarray | None) -> np.ndarray:
    """Leave out of each set the labels that another label of it is below: the finer one holds for them too."""
    if at_or_below_VV is None:
        return set_CV
    strictly_VV = at_or_below_VV & ~at_or_below_VV.T  # two names of one term both stay
    has_finer_CV: np.ndarray = set_CV.astype(np.int32) @ strictly_VV.T.astype(np.int32) > 0
    return set_CV & ~has_finer_CV


def calibrate(
    probabilities_CV: np.ndarray,
    truth_C: np.ndarray,
    donors_C: np.ndarray | None,
    at_or_below_VV: np.ndarray | None = None,
) -> LabelCalibration | None:
    """Learn temperature and sets of one phenotype from cells that did not train the model.

    Every donor counts the same, however many cells it has. The temperature is the one with the least log loss (Guo et
    al. 2017, On calibration of modern neural networks), and 1 if left-out donors have no lower log loss with
    the temperature of the others: two donors of one sex each predict nothing of a third. Sets are conformal, by true
    label (Mondrian), with the score 1 − p(label) (Sadinle et al. 2019, Least ambiguous set-valued classifiers with
    bounded error levels), and donors as units. Without a label, or with one only, there is no calibration.

    Parameters
    ----------
    probabilities_CV
        Predictions of the network without a temperature.
    truth_C
        int, -1 where the label is not given.
    donors_C
        Donor of each cell; None where donors are not known, and each cell is a unit.
    at_or_below_VV
        Which labels (columns) are at or below which (rows): the probability of a label is then theirs together, as in
        training. None: its own.
    """
    given_C = truth_C >= 0
    truth_C, log_p_CV = truth_C[given_C], np.log(np.maximum(probabilities_CV[given_C], SMALLEST_PROBABILITY))
    n_cells, n_labels = log_p_CV.shape
    if not n_cells or n_labels < 2:
        return None
    unit_C = np.arange(n_cells) if donors_C is None else pd.factorize(donors_C[given_C])[0]
    table_VV = table_of(at_or_below_VV, n_labels)
    temperature = best_temperature(log_p_CV, table_VV[truth_C], unit_C)
    before_C, surprise_C = (surprise(log_p_CV, table_VV[truth_C], one) for one in (1.0, temperature))
    weights_C, p_C = unit_weights(unit_C), np.exp(-surprise_C)
    # A vote is for groups that share a label: the cells of one label in one unit.
    firsts, group_C = np.unique(unit_C * n_labels + truth_C, return_index=True, return_inverse=True)[1:]
    mean_GV, _ = mean_logs(log_p_CV / temperature - log_sum_exp(log_p_CV / temperature)[:, None], group_C)
    vote = 1 / best_temperature(mean_GV, table_VV[truth_C[firsts]], unit_C[firsts])
    of_label = [np.flatnonzero(truth_C == label) for label in range(n_labels)]
    least_VA = [least_probabilities(p_C[rows], unit_C[rows]) for rows in of_label]
    return LabelCalibration(
        temperature=temperature,
        unit="cell" if donors_C is None else "donor",
        units=len(np.unique(unit_C)),
        cells=n_cells,
        log_loss_before=float(weights_C @ before_C),
        log_loss=float(weights_C @ surprise_C),
        units_V=tuple(len(np.unique(unit_C[rows])) for rows in of_label),
        least_AV=tuple(tuple(row) for row in np.stack(least_VA, axis=1).tolist()),
        least_A=tuple(least_probabilities(p_C, unit_C).tolist()),
        vote=1.0 if donors_C is None else vote,
    )


def least_probabilities(p_C: np.ndarray, unit_C: np.ndarray) -> np.ndarray:
    """Give the lowest probabilities of the true label that sets of `COVERAGES` still accept, float64 (A,).

    All units count the same. The share of them that must be covered, so that one more unit is covered as wanted, is
    found by leaving each out in turn. From `MANY_UNITS` on it is coverage · (K + 1) / K, which holds for any units
    (Lee, Barber and Willett 2023, Distribution-free inference with hierarchical data), but covers 0.99 for 0.9 of ten.
    Where no share suffices, the lowest probability is 0.
    """
    n_units = len(np.unique(unit_C))
    if n_units < 2:
        return np.zeros(len(COVERAGES))
    order = np.argsort(-p_C, kind="stable")
    held_C = np.cumsum(unit_weights(unit_C)[order])
    shares_A = np.array(COVERAGES) * (n_units + 1) / n_units
    if n_units < MANY_UNITS:
        places = np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_STEPS)).astype(int))
        steps = p_C[order][places]  # descending
        held_KJ = np.stack([_share_from(p_C[unit_C == unit], steps) for unit in np.unique(unit_C)])
        others_KJ = (held_KJ.sum(axis=0) - held_KJ) / (n_units - 1)
        shares = np.linspace(0, 1, MOST_STEPS + 1)
        at_KB = [np.searchsorted(others_J, shares - 1e-9) for others_J in others_KJ]
        covered_B = np.mean([held_J[at_B] for held_J, at_B in zip(held_KJ, at_KB, strict=True)], axis=0)
        first_A = np.searchsorted(covered_B, np.array(COVERAGES) - 1e-9)
        # the last that covers as much
        alike_A = np.searchsorted(covered_B, np.append(covered_B, 2.0)[first_A] + 1e-9) - 1
        shares_A = np.where(first_A < len(shares), shares[np.minimum(alike_A, len(shares) - 1)], 2.0)
    last_A = np.searchsorted(held_C, np.minimum(shares_A, 1) - 1e-9)
    return np.where(shares_A > 1 + 1e-9, 0.0, p_C[order][last_A])


def _share_from(p_C: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Share of these probabilities that reach each step."""
    return 1 - np.searchsorted(np.sort(p_C), steps) / len(p_C)
