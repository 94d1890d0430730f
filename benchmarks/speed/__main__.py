"""How fast PolyGene is: against the published network, against the machine, on the user's clock, as panels grow.

    python -m benchmarks.speed --data DIR
    python -m benchmarks.speed --smoke          # seconds, no number to keep

*Against the published network*: a padded BertModel with copied weights and a linear head of equal size, with a place
for every panel gene, expressed or not, hidden ones as [MASK] in place, and an attention mask of the places that are
keys. Each side runs at its own best batch size, searched in the same run; their turns alternate, and a ratio is one of
medians. The whole way from the corpus on disk is timed on both sides:

* *train*: gather, mask, forward, loss, backward and AdamW (15 % of the genes, 50 % of the labels hidden);
* *embed*: gather and place every cell, as `tl.embed` does, by the question for its type; the padded network reads the
  state of [CLS];
* *annotate*: gather and answer five phenotypes, as `tl.annotate` does.

*Against the machine*: the operations of the network as it is written (keys and asked questions only, saved or not) a
second, as a share of what matrix products of its own shapes reach in the same process.

Times mean something on a machine that does nothing else: the output says how busy it was. The last line is one JSON
object.

Legend: C cells, S padded places, T packed tokens, K keys, Q questions, L logits, D width.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertModel

from benchmarks.shared import command, effort, files
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.model.inference import cell_states, label_probabilities
from polygene.model.masking import MaskingCollator, MaskingConfig
from polygene.model.recipe import NetworkConfig, Recipe
from polygene.nn.linear import product
from polygene.nn.losses import LossConfig, PolyGeneLoss
from polygene.runtime.hashing import uniform
from polygene.training.engine import FORWARD, TRUTH
from polygene.training.setup import new_model
from polygene.vocab.cells import EncodedCells

PINNED = {512: 0.20, 2432: 0.12}
"""Panels of the publication, and the share of their genes that a cell expresses."""
REAL = ("onek1k_scdesignpop_multicell", "velmeshev_asd_pfc_glia", "perez_sle_healthy_tcells", "scp1884_crohns_gut")
GROWTH = "scp1884_crohns_gut"
NETWORK = NetworkConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
COLUMNS = {"sex": 2, "tissue": 20, "cell_type": 60, "development_stage": 40, "disease": 10}
"""Columns of obs, and the labels drawn for each."""
TASKS = ("train", "embed", "annotate")

console = Console(width=130)


def pinned_cells(n_genes: int, density: float, n_cells: int = 2000) -> ad.AnnData:
    """Draw cells that express every gene with the same probability."""
    rng = np.random.default_rng(0)
    x_CG = sparse.random_array(
        (n_cells, n_genes), density=density, rng=rng, data_sampler=lambda size: rng.integers(1, 50, size)
    )
    return labelled(
        ad.AnnData(x_CG.tocsr().astype(np.float32), var=pd.DataFrame(index=[f"GENE{g}" for g in range(n_genes)]))
    )


def labelled(adata: ad.AnnData) -> ad.AnnData:
    """Give every cell a random label of each phenotype."""
    rng = np.random.default_rng(0)
    draws = {column: rng.integers(0, n, adata.n_obs) for column, n in COLUMNS.items()}
    adata.obs = pd.DataFrame(
        {c: pd.Categorical([f"{c} {label}" for label in labels_C]) for c, labels_C in draws.items()},
        index=adata.obs_names,
    )
    return adata


def make_corpus(adata: ad.AnnData, n_genes: int, folder: Path) -> Corpus:
    """Make a corpus all of whose cells train."""
    config = PrepareConfig(n_genes=n_genes, split="random", fractions=(1.0, 0.0, 0.0))
    return effort.prepare(adata, folder, config=config, overwrite=True)


class Packed:
    """PolyGene's network on packed rows."""

    def __init__(self, corpus: Corpus, *, lean: bool = False) -> None:
        network = effort.network(replace(NETWORK, hidden_dropout_prob=0.0) if lean else NETWORK)
        masking = MaskingConfig(zero_rate=0.1) if lean else MaskingConfig()
        self.model = new_model(Recipe(corpus=str(corpus.folder), out="", network=network), corpus)
        self.network, self.tokenizer = self.model.network, corpus.tokenizer
        self.split = corpus.split("train")
        self.collator = MaskingCollator(tokenizer=corpus.tokenizer, measured_SG=corpus.measured_SG, config=masking)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.loss = PolyGeneLoss(
            config=LossConfig(),
            n_bins=corpus.tokenizer.binner.n_bins,
            phenotype_sizes=self.network.config.phenotype_sizes,
            years=[None] * len(COLUMNS),
        )

    def draw(self, n_cells: int, seed: int) -> np.ndarray:
        """Draw cells of the corpus."""
        return np.random.default_rng(seed).integers(0, len(self.split), n_cells)

    def batch(self, cells_C: np.ndarray) -> dict[str, Tensor]:
        """Gather and mask."""
        return self.collator(self.split.cells(cells_C), self.split.sources_C[cells_C], cells_C, 0 * cells_C)

    def train(self, cells_C: np.ndarray) -> None:
        """Take one step of training."""
        batch = self.batch(cells_C)
        answers = self.network(**{name: batch[name] for name in FORWARD})
        step(self, answers.gene_logits, answers.label_logits, batch, len(cells_C))

    def embed(self, cells_C: np.ndarray) -> np.ndarray:
        """Place cells, (C, D)."""
        return cell_states(self.model, self.split.cells(cells_C))

    def annotate(self, cells_C: np.ndarray) -> list[np.ndarray]:
        """Answer five phenotypes, (C, V) each."""
        return label_probabilities(self.model, self.split.cells(cells_C), predict=self.tokenizer.schema.names)


