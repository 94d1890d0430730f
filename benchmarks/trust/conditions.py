"""What conditioning helps: each phenotype predicted with nothing, one other phenotype, or all others given.

    python -m benchmarks.trust --data DIR --only conditions

Legend: C cells, P phenotypes, S sources, V labels of a phenotype.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.shared.studies import held_out_widely
from benchmarks.trust.leakage import donors_alike
from polygene.corpus.corpus import CorpusSplit
from polygene.evaluation.bootstrap import compare
from polygene.evaluation.metrics import Tally, label_tally
from polygene.evaluation.test_cells import CellBlocks, donor_names, model_predictions, scored_labels
from polygene.model.checkpoint import PolyGene
from polygene.model.inference import label_probabilities
from polygene.runtime.subsample import spread

MOST_CELLS = 1_000
"""At most so many test cells are asked, spread evenly: each goes through the network twice a phenotype."""
NOTHING, OTHERS = "nothing", "all others"
STUDY = "onek1k"


def run(data: Path | None, seed: int, folder: Path) -> dict[str, object]:
    """Train on one donor split; accuracy and macro-F1 of each phenotype, by what is given."""
    model, corpus = held_out_widely(STUDY, folder, data=data, seed=seed)
    train, test = corpus.split("train"), corpus.split("test")
    table = conditions(model, train, test, model_predictions(model, CellBlocks(corpus, test))[0], seed=seed)
    Console(width=160).print(table.round(3).to_string(index=False))
    return {"conditions": table.to_dict("records")}


def conditions(
    model: PolyGene, train: CorpusSplit, test: CorpusSplit, answers: Sequence[np.ndarray], *, seed: int = 0
) -> pd.DataFrame:
    """Score each phenotype that varies within a source, by what is given beside expression.

    Every donor counts the same, and intervals are over resampled donors, those of gains paired. The cells are the same
    on every row; one without the given label is answered without it, and `known` is the share that has it (of all
    others: the mean share).

    Parameters
    ----------
    answers
        Of the model for all test cells with nothing given, phenotype by phenotype, (C, V).

    Returns
    -------
    Rows of `phenotype`, `given` ("nothing", a phenotype, "all others"), `known`, `score` (accuracy, macro_f1), `value`,
    `low`, `high`, and `gain` over nothing with `gain_low`, `gain_high`.
    """
    schema = model.tokenizer.schema
    rows = spread(len(test), MOST_CELLS)
    cells, sources_C, labels_CP = test.cells(rows), test.sources_C[rows], test.labels_CP[rows]
    known = {name: share for name, share in zip(schema.names, (labels_CP >= 0).mean(axis=0), strict=True) if share}
    scorable_SV = {
        name: scored_labels(train, test, p, len(schema.labels[p]), rows) for p, name in enumerate(schema.names)
    }
    asked = [name for name in schema.names if scorable_SV[name].any()]
    tallies: dict[str, dict[str, Tally]] = {name: {} for name in asked}

    def score(names: list[str], word: str, probabilities: Sequence[np.ndarray]) -> None:
        for name, p_CV in zip(names, probabilities, strict=True):
            truth_C = labels_CP[:, schema.index(name)]
            tallied = label_tally(
                p_CV, truth_C, scorable_SV=scorable_SV[name], sources_C=sources_C, donors_C=donor_names(test, rows)
            )
            tallies[name][word] = donors_alike(tallied)

    score(asked, NOTHING, [answers[schema.index(name)][rows] for name in asked])
    for other in known:
        names = [name for name in asked if name != other]
        score(names, other, label_probabilities(model, cells, predict=names, given=[other]) if names else [])
    for name in asked:
        if len(others := [other for other in known if other != name]) > 1:
            score([name], OTHERS, label_probabilities(model, cells, predict=[name], given=others))
    tables = []
    for name in asked:
        table = compare(tallies[name], reference=NOTHING, seed=seed).rename(columns={"predictor": "given"})
        shares = [share for other, share in known.items() if other != name]
        share_of = {NOTHING: 1.0, **known, OTHERS: sum(shares) / max(len(shares), 1)}
        table.insert(0, "phenotype", name)
        table.insert(2, "known", table.given.map(share_of))
        tables.append(table[table.score.isin(("accuracy", "macro_f1"))].drop(columns="at_or_above"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
