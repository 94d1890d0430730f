"""Training on two hosts, one of which is killed: what the other says, and whether the same commands end it alike.

The hosts are two network namespaces joined by a cable of the kernel (veth), which root may make; elsewhere both are
this machine, on its loopback. The launchers, rendezvous and gloo are those of a cluster.
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

    def start(self, recipe: Path) -> list[subprocess.Popen[str]]:
        """Start a launcher on each host; each leads a process group, whose end is the end of the host."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        launch += ["--master-addr", self.address, "--master-port", str(port)]
        return [
            subprocess.Popen(
                [*words, sys.executable, *launch, "--node-rank", str(rank), "-m", "polygene", "train", str(recipe)],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.environment,
                start_new_session=True,
            )
            for rank, words in enumerate(self.before)
        ]  # fmt: skip

    def train(self, recipe: Path) -> None:
        """Train to the end."""
        processes = self.start(recipe)
        for process in processes:
            said = process.communicate(timeout=PATIENCE)[1]
            if process.returncode:
                sys.exit(f"training on two hosts failed:\n{said}")

    def train_until_killed(self, recipe: Path, state: Path) -> dict[str, Any]:
        """Kill the second host once a state is saved; say what the first does of it, and after how long."""
        first, second = self.start(recipe)
        started = time.monotonic()
        while not (state / "complete").exists() and time.monotonic() - started < PATIENCE:
            time.sleep(0.2)
        for number in descendants(second.pid):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        killed = time.monotonic()
        said = first.communicate(timeout=PATIENCE)[1]
        seconds = time.monotonic() - killed
        second.communicate()
        words = "another process of this run ended"
        return {"exit_code": first.returncode, "said_so": words in " ".join(said.split()), "seconds": round(seconds, 1)}


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
    for name in ("undisturbed", "disturbed"):
        training = TrainingConfig(
            epochs=effort.at_most(6, 2), batch_size=16, evaluations=4, save_minutes=0.01, seed=seed
        )
        network = NetworkConfig(**NETWORK)
        recipe = Recipe(corpus=str(corpus.folder), out=str(folder / name), network=network, training=training)
        recipes[name] = folder / f"{name}.toml"
        recipes[name].write_text(recipe.to_toml())
    steps = -(-len(corpus.split("train")) * training.epochs // (2 * training.batch_size))
    with two_hosts() as made:
        hosts = Hosts(*made)
        if effort.at_most(2, 1) == 1:  # a smoke run makes the hosts only
            return {"two_hosts": {"made_of": made[1]}}
        hosts.train(recipes["undisturbed"])
        state = folder / "disturbed" / "training" / f"checkpoint-{-(-steps // 4)}"
        end = hosts.train_until_killed(recipes["disturbed"], state)
        hosts.train(recipes["disturbed"])
        kind = "network namespaces" if made[0][0] else "loopback"
    one, two = (load_file(folder / name / "model.safetensors") for name in recipes)
    equal = one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    shutil.rmtree(folder)
    found = {"two_hosts": {"made_of": kind, "steps": steps, "equal": bool(equal), **end}}
    print(found)
    return found


def corpus_cells(seed: int) -> Any:
    """Draw cells, for weights do not tell whether they are real."""
    import numpy as np

    from benchmarks.shared import miniature

    study = miniature.STUDIES["onek1k_scdesignpop_multicell"]
    genes = [f"GENE{number}" for number in range(100)]
    return miniature.make(study, genes, np.random.default_rng(seed))
