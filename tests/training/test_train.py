"""Training: a run that is stopped ends as one that was not; every field of the recipe acts; nothing is said in vain.

The stops are of two kinds: processes that are really killed, and exceptions at moments that a kill could hit.
"""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import CheckpointError, OutputError, RecipeError
from polygene.evaluation.validation import validation_scores
from polygene.model.calibration import Calibration
from polygene.model.checkpoint import DECISIVE, NOVELTY, PolyGene
from polygene.model.inference import bin_probabilities, label_probabilities
from polygene.model.masking import MaskingCollator
from polygene.model.metrics import Metrics
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.nn.losses import LossConfig
from polygene.runtime.atomic import locked
from polygene.training import defaults, engine
from polygene.training import train as training
from polygene.training.data import TrainingCells, class_weights
from polygene.training.engine import Engine, of_interest
from polygene.training.setup import new_model, spread_counts
from polygene.training.train import train

NETWORK = NetworkConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
TRAINING = TrainingConfig(epochs=4, batch_size=32, learning_rate=1e-2, evaluations=4)
"""With the 121 training cells of the toy corpus 16 steps, the last one of 4 cells; states are saved every 4 steps."""
CHECKPOINT = {*DECISIVE, NOVELTY, "SHA256SUMS", "recipe.toml", "metrics.json", "README.md"}


@pytest.fixture(scope="module")
def recipe_for(toy_corpus, tmp_path_factory):
    """Make recipes on the toy corpus, each with a folder of its own: `recipe_for(epochs=1)`."""

    def make(*, corpus=toy_corpus, network=NETWORK, loss=None, **changed):
        return Recipe(
            corpus=str(corpus.folder),
            out=str(tmp_path_factory.mktemp("run") / "out"),
            network=network,
            loss=loss or LossConfig(),
            training=replace(TRAINING, **changed),
        )

    return make


@pytest.fixture(scope="module")
def uninterrupted(recipe_for):
    """Folder of a run that nobody stopped, with dropout."""
    recipe = recipe_for()
    assert recipe.network.hidden_dropout_prob > 0
    train(recipe)
    return Path(recipe.out)


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def encoder_of(folder):
    """All weights but those of the linear branch, to which the regression is joined."""
    return {name: one for name, one in weights_of(folder).items() if not name.startswith("linear_branch")}


def assert_same_weights(folder, expected):
    weights, expected = weights_of(folder), weights_of(expected)
    assert weights.keys() == expected.keys()
    different = [name for name in weights if not torch.equal(weights[name], expected[name])]
    assert not different


def differ(folder, other):
    weights, others = weights_of(folder), weights_of(other)
    return any(not torch.equal(weights[name], others[name]) for name in weights)


