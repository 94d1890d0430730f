"""Sample cells from profiles, the mean expression of cell types that reference libraries publish.

Legend: P profiles, G genes, S virtual studies, C cells sampled from one profile.
"""

from collections.abc import Collection, Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from polygene.errors import DataError, GeneError, PhenotypeError, check_number
from polygene.runtime.seeds import check_count, check_seed
from polygene.vocab.columns import SYNTHETIC
from polygene.vocab.gene_names import XIST, Y_GENES
from polygene.vocab.scale import check_values

APART = 100.0
"""Totals of the profiles of one study are alike (scaled, or counts per cell): a hundredfold is taken for an error."""
BATCH = 256  # cells at once: 256 x 20,000 genes in float64 are 40 MB, whatever n_per_profile is


def cells_from_profiles(
    profiles: ad.AnnData,
    *,
    n_per_profile: int = 40,
    seed: int = 0,
    measured: Collection[str] | None = None,
    cell_type: str = "cell_type",
    n_studies: int = 5,
    depth: float = 2200.0,
    depth_sd: float = 0.7,
    dispersion: float = 0.25,
    ambient: float = 0.15,
    platform: float = 0.25,
) -> ad.AnnData:
    r"""Sample cells with counts from the profiles of one study.

    The counts of gene g in a cell of depth :math:`d` are gamma-Poisson (negative binomial) with mean
    :math:`\mu_g = d\,((1 - a)\,p_g + a\,q_g)` and variance :math:`\mu_g + \phi \mu_g^2`, where :math:`p` is the profile
    and :math:`q` the mean of all profiles of the study (ambient RNA), both scaled by the gene's platform factor in the
    cell's virtual study and to a sum of one.

    A profile is a mean over men and women. Where it expresses a gene of Y, each cell is a man's or a woman's, alike
    often: a woman's has no gene of Y, a man's no XIST, and what is left of these counts twice. A profile without them
    says nothing about sex.

    Parameters
    ----------
    profiles
        A row a profile: mean expression on a linear scale, in any unit. The rows share one background of ambient RNA
        and one set of measured genes, so call this once for each study of a library.
    n_per_profile
        Cells of each profile.
    measured
        The genes that the study measured; one that `profiles` lacks was never seen, so it is zero. None: `var_names`.
    cell_type
        The column of `obs` that holds the types.
    n_studies
        Virtual studies, each with its own platform factors.
    depth, depth_sd
        Median of the counts of a cell, and the standard deviation of their natural logarithm (log-normal).
    dispersion
        :math:`\phi`, the squared coefficient of variation among cells of a type; 0 leaves Poisson counts.
    ambient
        The share :math:`a` is uniform from 0 to this, drawn for each cell.
    platform
        Standard deviation of the natural logarithm of the platform factors (log-normal with mean one).

    Returns
    -------
    int32 counts in CSR with the columns of `profiles.obs`, and `sex`, `synthetic` (True), `profile`, `virtual_study`;
    `uns["synthetic"]` holds the parameters. No gene that was not measured is in `var`.

    Raises
    ------
    DataError, GeneError, PhenotypeError, ScaleError
        The profiles are no means, or lack types or genes; says what to do.

    References
    ----------
    Gamma-Poisson counts: Grün et al. 2014, Nature Methods 11:637. Ambient RNA: Young and Behjati 2020, GigaScience
    9:giaa151. Platforms: Mereu et al. 2020, Nature Biotechnology 38:747. Defaults: docs/decisions.md.

    Examples
    --------
    >>> mean = ad.AnnData(np.array([[8.5, 1.5, 0.0], [0.2, 0.0, 9.8]]), var=pd.DataFrame(index=["CD3E", "LYZ", "ALB"]))
    >>> mean.obs["cell_type"] = ["T cell", "hepatocyte"]
    >>> cells = cells_from_profiles(mean, n_per_profile=3)
    >>> cells.shape, cells.obs["cell_type"].value_counts().to_dict()
    ((6, 3), {'T cell': 3, 'hepatocyte': 3})
    """
    check_seed(seed)
    check_count("n_per_profile", n_per_profile, 10_000_000)
    check_count("n_studies", n_studies, 10_000_000)
    check_number("depth", depth, 1e-9, 1e9, what="above 0")
    check_number("ambient", ambient, 0, 1, what="from 0 to 1")
    for name, value in {"depth_sd": depth_sd, "dispersion": dispersion, "platform": platform}.items():
        check_number(name, value, 0, 1e9, what="at least 0")
    names_G, x_PG = _genes(profiles, measured)
    _check_profiles(profiles, x_PG, cell_type)
    parameters: dict[str, Any] = {
        "seed": seed, "n_per_profile": n_per_profile, "n_studies": n_studies, "depth": depth, "depth_sd": depth_sd,
        "dispersion": dispersion, "ambient": ambient, "platform": platform,
    }  # fmt: skip
    rows = np.repeat(np.arange(profiles.n_obs), n_per_profile)
    number = np.tile(np.arange(n_per_profile), profiles.n_obs)
    obs = profiles.obs.iloc[rows].copy()
    obs["profile"] = pd.Categorical(profiles.obs_names[rows])
    obs["virtual_study"] = pd.Categorical((number % n_studies).astype(str))
    obs[SYNTHETIC] = True
    obs.index = pd.Index([f"{name}-{n}" for name, n in zip(profiles.obs_names[rows], number, strict=True)])
    sexes_2G = _sexes(names_G)
    tells_P = np.asarray(x_PG[:, sexes_2G[0] == 0].sum(axis=1)).ravel() > 0
    sex_C = pd.Series(np.where(_men(number, n_studies), "male", "female"), obs.index)
    obs["sex"] = sex_C.where(tells_P[rows]).astype("category")
    x_CG = sparse.vstack(list(_sampled(x_PG, sexes_2G, tells_P, **parameters)), format="csr")
    return ad.AnnData(x_CG, obs=obs, var=pd.DataFrame(index=names_G), uns={SYNTHETIC: parameters})


