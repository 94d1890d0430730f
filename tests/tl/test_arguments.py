"""Values of another type are refused with what they must be, and not somewhere deep inside."""

import re
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from polygene import pl, pp, tl
from polygene.corpus.prepare import PrepareConfig
from polygene.errors import ColumnError, DataError, PhenotypeError, PolyGeneError, RecipeError
from polygene.io.read import open_cells
from polygene.model.checkpoint import PolyGene
from polygene.model.recipe import NetworkConfig, TrainingConfig
from polygene.runtime.pool import process_pool
from polygene.tl._gene_network import context_rows

MakeAnnData = Callable[..., ad.AnnData]
SEEDED = (
    "balance", "gene_network", "phenotype_distances", "polyfunctionality", "manifold_scores", "ageing_topology",
)  # fmt: skip


@pytest.mark.parametrize("wrong", [2.5, "10", None])
@pytest.mark.parametrize("verb", SEEDED)
def test_a_seed_that_is_no_whole_number_is_refused(
    verb: str, wrong: Any, make_adata: MakeAnnData, tiny_model: PolyGene
) -> None:
    with pytest.raises(DataError, match=f"the seed is {wrong!r}; give a whole number from 0"):
        getattr(tl, verb)(make_adata(20, 36), tiny_model, seed=wrong)


@pytest.mark.parametrize(
    ("verb", "argument", "wrong", "error", "says"),
    [
        ("balance", "n_cells", 2.5, DataError, "n_cells is 2.5; give a whole number"),
        ("balance", "steps", "10", DataError, "steps is '10'; give a whole number"),
        ("balance", "temperature", "a", DataError, "temperature is a number of at least 0.001; got 'a'"),
        ("balance", "key", 3, PhenotypeError, "There is no phenotype 3"),
        ("gene_network", "n_cells", 2.5, DataError, "n_cells is 2.5; give a whole number"),
        ("gene_network", "min_cells", "10", DataError, "min_cells is '10'; give a whole number"),
        ("gene_network", "density", "0.1", DataError, "density is a share of the pairs .*; got '0.1'"),
        ("gene_network", "groupby", 3, ColumnError, "adata has no column 3 in obs"),
        ("manifold_scores", "n_neighbors", 2.5, DataError, "n_neighbors is 2.5; give a whole number"),
        ("ageing_topology", "cells_per_donor", "10", DataError, "cells_per_donor is '10'; give a whole number"),
        ("ageing_topology", "depth", "a", DataError, "depth is the counts of a cell, 1 at least; got 'a'"),
        ("annotate", "coverage", "0.9", DataError, "coverage is the share .*; got '0.9'"),
        ("annotate", "back_off", "0.9", DataError, "the level is the probability .*; got '0.9'"),
        ("annotate", "totals", 3, ColumnError, "adata has no column 3 in obs"),
        ("embed", "key_added", None, DataError, "key_added is a name in obsm; got None"),
        ("gene_network", "contexts", [], DataError, "contexts is empty: name some of .*, or leave it out"),
        ("annotate", "part", 3, DataError, "such as 3/16; got 3"),
        ("vote", "share", None, DataError, "share is the share of a group's cells .*; got None"),
    ],
)
def test_an_argument_of_another_type_is_refused(
    verb: str, argument: str, wrong: Any, error: type[PolyGeneError], says: str,
    make_adata: MakeAnnData, tiny_model: PolyGene,
) -> None:  # fmt: skip
    model = () if verb == "vote" else (tiny_model,)
    with pytest.raises(error, match=says):
        getattr(tl, verb)(make_adata(20, 36), *model, **{argument: wrong})


@pytest.mark.parametrize("wrong", [3, [3], {"sex": "male"}])
@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("annotate", "given"), ("annotate", "predict"), ("denoise", "given"), ("balance", "given"),
        ("perturb", "knock_out"), ("perturb", "over_express"), ("perturb", "genes"), ("perturb", "predict"),
        ("polyfunctionality", "genes"), ("gene_network", "contexts"), ("ageing_topology", "contexts"),
        ("manifold_scores", "beside"), ("manifold_scores", "states"), ("manifold_scores", "phenotypes"),
    ],
)  # fmt: skip
def test_names_that_are_none_are_refused(
    verb: str, argument: str, wrong: Any, make_adata: MakeAnnData, tiny_model: PolyGene
) -> None:
    with pytest.raises(DataError, match=f"{argument} is a name or a list of names; got {re.escape(repr(wrong))}"):
        getattr(tl, verb)(make_adata(20, 36), tiny_model, **{argument: wrong})


