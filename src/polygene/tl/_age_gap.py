"""Age gap: how much older than they are the cells of a donor look."""

import anndata as ad
import numpy as np
import pandas as pd

from polygene.errors import PhenotypeError
from polygene.evaluation.ages import age_gaps
from polygene.vocab.ages import age_in_years
from polygene.vocab.columns import given_texts


def age_gap(
    adata: ad.AnnData, *, donor: str = "donor_id", age: str = "development_stage", key: str = "age"
) -> pd.DataFrame:
    """Tabulate by donor the age that `annotate` predicted, the actual one, and the gap between them.

    Parameters
    ----------
    adata
        Cells that `annotate` has answered for, the age being asked and not given.
    donor, age
        Columns of `obs` with the donor, and with the actual age, a development stage or years.
    key
        The age phenotype of the model.

    Returns
    -------
    A row for each donor, in years: `donor`, `cells`, `actual`, `predicted`, `low`, `high` (90 % of the probability),
    `gap` (predicted − actual), `gap_low`, `gap_high`, and `gap_corrected`. Compare donors by `gap_corrected`: a
    predictor that knows little says the mean age to everybody, so that the plain gap mostly says how young a donor is.
    The corrected gap is what is left over a straight line through predicted and actual ages of these donors.
    `pl.age` draws the table.

    Raises
    ------
    PhenotypeError
        `annotate` has not answered for the age, or a column is missing or holds no age or donor.
    """
    labels = adata.uns.get("polygene", {}).get("annotate", {}).get("labels", {})
    if key not in labels or f"polygene_{key}" not in adata.obsm:
        msg = f"obsm has no 'polygene_{key}': run pg.tl.annotate(adata, model) first, with {key!r} asked, not given."
        raise PhenotypeError(msg)
    if missing := [column for column in (donor, age) if column not in adata.obs]:
        msg = f"obs has no column {', '.join(missing)}; it has {', '.join(map(str, adata.obs.columns[:10]))}."
        raise PhenotypeError(msg)
    years_V = np.array([_years(label) for label in labels[key]])
    codes_C, texts = given_texts(adata.obs[age])
    actual_C = np.array([*map(_years, texts), np.nan])[codes_C]
    donor_C, donors = given_texts(adata.obs[donor])
    table = age_gaps(adata.obsm[f"polygene_{key}"], years_V, actual_C, np.array([*donors, ""], dtype=object)[donor_C])
    if not len(table):
        msg = f"no cell has both a donor in obs[{donor!r}] and an age that can be read in obs[{age!r}]."
        raise PhenotypeError(msg)
    return table


def _years(label: str) -> float:
    years = age_in_years(label)
    return np.nan if years is None else years
