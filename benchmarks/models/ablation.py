"""What the design bought: PolyGene beside PolyGene with one thing undone, equal data and epochs, donors held out.

    python -m benchmarks.models.ablation --data DIR --models DIR  # about 80 minutes of one thread; stopped runs go on

Undone are, one at a time:

* own softmax: one softmax over all bins and labels together, smoothed by 0.1 over all of them;
* smoothing: by 0.5 over everything in one softmax, as the first implementation of the method did;
* own means: one mean over all hidden tokens, genes and phenotypes alike;
* hidden genes are no keys: an expressed gene that is hidden stays a key, as a [MASK], in training;
* ordinal smoothing: uniform over the bins of a gene and over ages;
* linear branch: nothing is added to the states of the questions for labels;
* missing is not zero: in a study of its own, where every other donor comes in a file that lacks half of the genes. It
  is given as such a file is, or with zeros for the genes that it lacks. Scored are test donors who have all genes.

Answers of a joint softmax are read within their slot group, which helps it. Scores are those that
`validation.validation_scores` gives the test donors; the last line is one JSON object.
"""

import argparse
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse

from benchmarks.shared import command, effort, files, studies
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig
from polygene.evaluation.masked_genes import score_masked_genes
from polygene.evaluation.metrics import label_scores, label_tally
from polygene.evaluation.test_cells import MODEL
from polygene.evaluation.validation import validation_scores
from polygene.model import masking
from polygene.model.inference import label_probabilities
from polygene.model.recipe import Recipe, TrainingConfig
from polygene.nn.attention import CellOffsets
from polygene.nn.linear_branch import LinearBranch
from polygene.nn.losses import LossConfig
from polygene.training import train as training
from polygene.training.engine import Engine

STUDIES = ("onek1k", "velmeshev")
SHOWN = {
    "cell_type_macro_f1": "cell type macro-F1",
    "cell_type_log_loss": "cell type log loss",
    "age_mae_years": "age, years off",
    "sex_macro_f1": "sex macro-F1",
    "gene_cross_entropy": "gene cross-entropy",
    "gene_spearman_gene": "gene Spearman",
    "gene_average_precision_expressed": "gene average precision",
    "train_s": "training, CPU s",
}
ENGINE, PACK, BRANCH = Engine, masking.pack_cells, LinearBranch.forward


def joint(smoothing: float) -> type:
    """Make an engine whose softmax runs over all bins and labels together."""

    class Joint(ENGINE):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            read_at_Q, order_Q = torch.cat([inputs["gene_at"], inputs["label_at"]]).sort()
            keys = ("input_ids", "position_ids", "token_type_ids", "n_keys", "n_queries")
            row = [inputs[key] for key in keys]
            hidden_QD = model.encode(*row, inputs["unmeasured"], read_at_Q)[order_Q.argsort()]
            n_bins, n_asked = model.config.gene_logits, len(inputs["gene_at"])
            cells = CellOffsets(inputs["n_keys"], inputs["n_queries"])
            added_QD = model.linear_branch(*row[:2], cells, inputs["label_at"], inputs["unmeasured"])
            logits_QA = model.decoder(torch.cat([hidden_QD[:n_asked], hidden_QD[n_asked:] + added_QD]))
            genes_Q = inputs["position_ids"][0, inputs["gene_at"]] - model.config.first_gene_slot
            of_genes_QA = torch.nn.functional.pad(model.gene_bias(genes_Q), (0, logits_QA.shape[1] - n_bins))
            logits_QA = logits_QA + torch.cat([of_genes_QA, torch.zeros_like(logits_QA[n_asked:])])
            first_P = torch.tensor(np.cumsum([n_bins, *model.config.phenotype_sizes])[:-1])
            truth_Q = torch.cat([inputs["bins"], inputs["labels"] + first_P[inputs["label_phenotype"]]])
            weights_Q = torch.cat([inputs["bin_weights"], inputs["label_weights"]])
            loss_Q = torch.nn.functional.cross_entropy(logits_QA, truth_Q, reduction="none", label_smoothing=smoothing)
            return (weights_Q * loss_Q).sum() / len(inputs["n_keys"]) * inputs["share"]

    return Joint


