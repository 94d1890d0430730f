"""The demo: a shipped model annotates real blood cells, then learns the labels of their authors.

Legend: C cells.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table
from threadpoolctl import threadpool_limits

from polygene.cli.console import quiet
from polygene.corpus.corpus import Corpus
from polygene.corpus.prepare import PrepareConfig, prepare
from polygene.errors import DataError
from polygene.evaluation.evaluate import evaluate
from polygene.evaluation.report import write_report
from polygene.evaluation.tables import interval, of_score
from polygene.io.datasets import pbmc
from polygene.model.checkpoint import PolyGene
from polygene.model.extend import extend_vocabulary
from polygene.pl._demo import demo_picture
from polygene.runtime.atomic import delete, locked
from polygene.runtime.json import write_json
from polygene.runtime.seeds import check_seed
from polygene.tl._annotate import annotate
from polygene.tl._finetune import finetune
from polygene.vocab.ontology import ontology_of

MODEL = "polygene-512"
MADE = ("demo.png", "annotated.h5ad", "report.html", "metrics.json", "model", "corpus")
"""What the demo leaves in its folder."""
LABEL, PREDICTED = "author_label", "polygene_cell_type"
ALSO = {"classical monocyte": "CD14-positive monocyte"}
"""Two names of the cells that the authors call CD14+ monocytes; the Cell Ontology sets one beside the other."""


def run(out: str | Path = "polygene-demo", *, model: str = MODEL, seed: int = 0) -> Iterator[str | Table]:
    """Annotate all cells with a shipped model, fine-tune it on half of them, and score it on the other half.

    Parameters
    ----------
    out
        Folder for what MADE names; what an earlier demo left there is replaced.
    model
        The model to start from.
    seed
        Decides which half is held out.

    Yields
    ------
    What came out, for the terminal, as soon as it is known.

    Raises
    ------
    DataError
        The folder holds something that no demo made.
    """
    check_seed(seed)  # before an earlier demo is cleared away
    with locked(Path(out)):
        yield from _run(_cleared(Path(out)), model, seed)


def _run(out: Path, model: str, seed: int) -> Iterator[str | Table]:
    adata = pbmc()
    with quiet(), _one_thread():
        start = PolyGene.from_pretrained(model, device="cpu")
        began = time.perf_counter()
        annotate(adata, start)
        yield from _annotated(adata, Path(model).name, time.perf_counter() - began)
        yield from _tuned(adata, start, out, seed)
    adata.write_h5ad(out / "annotated.h5ad", compression="gzip")
    yield (
        f"\n{out}/ now holds demo.png (look at it first), annotated.h5ad, report.html, metrics.json, "
        "and model/, the fine-tuned one.\nNext: polygene annotate YOUR_CELLS.h5ad"
    )


def agreement(obs: pd.DataFrame) -> pd.DataFrame:
    """Compare predicted cell types with those of the authors by the Cell Ontology: bool (C, 3).

    Columns: `agrees` (the same type or a finer one), `broader`, `other`.
    """
    compare = ontology_of("cell_type").compare
    pairs = zip(obs[PREDICTED].astype(str), obs["cell_type"].astype(str), strict=True)
    relation_C = np.array(
        ["same" if ALSO.get(truth) == predicted else compare(predicted, truth) for predicted, truth in pairs]
    )
    columns = {"agrees": np.isin(relation_C, ["same", "finer"])}
    return pd.DataFrame(columns | {name: relation_C == name for name in ("broader", "other")}, index=obs.index)


def _annotated(adata: ad.AnnData, model: str, seconds: float) -> Iterator[str | Table]:
    """Say what the model predicts, how sure it is and what it costs."""
    obs, genes = adata.obs, adata.uns["polygene"]["annotate"]["genes"]
    alike = agreement(obs)
    yield (
        f"{adata.n_obs} blood cells of one healthy donor (PBMC 3k, 10x Genomics), on which {model} was not trained.\n"
        f"It predicts from {genes['measured']} of its {genes['panel']} genes; the others are not in the file.\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("authors' label")
    for name in ("cells", "agrees", "broader", "probability"):
        table.add_column(name, justify="right")
    table.add_column(f"what {model} predicts most often")
    probability_C = obs[f"{PREDICTED}_probability"]
    for label, of_label in obs.groupby(LABEL, observed=True)[PREDICTED]:
        rows, most = of_label.index, of_label.value_counts(normalize=True)
        shares = [f"{alike.loc[rows, name].mean():.0%}" for name in ("agrees", "broader")]
        sure = f"{probability_C[rows].mean():.2f}"
        table.add_row(str(label), str(len(rows)), *shares, sure, f"{most.index[0]} ({most.iloc[0]:.0%})")
    yield table
    order_C = np.argsort(-probability_C.to_numpy(), kind="stable")
    halves = [alike["agrees"].to_numpy()[half].mean() for half in np.array_split(order_C, 2)]
    share = alike.mean()
    yield (
        f"\nAll cells: {share['agrees']:.0%} have the authors' type or a finer one, {share['broader']:.0%} a broader "
        f"one, {share['other']:.0%} another.\n"
        f"How sure: {halves[0]:.0%} agree in the half of the cells with the higher probability, {halves[1]:.0%} in the "
        f"other.\nAlso predicted: {_also(adata)}.\n"
        f"Cost: {seconds:.1f} s, {adata.n_obs / seconds:,.0f} cells/s, on one core and no GPU."
    )


def _also(adata: ad.AnnData) -> str:
    """Give the most frequent label of sex, tissue and disease."""
    asked = set(map(str, adata.uns["polygene"]["annotate"]["predict"]))
    names = [name for name in ("sex", "tissue", "disease") if name in asked]
    shares = [adata.obs[f"polygene_{name}"].value_counts(normalize=True) for name in names]
    return ", ".join(
        f"{name} {share.index[0]} ({share.iloc[0]:.0%} of the cells)" for name, share in zip(names, shares, strict=True)
    )


def _tuned(adata: ad.AnnData, start: PolyGene, out: Path, seed: int) -> Iterator[str]:
    """Fine-tune on half of the cells, score on the other half, write model, report and picture."""
    # All cells are of one donor, so cells are held out, each label in proportion; no column names the donor.
    cells = ad.AnnData(adata.X, obs=adata.obs[[LABEL]], var=adata.var)
    corpus = _corpus(cells, start, out, seed)
    began = time.perf_counter()
    # The report reads a corpus, which holds the panel's genes only, so the head is fitted on no others.
    train_cells = cells[
        corpus.split("train").names_C, np.unique(start.tokenizer.panel.match(cells.var).columns_N)
    ].copy()
    train_cells.obs["counts"] = np.asarray(cells[train_cells.obs_names].X.sum(axis=1)).ravel()
    finetune(train_cells, start, label=LABEL, totals="counts", out=out / "model", seed=seed)
    seconds = time.perf_counter() - began
    model = PolyGene.from_pretrained(out / "model")
    annotate(adata, model, predict=LABEL)
    adata.obs["held_out"] = adata.obs_names.isin(corpus.split("test").names_C)
    results = evaluate(model, corpus, seed=seed)
    write_json(out / "metrics.json", results.to_dict())
    write_report(out / "report.html", results, model, corpus, command=f"polygene demo --seed {seed}")
    _draw(adata).savefig(out / "demo.png", pil_kwargs={"optimize": True})
    scores = of_score(results.scores, "macro_f1")
    ours, theirs = (interval(scores.loc[who], spec=".2f") for who in ("PolyGene", "logistic regression"))
    n_train, n_test = len(corpus.split("train")), len(corpus.split("test"))
    n_labels = len(cells.obs[LABEL].cat.categories)
    yield (
        f"\nFine-tuned on the authors' labels of {n_train} cells in {seconds:.0f} s. On the other {n_test} cells: "
        f"macro-F1 of\n{n_labels} labels {ours}, logistic regression on the same genes {theirs}. Cells of one donor "
        "are alike:\nexpect less of new donors."
    )


def _corpus(cells: ad.AnnData, start: PolyGene, out: Path, seed: int) -> Corpus:
    tokenizer = extend_vocabulary(start, LABEL, cells.obs[LABEL].cat.categories).tokenizer
    config = PrepareConfig(split="random", fractions=(0.5, 0.0, 0.5), seed=seed)
    return prepare(cells, out / "corpus", config=config, tokenizer=tokenizer)


def _draw(adata: ad.AnnData) -> Figure:
    """Draw the picture; a predicted type has the colour of the author label that it agrees with."""
    pairs = adata.obs[[LABEL, "cell_type"]].drop_duplicates()
    meant: dict[str, str] = {}
    for predicted in adata.obs[PREDICTED].cat.categories:
        each = pairs.assign(**{PREDICTED: predicted})
        agreed = each[LABEL][agreement(each)["agrees"]]
        meant |= {predicted: str(agreed.iloc[0])} if len(agreed) else {}
    share = agreement(adata.obs).mean()
    title = f"{share['agrees']:.0%} agree" + (f", {share['broader']:.0%} broader" if share["broader"] >= 0.005 else "")
    return demo_picture(adata, label=LABEL, predicted=PREDICTED, meant=meant, agreement=title)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: problems this small gain little from a second and lose tenfold where cores are busy.

    It also gives the same weights whatever number of threads is set.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _cleared(out: Path) -> Path:
    """Make the folder, or remove from it what an earlier demo made."""
    others = sorted(path.name for path in out.iterdir() if path.name not in MADE) if out.is_dir() else []
    if others or out.is_file():
        held = f"holds {', '.join(others[:3])}" if others else "is a file"
        msg = f"{str(out)!r} {held}, which no demo made; choose another folder (--out)."
        raise DataError(msg)
    delete(*(out / name for name in MADE))
    out.mkdir(parents=True, exist_ok=True)
    return out
