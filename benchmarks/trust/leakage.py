"""The leakage gap: the same models scored on cells of donors that trained, and on cells of donors that did not.

    python -m benchmarks.trust --data DIR --only leakage

Three donor splits joined for each file. A twentieth of the training donors' cells is set aside by `prepare`; a random
split of cells would report the scores on those.
"""

from pathlib import Path

import pandas as pd
from rich.console import Console

from benchmarks.shared.studies import trained
from polygene.evaluation.evaluate import answer
from polygene.evaluation.leakage import leakage_gaps
from polygene.evaluation.tables import leakage_table

STUDIES, N_SPLITS = ("onek1k", "velmeshev"), 1


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Train and score on three splits; the gaps of each file."""
    found = {}
    for study in STUDIES:
        splits = [trained(study, folder, data=data, seed=split) for split in range(seed, seed + N_SPLITS)]
        pairs = [answer(model, corpus, seed=seed).pairs for model, corpus in splits]
        found[study] = leakage_gaps(pairs, seed=seed)
        words = f"{study}, {N_SPLITS} donor split, donors held out"
        Console(width=160).print(leakage_table(found[study].to_dict("records"), words))
    return {"leakage_gap": summary(found)}


def summary(found: dict[str, pd.DataFrame]) -> dict[str, object]:
    """The gaps as the last line gives them."""
    return {
        study: {
            f"{row.phenotype}: {row.predictor}, {row.score}": [
                round(float(row[key]), 3) for key in ("seen", "held_out", "gap", "gap_low", "gap_high")
            ]
            for _, row in table.iterrows()
        }
        for study, table in found.items()
    }
