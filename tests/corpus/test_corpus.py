import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest

from polygene.corpus.arrow import SPLITS
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.corpus.written import digest_of
from polygene.errors import CorpusError, DataError
from polygene.vocab.cells import ranges

CONFIG = PrepareConfig(n_genes=24, fractions=(0.5, 0.25, 0.25), seen=0.05)


@pytest.fixture(scope="module")
def adatas(make_adata):
    """Two files that share 20 of 30 genes; cell 7 of the first has no counts, some labels and donors are missing."""
    first, second = make_adata(400, seed=1), make_adata(300, seed=2)[:, 10:].copy()
    second.var_names = [*second.var_names[:10], *(f"OTHER{g}" for g in range(10))]
    first.X = first.X.multiply((np.arange(400) != 7)[:, None]).tocsr()
    first.obs["sex"] = first.obs["sex"].astype(object).where(np.arange(400) % 3 > 0, None)
    second.obs["donor_id"] = [None if i < 30 else f"other{i % 9}" for i in range(300)]
    return {"first": first, "second": second}


@pytest.fixture(scope="module", params=["one shard", "many shards and record batches"])
def corpus(request, adatas, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "one shard":
            patch.setattr("polygene.corpus.arrow.SHARD_BYTES", 3_000)
            patch.setattr("polygene.corpus.arrow.BATCH_CELLS", 17)
            patch.setattr("polygene.io.read.CellSource.chunks.__defaults__", (None, 50))
        corpus = prepare(adatas, folder, config=CONFIG)
    assert (len(list((folder / "train").glob("*.arrow"))) > 3) == (request.param != "one shard")
    return corpus


@pytest.fixture
def folder(corpus, tmp_path):
    """Copy the corpus, to be spoilt."""
    return shutil.copytree(corpus.folder, tmp_path / "corpus")


def rows(corpus, split):
    """Read a split as any program that knows Arrow streams does, in Python lists."""
    files = sorted((corpus.folder / split).glob("*.arrow"))
    return [row for file in files for row in pa.ipc.open_stream(file.read_bytes()).read_all().to_pylist()]


@pytest.mark.parametrize("split", SPLITS)
def test_cells_in_any_order_are_those_that_pyarrow_reads(corpus, split):
    cells_of, expected = corpus.split(split), rows(corpus, split)
    assert len(cells_of) == len(expected)
    indices = np.random.default_rng(0).integers(0, len(expected), 500)
    cells = cells_of.cells(indices)
    assert len(cells) == 500
    for i, row in enumerate(expected[index] for index in indices):
        entries = slice(cells.offsets_C1[i], cells.offsets_C1[i + 1])
        assert cells.genes_N[entries].tolist() == row["genes"]
        assert cells.bins_N[entries].tolist() == row["bins"]
        assert cells.values_N[entries].tolist() == row["values"]
        assert cells.labels_CP[i].tolist() == row["labels"]
    assert [cells.genes_N.dtype, cells.bins_N.dtype, cells.values_N.dtype] == [np.uint16, np.uint8, np.float32]
    assert [cells.offsets_C1.dtype, cells.labels_CP.dtype] == [np.int64, np.int16]


def test_columns_of_a_split_are_those_that_pyarrow_reads(corpus):
    train, expected = corpus.split("train"), rows(corpus, "train")
    assert train.labels_CP.tolist() == [row["labels"] for row in expected]
    assert train.sources_C.tolist() == [row["source"] for row in expected]
    assert train.donors_C.tolist() == [row["donor_id"] for row in expected]
    assert train.names_C.tolist() == [row["cell"] for row in expected]
    np.testing.assert_array_equal(train.years_C, np.array([row["years"] for row in expected], dtype=np.float32))
    assert "" in train.donors_C
    assert set(train.sources_C) == {0, 1}


def test_cells_are_what_the_tokenizer_makes_of_the_file(corpus, adatas):
    n_cells = 0
    for split in SPLITS:
        part = corpus.split(split)
        for source, adata in enumerate(adatas.values()):
            which = np.flatnonzero(part.sources_C == source)
            cells = part.cells(which)
            encoded = corpus.tokenizer.encode(adata[part.names_C[which]], scale="counts", unknown="not given")
            for name in ("offsets_C1", "genes_N", "bins_N", "labels_CP", "measured_G"):
                assert np.array_equal(getattr(cells, name), getattr(encoded, name)), name
            np.testing.assert_allclose(cells.values_N, encoded.values_N, rtol=5e-4)
            n_cells += len(cells)
    assert n_cells == 700


def test_slices_negative_numbers_and_no_numbers_are_indices(corpus):
    train = corpus.split("train")
    assert np.array_equal(train.cells(slice(-3, None)).genes_N, train.cells(np.array([-3, -2, -1])).genes_N)
    assert len(train.cells(np.array([], dtype=int))) == 0
    assert len(train.cells(slice(None))) == len(train)
    for wrong in ([len(train)], [-len(train) - 1]):
        with pytest.raises(IndexError, match=f"numbered from 0 to {len(train) - 1}"):
            train.cells(np.array(wrong))


def test_a_gene_counts_as_measured_only_if_every_source_of_the_batch_measured_it(corpus):
    train = corpus.split("train")
    first, second = (np.flatnonzero(train.sources_C == source)[:5] for source in (0, 1))
    assert np.array_equal(train.cells(first).measured_G, corpus.measured_SG[0])
    assert np.array_equal(train.cells(second).measured_G, corpus.measured_SG[1])
    both = train.cells(np.concatenate([first, second])).measured_G
    assert np.array_equal(both, corpus.measured_SG[0] & corpus.measured_SG[1])
    assert 0 < both.sum() < corpus.measured_SG.any(axis=0).sum() == 24


def test_no_cell_expresses_a_gene_that_its_source_did_not_measure(corpus):
    train = corpus.split("train")
    expressed_CG = train.values().toarray() > 0
    assert not (expressed_CG & ~corpus.measured_SG[train.sources_C]).any()
    symbols = np.array(corpus.tokenizer.panel.symbols)
    assert not np.isin(symbols[corpus.measured_SG[0]], [f"OTHER{g}" for g in range(10)]).any()


def test_values_are_a_matrix_of_log1p_counts_per_ten_thousand(corpus, adatas):
    test = corpus.split("test")
    which = np.flatnonzero(test.sources_C == 0)
    adata = adatas["first"][test.names_C[which]]
    symbols = np.array(corpus.tokenizer.panel.symbols)[corpus.measured_SG[0]]
    counts = adata.X.toarray()
    expected = np.log1p(1e4 * adata[:, symbols].X.toarray() / np.maximum(counts.sum(1), 1)[:, None])
    np.testing.assert_allclose(test.values(which).toarray()[:, corpus.measured_SG[0]], expected, rtol=1e-3)
    assert test.values().shape == (len(test), 24)


def test_a_split_can_be_sent_to_another_process(corpus):
    train = corpus.split("train")
    sent = pickle.dumps(train)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent).cells(np.arange(9)).genes_N, train.cells(np.arange(9)).genes_N)  # noqa: S301


