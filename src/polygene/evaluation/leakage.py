"""The leakage gap: what a split by cells would flatter.

The same model and the same baselines answer for cells of donors that trained, which did not train themselves, and for
cells of donors that did not train. A random split of cells would report the first.

Legend: U rows of a tally (one donor within one source and split), R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from polygene.evaluation.metrics import LOWER_IS_BETTER, Tally, donor_draws, stack_splits

SCORES = ("accuracy", "macro_f1", "mae_years_by_donor")
Pairs = Mapping[str, Mapping[str, tuple[Tally, Tally]]]
"""Phenotype → predictor → tallies of (cells of training donors, cells of test donors)."""


def leakage_gaps(runs: Sequence[Pairs], *, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Tabulate the gaps over one or several splits.

    Donors of both kinds are drawn with replacement; in several splits a donor can be of both, and is drawn once.

    Returns
    -------
    Rows of `phenotype`, `predictor`, `score` (accuracy, macro_f1; for ages in years the error by donor), `seen` (on
    cells of training donors), `held_out` (on those of test donors), each with `_low` and `_high`, and `gap`, `gap_low`,
    `gap_high`: how much better the first looks, positive for errors too. Intervals hold 95 %.
    """
    table = []
    for phenotype in dict.fromkeys(name for run in runs for name in run):
        of_splits = [run[phenotype] for run in runs if phenotype in run]
        for predictor in of_splits[0]:
            seen, held_out = (stack_splits([split[predictor][i] for split in of_splits]) for i in (0, 1))
            drawn = [
                (seen.scores(weights_RU[:, : len(seen.donors_U)]), held_out.scores(weights_RU[:, len(seen.donors_U) :]))
                for weights_RU in donor_draws(np.concatenate([seen.donors_U, held_out.donors_U]), n_resamples, seed)
            ]
            for score in (score for score in SCORES if score in drawn[0][0]):
                seen_R, held_out_R = (np.concatenate([pair[i][score] for pair in drawn]) for i in (0, 1))
                sign = -1 if score in LOWER_IS_BETTER else 1
                values = {
                    "seen": (seen.scores()[score][0], seen_R),
                    "held_out": (held_out.scores()[score][0], held_out_R),
                }
                values["gap"] = sign * (values["seen"][0] - values["held_out"][0]), sign * (seen_R - held_out_R)
                row: dict[str, object] = {"phenotype": phenotype, "predictor": predictor, "score": score}
                for name, (value, value_R) in values.items():
                    known_R = value_R[np.isfinite(value_R)]  # a resample can miss every donor of one kind
                    low, high = np.quantile(known_R, (0.025, 0.975)) if len(known_R) else (np.nan, np.nan)
                    row |= {name: value, f"{name}_low": low, f"{name}_high": high}
                table.append(row)
    return pd.DataFrame(table)
