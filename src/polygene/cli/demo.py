"""The demo: a shipped model annotates 700 blood cells, then learns their own labels, in half a minute."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import pandas as pd
import scanpy as sc
import torch
from rich.table import Table

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import DataError
from polygene.evaluation.evaluate import evaluate
from polygene.evaluation.report import write_report
from polygene.evaluation.tables import tables
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary
from polygene.pl._umap import umap
from polygene.runtime.json import write_json
from polygene.tl._annotate import annotate
from polygene.tl._embed import embed
from polygene.tl._finetune import finetune
from polygene.vocab.cell_ontology import cell_ontology

logger = logging.getLogger("polygene")

MODEL = "polygene-512"
MADE = ("corpus", "model", "annotated.h5ad", "umap.png", "metrics.json", "report.html")
"""What the demo leaves in its folder."""

LABELS = "bulk_labels"
MEANT = {
    "CD14+ Monocyte": "monocyte",
    "CD19+ B": "B cell",
    "CD34+": "hematopoietic precursor cell",
    "CD4+/CD25 T Reg": "regulatory T cell",
    "CD4+/CD45RA+/CD25- Naive T": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "CD4+/CD45RO+ Memory": "CD4-positive, alpha-beta memory T cell",
    "CD56+ NK": "natural killer cell",
    "CD8+ Cytotoxic T": "CD8-positive, alpha-beta cytotoxic T cell",
    "CD8+/CD45RA+ Naive Cytotoxic": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "Dendritic": "dendritic cell",
}
"""What the labels of the cells are in the Cell Ontology, as recipes/corpus/labels.tsv has them."""


def blood_cells() -> ad.AnnData:
    """Give 700 blood cells with 10 labels, log1p of 765 genes, that come with scanpy (Zheng et al. 2017, 68k PBMCs)."""
    with warnings.catch_warnings():  # the file is older than the anndata that reads it
        warnings.simplefilter("ignore")
        reduced = sc.datasets.pbmc68k_reduced()
    return ad.AnnData(X=reduced.raw.X, obs=reduced.obs[[LABELS]].copy(), var=reduced.raw.var.copy())


def run(out: str | Path = "polygene-demo", *, seed: int = 0) -> list[Table]:
    """Annotate all cells with a shipped model, teach it the labels of four fifths of them, and ask for the last fifth.

    Parameters
    ----------
    out
        Folder for `annotated.h5ad` (`obs["cell_type"]` is what the label means), `umap.png`, and of the fine-tuned
        model `model`, the `corpus` that it is evaluated on, `metrics.json` and `report.html`; what an earlier demo left
        there is replaced.
    seed
        Decides the held-out cells.

    Returns
    -------
    How the answers of the shipped model agree with the labels, then the scores of the fine-tuned one beside those of
    baselines.

    Raises
    ------
    DataError
        The folder holds something that no demo made.
    """
    out = _cleared(Path(out))
    adata = blood_cells()
    with _one_thread():
        shipped = PolyGene.from_pretrained(MODEL, device="cpu")
        annotate(adata, shipped)
        embed(adata, shipped)
        # There are no donors, so cells are held out at random, each label in proportion.
        config = PrepareConfig(split="random", fractions=(0.8, 0.0, 0.2), seed=seed)
        grown = extend_vocabulary(shipped, LABELS, adata.obs[LABELS].unique())
        corpus = prepare(adata, out / "corpus", config=config, tokenizer=grown.tokenizer)
        labelled = adata[corpus.split("train").names_C].copy()
        model = finetune(labelled, shipped, label=LABELS, out=out / "model", seed=seed)
        results = evaluate(model, corpus, seed=seed)
        saved = PolyGene.from_pretrained(out / "model", device="cpu")
        annotate(adata, saved, predict=LABELS)
        write_report(out / "report.html", results, saved, corpus, command=f"polygene demo --seed {seed}")
    write_json(out / "metrics.json", results)
    adata.obs["cell_type"] = adata.obs[LABELS].map(MEANT)
    adata.obs["held_out"] = adata.obs_names.isin(corpus.split("test").names_C)
    with warnings.catch_warnings():  # umap speaks to its developers
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, use_rep="X_polygene", random_state=seed)
        sc.tl.umap(adata, random_state=seed)
    adata.write_h5ad(out / "annotated.h5ad")
    umap(adata, color=["cell_type", "polygene_cell_type"]).savefig(out / "umap.png")
    logger.info("%s holds %s", out, ", ".join(MADE))
    return [agreement(adata.obs), *tables(results)]


def agreement(obs: pd.DataFrame) -> Table:
    """Compare the shipped model's cell types with the labels of the cells, by the Cell Ontology."""
    ontology = cell_ontology()
    table = Table(
        title=f"{MODEL}, which never saw these cells: its cell types beside {LABELS}, share of the cells",
        title_justify="left",
    )
    for column in (LABELS, "in the Cell Ontology", "cells", "the same", "finer", "broader", "most often otherwise"):
        table.add_column(column)
    for label, of_label in obs.groupby(LABELS, observed=True)["polygene_cell_type"]:
        meant = MEANT[str(label)]
        answers = of_label.astype(str)
        truth = ontology.find(meant)
        above = {answer: ontology.above[ontology.find(answer) or ""] for answer in answers.unique()}
        same = answers == meant
        finer = ~same & answers.map(lambda answer, above=above, truth=truth: truth in above[answer])
        broader = ~same & answers.map(lambda answer, truth=truth: ontology.find(answer) in ontology.above[truth or ""])
        other = answers[~(same | finer | broader)].value_counts()
        shares = [f"{of_kind.mean():.0%}" for of_kind in (same, finer, broader)]
        table.add_row(str(label), meant, f"{len(answers)}", *shares, other.index[0] if len(other) else "")
    return table


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: a network this small gains little from a second and loses tenfold where cores are busy.

    It also gives the same weights whatever number of threads is set (numba, in umap, sets it for everybody).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cleared(out: Path) -> Path:
    """Make the folder, or remove from it what an earlier demo made."""
    others = sorted(path.name for path in out.iterdir() if path.name not in MADE) if out.is_dir() else []
    if others or out.is_file():
        held = f"holds {', '.join(others[:3])}" if others else "is a file"
        msg = f"{str(out)!r} {held}, which no demo made; choose another folder (--out)."
        raise DataError(msg)
    for name in MADE:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    return out