def test_labels_of_another_type_are_refused(make_adata: MakeAnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(DataError, match="given is a name or a list of names; got 3"):
        tl.counterfactual(make_adata(20, 36), tiny_model, {"sex": "male"}, given=3)  # type: ignore[arg-type]
    with pytest.raises(PhenotypeError, match="sex: the model does not know the label 3"):
        tl.counterfactual(make_adata(20, 36), tiny_model, {"sex": 3})  # type: ignore[dict-item]
    for argument in ("labels", "genes"):
        with pytest.raises(DataError, match=f"{argument} is a dict such as .*; got 'B cell'"):
            tl.generate(tiny_model, **{argument: "B cell"})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"vote is a dict such as .*; got 'leiden'"):
        tl.annotate(make_adata(20, 36), tiny_model, vote="leiden")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, None, [3]])
def test_models_of_another_type_are_refused(wrong: Any, make_adata: MakeAnnData) -> None:
    with pytest.raises(DataError, match="model is a PolyGene, a folder or a name"):
        tl.similarity(make_adata(20, 36), wrong)


def test_a_list_for_one_name_is_refused(make_adata: MakeAnnData, tiny_model: PolyGene) -> None:
    with pytest.raises(PhenotypeError, match=r"There is no phenotype \['cell_type'\]"):
        tl.balance(make_adata(20, 36), tiny_model, key=["cell_type"])  # type: ignore[arg-type]
    with pytest.raises(ColumnError, match=r"no column \['leiden'\] in obs"):
        pl.dotplot(make_adata(20, 36), ["leiden"])  # type: ignore[arg-type]


def test_names_come_in_any_list(make_adata: MakeAnnData, tiny_model: PolyGene) -> None:
    adata, genes = make_adata(20, 36), tiny_model.tokenizer.panel.symbols[:2]
    tables = [tl.perturb(adata, tiny_model, knock_out=genes[0], genes=one) for one in (genes, np.array(genes))]
    pd.testing.assert_frame_equal(*tables)


def test_one_context_is_a_name_too(make_adata: MakeAnnData, tiny_model: PolyGene) -> None:
    adata = make_adata(60, 36)
    rows = [context_rows(open_cells(adata), "cell_type", one, 9, None, 0) for one in ("T cell", ["T cell"])]
    np.testing.assert_array_equal(*(one["T cell"] for one in rows))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TrainingConfig(batch_size="64"), "training.batch_size = '64': it must be a whole number, at least 1"),
        (lambda: TrainingConfig(epochs=2.5), "training.epochs = 2.5: it must be a whole number"),
        (lambda: TrainingConfig(learning_rate=None), "training.learning_rate = None: it must be a number, at least"),
        (lambda: NetworkConfig(hidden_size="wide"), "network.hidden_size = 'wide': it must be a whole number"),
        (lambda: PrepareConfig(n_genes="512"), "n_genes lies between 1 and 65,535; got '512'"),
        (lambda: PrepareConfig(seed=None), "seed lies between .*; got None"),
    ],
)
def test_a_setting_of_another_type_is_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        make()


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"n_per_profile": 2.5}, "n_per_profile is 2.5; give a whole number from 1"),
        ({"n_studies": "4"}, "n_studies is '4'; give a whole number"),
        ({"depth": "deep"}, "depth is above 0; got 'deep'"),
        ({"platform": None}, "platform is at least 0; got None"),
        ({"seed": 0.5}, "the seed is 0.5; give a whole number"),
    ],
)
def test_a_number_of_sampled_cells_of_another_type_is_refused(
    argument: dict[str, Any], says: str, make_adata: MakeAnnData
) -> None:
    with pytest.raises(DataError, match=says):
        pp.cells_from_profiles(make_adata(5, 10), **argument)


@pytest.mark.parametrize("num_proc", [0, "2", 2.5])
def test_a_number_of_processes_that_is_none_is_refused(num_proc: Any) -> None:
    with (
        pytest.raises(DataError, match=f"num_proc is {num_proc!r}; give a whole number from 1"),
        process_pool([], num_proc),
    ):
        pytest.fail("the work began")
