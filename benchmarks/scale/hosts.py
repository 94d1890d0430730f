"""Training on two hosts, one of which is killed or vanishes: what the other says, and whether both go on alike.

The hosts are two network namespaces joined by a cable of the kernel (veth), which root may make; elsewhere both are
this machine, on its loopback, and none can vanish. The launchers, rendezvous and gloo are those of a cluster. torchrun
starts the run that is killed, and accelerate launch the one whose cable is cut, which closes no connection.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.shared import effort

NETWORK = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ADDRESSES = ("10.79.0.1", "10.79.0.2")
PATIENCE = 600  # seconds
LAUNCHERS = {"torchrun": "killed", "accelerate": "vanished"}


@contextmanager
def two_hosts() -> Iterator[tuple[list[list[str]], str, dict[str, str]]]:
    """Give the words before a command on each host, the address of the first, and what their environment needs."""
    names = [f"polygene{os.getpid()}{side}" for side in "ab"]
    cables = [f"pg{os.getpid() % 100_000}{side}" for side in "ab"]
    made = ["link", "add", cables[0], "type", "veth", "peer", "name", cables[1]]
    done: list[str] = []
    try:
        for name in names:
            if not ip("netns", "add", name):
                break
            done.append(name)
        if len(done) < 2 or not ip(*made):
            yield [[], []], "127.0.0.1", {}
            return
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            inside = ["netns", "exec", name, "ip"]
            ip(*inside, "link", "set", cable, "name", "eth0")
            ip(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
            ip(*inside, "link", "set", "lo", "up")
        yield [["ip", "netns", "exec", name] for name in names], ADDRESSES[0], {"GLOO_SOCKET_IFNAME": "eth0"}
    finally:
        for name in done:
            ip("netns", "del", name)


def ip(*words: str) -> bool:
    """Run ip; whether it is there and may."""
    if shutil.which("ip") is None:
        return False
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


class Hosts:
    """Starts `polygene train` on both."""

    def __init__(self, before: list[list[str]], address: str, environment: dict[str, str]) -> None:
        self.before, self.address = before, address
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment

    def start(self, recipe: Path, launcher: str) -> list[subprocess.Popen[str]]:
        """Start a launcher on each host; each leads a process group, whose end is the end of the host."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = str(free.getsockname()[1])
        launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        launch += ["--master-addr", self.address, "--master-port", port, "--node-rank"]
        if launcher == "accelerate":  # it knows no other word for several processes, and takes the CPU without a GPU
            launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
            launch += ["--main_process_ip", self.address, "--main_process_port", port, "--machine_rank"]
        what = ["-m", "polygene"] if launcher == "torchrun" else ["--module", "polygene"]
        return [
            subprocess.Popen(
                [*words, sys.executable, *launch, str(rank), *what, "train", str(recipe)],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.environment,
                start_new_session=True,
            )
            for rank, words in enumerate(self.before)
        ]  # fmt: skip

    def train(self, recipe: Path, launcher: str) -> None:
        """Train to the end."""
        processes = self.start(recipe, launcher)
        for process in processes:
            said = process.communicate(timeout=PATIENCE)[1]
            if process.returncode:
                sys.exit(f"training on two hosts failed:\n{said}")

    def train_until(self, recipe: Path, launcher: str, state: Path) -> dict[str, Any]:
        """Kill the second host once a state is saved, or cut its cable; say what the first does, and after how long."""
        first, second = self.start(recipe, launcher)
        started = time.monotonic()
        while not (state / "complete").exists() and time.monotonic() - started < PATIENCE:
            time.sleep(0.2)
        lost = time.monotonic()
        if launcher == "accelerate":
            ip("netns", "exec", self.before[1][3], "ip", "link", "set", "eth0", "down")
            words = "another process of this run was silent"
        else:
            kill(second)
            words = "another process of this run ended"
        said = first.communicate(timeout=PATIENCE)[1]
        seconds = time.monotonic() - lost
        kill(second)
        second.communicate()
        if launcher == "accelerate":
            ip("netns", "exec", self.before[1][3], "ip", "link", "set", "eth0", "up")
        return {"exit_code": first.returncode, "said_so": words in " ".join(said.split()), "seconds": round(seconds, 1)}


def kill(launcher: subprocess.Popen[str]) -> None:
    """End a launcher and its workers at once."""
    for number in descendants(launcher.pid):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def descendants(number: int) -> list[int]:
    """List a process and all that it started: the launcher's workers lead groups of their own."""
    try:
        listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return [number]
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [number]
    for one in found:
        found += [child for child, parent in parents if parent == one]
    return found


def run(_data: Path | None, seed: int, models: Path, _options: argparse.Namespace) -> dict[str, Any]:
    """Train undisturbed, and killed and resumed; compare the weights."""
    from safetensors.numpy import load_file

    from polygene.corpus.prepare import PrepareConfig
    from polygene.model.recipe import NetworkConfig, Recipe, TrainingConfig

    folder = models / "hosts"
    folder.mkdir(parents=True)
    corpus = effort.prepare(corpus_cells(seed), folder / "corpus", config=PrepareConfig(n_genes=64, seed=seed))
    recipes = {}
    for name in ("undisturbed", *LAUNCHERS):
        training = TrainingConfig(
            epochs=effort.at_most(6, 2), batch_size=16, evaluations=4, save_minutes=0.01, seed=seed
        )
        network = NetworkConfig(**NETWORK)
        recipe = Recipe(corpus=str(corpus.folder), out=str(folder / name), network=network, training=training)
        recipes[name] = folder / f"{name}.toml"
        recipes[name].write_text(recipe.to_toml())
    steps = -(-len(corpus.split("train")) * training.epochs // (2 * training.batch_size))
    found: dict[str, Any] = {"steps": steps}
    with two_hosts() as made:
        hosts, apart = Hosts(*made), bool(made[0][0])
        if effort.at_most(2, 1) == 1:  # a smoke run makes the hosts only
            return {"two_hosts": {"made_of": made[1]}}
        found["made_of"] = "network namespaces" if apart else "loopback"
        hosts.train(recipes["undisturbed"], "torchrun")
        expected = load_file(folder / "undisturbed" / "model.safetensors")
        for launcher, what in LAUNCHERS.items() if apart else [("torchrun", "killed")]:
            state = folder / launcher / "training" / f"checkpoint-{-(-steps // 4)}"
            found[what] = hosts.train_until(recipes[launcher], launcher, state)
            hosts.train(recipes[launcher], launcher)
            ours = load_file(folder / launcher / "model.safetensors")
            found[what]["equal"] = bool(
                ours.keys() == expected.keys() and all((ours[name] == expected[name]).all() for name in expected)
            )
            print(found, flush=True)
    shutil.rmtree(folder)
    return {"two_hosts": found}


def corpus_cells(seed: int) -> Any:
    """Draw cells, for weights do not tell whether they are real."""
    import numpy as np

    from benchmarks.shared import miniature

    study = miniature.STUDIES["onek1k_scdesignpop_multicell"]
    genes = [f"GENE{number}" for number in range(100)]
    return miniature.make(study, genes, np.random.default_rng(seed))
