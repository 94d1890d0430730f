"""The checkpoint folder: what is in it, what is refused, and that it answers as the model that was saved."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polygene.cli.describe import describe
from polygene.errors import CheckpointError, DataError, OutputError, PolyGeneError
from polygene.model.calibration import Calibration, calibrate
from polygene.model.checkpoint import DECISIVE, NOVELTY, SUMS, PolyGene
from polygene.model.inference import bin_probabilities, cell_states, label_probabilities
from polygene.model.metrics import Metrics
from polygene.model.novelty import NoveltyDetector
from polygene.model.recipe import Recipe
from polygene.vocab.tokenizer import CellTokenizer

FILES = {*DECISIVE, SUMS, "recipe.toml", "metrics.json", "README.md"}


@pytest.fixture
def saved(tiny_model, tmp_path) -> Path:
    """A checkpoint folder."""
    model = replace(tiny_model, recipe=Recipe(corpus="corpus", out="ü"), metrics=Metrics(validation={"loss": 1.5}))
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def answers_of(model, cells):
    """Answer labels, states and genes: everything a model can be asked."""
    asked_cells_Q, asked_genes_Q = np.repeat(np.arange(len(cells)), 3), np.tile([1, 5, 30], len(cells))
    visible_N = ~np.isin(cells.genes_N, [1, 5, 30])
    return [
        *label_probabilities(model, cells, predict=model.tokenizer.schema.names),
        cell_states(model, cells, given=["sex"]),
        bin_probabilities(model, cells, asked_cells_Q, asked_genes_Q, visible_N),
    ]


def bytes_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_that_is_loaded_again_gives_identical_answers(tiny_model, toy_cells, saved):
    loaded = PolyGene.from_pretrained(saved, device="cpu")
    for answer, expected in zip(answers_of(loaded, toy_cells), answers_of(tiny_model, toy_cells), strict=True):
        assert expected.std() > 0
        np.testing.assert_array_equal(answer, expected)
    assert loaded.tokenizer.fingerprint() == tiny_model.tokenizer.fingerprint()
    assert loaded.recipe == Recipe(corpus="corpus", out="ü")
    assert loaded.metrics == Metrics(validation={"loss": 1.5})
    assert not loaded.network.training


def test_a_checkpoint_may_be_saved_over_and_over(saved):
    before = bytes_of(saved)
    PolyGene.from_pretrained(saved, device="cpu").save_pretrained(saved)
    assert bytes_of(saved) == before


def test_the_folder_holds_the_files_of_a_checkpoint_and_nothing_pickled(saved):
    assert {path.name for path in saved.iterdir()} == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["saved"], "nothing is left beside it"
    for name in {one for one in FILES if not one.endswith(".safetensors")}:
        (saved / name).read_text(encoding="utf-8")
    header_size = int.from_bytes((saved / "model.safetensors").read_bytes()[:8], "little")
    assert "__metadata__" in json.loads((saved / "model.safetensors").read_bytes()[8 : 8 + header_size])


def test_the_hashes_are_those_of_the_files_that_decide(saved):
    expected = {name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in (*DECISIVE, "recipe.toml")}
    assert dict(line.split("  ")[::-1] for line in (saved / SUMS).read_text().splitlines()) == expected


def test_the_model_card_says_what_the_model_knows(tiny_model, saved):
    card = (saved / "README.md").read_text(encoding="utf-8")
    n_weights = sum(weights.numel() for weights in tiny_model.network.parameters())
    for fact in ("40 genes", "10 expression bins", f"{n_weights:,} weights", "| cell_type | 3 | B cell, T cell, monoc"):
        assert fact in card


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [alter, cut_off, Path.unlink], ids=["altered", "cut off", "missing"])
@pytest.mark.parametrize("name", [*DECISIVE, SUMS])
def test_a_damaged_file_is_refused_by_name(saved, name, damage):
    damage(saved / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        PolyGene.from_pretrained(saved)
    assert "\n" not in str(caught.value)


def test_a_calibration_is_loaded_and_scales_the_logits(tiny_model, toy_cells, tmp_path):
    p_CV, names = np.random.default_rng(0).dirichlet([1, 1, 1], 60).astype(np.float32), ["cell_type", "sex"]
    one = replace(calibrate(p_CV, np.arange(60) % 3, None), temperature=2.0)
    replace(tiny_model, calibration=Calibration(labels={"cell_type": one})).save_pretrained(tmp_path / "saved")
    loaded = PolyGene.from_pretrained(tmp_path / "saved", device="cpu")
    cell_type_CV, sex_CV = label_probabilities(loaded, toy_cells, predict=names)
    plain_CV, plain_sex_CV = label_probabilities(tiny_model, toy_cells, predict=names)
    expected_CV = plain_CV**0.5 / (plain_CV**0.5).sum(1, keepdims=True)
    np.testing.assert_allclose(cell_type_CV, expected_CV, rtol=1e-4)
    np.testing.assert_array_equal(sex_CV, plain_sex_CV)


def test_a_checkpoint_without_calibration_loads_and_says_so(saved, caplog):
    with caplog.at_level("INFO", logger="polygene"):
        loaded = PolyGene.from_pretrained(saved, device="cpu")
    assert loaded.calibration == Calibration()
    assert [record.message for record in caplog.records if "was not calibrated" in record.message]


def hash_again(folder):
    """List the files as they are, as someone does who alters a checkpoint on purpose."""
    names = [line.split("  ")[1] for line in (folder / SUMS).read_text().splitlines()]
    sums = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (folder / SUMS).write_text("".join(sums))


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_of_another_network_are_refused_and_not_made_up(saved, change):
    weights = load_file(saved / "model.safetensors")
    if change == "missing":
        del weights["linear_branch.bins"]
    else:
        weights["wider.bias"] = torch.zeros(3)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    hash_again(saved)
    with pytest.raises(CheckpointError, match=r"of another PolyGene: (linear_branch\.bins|wider\.bias)"):
        PolyGene.from_pretrained(saved)


def test_a_list_of_hashes_that_ends_early_is_refused(saved):
    """Else what it does not name would go unchecked."""
    (saved / SUMS).write_text((saved / SUMS).read_text().splitlines(keepends=True)[0])
    alter(saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="SHA256SUMS was cut off"):
        PolyGene.from_pretrained(saved)


@pytest.mark.parametrize("name", ["nobody/nothing", "no/such/folder", "no folder", "runs"])
def test_a_name_that_is_neither_folder_nor_repository_is_told_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"There is no checkpoint '{name}'") as caught:
        PolyGene.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_folder_is_fetched_from_the_hub_and_checked(tiny_model, toy_cells, saved, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"owner/name": str(saved)}.__getitem__)
    loaded = PolyGene.from_pretrained("owner/name", device="cpu")
    np.testing.assert_array_equal(cell_states(loaded, toy_cells), cell_states(tiny_model, toy_cells))
    alter(saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        PolyGene.from_pretrained("owner/name")


@pytest.mark.parametrize("wrong", [3, None, ["polygene-512"]])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(DataError, match=r"model is a PolyGene, a folder or a name such as 'polygene-512'; got"):
        PolyGene.from_pretrained(wrong)


def test_a_folder_whose_training_was_stopped_says_so(tmp_path):
    (tmp_path / "training" / "checkpoint-74").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="training has not ended: the same command goes on"):
        PolyGene.from_pretrained(tmp_path)
    (tmp_path / "training" / "finished").touch()
    with pytest.raises(CheckpointError, match="Copy the whole folder again"):
        PolyGene.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "SHA256SUMS", "model.safetensors"])
def test_a_file_that_was_copied_empty_is_missing(saved, name):
    (saved / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"is not a complete PolyGene checkpoint: {name} missing or empty"):
        PolyGene.from_pretrained(saved)


@pytest.fixture
def another(tiny_model):
    """A model with other weights."""
    model = PolyGene.new(tiny_model.tokenizer, seed=1, **other_shape(tiny_model))
    assert not torch.equal(model.network.decoder.weight, tiny_model.network.decoder.weight)
    return model


def other_shape(model):
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(model.network.config, name) for name in names}


def test_a_save_that_fails_leaves_the_old_checkpoint_as_it_was(another, saved, monkeypatch):
    before = bytes_of(saved)
    monkeypatch.setattr(CellTokenizer, "save", no_space)
    with pytest.raises(OutputError, match=r"could not be written, and nothing was left behind.*no space"):
        another.save_pretrained(saved)
    assert bytes_of(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    PolyGene.from_pretrained(saved)


def no_space(*args, **kwargs):
    raise OSError(28, "no space left on the disk")


@pytest.mark.parametrize("moved", range(1, 8))
def test_a_save_stopped_between_two_moves_is_refused_until_it_is_done_again(
    another, toy_cells, saved, moved, monkeypatch
):
    done = []

    def move(self, target, move=Path.replace):
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(target)
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            another.save_pretrained(saved)
    old, new = (saved / "SHA256SUMS").read_text(), {name: bytes_of(saved)[name] for name in DECISIVE}
    if "recipe.toml" not in bytes_of(saved) or any(
        hashlib.sha256(content).hexdigest() not in old for content in new.values()
    ):
        with pytest.raises(CheckpointError):
            PolyGene.from_pretrained(saved)
    else:
        PolyGene.from_pretrained(saved)
    another.save_pretrained(saved)
    loaded = PolyGene.from_pretrained(saved, device="cpu")
    np.testing.assert_array_equal(cell_states(loaded, toy_cells), cell_states(another, toy_cells))


def test_other_files_in_the_folder_stay(tiny_model, tmp_path):
    (tmp_path / "run" / "training").mkdir(parents=True)
    (tmp_path / "run" / "training" / "notes").write_text("mine")
    tiny_model.save_pretrained(tmp_path / "run")
    assert (tmp_path / "run" / "training" / "notes").read_text() == "mine"


def test_the_hub_is_given_a_complete_folder(tiny_model, toy_cells, tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id, **kwargs):
            calls.append((repo_id, kwargs))
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path):
            calls.append(repo_id)
            shutil.copytree(folder_path, tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert tiny_model.push_to_hub("owner/name", private=True) == "https://hub/owner/name"
    assert calls == [("owner/name", {"private": True, "exist_ok": True}), "owner/name"]
    assert {path.name for path in (tmp_path / "hub").iterdir()} == FILES - {"recipe.toml"}, "it was not trained"
    loaded = PolyGene.from_pretrained(tmp_path / "hub", device="cpu")
    np.testing.assert_array_equal(cell_states(loaded, toy_cells), cell_states(tiny_model, toy_cells))


@pytest.fixture
def cached(saved, tmp_path, monkeypatch):
    """A repository in the cache of the Hub, as a download leaves it: links to blobs; there is no network."""
    cache = tmp_path / "cache" / "models--owner--name"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    for number, path in enumerate(sorted(saved.iterdir())):
        shutil.copy(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


def test_a_model_of_the_hub_is_loaded_offline_from_its_cache_and_checked_as_any_other(cached, tiny_model, toy_cells):
    loaded = PolyGene.from_pretrained("owner/name", device="cpu")
    np.testing.assert_array_equal(cell_states(loaded, toy_cells), cell_states(tiny_model, toy_cells))
    with pytest.raises(CheckpointError, match="There is no checkpoint 'owner/other'"):
        PolyGene.from_pretrained("owner/other")
    foreign = cached / "pytorch_model.bin"
    foreign.write_bytes(b"code")
    with pytest.raises(CheckpointError, match="weights or code could come from it"):
        PolyGene.from_pretrained("owner/name")
    foreign.unlink()
    alter((cached / "model.safetensors").resolve())
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file that was saved"):
        PolyGene.from_pretrained("owner/name")


def test_the_card_says_data_filter_and_scores(tiny_model, toy_corpus, tmp_path):
    corpus = toy_corpus.summary() | {"where": "tissue_general == 'lung'"}
    metrics = Metrics(corpus=corpus, validation={"loss": 1.5, "cell_type_macro_f1": 0.25, "cell_type_cells": 7.0})
    replace(tiny_model, metrics=metrics).save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    (name,) = corpus["sources"]
    n_train, n_donors = (corpus["sources"][name][kind]["train"] for kind in ("cells", "donors"))
    assert f"| {name} | {n_train} | {n_donors} | 24 |" in card
    assert "Filter: `tissue_general == 'lung'`." in card
    assert "| cell_type_macro_f1 | 0.250 |" in card
    assert "cell_type_cells" not in card


def test_a_new_model_depends_on_its_seed_and_on_nothing_before(tiny_model):
    shape = other_shape(tiny_model)
    torch.manual_seed(5)
    first = PolyGene.new(tiny_model.tokenizer, seed=3, **shape).network.state_dict()
    after = torch.rand(1)
    again, other = (PolyGene.new(tiny_model.tokenizer, seed=seed, **shape).network.state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.weight"], other["decoder.weight"])
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "making a model draws from nobody else's numbers"


def test_loading_shows_nothing(saved, capfd):
    PolyGene.from_pretrained(saved).save_pretrained(saved)
    assert capfd.readouterr() == ("", "")


def test_whoever_may_read_one_file_of_a_checkpoint_may_read_all(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    assert len({file.stat().st_mode for file in (tmp_path / "model").iterdir()}) == 1


@pytest.fixture
def discerning(tiny_model):
    """A model that knows what it was trained on."""
    states_CD = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    return replace(tiny_model, novelty=NoveltyDetector.learn(states_CD, states_CD, None, query="cell_type"))


def test_the_novelty_detector_travels_with_the_checkpoint_and_is_hashed(discerning, tmp_path):
    discerning.save_pretrained(tmp_path / "saved")
    loaded = PolyGene.from_pretrained(tmp_path / "saved", device="cpu")
    np.testing.assert_array_equal(loaded.novelty.centres_KD, discerning.novelty.centres_KD)
    path = tmp_path / "saved" / NOVELTY
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match=NOVELTY):
        PolyGene.from_pretrained(tmp_path / "saved")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{NOVELTY} missing or empty"):
        PolyGene.from_pretrained(tmp_path / "saved")


def test_files_of_an_earlier_model_of_the_folder_are_not_taken_for_this_one(tiny_model, discerning, tmp_path):
    for model in (replace(discerning, recipe=Recipe(corpus="corpus", out="out")), tiny_model):
        model.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == FILES - {"recipe.toml"}
    loaded = PolyGene.from_pretrained(tmp_path / "saved", device="cpu")
    assert (loaded.novelty, loaded.recipe) == (None, None)


@pytest.mark.parametrize("content", ['{"valuation": {}}', '{"validation": 3}', "[1]", "{", "[" * 5000])
def test_broken_metrics_are_told_and_do_not_stand_in_the_way(saved, content, caplog):
    (saved / "metrics.json").write_text(content)
    assert PolyGene.from_pretrained(saved).metrics == Metrics()
    assert re.search(r"metrics\.json is broken .*without its scores", caplog.text)


def test_a_recipe_of_another_version_is_told_with_its_file_and_what_to_do(tiny_model, tmp_path):
    replace(tiny_model, recipe=Recipe(corpus="corpus", out="out")).save_pretrained(tmp_path)
    recipe, sums = tmp_path / "recipe.toml", tmp_path / SUMS
    before = hashlib.sha256(recipe.read_bytes()).hexdigest()
    recipe.write_text(recipe.read_text().replace("[training]", "[training]\nbalance = 0.5"))
    sums.write_text(sums.read_text().replace(before, hashlib.sha256(recipe.read_bytes()).hexdigest()))
    with pytest.raises(CheckpointError, match=r"recipe\.toml: .*training\.balance.* version of PolyGene that made it"):
        PolyGene.from_pretrained(tmp_path)


def test_a_checkpoint_of_version_0_1_is_refused_by_that_name(tiny_model, tmp_path):
    """Its config has no word of unmeasured genes, whatever else its folder holds."""
    tiny_model.save_pretrained(tmp_path / "old")
    config = tmp_path / "old" / "config.json"
    config.write_text(re.sub(r'  "unmeasured_vectors": \w+,\n', "", config.read_text()))
    (tmp_path / "old" / "tokenizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is a checkpoint of version 0\.1 of PolyGene.*train it again"):
        PolyGene.from_pretrained(tmp_path / "old")


FOREIGN = (
    *("shard-model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model.safetensors", "pytorch_model.bin", "modeling.py", "novelty.safetensors"),
)


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_not_listed_and_that_a_loader_could_take_are_refused(saved, name):
    shutil.copyfile(saved / ("model.safetensors" if name.endswith("safetensors") else "config.json"), saved / name)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is .*move it away"):
        PolyGene.from_pretrained(saved)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is .*move it away"):
        describe(saved)


def test_notes_and_states_of_training_in_the_folder_are_no_foreign_files(saved):
    (saved / "training").mkdir()
    for name in ("training/optimizer.pt", "report.html", "cells.h5ad", "notes.txt"):
        (saved / name).write_text("mine")
    PolyGene.from_pretrained(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "recipe.toml", "README.md"])
def test_links_out_of_the_folder_are_refused(saved, tmp_path, name):
    (saved / name).rename(tmp_path / name)
    (saved / name).symlink_to(tmp_path / name)
    for load in (PolyGene.from_pretrained, describe):
        with pytest.raises(CheckpointError, match=r"is a link to .*, outside of the checkpoint"):
            load(saved)


def test_the_links_of_the_hub_s_cache_are_followed(saved, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in list(saved.iterdir()):
        path.rename(blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")
    PolyGene.from_pretrained(snapshot)


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "SHA256SUMS"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(CheckpointError, match=rf"in {name}.*pipe or a device"):
        PolyGene.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, and the weights have 2"),
        ({"phenotype_sizes": [10**7, 2, 3, 4, 2]}, "phenotype_sizes = .*the tokenizer have"),
        ({"vocab_size": 10**12}, "vocab_size = 1000000000000"),
        ({"n_genes": 10**9}, "n_genes = 1000000000"),
        ({"hidden_size": 2**20}, "weights of another PolyGene"),
        ({"hidden_size": 2**40}, "is damaged or was altered"),
        ({"intermediate_size": 10**12}, "weights of another PolyGene"),
        ({"type_vocab_size": 10**12}, "weights of another PolyGene"),
        ({"hidden_size": "32"}, "is damaged or was altered"),
        ({"num_attention_heads": 0}, "cannot be shared"),
        ({"num_attention_heads": 3}, "cannot be shared"),
        ({"hidden_act": "none"}, "is damaged or was altered"),
        ({"is_decoder": True}, "sets is_decoder = True"),
        ({"chunk_size_feed_forward": 7}, "sets chunk_size_feed_forward = 7"),
    ],
)
def test_sizes_of_the_config_are_compared_before_memory_is_taken(saved, change, says):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | change))
    hash_again(saved)
    with pytest.raises(CheckpointError, match=says):
        PolyGene.from_pretrained(saved)


def test_a_header_of_very_many_tensors_is_not_read(saved):
    header = json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)})
    (saved / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    hash_again(saved)
    with pytest.raises(CheckpointError, match="has a header of 1,"):
        PolyGene.from_pretrained(saved)


def altered(folder, rng):
    """Alter a file of a checkpoint, and list its hash: some bytes, a value of JSON, or its length."""
    name = rng.choice([*DECISIVE, "recipe.toml", "metrics.json"])
    content = bytearray((folder / name).read_bytes())
    how, at = rng.integers(4), rng.integers(len(content))
    if how == 0:
        content[at] ^= 1 << rng.integers(8)
    elif how == 1:
        del content[at:]
    elif how == 2:
        content[at : at + 1] = bytes(rng.integers(32, 127, 3).tolist())
    elif name.endswith(".json") and name != "tokenizer.json":
        table = json.loads(content)
        table[rng.choice(list(table))] = [None, -1, 1e30, "x", [], {}, [[1]], True][rng.integers(8)]
        content = json.dumps(table).encode()
    (folder / name).write_bytes(content)
    hash_again(folder)


def test_whatever_is_altered_in_a_checkpoint_ends_in_predictions_or_in_one_error(saved, toy_cells, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(150):
        shutil.rmtree(tmp_path / "altered", ignore_errors=True)
        shutil.copytree(saved, tmp_path / "altered")
        altered(tmp_path / "altered", rng)
        with contextlib.suppress(PolyGeneError):
            loaded = PolyGene.from_pretrained(tmp_path / "altered", device="cpu")
            for p_CV in label_probabilities(loaded, toy_cells, predict=loaded.tokenizer.schema.names):
                assert np.isfinite(p_CV).all()
