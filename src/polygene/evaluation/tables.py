"""The results of `evaluate` laid out once, as titled tables of text that the terminal and the report print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from polygene.evaluation.test_cells import MODEL, POOLED, REFERENCE, YEARS, YEARS_REFERENCE

if TYPE_CHECKING:
    from rich.table import Table

    from polygene.evaluation.results import Evaluation

Columns = dict[str, Callable[[Mapping[str, Any]], str]]
"""The columns of a table, and how each writes a row of numbers."""
NO_BREAK = "\N{NO-BREAK SPACE}"
SPLITS = {
    "donor": "split by donor, donors held out",
    "study": "split by study, studies held out",
    "random": "random split, cells, not donors, held out",
}
"""How the test cells were held out; every title has it."""
SCORES = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "mae_years_by_donor": "years off, by donor",
    "mae_years": "years off, by cell",
}
"""Scores of the tables and their names; the first that a phenotype has is its main score."""
GENE_SCORES = {
    "average_precision_expressed": "average precision, expressed or not",
    "spearman_gene": "Spearman, by gene",
    "mse_value": "squared error, log1p counts per 10,000",
    "cross_entropy": "cross-entropy, nats",
    "bin_accuracy": "bin accuracy",
    "bin_accuracy_within_one": "within one bin",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ResultTable:
    """A titled table of text, whose first column names the row; printed, it is laid out."""

    section: str
    title: str
    frame: pd.DataFrame
    note: str = ""
    phenotype: str = ""

    def __repr__(self) -> str:
        text = self.frame.to_string(index=False, justify="left")
        return "\n".join(part for part in (self.title, text, self.note) if part)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", caption=self.note or None, caption_justify="left")
        for number, column in enumerate(self.frame):
            table.add_column(Text(column), justify="right" if number else "left")
        for row in self.frame.itertuples(index=False):
            table.add_row(*map(Text, row))
        return table

    def to_html(self) -> str:
        """Return the table for a notebook."""
        return f"<p><b>{escape(self.title)}</b></p>{self.frame.to_html(index=False)}<p>{escape(self.note)}</p>"


def result_tables(results: Evaluation) -> list[ResultTable]:
    """Lay out all results, part by part; a part that the cells did not allow is left out."""
    made = [*_score_tables(results), *_class_tables(results)]
    for section, title, frame, columns, note in _plain_tables(results):
        if len(frame):
            rows = [{name: write(row) for name, write in columns.items()} for row in frame.to_dict("records")]
            made.append(_table(results, section, title, rows, note))
    return made


def _score_tables(results: Evaluation) -> Iterator[ResultTable]:
    for phenotype in pd.unique(results.scores.get("phenotype", pd.Series(dtype=str))):
        scores = of_phenotype(results.scores, phenotype)
        by_score = {score: of_score(scores, score) for score in SCORES if (scores.score == score).any()}
        main = main_score(scores)
        reference = YEARS_REFERENCE if phenotype.endswith(YEARS) else REFERENCE
        gain = f"gain in {SCORES[main]} over {reference}"
        rows = [
            {"predictor": who}
            | {of_labels(score, scores): interval(table.loc[who]) for score, table in by_score.items()}
            | {gain: "–" if who == reference else interval(by_score[main].loc[who], "gain", "+z.3f")}
            for who in by_score[main].index
        ]
        note = "Naming the source can win this: it is no target." if phenotype.endswith(POOLED) else ""
        yield _table(results, "scores", words(phenotype), rows, note, phenotype)


def _class_tables(results: Evaluation) -> Iterator[ResultTable]:
    for phenotype, counts in results.confusion.items():
        classes = of_phenotype(results.classes, phenotype)
        of_reference = classes[classes.predictor == REFERENCE].set_index("label").f1
        rows = []
        for row in classes[classes.predictor == MODEL].to_dict("records"):
            wrong = counts.loc[row["label"]].drop(row["label"])
            most = wrong.idxmax() if len(wrong) and wrong.max() else None
            share = "–" if most is None else f"{most} ({wrong[most]:,}, {percent(wrong[most] / row['cells'])})"
            rows.append(
                {
                    "label": row["label"],
                    "cells": f"{row['cells']:,}",
                    "donors": str(row["donors"] or "–"),
                    "recall": number(row["recall"]),
                    "precision": number(row["precision"]),
                    "F1": interval(row, "f1"),
                    f"F1 of {REFERENCE}": number(of_reference[row["label"]]),
                    "most often confused with": share,
                }
            )
        note = "No interval where a single donor has the label."
        yield _table(results, "classes", f"{words(phenotype)}, class by class", rows, note, phenotype)


def _plain_tables(results: Evaluation) -> Iterator[tuple[str, str, pd.DataFrame, Columns, str]]:
    """Give the tables that have a row of text for each row of numbers: section, title, numbers, columns, note."""
    phenotype = {"phenotype": lambda row: words(row["phenotype"])}
    calibration: Columns = {
        "expected calibration error": lambda row: interval(row, "ece") + ("" if row["informative"] else ", void"),
        "log loss": lambda row: interval(row, "log_loss"),
        "of the label frequencies": lambda row: number(row["marginal_log_loss"]),
        "of equal shares": lambda row: number(row["uniform_log_loss"]),
        "calibrated on": _calibrated_on,
    }
    note = "Lower is better. Void: the log loss does not beat both predictions that look at no cell."
    yield "confidence", "calibration", results.calibration, phenotype | calibration, note
    sets: Columns = {
        "promised": lambda row: percent(row["level"]),
        "coverage": lambda row: interval(row, "coverage"),
        "labels in a set": lambda row: number(row["size"], ".2f"),
        "not one label": lambda row: percent(row["abstained"]),
        "accuracy of sets of one": lambda row: percent(row["single_accuracy"]),
        "off, and why": lambda row: f"{number(row['off'], '+z.3f')}: {row['why']}" if row["why"] else "as promised",
    }
    of_all = results.sets[results.sets.label == ""] if len(results.sets) else results.sets
    note = "Coverage: share of cells whose set holds the true label, averaged by donor. metrics.json has every label."
    yield "confidence", "sets of labels", of_all, phenotype | sets, note
    hierarchy: Columns = {"cell type": lambda row: row["prediction"]}
    hierarchy |= {share: partial(_percent_of, share) for share in ("correct", "finer", "wrong")}
    hierarchy["information"] = lambda row: number(row["information"], ".2f")
    note = (
        "Backed off: to the nearest term of the ontology that is probable enough. Finer: below the label in the file, "
        "which cannot decide whether it is correct."
    )
    yield "confidence", "cell types by the Cell Ontology", results.hierarchy, hierarchy, note
    ages: Columns = {
        "promised": lambda row: percent(row["level"]),
        "coverage": lambda row: interval(row, "coverage"),
        "years wide": lambda row: interval(row, "years_wide", "z.1f"),
    }
    note = "Coverage: share of a donor's cells whose interval holds the donor's age, averaged over donors."
    yield "age", "intervals of age in years", results.ages, phenotype | ages, note
    novelty: Columns = {
        "cells": lambda row: f"{row['cells']:,}",
        "false alarms promised": lambda row: percent(row["stated"]),
        "false alarms": lambda row: interval(row, "false_alarms"),
    }
    note = "Test cells are of known kinds, so each flag is a false alarm; every donor counts the same."
    yield "novelty", "test cells flagged as novel", results.novelty, novelty, note
    genes: Columns = {"predictor": lambda row: row["predictor"]}
    genes |= {text: partial(_number_of, score) for score, text in GENE_SCORES.items()}
    note = "15 % of the measured genes of test cells are masked. Cells of all donors together, without intervals."
    yield "genes", "masked genes", results.genes, genes, note


def _percent_of(name: str, row: Mapping[str, Any]) -> str:
    return percent(row[name])


def _number_of(name: str, row: Mapping[str, Any]) -> str:
    return number(row[name])


def _calibrated_on(row: Mapping[str, Any]) -> str:
    if not row["calibration_donors"]:
        return "not calibrated"
    return f"{row['calibration_donors']} {row['unit']}s, temperature {row['temperature']:.2f}"


def _table(
    results: Evaluation, section: str, title: str, rows: list[dict[str, str]], note: str = "", phenotype: str = ""
) -> ResultTable:
    title = f"{title}: {SPLITS[results.split]}; 95 % intervals {resampled_units(results)}"
    return ResultTable(section=section, title=title, frame=pd.DataFrame(rows), note=note, phenotype=phenotype)


def resampled_units(results: Evaluation) -> str:
    """Say what the intervals are over."""
    return f"over {results.donors} resampled donors" if results.donors else "over resampled cells, no donors"


def of_phenotype(table: pd.DataFrame, phenotype: str) -> pd.DataFrame:
    """Take the rows of a phenotype; none of an empty table."""
    return table[table.phenotype == phenotype] if len(table) else table


def of_score(scores: pd.DataFrame, score: str) -> pd.DataFrame:
    """Take the rows of a score, by predictor."""
    return scores[scores.score == score].set_index("predictor")


def main_score(scores: pd.DataFrame) -> str:
    """Name the score by which a phenotype is assessed."""
    return next(score for score in SCORES if (scores.score == score).any())


def of_labels(score: str, scores: pd.DataFrame) -> str:
    """Name a score, and beside macro-F1 over how many labels it is the mean."""
    labels = scores.labels.iloc[0] if score == "macro_f1" and "labels" in scores else None
    return words(score) if pd.isna(labels) else f"{words(score)} of {labels:.0f} labels"


def interval(row: Mapping[str, Any] | pd.Series, name: str = "value", spec: str = "z.3f") -> str:
    """Write a value and its interval, `<name>_low` and `<name>_high`, or `low` and `high` of a row with one."""
    low, high = (row[f"{name}_low"], row[f"{name}_high"]) if f"{name}_low" in row else (row["low"], row["high"])
    value = number(row[name], spec)
    # A narrow column may break before the bracket, not within it.
    return value if pd.isna(low) else f"{value} [{number(low, spec)},{NO_BREAK}{number(high, spec)}]"


def number(value: float | None, spec: str = "z.3f") -> str:
    """Write a number in this format, with a true minus, or a dash for what could not be computed."""
    return "–" if value is None or np.isnan(value) else f"{value:{spec}}".replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share in percent."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f}{NO_BREAK}%"


def words(name: str) -> str:
    """Write the name of a phenotype or a score as a reader reads it."""
    return SCORES.get(name, name.replace("_", " "))
