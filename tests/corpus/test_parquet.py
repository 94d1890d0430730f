"""A corpus in Parquet: the cells of every node together are those of the Arrow corpus, wherever the files are."""

import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from polygene.corpus import parquet as streaming
from polygene.corpus.corpus import Corpus
from polygene.corpus.parquet import stream, write_parquet
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import CorpusError


@pytest.fixture(scope="module")
def corpus(make_adata, tmp_path_factory):
    """Two sources, of which the second did not measure all genes."""
    first, second = make_adata(300, seed=1), make_adata(200, seed=2)[:, 5:].copy()
    second.obs_names = [f"other{i}" for i in range(200)]
    config = PrepareConfig(n_genes=24, fractions=(0.5, 0.25, 0.25))
    return prepare({"first": first, "second": second}, tmp_path_factory.mktemp("c") / "corpus", config=config)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """Parquet files of 60 cells, which are read 25 at a time."""
    out = tmp_path_factory.mktemp("parquet") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "FILE_CELLS", 60)
        write_parquet(corpus, out)
    assert len(list(out.glob("train/*.parquet"))) == -(-len(corpus.split("train")) // 60)
    return out


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files, as stores do."""

    def send_head(self):
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            return super().send_head()
        file, first = path.open("rb"), int(asked[1])
        last = min(int(asked[2]), path.stat().st_size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{path.stat().st_size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(file.read()[first : last + 1])
        file.close()
        return None

    def log_message(self, *_):
        pass


@pytest.fixture(params=["path", "http", "memory"])
def url(request, folder) -> Iterator[str]:
    if request.param == "http":
        handler = functools.partial(Ranges, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()
    elif request.param == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(str(folder), "/corpus", recursive=True)
        yield "memory://corpus"
        memory.rm("/corpus", recursive=True)
    else:
        yield str(folder)


def one_by_one(batches):
    """Read cells by name: (source, donor, genes, bins, values, labels)."""
    found = {}
    for cells, sources_C, donors_C, names_C in batches:
        for i, name in enumerate(names_C):
            entries = slice(cells.offsets_C1[i], cells.offsets_C1[i + 1])
            lists = [array[entries].tolist() for array in (cells.genes_N, cells.bins_N, cells.values_N)]
            assert name not in found, "every cell comes once"
            found[name] = (sources_C[i], donors_C[i], *lists, cells.labels_CP[i].tolist())
    return found


def expected(corpus, split):
    part = corpus.split(split)
    return one_by_one([(part.cells(slice(None)), part.sources_C, part.donors_C, part.names_C)])


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_cell_comes_once_over_all_nodes_and_is_that_of_the_corpus(corpus, url, monkeypatch, world_size):
    monkeypatch.setattr(streaming, "BUFFER_CELLS", 25)
    whole = expected(corpus, "train")
    parts = [one_by_one(stream(url, batch_size=16, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sum(map(len, parts)) == len(whole)
    assert {name: cell for part in parts for name, cell in part.items()} == whole
    assert min(map(len, parts)) > 0


def test_seed_and_epoch_decide_the_order(folder):
    def order(**how):
        return [name for batch in stream(folder, **how) for name in batch.names_C]

    assert order() == order()
    assert order() != order(epoch=1) != order(seed=1)
    assert sorted(order()) == sorted(order(epoch=1))


def test_a_gene_counts_as_measured_only_if_every_source_of_the_batch_measured_it(corpus, folder):
    met = set()
    for batch in stream(folder, batch_size=4):
        present = np.unique(batch.sources_C)
        assert np.array_equal(batch.cells.measured_G, corpus.measured_SG[present].all(axis=0))
        met.add(tuple(present))
    assert len(met) > 1


def test_what_is_no_corpus_in_parquet_is_said(corpus, folder, tmp_path):
    with pytest.raises(CorpusError, match=r"corpus\.json cannot be read"):
        next(stream(tmp_path))
    with pytest.raises(CorpusError, match="write_parquet"):
        next(stream(corpus.folder))
    with pytest.raises(CorpusError, match="no cells of the split 'tests'"):
        next(stream(folder, "tests"))
    with pytest.raises(CorpusError, match="not of the format"):
        Corpus(folder)
    with pytest.raises(CorpusError, match="exists"):
        write_parquet(corpus, folder)
    shutil.copy(folder / "corpus.json", tmp_path)
    assert json.loads((tmp_path / "corpus.json").read_text())["tokenizer"] == corpus.info["tokenizer"]
