"""What `annotate` writes on studies that trained nothing: the first tables of docs/scores.md.

    python -m benchmarks.models.never_seen --data DIR [--corpora DIR] [--model NAME-OR-PATH ...]

--corpora is what benchmarks.models.corpus made, else it is made. Every cell of each external file gets the label that
`annotate` reports, nothing but expression being given. By the ontology: a predicted label at or below the true one is
right. PBMC 3k is also scored by eight types (CD4 and CD8, CD14 and CD16 monocytes apart) and by six. Its labels are
those of clusters, so it is scored once more without the T cells that their own genes contradict: those that express
CD8A or CD8B and no CD4 where the label says CD4, or CD4 and neither of the others where it says CD8. Of tissue and sex
it is the share that is right, of sex also among the cells that express either XIST or genes of Y; of files of counts
also the share of cells that keep their type when their counts are thinned to a third, and how many of these types are
right. `--folder left_out --most 1500` scores studies that a fold of recipes/corpus/left_out.toml left out, by which the
training is chosen. The last line is one JSON object.

Legend: C cells.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import sparse

import polygene as pg
from benchmarks.models import external
from benchmarks.shared import bits, command
from polygene.vocab.gene_names import XIST, Y_GENES
from polygene.vocab.ontology import ontology_of

THIRD = 1 / 3
SIX = {
    "T cell": ("T cell",),
    "B cell": ("B cell",),
    "natural killer cell": ("natural killer cell",),
    "monocyte": ("monocyte",),
    "dendritic cell": ("dendritic cell",),
    "platelet": ("platelet",),
}
EIGHT = {
    "CD4 T cell": ("CD4-positive, alpha-beta T cell", "CD4-positive helper T cell"),
    "CD8 T cell": ("CD8-positive, alpha-beta T cell",),
    # the ontology sets CD14-positive and classical monocytes beside each other
    "CD14 monocyte": ("CD14-positive monocyte", "classical monocyte"),
    "CD16 monocyte": ("non-classical monocyte",),
    **{name: terms for name, terms in SIX.items() if name not in ("T cell", "monocyte")},
}
KINDS = {"CD4 T cell": ["CD4"], "CD8 T cell": ["CD8A", "CD8B"]}
"""The genes whose protein names the kind."""
SEX = {"pbmc3k_10x": "male", "heart_san_kanemaru": "male"}  # of the one donor; of PBMC 3k by its Y genes
TYPES, SAME = "types, by ontology", "same type, thinned to a third"
AGREED = "types, without contradicted T cells"
TOLD = "sex, of cells with either XIST or genes of Y"
TISSUE = {"heart_san_kanemaru": "heart"}  # its sinoatrial node is not in the table of tissues that ships


def group(label: str, groups: Mapping[str, Sequence[str]]) -> str:
    """Give the group that has a term at or above the label; "other" without one."""
    compare = ontology_of("cell_type").compare
    for name, terms in groups.items():
        if any(compare(label, term) in ("same", "finer") for term in terms):
            return name
    return "other"


def grouped(predicted_C: np.ndarray, truth_C: np.ndarray, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Score labels by group."""
    predicted, truth = (np.array([group(label, groups) for label in some_C]) for some_C in (predicted_C, truth_C))
    return {"accuracy": float((predicted == truth).mean()), "macro_f1": external.macro_f1(predicted, truth)}


def by_ontology(predicted_C: np.ndarray, truth_C: np.ndarray) -> dict[str, Any]:
    """Score reported labels as `external` scores the most probable ones."""
    labels, label_C = np.unique(predicted_C, return_inverse=True)
    found = external.by_ontology(np.eye(len(labels))[label_C], labels.tolist(), truth_C.tolist())
    return {name: found[name] for name in ("accuracy", "macro_f1", "right")}


def share_right(phenotype: str, predicted_C: pd.Series, truth: str | pd.Series) -> float:
    """Share of cells whose label is the true one; of tissues also one above or below it."""
    truth_C = pd.Series(truth, predicted_C.index).astype(str)
    if phenotype != "tissue":
        return float((predicted_C == truth_C).mean())
    compare = ontology_of("tissue").compare
    pairs = {pair: compare(*pair) != "other" for pair in set(zip(predicted_C, truth_C, strict=True))}
    return float(np.mean([pairs[pair] for pair in zip(predicted_C, truth_C, strict=True)]))


def thinned(cells: ad.AnnData, seed: int) -> ad.AnnData | None:
    """Keep each molecule with a chance of a third; None where the file holds no counts."""
    x_CG = sparse.csr_matrix(cells.X)
    if (x_CG.data != np.rint(x_CG.data)).any():
        return None
    x_CG.data = np.random.default_rng(seed).binomial(x_CG.data.astype(np.int64), THIRD).astype(np.float32)
    return ad.AnnData(x_CG, obs=cells.obs[[]].copy(), var=cells.var[[]].copy())


