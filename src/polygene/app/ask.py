"""Questions about selected cells: what they are, which genes mark them, and "what if".

Legend: C selected cells that are read, V labels of one phenotype.
"""

import json
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from polygene.app.worker import say
from polygene.errors import DataError
from polygene.io.read import open_cells
from polygene.model.shipped import folder_of
from polygene.runtime.subsample import spread
from polygene.tl import counterfactual, perturb
from polygene.vocab.expression import log1p_values
from polygene.vocab.tokenizer import CellTokenizer

MOST_ASKED = 1_000
"""Selected cells that a question reads, spread evenly over the selection."""
BLOCK = 20_000  # rows of probabilities read at once
SHOWN, SHOWN_GENES = 6, 15
ANSWER = "what-if.csv"
UNSURE = 0.5  # a cell whose label is less probable counts as uncertain where there are no sets


def rows_of(folder: Path, n_cells: int) -> np.ndarray:
    """Read which cells are selected, ascending."""
    file = folder / "selection.bin"
    rows = np.unique(np.fromfile(file, np.uint32)).astype(np.int64) if file.exists() else np.zeros(0, np.int64)
    rows = rows[rows < n_cells]
    if not len(rows):
        msg = "No cell is selected: draw around cells on the map, or click a label of the legend."
        raise DataError(msg)
    return rows


def selected(*, folder: Path) -> dict[str, Any]:
    """Return the mean probabilities of the labels of each phenotype over the selected cells."""
    out = folder / "annotated.h5ad"
    cells = open_cells(out)
    rows = rows_of(folder, cells.n_obs)
    with h5py.File(out) as opened:
        labels = opened["uns/polygene/annotate/labels"]
        phenotypes = []
        for name in opened["uns/polygene/annotate/predict"].asstr()[:]:
            total_V = np.zeros(len(labels[name]))
            for first in range(0, cells.n_obs, BLOCK):
                here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + BLOCK)] - first
                if len(here):
                    total_V += opened[f"obsm/polygene_{name}"][first : first + BLOCK][here].sum(axis=0)
            most = np.argsort(-total_V)[:SHOWN]
            texts = labels[name].asstr()[:]
            phenotypes.append({"name": name, "labels": [[texts[v], float(total_V[v] / len(rows))] for v in most]})
            say("progress", n=len(phenotypes))
    first = next((one["name"] for one in phenotypes if one["name"] == "cell_type"), phenotypes[0]["name"])
    abstains, probability = f"polygene_{first}_abstains", f"polygene_{first}_probability"
    flags = {"unknown": "polygene_unknown", "wrong": f"polygene_{first}_error"}
    names = [abstains, probability, *flags.values(), *(f"polygene_{one['name']}_years" for one in phenotypes)]
    obs = cells.frame([name for name in names if name in cells.columns]).iloc[rows]
    # what abstains says why its set is not one label
    unsure_C = obs[abstains].astype(str) != "" if abstains in obs else obs[probability] < UNSURE
    for one in phenotypes:
        if (years := f"polygene_{one['name']}_years") in obs:
            one["years"] = obs[years].quantile([0.5, 0.05, 0.95]).tolist()
    shares = {key: float(obs[name].mean()) for key, name in flags.items() if name in obs}
    phenotypes.sort(key=lambda one: one["name"] != first)
    about = {"unsure": float(unsure_C.mean()), "by_sets": abstains in obs, "of": first, **shares}
    return {"cells": len(rows), "phenotypes": phenotypes, **about}


