"""The example that ships with PolyGene."""

from importlib.resources import as_file, files

import anndata as ad

PBMC = files("polygene.io").joinpath("pbmc.h5ad")


def pbmc() -> ad.AnnData:
    """Load 700 blood cells of one healthy donor, a part of PBMC 3k of 10x Genomics; no network is needed.

    The cells were drawn by type, so that the rare ones are there: 14 platelets, 30 dendritic cells. No model of this
    package was trained on PBMC 3k. Keep it so: it is a test for models that never saw it.

    Returns
    -------
    Counts of 13,656 genes. `obs["author_label"]` holds the clusters of the Seurat tutorial, `cell_type` and
    `cell_type_ontology_term_id` what they are in the Cell Ontology, and `obsm["X_umap"]` a map of their principal
    components. `uns["source"]` names source, licence (CC BY 4.0) and what was changed.

    Examples
    --------
    >>> adata = pbmc()
    >>> adata.shape, adata.obs["author_label"].nunique()
    ((700, 13656), 9)
    """
    with as_file(PBMC) as path:
        return ad.read_h5ad(path)