class Padded:
    """The same weights in BertModel over all places, with its fastest attention on CPUs, sdpa."""

    def __init__(self, packed: Packed) -> None:
        config = packed.network.config
        fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
        # The published network trains with dropout whatever ours does.
        fields |= {"hidden_dropout_prob": 0.1}
        self.bert = BertModel(BertConfig(**fields, attn_implementation="sdpa"), add_pooling_layer=False)
        self.bert.load_state_dict(packed.network.bert.state_dict())
        self.decoder = nn.Linear(config.hidden_size, packed.network.decoder.out_features)
        self.decoder.load_state_dict(packed.network.decoder.state_dict())
        self.gene_bias = nn.Embedding.from_pretrained(packed.network.gene_bias.weight.detach().clone(), freeze=False)
        self.network = nn.ModuleList([self.bert, self.decoder, self.gene_bias])
        self.split, self.tokenizer, self.loss, self.draw = packed.split, packed.tokenizer, packed.loss, packed.draw
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.groups = [config.gene_logits, *config.phenotype_sizes]
        self.first_gene = config.first_gene_slot

    def lay_out(self, cells: EncodedCells, labels_CP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all places and which of them are keys, (C, S) each."""
        ids_CS = np.zeros((len(cells), self.tokenizer.n_slots), dtype=np.int64)
        ids_CS[:, 0], ids_CS[:, -1] = self.tokenizer.cls_id, self.tokenizer.end_id
        ids_CS[:, 1 : self.first_gene - 1] = self.tokenizer.phenotype_token_ids(labels_CP)
        ids_CS[:, self.first_gene - 1] = self.tokenizer.start_id
        cells_N = cells.cells_N
        ids_CS[cells_N, cells.genes_N.astype(np.int64) + self.first_gene] = cells.bins_N
        return ids_CS, ids_CS > 0

    def answers(self, ids_CS: np.ndarray, keys_CS: np.ndarray, asked_CS: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Logits of the asked places, (Q, L), and the slots of these places."""
        hidden_CSD = self.bert(
            input_ids=torch.from_numpy(ids_CS), attention_mask=torch.from_numpy(keys_CS.astype(np.int64))
        ).last_hidden_state
        cells_Q, slots_Q = np.nonzero(asked_CS)
        return self.decoder(hidden_CSD[torch.from_numpy(cells_Q), torch.from_numpy(slots_Q)]), slots_Q

    def train(self, cells_C: np.ndarray) -> None:
        """Take one step of training: every hidden gene is asked, in its place."""
        cells = self.split.cells(cells_C)
        ids_CS, keys_CS = self.lay_out(cells, cells.labels_CP)
        random_CS = uniform(0, 0 * cells_C, cells_C, np.arange(ids_CS.shape[1]))
        rate_S = np.full(ids_CS.shape[1], 0.15)
        rate_S[: self.first_gene] = 0.5
        rate_S[[0, self.first_gene - 1, -1]] = 0
        asked_CS = random_CS < rate_S
        truth_Q = ids_CS[asked_CS]
        logits_QL, slots_Q = self.answers(
            np.where(asked_CS, self.tokenizer.mask_id, ids_CS), keys_CS & ~asked_CS, asked_CS
        )
        of_gene_Q = slots_Q >= self.first_gene
        groups = logits_QL.split(self.groups, dim=1)
        phenotype_Q = slots_Q[~of_gene_Q] - 1
        batch = {
            "bins": torch.from_numpy(truth_Q[of_gene_Q]),
            "bin_weights": torch.full((int(of_gene_Q.sum()),), 1 / (0.15 * len(self.tokenizer.panel))),
            "labels": torch.from_numpy(
                truth_Q[~of_gene_Q]
                - np.array([self.tokenizer.label_range(p)[0] for p in range(len(COLUMNS))])[phenotype_Q]
            ),
            "label_weights": torch.full((len(phenotype_Q),), 1 / (0.5 * len(COLUMNS))),
            "label_phenotype": torch.from_numpy(phenotype_Q),
        }
        genes_Q = torch.from_numpy(slots_Q[of_gene_Q] - self.first_gene)
        of_labels = [
            group[torch.from_numpy(~of_gene_Q)][torch.from_numpy(phenotype_Q == p)]
            for p, group in enumerate(groups[1:])
        ]
        step(self, groups[0][torch.from_numpy(of_gene_Q)] + self.gene_bias(genes_Q), of_labels, batch, len(cells_C))

    @torch.inference_mode()
    def embed(self, cells_C: np.ndarray) -> np.ndarray:
        """State of [CLS], (C, D)."""
        cells = self.split.cells(cells_C)
        ids_CS, keys_CS = self.lay_out(cells, np.full_like(cells.labels_CP, -1))
        asked_CS = np.zeros_like(keys_CS)
        asked_CS[:, 0] = True
        return self.answers(ids_CS, keys_CS, asked_CS)[0].float().numpy()

    @torch.inference_mode()
    def annotate(self, cells_C: np.ndarray) -> list[np.ndarray]:
        """Answer five phenotypes, (C, V) each: [MASK] in their places, which are no keys."""
        cells = self.split.cells(cells_C)
        ids_CS, keys_CS = self.lay_out(cells, np.full_like(cells.labels_CP, -1))
        asked_CS = np.zeros_like(keys_CS)
        asked_CS[:, 1 : self.first_gene - 1] = True
        logits_QL, slots_Q = self.answers(
            np.where(asked_CS, self.tokenizer.mask_id, ids_CS), keys_CS & ~asked_CS, asked_CS
        )
        groups = logits_QL.split(self.groups, dim=1)[1:]
        return [group[torch.from_numpy(slots_Q == p + 1)].softmax(-1).float().numpy() for p, group in enumerate(groups)]


def step(side: Packed | Padded, genes_QB: Tensor, labels: list[Tensor], batch: Mapping[str, Tensor], n: int) -> None:
    """Compare with the truth, go back and step."""
    truth = {name: batch[name] for name in TRUTH}
    side.loss(gene_logits=genes_QB, label_logits=labels, n_cells=n, **truth)["loss"].backward()
    side.optimizer.step()
    side.optimizer.zero_grad()


def precision(name: str) -> AbstractContextManager[object]:
    """Run in float32, or as the engine runs bfloat16: weights in float32, products in half precision."""
    return torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext()


def milliseconds(side: Packed | Padded, task: str, n_cells: int, seed: int, dtype: str) -> float:
    """Time a cell takes from the corpus to the end of the task."""
    cells_C = side.draw(n_cells, seed)
    started = time.perf_counter()
    with precision(dtype):
        getattr(side, task)(cells_C)
    return 1e3 * (time.perf_counter() - started) / n_cells


def best_size(side: Packed | Padded, task: str, sizes: tuple[int, ...], dtype: str) -> int:
    """Grow the batch as long as it pays: until two sizes in a row are no faster than the best before."""
    best, best_ms, misses = sizes[0], float("inf"), 0
    for n_cells in sizes if len(sizes) > 1 else ():
        milliseconds(side, task, n_cells, 0, dtype)
        ms = min(milliseconds(side, task, n_cells, seed, dtype) for seed in (1, 2, 3))
        best, best_ms, misses = (n_cells, ms, 0) if ms < best_ms else (best, best_ms, misses + 1)
        if misses == 2:
            break
    return best


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure."""

    repeats: int
    packed: Mapping[str, tuple[int, ...]]
    padded: tuple[int, ...]


BRIEF = Effort(repeats=2, packed={"train": (32,), "embed": (128,), "annotate": (128,)}, padded=(2,))
"""For a smoke run, and for files whose ratio is no headline."""
FULL = Effort(
    repeats=5,
    packed={"train": (16, 32, 64), "embed": (64, 256), "annotate": (64, 256)},
    padded=(1, 2, 4, 8),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Milliseconds a cell of both sides, turn by turn."""

    size_packed: int
    size_padded: int
    packed_ms: list[float] = field(default_factory=list)
    padded_ms: list[float] = field(default_factory=list)

    @cached_property
    def packed(self) -> float:
        """Median of the packed side."""
        return statistics.median(self.packed_ms)

    @cached_property
    def ratio(self) -> float:
        """How many times faster the packed side is."""
        return statistics.median(self.padded_ms) / self.packed

    def said(self) -> str:
        """Give the ratio with the quartiles of the ratios of neighbours in time: how much noise moves them."""
        ratios = [slow / fast for slow, fast in zip(self.padded_ms, self.packed_ms, strict=True)]
        low, high = np.quantile(ratios, [0.25, 0.75])
        return f"{self.ratio:.1f} ({low:.1f} to {high:.1f})"


def compare(packed: Packed, padded: Padded, task: str, effort: Effort, dtype: str) -> Outcome:
    """Measure both sides at a task, turn by turn, after one turn to warm up."""
    for side in (packed, padded):
        side.network.train(task == "train")
    sizes = best_size(packed, task, effort.packed[task], dtype), best_size(padded, task, effort.padded, dtype)
    outcome = Outcome(size_packed=sizes[0], size_padded=sizes[1])
    for turn in range(effort.repeats + 1):
        pair = (
            milliseconds(packed, task, sizes[0], 100 + turn, dtype),
            milliseconds(padded, task, sizes[1], 100 + turn, dtype),
        )
        if turn:
            outcome.packed_ms.append(pair[0])
            outcome.padded_ms.append(pair[1])
    return outcome


def ratios(
    title: str,
    corpora: Iterator[tuple[str, Corpus]],
    tasks: tuple[str, ...],
    effort: Effort,
    *,
    dtype: str = "float32",
    lean: bool = False,
) -> dict[str, Outcome]:
    """Print a table of every task on every corpus; the outcomes by "task name"."""
    table = Table(title=title, title_justify="left")
    for heading in ("cells", "task"):
        table.add_column(heading)
    for heading in ("expressed", "packed ms/cell", "batch", "padded ms/cell", "batch", "ratio"):
        table.add_column(heading, justify="right")
    outcomes = {}
    for name, corpus in corpora:
        packed = Packed(corpus, lean=lean)
        padded = Padded(packed)
        expressed = np.diff(packed.split.cells(slice(None)).offsets_C1).mean()
        for task in tasks:
            one = outcomes[f"{task} {name}"] = compare(packed, padded, task, effort, dtype)
            table.add_row(
                name, task, f"{expressed:.0f}", f"{one.packed:.2f}", str(one.size_packed),
                f"{statistics.median(one.padded_ms):.1f}", str(one.size_padded), one.said(),
            )  # fmt: skip
    console.print(table)
    return outcomes


def operations(packed: Packed, task: str, n_cells: int) -> tuple[float, int]:
    """Floating-point operations a cell needs at a task, keys and asked questions only, and the tokens of a row."""
    shape, cells_C = effort.network(NETWORK), packed.draw(n_cells, 0)
    width, layers = shape.hidden_size, shape.num_hidden_layers
    if task == "train":
        batch = packed.batch(cells_C)
        keys_C, asked_C = batch["n_keys"].numpy(), batch["n_queries"].numpy()
    else:
        keys_C = np.diff(packed.split.cells(cells_C).offsets_C1) + packed.network.config.first_gene_slot + 1
        asked_C = np.full_like(keys_C, 1 if task == "embed" else len(COLUMNS))
    tokens_C = keys_C + asked_C
    a_token = 2 * (4 * width**2 + 2 * width * shape.intermediate_size)
    a_layer = a_token * tokens_C + 4 * width * tokens_C * keys_C
    # The last layer: keys and values of the keys, the rest of the questions only.
    last = 4 * width**2 * keys_C + (a_token - 4 * width**2) * asked_C + 4 * width * asked_C * keys_C
    needed = float(((layers - 1) * a_layer + last).mean())
    return needed * (3 if task == "train" else 1), int(tokens_C.sum())


def product_rate(n_tokens: int, *, backward: bool) -> float:
    """Operations a second of matrix products of the network's shapes at this many tokens, by the network's own way."""
    shape = effort.network(NETWORK)
    width, wide = shape.hidden_size, shape.intermediate_size
    done, seconds = 0.0, []
    shapes = [(width, width)] * 4 + [(width, wide), (wide, width)]
    inputs = [(torch.randn(n_tokens, i), torch.randn(o, i), torch.randn(n_tokens, o)) for i, o in shapes]
    for _ in range(7):
        started = time.perf_counter()
        for x_TI, w_OI, y_TO in inputs:
            product(x_TI, w_OI, None)
            if backward:
                product(y_TO, w_OI.T, None), product(y_TO.T, x_TI.T, None)
        seconds.append(time.perf_counter() - started)
    done = sum(2 * n_tokens * i * o for i, o in shapes) * (3 if backward else 1)
    return done / statistics.median(seconds)


def utilisation(packed: Packed, outcomes: Mapping[str, Outcome], name: str) -> dict[str, float]:
    """Print and return the share of the machine that each task uses."""
    table = Table(
        title="Against the machine: needed operations a second beside products of the same shapes", title_justify="left"
    )
    for heading in ("task", "needed, GFLOP a cell", "reached, GFLOP/s", "products alone, GFLOP/s", "share"):
        table.add_column(heading, justify="right")
    shares = {}
    for task in TASKS:
        one = outcomes[f"{task} {name}"]
        needed, n_tokens = operations(packed, task, one.size_packed)
        reached = needed / one.packed * 1e3
        products = product_rate(min(n_tokens, 4096), backward=task == "train")
        shares[task] = reached / products
        table.add_row(
            task, f"{needed / 1e9:.2f}", f"{reached / 1e9:.0f}", f"{products / 1e9:.0f}", f"{shares[task]:.2f}"
        )
    console.print(table)
    return shares


def where_time_goes(packed: Packed, outcomes: Mapping[str, Outcome], name: str) -> None:
    """Print the share of processor time of each kind of operation, by torch's profiler."""
    table = Table(title="Where the time goes, by torch.profiler, 512 genes, float32", title_justify="left")
    for heading in ("task", "products", "attention", "all else, largest first"):
        table.add_column(heading)
    for task in TASKS:
        packed.network.train(task == "train")
        size = outcomes[f"{task} {name}"].size_packed
        getattr(packed, task)(packed.draw(size, 0))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # predictions share rows among threads of their own, which the profiler does not see
        with profile(activities=[ProfilerActivity.CPU]) as taken:
            getattr(packed, task)(packed.draw(size, 1))
        torch.set_num_threads(threads)
        spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in taken.key_averages()}
        total = sum(spent.values())
        products = sum(spent.pop(kind, 0) for kind in ("mm", "addmm", "mkldnn::_linear_pointwise"))
        attention = sum(spent.pop(kind) for kind in list(spent) if "scaled_dot_product" in kind)
        rest = sorted(spent.items(), key=lambda one: -one[1])[:7]
        said = ", ".join(f"{kind} {us / total:.0%}" for kind, us in rest)
        table.add_row(task, f"{products / total:.0%}", f"{attention / total:.0%}", said)
    console.print(table)