class OneMean(ENGINE):
    """The engine with one mean over all hidden tokens; the asked zeros stand for those that are not asked."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Weigh every hidden token alike."""
        counts_Q = inputs["bin_weights"] / inputs["bin_weights"].min()  # with one file an expressed gene counts once
        n_hidden = counts_Q.sum() + len(inputs["labels"])
        share = len(inputs["n_keys"]) / n_hidden
        counted = {"bin_weights": counts_Q * share, "label_weights": torch.ones_like(inputs["label_weights"]) * share}
        return super().compute_loss(model, inputs | counted)


def leaking(tokenizer, cells, key_labels_CP, query_cells_Q, query_slots_Q, visible_N=None, *rest, **named):
    """Pack cells so that a hidden gene that is expressed stays a key, as a [MASK]."""
    if visible_N is not None:
        cells = replace(cells, bins_N=np.where(visible_N, cells.bins_N, tokenizer.mask_id))
    return PACK(tokenizer, cells, key_labels_CP, query_cells_Q, query_slots_Q, None, *rest, **named)


def no_branch(branch, *row):
    """Add nothing to the states; the weights, which start at zero, stay there. The regression is joined as always."""
    sums_QX = BRANCH(branch, *row)
    return torch.cat([torch.zeros_like(sums_QX[:, : branch.width]), sums_QX[:, branch.width :]], dim=1)


@contextmanager
def undone(engine: type = ENGINE, pack=PACK, branch=BRANCH) -> Iterator[None]:
    """Train with these in place of what PolyGene has."""
    with (
        patch.object(training, "Engine", engine),
        patch.object(masking, "pack_cells", pack),
        patch.object(LinearBranch, "forward", branch),
    ):
        yield


VARIANTS = {
    "PolyGene": ({}, {}),
    "own softmax": ({"engine": joint(0.1)}, {}),
    "smoothing, and own softmax": ({"engine": joint(0.5)}, {}),
    "own means": ({"engine": OneMean}, {}),
    "hidden genes are no keys": ({"pack": leaking}, {}),
    "ordinal smoothing": ({}, {"loss": LossConfig(smoothing_kind="uniform")}),
    "linear branch": ({"branch": no_branch}, {}),
}


def halves(data: Path | None, genes: Collection[str], zeros: bool) -> dict[str, ad.AnnData]:
    """Give OneK1K as two files: half of the donors, and the other half without every other one of these genes."""
    cells = ad.read_h5ad(files.locate(studies.STUDIES["onek1k"].file, data))
    cells.obs["total_counts"] = np.asarray(cells.X.sum(axis=1)).ravel()  # of all genes, whichever are left
    donors = sorted(cells.obs["donor_id"].unique())
    second_C = cells.obs["donor_id"].isin(donors[1::2]).to_numpy()
    lacking_G = cells.var_names.isin(sorted(genes)[1::2])
    first, second = cells[~second_C].copy(), cells[second_C].copy()
    if not zeros:
        return {"all genes": first, "half of the genes": second[:, ~lacking_G].copy()}
    second.X = sparse.csr_matrix(second.X) @ sparse.diags((~lacking_G).astype(second.X.dtype))
    return {"all genes": first, "half of the genes": second}


