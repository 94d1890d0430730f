"""The leakage gap: what a split by cells would flatter.

    python -m benchmarks.trust --data DIR --only leakage

The same model and the same baselines predict cells of training donors that were set aside by `prepare`, and cells of
test donors. A random split of cells would report the scores on the first.

Legend: C cells, V labels of a phenotype, S sources, U rows of a tally (one donor within one source and split),
R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.shared import effort
from benchmarks.shared.splits import stack_splits
from benchmarks.shared.studies import held_out_widely
from polygene.corpus.corpus import Corpus
from polygene.evaluation.bootstrap import donor_draws
from polygene.evaluation.metrics import LOWER_IS_BETTER, Tally, label_tally
from polygene.evaluation.test_cells import (
    MODEL,
    CellBlocks,
    baseline_predictions,
    cell_table,
    donor_names,
    model_predictions,
    scored_labels,
)
from polygene.model.checkpoint import PolyGene

STUDIES, N_SPLITS = ("onek1k", "velmeshev"), 1
SCORES = ("accuracy", "macro_f1", "mae_years_by_donor")
Pairs = Mapping[str, Mapping[str, tuple[Tally, Tally]]]
"""Phenotype → predictor → tallies of (cells of training donors, cells of test donors)."""


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Train and score on donor splits; the gaps of each file."""
    gaps = {}
    for study in effort.few(STUDIES):
        splits = [held_out_widely(study, folder, data=data, seed=split) for split in range(seed, seed + N_SPLITS)]
        gaps[study] = leakage_gaps([pairs(model, corpus, seed=seed) for model, corpus in splits], seed=seed)
        Console(width=160).print(f"{study}, {N_SPLITS} donor split", gaps[study].round(3).to_string(index=False))
    return {"leakage_gap": summary(gaps)}


def pairs(model: PolyGene, corpus: Corpus, *, seed: int = 0) -> Pairs:
    """Tally, over the labels that both kinds of donors have, what every predictor gets right; donors count alike."""
    train, test, seen = (corpus.split(name) for name in ("train", "test", "seen"))
    schema, cells = corpus.tokenizer.schema, CellBlocks(corpus, test, seen)
    table, (answers, _) = cell_table(corpus, train, np.arange(len(train))), model_predictions(model, cells)
    found: dict[str, dict[str, tuple[Tally, Tally]]] = {}
    for p, name in enumerate(schema.names):
        both_SV = scored_labels(train, test, p, len(schema.labels[p]))
        aside_SV = np.zeros((len(corpus.sources), both_SV.shape[1]), dtype=bool)
        known_C = seen.labels_CP[:, p] >= 0
        aside_SV[seen.sources_C[known_C], seen.labels_CP[known_C, p]] = True
        both_SV &= aside_SV[: len(both_SV)]
        both_SV &= both_SV.sum(axis=1, keepdims=True) >= 2
        if not both_SV.any():
            continue
        kept_C = seen.sources_C < len(both_SV)
        tallied = partial(label_tally, labels=schema.labels[p], scorable_SV=both_SV)
        baselines = baseline_predictions(name, model, table, train.labels_CP[:, p], cells, seed=seed)
        for predictor, p_CV in chain([(MODEL, answers[p])], baselines):
            test_CV, seen_CV = np.split(p_CV, [len(test)])
            of_seen = tallied(
                seen_CV[kept_C],
                seen.labels_CP[kept_C, p],
                sources_C=seen.sources_C[kept_C],
                donors_C=donor_names(seen, kept_C),
            )
            of_test = tallied(test_CV, test.labels_CP[:, p], sources_C=test.sources_C, donors_C=donor_names(test))
            found.setdefault(name, {})[predictor] = (donors_alike(of_seen), donors_alike(of_test))
    return found


def donors_alike(tally: Tally) -> Tally:
    """Let every donor within a source count the same, however many cells it has: for a `label_tally`."""
    cells_U = np.split(tally.sums_UK[:, :-1], 3, axis=1)[1].sum(axis=1)
    return replace(tally, sums_UK=tally.sums_UK / cells_U[:, None])


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


def summary(gaps: Mapping[str, pd.DataFrame]) -> dict[str, object]:
    """The gaps as the last line gives them."""
    return {
        study: {
            f"{row.phenotype}: {row.predictor}, {row.score}": [
                round(float(row[key]), 3) for key in ("seen", "held_out", "gap", "gap_low", "gap_high")
            ]
            for _, row in table.iterrows()
        }
        for study, table in gaps.items()
    }