def files_of(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def assert_ended_like(folder, expected):
    """All files are those of the other run, but for the name of the folder in the recipe."""
    assert_same_weights(folder, expected)
    ours, theirs = files_of(folder), files_of(expected)
    assert ours.keys() == theirs.keys() == CHECKPOINT | {"training/recipe.toml", "training/finished"}
    for name in CHECKPOINT - {"recipe.toml", "SHA256SUMS"}:
        assert ours[name][0] == theirs[name][0], name
    sums = (files["SHA256SUMS"][0].decode().splitlines() for files in (ours, theirs))
    one, other = ([line for line in lines if not line.endswith("recipe.toml")] for lines in sums)
    assert one == other


# --- stopped and started again ---

KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
from polygene.model.recipe import Recipe
from polygene.training.data import TrainingCells
from polygene.training.engine import Engine, of_interest
from polygene.training.train import train

def kill_at(kind, name, call):
    calls, original = [], getattr(kind, name)
    def method(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(kind, name, method)

recipe, states = Recipe.load(sys.argv[1]), []
for kind, name, call in json.loads(sys.argv[3]):
    child = os.fork()
    if not child:
        kill_at({"TrainingCells": TrainingCells, "Engine": Engine}[kind], name, call)
        train(recipe)
        os._exit(0)
    signal_that_ended_it = os.WTERMSIG(os.waitpid(child, 0)[1])
    files = [path.relative_to(recipe.out).as_posix() for path in Path(recipe.out).rglob("*")]
    states.append((signal_that_ended_it, files))
print(json.dumps(states))
"""
"""Trains in processes that are killed one after the other, each at the n-th call of a method; prints what they left."""


@pytest.mark.slow
def test_a_run_killed_at_a_step_and_again_while_saving_ends_with_the_same_weights(recipe_for, uninterrupted, tmp_path):
    recipe = recipe_for()
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    moments = [("TrainingCells", "__getitem__", 11), ("Engine", "_save_rng_state", 1)]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "recipe.toml", str(torch.get_num_threads()), json.dumps(moments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    (first_end, first), (second_end, second) = json.loads(process.stdout)
    assert first_end == second_end == signal.SIGKILL
    for files in (first, second):
        assert "training/checkpoint-8/complete" in files
        assert "training/checkpoint-12/complete" not in files
        assert "model.safetensors" not in files
    assert "training/checkpoint-12" not in first
    assert "training/checkpoint-12/optimizer.pt" in second, "the kill came in the middle of saving"
    half_saved = Path(recipe.out) / "training" / "checkpoint-12" / "model.safetensors"
    half_saved.write_bytes(half_saved.read_bytes()[:100])
    train(recipe)
    assert_ended_like(recipe.out, uninterrupted)


class StoppedError(BaseException):
    """What ends a run here: like a kill, it is not caught by any handler of errors."""


def stop(*args, **kwargs):
    raise StoppedError


def half_remove(folder, **kwargs):
    (Path(folder) / "model.safetensors").unlink()
    raise StoppedError


def write_half(self, folder):
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / "config.json").write_text("{")
    raise StoppedError


@pytest.mark.parametrize(
    ("kind", "name", "stopping"),
    [
        (training, "last_whole_state", stop),
        (Engine, "_save_optimizer_and_scheduler", stop),
        (engine._States, "on_save", stop),
        (shutil, "rmtree", half_remove),
        (Engine, "_load_best_model", stop),
        (PolyGene, "save_pretrained", write_half),
        (training, "drop_states", stop),
    ],
    ids=[
        "before the first step",
        "while the first state is saved",
        "before a state is marked as whole",
        "while an old state is removed",
        "after the last step",
        "while the checkpoint is written",
        "before the states are dropped",
    ],
)
def test_a_run_stopped_at_an_awkward_moment_ends_as_if_it_had_not_been(
    kind, name, stopping, recipe_for, uninterrupted, monkeypatch
):
    recipe = recipe_for()
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, stopping)
        with pytest.raises(StoppedError):
            train(recipe)
    train(recipe)
    assert_ended_like(recipe.out, uninterrupted)


def stopped_after(recipe, steps, monkeypatch):
    """Train, and stop after so many steps, of which every fourth saves a state."""
    count = []

    def step(self, *args, original=Engine.training_step, **kwargs):
        count.append(1)
        if len(count) > steps:
            raise StoppedError
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "training_step", step)
        with pytest.raises(StoppedError):
            train(recipe)
    return Path(recipe.out) / "training"


@pytest.mark.parametrize("damage", ["optimizer.pt", "rng_state.pth", "trainer_state.json", "complete", "altered"])
def test_a_run_whose_newest_state_is_damaged_goes_on_from_the_one_before(
    damage, recipe_for, uninterrupted, monkeypatch, caplog
):
    recipe = recipe_for()
    newest = stopped_after(recipe, 9, monkeypatch) / "checkpoint-8"
    if damage == "altered":
        content = bytearray((newest / "optimizer.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (newest / "optimizer.pt").write_bytes(content)
    elif damage == "complete":
        (newest / damage).write_text("")
    else:
        (newest / damage).unlink()
    with caplog.at_level(logging.INFO, "polygene"):
        train(recipe)
    assert re.search(r"checkpoint-8/\S+ is .*: going on from the state before", caplog.text)
    assert re.search(r"resuming from .*checkpoint-4", caplog.text)
    assert_ended_like(recipe.out, uninterrupted)


def test_a_run_all_of_whose_states_are_damaged_says_which_and_begins_anew_when_told(
    recipe_for, uninterrupted, monkeypatch
):
    recipe = recipe_for()
    saved = stopped_after(recipe, 9, monkeypatch)
    for number in (4, 8):
        (saved / f"checkpoint-{number}" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"No saved state is whole .*8/optimizer.pt is missing; .*4.*--restart"):
        train(recipe)
    train(recipe, restart=True)
    assert_ended_like(recipe.out, uninterrupted)


def test_a_finished_run_begins_anew_with_another_recipe_when_told(recipe_for):
    recipe = recipe_for(epochs=1, evaluations=1)
    train(recipe)
    other = replace(recipe, training=replace(recipe.training, seed=1))
    with pytest.raises(RecipeError, match="a run of another recipe"):
        train(other)
    before = weights_of(recipe.out)
    train(other, restart=True)
    assert any(not torch.equal(before[name], weights) for name, weights in weights_of(recipe.out).items())


def test_a_second_run_into_the_folder_of_one_that_trains_is_refused(recipe_for):
    recipe = recipe_for()
    Path(recipe.out).mkdir()
    with ThreadPoolExecutor() as another, locked(Path(recipe.out)):
        running = another.submit(train, recipe)
        with pytest.raises(OutputError, match="written by another process"):
            running.result()


@pytest.mark.parametrize("evaluations", [1, 4])
def test_a_run_that_diverges_says_so(recipe_for, evaluations):
    with pytest.raises(RecipeError, match=r"diverged.*Lower training\.learning_rate"):
        train(recipe_for(learning_rate=1e30, evaluations=evaluations, warmup=0.0))


def test_a_run_whose_loss_rises_far_ends_with_one_warning_that_says_what_to_do(recipe_for, caplog):
    train(recipe_for(learning_rate=1.0, warmup=0.0))
    warned = [record for record in caplog.records if "diverged" in record.getMessage()]
    assert len(warned) == 1
    assert warned[0].levelname == "WARNING"
    says = r"seems to have diverged: its loss rose from [\d.]+ to [\d.]+, .*Lower training\.learning_rate"
    assert re.search(says, warned[0].getMessage())
    assert caplog.records[-1] is warned[0]


def test_a_run_that_learns_is_not_said_to_diverge(uninterrupted, recipe_for, caplog):
    train(recipe_for(batch_size=2, epochs=2))
    assert "diverged" not in caplog.text


def test_a_disk_that_is_full_while_a_state_is_saved_is_told_as_that(recipe_for, uninterrupted, monkeypatch):
    def full(*args, **kwargs):
        msg = "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0"
        raise RuntimeError(msg)

    recipe = recipe_for()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OutputError, match=r"could not be written, .*make room, the same command goes on"):
            train(recipe)
    train(recipe)
    assert_ended_like(recipe.out, uninterrupted)


def test_a_description_half_written_does_not_shut_the_run_out(recipe_for, monkeypatch):
    def write_half_of_it(self, text, **kwargs):
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise StoppedError

    recipe = recipe_for(epochs=1, evaluations=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_half_of_it)
        with pytest.raises(StoppedError):
            train(recipe)
    assert list((Path(recipe.out) / "training").iterdir()) == [], "no half is left"
    train(recipe)


def test_a_run_that_has_ended_is_loaded_and_nothing_changes(uninterrupted, caplog):
    recipe, before = Recipe.load(uninterrupted / "recipe.toml"), files_of(uninterrupted)
    with caplog.at_level(logging.INFO, "polygene"):
        model = train(recipe)
    assert files_of(uninterrupted) == before, "no file, not even its time"
    assert "holds the finished run" in caplog.text
    assert all(
        torch.equal(weights, model.network.state_dict()[name]) for name, weights in weights_of(recipe.out).items()
    )
    (uninterrupted / "genes.tsv").rename(uninterrupted / "away")
    with pytest.raises(CheckpointError, match=r"genes\.tsv"):
        train(recipe)
    (uninterrupted / "away").rename(uninterrupted / "genes.tsv")


def test_what_remains_of_a_run_is_the_checkpoint_and_nothing_pickled(uninterrupted):
    assert files_of(uninterrupted).keys() == CHECKPOINT | {"training/recipe.toml", "training/finished"}
    PolyGene.from_pretrained(uninterrupted)


# --- same seed, same weights ---


def test_workers_change_no_weight(recipe_for, uninterrupted):
    recipe = recipe_for(num_workers=2)
    train(recipe)
    assert_same_weights(recipe.out, uninterrupted)


def test_another_seed_gives_other_weights(recipe_for, uninterrupted):
    recipe = recipe_for(seed=1)
    train(recipe)
    assert differ(recipe.out, uninterrupted)


def losses_of(recipe, losses):
    losses.clear()
    train(recipe)
    return np.array(losses)


def test_gradient_checkpointing_changes_no_loss(recipe_for, losses):
    """Dropout is drawn again, the same, when a layer is computed for the second time."""
    expected = losses_of(recipe_for(epochs=2), losses)
    assert len(expected) == 8
    np.testing.assert_allclose(
        losses_of(recipe_for(epochs=2, gradient_checkpointing=True), losses), expected, rtol=1e-5
    )


def test_two_batches_of_32_accumulated_are_one_of_64(recipe_for, losses):
    network = replace(NETWORK, hidden_dropout_prob=0.0)
    whole = losses_of(recipe_for(epochs=6, batch_size=64, network=network), losses)
    halves = losses_of(recipe_for(epochs=6, batch_size=32, accumulation=2, network=network), losses)
    assert len(whole) == 12
    assert len(halves) == 23
    full_steps = slice(0, 11)  # the last one has 22 cells, one batch
    np.testing.assert_allclose(halves[:22].reshape(-1, 2).mean(1), whole[full_steps], rtol=1e-5)
    assert whole.std() > 0.01


def test_bfloat16_runs_on_a_cpu_and_keeps_weights_in_float32(recipe_for, losses):
    expected = losses_of(recipe_for(epochs=1, evaluations=1), losses)
    recipe = recipe_for(epochs=1, evaluations=1, precision="bfloat16")
    half = losses_of(recipe, losses)
    assert not np.array_equal(half, expected)
    np.testing.assert_allclose(half, expected, rtol=0.02)
    assert {weights.dtype for weights in weights_of(recipe.out).values()} == {torch.float32}


# --- the state that is kept ---


def test_the_state_with_the_best_validation_loss_is_kept(recipe_for, monkeypatch):
    seen = []

    def scores(model, *args):
        seen.append({name: weights.clone() for name, weights in model.network.state_dict().items()})
        return {"loss": [3.0, 1.0, 2.0, 1.0, 0.0][len(seen) - 1]}

    monkeypatch.setattr(engine, "validation_scores", scores)
    recipe = recipe_for()
    train(recipe)
    assert len(seen) == 5, "four evaluations, and one of what is kept"
    kept = encoder_of(recipe.out)
    for number, weights in enumerate(seen):
        assert all(torch.equal(weights[name], kept[name]) for name in kept) == (number in (1, 4)), number


def test_the_whole_copy_of_shared_weights_draws_no_random_number(tiny_model):
    shared = SimpleNamespace(
        model=tiny_model.network, model_of=tiny_model, is_fsdp_enabled=True, args=SimpleNamespace(device="cpu")
    )
    before = torch.get_rng_state()
    copy = Engine.trained(shared).network
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, copy.state_dict()[name]) for name, one in tiny_model.network.state_dict().items())


def test_the_scores_that_are_written_are_those_of_the_state_that_is_kept(toy_corpus, uninterrupted):
    model = replace(PolyGene.from_pretrained(uninterrupted, device="cpu"), calibration=Calibration())
    scores = validation_scores(model, toy_corpus.split("train"), toy_corpus.split("validation"), LossConfig())
    assert model.metrics == Metrics(corpus=toy_corpus.summary(), validation=scores)
    of_labels = {
        f"{phenotype}_{score}"
        for phenotype in ("sex", "cell_type")
        for score in ("accuracy", "macro_f1", "balanced_accuracy", "log_loss")
    }
    of_genes = {"bin_accuracy", "bin_accuracy_within_one", "cross_entropy", "average_precision_expressed"}
    assert scores.keys() >= of_labels | {"age_mae_years", "loss"} | {f"gene_{score}" for score in of_genes}


def test_the_checkpoint_is_calibrated_on_the_validation_donors(toy_corpus, uninterrupted):
    model, validation = PolyGene.from_pretrained(uninterrupted, device="cpu"), toy_corpus.split("validation")
    assert set(model.calibration.labels) == {"sex", "cell_type", "age"}, "those of several labels"
    found = model.calibration.labels["cell_type"]
    assert (found.units, found.cells, found.unit) == (len(set(validation.donors_C)), len(validation), "donor")
    bare = replace(model, calibration=Calibration())
    assert training.calibration(bare, validation).labels["cell_type"].temperature == pytest.approx(found.temperature)


def test_training_learns_cell_types_of_donors_it_never_saw(toy_corpus, recipe_for):
    recipe = recipe_for(epochs=20)
    splits = toy_corpus.split("train"), toy_corpus.split("validation")
    before = validation_scores(new_model(recipe, toy_corpus), *splits, recipe.loss)
    after = train(recipe).metrics.validation
    assert after["cell_type_log_loss"] < before["cell_type_log_loss"] - 0.3
    assert after["cell_type_accuracy"] > before["cell_type_accuracy"] + 0.2
    assert after["gene_cross_entropy"] < before["gene_cross_entropy"] - 0.02


@pytest.fixture(scope="module")
def corpus_without_validation(make_adata, tmp_path_factory):
    config = PrepareConfig(n_genes=24, fractions=(0.7, 0.0, 0.3))
    return prepare(make_adata(150), tmp_path_factory.mktemp("no_validation") / "corpus", config=config)


def test_without_validation_cells_the_last_state_is_kept(recipe_for, corpus_without_validation, monkeypatch, caplog):
    last = []

    def remember(self, args, state, control, model=None, **kwargs):
        last.append({name: weights.clone() for name, weights in model.state_dict().items()})

    monkeypatch.setattr(engine._States, "on_train_end", remember, raising=False)
    recipe = recipe_for(corpus=corpus_without_validation, epochs=2, evaluations=2)
    model = train(recipe)
    assert "no validation cells" in caplog.text
    assert model.metrics.to_dict().keys() == {"corpus"}
    start = new_model(recipe, corpus_without_validation).network.state_dict()
    kept = encoder_of(recipe.out)
    assert all(torch.equal(last[0][name], kept[name]) for name in kept)
    assert not torch.equal(start["decoder.weight"], kept["decoder.weight"])


# --- where it starts ---


def test_an_untrained_model_answers_the_frequencies_of_training(toy_corpus, recipe_for):
    model, train_cells, test = new_model(recipe_for(), toy_corpus), toy_corpus.split("train"), toy_corpus.split("test")
    schema = toy_corpus.tokenizer.schema
    counts = [np.bincount(train_cells.labels_CP[:, p], minlength=len(v)) + 0.5 for p, v in enumerate(schema.labels)]
    expected = [np.log(n_V / n_V.sum()) for n_V in counts]
    np.testing.assert_allclose(model.network.decoder.bias.numpy(force=True)[10:], np.concatenate(expected), atol=1e-6)
    answers = label_probabilities(model, test.cells(slice(None)), predict=schema.names)
    for answer_CV, n_V in zip(answers, counts, strict=True):
        np.testing.assert_allclose(answer_CV.mean(0), n_V / n_V.sum(), atol=0.1)

    cells = train_cells.cells(slice(None))
    bins_GB = np.zeros((24, 10))
    np.add.at(bins_GB, (cells.genes_N, cells.bins_N), 1)
    bins_GB[:, 0] = len(cells) - bins_GB.sum(1)
    frequencies_GB = (bins_GB + 0.5) / (bins_GB + 0.5).sum(1, keepdims=True)
    np.testing.assert_allclose(model.network.gene_bias.weight.numpy(force=True), np.log(frequencies_GB), atol=1e-5)
    asked = test.cells(np.zeros(1, dtype=np.int64))
    nothing_N = np.zeros(len(asked.genes_N), dtype=bool)
    answers_GB = bin_probabilities(model, asked, np.zeros(24, dtype=np.int64), np.arange(24), nothing_N)
    np.testing.assert_allclose(answers_GB, frequencies_GB, atol=0.1)


def test_the_cells_of_a_coarse_label_are_spread_over_the_labels_at_and_below_it():
    table_VV = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)
    spread_V = spread_counts(np.array([300, 200, 100, 50]), table_VV)
    assert spread_V.sum() == pytest.approx(650)
    of_own = np.array([300.5, 200.5, 100.5]) / 601.5
    assert spread_V[:3] == pytest.approx(300 * of_own + [0, 200, 100])
    assert spread_V[3] == 50
    assert (spread_counts(spread_V, None) == spread_V).all()


# --- weights and order ---


def test_class_weights_undo_the_frequencies_and_are_one_on_average(toy_corpus):
    labels_CP = toy_corpus.split("train").labels_CP.copy()
    labels_CP[::3, 2] = -1
    sizes = [len(labels) for labels in toy_corpus.tokenizer.schema.labels]
    for p, weights_V in enumerate(class_weights(labels_CP, sizes)):
        given = labels_CP[labels_CP[:, p] >= 0, p]
        assert weights_V[given].mean() == pytest.approx(1)
        of_labels = [weights_V[given[given == v]].sum() for v in np.unique(given)]
        np.testing.assert_allclose(of_labels, len(given) / len(of_labels), err_msg="every label weighs the same")
    labels_CP[:, 0] = -1
    assert class_weights(labels_CP, sizes)[0] is None


def test_class_weights_change_what_is_learned(recipe_for, uninterrupted):
    recipe = recipe_for(class_weights=True)
    train(recipe)
    assert differ(recipe.out, uninterrupted)


@pytest.fixture
def learned_cells(monkeypatch):
    """Record the number of every cell that is learned, with its epoch."""
    recorded: list[np.ndarray] = []
    collate = MaskingCollator.__call__

    def record(self, cells, sources_C, cell_ids_C, epochs_C):
        recorded.append(np.stack([epochs_C, cell_ids_C]))
        return collate(self, cells, sources_C, cell_ids_C, epochs_C)

    monkeypatch.setattr(MaskingCollator, "__call__", record)
    return recorded


def test_every_cell_is_learned_once_an_epoch_in_another_order(recipe_for, learned_cells):
    train(recipe_for(epochs=2, evaluations=1))
    epochs, numbers = np.concatenate(learned_cells, axis=1)
    for epoch in (0, 1):
        assert sorted(numbers[epochs == epoch]) == list(range(121))
    assert numbers[epochs == 0].tolist() != numbers[epochs == 1].tolist()


# --- what is refused ---


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_corpus_is_no_folder_for_a_model(toy_corpus):
    folder = toy_corpus.folder
    before = files_of(folder)
    with pytest.raises(RecipeError, match=r"holds corpus\.json, .*, and no run of training"):
        train(folder, out=folder)
    with pytest.raises(RecipeError, match="is in the corpus, and no model is written into one"):
        train(folder, out=folder / "model")
    assert files_of(folder) == before


def test_a_folder_that_holds_something_else_is_not_written_into(recipe_for, uninterrupted):
    recipe = recipe_for(epochs=1)
    shutil.copytree(uninterrupted, recipe.out, ignore=shutil.ignore_patterns("training"))  # as of a downloaded model
    before = files_of(recipe.out)
    for restart in (False, True):
        with pytest.raises(RecipeError, match=r"holds README\.md, .*, and no run of training: choose another `out`"):
            train(recipe, restart=restart)
    assert files_of(recipe.out) == before


def test_a_run_goes_on_with_as_many_processes_as_began_it(recipe_for, monkeypatch):
    recipe = recipe_for(epochs=1, evaluations=2)
    monkeypatch.setattr(training._Run, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    monkeypatch.undo()
    monkeypatch.setattr(TrainingCells, "__len__", lambda _: 1)  # as of so many processes that one step is an epoch
    with pytest.raises(
        RecipeError, match=r"is of a run of [\d,]+ steps, and with 1 processes these are 1: start as many"
    ):
        train(recipe)


def test_a_folder_with_a_run_of_another_recipe_is_refused(uninterrupted):
    recipe, before = Recipe.load(uninterrupted / "recipe.toml"), files_of(uninterrupted)
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        train(replace(recipe, loss=LossConfig(smoothing=0.2)))
    assert files_of(uninterrupted) == before


def test_a_run_on_a_corpus_that_was_made_anew_is_refused(recipe_for, corpus_without_validation, toy_corpus, tmp_path):
    shutil.copytree(toy_corpus.folder, tmp_path / "corpus")
    recipe = recipe_for(corpus=Corpus(tmp_path / "corpus"), epochs=1)
    train(recipe)
    shutil.rmtree(tmp_path / "corpus")
    shutil.copytree(corpus_without_validation.folder, tmp_path / "corpus")
    with pytest.raises(RecipeError, match="a corpus that was made anew"):
        train(recipe)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"report_to": "nonsense"}, RecipeError, "training.report_to = 'nonsense'.*tensorboard"),
        ({"report_to": "comet_ml"}, RecipeError, "training.report_to = 'comet_ml'.*install"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_written(changed, error, says, recipe_for):
    recipe = recipe_for(epochs=1, evaluations=1, **changed)
    with pytest.raises(error, match=says) as caught:
        train(recipe)
    assert "\n" not in str(caught.value)
    assert not Path(recipe.out).exists()
    train(replace(recipe, training=replace(recipe.training, report_to="none")))


def test_several_gpus_in_one_process_are_refused_with_the_way_to_use_them(recipe_for, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    with pytest.raises(RecipeError, match="torchrun"):
        train(recipe_for())


# --- what is said ---


def test_a_run_says_device_speed_and_scores_and_shows_nothing_else(recipe_for, capfd, caplog):
    with caplog.at_level(logging.INFO, "polygene"):
        train(recipe_for(num_workers=1, gradient_checkpointing=True))
    assert capfd.readouterr() == ("", "")
    lines = [record.getMessage() for record in caplog.records if record.name == "polygene"]
    assert re.match(r"training on cpu \(float32\): [\d,]+ weights, 121 cells x 4 epochs", lines[0])
    assert [line.split(",")[0] for line in lines[1:5]] == [f"step {step} of 16" for step in (4, 8, 12, 16)]
    for line in lines[1:5]:
        assert re.search(r" [1-9][\d,]* cells/s, validation cells: .*cell_type_macro_f1 \d\.\d+.* loss \d\.\d+", line)
    assert lines[5].startswith("fitting a logistic regression of the labels")
    assert re.match(r"kept the state of step \d+: ", lines[6])
    assert [line.split(":")[0] for line in lines[7:]] == ["sex", "cell_type", "age"], "their temperatures"


def test_tensorboard_gets_the_losses_and_the_scores(recipe_for):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'polygene[loggers]'")
    recipe = recipe_for(epochs=6, report_to="tensorboard")
    train(recipe)
    (events,) = (Path(recipe.out) / "training").rglob("events.out.tfevents.*")
    content = events.read_bytes()
    for tag in (b"train/loss", b"eval/loss", b"eval/cell_type_macro_f1", b"eval/gene_cross_entropy"):
        assert tag in content


# --- the recipes that come along ---

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
RECIPES.append(Path(defaults.__file__).with_name("template.toml"))


def test_there_are_recipes():
    assert {path.name for path in RECIPES} >= {"polygene-512.toml", "template.toml"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_comes_along_loads_and_explains_every_field(path):
    recipe, text = Recipe.load(path), path.read_text(encoding="utf-8")
    written = tomllib.loads(text)
    for section, fields in asdict(recipe).items():
        assert section in written
        if isinstance(fields, dict):
            assert written[section].keys() == fields.keys()
    for line in text.splitlines():
        if "=" in line.partition("#")[0]:
            assert line.partition("#")[2].strip(), f"{line} is not explained"


def test_a_score_names_its_labels_and_a_loss_none():
    scores = {"loss": 1.095, "sex_macro_f1": 0.5, "sex_labels": 2.0, "sex_log_loss": 0.7}
    assert of_interest(scores) == "loss 1.095, sex_macro_f1 0.500 of 2 labels"
