"""recipes/corpus, and benchmarks/models/corpus.py which applies it."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from benchmarks.models import corpus
from benchmarks.shared import files
from polygene.corpus.prepare import PrepareConfig
from polygene.runtime.toml import build, read_toml
from polygene.vocab.ages import age_in_years

SOURCES = corpus.read_sources()
LABELS = corpus.read_table("labels.tsv")
DONORS = corpus.read_table("donors.tsv")
PREFIXES = {"cell_type": {"CL"}, "tissue": {"UBERON"}, "disease": {"MONDO", "PATO"}, "development_stage": {"HsapDv"}}


def sides(source: corpus.Source) -> set[str]:
    """Where cells of a source can land."""
    return {"split": {"train", "test"}, "train": {"train"}, "external": {"test"}, "left out": set()}[source.role]


def texts(column: pd.Series) -> list[str]:
    return column.astype(object).fillna("-").tolist()


DATA = Path(os.environ.get("POLYGENE_DATA", ""))


def real(name: str) -> ad.AnnData:
    return ad.read_h5ad(files.locate(name, DATA))


def test_every_file_has_a_role_and_a_reason() -> None:
    assert list(dict.fromkeys(source.of_file for source in SOURCES.values())) == list(files.catalogue())
    for source in SOURCES.values():
        assert source.role in ("split", "train", "external", "left out")
        assert source.reason.endswith((".", "?"))
        assert bool(source.sex_inferred) == bool(source.sex_reason)
        facts = files.catalogue()[source.of_file].facts
        if source.role != "left out":
            assert ("sex_inferred" in facts["labels"]) == bool(source.sex_inferred), source.name
            assert source.unclear, "the model card has something to say of every file"


def test_files_that_may_hold_the_same_people_are_on_one_side_or_it_is_said_why_not() -> None:
    groups = defaultdict(list)
    for source in SOURCES.values():
        if source.group:
            groups[source.group].append(source)
    assert set(groups) == {"OneK1K", "islets of GSE84133", "10x demonstration data", "kidney of Stewart 2019"}
    for sources in groups.values():
        assert len(sources) > 1
        if all(source.role == "split" for source in sources):
            continue  # donors.tsv makes one donor of what is one
        if len(set.union(*map(sides, sources))) > 1:
            assert all(source.apart for source in sources)


def test_donors_of_the_two_pancreas_files_are_counted_once() -> None:
    renamed = DONORS.loc[DONORS["source"] == "pancreas_panc8_small", "donor"]
    assert {f"baron_human{n}" for n in (1, 2, 3, 4)} <= set(renamed)


def test_every_row_gives_one_label_and_a_reason() -> None:
    assert not LABELS.duplicated(["source", "column", "label", "where"]).any()
    assert set(LABELS["column"]) <= set(corpus.ONTOLOGIES)
    assert set(LABELS["source"]) == {"*"} | {one.of_file for one in SOURCES.values() if one.role != "left out"}
    for row in LABELS.itertuples():
        assert row.reason, row
        assert (row.id == "") == (row.name == "not given") == (row.means == ""), row
        assert not row.id or row.id.split(":")[0] in PREFIXES[row.column], row
    assert LABELS.groupby("id")["name"].nunique().max() == 1
    assert LABELS[LABELS["id"] != ""].groupby("name")["id"].nunique().max() == 1


def test_an_age_stays_the_same_number_of_years() -> None:
    ages = LABELS[(LABELS["column"] == "development_stage") & (LABELS["id"] != "")]
    assert [age_in_years(label) for label in ages["label"]] == [age_in_years(name) for name in ages["name"]]
    assert ages["name"].map(age_in_years).notna().all()


def test_names_ids_and_merges_are_those_of_the_ontologies() -> None:
    """A label that is merged into another has it among its ancestors, and nothing obsolete is used."""
    guide = pytest.importorskip(
        "cellxgene_ontology_guide.ontology_parser", reason="needs the extra bench: pip install '.[bench]'"
    )
    parser = guide.OntologyParser()
    given = LABELS[LABELS["id"] != ""]
    assert len(given) > 200
    for row in given.itertuples():
        ontology = "PATO" if row.id.startswith("PATO") else corpus.ONTOLOGIES[row.column]
        assert parser.is_valid_term_id(row.id, ontology), row
        assert not parser.is_term_deprecated(row.id), row
        assert parser.get_term_label(row.id) == row.name, row
        for term in row.means.split("|"):
            assert row.id in parser.get_term_ancestors(term, include_self=True), row


def test_the_config_is_one_of_prepare() -> None:
    assert build(PrepareConfig, read_toml(corpus.MAPPING / "prepare.toml")).split == "donor"


# --- benchmarks/models/corpus.py ---


def toy(**columns: Any) -> ad.AnnData:
    obs = pd.DataFrame(columns, index=[f"cell{i}" for i in range(len(next(iter(columns.values()))))])
    return ad.AnnData(np.ones((len(obs), 2), dtype=np.float32), obs=obs)


def source(**facts: Any) -> corpus.Source:
    return corpus.Source(**{"name": "toy", "role": "split", "reason": "", "unclear": "", **facts})


ROWS = pd.DataFrame(
    [
        ("toy", "cell_type", "B", "", "CL:1", "B cell"),
        ("toy", "cell_type", "doublet", "", "", "not given"),
        ("toy", "disease", "ill", "", "", "not given"),
        ("toy", "disease", "ill", "site=tumour", "MONDO:1", "cancer"),
        ("other", "cell_type", "B", "", "CL:2", "something else"),
    ],
    columns=["source", "column", "label", "where", "id", "name"],
)
NOBODY = pd.DataFrame(columns=["source", "donor_id", "donor", "sex", "development_stage"])


def test_labels_become_names_and_ids_and_the_authors_words_stay() -> None:
    obs = corpus.harmonise(toy(cell_type=["B", "doublet", None]), source(), ROWS, NOBODY).obs
    assert texts(obs["cell_type"]) == ["B cell", "-", "-"]
    assert texts(obs["cell_type_ontology_term_id"]) == ["CL:1", "-", "-"]
    assert texts(obs["author_cell_type"]) == ["B", "doublet", "-"]


def test_a_row_with_where_goes_first_and_holds_only_there() -> None:
    obs = corpus.harmonise(toy(disease=["ill", "ill"], site=["blood", "tumour"]), source(), ROWS, NOBODY).obs
    assert texts(obs["disease"]) == ["-", "cancer"]


def test_a_label_without_a_row_is_refused_by_name() -> None:
    with pytest.raises(corpus.MappingError, match=r"toy: .* cell_type \['T'\]"):
        corpus.harmonise(toy(cell_type=["B", "T"]), source(), ROWS, NOBODY)


def test_only_cells_that_are_wanted_stay() -> None:
    cells = toy(condition=["ctrl", "drug", "ctrl"], kind=["cell", "cell", "doublet"])
    kept = corpus.harmonise(cells, source(keep={"condition": ["ctrl"]}, without={"kind": ["doublet"]}), ROWS, NOBODY)
    assert kept.obs_names.tolist() == ["cell0"]


def test_donors_that_may_be_in_the_other_file_go() -> None:
    ages = [f"{n}-year-old human stage" for n in (30, 30, 40)]
    rows = pd.DataFrame(
        [("*", "development_stage", age, "", "HsapDv:1", age) for age in set(ages)], columns=ROWS.columns
    )
    cells = toy(sex=["female", "male", "female"], development_stage=ages, donor_id=["a", "b", "c"])
    others = pd.DataFrame({"sex": ["female"], "development_stage": [ages[0]]})
    assert corpus.harmonise(cells, source(), rows, NOBODY, others).obs["donor_id"].tolist() == ["b", "c"]


def test_a_file_that_trains_whole_has_no_donors_to_hold_out() -> None:
    cells = corpus.harmonise(toy(donor_id=["a", "b"]), source(role="train"), ROWS, NOBODY).obs
    assert cells["donor_id"].isna().all()
    assert cells["author_donor_id"].tolist() == ["a", "b"]


def test_donors_are_joined_and_what_is_known_of_them_is_told() -> None:
    told = pd.DataFrame([("toy", "a", "x", "female", ""), ("other", "b", "y", "male", "")], columns=NOBODY.columns)
    obs = corpus.harmonise(toy(donor_id=["a", "b"]), source(), ROWS, told).obs
    assert obs["donor_id"].tolist() == ["x", "b"]
    assert texts(obs["sex"]) == ["female", "-"]


@pytest.mark.parametrize(("use", "sexes"), [("used", ["male", "female"]), ("apart", ["male", "-"])])
def test_inferred_sex_fills_gaps_only_where_the_mapping_says_so(use: str, sexes: list[str]) -> None:
    cells = toy(sex=["male", None], sex_inferred=["female", "female"])
    obs = corpus.harmonise(cells, source(sex_inferred=use, sex_reason="."), ROWS, NOBODY).obs
    assert texts(obs["sex"]) == sexes


def test_left_out_studies_are_whole_and_none_is_external() -> None:
    groups = corpus.read_groups()
    named = [one for group in groups for one in group["sources"]]
    assert len(named) == len(set(named))
    assert {SOURCES[one].role for one in named} <= {"split", "train"}
    # What may hold the same people is left out together, unless sources.toml says why it is not the same.
    for group in groups:
        people = {SOURCES[one].group for one in group["sources"]} - {""}
        others = {one.name for one in SOURCES.values() if one.group in people and one.role in ("split", "train")}
        assert all(SOURCES[one].apart for one in others - set(group["sources"]))
    real_sources = {one.name for one in SOURCES.values() if one.role in ("split", "train") and not one.measured}
    assert real_sources - set(named) == {"pbmc1k_citeseq_10x"}, "it has no label that varies"


def test_a_group_or_fold_that_is_not_there_is_refused_by_name() -> None:
    assert corpus.left_out(["kidney"], None) == {"kidney_immune_stewart"}
    assert corpus.left_out([], "a") >= {"zheng_pbmc_facs", "pancreas_baron_h1"}
    with pytest.raises(corpus.MappingError, match="no 'liver'"):
        corpus.left_out(["liver"], None)
    with pytest.raises(corpus.MappingError, match="no 'z'"):
        corpus.left_out([], "z")


# --- what the mapping says of the data ---


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name, one in SOURCES.items() if one.role != "left out"])
def test_the_mapping_covers_every_label_of_the_real_file(name: str) -> None:
    one = SOURCES[name]
    others = real(one.other_people_than).obs if one.other_people_than else None
    cells = corpus.harmonise(real(one.of_file), one, LABELS, DONORS, others)
    assert cells.n_obs
    rows = LABELS[LABELS["source"] == one.of_file]
    before = real(one.of_file).obs
    for column in set(rows["column"]):
        labels = set(rows.loc[rows["column"] == column, "label"])
        assert labels >= set(cells.obs[f"author_{column}"].dropna())
        assert labels <= set(before[column].dropna()), "a row nobody needs"
    for row in rows[rows["where"] != ""].itertuples():
        column, _, value = row.where.partition("=")
        assert ((before[row.column] == row.label) & (before[column] == value)).any(), row


@pytest.mark.data
def test_cells_of_profiles_are_sampled_by_study_and_measure_its_genes() -> None:
    measured = pd.read_csv(files.locate("profiles_tissues_cpl_measured", DATA), index_col=0)
    name = "COVID-Infected_PBMCs_COVID19_cellAtlas"
    sampled = corpus.sample(real("profiles_covid_cpl"), SOURCES["profiles_covid_cpl"], measured, 2)
    assert len(sampled) == 6
    cells = sampled[f"profiles_covid_cpl-{name}"]
    assert list(cells.var_names) == list(measured.index[measured[name] > 0])
    assert cells.n_obs == 2 * 20
    obs = corpus.harmonise(cells, SOURCES["profiles_covid_cpl"], LABELS, DONORS).obs
    assert obs["synthetic"].all()
    assert obs["donor_id"].isna().all()


@pytest.mark.data
def test_donors_of_a_file_in_two_roles_are_in_one_only() -> None:
    halves = [SOURCES["kidney_immune_stewart"], SOURCES["kidney_immune_stewart_external"]]
    cells = [corpus.harmonise(real("kidney_immune_stewart"), half, LABELS, DONORS) for half in halves]
    donors = [set(half.obs["author_donor_id"]) for half in cells]
    assert not donors[0] & donors[1]
    assert sum(half.n_obs for half in cells) == 1000
    # The rule that sources.toml states: of the donors in the order of their cells every second one trains.
    order = real("kidney_immune_stewart").obs["donor_id"].value_counts()
    assert donors[0] == set(order.index[1::2])


@pytest.mark.data
def test_the_sorted_blood_cells_are_of_no_man_and_pbmc3k_is_of_one() -> None:
    zheng, pbmc3k = real("zheng_pbmc_facs"), real("pbmc3k_10x")
    y_genes = {"RPS4Y1", "DDX3Y", "EIF1AY", "KDM5D", "UTY", "USP9Y"}
    assert not y_genes & set(zheng.var_names)
    xist_C = np.asarray(zheng[:, "XIST"].X.todense()).ravel() > 0
    assert pd.Series(xist_C).groupby(zheng.obs["cell_type"].to_numpy()).any().all()
    assert "XIST" not in pbmc3k.var_names
    assert (pbmc3k[:, "RPS4Y1"].X > 0).mean() > 0.5


@pytest.mark.data
def test_donors_who_are_joined_agree_in_sex_and_age() -> None:
    known = {}
    for name in ("pancreas_panc8_small", "pancreas_baron_175"):
        obs = corpus.harmonise(real(name), SOURCES[name], LABELS, DONORS).obs
        known[name] = obs.groupby("donor_id", observed=True)[["sex", "development_stage"]].first()
    joined = known["pancreas_panc8_small"].join(known["pancreas_baron_175"], rsuffix="_too", how="inner")
    assert len(joined) == 4
    for column in ("sex", "development_stage"):
        assert texts(joined[column]) == texts(joined[f"{column}_too"])


@pytest.mark.data
def test_sex_that_is_recorded_agrees_with_sex_that_was_inferred() -> None:
    obs = real("velmeshev_asd_pfc_glia").obs
    told = DONORS[DONORS["source"] == "velmeshev_asd_pfc_glia"].set_index("donor_id")["sex"]
    assert (obs["donor_id"].map(told).dropna() == obs.loc[obs["donor_id"].isin(told.index), "sex_inferred"]).all()
