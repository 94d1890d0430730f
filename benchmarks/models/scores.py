"""Scores of `benchmarks/models`: within each source, beside the baselines, with intervals over its donors.

Legend: C cells, V labels of a phenotype, N terms of the ontology.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.models.baselines import CELLTYPIST, Asked
from polygene.evaluation.bootstrap import compare
from polygene.evaluation.metrics import label_tally, years_tally
from polygene.evaluation.scorable import scorable
from polygene.evaluation.test_cells import MODEL, REFERENCE, YEARS_REFERENCE
from polygene.vocab.ontology import LabelTree

FEW_DONORS = 3
"""With fewer test donors resampling them says nothing: intervals are over cells, which makes them too narrow."""
SCORES = ("macro_f1", "accuracy", "log_loss")
CREDITED = SCORES[:2]
"""Scores of answers that the ontology credits: what log loss would mean there is not clear."""
YEARS_SCORE = "mae_years_by_donor"
Answers = Mapping[str, np.ndarray]
"""Predictor → probabilities_CV, or years_C."""


def scored_labels(
    asked: Asked, phenotype: str, labels: Sequence[str], learned_C: np.ndarray, learned_donors_C: np.ndarray | None
) -> dict[int, np.ndarray]:
    """Decide which labels are scored in which source, bool (V,) each; a source that is not scored is left out.

    Within a source of the corpus those of `scorable.scorable`: two training donors have the label, as `evaluate` asks.
    In a study never seen, two training cells do. A source is scored where the phenotype varies, that is with two such
    labels, and a study never seen also with one cell type: whether an answer is below it is a question.

    Parameters
    ----------
    learned_C, learned_donors_C
        Label and donor of the training cells.
    """
    truth_C, sources_C = asked.truth(phenotype, labels), asked.table.sources_C
    within_SV = scorable(
        learned_C,
        np.where(sources_C < asked.n_corpus, truth_C, -1),
        len(labels),
        train_donors_C=learned_donors_C,
        test_donors_C=asked.table.donors_C,
        test_sources_C=sources_C,
    )
    taught_V = np.bincount(learned_C[learned_C >= 0], minlength=len(labels)) >= 2
    for s in range(asked.n_corpus, len(asked.sources)):
        here = truth_C[(sources_C == s) & (truth_C >= 0)]
        within_SV[s] = taught_V & (np.bincount(here, minlength=len(labels)) > 0)
    enough = [1 if s >= asked.n_corpus and phenotype == "cell_type" else 2 for s in range(len(within_SV))]
    return {s: scored_V for s, scored_V in enumerate(within_SV) if scored_V.sum() >= enough[s]}


def label_rows(
    asked: Asked,
    phenotype: str,
    labels: Sequence[str],
    scored: Mapping[int, np.ndarray],
    answers: Answers,
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Score a phenotype within the sources that `scored_labels` names.

    Returns
    -------
    For each source `source`, `phenotype`, `external`, `cells`, `not_scored` (cells whose label is not), `labels`,
    `donors`, `unit`, and `scores`: rows of `metrics.compare` with the gain over logistic regression. Of cell types also
    `by_ontology`, where an answer below the true label counts as right, and both again with the gain over CellTypist:
    `over_celltypist`, `over_celltypist_by_ontology`; and `tree`, what `LabelTree.scores` says of the labels.
    """
    truth_C, found = asked.truth(phenotype, labels), []
    for s, scored_V in scored.items():
        here_C = asked.table.sources_C == s
        kept_C = here_C & (truth_C >= 0) & scored_V[truth_C]
        donors = asked.table.donors_C[kept_C]
        row: dict[str, Any] = {
            "source": asked.sources[s],
            "phenotype": phenotype,
            "external": s >= asked.n_corpus,
            "cells": int(kept_C.sum()),
            "not_scored": int((here_C & asked.labels[phenotype].notna().to_numpy() & ~kept_C).sum()),
            "labels": int(scored_V.sum()),
            "donors": len(set(donors)),
            "unit": resampling_unit(donors),
        }
        truths = truth_C[kept_C], scored_V, donors if row["unit"] == "donor" else None
        of_kept = {who: p_CV[kept_C] for who, p_CV in answers.items()}
        row["scores"] = compared(of_kept, *truths, reference=REFERENCE, seed=seed)
        if phenotype == "cell_type":
            tree = LabelTree(labels)
            credit = {who: credited(p_CV, truths[0], tree) for who, p_CV in of_kept.items()}
            row["by_ontology"] = compared(credit, *truths, reference=REFERENCE, scores=CREDITED, seed=seed)
            row["tree"] = {who: tree.scores(p_CV, truths[0], truths[2])["label"] for who, p_CV in of_kept.items()}
            row["over_celltypist"] = compared(of_kept, *truths, reference=CELLTYPIST, seed=seed)
            row["over_celltypist_by_ontology"] = compared(
                credit, *truths, reference=CELLTYPIST, scores=CREDITED, seed=seed
            )
        found.append(row)
    return found