def command_seconds(*words: str, runs: int) -> float:
    """Median time of a fresh process."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *words], check=True, capture_output=True, env=os.environ | {"MPLBACKEND": "Agg"}
        )
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def clock(packed: Packed, cells: ad.AnnData, folder: Path, *, smoke: bool) -> dict[str, float | None]:
    """Measure what a user waits for, commands in processes of their own, and what the network waits for, its loader."""
    runs = effort.at_most(3, 1)
    found: dict[str, float | None] = {
        "import_s": command_seconds("-c", "import polygene", runs=runs) - command_seconds("-c", "pass", runs=runs),
        "help_s": command_seconds("-m", "polygene", "--help", runs=runs),
        "annotate_10k_s": None,
        "demo_s": None,
    }
    packed.model.save_pretrained(folder / "model")
    drawn_C = np.random.default_rng(0).integers(0, cells.n_obs, 10_000)
    many = ad.AnnData(cells.X[drawn_C], var=cells.var, obs=pd.DataFrame(index=[f"cell{i}" for i in range(10_000)]))
    many.write_h5ad(folder / "cells.h5ad")
    if not smoke:
        words = (
            "annotate",
            str(folder / "cells.h5ad"),
            "--model",
            str(folder / "model"),
            "--out",
            str(folder / "out.h5ad"),
        )
        found["annotate_10k_s"] = command_seconds("-m", "polygene", *words, runs=1)
        found["demo_s"] = command_seconds("-m", "polygene", "demo", "--out", str(folder / "demo"), runs=1)
    packed.batch(packed.draw(256, 0))
    started = time.perf_counter()
    for seed in range(10):
        packed.batch(packed.draw(256, seed))
    found["loader_cells_per_s"] = 2560 / (time.perf_counter() - started)
    return found


def panel_doubling(data: Path | None, folder: Path, effort: Effort) -> dict[str, float]:
    """Cost of a cell on 2432 genes over its cost on 1216, real cells, turn by turn."""
    adata = labelled(ad.read_h5ad(files.locate(GROWTH, data)))
    sides = [Packed(make_corpus(adata, n, folder / f"growth-{n}")) for n in (1216, 2432)]
    costs = {}
    for task in ("train", "embed"):
        times: list[list[float]] = [[], []]
        for turn in range(effort.repeats + 1):
            for side, ms in zip(sides, times, strict=True):
                side.network.train(task == "train")
                ms.append(milliseconds(side, task, 32, turn, "float32"))
        costs[task] = statistics.median(times[1][1:]) / statistics.median(times[0][1:])
    expressed = [np.diff(side.split.cells(slice(None)).offsets_C1).mean() for side in sides]
    console.print(
        f"Growth on {GROWTH}: from 1216 to 2432 genes, {expressed[0]:.0f} to {expressed[1]:.0f} of them expressed, "
        f"a cell costs {costs['train']:.2f} times as much to train and {costs['embed']:.2f} times to embed"
    )
    return {"panel_doubling_cost": costs["train"], "panel_doubling_cost_embed": costs["embed"]}


def real_corpora(data: Path | None, folder: Path) -> Iterator[tuple[str, Corpus]]:
    """Cells of real files on the panel of their own most variable genes."""
    for name in effort.few(REAL):
        try:
            adata = ad.read_h5ad(files.locate(name, data))
        except files.MissingDataError as reason:
            console.print(f"skipped: {reason}")
            continue
        for n_genes in PINNED:
            if adata.n_vars >= n_genes:
                yield f"{name}, {n_genes}", make_corpus(labelled(adata), n_genes, folder / f"{name}-{n_genes}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Print all tables and return their numbers."""
    how_long, shape = BRIEF if options.smoke else FULL, effort.network(NETWORK)
    console.print(
        f"{shape.num_hidden_layers} layers, {shape.hidden_size} wide, {torch.get_num_threads()} threads; "
        f"{options.load_before:.1f} programs were running in the minute before this one"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = effort.few(PINNED)
        pinned = {str(n): make_corpus(pinned_cells(n, PINNED[n]), n, folder / f"pinned-{n}") for n in sizes}
        outcomes = ratios("Published densities, float32", iter(pinned.items()), TASKS, how_long)
        numbers: dict[str, Any] = {f"{task}_ratio_{n}": outcomes[f"{task} {n}"].ratio for n in pinned for task in TASKS}
        packed = Packed(pinned["512"])
        shares = utilisation(packed, outcomes, "512")
        numbers |= {f"flop_utilisation_{task}": share for task, share in shares.items()}
        numbers |= (waits := clock(packed, pinned_cells(512, PINNED[512]), folder, smoke=options.smoke))
        numbers["loader_over_training"] = waits["loader_cells_per_s"] * outcomes["train 512"].packed / 1e3
        console.print(", ".join(f"{name} {value:.2f}" for name, value in waits.items() if value is not None))
        where_time_goes(packed, outcomes, "512")
        numbers |= other_ratios(pinned, how_long)
        ratios("Densities of real data, float32, fixed batch sizes", real_corpora(options.data, folder),
               ("train", "embed"), BRIEF)  # fmt: skip
        try:
            numbers |= panel_doubling(options.data, folder, how_long)
        except files.MissingDataError as reason:
            console.print(f"skipped: {reason}")
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in numbers.items()}


def other_ratios(pinned: Mapping[str, Corpus], how_long: Effort) -> dict[str, float]:
    """Ratios without dropout and with fewer zeros, and in half precision."""
    title = "Without dropout, a tenth of the hidden zeros asked, float32"
    lean = ratios(title, iter(pinned.items()), ("train",), how_long, lean=True)
    title = "Published densities, both sides in bfloat16"  # which training may use, and no prediction on a CPU
    halves = ratios(title, iter(pinned.items()), ("train",), how_long, dtype="bfloat16")
    return {
        f"{one.replace(' ', '_ratio_')}_{name}": outcome.ratio
        for name, others in (("lean", lean), ("bfloat16", halves))
        for one, outcome in others.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    command.run("speed", __doc__, measure, threads=None, argv=argv)


if __name__ == "__main__":
    main()