def _sexes(names_G: pd.Index) -> np.ndarray:
    """Give what the genes' means count for in a woman and in a man, (2, G)."""
    of_men_G, of_women_G = names_G.isin(Y_GENES), names_G == XIST
    return np.stack([np.where(of_men_G, 0, 1 + of_women_G), np.where(of_women_G, 0, 1 + of_men_G)])


def _men(number_C: np.ndarray, n_studies: int) -> np.ndarray:
    """Say which of the numbered cells of a profile are a man's, 0 or 1: half of those of each virtual study."""
    return number_C // n_studies % 2


def _sampled(
    x_PG: sparse.csr_matrix,
    sexes_2G: np.ndarray,
    tells_P: np.ndarray,
    *,
    seed: int,
    n_per_profile: int,
    n_studies: int,
    depth: float,
    depth_sd: float,
    dispersion: float,
    ambient: float,
    platform: float,
) -> Iterator[sparse.csr_matrix]:
    """Draw the counts of the cells, profile by profile and at most `BATCH` cells at once."""
    rng = np.random.default_rng(seed)
    p_PG = sparse.diags_array(1 / np.asarray(x_PG.sum(axis=1)).ravel()) @ x_PG
    # Log-normal with mean one: the mean of exp(normal(m, s)) is exp(m + s²/2).
    factors_SG = np.exp(rng.normal(-(platform**2) / 2, platform, (n_studies, x_PG.shape[1])))
    ambient_SG = _shares(np.asarray(p_PG.mean(axis=0)).ravel() * factors_SG)
    study_C = np.arange(n_per_profile) % n_studies
    man_C = _men(np.arange(n_per_profile), n_studies)
    for row in range(x_PG.shape[0]):
        p_SG = _shares(p_PG[[row]].toarray() * factors_SG)
        for first in range(0, n_per_profile, BATCH):
            of_C = study_C[first : first + BATCH]
            share_C1 = rng.uniform(0, ambient, (len(of_C), 1))
            depth_C1 = np.exp(rng.normal(np.log(depth), depth_sd, (len(of_C), 1)))
            mean_CG = depth_C1 * ((1 - share_C1) * p_SG[of_C] + share_C1 * ambient_SG[of_C])
            if tells_P[row]:
                mean_CG *= sexes_2G[man_C[first : first + BATCH]]
            if dispersion:
                # A gamma of mean one and variance `dispersion` times the mean gives the negative binomial.
                mean_CG *= rng.gamma(1 / dispersion, dispersion, mean_CG.shape)
            yield sparse.csr_matrix(rng.poisson(mean_CG).astype(np.int32))


def _shares(x_SG: np.ndarray) -> np.ndarray:
    return x_SG / x_SG.sum(axis=1, keepdims=True)


def _genes(profiles: ad.AnnData, measured: Collection[str] | None) -> tuple[pd.Index, sparse.csr_matrix]:
    """Give the measured genes and the profiles over them, zero where a measured gene has no column."""
    if not isinstance(profiles, ad.AnnData):
        msg = f"profiles are an AnnData with a row a profile; got {type(profiles).__name__}"
        raise DataError(msg)
    x_PG = sparse.csr_matrix(profiles.X, dtype=np.float64)
    check_values(x_PG)
    if measured is None:
        return profiles.var_names, x_PG
    names_G = pd.Index(list(dict.fromkeys(measured)))
    column_G = profiles.var_names.get_indexer(names_G)
    if (column_G < 0).all():
        like = ", ".join(map(str, profiles.var_names[:3]))
        msg = f"profiles hold none of the {len(names_G):,} genes in `measured`; their names look like {like}"
        raise GeneError(msg)
    wide_PG = sparse.hstack([x_PG, sparse.csr_matrix((x_PG.shape[0], 1))]).tocsc()  # the last column serves -1
    return names_G, wide_PG[:, column_G].tocsr()


def _check_profiles(profiles: ad.AnnData, x_PG: sparse.csr_matrix, cell_type: str) -> None:
    """Refuse what are no profiles: no types, single cells or sums in place of means, rows without expression."""
    if cell_type not in profiles.obs:
        columns = ", ".join(map(str, profiles.obs.columns)) or "no columns"
        msg = f"profiles have no column {cell_type!r} in obs; there are {columns}. Name the one that holds the types"
        raise PhenotypeError(msg)
    total_P = np.asarray(x_PG.sum(axis=1)).ravel()
    if not len(total_P) or not total_P.all():
        empty = profiles.obs_names[total_P == 0].tolist() or "no rows at all"
        msg = f"a profile is a row with expression; without any: {empty}"
        raise DataError(msg)
    if (x_PG.data == np.rint(x_PG.data)).all():
        msg = "all values are whole numbers: these are counts, not means. Give the mean over the cells of each type"
        raise DataError(msg)
    if total_P.max() > APART * total_P.min():
        msg = (
            f"the totals of the profiles run from {total_P.min():,.3g} to {total_P.max():,.3g}: these look like sums "
            "over cells, not means. Give the mean over the cells of each type, on a linear scale"
        )
        raise DataError(msg)
