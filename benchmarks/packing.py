"""How much time packing saves: packed rows against padded Hugging Face BertModel over all panel genes.

Both have the same weights and a linear head of the same size, answer the same questions about the same cells, and each
runs at its own best batch size, searched in the same run. Their steps alternate, and a ratio is one of medians.

* *train*: forward, loss, backward and AdamW on a masked batch (15 % of the genes, 50 % of the labels hidden);
* *embed*: the hidden state of [CLS] of cells with nothing hidden.

The padded network stands for the published one: a place for every panel gene, expressed or not, hidden ones as [MASK]
in place, and an attention mask of the places that are keys. In the check of equal answers it also gets the packed
network's separate questions, behind the cell; they are left out of its times, in its favour. Batches are fresh at every
turn and made outside of the times; what it takes to make a packed one stands beside them.

Times mean something on a machine that does nothing else: the head of the output says how busy it was.

Legend: C cells, S padded places, T packed tokens, Q questions, L logits, D width.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import _data
from polygene.binning import ExpressionBinner, InverseFit
from polygene.genes import GenePanel
from polygene.losses import LossConfig, PolyGeneLoss
from polygene.masking import MaskingCollator, MaskingConfig, pack_cells
from polygene.modeling import PolyGeneConfig, PolyGeneModel
from polygene.naming import gene_table
from polygene.phenotypes import CELLXGENE, PhenotypeSchema
from polygene.ranking import GeneMoments, GeneVariability, rank_genes
from polygene.scale import log1p_values
from polygene.tokenizer import CellTokenizer, EncodedCells

PINNED = {512: 0.20, 2432: 0.12}
"""Panels of the publication, and the share of their genes that a cell expresses."""
REAL = ("onek1k_scdesignpop_multicell", "velmeshev_asd_pfc_glia", "perez_sle_healthy_tcells", "scp1884_crohns_gut")
WIDTH, LAYERS, HEADS = 256, 4, 4
N_LABELS = (2, 20, 60, 40, 10)
"""Labels of sex, tissue, cell type, age and disease."""
TRUTH = ("bins", "bin_weights", "labels", "label_weights", "label_phenotype")
PACKED = ("input_ids", "position_ids", "n_keys", "n_queries")
ASKED = ("gene_at", "label_at", "label_phenotype")
NOTHING = np.zeros(0, dtype=np.int64)

console = Console(width=130)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Cells of one panel, and how long to measure."""

    tokenizer: CellTokenizer
    cells: EncodedCells
    repeats: int
    packed_sizes: tuple[int, ...]
    padded_sizes: tuple[int, ...]

    def draw(self, n_cells: int, seed: int) -> EncodedCells:
        """Draw cells of the setting."""
        return self.cells.rows(np.random.default_rng(seed).integers(0, len(self.cells), n_cells))


def make_tokenizer(symbols: list[str]) -> CellTokenizer:
    binner = ExpressionBinner.linear()
    labels = tuple(tuple(f"label {i:03d}" for i in range(n)) for n in N_LABELS)
    return CellTokenizer(
        panel=GenePanel(symbols=tuple(symbols), ensembl_ids=("",) * len(symbols)),
        binner=binner,
        schema=PhenotypeSchema(phenotypes=CELLXGENE, labels=labels),
        inverse=InverseFit(binner, len(symbols)).finish(),
    )


def random_labels(n_cells: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, N_LABELS, (n_cells, len(N_LABELS))).astype(np.int16)


def pinned_cells(n_genes: int, density: float, n_cells: int = 2000) -> tuple[CellTokenizer, EncodedCells]:
    """Draw cells that express every gene with the same probability."""
    rng = np.random.default_rng(0)
    tokenizer = make_tokenizer([f"GENE{g}" for g in range(n_genes)])
    expressed_CG = rng.random((n_cells, n_genes)) < density
    bins_N = rng.integers(1, tokenizer.binner.n_bins, expressed_CG.sum()).astype(np.uint8)
    return tokenizer, EncodedCells(
        offsets_C1=np.concatenate([[0], np.cumsum(expressed_CG.sum(1))]),
        genes_N=np.nonzero(expressed_CG)[1].astype(np.uint16),
        bins_N=bins_N,
        values_N=bins_N.astype(np.float32),
        labels_CP=random_labels(n_cells),
        measured_G=np.ones(n_genes, dtype=bool),
    )