def test_an_empty_split_has_no_cells(adatas, tmp_path):
    corpus = prepare(adatas["first"], tmp_path / "corpus", config=PrepareConfig(fractions=(0.5, 0, 0.5)))
    validation = corpus.split("validation")
    assert len(validation) == 0
    assert validation.labels_CP.shape == (0, 5)
    assert validation.values().shape == (0, 30)
    assert len(validation.donors_C) == len(validation.sources_C) == 0


def test_joined_ranges():
    assert ranges(np.array([5, 0, 7]), np.array([2, 1, 0])).tolist() == [5, 6, 0]
    assert ranges(np.array([], dtype=int), np.array([], dtype=int)).tolist() == []


def test_a_truncated_arrow_file_is_found_on_opening(folder):
    file = sorted((folder / "test").glob("*.arrow"))[-1]
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(CorpusError, match=rf"{file.name} is cut off or altered: [\d,]+ bytes, {len(content):,} were"):
        Corpus(folder)


def test_an_arrow_file_of_the_right_size_with_other_content_is_found(folder):
    file = sorted((folder / "test").glob("*.arrow"))[0]
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CorpusError, match=r"\.arrow was altered"):
        Corpus(folder)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("split", ["train", "test"])
def test_one_changed_bit_of_a_shard_is_found_on_opening(folder, split, place):
    file = next((folder / split).glob("*.arrow"))
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=rf"{file.name} was altered: its SHA-256"):
        Corpus(folder)


def test_a_changed_word_of_corpus_json_is_found(folder):
    path = folder / "corpus.json"
    info = json.loads(path.read_text())
    assert {"bytes", "sha256"} == set(next(iter(info["files"].values())))
    info["sources"][0]["measured"] = info["sources"][0]["measured"].replace("1", "0", 1)
    path.write_text(json.dumps(info))
    with pytest.raises(CorpusError, match=r"corpus\.json was altered"):
        Corpus(folder)


