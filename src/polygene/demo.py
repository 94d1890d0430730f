"""The demo: from 700 blood cells to a trained model, annotated cells, a picture and a table, in about a minute."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import scanpy as sc
import torch
from rich.table import Table

from polygene.checkpoint import PolyGene
from polygene.errors import DataError
from polygene.evaluation import evaluate
from polygene.masking import MaskingConfig
from polygene.pl.umap import umap
from polygene.prepare import PrepareConfig, prepare
from polygene.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.report import write_report
from polygene.results import tables
from polygene.tl.annotate import annotate
from polygene.tl.embed import embed
from polygene.training import train
from polygene.writing import write_json

logger = logging.getLogger("polygene")

MADE = ("corpus", "model", "annotated.h5ad", "umap.png", "metrics.json", "report.html")
"""What the demo leaves in its folder."""

LABELS = "bulk_labels"
EPOCHS = 45
"""As many as take three quarters of a minute."""


def blood_cells() -> ad.AnnData:
    """Give 700 blood cells with 10 labels, log1p of 765 genes, that come with scanpy (Zheng et al. 2017, 68k PBMCs)."""
    with warnings.catch_warnings():  # the file is older than the anndata that reads it
        warnings.simplefilter("ignore")
        reduced = sc.datasets.pbmc68k_reduced()
    return ad.AnnData(X=reduced.raw.X, obs=reduced.obs[[LABELS]].copy(), var=reduced.raw.var.copy())


def corpus_config(seed: int) -> PrepareConfig:
    """Say how the corpus is made: there are no donors, so cells are held out at random, each label in proportion."""
    return PrepareConfig(n_genes=256, split="random", phenotypes={"cell_type": LABELS}, seed=seed)


def recipe(out: Path, *, seed: int, epochs: int) -> Recipe:
    """Give the recipe of the demo: a small network, and cell types asked often since nothing else is known."""
    return Recipe(
        corpus=str(out / "corpus"),
        out=str(out / "model"),
        network=NetworkConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128),
        masking=MaskingConfig(phenotype_rate=0.9, all_phenotypes_rate=0.9),
        training=TrainingConfig(epochs=epochs, batch_size=32, learning_rate=2e-3, evaluations=8, seed=seed),
    )


def run(out: str | Path = "polygene-demo", *, seed: int = 0, epochs: int = EPOCHS) -> list[Table]:
    """Prepare, train, annotate, embed, draw and evaluate; the held-out cells are those that are annotated.

    Parameters
    ----------
    out
        Folder for the corpus, the model, `annotated.h5ad`, `umap.png`, `metrics.json` and `report.html`; what an
        earlier demo left there is replaced.
    seed
        Decides the held-out cells and the training.

    Returns
    -------
    The scores, beside those of the baselines.

    Raises
    ------
    DataError
        The folder holds something that no demo made.
    """
    out = _cleared(Path(out))
    adata = blood_cells()
    with _one_thread():
        corpus = prepare(adata, out / "corpus", config=corpus_config(seed))
        model = train(recipe(out, seed=seed, epochs=epochs))
        held_out = adata[corpus.split("test").names_C].copy()
        annotate(held_out, model)
        embed(held_out, model)
        results = evaluate(model, corpus, seed=seed)
        saved = PolyGene.from_pretrained(out / "model")
        write_report(out / "report.html", results, saved, corpus, command=f"polygene demo --seed {seed}")
    write_json(out / "metrics.json", results)
    with warnings.catch_warnings():  # umap speaks to its developers
        warnings.simplefilter("ignore")
        sc.pp.neighbors(held_out, use_rep="X_polygene", random_state=seed)
        sc.tl.umap(held_out, random_state=seed)
    held_out.write_h5ad(out / "annotated.h5ad")
    umap(held_out, color=[LABELS, "polygene_cell_type"]).savefig(out / "umap.png")
    logger.info("%s holds %s", out, ", ".join(MADE))
    return tables(results)


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
