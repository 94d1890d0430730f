import json
import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from polygene.errors import CheckpointError, ColumnError, DataError, GeneError, PhenotypeError, ScaleError
from polygene.vocab.binning import ExpressionBinner, InverseFit
from polygene.vocab.expression import log1p_values
from polygene.vocab.panel import GenePanel
from polygene.vocab.phenotypes import CELLXGENE, Phenotype, PhenotypeSchema, count_labels
from polygene.vocab.tokenizer import FILES, CellTokenizer

N_CELLS, N_GENES, N_PANEL = 60, 40, 16


def make_adata(seed=0):
    """Counts of 40 genes; 16 of them, and 4 genes that are not there, are the panel. Cell 5 has no counts."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.5, 3.0, N_GENES), (N_CELLS, N_GENES)).astype(np.float32)
    x[5] = 0
    obs = pd.DataFrame(
        {
            "sex": rng.choice(["female", "male", "unknown"], N_CELLS),
            "tissue": rng.choice(["blood", "lung"], N_CELLS),
            "cell_type": rng.choice(["B cell", "memory B cell", None], N_CELLS),
            "development_stage": rng.choice(["57-year-old human stage", "8-month-old stage"], N_CELLS),
            "disease": "normal",
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(N_GENES)]))


@pytest.fixture
def adata():
    return make_adata()


BINNERS = {
    "linear": ExpressionBinner.linear(),
    "binary": ExpressionBinner.binary(),
    "cell_rank": ExpressionBinner.cell_rank(5),
}
ROUND_TRIP = [kind for kind in BINNERS if kind != "cell_rank"]


def make_tokenizer(adata, kind="linear"):
    order = np.random.default_rng(1).permutation(N_GENES)[: N_PANEL - 4]
    symbols = [f"GENE{i}" for i in order]
    symbols[3:3] = ["ABSENT0", "ABSENT1"]
    symbols += ["ABSENT2", "ABSENT3"]
    panel = GenePanel(symbols=tuple(symbols), ensembl_ids=("",) * N_PANEL)
    fit = InverseFit(BINNERS[kind], N_PANEL)
    match = panel.match(adata.var)
    fit.add(log1p_values(adata, match), match.measured_G)
    schema = PhenotypeSchema.fit(count_labels(adata.obs))
    return CellTokenizer(panel=panel, binner=BINNERS[kind], schema=schema, inverse=fit.finish())


@pytest.fixture(params=BINNERS)
def tokenizer(request, adata):
    return make_tokenizer(adata, request.param)


@pytest.fixture
def linear(adata):
    return make_tokenizer(adata)


def same(a, b, *, values=True):
    names = ["offsets_C1", "genes_N", "bins_N", "labels_CP", "measured_G"] + (["values_N"] if values else [])
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_each_cell_holds_the_bins_of_its_expressed_panel_genes_in_panel_order(tokenizer, adata):
    cells = tokenizer.encode(adata)
    counts = pd.DataFrame(adata.X.toarray().astype(float), index=adata.obs_names, columns=adata.var_names)
    log = np.log1p(counts.div(counts.sum(axis=1).replace(0, 1), axis=0) * 1e4)
    measured = [symbol for symbol in tokenizer.panel.symbols if symbol in counts]
    bins = tokenizer.binner.bins(sparse.csr_matrix(log[measured].to_numpy(np.float32))).toarray()
    for i in range(N_CELLS):
        here = slice(cells.offsets_C1[i], cells.offsets_C1[i + 1])
        expected = {tokenizer.panel.symbols.index(s): b for s, b in zip(measured, bins[i], strict=True) if b > 0}
        assert dict(zip(cells.genes_N[here].tolist(), cells.bins_N[here].tolist(), strict=True)) == expected
        assert cells.genes_N[here].tolist() == sorted(expected)
        values = [log.iloc[i][tokenizer.panel.symbols[g]] for g in cells.genes_N[here]]
        np.testing.assert_allclose(cells.values_N[here], values, rtol=1e-5)
    assert cells.measured_G.tolist() == [symbol in counts for symbol in tokenizer.panel.symbols]
    assert len(cells) == N_CELLS


def test_the_arrays_have_the_agreed_types(tokenizer, adata):
    cells = tokenizer.encode(adata)
    types = {name: array.dtype.name for name, array in vars(cells).items() if isinstance(array, np.ndarray)}
    assert types == {
        "offsets_C1": "int64",
        "genes_N": "uint16",
        "bins_N": "uint8",
        "values_N": "float32",
        "labels_CP": "int16",
        "measured_G": "bool",
    }


def test_a_cell_without_counts_is_kept_with_nothing_expressed(tokenizer, adata):
    cells = tokenizer.encode(adata)
    assert cells.offsets_C1[5] == cells.offsets_C1[6]
    assert np.isfinite(cells.values_N).all()


def test_labels_are_those_of_pandas(linear, adata):
    labels = linear.encode(adata).labels_CP
    for p, phenotype in enumerate(CELLXGENE):
        column = adata.obs[phenotype.column].where(adata.obs[phenotype.column] != "unknown")
        assert labels[:, p].tolist() == pd.Categorical(column, categories=linear.schema.labels[p]).codes.tolist()


@pytest.mark.parametrize("kind", ROUND_TRIP)
def test_decoded_cells_encode_to_the_same_tokens(kind, adata):
    tokenizer = make_tokenizer(adata, kind)
    cells = tokenizer.encode(adata)
    x, obs = tokenizer.decode(cells)
    assert x.dtype == np.float32
    measured = cells.measured_G
    var = pd.DataFrame(index=list(tokenizer.panel.symbols))
    again = tokenizer.encode(ad.AnnData(x, obs=obs, var=var)[:, measured], scale="log1p")
    assert same(cells, again, values=False)


@pytest.mark.parametrize("value", [1.23444, 1.23456], ids=["mean rounds below its bin", "mean rounds above its bin"])
def test_a_mean_that_rounding_moves_over_an_edge_decodes_to_its_bin(value):
    edge = float(np.float32(value)) if value < 1.2345 else float(np.nextafter(np.float32(value), np.float32(2)))
    binner = ExpressionBinner(kind="linear", n_bins=3, edges=(0.1, edge))
    values = sparse.csr_matrix(np.full((20, 1), value, dtype=np.float32))
    fit = InverseFit(binner, 1)
    fit.add(values, np.array([True]))
    tokenizer = CellTokenizer(
        panel=GenePanel(symbols=("A",), ensembl_ids=("",)),
        binner=binner,
        schema=PhenotypeSchema(phenotypes=(), labels=()),
        inverse=fit.finish(),
    )
    cells = tokenizer.encode_values(values, np.array([True]), np.zeros((20, 0), np.int16))
    rounded = sparse.csr_matrix(tokenizer.inverse.mean_GB[:, cells.bins_N[:1]])
    assert binner.bins(rounded)[0, 0] != cells.bins_N[0]
    assert (binner.bins(tokenizer.decode(cells)[0]).data == cells.bins_N).all()


def test_cells_decode_to_the_training_means_of_their_bins(linear, adata):
    cells = linear.encode(adata)
    x, _ = linear.decode(cells)
    training = pd.DataFrame({"gene": cells.genes_N, "bin": cells.bins_N, "value": cells.values_N})
    enough = training.groupby(["gene", "bin"])["value"].transform("size") >= 10
    means = training.groupby(["gene", "bin"])["value"].transform("mean")
    assert enough.sum() > 100
    np.testing.assert_allclose(x.data[enough], means[enough], rtol=5.1e-4)


def keys(tokenizer, cells):
    """Everything a model gets to see of cells whose questions are not asked."""
    return (
        tokenizer.phenotype_token_ids(cells.labels_CP).tolist(),
        cells.offsets_C1.tolist(),
        cells.genes_N.tolist(),
        cells.bins_N.tolist(),
    )


def test_keys_are_the_same_whether_labels_are_missing_unknown_or_not_asked(tokenizer, adata):
    bare = ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var)
    unknown = adata.copy()
    unknown.obs[:] = "unknown"
    empty = adata.copy()
    empty.obs = pd.DataFrame(np.nan, index=empty.obs_names, columns=empty.obs.columns)
    outside = adata.copy()
    outside.obs[:] = "something else"
    expected = keys(tokenizer, tokenizer.encode(adata, use_labels=False))
    assert expected[0] == [[tokenizer.tokens.index(p.absent_token) for p in CELLXGENE]] * N_CELLS
    assert keys(tokenizer, tokenizer.encode(bare)) == expected
    assert keys(tokenizer, tokenizer.encode(unknown)) == expected
    assert keys(tokenizer, tokenizer.encode(empty)) == expected
    assert keys(tokenizer, tokenizer.encode(outside, use_labels=[])) == expected
    assert keys(tokenizer, tokenizer.encode(outside, unknown="not given")) == expected
    assert keys(tokenizer, tokenizer.encode(adata)) != expected


def test_only_the_phenotypes_asked_are_read(linear, adata):
    everything, asked = linear.encode(adata).labels_CP, linear.encode(adata, use_labels=["tissue", "age"]).labels_CP
    assert (asked[:, [1, 3]] == everything[:, [1, 3]]).all()
    assert (asked[:, [0, 2, 4]] == -1).all()
    assert (linear.encode(adata, use_labels="tissue").labels_CP[:, 1] == everything[:, 1]).all()


def test_a_cell_encodes_the_same_alone_in_pieces_and_in_any_order(tokenizer, adata):
    whole = tokenizer.encode(adata)
    order = np.random.default_rng(0).permutation(N_CELLS)
    assert same(tokenizer.encode(adata[order]), whole.rows(order))
    assert same(tokenizer.encode(adata[17:18], scale="counts"), whole.rows(slice(17, 18)))


def test_the_order_of_genes_in_the_file_changes_nothing(tokenizer, adata):
    order = np.random.default_rng(0).permutation(N_GENES)
    assert same(tokenizer.encode(adata[:, order]), tokenizer.encode(adata))


def test_log1p_and_counts_of_the_same_cells_give_the_same_tokens(tokenizer, adata):
    log = adata.copy()
    totals = np.maximum(adata.X.sum(axis=1), 1)
    log.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / np.asarray(totals) * 1e4).astype(np.float32))
    assert same(tokenizer.encode(log), tokenizer.encode(adata), values=False)


@pytest.mark.parametrize(
    "which",
    [slice(3, 9), slice(None, None, -2), np.array([7, 7, 0, 5]), np.arange(N_CELLS) % 3 == 0, np.array([], int)],
)
def test_rows_are_those_of_the_dense_matrix(linear, adata, which):
    cells = linear.encode(adata)

    def dense(some):
        return sparse.csr_matrix((some.bins_N, some.genes_N, some.offsets_C1), (len(some), N_PANEL)).toarray()

    some = cells.rows(which)
    assert (dense(some) == dense(cells)[which]).all()
    assert (some.labels_CP == cells.labels_CP[which]).all()
    assert len(some.values_N) == len(some.bins_N) == some.offsets_C1[-1]


def test_slots_and_tokens_are_laid_out_as_agreed(linear):
    assert linear.n_slots == 1 + 5 + 1 + N_PANEL + 1
    assert linear.tokens == (
        *(f"bin_{b}" for b in range(10)),
        *("[CLS]", "[START]", "[END]", "[MASK]"),
        *("[NO_SEX]", "[female]", "[male]"),
        *("[NO_TISSUE]", "[blood]", "[lung]"),
        *("[NO_CELL_TYPE]", "[B_cell]", "[memory_B_cell]"),
        *("[NO_AGE]", "[8-month-old_stage]", "[57-year-old_human_stage]"),
        *("[NO_DISEASE]", "[normal]"),
    )
    assert linear.n_tokens == len(linear.tokens)
    specials = [linear.cls_id, linear.start_id, linear.end_id, linear.mask_id]
    assert [linear.tokens[i] for i in specials] == ["[CLS]", "[START]", "[END]", "[MASK]"]
    assert len(set(linear.tokens)) == linear.n_tokens
    for p, phenotype in enumerate(CELLXGENE):
        assert linear.tokens[linear.absent_id(p)] == phenotype.absent_token
        words = tuple(f"[{label.replace(' ', '_')}]" for label in linear.schema.labels[p])
        assert linear.tokens[slice(*linear.label_range(p))] == words


def test_phenotype_tokens_read_like_the_labels(linear, adata):
    ids = linear.phenotype_token_ids(linear.encode(adata).labels_CP)
    for i in (0, 11, 23):
        for p, phenotype in enumerate(CELLXGENE):
            label = adata.obs[phenotype.column].iloc[i]
            absent = pd.isna(label) or label == "unknown"
            expected = phenotype.absent_token if absent else f"[{label.replace(' ', '_')}]"
            assert linear.tokens[ids[i, p]] == expected


def test_the_same_label_in_two_phenotypes_is_two_tokens(linear):
    phenotypes = (Phenotype(name="disease", column="disease"), Phenotype(name="treatment", column="drug"))
    schema = PhenotypeSchema(phenotypes=phenotypes, labels=(("normal",), ("normal",)))
    two = CellTokenizer(panel=linear.panel, binner=linear.binner, schema=schema, inverse=linear.inverse)
    ids = [i for i, token in enumerate(two.tokens) if token == "[normal]"]
    assert len(ids) == 2
    assert two.phenotype_token_ids(np.zeros((1, 2), np.int16)).tolist() == [ids]


def test_a_cell_is_shown_as_a_person_reads_it(linear, adata):
    cells = linear.encode(adata)
    i = int(np.argmax((cells.labels_CP >= 0).all(axis=1)))
    label = adata.obs.iloc[i].str.replace(" ", "_")
    here = slice(cells.offsets_C1[i], cells.offsets_C1[i + 1])
    genes = [f"{linear.panel.symbols[g]}={b}" for g, b in zip(cells.genes_N[here], cells.bins_N[here], strict=True)]
    n = len(genes)
    start = " ".join(["[CLS]", *(f"[{label[p.column]}]" for p in CELLXGENE), "[START]"])
    rest = f"… {12 - n} not expressed … 4 not measured [END]"
    assert n > 3
    assert linear.show(cells, i) == f"{start} {' '.join(genes)} {rest}"
    assert linear.show(cells, i, n_genes=2) == f"{start} {genes[0]} {genes[1]} … {n - 2} more expressed {rest}"
    empty = linear.show(cells.rows(np.array([5])))
    assert empty.endswith("[START] … 12 not expressed … 4 not measured [END]")


def test_a_loaded_tokenizer_is_the_saved_one_byte_for_byte(tokenizer, adata, tmp_path):
    tokenizer.save(tmp_path / "a")
    loaded = CellTokenizer.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (loaded.panel, loaded.binner, loaded.schema) == (tokenizer.panel, tokenizer.binner, tokenizer.schema)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    cells = tokenizer.encode(adata)
    assert same(loaded.encode(adata), cells)
    assert (loaded.decode(cells)[0] != tokenizer.decode(cells)[0]).nnz == 0


def test_the_same_cells_give_the_same_bytes_and_other_training_cells_others(adata):
    tokenizer = make_tokenizer(adata)
    assert make_tokenizer(make_adata()).fingerprint() == tokenizer.fingerprint()
    assert make_tokenizer(make_adata(seed=1)).fingerprint() != tokenizer.fingerprint()


def test_the_fingerprint_changes_with_every_part(linear):
    parts = {name: getattr(linear, name) for name in ("panel", "binner", "schema", "inverse")}
    other = {
        "panel": GenePanel(symbols=linear.panel.symbols[::-1], ensembl_ids=linear.panel.ensembl_ids),
        "binner": ExpressionBinner.linear(last=8.0),
        "schema": PhenotypeSchema(phenotypes=CELLXGENE, labels=(*linear.schema.labels[:4], ("COVID-19",))),
        "inverse": InverseFit(linear.binner, N_PANEL).finish(),
    }
    prints = {
        linear.fingerprint(),
        *(CellTokenizer(**{**parts, name: new}).fingerprint() for name, new in other.items()),
    }
    assert len(prints) == 5


def test_the_saved_file_is_json_that_names_its_parts(linear, tmp_path):
    linear.save(tmp_path)
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    assert list(parts) == ["format", "binner", "phenotypes"]
    assert parts["phenotypes"][3] == {
        "name": "age",
        "column": "development_stage",
        "ordinal": "age",
        "labels": ["8-month-old stage", "57-year-old human stage"],
    }


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("}", "", "is broken"),
        ('"format":2', '"format":99', "has format 99, this version of PolyGene reads 2"),
        ('"linear"', '"log"', "is broken"),
        ('"column"', '"kolumn"', "is broken"),
    ],
)
def test_a_broken_tokenizer_is_refused_by_name(linear, tmp_path, old, new, problem):
    linear.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json {problem}"):
        CellTokenizer.load(tmp_path)


@pytest.mark.parametrize("damage", ["cut off", "another name"])
def test_broken_tables_are_refused_by_name(linear, tmp_path, damage):
    linear.save(tmp_path)
    path = tmp_path / "tokenizer.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:100] if damage == "cut off" else whole.replace(b'"mean"', b'"mode"'))
    with pytest.raises(CheckpointError, match=r"tokenizer\.safetensors is broken"):
        CellTokenizer.load(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(linear, tmp_path, name):
    linear.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"{name} is missing")):
        CellTokenizer.load(tmp_path)


def test_parts_that_do_not_fit_together_are_refused(linear, tmp_path):
    linear.save(tmp_path)
    short = GenePanel(symbols=linear.panel.symbols[:-1], ensembl_ids=linear.panel.ensembl_ids[:-1])
    short.save(tmp_path / "genes.tsv")
    with pytest.raises(CheckpointError, match=r"\(16, 10\) genes x bins, panel and binner have \(15, 10\)"):
        CellTokenizer.load(tmp_path)


def test_what_was_found_is_said_once(linear, adata, caplog):
    n = int((adata.obs["sex"] == "unknown").sum())
    with caplog.at_level(logging.INFO, "polygene"):
        linear.encode(adata, use_labels=["sex"])
    assert caplog.messages == [
        "genes: matched 12 of 16 of the panel (12 by symbol)",
        "genes: 4 not measured: ABSENT0, ABSENT1, ABSENT2, ABSENT3",
        "expression: X holds counts",
        f"sex: {n} of {N_CELLS} cells not given ({n} 'unknown')",
    ]


def spoil(adata, how):
    if how == "other genes":
        adata.var_names = [f"OTHER{i}" for i in range(N_GENES)]
    if how == "scaled":
        adata.X = sparse.csr_matrix(adata.X.toarray() - 1)
    if how == "NaN":
        adata.X.data[10] = np.nan
    if how == "label":
        adata.obs["tissue"] = "lungs"
    if how == "column":
        del adata.obs["tissue"]
    return {"table": adata.obs, "empty": adata[:0]}.get(how, adata)


@pytest.mark.parametrize(
    ("how", "error", "problem"),
    [
        ("table", DataError, "Expected an AnnData, got DataFrame"),
        ("empty", DataError, "The AnnData is empty: 0 cells"),
        ("other genes", GeneError, "None of the 16 genes of the panel"),
        ("scaled", ScaleError, "looks scaled"),
        ("NaN", ScaleError, "NaN or infinite"),
        ("label", PhenotypeError, "'lungs' .60 cells; the nearest is 'lung'"),
        ("column", ColumnError, "no column 'tissue' in obs"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(linear, adata, how, error, problem):
    with pytest.raises(error, match=problem):
        linear.encode(spoil(adata, how), use_labels=["tissue"])
