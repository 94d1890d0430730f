from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from polygene.corpus.split import N_DRAWS, _draw, _labels_of_units, draw_units, split_cells
from polygene.errors import ColumnError, DataError
from polygene.io.read import open_sources
from polygene.vocab.columns import given_texts
from polygene.vocab.phenotypes import CELLXGENE

FRACTIONS = (0.7, 0.1, 0.2)


def split(adatas, *, by="donor", fractions=FRACTIONS, seen=0.0, seed=0, donor="donor_id"):
    sources = open_sources(adatas)
    columns = [donor, "synthetic", *(phenotype.column for phenotype in CELLXGENE)]
    frames = [cells.frame(columns) for cells in sources]
    return split_cells(
        sources, frames, by=by, fractions=fractions, seen=seen, seed=seed, donor=donor, phenotypes=CELLXGENE
    )


def donors_in(adatas, parts, part):
    return {
        donor
        for adata, part_C in zip(adatas, parts, strict=True)
        for donor in adata.obs["donor_id"].astype(object)[part_C == part].dropna()
    }


def test_a_donor_is_on_one_side_in_all_files(make_adata):
    adatas = [make_adata(seed=seed) for seed in range(3)]  # the same eight donors
    adatas[2].obs["donor_id"] = [f"other{i % 12}" for i in range(150)]
    parts = split(adatas)
    donors = [donors_in(adatas, parts, part) for part in range(3)]
    assert [len(some) for some in donors] == [14, 2, 4]
    assert len(donors[0] | donors[1] | donors[2]) == 20


def test_cells_without_donor_train(make_adata):
    adata = make_adata()
    adata.obs["donor_id"] = [None if i < 20 else "unknown" if i < 40 else f"donor{i % 5}" for i in range(150)]
    (part_C,) = split([adata])
    assert (part_C[:40] == 0).all()
    assert set(part_C[40:]) == {0, 1, 2}


def test_whole_numbers_are_the_same_donors_beside_a_missing_value(make_adata):
    adatas = [make_adata(seed=seed) for seed in range(2)]
    adatas[0].obs["donor_id"] = np.arange(150) % 6
    adatas[1].obs["donor_id"] = [np.nan if i == 0 else i % 6 for i in range(150)]
    parts = split(adatas)
    assert np.array_equal(parts[0][1:], parts[1][1:])


def test_the_same_seed_draws_the_same_split_and_another_seed_another(make_adata):
    adata = make_adata(n_donors=40)
    assert np.array_equal(split([adata])[0], split([adata])[0])
    assert not np.array_equal(split([adata])[0], split([adata], seed=1)[0])


def test_the_order_of_cells_does_not_change_what_a_donor_is_for(make_adata):
    adata = make_adata(n_donors=20)
    turned = adata[::-1].copy()
    assert np.array_equal(split([adata])[0], split([turned])[0][::-1])


def test_of_all_draws_the_one_is_taken_in_which_most_labels_can_be_scored():
    rng = np.random.default_rng(0)
    has_DL = rng.random((15, 40)) < 0.15
    within_DL = sparse.csr_matrix(has_DL.astype(np.int64))
    part_D = draw_units(within_DL, within_DL, np.zeros(15, dtype=int), fractions=FRACTIONS, seed=5)

    def scored(part_D):
        return sum((has_DL[part_D == 0, label].sum() >= 2) and has_DL[part_D == 2, label].any() for label in range(40))

    rng = np.random.default_rng(5)
    others = [scored(_draw(np.zeros(15, dtype=int), 2, 3, rng)) for _ in range(N_DRAWS)]
    assert np.bincount(part_D).tolist() == [10, 2, 3]
    assert scored(part_D) == max(others) > np.mean(others)


def test_labels_are_counted_within_sources_and_over_all_of_them(make_adata):
    adatas = [make_adata(seed=seed) for seed in range(2)]
    adatas[0].obs["cell_type"] = [f"type {i % 7}" if i % 11 else None for i in range(150)]
    frames = [adata.obs.reset_index(drop=True) for adata in adatas]
    units = [np.where(np.arange(150) % 13 == 0, -1, np.arange(150) % 6), np.arange(150) % 4 + 3]
    within_DL, pooled_DL = _labels_of_units(units, 7, frames, CELLXGENE)
    long = pd.concat(
        frame.assign(unit=unit_C, source=source)
        .melt(["unit", "source"], [phenotype.column for phenotype in CELLXGENE])
        .query("unit >= 0")
        .dropna()
        .drop_duplicates()
        for source, (frame, unit_C) in enumerate(zip(frames, units, strict=True))
    )
    for has_DL, label in ((within_DL, ["source", "variable", "value"]), (pooled_DL, ["variable", "value"])):
        expected = long.drop_duplicates(["unit", *label]).groupby(label)["unit"].agg(lambda some: tuple(sorted(some)))
        found = [tuple(np.flatnonzero(column)) for column in has_DL.toarray().T]
        assert has_DL.max() == 1
        assert Counter(found) == Counter(expected)


def test_every_source_gives_its_share_of_test_donors(make_adata):
    adatas = [make_adata(seed=seed) for seed in range(4)]
    for number, adata in enumerate(adatas):
        adata.obs["donor_id"] = [f"{number}-{i % 10}" for i in range(150)]
    for seed in range(10):
        for part_C, adata in zip(split(adatas, seed=seed), adatas, strict=True):
            donors = pd.Series(part_C).groupby(adata.obs["donor_id"].to_numpy()).first()
            assert Counter(donors) == {0: 7, 1: 1, 2: 2}


