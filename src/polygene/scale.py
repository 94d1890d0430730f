"""The scale of expression values: recognise counts and log1p values, bring both to log1p counts per 10,000."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

Scale = Literal["counts", "log1p"]


def expression_matrix(adata: Any, layer: str | None = None) -> tuple[sparse.csr_matrix, pd.DataFrame]:
    """Take (x_CG, var) out of an AnnData: X, a layer, or with layer="raw" `adata.raw`; checks that it is one."""
    raise NotImplementedError


def detect_scale(x: Any) -> Scale:
    """Say whether values are counts or log1p, from a sample of rows (CSR or dense)."""
    raise NotImplementedError


def to_log1p(x_CG: sparse.csr_matrix, totals_C: np.ndarray | None, scale: Scale) -> sparse.csr_matrix:
    """Bring values to log1p counts per 10,000, float32; log1p input is unchanged."""
    raise NotImplementedError
