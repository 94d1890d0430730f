"""Age in years on donors never seen: the error beside ridge regression and the training mean, and what intervals hold.

    python -m benchmarks.trust --data DIR --only ages

OneK1K, one donor split (`--seed` gives others). Ages are labels of the donors: with 40 donors many test donors have an
age that no training donor has, so no label can be right for them; years can.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.shared.splits import join_runs
from benchmarks.shared.studies import held_out_widely
from polygene.evaluation.ages import interval_scores, years_interval
from polygene.evaluation.baselines import YEARS_BASELINES, baseline_years
from polygene.evaluation.evaluate import summarise
from polygene.evaluation.metrics import expected_years, years_tally
from polygene.evaluation.test_cells import MODEL, CellBlocks, actual_years, cell_table, donor_names
from polygene.model.inference import label_probabilities

STUDY, N_SPLITS = "onek1k", 1
FEWEST_TO_CORRECT = 3
"""Donors, of two ages at least, that a line through predicted and actual ages needs."""


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Train and score; the numbers of the last line, and the ages of the test donors."""
    runs, donors, answers = [], [], []
    for split in range(seed, seed + N_SPLITS):
        model, corpus = held_out_widely(STUDY, folder, data=data, seed=split)
        train, test = corpus.split("train"), corpus.split("test")
        years_V, p = corpus.tokenizer.schema.years("age"), corpus.tokenizer.schema.index("age")
        (p_CV,) = label_probabilities(model, test.cells(slice(None)), predict=["age"])
        actual_C = actual_years(test, years_V, test.labels_CP[:, p])
        table, asked = cell_table(corpus, train, np.arange(len(train))), CellBlocks(corpus, test)
        learned_C = actual_years(train, years_V, train.labels_CP[:, p])
        years = {MODEL: expected_years(p_CV, years_V)} | {
            name: baseline_years(name, table, learned_C, asked, seed=split) for name in YEARS_BASELINES
        }
        within = {"sources_C": test.sources_C, "donors_C": donor_names(test, slice(None))}
        runs.append({"age in years": {name: years_tally(y_C, actual_C, **within) for name, y_C in years.items()}})
        known_D = age_gaps(p_CV, years_V, actual_C, test.donors_C)
        donors.append(known_D.assign(split=split, age_seen=np.isin(known_D.actual, learned_C)))
        answers.append(interval_scores(p_CV, years_V, actual_C, test.donors_C))
    scores, table = summarise(join_runs(runs), seed=seed), pd.concat(donors, ignore_index=True)
    by_donor = scores[scores.score == "mae_years_by_donor"].set_index("predictor")
    found: dict[str, object] = {
        "age_mae_years": {
            name: {key: round(float(row[key]), 3) for key in ("value", "low", "high", "gain", "gain_low", "gain_high")}
            for name, row in by_donor.iterrows()
        },
        "test_donors": len(table),
        "age_not_in_training": int((~table.age_seen).sum()),
        "interval": {
            name: round(float(np.mean([one[name] for one in answers])), 3) for name in ("coverage", "years_wide")
        },
        "gap_and_age_correlate": {
            name: round(float(table.groupby("split")[["actual", name]].corr().iloc[0::2, 1].mean()), 3)
            for name in ("gap", "gap_corrected")
        },
    }
    console = Console(width=160)
    console.print(rich_table(found))
    console.print(table.round(1).to_string(index=False))
    return found


def age_gaps(
    probabilities_CV: np.ndarray, years_V: np.ndarray, actual_C: np.ndarray, donors_C: np.ndarray
) -> pd.DataFrame:
    """Tabulate by donor how much older than they are the cells look.

    The probabilities of a donor's cells are averaged first: donors are the replicates, and cells of one donor share its
    error, so an interval from resampled cells would be far too narrow.

    Parameters
    ----------
    actual_C
        Age of each cell's donor in years; cells with NaN are left out. A donor met at two ages has two rows.
    donors_C
        Donor of each cell; cells without one (NaN, "") are left out.

    Returns
    -------
    A row for each donor: `donor`, `cells`, `actual`, `predicted` (expected years), `low`, `high` (`years_interval`),
    `gap` (predicted − actual), `gap_low`, `gap_high`, and `gap_corrected`, the gap to what a straight line through
    predicted over actual ages of these donors says. A predictor that knows little says the mean age to everybody, so
    that the young look old and the old young; the corrected gap does not depend on age. It is NaN for fewer than three
    donors or for donors of one age. Source: Beheshti et al. 2019 NeuroImage: Clinical 24:102071.
    """
    donors = pd.Series(donors_C, dtype=object).reset_index(drop=True)
    kept_C = np.isfinite(actual_C) & donors.notna().to_numpy() & (donors != "").to_numpy()
    groups = pd.DataFrame({"donor": donors[kept_C].to_numpy(), "actual": actual_C[kept_C].astype(float)})
    code_C = groups.groupby(["donor", "actual"], sort=True).ngroup().to_numpy()
    rows = groups.groupby(["donor", "actual"], sort=True).size().rename("cells").reset_index()
    sums_DV = np.zeros((len(rows), probabilities_CV.shape[1]))
    np.add.at(sums_DV, code_C, probabilities_CV[kept_C])
    mean_DV = sums_DV / np.maximum(rows.cells.to_numpy(), 1)[:, None]
    table = rows[["donor", "cells", "actual"]].assign(predicted=expected_years(mean_DV, years_V))
    table["low"], table["high"] = years_interval(mean_DV, years_V)
    for name, column in (("gap", "predicted"), ("gap_low", "low"), ("gap_high", "high")):
        table[name] = table[column] - table.actual
    table["gap_corrected"] = np.nan
    if len(table) >= FEWEST_TO_CORRECT and table.actual.nunique() > 1 and np.isfinite(table.predicted).all():
        slope, intercept = np.polyfit(table.actual, table.predicted, 1)
        table["gap_corrected"] = table.predicted - (intercept + slope * table.actual)
    return table


def rich_table(found: dict[str, object]) -> Table:
    """Lay out the errors."""
    table = Table(
        title=f"{STUDY}: age of {found['test_donors']} test donors, {found['age_not_in_training']} of new ages",
        title_justify="left",
    )
    for column in ("predictor", "years off, by donor", "gain over ridge"):
        table.add_column(column)
    for name, row in found["age_mae_years"].items():
        table.add_row(
            name,
            f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            f"{row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]",
        )
    return table
