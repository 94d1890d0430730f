"""Age in years on donors never seen: the error beside ridge regression and the training mean, and what intervals hold.

    python -m benchmarks.trust --data DIR --only ages

OneK1K, three donor splits joined. Ages are labels of the donors: with 40 donors many test donors have an age that no
training donor has, so no label can be right for them; years can.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.shared.studies import trained
from polygene.evaluation.ages import age_gaps, age_report
from polygene.evaluation.baselines import YEARS_BASELINES, baseline_years
from polygene.evaluation.evaluate import summarise
from polygene.evaluation.metrics import expected_years, years_tally
from polygene.evaluation.test_cells import MODEL, AskedCells, actual_years, cell_table, named
from polygene.model.inference import label_probabilities

STUDY, N_SPLITS = "onek1k", 3


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Train and score on three splits; the numbers of the last line, and the ages of the test donors."""
    runs, donors, answers = [], [], []
    for split in range(seed, seed + N_SPLITS):
        model, corpus = trained(STUDY, folder, data=data, seed=split)
        train, test = corpus.split("train"), corpus.split("test")
        years_V, p = corpus.tokenizer.schema.years("age"), corpus.tokenizer.schema.index("age")
        (p_CV,) = label_probabilities(model, test.cells(slice(None)), predict=["age"])
        actual_C = actual_years(test, years_V, test.labels_CP[:, p])
        table, asked = cell_table(corpus, train, np.arange(len(train))), AskedCells(corpus, test)
        learned_C = actual_years(train, years_V, train.labels_CP[:, p])
        years = {MODEL: expected_years(p_CV, years_V)} | {
            name: baseline_years(name, table, learned_C, asked, seed=split) for name in YEARS_BASELINES
        }
        within = {"sources_C": test.sources_C, "donors_C": named(test, slice(None))}
        runs.append({"age in years": {name: years_tally(y_C, actual_C, **within) for name, y_C in years.items()}})
        known_D = age_gaps(p_CV, years_V, actual_C, test.donors_C)
        donors.append(known_D.assign(split=split, age_seen=np.isin(known_D.actual, learned_C)))
        answers.append(age_report(p_CV, years_V, actual_C, test.donors_C))
    scores, table = summarise(runs, seed=seed), pd.concat(donors, ignore_index=True)
    by_donor = scores[scores.score == "mae_years_by_donor"].set_index("predictor")
    found: dict[str, object] = {
        "age_mae_years": {
            name: {key: round(float(row[key]), 3) for key in ("value", "low", "high", "gain", "gain_low", "gain_high")}
            for name, row in by_donor.iterrows()
        },
        "test_donors": len(table),
        "age_not_in_training": int((~table.age_seen).sum()),
        "interval": {
            name: round(float(np.mean([one[name]["value"] for one in answers])), 3)
            for name in ("coverage_cells", "coverage_donors", "years_wide")
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