def markers(*, file: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Rank genes that are higher in the selected cells than in the others (scanpy, t-test)."""
    import scanpy as sc

    cells, rows = open_cells(file["path"], layer=file["layer"]), rows_of(folder, file["cells"])
    others = np.setdiff1d(np.arange(cells.n_obs), rows, assume_unique=True)
    chosen = [some[spread(len(some), MOST_ASKED)] for some in (rows, others)]
    if min(map(len, chosen)) < 2:
        return {"genes": [], "why": "Genes are compared where two cells or more are selected, and two are not."}
    both = np.sort(np.concatenate(chosen))
    adata = cells.read(both, columns=())
    adata.X = log1p_values(adata, scale=cells.scale)
    adata.var_names_make_unique()
    adata.obs["group"] = pd.Categorical(np.where(np.isin(both, rows), "selected", "others"))
    sc.tl.rank_genes_groups(adata, "group", groups=["selected"], method="t-test", pts=True)
    table = sc.get.rank_genes_groups_df(adata, "selected").head(SHOWN_GENES)
    shown = {"names": "gene", "logfoldchanges": "change", "pct_nz_group": "here", "pct_nz_reference": "elsewhere"}
    return {"genes": _rows(table.rename(columns=shown)[[*shown.values()]]), "read": [len(some) for some in chosen]}


def change_labels(
    *, file: dict[str, Any], folder: Path, model: str, changes: dict[str, str], donor: str
) -> dict[str, Any]:
    """Predict how the genes of the selected cells change if these labels were others (`tl.counterfactual`)."""
    (adata, rows), schema, taken = _asked(file, folder), CellTokenizer.load(folder_of(model)).schema, []
    predicted = open_cells(folder / "annotated.h5ad").frame([f"polygene_{name}" for name in changes])
    for name in changes:
        column = schema.phenotypes[schema.index(name)].column
        if column not in adata.obs and f"polygene_{name}" in predicted:
            adata.obs[column] = predicted[f"polygene_{name}"].to_numpy()[rows]
            taken.append(name)
    table = counterfactual(adata, model, changes, out=folder / ANSWER, overwrite=True, donor=donor)
    kind = "expression" if "tokens_expression" in table else "expressed"
    ends = {"before": "", "change": "_change", "low": "_low", "high": "_high"}
    names = {f"tokens_{kind}{end}": key for key, end in ends.items()} | {f"half_{kind}_change": "half"}
    effects = table.rename(columns=names)[["gene", *names.values()]].sort_values(
        "change", ascending=False, kind="stable"
    )
    return {
        "kind": kind,
        "cells": int(table["cells"].iloc[0]),
        "donors": int(table["donors"].iloc[0]) if donor in adata.obs else 0,
        "taken": taken,
        "up": _rows(effects[effects["change"] > 0].head(SHOWN_GENES)),
        "down": _rows(effects[effects["change"] < 0].iloc[::-1].head(SHOWN_GENES)),
    }


def change_genes(
    *, file: dict[str, Any], folder: Path, model: str, knock_out: list[str], over_express: list[str], donor: str
) -> dict[str, Any]:
    """Predict how the phenotypes of the selected cells move if these genes were removed or raised (`tl.perturb`)."""
    (adata, rows), out = _asked(file, folder), folder / ANSWER
    table = perturb(adata, model, knock_out=knock_out, over_express=over_express, donor=donor, out=out, overwrite=True)
    effects = table[~table["effect_on"].isin(["embedding", "expression"])].rename(columns={"effect": "change"})
    effects = effects.sort_values("change", key=abs, ascending=False, kind="stable")
    shown = ["target", "before", "change", "low", "high"]
    return {
        "perturbation": table["perturbation"].iloc[0],
        "cells": int(table["n_cells"].iloc[0]),
        "read": len(rows),
        "donors": int(table["n_donors"].iloc[0]),
        "phenotypes": [
            {"name": name, "rows": _rows(some[shown].head(SHOWN))}
            for name, some in effects.groupby("effect_on", sort=False)
        ],
    }


def _asked(file: dict[str, Any], folder: Path) -> tuple[ad.AnnData, np.ndarray]:
    rows = rows_of(folder, file["cells"])
    rows = rows[spread(len(rows), MOST_ASKED)]
    return open_cells(file["path"], layer=file["layer"]).read(rows), rows


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Give rows as the page reads them; NaN, which is no JSON, is None."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows
