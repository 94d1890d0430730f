"""Training on two processes: the same losses as one, and a run that goes on after one of them died.

The processes are real: torchrun starts them, and they speak by gloo.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.model.checkpoint import PolyGene
from polygene.model.masking import MaskingCollator, MaskingConfig
from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig
from polygene.training import engine
from polygene.training.data import TrainingCells
from polygene.training.train import train

NETWORK = NetworkConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, hidden_dropout_prob=0.0
)
HELPED = """
import json, os, signal, sys, time
from pathlib import Path
from polygene.cli import commands as cli
from polygene.training.engine import Engine

folder, kill_at, recipe = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rank, losses, compute = os.environ.get("RANK", "0"), [], Engine.compute_loss

def record(self, model, *args, **kwargs):
    if rank == "1" and len(losses) == kill_at:
        (folder / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "engine").write_text(type(model).__name__)
    loss = compute(self, model, *args, **kwargs)
    losses.append(loss.item())
    return loss

Engine.compute_loss = record
sys.argv = ["polygene", "train", recipe]
try:
    cli.main()
finally:
    (folder / f"losses-{rank}.json").write_text(json.dumps(losses))
"""
"""`polygene train`, which also writes down the losses of each process, and kills the second one at a step."""


PATIENCE = 300  # seconds, on a machine that does much else
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def corpus(make_adata, tmp_path_factory):
    """Make a corpus with 75 training cells: three epochs are 225 cells, an odd number."""
    config = PrepareConfig(n_genes=24, binning="linear", fractions=(0.5, 0.25, 0.25), seen=0)
    corpus = prepare(make_adata(150, 30, seed=4), tmp_path_factory.mktemp("corpus") / "corpus", config=config)
    assert len(corpus.split("train")) == 75
    assert len(corpus.split("validation")) > 0
    return corpus


@pytest.fixture
def recipe_for(corpus, tmp_path):
    def make(name, **changed):
        settings = {"epochs": 3, "learning_rate": 1e-3, "evaluations": 4} | changed
        return Recipe(
            corpus=str(corpus.folder), out=str(tmp_path / name), network=NETWORK, training=TrainingConfig(**settings)
        )

    return make


def start(recipe, *command):
    """Run a command with the path of the recipe behind it."""
    path = Path(f"{recipe.out}.toml")
    path.write_text(recipe.to_toml())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command, str(path)], capture_output=True, text=True, timeout=PATIENCE, env=environment
    )


def helped(folder, kill_at=-1):
    folder.mkdir(exist_ok=True)
    (folder / "helped.py").write_text(HELPED)
    return [*TORCHRUN, str(folder / "helped.py"), str(folder), str(kill_at)]


def losses_of(folder, rank):
    return np.array(json.loads((folder / f"losses-{rank}.json").read_text()))


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (8, 3), (37, 2), (74, 1), (75, 1)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_make_a_mean_over_the_cells_of_a_step(corpus, recipe_for, batch_size, accumulation, world_size):
    """The engine takes the mean over batches, then over processes, of share times the mean over cells."""
    collator = MaskingCollator(tokenizer=corpus.tokenizer, measured_SG=corpus.measured_SG, config=MaskingConfig())
    ranks = [
        TrainingCells(
            corpus.split("train"),
            collator,
            TrainingConfig(epochs=3, batch_size=batch_size, accumulation=accumulation),
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    met, places = 0, ranks[0].n_places
    assert places == 225
    while met < len(ranks[0]):
        step = range(met, min(met + accumulation, len(ranks[0])))
        batches = [[cells[batch] for batch in step] for cells in ranks]
        weights = [
            float(one["share"]) / len(one["n_keys"]) / len(step) / world_size
            for of_rank in batches for one in of_rank for _ in range(len(one["n_keys"]))
        ]  # fmt: skip
        n_cells = min(places, (met + accumulation) * batch_size * world_size) - met * batch_size * world_size
        counted = [weight for weight in weights if weight]
        assert counted == pytest.approx([1 / n_cells] * n_cells)
        met += accumulation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "last", "checkpointing"),
    [(30, 15, False), (32, 1, True)],
    ids=["the last batch 7 and 8 cells", "the last batch 0 and 1, gradient checkpointing"],
)
def test_two_processes_with_half_the_batch_learn_what_one_learns(
    batch_size, last, checkpointing, recipe_for, losses, tmp_path
):
    assert 225 % batch_size == last
    whole = recipe_for("whole", batch_size=batch_size)
    train(whole)
    assert len(losses) == 8
    halves = recipe_for("halves", batch_size=batch_size // 2, gradient_checkpointing=checkpointing)
    done = start(halves, *helped(tmp_path / "helped"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "helped" / "engine").read_text() == "DistributedDataParallel"
    of_both = np.mean([losses_of(tmp_path / "helped", rank) for rank in (0, 1)], axis=0)
    np.testing.assert_allclose(of_both, losses, rtol=1e-5)
    assert np.std(losses) > 0.01
    expected = load_file(Path(whole.out) / "model.safetensors")
    for name, weights in load_file(Path(halves.out) / "model.safetensors").items():
        torch.testing.assert_close(weights, expected[name], rtol=1e-4, atol=1e-5)
    scores = [json.loads((Path(one.out) / "metrics.json").read_text())["validation"] for one in (whole, halves)]
    # Rounding swaps the ranks of predictions that are nearly equal.
    ranks = [one.pop("gene_spearman_gene") for one in scores]
    assert ranks[1] == pytest.approx(ranks[0], abs=0.02)
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
use_cpu: true
mixed_precision: 'no'
num_machines: 1
num_processes: 2
machine_rank: 0
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: Layer
  fsdp_state_dict_type: FULL_STATE_DICT
  fsdp_cpu_ram_efficient_loading: false
"""
CPU_SHARES_WEIGHTS = """
import accelerate.state as state

class WithCpu:
    MULTI_MUSA = state.DistributedType.MULTI_CPU
    def __getattr__(self, name):
        return getattr(known, name)

known, state.DistributedType = state.DistributedType, WithCpu()
"""
"""accelerate shares weights out between accelerators only: here it takes the CPU for one of them."""


