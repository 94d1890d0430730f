"""Parts of a corpus, made apart and joined: the bytes of a corpus that was made at once."""

import errno
import filecmp
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from polygene.corpus.arrow import ShardWriter
from polygene.corpus.parts import join, prepare_part
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.corpus.source import PreparedSource
from polygene.errors import CorpusError, DataError, OutputError
from polygene.runtime.ranks import Part

CONFIG = PrepareConfig(n_genes=20, thinned=True)


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Cut the cells into several blocks and shards, and rank genes on some stretches only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polygene.corpus.source.BLOCK", 150)
        patch.setattr("polygene.corpus.source.STRETCH", 20)
        patch.setattr("polygene.corpus.prepare.LEAST_RANKING", 150)
        patch.setattr("polygene.corpus.arrow.SHARD_BYTES", 20_000)
        yield


@pytest.fixture(scope="module")
def files(make_adata, small_blocks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for seed in (1, 2):
        make_adata(400, 40, n_donors=12, seed=seed).write_h5ad(folder / f"cells{seed}.h5ad")
    return [folder / "cells1.h5ad", folder / "cells2.h5ad"]


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    config = replace(CONFIG, rank_cells=300)
    return prepare(files, tmp_path_factory.mktemp("whole") / "corpus", config=config)


@pytest.fixture(scope="module")
def three(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    config = replace(CONFIG, rank_cells=300)
    return [prepare_part(files, folder / f"part-{k}", f"{k}/3", config=config) for k in (1, 2, 3)]


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_bytes(one, two):
    assert names_in(one) == names_in(two)
    for name in names_in(one):
        assert filecmp.cmp(one / name, two / name, shallow=False), name


def test_three_parts_in_any_order_are_the_corpus_made_at_once(whole, three, tmp_path):
    joined = join([three[2], three[0], three[1]], tmp_path / "joined")
    assert sum(name.endswith(".arrow") for name in names_in(whole.folder)) > 4
    assert_same_bytes(joined.folder, whole.folder)


def test_files_of_corpora_and_parts_are_for_all_who_may_read_the_folder(whole, three):
    for folder in (whole.folder, *three):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert set(modes.values()) == {folder.stat().st_mode & 0o666}, modes


def test_more_parts_than_blocks_leave_one_empty_and_change_no_byte(files, whole, tmp_path):
    config = replace(CONFIG, rank_cells=300)
    parts = [prepare_part(files, tmp_path / f"{k}", f"{k}/7", config=config) for k in range(1, 8)]
    assert not list(parts[0].rglob("*.arrow"))
    assert_same_bytes(join(parts, tmp_path / "joined").folder, whole.folder)


def test_a_tokenizer_that_is_given_stays_as_it_is(files, whole, tmp_path):
    settings = {"config": CONFIG, "tokenizer": whole.tokenizer}
    parts = [prepare_part(files, tmp_path / f"{k}", f"{k}/2", **settings) for k in (1, 2)]
    at_once = prepare(files, tmp_path / "at-once", **settings)
    assert_same_bytes(join(parts, tmp_path / "joined").folder, at_once.folder)


def test_genes_are_ranked_on_stretches_of_training_cells_of_which_each_source_gives_a_share(whole, three):
    source = object.__new__(PreparedSource)
    source.part_C = (np.arange(1_000) % 4 == 3).astype(np.int8)
    source.choose_ranking(150)
    assert len(source.ranking) == pytest.approx(150, abs=20)
    assert not source.part_C[source.ranking].any()
    place = np.searchsorted(np.flatnonzero(source.part_C == 0), source.ranking)
    stretches, sizes = np.unique(place // 20, return_counts=True)
    assert np.diff(stretches).max() <= 750 / 150 + 1
    assert (sizes[:-1] == 20).all()
    source.choose_ranking(10_000)
    assert len(source.ranking) == 750


def test_each_part_is_given_its_own_contiguous_share():
    items = list(range(10))
    shares = [items[Part(k, 4).of(10)] for k in (1, 2, 3, 4)]
    assert [item for share in shares for item in share] == items
    assert {len(share) for share in shares} == {2, 3}


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/2", "1/0"])
def test_what_is_no_part_is_named(files, tmp_path, text):
    with pytest.raises(DataError, match=rf"such as 3/16; got '{text}'"):
        prepare_part(files, tmp_path / "part", text, config=CONFIG)


def test_a_part_that_is_missing_or_there_twice_is_named(three, tmp_path):
    with pytest.raises(CorpusError, match=r"of 3 parts 1 are missing: 2"):
        join([three[0], three[2]], tmp_path / "joined")
    with pytest.raises(CorpusError, match=r"part 1 of 3 is there twice: .*part-1 and .*part-1"):
        join([three[0], three[1], three[0], three[2]], tmp_path / "joined")
    with pytest.raises(CorpusError, match=r"is no part of a corpus"):
        join([tmp_path], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_parts_of_other_settings_or_cells_are_refused(files, three, tmp_path):
    other = prepare_part(files, tmp_path / "seed", "2/3", config=replace(CONFIG, rank_cells=300, seed=1))
    with pytest.raises(CorpusError, match="seed was 1 and 0"):
        join([three[0], other, three[2]], tmp_path / "joined")
    half = prepare_part(files[:1], tmp_path / "cells", "2/3", config=replace(CONFIG, rank_cells=300))
    with pytest.raises(CorpusError, match="made of different cells"):
        join([three[0], half, three[2]], tmp_path / "joined")
    more = prepare_part(files, tmp_path / "more", "2/4", config=replace(CONFIG, rank_cells=300))
    with pytest.raises(CorpusError, match="parts was 4 and 3"):
        join([three[0], more, three[2]], tmp_path / "joined")


def test_a_part_that_was_cut_off_or_altered_is_refused(three, tmp_path):
    shutil.copytree(three[1], tmp_path / "cut")
    arrow = next(iter(sorted((tmp_path / "cut" / "train").iterdir())))
    arrow.write_bytes(arrow.read_bytes()[:-8])
    with pytest.raises(CorpusError, match=r"cut is cut off or was altered"):
        join([three[0], tmp_path / "cut", three[2]], tmp_path / "joined")
    shutil.copytree(three[1], tmp_path / "altered")
    info = json.loads((tmp_path / "altered" / "part.json").read_text())
    (tmp_path / "altered" / "part.json").write_text(json.dumps(info | {"part": 1}))
    with pytest.raises(CorpusError, match=r"altered is cut off or was altered"):
        join([tmp_path / "altered", three[1], three[2]], tmp_path / "joined")


@pytest.mark.parametrize("what", ["part", "joined"])
def test_a_full_disk_leaves_neither_a_part_nor_a_corpus(files, three, tmp_path, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ShardWriter, "write", full)
    makes = {
        "part": lambda: prepare_part(files, tmp_path / "part", "1/2", config=CONFIG),
        "joined": lambda: join(three, tmp_path / "joined"),
    }
    with pytest.raises(OutputError, match="No space left on device"):
        makes[what]()
    assert list(tmp_path.iterdir()) == []
