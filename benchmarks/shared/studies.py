"""The models that benchmarks score: one small network a file, trained on the training donors, kept in a folder.

A run that has ended in the folder is only loaded, and one that was stopped goes on, so several benchmarks share models.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from benchmarks.shared import effort, files
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig

NETWORK = NetworkConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512)
SEX_GENES = ("XIST", "RPS4Y1", "DDX3Y", "KDM5D", "UTY", "USP9Y", "EIF1AY", "ZFY", "NLGN4Y", "PRKY", "TTTY10", "TTTY14")
"""Genes that differ between the sexes: XIST (from the inactive X), and genes of the part of Y that does not recombine
(Skaletsky et al. 2003 Nature 423:825; Tukiainen et al. 2017 Nature 550:244)."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A file of the data folder, how it is prepared, and how long it is learned."""

    file: str
    epochs: int
    prepared: Mapping[str, Any] = field(default_factory=dict)


WIDE = {"onek1k": (0.5, 0.25, 0.25), "velmeshev": (0.39, 0.39, 0.22)}
"""Shares of donors that train, validate and test in `held_out_widely`."""
EVALUATIONS = 3
"""How often validation cells are scored; the best state is kept."""

STUDIES = {
    "onek1k": Study(file="onek1k_scdesignpop_multicell", epochs=8),
    "velmeshev": Study(
        file="velmeshev_asd_pfc_glia",
        epochs=6,
        prepared={"phenotypes": {"sex": "sex_inferred"}, "include_genes": SEX_GENES},
    ),
    "zheng": Study(file="zheng_pbmc_facs", epochs=5, prepared={"split": "random"}),
}


def trained(
    name: str,
    folder: Path,
    *,
    data: Path | None,
    seed: int = 0,
    tag: str = "",
    epochs: int | None = None,
    prepared: Mapping[str, Any] | None = None,
    without: Mapping[str, str] | None = None,
    drop: Collection[str] = (),
    genes: Collection[str] = (),
    **recipe: Any,
) -> tuple[PolyGene, Corpus]:
    """Give the model of a study and its corpus.

    Parameters
    ----------
    folder
        Where corpora and models are kept.
    seed
        Of the donor split and of the training.
    tag
        A name for what the following change; models with one tag and seed are the same.
    epochs
        In place of those of the study.
    prepared
        More fields of `PrepareConfig`.
    without
        Labels by column: cells that have all of them are taken out of the file before anything is learned of it.
    drop
        Names of cells that are taken out as well.
    genes
        The only genes of the file that are read, if any are named.
    recipe
        Other parts of the recipe: `masking`, `loss`, …
    """
    study = STUDIES[name]
    other = f"-{tag}" if prepared or without or len(drop) or genes else ""
    corpus = folder / f"{name}-{seed}{other}-corpus"
    if not corpus.exists():
        source: Any = files.locate(study.file, data)
        settings = {"seed": seed, **study.prepared, **(prepared or {})}
        if without or len(drop) or genes:
            cells = ad.read_h5ad(source)
            columns = cells.var_names.isin(genes) if genes else np.ones(cells.n_vars, dtype=bool)
            taken = having(cells.obs, without or {}) | cells.obs_names.isin(drop)
            source = {name: cells[~taken, columns].copy()}
            wanted = settings.get("include_genes", ())
            settings["include_genes"] = tuple(gene for gene in wanted if gene in source[name].var_names)
        effort.prepare(source, corpus, config=PrepareConfig(**settings))
    training = TrainingConfig(
        epochs=epochs or study.epochs, evaluations=EVALUATIONS, learning_rate=2e-3, precision="bfloat16", seed=seed
    )
    parts = {"training": training, "network": NETWORK} | recipe
    out = folder / f"{name}-{seed}{f'-{tag}' if tag else ''}"
    return effort.train(Recipe(corpus=str(corpus), out=str(out), **parts)), Corpus(corpus)


def held_out_widely(
    name: str, folder: Path, *, data: Path | None, seed: int = 0, without: Mapping[str, str] | None = None
) -> tuple[PolyGene, Corpus]:
    """Give the model of a study and its corpus with many donors held out, which several parts of trust share.

    Sets at 0.9 need nine validation donors: of OneK1K's 40 donors ten calibrate, of Velmeshev's 23 nine (a tenth, the
    default, gives four and two). A twentieth of the cells of training donors is set aside as "seen".
    """
    prepared = {"seen": 0.05, "fractions": WIDE[name]} if name in WIDE else {}
    return trained(name, folder, data=data, seed=seed, tag="wide", prepared=prepared, without=without)


def having(obs: pd.DataFrame, labels: Mapping[str, str]) -> np.ndarray:
    """Which cells have all of these labels; none if none is named."""
    mask_C = np.full(len(obs), bool(labels))
    for column, label in labels.items():
        mask_C &= (obs[column].astype(str) == label).to_numpy()
    return mask_C