@pytest.mark.parametrize("n_donors", [3, 4, 7, 150])
def test_every_part_has_a_donor(make_adata, n_donors):
    adata = make_adata(n_donors=n_donors)
    counts = np.bincount(pd.Series(split([adata])[0]).groupby(adata.obs["donor_id"].to_numpy()).first())
    assert counts.min() >= 1
    assert counts[1:].tolist() == [max(1, round(share * n_donors)) for share in FRACTIONS[1:]]


def test_a_part_with_share_0_stays_empty(make_adata):
    assert set(split([make_adata(n_donors=2)], fractions=(0.5, 0.0, 0.5))[0]) == {0, 2}


def test_by_study_a_file_is_on_one_side(make_adata):
    parts = split([make_adata(seed=seed) for seed in range(5)], by="study")
    assert all(len(set(part_C)) == 1 for part_C in parts)
    assert sorted(part_C[0] for part_C in parts) == [0, 0, 0, 1, 2]


def test_at_random_every_label_has_its_share_of_each_part(make_adata):
    adata = make_adata(2000)
    adata.obs["cell_type"] = ["rare" if i % 200 == 0 else "common" for i in range(2000)]
    for column in ("sex", "tissue", "development_stage", "disease"):
        del adata.obs[column]
    (part_C,) = split([adata], by="random")
    assert np.bincount(part_C).tolist() == [1400, 200, 400]
    assert Counter(part_C[adata.obs["cell_type"] == "rare"]) == {0: 7, 1: 1, 2: 2}
    assert not np.array_equal(part_C, split([adata], by="random", seed=1)[0])


def test_at_random_a_cell_is_known_by_its_name_not_by_its_place(make_adata):
    adata = make_adata()
    turned = adata[::-1].copy()
    assert np.array_equal(split([adata], by="random")[0], split([turned], by="random")[0][::-1])


def test_files_without_donors_are_refused_unless_the_split_is_said(make_adata):
    adatas = {"with": make_adata(), "without": make_adata(seed=1)}
    del adatas["without"].obs["donor_id"]
    with pytest.raises(ColumnError, match=r"^without has no column 'donor_id' in obs.*split='study'.*split='random'"):
        split(adatas)
    with pytest.raises(DataError, match="2 files cannot be split into 3 parts"):
        split(adatas, by="study")
    assert len(split(adatas, by="random")) == 2
    adatas["without"].obs["patient"] = "one"
    with pytest.raises(ColumnError, match=r"^with has no column 'patient'"):
        split(adatas, donor="patient")


def test_too_few_donors_are_refused(make_adata):
    with pytest.raises(DataError, match=r"2 donors cannot be split into 3 parts.*split='random'"):
        split([make_adata(n_donors=2)])
    adata = make_adata()
    adata.obs["donor_id"] = "unknown"
    with pytest.raises(DataError, match="no cell has a donor in obs"):
        split([adata])


def test_names_are_text_without_spaces_and_words_for_missing_are_not_names():
    codes_C, names = given_texts(pd.Series(["b", " a ", None, "n/a", 3.0, "Unknown"], dtype=object))
    assert names == ["3", "a", "b"]
    assert codes_C.tolist() == [2, 1, -1, -1, 0, -1]


def test_cells_that_are_set_aside_are_a_share_of_training_donors_and_never_of_others(make_adata):
    adata = make_adata(4000, n_donors=10)
    adata.obs["donor_id"] = adata.obs["donor_id"].astype(object).where(np.arange(4000) % 20 > 0, None)
    (before_C,), (after_C,) = split(adata), split(adata, seen=0.1)
    moved_C = before_C != after_C
    assert set(before_C[moved_C]) == {0}
    assert set(after_C[moved_C]) == {3}
    assert adata.obs["donor_id"][moved_C].notna().all()
    donors = adata.obs["donor_id"]
    assert set(donors[moved_C]) == set(donors[(before_C == 0) & donors.notna()])
    trained = ((before_C == 0) & donors.notna().to_numpy()).sum()
    assert abs(moved_C.sum() - 0.1 * trained) < 4 * np.sqrt(trained * 0.1 * 0.9)


def test_at_random_nothing_is_set_aside(make_adata):
    (part_C,) = split(make_adata(300), by="random", seen=0.5)
    assert set(part_C) == {0, 1, 2}


@pytest.mark.parametrize("by", ["donor", "study", "random"])
def test_synthetic_cells_always_train(make_adata, by):
    adatas = [make_adata(seed=seed) for seed in range(6)]
    adatas[0].obs["synthetic"] = np.arange(150) % 2 == 0
    adatas[1].obs["synthetic"] = True
    del adatas[1].obs["donor_id"]
    parts = split(adatas, by=by, seen=0.3)
    assert (parts[0][::2] == 0).all()
    assert (parts[1] == 0).all()
    assert {1, 2} <= set(np.concatenate(parts))


def test_synthetic_cells_change_no_donor_of_the_others(make_adata):
    adatas = [make_adata(seed=seed) for seed in range(2)]
    sampled = make_adata(seed=5)
    sampled.obs["synthetic"] = True
    before, after = split(adatas), split([*adatas, sampled])
    for one, other in zip(before, after, strict=False):
        assert np.array_equal(one, other)


def test_synthetic_cells_alone_all_train(make_adata, caplog):
    adata = make_adata()
    adata.obs["synthetic"] = True
    (part_C,) = split([adata])
    assert not part_C.any()
    assert "all cells are synthetic" in caplog.text
