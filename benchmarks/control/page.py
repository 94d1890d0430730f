"""Lay out the tables of what control tokens are worth from the kept results; `recipes.pages` puts them into docs/."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from benchmarks.shared.markdown import markdown

WAYS = {
    "polygene": "PolyGene",
    "polygene_expressed": 'PolyGene, `output="expressed"`',
    "polygene_with_own": "PolyGene and the cell's own counts",
    "type_mean": "mean of the predicted type",
    "knn": "neighbours, the cell's own counts if that helps",
    "knn_without_own": "neighbours",
    "scvi": "scVI, the cell's own counts",
}
TASKS = {"counts": "a tenth of the molecules", "genes": "a tenth of the genes"}


def _text(value: Any, digits: int = 2) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value:.{digits}f}".replace("-", "−") if isinstance(value, float) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    return markdown([list(head), *([_text(value) for value in row] for row in rows)])


def denoise(results: Mapping[str, Any]) -> str:
    """Lay out a row a study and way, for hidden molecules and hidden genes."""
    scores = {"spearman": "Spearman", "expressed": "average precision", "error": "deviance"}
    head = ["study", "restored by", *(f"{title}: {score}" for title in TASKS.values() for score in scores.values())]
    rows = [
        [study, WAYS[way], *(tasks[task][way][score] for task in TASKS for score in scores)]
        for study, tasks in results["denoise"].items()
        for way in tasks["counts"]
    ]
    return _table(head, rows)


def generation(results: Mapping[str, Any]) -> str:
    """Lay out means over the types of each study."""
    scores = {
        "auc": "told apart (AUC)", "corr": "gene-gene correlations", "mean": "means off", "zeros": "zeros off",
        "agree": "of the type", "memory": "distance to training cells", "donors": "training donors found (AUROC)",
    }  # fmt: skip
    rows = pd.DataFrame(results["generation_rows"])
    means = rows.groupby(["study", "source"], sort=False)[list(scores)].mean()
    types = rows.groupby("study")["label"].nunique()
    body = [
        [f"{study}, {types[study]} types", source, *row]
        for (study, source), row in zip(means.index, means.to_numpy().tolist(), strict=True)
    ]
    return _table(["study", "cells of", *scores.values()], body)


def unseen(results: Mapping[str, Any]) -> str:
    """Lay out a pair of labels that was never seen together."""
    scores = {"auc": "told apart (AUC)", "corr": "gene-gene correlations", "agree": "of the type"}
    rows = [[row["label"], row["source"], *(row[score] for score in scores)] for row in results["unseen_rows"]]
    return _table(["labels", "cells of", *scores.values()], rows)


def balance(results: Mapping[str, Any]) -> str:
    """Lay out what each way of balancing adds to F1 of the rare type."""
    gains = results["balance_gain"]
    ways = list(next(iter(next(iter(gains.values())).values())))
    rows = [[who, n, *(of[way] for way in ways)] for who, sizes in gains.items() for n, of in sizes.items()]
    return _table(["classifier", "cells of the rare type", *(f"{way}: F1 gained" for way in ways)], rows)


def perturb(results: Mapping[str, Any]) -> str:
    """Lay out where known markers stand among all knock-outs."""
    columns = {"label": "label", "gene": "gene", "rank": "rank", "of": "of", "rank by expression": "rank by expression"}
    rows = [
        [*(row[column] for column in columns), row["before"], _text(row["effect"], 4)]
        for row in results["perturb_markers"]
    ]
    return _table([*columns.values(), "probability", "its change"], rows)


def counterfactual(results: Mapping[str, Any]) -> str:
    """Lay out how changes of expression agree with pseudobulk; changes of log odds stay in the kept result."""
    columns = {
        "spearman": "Spearman", "top_20": "of the top 20", "auc_rising": "known rising (AUROC)",
        "auc_falling": "known falling (AUROC)", "xist_rank": "rank of XIST",
    }  # fmt: skip
    shown = [row for row in results["counterfactual"] if "log odds" not in row["by"]]
    rows = [[row["change"], row["by"], *(row.get(column) for column in columns)] for row in shown]
    return _table(["change", "by", *columns.values()], rows)


SECTIONS = {one.__name__: one for one in (denoise, generation, unseen, balance, perturb, counterfactual)}
