"""Sets of labels that may be true, and what `annotate` ends with.

Legend: C cells, V labels of one phenotype, N terms of an ontology.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from polygene.errors import PhenotypeError
from polygene.model.calibration import LabelCalibration, check_coverage, finest, level, units_needed
from polygene.model.checkpoint import PolyGene
from polygene.model.studies import StudyCalibration, leaf_probabilities, leaf_sets
from polygene.vocab.ontology import TABLES, LabelTree, table_of

logger = logging.getLogger("polygene")
REASONS = ("", "several labels", "no typical label")
"""Why a set is not one label that the cell is typical of."""
UNSURE = 0.5
"""From this probability of being wrong on, or below this probability, a cell is counted as uncertain."""
STRANGE = 0.5
"""Of a file with a larger share of unknown cells the tissue is called unknown."""


class Sets:
    """Sets of the phenotypes that were calibrated, at one coverage.

    Thresholds from studies that were left out whole go first; those of donors of known studies are for the rest.
    """

    def __init__(self, model: PolyGene, predict: Sequence[str], coverage: float) -> None:
        check_coverage(coverage)
        schema, calibration = model.tokenizer.schema, model.calibration
        self.model, self.coverage = model, coverage
        self.labels = {name: schema.labels[schema.index(name)] for name in predict}
        self.used: dict[str, LabelCalibration | StudyCalibration] = {
            name: one for name in predict if (one := calibration.studies.get(name) or calibration.labels.get(name))
        }
        if not self.used:
            msg = (
                f"The model was not calibrated for {', '.join(predict)}, so it has no sets of labels. Leave `coverage` "
                "out, or train on a corpus whose validation donors have these labels."
            )
            raise PhenotypeError(msg)
        self._warn(predict)
        self.trees = {name: LabelTree(self.labels[name], name) for name in self.used if name in TABLES}

    def _warn(self, predict: Sequence[str]) -> None:
        needed = units_needed(self.coverage)
        for name in predict:
            if (one := self.used.get(name)) is None:
                logger.warning("%s: no sets, since the model was not calibrated for it", name)
                continue
            units = "studies" if isinstance(one, StudyCalibration) else f"{one.unit}s"
            if one.units < needed:
                logger.warning(
                    "%s: sets rest on %d calibration %s, %d are needed for %g: they may hold the true label less often",
                    name, one.units, units, needed, self.coverage,
                )  # fmt: skip
            if units != "studies" and name == "cell_type":
                logger.warning(
                    "%s: sets hold for new donors of the studies that trained the model; it was not calibrated on "
                    "studies that were left out, so for a new study they hold the true label less often", name,
                )  # fmt: skip

    def columns(self, name: str, p_CV: np.ndarray) -> dict[str, Any]:
        """Return columns of obs: the set as text, most probable first, its size, its common term, why it is not one."""
        one, below_VV = self.used[name], self.model.at_or_below(name)
        table_VV = table_of(below_VV, p_CV.shape[1])
        if isinstance(one, StudyCalibration):
            rank_CV = leaf_probabilities(p_CV, table_VV)
            set_CV, none_C = leaf_sets(rank_CV, one.least_A[level(self.coverage)])
        else:
            rank_CV = p_CV
            set_CV, none_C = one.sets(p_CV, self.coverage, below_VV)
            set_CV = finest(set_CV, below_VV)
        size_C = set_CV.sum(axis=1).astype(np.int32)
        order_CV = np.argsort(np.where(set_CV, -rank_CV, np.inf), axis=1, kind="stable")
        named = np.asarray(self.labels[name], dtype=object)
        texts = [" | ".join(named[order_V[:size]]) for order_V, size in zip(order_CV, size_C, strict=True)]
        columns: dict[str, Any] = {"set": np.array(texts, dtype=object), "set_size": size_C}
        if name in self.trees:
            columns["set_term"] = common_terms(set_CV, self.trees[name])
        why_C = np.where(size_C > 1, 1, 0)
        why_C[none_C] = 2
        columns["abstains"] = pd.Categorical.from_codes(why_C, list(REASONS))
        return {f"polygene_{name}_{ending}": column_C for ending, column_C in columns.items()}

    def uns(self) -> dict[str, Any]:
        """Describe what the sets rest on."""
        found: dict[str, Any] = {}
        for name, one in self.used.items():
            evidence = {"coverage": self.coverage, "units": one.units}
            if isinstance(one, StudyCalibration):
                found[name] = evidence | {"unit": "study", "studies": np.array(one.studies, dtype=str)}
                continue
            # labels with too few donors of their own use the threshold of all labels
            pooled = np.array(self.labels[name], dtype=str)[~np.asarray(one.own(self.coverage), dtype=bool)]
            found[name] = evidence | {"unit": one.unit, "held_to_all_labels": pooled}
        return found


def common_terms(set_CV: np.ndarray, tree: LabelTree) -> np.ndarray:
    """Name each set by the most specific term of the ontology that is at or above all its labels; "" without one."""
    outside_CN = set_CV.astype(np.float32) @ (~tree.under_NV).T.astype(np.float32)
    holds_CN = outside_CN < 0.5
    return np.where(holds_CN.any(axis=1), tree.names_N[holds_CN.argmax(axis=1)], "")


class Summary:
    """Counts of what was predicted, and three lines of them for people, with one more for each head.

    Whether the tissue is unknown follows from `polygene_unknown`, if its threshold was learned on studies never seen,
    else from how many cells are uncertain.
    """

    def __init__(self, on_studies: bool, heads: Sequence[str]) -> None:
        self.on_studies, self.heads = on_studies, heads
        self.cells = self.unsure = self.unknown = 0
        self.labels = {name: Counter[str]() for name in ("cell_type", "tissue", *heads)}

    def add(self, columns: dict[str, Any]) -> None:
        """Count the cells of a chunk."""
        self.cells += len(columns["polygene_no_panel_genes"])
        for name, counter in self.labels.items():
            if f"polygene_{name}" in columns:
                counter.update(pd.Series(columns[f"polygene_{name}"]).astype(str).value_counts().to_dict())
        if "polygene_cell_type" in columns:
            unsure_C = columns.get("polygene_cell_type_error", 1 - columns["polygene_cell_type_probability"]) > UNSURE
            self.unsure += int(unsure_C.sum())
            self.unknown += int((columns.get("polygene_unknown", unsure_C) if self.on_studies else unsure_C).sum())

    def lines(self) -> list[str]:
        """Write how many cells and which labels, how many are uncertain, and what to do if most are unknown."""
        lines, titles = list[str](), {"cell_type": f"{self.cells:,} cells"}
        for name in dict.fromkeys(["cell_type", *self.heads]):
            if counts := self.labels[name]:
                few = ", ".join(f"{label} {n / self.cells:.0%}" for label, n in counts.most_common(4))
                more = f", and {len(counts) - 4} more" if len(counts) > 4 else ""
                lines.append(f"{titles.get(name, name)}: {few}{more}")
        if not self.labels["cell_type"]:
            return lines
        lines.append(f"{self.unsure:,} of them ({self.unsure / self.cells:.0%}) are more likely wrong than right")
        if self.unknown > STRANGE * self.cells:
            lines.append(
                f"{self.unknown / self.cells:.0%} look like no cell that the model knows: their tissue may be unknown; "
                "fine-tune on some labels of your own (polygene finetune), or train with profiles of the tissue"
            )
        else:
            most = self.labels["tissue"].most_common(1)  # none where it was given
            looks = [f"the tissue looks known: {x}, for {n / self.cells:.0%} of the cells" for x, n in most]
            lines += looks or ["most look like cells that the model knows"]
        return lines
