"""Properties that hold for any input: gene matching, bins by rank, ages, braces, columns of obs."""

import string
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from polygene.io.paths import expand_paths
from polygene.io.read import open_cells
from polygene.vocab.ages import OLDEST, age_in_years
from polygene.vocab.binning import ExpressionBinner
from polygene.vocab.columns import given_texts, is_given
from polygene.vocab.gene_names import human_genes
from polygene.vocab.mending import mended_symbols
from polygene.vocab.panel import GenePanel

SYMBOLS = sorted(human_genes().symbols.values())[::40]
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.lists(st.sampled_from(SYMBOLS), min_size=3, max_size=40, unique=True), st.randoms(use_true_random=False))
@few
def test_the_order_of_columns_and_columns_of_other_genes_change_no_match(symbols, random):
    panel = GenePanel(symbols=tuple(symbols[:3]), ensembl_ids=("",) * 3)
    shuffled = random.sample(symbols, len(symbols))
    match = panel.match(pd.DataFrame(index=shuffled))
    assert [shuffled[n] for n in match.columns_N] == symbols[:3]


CHANGED = ["HLA.DRA", "HLA_DRA", "HLA-DRA", "CD74.1", "CD74.2", "CD74", "cd74", "hg19_CD74"]


@given(st.lists(st.sampled_from([*SYMBOLS[:20], *CHANGED]), max_size=12, unique=True))
@few
def test_mending_never_makes_two_columns_one_and_changes_no_known_symbol(symbols):
    mended, _ = mended_symbols(symbols, [""] * len(symbols))
    assert len(set(mended)) == len(symbols)
    known = human_genes().ids
    assert all(one == two for one, two in zip(symbols, mended, strict=True) if one in known)
    assert all(two in known for one, two in zip(symbols, mended, strict=True) if one != two)


values = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@given(values, st.integers(2, 20))
@few
def test_bins_by_rank_see_only_the_order_of_a_cell(counts, n_bins):
    binner = ExpressionBinner.cell_rank(n_bins)
    x_CM = sparse.csr_matrix(np.array([counts], np.float32))
    bins_M = binner.bins(x_CM).toarray()[0]
    for other in (x_CM.log1p(), x_CM * 7, x_CM.power(2)):
        assert np.array_equal(binner.bins(sparse.csr_matrix(other)).toarray()[0], bins_M)
    counts_M = np.array(counts)
    assert ((bins_M > 0) == (counts_M > 0)).all()
    assert bins_M.max() < n_bins
    order = np.argsort(counts_M, kind="stable")
    assert (np.diff(bins_M[order].astype(int)) >= 0).all()
    together = binner.bins(sparse.csr_matrix(np.array([counts_M, counts_M[::-1] + 1], np.float32))).toarray()
    assert np.array_equal(together[0], bins_M)


@given(st.integers(0, 120), st.sampled_from(["{}-year-old stage", "{} years", "{}y", "{} yr old", "{}", "age {}"]))
@few
def test_an_age_is_its_number_however_it_is_written(years, form):
    assert age_in_years(form.format(years)) == years


@given(st.text(max_size=40))
@few
def test_no_text_is_an_age_outside_a_life_or_an_error(text):
    years = age_in_years(text)
    assert years is None or -1 <= years <= OLDEST


@given(st.integers(0, 30), st.integers(0, 30), st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=3),
                                                        min_size=2, max_size=4, unique=True))  # fmt: skip
@few
def test_braces_name_what_the_shell_would(first, last, words):
    urls = expand_paths(f"https://host/{{{first}..{last}}}/{{{','.join(words)}}}.h5ad")
    step = 1 if last >= first else -1
    assert urls == [f"https://host/{n}/{word}.h5ad" for n in range(first, last + step, step) for word in words]


kinds = st.sampled_from(["object", "category", "string", "Int64", "boolean", "float32", "int16", ">i4", "mixed"])


@given(kinds, st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=4, max_size=12))
@few
def test_a_column_of_any_type_is_read_alike_from_memory_and_file(tmp_path, kind, chosen):
    column = _column(kind, chosen)
    obs = pd.DataFrame({"label": column.to_numpy() if kind == ">i4" else column.array}, index=_names(len(chosen)))
    adata = ad.AnnData(
        sparse.csr_matrix(np.ones((len(chosen), 2), np.float32)), obs=obs, var=pd.DataFrame(index=list("AB"))
    )
    sources = [adata]
    if kind != "mixed" and not (kind == "object" and None in chosen):  # anndata does not write them
        with ad.settings.override(allow_write_nullable_strings=True):
            adata.copy().write_h5ad(path := Path(tmp_path) / "cells.h5ad")
        sources.append(path)
    read = [given_texts(open_cells(one).frame(["label"])["label"]) for one in sources]
    found = [[names[code] if code >= 0 else None for code in codes] for codes, names in read]
    assert all(one == found[0] for one in found)
    texts = [None if pd.isna(value) or not is_given(str(value)) else str(value) for value in column.astype(object)]
    assert found[0] == [text.removesuffix(".0") if text else None for text in texts]


def _names(n):
    return [f"cell{i}" for i in range(n)]


def _column(kind, chosen):
    if kind in ("object", "category", "string"):
        return pd.Series([None if one is None else f"type {one}" for one in chosen], dtype="object").astype(kind)
    if kind == "boolean":
        return pd.Series([None if one is None else one > 1 for one in chosen], dtype="boolean")
    if kind == "mixed":
        return pd.Series(
            [None if one is None else (one if one % 2 else f"type {one}") for one in chosen], dtype="object"
        )
    if kind == "Int64":
        return pd.Series(chosen, dtype="Int64")
    numbers = [0 if one is None and kind != "float32" else one for one in chosen]
    return pd.Series(np.array(numbers, dtype=float).astype(kind))
