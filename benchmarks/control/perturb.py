"""Perturbation in silico: how knock-outs of known markers change the prediction, beside those of all other genes.

    python -m benchmarks.control --data DIR --only perturb

100 cells of test donors of one label at a time, every panel gene knocked out in turn in the model that ships; genes are
ranked by how far the probability of that label falls, and beside it by plain differential expression (scanpy's Wilcoxon
test, label against the rest) on the cells of the test donors.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from rich.console import Console
from rich.table import Table

from benchmarks.shared import effort, shipped
from benchmarks.shared.studies import STUDIES
from polygene.model.checkpoint import PolyGene
from polygene.tl import perturb

CASES = (
    ("velmeshev", "sex", "female", ("XIST",)),
    ("velmeshev", "sex", "male", ("RPS4Y1", "DDX3Y", "UTY", "USP9Y", "KDM5D", "EIF1AY", "NLGN4Y", "TTTY14")),
    ("velmeshev", "cell_type", "microglial cell", ("CSF1R", "P2RY12", "CX3CR1", "CD74", "C3", "DOCK8", "APBB1IP")),
    ("onek1k", "cell_type", "memory B cell", ("CD79A", "MS4A1", "CD79B")),
    (
        "onek1k", "cell_type", "CD14-positive, CD16-negative classical monocyte",
        ("LYZ", "S100A9", "S100A8", "CD14", "FCN1"),
    ),
)  # fmt: skip
MOST_CELLS = 100  # of one label
SCANNED = 100  # cells of the timed scan


def held_out(study: shipped.Study) -> ad.AnnData:
    """Cells of test donors, with log1p counts per 10,000."""
    adata = study.cells["test"].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def expression_ranks(adata: ad.AnnData, column: str, label: str, symbols: list[str]) -> dict[str, int]:
    """Rank the genes of the panel by differential expression, 1 = highest in the label."""
    adata = adata[:, adata.var_names.isin(symbols)].copy()
    adata.obs["group"] = pd.Categorical(np.where(adata.obs[column] == label, "label", "rest"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(adata, "group", groups=["label"], method="wilcoxon")
        names = sc.get.rank_genes_groups_df(adata, "label")["names"]
    return {gene: rank for rank, gene in enumerate(names, start=1)}


def one_case(model: PolyGene, adata: ad.AnnData, case: tuple[str, str, str, tuple[str, ...]], seed: int) -> Any:
    """Knock out every gene in cells of one label: (rows of the markers; the first genes, seconds, copies)."""
    _, phenotype, label, markers = case
    column = model.tokenizer.schema.phenotypes[model.tokenizer.schema.index(phenotype)].column
    by_expression = expression_ranks(adata, column, label, list(model.tokenizer.panel.symbols))
    there = np.flatnonzero((adata.obs[column] == label).to_numpy())
    chosen = np.sort(np.random.default_rng(seed).permutation(there)[: effort.at_most(MOST_CELLS, 4)])
    started = time.perf_counter(), time.process_time()
    effects = perturb(adata[chosen].copy(), model, knock_out="all", predict=[phenotype])
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    copies = int(effects.loc[effects["effect_on"] == "embedding", "n_cells"].sum())
    effects = effects[effects["target"] == label].sort_values("effect", ignore_index=True)
    genes = effects["perturbation"].str.removesuffix(" KO")
    rows = [
        {
            "label": label, "gene": gene, "rank": place + 1, "of": len(effects),
            "rank by expression": by_expression.get(gene),
            **effects.loc[place, ["before", "effect", "low", "high", "n_cells", "n_donors"]],
        }
        for gene in markers
        if len(found := np.flatnonzero(genes == gene))
        for place in found
    ]  # fmt: skip
    top = ", ".join(genes[:5])
    return rows, {"label": label, "top": top, "seconds": seconds, "copies": copies}


def run(data: Path | None, seed: int, folder: Path) -> dict[str, Any]:
    """Rank known markers, and time a scan."""
    rows, scans = [], []
    opened: dict[str, tuple[PolyGene, ad.AnnData]] = {}
    for case in effort.few(CASES, 2):
        name = case[0]
        if name not in opened:
            study = shipped.study(STUDIES[name].file, folder, data=data)
            opened[name] = study.model, held_out(study)
        found, said = one_case(*opened[name], case, seed)
        rows += found
        scans.append(said)
    model, whole = next(reversed(opened.values()))
    some = whole[np.sort(np.random.default_rng(seed).permutation(whole.n_obs)[: effort.at_most(SCANNED, 4)])].copy()
    started = time.perf_counter(), time.process_time()
    scan = perturb(some, model, knock_out="all")
    copies = int(scan.loc[scan["effect_on"] == "embedding", "n_cells"].sum())
    seconds = {"wall_s": time.perf_counter() - started[0], "processor_s": time.process_time() - started[1]}
    table = Table(title="known markers among all knock-outs, by how far the probability of the label falls")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()))
    console = Console(width=180)
    console.print(table)
    for said in scans:
        console.print(f"{said['label']}: falls most without {said['top']}")
    return {
        "model": shipped.NAME,
        "perturb_markers": rows,
        f"perturb_scan_{SCANNED}": {
            **seconds,
            "copies": copies,
            "copies_per_processor_s": copies / seconds["processor_s"],
        },
    }
