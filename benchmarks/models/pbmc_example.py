"""Make the example that ships with PolyGene: 700 of the cells of PBMC 3k, with all genes of the file.

    python -m benchmarks.models.pbmc_example --data DIR

Every type keeps at least FEWEST cells, or all that it has; the others are drawn in proportion. The same seed gives the
same cells. The map is a UMAP of 30 principal components of the 700 cells: it knows no model.

Legend: C cells, G genes.
"""

import argparse
import io
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

from benchmarks.shared import files
from polygene.vocab.ontology import ontology_of

OUT = Path(__file__).parents[2] / "src" / "polygene" / "io" / "pbmc.h5ad"
N_CELLS, FEWEST, SEED = 700, 30, 0
MOST_BYTES = 1_500_000
TYPES = {
    "naive CD4-positive T cell": ("naive CD4 T cell", "CL:0000895"),
    "memory CD4-positive T cell": ("memory CD4 T cell", "CL:0000897"),
    "CD8-positive T cell": ("CD8 T cell", "CL:0000625"),
    "natural killer cell": ("NK cell", "CL:0000623"),
    "B cell": ("B cell", "CL:0000236"),
    "CD14-positive monocyte": ("CD14+ monocyte", "CL:0000860"),
    "FCGR3A-positive monocyte": ("FCGR3A+ monocyte", "CL:0000875"),
    "dendritic cell": ("dendritic cell", "CL:0000451"),
    "platelet": ("platelet", "CL:0000233"),
}
"""Type in the file → the authors' label, and its term in the Cell Ontology (classical and non-classical monocyte)."""
SOURCE = {
    "study": "PBMC 3k, peripheral blood of one healthy donor, 10x Genomics 2016 (Chromium v1)",
    "cells": "10x Genomics, https://www.10xgenomics.com/datasets/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0",
    "licence": "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0)",
    "changes": "700 of 2,638 cells, drawn by type; counts got back from log-normalised values; X_umap added",
    "labels": "clusters of the Seurat guided tutorial, as in https://github.com/rnabioco/clustifyrdata (MIT)",
    "use": "a test for models that never saw it: do not train on it",
}


def drawn(type_C: pd.Series, seed: int = SEED) -> np.ndarray:
    """Choose rows: at least FEWEST of each type or all it has, the others in proportion; in the order of the file."""
    rng = np.random.default_rng(seed)
    n_of = type_C.value_counts()
    floor = n_of.clip(upper=FEWEST)
    share = (n_of - floor) / (n_of - floor).sum()
    wanted = floor + (share * (N_CELLS - floor.sum())).round().astype(int)
    rows = [rng.choice(np.flatnonzero(type_C == kind), wanted[kind], replace=False) for kind in sorted(n_of.index)]
    return np.sort(np.concatenate(rows))


def with_map(adata: ad.AnnData) -> np.ndarray:
    """Give each cell a place on a UMAP of the principal components of its 2,000 most variable genes."""
    cells = adata.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=2000)
    cells = cells[:, cells.var["highly_variable"]].copy()
    cells.X = cells.X.toarray()
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=30, random_state=SEED)
    sc.pp.neighbors(cells, n_neighbors=15, random_state=SEED)
    sc.tl.umap(cells, random_state=SEED)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)


def example(source: ad.AnnData) -> ad.AnnData:
    """Make the example of the whole file."""
    kind_C = source.obs["cell_type"].astype(str)
    rows = drawn(kind_C)
    kind_C = kind_C.iloc[rows]
    terms = kind_C.map(lambda kind: TYPES[kind][1])
    authors = [label for label, _ in TYPES.values()]
    obs = pd.DataFrame(
        {
            "author_label": pd.Categorical(kind_C.map(lambda kind: TYPES[kind][0]), authors),
            "cell_type": pd.Categorical(terms.map(ontology_of("cell_type").names)),
            "cell_type_ontology_term_id": pd.Categorical(terms),
            "tissue": pd.Categorical(["blood"] * len(rows)),
            "disease": pd.Categorical(["normal"] * len(rows)),
            "donor_id": pd.Categorical(["10x_pbmc3k"] * len(rows)),
        },
        index=kind_C.index,
    )
    counts_CG = sparse.csr_matrix(source.X[rows], dtype=np.float32)
    made = ad.AnnData(counts_CG, obs=obs, var=pd.DataFrame(index=source.var_names), uns={"source": SOURCE})
    made.obsm["X_umap"] = with_map(made)
    return made


def write_small(adata: ad.AnnData, path: Path) -> None:
    """Write .h5ad with bytes of numbers sorted by their place (shuffle), which halves it; any h5py reads it."""
    adata.write_h5ad(path)
    with h5py.File(io.BytesIO(path.read_bytes())) as plain, h5py.File(path, "w") as small:
        small.attrs.update(plain.attrs)

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                small.require_group(name).attrs.update(item.attrs)
                return
            packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if item.size > 100 else {}
            small.create_dataset(name, data=item[()], dtype=item.dtype, **packed).attrs.update(item.attrs)

        plain.visititems(copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files.add_data_option(parser)
    parser.add_argument("--out", type=Path, default=OUT, help="where the example goes (default: %(default)s)")
    args = parser.parse_args()
    made = example(ad.read_h5ad(files.locate("pbmc3k_10x", args.data)))
    write_small(made, args.out)
    size = args.out.stat().st_size
    if size > MOST_BYTES:
        parser.error(f"{args.out} has {size:,} bytes, more than {MOST_BYTES:,}")
    print(made.obs["author_label"].value_counts(sort=False).to_string())
    print(f"{args.out}: {made.n_obs} cells, {made.n_vars:,} genes, {size:,} bytes")


if __name__ == "__main__":
    main()
