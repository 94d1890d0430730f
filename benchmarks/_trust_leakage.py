"""The leakage gap: the same models scored on cells of donors that trained, and on cells of donors that did not.

    python benchmarks/_trust_leakage.py --data DIR

Three donor splits joined for each file. A twentieth of the training donors' cells is set aside by `prepare`; a random
split of cells would report the scores on those.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd
from rich.console import Console

import _data
from _train import trained
from polygene.evaluation import answer
from polygene.leakage import leakage_gaps
from polygene.results import leakage_table

STUDIES, N_SPLITS = ("onek1k", "velmeshev"), 3


def run(data: Path | None, seed: int, folder: Path) -> dict[str, pd.DataFrame]:
    """Train and score on three splits; the gaps of each file."""
    found = {}
    for study in STUDIES:
        splits = [trained(study, folder, data=data, seed=split) for split in range(seed, seed + N_SPLITS)]
        pairs = [answer(model, corpus, seed=seed).pairs for model, corpus in splits]
        found[study] = leakage_gaps(pairs, seed=seed)
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _data.add_data_option(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep corpora and models here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = run(arguments.data, arguments.seed, arguments.out or Path(scratch))
    for study, table in found.items():
        words = f"{study}, {N_SPLITS} donor splits, donors held out"
        Console(width=160).print(leakage_table(table.to_dict("records"), words))
    print(json.dumps({"leakage_gap": summary(found)}))


if __name__ == "__main__":
    main()
