"""Made-up data for --smoke: files with the names, columns and labels of the real ones, and cells drawn at random.

Every cell type expresses some genes of its own, and the sexes differ in XIST and the genes of the Y chromosome, so that
each benchmark finds something to learn. The numbers mean nothing.

Legend: C cells, G genes, D donors.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.shared.studies import SEX_GENES
from polygene.model.shipped import MODELS, NAMES
from polygene.runtime.toml import read_toml
from polygene.vocab.tokenizer import CellTokenizer

RECIPE = Path(__file__).parents[2] / "recipes" / "corpus" / "prepare.toml"
AGES = (25, 30, 34, 38, 45, 52, 60, 66, 70, 81)
MARKERS = ("CD79A", "MS4A1", "CD79B", "LYZ", "S100A9", "S100A8", "CD14", "FCN1", "NKG7", "GNLY", "GZMB")
OWN_GENES = 40
"""Genes that one cell type expresses more than the others."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A made-up file; `columns` are columns of obs with one value, or one a donor in turn."""

    types: tuple[str, ...]
    cells: int = 240
    donors: tuple[str, ...] = tuple(f"donor_{d}" for d in range(10))
    sex: str = "sex"
    ages: bool = False
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()


BLOOD = (("tissue", ("blood",)), ("disease", ("normal",)))
STUDIES = {
    "onek1k_scdesignpop_multicell": Study(
        types=(
            "memory B cell",
            "naive/central memory CD4-positive T cell",
            "classical monocyte",
            "non-classical monocyte",
        ),
        ages=True,
        columns=BLOOD,
    ),
    "velmeshev_asd_pfc_glia": Study(
        types=("microglial cell", "endothelial cell", "fibrous astrocyte"),
        sex="sex_inferred",
        columns=(("tissue", ("prefrontal cortex",)), ("disease", ("autism spectrum disorder", "normal", "normal"))),
    ),
    "zheng_pbmc_facs": Study(
        types=("natural killer cell", "CD14-positive monocyte", "B cell", "regulatory T cell"),
        donors=(),
        sex="",
        columns=BLOOD,
    ),
    "pbmc3k_10x": Study(
        types=("B cell", "CD14-positive monocyte", "natural killer cell", "naive CD4-positive T cell"),
        donors=("pbmc3k_1",),
        sex="sex_inferred",
        columns=BLOOD,
    ),
    "perez_sle_healthy_tcells": Study(
        types=("CD56-dim natural killer cell", "naive CD4-positive T cell", "regulatory T cell"),
        donors=tuple(f"perez_IGTB{n}" for n in (141, 143, 195, 498, 508, 826, 1290)),
        sex="",
        columns=BLOOD,
    ),
    "scp1884_crohns_gut": Study(
        types=("Enterocytes CA1 CA2 CA4-", "Fibroblasts ADAMDEC1", "Pericytes RERGL NTRK2"), donors=(), sex=""
    ),
    "lung_ca_lines_mixology": Study(types=("H1975", "HCC827"), donors=(), sex=""),
    "pancreas_baron_175": Study(
        types=("pancreatic A cell", "pancreatic B cell"),
        donors=tuple(f"baron_human{n}" for n in (1, 2, 3, 4)),
        columns=(("tissue", ("pancreas",)), ("disease", ("normal", "type 2 diabetes mellitus"))),
    ),
}


def write(folder: Path, *, seed: int = 0) -> None:
    """Write the files and their data.toml into a folder."""
    genes = _genes()
    entries = []
    for number, (name, study) in enumerate(STUDIES.items()):
        path = folder / f"{name}.h5ad"
        make(study, genes, np.random.default_rng([seed, number])).write_h5ad(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(f'[[file]]\nname = "{name}"\nfile = "{path.name}"\nsha256 = "{digest}"\nkind = "counts"\n')
    (folder / "data.toml").write_text("\n".join(entries), encoding="utf-8")


def make(study: Study, genes: list[str], rng: np.random.Generator) -> ad.AnnData:
    """Draw the cells of a study: Poisson counts, gamma distributed over the genes of a type."""
    types_C = np.arange(study.cells) % len(study.types)
    donors_C = np.arange(study.cells) // len(study.types) % max(1, len(study.donors))
    rates_TG = np.tile(rng.gamma(0.5, 1.0, len(genes)), (len(study.types), 1))
    for rates_G in rates_TG:
        rates_G[rng.choice(len(genes), OWN_GENES, replace=False)] += 4
    rates_CG = rates_TG[types_C]
    female_C = donors_C % 2 == 0
    if study.sex:
        of_sex = {True: {"XIST"}, False: set(SEX_GENES) - {"XIST"}}
        for female, expressed in of_sex.items():
            rates_CG[:, np.isin(genes, list(expressed))] = np.where(female_C == female, 2.0, 0.0)[:, None]
    counts_CG = rng.poisson(rates_CG * rng.lognormal(0, 0.3, (study.cells, 1))).astype(np.float32)
    obs = pd.DataFrame({"cell_type": np.take(study.types, types_C)}, index=[f"cell{c}" for c in range(study.cells)])
    if study.donors:
        obs["donor_id"] = np.take(study.donors, donors_C)
    if study.sex:
        obs[study.sex] = np.where(female_C, "female", "male")
    if study.ages:
        obs["development_stage"] = [f"{AGES[d % len(AGES)]}-year-old human stage" for d in donors_C]
    for column, values in study.columns:
        obs[column] = np.take(values, donors_C % len(values))
    return ad.AnnData(sparse.csr_matrix(counts_CG), obs=obs.astype("category"), var=pd.DataFrame(index=genes))


def _genes() -> list[str]:
    """The genes of the smallest model that ships, those that every panel includes, those of sex, and markers."""
    included = read_toml(RECIPE)["include_genes"]
    panel = CellTokenizer.load(MODELS / min(NAMES, key=len)).panel
    return sorted({*panel.symbols, *included, *SEX_GENES, *MARKERS})