def compared(
    answers: Answers,
    truth_C: np.ndarray,
    scored_V: np.ndarray,
    donors_C: np.ndarray | None,
    *,
    reference: str,
    scores: Sequence[str] = SCORES,
    seed: int,
) -> list[dict[str, Any]]:
    """Give the rows of `metrics.compare` of cells of one source."""
    tallies = {
        who: label_tally(p_CV, truth_C, scorable_SV=scored_V[None], donors_C=donors_C) for who, p_CV in answers.items()
    }
    rows = compare(tallies, reference=reference, seed=seed)
    return rows[rows.score.isin(scores)].to_dict("records")


def credited(probabilities_CV: np.ndarray, truth_C: np.ndarray, tree: LabelTree) -> np.ndarray:
    """Let an answer below the true label be the true label: their probabilities change places."""
    changed_CV, answer_C = probabilities_CV.copy(), probabilities_CV.argmax(axis=1)
    rows = np.flatnonzero(tree.under_NV[tree.of_label_V[truth_C], answer_C])
    truth, answer = truth_C[rows], answer_C[rows]
    changed_CV[rows, truth], changed_CV[rows, answer] = probabilities_CV[rows, answer], probabilities_CV[rows, truth]
    return changed_CV


def resampling_unit(donors_C: np.ndarray) -> str:
    """Say what intervals are over: donors, or cells where there are too few."""
    return "donor" if len(set(donors_C) - {""}) >= FEW_DONORS else "cell"


def years_rows(asked: Asked, phenotype: str, answers: Answers, *, seed: int = 0) -> list[dict[str, Any]]:
    """Score ages in years within every source whose cells differ in age, as `label_rows` does labels.

    The gain is over ridge regression. With fewer than three donors there is no interval.
    """
    found = []
    actual_C = asked.years[phenotype].to_numpy()
    for s, source in enumerate(asked.sources):
        kept_C = (asked.table.sources_C == s) & np.isfinite(actual_C)
        donors = asked.table.donors_C[kept_C]
        if len(set(actual_C[kept_C])) < 2:
            continue
        tallies = {
            who: years_tally(years_C[kept_C], actual_C[kept_C], donors_C=donors) for who, years_C in answers.items()
        }
        rows = compare(tallies, reference=YEARS_REFERENCE, seed=seed)
        if resampling_unit(donors) == "cell":
            rows[["low", "high", "gain_low", "gain_high", "at_or_above"]] = None
        found.append(
            {
                "source": source,
                "phenotype": f"{phenotype} in years",
                "external": s >= asked.n_corpus,
                "cells": int(kept_C.sum()),
                "donors": len(set(donors)),
                "unit": "donor",
                "scores": rows[rows.score == YEARS_SCORE].to_dict("records"),
            }
        )
    return found


def of(row: Mapping[str, Any], predictor: str, score: str, table: str = "scores") -> dict[str, Any]:
    """Find one score of a predictor in a row of `label_rows` or `years_rows`."""
    return next(one for one in row[table] if one["predictor"] == predictor and one["score"] == score)


def marks(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Give the main score by source and phenotype: the model's under the name of the score, the others' under theirs.

    The score is macro-F1, years off, or where one label is scored the accuracy by the ontology.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        table, score, name = "scores", "macro_f1", "macro_f1"
        if row["phenotype"].endswith(" in years"):
            score = name = YEARS_SCORE
        elif row["labels"] == 1:
            table, score, name = "by_ontology", "accuracy", "accuracy_by_ontology"
        values = {one["predictor"]: round(float(one["value"]), 4) for one in row[table] if one["score"] == score}
        found.setdefault(row["source"], {})[row["phenotype"]] = {name: values.pop(MODEL)} | values
    return found


def targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say which targets are met: not below regression within a source, nor below CellTypist in a study never seen.

    Regression is logistic, and ridge for ages in years where there are donors enough for an interval. A target is met
    unless the paired interval of the gain lies below 0; `found` says whether it lies above.
    """
    found = []
    for row in rows:
        years = row["phenotype"].endswith(" in years")
        if row["external"] and row["phenotype"] != "cell_type":
            continue
        if years:
            scored = [("scores", YEARS_SCORE, YEARS_REFERENCE)]
        elif not row["external"]:
            scored = [("scores", "macro_f1", REFERENCE)]
        elif row["labels"] > 1:
            scored = [(table, "macro_f1", CELLTYPIST) for table in ("over_celltypist", "over_celltypist_by_ontology")]
        else:  # of one label that others are below only the ontology can say what is right
            scored = [("over_celltypist_by_ontology", "accuracy", CELLTYPIST)]
        for table, score, reference in scored:
            one = of(row, MODEL, score, table)
            if one["gain_low"] is None or np.isnan(one["gain_low"]):
                continue
            found.append(
                {
                    "source": row["source"],
                    "phenotype": row["phenotype"],
                    "score": score + (", by the ontology" if table.endswith("by_ontology") else ""),
                    "reference": reference,
                    **{key: one[key] for key in ("gain", "gain_low", "gain_high")},
                    "unit": row["unit"],
                    "found": "above" if one["gain_low"] > 0 else "below" if one["gain_high"] < 0 else "not told apart",
                    "met": bool(one["gain_high"] >= 0),
                }
            )
    return found
