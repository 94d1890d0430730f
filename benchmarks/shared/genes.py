"""Matrices of chosen genes. Legend: C cells, G genes."""

import numpy as np
import pandas as pd
from scipy import sparse


def of_genes(x_CG: sparse.csr_matrix, measured: pd.Index, genes: pd.Index) -> sparse.csr_matrix:
    """Take the columns of these genes, 0 where one is not measured."""
    wide = sparse.hstack([x_CG, sparse.csr_matrix((x_CG.shape[0], 1), dtype=np.float32)]).tocsc()
    return wide[:, measured.get_indexer(genes)].tocsr()