def of_halves(data: Path | None, seed: int, folder: Path, zeros: bool) -> dict[str, float]:
    """Train on the two files, and score the test donors of the first; both ways have the same panel."""
    genes = Corpus(folder / f"onek1k-{seed}-corpus").tokenizer.panel.symbols
    name = f"onek1k-{seed}-halves{'-as-zeros' if zeros else ''}"
    if not (folder / f"{name}-corpus").exists():
        config = PrepareConfig(seed=seed, include_genes=genes, totals="total_counts", n_genes=len(genes))
        effort.prepare(halves(data, genes, zeros), folder / f"{name}-corpus", config=config)
    epochs = studies.STUDIES["onek1k"].epochs
    schedule = TrainingConfig(epochs=epochs, evaluations=6, learning_rate=2e-3, seed=seed)
    corpus = Corpus(folder / f"{name}-corpus")
    model = effort.train(
        Recipe(corpus=str(corpus.folder), out=str(folder / name), network=studies.NETWORK, training=schedule)
    )
    test = corpus.split("test")
    rows = np.flatnonzero(test.sources_C == 0)
    cells, schema, scores = test.cells(rows), model.tokenizer.schema, {}
    for phenotype, p_CV in zip(schema.names, label_probabilities(model, cells, predict=schema.names), strict=True):
        truth_C = test.labels_CP[rows, schema.index(phenotype)]
        if len(set(truth_C[truth_C >= 0])) > 1:
            found = label_scores(label_tally(p_CV, truth_C, scorable_SV=np.ones((1, p_CV.shape[1]), dtype=bool)))
            scores |= {f"{phenotype}_{score}": found[score] for score in ("macro_f1", "log_loss")}
    of_genes = score_masked_genes(model, cells, test.measured_SG[test.sources_C[rows]])[MODEL]
    return scores | {f"gene_{score}": value for score, value in of_genes.items()}


def run(data: Path | None, seeds: list[int], folder: Path) -> pd.DataFrame:
    """Train every variant on every study and seed; scores on the test donors."""
    rows: list[dict[str, Any]] = []
    for study in effort.few(STUDIES):
        for undo, (patches, recipe) in VARIANTS.items():
            for seed in seeds:
                started = time.process_time()
                tag = "" if undo == "PolyGene" else f"-undone-{undo.replace(' ', '-').replace(',', '')}"
                try:
                    with undone(**patches):
                        model, corpus = studies.trained(study, folder, data=data, seed=seed, tag=tag, **recipe)
                except files.MissingDataError as reason:
                    print(f"skipped: {reason}")
                    continue
                seconds = time.process_time() - started
                scores = validation_scores(model, corpus.split("train"), corpus.split("test"), LossConfig())
                add(rows, {"study": study, "undone": undo, "seed": seed, "train_s": seconds, **scores})
    for undo, zeros in {"PolyGene": False, "missing is not zero": True}.items():
        for seed in seeds if rows else ():
            started = time.process_time()
            scores = of_halves(data, seed, folder, zeros)
            seconds = time.process_time() - started
            add(rows, {"study": "onek1k in two files", "undone": undo, "seed": seed, "train_s": seconds, **scores})
    return pd.DataFrame(rows)


def add(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    rows.append(row)
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=2, help="as many, from --seed on")
    parser.add_argument("--models", type=Path, help="keep corpora and models here")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train and score, print a table a study, and return the rows."""
    seeds = effort.few(range(options.seed, options.seed + options.seeds))
    with tempfile.TemporaryDirectory() as scratch:
        rows = run(options.data, seeds, options.models or Path(scratch))
    for study, of_study in rows.groupby("study", sort=False) if len(rows) else ():
        means = of_study.groupby("undone", sort=False).mean(numeric_only=True)
        table = Table(title=f"{study}: test donors, mean of {len(seeds)} seeds; each row with this undone")
        shown = {name: title for name, title in SHOWN.items() if name in means and means[name].notna().any()}
        for column in ("undone", *shown.values()):
            table.add_column(column)
        for undo, row in means.iterrows():
            table.add_row(str(undo), *(f"{row[name]:.3f}" for name in shown))
        Console(width=200).print(table)
    return {"ablation": rows.to_dict("records")}


def main(argv: Sequence[str] | None = None) -> None:
    command.run("ablation", __doc__, measure, add_options, argv=argv)


if __name__ == "__main__":
    main()