def real_cells(path: Path, n_genes: int) -> tuple[CellTokenizer, EncodedCells] | None:
    """Read the cells of a file on the panel of its own most variable genes; None if it has fewer genes."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    if adata.n_vars < n_genes:
        return None
    x_CG = log1p_values(adata)
    moments = GeneMoments(adata.n_vars)
    moments.add(x_CG)
    variability = GeneVariability(moments)
    variability.add(x_CG)
    symbols = gene_table(adata.var)["symbol"].tolist()
    panel = np.argsort(rank_genes(variability.finish(), symbols))[:n_genes]
    tokenizer = make_tokenizer([symbols[g] for g in panel])
    values_CG = x_CG[:, panel].sorted_indices()
    return tokenizer, tokenizer.encode_values(values_CG, np.ones(n_genes, dtype=bool), random_labels(adata.n_obs))


class Packed:
    """PolyGene's network on packed rows."""

    def __init__(self, tokenizer: CellTokenizer) -> None:
        config = PolyGeneConfig(
            n_genes=len(tokenizer.panel),
            n_bins=tokenizer.binner.n_bins,
            phenotype_sizes=N_LABELS,
            vocab_size=tokenizer.n_tokens,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
        )
        torch.manual_seed(0)
        self.network = PolyGeneModel(config)
        self.tokenizer = tokenizer
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.loss = make_loss(tokenizer)

    def training_batch(self, cells: EncodedCells, seed: int) -> dict[str, Tensor]:
        """Hide and ask."""
        collator = MaskingCollator(
            tokenizer=self.tokenizer, measured_SG=cells.measured_G[None], config=MaskingConfig(), seed=seed
        )
        numbers_C = np.arange(len(cells))
        return collator(cells, 0 * numbers_C, numbers_C, 0 * numbers_C)

    def embedding_batch(self, cells: EncodedCells) -> dict[str, Tensor]:
        """Show everything, ask nothing, and read [CLS]."""
        packed, _ = pack_cells(self.tokenizer, cells, cells.labels_CP, NOTHING, NOTHING)
        return packed.as_dict() | {"read_at": packed.cls_at}

    def answers(self, batch: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of the asked genes, and of each phenotype."""
        out = self.network(**{name: batch[name] for name in PACKED + ASKED})
        return out.gene_logits, out.label_logits

    def train(self, batch: dict[str, Tensor]) -> None:
        """Take one step of training."""
        step(self, batch, len(batch["n_keys"]))

    @torch.inference_mode()
    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        """State of [CLS], (C, D)."""
        return self.network.encode(**batch)


class Padded:
    """The same weights in BertModel over all places, with its fastest attention on CPUs, sdpa."""

    def __init__(self, packed: Packed) -> None:
        fields = packed.network.config.to_dict()
        config = BertConfig(**{k: v for k, v in fields.items() if k != "model_type"}, attn_implementation="sdpa")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.bert.load_state_dict(packed.network.bert.state_dict())
        self.decoder = nn.Linear(config.hidden_size, packed.network.decoder.out_features)
        self.decoder.load_state_dict(packed.network.decoder.state_dict())
        self.gene_bias = nn.Embedding.from_pretrained(packed.network.gene_bias.weight.detach().clone(), freeze=False)
        self.network = nn.ModuleList([self.bert, self.decoder, self.gene_bias])
        self.packed, self.tokenizer, self.loss = packed, packed.tokenizer, packed.loss
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)

    def training_batch(self, cells: EncodedCells, seed: int, *, apart: bool = False) -> dict[str, Tensor]:
        """Pad what the packed network is shown and asked; `apart` asks phenotypes behind the cell, as packing does."""
        batch = self.packed.training_batch(cells, seed)
        slots_T, n_phenotypes = batch["position_ids"][0], len(N_LABELS)
        lengths_C = batch["n_keys"] + batch["n_queries"]
        cell_T = torch.repeat_interleave(torch.arange(len(cells)), lengths_C)
        rank_T = torch.arange(len(cell_T)) - (lengths_C.cumsum(0) - lengths_C)[cell_T]
        is_key_T = rank_T < batch["n_keys"][cell_T]
        place_T = slots_T.clone()
        if apart:
            place_T[batch["label_at"]] += self.tokenizer.n_slots - 1
        slots_S = torch.cat([torch.arange(self.tokenizer.n_slots), torch.arange(1, n_phenotypes + 1)])
        slots_S = slots_S if apart else slots_S[: self.tokenizer.n_slots]
        ids_CS = torch.zeros(len(cells), len(slots_S), dtype=torch.int64)
        ids_CS[cell_T, place_T] = batch["input_ids"][0]
        mask_CS = torch.zeros_like(ids_CS)
        mask_CS[cell_T[is_key_T], place_T[is_key_T]] = 1
        return {name: batch[name] for name in TRUTH} | {
            "input_ids": ids_CS,
            "position_ids": slots_S.expand(len(cells), -1),
            "attention_mask": mask_CS,
            "gene_at": torch.stack([cell_T, place_T])[:, batch["gene_at"]],
            "label_at": torch.stack([cell_T, place_T])[:, batch["label_at"]],
            "genes": slots_T[batch["gene_at"]] - n_phenotypes - 2,
        }

    def embedding_batch(self, cells: EncodedCells) -> dict[str, Tensor]:
        """Show everything, at full length."""
        keys = self.packed.embedding_batch(cells)
        cell_T = torch.repeat_interleave(torch.arange(len(cells)), keys["n_keys"])
        ids_CS = torch.zeros(len(cells), self.tokenizer.n_slots, dtype=torch.int64)
        ids_CS[cell_T, keys["position_ids"][0]] = keys["input_ids"][0]
        mask_CS = torch.zeros_like(ids_CS)
        mask_CS[cell_T, keys["position_ids"][0]] = 1
        return {"input_ids": ids_CS, "attention_mask": mask_CS}

    def answers(self, batch: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of the asked genes, and of each phenotype."""
        hidden_CSD = self.bert(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        at_Q = torch.cat([batch["gene_at"], batch["label_at"]], dim=1)
        logits_QL = self.decoder(hidden_CSD[at_Q[0], at_Q[1]])
        groups = logits_QL.split([self.tokenizer.binner.n_bins, *N_LABELS], dim=1)
        n_genes = batch["gene_at"].shape[1]
        labels = [group[n_genes:][batch["label_phenotype"] == p] for p, group in enumerate(groups[1:])]
        return groups[0][:n_genes] + self.gene_bias(batch["genes"]), tuple(labels)

    def train(self, batch: dict[str, Tensor]) -> None:
        """Take one step of training."""
        step(self, batch, len(batch["input_ids"]))

    @torch.inference_mode()
    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        """State of [CLS], (C, D)."""
        return self.bert(**batch).last_hidden_state[:, 0]


def make_loss(tokenizer: CellTokenizer) -> PolyGeneLoss:
    return PolyGeneLoss(
        config=LossConfig(), n_bins=tokenizer.binner.n_bins, phenotype_sizes=N_LABELS, years=[None] * len(N_LABELS)
    )


def step(side: Packed | Padded, batch: dict[str, Tensor], n_cells: int) -> None:
    """Answer, compare with the truth, go back and step."""
    gene_logits, label_logits = side.answers(batch)
    truth = {name: batch[name] for name in TRUTH}
    side.loss(gene_logits=gene_logits, label_logits=label_logits, n_cells=n_cells, **truth)["loss"].backward()
    side.optimizer.step()
    side.optimizer.zero_grad()


def largest_difference(setting: Setting, n_cells: int = 4) -> float:
    """Compare every answer and every [CLS] of the two networks."""
    packed = Packed(setting.tokenizer)
    padded = Padded(packed)
    packed.network.eval()
    padded.network.eval()
    cells = setting.draw(n_cells, seed=0)
    with torch.no_grad():
        genes, labels = packed.answers(packed.training_batch(cells, 0))
        genes_padded, labels_padded = padded.answers(padded.training_batch(cells, 0, apart=True))
    pairs = [(genes, genes_padded), *zip(labels, labels_padded, strict=True)]
    pairs.append((packed.embed(packed.embedding_batch(cells)), padded.embed(padded.embedding_batch(cells))))
    return max((a - b).abs().max().item() for a, b in pairs if a.numel())


@dataclass(frozen=True, kw_only=True)
class Task:
    """One side at one task: makes a fresh batch of any size, and runs it."""

    make: Callable[[EncodedCells, int], dict[str, Tensor]]
    run: Callable[[dict[str, Tensor]], object]
    setting: Setting

    def milliseconds(self, n_cells: int, seed: int) -> tuple[float, float]:
        """Time a cell takes to be made part of a batch, and to be run."""
        cells = self.setting.draw(n_cells, seed)
        times = [time.perf_counter()]
        batch = self.make(cells, seed)
        times.append(time.perf_counter())
        self.run(batch)
        times.append(time.perf_counter())
        return 1e3 * (times[1] - times[0]) / n_cells, 1e3 * (times[2] - times[1]) / n_cells

    def best_size(self, sizes: tuple[int, ...]) -> int:
        """Grow the batch as long as it pays: until two sizes in a row are no faster than the best before."""
        best, best_ms, misses = sizes[0], float("inf"), 0
        for n_cells in sizes:
            self.milliseconds(n_cells, 0)
            ms = min(self.milliseconds(n_cells, seed)[1] for seed in (1, 2, 3))
            if ms < best_ms:
                best, best_ms, misses = n_cells, ms, 0
            else:
                misses += 1
            if misses == 2:
                break
        return best


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Milliseconds a cell of both sides, interleaved."""

    size_packed: int
    size_padded: int
    packed_ms: list[float]
    padded_ms: list[float]
    making_ms: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster the packed side is."""
        return statistics.median(self.padded_ms) / statistics.median(self.packed_ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Quartiles of the ratios of neighbours in time: how much the machine's noise moves them."""
        ratios = [slow / fast for slow, fast in zip(self.padded_ms, self.packed_ms, strict=True)]
        return tuple(np.quantile(ratios, [0.25, 0.75])) if len(ratios) > 1 else (ratios[0], ratios[0])


def _without_seed(make: Callable[[EncodedCells], dict[str, Tensor]], cells: EncodedCells, _: int) -> dict[str, Tensor]:
    return make(cells)


def compare(setting: Setting, what: str) -> Outcome:
    """Measure both sides at a task, turn by turn."""
    sides = [network := Packed(setting.tokenizer), Padded(network)]
    tasks = []
    for side in sides:
        side.network.train(what == "train")
        make = side.training_batch if what == "train" else partial(_without_seed, side.embedding_batch)
        tasks.append(Task(make=make, run=getattr(side, what), setting=setting))
    packed_task, padded_task = tasks
    size_packed, size_padded = packed_task.best_size(setting.packed_sizes), padded_task.best_size(setting.padded_sizes)
    packed = [packed_task.milliseconds(size_packed, 10)]  # one turn to warm up
    padded = [padded_task.milliseconds(size_padded, 10)]
    for turn in range(setting.repeats):
        packed.append(packed_task.milliseconds(size_packed, 100 + turn))
        padded.append(padded_task.milliseconds(size_padded, 100 + turn))
    return Outcome(
        size_packed=size_packed,
        size_padded=size_padded,
        packed_ms=[ms for _, ms in packed[1:]],
        padded_ms=[ms for _, ms in padded[1:]],
        making_ms=[ms for ms, _ in packed[1:]],
    )


def measure(title: str, rows: Iterator[tuple[str, Setting]]) -> dict[str, dict[str, Outcome]]:
    """Print a table of both tasks on every row; the outcomes of each row by task."""
    table = Table(title=title, title_justify="left")
    for heading in ("cells", "task"):
        table.add_column(heading)
    for heading in ("expressed", "packed ms/cell", "batch", "making", "padded ms/cell", "batch", "ratio"):
        table.add_column(heading, justify="right")
    outcomes: dict[str, dict[str, Outcome]] = {}
    for name, setting in rows:
        n_expressed = len(setting.cells.genes_N) / len(setting.cells)
        for what in ("train", "embed"):
            outcome = compare(setting, what)
            outcomes.setdefault(name, {})[what] = outcome
            low, high = outcome.quartiles
            table.add_row(
                name,
                what,
                f"{n_expressed:.0f}",
                f"{statistics.median(outcome.packed_ms):.2f}",
                str(outcome.size_packed),
                f"{statistics.median(outcome.making_ms):.2f}",
                f"{statistics.median(outcome.padded_ms):.1f}",
                str(outcome.size_padded),
                f"{outcome.ratio:.1f} ({low:.1f} to {high:.1f})",
            )
    console.print(table)
    return outcomes


def real_rows(
    folder: Path | None, make: Callable[..., Setting], pinned: dict[str, dict[str, Outcome]]
) -> Iterator[tuple[str, Setting]]:
    """Cells of real files; a padded row costs the same at any density, so its best sizes are those already found."""
    for name, n_genes in itertools.product(REAL, PINNED):
        try:
            path = _data.locate(name, folder)
        except _data.MissingDataError as reason:
            console.print(f"skipped: {reason}")
            continue
        found = real_cells(path, n_genes)
        if found is not None:
            sizes = tuple(sorted({outcome.size_padded for outcome in pinned[str(n_genes)].values()}))
            yield f"{name}, {n_genes}", make(tokenizer=found[0], cells=found[1], padded_sizes=sizes)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_data_option(parser)
    parser.add_argument(
        "--quick", action="store_true", help="about a minute: pinned rows, fixed batch sizes, no number to keep"
    )
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side (default: 15)")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    make = partial(
        Setting,
        repeats=2 if options.quick else options.repeats,
        packed_sizes=(32,) if options.quick else (8, 16, 32, 64, 128, 256),
        padded_sizes=(2,) if options.quick else (1, 2, 4, 8, 16, 32, 64),
    )
    pinned = {
        str(n): make(**dict(zip(("tokenizer", "cells"), pinned_cells(n, PINNED[n]), strict=True))) for n in PINNED
    }
    max_abs_diff = max(map(largest_difference, pinned.values()))
    console.print(f"{LAYERS} layers, {WIDTH} wide; largest difference of any answer: {max_abs_diff:.1e}")
    console.print(f"{torch.get_num_threads()} threads; {busy:.1f} programs were running in the minute before this one")
    outcomes = measure("Pinned densities: ratio of medians (quartiles of turns)", iter(pinned.items()))
    if not options.quick:
        measure("Densities of real data, on each file's most variable genes", real_rows(options.data, make, outcomes))
    result = {f"{what}_ratio_{n}": round(outcomes[n][what].ratio, 2) for n in outcomes for what in ("train", "embed")}
    result |= {
        "max_abs_diff": max_abs_diff,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "load_before": round(busy, 1),
        "cpu": processor(),
        "date": datetime.now(tz=UTC).date().isoformat(),
        "quick": options.quick,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