@pytest.mark.slow
def test_processes_that_share_the_weights_out_write_a_whole_checkpoint(recipe_for, losses, tmp_path):
    whole = recipe_for("whole", batch_size=32)
    train(whole)
    folder = tmp_path / "helped"
    helper = helped(folder)[len(TORCHRUN) :]
    (folder / "helped.py").write_text(CPU_SHARES_WEIGHTS + HELPED)
    (folder / "fsdp.yaml").write_text(FSDP)
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(folder / "fsdp.yaml"),
        "--main_process_port",
        free_port(),
    ]
    shared = recipe_for("shared", batch_size=16)
    done = start(shared, *launch, *helper)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.mean([losses_of(folder, rank) for rank in (0, 1)], axis=0), losses, rtol=1e-5)
    assert (folder / "engine").read_text() == "FSDPPolyGeneModel"
    expected = load_file(Path(whole.out) / "model.safetensors")
    for name, weights in PolyGene.from_pretrained(shared.out).network.state_dict().items():
        torch.testing.assert_close(weights, expected[name], rtol=1e-4, atol=1e-5)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_hosts(recipes, words, port):
    """Start `polygene train` as on two hosts: a launcher each, which is the leader of its process group."""
    processes = []
    for rank, recipe in enumerate(recipes):
        path = Path(f"{recipe.out}-{rank}.toml")
        path.write_text(recipe.to_toml())
        launch = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", port]
        command = [sys.executable, "-m", "torch.distributed.run", *launch, "--nproc-per-node", "1", *words, str(path)]
        processes.append(
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )  # fmt: skip
    return processes


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """Give the weights of a run on two processes that nobody disturbed."""
    settings = TrainingConfig(epochs=3, learning_rate=1e-3, evaluations=4, batch_size=16)
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    recipe = Recipe(corpus=str(corpus.folder), out=str(out), network=NETWORK, training=settings)
    assert start(recipe, *TORCHRUN, "-m", "polygene", "train").returncode == 0
    return load_file(out / "model.safetensors")