def test_a_corpus_of_before_hashes_were_written_is_opened_and_its_cells_are_counted(folder):
    path = folder / "corpus.json"
    info = json.loads(path.read_text())
    info.pop("digest")
    info["files"] = {name: one["bytes"] for name, one in info["files"].items()}
    path.write_text(json.dumps(info))
    assert len(Corpus(folder).split("train"))
    info["sources"][0]["cells"]["train"] += 1
    path.write_text(json.dumps(info))
    with pytest.raises(CorpusError, match=r"train cells, and .* were written"):
        Corpus(folder).split("train")


@pytest.mark.parametrize("change", [{"sources": 3}, {"files": []}, {"config": None}, {"sources": [{}]}])
def test_a_corpus_json_of_other_content_is_one_error(folder, change):
    path = folder / "corpus.json"
    info = json.loads(path.read_text()) | change
    info["digest"] = digest_of(info)
    path.write_text(json.dumps(info))
    with pytest.raises(CorpusError, match="is damaged or was altered"):
        Corpus(folder)


@pytest.mark.parametrize("file", ["corpus.json", "tokenizer.json", "tokenizer.safetensors", "genes.tsv", "train"])
def test_a_missing_file_is_named(folder, file):
    if file == "train":
        shutil.rmtree(folder / file)
    else:
        (folder / file).unlink()
    with pytest.raises(CorpusError, match=file):
        Corpus(folder)


def test_a_folder_that_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"is no corpus.*polygene prepare"):
        Corpus(tmp_path)
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(CorpusError, match=r"corpus\.json is damaged"):
        Corpus(tmp_path)
    (tmp_path / "corpus.json").write_text('{"format": 99}')
    with pytest.raises(CorpusError, match="not of the format"):
        Corpus(tmp_path)


def test_a_corpus_whose_tokenizer_was_exchanged_is_refused(folder):
    genes = (folder / "genes.tsv").read_text()
    (folder / "genes.tsv").write_text(genes.replace("GENE", "GENF"))
    with pytest.raises(CorpusError, match="was altered"):
        Corpus(folder)


def test_a_model_with_another_tokenizer_is_refused(corpus, make_tokenizer):
    corpus.check(corpus.tokenizer.fingerprint())
    with pytest.raises(CorpusError, match=r"made with another tokenizer.*Train on this corpus"):
        corpus.check(make_tokenizer(24).fingerprint())


def test_a_split_is_opened_once(corpus):
    assert corpus.split("train") is corpus.split("train")


def test_a_corpus_describes_itself_in_a_few_lines(corpus):
    text = repr(corpus)
    assert len(text.splitlines()) == 5
    assert f"train {len(corpus.split('train'))}, validation {len(corpus.split('validation'))}" in text
    assert "sources: 2 (first, second)" in text
    assert "genes: 24 in 10 bins" in text


def test_a_split_that_does_not_exist_is_refused(corpus):
    with pytest.raises(DataError, match="the split is one of train, validation, test, seen; got 'training'"):
        corpus.split("training")


def test_what_the_folder_says_of_itself(corpus):
    info = json.loads((corpus.folder / "corpus.json").read_text())
    assert corpus.split_word == info["config"]["split"] == "donor"
    assert corpus.sources == ("first", "second")
    for source, described in enumerate(info["sources"]):
        for split in SPLITS:
            part = corpus.split(split)
            mine = part.sources_C == source
            assert described["cells"][split] == mine.sum()
            assert described["donors"][split] == len(set(part.donors_C[mine]) - {""})
            assert described["not_given"]["sex"][split] == (part.labels_CP[mine, 0] < 0).sum()
        assert described["scale"] == "counts"
        assert described["panel_genes"] == corpus.measured_SG[source].sum()
    assert info["sources"][0]["cells_without_panel_genes"] == 1


def test_a_summary_counts_cells_and_donors_of_every_source_and_split(corpus):
    summary = corpus.summary()
    assert summary["split"] == "donor"
    assert list(summary["sources"]) == ["first", "second"]
    for s, source in enumerate(summary["sources"].values()):
        assert source["panel_genes"] == corpus.measured_SG[s].sum()
        for name in SPLITS:
            split = corpus.split(name)
            of_source_C = split.sources_C == s
            donors = set(split.donors_C[of_source_C]) - {""}
            assert source["cells"].get(name, 0) == of_source_C.sum()
            assert source["donors"].get(name, 0) == len(donors)
            assert 0 not in (source["cells"].get(name), source["donors"].get(name)), "what is 0 is left out"