def expressed(cells: ad.AnnData, genes: Sequence[str]) -> np.ndarray:
    """Which cells express one of the genes, bool (C,)."""
    x_CG = sparse.csr_matrix(cells[:, cells.var_names.isin(genes)].X)
    expressed_C: np.ndarray = np.asarray(x_CG.sum(axis=1)).ravel() > 0
    return expressed_C


def one_kind(cells: ad.AnnData) -> np.ndarray:
    """Which cells express XIST or genes of Y, and not both, bool (C,)."""
    told_C: np.ndarray = expressed(cells, [XIST]) != expressed(cells, Y_GENES)
    return told_C


def contradicted(cells: ad.AnnData, truth_C: np.ndarray) -> np.ndarray:
    """Which T cells express what names the other kind and not what names theirs, bool (C,)."""
    kind_C = np.array([group(label, EIGHT) for label in truth_C])
    cd4_C, cd8_C = (expressed(cells, genes) for genes in KINDS.values())
    wrong_C: np.ndarray = ((kind_C == "CD4 T cell") & cd8_C & ~cd4_C) | ((kind_C == "CD8 T cell") & cd4_C & ~cd8_C)
    return wrong_C


def types_of(cells: ad.AnnData) -> np.ndarray:
    """Give the types that `annotate` wrote."""
    return cells.obs["polygene_cell_type"].astype(str).to_numpy()


def of_study(name: str, cells: ad.AnnData, model: pg.PolyGene, seed: int = 0) -> list[dict[str, Any]]:
    """Annotate a study and score what was written."""
    truth = cells.obs.get("cell_type", pd.Series(pd.NA, cells.obs_names)).astype("string")
    less = thinned(cells, seed)
    pg.tl.annotate(cells, model, predict=["sex", "tissue", "cell_type"])
    known_C = truth.notna().to_numpy()
    truth_C = truth[known_C].to_numpy(dtype=str)
    predicted_C = types_of(cells)[known_C]
    rows = [{"score": TYPES, **by_ontology(predicted_C, truth_C)}] if known_C.any() else []
    if less is not None:
        pg.tl.annotate(less, model, predict="cell_type")
        rows.append({"score": SAME, "accuracy": float((types_of(less) == types_of(cells)).mean())})
        if known_C.any():
            rows.append({"score": "types, thinned to a third", **by_ontology(types_of(less)[known_C], truth_C)})
    if name == "pbmc3k_10x":
        kept_C = ~contradicted(cells[known_C], truth_C)
        agreed = predicted_C[kept_C], truth_C[kept_C]
        rows += [
            {"score": "eight types", **grouped(predicted_C, truth_C, EIGHT)},
            {"score": "six types", **grouped(predicted_C, truth_C, SIX)},
            {"score": f"eight {AGREED}", **grouped(*agreed, EIGHT)},
            {"score": AGREED, "kept": bits.written(kept_C), **by_ontology(*agreed)},
        ]
    for phenotype, right in (
        ("tissue", TISSUE.get(name, cells.obs.get("tissue"))),
        ("sex", cells.obs.get("sex", SEX.get(name))),
    ):
        if right is None:
            continue
        predicted = cells.obs[f"polygene_{phenotype}"].astype(str)
        rows.append({"score": phenotype, "accuracy": share_right(phenotype, predicted, right)})
        if phenotype == "sex" and (told_C := one_kind(cells)).any():
            truth = pd.Series(right, cells.obs_names)[told_C]
            rows.append({"score": TOLD, "accuracy": share_right("sex", predicted[told_C], truth)})
    return [{"study": name, "cells": len(cells), **row} for row in rows]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Score each model on each external study."""
    rows = []
    with external.made(options) as corpora:
        for file in sorted((corpora / options.folder).glob("*.h5ad")):
            for model in options.model:
                cells = ad.read_h5ad(file)
                chosen = np.random.default_rng(options.seed).permutation(len(cells))[: options.most]
                cells = cells[np.sort(chosen)].copy()
                some = of_study(file.stem, cells, pg.PolyGene.from_pretrained(model), options.seed)
                rows += [{"model": model, **row} for row in some]
    table = Table("study", "score", "model", "accuracy", "macro-F1", title="studies never seen")
    for row in rows:
        numbers = (f"{row[name]:.3f}" if name in row else "" for name in ("accuracy", "macro_f1"))
        table.add_row(row["study"], row["score"], row["model"], *numbers)
    Console(width=140).print(table)
    return {"rows": rows}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=Path, help="folder that benchmarks.models.corpus made; else it is made")
    parser.add_argument("--folder", default="external", help="folder of --corpora with the studies")
    parser.add_argument("--most", type=int, metavar="N", help="cells of a study that are scored (default: all)")
    parser.add_argument("--model", nargs="+", default=["polygene-512"], help="checkpoints to score")


def main(argv: Sequence[str] | None = None) -> None:
    command.run("never_seen", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