@pytest.mark.slow
def test_a_host_that_dies_ends_the_run_and_the_same_commands_end_it_with_the_same_weights(
    recipe_for, undisturbed, tmp_path
):
    recipe = recipe_for("disturbed", batch_size=16, save_minutes=1e-6)
    folder = tmp_path / "helped"
    folder.mkdir()
    both = "[os.kill(number, signal.SIGKILL) for number in (os.getppid(), os.getpid())]"  # the launcher dies too
    (folder / "helped.py").write_text(HELPED.replace("os.kill(os.getpid(), signal.SIGKILL)", both))
    first, second = start_hosts([recipe] * 2, [str(folder / "helped.py"), str(folder), "5"], free_port())
    second.communicate(timeout=PATIENCE)
    assert second.returncode == -9
    said = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 1
    assert "mistake in PolyGene" not in said
    assert "another process of this run ended" in said
    assert (Path(recipe.out) / "training" / "checkpoint-5").exists()  # evaluations alone save steps 2 and 4
    again = start_hosts([recipe] * 2, ["-m", "polygene", "train"], free_port())
    said = [process.communicate(timeout=PATIENCE)[1] for process in again]
    assert [process.returncode for process in again] == [0, 0], said
    assert "resuming from" in said[0]
    ours = load_file(Path(recipe.out) / "model.safetensors")
    assert all(torch.equal(ours[name], undisturbed[name]) for name in undisturbed)


def test_the_guide_says_how_long_a_silent_host_is_waited_for():
    assert f"the others wait for it for {engine.PATIENCE} seconds" in Path("docs/scale.md").read_text()


@pytest.mark.slow
def test_a_host_that_falls_silent_ends_the_run_with_a_message(recipe_for, tmp_path):
    """A stopped process closes no connection, as a host that lost its power or its network."""
    recipe = recipe_for("silent", batch_size=16)
    folder = tmp_path / "helped"
    folder.mkdir()
    both = "[os.kill(number, signal.SIGSTOP) for number in (os.getppid(), os.getpid())]"
    both = f"(folder / 'stopped').write_text(str(os.getpid())); {both}"
    helped = HELPED.replace("os.kill(os.getpid(), signal.SIGKILL)", both)
    (folder / "helped.py").write_text(f"import polygene.training.engine as engine\nengine.PATIENCE = 10\n{helped}")
    first, second = start_hosts([recipe] * 2, [str(folder / "helped.py"), str(folder), "3"], free_port())
    try:
        said = " ".join(first.communicate(timeout=PATIENCE)[1].split())
    finally:
        for number in (second.pid, int((folder / "stopped").read_text())):
            os.kill(number, signal.SIGKILL)
        second.communicate()
    assert first.returncode == 1
    assert "mistake in PolyGene" not in said
    assert "another process of this run was silent for 10 seconds; the same command goes on" in said


@pytest.mark.slow
def test_a_host_with_another_version_of_the_corpus_is_refused(corpus, make_adata, recipe_for, tmp_path):
    config = PrepareConfig(n_genes=24, binning="linear", fractions=(0.5, 0.25, 0.25), seed=1)
    other = prepare(make_adata(150, 30, seed=4), tmp_path / "other", config=config)
    recipes = [replace(recipe_for("run"), corpus="corpus"), replace(recipe_for("run"), corpus="corpus")]
    for rank, folder in enumerate((corpus.folder, other.folder)):
        (tmp_path / f"host{rank}").mkdir()
        (tmp_path / f"host{rank}" / "corpus").symlink_to(folder)
    words = [
        "--no-python",
        "bash",
        "-c",
        'cd "$0/host$RANK" && exec "$1" -m polygene train "$2"',
        str(tmp_path),
        sys.executable,
    ]
    hosts = start_hosts(recipes, words, free_port())
    said = [host.communicate(timeout=PATIENCE)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [1, 1]
    assert any(
        "reads another version of the corpus corpus or of the recipe than the first" in " ".join(one.split())
        for one in said
    )
    assert not (Path(recipes[0].out) / "model.safetensors").exists()


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_the_same_command_goes_on(recipe_for, undisturbed, tmp_path):
    recipe = recipe_for("disturbed", batch_size=16)
    done = start(recipe, *helped(tmp_path / "helped", kill_at=5))
    ended = time.time()
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert "mistake in PolyGene" not in done.stderr
    assert ended - float((tmp_path / "helped" / "killed").read_text()) < 20
    states = Path(recipe.out) / "training"
    assert sorted(path.name for path in states.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert not (Path(recipe.out) / "model.safetensors").exists()
    again = start(recipe, *TORCHRUN, "-m", "polygene", "train")
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stderr
    ours = load_file(Path(recipe.out) / "model.safetensors")
    assert all(torch.equal(ours[name], undisturbed[name]) for name in undisturbed)
